"""A run that never was: every kind of row, so that reports can be held to what they say about each.

Times are drawn from a seeded generator; percentiles, rates and ratios are computed from them, so the parts agree.
"""

from __future__ import annotations

from statistics import fmean, median
from typing import Any

import msgspec
import numpy as np

from frcnn.benchmarks.report.results import (
    SCHEMA_VERSION,
    Artifact,
    Ceilings,
    Change,
    Comparison,
    Correctness,
    Curve,
    CurvePoint,
    Environment,
    Gpu,
    GpuState,
    ImageInfo,
    Measure,
    NoiseVerdict,
    NotToldApart,
    Ratio,
    Results,
    Roofline,
    Row,
    Scope,
    Skipped,
    StageShare,
    Work,
    Workload,
)

__all__ = ["EAGER", "FASTEST", "WRONG", "made_up", "replaced"]

EAGER = "eager-fp32"
FASTEST = "tensorrt-rtx-fp16"
WRONG = "tensorrt-naive"
_ROUNDS = 7
_IMAGES = 16
_STAGES = ("decode", "preprocess", "backbone+FPN", "RPN", "RoI pooling", "box head", "post")


def replaced(record: Any, **changes: Any) -> Any:
    """Return a record with some fields changed."""
    return msgspec.structs.replace(record, **changes)


def _calls(seed: int, centre_ms: float) -> tuple[tuple[float, ...], ...]:
    draw = np.random.default_rng(seed)
    return tuple(
        tuple(float(t) for t in centre_ms * drift * (1 + draw.exponential(0.02, _IMAGES)))
        for drift in draw.normal(1, 0.006, _ROUNDS)
    )


def _ratio(reference: tuple[tuple[float, ...], ...], own: tuple[tuple[float, ...], ...]) -> Ratio:
    ratios = sorted(sum(a) / sum(b) for a, b in zip(reference, own, strict=True))
    return Ratio(
        median=median(ratios), min=ratios[0], max=ratios[-1], low=ratios[1], high=ratios[-2], rounds=len(ratios)
    )


def _measure(scope: Scope, batch: int, calls: tuple[tuple[float, ...], ...], ratio: Ratio | None) -> Measure:
    flat = [t for of_round in calls for t in of_round]
    p50, p90, p99 = (float(p) for p in np.percentile(flat, (50, 90, 99)))
    return Measure(
        scope=scope,
        batch=batch,
        rounds_ms=calls,
        warm_up=3,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        mean_ms=fmean(flat),
        fps=1e3 * batch * len(flat) / sum(flat),
        ratio=ratio,
    )


def _measures(seed: int, eager_ms: float, own_ms: float, *, is_reference: bool) -> tuple[Measure, ...]:
    made = []
    for scope, share in (("images", 1.0), ("network", 0.8)):
        for batch in (1, 2, 4, 8):
            grown = batch**0.9 * share
            reference, own = _calls(0, eager_ms * grown), _calls(seed, own_ms * grown)
            ratio = None if is_reference else _ratio(reference, own)
            made.append(_measure(scope, batch, reference if is_reference else own, ratio))
    return tuple(made)


def _stages(total_ms: float, weights: tuple[float, ...]) -> tuple[StageShare, ...]:
    whole = sum(weights)
    return tuple(
        StageShare(name=name, ms=total_ms * weight / whole, share=weight / whole)
        for name, weight in zip(_STAGES, weights, strict=True)
    )


def _check(*, passed: bool = True, box_px: float = 2e-4, missing: int = 0) -> Correctness:
    return Correctness(
        passed=passed,
        limits="boxes within 0.01 px, scores within 0.0001" if box_px < 0.01 else "IoU at least 0.99 for 98 %",
        images=16,
        expected=339,
        found=339 - missing,
        matched=339 - missing,
        unmatched=missing,
        relabelled=0,
        moved=0,
        box_px=box_px,
        score=box_px / 100,
        iou=1 - box_px / 200,
    )


def _row(place: int, own_ms: float, eager_ms: float, **fields: Any) -> Row:
    reference = fields.pop("reference", EAGER)
    is_reference = fields["id"] == reference
    return Row(
        reference=reference,
        status=fields.pop("status", "ok"),
        reason=fields.pop("reason", ""),
        images=fields.pop("images", "as given"),
        load_s=0.1 + 0.2 * place,
        peak_host_bytes=210_000_000 + 40_000_000 * place,
        peak_gpu_bytes=900_000_000 if fields["device"] == "cuda" else None,
        measures=_measures(place + 1, eager_ms, own_ms, is_reference=is_reference),
        correctness=fields.pop("correctness", None if is_reference else _check()),
        **fields,
    )


def _artifact(name: str) -> Artifact:
    return Artifact(name=name, size_bytes=11_534_336, sha256="ab" * 32, built_here=True)


def _rows() -> tuple[Row, ...]:
    eager, torch = 20.0, {"backend": "torch", "device": "cuda"}
    equal = {"images": "equal-sized", "reference": "eager-fp32-equal"}
    weights = (4.0, 1.0, 9.0, 3.0, 2.0, 2.0, 1.0)
    return (
        _row(0, eager, eager, id=EAGER, name="eager torchvision, fp32", precision="fp32", **torch,
             stages=_stages(22.0, weights), of_roofline=0.21),
        _row(1, 19.9, eager, id="eager-channels-last", name="eager torchvision, channels-last",
             precision="fp32", **torch),
        _row(2, 14.0, eager, id="eager-amp", name="eager torchvision, AMP fp16", precision="fp16", **torch,
             correctness=_check(box_px=0.8)),
        _row(3, 20.2, 20.2, id="eager-fp32-equal", name="eager torchvision, fp32, equal-sized images",
             precision="fp32", **torch, images="equal-sized", reference="eager-fp32-equal"),
        _row(4, 19.0, 20.2, id="onnxruntime-naive", name="torchvision's own ONNX export, ONNX Runtime",
             backend="onnxruntime", device="cuda", precision="fp32", **equal, artifact=_artifact("naive.onnx"),
             build_s=11.1, note="takes only the image size that it was traced with"),
        _row(5, 110.0, eager, id="onnxruntime-cpu", name="frcnn, ONNX Runtime (CPU)", backend="onnxruntime",
             device="cpu", precision="fp32", artifact=_artifact("model.onnx"), build_s=37.5,
             stages=_stages(112.0, (4.0, 3.0, 60.0, 20.0, 14.0, 8.0, 1.0)), of_roofline=0.62),
        _row(6, 4.1, eager, id=FASTEST, name="frcnn, TensorRT-RTX fp16", backend="tensorrt-rtx", device="cuda",
             precision="fp16", artifact=_artifact("model.frcnn"), build_s=12.4, correctness=_check(box_px=0.9),
             stages=_stages(8.0, (4.0, 0.2, 2.2, 0.8, 0.3, 0.4, 0.1)), of_roofline=0.55),
        _row(7, 4.13, eager, id="tensorrt-fp16", name="frcnn, TensorRT fp16", backend="tensorrt", device="cuda",
             precision="fp16", artifact=_artifact("model-trt.frcnn"), build_s=60.0, correctness=_check(box_px=1.1),
             missing=("images, batch 8: out of GPU memory",)),
        _row(8, 2.0, 20.2, id=WRONG, name="torchvision's own ONNX export, TensorRT", backend="tensorrt",
             device="cuda", precision="fp16", **equal, artifact=_artifact("naive.plan"), status="wrong",
             reason="48 of 339 detections are missing", correctness=_check(passed=False, box_px=3.0, missing=48)),
        Row(id="openvino", name="frcnn, OpenVINO", backend="openvino", device="cpu", precision="fp32",
            images="as given", reference=EAGER, status="unavailable",
            reason="the package 'openvino' is not installed (pip install openvino)"),
        Row(id="torch-compile", name="eager torchvision, torch.compile", backend="torch", device="cuda",
            precision="fp32", images="as given", reference=EAGER, status="failed",
            reason="torch._dynamo.exc.Unsupported: data-dependent branch"),
    )  # fmt: skip


def _curves() -> tuple[Curve, ...]:
    kinds = (
        ("image size", "megapixels of the canvas", (0.1, 0.25, 0.5, 1.0, 1.6)),
        ("RoIs", "proposals", (0.0, 50.0, 150.0, 300.0, 1000.0)),
        ("classes", "classes", (2.0, 11.0, 91.0)),
    )
    return tuple(
        Curve(
            kind=kind,
            row=row,
            unit=unit,
            note="equal-sized images" if kind == "image size" else "",
            points=tuple(
                CurvePoint(x=x, low_ms=0.95 * t, median_ms=t, high_ms=1.1 * t, fps=1e3 / t)
                for x in xs
                for t in (base * (0.4 + 0.6 * (x / xs[-1])),)
            ),
        )
        for kind, unit, xs in kinds
        for row, base in ((EAGER, 24.0), (FASTEST, 5.0))
    )


def _roofline() -> Roofline:
    work = {
        "backbone+FPN": (9e9, 0.1e9),
        "RPN": (3e9, 0.02e9),
        "RoI pooling": (0.0, 0.02e9),
        "box head": (1e9, 0.03e9),
    }
    return Roofline(
        canvas=(320, 480),
        work=tuple(Work(stage=stage, flops=flops, bytes=count) for stage, (flops, count) in work.items()),
        ceilings=(
            Ceilings(device="cpu", copy_bytes_per_s=18e9, matmul_flops_per_s={"fp32": 270e9}),
            Ceilings(device="cuda", copy_bytes_per_s=2.9e12, matmul_flops_per_s={"fp32": 50e12, "fp16": 700e12}),
        ),
        floors_ms={"cpu fp32": 55.0, "cuda fp32": 0.31, "cuda fp16": 0.06},
    )


def _environment() -> Environment:
    states = tuple(
        GpuState(when=when, sm_clock_mhz=1755, memory_clock_mhz=2619, power_w=power, temperature_c=48.0, throttling=why)
        for when, power, why in (("before", 71.2, ()), (FASTEST, 402.0, ("SW Power Cap",)), ("after", 98.0, ()))
    )
    return Environment(
        system="x86_64",
        cpu="Intel(R) Xeon(R) Processor @ 2.80GHz",
        cores=16,
        affinity=(0, 1, 2, 3),
        threads=4,
        governor="performance",
        turbo=None,
        load_before=0.31,
        load_after=3.2,
        memory_bytes=137_438_953_472,
        gpu=Gpu(
            name="NVIDIA H100 80GB HBM3",
            driver="580.65.06",
            compute_capability="9.0",
            memory_bytes=85_520_809_984,
            states=states,
        ),
        packages={"torch": "2.14.1", "torchvision": "0.29.1", "onnxruntime": "1.32.0", "tensorrt-rtx": "1.7.1"},
        frcnn="0.1.0",
        python="3.11.7",
        os="Linux 6.18",
        date="2026-11-24T10:00:00+00:00",
        command="frcnn bench my.pth --arch fasterrcnn_resnet50_fpn --suite full --device cuda --images folder/",
    )


def made_up() -> Results:
    """Return a complete run on a GPU: right, wrong, failed and unavailable rows, every measure, every chart."""
    rows = _rows()
    null = _ratio(_calls(0, 20.0), _calls(91, 20.0))
    return Results(
        schema_version=SCHEMA_VERSION,
        environment=_environment(),
        workload=Workload(
            suite="full",
            device="cuda",
            budget_s=240.0,
            checkpoint="my.pth",
            checkpoint_sha256="cd" * 32,
            model="fasterrcnn_resnet50_fpn",
            num_classes=91,
            source="given",
            images=tuple(ImageInfo(name=f"{k:05}.jpg", size=(427, 640)) for k in range(_IMAGES)),
            skipped=(Skipped(name="torn.jpg", reason="the file ends early"),),
            equal_size=(427, 640),
            canvases=((320, 480),),
            proposals=(1000,) * _IMAGES,
            detections=tuple(20 + k for k in range(_IMAGES)),
            batches=(1, 2, 4, 8),
        ),
        rows=rows,
        curves=_curves(),
        roofline=_roofline(),
        noise=NoiseVerdict(
            row=EAGER,
            null=null,
            noise=0.012,
            too_noisy=False,
            limit=0.05,
            not_told_apart=(
                NotToldApart(first=FASTEST, second="tensorrt-fp16", scope="images", batch=1),
                NotToldApart(first=EAGER, second="eager-channels-last", scope="images", batch=1),
            ),
            how="95 % of the null pair's rounds lie within 1.2 % of 1.",
        ),
        comparison=Comparison(
            file="old/results.json",
            limit=0.05,
            notes=("torch 2.14.0 then, 2.14.1 now",),
            changes=(
                Change(row=FASTEST, name="frcnn, TensorRT-RTX fp16", scope="images", batch=1, what="x eager",
                       old="5.31x", new="4.88x", change=-0.081, verdict="regression"),
                Change(row="openvino", name="frcnn, OpenVINO", scope=None, batch=None, what="status", old="ok",
                       new="unavailable", change=None, verdict="not comparable", reason="not installed now"),
            ),
        ),
    )  # fmt: skip
