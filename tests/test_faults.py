"""Full disks, folders that cannot be written, no place for temporary files, no home, two at once, a clock that jumps.

Whatever is missing, a command either does without it or ends with one line that says so, and files are as they were.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from support.full_disk import files_at_most
from support.killable import ARCH, Inputs, files
from support.processes import environment
from support.tiny_detector import build, noise

from frcnn.cli import main
from frcnn.exporter import export_onnx
from frcnn.plugins.cuda.kernel_cache import KernelCache
from frcnn.runtime.images.video import writing_video
from frcnn.runtime.model_files.artifact import open_artifact

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
UNPRIVILEGED = Path(__file__).parent / "support" / "unprivileged.py"
Captured = pytest.CaptureFixture[str]
Command = Callable[[Inputs, Path], list[str]]


def few(inputs: Inputs) -> list[str]:
    return [inputs / f"images/{index:04}.png" for index in range(4)]


COMMANDS: dict[str, tuple[str, Command]] = {
    "export": ("o/m.onnx", lambda inputs, out: ["export", inputs / "tiny.pth", "--arch", ARCH, "-o", f"{out}"]),
    "build": (
        "o/m.frcnn",
        lambda inputs, out: ["build", inputs / "model.onnx", "-o", f"{out}", "--batch", "1", "--kernel-arch", "sm_89"],
    ),
    "eval": (
        "o/map.json",
        lambda inputs, out: [
            *("eval", inputs / "model.onnx", "--annotations", inputs / "instances.json"),
            *("--images", inputs / "images", "--threads", "1", "--json", f"{out}"),
        ],
    ),
    "bench": (
        "o/results.json",
        lambda inputs, out: [
            *("bench", inputs / "tiny.pth", inputs / "model.onnx", "--arch", ARCH, "--device", "cpu", "--threads", "1"),
            *("--batch", "1", "--budget", "1", "--compile-limit", "0", "-o", f"{out.parent}", "--images", *few(inputs)),
        ],
    ),
    "detect --json": (
        "o/r.json",
        lambda inputs, out: ["detect", inputs / "model.onnx", *few(inputs), "--threads", "1", "--json", f"{out}"],
    ),
    "detect --json-index": (
        "o/i.json",
        lambda inputs, out: ["detect", inputs / "model.onnx", inputs / "images", "--json-index", f"{out}"],
    ),
    "detect -o": (
        "o/0000.png",
        lambda inputs, out: ["detect", inputs / "model.onnx", *few(inputs), "--threads", "1", "-o", f"{out.parent}"],
    ),
    "detect -o, a video": (
        "o/clip.mp4",
        lambda inputs, out: ["detect", inputs / "model.onnx", inputs / "clip.avi", "-o", f"{out.parent}"],
    ),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    made = Inputs(tmp_path_factory.mktemp("inputs"))
    export_onnx(build(), made.folder / "model.onnx", architecture="tiny")
    with writing_video(made.folder / "clip.avi", 10.0) as writer:
        for index in range(10):
            writer.write(noise(index, 64, 96))
    return made


@pytest.fixture
def old(tmp_path):
    """Make an output that is there already, alone in its folder."""

    def make(name: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir()
        path.write_text("old")
        return path

    return make


NOT_KEPT = "warning: nothing is kept in the cache {}: {}; FRCNN_CACHE_DIR names another folder"


def errors(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(("error: ", "Traceback"))]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_is_full_is_one_error_and_the_old_file_stays(name, inputs, old, tmp_path, monkeypatch, capsys):
    output, command = COMMANDS[name]
    out = old(output)
    cache = tmp_path / "cache"  # empty: kernels are compiled and cannot be kept either
    monkeypatch.setenv("FRCNN_CACHE_DIR", str(cache))
    with files_at_most(200):
        code = main(command(inputs, out))
    printed = capsys.readouterr().err
    warned = [line for line in printed.splitlines() if line.startswith("warning: nothing is kept in the cache")]
    assert warned == [NOT_KEPT.format(cache / "kernels", "File too large")] * (name == "build"), printed
    assert (code, len(errors(printed))) == (2, 1), printed
    assert errors(printed)[0].startswith("error: cannot write "), printed
    assert out.read_text() == "old"
    assert {path for path in files(out.parent) if not path.endswith(".partial.jsonl")} == {out.name}


def test_a_disk_that_is_full_under_lines_leaves_those_that_were_written(inputs, tmp_path, capsys):
    command = ["detect", inputs / "model.onnx", inputs / "images", "--threads", "1", "--jsonl"]
    assert main([*command, str(tmp_path / "whole.jsonl")]) == 0
    capsys.readouterr()
    with files_at_most(10_000):
        assert main([*command, str(tmp_path / "r.jsonl")]) == 2
    assert errors(capsys.readouterr().err) == [f"error: cannot write {tmp_path / 'r.jsonl'}: File too large"]
    whole, written = ((tmp_path / name).read_bytes() for name in ("whole.jsonl", "r.jsonl"))
    assert len(whole) > len(written) == 10_000
    assert whole.startswith(written)


TMPFS = """
mount -t tmpfs -o size=1m tmpfs "$1" || exit 99
printf old > "$1/r.json"
"$2" -m frcnn detect "$3" "$4" --threads 1 --json "$1/r.json" --jsonl "$1/r.jsonl" -o "$1/copies"
echo "$?"; cat "$1/r.json"; echo; ls -A "$1" "$1/copies"; echo; cat "$1/r.jsonl"
"""


def test_a_small_file_system_that_fills_up(inputs, tmp_path):
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare: a file system cannot be mounted for a test alone")
    for namespace in ("-m", "-rm"):
        command = ["unshare", namespace, "sh", "-c", TMPFS, "sh", str(tmp_path), sys.executable]
        ended = subprocess.run(
            [*command, inputs / "model.onnx", inputs / "images"], env=environment(), capture_output=True, text=True
        )
        if ended.returncode == 0:
            break
    else:
        pytest.skip(f"a file system cannot be mounted here: {' '.join(ended.stderr.split())}")
    code, kept, *rest = ended.stdout[: ended.stdout.rindex("\n")].splitlines()
    assert (code, kept) == ("2", "old"), ended.stdout
    assert len(errors(ended.stderr)) == 1 and "No space left on device" in errors(ended.stderr)[0], ended.stderr
    reported = [Path(json.loads(line)["file_name"]).name for line in rest if line.startswith("{")]
    copies = [name for name in rest if name.endswith(".png")]
    assert reported and reported == copies[: len(reported)]  # what is reported is there
    assert len(copies) <= len(reported) + 1
    assert not [name for name in rest if ".tmp." in name], rest


MANY = """
import contextlib, io, json, os, sys
from frcnn.cli import main
folder, *commands = json.loads(sys.argv[1])
assert not os.access(folder, os.W_OK)
for command in commands:
    with contextlib.redirect_stderr(io.StringIO()) as printed, contextlib.redirect_stdout(io.StringIO()):
        code = main(command)
    print(json.dumps([code, printed.getvalue()]))
"""


def test_a_read_only_folder_is_one_error_before_the_work(inputs, old):
    out = old("o/old")
    commands = [command(inputs, out.with_name(Path(output).name)) for output, command in COMMANDS.values()]
    commands.append(["detect", inputs / "model.onnx", *few(inputs), "--jsonl", str(out.with_name("r.jsonl"))])
    commands.append(["detect", inputs / "model.onnx", *few(inputs), "-o", str(out.with_name("new"))])
    out.parent.chmod(0o555)
    given = json.dumps([str(out.parent), *commands])
    try:
        started = [sys.executable, UNPRIVILEGED, "-c", MANY, given]
        ended = subprocess.run(started, env=environment(), capture_output=True, text=True, check=True)
    finally:
        out.parent.chmod(0o755)
    answers = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(answers) == len(commands)
    for command, (code, printed) in zip(commands, answers, strict=True):
        assert code == 2 and len(errors(printed)) == 1, (command, printed)
        assert errors(printed)[0].startswith(("error: cannot write into the folder", "error: cannot make the folder"))
    assert [path.name for path in out.parent.iterdir()] == ["old"]


@pytest.mark.parametrize("action", ["default", "error"])
def test_without_home_cache_or_temporary_folder_an_artifact_is_built_with_one_warning(action, inputs, tmp_path):
    nowhere = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "TMPDIR"), "/proc/nowhere")
    nowhere = {name: value for name, value in environment(**nowhere).items() if name != "FRCNN_CACHE_DIR"}
    command = ["build", inputs / "model.onnx", "-o", "m.frcnn", "--batch", "1", "--kernel-arch", "sm_86,sm_89"]
    ended = subprocess.run(
        [sys.executable, "-W", action, "-m", "frcnn", *command],
        env=nowhere,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    lines = [line for line in ended.stderr.splitlines() if not line.endswith(" s)") and not line.startswith("next")]
    assert lines == [NOT_KEPT.format("/proc/nowhere/frcnn/kernels", "No such file or directory")]
    open_artifact(tmp_path / "m.frcnn").check_parts()
    assert [path.name for path in tmp_path.iterdir()] == ["m.frcnn"]


def test_without_a_place_for_temporary_files(inputs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", "/proc/nowhere")  # as it is where no place can be written to
    build_it = ["--arch", ARCH, "-o", str(tmp_path / "m.frcnn"), "--batch", "1", "--kernel-arch", "sm_89"]
    assert main(["build", inputs / "tiny.pth", *build_it]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: cannot make a temporary folder: No such file or directory",
        "hint: set TMPDIR to a folder that can be written",
    ]
    assert main(["export", inputs / "tiny.pth", "--arch", ARCH, "-o", str(tmp_path / "m.onnx")]) == 0
    assert main(["detect", inputs / "model.onnx", *few(inputs), "--json", str(tmp_path / "r.json")]) == 0
    assert list(files(tmp_path)) == ["m.onnx", "r.json"]


def test_two_processes_that_build_one_artifact_both_succeed(inputs, tmp_path):
    cache = tmp_path / "cache"
    out = tmp_path / "out" / "m.frcnn"
    command = [sys.executable, "-m", "frcnn", "build", inputs / "model.onnx", "-o", out, "--kernel-arch", "sm_89"]
    two = [
        subprocess.Popen(list(map(str, command)), env=environment(FRCNN_CACHE_DIR=str(cache)), stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    assert [process.communicate(timeout=120) and process.returncode for process in two] == [0, 0]
    open_artifact(out).check_parts()
    assert [path.name for path in out.parent.iterdir()] == ["m.frcnn"]


def test_a_clock_that_goes_backwards_changes_nothing_in_a_cache(tmp_path, monkeypatch):
    now, ticks = time.time(), count()
    monkeypatch.setattr(time, "time", lambda: now - 3600 * next(ticks))
    monkeypatch.setattr(time, "time_ns", lambda: int((now - 3600 * next(ticks)) * 1e9))

    cache = KernelCache(tmp_path)
    cache.write(b"another key", bytes(2500))
    for path in tmp_path.rglob("*"):
        os.utime(path, (now + 10**8, now + 10**8))  # made "later"
    for content in (b"first" * 100, b"second" * 100):
        cache.write(b"key", content)
        assert cache.read(b"key") == content


def test_nothing_is_measured_by_a_clock_that_can_be_set():
    settable = {("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("datetime", "utcnow")}
    rooms = ("src", "exporter", "plugins", "runtime", "benchmarks", "examples")
    sources = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    assert len(sources) > 200
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in settable, f"{path}:{node.lineno}"
