"""Which images are tried, how long, and what the page says first of it."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image
from support.bench_results import made_up
from support.tiny_detector import build, noise

from frcnn.benchmarks.candidates.eager_detector import EagerDetector
from frcnn.benchmarks.parity.comparison import default_limits
from frcnn.benchmarks.report.results import Measure, Ratio
from frcnn.benchmarks.trial import trial as trial_module
from frcnn.benchmarks.trial.page import Account, Step, headline
from frcnn.benchmarks.trial.trial import MAX_IMAGES, Seen, Trial, read_images, run_trial, spread
from frcnn.errors import ArtifactError, ImageError
from frcnn.runtime import Detections, Detector, RGBImage
from frcnn.runtime.dataset.annotations import AnnotatedImage


def detections(*scores: float) -> Detections:
    boxes = [[10.0 * place, 0, 10.0 * place + 8, 8] for place in range(len(scores))]
    return Detections(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array(scores, np.float32),
        labels=np.ones(len(scores), np.int64),
        image_size=(40, 48),
    )


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    monkeypatch.setattr(trial_module, "_ROUNDS", 3)


@pytest.fixture
def detector(tiny_model):
    with Detector.load(tiny_model, threads=1) as loaded:
        yield loaded


def eager_like(detector: Detector, *, change: Any = lambda found: found, wait_s: float = 0.0) -> Any:
    """What finds what the model finds, as ``EagerDetector`` would."""

    def detect(image: RGBImage, _canvas: object) -> Detections:
        time.sleep(wait_s)
        found: Detections = change(detector([image])[0])
        return found

    eager: Any = EagerDetector(build(), detector.manifest.model)
    eager.detect = detect
    return eager


def images(count: int) -> list[RGBImage]:
    return [RGBImage(pixels=noise(seed, 40, 48), name=f"{seed:02}") for seed in range(count)]


def run(eager: Any, detector: Detector, given: list[RGBImage], budget_s: float = 30) -> Trial:
    return run_trial(eager, detector, given, budget_s=budget_s, report=lambda what, share: None)


def test_every_beginning_is_spread_over_the_whole():
    order = spread(range(1000))
    assert sorted(order) == list(range(1000))
    for count in (4, 10, 50):
        ends = [-1, *sorted(order[:count]), 1000]
        assert max(b - a for a, b in itertools.pairwise(ends)) < 3 * 1000 / count


def test_both_detect_in_each_image_and_what_is_timed_is_compared(detector):
    trial = run(eager_like(detector), detector, images(3))
    assert [seen.image.name for seen in trial.seen] == ["00", "01", "02"]
    assert trial.parity.passed and trial.parity.total.expected > 3
    assert trial.eager is not None and trial.model is not None and trial.model.ratio is not None
    assert trial.eager.ratio is None and trial.model.ratio.rounds == len(trial.eager.rounds_ms)


def test_the_ratio_is_eagers_time_over_the_models(detector):
    trial = run(eager_like(detector, wait_s=0.05), detector, images(3))
    assert trial.eager is not None and trial.model is not None and trial.model.ratio is not None
    assert trial.eager.p50_ms > 50 and trial.model.ratio.median > 1


def test_a_difference_is_seen(detector):
    def moved(found: Detections) -> Detections:
        return with_boxes(found, found.boxes + np.float32(0.5))

    assert not run(eager_like(detector, change=moved), detector, images(2)).parity.passed


def with_boxes(found: Detections, boxes: Any) -> Detections:
    return Detections(boxes=boxes, scores=found.scores, labels=found.labels, image_size=found.image_size)


def test_the_budget_decides_how_many_images_are_seen(detector):
    few = run(eager_like(detector, wait_s=0.15), detector, images(40), budget_s=1)
    assert 1 <= len(few.seen) < 12


def test_one_that_fails_is_named(detector):
    def failing(found: Detections) -> Detections:
        raise RuntimeError("out of memory")

    with pytest.raises(ArtifactError, match=r"^eager torchvision failed: RuntimeError: out of memory"):
        run(eager_like(detector, change=failing), detector, images(2))


def test_unusable_images_are_left_out_and_named(tmp_path: Path):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    Image.fromarray(noise(0, 40, 48)).save(tmp_path / "good.png")
    Image.fromarray(noise(0, 40, 48)).save(tmp_path / "turned.png")
    files = [tmp_path / name for name in ("bad.jpg", "good.png", "turned.png")]
    annotated = {tmp_path / "turned.png": AnnotatedImage(file_name="turned.png", size=(48, 40))}
    found, skipped = read_images(files, annotated)
    assert [image.name for image in found] == [str(tmp_path / "good.png")]
    assert list(skipped) == [tmp_path / "bad.jpg", tmp_path / "turned.png"]
    with pytest.raises(ImageError, match=r"not one image can be used: .*bad.jpg"):
        read_images(files[:1], {})


def test_no_more_images_are_read_than_a_trial_takes(tmp_path: Path):
    Image.fromarray(noise(0, 40, 48)).save(tmp_path / "one.png")
    assert len(read_images([tmp_path / "one.png"] * 100, {})[0]) == MAX_IMAGES


def account(
    *scores: float, ratio: tuple[float, float, float] | None = (1.8, 2.0, 2.2), load: float = 0.0, **fields: Any
) -> Account:
    """What is told of one image with such detections; ``ratio`` is low, median and high."""
    found = detections(*scores)
    same = SimpleNamespace(expected=len(scores), found=len(scores), matched=len(scores), tied=fields.get("tied", 0))
    parity: Any = SimpleNamespace(passed=True, total=same, images=[], limits=default_limits("fp32", "align"))
    measure: Any = None
    if ratio is not None:
        low, median, high = ratio
        times = {"p50_ms": 10.0, "p90_ms": 11.0, "p99_ms": 12.0, "mean_ms": 10.0, "fps": 100.0}
        made = Ratio(median=median, min=low, max=high, low=low, high=high, rounds=9)
        measure = Measure(scope="images", batch=1, rounds_ms=((10.0,),), warm_up=1, ratio=made, **times)
    image = RGBImage(pixels=noise(0, 40, 48), name="0.png")
    trial = Trial(
        seen=[Seen(image, found, found)],
        parity=fields.get("parity", parity),
        eager=measure,
        model=measure,
        is_partial=fields.get("is_partial", False),
    )
    environment = msgspec.structs.replace(made_up().environment, load_before=load, cores=2)
    return Account(
        name="my.pth",
        loaded=SimpleNamespace(facts=(), assumptions=()),  # type: ignore[arg-type]
        trial=trial,
        evaluation=None,
        environment=environment,
        images=9,
        score=0.5,
        steps=(Step("", "frcnn detect"),),
    )


def test_the_speed_comes_first_and_the_same_boxes_with_it():
    told = headline(account(0.9, 0.6))
    assert told.value == "2.0x" and told.tone == "good"
    assert told.text == "2.0x eager torchvision's speed, and the same boxes: 2 of 2 detections agree in 1 image."
    assert told.notes == ["A quick measurement; frcnn bench, below, makes one to quote."]


@pytest.mark.parametrize(
    ("told", "value", "said"),
    [
        (account(0.9, ratio=(0.9, 1.05, 1.3)), "1.1x", "About as fast as eager torchvision here"),
        (account(0.9, 0.9, tied=2), "2.0x", "2 of 2 detections agree in 1 image (2 more are tied)."),
        (account(0.9, ratio=(0.4, 0.5, 0.6)), "0.5x", "0.5x eager torchvision's speed"),
        (account(0.9, load=7.0), "", "too busy to time anything (load 7.0)"),
        (account(0.9, load=1.5), "2.0x", "busy (load 1.5 on 2 processors): times are rough"),
        (account(0.9, ratio=None, is_partial=True), "", "nothing was timed"),
        (account(0.9, is_partial=True), "2.0x", "Interrupted: 1 image of 9 were seen."),
        (account(), "2.0x", "Neither finds anything in these images"),
        (account(0.08, 0.07), "2.0x", "No detection scores 0.5 or more, the best has 0.08"),
    ],
)
def test_what_takes_from_the_result_is_said_with_it(told: Account, value: str, said: str):
    found = headline(told)
    assert found.value == value
    assert said in " ".join([found.text, *found.notes])
    assert (found.tone == "good") is (value == "2.0x" and not told.trial.is_partial and told.best_score > 0.5)


def test_a_disagreement_has_no_speed(detector):
    def moved(found: Detections) -> Detections:
        return with_boxes(found, found.boxes + np.float32(0.5))

    parity = run(eager_like(detector, change=moved), detector, images(1)).parity
    told = headline(account(0.9, parity=parity))
    assert (told.value, told.tone) == ("", "bad") and told.text.startswith("The detections DISAGREE: boxes differ by")
