"""``frcnn bench``, end to end: a checkpoint, its export, images, a report; and what goes wrong on the way."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from support.images import SHAPES, photographs

from frcnn.benchmarks.commands.bench import parse_limit
from frcnn.benchmarks.report import regression
from frcnn.benchmarks.report.results import Results, Row
from frcnn.benchmarks.report.table import show_results
from frcnn.cli import Terminated, main
from frcnn.errors import UsageError
from frcnn.runtime.host.onnxruntime_backend import OnnxRuntimeBackend

FAMILIES_FILE = Path(__file__).parents[2] / "support" / "families.py"
TINY_FILE = Path(__file__).parents[2] / "support" / "tiny_detector.py"
FAMILY = "resnet18_fpn_max"


@pytest.fixture(scope="module")
def checkpoint(exports, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "checkpoint.pth"
    torch.save(exports(FAMILY).model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for i, pixels in enumerate((*photographs(SHAPES[0]), photographs(SHAPES[1])[0])):
        Image.fromarray(pixels).save(folder / f"{i}.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def command(checkpoint: Path, images: Path, folder: Path, *options: object) -> int:
    arguments = ["bench", checkpoint, "--arch", f"{FAMILIES_FILE}:{FAMILY}", "-o", folder, "--threads", 1]
    arguments += ["--device", "cpu", "--images", images, "--compile-limit", 0, *options]
    return main([str(argument) for argument in arguments])


@pytest.fixture
def bench(checkpoint, images, tmp_path) -> Callable[..., int]:
    return partial(command, checkpoint, images, tmp_path / "report")


@pytest.fixture(scope="module")
def report(exports, checkpoint, images, tmp_path_factory) -> Path:
    """The folder of a report."""
    folder = tmp_path_factory.mktemp("report")
    assert command(checkpoint, images, folder, exports(FAMILY).path, "--budget", 8, "--batch", "1,2") == 0
    return folder


def rows_of(folder: Path) -> dict[str, Row]:
    return {row.id: row for row in Results.read(folder / "results.json").rows}


def test_the_report_has_every_candidate(report, exports) -> None:
    results = Results.read(report / "results.json")
    rows = {row.id: row for row in results.rows}
    for name in ("eager-fp32", "eager-fp32-equal", "onnxruntime-cpu"):
        assert rows[name].status == "ok", rows[name].reason
        whole = rows[name].measure("images", 1)
        assert whole is not None and len(whole.rounds_ms) >= 1 and whole.p50_ms > 0
    ratio = rows["onnxruntime-cpu"].measure("images", 1).ratio  # type: ignore[union-attr]
    assert ratio is not None and ratio.min <= ratio.median <= ratio.max
    assert rows["onnxruntime-cpu"].artifact.size_bytes == exports(FAMILY).path.stat().st_size  # type: ignore[union-attr]
    assert {row.status for row in results.rows} <= {"ok", "wrong", "failed", "unavailable"}
    assert all(row.reason for row in results.rows if row.status != "ok")
    assert [stage.name for stage in rows["onnxruntime-cpu"].stages][:3] == ["decode", "preprocess", "backbone+FPN"]
    assert results.roofline is not None and results.roofline.floors_ms["cpu fp32"] > 0
    assert results.noise.row == "onnxruntime-cpu" and results.noise.noise is not None
    assert {curve.kind for curve in results.curves} >= {"image size", "RoIs", "classes"}
    assert results.workload.equal_size == SHAPES[0] and len(results.workload.images) == 5
    assert [Path(item.name).name for item in results.workload.skipped] == ["broken.png"]
    assert results.environment.threads == 1 and results.environment.command.startswith("frcnn ")
    for name in ("report.md", "report.html"):
        assert (report / name).stat().st_size > 1000


def test_the_table_shows_candidates_and_reasons(report, capsys) -> None:
    results = Results.read(report / "results.json")
    show_results(results)
    out = capsys.readouterr().out
    assert "decoded images to boxes, batch 1" in out
    for batch in (1, 2, 4):  # what there was time for
        measured = any(row.measure("network", batch) for row in results.rows)
        assert (f"the network only, batch {batch}\n" in re.sub(" +\n", "\n", out)) == measured
    assert re.search(r"^not run here: .*torch.compile.* \(left out by --compile-limit 0\)", out, re.M)
    assert "noise: onnxruntime-cpu against itself" in out


def test_unusable_artifacts_are_listed_with_their_reason(bench, exports, tmp_path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nothing")
    assert bench(exports(FAMILY).path, broken, exports("vgg16").path, "--budget", 2, "--batch", "1") == 0
    rows = rows_of(tmp_path / "report")
    ours = [row for row in rows.values() if row.id.startswith("onnxruntime-cpu:")]
    assert sorted(row.status for row in ours) == ["failed", "failed", "ok"]
    reasons = {row.name: row.reason for row in ours if row.status == "failed"}
    assert any("is another model than the checkpoint" in reason for reason in reasons.values())
    assert "broken.onnx" in rows["onnxruntime-cpu:broken"].reason


def test_a_slower_run_is_a_regression(bench, exports, report, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(regression, "_MIN_ROUNDS", 1)  # there is no time for more
    earlier = tmp_path / "earlier.json"
    content = json.loads((report / "results.json").read_text())
    for row in content["rows"]:
        if row["id"] == "onnxruntime-cpu":  # as if ours had been a hundred times as fast
            for measure in row["measures"]:
                measure["ratio"] |= {
                    name: 100 * measure["ratio"][name] for name in ("min", "low", "median", "high", "max")
                }
    earlier.write_text(json.dumps(content))
    options = ("--budget", 2, "--batch", "1", "--against", earlier)
    assert bench(exports(FAMILY).path, *options, "--limit", "60%") == 1
    assert "regression" in capsys.readouterr().out
    comparison = Results.read(tmp_path / "report" / "results.json").comparison
    assert comparison is not None
    assert {c.row for c in comparison.changes if c.verdict == "regression"} == {"onnxruntime-cpu"}


@pytest.mark.parametrize(("stop", "code", "reason"), [(KeyboardInterrupt, 130, "Ctrl-C"), (Terminated, 143, "stopped")])
def test_measures_before_an_interrupt_are_kept(bench, exports, tmp_path, monkeypatch, stop, code, reason) -> None:
    real, calls = OnnxRuntimeBackend.run, 0

    def run(self, *arguments):
        nonlocal calls
        calls += 1
        if calls == 40:
            raise stop
        return real(self, *arguments)

    monkeypatch.setattr(OnnxRuntimeBackend, "run", run)
    assert bench(exports(FAMILY).path, "--budget", 60, "--batch", "1") == code
    results = Results.read(tmp_path / "report" / "results.json")
    assert results.partial and reason in results.partial_reason
    rounds = {len(m.rounds_ms) for row in results.rows for m in row.measures if m.scope == "images"}
    assert rounds and min(rounds) >= 1
    assert (tmp_path / "report" / "report.md").exists()


@pytest.mark.slow
def test_without_artifacts_they_are_built_and_found_the_next_time(tmp_path, capsys) -> None:
    from support.tiny_detector import build

    checkpoint = tmp_path / "tiny.pth"
    torch.save(build().state_dict(), checkpoint)
    arguments = [
        checkpoint,
        "--arch",
        f"{TINY_FILE}:build",
        "-o",
        tmp_path / "report",
        "--threads",
        1,
        "--device",
        "cpu",
    ]
    arguments += ["--compile-limit", 0, "--budget", 1, "--batch", "1"]
    assert main(["bench", *map(str, arguments)]) == 0
    first = rows_of(tmp_path / "report")["onnxruntime-cpu"]
    assert first.status in ("ok", "wrong"), first.reason
    assert first.build_s is not None and first.artifact.built_here  # type: ignore[union-attr]
    assert main(["bench", *map(str, arguments)]) == 0
    second = rows_of(tmp_path / "report")["onnxruntime-cpu"]
    assert second.build_s is None and second.artifact.sha256 == first.artifact.sha256  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--batch", "0"), "--batch: expected numbers from 1 to 1024, got '0'"),
        (("--batch", "one"), "--batch: expected numbers"),
        (("--threads", "0"), "--threads: expected 1 or more, got 0"),
        (("--budget", "0"), "--budget: expected a number from 1"),
        (("--compile-limit", "-1"), "--compile-limit: expected a number from 0"),
        (("--limit", "banana"), "--limit: expected a share"),
        (("--against", "nowhere.json"), "cannot read nowhere.json"),
        (("--images", "nowhere"), "not one image can be used: nowhere: nowhere: no such file or folder"),
    ],
)
def test_invalid_options_are_errors_of_one_line(bench, capsys, options, message) -> None:
    assert bench(*options) == 2
    error = capsys.readouterr().err
    assert f"error: {message}" in error or message in error
    assert "Traceback" not in error


def test_a_limit_is_a_share() -> None:
    assert parse_limit("5%") == parse_limit("0.05") == pytest.approx(0.05)
    for text in ("", "-1%", "100%", "nan", "5 percent"):
        with pytest.raises(UsageError, match="--limit"):
            parse_limit(text)
