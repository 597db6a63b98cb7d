"""A deserialised engine of TensorRT, compared with the manifest of its artifact before anything is executed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from frcnn.errors import ArtifactError
from frcnn.files.archive import REBUILD
from frcnn.spec.engine import INPUTS, TENSORRT_ELEMENTS, EngineStep, EngineTensor, Profile

_CHANNELS_LAST: Final[Mapping[str, int]] = {"HWC": 1, "HWC8": 8, "HWC16": 16}
"""Layouts that are (N, H, W, C) without gaps if C is a multiple of this."""


def check_tensors(trt: Any, engine: Any, tensors: Mapping[str, EngineTensor]) -> None:
    """Compare names, element types, layouts and channels of an ``ICudaEngine``'s inputs and outputs."""
    for name in _names(engine):
        if name not in tensors:
            raise ArtifactError(f"the engine has a tensor {name!r}, which the manifest does not list", hint=REBUILD)
        if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
            raise ArtifactError(f"the engine wants {name!r} in host memory, expected device memory", hint=REBUILD)
        found = engine.get_tensor_dtype(name).name
        element = TENSORRT_ELEMENTS.get(found, found)
        listed, shape = tensors[name], tuple(engine.get_tensor_shape(name))
        wanted = "planar" if listed.layout == "nhwc" else listed.layout  # the network declares its axes in that order
        for profile in range(engine.num_optimization_profiles):
            layout = _layout(_format(trt, engine, name, profile), shape)
            if (element, layout) != (listed.element, wanted):
                raise ArtifactError(
                    f"the engine's {name!r} is {element} {layout}, the manifest says {listed.element} {listed.layout}",
                    hint=REBUILD,
                )
        channels = listed.operator_shape(shape)[1] if len(shape) == 4 else -1
        if listed.channels and 0 < channels != listed.channels:
            raise ArtifactError(
                f"the engine's {name!r} has {channels} channels, the manifest says {listed.channels}", hint=REBUILD
            )


def check_step(trt: Any, engine: Any, step: EngineStep) -> None:
    """Refuse an engine that has other inputs or outputs than the step that runs it."""
    for what, mode, listed in (
        ("inputs", trt.TensorIOMode.INPUT, step.inputs),
        ("outputs", trt.TensorIOMode.OUTPUT, step.outputs),
    ):
        found = [name for name in _names(engine) if engine.get_tensor_mode(name) == mode]
        if set(found) != set(listed):
            raise ArtifactError(
                f"{step.part} has the {what} {', '.join(found)}, the manifest says {', '.join(listed)}", hint=REBUILD
            )


def check_profiles(engine: Any, profiles: Sequence[Profile], tensors: Mapping[str, EngineTensor]) -> None:
    """Refuse an engine that has other profiles than the manifest, or that takes other shapes of ``images`` in one."""
    count = engine.num_optimization_profiles
    if count != len(profiles):
        raise ArtifactError(f"the engine has {count} profiles, the manifest says {len(profiles)}", hint=REBUILD)
    if INPUTS[0] not in _names(engine):
        return
    images = tensors[INPUTS[0]]
    for index, profile in enumerate(profiles):
        smallest, *_, largest = [tuple(shape) for shape in engine.get_tensor_profile_shape(INPUTS[0], index)]
        batch, _, height, width = zip(images.operator_shape(smallest), images.operator_shape(largest), strict=True)
        for what, (low, high), listed in (
            ("a batch", batch, profile.batch),
            ("a height", height, profile.height),
            ("a width", width, profile.width),
        ):
            if (low, high) != (listed.min, listed.max):
                raise ArtifactError(
                    f"profile {index} of the engine takes {what} of {low} to {high}, the manifest says {listed.min} to "
                    f"{listed.max}",
                    hint=REBUILD,
                )


def _names(engine: Any) -> list[str]:
    return [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]


def _format(trt: Any, engine: Any, name: str, profile: int) -> str:
    """Return the name of a tensor's ``TensorFormat``, which the lean runtime's bindings tell in a description only."""
    if hasattr(trt, "TensorFormat"):
        return str(engine.get_tensor_format(name, profile).name)
    text = str(engine.get_tensor_format_desc(name, profile))
    if named := re.search(r"\(k(\w+)\)", text):  # "Eight channel FP16 format (kHWC8) where ..."
        return named[1]
    if text.startswith("Row major linear"):
        return "LINEAR"
    padded = re.fullmatch(r"Channel major \w+ format(?: where (?:C|channel) % (\d+) == 0)?", text)
    return f"HWC{padded[1] or ''}" if padded else text


def _layout(tensor_format: str, shape: tuple[int, ...]) -> str:
    """Return ``planar``, ``channels_last``, or TensorRT's name of another layout."""
    if tensor_format == "LINEAR":
        return "planar"
    multiple = _CHANNELS_LAST.get(tensor_format)
    if multiple and len(shape) == 4 and shape[1] > 0 and shape[1] % multiple == 0:
        return "channels_last"
    return tensor_format
