"""The registration in NVIDIA's own plugin code: what it accepts, and what a build asks of it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from support.tensorrt_contract import Contract, make_libraries

from frcnn.plugins.grouped_nms.kernel import kernels as nms_kernels
from frcnn.plugins.kernel import Kernel
from frcnn.plugins.multiscale_roi_align.kernel import kernels as align_kernels
from frcnn.plugins.multiscale_roi_pool.kernel import kernels as pool_kernels
from frcnn.plugins.tensorrt.plugins import PLUGINS

pytestmark = pytest.mark.slow

DATA_TYPES = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16", "int32": "INT32"}
CHANNELS_LAST = {"float32": "HWC", "float16": "HWC8", "bfloat16": "HWC8"}
LAYOUTS = [("planar", "planar"), ("channels_last", "planar"), ("channels_last", "channels_last")]


@pytest.fixture(scope="module")
def contract(tmp_path_factory):
    return Contract(make_libraries(tmp_path_factory.mktemp("tensorrt")))


def pooling(levels: int, **extra: Any) -> dict[str, Any]:
    scales = [1 / 4 / 2**i for i in range(levels)]
    thresholds = [112.0 * 2**i for i in range(max(1, levels - 1))]
    return {"output_height": 7, "output_width": 5, "spatial_scales": scales, "level_thresholds": thresholds, **extra}


def maps(levels: int, n: int, r: int, c: int) -> list[list[int]]:
    return [[n, r, 4], *([n, c, 40 + 3 * i, 60 - 2 * i] for i in range(levels))]


ALIGN = {"sampling_ratio": 2, "aligned": 1}


class Case:
    """A kernel, and the arguments of a build."""

    def __init__(
        self, kernel: Kernel, attributes: dict[str, Any], shapes: list[list[int]], unknown: dict[int, list[int]]
    ) -> None:
        self.kernel = kernel
        self.types = [DATA_TYPES[tensor.element] for tensor in (*kernel.inputs, *kernel.outputs)]
        self.layouts = [
            CHANNELS_LAST[tensor.element] if kernel.layouts.get(tensor.name) == "channels_last" else "LINEAR"
            for tensor in (*kernel.inputs, *kernel.outputs)
        ]
        self.shapes = shapes
        inputs = [
            {"shape": shape, "dtype": kind, "open": unknown.get(index, [])}
            for index, (shape, kind) in enumerate(zip(shapes, self.types, strict=False))
        ]
        self.arguments = {"plugin": kernel.plugin, "attributes": attributes, "inputs": inputs, "layouts": self.layouts}


def _nms_cases(name: str, g: int, m: int, unknown: dict[int, list[int]]) -> dict[str, Case]:
    mask, resolve = nms_kernels(iou_threshold=0.5)
    words = mask.bind({"G": g, "M": m}).output_shapes[1][1]
    return {
        f"mask {name}": Case(mask, {"iou_threshold": 0.5}, [[g, m, 4], [g, m]], unknown),
        f"resolve {name}": Case(resolve, {}, [[g, m], [g, m], [g, words]], unknown),
    }


BATCH: dict[int, list[int]] = {index: [0] for index in range(9)}
ALL: dict[int, list[int]] = {0: [0, 1], 1: [0, 1], 2: [0, 1]}
CASES = (
    _nms_cases("of one box", 1, 1, {})
    | _nms_cases("of the region proposal network", 5, 1000, BATCH)
    | _nms_cases("of classes, sizes open", 360, 777, ALL)
    | _nms_cases("of as many boxes as there can be", 2, 4096, {})
    | {
        f"align, {levels} levels, {element}, {layout} to {output_layout}": Case(
            align_kernels(element=element, layout=layout, output_layout=output_layout, **pooling(levels, **ALIGN))[0],
            pooling(levels, **ALIGN),
            maps(levels, 3, 11, 24),
            BATCH,
        )
        for levels, element in ((1, "float32"), (4, "float16"), (8, "bfloat16"))
        for layout, output_layout in LAYOUTS
    }
    | {
        "pool, everything but the channels open": Case(
            pool_kernels(element="float16", layout="channels_last", **pooling(2))[0],
            pooling(2),
            maps(2, 2, 1000, 256),
            {0: [0, 1], 1: [0, 2, 3], 2: [0, 2, 3]},
        ),
        "pool, everything open": Case(
            pool_kernels(element="float32", **pooling(5))[0],
            pooling(5),
            maps(5, 2, 7, 10),
            {0: [0, 1], **{index: [0, 1, 2, 3] for index in range(1, 6)}},
        ),
    }
)


@pytest.fixture(scope="module")
def driven(contract):
    """The results of NVIDIA's code for every case."""
    code = (
        "register(architecture='compute_75')\nresult = {name: drive(**arguments) for name, arguments in given.items()}"
    )
    result: dict[str, Any] = contract(code, {name: case.arguments for name, case in CASES.items()})
    return result


def test_every_plugin_is_accepted_with_its_inputs_attributes_and_outputs(contract):
    code = """
from tensorrt.plugin._lib import QDP_CREATORS, QDP_REGISTRY
register(architecture="sm_90")
assert set(QDP_CREATORS) == set(QDP_REGISTRY)
registry = trt.get_plugin_registry()
result = {}
for name, definition in QDP_REGISTRY.items():
    assert registry.get_creator(definition.plugin_id.split("::")[1], "1", "frcnn") is not None
    assert definition.impl_func is None and definition.autotune_func and definition.aot_impl_func
    assert definition.autotune_attr_names == definition.aot_impl_attr_names == list(definition.input_attrs)
    attributes = {key: str(kind) for key, kind in definition.input_attrs.items()}
    result[name] = [definition.input_tensor_names, attributes, definition.num_outputs]
"""
    floats = "numpy.ndarray[typing.Any, numpy.dtype[numpy.float32]]"
    kinds = {"int": "<class 'int'>", "float": "<class 'float'>", "floats": floats}
    accepted = contract(code)
    for attributes in (entry[1] for entry in accepted.values()):
        attributes.update({key: floats for key, kind in attributes.items() if "numpy.float32" in kind})
    assert accepted == {
        f"frcnn::{plugin.name}": [
            list(plugin.inputs),
            {attribute.name: kinds[attribute.kind] for attribute in plugin.attributes},
            len(plugin.outputs),
        ]
        for plugin in PLUGINS
    }


def test_registering_again_keeps_the_plugins_and_changes_the_architecture(contract):
    code = """
from tensorrt.plugin._lib import QDP_REGISTRY
codes = []
for architecture in ("sm_90", "compute_75", "sm_90"):
    register(architecture=architecture)
    definitions = dict(QDP_REGISTRY)
    codes.append(drive(**given)["code"])
    assert definitions == dict(QDP_REGISTRY)
result = codes
"""
    cubin, ptx, again = contract(code, CASES["resolve of one box"].arguments)
    assert cubin.startswith(b"\x7fELF") and cubin == again
    assert b".target sm_75" in ptx


def test_an_unknown_architecture_is_refused_before_anything_is_registered(contract):
    code = """
from tensorrt.plugin._lib import QDP_REGISTRY
from frcnn.errors import KernelError
try:
    register(architecture="sm_1")
except KernelError as error:
    result = [str(error), list(QDP_REGISTRY)]
"""
    message, names = contract(code)
    assert "'sm_1'" in message
    assert names == []


TAKEN = {
    "a quickly deployable plugin": """
@trtp.register("frcnn::MultiscaleRoIPool3")
def foreign(rois: trtp.TensorDesc) -> trtp.TensorDesc:
    return rois.like()
""",
    "a plugin of a library": """
from tensorrt.plugin._lib import _TemplatePluginCreator

creator = _TemplatePluginCreator("MultiscaleRoIPool3", "frcnn", {})
assert trt.get_plugin_registry().register_creator(creator, "frcnn")
""",
}


@pytest.mark.parametrize("kind", TAKEN)
def test_a_name_of_other_code_is_refused_before_anything_is_registered(kind, contract):
    code = """
from tensorrt.plugin._lib import QDP_REGISTRY
from frcnn.errors import KernelError

before = list(QDP_REGISTRY)
try:
    register(architecture="sm_90")
except KernelError as error:
    result = [str(error), list(QDP_REGISTRY) == before]
"""
    message, untouched = contract(TAKEN[kind] + code)
    assert message.startswith("TensorRT knows a plugin frcnn::MultiscaleRoIPool3 that is not of this frcnn")
    assert untouched


@pytest.mark.parametrize("name", CASES)
def test_a_plugin_is_its_kernel_in_the_layouts_that_the_kernel_takes(name, driven):
    case, got = CASES[name], driven[name]
    launch = case.kernel.bind(case.kernel.sizes(case.shapes))
    assert got["types"] == case.types[len(case.kernel.inputs) :]
    assert got["outputs"] == len(case.kernel.outputs)
    assert got["shapes"] == [list(shape) for shape in launch.output_shapes]
    assert got["grid"] == list(launch.grid)
    assert got["block"] == list(launch.block)
    assert got["integers"] == list(launch.integers)
    assert got["shared_memory"] == 0
    assert got["tactics"] == []

    kernel, kinds = case.kernel, r"\.param \.(?:align \d+ \.)?([a-z]\d+)"
    entry, parameters = re.findall(r"\.entry (\w+)\(([^)]*)\)", got["code"].decode())[0]
    assert got["entry"] == entry == kernel.entry
    stated = ["u64"] * len(kernel.inputs) + ["u32"] * len(kernel.integers) + ["u64"] * len(kernel.outputs)
    assert re.findall(kinds, parameters) == stated

    offered = [["LINEAR"] * len(case.types)]
    if kernel.plugin.startswith("MultiscaleRoI") and name != "pool, everything open":
        # channels-last where the channels are known to fill vectors
        last, maps = CHANNELS_LAST[kernel.outputs[0].element], len(kernel.inputs) - 1
        offered += [["LINEAR", *[last] * maps, "LINEAR"], ["LINEAR", *[last] * maps, last]]
    assert got["offered"] == [[list(pair) for pair in zip(case.types, row, strict=True)] for row in offered]


@pytest.mark.parametrize(
    ("channels", "dtype", "fills"), [(12, "HALF", False), (12, "FLOAT", True), (6, "FLOAT", False)]
)
def test_channels_that_leave_a_gap_are_offered_planar_only(channels, dtype, fills, contract):
    case = CASES["align, 1 levels, float32, planar to planar"]
    inputs = [dict(value, shape=list(value["shape"])) for value in case.arguments["inputs"]]
    inputs[1]["shape"][1], inputs[1]["dtype"] = channels, dtype
    arguments = case.arguments | {"inputs": inputs}
    got = contract("register(architecture='compute_75')\nresult = drive(**given)", arguments)
    assert len(got["offered"]) == (3 if fills else 1)


def align(inputs: list[dict[str, Any]] | None = None, **attributes: Any) -> dict[str, Any]:
    given = CASES["align, 1 levels, float32, planar to planar"].arguments
    return given | {"attributes": given["attributes"] | attributes, "inputs": inputs or given["inputs"]}


def described(*shapes: list[int], dtypes: str = "FLOAT FLOAT", **more: Any) -> list[dict[str, Any]]:
    return [{"shape": shape, "dtype": dtype, **more} for shape, dtype in zip(shapes, dtypes.split(), strict=True)]


ROIS, MAP = [2, 5, 4], [2, 8, 20, 20]
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a sampling ratio that no kernel has": (align(sampling_ratio=99), "sampling_ratio must be 0 to 16, got 99"),
    "thresholds of other levels": (
        align(level_thresholds=[1.0, 2.0]),
        "level_thresholds must have 1 values for 1 levels, got 2",
    ),
    "scales of other levels": (
        align(spatial_scales=[0.5, 0.25], level_thresholds=[1.0]),
        "MultiscaleRoIAlign1 takes 1 spatial_scales, got 2",
    ),
    "RoIs in half precision": (
        align(described(ROIS, MAP, dtypes="HALF FLOAT")),
        "MultiscaleRoIAlign1: rois must be float32, got half",
    ),
    "maps of whole numbers": (
        align(described(ROIS, MAP, dtypes="FLOAT INT8")),
        "MultiscaleRoIAlign1: feature_0 must be one of float32, float16, bfloat16, got int8",
    ),
    "RoIs of five numbers": (
        align(described([2, 5, 5], MAP)),
        "MultiscaleRoIAlign1: 4 of rois must be 4, got 5 in (2, 5, 5)",
    ),
    "RoIs of another batch": (
        align(described([3, 5, 4], MAP)),
        "MultiscaleRoIAlign1: N of feature_0 must be 3, got 2 in (2, 8, 20, 20)",
    ),
    "maps of three dimensions": (
        align(described(ROIS, MAP[1:])),
        "MultiscaleRoIAlign1: feature_0 must have the shape (N, C, H_0, W_0), got (?, ?, ?)",
    ),
    "a threshold above one": (
        CASES["mask of one box"].arguments | {"attributes": {"iou_threshold": 1.5}},
        "iou_threshold must be from 0 to 1, got 1.5",
    ),
    "no threshold": (
        CASES["mask of one box"].arguments | {"attributes": {}},
        "GroupedNMSMask: missing a required argument: 'iou_threshold' (a node needs every input and attribute)",
    ),
    "more boxes than a block can sort": (
        CASES["mask of one box"].arguments | {"inputs": described([1, 4097, 4], [1, 4097])},
        "grouped_nms_mask holds at most M = 4096, got 4097",
    ),
    "open sizes that may grow beyond that": (
        CASES["mask of one box"].arguments
        | {
            "inputs": [
                {"shape": [1, 9, 4], "dtype": "FLOAT", "open": [1], "max": [1, 5000, 4]},
                {"shape": [1, 9], "dtype": "FLOAT", "open": [1], "max": [1, 5000]},
            ]
        },
        "grouped_nms_mask holds at most M = 4096, got 5000",
    ),
}


@pytest.fixture(scope="module")
def refused(contract):
    """The error of each bad case; a good build after each shows that none leaves traces."""
    code = """
from frcnn.errors import KernelError
bad, good = given
result = {}
for name, arguments in bad.items():
    register(architecture="compute_75")
    assert callback_error() is None
    try:
        drive(**arguments)
        result[name] = "accepted"
    except KernelError as error:
        assert callback_error() is error
        result[name] = str(error)
    register(architecture="compute_75")
    drive(**good)
"""
    result: dict[str, Any] = contract(code, ({name: arguments for name, (arguments, _) in BAD.items()}, align()))
    return result


@pytest.mark.parametrize("name", BAD)
def test_what_the_operator_does_not_take_is_refused(name, refused):
    assert refused[name] == BAD[name][1]


def test_numbers_of_any_width_are_taken(contract):
    code = """
import numpy as np
from tensorrt.plugin._lib import QDP_REGISTRY

register(architecture="compute_75")
definition = QDP_REGISTRY["frcnn::MultiscaleRoIAlign1"]
def desc(rank):
    shape = trtp.ShapeExprs(rank, _is_dummy=True)
    return trtp.TensorDesc(shape, trt.DataType.FLOAT)
attributes = {name: np.array(value) for name, value in given.items()}
assert {value.dtype.name for value in attributes.values()} == {"int64", "float64"}
(output,) = definition.register_func(desc(3), desc(4), **attributes)
result = [output.dtype.name, len(output.shape_expr)]
"""
    assert contract(code, pooling(1, **ALIGN)) == ["FLOAT", 4]
