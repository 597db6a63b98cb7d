"""Streams and calls that do not go as planned: slow, endless, broken, closed early, interrupted, forked, at exit."""

from __future__ import annotations

import gc
import inspect
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.concurrent_calls import ConcurrentCalls, bits, mixed_images
from support.fake_device import FakeDevice
from support.tiny_artifact import TinyArtifact

from frcnn.errors import ArtifactError, ImageError, UsageError
from frcnn.runtime import Detections, Detector
from frcnn.runtime.backend import NetworkOutput
from frcnn.runtime.host.backend import HostBackend
from frcnn.runtime.host.providers import RunProvider
from frcnn.runtime.images import decode
from frcnn.runtime.images.video import open_video, writing_video
from frcnn.spec import Manifest

Grey = Callable[..., np.ndarray]
ManifestOf = Callable[..., Manifest]

RUNTIME = f"{os.sep}frcnn{os.sep}runtime{os.sep}"


def best(found: Detections) -> int:
    """Return the grey level of the image that the stand-in model saw."""
    return round(float(found.scores[0]) * 255)


def streams_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "frcnn-prefetch"]


def eventually(condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + 10
    while not condition() and time.monotonic() < until:
        time.sleep(0.002)
    return condition()


class Source:
    """Images without end, of two canvases; counts those made and those that are alive."""

    def __init__(self, grey: Grey) -> None:
        self._grey = grey
        self.made = self.alive = 0
        self.closed = False

    def __iter__(self) -> Iterator[np.ndarray]:
        try:
            while True:
                size = (60, 80) if self.made % 3 else (80, 60)
                image = self._grey(self.made % 250 + 1, *size)
                self.made += 1
                self.alive += 1
                weakref.finalize(image, self._gone)
                yield image
                del image
        finally:
            self.closed = True

    def _gone(self) -> None:
        self.alive -= 1


class Failing:
    """A network that results as the stand-in does, until it meets an image of one grey level."""

    def __init__(self, level: int) -> None:
        self.level = level

    def run(self, images: np.ndarray, image_sizes: np.ndarray) -> NetworkOutput:
        scores = images.max(axis=(1, 2, 3))[:, None]
        if self.level in np.round(scores * 255):
            raise ArtifactError("the network failed")
        boxes = np.tile(np.array([[0, 0, 8, 4]], np.float32), (len(images), 1, 1))
        ones = np.ones(len(images), np.int32)
        return NetworkOutput(num_detections=ones, boxes=boxes, scores=scores, labels=ones[:, None])

    def close(self) -> None: ...


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert eventually(lambda: streams_threads() == [])


class TestBound:
    @pytest.mark.parametrize("batch_size", [1, 4])
    def test_a_slow_consumer_of_an_endless_source_holds_a_few_batches(
        self, detector: Detector, grey: Grey, batch_size: int
    ) -> None:
        """Two batches wait to be taken, one image is in hand, four batches wait for their canvas's batch to fill."""
        source, ahead, alive = Source(grey), [], []
        stream = detector.stream(source, batch_size=batch_size)
        for taken, found in enumerate(stream, 1):
            assert best(found) == (taken - 1) % 250 + 1
            time.sleep(0.02 if taken % 5 == 0 else 0)  # at times the thread comes to its bound
            ahead.append(source.made - taken)
            alive.append(source.alive)
            if taken == 100:
                break
        stream.close()
        assert 2 * batch_size <= max(ahead) <= 6 * batch_size + 2
        assert max(alive) <= 7 * batch_size + 3  # and the batch that was received last


class TestFailures:
    """Each names the image, comes after the results before it, leaves no thread, and harms no later call."""

    @pytest.mark.parametrize("batch_size", [1, 3, 8])
    def test_a_failed_network_names_its_images(
        self, manifest_of: ManifestOf, grey: Grey, tmp_path: Path, batch_size: int
    ) -> None:
        manifest = manifest_of()
        detector = Detector(HostBackend(Failing(5), manifest), manifest)
        Image.fromarray(grey(5)).save(tmp_path / "five.png")
        images: list[object] = [grey(level, *((60, 80), (80, 60))[level % 2]) for level in range(1, 12)]
        for there, name in ((images[4], r"images\[4\]"), (tmp_path / "five.png", r"five\.png")):
            images[4] = there
            stream, results = detector.stream(images, batch_size=batch_size), []
            with pytest.raises(ArtifactError, match=f"the network failed\nwhile detecting in .*{name}"):
                results.extend(best(found) for found in stream)
            with pytest.raises(ArtifactError, match=name):
                detector(images, batch_size=batch_size)
            with pytest.raises(ArtifactError, match=name if isinstance(there, Path) else r"images\[0\]"):
                detector([there])
        assert [best(found) for found in detector(images[:4])] == [1, 2, 3, 4]

    @pytest.mark.parametrize(("batch_size", "expected"), [(1, 4), (3, 0), (8, 0)])
    def test_detections_before_the_failed_batch_come_first(
        self, manifest_of: ManifestOf, grey: Grey, batch_size: int, expected: int
    ) -> None:
        """The batch of the odd image fails; the even one that came before it had not been submitted."""
        manifest = manifest_of()
        detector = Detector(HostBackend(Failing(5), manifest), manifest)
        images = [grey(level, *((60, 80), (80, 60))[level % 2]) for level in range(1, 12)]
        results = []
        with pytest.raises(ArtifactError):
            results.extend(best(found) for found in detector.stream(images, batch_size=batch_size))
        assert results == list(range(1, expected + 1))
        results.clear()
        with pytest.raises(ArtifactError):
            results.extend(best(found) for found in detector.stream([grey(2, 60, 80), *images[4:]], batch_size=3))
        assert results == [2]

    def test_an_unexpected_error_of_an_image_names_it(self, detector: Detector, grey: Grey) -> None:
        class Broken:
            def __getattr__(self, name: str) -> Any:
                raise RuntimeError(f"no {name} today")

        stream = detector.stream([grey(1), Broken(), grey(2)])
        assert best(next(stream)) == 1
        with pytest.raises(RuntimeError, match=r"today\nwhile preparing images\[1\]"):
            next(stream)

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError, StopAsyncIteration])
    def test_any_exception_of_the_iterable_is_raised(
        self, detector: Detector, grey: Grey, error: type[BaseException]
    ) -> None:
        def camera() -> Iterator[object]:
            yield grey(1)
            raise error("unplugged")

        with pytest.raises(error, match="unplugged"):
            list(detector.stream(camera()))
        assert best(detector([grey(7)])[0]) == 7

    def test_a_dropped_error_keeps_no_image_alive(self, manifest_of: ManifestOf, grey: Grey) -> None:
        manifest = manifest_of()
        detector, source = Detector(HostBackend(Failing(5), manifest), manifest), Source(grey)

        def unplugged() -> Iterator[object]:
            for image in source:
                yield image
                if source.made == 4:
                    raise RuntimeError("unplugged")

        def consume(images: Any, batch_size: int) -> None:
            try:  # pytest.raises keeps the error
                list(detector.stream(images, batch_size=batch_size))
            except (ArtifactError, RuntimeError, ImageError):
                return
            raise AssertionError("no error")

        gc.collect()
        gc.disable()
        try:
            for batch_size in (1, 4):
                for images in (source, unplugged(), [None]):
                    consume(images, batch_size)
                    del images
                    assert eventually(lambda: source.alive == 0)
                    source.made = 0
        finally:
            gc.enable()


class TestClosing:
    """However a stream ends early, its thread, its source and its images are gone."""

    @pytest.fixture
    def source(self, grey: Grey) -> Iterator[Source]:
        gc.collect()
        gc.disable()
        made = Source(grey)
        yield made
        gc.enable()
        assert eventually(lambda: made.closed and made.alive == 0 and streams_threads() == [])

    @pytest.mark.parametrize("call", ["stream", "stream_images"])
    @pytest.mark.parametrize("how", ["close", "break", "drop", "exception"])
    def test_by_its_consumer(self, detector: Detector, source: Source, call: str, how: str) -> None:
        def consume() -> None:
            stream = getattr(detector, call)(source, batch_size=2)
            for _ in stream:
                if how == "close":
                    stream.close()
                if how == "exception":
                    raise ZeroDivisionError
                if how == "break":
                    break
                if how == "drop":
                    return

        with pytest.raises(ZeroDivisionError) if how == "exception" else nullcontext():
            consume()

    def test_by_closing_the_detector(self, model_path: Path, source: Source, provider: RunProvider) -> None:
        detector = Detector.load(model_path, provider=provider, threads=1)
        stream, other = detector.stream(source, batch_size=2), detector.stream([])
        next(stream)
        detector.close()
        assert source.closed and streams_threads() == []  # though nobody goes on with the stream
        with pytest.raises(UsageError, match="closed"):
            list(stream)
        assert list(other) == []

    def test_by_closing_the_detector_in_another_thread(
        self, model_path: Path, source: Source, provider: RunProvider
    ) -> None:
        detector = Detector.load(model_path, provider=provider, threads=1)
        begun = threading.Event()

        def consume() -> str:
            try:
                for _ in detector.stream(source, batch_size=2):
                    begun.set()
            except UsageError as error:
                return error.message
            return "went on"

        with ThreadPoolExecutor(1) as pool:
            consumer = pool.submit(consume)
            assert begun.wait(10)
            detector.close()
            assert "closed" in consumer.result(10)

    def test_by_its_own_source(self, detector: Detector, source: Source) -> None:
        """As the garbage collector may, which runs in any thread."""
        streams = []

        def dropping() -> Iterator[object]:
            for image in source:
                yield image
                if source.made == 3:
                    streams.clear()

        streams.append(detector.stream(dropping()))
        next(streams[0])

    def test_closing_a_stream_closes_its_video_file(self, detector: Detector, grey: Grey, tmp_path: Path) -> None:
        path = tmp_path / "clip.mp4"
        with writing_video(path, 25.0) as writer:
            for level in range(40):
                writer.write(grey(level * 5, 64, 96))

        def opened() -> bool:
            return path in [entry.readlink() for entry in Path("/proc/self/fd").iterdir() if entry.exists()]

        stream = detector.stream(open_video(path).frames())
        next(stream)
        assert opened()
        stream.close()
        assert not opened()


class TestThreads:
    def test_eight_threads_may_have_a_stream_each(self, detector: Detector, grey: Grey) -> None:
        def levels(first: int) -> list[int]:
            images = [grey(level, 60 + level % 2 * 20, 80) for level in range(first, first + 20)]
            return [best(found) for found in detector.stream(images, batch_size=3)]

        with ThreadPoolExecutor(8) as pool:
            for first, found in zip(range(1, 100, 10), pool.map(levels, range(1, 100, 10)), strict=True):
                assert found == list(range(first, first + 20))

    def test_one_stream_is_for_one_thread_at_a_time(self, detector: Detector, grey: Grey) -> None:
        asked, go_on = threading.Event(), threading.Event()

        def camera() -> Iterator[object]:
            yield grey(1)
            asked.set()
            assert go_on.wait(10)
            yield grey(2)

        stream = detector.stream(camera())
        with ThreadPoolExecutor(1) as pool:
            consumer = pool.submit(lambda: [best(found) for found in stream])
            assert asked.wait(10)
            with pytest.raises(ValueError, match="already executing"):
                next(stream)
            go_on.set()
            assert consumer.result(10) == [1, 2]

    def test_the_detector_may_be_used_in_its_own_stream(self, detector: Detector, grey: Grey) -> None:
        inner = []

        def camera() -> Iterator[object]:
            for level in (1, 2, 3):
                inner.append(best(detector([grey(level + 100)])[0]))
                yield grey(level)
            yield None

        def on_error(index: int, error: ImageError) -> None:
            inner.append(best(detector([grey(200)])[0]))

        for found in detector.stream(camera(), on_error=on_error):
            level = best(found)
            assert [best(one) for one in detector.stream([grey(level + 10)] * 3)] == [level + 10] * 3
        assert inner == [101, 102, 103, 200]

    def test_eight_threads_get_the_bits_of_one(self, tiny_model: Path, tmp_path: Path, provider: RunProvider) -> None:
        arrays = mixed_images()
        Image.fromarray(arrays[0]).save(tmp_path / "first.png")
        images = [*arrays, tmp_path / "first.png", Image.fromarray(arrays[1])]
        with Detector.load(tiny_model, provider=provider, threads=2) as detector:
            expected = [bits(found) for found in detector(images)]
            assert len(set(expected)) == len(arrays)
            calls = ConcurrentCalls(detector, images, expected, 8)
            calls.run(2)
        assert calls.wrong == []
        assert calls.done > 100

    def test_a_wrong_result_is_detected(self, tiny_model: Path) -> None:
        images = mixed_images(3)
        with Detector.load(tiny_model, threads=1) as detector:
            expected = [bits(found) for found in detector(images)]
            calls = ConcurrentCalls(detector, images, [expected[0], expected[2], expected[1]], 2)
            calls.run(10)
        assert "not the bits of one thread alone" in calls.wrong[0]


class TestFork:
    """A child process has none of the parent's threads."""

    def in_child(self, work: Callable[[], str]) -> str:
        read, write = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks where there are threads
            child = os.fork()
        if child == 0:
            signal.alarm(20)  # ends a child that hangs
            os.write(write, work().encode())
            os._exit(0)
        os.close(write)
        os.waitpid(child, 0)
        text = os.read(read, 10_000).decode()
        os.close(read)
        return text

    def test_a_stream_is_refused_and_closes(self, detector: Detector, grey: Grey) -> None:
        def work() -> str:
            try:
                next(stream)
            except UsageError as error:
                return f"{error.message} ({error.hint})"
            return "went on"

        stream = detector.stream(Source(grey))
        next(stream)
        assert "forked off" in self.in_child(work)
        assert best(next(stream)) == 2
        stream.close()

    def test_a_file_is_read_though_a_thread_was_reading_one(
        self, model_path: Path, image_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        detector = Detector.load(model_path, threads=1)
        path, reading, real = image_file("a.png", level=40), threading.Event(), Image.open

        def slow(file: Path, **options: Any) -> Image.Image:
            reading.set()
            time.sleep(0.3)
            return real(file, **options)

        monkeypatch.setattr(decode.Image, "open", slow)
        thread = threading.Thread(target=decode.decode_file, args=(path,))
        thread.start()
        assert reading.wait(10)
        assert self.in_child(lambda: str(best(detector([path])[0]))) == "40"
        thread.join()


class TestInterrupted:
    """Ctrl-C at any point where Python looks for it: the detector goes on, and it closes."""

    def interrupted_at(self, point: int, call: Callable[[], object]) -> bool:
        """Interrupt a call at its nth function entered or returned from; False where it ended before.

        Python loses an interruption in a generator's last breath; the call then goes on.
        """
        seen = 0

        def profile(frame: FrameType, event: str, _: object) -> None:
            nonlocal seen
            if event in ("call", "c_return") and RUNTIME in frame.f_code.co_filename:
                seen += 1
                if seen == point:
                    sys.setprofile(None)
                    raise KeyboardInterrupt

        sys.setprofile(profile)
        try:
            with suppress(KeyboardInterrupt):
                call()
        finally:
            sys.setprofile(None)
        return seen >= point

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # in a generator's last breath
    def test_a_call_of_an_engine_can_be_interrupted_anywhere(self, device: FakeDevice, manifest_of: ManifestOf) -> None:
        artifact, images, points = TinyArtifact(manifest_of()), mixed_images(3), iter(range(1, 5000, 7))
        with Detector(artifact.backend(device), artifact.manifest.source) as detector:
            expected = [bits(found) for found in detector(images)]
        device.is_open = True

        def was_interrupted(detector: Detector, point: int) -> bool:
            detector(images, batch_size=2)
            interrupted = self.interrupted_at(point, lambda: detector(images, batch_size=2))
            with ThreadPoolExecutor(1, initializer=device.activate) as pool:  # where a hang is seen
                assert pool.submit(lambda: [bits(found) for found in detector(images)]).result(30) == expected
                pool.submit(detector.close).result(30)
            assert device.left_open() == {}
            device.is_open = True
            return interrupted

        while was_interrupted(Detector(artifact.backend(device), artifact.manifest.source), next(points)):
            pass
        assert next(points) > 100


@pytest.mark.slow
class TestExit:
    """The interpreter ends whilst streams are open: in time, and without a crash."""

    def run(self, model: Path, provider: RunProvider, body: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
        script = f"""
            import sys, threading, time
            from pathlib import Path
            import numpy as np
            from frcnn.runtime import Detector
            from frcnn.runtime.streaming import prefetch
            from frcnn.runtime.images.video import open_video
            prefetch._JOIN_SECONDS = 1.0
            detector = Detector.load({str(model)!r}, provider={provider!r}, threads=1)
            def grey():
                while True:
                    yield np.full((60, 80, 3), 40, np.uint8)
        """
        code = textwrap.dedent(script) + textwrap.dedent(body)
        return subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
        )

    def test_a_thread_in_opencv_does_not_abort_the_process(
        self, model_path: Path, provider: RunProvider, tmp_path: Path
    ) -> None:
        path = tmp_path / "clip.mp4"
        rng = np.random.default_rng(0)
        with writing_video(path, 25.0) as writer:
            for _ in range(30):
                writer.write(rng.integers(0, 256, (720, 1280, 3), dtype=np.uint8))
        body = """
            stream = detector.stream(open_video(Path(sys.argv[1])).frames(), batch_size=4)
            next(stream)
        """
        done = self.run(model_path, provider, body, path)
        assert (done.returncode, done.stderr) == (0, "")

    def test_a_source_that_blocks_is_not_waited_for_long(self, model_path: Path, provider: RunProvider) -> None:
        body = """
            def blocked():
                yield from (np.full((60, 80, 3), level, np.uint8) for level in (1, 2))
                time.sleep(1000)
            streams = [detector.stream(blocked()) for _ in range(2)]
            for stream in streams:
                next(stream)
        """
        start = time.monotonic()
        done = self.run(model_path, provider, body)
        assert (done.returncode, done.stderr) == (0, "")
        assert time.monotonic() - start < 40

    @pytest.mark.parametrize("daemon", [False, True])
    def test_a_consumer_in_another_thread(self, model_path: Path, provider: RunProvider, daemon: bool) -> None:
        body = f"""
            begun = threading.Event()
            def consume():
                for count, found in enumerate(detector.stream(grey())):
                    begun.set()
                    time.sleep(0.005)
                    if count == 100:
                        print("done")
                        break
            threading.Thread(target=consume, daemon={daemon}).start()
            begun.wait()
        """
        done = self.run(model_path, provider, body)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == ("" if daemon else "done\n")


def test_both_streams_take_the_same_options_and_batch_nothing_unless_asked():
    """An image of a live source does not wait for another one."""
    of_stream, of_both = (inspect.signature(method).parameters for method in (Detector.stream, Detector.stream_images))
    assert of_stream == of_both
    assert of_stream["batch_size"].default == 1
