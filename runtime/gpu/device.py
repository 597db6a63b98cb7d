"""What running an engine artifact asks of a GPU: memory, streams, graphs, and deserialised engines.

``cuda_device`` and ``tensorrt_engine`` are the real ones. Whoever runs an artifact knows only these, so that order,
lifetimes and graphs can be tried where there is no GPU. Addresses and streams are integers, as in
:mod:`frcnn.plugins.cuda.driver`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from frcnn.plugins.cuda.driver import Driver

__all__ = ["Device", "Engine", "EngineContext", "Event", "Graph", "LayerReport", "Memory", "PinnedMemory", "Shape"]

Shape = tuple[int, ...]

LayerReport = Callable[[str, float], None]
"""Takes a layer's name and how long it took in milliseconds; must not raise."""


class Memory(Protocol):
    """Device memory, aligned to 256 bytes."""

    pointer: int
    size_bytes: int

    def close(self) -> None:
        """Free it; its work must be done."""


class PinnedMemory(Memory, Protocol):
    """Host memory that the GPU copies from and to without staging.

    Attributes:
        array: (size_bytes,) uint8, the same memory.
    """

    array: NDArray[np.uint8]


class Event(Protocol):
    """A moment in a stream's work."""

    def record(self, stream: int) -> None:
        """Set it behind all that is on the stream now."""

    def ms_since(self, earlier: Self) -> float:
        """Return the milliseconds of the device between two moments; both streams must be done.

        Raises:
            ArtifactError: one was not recorded, or has not come yet.
        """
        ...

    def close(self) -> None:
        """Release it; its work must be done."""


class Graph(Protocol):
    """Captured work that is launched as one."""

    def launch(self, stream: int) -> None:
        """Launch it; a graph must not be launched again before it is done."""

    def close(self) -> None:
        """Release it; its work must be done."""


class Device(Protocol):
    """One GPU.

    Attributes:
        name: the product's name.
        architecture: ``sm_NN``.
        compute_capability: ``"N.N"``.
    """

    name: str
    architecture: str
    compute_capability: str

    @property
    def driver(self) -> Driver:
        """What launches kernels on it."""
        ...

    def activate(self) -> None:
        """Make its context current on the calling thread; every thread does this before anything else here."""

    def free_bytes(self) -> int:
        """Return how much device memory is free."""
        ...

    def allocate(self, size_bytes: int) -> Memory:
        """Allocate device memory.

        Raises:
            ArtifactError: there is not enough.
        """
        ...

    def allocate_pinned(self, size_bytes: int) -> PinnedMemory:
        """Allocate pinned host memory.

        Raises:
            ArtifactError: there is not enough.
        """
        ...

    def create_stream(self) -> int:
        """Return a new stream, which does not synchronise with the legacy default stream."""
        ...

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream that :meth:`create_stream` made; its work must be done."""

    def copy(self, destination: int, source: int, size_bytes: int, stream: int) -> None:
        """Copy between any two of pinned host memory and device memory, in the stream's order."""

    def create_event(self) -> Event:
        """Return an event that measures time."""
        ...

    def wait_for(self, stream: int, other: int) -> None:
        """Let what comes on ``stream`` wait for all that is on ``other`` now; 0 is the legacy default stream."""

    def synchronize(self, stream: int) -> None:
        """Wait until a stream's work is done.

        Raises:
            ArtifactError: the work failed.
        """

    def capture(self, stream: int, work: Callable[[], None]) -> Graph:
        """Capture what ``work`` puts on the stream, without running it.

        An exception of ``work`` ends the capture and is raised.
        """
        ...

    def close(self) -> None:
        """Release the device; nothing of it is used afterwards."""


class EngineContext(Protocol):
    """One engine bound to shapes; belongs to one worker, captured graphs stay valid while it is open."""

    def bind(self, profile: int, input_shapes: Mapping[str, Shape], stream: int) -> Mapping[str, Shape]:
        """Set the profile and the inputs' shapes, once, and return the outputs' shapes.

        Raises:
            ArtifactError: shapes outside the profile.
        """
        ...

    @property
    def workspace_bytes(self) -> int:
        """Device memory that the engine needs while it runs with the bound shapes."""
        ...

    def enqueue(self, pointers: Mapping[str, int], workspace: int, stream: int) -> None:
        """Put the engine's work on a stream.

        Args:
            pointers: address of every input and output by name.
            workspace: address of ``workspace_bytes`` bytes; may be shared with engines that run before or after.
            stream: where.

        Raises:
            ArtifactError: TensorRT refuses.
        """

    def report_layers(self, report: LayerReport) -> None:
        """Report every layer of every :meth:`enqueue` from now on, which then waits for its work and is slower."""

    def is_capturable(self, stream: int) -> bool:
        """Return whether :meth:`enqueue` may be captured in a graph."""
        ...

    def close(self) -> None:
        """Release it; its work must be done."""


class Engine(Protocol):
    """A deserialised engine; may be used from several threads."""

    def create_context(self) -> EngineContext:
        """Return a context, without any device memory of its own."""
        ...

    def close(self) -> None:
        """Release it, after its contexts."""
