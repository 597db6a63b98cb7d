"""``frcnn detect`` of streams, addresses, patterns, lists, standard input and folders in folders."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.recordings import record, shown, uneven_times
from support.streams import Live, http_server, jpeg, rtsp_server

from frcnn.cli import main
from frcnn.runtime.results.report import Report

pytestmark = pytest.mark.slow

ImageFile = Callable[..., Path]
Captured = pytest.CaptureFixture[str]


def detect(model: Path, *arguments: object) -> int:
    return main(["detect", str(model), *map(str, arguments), "--threads", "1"])


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def live() -> Iterator[Live]:
    made = Live()
    yield made
    made.ends_after = 0


def test_a_stream_is_detected_for_a_while_and_its_copy_lasts_as_long(
    model_path: Path, live: Live, tmp_path: Path, capsys: Captured
) -> None:
    lines, results, out = tmp_path / "r.jsonl", tmp_path / "r.json", tmp_path / "out"
    with rtsp_server(live) as (host, port):
        address, masked = f"rtsp://me:secret@{host}:{port}/live", f"rtsp://***@{host}:{port}/live"
        outputs = ["--jsonl", lines, "--json", results, "-o", out, "--score", 0]
        assert detect(model_path, address, *outputs, "--duration", 1.5) == 0
    records = lines_of(lines)
    assert {(record["file_name"], record["copy"]) for record in records} == {(masked, str(out / "live.mp4"))}
    assert [record["id"] for record in records] == list(range(1, len(records) + 1))
    frames, times = [record["frame"] for record in records], [record["time_s"] for record in records]
    assert frames == sorted(set(frames)) and times == sorted(set(times))
    assert times[0] == 0 or frames[0] > 0  # time begins with the first frame that came
    assert 1 < times[-1] < 2.5
    written, _ = shown(out / "live.mp4")
    assert written == pytest.approx([time_s - times[0] for time_s in times], abs=1e-3)
    first, last, *_ = (printed := capsys.readouterr().err).splitlines()
    assert first.startswith(f"{masked}: ")
    assert first.endswith(" dropped for newer ones")
    assert last.startswith(f"{len(records)} image(s), ")
    everything = lines.read_text() + results.read_text() + printed
    assert "secret" not in everything and "me:" not in everything


@pytest.mark.parametrize(
    ("number", "code", "reason"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")]
)
def test_a_signal_ends_a_stream_and_its_copy_is_whole(
    model_path: Path, live: Live, tmp_path: Path, number: int, code: int, reason: str
) -> None:
    lines, out = tmp_path / "r.jsonl", tmp_path / "out"
    with http_server({"/live.mjpg": (200, {}, live)}) as site:
        command = [
            sys.executable,
            "-m",
            "frcnn",
            "detect",
            model_path,
            f"{site}/live.mjpg",
            "--jsonl",
            lines,
            "-o",
            out,
        ]
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
        process = subprocess.Popen(list(map(str, command)), env=environment, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while not (lines.is_file() and lines.read_bytes().count(b"\n") >= 5):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        _, printed = process.communicate(timeout=30)
    records = lines_of(lines)
    assert process.returncode == code, printed.decode()
    tally, end = printed.decode().splitlines()
    assert tally.startswith(f"{site}/live.mjpg: ")
    assert end == f"stopped by {reason} after {len(records)} image(s) of 1 input(s)"
    assert len(shown(out / "live.mp4")[0]) == len(records)
    assert [path.name for path in out.iterdir()] == ["live.mp4"]


def test_a_lost_stream_is_named_and_what_came_is_kept(
    model_path: Path, image_file: ImageFile, live: Live, tmp_path: Path, capsys: Captured
) -> None:
    live.ends_after = 20
    lines, out = tmp_path / "r.jsonl", tmp_path / "out"
    with http_server({"/live.mjpg": (200, {}, live)}) as site:
        options = ["--jsonl", lines, "-o", out, "--reconnect", 0]
        assert detect(model_path, f"{site}/live.mjpg", image_file("a.png", 250), *options) == 1
    records = lines_of(lines)
    assert records[-1]["file_name"].endswith("a.png")
    assert [record["id"] for record in records] == list(range(1, len(records) + 1))
    assert len(shown(out / "live.mp4")[0]) == len(records) - 1 > 0
    assert f"skipped: {site}/live.mjpg: lost after 20 frame(s), and not back within 0 s" in capsys.readouterr().err


def test_a_stream_that_changes_its_size_has_a_copy_of_one(model_path: Path, live: Live, tmp_path: Path) -> None:
    live.ends_after = 10
    lines, out = tmp_path / "r.jsonl", tmp_path / "out"
    with http_server({"/live.mjpg": (200, {}, live)}) as site:
        started = live.frames

        def larger_then() -> Any:
            live.size = (96, 64) if live.connections < 2 else (128, 96)
            return started()

        live.frames = larger_then  # type: ignore[method-assign]
        assert detect(model_path, f"{site}/live.mjpg", "--jsonl", lines, "-o", out, "--duration", 2.5) == 0
    records = lines_of(lines)
    assert {record["width"] for record in records} == {96, 128}
    assert len(shown(out / "live.mp4")[0]) == len(records)


@pytest.mark.parametrize("option", ["--jsonl", "--json", "--json-index"])
def test_results_pile_up_only_where_they_are_written_at_the_end(
    option: str,
    model_path: Path,
    image_file: ImageFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    """A camera may run for weeks."""
    kept = []
    add = Report.add

    def noting(self: Report, *arguments: Any, **known: Any) -> None:
        add(self, *arguments, **known)
        kept.append((len(self.images), len(self.results)))

    monkeypatch.setattr(Report, "add", noting)
    assert detect(model_path, image_file("a.png", 250), option, tmp_path / "r", "--score", 0.3) == 0
    assert kept == [(0, 0) if option == "--jsonl" else (1, 2)]
    assert capsys.readouterr().err.startswith("1 image(s), 2 object(s) scoring 0.3 or more")


def test_what_follows_a_stream_without_an_end_is_refused(
    model_path: Path, image_file: ImageFile, capsys: Captured
) -> None:
    assert detect(model_path, "rtsp://me:secret@host/live", image_file("a.png")) == 2
    assert capsys.readouterr().err == (
        "error: rtsp://***@host/live does not end, so what follows would never be read\n"
        "hint: end it with --duration SECONDS\n"
    )


def test_a_camera_that_is_not_there_is_named(model_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert detect(model_path, "97") == 2
    first, *_ = capfd.readouterr().err.splitlines()
    assert first.startswith(
        "skipped: 97: OpenCV cannot open camera 97 (is it connected, and free? cameras under /dev: "
    )


def test_images_and_videos_at_addresses(model_path: Path, tmp_path: Path, capsys: Captured) -> None:
    times = uneven_times(10)
    clip = record(tmp_path / "clip.mp4", times, codec="libx264").read_bytes()
    pages = {
        "/a/photo.jpg?token=secret": (200, {"Content-Type": "image/jpeg"}, jpeg(29)),
        "/b/photo.jpg": (200, {}, jpeg(0)),
        "/clip": (200, {"Content-Type": "video/mp4"}, clip),
        "/broken.png": (200, {"Content-Type": "image/png"}, b"\x89PNG broken"),
    }
    lines, out = tmp_path / "r.jsonl", tmp_path / "out"
    with http_server(pages) as site:
        addresses = [site + path for path in (*pages, "/gone.jpg")]
        assert detect(model_path, *addresses, "-o", out, "--jsonl", lines, "--score", 0) == 1
    records = lines_of(lines)
    ids = [(record["id"], record["file_name"].removeprefix(site), record.get("frame")) for record in records]
    assert ids == [
        (1, "/a/photo.jpg?token=***", None),
        (2, "/b/photo.jpg", None),
        *((3 + index, "/clip", index) for index in range(10)),
    ]
    assert sorted(path.name for path in out.iterdir()) == ["clip.mp4", "photo-2.jpg", "photo.jpg"]
    assert shown(out / "clip.mp4")[0] == pytest.approx(times, abs=2e-3)
    err = capsys.readouterr().err
    assert f"skipped: {site}/broken.png: not an image in a format that Pillow reads" in err
    assert f"skipped: {site}/gone.jpg: cannot be fetched: the server says 404 Not Found" in err
    assert "secret" not in err


def test_an_image_from_standard_input(
    model_path: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(jpeg(29))))
    assert detect(model_path, "-", "--json", "-", "-o", tmp_path / "out") == 0
    captured = capsys.readouterr()
    assert {entry["file_name"] for entry in json.loads(captured.out)} == {"standard input"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["standard-input.png"]


def test_paths_from_standard_input_and_patterns(
    model_path: Path, image_file: ImageFile, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = image_file("x/a.png", 250), image_file("y/b.png", 250)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{two}\n".encode())))
    assert detect(model_path, tmp_path / "x" / "*.png", "-", "--json", "-") == 0
    assert [entry["file_name"] for entry in json.loads(capsys.readouterr().out)] == [str(one), str(two)]


def test_folders_in_folders_keep_their_places_in_the_copies(
    model_path: Path, image_file: ImageFile, tmp_path: Path, capsys: Captured
) -> None:
    for name in ("in/p.jpg", "in/a/p.jpg", "in/a/b/p.png"):
        image_file(name, 250)
    out, lines = tmp_path / "out", tmp_path / "r.jsonl"
    assert detect(model_path, tmp_path / "in", "--recursive", "-o", out, "--jsonl", lines) == 0
    written = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert written == ["a/b/p.png", "a/p.jpg", "p.jpg"]
    assert [record["copy"] for record in lines_of(lines)] == [
        str(out / name) for name in ("p.jpg", "a/p.jpg", "a/b/p.png")
    ]
    assert detect(model_path, tmp_path / "in", "--recursive", "-o", tmp_path / "in") == 2
    assert "is an input and would be overwritten" in capsys.readouterr().err
