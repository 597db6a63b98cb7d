"""frcnn.runtime.model_files.artifact, onnx_outline and network: what a model file is, read without its weights."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frcnn.errors import ArtifactError
from frcnn.runtime.model_files.artifact import open_artifact, read_network
from frcnn.runtime.model_files.onnx_outline import read_outline
from frcnn.spec import MANIFEST_KEY, Manifest

ModelOf = Callable[..., Path]
ManifestOf = Callable[..., Manifest]


def test_the_manifest_comes_back(model_of: ModelOf, manifest_of: ManifestOf) -> None:
    manifest = manifest_of(canvases=((64, 128),))
    assert open_artifact(model_of(manifest)).manifest == manifest


def test_the_outline_is_the_model_without_its_weights(model_path: Path) -> None:
    outline = read_outline(model_path)
    whole = onnx.load(model_path)
    bare = onnx.ModelProto.FromString(outline.model)
    assert outline.producer == "fake"
    assert outline.weight_bytes == 4096
    assert outline.file_bytes == model_path.stat().st_size
    assert bare.graph.node == whole.graph.node
    assert [tensor.dims for tensor in bare.graph.initializer] == [tensor.dims for tensor in whole.graph.initializer]
    assert len(outline.model) < outline.file_bytes - 4000


def test_the_suffix_does_not_matter(model_path: Path, tmp_path: Path) -> None:
    other = tmp_path / "weights.jpg"
    other.write_bytes(model_path.read_bytes())
    assert open_artifact(other).manifest == open_artifact(model_path).manifest


def test_an_onnx_file_of_another_program_is_refused(model_of: ModelOf) -> None:
    path = model_of(None)
    with pytest.raises(ArtifactError) as raised:
        open_artifact(path)
    assert f"{path}: an ONNX model, but not one of frcnn's" in raised.value.message
    assert "made by fake" in raised.value.message
    assert "frcnn export" in raised.value.hint


def test_a_damaged_manifest_is_refused(model_path: Path, tmp_path: Path) -> None:
    model = onnx.load(model_path)
    entry = next(entry for entry in model.metadata_props if entry.key == MANIFEST_KEY)
    entry.value = entry.value.replace('"min_size":64', '"min_size":"large"')
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ArtifactError, match="manifest is damaged"):
        open_artifact(tmp_path / "model.onnx")


def test_every_truncation_is_noticed(model_path: Path, tmp_path: Path) -> None:
    whole = model_path.read_bytes()
    path = tmp_path / "model.onnx"
    for length in [*range(1, 200), *range(200, len(whole) - 1, 97)]:
        path.write_bytes(whole[:length])
        with pytest.raises(ArtifactError) as raised:
            open_artifact(path)
        assert "\n" not in raised.value.message
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match=r"truncated one \([\d,]+ bytes are missing\)"):
        open_artifact(path)


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"x")


CONTENT: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "the file is empty"),
    "folder": (lambda path: path.mkdir(), "got a folder"),
    "missing": (lambda path: None, "no such file"),
    "text": (lambda path: path.write_text("hello, this is a text\n" * 9), "something else, or a damaged one"),
    "zeros": (lambda path: path.write_bytes(bytes(1000)), "something else, or a damaged one"),
    "checkpoint": (_zip, "a PyTorch checkpoint"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps({"a": 1})), "an old PyTorch checkpoint"),
    "safetensors": (lambda path: path.write_bytes(b"\x20" + bytes(7) + b'{"a": 1}' + bytes(64)), "safetensors"),
    "png": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64)), "got an image"),
}


@pytest.mark.parametrize("kind", CONTENT)
def test_a_file_that_is_no_onnx_model_is_refused(tmp_path: Path, kind: str) -> None:
    write, message = CONTENT[kind]
    path = tmp_path / "model.onnx"
    write(path)
    with pytest.raises(ArtifactError, match=message) as raised:
        open_artifact(path)
    assert str(path) in raised.value.message
    assert "frcnn export" in raised.value.hint


@settings(max_examples=150, deadline=None)
@given(content=st.binary(min_size=1, max_size=200))
def test_random_bytes_raise_nothing_else(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "random.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtifactError):
        open_artifact(path)


def test_damaged_bytes_raise_nothing_else(model_path: Path, tmp_path: Path) -> None:
    whole = model_path.read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "model.onnx"
    messages = []
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[int(rng.integers(0, len(whole)))] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            read_network(open_artifact(path))
        except ArtifactError as error:
            messages.append(error.message)
    assert len(messages) > 10
    assert all(str(path) in message for message in messages)


def test_the_network_is_described(model_path: Path) -> None:
    network = read_network(open_artifact(model_path))
    assert network.opsets == {"ai.onnx": 20}
    assert [(value.name, value.dtype, value.shape) for value in network.inputs] == [
        ("images", "FLOAT", ("N", "3", "H", "W")),
        ("image_sizes", "INT32", ("N", "2")),
    ]
    assert [value.name for value in network.outputs] == ["num_detections", "boxes", "scores", "labels"]
    assert network.operators["Mul"] == 4
    assert sum(network.operators.values()) == len(onnx.load(model_path).graph.node)
    assert network.functions == {}


def test_functions_and_subgraphs_are_counted(model_path: Path, tmp_path: Path) -> None:
    model = onnx.load(model_path)
    branch = onnx.parser.parse_graph("branch () => (float y) { y = Constant <value_float = 1.0> () }")
    condition = onnx.helper.make_node("Constant", [], ["c"], value_int=1)
    model.graph.node.extend(
        [condition, onnx.helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)]
    )
    model.functions.append(
        onnx.parser.parse_function('<domain: "frcnn", opset_import: ["": 20]> Twice (x) => (y) { y = Add(x, x) }')
    )
    onnx.save(model, tmp_path / "model.onnx")
    network = read_network(open_artifact(tmp_path / "model.onnx"))
    assert network.operators["If"] == 1
    assert network.operators["Constant"] == 3
    assert network.functions == {"frcnn::Twice": {"Add": 1}}
