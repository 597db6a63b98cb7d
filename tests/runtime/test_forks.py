"""frcnn.runtime.forks: what a forked process inherits does no harm there, and a detector is loaded anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.processes import run_python

from frcnn.runtime.host.providers import RunProvider

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks on this system")

BEGIN = """
import gc, os, signal, sys, threading, time, warnings
import numpy as np
from frcnn.errors import FrcnnError
from frcnn.runtime import Detector
warnings.simplefilter("ignore", DeprecationWarning)  # of forks where there are threads
model, provider, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
image = np.full((60, 80, 3), 30, np.uint8)
bits = lambda: [getattr(detector([image])[0], name).tobytes() for name in ("boxes", "scores", "labels")]
def told(call):
    try: return call()
    except FrcnnError as error: return str(error)
detector = Detector.load(model, provider=provider, threads=threads)
expected = bits()
def code_of_child():
    return os.waitstatus_to_exitcode(os.wait()[1])
def fork():
    child = os.fork()
    if child == 0: signal.alarm(60)  # ends a child that hangs
    return child == 0
"""


@pytest.fixture(params=["1", "4"])
def threads(request: pytest.FixtureRequest) -> str:
    count: str = request.param
    return count


@pytest.mark.parametrize(
    "end",
    ["sys.exit(7)", "detector.close(); os._exit(7)", "del detector; gc.collect(); os._exit(7)"],
    ids=["exit", "close", "del"],
)
def test_a_forked_process_ends(model_path: Path, provider: RunProvider, threads: str, end: str) -> None:
    """It has none of the threads that ONNX Runtime and OpenVINO wait for when a model is destroyed."""
    code = f"""
if fork():
    {end}
print(code_of_child(), bits() == expected)
"""
    assert run_python(BEGIN + code, model_path, provider, threads) == "7 True\n"


def test_a_forked_process_detects_the_same(model_path: Path, provider: RunProvider, threads: str) -> None:
    """And so does one that it forks off, while the parent's threads detect."""
    code = """
stop = threading.Event()
def work():
    while not stop.is_set(): bits()
workers = [threading.Thread(target=work) for _ in range(3)]
for worker in workers: worker.start()
codes = []
for _ in range(8):
    if fork():
        stop.set()
        same = bits() == expected
        if fork():
            sys.exit(7 if bits() == expected else 8)
        same = same and code_of_child() == 7
        detector.close()
        sys.exit(5 if same else 6)
    codes.append(code_of_child())
stop.set()
for worker in workers: worker.join()
print(codes, bits() == expected)
"""
    assert run_python(BEGIN + code, model_path, provider, threads) == f"{[5] * 8} True\n"


def test_a_fork_waits_for_blocks_in_other_threads_only() -> None:
    """OpenVINO's TBB has locks for all of a process: without this, 7 of 200 forked processes waited for ever."""
    code = """
import os, signal, threading, time
from frcnn.runtime.forks import uninterrupted_by_forks
inside, ended = threading.Event(), False
def work():
    global ended
    with uninterrupted_by_forks():
        inside.set()
        time.sleep(0.5)
        ended = True
worker = threading.Thread(target=work)
worker.start()
inside.wait()
signal.signal(signal.SIGALRM, lambda *_: fork())
def fork():
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)
        with uninterrupted_by_forks(), uninterrupted_by_forks():
            os._exit(7 if ended else 8)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
fork()
worker.join()
with uninterrupted_by_forks(): os.kill(os.getpid(), signal.SIGALRM)
fork()
"""
    assert run_python(code) == "7\n7\n7\n"


def test_a_fork_waits_until_the_threads_of_libraries_sleep(tmp_path: Path) -> None:
    """But not for ever, and not at all where no block was entered."""
    code = """
import os, sys, threading, time
from pathlib import Path
from frcnn.runtime import forks
folder = forks._TASKS = Path(sys.argv[1])
def write(thread, state):
    (folder / thread).mkdir(exist_ok=True)
    (folder / thread / "stat").write_text(f"{thread} (a) b) {state} 1 2")
def seconds():
    begin = time.monotonic()
    if os.fork() == 0: os._exit(0)
    took = time.monotonic() - begin
    os.wait()
    return took
write("1", "S")
write(str(threading.get_native_id()), "R")
write("2", "R")
unused = seconds()
with forks.uninterrupted_by_forks(): running = seconds()
timer = threading.Timer(0.2, write, ("2", "S"))
timer.start()
until = seconds()
print(unused < 0.1, 0.4 < running < 2, 0.1 < until < 0.4, seconds() < 0.1)
"""
    assert run_python(code, tmp_path) == "True True True True\n"


def test_threads_of_a_forked_process_load_one_model(model_path: Path, provider: RunProvider) -> None:
    code = """
from frcnn.runtime import loading
real, loads = loading.load_backend, []
def load(*path, **options):
    loads.append(path)
    time.sleep(0.3)
    return real(*path, **options)
loading.load_backend = load
if fork():
    found = []
    workers = [threading.Thread(target=lambda: found.append(bits())) for _ in range(4)]
    for worker in workers: worker.start()
    for worker in workers: worker.join()
    sys.exit(7 if (found, len(loads)) == ([expected] * 4, 1) else 8)
print(code_of_child(), len(loads))
"""
    assert run_python(BEGIN + code, model_path, provider, "2") == "7 0\n"


def test_what_cannot_be_loaded_anew_is_refused(model_path: Path, provider: RunProvider, tmp_path: Path) -> None:
    """A file that changed, a detector that was closed, a backend of the caller's own, and a GPU."""
    path = tmp_path / "model.onnx"
    path.write_bytes(model_path.read_bytes())
    code = """
own, on_gpu, closed = (Detector.load(model, provider=provider, threads=threads) for _ in range(3))
own = Detector(own._backend, own.manifest)
on_gpu._backend.on_gpu = True
closed.close()
os.utime(model, (1, 1))
if fork():
    for each in (detector, own, on_gpu, closed): print(told(lambda: each([image])))
    for each in (detector, own, on_gpu, closed): each.close()
    print(told(lambda: detector([image])), flush=True)
    sys.exit(7)
print(code_of_child(), bits() == expected)
"""
    lines = run_python(BEGIN + code, path, provider, "2").splitlines()
    assert "not the file any more that the detector was loaded from" in lines[0]
    assert all("forked off" in line and "spawn" in line for line in lines[1:3])
    assert all("closed" in line for line in lines[3:5])
    assert lines[5:] == ["7 True"]
