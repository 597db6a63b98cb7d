"""What every verb prints, seen by a person: tables that fit the terminal, and a last line that says what to run next.

Each verb runs once, on the tiny model; every table that it shows is then laid out for terminals of several widths.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import io
import re
import shlex
from collections.abc import Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from rich.cells import cell_len
from support import tiny_detector
from support.terminal import Shown, laid_out

from frcnn import console
from frcnn.cli import VERBS, add_arguments, main

ROOT = Path(__file__).parents[3]
ROOMS = ("src/frcnn", "runtime", "exporter", "plugins", "benchmarks")
ARCH = f"{Path(tiny_detector.__file__)}:build"
SKIP = "--compile-limit 0"  # NNCF ends at a signal, which may meet torch
SHORT = ("--threads", "1", "--calibration", "8", "--gate", "8")
COMMANDS: dict[str, tuple[str, int]] = {
    # name: (command, exit code); in this order, for one uses what another has written
    "export": (f"export my.pth --arch {ARCH} --labels labels.txt -o model.onnx", 0),
    "build": ("build model.onnx -o 'my model.frcnn' --target onnxruntime --kernel-arch sm_80", 0),
    "doctor": ("doctor", 0),
    "inspect": ("inspect model.onnx --layers", 0),
    "inspect an artifact": ("inspect 'my model.frcnn' --layers --hashes", 0),
    "triton": ("triton model.onnx -o repository", 0),
    "unpack": ("unpack 'my model.frcnn' -o unpacked", 0),
    "detect": ("detect model.onnx images --score 0", 0),
    "detect to files": ("detect model.onnx images --json found.json --score 0", 0),
    "detect for eval": ("detect model.onnx images --annotations instances.json --json results.json --score 0", 0),
    "compare": (f"compare my.pth model.onnx --arch {ARCH} --images images --threads 1", 0),
    "a model that disagrees": (f"compare other.pth model.onnx --arch {ARCH} --images images --threads 1", 1),
    "profile": ("profile model.onnx --images images --repeats 2 --threads 1", 0),
    "eval": (f"eval model.onnx {{annotated}} --checkpoint my.pth --arch {ARCH} --threads 1", 0),
    "quantize": (f"quantize model.onnx {{annotated}} -o int8.onnx --max-drop 100 {shlex.join(SHORT)}", 0),
    "worse than the limit": (f"eval int8.onnx {{annotated}} --checkpoint my.pth --arch {ARCH} --limit 0", 1),
    "tune": ("tune model.onnx --images images --budget 1", 0),
    "bench": (f"bench my.pth model.onnx --arch {ARCH} --images images --budget 2 --batch 1 {SKIP} -o report", 0),
}  # fmt: skip


class Run(NamedTuple):
    """What a verb did."""

    code: int
    out: str
    err: str
    tables: list[Shown]


def callers() -> list[str]:
    """Return the modules that show tables."""
    files = [file for room in ROOMS for file in (ROOT / room).rglob("*.py") if "show_table(" in file.read_text()]
    found = {".".join(("frcnn", *file.relative_to(ROOT).with_suffix("").parts)) for file in files}
    return sorted(name for name in found if not name.startswith("frcnn.src."))


def kept(tables: list[Shown], title, columns, rows, **options) -> None:
    """Show a table, and keep it."""
    tables.append(Shown(title, list(columns), [list(row) for row in rows], options))
    console.show_table(title, columns, tables[-1].rows, **options)


@pytest.fixture(scope="module")
def folder(tiny_model: Path, annotated_noise: Path, tmp_path_factory) -> Iterator[Path]:
    """The current folder: a checkpoint, one that is not the model's, labels, and images with annotations."""
    folder = tmp_path_factory.mktemp("here")
    weights = tiny_detector.build().state_dict()
    torch.save(weights, folder / "my.pth")
    weights["roi_heads.box_predictor.bbox_pred.bias"] += 0.5
    torch.save(weights, folder / "other.pth")
    (folder / "labels.txt").write_text("one\ntwo\nthree\n")
    (folder / "images").symlink_to(annotated_noise / "images")
    (folder / "instances.json").symlink_to(annotated_noise / "instances.json")
    with chdir(folder):
        yield folder


@pytest.fixture(scope="module")
def runs(folder: Path) -> dict[str, Run]:
    """What each command did, by its name in ``COMMANDS``."""
    found = {}
    for name, (command, _) in COMMANDS.items():
        words = shlex.split(command.format(annotated="--annotations instances.json --images images"))
        tables: list[Shown] = []
        keep = partial(kept, tables)
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as out:
            for module in callers():
                patch.setattr(importlib.import_module(module), "show_table", keep)
            with redirect_stderr(io.StringIO()) as err:
                code = main(words)
        found[name] = Run(code, out.getvalue(), err.getvalue(), tables)
    return found


@pytest.mark.slow
def test_every_verb_does_its_work(runs: dict[str, Run]) -> None:
    assert {command.split()[0] for command, _ in COMMANDS.values()} | {"try", "completion"} == set(VERBS)
    for name, (_, code) in COMMANDS.items():
        assert runs[name].code == code, f"{name}: {runs[name].err}"


def words(text: str) -> str:
    return re.sub(r"\s", "", text)


@pytest.mark.slow
@pytest.mark.parametrize("width", [80, 100, 160])
def test_no_line_is_wider_than_the_terminal_and_the_figure_that_matters_is_whole(runs, width, monkeypatch) -> None:
    for name, run in runs.items():
        for table in run.tables:
            lines = laid_out(table, width, monkeypatch)
            assert max(map(cell_len, lines)) <= width, (name, table.title)
            for row in table.rows:
                first = row[1].split("\n")[0]
                assert any(first in line for line in lines) or words(first)[:12] in words("".join(lines)), (name, row)


@pytest.mark.slow
@pytest.mark.parametrize("width", [80, None])
def test_a_file_and_wide_have_every_cell(runs, width, monkeypatch) -> None:
    monkeypatch.setattr(console, "is_wide", width is not None)
    for name, run in runs.items():
        for table in run.tables:
            lines = laid_out(table, width, monkeypatch)
            assert width is None or max(map(cell_len, lines)) <= width, (name, table.title)
            text = words("".join(lines))
            numbers = set(range(len(table.columns))) - {*table.options.get("text_columns", (0,))}
            assert all(word in text for column in table.columns for word in column.split()), (name, table.title)
            assert all(any(row[i] in line for line in lines) for row in table.rows for i in numbers), (
                name,
                table.title,
            )
            assert not any("not shown" in line for line in lines)


@pytest.mark.slow
def test_every_table_of_the_product_is_among_them(runs) -> None:
    assert len(callers()) >= 10
    sources = [importlib.util.find_spec(module).origin for module in callers()]  # type: ignore[union-attr]
    calls = sum(Path(source).read_text().count("show_table(") for source in sources)
    kinds = {tuple(table.columns) for run in runs.values() for table in run.tables}
    # three need more: an earlier run's results, a gate that does not hold, a model without functions; triton and unpack
    # have the same columns
    assert len(kinds) >= calls - 4, kinds


def next_words(err: str) -> list[str]:
    """Return the words of the command that the last line names."""
    last = err.splitlines()[-1]
    match = re.fullmatch(r"next(?:, on (?:its|a) GPU)?: (frcnn .+)", last)
    assert match, last
    return shlex.split(match[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "triton"])  # which goes on with tritonserver
def test_the_last_line_is_a_command_that_can_be_run(name: str, runs, folder: Path) -> None:
    program, verb, *given = next_words(runs[name].err)
    assert program == "frcnn" and verb in VERBS
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    add_arguments(parser, verb)
    parsed = vars(parser.parse_intermixed_args(given))
    output = parsed.pop("output", None)
    assert output is None or not Path(output).exists() or verb == "bench"
    named = [parsed[key] for key in ("checkpoint", "model", "annotations", "predictions") if parsed.get(key)]
    for given in (parsed.get(key) for key in ("images", "inputs", "artifacts")):
        named += given if isinstance(given, list) else [given] if given else []
    unknown = [str(path) for path in named if not Path(path).exists()]
    assert set(unknown) <= {"IMAGES"}
    assert named or verb == "try"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("export", f"compare my.pth model.onnx --arch {ARCH} --images IMAGES"),
        ("build", "detect 'my model.frcnn' IMAGES"),
        ("detect", "detect model.onnx images -o annotated"),
        ("detect to files", "tune model.onnx --images images"),
        ("detect for eval", "eval --predictions results.json --annotations instances.json"),
        ("compare", "bench my.pth model.onnx"),
        ("a model that disagrees", "inspect model.onnx"),
        ("eval", "tune model.onnx --images images"),
        ("worse than the limit", "eval int8.onnx --annotations instances.json"),
        ("quantize", "detect int8.onnx images"),
        ("tune", "detect model.onnx images"),
        ("bench", "tune model.onnx --images images"),
    ],
)
def test_each_verb_leads_to_the_one_that_follows(name: str, start: str, runs) -> None:
    assert next_words(runs[name].err)[1:][: len(shlex.split(start))] == shlex.split(start)
    assert "next" not in runs[name].out, "standard output stays clean"
