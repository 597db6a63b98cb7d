"""Artifacts of every narrowed family, built by TensorRT-RTX without a GPU, and builds that fail."""

from __future__ import annotations

import importlib
import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from support import tiny_models
from support.families import FAMILIES

from frcnn.errors import ArtifactError, ExportError, MissingDependencyError, OutputError, UsageError
from frcnn.exporter import build_engine
from frcnn.exporter.engine import artifact as engine_artifact
from frcnn.exporter.engine import build_gpu
from frcnn.exporter.engine.artifact import Request, prepare
from frcnn.exporter.engine.builder import BuildSettings
from frcnn.exporter.engine.profiles import make_profiles
from frcnn.exporter.engine.shapes import initializer_bytes, memory_needs, shapes_of_profile, trace
from frcnn.exporter.engine.steps import kernels_of_step, steps_between_operators
from frcnn.plugins.cuda.compiler import fingerprint
from frcnn.plugins.preprocess.kernel import kernels as preprocess_kernels
from frcnn.runtime.model_files.artifact import open_artifact
from frcnn.spec.engine import OUTPUTS, EngineStep, OperatorStep, kernel_part

trt: Any = importlib.import_module("tensorrt_rtx")
DYNAMIC = "64x64:160x224:288x288"
ARCHITECTURES = ("sm_80", "sm_89")
ELEMENTS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def build_quickly(model: Any, path: Path, **options: Any) -> Any:
    """Build for one range of sizes and few architectures, where the test is about something else."""
    return build_engine(model, path, **{"batch": "1:1:2", "size": DYNAMIC, "architectures": ARCHITECTURES} | options)


def names_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture(scope="module")
def vgg16_build(exports, tmp_path_factory):
    """Build vgg16 in float32 once, for the tests that only look at the artifact."""
    path = tmp_path_factory.mktemp("build") / "model.frcnn"
    return path, build_quickly(exports("vgg16").path, path)


@pytest.mark.parametrize(
    ("family", "precision"),
    [*((family, precision) for family in FAMILIES for precision in ("fp32", "fp16")), ("vgg16", "bf16")],
)
def test_every_family_builds_for_any_batch_and_size(family, precision, exports, tmp_path):
    export = exports(family, precision)
    path = tmp_path / "model.frcnn"
    manifest = build_quickly(export.path, path)

    artifact = open_artifact(path)
    assert artifact.manifest == manifest
    artifact.check_parts()
    assert names_of(tmp_path) == ["model.frcnn"]
    assert manifest.source == export.manifest
    assert (manifest.target, manifest.target_version) == ("tensorrt-rtx", trt.__version__)
    assert manifest.precision == precision
    assert [type(step) for step in manifest.steps] == [EngineStep, OperatorStep] * 3 + [EngineStep]

    element = ELEMENTS[precision]
    nms, pooling, last = (step for step in manifest.steps if isinstance(step, OperatorStep))
    assert [nms.operator, last.operator] == ["GroupedNMS"] * 2
    assert {manifest.tensors[name].element for name in (*nms.inputs, *last.inputs, pooling.inputs[0])} == {"float32"}
    maps = [manifest.tensors[name] for name in pooling.inputs[1:]]
    assert len(maps) == len(export.spec.roi_heads.pooler.feature_names)
    assert {(tensor.element, tensor.layout) for tensor in maps} == {(element, "channels_last")}
    assert [name for name, t in manifest.tensors.items() if t.layout != "planar"] == sorted(
        pooling.inputs[1:], key=list(manifest.tensors).index
    )
    assert manifest.tensors["images"].element == element
    heavy = [record for record in artifact.read_precision() if record.heavy]
    assert len(heavy) > 10
    assert {record.element for record in heavy} == {element}


def test_the_artifact_has_every_kernel_that_the_runtime_launches(exports, tmp_path):
    manifest = build_quickly(exports("resnet18_fpn_max", "fp16").path, tmp_path / "model.frcnn")
    transform = manifest.source.model.transform
    wanted = [
        *preprocess_kernels(element="float16", image_mean=transform.image_mean, image_std=transform.image_std),
        *(
            k
            for step in manifest.steps
            if isinstance(step, OperatorStep)
            for k in kernels_of_step(step, manifest.tensors)
        ),
    ]
    assert manifest.architectures == ("sm_80", "sm_89", "compute_75")
    names = {kernel_part(k.entry, fingerprint(k), name) for k in wanted for name in manifest.architectures}
    assert names == {name for name in manifest.parts if name.startswith("kernels/")}
    code = {name: open_artifact(tmp_path / "model.frcnn").read_part(name) for name in names}
    assert all(data.startswith(b"\x7fELF") for name, data in code.items() if name.endswith(".cubin"))
    assert all(b".target sm_75" in data for name, data in code.items() if name.endswith(".ptx"))


@pytest.mark.parametrize(("family", "precision"), [("vgg16", "fp32"), ("resnet18_fpn_max", "fp32"), ("vgg16", "fp16")])
def test_the_shapes_between_steps_equal_those_of_onnxruntime(family, precision, exports):
    """Against ONNX Runtime running the whole graph, with what crosses the cuts among its outputs."""
    export = exports(family, precision)
    model = onnx.load(export.path)
    steps = steps_between_operators(trt, model)
    crossing = [name for name in steps.tensors if name not in ("images", "image_sizes", *OUTPUTS)]
    known = {value.name: value for value in model.graph.value_info}
    model.graph.output.extend(known[name] for name in crossing)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kind = np.float16 if precision == "fp16" else np.float32
    for batch, canvas in ((2, (96, 160)), (1, (224, 64))):
        feeds = {"images": np.zeros((batch, 3, *canvas), kind), "image_sizes": np.array([canvas] * batch, np.int32)}
        names = [*crossing, *OUTPUTS]
        found = dict(zip(names, (value.shape for value in session.run(names, feeds)), strict=True))
        traced = trace(steps, batch, canvas).shapes
        assert {name: traced[name] for name in names} == found
        assert traced["images"] == (batch, 3, *canvas)


def test_memory_needs_are_those_of_the_largest_shapes(exports):
    export = exports("vgg16", "fp16")
    model = onnx.load(export.path)
    steps = steps_between_operators(trt, model)
    profiles = make_profiles(export.manifest, batch="1:1:4", size="64x64,160x224,32x32:64x64:96x96")
    traces = [shapes_of_profile(steps, profile)[1] for profile in profiles]
    needs = memory_needs(traces, steps.tensors, [10, 20])

    largest = traces[1].shapes
    assert largest["images"] == (4, 3, 160, 224)
    sizes = {"float32": 4, "float16": 2, "int32": 4, "int64": 8, "bool": 1}
    expected = sum(
        math.ceil(math.prod(largest[name]) * sizes[tensor.element] / 256) * 256
        for name, tensor in steps.tensors.items()
    )
    assert needs.tensors_bytes == expected
    groups, boxes = largest[next(step.inputs[1] for step in steps.operators)]
    tiles = math.ceil(boxes / 32)
    first = math.ceil(groups * boxes * 4 / 256) * 256 + groups * 16 * tiles * (tiles + 1) * 4
    assert traces[1].scratch_bytes["rpn/GroupedNMS"] == first
    assert needs.workspace_bytes == max(traces[1].scratch_bytes.values()) >= first
    assert needs.weights_bytes == 30


def test_the_reported_size_of_the_weights_is_that_of_the_file(exports, vgg16_build):
    reported = vgg16_build[1].memory.weights_bytes
    assert reported == pytest.approx(initializer_bytes(onnx.load(exports("vgg16").path)), rel=0.02)


def test_maps_without_a_channels_last_format_stay_planar(exports, tmp_path):
    """Of 64 channels three are left: no vector of 16 bytes, and HWC8 would pad them."""
    model = onnx.load(exports("vgg16", "fp16").path)
    (pooling,) = (node for node in model.graph.node if node.op_type == "MultiscaleRoIPool")
    whole = pooling.input[1]
    pooling.input[1] = "three"
    at = list(model.graph.node).index(pooling)
    for name, values in (("starts", [0]), ("ends", [3]), ("axes", [1])):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(values, np.int64), name))
    model.graph.node.insert(
        at, onnx.helper.make_node("Slice", [whole, "starts", "ends", "axes"], ["three"], name="slice")
    )
    dims = next(value for value in model.graph.value_info if value.name == whole).type.tensor_type.shape.dim
    shape = [dims[0].dim_param, 3, dims[2].dim_param, dims[3].dim_param]
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("three", onnx.TensorProto.FLOAT16, shape))
    with pytest.raises(ExportError):  # the head wants 64; but by then the maps' layout is known
        trace(steps := steps_between_operators(trt, model), 1, (64, 64))
    assert steps.tensors["three"].layout == "planar"


def test_several_static_profiles_and_a_chosen_gpu(exports, tmp_path):
    manifest = build_engine(
        exports("vgg16", "fp16").path,
        tmp_path / "model.frcnn",
        batch=2,
        size="160x224,224x160",
        compute_capabilities=["8.9", "12.0"],
    )
    assert [str(profile) for profile in manifest.profiles] == ["160x224", "224x160"]
    assert {str(profile.batch) for profile in manifest.profiles} == {"2"}
    assert manifest.compute_capabilities == ("8.9", "12.0")
    assert manifest.architectures == ("sm_89", "sm_120", "compute_75")
    assert manifest.profile_for(2, (224, 160)) == 1


def test_a_static_file_builds_for_its_own_canvas(exports, tmp_path):
    export = exports("vgg16", size=(160, 224))
    manifest = build_engine(export.path, tmp_path / "model.frcnn", architectures=["sm_89"])
    assert [str(profile) for profile in manifest.profiles] == ["160x224"]
    assert str(manifest.profiles[0].batch) == "1:1:8"
    with pytest.raises(UsageError, match="takes the canvases 160x224 only"):
        build_engine(export.path, tmp_path / "other.frcnn", size="224x160")


@pytest.mark.slow
def test_a_live_model_is_exported_first(tmp_path):
    manifest = build_engine(
        tiny_models.build().eval(),
        tmp_path / "model.frcnn",
        labels=["cat", "dog", "teddy"],
        precision="fp16",
        size="64x96",
        architectures=["sm_89"],
    )
    assert manifest.precision == manifest.source.precision == "fp16"
    assert manifest.source.canvases == ((64, 96),)
    assert manifest.source.model.label_name(3) == "teddy"
    assert names_of(tmp_path) == ["model.frcnn"]


def test_a_second_build_is_the_same_reports_progress_and_prints_nothing(exports, vgg16_build, tmp_path, capfd):
    reports: list[tuple[str, float]] = []
    second = build_quickly(
        exports("vgg16").path, tmp_path / "model.frcnn", progress=lambda *report: reports.append(report)
    )
    assert capfd.readouterr() == ("", "")
    shares = [share for _, share in reports]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert list(dict.fromkeys(what for what, _ in reports)) == [
        "reading the graph",
        "compiling kernels",
        *(f"building engine {i} of 4" for i in range(1, 5)),
        "writing",
    ]
    assert len({share for what, share in reports if what == "building engine 1 of 4"}) > 20
    _, first = vgg16_build
    assert (first.steps, first.tensors, first.memory) == (second.steps, second.tensors, second.memory)
    assert list(first.parts) == list(second.parts)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_build_and_leaves_nothing(number, exports, tmp_path):
    class Stopped(BaseException):
        pass

    shares: list[float] = []
    sent: list[int] = []

    def progress(what: str, share: float) -> None:
        shares.append(share)
        if what.startswith("building engine 1") and share > 0.2 and not sent:
            sent.append(number)
            os.kill(os.getpid(), number)

    def stop(_number: int, _frame: Any) -> None:
        raise Stopped

    previous = signal.signal(number, stop)
    try:
        with pytest.raises(Stopped):
            build_quickly(exports("vgg16").path, tmp_path / "model.frcnn", progress=progress)
        assert signal.getsignal(number) is stop
    finally:
        signal.signal(number, previous)
    assert sent == [number]
    assert shares[-1] < 0.7  # the first engine takes most of the work
    assert names_of(tmp_path) == []


def test_an_error_in_the_progress_callback_is_raised(exports, tmp_path):
    def progress(what: str, _share: float) -> None:
        if what.startswith("building engine 2"):
            raise RuntimeError("the caller's own")

    (tmp_path / "model.frcnn").write_bytes(b"before")
    with pytest.raises(RuntimeError, match="the caller's own"):
        build_quickly(exports("vgg16").path, tmp_path / "model.frcnn", progress=progress)
    assert (tmp_path / "model.frcnn").read_bytes() == b"before"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "openvino"}, "target: expected tensorrt-rtx or tensorrt, got 'openvino'"),
        ({"batch": 0}, "--batch: expected"),
        ({"size": "100x100"}, "--size: expected multiples of 32, got 100x100"),
        ({"architectures": ["sm_1"]}, "kernel architecture: expected some of sm_75"),
        ({"compute_capabilities": ["13.0"]}, "--compute-capability: expected some of 7.5, 8.0, 8.6, 8.9, 12.0, 12.1"),
        ({"compute_capabilities": ["hopper"]}, "--compute-capability: expected some of 7.5, 8.0, 8.6, 8.9, 12.0, 12.1"),
        ({"compute_capabilities": ["8.9", "8.9"]}, "--compute-capability: 8.9 is given twice"),
        ({"optimization_level": 3}, "--optimization-level goes with --target tensorrt"),
        ({"timing_cache": "cache"}, "--timing-cache goes with --target tensorrt"),
        ({"optimization_level": 6, "target": "tensorrt"}, "--optimization-level: expected 0 to 5, got 6"),
        ({"labels": ["cat"]}, "labels: a model.onnx has its class names already"),
    ],
)
def test_invalid_options_are_refused(options, message, exports, tmp_path):
    with pytest.raises(UsageError) as caught:
        build_quickly(exports("vgg16").path, tmp_path / "model.frcnn", **options)
    assert message in caught.value.message
    assert names_of(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "option", "capability"),
    [
        ({"compute_capabilities": ["9.0"]}, "--compute-capability 9.0", "9.0"),
        ({"compute_capabilities": ["8.9", "10.0"]}, "--compute-capability 10.0", "10.0"),
        ({"compute_capabilities": ["11.0"]}, "--compute-capability 11.0", "11.0"),
        ({"architectures": ["sm_89", "sm_90"]}, "--kernel-arch sm_90", "9.0"),
        ({"architectures": ["sm_90a"]}, "--kernel-arch sm_90a", "9.0"),
        ({"architectures": ["sm_100"]}, "--kernel-arch sm_100", "10.0"),
        ({"architectures": ["sm_103f"]}, "--kernel-arch sm_103f", "10.3"),
    ],
)
def test_a_gpu_that_tensorrt_rtx_does_not_support_is_refused_before_tensorrt_is_imported(
    options, option, capability, exports, tmp_path, monkeypatch
):
    monkeypatch.setattr(engine_artifact, "import_builder", lambda _target: pytest.fail("TensorRT-RTX was asked for"))
    with pytest.raises(UsageError) as caught:
        build_quickly(exports("vgg16").path, tmp_path / "model.frcnn", **options)
    assert caught.value.message == (
        f"{option}: TensorRT-RTX serves GPUs of compute capability 7.5, 8.0, 8.6, 8.9, 12.0, 12.1 and later, "
        f"not {capability}"
    )
    assert "onnxruntime-gpu" in caught.value.hint
    assert caught.value.hint.endswith("frcnn build model.onnx --target tensorrt")
    assert names_of(tmp_path) == []


def test_kernels_are_compiled_for_the_gpus_of_the_engines(monkeypatch):
    """All else that runs the artifact compiles the PTX; what no engine in it can run on has no machine code."""
    assert prepare(Request())[1:] == ((), ("sm_80", "sm_86", "sm_89", "sm_120", "sm_121"))
    turing = BuildSettings(compute_capabilities=("7.5", "12.0"))
    assert prepare(Request(settings=turing))[1:] == (("7.5", "12.0"), ("sm_75", "sm_120"))
    monkeypatch.setattr(engine_artifact, "import_builder", lambda _target: trt)
    for found, architecture in (("9.0", "sm_90"), ("10.0", "sm_100")):
        monkeypatch.setattr(build_gpu, "gpu_compute_capability", lambda found=found: found)
        assert prepare(Request(target="tensorrt"))[1:] == ((found,), (architecture,))


def test_the_target_tensorrt_needs_a_gpu(exports, tmp_path, monkeypatch):
    monkeypatch.setattr(build_gpu, "gpu_compute_capability", lambda: None)
    with pytest.raises(UsageError, match="found none") as caught:
        build_quickly(exports("vgg16").path, tmp_path / "model.frcnn", target="tensorrt")
    assert "--target tensorrt-rtx" in caught.value.hint
    monkeypatch.setattr(build_gpu, "gpu_compute_capability", lambda: "9.0")
    for wanted, elsewhere in (("8.9", True), ("hopper", True), ("10.0", False)):
        with pytest.raises(UsageError, match=f"builds for the GPU it runs on, 9.0, got {wanted}") as caught:
            build_quickly(exports("vgg16").path, tmp_path / "o.frcnn", target="tensorrt", compute_capabilities=[wanted])
        assert ("--target tensorrt-rtx" in caught.value.hint) == elsewhere


def test_a_missing_tensorrt_is_named(exports, tmp_path, monkeypatch):
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("frcnn.exporter.engine.builder.importlib.import_module", absent)
    with pytest.raises(MissingDependencyError) as caught:
        build_quickly(exports("vgg16").path, tmp_path / "model.frcnn")
    assert caught.value.hint == "pip install 'frcnn[rtx]'"


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, ArtifactError, "no such file"),
        (b"\x08\x0a\x12\xff\xff", ArtifactError, "damaged or cut short"),
        (b"\x80\x02}q\x00.", UsageError, "expected a model.onnx or a FasterRCNN, got another file"),
        (onnx.helper.make_model(onnx.GraphProto(name="g")).SerializeToString(), ArtifactError, "not one of frcnn's"),
    ],
)
def test_other_files_are_refused(content, error, message, vgg16_build, tmp_path):
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=message):
        build_engine(path, tmp_path / "model.frcnn")
    with pytest.raises(ArtifactError, match="got an engine artifact") as caught:
        build_engine(vgg16_build[0], tmp_path / "again.frcnn")
    assert "start from its model.onnx" in caught.value.hint


def test_an_invalid_folder_is_refused_before_the_build(exports, tmp_path):
    (tmp_path / "file").write_text("")
    reports: list[str] = []
    with pytest.raises(OutputError):
        build_quickly(
            exports("vgg16").path, tmp_path / "file" / "m.frcnn", progress=lambda what, _: reports.append(what)
        )
    assert reports == []


def test_a_graph_that_tensorrt_cannot_parse_is_refused_with_the_reason(exports, tmp_path, capfd):
    model = onnx.load(exports("vgg16").path)
    at = next(i for i, node in enumerate(model.graph.node) if node.name == "backbone/0/Conv")
    model.graph.node[at].op_type = "NoSuchOperator"
    changed = tmp_path / "model.onnx"
    onnx.save(model, changed)
    with pytest.raises(ExportError) as caught:
        build_quickly(changed, tmp_path / "model.frcnn")
    assert caught.value.message.startswith(
        "TensorRT cannot take engines/0.plan: node 'backbone/0/Conv' (NoSuchOperator): "
    )
    assert "\n" not in caught.value.message
    assert len(caught.value.__notes__) > 1
    assert capfd.readouterr() == ("", "")
    assert names_of(tmp_path) == ["model.onnx"]
