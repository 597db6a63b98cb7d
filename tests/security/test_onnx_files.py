"""ONNX models of others: nothing beside the file is read, memory is bounded, and an answer that is none is refused."""

import json
import os
from contextlib import suppress

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.engine_files import source_manifest
from support.hostile.onnx_models import answering, external_models, secret_tensor
from support.hostile.watch import memory_below

from frcnn.errors import ArtifactError, ImageSizeError
from frcnn.exporter.graph.source_model import read_source_model
from frcnn.files import external_data
from frcnn.files.external_data import external_tensor
from frcnn.runtime import Detector
from frcnn.runtime.host.onnxruntime_backend import OnnxRuntimeBackend
from frcnn.runtime.host.openvino_backend import OpenVinoBackend
from frcnn.runtime.model_files.artifact import open_artifact
from frcnn.runtime.model_files.onnx_outline import read_outline
from frcnn.spec import MANIFEST_KEY, Manifest

SECRET = b"the words of somebody else's file"
GREY = np.full((48, 64, 3), 99, np.uint8)


def saved(tmp_path, model):
    path = tmp_path / "models" / "model.onnx"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def locations(tmp_path):
    """Where a secret lies, as a model beside it may say."""
    (tmp_path / "models").mkdir()
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    (tmp_path / "models" / "link").symlink_to(secret)
    (tmp_path / "models" / "beside").write_bytes(SECRET)
    return {"above": "../secret", "absolute": secret, "link": "link", "beside": "beside", "missing": "nothing there"}


@pytest.mark.parametrize("place", external_models("x", 1))
@pytest.mark.parametrize(
    "reader", [open_artifact, read_source_model, Detector.load, OnnxRuntimeBackend, OpenVinoBackend]
)
def test_a_model_with_values_in_another_file_is_refused(tmp_path, place, reader):
    for location in locations(tmp_path).values():
        path = saved(tmp_path, external_models(location, len(SECRET))[place])
        with pytest.raises(ArtifactError, match="values of 'secret' lie in another file") as raised:
            reader(path)
        assert SECRET.decode() not in str(raised.value)


def test_a_whole_model_has_no_external_tensor():
    assert external_tensor(answering().SerializeToString()) is None


@given(st.binary(max_size=200))
def test_random_bytes_are_read_or_raise_a_value_error(data):
    with suppress(ValueError):
        external_tensor(data)


@given(cut=st.integers(0, 3000))
def test_a_truncated_model_is_never_taken_for_another(cut):
    model = answering()
    model.graph.initializer.append(secret_tensor("../x", 3))
    data = model.SerializeToString()
    if cut < len(data):
        try:
            assert external_tensor(data[:cut]) in (None, "secret")
        except ValueError:
            return
    else:
        assert external_tensor(data) == "secret"


def test_metadata_that_is_there_twice_is_refused(tmp_path):
    model = answering()
    model.metadata_props.add(key=MANIFEST_KEY, value=source_manifest(precision="fp16").to_json())
    with pytest.raises(ArtifactError, match=r"whose metadata has 'frcnn\.manifest' twice"):
        open_artifact(saved(tmp_path, model))


def test_metadata_that_is_no_text_is_refused(tmp_path):
    path = saved(tmp_path, answering())
    path.write_bytes(path.read_bytes().replace(b"2.14.1", b"2.14.\xff"))
    with pytest.raises(ArtifactError, match="its metadata is no UTF-8 text"):
        open_artifact(path)


@pytest.mark.parametrize("number", [8, 2], ids=["operator set", "maker"])
def test_an_absurd_size_takes_no_memory(tmp_path, number):
    size = 1 << 40  # a sparse file, which takes no disk either
    path = saved(tmp_path, answering())
    head = path.read_bytes() + bytes([number << 3 | 2]) + b"\x80\x80\x80\x80\x80\x20"
    with path.open("wb") as file:
        file.write(head)
        os.ftruncate(file.fileno(), len(head) + size)
    message = "more than 67,108,864 bytes besides its weights"
    with memory_below(4 << 20), pytest.raises(ArtifactError, match=message):
        read_outline(path)


@pytest.mark.parametrize(
    "change",
    [
        {"min_size": 10**9, "max_size": 10**9},
        {"fixed_size": (10**9, 10**9)},
        {"size_divisible": 10**9},
        {"min_size": 2**63 - 1, "max_size": 2**63 - 1},
    ],
)
def test_a_model_that_wants_absurd_canvases_is_refused(tmp_path, change):
    text = source_manifest(precision="fp32")
    record = msgspec.to_builtins(text)
    record["model"]["transform"] |= change
    manifest = Manifest.from_json(json.dumps(record), source="it")
    with (
        Detector.load(saved(tmp_path, answering(manifest=manifest))) as detector,
        pytest.raises(ImageSizeError, match=r"images\[0\] .*canvas, more than 67,108,864 pixels"),
    ):
        detector([GREY])


NAN, INF = float("nan"), float("inf")
WRONG = {
    "a box of NaN": ({"boxes": ((1, NAN, 3, 4), (0, 0, 0, 0))}, "boxes or scores that are NaN or infinite"),
    "an endless box": ({"boxes": ((1, 2, INF, 4), (0, 0, 0, 0))}, "boxes or scores that are NaN or infinite"),
    "a score of NaN": ({"scores": (NAN, 0)}, "boxes or scores that are NaN or infinite"),
    "more detections than rows": ({"count": 3}, "3 detections, expected 0 to 2"),
    "fewer than none": ({"count": -1}, "-1 detections, expected 0 to 2"),
    "a class that it has not": ({"labels": (9, 0)}, "class 9, which the model does not have"),
    "the background": ({"labels": (0, 0)}, "class 0, which the model does not have"),
    "a negative class": ({"labels": (-2, 0)}, "class -2, which the model does not have"),
}


@pytest.mark.parametrize("what", WRONG)
def test_invalid_detections_are_refused_and_name_the_image(tmp_path, what):
    changes, message = WRONG[what]
    with Detector.load(saved(tmp_path, answering(**changes))) as detector, pytest.raises(ArtifactError) as raised:
        detector([GREY])
    assert raised.value.message == f"images[0]: the model's output is invalid: {message}"


def test_rows_beyond_the_count_are_ignored(tmp_path):
    model = answering(boxes=((1, 2, 30, 40), (NAN,) * 4), scores=(0.9, NAN), labels=(1, -7))
    with Detector.load(saved(tmp_path, model)) as detector:
        (found,) = detector([GREY])
    assert found.class_names == ["cat"]


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize(
    "part", ["backbone", "rpn.head.bbox_pred", "box_predictor.cls_score", "box_predictor.bbox_pred"]
)
def test_damaged_weights_give_finite_detections(exports, tmp_path, part, value):
    """In the graph every comparison with NaN is false, so nothing is found; an export with such weights is refused."""
    model = onnx.load(exports("resnet50_fpn").path)
    weights = [tensor for tensor in model.graph.initializer if part in tensor.name]
    assert weights
    for tensor in weights:
        array = np.full(tuple(tensor.dims), value, np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    with Detector.load(saved(tmp_path, model)) as detector:
        (found,) = detector([GREY])
    assert np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"boxes": ((1, 2, 3, 4, 5), (0, 0, 0, 0, 0))},
        {"boxes": ((1, 2, 3, 4),)},
        {"scores": (0.9,)},
        {"labels": (1, 2, 3)},
    ],
)
def test_outputs_of_other_shapes_are_refused(tmp_path, changes):
    with (
        Detector.load(saved(tmp_path, answering(**changes))) as detector,
        pytest.raises(ArtifactError, match=r"expected the outputs of a detector, got num_detections \(1,\), boxes"),
    ):
        detector([GREY])


def test_outputs_of_other_types_are_refused(tmp_path):
    model = answering()
    model.graph.initializer[3].data_type = 7  # int64
    model.graph.initializer[3].raw_data *= 2
    model.graph.output[3].type.tensor_type.elem_type = 7
    with pytest.raises(ArtifactError, match=r"'labels': 'tensor\(int64\)'"):
        Detector.load(saved(tmp_path, model))


def test_every_place_of_a_tensor_in_onnx_is_walked():
    """By the schema of the installed onnx: every field through which a message reaches a tensor."""
    names = {
        "model": onnx.ModelProto,
        "training": onnx.TrainingInfoProto,
        "graph": onnx.GraphProto,
        "function": onnx.FunctionProto,
        "node": onnx.NodeProto,
        "attribute": onnx.AttributeProto,
        "sparse": onnx.SparseTensorProto,
        "tensor": onnx.TensorProto,
    }
    of_type = {kind.DESCRIPTOR.full_name: name for name, kind in names.items()}
    for name, kind in names.items():
        held = [(field.number, field.message_type) for field in kind.DESCRIPTOR.fields if field.message_type]
        places = {number: of_type[held.full_name] for number, held in held if held.full_name in of_type}
        assert external_data._INSIDE[name] == places
