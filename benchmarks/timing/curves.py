"""How cost grows: with the batch, the image size, the number of RoIs and the number of classes."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from frcnn.benchmarks.candidates.candidate import Task
from frcnn.benchmarks.candidates.eager_detector import fix_pooler_scales, run_network
from frcnn.benchmarks.report.results import Curve, CurveKind, CurvePoint, Row
from frcnn.benchmarks.timing.measure import Clock, Group, Lane, Limits, WallStopwatch, measure_groups
from frcnn.benchmarks.timing.statistics import percentile
from frcnn.runtime.backend import Network
from frcnn.runtime.host.onnxruntime_backend import OnnxRuntimeBackend
from frcnn.spec import Size

__all__ = ["batch_curves", "classes_curves", "curve_of", "rois_curves", "size_curves"]

_SCALES: Final = (0.5, 0.71, 1.0, 1.41)
_ROI_SHARES: Final = (0.1, 0.33, 1.0)
_CLASSES: Final = (2, 21, 91, 366)
_ONNX_CPU: Final = "onnxruntime-cpu"
_EAGER: Final = "eager-fp32"
Points = Mapping[float, Mapping[str, Callable[[], object]]]


def batch_curves(rows: Sequence[Row]) -> list[Curve]:
    """Return throughput against batch of every row, from its measures of whole images."""
    curves = []
    for row in rows:
        of_row = [m for m in row.measures if m.scope == "images"]
        if len(of_row) > 1 and row.status == "ok":
            samples = {float(m.batch): [ms for r in m.rounds_ms for ms in r] for m in of_row}
            curves.append(curve_of("batch", row.id, "images", samples, images=lambda batch: batch))
    return curves


def size_curves(
    task: Task, network: Network, canvas: Size, *, budget_s: float, clock: Clock = time.perf_counter
) -> list[Curve]:
    """Measure eager's and our network on canvases of half to twice the usual area.

    Args:
        task: the model.
        network: ours, of any canvas.
        canvas: the usual (height, width).
        budget_s: for all of it.
        clock: seconds.
    """
    step = task.spec.transform.size_divisible
    model = _prepared(task)
    points: dict[float, dict[str, Callable[[], object]]] = {}
    for scale in _SCALES:
        size = _scaled(canvas, scale, step)
        images = np.random.default_rng(0).standard_normal((1, 3, *size), np.float32)
        points[size[0] * size[1] / 1e6] = {
            _EAGER: partial(_eager, model, images, size),
            _ONNX_CPU: partial(network.run, images, np.array([size], np.int32)),
        }
    return _measured("image size", "megapixels of the canvas", points, budget_s, clock, "the network only, on noise")


def rois_curves(
    task: Task, canvas: Size, *, budget_s: float, export_until: float, clock: Clock = time.perf_counter
) -> list[Curve]:
    """Measure the network with fewer proposals kept; ours is exported anew for each number.

    Args:
        task: the model.
        canvas: the usual (height, width).
        budget_s: for measuring.
        export_until: on the clock; ours has no further points where its next export would end later.
        clock: seconds.
    """
    maximum = task.spec.rpn.post_nms_top_n
    counts = sorted({max(1, round(maximum * share)) for share in _ROI_SHARES})

    def change(model: Any, count: int) -> None:
        model.rpn._post_nms_top_n = dict.fromkeys(("training", "testing"), count)

    note = "the network only, on noise: the RPN keeps at most so many"
    return _variants(task, "RoIs", "proposals", counts, change, canvas, budget_s, export_until, clock, note)


def classes_curves(
    task: Task, canvas: Size, *, budget_s: float, export_until: float, clock: Clock = time.perf_counter
) -> list[Curve]:
    """Measure the network with random predictors of other numbers of classes; ours is exported anew for each.

    The arguments are those of :func:`rois_curves`.
    """

    def change(model: Any, count: int) -> None:
        old = model.roi_heads.box_predictor
        generator = torch.Generator().manual_seed(count)
        for name, outputs in (("cls_score", count), ("bbox_pred", 4 * count)):
            layer = nn.Linear(getattr(old, name).in_features, outputs)
            nn.init.normal_(layer.weight, std=0.01, generator=generator)
            nn.init.zeros_(layer.bias)
            setattr(old, name, layer.eval())

    note = "the network only, on noise: predictors of random weights"
    return _variants(task, "classes", "classes", _CLASSES, change, canvas, budget_s, export_until, clock, note)


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
    points = tuple(
        CurvePoint(
            x=x,
            low_ms=percentile(ms, 0.25),
            median_ms=percentile(ms, 0.5),
            high_ms=percentile(ms, 0.75),
            fps=images(x) * len(ms) / sum(ms) * 1e3,
        )
        for x, ms in sorted(samples.items())
    )
    return Curve(kind=kind, row=row, unit=unit, points=points, note=note)


def _variants(
    task: Task,
    kind: CurveKind,
    unit: str,
    values: Sequence[int],
    change: Callable[[Any, int], None],
    canvas: Size,
    budget_s: float,
    export_until: float,
    clock: Clock,
    note: str,
) -> list[Curve]:
    images = np.random.default_rng(0).standard_normal((1, 3, *canvas), np.float32)
    sizes = np.array([canvas], np.int32)
    points: dict[float, dict[str, Callable[[], object]]] = {}
    networks: list[Network] = []
    longest = 0.0
    for value in values:
        model = _prepared(task)
        change(model, value)
        points[value] = {_EAGER: partial(_eager, model, images, canvas)}
        began = clock()
        if began + longest < export_until:
            network = _exported(task, model.cpu(), f"{unit}-{value}")
            model.to(task.device)
            longest = max(longest, clock() - began)
            networks.append(network)
            points[value][_ONNX_CPU] = partial(network.run, images, sizes)
    try:
        return _measured(kind, unit, points, budget_s, clock, note)
    finally:
        for network in networks:
            network.close()


def _exported(task: Task, model: Any, name: str) -> Network:
    from frcnn.exporter.graph.export import export_onnx

    task.say(f"exporting {name}")
    path = task.folder / f"curve-{name}.onnx"
    export_onnx(model, path, architecture=task.spec.architecture)
    try:
        return OnnxRuntimeBackend(path, threads=task.threads)
    finally:
        path.unlink()


def _prepared(task: Task) -> Any:
    model = copy.deepcopy(task.model).eval().to(task.device)
    fix_pooler_scales(model, task.spec)
    return model


@torch.inference_mode()
def _eager(model: Any, images: np.ndarray[Any, np.dtype[np.float32]], size: Size) -> object:
    device = next(model.parameters()).device
    found = run_network(model, torch.from_numpy(images).to(device), [size])
    if device.type == "cuda":
        torch.cuda.synchronize()
    return found


def _scaled(canvas: Size, scale: float, step: int) -> Size:
    return max(1, round(canvas[0] * scale / step)) * step, max(1, round(canvas[1] * scale / step)) * step


def _measured(kind: CurveKind, unit: str, points: Points, budget_s: float, clock: Clock, note: str) -> list[Curve]:
    """Run all points of all rows, the rows of a point interleaved; what does not fit into the time has no point."""
    stopwatch = WallStopwatch(clock)
    groups = {
        x: Group(
            scope="network",
            batch=1,
            required=x == min(points),
            lanes=[Lane(row=row, windows=1, call=_always(call), stopwatch=stopwatch) for row, call in calls.items()],
        )
        for x, calls in points.items()
    }
    measure_groups(list(groups.values()), Limits(budget_s=budget_s, max_rounds=20, max_warm_up=2), clock=clock)
    curves = []
    for row in dict.fromkeys(row for calls in points.values() for row in calls):
        samples = {
            x: [ms for of_round in lane.rounds for ms in of_round]
            for x, group in groups.items()
            for lane in group.alive
            if lane.row == row and lane.rounds
        }
        if samples:
            curves.append(curve_of(kind, row, unit, samples, note=note))
    return curves


def _always(call: Callable[[], object]) -> Callable[[int], Callable[[], object]]:
    return lambda _window: call
