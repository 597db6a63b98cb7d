"""The arithmetic of the kernel benchmark, and its cases run on the CPU: all but the GPU's time."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch
from support.host_driver import HostDriver
from support.simt import require_compiler
from torch.overrides import TorchFunctionMode

import frcnn.benchmarks.kernel_boxes as kernel_boxes
import frcnn.benchmarks.kernel_cases as kernel_cases
import frcnn.plugins.direct as direct
from frcnn.benchmarks.kernel_boxes import Boxes, load_boxes, random_boxes
from frcnn.benchmarks.kernel_cases import OURS, OURS_FROM_PYTHON, THEIRS, Case, align_case, nms_case, preprocess_case
from frcnn.benchmarks.kernel_timing import Way, interleaved, spread
from frcnn.benchmarks.kernels import main, measure
from frcnn.plugins.arrays import ArrayView


class ListedTimer:
    """Gives each way's times from a list, and remembers the order of the measurements."""

    def __init__(self, times: dict[str, list[float]]) -> None:
        self.times = {name: iter(values) for name, values in times.items()}
        self.order: list[str] = []

    def prepare(self, way, cache):
        def once() -> float:
            self.order.append(way.name)
            return next(self.times[way.name])

        return once


def case_of(**changed) -> Case:
    ways = tuple(Way(name=name, run=lambda: None, capturable=False) for name in (OURS, OURS_FROM_PYTHON, THEIRS))
    given = {"floor_us": 5.0, "target_us": 10.0, "moved_bytes": 0, "check": lambda: None} | changed
    return Case(name="a", batch=1, boxes="random", ways=ways, **given)


def timer_of(ours: list[float], theirs: list[float]) -> ListedTimer:
    return ListedTimer({OURS: ours, OURS_FROM_PYTHON: [2 * t for t in ours], THEIRS: theirs})


def test_ratios_are_taken_within_a_round():
    timer = timer_of([10.0, 20.0, 40.0], [100.0, 100.0, 400.0])
    result = measure(case_of(), timer, "warm", rounds=3, copy_bytes_per_us=1.0)
    assert (result.times_torchvision.least, result.times_torchvision.median, result.times_torchvision.most) == (
        5,
        10,
        10,
    )
    assert result.times_torchvision_from_python.median == 5
    assert result.microseconds[OURS].median == 20
    assert result.of_floor == 0.25
    assert (result.target_met, result.ratio_met) == (False, True)


@pytest.mark.parametrize(
    ("ours", "theirs", "target_met", "ratio_met"), [(10.0, 50.0, True, True), (10.1, 50.0, False, False)]
)
def test_a_target_is_met_up_to_its_very_value(ours, theirs, target_met, ratio_met):
    result = measure(case_of(), timer_of([ours] * 2, [theirs] * 2), "warm", rounds=2, copy_bytes_per_us=1.0)
    assert (result.target_met, result.ratio_met) == (target_met, ratio_met)


def test_targets_are_for_warm_caches():
    result = measure(case_of(), timer_of([1.0] * 2, [9.0] * 2), "cold", rounds=2, copy_bytes_per_us=1.0)
    assert (result.target_us, result.target_met) == (None, None)


def test_the_floor_of_what_moves_bytes_is_the_time_of_a_copy():
    case = case_of(floor_us=None, moved_bytes=6000)
    result = measure(case, timer_of([4.0] * 2, [9.0] * 2), "warm", rounds=2, copy_bytes_per_us=3000.0)
    assert (result.floor_us, result.of_floor) == (2.0, 0.5)
    unknown = measure(case_of(floor_us=None), timer_of([4.0] * 2, [9.0] * 2), "warm", rounds=2, copy_bytes_per_us=1.0)
    assert (unknown.floor_us, unknown.of_floor) == (None, None)


def test_every_way_is_measured_once_a_round_in_turning_order():
    timer = timer_of([1.0] * 3, [1.0] * 3)
    interleaved(case_of().ways, timer, "warm", 3)
    a, b, c = OURS, OURS_FROM_PYTHON, THEIRS
    assert timer.order == [a, b, c, b, c, a, c, a, b]


def test_quartiles():
    found = spread([5.0, 1.0, 3.0, 2.0, 4.0])
    assert (found.least, found.low, found.median, found.high, found.most, found.rounds) == (1, 2, 3, 4, 5, 5)


def test_a_result_is_json():
    result = measure(case_of(), timer_of([1.0] * 2, [9.0] * 2), "cold", rounds=2, copy_bytes_per_us=1.0)
    read = json.loads(json.dumps(asdict(result)))
    assert set(read["microseconds"]) == {OURS, OURS_FROM_PYTHON, THEIRS}
    assert set(read["times_torchvision"]) == {"least", "low", "median", "high", "most", "rounds"}


def test_random_boxes_are_as_many_as_r50_fpn_has():
    boxes = random_boxes(0, present=0.02)
    assert (boxes.rpn[1] >= 0).sum(1).tolist() == [1000, 1000, 1000, 1000, 819]
    assert 0.015 < float((boxes.classes[1] >= 0).float().mean()) < 0.025
    assert boxes.classes[0].shape == (90, 1000, 4)
    assert (boxes.rois[:, 2:] >= boxes.rois[:, :2]).all()
    assert torch.equal(boxes.rois, random_boxes(0).rois)


def test_boxes_of_the_demo_survive_a_file(tmp_path, monkeypatch):
    boxes = random_boxes(3)
    monkeypatch.setattr(kernel_boxes, "demo_boxes", lambda count: [boxes] * count)
    assert kernel_boxes.main(["-o", str(tmp_path / "boxes.npz"), "--count", "2"]) == 0
    first, second = load_boxes(tmp_path / "boxes.npz")
    assert first.origin == "demo"
    assert torch.equal(second.rois, boxes.rois)
    for pair, expected in ((first.rpn, boxes.rpn), (first.classes, boxes.classes)):
        assert all(torch.equal(a, b) for a, b in zip(pair, expected, strict=True))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_in_one_line(tmp_path, capsys):
    assert main(["-o", str(tmp_path / "out.json")]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: the kernel benchmark needs an NVIDIA GPU and its driver, and there is none here"
    ]
    assert not (tmp_path / "out.json").exists()


class OnTheCpu(TorchFunctionMode):
    """``cuda`` means the CPU."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.cuda:
            return args[0].clone()
        kwargs = dict(kwargs or {})
        if kwargs.get("device") == "cuda":
            kwargs["device"] = "cpu"
        return function(*args, **kwargs)


@pytest.fixture
def on_the_cpu(monkeypatch, tmp_path):
    require_compiler()
    monkeypatch.setenv("FRCNN_CACHE_DIR", str(tmp_path))
    driver = HostDriver()
    monkeypatch.setattr(direct, "cuda_driver", lambda: driver)
    monkeypatch.setattr(ArrayView, "check_memory", lambda self: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: 0)
    monkeypatch.setattr(kernel_cases, "CANVAS", (128, 160))
    with OnTheCpu():
        yield driver


def small(boxes: Boxes) -> Boxes:
    rois = boxes.rois[:40] * 0.1
    rpn, classes = ((pair[0][:3, :50], pair[1][:3, :50]) for pair in (boxes.rpn, boxes.classes))
    return Boxes(origin="random", rois=rois, rpn=rpn, classes=classes)


def test_the_cases_check_their_result_and_can_be_run_either_way(on_the_cpu):
    pictures = [small(random_boxes(seed, present=0.5)) for seed in range(2)]
    cases = [
        align_case(pictures, element="float32", channels=8),
        nms_case(pictures, of="rpn", iou_threshold=0.7),
        nms_case(pictures, of="classes", iou_threshold=0.5),
    ]
    for case in cases:
        case.check()
        for way in case.ways:
            way.run()
        assert case.batch == 2
        assert (case.floor_us, case.target_us) == (None, None)
    assert {entry for entry, _, _ in on_the_cpu.launches} == {
        "multiscale_roi_align",
        "grouped_nms_mask",
        "grouped_nms_resolve",
    }


def test_a_wrong_result_fails_the_check(on_the_cpu, monkeypatch):
    case = nms_case([small(random_boxes(0))], of="rpn", iou_threshold=0.5)
    monkeypatch.setattr(HostDriver, "launch", lambda *_: None)
    with pytest.raises(AssertionError):
        case.check()


def test_preprocessing_moves_the_pictures_and_the_images(on_the_cpu):
    case = preprocess_case([(48, 64)], element="float16")
    assert case.moved_bytes == 48 * 64 * 3 + 3 * 800 * 1088 * 2
    case.check()
