"""frcnn.runtime.gpu.pipeline: one shape bound, laid out, enqueued and captured, on the fake device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
import pytest
from support.fake_device import FakeDevice
from support.tiny_artifact import TinyArtifact, tiny_outputs

from frcnn.errors import ArtifactError
from frcnn.plugins.operator_plan import aligned
from frcnn.runtime.gpu.pipeline import Launched, Pipeline, PipelineKey
from frcnn.runtime.gpu.program import load_program
from frcnn.spec import Manifest
from frcnn.spec.engine import EngineTensor

ManifestOf = Callable[..., Manifest]
CANVAS = (64, 96)
KERNELS = 1 + 1 + 3  # preprocessing, RoI pooling, BoxDetections


class Bound:
    """A pipeline of the tiny artifact with memory and a stream."""

    def __init__(self, device: FakeDevice, artifact: TinyArtifact, key: PipelineKey, **options: Any) -> None:
        self.device = device
        self.stream = device.create_stream()
        self.engines = artifact.engines(device, **options)
        self.program = load_program(artifact.manifest, artifact.read_part, self.engines, device)
        self.pipeline = Pipeline(self.program, device, key, 0, self.stream)
        self.arena = device.allocate(self.pipeline.arena_bytes)
        self.pipeline.place_in(self.arena.pointer)
        self.warnings: list[str] = []

    def launch(self) -> dict[str, np.ndarray]:
        self.pipeline.launch(self.stream, self.warnings.append)
        self.device.synchronize(self.stream)
        return {name: array.copy() for name, array in self.pipeline.outputs.items()}

    def fill(self, seed: int) -> None:
        self.pipeline.images[...] = images(seed)
        self.pipeline.sizes[...] = SIZES

    def close(self) -> None:
        self.pipeline.close()
        self.arena.close()
        self.device.destroy_stream(self.stream)
        for engine in self.engines.values():
            engine.close()


Bind = Callable[..., Bound]


@pytest.fixture
def bind(device: FakeDevice, manifest_of: ManifestOf) -> Iterator[Bind]:
    """Bind the tiny artifact to a batch; everything is released at the end."""
    made: list[Bound] = []

    def make(batch: int = 2, *, from_pixels: bool = False, images: Any = "float32", **options: Any) -> Bound:
        artifact = TinyArtifact(manifest_of(), images=images)
        made.append(Bound(device, artifact, PipelineKey(batch, CANVAS, from_pixels), **options))
        return made[-1]

    yield make
    for bound in made:
        bound.close()
    assert device.left_open() == {"devices": 1}


def images(seed: int, batch: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).random((batch, 3, *CANVAS), dtype=np.float32)


SIZES = np.array([[60, 90], [64, 70]], np.int32)


def same(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    """Compare with the references: all is exact but the softmax, whose exponentials are rounded otherwise."""
    for name in ("num_detections", "boxes", "labels"):
        np.testing.assert_array_equal(found[name], expected[name])
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=2e-7, rtol=0)


@pytest.mark.slow
def test_plain_and_replayed_launches_give_the_outputs_of_the_parts(bind: Bind, device: FakeDevice) -> None:
    bound = bind()
    for seed in range(4):
        bound.fill(seed)
        expected = tiny_outputs(images(seed), SIZES)
        same(bound.launch(), expected)
        assert bound.pipeline.has_graph == (seed > 0)
    assert device.calls["capture"] == 1
    assert device.calls["graph launch"] == 3


def test_the_kernel_prepares_uint8_images(bind: Bind, device: FakeDevice) -> None:
    bound = bind(1, from_pixels=True)
    pixels = np.random.default_rng(3).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    memory = device.array(pixels)
    address = memory.__cuda_array_interface__["data"][0]
    bound.pipeline.table[0] = (address, 64, 96, 3 * 96, 3, 1, 64, 96)
    bound.pipeline.sizes[0] = (64, 96)
    expected = tiny_outputs((pixels.transpose(2, 0, 1)[None] / np.float32(255)).astype(np.float32), np.array([CANVAS]))
    for _ in range(2):
        found = bound.launch()
        np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-5)  # 16 times as steep as the mean
        np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=1e-4)
        np.testing.assert_array_equal(found["labels"], expected["labels"])


def test_outputs_are_garbage_until_the_stream_is_done(bind: Bind, device: FakeDevice) -> None:
    """The fake device shows what a missing wait would read, also when a graph is replayed."""
    bound = bind()
    bound.fill(0)
    bound.launch()
    for _ in range(2):
        bound.pipeline.launch(bound.stream, bound.warnings.append)
        assert (bound.pipeline.outputs["num_detections"].view(np.uint8) == 0xA5).all()
        device.synchronize(bound.stream)
        same(bound.pipeline.outputs, tiny_outputs(images(0), SIZES))


def test_inputs_are_read_when_the_stream_runs(bind: Bind, device: FakeDevice) -> None:
    bound = bind()
    bound.pipeline.sizes[...] = SIZES
    bound.pipeline.launch(bound.stream, bound.warnings.append)
    bound.pipeline.images[...] = images(5)  # too early for the next call: this one has not run
    device.synchronize(bound.stream)
    same(bound.pipeline.outputs, tiny_outputs(images(5), SIZES))


def test_dead_tensors_share_memory(bind: Bind) -> None:
    bound = bind(workspace_bytes=200_000)
    image_bytes = aligned(images(0).nbytes)
    assert image_bytes + 200_000 <= bound.pipeline.arena_bytes  # both are needed while the first engine runs
    assert bound.pipeline.arena_bytes < image_bytes + 2 * 200_000  # the second engine's workspace lies where they were


@pytest.mark.parametrize("element", ["float16", "bfloat16"])
def test_images_have_the_type_of_the_networks_input(bind: Bind, element: str) -> None:
    bound = bind(1, images=element)
    assert bound.pipeline.images.dtype == (np.float16 if element == "float16" else np.uint16)


def test_an_engine_that_cannot_be_captured_warns_once(bind: Bind, device: FakeDevice) -> None:
    bound = bind(capturable=False)
    for seed in range(4):
        bound.fill(seed)
        same(bound.launch(), tiny_outputs(images(seed), SIZES))
    assert device.calls["capture"] == 0
    assert len(bound.warnings) == 1
    assert "cannot be captured" in bound.warnings[0]


def test_a_failed_capture_falls_back_to_plain_launches(bind: Bind, device: FakeDevice) -> None:
    bound = bind()
    bound.fill(0)
    bound.launch()
    device.fail_at = device.calls.total() + 5  # is_capturable twice, capture, and the second launch in it
    for _ in range(3):
        same(bound.launch(), tiny_outputs(images(0), SIZES))
    assert len(bound.warnings) == 1
    assert "injected" in bound.warnings[0]
    assert not bound.pipeline.has_graph


def test_a_shape_outside_the_profile_leaves_nothing_open(device: FakeDevice, manifest_of: ManifestOf) -> None:
    artifact = TinyArtifact(manifest_of())
    engines = artifact.engines(device)
    program = load_program(artifact.manifest, artifact.read_part, engines, device)
    stream = device.create_stream()
    with pytest.raises(ArtifactError, match="no profile 3"):
        Pipeline(program, device, PipelineKey(1, CANVAS, True), 3, stream)
    assert device.left_open() == {"devices": 1, "streams": 1, "engines": 2}


def test_an_output_without_a_fixed_shape_is_refused(device: FakeDevice, manifest_of: ManifestOf) -> None:
    artifact = TinyArtifact(manifest_of())
    engines = artifact.engines(device)
    engines["engines/boxes.plan"].shapes = lambda shapes: {"class_logits": (12, 4), "box_deltas": (12, -1)}
    program = load_program(artifact.manifest, artifact.read_part, engines, device)
    with pytest.raises(
        ArtifactError, match=r"engines/boxes\.plan: expected an output box_deltas of a fixed shape"
    ) as raised:
        Pipeline(program, device, PipelineKey(1, CANVAS, True), 0, device.create_stream())
    assert "frcnn build" in raised.value.hint
    assert device.open_contexts == 0


class TestKernels:
    """Which compiled code of an artifact is loaded."""

    def load(self, device: FakeDevice, artifact: TinyArtifact) -> list[str]:
        load_program(artifact.manifest, artifact.read_part, artifact.engines(device), device)
        return [text.split()[-1] for text in device.driver.loaded]

    def test_machine_code_of_the_gpu_is_preferred(self, device: FakeDevice, manifest_of: ManifestOf) -> None:
        assert self.load(device, TinyArtifact(manifest_of())) == ["sm_89"] * KERNELS

    def test_ptx_is_loaded_without_machine_code_of_the_gpu(self, manifest_of: ManifestOf) -> None:
        device = FakeDevice(architecture="sm_120")
        device.activate()
        assert self.load(device, TinyArtifact(manifest_of())) == ["compute_75"] * KERNELS

    def test_code_of_another_frcnn_is_refused(self, device: FakeDevice, manifest_of: ManifestOf) -> None:
        built_with = TinyArtifact(manifest_of(mean=(0.5, 0.5, 0.5)))  # another constant in the preprocessing kernel
        parts = {name for name in built_with.parts if "preprocess" in name}
        assert parts.isdisjoint(TinyArtifact(manifest_of()).parts)
        artifact = TinyArtifact(manifest_of(mean=(0.5, 0.5, 0.5)))
        changed = msgspec.structs.replace(artifact.manifest, source=manifest_of())
        with pytest.raises(ArtifactError, match="preprocess of this version of frcnn is not in the artifact") as raised:
            load_program(changed, artifact.read_part, artifact.engines(device), device)
        assert "frcnn build" in raised.value.hint

    def test_outputs_of_other_types_are_refused(self, device: FakeDevice, manifest_of: ManifestOf) -> None:
        artifact = TinyArtifact(manifest_of())
        tensors = artifact.manifest.tensors | {"labels": EngineTensor(element="int64")}
        changed = msgspec.structs.replace(artifact.manifest, tensors=tensors)
        with pytest.raises(ArtifactError, match="labels must be int32 and planar, got int64"):
            load_program(changed, artifact.read_part, artifact.engines(device), device)


def test_launching_in_steps_gives_the_graphs_outputs(bind: Bind, device: FakeDevice) -> None:
    bound = bind()
    bound.fill(3)
    expected = [bound.launch() for _ in range(3)][-1]
    assert bound.pipeline.has_graph
    launches = device.calls["graph launch"]
    bound.pipeline.outputs["boxes"][:] = 0
    steps: list[Launched] = []
    bound.pipeline.launch_in_steps(bound.stream, steps.append)
    device.synchronize(bound.stream)
    assert device.calls["graph launch"] == launches
    assert all(np.array_equal(bound.pipeline.outputs[name], expected[name]) for name in expected)
    assert [(step.kind, step.name) for step in steps] == [
        ("upload", "image_sizes"),
        ("upload", "images"),
        ("engine", "engines/features.plan"),
        ("operator", "roi_heads/MultiscaleRoIPool (multiscale_roi_pool)"),
        ("engine", "engines/boxes.plan"),
        ("operator", "roi_heads/BoxDetections (box_detections_candidates)"),
        ("operator", "roi_heads/BoxDetections (box_detections_suppress)"),
        ("operator", "roi_heads/BoxDetections (box_detections_select)"),
        ("download", "outputs"),
    ]


def test_layers_are_reported_with_the_step_that_ran_them(bind: Bind, device: FakeDevice) -> None:
    bound = bind(1, from_pixels=True, layers=(("a", 1.0), ("b", 2.0)))
    image = device.array(np.zeros((*CANVAS, 3), np.uint8))
    pointer = image.__cuda_array_interface__["data"][0]
    bound.pipeline.table[:] = (pointer, *CANVAS, *image.array.strides, *CANVAS)
    bound.pipeline.sizes[:] = CANVAS
    reported: list[str] = []
    bound.pipeline.report_layers(lambda name, ms: reported.append(f"{name} {ms}"))
    bound.pipeline.launch_in_steps(bound.stream, lambda step: reported.append(step.kind))
    device.synchronize(bound.stream)
    engine = ["a 1.0", "b 2.0", "engine"]
    uploads = ["upload", "upload", "preprocess"]
    assert reported == [*uploads, *engine, "operator", *engine, *["operator"] * 3, "download"]
