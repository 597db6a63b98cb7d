"""frcnn.runtime.loading.Origin: a detector travels to other processes as its file's path and hash, and its options."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.processes import environment

from frcnn.errors import ArtifactError, FrcnnError, ImageError, ImageSizeError, MissingDependencyError, UsageError
from frcnn.runtime import Detector
from frcnn.runtime.host.providers import RunProvider

IMAGE = np.full((60, 80, 3), 30, np.uint8)


@pytest.fixture
def model(model_path: Path, tmp_path: Path) -> Path:
    """A file of the test's own."""
    path = tmp_path / "model.onnx"
    path.write_bytes(model_path.read_bytes())
    return path


def bits(detector: Detector) -> bytes:
    (found,) = detector([IMAGE])
    return found.boxes.tobytes() + found.scores.tobytes() + found.labels.tobytes()


@pytest.mark.parametrize("travel", [lambda it: pickle.loads(pickle.dumps(it)), copy.copy, copy.deepcopy])
def test_a_pickled_detector_is_loaded_by_its_first_call(
    model: Path, provider: RunProvider, travel: Callable[[Detector], Detector], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)
    with Detector.load("model.onnx", provider=provider, threads=1, max_pixels=4800) as detector:
        monkeypatch.chdir("/")  # the path travels whole
        arrived = travel(detector)
        assert arrived.labels == detector.labels
        assert arrived._backend is None
        again = travel(arrived)  # without having been used
        assert bits(arrived) == bits(again) == bits(detector)
        assert type(arrived._backend._network) is type(detector._backend._network)  # type: ignore[attr-defined]
        with pytest.raises(ImageSizeError):
            arrived([Image.new("RGB", (81, 60))])
        arrived.close()
        again.close()
        with pytest.raises(UsageError, match="closed"):
            arrived([IMAGE])


def test_a_detectors_channel_order_travels_and_a_call_can_say_otherwise(model: Path) -> None:
    with Detector.load(model, threads=1, channel_order="bgr") as detector:
        arrived = pickle.loads(pickle.dumps(detector))
        red = np.zeros((60, 80, 3), np.uint8)
        red[:, :, 0] = 200
        for one in (detector, arrived):
            for order, seen in ((None, (0, 0, 200)), ("bgr", (0, 0, 200)), ("rgb", (200, 0, 0))):
                ((image, _),) = one.stream_images([red], channel_order=order)
                assert tuple(image.uint8()[0, 0]) == seen
        arrived.close()


def test_its_file_must_be_the_same(model: Path) -> None:
    with Detector.load(model, threads=1) as detector:
        arrived = pickle.loads(pickle.dumps(detector))
        data = model.read_bytes()
        model.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(ArtifactError, match=r"model\.onnx: not the file any more"):
            arrived([IMAGE])
        model.unlink()
        with pytest.raises(ArtifactError, match=r"cannot be read: No such file.*unchanged at the same path"):
            arrived([IMAGE])
        model.write_bytes(data)
        assert bits(arrived) == bits(detector)
        arrived.close()


def test_a_file_that_changed_before_it_was_hashed_is_noticed(model: Path) -> None:
    with Detector.load(model, threads=1) as detector:
        model.write_bytes(model.read_bytes() + b"\0")
        with pytest.raises(ArtifactError, match="not the file any more"):
            pickle.dumps(detector)


def test_what_cannot_travel_is_refused(model: Path) -> None:
    detector = Detector.load(model, threads=1)
    with pytest.raises(UsageError, match=r"made of a backend cannot be pickled \(use Detector.load\)"):
        pickle.dumps(Detector(detector._backend, detector.manifest))
    detector.close()
    with pytest.raises(UsageError, match="closed"):
        pickle.dumps(detector)


def test_a_subclass_keeps_its_own_attributes(model: Path) -> None:
    with Mine.load(model, threads=1) as detector:
        detector.camera = "north"
        with pickle.loads(pickle.dumps(detector)) as arrived:
            assert (type(arrived), arrived.camera) == (Mine, "north")
            assert bits(arrived) == bits(detector)


class Mine(Detector):
    camera = ""


@pytest.mark.parametrize(
    "error", [ImageError("a.jpg: bad", hint="look"), MissingDependencyError("onnx", extra="cpu", why="reading")]
)
def test_errors_come_out_of_another_process_whole(error: FrcnnError) -> None:
    """One that cannot be unpickled would keep a pool waiting for ever."""
    error.add_note("in b.jpg")
    arrived = pickle.loads(pickle.dumps(error))
    assert type(arrived) is type(error)
    assert (str(arrived), arrived.args, arrived.__dict__) == (str(error), error.args, error.__dict__)


@pytest.mark.slow
def test_worker_processes_just_detect(model: Path, provider: RunProvider) -> None:
    """Started anew or forked off; results and errors come back."""
    code = """
import sys
from multiprocessing import get_context
import numpy as np
from frcnn.errors import ImageError
from frcnn.runtime import Detector
if __name__ == "__main__":
    image = np.full((60, 80, 3), 30, np.uint8)
    detector = Detector.load(sys.argv[1], provider=sys.argv[2], threads=2)
    expected = detector([image])[0].scores.tolist()
    for method in ("spawn", "fork", "forkserver"):
        with get_context(method).Pool(2) as pool:
            found = pool.map(detector, [[image]] * 4)
            assert [one.scores.tolist() for (one,) in found] == [expected] * 4
            try: pool.map(detector, [[b"junk"]])
            except ImageError as error: print(method, error.message)
"""
    script = model.with_name("workers.py")  # what is spawned imports the program again
    script.write_text(code)
    command = [sys.executable, str(script), str(model), provider]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, timeout=300)
    names = [line.partition(":")[0] for line in done.stdout.splitlines()]
    assert names == ["spawn images[0]", "fork images[0]", "forkserver images[0]"], done.stderr
