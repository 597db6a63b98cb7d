"""Memory whose misuse is detected: an access past its end ends the process, a write beside it is found afterwards."""

from __future__ import annotations

import ctypes
import mmap

import torch
from torch import Tensor

_ALIGNMENT = 16
_GARBAGE = 0xCD
_PROT_NONE = 0
_libc = ctypes.CDLL(None, use_errno=True)


class GuardedTensor:
    """A contiguous tensor between protected pages; without contents it holds garbage that may be overwritten.

    It begins at the page before it, or ends at the page behind it, up to 15 bytes of alignment aside.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: torch.dtype, contents: Tensor | None = None, *, after_page: bool = False
    ) -> None:
        self._contents = contents
        size = torch.Size(shape).numel() * dtype.itemsize
        padded = -(-size // _ALIGNMENT) * _ALIGNMENT
        pages = max(1, -(-padded // mmap.PAGESIZE)) * mmap.PAGESIZE
        self._memory = mmap.mmap(-1, pages + 2 * mmap.PAGESIZE)
        whole = torch.frombuffer(self._memory, dtype=torch.uint8)
        self._bytes = whole[mmap.PAGESIZE : mmap.PAGESIZE + pages]
        self._bytes[:] = _GARBAGE
        self._start = 0 if after_page else pages - padded
        self._end = self._start + size
        self.pointer = self._bytes.data_ptr() + self._start
        flat = self._bytes[self._start : self._end].view(dtype) if size else torch.empty(0, dtype=dtype)
        self._tensor = flat.view(shape)
        if contents is not None:
            self._tensor.copy_(contents)
        for page in (whole.data_ptr(), self._bytes.data_ptr() + pages):
            self._protect(page, mmap.PAGESIZE, _PROT_NONE)

    def freeze(self) -> None:
        self._contents = self._tensor.clone()

    @staticmethod
    def _protect(address: int, size: int, protection: int) -> None:
        if _libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), protection) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")

    def result(self, name: str) -> Tensor:
        """Return a copy; raise AssertionError after a write beside it, or into read-only contents."""
        beside = torch.cat([self._bytes[: self._start], self._bytes[self._end :]])
        assert (beside == _GARBAGE).all(), f"a write beside {name}"
        if self._contents is not None:
            same = self._tensor.reshape(-1).view(torch.uint8), self._contents.reshape(-1).view(torch.uint8)
            assert torch.equal(*same), f"a write into the input {name}"
        return self._tensor.clone()
