"""Every model family at its full size: exported by the command, compared with float64 eager. Minutes each.

``make test-full`` writes what it measured to benchmarks/results/full-size.json.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime as ort
import pytest
import torch
from maintenance.calibrated import calibrate
from maintenance.noise import Noise, as_float64, network_detections, noise_between, session_detections
from support import full_size

from frcnn.benchmarks.candidates.eager_detector import to_tensor
from frcnn.exporter.checkpoint.architectures import ARCHITECTURES
from frcnn.exporter.model.spec_from_model import read_model_spec
from frcnn.runtime import Detections, RGBImage

pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")]

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "full-size.json"
OWN = {"convnext_tiny_fpn": full_size.convnext_tiny_fpn, "swin_t_fpn": full_size.swin_t_fpn}
NAMES = [
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fasterrcnn_vgg16",
    "fasterrcnn_resnet50_c4",
    "fasterrcnn_resnet18_fpn",
    "fasterrcnn_resnet101_fpn",
    *OWN,
]


def record(row: dict[str, object]) -> None:
    """Put a family's row into the results; those of other families stay."""
    found = {row["family"]: row for row in json.loads(RESULTS.read_text())["families"]} if RESULTS.exists() else {}
    found[row["family"]] = row
    packages = ("frcnn", "torch", "torchvision", "onnx", "onnxruntime", "numpy")
    report = {
        "environment": {
            "system": platform.platform(),
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
            "versions": {package: version(package) for package in packages},
        },
        "families": [found[name] for name in NAMES if name in found],
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")


@pytest.mark.parametrize("name", NAMES)
def test_a_full_size_model_agrees_with_eager(name, tmp_path):
    raw_images = _images()
    torch.manual_seed(0)
    model = (OWN[name]() if name in OWN else ARCHITECTURES[name](num_classes=91)).eval()
    calibrate(model, [to_tensor(raw_images[0]), to_tensor(raw_images[1])])
    torch.save({"model": model.state_dict()}, tmp_path / "my.pth")
    export_s, peak_gb = _export(name, tmp_path)
    spec = read_model_spec(model, architecture=name)
    session = ort.InferenceSession(tmp_path / "my.onnx", providers=["CPUExecutionProvider"])
    exact = as_float64(model)

    truth: list[Detections] = []
    eager: list[Detections] = []
    plain: list[Detections] = []
    ours: list[Detections] = []
    canvases = []
    for image in raw_images:  # each on its own canvas
        images, _ = model.transform([to_tensor(image)])
        sizes, tensors = images.image_sizes, images.tensors
        canvases.append(tuple(tensors.shape[2:]))
        truth += network_detections(exact, spec, tensors, sizes)
        eager += network_detections(model, spec, tensors, sizes)
        with torch.backends.mkldnn.flags(enabled=False):
            plain += network_detections(model, spec, tensors, sizes)
        ours += session_detections(session, tensors, sizes)

    own = [noise_between(truth, answers, spec) for answers in (eager, plain)]
    error = noise_between(truth, ours, spec)
    alone = session_detections(session, tensors, sizes)[0]
    together = session_detections(session, torch.cat([tensors] * 2), [*sizes, *sizes])[1]
    row = {
        "family": name,
        "export_s": round(export_s, 1),
        "export_peak_gb": round(peak_gb, 2),
        "file_mb": round((tmp_path / "my.onnx").stat().st_size / 1e6, 1),
        "canvases": canvases,
        "detections": [len(found) for found in ours],
        "error_of_eager": [msgspec.to_builtins(noise) for noise in own],
        "error_of_ours": msgspec.to_builtins(error),
    }
    record(row)
    print(json.dumps(row, indent=1))
    assert error.pairs > 100
    assert error.unmatched <= 0.01
    _at_most_twice(error, own)
    assert np.array_equal(alone.boxes, together.boxes)
    assert np.array_equal(alone.scores, together.scores)
    assert np.array_equal(alone.labels, together.labels)


def _at_most_twice(error: Noise, own: list[Noise]) -> None:
    """Hold the root mean squares to the limit; the largest of 1,200 coordinates is recorded, and is chance's choice."""
    for measure in ("box_px_rms", "score_rms"):
        limit = 2 * max(getattr(noise, measure) for noise in own)
        assert getattr(error, measure) <= limit, measure


def _export(name: str, folder: Path) -> tuple[float, float]:
    """Run the command; return its seconds and its peak memory in GB."""
    arch = f"{ROOT / 'tests' / 'support' / 'full_size.py'}:{name}" if name in OWN else name
    command = [sys.executable, "-m", "frcnn", "export", "my.pth", "--arch", arch, "-o", "my.onnx"]
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, "PYTHONPATH": paths})
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return time.perf_counter() - started, usage.ru_maxrss / 1e6


def _images() -> list[RGBImage]:
    """Return photographs of three shapes: landscape, portrait and square."""
    from sklearn.datasets import load_sample_image

    china, flower = load_sample_image("china.jpg"), load_sample_image("flower.jpg")
    arrays = [china, np.rot90(flower), china[:400, 100:500]]
    return [RGBImage(pixels=np.ascontiguousarray(array), name=str(array.shape)) for array in arrays]
