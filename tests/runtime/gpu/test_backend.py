"""frcnn.runtime.gpu.backend: workers, threads, faults, forks and the end, on the fake device."""

from __future__ import annotations

import gc
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from support.fake_device import FakeDevice
from support.strided import noise
from support.tiny_artifact import TinyArtifact, profile

from frcnn.errors import ArtifactError, FrcnnError, UsageError
from frcnn.runtime import exits
from frcnn.runtime.backend import NetworkOutput
from frcnn.runtime.gpu.backend import EngineBackend
from frcnn.runtime.gpu.pipeline import Pipeline
from frcnn.runtime.images.preprocess import Placed
from frcnn.spec import Manifest

ManifestOf = Callable[..., Manifest]
MakeBackend = Callable[..., EngineBackend]


@pytest.fixture
def artifact(manifest_of: ManifestOf) -> TinyArtifact:
    return TinyArtifact(manifest_of())


@pytest.fixture
def backend(device: FakeDevice, artifact: TinyArtifact) -> Iterator[EngineBackend]:
    made = artifact.backend(device)
    yield made
    made.close()
    assert device.left_open() == {}


def placed(backend: EngineBackend, *images: object) -> list[Placed]:
    return [backend.place(image, name="it", max_pixels=10**8, ahead=False) for image in images]


def run(backend: EngineBackend, *images: object) -> NetworkOutput:
    return backend.submit(placed(backend, *images)).result()


def same(a: NetworkOutput, b: NetworkOutput) -> None:
    for name in ("num_detections", "boxes", "scores", "labels"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_a_batch_below_the_minimum_is_padded_and_the_padding_dropped(
    device: FakeDevice, manifest_of: ManifestOf
) -> None:
    static = TinyArtifact(manifest_of(), profiles=(profile((4, 4), (64, 128), (64, 128)),)).backend(device)
    dynamic = TinyArtifact(manifest_of()).backend(device)
    images = [noise(60, 80, seed) for seed in range(3)]
    found = run(static, *images)
    assert found.boxes.shape == (3, 5, 4)
    same(found, run(dynamic, *images))
    floats = [image.astype(np.float32).transpose(2, 0, 1) / np.float32(255) for image in images]
    same(run(static, *floats), run(dynamic, *floats))


def test_the_interpreters_end_waits_for_a_batch_that_is_being_enqueued(
    backend: EngineBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[bool] = []
    launch = Pipeline.launch

    def seen(*arguments: Any) -> None:
        held.append(bool(exits._INSIDE))
        launch(*arguments)

    monkeypatch.setattr(Pipeline, "launch", seen)
    run(backend, noise(60, 80))
    assert (held, exits._INSIDE) == ([True], set())


def test_two_batches_are_in_flight_on_two_streams(device: FakeDevice, backend: EngineBackend) -> None:
    batches = [placed(backend, noise(60, 80, seed)) for seed in range(2)]
    pending = [backend.submit(batch) for batch in batches]
    assert device.works_done == 0  # nothing was waited for
    assert device.calls["create_stream"] == 2
    results = [one.result() for one in reversed(pending)]
    same(results[0], run(backend, noise(60, 80, 1)))
    same(results[1], run(backend, noise(60, 80, 0)))
    assert device.calls["create_stream"] == 2


def test_a_call_without_a_free_worker_fetches_the_oldest_batch(backend: EngineBackend) -> None:
    """Otherwise one thread that submits thrice before it asks would wait for itself."""
    pending = [backend.submit(placed(backend, noise(60, 80, seed))) for seed in range(7)]
    for seed, one in enumerate(pending):
        same(one.result(), run(backend, noise(60, 80, seed)))


def test_a_worker_that_has_bound_the_shape_is_preferred(device: FakeDevice, backend: EngineBackend) -> None:
    wide, high = placed(backend, noise(60, 80)), placed(backend, noise(80, 60))
    first, second = backend.submit(wide), backend.submit(high)
    first.result()
    second.result()
    bound = device.calls["create_context"]
    for batch in (wide, high, high, wide):
        backend.submit(batch).result()
    assert device.calls["create_context"] == bound == 4


def test_threads_get_the_results_of_one_thread(artifact: TinyArtifact, device: FakeDevice) -> None:
    sizes = [(60, 80), (80, 60), (64, 64), (100, 100), (120, 70)]
    jobs = [(sizes[seed % 5], 1 + seed % 3, seed) for seed in range(64)]

    def detect(backend: EngineBackend, job: tuple[tuple[int, int], int, int]) -> NetworkOutput:
        size, count, seed = job
        return run(backend, *(noise(*size, seed + i) for i in range(count)))

    alone = artifact.backend(device, workers=1)
    expected = [detect(alone, job) for job in jobs]
    shared = TinyArtifact(artifact.manifest.source).backend(device, workers=3)
    with ThreadPoolExecutor(8) as pool:
        for found, wanted in zip(pool.map(lambda job: detect(shared, job), jobs), expected, strict=True):
            same(found, wanted)
    alone._pool.close()
    shared._pool.close()
    assert {kind: n for kind, n in device.left_open().items() if kind not in ("engines", "devices")} == {}


def test_a_warning_is_logged_once(artifact: TinyArtifact, device: FakeDevice, caplog: pytest.LogCaptureFixture) -> None:
    backend = artifact.backend(device, capturable=False)
    for size in ((60, 80), (80, 60)):
        for _ in range(3):
            run(backend, noise(*size))
    (message,) = caplog.messages
    assert message.endswith("launched one by one, which is slower")
    backend.close()


def fails(call: Callable[[], object]) -> bool:
    """Return whether a call met the injected fault; any other is raised."""
    try:
        call()
    except FrcnnError as error:
        if "injected" not in error.message:
            raise
        return True
    return False


class TestFaults:
    """Every call of the device fails once; after it the backend works, or reports the fault, and closes."""

    def scenario(self, backend: EngineBackend, device: FakeDevice) -> list[NetworkOutput]:
        """Do everything: bind, capture, replay, grow, two in flight, results on the device."""
        done = [run(backend, noise(60, 80)) for _ in range(3)]
        done += [one.result() for one in [backend.submit(placed(backend, noise(120, 120, s))) for s in range(2)]]
        kept = backend.submit_to_device(placed(backend, device.array(noise(60, 80))))
        kept[0].to_host()
        return [*done, run(backend, noise(300, 400))]

    def calls_of_the_scenario(self, artifact: TinyArtifact) -> tuple[int, int, list[NetworkOutput]]:
        device = FakeDevice()
        device.activate()
        backend = artifact.backend(device)
        before = device.calls.total()
        results = self.scenario(backend, device)
        return before, device.calls.total(), results

    @pytest.mark.slow
    def test_every_call_may_fail(self, artifact: TinyArtifact, device: FakeDevice) -> None:
        first, last, expected = self.calls_of_the_scenario(artifact)
        assert last - first > 90
        failed = 0
        for at in range(first + 1, last + 1):
            device = FakeDevice()
            device.activate()
            backend = artifact.backend(device)
            device.fail_at = at
            failed += fails(lambda backend=backend, device=device: self.scenario(backend, device))
            results = [run(backend, noise(60, 80)) for _ in range(3)]
            for found in results:
                same(found, expected[0])
            backend.close()
            assert device.misuses == []
            if device.left_open():
                gc.collect()  # an exception's traceback holds results on the device
            left = device.left_open()
            assert "devices" not in left
            assert "engines" not in left
        assert failed > 0.7 * (last - first)

    @pytest.mark.slow
    def test_every_piece_of_work_may_fail(self, artifact: TinyArtifact) -> None:
        device = FakeDevice()
        device.activate()
        backend = artifact.backend(device)
        expected = self.scenario(backend, device)
        works = device.works_done
        for at in range(1, works + 1, 3):
            device = FakeDevice()
            device.activate()
            backend = artifact.backend(device)
            device.fail_work_at = at
            assert fails(lambda backend=backend, device=device: self.scenario(backend, device))
            for found, wanted in zip(self.scenario(backend, device), expected, strict=True):
                same(found, wanted)
            backend.close()
            assert device.misuses == []
            if device.left_open():
                gc.collect()
            assert device.left_open() == {}

    def test_every_call_of_loading_may_fail(self, artifact: TinyArtifact) -> None:
        for call in ("activate", "load"):
            device = FakeDevice()
            device.activate()
            engines = artifact.engines(device)
            device.fail_next(call)
            with pytest.raises(FrcnnError, match="injected"):
                EngineBackend(artifact.manifest, artifact.read_part, device, engines)
            assert device.left_open() == {}

    def test_every_call_of_closing_may_fail(self, artifact: TinyArtifact) -> None:
        for call in ("free", "graph close", "context close", "destroy_stream", "engine close", "synchronize"):
            device = FakeDevice()
            device.activate()
            backend = artifact.backend(device)
            for _ in range(2):
                run(backend, noise(60, 80))
            device.fail_next(call)
            with pytest.raises(ArtifactError, match="injected"):
                backend.close()
            backend.close()
            assert sum(device.left_open().values()) <= 2  # what failed, and what may not go before it

    def test_a_thread_that_fails_does_not_stop_the_others(self, artifact: TinyArtifact, device: FakeDevice) -> None:
        backend = artifact.backend(device)
        expected = run(backend, noise(60, 80))
        outcomes = []

        def work(_: int) -> None:
            try:
                same(run(backend, noise(60, 80)), expected)
                outcomes.append(True)
            except FrcnnError:
                outcomes.append(False)

        device.fail_at = device.calls.total() + 40
        device.fail_work_at = device.works_done + 25
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(60)))
        assert outcomes.count(False) in (1, 2)
        assert len(outcomes) == 60
        backend.close()


class TestEnd:
    def test_close_waits_for_what_runs(self, artifact: TinyArtifact, device: FakeDevice) -> None:
        backend = artifact.backend(device)
        expected = run(backend, noise(60, 80))
        pending = backend.submit(placed(backend, noise(60, 80)))
        backend.close()
        backend.close()
        assert device.left_open() == {}
        same(pending.result(), expected)
        pending.close()

    def test_close_from_several_threads_while_others_call(self, artifact: TinyArtifact, device: FakeDevice) -> None:
        backend = artifact.backend(device)
        expected = run(backend, noise(60, 80))
        started = threading.Barrier(5)

        def call(_: int) -> int:
            started.wait()
            for done in range(1000):
                try:
                    same(run(backend, noise(60, 80)), expected)
                except UsageError:
                    return done
            raise AssertionError("never closed")

        with ThreadPoolExecutor(6) as pool:
            calls = pool.map(call, range(4))
            started.wait()
            list(pool.map(lambda _: backend.close(), range(2)))
            assert device.left_open() == {}
            list(calls)

    def test_a_closed_backend_refuses_calls(self, artifact: TinyArtifact, device: FakeDevice) -> None:
        backend = artifact.backend(device)
        batch = placed(backend, noise(60, 80))
        backend.close()
        calls: Sequence[Callable[[], object]] = (
            lambda: backend.submit(batch),
            lambda: backend.submit_to_device(batch),
            lambda: placed(backend, noise(60, 80)),
        )
        for call in calls:
            with pytest.raises(UsageError, match="closed"):
                call()

    def test_a_fork_is_refused_and_does_no_harm(self, artifact: TinyArtifact, device: FakeDevice) -> None:
        backend = artifact.backend(device)
        batch = placed(backend, noise(60, 80))
        kept = backend.submit_to_device(batch)
        pending = backend.submit(batch)
        read, write = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks where there are threads
            child = os.fork()
        if child == 0:
            lines = []
            calls = device.calls.total()
            for call in (lambda: backend.submit(batch), kept[0].to_host, pending.result):
                try:
                    call()
                except UsageError as error:
                    lines.append(f"{error.message} ({error.hint})")
            backend.close()
            lines.append(str(device.calls.total() - calls))
            os.write(write, "\n".join(lines).encode())
            os._exit(0)
        os.waitpid(child, 0)
        lines = os.read(read, 10_000).decode().split("\n")
        os.close(read)
        os.close(write)
        assert len(lines) == 4
        assert all("forked" in line and "spawn" in line for line in lines[:3])
        assert lines[3] == "0"  # the child did not call the device
        pending.result()
        kept[0].to_host()
        del kept
        backend.close()
        assert device.left_open() == {}

    def test_less_than_one_worker_is_refused(self, artifact: TinyArtifact, device: FakeDevice) -> None:
        with pytest.raises(UsageError, match="workers: expected 1 or more, got 0"):
            artifact.backend(device, workers=0)
        assert device.left_open() == {}


class TestDeviceOutput:
    def test_device_and_host_detections_are_equal(self, device: FakeDevice, backend: EngineBackend) -> None:
        images = [noise(60, 80, seed) for seed in range(3)]
        expected = run(backend, *images)
        kept = backend.submit_to_device(placed(backend, *images))
        device.run_all(0)  # the legacy default stream has them in order
        for row, found in enumerate(kept):
            for name in ("boxes", "scores", "labels"):
                array = getattr(found, name)
                np.testing.assert_array_equal(
                    device.read(array.pointer, array.shape, array.dtype), getattr(expected, name)[row]
                )
            (count,) = device.read(found.num_detections.pointer, (1,), np.int32)
            assert count == expected.num_detections[row]
            host = found.to_host()
            np.testing.assert_array_equal(host.boxes, expected.boxes[row, :count] * found.to_image)
            np.testing.assert_array_equal(host.scores, expected.scores[row, :count])
            assert host.image_size == found.image_size == (60, 80)
            assert host.label_names == found.label_names == backend._manifest.source.model.labels

    def test_the_interface_is_version_3(self, device: FakeDevice, backend: EngineBackend) -> None:
        stream = device.caller_stream()
        (on_legacy,), (on_stream,) = (
            backend.submit_to_device(placed(backend, noise(60, 80)), stream=which) for which in (None, stream)
        )
        interface = on_legacy.boxes.__cuda_array_interface__
        assert interface == {
            "version": 3,
            "shape": (5, 4),
            "typestr": "<f4",
            "data": (on_legacy.boxes.pointer, False),
            "strides": None,
            "stream": 1,
        }
        assert on_stream.labels.__cuda_array_interface__["typestr"] == "<i4"
        assert on_stream.labels.__cuda_array_interface__["stream"] == stream

    def test_the_callers_stream_orders_both_ends(self, device: FakeDevice, backend: EngineBackend) -> None:
        pixels = noise(60, 80)
        expected = run(backend, pixels)
        array, stream = device.array(np.zeros_like(pixels)), device.caller_stream()
        seen: list[np.ndarray] = []
        before = device.works_done
        device.later(stream, lambda: np.copyto(array.array, pixels))
        (kept,) = backend.submit_to_device(placed(backend, array), stream=stream)
        device.later(stream, lambda: seen.append(device.read(kept.scores.pointer, (5,), np.float32)))
        device.later(stream, lambda: array.array.fill(0))
        assert device.works_done == before
        device.run_all(stream)
        np.testing.assert_array_equal(seen[0], expected.scores[0])

    def test_later_calls_do_not_overwrite_it(self, device: FakeDevice, backend: EngineBackend) -> None:
        images = [noise(60, 80, seed) for seed in range(12)]
        kept = [backend.submit_to_device(placed(backend, image))[0] for image in images]
        expected = [run(backend, image) for image in images]
        device.run_all(0)
        for found, wanted in zip(kept, expected, strict=True):
            got = device.read(found.scores.pointer, (5,), np.float32)
            np.testing.assert_array_equal(got, wanted.scores[0])

    def test_it_is_freed_when_the_last_array_is_gone(self, device: FakeDevice, backend: EngineBackend) -> None:
        batch = placed(backend, noise(60, 80))
        backend.submit_to_device(batch)[0].to_host()
        before = len(device.living("device"))
        for _ in range(20):
            backend.submit_to_device(batch)[0].to_host()
        assert len(device.living("device")) <= before + 2
        (kept,) = backend.submit_to_device(batch)
        boxes = kept.boxes
        kept.to_host()
        del kept
        backend.submit_to_device(batch)[0].to_host()
        device.read(boxes.pointer, boxes.shape, boxes.dtype)

    def test_it_may_be_dropped_before_it_is_complete(self, device: FakeDevice, backend: EngineBackend) -> None:
        for _ in range(5):
            backend.submit_to_device(placed(backend, noise(60, 80)))
        run(backend, noise(60, 80))

    def test_it_outlives_the_detector(self, artifact: TinyArtifact, device: FakeDevice) -> None:
        backend = artifact.backend(device)
        expected = run(backend, noise(60, 80))
        (kept,) = backend.submit_to_device(placed(backend, noise(60, 80)))
        backend.close()
        assert device.left_open() == {"device": 1, "devices": 1}
        np.testing.assert_array_equal(device.read(kept.scores.pointer, (5,), np.float32), expected.scores[0])
        kept.to_host()
        del kept
        assert device.left_open() == {}


@pytest.mark.parametrize("rule", ["detectron2", "mmdetection"])
def test_images_are_resized_by_the_models_rule_on_the_gpu_too(
    rule: str, device: FakeDevice, manifest_of: ManifestOf
) -> None:
    backend = TinyArtifact(manifest_of(resize=rule)).backend(device)
    try:
        pixels = noise(200, 90)
        floats = np.float32(pixels.transpose(2, 0, 1)) / 255
        images = (floats, pixels, device.array(pixels))  # the first is prepared on the CPU
        on_cpu, *on_gpu = [backend.submit(placed(backend, image)).result() for image in images]
        for found in on_gpu:
            for name in ("num_detections", "boxes", "scores", "labels"):
                np.testing.assert_allclose(getattr(found, name), getattr(on_cpu, name), rtol=1e-5)
    finally:
        backend.close()
