"""Artifacts of every narrowed family, built by TensorRT-RTX without a GPU, and builds that fail."""

from __future__ import annotations

import importlib
import os
import signal
from pathlib import Path
from typing import Any

import onnx
import pytest
from support import tiny_models
from support.families import FAMILIES
from support.quantized import quantized

from frcnn.errors import ArtifactError, ExportError, KernelError, OutputError, UsageError
from frcnn.exporter import build_engine
from frcnn.exporter.engine.shapes import initializer_bytes
from frcnn.plugins.cuda.compiler import fingerprint
from frcnn.plugins.operator_kernels import kernels_of_step
from frcnn.plugins.preprocess.kernel import kernels as preprocess_kernels
from frcnn.runtime.model_files.artifact import open_artifact
from frcnn.spec.engine import EngineStep, OperatorStep, kernel_part

trt: Any = importlib.import_module("tensorrt_rtx")
DYNAMIC = "64x64:160x224:288x288"
ARCHITECTURES = ("sm_80", "sm_89")
POOLING = {"align": "MultiscaleRoIAlign", "max": "MultiscaleRoIPool"}
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
    assert [getattr(step, "operator", None) for step in manifest.steps] == [
        *(None, "RegionProposals", POOLING[export.spec.roi_heads.pooler.kind], None, "BoxDetections")
    ]

    element = ELEMENTS[precision]
    proposals, pooling, detections = (step for step in manifest.steps if isinstance(step, OperatorStep))
    maps = [manifest.tensors[name] for name in pooling.inputs[1:]]
    assert len(maps) == len(export.spec.roi_heads.pooler.feature_names)
    assert {(tensor.element, tensor.layout) for tensor in maps} == {(element, "channels_last")}
    between = (*proposals.inputs[1:], *pooling.outputs, *detections.inputs[2:])
    assert {manifest.tensors[name].element for name in between} == {element}
    heavy = [record for record in artifact.read_precision() if record.heavy]
    assert len(heavy) > 10
    assert {record.element for record in heavy} == {element}


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "element"), [(None, "float32"), ("fp16", "float16")])
def test_an_int8_model_builds_an_int8_engine(precision, element, tiny_model, tmp_path):
    path = tmp_path / "model.frcnn"
    manifest = build_quickly(quantized(tiny_model, symmetric=True), path, size="32x64", precision=precision)
    artifact = open_artifact(path)
    assert manifest.precision == manifest.source.precision == "int8"
    assert manifest.source.quantization.symmetric
    between = [manifest.tensors[name] for step in manifest.steps[::3] for name in (*step.inputs, *step.outputs)]
    assert {tensor.element for tensor in between} == {element}
    assert manifest.tensors["features_0"].layout == "channels_last" and manifest.tensors["pooled"].layout == "nhwc"
    elements = [record.element for record in artifact.read_precision() if record.heavy]
    assert (elements.count("int8"), elements.count(element)) == (5, 4)
    assert f"--precision {precision or 'fp32'} " in manifest.build_command(path)


@pytest.mark.slow
def test_an_int8_model_that_has_no_engine_is_refused(tiny_model, tmp_path):
    with pytest.raises(UsageError, match="zero point 0"):
        build_quickly(quantized(tiny_model, symmetric=False), tmp_path / "model.frcnn")
    with pytest.raises(UsageError, match="can be fp32 or fp16, got bf16"):
        build_quickly(quantized(tiny_model, symmetric=True), tmp_path / "model.frcnn", precision="bf16")
    assert names_of(tmp_path) == []


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


def test_the_reported_size_of_the_weights_is_that_of_the_file(exports, vgg16_build):
    reported = vgg16_build[1].memory.weights_bytes
    assert reported == pytest.approx(initializer_bytes(onnx.load(exports("vgg16").path)), rel=0.02)


@pytest.mark.parametrize(
    ("family", "precision"), [("vgg16", "fp32"), ("vgg16", "fp16"), ("resnet50_c4", "fp16"), ("swin_fpn", "fp16")]
)
def test_onnxruntime_gets_the_two_networks_as_onnx(family, precision, exports, tmp_path):
    export = exports(family, precision)
    path = tmp_path / "model.frcnn"
    manifest = build_quickly(export.path, path, target="onnxruntime")
    artifact = open_artifact(path)
    artifact.check_parts()
    assert artifact.manifest == manifest
    assert (manifest.target, manifest.target_version) == ("onnxruntime", onnx.__version__)
    assert manifest.compute_capabilities == ()
    assert "onnxruntime" not in manifest.versions
    assert [str(profile) for profile in manifest.profiles] == [DYNAMIC]
    whole = onnx.load(export.path)
    engines = [step for step in manifest.steps if isinstance(step, EngineStep)]
    assert [step.part for step in engines] == ["engines/features.onnx", "engines/boxes.onnx"]
    for step in engines:
        model = onnx.load_model_from_string(artifact.read_part(step.part))
        onnx.checker.check_model(model, full_check=True)
        assert {opset.domain for opset in model.opset_import} == {""}
        assert not model.functions
        for values, names in ((model.graph.input, step.inputs), (model.graph.output, step.outputs)):
            assert tuple(value.name for value in values) == names
        for value in (*model.graph.input, *model.graph.output):
            tensor, dims = manifest.tensors[value.name], value.type.tensor_type.shape.dim
            assert tensor.layout == "planar" or dims[3].dim_value == export.model.backbone.out_channels
    pooling = manifest.steps[2]
    assert {manifest.tensors[name].layout for name in pooling.inputs[1:]} == {"nhwc"}
    assert manifest.memory.weights_bytes == initializer_bytes(whole)
    heavy = [record for record in artifact.read_precision() if record.heavy]
    assert {record.element for record in heavy} == {ELEMENTS[precision]}
    assert {record.layer for record in heavy} == {
        node.name for node in whole.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")
    }


@pytest.mark.parametrize("target", ["tensorrt-rtx", "onnxruntime"])
def test_what_kernels_cannot_take_is_refused_before_engines_are_built(target, exports, tmp_path):
    model = onnx.load(exports("vgg16").path)
    (node,) = (node for node in model.graph.node if node.op_type == "RegionProposals")
    (top,) = (attribute for attribute in node.attribute if attribute.name == "pre_nms_top_n")
    top.i = 7000
    onnx.save(model, tmp_path / "model.onnx")
    reports: list[str] = []
    with pytest.raises(KernelError, match="pre_nms_top_n must be from 1 to 6144, got 7000"):
        build_quickly(
            tmp_path / "model.onnx",
            tmp_path / "model.frcnn",
            target=target,
            progress=lambda what, _: reports.append(what),
        )
    assert reports == ["reading the graph"]
    assert names_of(tmp_path) == ["model.onnx"]


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
        *(f"building engine {i} of 2" for i in (1, 2)),
        "writing",
    ]
    assert len({share for what, share in reports if what == "building engine 1 of 2"}) > 20
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
    at = next(i for i, node in enumerate(model.graph.node) if node.name == "backbone/1/Relu")
    model.graph.node[at].op_type = "Bernoulli"
    changed = tmp_path / "model.onnx"
    onnx.save(model, changed)
    with pytest.raises(ExportError) as caught:
        build_quickly(changed, tmp_path / "model.frcnn")
    assert caught.value.message.startswith(
        "TensorRT cannot take engines/features.plan: node 'backbone/1/Relu' (Bernoulli): "
    )
    assert "\n" not in caught.value.message
    assert len(caught.value.__notes__) > 1
    assert capfd.readouterr() == ("", "")
    assert names_of(tmp_path) == ["model.onnx"]
