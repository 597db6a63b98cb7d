"""Register the plugins with TensorRT.

TensorRT takes a plugin's inputs and attributes from the signatures of Python functions, so each plugin gets functions
whose signature is made from its table entry.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import GenericAlias, ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from frcnn.errors import FrcnnError, KernelError, MissingDependencyError
from frcnn.plugins.cuda.compiler import compile_kernel
from frcnn.plugins.kernel import Kernel
from frcnn.plugins.operator import Attribute
from frcnn.plugins.tensorrt.callbacks import PluginCallbacks
from frcnn.plugins.tensorrt.library import load_tensorrt, load_tensorrt_plugins
from frcnn.plugins.tensorrt.plugins import NAMESPACE, PLUGIN_VERSION, Plugin, plugins

_ANNOTATIONS: Final[dict[str, Any]] = {"int": int, "float": float, "floats": NDArray[np.float32]}


@dataclass(slots=True, kw_only=True)
class _Build:
    """State of the callbacks, one for the process, as TensorRT's registry is."""

    architecture: str = ""
    error: FrcnnError | None = None
    registered: set[str] = field(default_factory=set)


_BUILD: Final = _Build()


def register(*, architecture: str) -> None:
    """Register the plugins in this process, and set the architecture of the next engine.

    Call it before every build: registered plugins stay, and the last architecture holds for the process. So build
    engines for two architectures one after the other.

    Args:
        architecture: of the kernels: ``sm_90`` gives machine code, ``compute_75`` PTX.

    Raises:
        KernelError: another plugin has one of the names, or the compiler does not know the architecture.
        MissingDependencyError: TensorRT or the compiler is not installed, or TensorRT is older than 10.13.
    """
    trt, trtp = load_tensorrt(), load_tensorrt_plugins()
    if trtp is None:
        raise MissingDependencyError("tensorrt>=10.13", extra="tensorrt", why="plugins inside a TensorRT engine")
    # of BoxDetections, which every network has: a compiler that fails does so now, not minutes into a build
    compile_kernel(plugins()[-1].example, architecture)
    missing = [plugin for plugin in plugins() if plugin.name not in _BUILD.registered]
    registry, ours = trt.get_plugin_registry(), getattr(trtp.op, NAMESPACE, None)
    for plugin in missing:
        if hasattr(ours, plugin.name) or registry.get_creator(plugin.name, PLUGIN_VERSION, NAMESPACE) is not None:
            raise KernelError(
                f"TensorRT knows a plugin {NAMESPACE}::{plugin.name} that is not of this frcnn",
                hint="build in a process of its own, and load no plugin library of that namespace",
            )
    for plugin in missing:
        _register(plugin, trt, trtp)
        _BUILD.registered.add(plugin.name)
    _BUILD.architecture, _BUILD.error = architecture, None


def callback_error() -> FrcnnError | None:
    """Return the plugin's error that stopped the build after the last :func:`register`; C++ prints and drops them."""
    return _BUILD.error


def _register(plugin: Plugin, trt: ModuleType, trtp: ModuleType) -> None:
    callbacks = PluginCallbacks(plugin, trt, trtp, _compile)
    plugin_id = f"{NAMESPACE}::{plugin.name}"
    outputs = GenericAlias(tuple, (trtp.TensorDesc,) * len(plugin.outputs))
    combinations = GenericAlias(list, (trtp.AutoTuneCombination,))
    implementation = GenericAlias(tuple, (str | bytes, str | bytes, trtp.KernelLaunchParams, trtp.SymIntExprs))
    parameters = [(name, trtp.TensorDesc) for name in plugin.inputs]
    parameters += [(attribute.name, _ANNOTATIONS[attribute.kind]) for attribute in plugin.attributes]
    trtp.register(plugin_id)(_signed(plugin, callbacks.describe, parameters, outputs))
    parameters.append(("outputs", outputs))
    trtp.autotune(plugin_id)(_signed(plugin, callbacks.combine, parameters, combinations))
    parameters.append(("tactic", int))
    trtp.aot_impl(plugin_id)(_signed(plugin, callbacks.implement, parameters, implementation))


def _compile(kernel: Kernel) -> bytes:
    return compile_kernel(kernel, _BUILD.architecture)


def _signed(
    plugin: Plugin,
    implementation: Callable[[list[Any], dict[str, Any], Sequence[Any]], Any],
    parameters: Sequence[tuple[str, Any]],
    returned: Any,
) -> Callable[..., Any]:
    """Return a function with this signature, which calls the implementation with inputs, attributes and outputs."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature(
        [inspect.Parameter(name, kind, annotation=annotation) for name, annotation in parameters],
        return_annotation=returned,
    )

    def callback(*args: Any, **kwargs: Any) -> Any:
        try:
            try:
                given = signature.bind(*args, **kwargs).arguments
            except TypeError as error:
                raise KernelError(f"{plugin.name}: {error}", hint="a node needs every input and attribute") from error
            inputs = [given[name] for name in plugin.inputs]
            attributes = {attribute.name: _value(plugin, attribute, given) for attribute in plugin.attributes}
            return implementation(inputs, attributes, given.get("outputs", ()))
        except FrcnnError as error:
            _BUILD.error = error
            raise

    callback.__signature__ = signature  # type: ignore[attr-defined]
    return callback


def _value(plugin: Plugin, attribute: Attribute, given: dict[str, Any]) -> Any:
    """Return an attribute as the kernels take it; TensorRT's numbers and arrays have other types."""
    values = np.ravel(given[attribute.name])
    if attribute.kind == "floats":
        return tuple(float(value) for value in values)
    if values.size != 1:
        raise KernelError(f"{plugin.name}: {attribute.name} must be one number, got {values.size}")
    return int(values[0]) if attribute.kind == "int" else float(values[0])
