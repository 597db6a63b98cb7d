"""Build a live model from ``--arch``: find the builder and call it, with errors of one line."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from frcnn.errors import CheckpointError, FrcnnError, UsageError, did_you_mean, one_line
from frcnn.exporter.checkpoint.architectures import ARCHITECTURES, Builder
from frcnn.exporter.checkpoint.builder_arguments import ARCHITECTURE, check_values, refuse_unknown
from frcnn.exporter.model.supported import inner_detector


def resolve_builder(arch: str) -> Builder:
    """Return the builder that ``--arch`` names.

    ``arch`` is a name in ``ARCHITECTURES``, ``pkg.module:function`` (also searched in the current folder) or
    ``path/to/file.py:function``. Raises UsageError if there is none, CheckpointError if its import fails.
    """
    if arch in ARCHITECTURES:
        return ARCHITECTURES[arch]
    where, colon, name = arch.rpartition(":")
    if not colon or not where or not name.isidentifier():
        raise ARCHITECTURE.error(arch)
    if where.endswith(".py"):
        path = Path(where)
        if not path.is_file():
            raise UsageError(f"--arch {arch}: there is no file {where}", hint=ARCHITECTURE.more)
        folder = path.resolve().parent
        module = _import(arch, where, lambda: _module_of_file(path), folder)
    else:
        folder = Path.cwd()
        module = _import(arch, where, lambda: importlib.import_module(where), folder)
    function = getattr(module, name, None)
    if not callable(function):
        functions = [n for n, v in vars(module).items() if inspect.isfunction(v) and not n.startswith("_")]
        raise UsageError(
            f"--arch {arch}: {where} has no function {name!r}",
            hint=did_you_mean(
                name, functions, f"it has {', '.join(functions)}" if functions else "it has no functions at all"
            ),
        )
    return _calling_from(function, folder)


def _import(arch: str, where: str, load: Callable[[], ModuleType], folder: Path) -> ModuleType:
    try:
        with importable(folder):
            return load()
    except ModuleNotFoundError as error:
        if error.name and (where == error.name or where.startswith(f"{error.name}.")):
            raise UsageError(f"--arch {arch}: there is no module {error.name!r}", hint=ARCHITECTURE.more) from error
        raise CheckpointError(f"--arch {arch}: {where} needs the module {error.name!r}", hint="install it") from error
    except (Exception, SystemExit) as error:
        raise CheckpointError(
            f"--arch {arch}: importing {where} failed: {type_and_text(error)}", hint="--debug shows the traceback"
        ) from error


def _module_of_file(path: Path) -> ModuleType:
    name = f"_frcnn_arch_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up their module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Make modules of ``folder`` importable inside the block, as for a script in it."""
    entry = str(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)


def _calling_from(function: Builder, folder: Path) -> Builder:
    """Keep ``folder`` importable while the builder runs, for imports inside the function."""

    @functools.wraps(function)
    def build(*args: Any, **kwargs: Any) -> FasterRCNN:
        with importable(folder):
            return function(*args, **kwargs)

    return build


def accepted_arguments(builder: Builder) -> frozenset[str] | None:
    """Return the names of a builder's keywords; None if it accepts any (``**kwargs``) or has no signature."""
    if builder in ARCHITECTURES.values():
        names: set[str] = set()
        for function in (builder, FasterRCNN.__init__, GeneralizedRCNNTransform.__init__):
            names.update(inspect.signature(function).parameters)
        return frozenset(names - {"self", "kwargs", "backbone"})
    try:
        parameters = inspect.signature(builder).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return frozenset(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))


def build_model(
    arch: str, builder: Builder, *, num_classes: int | None, args: Mapping[str, object], device: str = "cpu"
) -> FasterRCNN:
    """Call a builder, without changing the state of torch's random number generator.

    ``num_classes`` is passed on if the builder accepts it and ``args`` does not have it; the device ``"meta"`` makes
    shapes only. Raises UsageError for arguments, and CheckpointError if the builder fails or returns something else.
    """
    accepted = accepted_arguments(builder)
    if accepted is not None:
        refuse_unknown(args, accepted, builder=arch)
    if builder in ARCHITECTURES.values():
        check_values(args)
    keywords = dict(args)
    if num_classes is not None and (accepted is None or "num_classes" in accepted):
        keywords.setdefault("num_classes", num_classes)
    try:
        with torch.random.fork_rng(devices=[]), torch.device(device), _strict_transform():
            model: object = builder(**keywords)
    except FrcnnError:
        raise
    except TypeError as error:
        unexpected = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unexpected and unexpected[1] in keywords:
            raise UsageError(
                f"{arch} takes no argument {unexpected[1]!r}: {type_and_text(error)}",
                hint="--debug shows the traceback",
            ) from error
        raise _failed(arch, error) from error
    except (Exception, SystemExit) as error:
        raise _failed(arch, error) from error
    if not isinstance(model, FasterRCNN):
        raise CheckpointError(
            f"{arch} returned a {type(model).__module__}.{type(model).__qualname__}, expected a torchvision FasterRCNN",
            hint=inner_detector(model) or "return the model itself, torchvision.models.detection.FasterRCNN(...)",
        )
    return model


@contextmanager
def _strict_transform() -> Iterator[None]:
    """Refuse arguments that ``GeneralizedRCNNTransform``, to which ``FasterRCNN`` passes unknown ones, would ignore."""
    original = GeneralizedRCNNTransform.__init__
    known = inspect.signature(original).parameters.keys() | {"_skip_resize"}

    @functools.wraps(original)
    def strict(self: GeneralizedRCNNTransform, *args: Any, **kwargs: Any) -> None:
        for name in kwargs.keys() - known:
            raise TypeError(f"FasterRCNN got an unexpected keyword argument {name!r}")
        original(self, *args, **kwargs)

    GeneralizedRCNNTransform.__init__ = strict
    try:
        yield
    finally:
        GeneralizedRCNNTransform.__init__ = original


def _failed(arch: str, error: BaseException) -> CheckpointError:
    return CheckpointError(f"{arch} failed: {type_and_text(error)}", hint="check --arg; --debug shows the traceback")


def type_and_text(error: BaseException) -> str:
    """Return the type and the text of an error, short enough for a message."""
    name, text = type(error).__name__, one_line(error)
    return name if text == name else f"{name}: {text}"
