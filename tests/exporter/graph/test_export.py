"""``export_onnx``: its arguments, its errors, and the file it writes."""

from __future__ import annotations

import gc
import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from support.exports import detections, run_bare
from support.families import build
from support.images import LANDSCAPE, PORTRAIT, WIDE, network_input
from torch import Tensor, nn

import frcnn
from frcnn.cli import main
from frcnn.errors import ExportError, MissingDependencyError, OutputError, UnsupportedModelError, UsageError
from frcnn.exporter import export_onnx
from frcnn.exporter.graph import export as onnx_export
from frcnn.spec import MANIFEST_KEY, Manifest

FAMILIES_FILE = Path(__file__).parents[2] / "support" / "families.py"
TWO_SIZES = ((160, 224), (224, 160))


def do_not_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Export an empty graph instead of the model, for tests of other steps."""
    monkeypatch.setattr(onnx_export, "trace_networks", lambda *args: (onnx.ModelProto(), onnx.ModelProto()))
    monkeypatch.setattr(onnx_export, "join_networks", lambda features, *args: features)
    monkeypatch.setattr(onnx_export, "finalize_graph", lambda model, *args: model)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": ()}, r"size: expected \(height, width\) or a list of them, got nothing"),
        ({"size": (160,)}, r"size: expected \(height, width\) in pixels, got \(160,\)"),
        ({"size": (160, 224, 3)}, r"size: expected \(height, width\) in pixels"),
        ({"size": (0, 224)}, r"size: expected \(height, width\) in pixels"),
        ({"size": (-32, 224)}, r"size: expected \(height, width\) in pixels"),
        ({"size": ((160, 224), 7)}, r"size: expected \(height, width\) in pixels, got 7"),
        ({"size": ((160.0, 224),)}, r"size: expected \(height, width\) in pixels"),
        ({"size": (150, 224)}, r"size: expected multiples of 32, got 150x224 \(the next canvas is 160x224\)"),
        ({"size": ((160, 224), (160, 225))}, r"size: expected multiples of 32, got 160x225"),
        ({"size": ((160, 224), (160, 224))}, r"size: 160x224 is given twice"),
        *(({"precision": name}, "precision: expected one of fp32, fp16, bf16") for name in ("int8", "FP16", "", None)),
        *(({"labels": names}, "labels: ") for names in (["cat"], ["c"] * 8, ["a", "b", "", "d", "e", "f"])),
    ],
)
def test_invalid_options_are_refused(options, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        export_onnx(build("vgg16"), tmp_path / "model.onnx", **options)
    assert not files(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["roi_heads.box_predictor.bbox_pred.bias", "backbone.body.bn1.running_var"])
def test_weights_with_nan_or_infinity_are_refused(name, value, tmp_path):
    model = build("resnet18_fpn_max")
    with torch.no_grad():
        model.state_dict()[name][1] = value
    with pytest.raises(ExportError, match=f"the weights hold NaN or infinity: {name}"):
        export_onnx(model, tmp_path / "model.onnx")
    assert not files(tmp_path)


def test_a_folder_as_output_is_refused_before_tracing(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "trace_networks", lambda *args: pytest.fail("the model was traced"))
    with pytest.raises(OutputError, match="it is a folder"):
        export_onnx(build("vgg16"), tmp_path)


class Wrapped(nn.Module):
    out_channels = 64

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body


class BranchesOnData(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return y if float(y.sum()) > 0 else -y


class ShapedByData(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return y * torch.nonzero(y > 0).shape[0]


class HasNoOnnxForm(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(self.body(x))


@pytest.mark.parametrize(("wrapper", "operation"), [(BranchesOnData, "_local_scalar_dense"), (ShapedByData, "nonzero")])
def test_a_backbone_that_depends_on_data_is_refused(wrapper, operation, tmp_path):
    model = build("vgg16")
    model.backbone = wrapper(model.backbone)
    with pytest.raises(UnsupportedModelError, match=rf"backbone: .* depends on values in the image \(.*{operation}"):
        export_onnx(model, tmp_path / "model.onnx")
    assert not files(tmp_path)


def test_a_box_head_that_depends_on_data_is_refused(tmp_path):
    model = build("vgg16")
    model.roi_heads.box_head = BranchesOnData(model.roi_heads.box_head)
    with pytest.raises(UnsupportedModelError, match=r"roi_heads\.box_head or box_predictor: .* depends on values"):
        export_onnx(model, tmp_path / "model.onnx")


@pytest.mark.slow
def test_a_model_that_pytorch_cannot_export_is_refused(tmp_path):
    model = build("vgg16")
    model.backbone = HasNoOnnxForm(model.backbone)
    with pytest.raises(ExportError) as caught:
        export_onnx(model, tmp_path / "model.onnx")
    assert caught.value.message.startswith("PyTorch could not export FasterRCNN: No ONNX function found for ")
    assert "bessel_j0" in caught.value.message
    assert not {"\n", "\\", "\x1b"} & set(caught.value.message)
    assert "a static canvas" in caught.value.hint
    assert caught.value.__cause__ is not None
    assert not files(tmp_path)


def test_the_operator_and_the_reason_are_named_without_colours(tmp_path, monkeypatch):
    def fail(*args: Any, **kwargs: Any) -> None:
        try:
            try:
                raise TypeError("float() argument must be a \x1b[1mreal number\x1b[0m, not 'SymbolicTensor'")
            except TypeError as error:
                raise ValueError(
                    "node %mul_701 : call_function[target=torch.ops.aten.mul.Scalar](args = ())"
                ) from error
        except ValueError as error:
            raise RuntimeError("\x1b[96mThis is step 3/3\x1b[0m") from error

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(ExportError) as caught:
        export_onnx(build("vgg16"), tmp_path / "model.onnx", architecture="mine")
    assert caught.value.message == (
        "PyTorch could not export mine: aten.mul.Scalar: float() argument must be a real number, not 'SymbolicTensor'"
    )


@pytest.mark.parametrize(("size", "asks_less"), [(None, True), ((160, 224), False)])
def test_a_static_canvas_is_suggested_if_the_canvas_is_dynamic(size, asks_less, tmp_path, monkeypatch):
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("\nno luck\nwith this")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(ExportError, match=r"^PyTorch could not export mine: no luck \(") as caught:
        export_onnx(build("vgg16"), tmp_path / "model.onnx", size=size, architecture="mine")
    assert ("--size" in caught.value.hint) == asks_less
    assert not files(tmp_path)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    def fail(*args: Any, **kwargs: Any) -> None:
        raise ModuleNotFoundError("No module named 'onnxscript'", name="onnxscript")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(MissingDependencyError, match=r"needs the package 'onnxscript'.*frcnn\[export\]"):
        export_onnx(build("vgg16"), tmp_path / "model.onnx")
    assert not files(tmp_path)


class BoomError(Exception):
    pass


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, BoomError, MemoryError])
@pytest.mark.parametrize("step", ["trace_networks", "join_networks", "finalize_graph", "save"])
def test_an_interrupted_export_leaves_the_old_file_only(step, error, tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"the old model")

    def stop(*args: Any, **kwargs: Any) -> None:
        raise error

    def write_half(model: object, target: Any) -> None:
        Path(target).write_bytes(b"half a mod")
        raise error

    do_not_trace(monkeypatch)
    if step == "save":
        monkeypatch.setattr(onnx, "save_model", write_half)
    else:
        monkeypatch.setattr(onnx_export, step, stop)
    with pytest.raises(error):
        export_onnx(build("vgg16"), path)
    assert files(tmp_path) == ["model.onnx"]
    assert path.read_bytes() == b"the old model"


@pytest.mark.parametrize("was_enabled", [True, False])
def test_garbage_collection_is_disabled_while_pytorch_traces(was_enabled, tmp_path, monkeypatch):
    seen = []

    def stop(*args, **options):
        seen.append(gc.isenabled())
        raise RuntimeError("stop")

    monkeypatch.setattr(torch.onnx, "export", stop)
    before = gc.isenabled()
    (gc.enable if was_enabled else gc.disable)()
    try:
        with pytest.raises(ExportError, match="could not export"):
            export_onnx(build("vgg16"), tmp_path / "model.onnx")
        assert seen == [False]
        assert gc.isenabled() == was_enabled
    finally:
        (gc.enable if before else gc.disable)()


@pytest.mark.parametrize("family", ["vgg16", "resnet18_fpn_max", "resnet50_fpn_v2"])
def test_the_users_model_is_unchanged(family, exports):
    export = exports(family)
    after = export.model.state_dict()
    assert list(after) == list(export.weights_before)
    for name, before in export.weights_before.items():
        assert after[name].dtype == before.dtype
        assert torch.equal(after[name], before), name
    assert not any(module.training for module in export.model.modules())
    assert all(p.requires_grad for p in export.model.roi_heads.parameters())
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in export.model.modules())


def test_the_returned_manifest_is_in_the_file(exports):
    export = exports("resnet18_fpn_max")
    model = onnx.load(export.path)
    (entry,) = model.metadata_props
    assert entry.key == MANIFEST_KEY
    carried = Manifest.from_json(entry.value, source="model.onnx")
    assert carried == export.manifest
    assert carried.model == exports.spec("resnet18_fpn_max")
    assert (carried.precision, carried.canvases, carried.opset) == ("fp32", None, 20)
    assert carried.versions["frcnn"] == frcnn.__version__
    assert carried.versions["torch"] == importlib.metadata.version("torch")
    assert set(carried.versions) == {"frcnn", "torch", "torchvision", "onnx", "onnxscript"}


@pytest.mark.parametrize(("precision", "opset"), [("fp32", 20), ("fp16", 20), ("bf16", 22)])
def test_the_opset_is_the_lowest_that_has_the_types(precision, opset, tmp_path, monkeypatch):
    asked: list[int] = []

    class StopError(Exception):
        pass

    def export(*args: Any, opset_version: int, **kwargs: Any) -> None:
        asked.append(opset_version)
        raise StopError

    monkeypatch.setattr(torch.onnx, "export", export)
    with pytest.raises(ExportError) as caught:
        export_onnx(build("vgg16"), tmp_path / "model.onnx", precision=precision)
    assert isinstance(caught.value.__cause__, StopError)
    assert asked == [opset]
    do_not_trace(monkeypatch)
    assert export_onnx(build("vgg16"), tmp_path / "model.onnx", precision=precision).opset == opset


@pytest.mark.parametrize(("precision", "warned"), [("bf16", True), ("fp16", False)])
def test_the_command_reports_where_bf16_runs(precision, warned, tmp_path, monkeypatch, capsys):
    do_not_trace(monkeypatch)
    checkpoint, output = tmp_path / "checkpoint.pth", tmp_path / "model.onnx"
    torch.save(build("vgg16").state_dict(), checkpoint)
    command = ["export", str(checkpoint), "--arch", f"{FAMILIES_FILE}:vgg16", "-o", str(output)]
    assert main([*command, "--precision", precision]) == 0
    printed = capsys.readouterr().out
    assert f"{precision}, " in printed
    assert ("  runs:    with TensorRT and CUDA only" in printed) is warned


def test_the_arguments_are_in_the_manifest(tmp_path, monkeypatch):
    do_not_trace(monkeypatch)
    steps: list[str] = []
    manifest = export_onnx(
        build("resnet18_fpn_max"),
        tmp_path / "model.onnx",
        labels=["leaf"],
        size=[[160, 224], (96, 64)],
        precision="fp16",
        architecture="mine",
        source_sha256="abc",
        assumptions=["min_size=160"],
        progress=steps.append,
    )
    assert steps == ["checking the weights", "joining the networks", "checking the graph", "writing model.onnx"]
    assert manifest.model.labels == ("__background__", "leaf")
    assert manifest.model.architecture == "mine"
    assert manifest.canvases == ((160, 224), (96, 64))
    assert (manifest.precision, manifest.source_sha256) == ("fp16", "abc")
    assert manifest.assumptions == ("min_size=160",)


DYNAMIC = ["batch", 3, "32*h", "32*w"]


@pytest.mark.parametrize(
    ("family", "precision", "size", "shape"),
    [
        ("vgg16", "fp32", None, DYNAMIC),
        ("vgg16", "fp16", None, DYNAMIC),
        ("vgg16", "fp32", (160, 224), ["batch", 3, 160, 224]),
        ("resnet18_fpn_max", "fp32", TWO_SIZES, DYNAMIC),
    ],
)
def test_inputs_and_outputs(family, precision, size, shape, exports):
    export = exports(family, precision, size)
    session = exports.session(export)
    maximum = export.spec.roi_heads.detections_per_img
    kind = "tensor(float16)" if precision == "fp16" else "tensor(float)"
    assert [(v.name, v.type, v.shape) for v in session.get_inputs()] == [
        ("images", kind, shape),
        ("image_sizes", "tensor(int32)", ["batch", 2]),
    ]
    assert [(v.name, v.type, v.shape) for v in session.get_outputs()] == [
        ("num_detections", "tensor(int32)", ["batch"]),
        ("boxes", "tensor(float)", ["batch", maximum, 4]),
        ("scores", "tensor(float)", ["batch", maximum]),
        ("labels", "tensor(int32)", ["batch", maximum]),
    ]


def test_a_static_canvas_gives_the_detections_of_the_dynamic_graph(exports):
    dynamic, static = exports("vgg16"), exports("vgg16", size=(160, 224))
    assert static.manifest.canvases == ((160, 224),)
    images, sizes = network_input(dynamic.model, dynamic.spec, LANDSCAPE)
    expected = run_bare(exports.session(dynamic), images, sizes)
    found = run_bare(exports.session(static), images, sizes)
    assert expected[0].min() > 10
    for a, b in zip(detections(found, sizes), detections(expected, sizes), strict=True):
        assert np.array_equal(a.labels, b.labels)
        np.testing.assert_allclose(a.boxes, b.boxes, rtol=0, atol=1e-4)
        np.testing.assert_allclose(a.scores, b.scores, rtol=0, atol=1e-6)


def test_several_sizes_give_the_detections_of_the_dynamic_graph(exports):
    dynamic, several = exports("resnet18_fpn_max"), exports("resnet18_fpn_max", size=TWO_SIZES)
    assert several.manifest.canvases == TWO_SIZES
    for shape in (LANDSCAPE, PORTRAIT):
        images, sizes = network_input(dynamic.model, dynamic.spec, shape)
        assert several.manifest.canvas_for(sizes[0]) == tuple(images.shape[2:])
        expected = run_bare(exports.session(dynamic), images, sizes)
        found = run_bare(exports.session(several), images, sizes)
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    assert several.manifest.canvas_for(several.spec.transform.resized_size(*WIDE)) is None
