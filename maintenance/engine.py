"""Speed of engine artifacts against eager torchvision on one GPU, in one run; and whether they run there at all.

``python -m maintenance.engine -o results.json --models-in folder/ [--models demo r50] [--quick]``, where
``maintenance.engine_models`` has filled the folder. Two measurements: *image*, from a uint8 image in device
memory to boxes in device memory, and *network*, from normalised images to boxes; ours includes the preprocessing kernel
and the answers' way down, since they are in the graph. Where TensorRT refuses the GPU, that is the result, and eager is
measured alone.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import torch

from frcnn.benchmarks.candidates.artifacts import canvases_of
from frcnn.benchmarks.candidates.eager_detector import EagerDetector
from frcnn.benchmarks.parity.comparison import compare_images, default_limits, total
from frcnn.exporter.model.spec_from_model import read_model_spec
from frcnn.files import write_text
from frcnn.runtime.gpu.cuda_calls import driver_cuda_version
from frcnn.runtime.images.image import RGBImage
from frcnn.spec import Precision
from maintenance.engine_models import MODELS, EngineModel, Files, load_images
from maintenance.engine_timing import (
    Calls,
    CallTimer,
    CudaCallTimer,
    Percentiles,
    Way,
    in_turn,
    percentiles,
    times_faster,
)
from maintenance.engine_ways import (
    EAGER,
    EAGER_AMP,
    Loaded,
    graph_way,
    image_ways,
    load_both,
    load_portable,
    network_ways,
)

__all__ = ["MIN_RATIO", "OVERHEAD_US", "TARGETS_MS", "main", "measure_model", "overheads", "summary"]

MIN_RATIO: Final = 5.0
"""A fp16 artifact is to be at least so many times as fast as eager fp16, image to boxes, batch 1."""

TARGETS_MS: Final = {"r50": 1.5}
"""Model -> the most milliseconds from image to boxes, fp16, batch 1, on an H100."""

OVERHEAD_US: Final = 50.0
"""The most that a call of the ``Detector`` may take on the host over the GPU's time, batch 1."""

_PACKAGES: Final = (
    "frcnn",
    "torch",
    "torchvision",
    "tensorrt-rtx-cu13",
    "tensorrt",
    "tensorrt-cu12-bindings",
    "onnxruntime",
    "onnxruntime-gpu",
    "cuda-bindings",
    "cuda-core",
    "numpy",
)


def measure_model(
    model: EngineModel, folder: Path, timer: CallTimer, *, rounds: int, calls: int, batches: Sequence[int] = (1,)
) -> dict[str, Any]:
    """Measure a model in all its precisions, and check its answers.

    Args:
        model: which.
        folder: where its files are.
        timer: measures.
        rounds: see ``in_turn``.
        calls: likewise, at batch 1; fewer at larger ones.
        batches: numbers of images.

    Returns:
        What goes into the report.
    """
    images = load_images(folder, model.name)
    checkpoint = model.eager(folder)
    spec = read_model_spec(checkpoint, architecture=model.name)
    report: dict[str, Any] = {"model": model.name, "artifacts": [], "measurements": []}
    with ExitStack() as stack:
        files = [(precision, Files.of(folder, model.name, precision)) for precision in model.precisions]
        loaded = [load_both(file.artifact, f"frcnn {precision}", stack) for precision, file in files]
        loaded += [load_portable(file.onnx, f"frcnn onnx {precision}", stack) for precision, file in files]
        expected = EagerDetector(checkpoint, spec)
        for precision, artifact in zip(model.precisions * 2, loaded, strict=True):
            entry: dict[str, Any] = {"name": artifact.name, "runs": artifact.detector is not None}
            entry |= {"refusal": artifact.refusal} if artifact.refusal else {}
            if artifact.detector is not None:
                entry["parity"] = _parity(expected, artifact, images, precision, model.is_trained)
            report["artifacts"].append(entry)
        on_gpu = model.eager(folder).cuda()
        last = model.eager(folder).cuda().to(memory_format=torch.channels_last)
        for batch in batches:
            chosen = [images[i % len(images)] for i in range(batch)] if batch > 1 else images[:1]
            for what, ways in (
                ("image", image_ways(on_gpu, last, loaded, chosen)),
                ("network", network_ways(on_gpu, last, loaded, chosen)),
            ):
                found = in_turn(ways, timer, rounds=rounds, calls=max(3, calls // batch))
                report["measurements"].append(summary(model.name, what, batch, found))
            report["measurements"].extend(overheads(loaded, chosen, timer, rounds * calls))
    return report


def summary(model: str, what: str, batch: int, found: dict[str, Calls]) -> dict[str, Any]:
    """Return a measurement as the report has it, with the verdicts."""
    rows: dict[str, dict[str, Percentiles]] = {
        name: {"gpu_ms": percentiles(calls.gpu_ms), "wall_ms": percentiles(calls.wall_ms)}
        for name, calls in found.items()
    }
    entry: dict[str, Any] = {
        "model": model,
        "what": what,
        "batch": batch,
        "ways": {name: {kind: asdict(value) for kind, value in row.items()} for name, row in rows.items()},
    }
    for name in found:
        if name.startswith("frcnn"):
            eager = EAGER if name.endswith("fp32") else EAGER_AMP
            entry.setdefault("times_eager", {})[name] = {"eager": eager, "ratio": times_faster(found, eager, name)}
    ours = "frcnn fp16"
    if what == "image" and batch == 1 and ours in found:
        entry["min_ratio"] = MIN_RATIO
        entry["ratio_met"] = times_faster(found, EAGER_AMP, ours) >= MIN_RATIO
        if model in TARGETS_MS:
            entry["target_ms"] = TARGETS_MS[model]
            entry["target_met"] = rows[ours]["gpu_ms"].p50 <= TARGETS_MS[model]
    return entry


def _parity(
    eager: EagerDetector, artifact: Loaded, images: Sequence[RGBImage], precision: Precision, is_trained: bool
) -> dict[str, Any]:
    """Hold the answers to eager's on the CPU in float32, on the same canvas; random weights are not judged."""
    assert artifact.detector is not None and artifact.manifest is not None
    limits = default_limits(precision, eager.spec.roi_heads.pooler.kind)
    canvases = canvases_of(artifact.manifest)
    compared = compare_images(eager, artifact.detector, images, limits, canvases=canvases)
    result = total(list(compared), limits)
    return {
        "is_judged": is_trained,
        "passed": result.passed,
        "expected": result.total.expected,
        "matched": result.total.matched,
        "box_px": result.total.box_px,
        "score": result.total.score,
        "iou": result.total.iou,
    }


def overheads(loaded: Sequence[Loaded], images: Sequence[RGBImage], timer: CallTimer, calls: int) -> list[Any]:
    """Measure what a call takes on the host beyond the GPU's work: answers on the host, less the graph alone."""
    found = []
    on_gpu = [torch.tensor(image.pixels, device="cuda") for image in images]
    for artifact in loaded:
        if artifact.detector is None or artifact.bare is None:
            continue
        detector = artifact.detector
        call = Way(name="call", run=lambda detector=detector: detector(on_gpu, batch_size=len(on_gpu)))  # type: ignore[misc]
        graph = graph_way("graph", artifact.bare, images)
        measured = in_turn([call, graph], timer, rounds=2, calls=max(2, calls // 2))
        overhead = (percentiles(measured["call"].wall_ms).p50 - percentiles(measured["graph"].gpu_ms).p50) * 1e3
        found.append(
            {
                "what": "host overhead",
                "name": artifact.name,
                "batch": len(images),
                "overhead_us": overhead,
                "max_us": OVERHEAD_US,
                "overhead_met": overhead <= OVERHEAD_US,
            }
        )
    return found


def _environment(arguments: Sequence[str]) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    module = Path("/proc/driver/nvidia/version")
    return {
        "device": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "memory_bytes": properties.total_memory,
        "driver": module.read_text(encoding="utf-8").splitlines()[0] if module.is_file() else "unknown",
        "driver_cuda": driver_cuda_version(),
        "torch_cuda": torch.version.cuda,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in _PACKAGES},
        "command": " ".join(["python -m maintenance.engine", *arguments]),
        "date": time.strftime("%Y-%m-%d"),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _show(report: dict[str, Any]) -> None:
    for artifact in report["artifacts"]:
        runs = "runs here" if artifact["runs"] else f"does not run here: {artifact['refusal']}"
        print(f"{report['model']}, {artifact['name']}: {runs}", flush=True)
    for row in report["measurements"]:
        if row["what"] == "host overhead":
            print(f"{row['name']}, batch {row['batch']}: {row['overhead_us']:.0f} us on the host over the GPU's time")
            continue
        for name, times in row["ways"].items():
            gpu = times["gpu_ms"]
            print(
                f"{report['model']} {row['what']}, batch {row['batch']}, {name}: {gpu['p50']:.3f} ms "
                f"(p90 {gpu['p90']:.3f}, p99 {gpu['p99']:.3f}), {times['wall_ms']['p50']:.3f} ms by the clock"
            )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a line for each way and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file")
    parser.add_argument("--models-in", type=Path, required=True, help="the folder of maintenance.engine_models")
    parser.add_argument("--models", nargs="+", choices=tuple(MODELS), default=list(MODELS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--quick", action="store_true", help="few calls")
    given = list(sys.argv[1:] if arguments is None else arguments)
    chosen = parser.parse_args(given)
    if not torch.cuda.is_available():
        print("error: the engine benchmark needs an NVIDIA GPU and its driver, and there is none here", file=sys.stderr)
        return 2
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True  # eager at its best
    rounds, calls = (3, 10) if chosen.quick else (5, 20)
    report: dict[str, Any] = {
        "environment": _environment(given),
        "settings": {"rounds": rounds, "calls": calls, "tf32": False, "batches": chosen.batches},
        "models": [],
    }
    for name in chosen.models:
        measured = measure_model(
            MODELS[name], chosen.models_in, CudaCallTimer(), rounds=rounds, calls=calls, batches=chosen.batches
        )
        report["models"].append(measured)
        _show(measured)
        write_text(chosen.output, json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
