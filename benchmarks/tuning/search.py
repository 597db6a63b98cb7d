"""The search for the fastest setting within a time.

Settings are tried one after another, those that promise most first; one that is half as slow again as the best on the
first image is dropped. Threads and batches are varied for the best only, as long as they gain. The best few then run in
turns on the same images, as the benchmark's candidates do, and only those figures decide.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Final

from frcnn.benchmarks.candidates.candidate import Report, reason_of
from frcnn.benchmarks.parity.comparison import Limits as Agreement
from frcnn.benchmarks.parity.comparison import compare_detections
from frcnn.benchmarks.timing.measure import Clock, Group, Limits, Series, measure_groups, wall_ms
from frcnn.benchmarks.timing.statistics import ratio_between
from frcnn.benchmarks.tuning.trials import Attempt, choose, nearest, with_batches, with_fewer_threads
from frcnn.runtime import Detections, Detector, RGBImage
from frcnn.spec import ModelSpec, Size
from frcnn.spec.tuning import Setting

_OUT_OF_TIME: Final = "the time was spent before it was tried"
_MIN_IMAGES: Final = 3
_MAX_IMAGES: Final = 16
_TRUTH_SHARE: Final = 0.12  # of the budget, for the float model's detections beyond the fewest images
_SCREENING_SHARE: Final = 0.75  # of the budget, after which no further threads and batches are tried
_DROPPED: Final = 1.5  # a setting that takes this many times as long as the best on the first images is given up
_VARIED: Final = 2  # settings whose threads and batches are varied
_NEAR: Final = 1.15  # the last round takes settings that take at most this many times as long as the best
_FINALISTS: Final = 3  # at most, besides the float model; all are in memory at once
_MAX_ROUNDS: Final = 25  # of the last round


@dataclass(slots=True, kw_only=True, eq=False)
class Search:
    """Tries settings on images; ``attempts`` holds what was found so far."""

    settings: Sequence[Setting]  # one of each model, provider and precision; the first is the float model's
    load: Callable[[Setting], Detector]  # what it returns is closed here
    limits: Callable[[Setting], Agreement]  # of agreement
    images: Sequence[RGBImage]  # at least one, in the order of order_of
    batched: Sequence[int]  # positions of the images that share the first one's canvas
    spec: ModelSpec
    budget_s: float = 90.0  # for everything; the work in hand is finished
    report: Report = field(default=lambda what, share: None)
    describe: Callable[[Setting], str] = str  # names a setting
    clock: Clock = time.perf_counter
    sleep: Callable[[float], None] = time.sleep  # seconds of the clock
    attempts: list[Attempt] = field(default_factory=list)
    _started: float = 0.0
    _truth: dict[int, Detections] = field(default_factory=dict)  # what the float model found, by position of the image

    def run(self) -> Setting:
        """Search, and return the setting to run with."""
        self._started = self.clock()
        self._find_truth(self.settings[0])
        for setting in sorted(self.settings[1:], key=lambda s: (not s.int8, s.precision == "fp32")):
            self._screen(setting, share=1.0)
        for attempt in self._best(_DROPPED, _VARIED):
            self._vary(attempt, with_fewer_threads(attempt.setting))
        for attempt in self._best(_NEAR, _VARIED):
            self._vary(attempt, with_batches(attempt.setting))
        ms = self._last_round(self._finalists())
        return choose(ms) if ms else self.settings[0]

    def _best(self, within: float, at_most: int) -> list[Attempt]:
        return nearest(self.attempts, within=within, at_most=at_most)

    def _spent(self) -> float:
        return (self.clock() - self._started) / self.budget_s

    def _begin(self, setting: Setting) -> Attempt:
        attempt = Attempt(setting=setting, limits=self.limits(setting))
        self.attempts.append(attempt)
        self.report(self.describe(setting), min(1.0, self._spent()))
        return attempt

    def _find_truth(self, setting: Setting) -> None:
        """Time the float model, whose detections all others are compared with."""
        attempt = self._begin(setting)
        with closing(self.load(setting)) as detector:
            detector([self.images[0]])
            for position in range(len(self.images[:_MAX_IMAGES])):
                if position >= _MIN_IMAGES and self._spent() > _TRUTH_SHARE:
                    break
                (self._truth[position],) = self._detect(attempt, detector, [position])
        attempt.status = "agrees"

    def _screen(self, setting: Setting, *, share: float) -> Attempt:
        """Try a setting on images of known detections, while it is fast enough and within a share of the budget."""
        attempt = self._begin(setting)
        with self._given_up_on_error(attempt):
            if self._spent() > share:
                attempt.reason = _OUT_OF_TIME
                return attempt
            best = next(a for a in self._best(math.inf, len(self.attempts)) if a.setting.batch == 1)
            with closing(self.load(setting)) as detector:
                windows = self._windows(setting.batch)
                detector([self.images[position] for position in windows[0]], batch_size=setting.batch)
                for window in windows:
                    found = self._detect(attempt, detector, window)
                    for position, own in zip(window, found, strict=True):
                        expected, name = self._truth[position], self.images[position].name
                        compared = compare_detections(expected, own, self.spec, attempt.limits, name=name)
                        attempt.compared[position] = compared
                    if attempt.is_slower(best, _DROPPED):
                        attempt.status = "slower"
                        return attempt
            attempt.judge()
        return attempt

    def _detect(self, attempt: Attempt, detector: Detector, positions: Sequence[int]) -> list[Detections]:
        """Detect in a batch of images, all of one canvas where they are several, and keep the time."""
        images = [self.images[position] for position in positions]
        started = self.clock()
        found = detector(images, batch_size=attempt.setting.batch)
        ms = (self.clock() - started) * 1e3 / len(images)
        attempt.ms.append(ms)
        attempt.ms_at.update(dict.fromkeys(positions, ms))
        return found

    def _vary(self, base: Attempt, variants: Iterable[Setting]) -> None:
        """Try variants of a setting, as long as each is not slower than the one before."""
        fastest = base.median_ms
        for setting in variants:
            attempt = self._screen(setting, share=_SCREENING_SHARE)
            if attempt.status != "agrees" or attempt.median_ms > fastest:
                return
            fastest = attempt.median_ms

    def _finalists(self) -> list[Attempt]:
        """Return the best, and the float model, with which the figures of all are compared."""
        best = self._best(_NEAR, _FINALISTS)
        return best if self.attempts[0] in best else [self.attempts[0], *best]

    def _last_round(self, finalists: list[Attempt]) -> dict[Setting, float]:
        """Return milliseconds of an image by setting, of all that ran; the ratios are those within the rounds."""
        if len(finalists) == 1:
            return {finalists[0].setting: finalists[0].median_ms}
        windows = self._windows(max(a.setting.batch for a in finalists))
        budget_s = max(1.0 - self._spent(), 1.0 - _SCREENING_SHARE) * self.budget_s
        with ExitStack() as stack:
            series = [self._series(a, stack.enter_context(closing(self.load(a.setting))), windows) for a in finalists]
            measure_groups(
                [Group(scope="images", batch=len(windows[0]), series=series, required=True)],
                Limits(budget_s=budget_s, max_rounds=_MAX_ROUNDS),
                clock=self.clock,
                sleep=self.sleep,
                report=lambda what, share: self.report("the last round", min(1.0, self._spent())),
            )
        first = next((one for one in series if not one.failure), None)
        ms: dict[Setting, float] = {}
        for attempt, one in zip(finalists, series, strict=True):
            if one.failure or first is None:
                attempt.status, attempt.reason = "failed", one.failure
                continue
            attempt.ms, attempt.finalist = [value / len(windows[0]) for value in one.samples], True
            reference_ms = median(first.samples) / len(windows[0])
            ms[attempt.setting] = reference_ms / ratio_between(first.rounds, one.rounds).median
        return ms

    def _series(self, attempt: Attempt, detector: Detector, windows: Sequence[Sequence[int]]) -> Series:
        """Return what times a setting on the same images as the others, whatever its batch."""
        images = [[self.images[position] for position in window] for window in windows]
        return Series(
            candidate=self.describe(attempt.setting),
            windows=len(windows),
            call=lambda window: partial(detector, images[window], batch_size=attempt.setting.batch),
            stopwatch=partial(wall_ms, clock=self.clock),
        )

    def _windows(self, size: int) -> list[list[int]]:
        """Return batches of positions, each image that may be in one at least once."""
        known = [*self._truth] if size == 1 else [i for i in self.batched if i in self._truth]
        count = -(-len(known) // size)
        return [[known[(i * size + j) % len(known)] for j in range(size)] for i in range(count)]

    @contextmanager
    def _given_up_on_error(self, attempt: Attempt) -> Iterator[None]:
        """Let an error cost its own setting only."""
        try:
            yield
        except Exception as error:  # a provider may raise anything
            attempt.status, attempt.reason = "failed", reason_of(error)


def order_of(canvases: Sequence[Size]) -> tuple[list[int], list[int]]:
    """Return the order of images, one on the commonest canvas first, and the positions in it that share that canvas."""
    common = Counter(canvases).most_common(1)[0][0]
    order = sorted(range(len(canvases)), key=lambda i: i != canvases.index(common))
    return order, [position for position, i in enumerate(order) if canvases[i] == common]
