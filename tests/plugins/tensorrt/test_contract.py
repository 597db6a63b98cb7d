"""The registration in NVIDIA's own plugin code: what it accepts, and what a build asks of it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from support.operator_forms import FORMS, attributes_of
from support.tensorrt_cases import CHANNELS_LAST, Case, cases
from support.tensorrt_contract import Contract, make_libraries, recorded

from frcnn.plugins.operator_kernels import POOLING
from frcnn.plugins.tensorrt.plugins import plugins

pytestmark = pytest.mark.slow

LAYOUTS = [("planar", "planar"), ("channels_last", "planar"), ("channels_last", "channels_last")]
ELEMENTS = ("float32", "float16", "bfloat16")
CASES: dict[str, Case] = {}
for FORM in FORMS:
    CASES |= cases("batch open", FORM, opened="N", element=ELEMENTS[FORM[1] % 3])
for FORM in [form for form in FORMS if form[0] in POOLING and form[1] in (1, 4, 8)]:
    for LAYOUT, OUTPUT in LAYOUTS:
        OPTIONS = {"element": "float16", "layout": LAYOUT, "output_layout": OUTPUT}
        CASES |= cases(f"{LAYOUT} to {OUTPUT}", FORM, **OPTIONS)
for COUNT in (1, 3):
    TOP = {"pre_nms_top_n": 2000, "post_nms_top_n": 1000}
    CASES |= cases(f"{COUNT} images", ("RegionProposals", 5), sizes={"images": COUNT}, attributes=TOP)
    CASES |= cases(f"{COUNT} images", ("BoxDetections", 1), sizes={"images": COUNT, "rois": 1000, "channels": 91})
CASES |= cases("canvas open", ("RegionProposals", 3), opened="N|[HW].*")
CASES |= cases("RoIs open", ("BoxDetections", 1), opened="N|R", sizes={"rois": 777, "channels": 1203})
CASES |= cases("all open", ("MultiscaleRoIPool", 5), opened=".*", sizes={"channels": 10})
CASES |= cases("all but channels open", ("MultiscaleRoIPool", 2), opened="N|R|[HW].*", sizes={"rois": 1000}, **OPTIONS)
COMPILED = {case.kernel.source: name for name, case in CASES.items()}


@pytest.fixture(scope="module")
def contract(tmp_path_factory):
    return Contract(make_libraries(tmp_path_factory.mktemp("tensorrt")))


@pytest.fixture(scope="module")
def driven(contract):
    """The results of NVIDIA's code for every case, with the text of the kernel that is compiled as its code."""
    code = """
from frcnn.plugins.tensorrt import registration
from support.tensorrt_contract import recorded

registration.compile_kernel = recorded
register(architecture='compute_75')
result = {name: drive(**arguments) for name, arguments in given.items()}
"""
    result: dict[str, Any] = contract(code, {name: case.arguments for name, case in CASES.items()})
    return result


@pytest.fixture(scope="module")
def compiled(contract):
    """The same for one case of each source, with the compiler's code."""
    code = (
        "register(architecture='compute_75')\nresult = {name: drive(**arguments) for name, arguments in given.items()}"
    )
    result: dict[str, Any] = contract(code, {name: CASES[name].arguments for name in COMPILED.values()})
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
        for plugin in plugins()
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
    cubin, ptx, again = contract(code, CASES["MultiscaleRoIPool1, batch open"].arguments)
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


def test_every_plugin_has_a_case():
    assert {case.kernel.plugin for case in CASES.values()} == {plugin.name for plugin in plugins()}


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
    assert got["entry"] == case.kernel.entry
    assert got["code"] == recorded(case.kernel, "compute_75")

    offered = [["LINEAR"] * len(case.types)]
    if case.kernel.plugin.startswith(POOLING) and not case.has_open_channels:  # the channels are known to fill vectors
        last, maps = CHANNELS_LAST[case.kernel.outputs[0].element], len(case.kernel.inputs) - 1
        offered += [["LINEAR", *[last] * maps, "LINEAR"], ["LINEAR", *[last] * maps, last]]
    assert got["offered"] == [[list(pair) for pair in zip(case.types, row, strict=True)] for row in offered]


@pytest.mark.parametrize("name", COMPILED.values())
def test_the_compiled_code_takes_the_arguments_in_the_stated_order(name, compiled):
    kernel, kinds = CASES[name].kernel, r"\.param \.(?:align \d+ \.)?([a-z]\d+)"
    entry, parameters = re.findall(r"\.entry (\w+)\(([^)]*)\)", compiled[name]["code"].decode())[0]
    assert compiled[name]["entry"] == entry == kernel.entry
    stated = ["u64"] * len(kernel.inputs) + ["u32"] * len(kernel.integers) + ["u64"] * len(kernel.outputs)
    assert re.findall(kinds, parameters) == stated


@pytest.mark.parametrize(
    ("channels", "dtype", "fills"), [(12, "HALF", False), (12, "FLOAT", True), (6, "FLOAT", False)]
)
def test_channels_that_leave_a_gap_are_offered_planar_only(channels, dtype, fills, contract):
    case = CASES["MultiscaleRoIAlign1, batch open"]
    inputs = [dict(value, shape=list(value["shape"])) for value in case.arguments["inputs"]]
    inputs[1]["shape"][1], inputs[1]["dtype"] = channels, dtype
    arguments = case.arguments | {"inputs": inputs}
    got = contract("register(architecture='compute_75')\nresult = drive(**given)", arguments)
    assert len(got["offered"]) == (3 if fills else 1)


def align(inputs: list[dict[str, Any]] | None = None, **attributes: Any) -> dict[str, Any]:
    given = CASES["MultiscaleRoIAlign1, batch open"].arguments
    return given | {"attributes": given["attributes"] | attributes, "inputs": inputs or given["inputs"]}


def described(*shapes: list[int], dtypes: str = "FLOAT FLOAT", **more: Any) -> list[dict[str, Any]]:
    return [{"shape": shape, "dtype": dtype, **more} for shape, dtype in zip(shapes, dtypes.split(), strict=True)]


def replaced(inputs: list[dict[str, Any]], index: int, **changes: Any) -> list[dict[str, Any]]:
    return [value | changes if i == index else value for i, value in enumerate(inputs)]


ROIS, MAP = [2, 5, 4], [2, 8, 20, 20]
DETECTIONS = CASES["BoxDetectionsSuppress, batch open"].arguments
CANDIDATES = CASES["BoxDetectionsCandidates, batch open"].arguments
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a sampling ratio that no kernel has": (align(sampling_ratio=99), "sampling_ratio must be 0 to 16, got 99"),
    "thresholds of other levels": (
        align(level_thresholds=[1.0, 2.0]),
        "level_thresholds must have 1 values for 1 levels, got 2",
    ),
    "scales of other levels": (
        align(spatial_scales=[0.5, 0.25], level_thresholds=[1.0]),
        "MultiscaleRoIAlign1 got the attributes of MultiscaleRoIAlign2",
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
        DETECTIONS | {"attributes": DETECTIONS["attributes"] | {"iou_threshold": 1.5}},
        "iou_threshold must be from 0 to 1, got 1.5",
    ),
    "more RoIs than a block can sort": (
        CANDIDATES | {"inputs": described([1, 4097, 4], [4097, 5])},
        "box_detections_candidates holds at most R = 4096, got 4097",
    ),
    "open sizes that may grow beyond that": (
        CANDIDATES
        | {
            "inputs": [
                {"shape": [1, 9, 4], "dtype": "FLOAT", "open": [1], "max": [1, 5000, 4]},
                {"shape": [9, 5], "dtype": "FLOAT", "open": [0], "max": [5000, 5]},
            ]
        },
        "box_detections_candidates holds at most R = 4096, got 5000",
    ),
    "an attribute missing": (
        DETECTIONS | {"attributes": {}},
        "BoxDetectionsSuppress: missing a required argument: 'box_weights' (a node needs every input and attribute)",
    ),
    "logits and deltas of two types": (
        DETECTIONS | {"inputs": replaced(DETECTIONS["inputs"], 3, dtype="FLOAT")},
        "BoxDetectionsSuppress: box_deltas must be float16, got float",
    ),
    "deltas of other classes": (
        DETECTIONS | {"inputs": replaced(DETECTIONS["inputs"], 3, shape=[22, 92])},
        "BoxDetectionsSuppress: 4*C of box_deltas must be 96, got 92 in (?, 92)",
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
    assert contract(code, attributes_of("MultiscaleRoIAlign", 1)) == ["FLOAT", 4]
