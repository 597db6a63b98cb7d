"""Engines on a GPU: loading, running, capturing, and the precision that was proved at the build."""

from __future__ import annotations

import numpy as np
import pytest
from maintenance.engine_layers import inspect_engine

from frcnn.errors import ArtifactError
from frcnn.runtime.images.image import RGBImage
from frcnn.runtime.model_files.artifact import open_artifact
from frcnn.runtime.model_files.engine_artifact import EngineArtifact
from frcnn.spec.engine import EngineStep
from gpu.models import demo_files, demo_images, needs_engines, open_bare

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True, scope="module")
def engines(device):
    needs_engines()


@pytest.fixture(params=["fp32", "fp16"])
def bare(request):
    with open_bare(demo_files(request.param).artifact) as made:
        yield made


@pytest.fixture(scope="module")
def images():
    return demo_images()


def needs_tensorrt(bare):
    if bare.manifest.target == "onnxruntime":
        pytest.skip("ONNX Runtime's engines are ONNX files")


def turned(image: RGBImage) -> RGBImage:
    pixels = np.ascontiguousarray(image.pixels.transpose(1, 0, 2), np.uint8)
    return RGBImage(pixels=pixels, name=f"{image.name}, turned")


def test_a_replayed_graph_gives_the_bits_of_plain_launches(bare, images):
    for image in (images[0], turned(images[0])):
        plain = bare.run([image])  # the first of its canvas
        for _ in range(3):
            replayed = bare.run([image])
            for name, found in plain.items():
                np.testing.assert_array_equal(found, replayed[name])
    assert bare.said == [], "a graph could not be captured"
    assert bare.pipeline([images[0]]).has_graph


def test_every_image_has_detections(bare, images):
    found = [bare.run([image]) for image in images]
    assert sum(int((output["scores"] > 0.5).sum()) for output in found) >= len(images)
    for output in found:
        count = int(output["num_detections"][0])
        assert np.isfinite(output["boxes"]).all()
        assert (output["scores"][0, count:] == 0).all()
        assert (np.diff(output["scores"][0, :count]) <= 0).all()


def test_a_batch_gives_the_outputs_of_its_images(bare, images):
    """To rounding: the kernels of a batch may sum in another order."""
    same = [images[0]] * 4
    batched, alone = bare.run(same), bare.run([images[0]])
    sure = alone["scores"][0] > 0.5
    for row in range(4):
        np.testing.assert_allclose(batched["boxes"][row][sure], alone["boxes"][0][sure], atol=1.0)
        np.testing.assert_array_equal(batched["labels"][row][sure], alone["labels"][0][sure])


def test_contexts_report_their_needs_and_can_be_captured(bare):
    manifest = bare.manifest
    first = next(step for step in manifest.steps if isinstance(step, EngineStep))
    profile = manifest.profiles[0]
    shape = (profile.batch.opt, 3, profile.height.opt, profile.width.opt)
    shapes = {"images": shape, "image_sizes": (profile.batch.opt, 2)}
    context = bare.engines[first.part].create_context()
    outputs = context.bind(0, {name: shapes[name] for name in first.inputs}, bare.stream)
    assert set(outputs) == set(first.outputs)
    assert all(min(found) > 0 for found in outputs.values())
    assert context.workspace_bytes >= 0
    assert context.is_capturable(bare.stream)
    context.close()


def test_shapes_outside_the_profile_are_refused_with_tensorrts_reason(bare):
    manifest = bare.manifest
    first = next(step for step in manifest.steps if isinstance(step, EngineStep))
    maximum = manifest.profiles[0].batch.max + 1
    context = bare.engines[first.part].create_context()
    shapes = {"images": (maximum, 3, 320, 320), "image_sizes": (maximum, 2)}
    with pytest.raises(ArtifactError, match="does not take") as caught:
        context.bind(0, {name: shapes[name] for name in first.inputs}, bare.stream)
    assert "\n" not in str(caught.value)
    assert "gives no reason" not in str(caught.value)
    context.close()


def test_a_damaged_engine_is_refused_on_one_line(bare):
    from frcnn.runtime.engines.tensorrt_engine import load_engine

    needs_tensorrt(bare)
    part = next(iter(bare.engines))
    data = bytearray(bare.read_part(part))
    data[: len(data) // 2] = bytes(len(data) // 2)
    with pytest.raises(ArtifactError) as caught:
        load_engine(bytes(data), target=bare.manifest.target, device=bare.device, cache=None)
    assert "\n" not in str(caught.value)
    assert "frcnn" in caught.value.hint


def test_the_inspector_agrees_with_the_proved_precision(bare):
    """Where it names a type: for each heavy layer of the network definition that is found in a layer of the engine."""
    needs_tensorrt(bare)
    steps = bare.manifest.steps
    artifact = open_artifact(demo_files(bare.manifest.precision).artifact)
    assert isinstance(artifact, EngineArtifact)
    records = [record for record in artifact.read_precision() if record.heavy]
    assert records
    wrong = []
    for number, step in enumerate(steps):
        if not isinstance(step, EngineStep):
            continue
        layers = inspect_engine(bare.engines[step.part])
        assert layers
        wrong += [
            f"{name}: {found}, proved {record.element}"
            for record in records
            for name, found in layers
            if record.step == number and record.layer in name and found not in ("unknown", record.element)
        ]
    assert not wrong


def test_compiled_kernels_are_kept_and_used(device, images, tmp_path, monkeypatch):
    monkeypatch.setenv("FRCNN_CACHE_DIR", str(tmp_path))
    path = demo_files("fp16").artifact
    with open_bare(path) as first:
        if first.manifest.target != "tensorrt-rtx":
            pytest.skip("only TensorRT-RTX compiles kernels when it loads")
        expected = first.run([images[0]])
        files = sorted((tmp_path / "tensorrt-rtx").iterdir())
        assert len(files) == len(first.engines)
    kept = [file.read_bytes() for file in files]
    with open_bare(path) as second:
        found = second.run([images[0]])
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
    assert sorted((tmp_path / "tensorrt-rtx").iterdir()) == files
    assert [len(file.read_bytes()) for file in files] == [len(data) for data in kept], "kernels were compiled anew"
