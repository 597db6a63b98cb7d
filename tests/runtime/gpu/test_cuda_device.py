"""The real device, through NVIDIA's own bindings, with a stand-in for the driver's library."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from support.libcuda import build_stand_in, run_with_stand_in

from frcnn.errors import ArtifactError

pytestmark = pytest.mark.slow

NOTHING = "memory=0 pinned=0 streams=0 events=0 graphs=0 executables=0 contexts=0"

PRELUDE = """
import json, threading
from support.libcuda import StandIn
from frcnn.errors import ArtifactError
from frcnn.runtime.gpu.cuda_calls import call_cuda, driver_cuda_version, is_capturing
from frcnn.runtime.gpu.cuda_device import CudaDevice

driver = StandIn()

def refused(work):
    try:
        work()
    except ArtifactError as error:
        return str(error)
    raise AssertionError("it was not refused")

def current():
    return int(call_cuda("cuCtxGetCurrent"))

def done(*values):
    print(json.dumps(values))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("stand-in")
    build_stand_in(made)
    return made


@pytest.fixture
def run(folder: Path) -> Any:
    """Return a function that runs code with the stand-in and returns the values it passes to ``done``."""
    return lambda code: json.loads(run_with_stand_in(PRELUDE + textwrap.dedent(code), folder))


def test_the_device_describes_the_gpu(run: Any) -> None:
    name, architecture, capability, free, cuda, index = run(
        """
        driver.set_devices(2)
        gpu = CudaDevice(1)
        done(gpu.name, gpu.architecture, gpu.compute_capability, gpu.free_bytes(), driver_cuda_version(), gpu.index)
        """
    )
    assert (name, architecture, capability, index) == ("Stand-in 1", "sm_90", "9.0", 1)
    assert free == 2**30
    assert cuda == "13.0"


def test_everything_is_released_once(run: Any) -> None:
    during, after, log, aligned = run(
        """
        gpu = CudaDevice()
        memory, pinned = gpu.allocate(1000), gpu.allocate_pinned(500)
        stream, other = gpu.create_stream(), gpu.create_stream()
        gpu.wait_for(stream, other)
        graph = gpu.capture(stream, lambda: gpu.copy(memory.pointer, pinned.pointer, 500, stream))
        aligned = memory.pointer % 256
        during = driver.live()
        driver.take_log()
        for _ in range(2):
            for thing in (graph, memory, pinned):
                thing.close()
        gpu.destroy_stream(stream)
        gpu.destroy_stream(other)
        for _ in range(2):
            gpu.close()
        done(during, driver.live(), driver.take_log(), aligned)
        """
    )
    assert during == "memory=1 pinned=1 streams=2 events=1 graphs=0 executables=1 contexts=1"
    assert after == NOTHING
    assert aligned == 0
    assert [line.split()[0] for line in log] == [
        "cuGraphExecDestroy",
        "cuMemFree",
        "cuMemFreeHost",
        "cuStreamDestroy",
        "cuStreamDestroy",
        "cuEventDestroy",
        "cuDevicePrimaryCtxRelease",
        "cuCtxSetCurrent",  # to none: the context is gone
    ]


def test_a_captured_copy_runs_when_the_graph_is_launched(run: Any) -> None:
    before, after, again, log, was_capturing, is_still = run(
        """
        gpu = CudaDevice()
        memory, source, target = gpu.allocate(64), gpu.allocate_pinned(64), gpu.allocate_pinned(64)
        stream = gpu.create_stream()
        target.array[:], source.array[:] = 0, 7
        seen = []

        def work():
            gpu.copy(memory.pointer, source.pointer, 64, stream)
            gpu.copy(target.pointer, memory.pointer, 32, stream)
            gpu.copy(target.pointer, memory.pointer, 0, stream)
            seen.append(is_capturing(stream))

        driver.take_log()
        graph = gpu.capture(stream, work)
        before = target.array.tolist()
        graph.launch(stream)
        after = target.array.tolist()
        source.array[:] = 9
        graph.launch(stream)
        gpu.synchronize(stream)
        done(before, after, target.array.tolist(), driver.take_log(), seen[0], is_capturing(stream))
        """
    )
    assert before == [0] * 64
    assert after == [7] * 32 + [0] * 32
    assert again == [9] * 32 + [0] * 32
    assert (was_capturing, is_still) == (True, False)
    thread_local = 1
    assert log == [
        f"cuStreamBeginCapture 1 {thread_local}",
        "cuMemcpyAsync 64 1",
        "cuMemcpyAsync 32 1",
        "cuStreamEndCapture 1",
        "cuGraphInstantiateWithFlags 0",
        "cuGraphDestroy 0",
        "cuGraphUpload 1",
        "cuGraphLaunch 1",
        "cuGraphLaunch 1",
        "cuStreamSynchronize 1",
    ]


def test_an_exception_ends_the_capture_and_leaves_nothing(run: Any) -> None:
    caught, capturing, live, works = run(
        """
        gpu = CudaDevice()
        stream = gpu.create_stream()

        def work():
            raise KeyboardInterrupt("stop")

        try:
            gpu.capture(stream, work)
        except KeyboardInterrupt as error:
            caught = str(error)
        live = driver.live()
        gpu.capture(stream, lambda: None).close()
        done(caught, is_capturing(stream), live, driver.live())
        """
    )
    assert (caught, capturing) == ("stop", False)
    assert live == works == "memory=0 pinned=0 streams=1 events=0 graphs=0 executables=0 contexts=1"


def test_work_that_cannot_be_captured_is_named(run: Any) -> None:
    waits, hidden, instantiate, upload, live = run(
        """
        gpu = CudaDevice()
        stream = gpu.create_stream()
        waits = refused(lambda: gpu.capture(stream, lambda: gpu.synchronize(stream)))

        def work():
            refused(lambda: gpu.synchronize(stream))  # the capture is broken, but not reported

        hidden = refused(lambda: gpu.capture(stream, work))
        driver.fail("cuGraphInstantiateWithFlags", 2)
        instantiate = refused(lambda: gpu.capture(stream, lambda: None))
        driver.fail("cuGraphUpload", 2)
        upload = refused(lambda: gpu.capture(stream, lambda: None))
        done(waits, hidden, instantiate, upload, driver.live())
        """
    )
    assert waits.startswith("CUDA's cuStreamSynchronize returned CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED (something in")
    assert hidden.startswith("CUDA's cuStreamEndCapture returned CUDA_ERROR_STREAM_CAPTURE_INVALIDATED (something in")
    assert instantiate == "CUDA's cuGraphInstantiate returned CUDA_ERROR_OUT_OF_MEMORY"
    assert upload == "CUDA's cuGraphUpload returned CUDA_ERROR_OUT_OF_MEMORY"
    assert "graphs=0 executables=0" in live


def test_events_measure_time_and_are_released(run: Any) -> None:
    ms, log, early, live = run(
        """
        gpu = CudaDevice()
        stream = gpu.create_stream()
        driver.take_log()
        first, second = gpu.create_event(), gpu.create_event()
        first.record(stream)
        second.record(stream)
        ms = second.ms_since(first)
        log = driver.take_log()
        driver.fail("cuEventElapsedTime", 600)
        early = refused(lambda: second.ms_since(first))
        for _ in range(2):
            first.close()
            second.close()
        done(ms, log, early, driver.live())
        """
    )
    with_timing = 0
    assert ms == 1.5
    assert log == [
        f"cuEventCreate {with_timing}",
        f"cuEventCreate {with_timing}",
        "cuEventRecord 0xe1 1",
        "cuEventRecord 0xe2 1",
        "cuEventElapsedTime 0xe1 0xe2",
    ]
    assert early == "CUDA's cuEventElapsedTime returned CUDA_ERROR_NOT_READY"
    assert "events=0" in live


def test_streams_wait_for_each_other_with_one_event(run: Any) -> None:
    log, both, live = run(
        """
        gpu = CudaDevice()
        first, second = gpu.create_stream(), gpu.create_stream()
        driver.take_log()
        gpu.wait_for(first, second)
        gpu.wait_for(second, first)
        gpu.wait_for(first, 0)
        gpu.wait_for(first, first)
        log = driver.take_log()
        driver.fail("cuEventRecord", 400)
        refusal = refused(lambda: gpu.wait_for(first, second))
        gpu.wait_for(first, second)
        done(log, refusal, driver.live())
        """
    )
    disable_timing = 2
    assert log == [
        f"cuEventCreate {disable_timing}",
        "cuEventRecord 0xe1 2",
        "cuStreamWaitEvent 1 0xe1 0",
        "cuEventRecord 0xe1 1",
        "cuStreamWaitEvent 2 0xe1 0",
        "cuEventRecord 0xe1 0",
        "cuStreamWaitEvent 1 0xe1 0",
    ]
    assert "CUDA_ERROR_INVALID_HANDLE (the stream must be alive" in both
    assert "events=1" in live


def test_streams_and_pinned_memory_are_of_the_right_kind(run: Any) -> None:
    (log,) = run(
        """
        gpu = CudaDevice()
        driver.take_log()
        gpu.create_stream()
        gpu.allocate_pinned(10)
        done(driver.take_log())
        """
    )
    non_blocking, portable = 1, 1
    assert log == [f"cuStreamCreate {non_blocking}", f"cuMemHostAlloc 10 {portable}"]


def test_the_error_of_too_little_memory_names_the_bytes(run: Any) -> None:
    device, pinned, nothing, live = run(
        """
        driver.set_memory(3000)
        gpu = CudaDevice()
        held = gpu.allocate(1000)
        done(refused(lambda: gpu.allocate(5_000_000)), refused(lambda: gpu.allocate_pinned(5_000_000)),
             refused(lambda: gpu.allocate(0)), driver.live())
        """
    )
    assert device.startswith(
        "Stand-in 0: not enough device memory: 5,000,000 bytes needed; free on the GPU: 2,000 bytes (close what else"
    )
    assert "not enough pinned host memory: 5,000,000 bytes needed" in pinned
    assert "1 byte or more, got 0" in nothing
    assert live.startswith("memory=1 pinned=0 ")


@pytest.mark.parametrize(
    ("status", "name"), [(700, "ILLEGAL_ADDRESS"), (719, "LAUNCH_FAILED"), (214, "ECC_UNCORRECTABLE")]
)
def test_a_dead_context_is_reported_and_can_be_closed(run: Any, status: int, name: str) -> None:
    failed, closed = run(
        f"""
        gpu = CudaDevice()
        memory, stream = gpu.allocate(10), gpu.create_stream()
        driver.fail("cuStreamSynchronize", {status})
        failed = refused(lambda: gpu.synchronize(stream))
        driver.fail("cuMemFree", {status})
        memory.close()
        driver.fail("cuStreamDestroy", {status})
        gpu.destroy_stream(stream)
        gpu.close()
        done(failed, driver.take_log()[-2])
        """
    )
    assert failed.startswith(f"CUDA's cuStreamSynchronize returned CUDA_ERROR_{name} (every later CUDA call of this")
    assert closed.startswith("cuDevicePrimaryCtxRelease")


def test_an_invalid_free_is_an_error(run: Any) -> None:
    (refusal,) = run(
        """
        gpu = CudaDevice()
        memory = gpu.allocate(10)
        driver.fail("cuMemFree", 1)
        done(refused(memory.close))
        """
    )
    assert refusal == "CUDA's cuMemFree returned CUDA_ERROR_INVALID_VALUE"


def test_another_owners_context_on_this_gpu_is_used_and_never_released(run: Any) -> None:
    used, log, still, live, is_primary = run(
        """
        driver.set_context(0xABC)
        gpu = CudaDevice()
        used = current()
        gpu.allocate(10).close()
        gpu.close()
        done(used, driver.take_log(), current(), driver.live(), gpu.is_primary_context)
        """
    )
    assert not is_primary
    assert used == still == 0xABC
    assert not [line for line in log if "PrimaryCtx" in line or "SetCurrent" in line]
    assert live == NOTHING


def test_a_context_of_another_owner_beside_an_active_primary_one(run: Any) -> None:
    used, log, live = run(
        """
        call_cuda("cuInit", 0)
        call_cuda("cuDevicePrimaryCtxRetain", 0)  # as PyTorch does
        driver.set_context(0xABC)
        driver.take_log()
        gpu = CudaDevice()
        gpu.close()
        done(current(), driver.take_log(), driver.live())
        """
    )
    assert used == 0xABC
    assert log[1:] == ["cuDevicePrimaryCtxRetain 0", "cuDevicePrimaryCtxRelease 0"]  # to compare the two
    assert live.endswith("contexts=1")


def test_the_primary_context_is_shared_and_outlives_us_where_others_hold_it(run: Any) -> None:
    held, after, still = run(
        """
        call_cuda("cuInit", 0)
        primary = call_cuda("cuDevicePrimaryCtxRetain", 0)
        call_cuda("cuCtxSetCurrent", primary)
        gpu = CudaDevice()
        held = driver.live()
        gpu.close()
        done(held, driver.live(), current() == int(primary))
        """
    )
    assert held.endswith("contexts=2")
    assert after.endswith("contexts=1")
    assert still is True


def test_a_context_of_another_gpu_is_not_taken(run: Any) -> None:
    used, is_primary = run(
        """
        driver.set_devices(2)
        driver.set_context(0xABC, device=1)
        gpu = CudaDevice(0)
        done(current(), gpu.is_primary_context)
        """
    )
    assert is_primary
    assert used == 0xD0  # the primary context of device 0


def test_every_thread_gets_the_context_once(run: Any) -> None:
    before, after, log, closed = run(
        """
        gpu = CudaDevice()
        driver.take_log()
        seen = []

        def work():
            seen.append(current())
            gpu.activate()
            gpu.activate()
            seen.append(current())

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        log = driver.take_log()
        gpu.close()
        done(*seen, log, refused(gpu.activate))
        """
    )
    assert (before, after) == (0, 0xD0)
    assert log == ["cuCtxSetCurrent 0xd0"]
    assert closed == "the GPU was closed (load the detector again)"


def test_missing_gpus_are_reported(run: Any) -> None:
    none, beyond, negative = run(
        """
        driver.set_devices(0)
        none = refused(CudaDevice)
        driver.set_devices(1)
        done(none, refused(lambda: CudaDevice(3)), refused(lambda: CudaDevice(-1)))
        """
    )
    assert none.startswith("CUDA's cuInit returned CUDA_ERROR_NO_DEVICE (nvidia-smi lists the GPUs")
    assert beyond.startswith("there is no GPU 3; CUDA sees 1 (nvidia-smi lists")
    assert negative.startswith("there is no GPU -1; CUDA sees 1")


def test_kernels_launch_through_the_same_driver(run: Any) -> None:
    assert run("gpu = CudaDevice()\ndone(gpu.driver.architecture())") == ["sm_90"]


def test_a_missing_driver_is_reported_on_one_line(tmp_path: Path) -> None:
    """In a process of its own, so that a driver that is here after all is not initialised in the tests' process."""
    code = """
from frcnn.errors import ArtifactError
import frcnn.plugins.cuda.driver as plugins
class Nothing:
    def __getattr__(self, name):
        def call(*arguments):
            raise RuntimeError("no libcuda.so.1 here")
        return call
plugins.import_driver = Nothing
from frcnn.runtime.gpu.cuda_device import CudaDevice
try:
    CudaDevice()
except ArtifactError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    expected = ArtifactError(
        "the CUDA driver cannot be used (cuInit): no libcuda.so.1 here",
        hint="install NVIDIA's driver, r580 or later for CUDA 13",
    )
    assert done.stdout.strip() == str(expected)


def test_importing_initialises_nothing(run: Any) -> None:
    assert run("done(driver.take_log())") == [[]]
