"""Arrays and streams of other libraries, seen without a copy: PyCUDA, CuPy, Numba, PyTorch and what speaks DLPack.

Nothing here waits for a stream or makes one wait: the caller orders the work.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from frcnn.errors import KernelError
from frcnn.plugins.cuda.dependencies import import_dlpack_reader
from frcnn.plugins.kernel import Layout

__all__ = ["ALIGNMENT_BYTES", "ArrayView", "check_apart", "stream_handle", "view_of"]

ALIGNMENT_BYTES: Final = 16
"""Kernels load and store up to so many bytes at once."""

_ELEMENT_OF: Final = {"<f4": "float32", "<f2": "float16", "<V2": "bfloat16", "<i4": "int32", "<i8": "int64"}
_COPY: Final = "copy it to the GPU first: tensor.cuda(), cupy.asarray(array) or pycuda.gpuarray.to_gpu(array)"
_LIE: Final = {
    "planar": ("as written (C order)", "tensor.contiguous(), cupy.ascontiguousarray(array)"),
    "channels_last": (
        "channels-last: shape (N, C, H, W) over memory of (N, H, W, C)",
        "tensor.contiguous(memory_format=torch.channels_last), or array.transpose(0, 3, 1, 2) of (N, H, W, C)",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayView:
    """Where an array lies.

    Attributes:
        what: how messages call it.
        pointer: address of its first element; may be 0 when it has none.
        shape: its shape.
        strides: bytes from an element to the next along each dimension.
        element: ``float32``, …; a type that no kernel takes is named as its library names it.
        element_bytes: of one element.
        read_only: whether it must not be written.
        on_device: whether a GPU can reach it at all.
    """

    what: str
    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    element: str
    element_bytes: int
    read_only: bool
    on_device: bool

    @property
    def size_bytes(self) -> int:
        """Bytes of all elements."""
        return math.prod(self.shape) * self.element_bytes

    def check(self, element: str, shape: Sequence[int], layout: Layout = "planar") -> None:
        """Refuse an array that a kernel cannot take as it is.

        Raises:
            KernelError: another element type, shape, layout or kind of memory.
        """
        self.check_memory()
        if self.element != element:
            raise KernelError(f"{self.what} must be {element}, got {self.element}", hint="convert it, or load for it")
        if self.shape != tuple(shape):
            raise KernelError(f"{self.what} must have the shape {tuple(shape)}, got {self.shape}")
        expected = _strides(self.shape, self.element_bytes, layout)
        moved = (a != b for size, a, b in zip(self.shape, self.strides, expected, strict=True) if size > 1)
        if self.size_bytes and any(moved):
            how, fix = _LIE[layout]
            raise KernelError(
                f"{self.what} must lie {how}, so with strides of {expected} bytes, got {self.strides}", hint=fix
            )

    def check_bytes(self, minimum: int) -> None:
        """Refuse an array that is not at least so many bytes in one piece, of whatever element type.

        Raises:
            KernelError: it is smaller, has gaps, or is not memory that a kernel may write.
        """
        self.check_memory()
        self.check_writable()
        if self.size_bytes < minimum:
            raise KernelError(f"{self.what} must have at least {minimum} bytes, got {self.size_bytes}")
        expected = _strides(self.shape, self.element_bytes, "planar")
        if any(a != b for size, a, b in zip(self.shape, self.strides, expected, strict=True) if size > 1):
            raise KernelError(f"{self.what} must lie in one piece, got strides of {self.strides} bytes")

    def check_memory(self) -> None:
        """Refuse memory of the host, and addresses that wide loads cannot take.

        Raises:
            KernelError: it is one of these.
        """
        if not self.on_device:
            raise KernelError(f"{self.what} must lie in device memory, got host memory", hint=_COPY)
        if self.size_bytes and self.pointer % ALIGNMENT_BYTES:
            raise KernelError(
                f"{self.what} must begin at a multiple of {ALIGNMENT_BYTES} bytes, got the address {self.pointer:#x}",
                hint="a slice may begin anywhere: copy it",
            )

    def check_writable(self) -> None:
        """Refuse an array that is read-only.

        Raises:
            KernelError: it is.
        """
        if self.read_only:
            raise KernelError(f"{self.what} is written, got a read-only array")


def view_of(array: Any, what: str) -> ArrayView:
    """Return where an array lies, by ``__cuda_array_interface__`` or else by DLPack.

    Args:
        array: PyCUDA's GPUArray, a CuPy or Numba array, a torch tensor, or anything else of either protocol. Void
            elements of 2 bytes are bfloat16, as ``ml_dtypes`` and PyTorch have it.
        what: how messages call it.

    Raises:
        KernelError: it speaks neither protocol, or refuses to tell.
        MissingDependencyError: it speaks DLPack alone and ``cuda-core`` is not installed, or is older than 1.0.
    """
    try:
        interface = getattr(array, "__cuda_array_interface__", None)
        if interface is not None:
            return _from_interface(interface, what)
        if hasattr(array, "__dlpack__"):
            return _from_dlpack(array, what)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise KernelError(f"{what} cannot be read as an array: {first}") from error
    raise KernelError(
        f"{what} must be an array in device memory, with __cuda_array_interface__ or __dlpack__, got "
        f"{type(array).__name__}",
        hint=_COPY,
    )


def check_apart(views: Sequence[ArrayView], written: int) -> None:
    """Refuse arrays that are written and lie over others.

    Args:
        views: all arrays of a launch.
        written: how many of them, the last ones, are written.

    Raises:
        KernelError: two overlap.
    """
    for i, view in enumerate(views[len(views) - written :], start=len(views) - written):
        for other in views[:i]:
            if view.pointer < other.pointer + other.size_bytes and other.pointer < view.pointer + view.size_bytes:
                raise KernelError(f"{view.what} is written, it must not share memory with {other.what}")


def stream_handle(stream: Any) -> int:
    """Return a stream's CUstream as a number.

    Args:
        stream: a CUstream as an int (0 is the legacy default stream), or a stream of cuda.core, PyTorch, CuPy or
            PyCUDA.

    Raises:
        KernelError: it is none of these; None is not taken for the default stream.
    """
    if isinstance(stream, int) and not isinstance(stream, bool):
        return stream
    if hasattr(stream, "__cuda_stream__"):
        protocol = stream.__cuda_stream__
        _version, handle = protocol() if callable(protocol) else protocol
        return int(handle)
    for attribute in ("cuda_stream", "ptr", "handle"):  # PyTorch, CuPy, PyCUDA
        if hasattr(stream, attribute):
            return int(getattr(stream, attribute))
    raise KernelError(
        f"stream must be a CUDA stream or its handle as an int, got {type(stream).__name__}",
        hint="stream=0 is the legacy default stream; torch.cuda.current_stream() is PyTorch's",
    )


def _from_interface(interface: Mapping[str, Any], what: str) -> ArrayView:
    """Read version 2 or 3 of the CUDA array interface."""
    if interface.get("mask") is not None:
        raise ValueError("it has a mask")
    pointer, read_only = interface["data"]
    typestr: str = interface["typestr"]
    shape = tuple(int(size) for size in interface["shape"])
    element = _ELEMENT_OF.get(typestr, typestr)
    element_bytes = int(typestr[2:])
    strides = interface.get("strides")
    return ArrayView(
        what=what,
        pointer=int(pointer or 0),
        shape=shape,
        strides=_strides(shape, element_bytes, "planar") if strides is None else tuple(int(step) for step in strides),
        element=element,
        element_bytes=element_bytes,
        read_only=bool(read_only),
        on_device=True,
    )


def _from_dlpack(array: Any, what: str) -> ArrayView:
    view = import_dlpack_reader()(array, stream_ptr=-1)  # -1: no stream waits
    element, element_bytes = str(view.dtype), int(view.dtype.itemsize)
    shape = tuple(int(size) for size in view.shape)
    steps = view.strides
    return ArrayView(
        what=what,
        pointer=int(view.ptr),
        shape=shape,
        strides=_strides(shape, element_bytes, "planar")
        if steps is None
        else tuple(int(step) * element_bytes for step in steps),
        element=element,
        element_bytes=element_bytes,
        read_only=bool(view.readonly),
        on_device=bool(view.is_device_accessible),
    )


def _strides(shape: Sequence[int], element_bytes: int, layout: Layout) -> tuple[int, ...]:
    """Return the strides in bytes of an array in one piece; channels-last is of logical (N, C, H, W)."""
    order = list(range(len(shape)))
    if layout == "channels_last":
        order = [0, 2, 3, 1]
    strides, step = [0] * len(shape), element_bytes
    for dimension in reversed(order):
        strides[dimension] = step
        step *= shape[dimension]
    return tuple(strides)
