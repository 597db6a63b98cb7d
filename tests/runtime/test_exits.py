"""frcnn.runtime.exits: calls into libraries end before Python does, and none begins later."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from frcnn.runtime import Detector, exits
from frcnn.runtime.backend import NetworkOutput
from frcnn.runtime.host.backend import HostBackend
from frcnn.runtime.images import preprocess
from frcnn.spec import Manifest


def printed(body: str) -> str:
    code = "import atexit, threading, time\n" + textwrap.dedent(body)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_python_waits_for_a_call_in_a_daemon_thread() -> None:
    body = """
    from frcnn.runtime.exits import finished_before_exit
    begun = threading.Event()
    def call():
        with finished_before_exit():
            begun.set()
            time.sleep(0.3)
            print("done", flush=True)
    threading.Thread(target=call, daemon=True).start()
    begun.wait()
    """
    assert printed(body) == "done\n"


def test_no_call_begins_later() -> None:
    body = """
    calls = 0
    @atexit.register  # before the import, so that it is called after the gate has closed
    def count():
        before = calls
        time.sleep(0.2)
        print(before > 0, calls == before)
    from frcnn.runtime.exits import finished_before_exit
    def call():
        global calls
        while True:
            with finished_before_exit():
                calls += 1
                time.sleep(0.001)
    threading.Thread(target=call, daemon=True).start()
    while calls < 3:
        time.sleep(0.001)
    """
    assert printed(body) == "True True\n"


def test_what_stops_threads_comes_first() -> None:
    body = """
    from frcnn.runtime.exits import at_exit, finished_before_exit
    stopping, entered = threading.Event(), threading.Event()
    def call():
        stopping.wait()
        with finished_before_exit():
            entered.set()
    threading.Thread(target=call, daemon=True).start()
    @at_exit
    def stop():
        stopping.set()
        print(entered.wait(10))
    """
    assert printed(body) == "True\n"


def test_the_end_waits_for_a_resize_and_a_network_and_not_for_a_file(
    manifest_of: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[tuple[str, bool]] = []

    def seen(what: str) -> None:
        held.append((what, bool(exits._INSIDE)))

    class File(BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            seen("file")
            return super().read(size)

    class Network:
        def run(self, images: np.ndarray, image_sizes: np.ndarray) -> NetworkOutput:
            seen("network")
            rows = np.zeros((len(images), 1), np.int32)
            boxes = np.zeros((len(images), 1, 4), np.float32)
            return NetworkOutput(num_detections=rows[:, 0], boxes=boxes, scores=rows.astype(np.float32), labels=rows)

        def close(self) -> None:
            """Nothing to close."""

    monkeypatch.setattr(preprocess, "resize_affine", lambda *_, **__: seen("resize"))
    file = File()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    with Detector(HostBackend(Network(), manifest_of()), manifest_of()) as detector:
        detector([file])
    assert held == [("file", False), ("resize", True), ("network", True)]
