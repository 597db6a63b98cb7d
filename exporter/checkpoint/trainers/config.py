"""Read a trainer's configuration as plain data: Detectron2's YAML, MMDetection's Python. Nothing in it is run."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeAlias

from frcnn.errors import CheckpointError, UsageError, one_line
from frcnn.files import read_small_text
from frcnn.packages import import_package

Config: TypeAlias = dict[str, Any]

_LARGEST_BYTES: Final = 1 << 22
_DEEPEST: Final = 16  # of files that are based on another
_DUMPED: Final = "give the configuration that the trainer wrote beside its checkpoints, which has no code in it"


def read_config(path: Path) -> Config:
    """Read a configuration with the files that it is based on, as plain values.

    ``.yaml`` and ``.yml`` are Detectron2's, ``.py`` is MMDetection's. Raises UsageError for a file that cannot be read,
    CheckpointError for one that is not plain values, and MissingDependencyError without PyYAML for YAML.
    """
    return _with_bases(path, ())


def _with_bases(path: Path, above: tuple[Path, ...]) -> Config:
    if path.resolve() in above or len(above) == _DEEPEST:
        raise CheckpointError(f"--config: {path} is based on itself, or on too many files", hint=_DUMPED)
    text = read_small_text(path, option="--config", what="a configuration", limit=_LARGEST_BYTES, hint=_DUMPED)
    parsers: dict[str, tuple[Callable[..., Config], str]] = {
        ".py": (read_python_config, "_base_"),
        ".yaml": (read_yaml_config, "_BASE_"),
        ".yml": (read_yaml_config, "_BASE_"),
    }
    if path.suffix not in parsers:
        raise UsageError(f"--config: expected a .yaml or a .py file, got {path}", hint=_DUMPED)
    parse, base_key = parsers[path.suffix]

    def base(named: object) -> Config:
        config: Config = {}
        for name in named if isinstance(named, (list, tuple)) else [named]:
            if not isinstance(name, str) or ":" in name:
                raise CheckpointError(f"{path}: {base_key} {name!r} is no file beside it", hint=_DUMPED)
            config = merged(config, _with_bases(path.parent / Path(name).expanduser(), (*above, path.resolve())))
        return config

    return parse(text, source=str(path), base=base)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> Config:
    """Return ``base`` with the values of ``over``; dictionaries are merged, unless they say ``_delete_=True``."""
    result = dict(base)
    for key, value in over.items():
        if isinstance(value, dict):
            below = result.get(key)
            keep = isinstance(below, dict) and not value.get("_delete_", False)
            value = merged(below if keep and below else {}, {k: v for k, v in value.items() if k != "_delete_"})
        result[key] = value
    return result


def _no_base(named: object) -> Config:
    raise CheckpointError(f"a configuration is based on {named!r}, which is not in it", hint=_DUMPED)


def read_python_config(text: str, *, source: str, base: Callable[[object], Config] = _no_base) -> Config:
    """Return the assignments of MMDetection's configuration: literals, ``dict(...)``, sums and names assigned before.

    The text is parsed and never run; anything else in it is a CheckpointError with its line. ``base`` reads what it is
    based on (``_base_``).
    """
    names: Config = {}
    below: Config = {}
    try:
        for statement in ast.parse(text).body:
            match statement:
                case ast.Assign(targets=[ast.Name(id="_base_")], value=value):
                    below = base(_value(value, names))
                    names["_base_"] = below
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    names[name] = _value(value, names)
                case ast.Assign(targets=[ast.Attribute() | ast.Subscript() as target], value=value) if below:
                    found, key = _part(target, names)
                    found[key] = _value(value, names)
                case ast.Expr(value=ast.Constant(value=str())):
                    pass
                case _:
                    raise _NotPlainError(statement)
    except _NotPlainError as error:
        node = error.node
        what = "a call" if isinstance(node, ast.Call) else type(node).__name__
        raise CheckpointError(
            f"{source}, line {getattr(node, 'lineno', '?')}: {what} is no plain value; it was not run", hint=_DUMPED
        ) from error
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise CheckpointError(f"{source} is no configuration: {one_line(error)}", hint=_DUMPED) from error
    names.pop("_base_", None)
    return merged(below, names) if below else names


class _NotPlainError(Exception):
    """A part of a configuration that would have to be run."""

    def __init__(self, node: ast.AST) -> None:
        super().__init__()
        self.node = node


def _value(node: ast.AST, names: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.List(elts=elements):
            return [_value(element, names) for element in elements]
        case ast.Tuple(elts=elements):
            return tuple(_value(element, names) for element in elements)
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.Attribute() | ast.Subscript():
            found, key = _part(node, names)
            return found[key]
        case ast.Set(elts=[ast.Set(elts=[ast.Attribute() as inner])]):  # {{_base_.name}}
            return _value(inner, names)
        case ast.BinOp(op=ast.Add() | ast.Mult() as operator, left=left, right=right):
            return _computed(node, operator, _value(left, names), _value(right, names))
        case ast.Call(func=ast.Name(id="dict"), args=[] | [_] as whole, keywords=keywords):
            pairs: list[tuple[Any, ast.AST]] = [(None, item) for item in whole]
            pairs += [(keyword.arg, keyword.value) for keyword in keywords]
        case ast.Dict(keys=keys, values=values):
            pairs = list(zip((None if key is None else _value(key, names) for key in keys), values, strict=True))
        case _:
            raise _NotPlainError(node)
    result: Config = {}
    for key, item in pairs:
        value = _value(item, names)
        if key is None and not isinstance(value, dict):  # **name
            raise _NotPlainError(item)
        if isinstance(key, (list, dict)):
            raise _NotPlainError(node)
        result.update(value if key is None else {key: value})
    return result


def _part(node: ast.Attribute | ast.Subscript, names: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the dictionary or list and the key of ``_base_.name`` or ``_base_.names[0]``, which is there."""
    found = _value(node.value, names)
    key = node.attr if isinstance(node, ast.Attribute) else _value(node.slice, names)
    if isinstance(found, dict) and isinstance(key, str) and key in found:
        return found, key
    if isinstance(found, list) and isinstance(key, int) and 0 <= key < len(found):
        return found, key
    raise _NotPlainError(node)


def _computed(node: ast.AST, operator: ast.operator, left: Any, right: Any) -> Any:
    """Add texts, lists and numbers, and multiply numbers, up to a size that no configuration needs."""
    numbers = all(isinstance(side, (int, float)) and abs(side) < 1 << 40 for side in (left, right))
    if numbers and isinstance(operator, ast.Mult):
        return left * right
    joined = type(left) is type(right) and isinstance(left, (str, list)) and len(left) + len(right) < 1 << 16
    if isinstance(operator, ast.Add) and (numbers or joined):
        return left + right
    raise _NotPlainError(node)


def read_yaml_config(text: str, *, source: str, base: Callable[[object], Config] = _no_base) -> Config:
    """Return Detectron2's configuration; as there, a text that reads as a Python literal is that value."""
    yaml: Any = import_package("yaml", package="pyyaml", extra="export", why=f"reading {source}")

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # of a module that is not typed
        """Refuses references to anything but short lists, with which a small text can be endless."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                node = self.anchors.get(self.peek_event().anchor)
                ended = getattr(node, "end_mark", None) is not None  # it is not inside itself
                if not ended or any(not isinstance(item, yaml.ScalarNode) for item in node.value):
                    raise yaml.YAMLError("it refers to its own parts (&, *)")
            return super().compose_node(parent, index)

    try:
        content = yaml.load(text, Loader=Loader)  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{source} is no plain YAML: {one_line(error)}", hint=_DUMPED) from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise CheckpointError(f"{source} is no configuration: expected names with values", hint=_DUMPED)
    own = _decoded(content)
    named = own.pop("_BASE_", None)
    return merged({} if named is None else base(named), own)


def _decoded(content: Mapping[str, Any]) -> Config:
    result: Config = {}
    for key, value in content.items():
        if isinstance(value, dict):
            value = _decoded(value)
        elif isinstance(value, str):
            with suppress(ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                value = ast.literal_eval(value)
        result[key] = value
    return result
