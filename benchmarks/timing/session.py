"""Load candidates, check them, time them interleaved; the results so far can be read at any moment."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import InitVar, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import torch

from frcnn.benchmarks.candidates.candidate import Candidate, CannotRunError, File, Report, Runner, Task, reason_of
from frcnn.benchmarks.candidates.eager_detector import Alternatives
from frcnn.benchmarks.report.results import Artifact, NoiseVerdict, NotToldApart, Ratio, Row, Scope
from frcnn.benchmarks.timing.correctness import Truth, check
from frcnn.benchmarks.timing.measure import Clock, Group, Limits, Series, cuda_ms, measure_groups, wall_ms
from frcnn.benchmarks.timing.statistics import differ, measure_of, noise_of, ratio_between
from frcnn.errors import MissingDependencyError
from frcnn.files import file_sha256
from frcnn.runtime import RGBImage

_SHARED: Final = ("id", "name", "backend", "device", "precision", "images", "reference", "note")
_SCOPES: Final[tuple[Scope, ...]] = ("images", "network")
_MAX_INPUT_BYTES: Final = 32 << 20
_NOISE_LIMIT: Final = 0.05
_WEIGHTS: Final[dict[tuple[Scope, int], float]] = {("images", 1): 4.0, ("network", 1): 2.0}
_HOW: Final = (
    "Before its turn in a round a candidate waits 60 ms, for the threads of the one before it to come to rest, and "
    "where calls take less than half a second it makes an untimed one. "
    "{row} ran twice, as two candidates interleaved like all others. A ratio's interval holds its median over the "
    "rounds with 95 % (min to max with fewer than 6 rounds). The noise is the farther end of the null pair's interval "
    "from 1, at batch 1, images to boxes. Two candidates are told apart where their interval leaves 1 out and their "
    "median is farther from 1 than the noise of their own scope and batch size."
)


@dataclass(slots=True, eq=False)
class Loaded:
    """A candidate, its results so far but for the measures, and what runs it; None where it did not load."""

    candidate: Candidate
    row: Row
    runner: Runner | None = None
    file: File | None = None

    def note(self, **fields: Any) -> None:
        """Change fields of the row."""
        self.row = msgspec.structs.replace(self.row, **fields)

    def miss(self, scope: Scope, batch: int, reason: str) -> None:
        """Keep why a scope and batch size has no measure."""
        self.note(missing=(*self.row.missing, f"{scope}, batch {batch}: {reason}"))

    def close(self) -> None:
        """Release the runner."""
        if self.runner is not None:
            with suppress(Exception):
                self.runner.close()
            self.runner = None


@dataclass
class Session:
    """Runs candidates side by side, eager fp32 first; how many images are checked may be changed until ``load``."""

    task: Task
    candidates: InitVar[Sequence[Candidate]]
    truth: Truth
    batches: Sequence[int]
    clock: Clock = time.perf_counter
    sleep: Callable[[float], None] = time.sleep
    check_images: int = 16
    alternatives: Callable[..., Alternatives] | None = None
    groups: list[Group] = field(default_factory=list)

    def __post_init__(self, candidates: Sequence[Candidate]) -> None:
        """Give each candidate its row."""
        self.batches = tuple(sorted(self.batches))
        row = partial(Row, status="failed", reason="the run ended before it was loaded")
        self.loaded = [Loaded(c, row(**{name: getattr(c, name) for name in _SHARED})) for c in candidates]
        self._null: str | None = None

    def load(self, report: Report = lambda what, share: None) -> None:
        """Build, load and check every candidate; one that fails keeps its reason, and the others go on."""
        for index, item in enumerate(self.loaded):
            report(f"loading {item.candidate.name}", index / len(self.loaded))
            try:
                self._load(item)
            except Exception as error:  # a backend may raise anything, and costs only its own candidate
                is_absent = isinstance(error, CannotRunError | MissingDependencyError)
                item.note(status="unavailable" if is_absent else "failed", reason=reason_of(error))
                item.close()

    def measure(self, limits: Limits, report: Report = lambda what, share: None) -> None:
        """Time all candidates that are loaded, and the null pair."""
        running = [item for item in self.loaded if item.runner is not None]
        free = [i.candidate.id for i in running if i.candidate.images == "as given" and i.candidate.max_batch is None]
        self._null = next((key for key in free if key.startswith("onnxruntime-cpu")), next(iter(free), None))
        kinds = dict.fromkeys(item.candidate.images for item in running)
        for kind, batch, scope in itertools.product(kinds, self.batches, _SCOPES):
            of_kind = [item for item in running if item.candidate.images == kind]
            series = [made for item in of_kind for made in self._series(item, scope, batch)]
            series.sort(key=lambda s: s.null)  # apart from its twin, or it would always find everything warm
            if series:
                weight = _WEIGHTS.get((scope, batch), 1.0)
                required = (scope, batch) == ("images", self.batches[0])
                self.groups.append(Group(scope=scope, batch=batch, series=series, weight=weight, required=required))
        measure_groups(self.groups, limits, clock=self.clock, sleep=self.sleep, report=report)

    def rows(self) -> tuple[Row, ...]:
        """Return the results of all candidates so far."""
        return tuple(self._row(item) for item in self.loaded)

    def noise(self) -> NoiseVerdict:
        """Return what the null pair shows, and which candidates cannot be told apart."""
        nulls: list[tuple[Group, Ratio]] = []
        for group in self.groups:
            pair = [series.rounds for series in group.alive if series.candidate == self._null and series.rounds]
            if len(pair) == 2:
                nulls.append((group, ratio_between(*pair)))
        first = next((null for group, null in nulls if (group.scope, group.batch) == ("images", self.batches[0])), None)
        noise = None if first is None else noise_of(first)
        return NoiseVerdict(
            row=self._null,
            null=first,
            noise=noise,
            too_noisy=noise is not None and noise > _NOISE_LIMIT,
            limit=_NOISE_LIMIT,
            not_told_apart=tuple(
                NotToldApart(first=a.candidate, second=b.candidate, scope=group.scope, batch=group.batch)
                for group, null in nulls
                for a, b in itertools.combinations([s for s in group.alive if s.rounds and not s.null], 2)
                if not differ(ratio_between(a.rounds, b.rounds), noise_of(null))
            ),
            how=_HOW.format(row=self._null or "no candidate"),
        )

    def close(self) -> None:
        """Release all candidates."""
        for item in self.loaded:
            item.close()

    def _load(self, item: Loaded) -> None:
        candidate, task = item.candidate, self.task
        arguments: list[Any] = [task]
        if candidate.prepare is not None:
            item.file = file = candidate.prepare(task)
            parts = (file.path,) if file.weights is None else (file.path, file.weights)
            size, built_here = sum(part.stat().st_size for part in parts), file.build_s is not None
            sha256 = file_sha256(file.path)
            artifact = Artifact(name=file.path.name, size_bytes=size, sha256=sha256, built_here=built_here)
            item.note(artifact=artifact)
            arguments.append(file.path)
        growth = _memory_growth()
        started = self.clock()
        item.runner = runner = candidate.open(*arguments)
        load_s = self.clock() - started - (runner.build_s or 0.0)
        images = self._images_of(candidate)[: self.check_images]
        runner.detect(images[:1])
        host_bytes, gpu_bytes = growth()
        build_s = runner.build_s if item.file is None else item.file.build_s
        item.note(engine=runner.engine, build_s=build_s, load_s=load_s)
        if runner.precision is not None:
            item.note(precision=runner.precision)
        item.note(peak_host_bytes=host_bytes, peak_gpu_bytes=gpu_bytes)
        batch = min(self.batches[-1], candidate.max_batch or self.batches[-1], len(images))
        precision = runner.precision or candidate.precision
        held_to = candidate.limits if candidate.limits is not None and precision == "fp32" else precision
        given: dict[str, Any] = {"is_trained": task.is_trained, "alternatives": self.alternatives}
        correctness, differences = check(self.truth, runner, images, task.spec, held_to, batch=batch, **given)
        reason = f"disagrees with eager fp32: {differences}" if differences else ""
        item.note(correctness=correctness, status="wrong" if differences else "ok", reason=reason)

    def _images_of(self, candidate: Candidate) -> Sequence[RGBImage]:
        return self.task.images if candidate.images == "as given" else self.task.equal_images

    def _series(self, item: Loaded, scope: Scope, batch: int) -> list[Series]:
        """Return the series of a candidate, and the second one of the null pair."""
        runner, candidate = item.runner, item.candidate
        assert runner is not None
        if candidate.max_batch is not None and batch > candidate.max_batch:
            item.miss(scope, batch, f"it takes at most {candidate.max_batch} image at a time")
            return []
        windows = windows_of(self._images_of(candidate), batch)
        call: Callable[[int], Callable[[], object]] = lambda i: partial(runner.detect, windows[i])  # noqa: E731
        if scope == "network":
            try:
                height, width = runner.canvas_of(windows[0][0])
                held = max(1, _MAX_INPUT_BYTES // (12 * height * width * batch))  # prepared batches stay in memory
                windows = windows[:held]
                call = [runner.network(window) for window in windows].__getitem__
            except Exception as error:
                item.miss(scope, batch, reason_of(error))
                return []
        on_gpu = scope == "network" and runner.network_clock == "cuda"
        stopwatch = cuda_ms if on_gpu else partial(wall_ms, clock=self.clock)
        return [
            Series(candidate=candidate.id, windows=len(windows), call=call, stopwatch=stopwatch, null=null)
            for null in ((False, True) if candidate.id == self._null else (False,))
        ]

    def _row(self, item: Loaded) -> Row:
        candidate, row = item.candidate, item.row
        measures, missing = [], list(row.missing)
        for group in self.groups:
            series = _series_of(group, candidate.id)
            if series is None:
                continue
            if series.rounds:
                reference = None if candidate.id == candidate.reference else _series_of(group, candidate.reference)
                rounds = reference.rounds or None if reference is not None else None
                measures.append(
                    measure_of(group.scope, group.batch, series.rounds, warm_up=series.warm_up, reference=rounds)
                )
            if why := series.failure or group.failure:
                missing.append(f"{group.scope}, batch {group.batch}: {why}")
        row = msgspec.structs.replace(row, measures=tuple(measures), missing=tuple(missing))
        if row.status == "ok" and not measures:
            reason = missing[0] if missing else "the run ended before it was timed"
            row = msgspec.structs.replace(row, status="failed", reason=reason)
        return row


def windows_of(images: Sequence[RGBImage], batch: int) -> list[list[RGBImage]]:
    """Return batches that go round the images, each image in at least one."""
    count = -(-len(images) // batch)
    return [[images[(i * batch + j) % len(images)] for j in range(batch)] for i in range(count)]


def _series_of(group: Group, candidate: str) -> Series | None:
    return next((series for series in group.series if series.candidate == candidate and not series.null), None)


def _memory_growth() -> Callable[[], tuple[int | None, int | None]]:
    """Return what tells how far the peak of resident memory, and the GPU's memory in use, rose; None where unknown.

    Memory that earlier candidates released and the allocator kept is used again first, so the growth is a lower bound.
    """
    before: int | None = None
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = _resident_bytes("VmRSS")
    free_before = _free_gpu_bytes()

    def growth() -> tuple[int | None, int | None]:
        peak, free = _resident_bytes("VmHWM"), _free_gpu_bytes()
        return (
            None if before is None or peak is None else max(0, peak - before),
            None if free_before is None or free is None else max(0, free_before - free),
        )

    return growth


def _resident_bytes(field: str) -> int | None:
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _free_gpu_bytes() -> int | None:
    if not torch.cuda.is_available():
        return None
    torch.cuda.synchronize()
    return int(torch.cuda.mem_get_info()[0])
