"""The search: what is tried, dropped and chosen, on detectors that take as long as they are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from support.engine_files import source_manifest
from support.fake_rows import FakeClock

from frcnn.benchmarks.parity.comparison import default_limits
from frcnn.benchmarks.tuning.search import Search, order_of
from frcnn.benchmarks.tuning.trials import base_settings
from frcnn.errors import ArtifactError
from frcnn.runtime import Detections, RGBImage
from frcnn.spec.tuning import Setting

SPEC = source_manifest(canvases=((64, 96),)).model
IMAGES = [RGBImage(pixels=np.zeros((32, 32, 3), np.uint8), name=f"image {i}") for i in range(6)]
CPU = Setting(provider="cpu", precision="fp32", threads=2, batch=1)


def found_in(image: RGBImage, *, moved_px: float = 0.0) -> Detections:
    """Return twelve boxes that do not overlap."""
    boxes = np.array([[20.0 * i, 0.0, 20.0 * i + 10, 10.0] for i in range(12)], np.float32) + np.float32(moved_px)
    scores, labels = np.full(12, 0.9, np.float32), np.ones(12, np.int64)
    return Detections(boxes=boxes, scores=scores, labels=labels, image_size=image.size)


class FakeDetector:
    """Takes so many milliseconds an image, and its boxes are so many pixels off."""

    def __init__(self, clock: FakeClock, ms: float, moved_px: float, log: list[int]) -> None:
        self.clock, self.ms, self.moved_px, self.log = clock, ms, moved_px, log

    def __call__(self, images: list[RGBImage], *, batch_size: int = 1) -> list[Detections]:
        if np.isnan(self.ms):
            raise ArtifactError("out of memory")
        self.log.append(len(images))
        self.clock.wait("", self.ms * len(images))
        return [found_in(image, moved_px=self.moved_px) for image in images]

    def close(self) -> None:
        self.clock.log.append("closed")


Cost = Callable[[Setting], tuple[float, float]]


def search(
    cost: Cost, *, processors: int = 2, batched: int = 6, budget_s: float = 90.0
) -> tuple[Setting, dict[Setting, Any]]:
    """Run a search; ``cost`` gives milliseconds and pixels of a setting. Return the choice and the trials."""
    clock = FakeClock()
    loaded: list[FakeDetector] = []

    def load(setting: Setting) -> Any:
        clock.now += 0.1
        loaded.append(FakeDetector(clock, *cost(setting), log=[]))
        return loaded[-1]

    settings = base_settings(("cpu", "openvino"), has_int8=True, has_bf16=True, processors=processors)
    made = Search(
        settings=settings,
        load=load,
        limits=lambda setting: default_limits(setting.lowest_precision("fp32"), "align"),
        images=IMAGES,
        batched=range(batched),
        spec=SPEC,
        budget_s=budget_s,
        clock=clock,
        sleep=clock.sleep,
    )
    choice = made.run()
    assert clock.log.count("closed") == len(loaded)
    return choice, {attempt.setting: attempt.result() for attempt in made.attempts}


def by_provider(cpu: float, openvino: float, bf16: float = 1000.0, int8: float = 1000.0) -> Cost:
    """Return the cost of exact settings, twice as high on one thread of two."""

    def cost(setting: Setting) -> tuple[float, float]:
        ms = (
            int8
            if setting.int8
            else bf16
            if setting.precision == "bf16"
            else cpu
            if setting.provider == "cpu"
            else openvino
        )
        return ms * 2 / setting.threads, 0.0

    return cost


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        (by_provider(100, 90), {"provider": "openvino"}),
        (by_provider(90, 100), {}),
        (by_provider(100, 99), {}),  # a tie goes to the simplest
        (by_provider(100, 98, bf16=97), {"provider": "openvino"}),  # ... of those that tie with the fastest
        (by_provider(100, 90, bf16=89), {"provider": "openvino"}),
        (by_provider(100, 90, bf16=50), {"provider": "openvino", "precision": "bf16"}),
        (by_provider(100, 90, bf16=50, int8=30), {"int8": True}),
        (by_provider(2000, 1900, bf16=1000, int8=600), {"int8": True}),
    ],
)
def test_the_fastest_is_chosen_and_the_simplest_of_equals(cost: Cost, expected: dict[str, Any]) -> None:
    choice, _ = search(cost)
    assert choice == msgspec.structs.replace(CPU, **expected)


def test_what_disagrees_is_never_chosen_however_fast() -> None:
    def cost(setting: Setting) -> tuple[float, float]:
        return (10.0, 3.0) if setting.int8 or setting.precision == "bf16" else (100.0, 0.0)

    choice, trials = search(cost)
    assert choice == CPU
    wrong = [trial for setting, trial in trials.items() if setting.int8]
    assert {trial.status for trial in wrong} == {"disagrees"}
    assert "12 + 12" not in wrong[0].reason and "moved" in wrong[0].reason


def test_float32_is_held_to_the_limits_of_float32() -> None:
    choice, trials = search(lambda setting: (100.0, 0.0) if setting.provider == "cpu" else (10.0, 0.05))
    fp32 = msgspec.structs.replace(CPU, provider="openvino")
    assert trials[fp32].status == "disagrees"
    assert choice.precision == "bf16"  # within the limits of bf16, which this search allows


def test_a_slow_setting_is_dropped_after_its_first_image() -> None:
    _, trials = search(by_provider(1000, 1600))
    slow = trials[msgspec.structs.replace(CPU, provider="openvino")]
    assert (slow.status, slow.calls) == ("slower", 1)


def test_a_failure_costs_its_own_setting_only() -> None:
    choice, trials = search(lambda setting: (np.nan if setting.provider == "openvino" else 100.0, 0.0))
    assert choice.provider == "cpu"
    failed = trials[msgspec.structs.replace(CPU, provider="openvino")]
    assert (failed.status, failed.reason) == ("failed", "out of memory")


def test_a_float_model_that_fails_ends_the_search() -> None:
    with pytest.raises(ArtifactError, match="out of memory"):
        search(lambda setting: (np.nan, 0.0))


def test_fewer_threads_and_a_batch_are_chosen_where_they_gain() -> None:
    def cost(setting: Setting) -> tuple[float, float]:
        if setting.provider != "cpu" or setting.int8:
            return 500.0, 0.0
        return (80.0 if setting.threads == 4 else 100.0) * {1: 1.0, 2: 0.97, 4: 0.9}[setting.batch], 0.0

    choice, trials = search(cost, processors=8)
    assert choice == msgspec.structs.replace(CPU, threads=4, batch=4)
    assert msgspec.structs.replace(CPU, threads=1) in trials


def test_a_batch_that_gains_little_is_not_chosen() -> None:
    def cost(setting: Setting) -> tuple[float, float]:
        return (100.0 if setting.batch == 1 else 97.0) * (2 / setting.threads), 0.0

    choice, trials = search(cost)
    assert choice == CPU
    assert msgspec.structs.replace(CPU, batch=2) in trials


def test_the_last_round_has_the_float_model_whatever_it_takes() -> None:
    _, trials = search(by_provider(2000, 2000, int8=600))
    assert trials[CPU].finalist
    assert trials[CPU].median_ms == pytest.approx(2000)


def test_the_time_is_kept() -> None:
    choice, trials = search(by_provider(20_000, 10_000), budget_s=30.0)
    assert choice == CPU
    assert {trial.status for setting, trial in trials.items() if setting != CPU} == {"left out"}


def test_few_detections_prove_no_lower_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frcnn.benchmarks.tuning.trials.MIN_COMPARED", 1000)
    choice, trials = search(by_provider(100, 100, bf16=10, int8=10))
    assert choice == CPU
    assert {trial.status for setting, trial in trials.items() if setting.int8} == {"unproven"}


def test_images_of_the_commonest_canvas_are_batched() -> None:
    assert order_of([(1, 1), (2, 2), (2, 2), (3, 3)]) == ([1, 0, 2, 3], [0, 2])
