"""What running an engine artifact asks of a GPU: memory, streams, graphs, and deserialised engines.

``cuda_device`` and the modules of ``engines`` implement these protocols on a GPU; tests implement them without one.
Addresses and streams are integers, as in :mod:`frcnn.plugins.cuda.driver`. Every call raises ``ArtifactError`` if CUDA
or an engine's library refuses it or memory is short.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from frcnn.plugins.cuda.driver import Driver

Shape = tuple[int, ...]

LayerReport = Callable[[str, float], None]
"""Takes a layer's name and its time in milliseconds; must not raise."""


class Memory(Protocol):
    """Device memory, aligned to 256 bytes."""

    pointer: int
    size_bytes: int

    def close(self) -> None:
        """Free it; its work must be done."""


class PinnedMemory(Memory, Protocol):
    """Host memory that the GPU copies from and to; ``array`` is its bytes, not to be used after ``close``."""

    array: NDArray[np.uint8]


class Event(Protocol):
    """A point in a stream's work."""

    def record(self, stream: int) -> None:
        """Set it behind the work that is on the stream now."""

    def ms_since(self, earlier: Self) -> float:
        """Return the milliseconds of the device since another event; both streams must be done."""

    def close(self) -> None:
        """Release it; its work must be done."""


class Graph(Protocol):
    """Captured work that is launched as one."""

    def launch(self, stream: int) -> None:
        """Launch it; the launch before must be done."""

    def close(self) -> None:
        """Release it; its work must be done."""


class Device(Protocol):
    """One GPU; ``architecture`` is ``sm_NN``, ``compute_capability`` ``"N.N"``."""

    name: str
    architecture: str
    compute_capability: str

    @property
    def driver(self) -> Driver:
        """Launches kernels on it."""

    def activate(self) -> None:
        """Make its context current on the calling thread; every thread does this before any other call."""

    def free_bytes(self) -> int:
        """Return the bytes of free device memory."""

    def allocate(self, size_bytes: int) -> Memory:
        """Allocate device memory."""

    def allocate_pinned(self, size_bytes: int) -> PinnedMemory:
        """Allocate pinned host memory."""

    def create_stream(self) -> int:
        """Return a new stream, which does not synchronise with the legacy default stream."""

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream of :meth:`create_stream`; its work must be done."""

    def copy(self, destination: int, source: int, size_bytes: int, stream: int) -> None:
        """Enqueue a copy between any two of pinned host memory and device memory."""

    def create_event(self) -> Event:
        """Return an event that measures time."""

    def wait_for(self, stream: int, other: int) -> None:
        """Let later work on ``stream`` wait for the work that is on ``other`` now; 0 is the legacy default stream."""

    def synchronize(self, stream: int) -> None:
        """Wait until a stream's work is done; raise if it failed."""

    def capture(self, stream: int, work: Callable[[], None]) -> Graph:
        """Capture what ``work`` enqueues, without running it; an exception of ``work`` ends the capture."""

    def close(self) -> None:
        """Release the device; memory, graphs and streams were closed before."""


class EngineContext(Protocol):
    """One engine bound to shapes; belongs to one worker. Captured graphs stay valid while it is open."""

    def bind(self, profile: int, input_shapes: Mapping[str, Shape], stream: int) -> Mapping[str, Shape]:
        """Set the profile and the inputs' shapes, once, and return the outputs' shapes.

        Work on other streams than ``stream`` must wait for it before it enqueues.
        """

    @property
    def workspace_bytes(self) -> int:
        """Device memory that the engine needs while it runs with the bound shapes."""

    def enqueue(self, pointers: Mapping[str, int], workspace: int, stream: int) -> None:
        """Put the engine's work on a stream.

        ``pointers`` are the addresses of all inputs and outputs. ``workspace`` is that of ``workspace_bytes`` bytes,
        which engines that run before or after may share.
        """

    def report_layers(self, report: LayerReport) -> None:
        """Report every layer of every later :meth:`enqueue`, which then waits for its work and is slower."""

    def is_capturable(self, stream: int) -> bool:
        """Return whether :meth:`enqueue` may be captured in a graph by this thread; may run the engine once more."""

    def close(self) -> None:
        """Release it; its work must be done."""


class Engine(Protocol):
    """A deserialised engine; several threads may use it."""

    def create_context(self) -> EngineContext:
        """Return a context, without device memory of its own."""

    def close(self) -> None:
        """Release it, after its contexts."""
