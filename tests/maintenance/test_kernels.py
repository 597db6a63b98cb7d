"""The arithmetic of the kernel benchmark, and its cases run on the CPU: all but the GPU's time."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import partial

import maintenance.kernel_cases as kernel_cases
import maintenance.kernel_inputs as kernel_inputs
import maintenance.kernels as kernels
import pytest
import torch
from maintenance.kernel_cases import (
    OURS,
    OURS_FROM_PYTHON,
    THEIRS,
    Case,
    align_case,
    detections_case,
    preprocess_case,
    proposals_case,
)
from maintenance.kernel_floors import Limits, Work, touched_cells
from maintenance.kernel_inputs import Inputs, load_inputs, random_inputs
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


def test_random_inputs_are_as_many_as_r50_fpn_has():
    inputs = random_inputs(0)
    assert sum(level.numel() for level in inputs.objectness) == 268_569
    assert [len(level[0]) for level in inputs.deltas] == [12] * 5
    scores = inputs.class_logits.softmax(1)[:, 1:]
    assert scores.shape == (1000, 90)
    assert 30 < int((scores > 0.05).sum()) < 100
    dense = random_inputs(0, foreground=1.0, rivals=15).class_logits.softmax(1)[:, 1:]
    assert 5000 < int((dense > 0.05).sum()) < 15_000
    assert (inputs.rois[:, 2:] >= inputs.rois[:, :2]).all()
    assert torch.equal(inputs.rois, random_inputs(0).rois)


def test_inputs_of_the_demo_survive_a_file(tmp_path, monkeypatch):
    inputs = random_inputs(3)
    monkeypatch.setattr(kernel_inputs, "demo_inputs", lambda count: [inputs] * count)
    assert kernel_inputs.main(["-o", str(tmp_path / "inputs.npz"), "--count", "2"]) == 0
    first, second = load_inputs(tmp_path / "inputs.npz")
    assert first.origin == "demo"
    assert torch.equal(second.rois, inputs.rois)
    assert torch.equal(second.image_size, inputs.image_size)
    assert torch.equal(second.anchors, inputs.anchors)
    for pair in ((first.objectness, inputs.objectness), (first.deltas, inputs.deltas)):
        assert all(torch.equal(a, b.half().float()) for a, b in zip(*pair, strict=True))


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


def small(inputs: Inputs) -> Inputs:
    """Return two levels of 80 and 20 cells, 40 proposals and 6 classes."""
    objectness, deltas = (
        tuple(of[i][:, :, :height, :width] for i, (height, width) in enumerate(((8, 10), (4, 5))))
        for of in (inputs.objectness, inputs.deltas)
    )
    return replace(
        inputs,
        image_size=torch.tensor([[128, 150]], dtype=torch.int32),
        anchors=inputs.anchors[:6],
        objectness=objectness,
        deltas=deltas,
        rois=inputs.rois[:40] * 0.1,
        class_logits=inputs.class_logits[:40, :6] / 3,
        box_deltas=inputs.box_deltas[:40, :24],
    )


@pytest.mark.slow
def test_the_cases_check_their_result_and_can_be_run_either_way(on_the_cpu):
    images = [small(random_inputs(seed)) for seed in range(2)]
    cases = [
        proposals_case(images, element="float32"),
        align_case(images, element="float32", channels=8),
        detections_case(images, element="float32"),
    ]
    for case in cases:
        case.check()
        for implementation in case.implementations:
            implementation.run()
        assert case.batch == 2
        assert case.target_us is None
    assert cases[0].density is None
    assert cases[1].density == 1.0
    assert 0.1 < cases[2].density < 0.9
    assert {entry.split("_")[0] for entry, _, _ in on_the_cpu.launches} == {"region", "multiscale", "box"}


@pytest.mark.slow
@pytest.mark.parametrize("make", [proposals_case, detections_case])
def test_a_wrong_result_fails_the_check(on_the_cpu, monkeypatch, make):
    case = make([small(random_inputs(0))], element="float32")
    case.check()
    case = make([small(random_inputs(1))], element="float32")
    monkeypatch.setattr(HostDriver, "launch", lambda *_: None)
    with pytest.raises(AssertionError):
        case.check()


@pytest.mark.slow
def test_preprocessing_moves_the_images_and_the_images(on_the_cpu):
    case = preprocess_case([(48, 64)], element="float16")
    assert case.work == Work(moved_bytes=48 * 64 * 3 + 3 * 800 * 1088 * 2)
    assert case.density is None
    case.check()


@pytest.mark.slow
def test_targets_are_of_one_image_of_r50_fpn(on_the_cpu):
    usual, dense = random_inputs(0), random_inputs(0, foreground=1.0, rivals=15)
    assert proposals_case([usual]).target_us == 30
    assert detections_case([usual]).target_us == 15
    assert detections_case([dense]).target_us is None
    assert detections_case([usual, usual]).target_us is None


@pytest.fixture
def gpu(monkeypatch):
    """A system with a GPU and without the demo, as far as :func:`main` asks."""

    def no_demo(count):
        raise FileNotFoundError("digits.pth")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(kernels, "CudaTimer", lambda launches: timer_of([5.0] * 100, [50.0] * 100))
    monkeypatch.setattr(kernels, "measure_limits", lambda timer: LIMITS)
    monkeypatch.setattr(kernels, "describe_system", lambda module, given: {"device": "a GPU"})
    monkeypatch.setattr(kernels, "demo_inputs", no_demo)


def test_a_wrong_case_is_reported_and_not_timed_and_the_rest_goes_on(gpu, tmp_path, capsys, monkeypatch):
    def wrong() -> None:
        raise AssertionError("1.00% of the values are wrong")

    def made(inputs, *, is_right) -> Case:
        return case_of() if is_right else case_of(check=wrong)

    turns = [partial(made, [random_inputs(0)], is_right=is_right) for is_right in (True, False, True)]
    monkeypatch.setattr(kernels, "_cases", lambda demo, quick: iter(turns))
    assert main(["-o", str(tmp_path / "out.json"), "--quick"]) == 1
    report = json.loads((tmp_path / "out.json").read_text())
    assert [result["cache"] for result in report["results"]] == ["warm", "cold"] * 2
    (failed,) = report["failed"]
    assert failed == {"case": "made, batch 1, {'is_right': False}", "error": "1.00% of the values are wrong"}
    assert report["limits"] == asdict(LIMITS)
    assert report["settings"]["demo_inputs"] == "left out: digits.pth"
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "copy 0.00 TB/s, arithmetic 0.0 T/s, launch 1.5 us"
    assert printed[2].endswith("10.0x (met)  100% of the floor, 5.0 us of memory")
    assert printed[3] == "FAILED made, batch 1, {'is_right': False}: 1.00% of the values are wrong"


def test_what_matters_most_is_measured_first():
    turns = list(kernels._cases([], quick=False))
    assert [(turn.func.__name__, *turn.keywords.values()) for turn in turns[:6]] == [
        ("proposals_case",),
        ("align_case",),
        ("detections_case",),
        ("detections_case",),
        ("preprocess_case", "float16"),
        ("preprocess_case", "float32"),
    ]
    usual, dense = (turn.args[0][0].class_logits.softmax(1)[:, 1:] > 0.05 for turn in turns[2:4])
    assert usual.sum() < 100 < 5000 < dense.sum()
    assert [len(turn.args[0]) for turn in turns] == [1] * 6 + [8] * 6 + [4] * 6 + [1] * 8
    assert len(list(kernels._cases([random_inputs(0)], quick=True))) == 9
