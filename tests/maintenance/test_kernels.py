"""The arithmetic of the kernel benchmark, and its cases run on the CPU: all but the GPU's time."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import partial

import maintenance.kernel_boxes as kernel_boxes
import maintenance.kernel_cases as kernel_cases
import maintenance.kernels as kernels
import pytest
import torch
from maintenance.kernel_boxes import Boxes, load_boxes, random_boxes
from maintenance.kernel_cases import OURS, OURS_FROM_PYTHON, THEIRS, Case, align_case, nms_case, preprocess_case
from maintenance.kernel_floors import Limits, Work, nms_work, touched_cells
from maintenance.kernel_timing import CudaTimer, Implementation, interleaved, quartiles_of
from maintenance.kernels import main, measure
from support.host_driver import HostDriver
from support.simt import require_compiler
from torch.overrides import TorchFunctionMode

import frcnn.plugins.cuda.launch as direct
from frcnn.plugins.cuda.arrays import ArrayView
from frcnn.plugins.multiscale_roi_align.reference import multiscale_roi_align

LIMITS = Limits(copy_bytes_per_us=3000.0, operations_per_us=1000.0, launch_us=1.5)


class ListedTimer:
    """Gives each implementation's times from a list, and remembers the order of the measurements."""

    def __init__(self, times: dict[str, list[float]]) -> None:
        self.times = {name: iter(values) for name, values in times.items()}
        self.order: list[str] = []

    def prepare(self, implementation, cache):
        def once() -> float:
            self.order.append(implementation.name)
            return next(self.times[implementation.name])

        return once


def case_of(**changed) -> Case:
    names = (OURS, OURS_FROM_PYTHON, THEIRS)
    implementations = tuple(Implementation(name=name, run=lambda: None, capturable=False) for name in names)
    given = {"density": 1.0, "work": Work(moved_bytes=15000), "target_us": 10.0, "check": lambda: None} | changed
    return Case(name="a", batch=1, boxes="random", implementations=implementations, **given)


def timer_of(ours: list[float], theirs: list[float]) -> ListedTimer:
    return ListedTimer({OURS: ours, OURS_FROM_PYTHON: [2 * t for t in ours], THEIRS: theirs})


def test_ratios_are_taken_within_a_round():
    timer = timer_of([10.0, 20.0, 40.0], [100.0, 100.0, 400.0])
    result = measure(case_of(), timer, "warm", rounds=3, limits=LIMITS)
    assert (result.times_torchvision.min, result.times_torchvision.median, result.times_torchvision.max) == (
        5,
        10,
        10,
    )
    assert result.times_torchvision_from_python.median == 5
    assert result.microseconds[OURS].median == 20
    assert (result.target_met, result.ratio_met) == (False, True)


@pytest.mark.parametrize(
    ("ours", "theirs", "target_met", "ratio_met"), [(10.0, 50.0, True, True), (10.1, 50.0, False, False)]
)
def test_a_target_is_met_up_to_its_very_value(ours, theirs, target_met, ratio_met):
    result = measure(case_of(), timer_of([ours] * 2, [theirs] * 2), "warm", rounds=2, limits=LIMITS)
    assert (result.target_met, result.ratio_met) == (target_met, ratio_met)


def test_targets_are_for_warm_caches():
    result = measure(case_of(), timer_of([1.0] * 2, [9.0] * 2), "cold", rounds=2, limits=LIMITS)
    assert (result.target_us, result.target_met) == (None, None)


@pytest.mark.parametrize(
    ("work", "floor"),
    [
        (Work(moved_bytes=6000, operations=1000), (2.0, "memory")),
        (Work(moved_bytes=6000, operations=2500), (2.5, "arithmetic")),
        (Work(moved_bytes=3000), (1.5, "launch")),
    ],
)
def test_the_floor_is_what_takes_longest(work, floor):
    assert LIMITS.floor(work) == floor
    result = measure(case_of(work=work), timer_of([5.0] * 2, [9.0] * 2), "cold", rounds=2, limits=LIMITS)
    assert (result.floor_us, result.floor_bound, result.of_floor) == (*floor, floor[0] / 5)
    assert (result.moved_bytes, result.density) == (work.moved_bytes, 1.0)


def test_a_warm_time_is_held_against_no_floor():
    result = measure(case_of(), timer_of([5.0] * 2, [9.0] * 2), "warm", rounds=2, limits=LIMITS)
    assert (result.floor_us, result.floor_bound, result.of_floor) == (None, None, None)
    assert result.moved_bytes == 15000


@pytest.mark.parametrize("aligned", [0, 1])
@pytest.mark.parametrize("sampling", [1, 2, 3])
def test_cells_are_touched_that_have_a_gradient(aligned, sampling):
    torch.manual_seed(sampling)
    corners = torch.rand(2, 60, 2) * 300 - 30
    rois = torch.cat([corners, corners + torch.rand(2, 60, 1) ** 3 * 250], dim=2)
    rois[:, ::9, 2] = rois[:, ::9, 0] - 1  # absent
    rois[0, 1], rois[0, 2] = torch.tensor([0.0, 0.0, 256.0, 320.0]), torch.tensor([40.0, 8.0, 40.0, 8.0])
    sizes = [(32, 40), (16, 20), (8, 10)]
    attributes = {
        "output_height": 5,
        "output_width": 3,
        "spatial_scales": [1 / 8, 1 / 16, 1 / 32],
        "level_thresholds": [30.0, 90.0],
        "sampling_ratio": sampling,
        "aligned": aligned,
    }
    maps = [torch.zeros(2, 1, *size, requires_grad=True) for size in sizes]
    multiscale_roi_align(rois, maps, **attributes).sum().backward()
    assert all(m.grad.any() for m in maps)
    assert touched_cells(rois, sizes, **attributes) == sum(int((m.grad != 0).sum()) for m in maps)


def test_suppression_compares_the_pairs_of_present_boxes():
    scores = torch.tensor([[0.5, 0.6, -1.0, 0.0], [-1.0, -1.0, -1.0, 0.9]])
    assert nms_work(scores) == Work(moved_bytes=4 * 16 + 2 * 8 * 4, operations=10 * 3)
    assert nms_work(torch.ones(90, 1000)).operations == 449_550_000


def test_every_way_is_measured_once_a_round_in_turning_order():
    timer = timer_of([1.0] * 3, [1.0] * 3)
    interleaved(case_of().implementations, timer, "warm", 3)
    a, b, c = OURS, OURS_FROM_PYTHON, THEIRS
    assert timer.order == [a, b, c, b, c, a, c, a, b]


def test_quartiles():
    found = quartiles_of([5.0, 1.0, 3.0, 2.0, 4.0])
    assert (found.min, found.low, found.median, found.high, found.max, found.rounds) == (1, 2, 3, 4, 5, 5)


def test_a_result_is_json():
    result = measure(case_of(), timer_of([1.0] * 2, [9.0] * 2), "cold", rounds=2, limits=LIMITS)
    read = json.loads(json.dumps(asdict(result)))
    assert set(read["microseconds"]) == {OURS, OURS_FROM_PYTHON, THEIRS}
    assert set(read["times_torchvision"]) == {"min", "low", "median", "high", "max", "rounds"}


@pytest.mark.parametrize(("took_us", "calls"), [(10.0, 20), (1000.0, 5), (216_000.0, 1)])
def test_slow_calls_are_fewer_but_one_at_least(took_us, calls, monkeypatch):
    made = []

    def timed(_timer, _run, _cache, calls):
        made.append(calls)
        return took_us

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(CudaTimer, "__init__", lambda timer: setattr(timer, "_launches", 20))
    monkeypatch.setattr(CudaTimer, "_calls", timed)
    CudaTimer().prepare(Implementation(name="a", run=lambda: None, capturable=False), "warm")()
    assert made == [1, calls]


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


@pytest.mark.slow
def test_the_cases_check_their_result_and_can_be_run_either_way(on_the_cpu):
    images = [small(random_boxes(seed, present=0.5)) for seed in range(2)]
    cases = [
        align_case(images, element="float32", channels=8),
        nms_case(images, of="rpn", iou_threshold=0.7),
        nms_case(images, of="classes", iou_threshold=0.5),
    ]
    for case in cases:
        case.check()
        for implementation in case.implementations:
            implementation.run()
        assert case.batch == 2
        assert case.target_us is None
    assert [round(case.density, 1) for case in cases] == [1.0, 1.0, 0.5]
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


@pytest.mark.slow
def test_preprocessing_moves_the_images_and_the_images(on_the_cpu):
    case = preprocess_case([(48, 64)], element="float16")
    assert case.work == Work(moved_bytes=48 * 64 * 3 + 3 * 800 * 1088 * 2)
    assert case.density is None
    case.check()


def test_targets_are_of_one_image_of_r50_fpn(on_the_cpu):
    few, full = random_boxes(0, present=0.02), random_boxes(0)
    assert nms_case([full], of="rpn", iou_threshold=0.7).target_us == 25
    assert nms_case([few], of="classes", iou_threshold=0.5).target_us == 10
    assert nms_case([full], of="classes", iou_threshold=0.5).target_us is None
    assert nms_case([few, few], of="classes", iou_threshold=0.5).target_us is None


@pytest.mark.slow
def test_all_of_the_first_image_is_checked_and_a_part_of_each_other(on_the_cpu, monkeypatch):
    checked = []

    def reference(boxes, scores, *, iou_threshold):
        checked.extend(scores[:, 0].tolist())
        return torch.full_like(scores, -1)

    images = []
    for image in range(4):
        scores = (5.0 * image + torch.arange(5.0))[:, None]
        images.append(replace(small(random_boxes(0)), rpn=(torch.rand(5, 1, 4), scores)))
    monkeypatch.setattr(kernel_cases, "grouped_nms", reference)
    with pytest.raises(AssertionError, match="wrong boxes are kept"):
        nms_case(images, of="rpn", iou_threshold=0.5).check()
    assert checked == [0, 1, 2, 3, 4, 5, 9, 13, 17]


@pytest.fixture
def gpu(monkeypatch):
    """A system with a GPU and without the demo, as far as :func:`main` asks."""

    def no_demo(count):
        raise FileNotFoundError("digits.pth")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(kernels, "CudaTimer", lambda launches: timer_of([5.0] * 100, [50.0] * 100))
    monkeypatch.setattr(kernels, "measure_limits", lambda timer: LIMITS)
    monkeypatch.setattr(kernels, "describe_system", lambda module, given: {"device": "a GPU"})
    monkeypatch.setattr(kernels, "demo_boxes", no_demo)


def test_a_wrong_case_is_reported_and_not_timed_and_the_rest_goes_on(gpu, tmp_path, capsys, monkeypatch):
    def wrong() -> None:
        raise AssertionError("1.00% of the values are wrong")

    def made(boxes, *, is_right) -> Case:
        return case_of() if is_right else case_of(check=wrong)

    turns = [partial(made, [random_boxes(0)], is_right=is_right) for is_right in (True, False, True)]
    monkeypatch.setattr(kernels, "_cases", lambda demo, quick: iter(turns))
    assert main(["-o", str(tmp_path / "out.json"), "--quick"]) == 1
    report = json.loads((tmp_path / "out.json").read_text())
    assert [result["cache"] for result in report["results"]] == ["warm", "cold"] * 2
    (failed,) = report["failed"]
    assert failed == {"case": "made, batch 1, {'is_right': False}", "error": "1.00% of the values are wrong"}
    assert report["limits"] == asdict(LIMITS)
    assert report["settings"]["demo_boxes"] == "left out: digits.pth"
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "copy 0.00 TB/s, arithmetic 0.0 T/s, launch 1.5 us"
    assert printed[2].endswith("10.0x (met)  100% of the floor, 5.0 us of memory")
    assert printed[3] == "FAILED made, batch 1, {'is_right': False}: 1.00% of the values are wrong"


def test_what_matters_most_is_measured_first():
    turns = list(kernels._cases([], quick=False))
    assert [(turn.func.__name__, *turn.keywords.values()) for turn in turns[:6]] == [
        ("align_case",),
        ("nms_case", "rpn", 0.7),
        ("nms_case", "classes", 0.5),
        ("nms_case", "classes", 0.5),
        ("preprocess_case", "float16"),
        ("preprocess_case", "float32"),
    ]
    sparse, dense = (turn.args[0][0].classes[1] >= 0 for turn in turns[2:4])
    assert sparse.float().mean() < 0.025
    assert dense.all()
    assert [len(turn.args[0]) for turn in turns] == [1] * 6 + [8] * 6 + [4] * 6 + [1] * 5
    assert len(list(kernels._cases([random_boxes(0)], quick=True))) == 9
