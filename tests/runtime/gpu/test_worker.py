"""frcnn.runtime.gpu.worker: shapes that stay bound, an arena that grows, staging, on the fake device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from support.fake_device import DeviceArray, FakeDevice
from support.strided import VIEWS, noise
from support.tiny_artifact import TinyArtifact, tiny_outputs

from frcnn.errors import ArtifactError, ImageError
from frcnn.runtime.gpu.pipeline import PipelineKey
from frcnn.runtime.gpu.program import load_program
from frcnn.runtime.gpu.worker import MAX_PIPELINES, Worker, staged
from frcnn.runtime.images.canvases import EngineCanvases
from frcnn.runtime.images.image import RGBImage, as_device_image
from frcnn.runtime.images.preprocess import Placed, Prepared, place, prepare, with_pixels
from frcnn.spec import Manifest

ManifestOf = Callable[..., Manifest]


class Bench:
    """A worker of the tiny artifact, and what feeds it."""

    def __init__(self, device: FakeDevice, manifest: Manifest) -> None:
        artifact = TinyArtifact(manifest)
        self.device = device
        self.manifest = manifest
        self.canvases = EngineCanvases(artifact.manifest)
        self.engines = artifact.engines(device)
        program = load_program(artifact.manifest, artifact.read_part, self.engines, device)
        self.worker = Worker(program, device, lambda remark: None)

    def placed(self, pixels: np.ndarray) -> Placed:
        return place(RGBImage(pixels=pixels, name="it"), self.manifest.model.transform, self.canvases)

    def run(self, batch: Sequence[Placed], waits: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
        canvas = batch[0].canvas
        profile, size = self.canvases.batch_to_run(len(batch), canvas)
        key = PipelineKey(size, canvas, not isinstance(batch[0], Prepared))
        pipeline = self.worker.enqueue(key, profile, batch, waits)
        self.device.synchronize(self.worker.stream)
        return {name: array.copy() for name, array in pipeline.outputs.items()}

    def expected(self, batch: Sequence[Placed]) -> dict[str, np.ndarray]:
        images = np.stack([with_pixels(item, self.manifest.model.transform).pixels for item in batch])
        return tiny_outputs(images, np.array([item.resized for item in batch], np.int32))


@pytest.fixture
def bench(device: FakeDevice, manifest_of: ManifestOf) -> Iterator[Bench]:
    made = Bench(device, manifest_of())
    yield made
    made.worker.close()
    for engine in made.engines.values():
        engine.close()
    assert device.left_open() == {"devices": 1}


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(found["num_detections"], expected["num_detections"])
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-5)
    np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=1e-3)
    np.testing.assert_array_equal(found["labels"], expected["labels"])


def test_batches_of_every_size_and_shape(bench: Bench) -> None:
    for count in (1, 3, 4, 1, 2):
        for size in ((60, 80), (80, 60), (64, 64)):
            batch = [bench.placed(noise(*size, seed)) for seed in range(count)]
            same(bench.run(batch), bench.expected(batch))


def test_any_layout_of_bytes_is_uploaded_once(bench: Bench) -> None:
    pixels = noise(60, 80)
    planar = np.ascontiguousarray(pixels.transpose(2, 0, 1)).transpose(1, 2, 0)
    grey = np.broadcast_to(pixels[:, :, :1], pixels.shape)
    for view in (pixels, planar, pixels[:, :, ::-1], pixels[::-1, ::-1], grey, noise(90, 90)[3:63, 5:85]):
        bench.device.calls.clear()
        batch = [bench.placed(view)]
        same(bench.run(batch), bench.expected(batch))
        assert bench.device.calls["copy"] <= 1 + 3  # pixels; sizes, table and outputs without a graph


def test_images_prepared_on_the_cpu_are_uploaded_as_they_are(bench: Bench) -> None:
    floats = RGBImage(pixels=noise(60, 80).astype(np.float32) / np.float32(255), name="it")
    batch = [prepare(floats, bench.manifest)]
    for _ in range(3):
        same(bench.run(batch), bench.expected(batch))


def test_nothing_is_allocated_for_a_shape_that_is_bound(bench: Bench) -> None:
    sizes = [(60, 80), (80, 60), (64, 64), (120, 80)]
    for size in sizes:
        bench.run([bench.placed(noise(*size))])
    for size in sizes:  # an arena that grew on the way unbound the earlier ones
        bench.run([bench.placed(noise(*size))])
    before = bench.device.calls.copy()
    for seed in range(20):
        bench.run([bench.placed(noise(*sizes[seed % 4], seed))])
    made = bench.device.calls - before
    assert set(made) == {"copy", "graph launch", "synchronize"}


def test_only_the_last_shapes_stay_bound(bench: Bench) -> None:
    canvases = [(64 + 32 * (i % 5), 64 + 32 * (i // 5)) for i in range(MAX_PIPELINES + 2)]
    keys = []
    for canvas in sorted(canvases, key=lambda canvas: -canvas[0] * canvas[1]):
        batch = [Placed(image=bench.placed(noise(60, 60)).image, resized=(60, 60), canvas=canvas)]
        same(bench.run(batch), bench.expected(batch))
        keys.append(PipelineKey(1, canvas, True))
    assert list(bench.worker.pipelines) == keys[2:]
    assert bench.device.open_contexts == 2 * MAX_PIPELINES
    again = [Placed(image=bench.placed(noise(60, 60)).image, resized=(60, 60), canvas=keys[2].canvas)]
    bench.run(again)
    assert list(bench.worker.pipelines) == [*keys[3:], keys[2]]


def test_a_larger_shape_grows_the_arena_and_unbinds_what_lay_in_the_old_one(bench: Bench) -> None:
    small, large = [bench.placed(noise(64, 64))], [bench.placed(noise(128, 128, seed)) for seed in range(4)]
    for _ in range(3):
        same(bench.run(small), bench.expected(small))
    same(bench.run(large), bench.expected(large))
    assert len(bench.worker.pipelines) == 1
    assert bench.device.open_graphs == 0
    same(bench.run(small), bench.expected(small))
    same(bench.run(large), bench.expected(large))
    assert len(bench.worker.pipelines) == 2


def test_staging_grows_with_the_images(bench: Bench) -> None:
    for size in ((60, 80), (700, 900), (60, 80), (1200, 1600)):
        batch = [bench.placed(noise(*size))]
        same(bench.run(batch), bench.expected(batch))


def test_images_in_device_memory_are_not_copied(bench: Bench) -> None:
    pixels = [noise(60, 80, seed) for seed in range(3)]
    bench.run([bench.placed(image) for image in pixels])
    arrays = [bench.device.array(image) for image in pixels]
    transform = bench.manifest.model.transform
    batch = [place(as_device_image(array, name="it"), transform, bench.canvases) for array in arrays]
    bench.device.calls.clear()
    found = bench.run(batch)
    same(found, bench.expected([bench.placed(image) for image in pixels]))
    assert bench.device.calls["copy"] == 3  # what the capture holds: sizes, table, outputs
    mixed = [batch[0], bench.placed(pixels[1]), batch[2]]
    same(bench.run(mixed), bench.expected([bench.placed(image) for image in pixels]))


def test_another_devices_memory_is_refused(bench: Bench) -> None:
    elsewhere = as_device_image(DeviceArray(noise(60, 80)), name="images[0]")
    with pytest.raises(ImageError, match=r"images\[0\]: the array lies in memory that the detector's GPU cannot reach"):
        bench.run([place(elsewhere, bench.manifest.model.transform, bench.canvases)])


def test_the_stream_that_produces_an_image_is_waited_for(bench: Bench) -> None:
    pixels = noise(60, 80)
    array = bench.device.array(np.zeros_like(pixels))
    stream = bench.device.caller_stream()
    bench.device.later(stream, lambda: np.copyto(array.array, pixels))
    batch = [place(as_device_image(array, name="it"), bench.manifest.model.transform, bench.canvases)]
    same(bench.run(batch, waits=(stream,)), bench.expected([bench.placed(pixels)]))


def test_a_missing_wait_is_detected(bench: Bench) -> None:
    """The test above can fail: without the wait the result is that of the black image."""
    array = bench.device.array(np.zeros((60, 80, 3), np.uint8))
    bench.device.later(bench.device.caller_stream(), lambda: np.copyto(array.array, 255))
    batch = [place(as_device_image(array, name="it"), bench.manifest.model.transform, bench.canvases)]
    assert bench.run(batch)["num_detections"].tolist() == [0]


def test_after_a_failed_allocation_the_worker_can_be_used(bench: Bench) -> None:
    batch = [bench.placed(noise(60, 80))]
    for call in ("allocate", "allocate_pinned", "bind", "create_context"):
        bench.device.fail_next(call)
        with pytest.raises(ArtifactError, match=f"injected: {call}"):
            bench.run(batch)
    same(bench.run(batch), bench.expected(batch))


@pytest.mark.parametrize("name", VIEWS)
def test_staged_bytes_are_found_again(name: str) -> None:
    pixels = VIEWS[name]()
    stage = staged(pixels)
    assert all(step >= 0 for step in stage.pixels.strides)
    copied = np.ascontiguousarray(stage.pixels).ravel()
    height, width, _ = pixels.shape
    rows, columns, channels = np.ogrid[:height, :width, :3]
    at = stage.offset + rows * stage.strides[0] + columns * stage.strides[1] + channels * stage.strides[2]
    np.testing.assert_array_equal(copied[at], pixels)
    assert copied.size == (pixels.size // 3 if name.startswith("grey") else pixels.size)
