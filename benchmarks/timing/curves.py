"""How cost grows: with the batch, the image size, the number of RoIs and the number of classes."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import nn

from frcnn.benchmarks.candidates.candidate import EAGER_ID, Task
from frcnn.benchmarks.candidates.eager_detector import match_export, run_network
from frcnn.benchmarks.report.results import Curve, CurveKind, CurvePoint, Row
from frcnn.benchmarks.timing.measure import Group, Limits, Series, measure_groups
from frcnn.runtime.backend import Network
from frcnn.runtime.host.onnxruntime_backend import OnnxRuntimeBackend
from frcnn.spec import Size

_SCALES: Final = (0.5, 0.71, 1.0, 1.41)
_ROI_SHARES: Final = (0.1, 0.33, 1.0)
_CLASSES: Final = (2, 21, 91, 366)
_ONNX_CPU: Final = "onnxruntime-cpu"

Calls = dict[str, Callable[[], object]]
"""By candidate."""


def batch_curves(rows: Sequence[Row]) -> list[Curve]:
    """Return throughput against batch of every candidate, from its measures of whole images."""
    curves = []
    for row in rows:
        samples = {float(m.batch): [ms for r in m.rounds_ms for ms in r] for m in row.measures if m.scope == "images"}
        if len(samples) > 1 and row.status == "ok":
            curves.append(curve_of("batch", row.id, "images", samples, images=lambda batch: batch))
    return curves


def size_curves(task: Task, network: Network, canvas: Size, *, budget_s: float) -> list[Curve]:
    """Measure eager's network and ours, of any canvas, on a quarter to twice the area of the usual canvas."""
    step = task.spec.transform.size_divisible
    model = _eager(task)
    points: dict[float, Calls] = {}
    for scale in _SCALES:
        height, width = (max(1, round(side * scale / step)) * step for side in canvas)
        inputs = _noise((height, width))
        points[height * width / 1e6] = {
            EAGER_ID: partial(_run_eager, model, inputs[0]),
            _ONNX_CPU: partial(network.run, *inputs),
        }
    return _measured("image size", "megapixels of the canvas", points, budget_s, "the network only, on noise")


def variant_curves(
    kind: Literal["RoIs", "classes"], task: Task, canvas: Size, *, budget_s: float, export_until: float
) -> list[Curve]:
    """Measure the network with fewer proposals kept, or with random predictors of other numbers of classes.

    Ours is exported anew for each number, but for those whose export would end after ``export_until``, of
    ``time.perf_counter``.
    """
    from frcnn.exporter.graph.export import export_onnx

    if kind == "RoIs":
        counts = sorted({max(1, round(task.spec.rpn.post_nms_top_n * share)) for share in _ROI_SHARES})
        change, unit, what = _keep_proposals, "proposals", "the RPN keeps at most so many"
    else:
        counts, change, unit, what = list(_CLASSES), _change_classes, "classes", "predictors of random weights"
    inputs = _noise(canvas)
    points: dict[float, Calls] = {}
    longest = 0.0
    with ExitStack() as networks:
        for count in counts:
            model = _eager(task)
            change(model, count)
            points[count] = {EAGER_ID: partial(_run_eager, model, inputs[0])}
            began = time.perf_counter()
            if began + longest >= export_until:
                continue
            path = task.folder / f"curve-{unit}-{count}.onnx"
            task.log(f"exporting {unit}-{count}")
            export_onnx(model.cpu(), path, architecture=task.spec.architecture)
            try:
                network = networks.enter_context(closing(OnnxRuntimeBackend(path, threads=task.threads)))
            finally:
                path.unlink()
            model.to(task.device)
            longest = max(longest, time.perf_counter() - began)
            points[count][_ONNX_CPU] = partial(network.run, *inputs)
        return _measured(kind, unit, points, budget_s, f"the network only, on noise: {what}")


def _keep_proposals(model: Any, count: int) -> None:
    model.rpn._post_nms_top_n = dict.fromkeys(("training", "testing"), count)


def _change_classes(model: Any, count: int) -> None:
    predictor = model.roi_heads.box_predictor
    generator = torch.Generator().manual_seed(count)
    for name, outputs in (("cls_score", count), ("bbox_pred", 4 * count)):
        layer = nn.Linear(getattr(predictor, name).in_features, outputs)
        nn.init.normal_(layer.weight, std=0.01, generator=generator)
        nn.init.zeros_(layer.bias)
        setattr(predictor, name, layer.eval())


def curve_of(
    kind: CurveKind,
    row: str,
    unit: str,
    samples: Mapping[float, Sequence[float]],
    *,
    images: Callable[[float], float] = lambda x: 1.0,
    note: str = "",
) -> Curve:
    """Return a curve from the milliseconds of calls at each x."""
    points = []
    for x, ms in sorted(samples.items()):
        low, middle, high = np.percentile(ms, (25, 50, 75)).tolist()
        fps = images(x) / float(np.mean(ms)) * 1e3
        points.append(CurvePoint(x=x, low_ms=low, median_ms=middle, high_ms=high, fps=fps))
    return Curve(kind=kind, row=row, unit=unit, points=tuple(points), note=note)


def _eager(task: Task) -> Any:
    model = copy.deepcopy(task.model).eval().to(task.device)
    match_export(model, task.spec)
    return model


def _noise(canvas: Size) -> tuple[Any, Any]:
    """Return normally distributed images (1, 3, H, W) float32, and image_sizes (1, 2) int32."""
    return np.random.default_rng(0).standard_normal((1, 3, *canvas), np.float32), np.array([canvas], np.int32)


@torch.inference_mode()
def _run_eager(model: Any, images: Any) -> object:
    device = next(model.parameters()).device
    found = run_network(model, torch.from_numpy(images).to(device), [images.shape[2:]])
    if device.type == "cuda":
        torch.cuda.synchronize()
    return found


def _measured(kind: CurveKind, unit: str, points: Mapping[float, Calls], budget_s: float, note: str) -> list[Curve]:
    """Measure all points, the candidates of a point interleaved; what does not fit into the time has no point."""

    def series(candidate: str, call: Callable[[], object]) -> Series:
        return Series(candidate=candidate, windows=1, call=lambda _window: call)

    groups = {
        x: Group(scope="network", batch=1, required=x == min(points), series=list(map(series, calls, calls.values())))
        for x, calls in points.items()
    }
    measure_groups(list(groups.values()), Limits(budget_s=budget_s, max_rounds=20, max_warm_up=2))
    samples: dict[str, dict[float, list[float]]] = {}
    for x, group in groups.items():
        for item in group.alive:
            if item.rounds:
                samples.setdefault(item.candidate, {})[x] = item.samples
    return [curve_of(kind, candidate, unit, of_candidate, note=note) for candidate, of_candidate in samples.items()]
