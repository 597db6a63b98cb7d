"""Memory that catches kernels: an access past its end ends the process, a write beside it is seen afterwards."""

from __future__ import annotations

import ctypes
import mmap

import torch
from torch import Tensor

__all__ = ["GuardedTensor"]

_ALIGNMENT = 16
_GARBAGE = 0xCD
_PROT_NONE = 0
_libc = ctypes.CDLL(None, use_errno=True)


class GuardedTensor:
    """A contiguous tensor that ends where the process may not read, at most 15 bytes of alignment before that.

    Args:
        shape: its shape, as it lies in memory.
        dtype: its type.
        contents: what it holds and must go on holding; None for garbage that may be overwritten.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, contents: Tensor | None = None) -> None:
        self._contents = contents
        size = torch.Size(shape).numel() * dtype.itemsize
        padded = -(-size // _ALIGNMENT) * _ALIGNMENT
        pages = max(1, -(-padded // mmap.PAGESIZE)) * mmap.PAGESIZE
        self._memory = mmap.mmap(-1, pages + mmap.PAGESIZE)
        self._bytes = torch.frombuffer(self._memory, dtype=torch.uint8)
        self._bytes[:pages] = _GARBAGE
        self._start, self._end, self._pages = pages - padded, pages - padded + size, pages
        address = self._bytes.data_ptr()
        self.pointer = address + self._start
        flat = self._bytes[self._start : self._end].view(dtype) if size else torch.empty(0, dtype=dtype)
        self._tensor = flat.view(shape)
        if contents is not None:
            self._tensor.copy_(contents)
        self._protect(address + pages, mmap.PAGESIZE, _PROT_NONE)

    @staticmethod
    def _protect(address: int, size: int, protection: int) -> None:
        if _libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), protection) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")

    def result(self, name: str) -> Tensor:
        """Return a copy of the tensor.

        Raises:
            AssertionError: something wrote beside it, or into contents that are read only.
        """
        beside = torch.cat([self._bytes[: self._start], self._bytes[self._end : self._pages]])
        assert (beside == _GARBAGE).all(), f"a write beside {name}"
        if self._contents is not None:
            same = self._tensor.reshape(-1).view(torch.uint8), self._contents.reshape(-1).view(torch.uint8)
            assert torch.equal(*same), f"a write into the input {name}"
        return self._tensor.clone()
