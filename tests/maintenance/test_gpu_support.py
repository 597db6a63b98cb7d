"""What has run on which GPU: the table, the data that frcnn ships, and the sentences that follow from them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from maintenance.committed import read_committed
from maintenance.gpu_support import ENGINES, cell, data_text, runs_of
from maintenance.performance_page import main
from support.bench_results import EAGER, FASTEST, WRONG, made_up

from frcnn.benchmarks.report.results import EngineInfo
from frcnn.errors import ArtifactError
from frcnn.spec.gpu_runs import GENERATIONS, GpuRun, engine_name, loaded_by, read_runs, runs_on_generation, summary

ROOT = Path(__file__).parents[2]
NOWHERE = "No artifact has run on a GPU yet"
PAGE = Path("docs/reference/gpu-support.md")
SAYING = ("README.md", "docs/limits.md", "docs/tutorials/gpu.md", str(PAGE))


def artifact(**changed: Any) -> dict[str, Any]:
    return {
        "name": "resnet50-fpn split fp16",
        "model": "resnet50-fpn",
        "target": "tensorrt",
        "version": "10.6.0",
        "form": "split",
        "precision": "fp16",
        "canvas": "800x1344",
        "ran": True,
        "build_s": 91.4,
        "file_bytes": 88_000_000,
    } | changed


def report(*artifacts: dict[str, Any], **gpu: str) -> dict[str, Any]:
    """Return what the GPU script's part ``tensorrt`` writes."""
    gpu = {"name": "NVIDIA H100 80GB HBM3", "compute_capability": "9.0"} | gpu
    return {
        "environment": {"device": gpu["name"], "gpu": gpu, "date": "2026-11-27T10:00:00+00:00", "command": "x"},
        "tensorrt": "10.6.0",
        "image": [600, 1000],
        "artifacts": list(artifacts),
        "models": [],
        "parity": [{"artifact": "resnet50-fpn split fp16", "what": "ours, eager fp32", "passed": True, "box_px": 0.25}],
        "failed": [{"case": "batch 8", "error": "out of memory"}],
    }


def runs_in(folder: Path, *reports: dict[str, Any]) -> tuple[GpuRun, ...]:
    for index, content in enumerate(reports):
        (folder / f"tensorrt-{index}.json").write_text(json.dumps(content))
    return runs_of(read_committed(folder))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("benchmarks/results", "docs", "src/frcnn/spec"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "README.md", tmp_path)
    return tmp_path


def test_what_frcnn_ships_is_what_is_committed() -> None:
    runs = runs_of(read_committed(ROOT / "benchmarks" / "results"))
    assert read_runs() == runs
    assert all((ROOT / "benchmarks" / "results" / run.result).is_file() for run in runs)


def test_without_a_run_every_cell_says_so(tmp_path: Path) -> None:
    assert runs_in(tmp_path) == ()
    cells = [cell((), generation, *engine) for generation in GENERATIONS for engine in ENGINES]
    assert set(cells) == {"not run", "not served", "fp32, bf16: not served; fp16: not run"}
    assert cells.count("not served") == 3  # TensorRT-RTX on Hopper, the data centre's Blackwell and Jetsons
    assert summary(()) == f"{NOWHERE}."
    assert loaded_by(()) == "No such program has loaded one yet."


@pytest.mark.parametrize(("target", "form"), ENGINES)
def test_a_run_of_each_engine_gets_its_cell(tmp_path: Path, target: Any, form: Any) -> None:
    ada = {"name": "NVIDIA L4", "compute_capability": "8.9"}
    (run,) = runs = runs_in(tmp_path, report(artifact(target=target, form=form), artifact(ran=False), **ada))
    assert msgspec.json.decode(data_text(runs), type=tuple[GpuRun, ...]) == (run,)
    assert cell(runs, "Ada", target, form) == "fp32, bf16: not run; fp16: run on L4, 2026-11-27"
    others = {cell(runs, "Ada", *engine) for engine in ENGINES if engine != (target, form)}
    assert others == {"not run"}
    assert summary(runs) == (
        f"Artifacts have run on NVIDIA L4: {engine_name(target, form, '10.6.0')}, fp16 (2026-11-27)."
    )


def test_all_precisions_that_ran_alike_share_a_cell(tmp_path: Path) -> None:
    runs = runs_in(tmp_path, report(*(artifact(precision=name) for name in ("bf16", "fp32", "fp16"))))
    assert cell(runs, "Hopper", "tensorrt", "split") == "run on H100 80GB HBM3, 2026-11-27"
    assert "two engines, fp32 and fp16 and bf16 (2026-11-27)" in summary(runs)


def test_the_latest_of_equal_runs_counts(tmp_path: Path) -> None:
    later = report(artifact())
    later["environment"]["date"] = "2026-12-01"
    (run,) = runs_in(tmp_path, later, report(artifact()))
    assert (run.date, run.result) == ("2026-12-01", "tensorrt-0.json")


def test_a_benchmark_counts_the_engines_that_were_right(tmp_path: Path) -> None:
    engine = EngineInfo(target="tensorrt-rtx", version="1.7.1", form="split", precision="fp16")
    results = made_up()
    rows = tuple(msgspec.structs.replace(row, engine=engine if row.id in (FASTEST, WRONG) else None)
                 for row in results.rows)  # fmt: skip
    assert {EAGER, FASTEST, WRONG} <= {row.id for row in rows}
    msgspec.structs.replace(results, rows=rows).write(tmp_path / "run.json")
    (run,) = runs_in(tmp_path)
    assert (run.target, run.gpu, run.date, run.result) == (
        "tensorrt-rtx", "NVIDIA H100 80GB HBM3", "2026-11-24", "run.json",
    )  # fmt: skip


def test_doctor_tells_of_the_generation_that_is_here(tmp_path: Path) -> None:
    runs = runs_in(tmp_path, report(artifact(), name="NVIDIA A10", compute_capability="8.6"))
    assert runs_on_generation(runs, "8.0") == (
        "Ampere: ran on NVIDIA A10: TensorRT 10.6.0, two engines, fp16 (2026-11-27)"
    )
    assert runs_on_generation(runs, "9.0") == "Hopper: no artifact has run yet"
    assert runs_on_generation(runs, "6.1") == "compute capability 6.1: no artifact has run yet"


def test_a_program_that_loaded_a_plan_is_named(tmp_path: Path) -> None:
    runs = runs_in(tmp_path, report(artifact(form="plan", loaded_by=["trtexec 10.13"]), artifact(loaded_by=["x 1"])))
    assert loaded_by(runs) == "Loaded so far by trtexec 10.13 (NVIDIA H100 80GB HBM3, 2026-11-27)."


def test_the_documents_turn_by_themselves(checkout: Path) -> None:
    plan = artifact(name="resnet50-fpn plan fp16", form="plan", version="11.2.1", loaded_by=["trtexec 11.2.1"])
    for artifacts, has_run in (
        ((artifact(ran=False),), False),
        ((artifact(), artifact(ran=False, build_s=None), plan), True),
    ):
        for stale in (checkout / "benchmarks" / "results").glob("tensorrt-*.json"):
            stale.unlink()
        (checkout / "benchmarks" / "results" / "tensorrt-h100.json").write_text(json.dumps(report(*artifacts)))
        assert main(["--root", str(checkout)]) == 0
        ran = "Artifacts have run on NVIDIA H100 80GB HBM3: TensorRT 10.6.0, two engines, fp16 (2026-11-27)"
        for name in SAYING:
            text = (checkout / name).read_text("utf-8")
            assert (ran in text, NOWHERE in text) == (has_run, not has_run), name
    page = (checkout / PAGE).read_text("utf-8")
    assert (
        "| TensorRT 11.2.1, one plan | fp16 | NVIDIA H100 80GB HBM3 (9.0) | 2026-11-27 | [tensorrt-h100.json]" in page
    )
    assert "Loaded so far by trtexec 11.2.1" in page and "Nor has TensorRT built one" not in page
    performance = (checkout / "docs" / "performance.md").read_text("utf-8")
    assert (
        "| resnet50-fpn split fp16 | TensorRT 10.6.0, two engines | fp16 | 800x1344 | yes | 91.4 | 88.0 |"
        in performance
    )
    assert performance.count("| resnet50-fpn split fp16 | TensorRT 10.6.0") == 1  # opened again by another part
    assert "| resnet50-fpn split fp16 | ours, eager fp32 | passed 1, box_px 0.25 |" in performance
    assert "- Not measured: batch 8: out of memory" in performance
    assert "No engine was measured yet" not in performance
    shipped = (checkout / "src" / "frcnn" / "spec" / "gpu_runs.json").read_bytes()
    assert [run.form for run in msgspec.json.decode(shipped, type=list[GpuRun])] == ["split", "plan"]


def test_a_gpu_of_no_known_generation_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"tensorrt-0.json: no generation has the compute capability '4.2'"):
        runs_in(tmp_path, report(artifact(), compute_capability="4.2"))


def test_a_run_without_a_gpu_is_an_error(tmp_path: Path) -> None:
    content = report(artifact())
    del content["environment"]["gpu"]
    with pytest.raises(ArtifactError, match="ran on a GPU unknown"):
        runs_in(tmp_path, content)
