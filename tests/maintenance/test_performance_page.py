"""docs/performance.md and the README's table say what is committed, and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from maintenance.committed import read_committed
from maintenance.cpu_speeds import accuracy_lines
from maintenance.performance_page import BEGIN, END, main, page, pages, readme_table, with_figures
from support.bench_results import EAGER, WRONG, made_up, replaced

from frcnn.benchmarks.report.formatting import number
from frcnn.benchmarks.report.ranking import head_measure
from frcnn.benchmarks.report.results import Results
from frcnn.errors import ArtifactError, UsageError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A copy of what the pages are made from, and of the pages."""
    shutil.copytree(ROOT / "benchmarks" / "results", tmp_path / "benchmarks" / "results")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "README.md", tmp_path)
    return tmp_path


def test_the_pages_are_what_the_files_say() -> None:
    for path, text in pages(ROOT).items():
        assert path.read_text("utf-8") == text, f"{path} is out of date: make performance"


def test_a_page_that_is_out_of_date_is_named_and_mended(checkout, capsys) -> None:
    file = checkout / "benchmarks" / "results" / "demo-cpu.json"
    report = json.loads(file.read_text())
    report["rows"][0]["measures"][0]["p50_ms"] = 123456.0
    file.write_text(json.dumps(report))
    assert main(["--root", str(checkout), "--check"]) == 1
    assert "README.md: out of date; run make performance" in capsys.readouterr().err
    assert "123,456" not in (checkout / "README.md").read_text()
    assert main(["--root", str(checkout)]) == 0
    for name in ("README.md", "docs/performance.md"):
        assert "123,456" in (checkout / name).read_text()
    assert main(["--root", str(checkout), "--check"]) == 0


def test_a_run_of_the_suite_gets_a_part_of_the_page_and_rows_of_the_table(tmp_path) -> None:
    results = made_up()
    results.write(tmp_path / "a-run.json")
    committed = read_committed(tmp_path)
    whole, table = page(committed), readme_table(committed)
    names = {row.id: row.name for row in results.rows}
    for text in (whole, table):
        assert "a-run.json" in text
        assert names[EAGER] in text
    assert results.environment.command in whole
    assert names[WRONG] in whole and names[WRONG] not in table  # a wrong answer is no speed


def cpu_run(checkpoint: str) -> Results:
    """A run on a CPU with a row that every provider and precision has."""
    results = made_up()
    shown = {"onnxruntime-cpu:fp32": "ours", "openvino-bf16:int8": "ours, int8"}
    fast = replaced(results.rows[1], status="ok", reason="")
    ours = [replaced(fast, id=key, name=text, device="cpu", reference=EAGER) for key, text in shown.items()]
    workload = replaced(results.workload, device="cpu", checkpoint=checkpoint)
    return replaced(results, rows=(results.rows[0], *ours), workload=workload)


def test_runs_on_a_cpu_are_columns_of_one_table(tmp_path) -> None:
    run = cpu_run("a.pth")
    run.write(tmp_path / "first-cpu.json")
    slow = replaced(run.rows[1], status="wrong", reason="disagrees")
    replaced(run, rows=(run.rows[0], slow)).write(tmp_path / "second-cpu.json")
    lines = readme_table(read_committed(tmp_path)).splitlines()
    eager, ratio = head_measure(run, run.rows[0]), head_measure(run, run.rows[1])
    assert eager is not None and ratio is not None and ratio.ratio is not None
    ms, times = f"{number(eager.p50_ms)} ms", f"{ratio.ratio.median:.2f}x"
    assert f"| {run.rows[0].name} | {ms} | {ms} |" in lines
    assert f"| ours | {times} | - |" in lines and f"| ours, int8 | {times} | - |" in lines
    assert any(run.environment.cpu in line for line in lines)
    assert not any("random" in line for line in lines)


def test_accuracy_stands_beside_the_speed_of_the_same_checkpoint(tmp_path) -> None:
    cpu_run("digits.pth").write(tmp_path / "demo-cpu.json")
    rows = [
        {"provider": "eager", "precision": "fp32", "ap": 0.6434, "images": 100},
        {"provider": "cpu", "precision": "fp32", "ap": 0.6434, "images": 100},
        {"provider": "openvino", "precision": "int8", "rest": "bf16", "ap": 0.6401, "images": 100},
        {"provider": "openvino", "precision": "bf16", "ap": 0.6429, "images": 100},
    ]
    system = {"cpu": "AMD EPYC", "threads": 2, "date": "2026-11-27", "command": "made by hand"}
    accuracy = {"checkpoint": "digits.pth", "environment": system, "rows": rows}
    (tmp_path / "int8-demo.json").write_text(json.dumps(accuracy))
    committed = read_committed(tmp_path)
    (named,) = committed.providers
    speeds = [line.speed for line in accuracy_lines(named.report, committed.runs)]
    assert speeds[0].endswith(" ms") and speeds[1] == speeds[2] != "-" and speeds[3] == "-"
    assert f"| int8, rest bf16 | OpenVINO | 0.6401 | {speeds[2]} |" in page(committed)
    assert "on the 100 annotated images of digits.pth" in page(committed) and "AMD EPYC, 2 threads" in page(committed)
    assert {line.speed for line in accuracy_lines(replaced(named.report, checkpoint="other.pth"), committed.runs)} == {
        "-"
    }


def test_what_is_not_measured_says_how_to_measure_it(tmp_path) -> None:
    committed = read_committed(tmp_path)
    for command in ("maintenance/gpu_session.py`", "make bench-gpu", "make test-full", "frcnn eval model.onnx"):
        assert f"Not measured yet; `{command}" in page(committed)
    assert "No engine was measured yet; `maintenance/gpu_session.py --rest`" in page(committed)
    assert readme_table(committed).startswith("Not measured yet; `frcnn bench my.pth")


def test_a_session_tells_how_every_part_ended_and_what_was_tried(tmp_path) -> None:
    part = {"part": "kernels", "shows": "kernels of torchvision", "ended": "failed (1)", "seconds": 57.4}
    tests = part | {"part": "operators", "ended": "passed", "tests": {"passed": 112, "failed": 0, "skipped": 2}}
    trial = {"what": "a network built", "with": "tensorrt 10.6.0", "ended": "built", "figures": {"seconds": 91.4}}
    system = {"gpu": "NVIDIA H200, 580.1", "cores": 16, "system": "Linux", "date": "2026-11-26"}
    (tmp_path / "s.json").write_text(json.dumps({"system": system, "parts": [tests, part], "tried": [trial]}))
    whole = page(read_committed(tmp_path))
    assert "| kernels of torchvision | passed | 112 passed, 2 skipped | 57 |" in whole
    assert "| kernels of torchvision | failed (1) | - | 57 |" in whole
    assert "| a network built | tensorrt 10.6.0 | built | seconds 91.4 |" in whole


def test_text_from_a_result_is_no_markup(tmp_path) -> None:
    system = {"gpu": "<b>GPU</b> | *x*", "cores": 16, "system": "Linux", "date": "2026-11-26"}
    (tmp_path / "s.json").write_text(json.dumps({"system": system, "parts": [], "tried": []}))
    assert r"\<b\>GPU\</b\> \| \*x\*; 16 cores, Linux." in page(read_committed(tmp_path))


def test_growth_under_load_is_a_table(checkout) -> None:
    growth = {
        "rss_bytes_per_1000": {"per_1000": 1234.5, "low": -10.0, "high": 2400.0},
        "at_rest": [{"descriptors": 5, "threads": 2}, {"descriptors": 6, "threads": 3}],
    }
    latency = {"p50_ms": 2.0, "p99_ms": 4.0}
    threads = {"threads": 8, "images": 4000, "wrong": [], "latency_idle": latency, "latency_under_load": latency}
    load = {
        "threads": threads | {"growth": growth},
        "images": {"images": 100_000, "growth": growth},
        "detectors": {"detectors": 20, "wrong": 1, "growth": growth},
        "engine_threads": {"threads": 4, "images": 2000, "wrong": []},
    }
    file = checkout / "benchmarks" / "results" / "soak.json"
    report = json.loads(file.read_text())
    report["attacks"]["load"] = load
    file.write_text(json.dumps(report))
    text = pages(checkout)[checkout / "docs" / "reliability.md"]
    interval = "1,234 (-10 to 2,400) bytes in 1,000 | 5 to 6 | 2 to 3 |"
    first, second = ("threads on one detector | 4,000 images", "small images | 100,000 images")
    assert f"| {first} | 0 | {interval}\n| {second} | 0 | {interval}\n" in text
    assert f"| detectors loaded and closed | 20 detectors | 1 | {interval}\n\n4 threads on an engine artifact" in text
    assert "p99 4.00 ms a call (p50 2.00 ms), against 4.00 ms\n(p50 2.00 ms)" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "is no kind of result that is known"),
        ("[1]", "is no kind of result that is known"),
        ("{", "cannot read"),
        ('{"families": 1, "environment": {}}', "read as FullSize"),
    ],
)
def test_a_file_of_no_known_kind_is_an_error(tmp_path, content, message) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ArtifactError, match=message):
        read_committed(tmp_path)


@pytest.mark.parametrize("readme", ["", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{END}{END}", f"{BEGIN}{BEGIN}{END}"])
def test_a_readme_without_its_markers_is_an_error(readme) -> None:
    with pytest.raises(UsageError, match=r"the figures in README.md have lost their place"):
        with_figures(readme, "table", name="README.md")


def test_a_folder_that_is_no_checkout_is_named(tmp_path, capsys) -> None:
    assert main(["--root", str(tmp_path)]) == 2
    assert "is no checkout of frcnn" in capsys.readouterr().err
