"""Options of a build: what is refused, what they stand for on this system, and which target they choose."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch
from support.engine_files import source_manifest
from support.families import build

from frcnn.cli import main
from frcnn.errors import MissingDependencyError, UsageError
from frcnn.exporter import build_engine
from frcnn.exporter.engine import build_gpu
from frcnn.exporter.engine import request as engine_request
from frcnn.exporter.engine.build_gpu import choose_target
from frcnn.exporter.engine.builder import BuildSettings
from frcnn.exporter.engine.request import Request, prepare, require_sizes, require_target
from frcnn.spec import Quantization
from frcnn.spec.engine import TARGETS

trt: Any = importlib.import_module("tensorrt_rtx")
RTX_DEFAULT = ("sm_80", "sm_86", "sm_89", "sm_120", "sm_121")


def names_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "openvino"}, "target: expected auto, tensorrt-rtx, tensorrt, onnxruntime, got 'openvino'"),
        ({"batch": 0}, "--batch: expected"),
        ({"size": "100x100"}, "--size: expected multiples of 32, got 100x100"),
        ({"architectures": ["sm_1"]}, "kernel architecture: expected some of sm_75"),
        ({"compute_capabilities": ["13.0"]}, "--compute-capability: expected some of 7.5, 8.0, 8.6, 8.9, 12.0, 12.1"),
        ({"compute_capabilities": ["hopper"]}, "--compute-capability: expected some of 7.5, 8.0, 8.6, 8.9, 12.0, 12.1"),
        ({"compute_capabilities": ["8.9", "8.9"]}, "--compute-capability: 8.9 is given twice"),
        ({"optimization_level": 3}, "--optimization-level goes with --target tensorrt, got tensorrt-rtx"),
        ({"timing_cache": "cache"}, "--timing-cache goes with --target tensorrt, got tensorrt-rtx"),
        ({"form": "split"}, "--form goes with --target tensorrt, got tensorrt-rtx"),
        ({"form": "plan", "target": "onnxruntime"}, "--form goes with --target tensorrt, got onnxruntime"),
        ({"form": "both", "target": "tensorrt"}, "form: expected plan or split, got 'both'"),
        ({"optimization_level": 6, "target": "tensorrt"}, "--optimization-level: expected 0 to 5, got 6"),
        ({"aux_streams": -1, "target": "tensorrt"}, "--aux-streams: expected 0 to 64, got -1"),
        ({"workspace_mib": 0, "target": "tensorrt"}, "--workspace: expected 1 to 1048576, got 0"),
        ({"workspace_mib": 1 << 44, "target": "tensorrt"}, "--workspace: expected 1 to 1048576, got 17592186044416"),
        ({"aux_streams": 0}, "--aux-streams goes with --target tensorrt, got tensorrt-rtx"),
        ({"workspace_mib": 64, "target": "onnxruntime"}, "--workspace goes with --target tensorrt, got onnxruntime"),
        ({"version_compatible": True}, "--version-compatible goes with --target tensorrt, got tensorrt-rtx"),
        (
            {"version_compatible": True, "form": "plan", "target": "tensorrt"},
            "--version-compatible goes with --form split, whose engines have no plugins, got --form plan",
        ),
        ({"labels": ["cat"]}, "labels: a model.onnx has its class names already"),
    ],
)
def test_invalid_options_are_refused(options, message, exports, tmp_path):
    with pytest.raises(UsageError) as caught:
        build_engine(exports("vgg16").path, tmp_path / "model.frcnn", **options)
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
    monkeypatch.setattr(engine_request, "import_builder", lambda _target: pytest.fail("TensorRT-RTX was asked for"))
    with pytest.raises(UsageError) as caught:
        build_engine(exports("vgg16").path, tmp_path / "model.frcnn", target="tensorrt-rtx", **options)
    assert caught.value.message == (
        f"{option}: TensorRT-RTX serves GPUs of compute capability 7.5, 8.0, 8.6, 8.9, 12.0, 12.1 and later, "
        f"not {capability}"
    )
    assert "frcnn build model.onnx --target onnxruntime" in caught.value.hint
    assert caught.value.hint.endswith("frcnn build model.onnx --target tensorrt")
    assert names_of(tmp_path) == []


def prepared_for(**options: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    made = prepare(Request(**options))
    return made.compute_capabilities, made.architectures


def test_kernels_are_compiled_for_the_gpus_of_the_engines(monkeypatch):
    """All else that runs the artifact compiles the PTX; what no engine in it can run on has no machine code."""
    assert prepared_for(target="tensorrt-rtx") == ((), RTX_DEFAULT)
    turing = BuildSettings(compute_capabilities=("7.5", "12.0"))
    assert prepared_for(target="tensorrt-rtx", settings=turing) == (("7.5", "12.0"), ("sm_75", "sm_120"))
    everywhere = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "sm_121")
    assert prepared_for(target="onnxruntime") == ((), everywhere)
    hopper = BuildSettings(compute_capabilities=("9.0",))
    assert prepared_for(target="onnxruntime", settings=hopper) == ((), ("sm_90",))
    assert prepared_for(target="onnxruntime", settings=hopper, architectures=("sm_80",)) == ((), ("sm_80",))
    monkeypatch.setattr(engine_request, "import_builder", lambda _target: trt)
    monkeypatch.setattr(engine_request, "load_tensorrt_plugins", lambda: None)
    for found, architecture in (("9.0", "sm_90"), ("10.0", "sm_100")):
        monkeypatch.setattr(build_gpu, "gpu_compute_capability", lambda found=found: found)
        assert prepared_for(target="tensorrt") == ((found,), (architecture,))


def test_onnxruntime_needs_no_tensorrt(monkeypatch):
    monkeypatch.setattr(engine_request, "import_builder", lambda _target: pytest.fail("TensorRT was asked for"))
    made = prepare(Request(target="onnxruntime"))
    assert (made.trt, made.form) == (None, "split")


@pytest.mark.parametrize(
    ("plugins", "form", "expected"),
    [
        (True, None, "plan"),
        (True, "split", "split"),
        (True, "plan", "plan"),
        (False, None, "split"),
        (False, "split", "split"),
    ],
)
def test_the_form_for_tensorrt_is_a_plan_where_it_can_be(plugins, form, expected, monkeypatch):
    monkeypatch.setattr(build_gpu, "gpu_compute_capability", lambda: "9.0")
    monkeypatch.setattr(engine_request, "import_builder", lambda _target: trt)
    found = ModuleType("tensorrt.plugin") if plugins else None
    monkeypatch.setattr(engine_request, "load_tensorrt_plugins", lambda: found)
    assert prepare(Request(target="tensorrt", form=form)).form == expected


def test_a_plan_needs_ahead_of_time_plugins(monkeypatch):
    monkeypatch.setattr(build_gpu, "gpu_compute_capability", lambda: "9.0")
    monkeypatch.setattr(engine_request, "import_builder", lambda _target: trt)
    monkeypatch.setattr(engine_request, "load_tensorrt_plugins", lambda: None)
    with pytest.raises(UsageError, match=r"--form plan needs TensorRT 10\.13 or newer") as caught:
        prepare(Request(target="tensorrt", form="plan"))
    assert "--form split" in (caught.value.hint or "")


@pytest.mark.parametrize("form", [None, "split"])
def test_version_compatible_engines_are_two_whatever_plugins_there_are(form, monkeypatch):
    monkeypatch.setattr(build_gpu, "gpu_compute_capability", lambda: "9.0")
    monkeypatch.setattr(engine_request, "import_builder", lambda _target: trt)
    monkeypatch.setattr(engine_request, "load_tensorrt_plugins", lambda: pytest.fail("plugins were asked for"))
    settings = BuildSettings(version_compatible=True)
    assert prepare(Request(target="tensorrt", form=form, settings=settings)).form == "split"


def test_a_release_without_strong_types_is_refused_with_what_would_serve(monkeypatch):
    monkeypatch.setattr(build_gpu, "gpu_compute_capability", lambda: "9.0")
    old = SimpleNamespace(**vars(trt) | {"__version__": "8.5.3", "NetworkDefinitionCreationFlag": SimpleNamespace()})
    monkeypatch.setattr(engine_request, "import_builder", lambda _target: old)
    monkeypatch.setattr(engine_request, "load_tensorrt_plugins", lambda: None)
    with pytest.raises(
        UsageError, match=r"^--target tensorrt needs .*STRONGLY_TYPED of TensorRT, which 8\.5\.3 does not"
    ) as caught:
        prepare(Request(target="tensorrt"))
    assert caught.value.hint == "install TensorRT 10.6 or newer, or build with --target onnxruntime"


@pytest.mark.parametrize(
    ("here", "named", "has_tensorrt", "target", "reason"),
    [
        (
            None,
            (),
            True,
            "tensorrt-rtx",
            "no GPU is here and none is named",
        ),
        ("8.9", (), True, "tensorrt-rtx", "TensorRT-RTX serves compute capability 8.9"),
        ("13.0", (), False, "tensorrt-rtx", "TensorRT-RTX serves compute capability 13.0"),
        ("9.0", ("8.9", "12.0"), True, "tensorrt-rtx", "TensorRT-RTX serves compute capability 8.9, 12.0"),
        ("9.0", (), True, "tensorrt", "TensorRT-RTX does not serve compute capability 9.0, and TensorRT is installed"),
        ("9.0", ("9.0",), True, "tensorrt", "and TensorRT is installed"),
        ("9.0", (), False, "onnxruntime", "and TensorRT is not installed"),
        ("8.9", ("9.0",), True, "onnxruntime", "and TensorRT builds on the GPU that its engine is for only"),
        (
            None,
            ("8.9", "9.0", "10.0"),
            True,
            "onnxruntime",
            "TensorRT-RTX does not serve compute capability 9.0, 10.0, and",
        ),
    ],
)
def test_auto_chooses_by_the_gpu_that_is_named_or_here(here, named, has_tensorrt, target, reason, monkeypatch):
    monkeypatch.setattr(build_gpu, "gpu_compute_capability", lambda: here)
    monkeypatch.setattr(build_gpu, "find_spec", lambda _name: object() if has_tensorrt else None)
    chosen, text = choose_target(named)
    assert chosen == target
    assert reason in text


def test_the_target_tensorrt_needs_a_gpu(exports, tmp_path, monkeypatch):
    monkeypatch.setattr(build_gpu, "gpu_compute_capability", lambda: None)
    with pytest.raises(UsageError, match="found none") as caught:
        build_engine(exports("vgg16").path, tmp_path / "model.frcnn", target="tensorrt")
    assert "--target tensorrt-rtx" in caught.value.hint
    monkeypatch.setattr(build_gpu, "gpu_compute_capability", lambda: "9.0")
    for wanted, elsewhere in (("8.9", True), ("hopper", True), ("10.0", False)):
        with pytest.raises(UsageError, match=f"builds for the GPU it runs on, 9.0, got {wanted}") as caught:
            build_engine(exports("vgg16").path, tmp_path / "o.frcnn", target="tensorrt", compute_capabilities=[wanted])
        assert ("--target tensorrt-rtx" in caught.value.hint) == elsewhere


def test_a_missing_tensorrt_is_named(exports, tmp_path, monkeypatch):
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("importlib.import_module", absent)
    with pytest.raises(MissingDependencyError) as caught:
        build_engine(exports("vgg16").path, tmp_path / "model.frcnn")
    assert caught.value.hint == "pip install 'frcnn[rtx]'"


@pytest.mark.parametrize(
    ("symmetric", "target", "message", "hint"),
    [
        (False, "tensorrt-rtx", "takes int8 activations with zero point 0", "frcnn quantize model.onnx --for tensorrt"),
        (False, "tensorrt", "takes int8 activations with zero point 0", "frcnn quantize model.onnx --for tensorrt"),
        (True, "onnxruntime", "has no int8 kernels for a GPU", "tensorrt-rtx"),
        (False, "onnxruntime", "has no int8 kernels for a GPU", "tensorrt-rtx"),
    ],
)
def test_an_int8_model_that_a_target_cannot_take_is_refused(symmetric, target, message, hint):
    how = Quantization(quantizer="onnxruntime 1.32.0", symmetric=symmetric, images=8, float_layers=())
    manifest = msgspec.structs.replace(source_manifest(precision="fp32"), precision="int8", quantization=how)
    with pytest.raises(UsageError, match=f"--target {target} {message}") as caught:
        require_target(manifest, target)
    assert hint in caught.value.hint


def test_other_models_are_for_every_target():
    for target in TARGETS:
        require_target(source_manifest(precision="fp16"), target)


@pytest.mark.parametrize(
    ("rpn", "heads", "message"),
    [
        ({"pre_nms_top_n": 7000}, {}, "rpn_pre_nms_top_n_test: .* at most 6144 candidates of a level, got 7000"),
        ({"post_nms_top_n": 5000, "pre_nms_top_n": 4096}, {}, "rpn_post_nms_top_n_test: .* 4096 .*, got 5000"),
        ({}, {"detections_per_img": 5000}, "box_detections_per_img: .* at most 4096 detections of an image, got 5000"),
    ],
)
def test_more_than_kernels_hold_is_refused_with_the_setting_and_its_most(rpn, heads, message):
    model = source_manifest().model
    replace = msgspec.structs.replace
    most = replace(model, rpn=replace(model.rpn, pre_nms_top_n=6144, post_nms_top_n=4096))
    require_sizes(replace(model, rpn=replace(model.rpn, post_nms_top_n=5000)))  # three levels of 1000 have fewer
    require_sizes(replace(most, roi_heads=replace(model.roi_heads, detections_per_img=4096)))
    model = replace(model, rpn=replace(model.rpn, **rpn), roi_heads=replace(model.roi_heads, **heads))
    with pytest.raises(UsageError, match=message) as caught:
        require_sizes(model)
    assert f"--arg {message.partition(':')[0]}={6144 if 'pre_nms' in message else 4096}" in caught.value.hint


def test_more_than_kernels_hold_is_refused_before_a_checkpoint_is_exported(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("frcnn.exporter.commands.build.export_loaded", lambda *args, **options: pytest.fail("exported"))
    builder = "from support.families import vgg16\ndef build():\n    model = vgg16()\n"
    builder += "    model.rpn._pre_nms_top_n['testing'] = 7000\n    return model\n"
    (tmp_path / "mine.py").write_text(builder)
    torch.save(build("vgg16").state_dict(), tmp_path / "mine.pth")
    command = ["build", str(tmp_path / "mine.pth"), "--arch", f"{tmp_path / 'mine.py'}:build", "--target"]
    assert main([*command, "tensorrt-rtx", "-o", str(tmp_path / "model.frcnn")]) == 2
    assert "rpn_pre_nms_top_n_test: kernels for a GPU hold at most 6144 candidates" in capsys.readouterr().err
