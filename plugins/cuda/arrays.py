"""Arrays and streams of PyCUDA, CuPy, Numba, PyTorch and every DLPack library, read without a copy or a wait."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from frcnn.errors import KernelError
from frcnn.plugins.cuda.dependencies import import_core_utility
from frcnn.plugins.kernel import Layout

ALIGNMENT_BYTES: Final = 16
"""Kernels load and store up to this many bytes at once."""

_ELEMENT_OF: Final = {"<f4": "float32", "<f2": "float16", "<V2": "bfloat16", "<i4": "int32", "<i8": "int64"}
_COPY: Final = "copy it to the GPU first: tensor.cuda(), cupy.asarray(array) or pycuda.gpuarray.to_gpu(array)"
_LAYOUTS: Final = {
    "planar": ("as written (C order)", "tensor.contiguous(), cupy.ascontiguousarray(array)"),
    "channels_last": (
        "channels-last: shape (N, C, H, W) over memory of (N, H, W, C)",
        "tensor.contiguous(memory_format=torch.channels_last), or array.transpose(0, 3, 1, 2) of (N, H, W, C)",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayView:
    """Location and layout of an array; strides are in bytes, and ``what`` is its name in messages.

    The pointer may be 0 when there are no elements. An element type that no kernel takes has its library's name.
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
        """Raise KernelError unless the array has this element type, shape and layout, in aligned device memory."""
        self.check_memory()
        if self.element != element:
            raise KernelError(f"{self.what} must be {element}, got {self.element}", hint="convert it, or load for it")
        if self.shape != tuple(shape):
            raise KernelError(f"{self.what} must have the shape {tuple(shape)}, got {self.shape}")
        if not self._is_contiguous(layout):
            how, fix = _LAYOUTS[layout]
            expected = _strides(self.shape, self.element_bytes, layout)
            raise KernelError(
                f"{self.what} must lie {how}, so with strides of {expected} bytes, got {self.strides}", hint=fix
            )

    def check_bytes(self, minimum: int) -> None:
        """Raise KernelError unless the array is writable device memory in one piece, at least ``minimum`` bytes."""
        self.check_memory()
        self.check_writable()
        if self.size_bytes < minimum:
            raise KernelError(f"{self.what} must have at least {minimum} bytes, got {self.size_bytes}")
        if not self._is_contiguous("planar"):
            raise KernelError(f"{self.what} must lie in one piece, got strides of {self.strides} bytes")

    def check_memory(self) -> None:
        """Raise KernelError for host memory, and for addresses that wide loads cannot take."""
        if not self.on_device:
            raise KernelError(f"{self.what} must lie in device memory, got host memory", hint=_COPY)
        if self.size_bytes and self.pointer % ALIGNMENT_BYTES:
            raise KernelError(
                f"{self.what} must begin at a multiple of {ALIGNMENT_BYTES} bytes, got the address {self.pointer:#x}",
                hint="a slice may begin anywhere: copy it",
            )

    def check_writable(self) -> None:
        """Raise KernelError for an array that is read-only."""
        if self.read_only:
            raise KernelError(f"{self.what} is written, got a read-only array")

    def _is_contiguous(self, layout: Layout) -> bool:
        expected = _strides(self.shape, self.element_bytes, layout)
        sizes = zip(self.shape, self.strides, expected, strict=True)
        return self.size_bytes == 0 or all(found == wanted for size, found, wanted in sizes if size > 1)


def view_of(array: Any, what: str) -> ArrayView:
    """Return a view of an array, ``what`` in messages, that has ``__cuda_array_interface__`` or else DLPack.

    Void elements of 2 bytes are bfloat16, as in ``ml_dtypes`` and PyTorch. Raises KernelError for an array that has
    neither protocol or cannot be exported, and MissingDependencyError for DLPack without ``cuda-core`` 1.0 or later.
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
    """Raise KernelError where one of the last ``written`` arrays of a launch overlaps another."""
    for i, view in enumerate(views[len(views) - written :], start=len(views) - written):
        for other in views[:i]:
            if view.pointer < other.pointer + other.size_bytes and other.pointer < view.pointer + view.size_bytes:
                raise KernelError(f"{view.what} is written, it must not share memory with {other.what}")


def stream_handle(stream: Any) -> int:
    """Return the CUstream of a stream of cuda.core, PyTorch, CuPy or PyCUDA, or given as an int, as an int.

    0 is the legacy default stream; None does not mean it, and raises KernelError as everything else does.
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
    """Read version 2 or 3 of the CUDA array interface; PyCUDA's arrays have version 2, which cuda.core refuses."""
    if interface.get("mask") is not None:
        raise ValueError("it has a mask")
    pointer, read_only = interface["data"]
    typestr: str = interface["typestr"]
    shape, element_bytes = tuple(map(int, interface["shape"])), int(typestr[2:])
    strides = interface.get("strides")
    return ArrayView(
        what=what,
        pointer=int(pointer or 0),
        shape=shape,
        strides=_strides(shape, element_bytes, "planar") if strides is None else tuple(map(int, strides)),
        element=_ELEMENT_OF.get(typestr, typestr),
        element_bytes=element_bytes,
        read_only=bool(read_only),
        on_device=True,
    )


def _from_dlpack(array: Any, what: str) -> ArrayView:
    read = import_core_utility("StridedMemoryView.from_dlpack", why="reading arrays by DLPack")
    view = read(array, stream_ptr=-1)  # -1: no stream waits
    shape, size = tuple(map(int, view.shape)), int(view.dtype.itemsize)
    return ArrayView(
        what=what,
        pointer=int(view.ptr),
        shape=shape,
        strides=_strides(shape, size, "planar") if view.strides is None else tuple(int(s) * size for s in view.strides),
        element=str(view.dtype),
        element_bytes=size,
        read_only=bool(view.readonly),
        on_device=bool(view.is_device_accessible),
    )


def _strides(shape: Sequence[int], element_bytes: int, layout: Layout) -> tuple[int, ...]:
    """Return the strides in bytes of an array in one piece; channels-last is of logical (N, C, H, W)."""
    order = [0, 2, 3, 1] if layout == "channels_last" else range(len(shape))
    strides, step = [0] * len(shape), element_bytes
    for dimension in reversed(order):
        strides[dimension] = step
        step *= shape[dimension]
    return tuple(strides)
