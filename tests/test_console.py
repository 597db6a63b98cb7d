"""What the verbs print, and where."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from frcnn import console
from frcnn.console import note, progress_bar, say, show_table, spinner, track, warn, write_json


def test_results_go_to_standard_output_and_notes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    say("a result")
    note("a note")
    warn("a doubt")
    assert capsys.readouterr() == ("a result\n", "a note\nwarning: a doubt\n")


@pytest.mark.parametrize("text", ["[bold]x[/bold]", "[red]", "100 % [done]", "naïve 猫"])
def test_text_is_printed_as_it_is(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(text)
    show_table("names", ("name", "count"), [(text, "1")])
    out = capsys.readouterr().out
    assert out.splitlines()[0] == text
    assert text in out.splitlines()[-2]


def test_a_table_in_a_file_is_wide_and_plain(capsys: pytest.CaptureFixture[str]) -> None:
    show_table("images", ("name", "boxes"), [("a" * 60, "1"), ("b", "1000")])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "a" * 60 in out
    assert max(map(len, out.splitlines())) <= 160


def test_numbers_stand_on_the_right_and_are_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    show_table("t", ("name", "n"), [("x" * 500, "1"), ("y", "123456789")])
    lines = capsys.readouterr().out.splitlines()
    assert any("123456789" in line for line in lines)
    assert any(line.rstrip(" │|").endswith("        1") for line in lines)


def test_progress_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(iter("abc"), total=3, what="reading")) == ["a", "b", "c"]
    with spinner("working"), progress_bar("building") as report:
        report("done", 1.0)
    assert capsys.readouterr() == ("", "")


def test_progress_passes_an_error_on() -> None:
    with pytest.raises(ZeroDivisionError):
        list(track((1 / n for n in (1, 0)), total=None, what="dividing"))


def test_a_progress_bar_shows_the_step_and_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=80, color_system=None)
    monkeypatch.setattr(console, "_console", lambda *, stderr: terminal)
    with progress_bar("building") as report:
        report("engine 1 of 4", 0.25)
    assert "engine 1 of 4" in screen.getvalue()
    assert "25%" in screen.getvalue()


@pytest.mark.parametrize("to_file", [True, False])
def test_json_is_valid_ascii_without_nan(to_file: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = {"name": "caf\u00e9 \x9b2J\u202e", "size": (1, 2), "missing": float("nan")}
    target = tmp_path / "deep" / "a.json"
    write_json(document, *([str(target)] if to_file else []))
    text = target.read_text() if to_file else capsys.readouterr().out
    assert text.isascii() and text.endswith("}\n")
    assert json.loads(text) == {"name": document["name"], "size": [1, 2], "missing": None}


@pytest.mark.parametrize(("encoding", "text"), [("cp1252", "n\u00e4ive \\u732b"), ("ascii", "n\\xe4ive \\u732b")])
def test_what_an_encoding_lacks_is_printed_as_an_escape(
    encoding: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", screen)
    say("n\u00e4ive \u732b")
    show_table("n\u00e4ive \u732b", ("name", "count"), [("n\u00e4ive \u732b", "1")])
    screen.flush()
    lines = screen.buffer.getvalue().decode(encoding).splitlines()
    assert lines[0] == lines[1].rstrip() == text
    assert f"| {text} | " in lines[-2]
    assert len(set(map(len, lines[2:]))) == 1


def test_json_keeps_names_that_are_not_utf8(tmp_path: Path) -> None:
    write_json({"name": "n\udce9.jpg", "worst": float("-inf")}, str(tmp_path / "a.json"))
    assert json.loads((tmp_path / "a.json").read_text()) == {"name": "n\udce9.jpg", "worst": None}
