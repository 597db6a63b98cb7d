"""The public face on an engine artifact, on the fake device."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.fake_device import DeviceArray, FakeDevice
from support.strided import noise
from support.tiny_artifact import TinyArtifact, profile, tiny_outputs

from frcnn.benchmarks.parity.matching import match
from frcnn.errors import ArtifactError, ImageError, ImageSizeError, UsageError
from frcnn.runtime import Detections, Detector, RGBImage
from frcnn.runtime.backend import Network, NetworkOutput
from frcnn.runtime.host.backend import HostBackend
from frcnn.spec import Manifest

ManifestOf = Callable[..., Manifest]


class TinyNetwork:
    """The tiny artifact as a network on the host."""

    def run(self, images: np.ndarray, image_sizes: np.ndarray) -> NetworkOutput:
        return NetworkOutput(**tiny_outputs(images, image_sizes))  # type: ignore[arg-type]

    def close(self) -> None: ...


@pytest.fixture
def detector(device: FakeDevice, manifest_of: ManifestOf) -> Iterator[Detector]:
    artifact = TinyArtifact(manifest_of())
    with Detector(artifact.backend(device), artifact.manifest.source) as made:
        yield made
    assert device.left_open() == {}


@pytest.fixture
def on_host(manifest_of: ManifestOf) -> Detector:
    network: Network = TinyNetwork()
    return Detector(HostBackend(network, manifest_of()), manifest_of())


def same(found: Detections, expected: Detections, *, px: float = 1e-3, score: float = 1e-5) -> None:
    assert found.image_size == expected.image_size
    assert found.source == expected.source
    assert found.label_names == expected.label_names
    assert len(found) == len(expected)
    np.testing.assert_allclose(found.scores, expected.scores, atol=score, rtol=0)
    at, to = match(expected, found).pairs.T  # those whose scores differ by less than the limit may change places
    assert len(at) == len(expected)
    np.testing.assert_array_equal(found.labels[to], expected.labels[at])
    np.testing.assert_allclose(found.scores[to], expected.scores[at], atol=score, rtol=0)
    np.testing.assert_allclose(found.boxes[to], expected.boxes[at], atol=px, rtol=0)


def test_every_kind_of_image(detector: Detector, on_host: Detector, tmp_path: Path, device: FakeDevice) -> None:
    pixels = noise(60, 80)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    images: list[Any] = [
        tmp_path / "a.png",
        Image.fromarray(pixels),
        pixels,
        pixels[:, :, 0],
        pixels[:, :, ::-1],
        tensor,
        tensor.float() / 255,
        np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32) / np.float32(255),
        RGBImage(pixels=pixels, name="mine"),
    ]
    expected = on_host(images)
    for batch_size in (1, 4):
        for found, wanted in zip(detector(images, batch_size=batch_size), expected, strict=True):
            assert len(found) == 5
            same(found, wanted)
    (found,) = detector([device.array(pixels)])
    same(found, expected[2])


def bits(results: list[Detections]) -> list[bytes]:
    return [found.boxes.tobytes() + found.scores.tobytes() + found.labels.tobytes() for found in results]


@pytest.mark.parametrize("where", ["on_host", "detector"])
def test_bgr_gives_the_same_bits_as_rgb(
    where: str, request: pytest.FixtureRequest, device: FakeDevice, tmp_path: Path
) -> None:
    detector: Detector = request.getfixturevalue(where)
    rgb = noise(60, 80)
    bgr = np.ascontiguousarray(rgb[:, :, ::-1])
    planar = np.ascontiguousarray(bgr.transpose(2, 0, 1))
    floats, tensor = planar.astype(np.float32) / np.float32(255), torch.from_numpy(planar)
    as_bgr: list[Any] = [bgr, rgb[:, :, ::-1], np.asfortranarray(bgr), floats, tensor, tensor.float() / 255]
    as_rgb: list[Any] = [rgb, rgb, rgb, floats[::-1].copy(), tensor.flip(0), tensor.flip(0).float() / 255]
    if where == "detector":
        as_bgr += [device.array(bgr), device.array(rgb)[:, :, ::-1]]
        as_rgb += [device.array(rgb)] * 2
    Image.fromarray(rgb).save(tmp_path / "a.png")
    either = [tmp_path / "a.png", (tmp_path / "a.png").read_bytes(), Image.fromarray(rgb), rgb[:, :, 0]]
    either.append(RGBImage(pixels=rgb, name="mine"))
    expected = bits(detector([*as_rgb, *either]))
    assert bits(detector([*as_bgr, *either], channel_order="bgr")) == expected
    assert bits(list(detector.stream([*as_bgr, *either], channel_order="bgr"))) == expected
    wrong = bits(detector([*as_bgr, *either]))
    assert all(one != other for one, other in zip(wrong, expected[: len(as_bgr)], strict=False))
    assert wrong[len(as_bgr) :] == expected[len(as_bgr) :]


def test_images_of_a_bgr_stream_are_rgb(detector: Detector) -> None:
    rgb = noise(60, 80)
    floats = np.ascontiguousarray(rgb.transpose(2, 0, 1)).astype(np.float32) / np.float32(255)
    for image, _ in detector.stream_images([rgb[:, :, ::-1].copy(), floats[::-1].copy()], channel_order="bgr"):
        np.testing.assert_array_equal(image.uint8(), rgb)


def test_order_is_kept_for_any_mixture_of_sizes_kinds_and_batches(
    detector: Detector, on_host: Detector, device: FakeDevice
) -> None:
    rng = np.random.default_rng(0)
    images: list[Any] = []
    for seed in range(24):
        pixels = noise(*((60, 80), (80, 60), (50, 50))[int(rng.integers(3))], seed)
        kind = int(rng.integers(3))
        images.append((pixels, pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255), pixels)[kind])
    expected = on_host(images)
    on_both = [
        device.array(image) if seed % 3 == 0 and image.dtype == np.uint8 else image for seed, image in enumerate(images)
    ]
    for batch_size in (1, 3, 4):
        for results in (
            detector(images, batch_size=batch_size),
            detector(on_both, batch_size=batch_size),
            list(detector.stream(iter(on_both), batch_size=batch_size)),
        ):
            for found, wanted in zip(results, expected, strict=True):
                same(found, wanted)


def test_same_canvas_and_filters_work_as_on_the_host(detector: Detector, on_host: Detector) -> None:
    images = [noise(60, 80), noise(80, 60, 1)]
    for options in ({"same_canvas": True, "batch_size": 2}, {"score": 0.45}, {"classes": ["dog"]}):
        for found, wanted in zip(detector(images, **options), on_host(images, **options), strict=True):  # type: ignore[call-overload]
            same(found, wanted)


def test_a_profile_that_holds_fewer_of_a_canvas_gets_fewer(
    device: FakeDevice, manifest_of: ManifestOf, on_host: Detector
) -> None:
    profiles = (profile((1, 1), (64, 64), (96, 96)), profile((2, 4), (96, 96), (64, 64)))
    artifact = TinyArtifact(manifest_of(), profiles=profiles)
    images = [noise(60, 80, 1), noise(80, 60, 2), noise(60, 80, 3), noise(80, 60, 4), noise(80, 60, 5)]
    with Detector(artifact.backend(device), artifact.manifest.source) as detector:
        for found, wanted in zip(detector(images, batch_size=4), on_host(images), strict=True):
            same(found, wanted)
        with pytest.raises(ImageSizeError, match=r"images\[0\] \(80x200\): resized to 51x128 it fits none") as raised:
            detector([noise(80, 200)])
        assert "--size" in raised.value.hint


def test_a_batch_beyond_the_engine_is_refused_before_any_work(detector: Detector) -> None:
    def untouched() -> Iterator[object]:
        raise AssertionError("the images were asked for")
        yield

    for call in (detector, detector.stream):
        with pytest.raises(UsageError, match="at most 4 image") as raised:
            call(untouched(), batch_size=5)
        assert "--batch" in raised.value.hint


def test_a_single_array_of_a_device_is_refused_like_any_image(detector: Detector, device: FakeDevice) -> None:
    with pytest.raises(UsageError, match=r"detector\(\[image\]\)"):
        detector(device.array(noise(60, 80)))  # type: ignore[call-overload]


class TestStream:
    def test_an_array_may_be_written_over_once_the_next_is_asked_for(
        self, detector: Detector, on_host: Detector
    ) -> None:
        frames = [noise(60, 80, seed) for seed in range(8)]

        def camera() -> Iterator[np.ndarray]:
            buffer = np.empty_like(frames[0])
            for frame in frames:
                buffer[...] = frame
                yield buffer
                buffer[...] = 0

        for batch_size in (1, 3):
            for found, wanted in zip(detector.stream(camera(), batch_size=batch_size), on_host(frames), strict=True):
                same(found, wanted)

    def test_a_live_source_gets_its_detections_before_the_next_image(self, detector: Detector) -> None:
        received = []

        def camera() -> Iterator[np.ndarray]:
            for seed in range(3):
                yield noise(60, 80, seed)
                until = time.monotonic() + 10
                while len(received) <= seed and time.monotonic() < until:
                    time.sleep(0.001)
                assert len(received) == seed + 1

        received.extend(detector.stream(camera()))
        assert len(received) == 3

    def test_closing_early_leaves_nothing_in_flight(self, detector: Detector, device: FakeDevice) -> None:
        def endless() -> Iterator[object]:
            while True:
                yield noise(60, 80)

        stream = detector.stream(endless())
        next(stream)
        stream.close()
        assert len(detector([noise(60, 80)])[0]) == 5

    def test_streams_and_calls_do_not_wait_for_each_other(self, detector: Detector, on_host: Detector) -> None:
        frames = [noise(60, 80, seed) for seed in range(6)]
        streams = [detector.stream(frames) for _ in range(4)]
        for frame, results in zip(on_host(frames), zip(*streams, strict=True), strict=True):
            for found in results:
                same(found, frame)
            assert len(detector([frames[0]])[0]) == 5

    def test_images_in_device_memory_are_not_copied_back(self, detector: Detector, device: FakeDevice) -> None:
        with pytest.raises(UsageError, match=r"stream_images: .* lies in device memory"):
            list(detector.stream_images([device.array(noise(60, 80))]))
        ((image, found),) = detector.stream_images([noise(60, 80)])
        assert image.size == (60, 80)
        assert len(found) == 5


class TestDeviceArrays:
    def test_the_arrays_own_stream_is_waited_for(
        self, detector: Detector, on_host: Detector, device: FakeDevice
    ) -> None:
        pixels, stream = noise(60, 80), device.caller_stream()
        for named, where in (({"stream": stream}, stream), ({}, 0), ({"stream": 1}, 0)):
            array = device.array(np.zeros_like(pixels), **named)
            device.later(where, lambda array=array: np.copyto(array.array, pixels))
            same(detector([array])[0], on_host([pixels])[0])

    def test_the_callers_stream_is_waited_for(self, detector: Detector, on_host: Detector, device: FakeDevice) -> None:
        pixels, stream = noise(60, 80), device.caller_stream()
        array = device.array(np.zeros_like(pixels))
        device.later(stream, lambda: np.copyto(array.array, pixels))
        same(detector([array], stream=stream)[0], on_host([pixels])[0])

    def test_an_array_in_other_memory_is_refused_by_name(self, detector: Detector) -> None:
        with pytest.raises(ImageError, match=r"images\[0\]: the array lies in memory"):
            detector([DeviceArray(noise(60, 80))])

    def test_an_object_that_is_no_stream_is_refused(self, detector: Detector) -> None:
        with pytest.raises(UsageError, match="stream must be a CUDA stream"):
            detector([noise(60, 80)], stream="default")

    def test_detections_may_stay_on_the_device(self, detector: Detector, device: FakeDevice) -> None:
        images = [noise(60, 80), device.array(noise(80, 60, 1)), noise(60, 80, 2)]
        expected = detector(images)
        kept = detector(images, device_output=True, batch_size=2)
        for found, wanted in zip(kept, expected, strict=True):
            same(found.to_host(), wanted, px=0, score=0)
            with pytest.raises(UsageError, match="pickle what to_host"):
                pickle.dumps(found)
        for options in ({"score": 0.1}, {"classes": [1]}):
            with pytest.raises(UsageError, match="device_output"):
                detector(images, device_output=True, **options)  # type: ignore[call-overload]

    def test_a_model_onnx_has_no_device(self, on_host: Detector) -> None:
        for options in ({"device_output": True}, {"stream": 0}):
            with pytest.raises(UsageError, match=next(iter(options))) as raised:
                on_host([noise(60, 80)], **options)  # type: ignore[call-overload]
            assert "frcnn build" in raised.value.hint


def test_the_host_overhead_of_a_call_is_small(manifest_of: ManifestOf) -> None:
    """The bound is generous, for busy systems: it takes 40 microseconds where nothing else runs."""
    device = FakeDevice(idle=True)
    device.activate()
    artifact = TinyArtifact(manifest_of())
    detector = Detector(artifact.backend(device), artifact.manifest.source)
    images = [noise(60, 80)]
    for _ in range(3):
        with suppress(ArtifactError):  # an idle device results with whatever is in its memory
            detector(images)
        (worker,) = detector._backend._pool._free  # type: ignore[attr-defined]
        for pipeline in worker.pipelines.values():
            for name, value in (("num_detections", 5), ("boxes", 0), ("scores", 0), ("labels", 1)):
                pipeline.outputs[name][:] = value
            if pipeline.has_graph:
                pipeline._graph.in_flight = False
                pipeline._graph.launch = lambda stream: None
    times = []
    for _ in range(300):
        start = time.perf_counter()
        detector(images)
        times.append(time.perf_counter() - start)
    assert min(times) < 500e-6


class TestLoadingAModelOnnx:
    @pytest.mark.parametrize("option", [{"workers": 2}, {"trusted_hashes": ["0" * 64]}])
    def test_options_of_an_engine_are_refused(self, model_path: Path, option: dict[str, Any]) -> None:
        with pytest.raises(UsageError, match=f"{next(iter(option))}: a model.onnx holds no engines"):
            Detector.load(model_path, **option)

    def test_it_runs_on_the_cpu_by_default(self, model_path: Path) -> None:
        for device in (None, "cpu"):
            with Detector.load(model_path, device=device, threads=1) as detector:  # type: ignore[arg-type]
                assert len(detector([np.full((60, 80, 3), 200, np.uint8)])[0]) == 2
