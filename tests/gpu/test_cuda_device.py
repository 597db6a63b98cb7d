"""The device layer on a GPU: memory, copies, streams that wait, graphs, and no growth."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from frcnn.errors import ArtifactError
from frcnn.runtime.gpu.cuda_calls import call_cuda, driver_cuda_version, is_capturing
from frcnn.runtime.gpu.cuda_device import CudaDevice
from frcnn.runtime.gpu.device import Memory, PinnedMemory

pytestmark = pytest.mark.gpu

SIZE = 1 << 20
LONG_CYCLES = 200_000_000  # about 0.1 s


@pytest.fixture
def gpu(device):
    made = CudaDevice(device.index or 0)
    yield made
    made.close()


def test_it_is_the_gpu_that_pytorch_sees_and_in_its_context(gpu):
    properties = torch.cuda.get_device_properties(gpu.index)
    assert gpu.name == properties.name
    assert gpu.compute_capability == f"{properties.major}.{properties.minor}"
    assert gpu.architecture == f"sm_{properties.major}{properties.minor}"
    assert gpu.driver.architecture() == gpu.architecture
    assert abs(gpu.free_bytes() - torch.cuda.mem_get_info()[0]) < 1 << 24
    assert int(driver_cuda_version().split(".")[0]) >= 12
    before = int(call_cuda("cuCtxGetCurrent"))
    torch.zeros(1, device="cuda")
    assert int(call_cuda("cuCtxGetCurrent")) == before


def test_bytes_go_up_and_come_down(gpu):
    memory, source, target = gpu.allocate(SIZE), gpu.allocate_pinned(SIZE), gpu.allocate_pinned(SIZE)
    stream = gpu.create_stream()
    source.array[:] = np.random.default_rng(0).integers(0, 256, SIZE, dtype=np.uint8)
    target.array[:] = 0
    gpu.copy(memory.pointer, source.pointer, SIZE, stream)
    gpu.copy(target.pointer, memory.pointer, SIZE, stream)
    gpu.synchronize(stream)
    assert memory.pointer % 256 == 0
    assert np.array_equal(source.array, target.array)
    for thing in (memory, source, target):
        thing.close()
    gpu.destroy_stream(stream)


def test_memory_is_given_back(gpu):
    before = gpu.free_bytes()
    memory = gpu.allocate(1 << 28)
    assert before - gpu.free_bytes() >= 1 << 28
    memory.close()
    assert gpu.free_bytes() == before


def test_too_much_memory_is_refused_in_words_and_nothing_breaks(gpu):
    with pytest.raises(ArtifactError, match=r"not enough device memory: 1,125,899,906,842,624 bytes needed; free on"):
        gpu.allocate(1 << 50)
    gpu.allocate(256).close()


def test_one_stream_waits_for_another(gpu):
    """The copy on the second stream sees what a slow kernel before it on the first has let through."""
    first, second = gpu.create_stream(), gpu.create_stream()
    values = torch.zeros(SIZE, dtype=torch.uint8, device="cuda")
    seen = gpu.allocate_pinned(SIZE)
    seen.array[:] = 9
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.ExternalStream(first)):
        torch.cuda._sleep(LONG_CYCLES)
        values.fill_(1)
    gpu.wait_for(second, first)
    gpu.copy(seen.pointer, values.data_ptr(), SIZE, second)
    gpu.synchronize(second)
    assert (seen.array == 1).all()
    seen.close()
    gpu.destroy_stream(first)
    gpu.destroy_stream(second)


def test_streams_do_not_wait_for_the_legacy_default_stream_unless_told(gpu):
    stream = gpu.create_stream()
    memory, pinned = gpu.allocate(SIZE), gpu.allocate_pinned(SIZE)
    torch.cuda._sleep(LONG_CYCLES)
    done = torch.cuda.Event()
    done.record()
    gpu.copy(memory.pointer, pinned.pointer, SIZE, stream)
    gpu.synchronize(stream)
    assert not done.query()
    gpu.wait_for(stream, 0)
    gpu.copy(memory.pointer, pinned.pointer, SIZE, stream)
    gpu.synchronize(stream)
    assert done.query()
    memory.close()
    pinned.close()
    gpu.destroy_stream(stream)


def test_a_graph_is_replayed_on_new_contents(gpu):
    memory, source, target = gpu.allocate(SIZE), gpu.allocate_pinned(SIZE), gpu.allocate_pinned(SIZE)
    stream = gpu.create_stream()
    target.array[:] = 0
    capturing = []

    def work() -> None:
        gpu.copy(memory.pointer, source.pointer, SIZE, stream)
        gpu.copy(target.pointer, memory.pointer, SIZE, stream)
        capturing.append(is_capturing(stream))

    graph = gpu.capture(stream, work)
    gpu.synchronize(stream)
    assert capturing == [True]
    assert not is_capturing(stream)
    assert not target.array.any()
    for value in (3, 200):
        source.array[:] = value
        graph.launch(stream)
        gpu.synchronize(stream)
        assert (target.array == value).all()
    graph.close()
    for thing in (memory, source, target):
        thing.close()
    gpu.destroy_stream(stream)


def test_what_cannot_be_captured_is_refused_and_the_stream_lives_on(gpu):
    stream = gpu.create_stream()
    with pytest.raises(ArtifactError, match="CAPTURE"):
        gpu.capture(stream, lambda: gpu.synchronize(stream))

    def fails() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        gpu.capture(stream, fails)
    gpu.synchronize(stream)
    gpu.capture(stream, lambda: None).close()
    gpu.destroy_stream(stream)


def test_threads_capture_and_allocate_at_the_same_time(gpu):
    def work(value: int) -> bool:
        gpu.activate()
        stream = gpu.create_stream()
        good = True
        for round_number in range(50):
            memory, pinned = gpu.allocate(4096), gpu.allocate_pinned(4096)
            pinned.array[:2048], pinned.array[2048:] = value, 0

            def copies(memory: Memory = memory, pinned: PinnedMemory = pinned) -> None:
                gpu.copy(memory.pointer, pinned.pointer, 2048, stream)
                gpu.copy(pinned.pointer + 2048, memory.pointer, 2048, stream)

            graph = gpu.capture(stream, copies)
            graph.launch(stream)
            gpu.synchronize(stream)
            good = good and bool((pinned.array == value).all()) and round_number >= 0
            for thing in (graph, memory, pinned):
                thing.close()
        gpu.destroy_stream(stream)
        return good

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(1, 9)))


def test_many_calls_take_no_memory(gpu):
    first, second = gpu.create_stream(), gpu.create_stream()
    memory, pinned = gpu.allocate(4096), gpu.allocate_pinned(4096)
    graph = gpu.capture(first, lambda: gpu.copy(memory.pointer, pinned.pointer, 4096, first))

    def calls(count: int) -> None:
        for _ in range(count):
            gpu.wait_for(first, second)
            graph.launch(first)
            gpu.wait_for(second, first)
        gpu.synchronize(second)

    calls(100)
    before = gpu.free_bytes()
    calls(10_000)
    assert gpu.free_bytes() == before
    for thing in (graph, memory, pinned):
        thing.close()
    gpu.destroy_stream(first)
    gpu.destroy_stream(second)
