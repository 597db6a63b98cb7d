"""Load rows, check them, time them interleaved. What is there so far can be had at any moment."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from frcnn.benchmarks.candidates.candidate import File, Runner, Task, Way
from frcnn.benchmarks.candidates.unavailable import CannotRunError, reason_of
from frcnn.benchmarks.report.results import (
    Artifact,
    Correctness,
    Measure,
    NoiseVerdict,
    NotToldApart,
    Ratio,
    Row,
    Scope,
    StageShare,
    Status,
)
from frcnn.benchmarks.timing.correctness import Truth, check
from frcnn.benchmarks.timing.measure import Clock, Group, Lane, Limits, Stopwatch, WallStopwatch, measure_groups
from frcnn.benchmarks.timing.memory import MemoryWatch
from frcnn.benchmarks.timing.statistics import differ, measure_of, noise_of, ratio_between
from frcnn.errors import MissingDependencyError
from frcnn.runtime import RGBImage

__all__ = ["Loaded", "Session"]

_SCOPES: Final[tuple[Scope, ...]] = ("images", "network")
_MAX_INPUT_BYTES: Final = 32 << 20
_NOISE_LIMIT: Final = 0.05
_WEIGHTS: Final[dict[tuple[Scope, int], float]] = {("images", 1): 4.0, ("network", 1): 2.0}
_HOW: Final = (
    "Before its turn in a round a row waits 60 ms, for the threads of the row before it to come to rest, and where "
    "calls take less than half a second it makes an untimed one. "
    "{row} ran twice, as two rows interleaved like all others. A ratio's interval holds its median over the rounds "
    "with 95 % (least to most with fewer than 6 rounds). The noise is the farther end of the null pair's interval from "
    "1, at batch 1, images to boxes. Two rows are told apart where their interval leaves 1 out and their median is "
    "farther from 1 than the noise of their own scope and batch size."
)

Report = Callable[[float, str], None]


@dataclass(slots=True, kw_only=True, eq=False)
class Loaded:
    """A way to run the model, and how far it came.

    Attributes:
        way: which.
        runner: None where it did not load.
        file: what it runs.
        status: see ``results.Status``.
        reason: one line.
        build_s: time to make its file, or to compile it.
        load_s: time to load.
        peak_host_bytes: see ``results.Row``.
        peak_gpu_bytes: likewise.
        correctness: of the answers.
        stages: where its time goes.
        of_roofline: its share of the roofline.
    """

    way: Way
    runner: Runner | None = None
    file: File | None = None
    status: Status = "failed"
    reason: str = "the run ended before it was loaded"
    build_s: float | None = None
    load_s: float | None = None
    peak_host_bytes: int | None = None
    peak_gpu_bytes: int | None = None
    correctness: Correctness | None = None
    stages: tuple[StageShare, ...] = ()
    of_roofline: float | None = None
    missing: list[str] = field(default_factory=list)


class Session:
    """Runs ways side by side.

    Args:
        task: what they work on.
        ways: in the order of the report, eager fp32 first.
        truth: eager's answers.
        batches: batch sizes, rising.
        clock: seconds.
        sleep: waits, in seconds of the clock.
        stopwatch: what times whole images.
        check_images: how many images are compared with eager.
    """

    def __init__(
        self,
        task: Task,
        ways: Sequence[Way],
        truth: Truth,
        *,
        batches: Sequence[int],
        clock: Clock = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
        stopwatch: Stopwatch | None = None,
        check_images: int = 16,
    ) -> None:
        self._task = task
        self._truth = truth
        self._batches = tuple(sorted(batches))
        self._clock = clock
        self._sleep = sleep
        self._stopwatch = stopwatch or WallStopwatch(clock)
        self._check_images = check_images
        self.loaded = [Loaded(way=way) for way in ways]
        self.groups: list[Group] = []
        self._null: str | None = None

    def load(self, report: Report = lambda share, what: None) -> None:
        """Build, load and check every row; what fails is a row with its reason, and the others go on."""
        for index, item in enumerate(self.loaded):
            report(index / len(self.loaded), f"loading {item.way.name}")
            try:
                self._load(item)
            except (CannotRunError, MissingDependencyError) as error:
                self._give_up(item, "unavailable", reason_of(error))
            except Exception as error:  # a backend may raise anything, and costs only its own row
                self._give_up(item, "failed", reason_of(error))

    def measure(self, limits: Limits, report: Report = lambda share, what: None) -> None:
        """Time all rows that are loaded, and the null pair."""
        running = [item for item in self.loaded if item.runner is not None]
        quickest = [item for item in running if item.way.images == "as given" and item.way.largest_batch is None]
        null = next((item for item in quickest if item.way.id.startswith("onnxruntime-cpu")), None)
        null = null or next(iter(quickest), None)
        self._null = null.way.id if null is not None else None
        kinds = dict.fromkeys(item.way.images for item in running)
        for kind, (batch, scope) in itertools.product(kinds, itertools.product(self._batches, _SCOPES)):
            lanes = [lane for item in running if item.way.images == kind for lane in self._lanes(item, scope, batch)]
            lanes.sort(key=lambda lane: lane.null)  # apart from its twin, or it would always find everything warm
            if lanes:
                weight = _WEIGHTS.get((scope, batch), 1.0)
                required = (scope, batch) == ("images", self._batches[0])
                self.groups.append(Group(scope=scope, batch=batch, lanes=lanes, weight=weight, required=required))
        measure_groups(self.groups, limits, clock=self._clock, sleep=self._sleep, report=report)

    def rows(self) -> tuple[Row, ...]:
        """Return all rows with what was measured so far."""
        return tuple(self._row(item) for item in self.loaded)

    def noise(self) -> NoiseVerdict:
        """Return what the null pair says, and which rows it leaves apart."""
        ratios = {id(group): self._null_ratio(group) for group in self.groups}
        first = next((g for g in self.groups if (g.scope, g.batch) == ("images", self._batches[0])), None)
        null = None if first is None else ratios[id(first)]
        noise = None if null is None else noise_of(null)
        alike = [pair for group in self.groups for pair in _not_told_apart(group, ratios[id(group)])]
        return NoiseVerdict(
            row=self._null,
            null=null,
            noise=noise,
            too_noisy=noise is not None and noise > _NOISE_LIMIT,
            limit=_NOISE_LIMIT,
            not_told_apart=tuple(alike),
            how=_HOW.format(row=self._null or "no row"),
        )

    def runner(self, row_id: str) -> Runner | None:
        """Return what runs a row, or None."""
        return next((item.runner for item in self.loaded if item.way.id == row_id), None)

    def close(self) -> None:
        """Release all rows."""
        for item in self.loaded:
            if item.runner is not None:
                with suppress(Exception):
                    item.runner.close()
                item.runner = None

    def _load(self, item: Loaded) -> None:
        way, task = item.way, self._task
        if way.prepare is not None:
            item.file = way.prepare(task)
        memory = MemoryWatch()
        started = self._clock()
        item.runner = way.open(task, item.file)
        item.build_s = item.runner.build_s if item.file is None else item.file.build_s
        item.load_s = self._clock() - started - (item.runner.build_s or 0.0)
        images = self._images_of(way)[: self._check_images]
        item.runner.detect(images[:1])
        item.peak_host_bytes, item.peak_gpu_bytes = memory.host_bytes(), memory.gpu_bytes()
        batch = min(self._batches[-1], way.largest_batch or self._batches[-1], len(images))
        item.correctness = check(self._truth, item.runner, images, task.spec, way.precision, batch=batch)
        item.status, item.reason = "ok", ""
        if not item.correctness.passed:
            item.status = "wrong"
            item.reason = _what_is_wrong(item.correctness)

    def _give_up(self, item: Loaded, status: Status, reason: str) -> None:
        item.status, item.reason = status, reason
        if item.runner is not None:
            with suppress(Exception):
                item.runner.close()
            item.runner = None

    def _images_of(self, way: Way) -> Sequence[RGBImage]:
        return self._task.images if way.images == "as given" else self._task.equal_images

    def _lanes(self, item: Loaded, scope: Scope, batch: int) -> list[Lane]:
        """Return the lane of a row, and the second one of the null pair."""
        runner, way = item.runner, item.way
        assert runner is not None
        if way.largest_batch is not None and batch > way.largest_batch:
            item.missing.append(f"{scope}, batch {batch}: it takes at most {way.largest_batch} image at a time")
            return []
        images = self._images_of(way)
        windows = windows_of(images, batch)
        if scope == "images":
            stopwatch = self._stopwatch
            call: Callable[[int], Callable[[], object]] = lambda i: partial(runner.detect, windows[i])  # noqa: E731
        else:
            try:
                windows = windows[: _windows_held(runner, windows)]
                prepared = [runner.network(window) for window in windows]
            except CannotRunError as error:
                item.missing.append(f"{scope}, batch {batch}: {error}")
                return []
            except Exception as error:
                item.missing.append(f"{scope}, batch {batch}: {reason_of(error)}")
                return []
            stopwatch = runner.network_stopwatch
            call = prepared.__getitem__
        names = [False, True] if way.id == self._null else [False]
        return [
            Lane(row=way.id, windows=len(windows), call=call, stopwatch=stopwatch, null=is_null) for is_null in names
        ]

    def _row(self, item: Loaded) -> Row:
        way = item.way
        measures, missing = self._measures(way), list(item.missing)
        status, reason = item.status, item.reason
        for group in self.groups:
            lane = _lane(group, way.id)
            why = "" if lane is None else lane.failure or group.failure
            if why:
                missing.append(f"{group.scope}, batch {group.batch}: {why}")
        if status == "ok" and not measures:
            status = "failed"
            reason = missing[0] if missing else "the run ended before it was timed"
        return Row(
            id=way.id,
            name=way.name,
            backend=way.backend,
            device=way.device,
            precision=way.precision,
            images=way.images,
            reference=way.reference,
            status=status,
            reason=reason,
            note=way.note,
            artifact=_artifact(item.file),
            build_s=item.build_s,
            load_s=item.load_s,
            peak_host_bytes=item.peak_host_bytes,
            peak_gpu_bytes=item.peak_gpu_bytes,
            correctness=item.correctness,
            measures=measures,
            missing=tuple(missing),
            stages=item.stages,
            of_roofline=item.of_roofline,
        )

    def _measures(self, way: Way) -> tuple[Measure, ...]:
        measures = []
        for group in self.groups:
            lane = _lane(group, way.id)
            if lane is None or not lane.rounds:
                continue
            reference = None if way.id == way.reference else _lane(group, way.reference)
            rounds = None if reference is None or not reference.rounds else reference.rounds
            measures.append(measure_of(group.scope, group.batch, lane.rounds, warm_up=lane.warm_up, reference=rounds))
        return tuple(measures)

    def _null_ratio(self, group: Group) -> Ratio | None:
        lanes = [lane for lane in group.lanes if lane.row == self._null and lane.rounds and not lane.failure]
        return ratio_between(lanes[0].rounds, lanes[1].rounds) if len(lanes) == 2 else None


def windows_of(images: Sequence[RGBImage], batch: int) -> list[list[RGBImage]]:
    """Return batches that go round the images, each image in at least one."""
    count = -(-len(images) // batch)
    return [[images[(i * batch + j) % len(images)] for j in range(batch)] for i in range(count)]


def _windows_held(runner: Runner, windows: Sequence[Sequence[RGBImage]]) -> int:
    """Return how many prepared batches a lane keeps in memory: all, or as many as make 32 MiB, but one at least."""
    height, width = runner.canvas_of(windows[0][0])
    return max(1, min(len(windows), _MAX_INPUT_BYTES // (12 * height * width * len(windows[0]))))


def _lane(group: Group, row: str) -> Lane | None:
    return next((lane for lane in group.lanes if lane.row == row and not lane.null), None)


def _not_told_apart(group: Group, null: Ratio | None) -> list[NotToldApart]:
    if null is None:
        return []
    noise = noise_of(null)
    lanes = [lane for lane in group.lanes if lane.rounds and not lane.null and not lane.failure]
    return [
        NotToldApart(first=a.row, second=b.row, scope=group.scope, batch=group.batch)
        for a, b in itertools.combinations(lanes, 2)
        if not differ(ratio_between(a.rounds, b.rounds), noise)
    ]


def _artifact(file: File | None) -> Artifact | None:
    if file is None or not file.path.exists():
        return None
    return Artifact(
        name=file.path.name,
        size_bytes=file.path.stat().st_size,
        sha256=_sha256(file.path),
        built_here=file.build_s is not None,
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _what_is_wrong(c: Correctness) -> str:
    return (
        f"disagrees with eager fp32: boxes differ by up to {c.box_px:.4g} px, scores by {c.score:.2g}, "
        f"{c.moved} moved, {c.unmatched} missing, {c.relabelled} relabelled of {c.expected} + {c.found}"
    )
