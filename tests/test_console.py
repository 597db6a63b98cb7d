"""What the verbs print, and where."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from frcnn import console
from frcnn.console import note, say, show_table, spinner, track, warn


def test_results_go_to_standard_output_and_remarks_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    say("a result")
    note("a remark")
    warn("a doubt")
    assert capsys.readouterr() == ("a result\n", "a remark\nwarning: a doubt\n")


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


def test_progress_is_silent_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(iter("abc"), total=3, what="reading")) == ["a", "b", "c"]
    with spinner("working"):
        pass
    assert capsys.readouterr() == ("", "")


def test_progress_passes_an_error_on() -> None:
    with pytest.raises(ZeroDivisionError):
        list(track((1 / n for n in (1, 0)), total=None, what="dividing"))


def test_a_progress_bar_is_silent_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress_bar("building") as report:
        report("the first half", 0.5)
        report("done", 1.0)
    assert capsys.readouterr() == ("", "")


def test_a_progress_bar_says_what_goes_on_and_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=80, color_system=None)
    monkeypatch.setattr(console, "_console", lambda *, stderr: terminal)
    with console.progress_bar("building") as report:
        report("engine 1 of 4", 0.25)
    assert "engine 1 of 4" in screen.getvalue()
    assert "25%" in screen.getvalue()
