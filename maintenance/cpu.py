"""Speed on the CPU: eager torchvision, torchvision's own ONNX export and ours, interleaved in one run.

``python -m maintenance.cpu -o results.json [--models NAME ...]`` times whole images (preprocessing included) at
each model's default size. The weights are random but calibrated, see ``calibrated.py``: speed does not depend on them
except through the number of proposals, which is reported. Rows run A B C, B C A, … so that drift hits all alike;
ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

import msgspec
import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from frcnn.benchmarks.candidates.eager_detector import EagerDetector, to_tensor
from frcnn.console import note, say, show_table
from frcnn.exporter.checkpoint.architectures import ARCHITECTURES
from frcnn.exporter.graph.export import export_onnx
from frcnn.exporter.model.spec_from_model import read_model_spec
from frcnn.files import write_text
from frcnn.runtime import Detector, RGBImage
from frcnn.spec import ModelSpec
from maintenance.calibrated import calibrate
from maintenance.noise import Noise, as_float64, network_detections, noise_between, session_detections
from maintenance.stages import Stage, sgemm_gflops_per_s, stage_times

__all__ = ["ModelResult", "Row", "main", "measure"]

MODELS: Final = (
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
)
_EAGER: Final = "eager torchvision"
_NAIVE: Final = "torchvision's own ONNX export, ONNX Runtime"
_OURS: Final = "frcnn, ONNX Runtime"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One way to run a model.

    Attributes:
        name: which.
        ms: median time of an image in milliseconds, and its quartiles.
        times_eager: eager's time / this row's time within a round: the median, and the least and the largest.
        export_s: time to export in seconds; 0 for eager.
    """

    name: str
    ms: tuple[float, float, float]
    times_eager: tuple[float, float, float]
    export_s: float


class ModelResult(msgspec.Struct, frozen=True, kw_only=True):
    """All rows of a model, where our time goes, and whether the answers are right."""

    model: str
    images: list[str]
    canvas: tuple[int, int]
    proposals: list[int]
    rounds: int
    rows: list[Row]
    stages: list[Stage]
    sgemm_gflops_per_s: float
    error_of_eager: Noise
    error_of_ours: Noise


def measure(name: str, raw_images: list[RGBImage], *, threads: int, rounds: int, folder: Path) -> ModelResult:
    """Measure one architecture on images of one size."""
    torch.manual_seed(0)
    model: GeneralizedRCNN = ARCHITECTURES[name](num_classes=91).eval()
    calibrate(model, [to_tensor(image) for image in raw_images[:2]])
    spec = read_model_spec(model, architecture=name)

    started = time.perf_counter()
    path = folder / f"{name}.onnx"
    export_onnx(model, path, architecture=name)
    export_s = time.perf_counter() - started
    note(f"{name}: exported in {export_s:.0f} s")
    naive, naive_s = _naive_export(model, to_tensor(raw_images[0]))

    canvas = spec.transform.canvas_size(*spec.transform.resized_size(*raw_images[0].size))
    eager = EagerDetector(model, spec)
    naive_session = _session(naive, threads)
    with Detector.load(path, threads=threads) as detector:
        runs: dict[str, Callable[[RGBImage], object]] = {
            _EAGER: lambda image: eager.detect(image, canvas),
            _NAIVE: lambda image: naive_session.run(None, {naive_session.get_inputs()[0].name: _chw(image)}),
            _OURS: lambda image: detector([image]),
        }
        times = _interleaved(runs, raw_images, rounds)
    sgemm = sgemm_gflops_per_s(threads)
    images, _ = model.transform([to_tensor(raw_images[0])])
    feeds = {"images": images.tensors.numpy(), "image_sizes": np.array(images.image_sizes, np.int32)}
    stages = stage_times(path, feeds, threads=threads, sgemm=sgemm)
    proposals = _proposals(model, raw_images)
    own, ours = _errors(model, spec, raw_images, path, threads)
    return ModelResult(
        model=name,
        images=[image.name for image in raw_images],
        canvas=canvas,
        proposals=proposals,
        rounds=rounds,
        rows=_rows(times, {_NAIVE: naive_s, _OURS: export_s}),
        stages=stages,
        sgemm_gflops_per_s=sgemm,
        error_of_eager=own,
        error_of_ours=ours,
    )


def _naive_export(model: GeneralizedRCNN, image: torch.Tensor) -> tuple[bytes, float]:
    """Export the model as torchvision itself offers: traced, for one image of one size."""
    started = time.perf_counter()
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        path = Path(folder) / "naive.onnx"
        torch.onnx.export(model, ([image],), path, dynamo=False, opset_version=17, input_names=["image"])
        return path.read_bytes(), time.perf_counter() - started


def _session(model: bytes, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _chw(image: RGBImage) -> NDArray[np.float32]:
    array: NDArray[np.float32] = to_tensor(image).contiguous().numpy()
    return array


def _interleaved(
    runs: dict[str, Callable[[RGBImage], object]], images: list[RGBImage], rounds: int
) -> dict[str, list[list[float]]]:
    """Return milliseconds by row, round and image, after one untimed run of each."""
    times: dict[str, list[list[float]]] = {name: [] for name in runs}
    for run in runs.values():
        run(images[0])
    order = list(runs)
    for _ in range(rounds):
        for name in order:
            of_round = []
            for image in images:
                started = time.perf_counter()
                runs[name](image)
                of_round.append((time.perf_counter() - started) * 1e3)
            times[name].append(of_round)
        order = [*order[1:], order[0]]
    return times


def _rows(times: dict[str, list[list[float]]], export_s: dict[str, float]) -> list[Row]:
    rows = []
    for name, by_round in times.items():
        ratios = [sum(e) / sum(r) for e, r in zip(times[_EAGER], by_round, strict=True)]
        low, middle, high = quantiles((ms for of_round in by_round for ms in of_round), n=4)
        rows.append(
            Row(
                name=name,
                ms=(low, middle, high),
                times_eager=(min(ratios), median(ratios), max(ratios)),
                export_s=export_s.get(name, 0.0),
            )
        )
    return rows


@torch.inference_mode()
def _proposals(model: GeneralizedRCNN, raw_images: list[RGBImage]) -> list[int]:
    images, _ = model.transform([to_tensor(image) for image in raw_images])
    features = model.backbone(images.tensors)
    proposals, _ = model.rpn(images, features if isinstance(features, dict) else {"0": features})
    return [len(of_image) for of_image in proposals]


def _errors(
    model: GeneralizedRCNN, spec: ModelSpec, raw_images: list[RGBImage], path: Path, threads: int
) -> tuple[Noise, Noise]:
    """Return the distances of eager float32 and of our model from eager float64, on the same tensors."""
    images, _ = model.transform([to_tensor(image) for image in raw_images])
    sizes = images.image_sizes
    truth = network_detections(as_float64(model), spec, images.tensors, sizes)
    eager = network_detections(model, spec, images.tensors, sizes)
    ours = session_detections(_session(path.read_bytes(), threads), images.tensors, sizes)
    return noise_between(truth, eager, spec), noise_between(truth, ours, spec)


def _photographs() -> list[RGBImage]:
    """Return real photographs of one size (427 x 640): scikit-learn's two, and both mirrored."""
    from sklearn.datasets import load_sample_image

    images = []
    for name in ("china.jpg", "flower.jpg"):
        pixels = load_sample_image(name)
        images.append(RGBImage(pixels=np.ascontiguousarray(pixels), name=name))
        images.append(RGBImage(pixels=np.ascontiguousarray(pixels[:, ::-1]), name=f"{name}, mirrored"))
    return images


def _environment(threads: int) -> dict[str, Any]:
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    packages = ("frcnn", "torch", "torchvision", "onnxruntime", "numpy")
    return {
        "cpu": cpu,
        "system": platform.platform(),
        "python": platform.python_version(),
        "threads": threads,
        "versions": {package: version(package) for package in packages},
        "command": " ".join(["python -m maintenance.cpu", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
    }


def main() -> int:
    """Measure, print a table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=sorted(ARCHITECTURES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            images = _photographs()
            result = measure(name, images, threads=arguments.threads, rounds=arguments.rounds, folder=Path(folder))
            results.append(result)
            _show(result)
            report = {"environment": _environment(arguments.threads), "results": results}
            write_text(arguments.output, msgspec.json.format(msgspec.json.encode(report), indent=1).decode() + "\n")
    return 0


def _show(result: ModelResult) -> None:
    rows = [
        (
            row.name,
            f"{row.ms[1]:.0f}",
            f"{row.times_eager[1]:.2f}",
            f"{row.times_eager[0]:.2f} to {row.times_eager[2]:.2f}",
        )
        for row in result.rows
    ]
    show_table(f"{result.model}, {result.canvas[0]}x{result.canvas[1]}", ("way", "ms", "x eager", "spread"), rows)
    stages = [(s.name, f"{s.ms:.0f}", f"{s.gflop:.1f}", f"{s.of_sgemm:.0%}") for s in result.stages]
    show_table("where our time goes", ("stage", "ms", "GFLOP", "of sgemm"), stages)
    eager, ours = result.error_of_eager, result.error_of_ours
    say(f"largest error against float64: eager {eager.box_px_max:.2g} px, ours {ours.box_px_max:.2g} px")


if __name__ == "__main__":
    sys.exit(main())
