"""A fake GPU: memory of this process, streams that run when something waits for them, and checks of every call.

Work runs in order when something waits for its stream, so that a missing wait or an output read too early is
detected: memory that a copy will write holds garbage until then. Addresses are those of this process, and what a piece
of work touches must be alive when it runs. Freed memory is filled with garbage and never used again, so no address
means two things. Any call can be made to fail, and any piece of work.
"""

from __future__ import annotations

import ctypes
import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from frcnn.errors import ArtifactError, KernelError
from frcnn.plugins.cuda.compiler import fingerprint
from frcnn.plugins.kernel import ELEMENT_BYTES, Kernel, Launch
from support.simt import launch_on_host

_NEVER_WRITTEN, _NOT_YET, _FREED, _GUARD = 0xCD, 0xA5, 0xDD, 0xAB
_ALIGNMENT = 256


class MisuseError(AssertionError):
    """A call that gives garbage on a real device, now or later."""


@dataclass(eq=False)
class _Allocation:
    kind: str
    pointer: int
    size_bytes: int
    bytes: np.ndarray
    alive: bool = True
    is_ours: bool = True


@dataclass(frozen=True, eq=False)
class Work:
    """A piece of work: what it does, and the memory that it touches."""

    name: str
    run: Callable[[], None]
    touches: tuple[tuple[int, int], ...]
    pinned_results: tuple[tuple[int, int], ...] = ()


class _Stream:
    def __init__(self, done: int = 0) -> None:
        self.queue: deque[Work] = deque()
        self.put = done
        self.done = done


class FakeMemory:
    def __init__(self, device: FakeDevice, allocation: _Allocation) -> None:
        self._device = device
        self._allocation = allocation
        self.pointer = allocation.pointer
        self.size_bytes = allocation.size_bytes
        self.array = allocation.bytes

    def close(self) -> None:
        with self._device.calling("free", needs_context=False):
            self._device.free(self._allocation)


class FakeGraph:
    def __init__(self, device: FakeDevice, works: list[Work]) -> None:
        self._device = device
        self.works = works
        self.in_flight = False
        self.is_open = True

    def launch(self, stream: int) -> None:
        with self._device.calling("graph launch"):
            if not self.is_open or self.in_flight:
                raise self._device.misused("a graph launched that is closed or not done")
            self.in_flight = True
            last = Work("graph done", lambda: setattr(self, "in_flight", False), ())
            for work in (*self.works, last):
                self._device.put(stream, work)

    def close(self) -> None:
        with self._device.calling("graph close", needs_context=False):
            if self.in_flight or not self.is_open:
                raise self._device.misused("a graph closed that is not done, or closed already")
            self.is_open = False
            self._device.open_graphs -= 1


class FakeEvent:
    """A moment of the device's own clock, which only work moves on; see ``FakeDevice.durations_ms``."""

    def __init__(self, device: FakeDevice) -> None:
        self._device = device
        self._at: float | None = None
        self._is_open = True
        device.open_events += 1

    def record(self, stream: int) -> None:
        with self._device.calling("event record"):
            if not self._is_open:
                raise self._device.misused("an event recorded after it was closed")
            self._at = None
            self._device.put(stream, Work("event", self._come, ()))

    def ms_since(self, earlier: FakeEvent) -> float:
        with self._device.calling("event time"):
            if self._at is None or earlier._at is None:
                raise self._device.misused("the time of an event that has not come")
            return self._at - earlier._at

    def close(self) -> None:
        with self._device.calling("event close", needs_context=False):
            if not self._is_open:
                raise self._device.misused("an event closed twice")
            self._is_open = False
            self._device.open_events -= 1

    def _come(self) -> None:
        self._at = self._device.clock_ms


class FakeDriver:
    """Launches kernels through the SIMT shim, when their stream runs."""

    def __init__(self, device: FakeDevice) -> None:
        self._device = device
        self.loaded: list[str] = []

    def architecture(self) -> str:
        return self._device.architecture

    def is_reachable(self, pointer: int) -> bool:
        with self._device.calling("is_reachable"):
            return any(a.pointer <= pointer < a.pointer + a.size_bytes for a in self._device.living("device"))

    def load(self, kernel: Kernel, code: bytes) -> Kernel:
        with self._device.calling("load", error=KernelError):
            if code not in (code_of(kernel, self._device.architecture), code_of(kernel, "compute_75")):
                raise KernelError(f"{kernel.entry}: not its code")
            self.loaded.append(code.decode())
            return kernel

    def launch(self, handle: Kernel, launch: Launch, pointers: Sequence[int], stream: int) -> None:
        with self._device.calling("launch", error=KernelError):
            sizes = [1] * len(handle.inputs)
            for tensor, shape in zip(handle.outputs, launch.output_shapes, strict=True):
                sizes.append(math.prod(shape) * ELEMENT_BYTES[tensor.element])

            def run() -> None:
                if handle.entry == "preprocess":
                    self._check_images(pointers[0], launch.grid[2])
                launch_on_host(handle, launch, pointers)

            self._device.put(stream, Work(handle.entry, run, tuple(zip(pointers, sizes, strict=True))))

    def _check_images(self, table: int, count: int) -> None:
        """Find every byte of every image in living memory."""
        rows = np.frombuffer((ctypes.c_char * (count * 64)).from_address(table), np.int64).reshape(count, 8)
        for pixels, height, width, *strides, _, _ in rows.tolist():
            steps = [(n - 1) * stride for n, stride in zip((height, width, 3), strides, strict=True)]
            low, high = sum(min(0, step) for step in steps), sum(max(0, step) for step in steps)
            self._device.check((pixels + low, high - low + 1), "device")


class FakeDevice:
    """See the module; one lock makes it one at a time. An idle one forgets work, to measure what the host does.

    ``fail_at`` and ``fail_work_at`` say which call and which piece of work, counted from 1, fails; ``durations_ms`` how
    long work of a name takes by the device's own clock. ``misuses`` collects everything that was done wrong, also
    where the caller swallowed the exception.
    """

    name = "Fake GPU"
    index = 0
    is_primary_context = True

    def __init__(self, *, architecture: str = "sm_89", idle: bool = False) -> None:
        self.architecture = architecture
        self.compute_capability = f"{architecture[3:-1]}.{architecture[-1]}"
        self.driver = FakeDriver(self)
        self.calls: Counter[str] = Counter()
        self.fail_at: int | None = None
        self.fail_work_at: int | None = None
        self.works_done = 0
        self.misuses: list[str] = []
        self.open_graphs = self.open_contexts = self.open_engines = self.open_events = 0
        self.durations_ms: dict[str, float] = {}
        self.clock_ms = 0.0
        self.is_open = True
        self.idle = idle
        self._fails_next = ""
        self.lock = threading.RLock()
        self._active = threading.local()
        self._allocations: list[_Allocation] = []
        self._streams: dict[int, _Stream] = {0: _Stream()}
        self._next_stream = 1000
        self._own_streams = 0
        self._capturing: dict[int, list[Work]] = {}

    # what the runtime calls

    def activate(self) -> None:
        with self.calling("activate", needs_context=False):
            self._active.yes = True

    def free_bytes(self) -> int:
        return 1 << 34

    def allocate(self, size_bytes: int) -> FakeMemory:
        with self.calling("allocate"):
            return FakeMemory(self, self._allocate("device", size_bytes))

    def allocate_pinned(self, size_bytes: int) -> FakeMemory:
        with self.calling("allocate_pinned"):
            return FakeMemory(self, self._allocate("pinned", size_bytes))

    def create_stream(self) -> int:
        with self.calling("create_stream"):
            self._own_streams += 1
            return self.caller_stream()

    def destroy_stream(self, stream: int) -> None:
        with self.calling("destroy_stream", needs_context=False):
            if self._streams[stream].queue:
                raise self.misused("a stream destroyed before its work was done")
            del self._streams[stream]
            self._own_streams -= 1

    def copy(self, destination: int, source: int, size_bytes: int, stream: int) -> None:
        with self.calling("copy"):
            touches = ((destination, size_bytes), (source, size_bytes))
            kinds = [self.check(place).kind for place in touches]
            results = touches[:1] if kinds[0] == "pinned" else ()
            work = Work("copy", lambda: _memmove(destination, source, size_bytes), touches, results)
            self.put(stream, work)

    def create_event(self) -> FakeEvent:
        with self.calling("create_event"):
            return FakeEvent(self)

    def wait_for(self, stream: int, other: int) -> None:
        with self.calling("wait_for"):
            if stream in self._capturing:
                raise self.misused("a wait in a capture")
            until = self._streams[other].put
            self.put(stream, Work("wait", lambda: self._run(other, until), ()))

    def synchronize(self, stream: int) -> None:
        with self.calling("synchronize"):
            if stream in self._capturing:
                raise self.misused("a wait in a capture")
            self._run(stream, self._streams[stream].put)

    def capture(self, stream: int, work: Callable[[], None]) -> FakeGraph:
        with self.calling("capture"):
            self._capturing[stream] = []
            try:
                work()
                self.open_graphs += 1
                return FakeGraph(self, self._capturing[stream])
            finally:
                del self._capturing[stream]

    def close(self) -> None:
        with self.calling("close", needs_context=False):
            self.is_open = False

    # what engines and tests call

    @contextmanager
    def calling(
        self, name: str, *, needs_context: bool = True, error: type[Exception] = ArtifactError
    ) -> Iterator[None]:
        """Count a call, check that it may be made here and now, and let it fail if it is its turn."""
        with self.lock:
            self.calls[name] += 1
            if not self.is_open:
                raise self.misused(f"{name} after the device was closed")
            if needs_context and not getattr(self._active, "yes", False):
                raise self.misused(f"{name} on a thread where the device is not active")
            if self.calls.total() == self.fail_at or name == self._fails_next:
                self._fails_next = ""
                raise error(f"injected: {name} fails")
            yield

    def fail_next(self, name: str) -> None:
        self._fails_next = name

    def misused(self, what: str) -> MisuseError:
        self.misuses.append(what)
        return MisuseError(what)

    def put(self, stream: int, work: Work) -> None:
        """Put work on a stream, or into the graph that is captured there."""
        if stream not in self._streams:
            raise self.misused(f"{work.name} on a unknown stream")
        if stream in self._capturing:
            self._capturing[stream].append(work)
            return
        if self.idle:
            return
        for place in work.pinned_results:
            self.check(place, "pinned")
            ctypes.memset(place[0], _NOT_YET, place[1])
        queue = self._streams[stream]
        queue.queue.append(work)
        queue.put += 1

    def is_capturing(self, stream: int) -> bool:
        return stream in self._capturing

    def caller_stream(self) -> int:
        """Return a stream of somebody else."""
        self._next_stream += 1
        self._streams[self._next_stream] = _Stream()
        return self._next_stream

    def later(self, stream: int, run: Callable[[], None]) -> None:
        """Put somebody else's work on a stream."""
        with self.lock:
            self.put(stream, Work("caller's", run, ()))

    def run_all(self, stream: int) -> None:
        """Wait for a stream, as somebody else would."""
        with self.lock:
            self._run(stream, self._streams[stream].put)

    def array(self, contents: np.ndarray, **interface: Any) -> DeviceArray:
        """Return an array of somebody else in device memory."""
        with self.lock:
            allocation = self._allocate("device", max(1, contents.nbytes))
            allocation.is_ours = False
        there = allocation.bytes[: contents.nbytes].view(contents.dtype).reshape(contents.shape)
        there[...] = contents
        return DeviceArray(there, **interface)

    def read(self, pointer: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Return what lies in memory now."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        self.check((pointer, size))
        return np.frombuffer((ctypes.c_char * size).from_address(pointer), dtype).reshape(shape).copy()

    def check(self, place: tuple[int, int], kind: str | None = None) -> _Allocation:
        """Find a range in one living piece of memory."""
        start, size = place
        for found in self._allocations:
            if found.pointer <= start and start + size <= found.pointer + found.size_bytes:
                if not found.alive:
                    raise self.misused(f"use of {found.kind} memory after it was freed")
                if kind is not None and found.kind != kind:
                    raise self.misused(f"expected {kind} memory, got {found.kind}")
                return found
        raise self.misused(f"{size} bytes at {start:#x} are not in any one piece of memory")

    def living(self, kind: str) -> list[_Allocation]:
        return [found for found in self._allocations if found.alive and found.kind == kind]

    def free(self, allocation: _Allocation) -> None:
        if not allocation.alive:
            raise self.misused("freed twice")
        start, end = allocation.pointer, allocation.pointer + allocation.size_bytes
        for stream in self._streams.values():
            for work in stream.queue:
                if any(start < at + size and at < end for at, size in work.touches):
                    raise self.misused(f"{allocation.kind} memory freed before {work.name} was done")
        guard = (ctypes.c_uint8 * _ALIGNMENT).from_address(end)
        if set(guard) != {_GUARD}:
            raise self.misused("a write past the end of memory")
        allocation.alive = False
        allocation.bytes[:] = _FREED

    def left_open(self) -> dict[str, int]:
        """Return what was not released, by kind; arrays of somebody else are not counted."""
        left = {kind: sum(found.is_ours for found in self.living(kind)) for kind in ("device", "pinned")}
        left |= {"streams": self._own_streams, "graphs": self.open_graphs, "events": self.open_events}
        left |= {"contexts": self.open_contexts, "engines": self.open_engines, "devices": int(self.is_open)}
        return {kind: count for kind, count in left.items() if count}

    def _allocate(self, kind: str, size_bytes: int) -> _Allocation:
        if size_bytes < 1 or self._capturing:
            raise self.misused(f"{size_bytes} bytes allocated, or in a capture")
        whole = np.full(size_bytes + 3 * _ALIGNMENT, _GUARD, np.uint8)
        start = -whole.ctypes.data % _ALIGNMENT
        there = whole[start : start + size_bytes]
        there[:] = _NEVER_WRITTEN
        allocation = _Allocation(kind, there.ctypes.data, size_bytes, there)
        self._allocations.append(allocation)
        return allocation

    def _run(self, stream: int, until: int) -> None:
        queue = self._streams.get(stream, _Stream(done=until))  # one that is destroyed was done
        while queue.done < until:
            work = queue.queue.popleft()
            queue.done += 1
            self.works_done += 1
            if self.works_done == self.fail_work_at:
                queue.done += len(queue.queue)
                for dropped in (work, *queue.queue):
                    if dropped.name == "graph done":
                        dropped.run()
                queue.queue.clear()
                raise ArtifactError(f"injected: {work.name} failed while it ran")
            for place in work.touches:
                self.check(place)
            self.clock_ms += self.durations_ms.get(work.name, 0.0)
            work.run()


class DeviceArray:
    """An array of another library, with the interface of PyCUDA's and CuPy's."""

    def __init__(self, array: np.ndarray, **interface: Any) -> None:
        self.array = array
        self.interface = interface

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.array.shape,
            "typestr": self.array.dtype.str,
            "data": (self.array.__array_interface__["data"][0], False),
            "strides": self.array.strides,
            "version": 3,
            **self.interface,
        }

    def __getitem__(self, index: Any) -> DeviceArray:
        return DeviceArray(self.array[index], **self.interface)


def code_of(kernel: Kernel, architecture: str) -> bytes:
    """Return what stands for a kernel's compiled code."""
    return f"{kernel.entry} {fingerprint(kernel)} {architecture}".encode()


def _memmove(destination: int, source: int, size_bytes: int) -> None:
    ctypes.memmove(destination, source, size_bytes)
