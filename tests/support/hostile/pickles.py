"""Pickles that run code when they are unpickled, each by another way in."""

from __future__ import annotations

import io
import pickle
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any, Final

import torch

HARMLESS: Final[Any] = {"args": Namespace(lr=0.1, out=Path("x")), "epoch": 3, "names": ["a", "b"], "best": 0.5}
"""What training scripts keep beside the weights."""


class _Call:
    def __init__(self, function: str, *arguments: Any) -> None:
        self._function = function
        self._arguments = arguments

    def __reduce__(self) -> Any:
        return _Named(self._function), self._arguments


class _Named:
    """Pickles as a global, whether or not there is one of that name."""

    def __init__(self, name: str) -> None:
        self.name = name


class _Pickler(pickle._Pickler):  # the one in Python, which lets a global be written by name
    def save(self, value: Any, save_persistent_id: bool = True) -> None:
        if isinstance(value, _Named):
            module, _, name = value.name.rpartition(".")
            self.write(f"c{module}\n{name}\n".encode())
        elif isinstance(value, _Call):
            function, arguments = value.__reduce__()
            self.save(function)
            self.save(arguments)
            self.write(pickle.REDUCE)
        else:
            super().save(value, save_persistent_id)


def _pickled(value: Any) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue()


def runs_code(command: str = "true", python: str = "pass") -> dict[str, bytes]:
    """Return pickles by name; unpickled without restraint, each runs the shell command or the line of Python."""
    code = f"__import__('os').system({command!r})"
    calls: dict[str, Any] = {
        "os.system": _Call("os.system", command),
        "posix.system": _Call("posix.system", command),
        "subprocess.Popen": _Call("subprocess.Popen", ["sh", "-c", command]),
        "subprocess.getoutput": _Call("subprocess.getoutput", command),
        "builtins.eval": _Call("builtins.eval", code),
        "builtins.exec": _Call("builtins.exec", python),
        "__builtin__.eval, as Python 2 wrote it": _Call("__builtin__.eval", code),
        "getattr of a module": _Call(
            "builtins.eval", "0", _Call("builtins.getattr", _Call("builtins.__import__", "os"), "system")
        ),
        "runpy": _Call("runpy._run_code", python, {}),
        "timeit": _Call("timeit.timeit", python),
        "pty.spawn": _Call("pty.spawn", ["sh", "-c", command]),
        "functools.partial": _Call("functools.partial", _Named("os.system"), command),
        "importlib": _Call("importlib.import_module", "antigravity"),
        "marshal": _Call("marshal.loads", b"\xe3"),
        "open for writing": _Call("builtins.open", "written-by-a-pickle", "w"),
        "io.open for writing": _Call("io.open", "written-by-a-pickle", "w"),
        "shutil.rmtree": _Call("shutil.rmtree", "nothing-there"),
        "webbrowser": _Call("webbrowser.open", "http://localhost"),
        "torch.load, of another file without restraint": _Call("torch.load", "other.pth"),
        "torch.hub.load": _Call("torch.hub.load", "someone/thing", "model"),
        "torch.package": _Call("torch.package.PackageImporter", "other.pt"),
        "numpy.load": _Call("numpy.load", "other.npy", None, True),
        "numpy.lib.npyio": _Call("numpy.f2py.compile", "end"),
        "joblib": _Call("joblib.load", "other.pkl"),
        "a class by name": _Named("subprocess.Popen"),
    }
    wrapped = {f"{name}, beside weights": {"model": {"roi_heads.x": 1}, "epoch": call} for name, call in calls.items()}
    return {name: _pickled(value) for name, value in (calls | wrapped).items()}


def in_torch_zip(data: bytes) -> bytes:
    buffer = io.BytesIO()
    torch.save({}, buffer)
    packed = io.BytesIO()
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(packed, "w") as new:
        for name in old.namelist():
            new.writestr(name, data if name.endswith("data.pkl") else old.read(name))
    return packed.getvalue()
