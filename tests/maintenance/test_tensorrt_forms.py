"""The measurement of TensorRT on the CPU: artifacts for ONNX Runtime in the place of TensorRT's, the fake device."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import maintenance.cases as cases
import maintenance.tensorrt_forms as tensorrt_forms
import msgspec
import numpy as np
import onnx
import pytest
import torch
from maintenance.bare_detector import BareDetector
from maintenance.bench_models import MODELS, draw_images, make_artifacts
from maintenance.cases import Case, Run, run_cases
from maintenance.committed import Committed, read_committed
from maintenance.performance_page import page, readme_table
from maintenance.tensorrt_forms import CASES
from onnxruntime import InferenceSession
from support.cuda_on_cpu import let_cuda_be_the_cpu
from support.staged_artifact import kernel_parts, stream_engine

from frcnn.benchmarks.parity.comparison import ImageParity, compare_detections
from frcnn.benchmarks.timing.measure import Limits
from frcnn.errors import ExportError
from frcnn.exporter import build_engine
from frcnn.runtime import Detector
from frcnn.runtime.gpu.backend import EngineBackend
from frcnn.runtime.model_files.artifact import open_artifact
from frcnn.runtime.model_files.engine_artifact import EngineArtifact
from frcnn.spec.engine import EngineStep

QUICK = Limits(budget_s=1, min_rounds=1, max_rounds=1, max_calls=1, max_warm_up=1, settle_s=0)
ENGINES = ("tensorrt", "target", "form", "optimization_level", "timing_cache", "aux_streams", "version_compatible")


def case(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


DEMO = replace(MODELS["demo"], precisions=("fp16",), scenes=(2, None))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the demo's export and images."""
    folder = tmp_path_factory.mktemp("models")
    make_artifacts(folder, DEMO, target="none")
    draw_images(folder, DEMO).rename(folder / "resnet50-fpn-images")
    return folder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, exported: Path) -> Run:
    """A run in which every model is the demo, and artifacts for TensorRT are some for ONNX Runtime."""
    device = let_cuda_be_the_cpu(monkeypatch)
    device.durations_ms = {"network": 2.0, "region_proposals_select": 0.5}
    models = shutil.copytree(exported, tmp_path / "models")

    def build(source: Path, path: Path, **options: Any) -> Any:
        rest = {name: value for name, value in options.items() if name not in ENGINES}
        return build_engine(source, path, target="onnxruntime", architectures=["sm_89"], **rest)

    def opened(artifact: EngineArtifact) -> tuple[Any, Any, Any]:
        manifest = artifact.manifest
        codes = kernel_parts(manifest.source.model.transform, manifest.steps, manifest.tensors)
        parts = [step.part for step in manifest.steps if isinstance(step, EngineStep)]
        engines = {part: stream_engine(device, artifact.read_part(part), manifest, part) for part in parts}
        return manifest, codes.__getitem__, engines

    def bare(artifact: EngineArtifact) -> BareDetector:
        manifest, read_part, engines = opened(artifact)
        return BareDetector(manifest, read_part, device, engines)

    def load(path: Path) -> Detector:
        artifact = open_artifact(path)
        assert isinstance(artifact, EngineArtifact)
        manifest, read_part, engines = opened(artifact)
        return Detector(EngineBackend(manifest, read_part, device, engines), manifest.source)

    for name, value in {
        "MODELS": dict.fromkeys(MODELS, DEMO),
        "_REPLAYS": 2,
        "draw": device.draw,
        "build_engine": build,
        "open_bare": bare,
        "Detector": SimpleNamespace(load=load),
        "IMAGE": (96, 160),
    }.items():
        monkeypatch.setattr(tensorrt_forms, name, value)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1000, 2000))
    return Run(path=tmp_path / "case.json", models=models, limits=QUICK)


@pytest.fixture
def empty(tmp_path: Path) -> Run:
    """A run without models."""
    return Run(path=tmp_path / "case.json", models=tmp_path, limits=QUICK)


def kept(run: Run) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(run.path.read_text())
    assert report == json.loads(json.dumps(run.report)), "something was measured and not written"
    return report


@pytest.mark.slow
def test_an_artifact_is_built_measured_and_compared(run: Run, tmp_path: Path) -> None:
    case("split").run(run)
    report = kept(run)
    assert report["failed"] == []
    (artifact,) = report["artifacts"]
    assert artifact["ran"]
    assert artifact["name"] == "resnet50-fpn split fp16"
    assert artifact["build_s"] > 0
    assert artifact["heavy_layers"].keys() == {"float16"}
    (checks,) = report["checks"]
    assert checks["has_graph"]
    assert (checks["replays"], checks["different_replays"]) == (2, 0)
    assert checks["arena_bytes"] > 0
    (stages,) = report["stages"]
    assert [name for name in stages["microseconds"] if name.startswith("engine")] == [
        "engine: engines/features.onnx",
        "engine: engines/boxes.onnx",
    ]
    assert stages["ours"] == pytest.approx(0.5 / 4.5)
    (model,) = report["models"]
    rows = {entry["what"]: set(entry["ways"]) for entry in model["measurements"]}
    assert rows == {
        "pipeline, resnet50-fpn split fp16": {"one CUDA graph", "launched step by step"},
        "image": {"fp32", "tf32", "fp16 autocast", "fp16 autocast, channels last", "resnet50-fpn split fp16"},
    }
    parity = {entry["what"]: entry for entry in report["parity"]}
    assert set(parity) == {
        "ours, eager fp32",
        "ours, eager fp16 autocast",
        "eager fp16 autocast, eager fp32",
    }
    assert parity["ours, eager fp32"]["passed"]
    assert parity["ours, eager fp32"]["matched"] > 0
    assert parity["eager fp16 autocast, eager fp32"]["box_px"] == 0, "the CPU has no autocast here: the same twice"
    shown = page(committed(report, tmp_path / "results"))
    assert "| resnet50-fpn split fp16, batch 1 | upload: image_sizes" in shown
    assert "| resnet50-fpn split fp16 | ours, eager fp32 | images 2," in shown


@pytest.mark.slow
def test_what_disagrees_with_eager_did_not_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_forms, "compare_detections", disagreeing)
    case("split").run(run)
    report = kept(run)
    assert [entry["error"] for entry in report["failed"]] == ["ours, eager fp32 disagree"]
    assert not report["artifacts"][0]["ran"]


def disagreeing(*given: Any, **named: Any) -> ImageParity:
    """Return a comparison in which one detection has no partner."""
    return msgspec.structs.replace(compare_detections(*given, **named), unmatched=1)


def committed(report: dict[str, Any], folder: Path) -> Committed:
    """Return what would be committed of a report."""
    folder.mkdir()
    gpu = {"name": "NVIDIA H100 80GB HBM3", "compute_capability": "9.0"}
    environment = {"device": gpu["name"], "gpu": gpu, "date": "2026-11-27T10:00:00+00:00", "command": "x"}
    (folder / "tensorrt-h100.json").write_text(json.dumps(report | {"environment": environment}))
    return read_committed(folder)


@pytest.mark.slow
def test_what_is_built_is_found_again(run: Run) -> None:
    case("probe").run(run)
    case("probe").run(run)
    first, second = kept(run)["artifacts"]
    assert first["build_s"] > 0
    assert second["build_s"] is None
    assert second["file_bytes"] == first["file_bytes"]


@pytest.mark.slow
def test_naive_plans_stand_beside_ours_and_a_failed_one_is_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT's place is taken; the export and what is made of it are real, and run in ONNX Runtime."""
    built: list[tuple[bool, bool]] = []

    def build(trt: Any, model: onnx.ModelProto, *, timing: Path, fp16_flag: bool = False) -> bytes:
        ran = InferenceSession(model.SerializeToString()).run(None, {"image": np.zeros((3, 96, 160), np.float32)})
        assert [len(output.shape) for output in ran] == [2, 1, 1]
        has_if = any(node.op_type == "If" for node in model.graph.node)
        if has_if:
            raise ExportError("TensorRT cannot take torchvision's export: node '/If' (If)")
        built.append(
            (fp16_flag, any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer))
        )
        return b"plan"

    class Engine:
        def __init__(self, trt: Any, plan: bytes) -> None:
            assert plan == b"plan"

        def __call__(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"boxes": torch.zeros(3, 4)}

    trt = SimpleNamespace(BuilderFlag=SimpleNamespace(FP16=0), __version__="10.6.0")
    for name, value in {
        "load_tensorrt": lambda: trt,
        "load_tensorrt_plugins": lambda: None,
        "build_naive": build,
        "NaiveEngine": Engine,
    }.items():
        monkeypatch.setattr(tensorrt_forms, name, value)
    case("side by side").run(run)
    report = kept(run)
    assert built == [(True, False), (False, True), (False, False)]
    assert [entry["case"] for entry in report["failed"]] == ["naive, fp32 (TF32)"]
    (measured,) = report["models"][0]["measurements"]
    naive = {"fp32 (TF32)", "converted to fp16", "builder's flag fp16"}
    assert set(measured["ways"]) == {
        *("fp32", "tf32", "fp16 autocast", "fp16 autocast, channels last", "resnet50-fpn split fp16"),
        *(f"naive without If, {way}" for way in naive),
    }
    assert set(measured["times_eager"]) == set(measured["ways"]) - {"fp32"}
    shown = readme_table(committed(report, tmp_path / "results"))
    assert "resnet50-fpn on NVIDIA H100 80GB HBM3, batch 1" in shown
    assert "| naive without If, converted to fp16 |" in shown


@pytest.mark.slow
def test_int8_is_quantised_for_tensorrt_and_its_rest_is_half(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[tuple[str, Any]] = []

    def build(source: Path, path: Path, *, precision: str, **options: Any) -> None:
        zero_points = [t for t in onnx.load(source).graph.initializer if t.name.endswith("zero_point")]
        assert zero_points
        assert not any(onnx.numpy_helper.to_array(tensor).any() for tensor in zero_points), "TensorRT takes none"
        built.append((source.name, precision))
        raise ExportError("TensorRT is not here")

    monkeypatch.setattr(tensorrt_forms, "build_engine", build)
    with pytest.raises(ExportError):
        case("int8").run(run)
    assert built == [("resnet50-fpn-int8-tensorrt.onnx", "fp16")]


@pytest.mark.slow
def test_options_are_measured_in_one_run(run: Run) -> None:
    case("options").run(run)
    report = kept(run)
    assert report["failed"] == []
    assert len(report["artifacts"]) == 5
    (measured,) = report["models"][0]["measurements"]
    assert "version compatible" in measured["ways"]


def test_what_is_not_here_is_said(empty: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_forms, "load_tensorrt", lambda: SimpleNamespace(__version__="10.6.0"))
    monkeypatch.setattr(tensorrt_forms, "load_tensorrt_plugins", lambda: None)
    monkeypatch.setattr(tensorrt_forms, "find_spec", lambda name: None)
    for name in ("plan", "onnxruntime", "lean"):
        case(name).run(empty)
    assert [entry["skipped"] for entry in kept(empty)["checks"]] == [
        "TensorRT 10.6.0 has no ahead-of-time plugins",
        "the onnxruntime that is here has no CUDA provider",
        "tensorrt_lean is not installed",
    ]


def test_a_fault_is_kept_and_the_rest_goes_on(empty: Run) -> None:
    with empty.attempt("this"):
        raise ExportError("TensorRT cannot build features: out of memory")
    with empty.attempt("that"):
        empty.add("checks", artifact="a")
    report = kept(empty)
    assert report["failed"] == [{"case": "this", "error": "TensorRT cannot build features: out of memory"}]
    assert report["checks"] == [{"artifact": "a"}]


def test_cases_that_passed_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    statuses: dict[str, int | None] = {"a": 0, "b": 1, "c": None}
    ran: list[str] = []

    def run_limited(command: list[str], limit_s: float) -> int | None:
        name = command[command.index("--case") + 1]
        ran.append(name)
        if name != "c":  # killed before it had anything
            report = {**Run(path=tmp_path, models=tmp_path, limits=QUICK).report, "checks": [{"artifact": name}]}
            report["models"] = [{"model": "m", "artifacts": [], "detections": {}, "measurements": [name]}]
            Path(command[command.index("-o") + 1]).write_text(json.dumps(report))
        return statuses[name]

    monkeypatch.setattr(cases, "run_limited", run_limited)
    made = [Case(name=name, shows=name, run=lambda _: None, limit_s=1) for name in statuses]
    path = tmp_path / "all.json"

    def everything() -> bool:
        return run_cases(made, path, {"tensorrt": "10.6.0"}, module="maintenance.tensorrt_forms", options=())

    assert not everything()
    statuses |= {"b": 0, "c": 0}
    assert not everything() or ran == ["a", "b", "c", "b", "c"]
    report = json.loads(path.read_text())
    assert {entry["case"]: entry["ended"] for entry in report["cases"]} == dict.fromkeys("abc", "passed")
    assert [entry["artifact"] for entry in report["checks"]] == ["a", "b", "b"]
    assert report["models"] == [{"model": "m", "artifacts": [], "detections": {}, "measurements": ["a", "b", "b"]}]
    assert report["tensorrt"] == "10.6.0"
    assert list(tmp_path.iterdir()) == [path], "a case left its file"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tensorrt_forms.main(["-o", str(tmp_path / "a.json")]) == 2
    assert "needs an NVIDIA GPU" in capsys.readouterr().err
