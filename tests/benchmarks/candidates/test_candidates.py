"""The candidates: each detects as eager does, or reports why it cannot run."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
import torch
from maintenance.bench_models import MODELS, draw_images
from support.engine_files import write_engine_file
from support.exports import Exports
from support.images import LANDSCAPE, photographs
from support.no_internet import SYSTEMS

from frcnn.benchmarks.candidates import eager as eager_module
from frcnn.benchmarks.candidates.candidate import Candidate, CannotRunError, File, Runner, Task, reason_of, time_limit
from frcnn.benchmarks.candidates.eager import EagerRunner
from frcnn.benchmarks.candidates.eager_detector import EagerDetector
from frcnn.benchmarks.candidates.model_files import built_engine, given_file, naive_onnx
from frcnn.benchmarks.candidates.registry import all_candidates
from frcnn.benchmarks.profile.onnx_profile import work_of_layers
from frcnn.benchmarks.profile.profile import LayerRun
from frcnn.benchmarks.report.results import Ceilings
from frcnn.benchmarks.timing.ceilings import floor_ms, measure_ceilings, roofline_of
from frcnn.benchmarks.timing.correctness import check
from frcnn.benchmarks.timing.curves import curve_of, size_curves, variant_curves
from frcnn.benchmarks.timing.stage_shares import decode_ms, eager_stages, onnx_stages, shares
from frcnn.benchmarks.trial import CHECKPOINT
from frcnn.errors import ArtifactError, MissingDependencyError
from frcnn.exporter import load_checkpoint
from frcnn.runtime import RGBImage
from frcnn.runtime.host.onnxruntime_backend import OnnxRuntimeBackend
from frcnn.runtime.images.preprocess import prepare
from frcnn.spec.engine import TARGETS

ROOT = Path(__file__).parents[3]
FAMILY = "resnet18_fpn_max"
CANVAS = (160, 224)


@pytest.fixture
def shown() -> list[RGBImage]:
    return [RGBImage(pixels=pixels, name=f"p{i}") for i, pixels in enumerate(photographs(LANDSCAPE))]


@pytest.fixture
def task(exports: Exports, shown, tmp_path) -> Task:
    model, spec = exports(FAMILY).model, exports(FAMILY).spec
    return Task(
        model=model, spec=spec, sha256="ab" * 32, images=shown, equal_images=shown, folder=tmp_path, device="cpu",
        threads=1, compile_limit_s=0.01,
    )  # fmt: skip


@pytest.fixture
def candidates(exports: Exports):
    return {candidate.id: candidate for candidate in all_candidates([exports(FAMILY).path], "cpu", mixed_sizes=False)}


def opened(candidate: Candidate, task: Task) -> Runner:
    return candidate.open(task) if candidate.prepare is None else candidate.open(task, candidate.prepare(task).path)


def test_every_backend_is_a_candidate_and_eager_is_the_first(candidates) -> None:
    assert list(candidates) == [
        "eager-fp32",
        "eager-channels-last",
        "eager-amp-fp16",
        "eager-amp-channels-last",
        "torch-compile",
        "naive-onnxruntime",
        "naive-openvino",
        "naive-openvino-fp32",
        "naive-openvino-int8",
        "onnxruntime-cpu",
        "onnxruntime-cuda",
        "openvino",
        "openvino-bf16",
        "openvino-int8",
        "nncf-openvino",
        "nncf-openvino-fp32",
        "tensorrt-rtx",
        "tensorrt",
        "naive-tensorrt",
    ]


@pytest.mark.parametrize("target", TARGETS)
def test_an_artifact_of_each_target_is_a_candidate(target, tmp_path) -> None:
    path = write_engine_file(tmp_path / "model.frcnn", target=target)
    found = {candidate.id: candidate for candidate in all_candidates([path], "cpu", mixed_sizes=False)}[target]
    assert (found.backend, found.device, found.precision) == (target, "cuda", "fp16")


@pytest.mark.parametrize("key", ["eager-fp32", "eager-channels-last", "onnxruntime-cpu"])
def test_candidates_detect_as_eager(key, candidates, task) -> None:
    candidate = candidates[key]
    runner = opened(candidate, task)
    truth = EagerDetector(task.model, task.spec).detect
    assert {runner.canvas_of(image) for image in task.images} == {CANVAS}
    found, _ = check(truth, runner, task.images, task.spec, "fp16", batch=2)  # random weights: overlap, not pixels
    assert found.passed and found.expected > 10
    assert found.images == len(task.images) + 2
    assert runner.network(task.images[:2])() is not None
    runner.close()


def test_torchvisions_own_export_detects_as_eager_in_the_image_it_was_traced_with(exports, candidates, task) -> None:
    candidate = candidates["naive-onnxruntime"]
    align = dataclasses.replace(task, model=exports.model("vgg16"), spec=exports.spec("vgg16"), sha256="cd" * 32)
    runner = opened(candidate, align)
    truth = EagerDetector(align.model, align.spec).detect
    traced_with = align.images[:1]
    found, _ = check(truth, runner, traced_with, align.spec, "fp16", batch=1)
    assert found.passed and found.expected > 10
    with pytest.raises(CannotRunError, match="resizing"):
        runner.network(traced_with)
    with pytest.raises(Exception, match="ONNXRuntimeError"):  # tracing kept the number of this image's proposals
        _ = [runner.detect([image]) for image in align.images]


@pytest.mark.slow
def test_torchvisions_own_export_detects_in_openvino_as_it_comes_and_quantised(task, capfd) -> None:
    model, spec = load_checkpoint(CHECKPOINT, arch=MODELS["demo"].arch)
    demo = dataclasses.replace(MODELS["demo"], scenes=(3, (520, 390)))  # of other sizes its boxes are off by pixels
    images = [RGBImage.open(path) for path in sorted(draw_images(task.folder, demo).iterdir())]
    task = dataclasses.replace(task, model=model, spec=spec, images=images, equal_images=images, compile_limit_s=300)
    truth = EagerDetector(model, spec).detect
    candidates = {c.id: c for c in all_candidates([], "cpu", mixed_sizes=False)}
    capfd.readouterr()
    for key, precisions in (
        ("naive-openvino", ("fp32", "bf16")),  # as the processor has it
        ("naive-openvino-fp32", ("fp32",)),
        ("naive-openvino-int8", ("int8",)),
    ):
        runner = opened(candidates[key], task)
        assert runner.precision in precisions
        found, _ = check(truth, runner, images, spec, "fp16" if runner.precision == "fp32" else "int8", batch=1)
        assert found.passed and found.expected > 10, (key, found)
        runner.close()
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_our_graph_quantised_by_nncf_is_made_once_and_detects(candidates, task, capfd) -> None:
    task = dataclasses.replace(task, compile_limit_s=300)
    first, second = candidates["nncf-openvino"], candidates["nncf-openvino-fp32"]
    for candidate in (first, second):
        runner = opened(candidate, task)
        assert len(runner.detect(task.images[:2])) == 2 and runner.network(task.images[:2])() is not None
        runner.close()
    made = second.prepare(task)
    assert made.build_s is None and made.weights is not None and made.weights.exists()
    assert capfd.readouterr() == ("", "")


IMPORT_NNCF = """
from support.no_internet import forbid_internet
forbid_internet()
from frcnn.benchmarks.candidates.nncf_int8 import _import_nncf
_import_nncf()
"""


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in SYSTEMS, reason="the kernel's filter is for Linux"
)
def test_nncf_calls_nobody_and_writes_nothing_into_the_home(tmp_path) -> None:
    path = os.pathsep.join(map(str, (ROOT / "src", ROOT / "tests")))
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", IMPORT_NNCF], env=environment, check=True, timeout=120)
    assert not list(tmp_path.iterdir())


def test_nncf_has_a_time_limit(candidates, task) -> None:
    with pytest.raises(CannotRunError, match="left out by --compile-limit 0"):
        opened(candidates["nncf-openvino"], dataclasses.replace(task, compile_limit_s=0))


def test_labels_are_precisions_where_these_tell_files_apart(exports, tmp_path) -> None:
    first, second = exports(FAMILY).path, tmp_path / "other.onnx"
    second.write_bytes(b"no model")
    ids = [c.id for c in all_candidates([first, second], "cpu", mixed_sizes=False)]
    assert {"onnxruntime-cpu:fp32", "onnxruntime-cpu:unknown"} <= set(ids)
    third = tmp_path / "third.onnx"
    third.write_bytes(b"no model")
    ids = [c.id for c in all_candidates([first, second, third], "cpu", mixed_sizes=False)]
    assert {f"onnxruntime-cpu:{first.stem}", "onnxruntime-cpu:other", "onnxruntime-cpu:third"} <= set(ids)


# Time that is up ends the compiler wherever it is, be it with a file in its hand.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("eager-amp-channels-last", "on a GPU only"),
        ("torch-compile", "had not finished after 0 s"),
        ("onnxruntime-cuda", "onnxruntime-gpu"),
        ("openvino-int8", "frcnn quantize model.onnx"),
        ("tensorrt", "no artifact for TensorRT was given"),
        ("naive-tensorrt", "no TensorrtExecutionProvider"),
    ],
)
def test_candidates_that_cannot_run_here_report_why(key, reason, candidates, task) -> None:
    if torch.cuda.is_available():
        pytest.skip("this system has a GPU")
    candidate = candidates[key]
    with pytest.raises((CannotRunError, MissingDependencyError), match=reason):
        opened(candidate, task)
    with pytest.raises(CannotRunError, match="NVIDIA GPU"):
        built_engine(task)


def test_the_time_limit_ends_a_call_and_restores_the_alarm() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(CannotRunError, match="a compiler had not finished after 0 s"), time_limit(0.02, "a compiler"):
        time.sleep(5)
    with time_limit(30, "a compiler"):
        pass
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_the_time_limit_holds_where_its_exception_was_lost() -> None:
    def compile_twice() -> None:
        with contextlib.suppress(BaseException):
            time.sleep(5)
        time.sleep(5)

    with pytest.raises(CannotRunError, match="a compiler had not finished"), time_limit(0.02, "a compiler"):
        compile_twice()


def test_torch_compile_is_left_out_where_nobody_asks_for_it(candidates, task) -> None:
    with pytest.raises(CannotRunError, match="left out on a CPU, where it takes minutes: --compile-limit SECONDS"):
        opened(candidates["torch-compile"], dataclasses.replace(task, compiles=False))


def test_a_compiler_that_fails_is_the_reason(task, monkeypatch) -> None:
    def broken(*args, **options):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(eager_module.torch, "compile", broken)
    with pytest.raises(CannotRunError, match="does not work here: RuntimeError: no C\\+\\+ compiler"):
        eager_module._open_compiled(task)


def test_an_artifact_of_another_model_is_refused(exports, task) -> None:
    with pytest.raises(ArtifactError, match="is another model than the checkpoint"):
        given_file(exports("vgg16").path)(task)
    (task.folder / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(ArtifactError) as raised:
        given_file(task.folder / "bad.onnx")(task)
    assert "\n" not in reason_of(raised.value)


def test_torchvisions_own_export_is_made_once(task) -> None:
    first = naive_onnx(task)
    made = first.path.stat().st_mtime_ns
    assert first.build_s is not None and naive_onnx(task) == File(path=first.path)
    assert first.path.stat().st_mtime_ns == made
    first.path.write_bytes(b"broken")
    assert naive_onnx(task).build_s is not None


@pytest.fixture
def feeds(exports, shown):
    placed = prepare(shown[0], exports(FAMILY).manifest)
    import numpy as np

    return {"images": placed.pixels[None], "image_sizes": np.array([placed.resized], np.int32)}


def test_work_is_counted_as_pytorch_counts_it(exports, feeds, task) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    from frcnn.exporter.model import DeployableFasterRCNN

    module = DeployableFasterRCNN(task.model, task.spec)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        module(torch.from_numpy(feeds["images"]), torch.from_numpy(feeds["image_sizes"]))
    layers = work_of_layers(exports(FAMILY).path, feeds, threads=1)
    assert sum(layer.flops or 0.0 for layer in layers) == pytest.approx(counter.get_total_flops(), rel=1e-6)
    backbone = sum(layer.flops or 0.0 for layer in layers if layer.stage in ("backbone", "FPN"))
    counts = counter.get_flop_counts()["DeployableFasterRCNN.features.backbone"]
    assert backbone == pytest.approx(sum(counts.values()), rel=1e-6)
    proto = onnx.load(exports(FAMILY).path)
    weights = {t.name: onnx.numpy_helper.to_array(t).nbytes for t in proto.graph.initializer}
    assert sum(layer.bytes for layer in layers) > sum(weights.values())  # each is read once, and activations besides
    first = next(node for node in proto.graph.node if node.op_type == "Conv")
    stem = next(layer for layer in layers if layer.flops)
    out = onnx.numpy_helper.to_array(next(t for t in proto.graph.initializer if t.name == first.input[1])).shape[0]
    activations = feeds["images"].nbytes + 4 * out * (CANVAS[0] // 2) * (CANVAS[1] // 2)
    assert stem.bytes == activations + sum(weights.get(name, 0) for name in first.input)


def test_the_floor_sums_the_larger_of_work_and_traffic_of_each_layer() -> None:
    layers = [
        LayerRun(name="a", op="Conv", stage="RPN head", ms=1.0, flops=2e9, bytes=1e6),
        LayerRun(name="b", op="TopK", stage="post", ms=1.0, bytes=1e9),
    ]
    ceilings = Ceilings(device="cpu", copy_bytes_per_s=1e10, matmul_flops_per_s={"fp32": 1e11, "fp16": 2e11})
    assert floor_ms(layers, ceilings, "fp32") == pytest.approx(20 + 100)
    assert floor_ms(layers, ceilings, "fp16") == pytest.approx(10 + 50)
    assert floor_ms(layers, ceilings, "int8") is None
    roofline = roofline_of(layers, (160, 224), [ceilings])
    assert roofline.floors_ms == {"cpu fp32": pytest.approx(120), "cpu fp16": pytest.approx(60)}
    assert [(w.stage, w.flops, w.bytes) for w in roofline.work] == [("RPN", 2e9, 1e6), ("post", 0, 1e9)]


def test_layers_that_merge_into_a_neighbour_move_nothing(exports, feeds) -> None:
    merged = work_of_layers(exports(FAMILY).path, feeds, threads=1)
    assert sum(1 for layer in merged if layer.bytes == 0) > len(merged) / 3
    assert all(layer.bytes > 0 for layer in merged if layer.flops)


@pytest.mark.slow
def test_ceilings_are_measured() -> None:
    ceilings = measure_ceilings("cpu")
    assert 1e8 < ceilings.copy_bytes_per_s < 1e13
    assert 1e8 < ceilings.matmul_flops_per_s["fp32"] < 1e14


def test_the_stages_sum_to_one_image(exports, feeds, task, shown) -> None:
    path = exports(FAMILY).path
    ours = onnx_stages(path, shown[0], threads=1)
    eager = eager_stages(EagerRunner(task), shown[0])
    for stages in (ours, eager):
        found = shares({"decode": decode_ms(shown, []), **stages})
        assert [stage.name for stage in found] == [
            "decode",
            "preprocess",
            "backbone+FPN",
            "RPN",
            "RoI pooling",
            "box head",
            "post",
        ]
        assert sum(stage.share for stage in found) == pytest.approx(1)
        assert all(stage.ms > 0 for stage in found)


def test_cost_curves_have_a_point_for_each_size(exports, task) -> None:
    network = OnnxRuntimeBackend(exports(FAMILY).path, threads=1)
    curves = size_curves(task, network, (96, 128), budget_s=8)
    assert [curve.row for curve in curves] == ["eager-fp32", "onnxruntime-cpu"]
    for curve in curves:
        assert len(curve.points) == 4
        assert curve.points[0].median_ms < curve.points[-1].median_ms
        assert curve.points[2].x == pytest.approx(96 * 128 / 1e6)
    (rois,) = variant_curves("RoIs", task, (96, 128), budget_s=8, export_until=0.0)
    assert [point.x for point in rois.points][-1] == task.spec.rpn.post_nms_top_n


def test_a_curve_has_the_quartiles_of_its_samples() -> None:
    curve = curve_of("batch", "a", "images", {2.0: [10.0, 20.0, 30.0], 1.0: [5.0]}, images=lambda x: x)
    assert [(p.x, p.low_ms, p.median_ms, p.high_ms) for p in curve.points] == [(1, 5, 5, 5), (2, 15, 20, 25)]
    assert [p.fps for p in curve.points] == pytest.approx([200, 100])
