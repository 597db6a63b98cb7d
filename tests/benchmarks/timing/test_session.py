"""Candidates side by side: every figure is what the fakes were told to take, every reason what they raised."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
from support.exports import Exports
from support.fake_rows import FakeClock, FakeRow, jitter, session_of

from frcnn.benchmarks.candidates.candidate import CannotRunError
from frcnn.benchmarks.report.results import EngineInfo
from frcnn.benchmarks.timing.measure import Limits
from frcnn.benchmarks.timing.session import Session, windows_of

LIMITS = Limits(budget_s=120, max_rounds=16)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def make(clock, exports: Exports, tmp_path):
    spec = exports.spec("resnet18_fpn_max")

    def session(*candidates, batches=(1, 2), is_trained=True) -> Session:
        made = session_of(candidates, clock, spec, tmp_path, batches=batches, is_trained=is_trained)
        made.load()
        made.measure(LIMITS)
        return made

    return session


def test_measures_are_the_delays(clock, make) -> None:
    eager = FakeRow(name="eager-fp32", clock=clock, ms=100, network_ms=80)
    ours = FakeRow(name="onnxruntime-cpu", clock=clock, ms=40, network_ms=20)
    first, second = make(eager.candidate(), ours.candidate()).rows()
    assert (first.status, second.status) == ("ok", "ok")
    for batch in (1, 2):
        whole, network = second.measure("images", batch), second.measure("network", batch)
        assert whole is not None and network is not None
        assert (whole.p50_ms, whole.p99_ms) == (pytest.approx(40 * batch), pytest.approx(40 * batch))
        assert whole.fps == pytest.approx(25)
        assert whole.ratio is not None and whole.ratio.median == pytest.approx(2.5)
        assert network.ratio is not None and network.ratio.median == pytest.approx(4)
    of_eager = first.measure("images", 1)
    assert of_eager is not None and of_eager.ratio is None


def test_all_images_are_used(clock, make) -> None:
    eager = FakeRow(name="eager-fp32", clock=clock, ms=100, network_ms=80)
    session = make(eager.candidate(), batches=(1,))
    timed = eager.seen[-64:]  # the null pair sees each image twice, and so does each one's lead-in
    assert {timed.count(f"p{i}") for i in range(16)} == {4}
    session.close()
    assert eager.closed


@pytest.mark.parametrize(("error_px", "status"), [(0.0, "ok"), (0.005, "ok"), (0.02, "wrong"), (50.0, "wrong")])
def test_a_candidate_that_disagrees_is_wrong_and_its_error_is_reported(clock, make, error_px, status) -> None:
    eager = FakeRow(name="eager-fp32", clock=clock, ms=100)
    ours = FakeRow(name="onnxruntime-cpu", clock=clock, ms=1, error_px=error_px)
    row = make(eager.candidate(), ours.candidate(), batches=(1,)).rows()[1]
    assert row.status == status
    assert row.correctness is not None and row.correctness.passed == (status == "ok")
    if error_px < 1:
        assert row.correctness.box_px == pytest.approx(error_px, abs=1e-5)
    if status == "wrong":
        assert "disagrees with eager" in row.reason
        assert row.measures  # shown, as wrong


def test_a_row_has_the_precision_that_it_ran_in_and_its_limits(clock, make) -> None:
    eager = FakeRow(name="eager-fp32", clock=clock, ms=100)
    naive = FakeRow(name="naive-openvino", clock=clock, ms=1, error_px=0.05)
    for precision, status in ((None, "wrong"), ("bf16", "ok")):  # 0.05 px are too much for fp32 alone
        row = make(eager.candidate(), dataclasses.replace(naive, precision=precision).candidate()).rows()[1]
        assert (row.status, row.precision) == (status, precision or "fp32")
    row = make(eager.candidate(), naive.candidate(limits="fp16")).rows()[1]
    assert (row.status, row.precision) == ("ok", "fp32")


@pytest.mark.parametrize(
    ("precision", "status"), [("fp32", "wrong"), ("fp16", "wrong"), ("bf16", "ok"), ("int8", "ok")]
)
def test_random_weights_are_no_judge_of_bf16_and_int8(precision, status, clock, make) -> None:
    eager = FakeRow(name="eager-fp32", clock=clock, ms=100)
    ours = FakeRow(name="openvino", clock=clock, ms=1, error_px=20)
    rows = [make(eager.candidate(), ours.candidate(precision=precision), is_trained=is_trained).rows()[1]
            for is_trained in (True, False)]  # fmt: skip
    assert [row.status for row in rows] == ["wrong", status]
    assert rows[1].correctness is not None and rows[1].correctness.unmatched > 0
    assert rows[1].correctness.limits.startswith("none: random weights") == (status == "ok")


def test_an_engine_is_named_in_its_row(clock, make) -> None:
    engine = EngineInfo(target="tensorrt", version="10.6.0", form="split", precision="fp16")
    eager = FakeRow(name="eager-fp32", clock=clock, ms=100)
    ours = FakeRow(name="tensorrt", clock=clock, ms=1, engine=engine)
    assert [row.engine for row in make(eager.candidate(), ours.candidate(), batches=(1,)).rows()] == [None, engine]


def test_the_null_pair_is_the_systems_noise(clock, make) -> None:
    quiet = make(
        FakeRow(name="eager-fp32", clock=clock, ms=100, network_ms=100).candidate(),
        FakeRow(name="onnxruntime-cpu", clock=clock, ms=50, network_ms=50).candidate(),
    ).noise()
    assert (quiet.row, quiet.noise, quiet.too_noisy) == ("onnxruntime-cpu", pytest.approx(0), False)
    assert quiet.not_told_apart == ()


def test_candidates_within_the_noise_are_not_told_apart(clock, make) -> None:
    rows = [
        FakeRow(name=name, clock=clock, ms=ms, network_ms=ms, factor=jitter(seed, 0.2))
        for seed, (name, ms) in enumerate([("eager-fp32", 300), ("onnxruntime-cpu", 100), ("other", 101)])
    ]
    noise = make(*(row.candidate() for row in rows), batches=(1,)).noise()
    assert noise.too_noisy and noise.noise is not None and noise.noise > 0.05
    pairs = {(p.first, p.second) for p in noise.not_told_apart if p.scope == "images"}
    assert pairs == {("onnxruntime-cpu", "other")}


def test_two_equal_runs_agree_within_their_intervals(clock, make) -> None:
    def once(seed: int):
        rows = [
            FakeRow(name=name, clock=clock, ms=ms, network_ms=ms, factor=jitter(seed + i, 0.05))
            for i, (name, ms) in enumerate([("eager-fp32", 200), ("onnxruntime-cpu", 90)])
        ]
        measure = make(*(row.candidate() for row in rows), batches=(1,)).rows()[1].measure("images", 1)
        assert measure is not None and measure.ratio is not None
        return measure.ratio

    runs = [once(seed) for seed in range(0, 60, 3)]
    true = 200 / 90
    assert sum(r.low <= true <= r.high for r in runs) >= 0.85 * len(runs)
    for a, b in pairwise(runs):
        assert a.min <= b.median <= a.max
        assert a.low <= b.high and b.low <= a.high


def test_a_candidate_that_cannot_run_keeps_its_reason(clock, make) -> None:
    def cannot(task):
        raise CannotRunError("this system has none")

    def breaks(task):
        raise ValueError("two\nlines")

    eager = FakeRow(name="eager-fp32", clock=clock, ms=100)
    rows = make(
        eager.candidate(),
        eager.candidate(id="absent", open=cannot),
        eager.candidate(id="broken", open=breaks),
        eager.candidate(id="unbuilt", prepare=breaks),
        batches=(1,),
    ).rows()
    assert [(row.id, row.status, row.reason) for row in rows[1:]] == [
        ("absent", "unavailable", "this system has none"),
        ("broken", "failed", "ValueError: two lines"),
        ("unbuilt", "failed", "ValueError: two lines"),
    ]
    assert rows[0].status == "ok"


def test_a_candidate_that_fails_while_it_is_timed_keeps_what_it_measured(clock, make) -> None:
    eager = FakeRow(name="eager-fp32", clock=clock, ms=100)
    ours = FakeRow(name="onnxruntime-cpu", clock=clock, ms=50, fails_at=40)
    row = make(eager.candidate(), ours.candidate(), batches=(1,)).rows()[1]
    assert row.status == "ok" and row.measure("images", 1) is not None
    assert any("ran out of luck" in line for line in row.missing)


def test_a_candidate_of_batch_one_has_no_larger_batches(clock, make) -> None:
    eager = FakeRow(name="eager-fp32", clock=clock, ms=100)
    naive = FakeRow(name="naive", clock=clock, ms=90)
    row = make(eager.candidate(), naive.candidate(max_batch=1), batches=(1, 2)).rows()[1]
    assert {m.batch for m in row.measures} == {1}
    assert "images, batch 2: it takes at most 1 image at a time" in row.missing


def test_equal_sized_candidates_are_compared_with_their_own_reference(clock, make) -> None:
    eager = FakeRow(name="eager-fp32", clock=clock, ms=100)
    equal = FakeRow(name="eager-fp32-equal", clock=clock, ms=60)
    naive = FakeRow(name="naive", clock=clock, ms=30)
    kind = {"images": "equal-sized", "reference": "eager-fp32-equal"}
    rows = make(eager.candidate(), equal.candidate(**kind), naive.candidate(**kind), batches=(1,)).rows()
    measure = rows[2].measure("images", 1)
    assert measure is not None and measure.ratio is not None and measure.ratio.median == pytest.approx(2)


def test_batches_go_round_the_images() -> None:
    names = [list(window) for window in windows_of("abcde", 2)]  # type: ignore[arg-type]
    assert names == [["a", "b"], ["c", "d"], ["e", "a"]]
