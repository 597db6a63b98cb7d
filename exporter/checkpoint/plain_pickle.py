"""Stand-ins for what pickles of arrays name, and a reader of pickles that admits arrays and plain containers only.

Nothing that a pickle names is imported or called: each name stands for a class here that only keeps numbers.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import torch

_NUMBER: Final = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")
_DEPTH: Final = 4  # of dictionaries, the arrays in which become tensors


class Inert:
    """Stands for an object that a trainer keeps beside the weights; keeps nothing of it."""

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        """Leave the object's attributes out."""


class NumberType:
    """Stands for ``numpy.dtype``; takes plain numbers only, so neither objects nor records."""

    def __init__(self, name: str, *flags: object) -> None:
        if not isinstance(name, str) or not _NUMBER.fullmatch(name):
            raise pickle.UnpicklingError(f"an array of {name!r:.40}, which are no plain numbers")
        self.numpy = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Take the order of the bytes, which is the second of the state."""
        if state[1] not in "<>|=" or any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError("an array of records, which are no plain numbers")
        self.numpy = self.numpy.newbyteorder(state[1])

    def read(self, data: object, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        """Return an array of exactly the bytes that are there."""
        raw = data.encode("latin1") if isinstance(data, str) else data  # the former of Python 2
        if (
            not isinstance(raw, bytes)
            or len(raw) != math.prod(shape) * self.numpy.itemsize
            or min(shape, default=0) < 0
        ):
            raise pickle.UnpicklingError(f"an array {shape!r:.60} that has not the bytes for it")
        return np.frombuffer(raw, self.numpy).astype(self.numpy.newbyteorder("="))


class Array:
    """Stands for ``numpy.ndarray``; its numbers are those of the state that follows it."""

    numpy: np.ndarray[Any, Any] | None = None

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Take shape, type, order and bytes; as many as the shape says."""
        _version, shape, numbers, is_fortran, data = state
        if not isinstance(numbers, NumberType) or not all(type(length) is int for length in shape):
            raise pickle.UnpicklingError("an array that is no array of numbers")
        self.numpy = numbers.read(data, shape).reshape(shape, order="F" if is_fortran else "C")


def _array(kind: object, *args: object) -> Array:
    if kind is not Array:
        raise pickle.UnpicklingError("an array of a class of its own")
    return Array()


def _number(numbers: object, data: object = None) -> Any:
    if not isinstance(numbers, NumberType):
        raise pickle.UnpicklingError("a NumPy number of an unknown type")
    return numbers.read(data, ())[0]


def _latin(text: str, encoding: str = "") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes as text in {encoding!r:.40}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


class _Dict(dict[object, object]):
    """A dictionary without attributes; the hash of nested tuples would have no end."""

    def __init__(self, *args: object) -> None:
        super().__init__()

    def __setitem__(self, key: object, value: object) -> None:
        if not isinstance(key, (str, bytes, int, float, type(None))):
            raise pickle.UnpicklingError(f"a {type(key).__name__} as key of a dictionary")
        super().__setitem__(key, value)

    def __setstate__(self, state: object) -> None:
        pass


STAND_INS: Final[dict[str, Callable[..., Any]]] = {
    "numpy.ndarray": Array,
    "numpy.dtype": NumberType,
    **{f"numpy.{core}.multiarray._reconstruct": _array for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _number for core in ("core", "_core")},
    **{f"{module}.bytes": _no_bytes for module in ("builtins", "__builtin__")},
    # what MMEngine and MMCV keep beside the weights; the second are the names of a HistoryBuffer's methods
    "mmengine.logging.history_buffer.HistoryBuffer": Inert,
    **{f"{module}.getattr": Inert for module in ("builtins", "__builtin__")},
    **{f"{module}.ConfigDict": Inert for module in ("mmengine.config.config", "mmcv.utils.config")},
}
"""By the name in a pickle, what stands for it."""

_OWN: Final[dict[str, Callable[..., Any]]] = {"collections.OrderedDict": _Dict, "_codecs.encode": _latin}


class RefusedNameError(Exception):
    """A pickle names something that is neither an array nor a plain container; its text is that name."""


class _Bounded:
    """A file of which no more is asked than it has, so that no claim of a pickle takes memory."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._size, self.readline = file, size, file.readline

    def read(self, count: int) -> bytes:
        if count > self._size:
            raise EOFError
        return self._file.read(count)


def _push_dict(unpickler: Any) -> None:
    unpickler.append(_Dict())


def _set_state(unpickler: Any) -> None:
    """Give a state to an object that a stand-in made, and to nothing else: not to a stand-in itself."""
    if not isinstance(unpickler.stack[-2], (Inert, NumberType, Array, _Dict)):
        raise pickle.UnpicklingError(f"a state of a {type(unpickler.stack[-2]).__name__}")
    pickle._Unpickler.dispatch[pickle.BUILD[0]](unpickler)


_DROPPED: Final = (
    *(pickle.BYTEARRAY8, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.INST, pickle.OBJ, pickle.DICT),
    *(pickle.EMPTY_SET, pickle.FROZENSET, pickle.PERSID, pickle.BINPERSID, pickle.NEXT_BUFFER),
)
_DISPATCH: Final = {op: load for op, load in pickle._Unpickler.dispatch.items() if bytes([op]) not in _DROPPED}
_DISPATCH[pickle.EMPTY_DICT[0]] = _push_dict
_DISPATCH[pickle.BUILD[0]] = _set_state


class _Unpickler(pickle._Unpickler):
    """The one in Python: what it keeps of a pickle grows with the pickle only."""

    dispatch = _DISPATCH

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name."""
        full = f"{module}.{name}"
        if full not in STAND_INS and full not in _OWN:
            raise RefusedNameError(full)
        return STAND_INS.get(full) or _OWN[full]


def read_plain_pickle(path: Path) -> object:
    """Read a pickle of arrays, as Detectron2's zoo has them, of Python 2 or 3; arrays in dictionaries become tensors.

    Raises RefusedNameError for anything else that it names, before it is more than a name, and errors of many types for
    a pickle that is damaged or hostile.
    """
    with path.open("rb") as file:
        bounded: Any = _Bounded(file, path.stat().st_size)
        return _with_tensors(_Unpickler(bounded, encoding="latin1").load(), _DEPTH)


def _with_tensors(value: object, depth: int) -> object:
    if isinstance(value, Array) and value.numpy is not None:
        return torch.from_numpy(value.numpy)
    if isinstance(value, _Dict) and depth:
        return {key: _with_tensors(item, depth - 1) for key, item in value.items()}
    return value
