"""Builds for the target ``tensorrt``, which needs a GPU: every name that they use is in NVIDIA's bindings.

The code is shared with TensorRT-RTX. The names that a build with TensorRT-RTX uses are recorded and looked up in
``tensorrt_cu13_bindings``. A network with plugins, which TensorRT-RTX does not have, is
built with standard nodes in their place.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from support.recorded_tensorrt import record_tensorrt_rtx
from support.tensorrt_contract import Contract, make_libraries

from frcnn.cli import main
from frcnn.errors import UsageError
from frcnn.exporter import build_engine
from frcnn.exporter.engine import artifact as engine_artifact
from frcnn.exporter.engine import steps as engine_steps
from frcnn.exporter.engine.builder import BuildSettings, Phases, build_serialized
from frcnn.exporter.engine.precision_proof import read_layers
from frcnn.exporter.engine.profiles import make_profiles
from frcnn.exporter.engine.shapes import shapes_of_profile
from frcnn.exporter.engine.steps import Steps, steps_between_operators
from frcnn.plugins import DOMAIN
from frcnn.runtime.model_files.artifact import open_artifact
from frcnn.spec.engine import INPUTS, OUTPUTS, EngineStep

pytestmark = pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops in TensorRT-RTX")

# Asked for only where a flavour has it.
ONLY_IN_RTX = {
    ("BuilderFlag", "REQUIRE_USER_ALLOCATION"),
    ("", "ComputeCapability"),
    ("ComputeCapability", "__members__"),
    ("IBuilderConfig", "num_compute_capabilities"),
    ("IBuilderConfig", "set_compute_capability"),
}


@pytest.fixture(scope="module")
def contract(tmp_path_factory):
    return Contract(make_libraries(tmp_path_factory.mktemp("libraries")))


def built(trt: object, path: Path, settings: BuildSettings) -> tuple[Steps, bytes]:
    """Build the smallest engine of a model, and read the layers of all."""
    steps = steps_between_operators(trt, onnx.load(path))  # type: ignore[arg-type]
    manifest = engine_artifact.read_source_model(path).manifest
    shapes, _ = shapes_of_profile(steps, make_profiles(manifest, batch="1:1:2", size="64x64:96x96:96x96")[0])
    for index, network in enumerate(steps.networks.values()):
        read_layers(network, index)
    (*_, (part, network)) = steps.networks.items()
    return steps, build_serialized(network, [shapes[part]], settings, report=lambda _share: None)


def test_tensorrts_bindings_have_every_name_that_a_build_uses(exports, tmp_path, contract):
    trt, asked = record_tensorrt_rtx()
    settings = BuildSettings(
        compute_capabilities=("8.9",), optimization_level=1, timing_cache=tmp_path / "timing.cache"
    )
    _, plan = built(trt, exports("vgg16", "fp16").path, settings)
    assert len(plan) > 100_000
    named = {attribute for _, attribute in asked}
    assert {"parse", "build_serialized_network", "set_timing_cache", "builder_optimization_level", "metadata"} <= named

    code = """
missing = []
for owner, attribute in given:
    if not hasattr(getattr(trt, owner, None) if owner else trt, attribute):
        missing.append([owner, attribute])
flags = trt.NetworkDefinitionCreationFlag
result = {"missing": missing, "aot": hasattr(flags, "PREFER_AOT_PYTHON_PLUGINS"), "version": trt.__version__,
          "error": [hasattr(trt.ParserError, name) for name in ("node_name", "node_operator", "desc")],
          "get_error": hasattr(trt.OnnxParser, "get_error")}
"""
    found = contract(code, sorted(asked))
    assert {tuple(pair) for pair in found["missing"]} == ONLY_IN_RTX
    assert found["aot"] and found["get_error"] and all(found["error"])
    assert found["version"].startswith("11.")


def test_a_timing_cache_is_written_into_a_new_folder(exports, tmp_path):
    cache = tmp_path / "caches" / "timing.cache"
    built(importlib.import_module("tensorrt_rtx"), exports("vgg16", "fp16").path, BuildSettings(timing_cache=cache))
    assert cache.stat().st_size > 0
    assert [path.name for path in cache.parent.iterdir()] == ["timing.cache"]


def test_an_invalid_timing_cache_is_refused(exports, tmp_path):
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"something else, and long enough to have a header in it")
    with pytest.raises(UsageError, match=r"is no timing cache of this TensorRT") as caught:
        built(importlib.import_module("tensorrt_rtx"), exports("vgg16", "fp16").path, BuildSettings(timing_cache=cache))
    assert "delete this one" in caught.value.hint


def without_plugins(model: onnx.ModelProto) -> onnx.ModelProto:
    """Put standard nodes of the same shapes and types where the plugins' nodes would be."""
    lowered = onnx.ModelProto()
    lowered.CopyFrom(model)
    del lowered.functions[:]
    graph = lowered.graph
    nodes = []
    for node in graph.node:
        if node.domain != DOMAIN:
            nodes.append(node)
        elif node.op_type == "GroupedNMS":
            nodes.append(onnx.helper.make_node("Identity", node.input[1:], node.output, name=node.name))
        else:  # (N, R, 4), (N, C, H, W) -> (N·R, C, 7, 7): each RoI's mean in every cell
            (rois, _features) = node.input
            for name, values in {"flat": [-1, 1, 1, 1], "last": [2], "wide": [1, 64, 7, 7]}.items():
                graph.initializer.append(onnx.numpy_helper.from_array(np.array(values, np.int64), name))
            nodes += [
                onnx.helper.make_node("ReduceMean", [rois, "last"], ["roi"], keepdims=0, name="backbone/stand_in/Mean"),
                onnx.helper.make_node("Reshape", ["roi", "flat"], ["each"], name="stand_in/Reshape"),
                onnx.helper.make_node("Cast", ["each"], ["half"], to=onnx.TensorProto.FLOAT16, name="stand_in/Cast"),
                onnx.helper.make_node("Expand", ["half", "wide"], node.output, name="stand_in/Expand"),
            ]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    return lowered


def test_tensorrt_with_plugins_builds_one_engine(exports, tmp_path, monkeypatch):
    registered: list[str] = []
    monkeypatch.setattr(engine_artifact, "require_gpu", lambda _wanted: "8.9")
    monkeypatch.setattr(engine_artifact, "import_builder", lambda _target: importlib.import_module("tensorrt_rtx"))
    monkeypatch.setattr(engine_artifact, "load_tensorrt_plugins", lambda: ModuleType("tensorrt.plugin"))
    monkeypatch.setattr(engine_artifact, "register", lambda *, architecture: registered.append(architecture))
    monkeypatch.setattr(engine_steps, "lower_to_plugins", without_plugins)
    path, cache = tmp_path / "model.frcnn", tmp_path / "timing.cache"
    manifest = build_engine(
        exports("vgg16", "fp16").path,
        path,
        target="tensorrt",
        batch="1:1:2",
        size="64x64:160x224:160x288",
        timing_cache=cache,
        optimization_level=2,
    )
    artifact = open_artifact(path)
    artifact.check_parts()
    assert artifact.manifest == manifest
    assert registered == ["sm_89"]
    (step,) = manifest.steps
    assert isinstance(step, EngineStep)
    assert (step.part, set(step.inputs), set(step.outputs)) == ("engines/model.plan", set(INPUTS), set(OUTPUTS))
    assert set(manifest.tensors) == {*INPUTS, *OUTPUTS}
    assert (manifest.target, manifest.compute_capabilities) == ("tensorrt", ("8.9",))
    assert manifest.architectures == ("sm_89", "compute_75")
    # only images are prepared outside of the engine
    assert {name.split("-")[0] for name in manifest.parts if name.startswith("kernels/")} == {"kernels/preprocess"}
    assert manifest.memory.workspace_bytes == 0
    assert manifest.memory.tensors_bytes > 2 * 3 * 160 * 288 * 2
    assert {record.element for record in artifact.read_precision() if record.heavy} == {"float16"}
    assert cache.stat().st_size > 0


def test_tensorrt_without_plugins_builds_the_pieces_between_operators(exports, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(engine_artifact, "require_gpu", lambda _wanted: "9.0")
    monkeypatch.setattr(engine_artifact, "import_builder", lambda _target: importlib.import_module("tensorrt_rtx"))
    monkeypatch.setattr(engine_artifact, "load_tensorrt_plugins", lambda: None)
    path = tmp_path / "model.frcnn"
    manifest = build_engine(exports("vgg16", "fp16").path, path, target="tensorrt", batch=1, size="160x224")
    operators = [step.operator for step in manifest.steps if not isinstance(step, EngineStep)]
    assert operators == ["GroupedNMS", "MultiscaleRoIPool", "GroupedNMS"]
    assert [step.part for step in manifest.steps if isinstance(step, EngineStep)] == [
        f"engines/{number}.plan" for number in range(4)
    ]
    assert (manifest.target, manifest.architectures) == ("tensorrt", ("sm_90", "compute_75"))
    kernels = {name.split("-")[0].removeprefix("kernels/") for name in manifest.parts if name.startswith("kernels/")}
    assert kernels == {"preprocess", "grouped_nms_mask", "grouped_nms_resolve", "multiscale_roi_pool"}
    assert main(["unpack", str(path), "-o", str(tmp_path / "parts")]) == 0
    # no one command of trtexec runs such an artifact
    assert "trtexec" not in capsys.readouterr().out


def test_the_progress_of_nested_phases_never_decreases():
    phases = Phases()
    phases.start("all", 4)
    assert phases.step("all", 0) == 0.25
    phases.start("part", 2)
    assert phases.step("part", 0) == 0.25 + 0.25 / 2
    assert phases.step("part", 1) == 0.5
    phases.finish("part")
    assert phases.step("all", 1) == 0.5
    phases.start("part", 10)
    assert phases.step("part", 4) == pytest.approx(0.5 + 0.25 / 2)
    phases.finish("part")
    phases.start("other", 2)
    assert phases.step("other", 0) == pytest.approx(0.625)
    assert phases.step("all", 3) == 1.0
