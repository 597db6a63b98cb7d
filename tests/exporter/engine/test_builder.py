"""Builds for the target ``tensorrt``, which needs a GPU: every name that they use is in NVIDIA's bindings.

The code is shared with TensorRT-RTX. The names that a build with TensorRT-RTX uses are recorded and looked up in
TensorRT where it is installed, else in ``tensorrt_cu13_bindings``. A network with plugins, which TensorRT-RTX does not
have, is built with standard nodes in their place.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest
from onnx import parser
from support.recorded_tensorrt import missing_in_tensorrt, record_tensorrt_rtx
from support.tensorrt_contract import Contract, make_libraries

from frcnn.cli import main
from frcnn.errors import KernelError, UsageError
from frcnn.exporter import build_engine
from frcnn.exporter.engine import artifact as engine_artifact
from frcnn.exporter.engine import request as engine_request
from frcnn.exporter.engine import steps as engine_steps
from frcnn.exporter.engine.builder import BuildSettings, Phases, build_serialized, check_features
from frcnn.exporter.engine.network import parse_network
from frcnn.exporter.engine.precision_proof import layers_of_network
from frcnn.exporter.engine.profiles import make_profiles
from frcnn.exporter.engine.shapes import input_shapes, trace_profile
from frcnn.exporter.engine.steps import make_steps
from frcnn.exporter.graph.source_model import read_source_model
from frcnn.exporter.graph.split import split
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


def built(
    trt: ModuleType, path: Path, settings: BuildSettings, *, report: Callable[[float], None] = lambda _share: None
) -> bytes:
    """Build the smaller engine of a model, and read the layers of both."""
    steps = make_steps(split(onnx.load(path)), "tensorrt")
    manifest = read_source_model(path).manifest
    (profile,) = make_profiles(manifest, batch="1:1:2", size="64x64:96x96:96x96")
    traces = trace_profile(steps, profile)
    networks = {part: parse_network(trt, model, steps.tensors, name=part) for part, model in steps.models.items()}
    for index, network in enumerate(networks.values()):
        layers_of_network(network, index)
    (*_, step) = (step for step in steps.steps if isinstance(step, EngineStep))
    shapes = input_shapes(steps, step, traces)
    return build_serialized(networks[step.part], [shapes], settings, report=report)


def test_tensorrt_has_every_name_that_a_build_uses(exports, tmp_path, contract):
    trt, asked = record_tensorrt_rtx()
    settings = BuildSettings(
        compute_capabilities=("8.9",),
        optimization_level=1,
        timing_cache=tmp_path / "timing.cache",
        version_compatible=True,
        aux_streams=0,
        workspace_mib=256,
    )
    check_features(trt)
    assert len(built(trt, exports("vgg16", "fp16").path, settings)) > 100_000
    named = {attribute for _, attribute in asked}
    assert {"parse", "build_serialized_network", "set_timing_cache", "builder_optimization_level", "metadata"} <= named
    assert {"VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME", "max_aux_streams", "WORKSPACE", "STRONGLY_TYPED"} <= named

    of_errors = {("ParserError", name) for name in ("node_name", "node_operator", "code", "desc")}
    of_errors |= {("OnnxParser", "get_error"), ("", "Runtime")}
    of_plans = {("NetworkDefinitionCreationFlag", "PREFER_AOT_PYTHON_PLUGINS")}
    version, missing = missing_in_tensorrt(asked | of_errors | of_plans, contract)
    has_no_plans = tuple(map(int, version.split(".")[:2])) < (10, 13)
    assert missing == ONLY_IN_RTX | (of_plans if has_no_plans else set())


class Listener:
    """TensorRT-RTX's builder, which builds nothing and keeps the configuration and the profiles that it is given."""

    def __init__(self, builder: Any) -> None:
        self._builder = builder
        self.profiles: list[Any] = []
        self.config: Any = None

    def create_builder_config(self) -> Any:
        self.config = self._builder.create_builder_config()
        return self.config

    def create_optimization_profile(self) -> Any:
        self.profiles.append(self._builder.create_optimization_profile())
        return self.profiles[-1]

    def build_serialized_network(self, _definition: Any, config: Any) -> bytes:
        assert config is self.config
        return b"plan"


def heard(path: Path, settings: BuildSettings, **shapes: str) -> list[Listener]:
    """Return what TensorRT is given for each engine of a model."""
    trt = importlib.import_module("tensorrt_rtx")
    steps = make_steps(split(onnx.load(path)), "tensorrt")
    traces = [trace_profile(steps, profile) for profile in make_profiles(read_source_model(path).manifest, **shapes)]
    listeners = []
    for step in steps.steps:
        if isinstance(step, EngineStep):
            network = parse_network(trt, steps.models[step.part], steps.tensors, name=step.part)
            listeners.append(Listener(network.builder))
            network = dataclasses.replace(network, builder=listeners[-1])
            given = [input_shapes(steps, step, found) for found in traces]
            assert build_serialized(network, given, settings) == b"plan"
    return listeners


def test_every_canvas_is_a_profile_of_tensorrt(exports):
    canvases = "160x224,64x64:96x128:128x160"
    features, boxes = heard(exports("vgg16", "fp16").path, BuildSettings(), batch="1:2:4", size=canvases)
    assert features.config.num_optimization_profiles == boxes.config.num_optimization_profiles == 2
    assert [[*map(tuple, profile.get_shape("images"))] for profile in features.profiles] == [
        [(1, 3, 160, 224), (2, 3, 160, 224), (4, 3, 160, 224)],
        [(1, 3, 64, 64), (2, 3, 96, 128), (4, 3, 128, 160)],
    ]
    for profile in boxes.profiles:
        rois = [shape[0] for shape in profile.get_shape("pooled")]
        assert rois == [rois[0], 2 * rois[0], 4 * rois[0]]


def test_options_reach_tensorrt(exports):
    path, flags = exports("vgg16", "fp16").path, importlib.import_module("tensorrt_rtx").BuilderFlag
    pool = importlib.import_module("tensorrt_rtx").MemoryPoolType.WORKSPACE
    settings = BuildSettings(version_compatible=True, aux_streams=2, workspace_mib=64, optimization_level=4)
    for listener in heard(path, settings, batch="1", size="64x64"):
        config = listener.config
        assert config.get_flag(flags.VERSION_COMPATIBLE) and config.get_flag(flags.EXCLUDE_LEAN_RUNTIME)
        assert (config.max_aux_streams, config.builder_optimization_level) == (2, 4)
        assert config.get_memory_pool_limit(pool) == 64 << 20
    for listener in heard(path, BuildSettings(), batch="1", size="64x64"):
        config = listener.config
        assert not config.get_flag(flags.VERSION_COMPATIBLE) and not config.get_flag(flags.EXCLUDE_LEAN_RUNTIME)
        assert not config.get_flag(flags.TF32)
        assert config.get_memory_pool_limit(pool) > 64 << 20


def test_a_timing_cache_is_written_into_a_new_folder(exports, tmp_path):
    cache = tmp_path / "caches" / "timing.cache"
    built(importlib.import_module("tensorrt_rtx"), exports("vgg16", "fp16").path, BuildSettings(timing_cache=cache))
    assert cache.stat().st_size > 0
    assert [path.name for path in cache.parent.iterdir()] == ["timing.cache"]


@pytest.mark.parametrize("before", [None, b"something else, and long enough to have a header in it"])
def test_an_interrupted_build_leaves_the_timing_cache_as_it_was(before, exports, tmp_path):
    def stop(_share: float) -> None:
        raise KeyboardInterrupt

    cache = tmp_path / "timing.cache"
    if before is not None:
        cache.write_bytes(before)
    settings = BuildSettings(timing_cache=cache, replace_timing_cache=True)
    with pytest.raises(KeyboardInterrupt):
        built(importlib.import_module("tensorrt_rtx"), exports("vgg16", "fp16").path, settings, report=stop)
    assert [found.read_bytes() for found in tmp_path.iterdir()] == ([] if before is None else [before])


def test_an_invalid_timing_cache_is_refused_or_replaced(exports, tmp_path, caplog):
    trt, path, cache = importlib.import_module("tensorrt_rtx"), exports("vgg16", "fp16").path, tmp_path / "timing.cache"
    cache.write_bytes(b"something else, and long enough to have a header in it")
    with pytest.raises(UsageError, match=r"is no timing cache of this TensorRT") as caught:
        built(trt, path, BuildSettings(timing_cache=cache))
    assert "delete this one" in caught.value.hint
    built(trt, path, BuildSettings(timing_cache=cache, replace_timing_cache=True))
    assert not cache.read_bytes().startswith(b"something else")
    assert "timing.cache is no timing cache of this TensorRT on this GPU; a new one takes its place" in caplog.text


def without_plugins(model: onnx.ModelProto) -> onnx.ModelProto:
    """Put standard nodes of the same types where the plugins' nodes would be: a RoI and seven boxes for each image."""
    stand_ins = parser.parse_graph(
        """
        stand_ins (float16[n, 64, h, w] features_0, int32[n, 2] image_sizes, float16[n, 7] class_logits,
                   float16[n, 28] box_deltas) => (float[n, 7, 4] boxes)
        <int64[1] row = {1}, int64[2] cells = {2, 3}, int64[4] grid = {1, 64, 7, 7}, int64[3] of_boxes = {-1, 7, 4}>
        {
            mean = ReduceMean (features_0, cells)
            pooled = Expand (mean, grid)
            num_detections = ReduceMax <keepdims = 0> (image_sizes, row)
            scores = Cast <to = 1> (class_logits)
            labels = Cast <to = 6> (class_logits)
            box_rows = Reshape (box_deltas, of_boxes)
            boxes = Cast <to = 1> (box_rows)
        }
        """
    )
    lowered = onnx.ModelProto()
    lowered.CopyFrom(model)
    del lowered.functions[:], lowered.graph.node[:]
    operators = {"MultiscaleRoIPool": stand_ins.node[:2], "BoxDetections": stand_ins.node[2:], "RegionProposals": []}
    for node in model.graph.node:
        lowered.graph.node.extend(operators[node.op_type] if node.domain == DOMAIN else [node])
    lowered.graph.initializer.extend(stand_ins.initializer)
    return lowered


def pretend_tensorrt(monkeypatch: pytest.MonkeyPatch, capability: str, plugins: ModuleType | None) -> None:
    """Have builds for TensorRT use TensorRT-RTX, on a GPU."""
    monkeypatch.setattr(engine_request, "require_gpu", lambda _wanted: capability)
    monkeypatch.setattr(engine_request, "import_builder", lambda _target: importlib.import_module("tensorrt_rtx"))
    monkeypatch.setattr(engine_request, "load_tensorrt_plugins", lambda: plugins)


def test_tensorrt_with_plugins_builds_one_engine(exports, tmp_path, monkeypatch):
    registered: list[str] = []
    pretend_tensorrt(monkeypatch, "8.9", ModuleType("tensorrt.plugin"))
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
    assert (step.part, step.inputs, step.outputs) == ("engines/model.plan", INPUTS, OUTPUTS)
    assert set(manifest.tensors) == {*INPUTS, *OUTPUTS}
    assert (manifest.target, manifest.compute_capabilities) == ("tensorrt", ("8.9",))
    assert manifest.architectures == ("sm_89", "compute_75")
    # only images are prepared outside of the engine
    assert {name.split("-")[0] for name in manifest.parts if name.startswith("kernels/")} == {"kernels/preprocess"}
    assert manifest.memory.workspace_bytes == 0
    assert 2 * 3 * 160 * 288 * 2 < manifest.memory.tensors_bytes < 2 * 3 * 160 * 288 * 2 + 10_000
    assert {record.element for record in artifact.read_precision() if record.heavy} == {"float16"}
    assert cache.stat().st_size > 0


@pytest.mark.parametrize("form", [None, "split"])
def test_tensorrt_builds_two_engines_without_plugins_and_where_asked(form, exports, tmp_path, monkeypatch, capsys):
    pretend_tensorrt(monkeypatch, "9.0", None if form is None else ModuleType("tensorrt.plugin"))
    monkeypatch.setattr(engine_artifact, "register", lambda **_: pytest.fail("no plugin is needed"))
    path = tmp_path / "model.frcnn"
    manifest = build_engine(exports("vgg16", "fp16").path, path, target="tensorrt", form=form, batch=1, size="160x224")
    operators = [step.operator for step in manifest.steps if not isinstance(step, EngineStep)]
    assert operators == ["RegionProposals", "MultiscaleRoIPool", "BoxDetections"]
    parts = [step.part for step in manifest.steps if isinstance(step, EngineStep)]
    assert parts == ["engines/features.plan", "engines/boxes.plan"]
    assert (manifest.target, manifest.architectures) == ("tensorrt", ("sm_90", "compute_75"))
    kernels = {name.split("-")[0].removeprefix("kernels/") for name in manifest.parts if name.startswith("kernels/")}
    assert {kernel.partition("_")[0] for kernel in kernels} == {"preprocess", "region", "multiscale", "box"}
    assert main(["unpack", str(path), "-o", str(tmp_path / "parts")]) == 0
    # no one command of trtexec runs such an artifact
    assert "trtexec" not in capsys.readouterr().out


@pytest.mark.parametrize("more", [[], ["--timing-cache", "none"]])
def test_a_version_compatible_build_is_summarised(more, exports, tmp_path, monkeypatch, capsys):
    pretend_tensorrt(monkeypatch, "8.9", ModuleType("tensorrt.plugin"))
    path, cache = tmp_path / "model.frcnn", tmp_path / "model.timing"
    options = ["--target", "tensorrt", "--version-compatible", "--batch", "1", "--size", "64x64", *more]
    assert main(["build", str(exports("vgg16", "fp16").path), "-o", str(path), *options]) == 0
    manifest = open_artifact(path).manifest
    assert manifest.version_compatible
    lines = capsys.readouterr().out.splitlines()
    version = f"tensorrt {manifest.target_version}, version compatible,"
    assert lines[1:4] == [
        f"  target:    {version} on compute capability 8.9",
        "  profile:   batch 1, canvas 64x64",
        "  steps:     2 engines, 3 operators",
    ]
    assert lines[7:] == (
        [] if more else [f"  timings:   {cache}: {cache.stat().st_size / 1e6:.1f} MB, for the next build"]
    )
    assert sorted(found.name for found in tmp_path.iterdir()) == ["model.frcnn", *([] if more else ["model.timing"])]


def test_a_plan_for_shapes_that_a_kernel_does_not_take_is_refused_first(exports, tmp_path, monkeypatch):
    """TensorRT asks for kernels minutes into a build, and for the largest shapes only."""
    pretend_tensorrt(monkeypatch, "8.9", ModuleType("tensorrt.plugin"))
    monkeypatch.setattr(engine_artifact, "register", lambda **_: pytest.fail("a plan was begun"))
    model = onnx.load(exports("vgg16").path)
    (node,) = (node for node in model.graph.node if node.op_type == "BoxDetections")
    (most,) = (attribute for attribute in node.attribute if attribute.name == "max_detections")
    most.i = 5000
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(KernelError, match="max_detections must be from 1 to 4096, got 5000"):
        build_engine(tmp_path / "model.onnx", tmp_path / "model.frcnn", target="tensorrt", size="64x64")


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
