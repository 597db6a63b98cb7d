"""What the verbs print, and where."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.cells import cell_len
from rich.console import Console
from support.terminal import Shown, laid_out

from frcnn import console
from frcnn.console import few, next_step, note, say, show_table, steps, track, warn, write_json


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
    assert any(line.endswith("        1") for line in lines)


def test_progress_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(iter("abc"), total=3, what="reading")) == ["a", "b", "c"]
    with steps(log=False) as step:
        step("working")
        step("done", 1.0)
    assert capsys.readouterr() == ("", "")


def test_progress_passes_an_error_on() -> None:
    with pytest.raises(ZeroDivisionError):
        list(track((1 / n for n in (1, 0)), total=None, what="dividing"))


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a terminal of 80 columns gets."""
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=80, color_system=None)
    monkeypatch.setattr(console, "_console", lambda *, stderr: terminal)
    return screen


def test_a_terminal_shows_the_steps_and_the_share_that_is_done(screen: io.StringIO) -> None:
    with steps() as step:
        step("tracing [bold]")
        step("engine 1 of 4", 0.25)
        step("engine 2 of 4", 0.5)
        shown = step._shown
        assert [task.description for task in shown.tasks] == ["tracing [bold]", "engine 2 of 4"]
        assert [task.finished for task in shown.tasks] == [True, False]
    text = screen.getvalue()
    assert all(part in text for part in ("tracing [bold]", "engine 2 of 4", "50%", "0:00:00"))


def test_a_terminal_shows_no_more_steps_than_fit(screen: io.StringIO) -> None:
    with steps() as step:
        for number in range(30):
            step(f"step {number}")
        visible = [task.description for task in step._shown.tasks if task.visible]
    assert visible == [f"step {number}" for number in range(24, 30)]


def test_of_a_long_step_the_name_is_cut_and_not_the_time(screen: io.StringIO) -> None:
    with steps() as step:
        step(f"reading {'x' * 100}.pth")
        step(f"loading {'y' * 100}", 0.5)
    lines = [line for line in screen.getvalue().splitlines() if "50%" in line]
    assert lines and all("\u2026" in line and line.rstrip().endswith("0:00:00") for line in lines)


def test_what_is_printed_while_a_terminal_shows_steps_stands_above_them(screen: io.StringIO) -> None:
    with steps() as step:
        step("tracing")
        warn("a doubt")
    lines = [line.rpartition("\x1b[2K")[2] for line in screen.getvalue().splitlines()]
    assert "warning: a doubt" in lines


def test_elsewhere_each_step_of_a_second_or_more_leaves_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    times = iter((9.0, 10.0, 12.4, 12.4, 15.6, 15.6, 16.5, 16.5, 17.5))
    monkeypatch.setattr(console.time, "monotonic", lambda: next(times))
    with steps() as step:
        step("reading a\x1b[2J.pth")
        step("tracing the backbone network")
        assert capsys.readouterr().err == "reading a\\x1b[2J.pth (2.4 s)\n"
        step("joining")
        step("compiling kernels", 0.0)
        step("compiling kernels", 0.5)
    assert capsys.readouterr().err == "tracing the backbone network (3.2 s)\ncompiling kernels (1.0 s)\n"


def test_a_step_that_fails_leaves_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with steps() as step:
            step("reading")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert capsys.readouterr() == ("", "")


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
    assert lines[-2] == f"{text} |    1"
    assert len(set(map(len, lines[2:-1]))) == 1


def test_json_keeps_names_that_are_not_utf8(tmp_path: Path) -> None:
    write_json({"name": "n\udce9.jpg", "worst": float("-inf")}, str(tmp_path / "a.json"))
    assert json.loads((tmp_path / "a.json").read_text()) == {"name": "n\udce9.jpg", "worst": None}


# tables


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch):
    """Lay a table out for a terminal."""
    return lambda table, width=80: laid_out(table, width, monkeypatch)


NUMBERS = [f"column {i}" for i in range(12)]


def test_columns_that_do_not_fit_are_named(terminal, monkeypatch) -> None:
    table = Shown("t", ["image", *NUMBERS], [["a.jpg", *(f"{i}23.4567" for i in range(12))]], {})
    lines = terminal(table)
    shown = [i for i in range(12) if any(f"{i}23.4567" in line for line in lines)]
    assert shown == list(range(len(shown))) and 5 <= len(shown) < 12
    text = " ".join(map(str.strip, lines))
    assert f"not shown: {', '.join(NUMBERS[len(shown) :])} (--wide shows all columns)" in text
    assert max(map(cell_len, lines)) <= 80
    assert not any("not shown" in line for line in terminal(table, 200))
    monkeypatch.setattr(console, "is_wide", True)
    assert sum(line.startswith("a.jpg") for line in terminal(table)) == 2
    assert all(any(f"{i}23.4567" in line for line in terminal(table)) for i in range(12))


@pytest.mark.parametrize(
    "name",
    ["a" * 30 + "/" + "b" * 90 + "/00017.jpg", "写真" * 40 + "/猫.jpg", "e\u0301" * 90 + ".jpg"],
    ids=("ascii", "double width", "combining"),
)
def test_a_long_name_loses_its_middle_on_a_terminal_only(name: str, terminal) -> None:
    table = Shown("t", ["image", "boxes"], [[name, "123456789"], ["b.jpg", "2"]], {})
    lines = terminal(table)
    assert max(map(cell_len, lines)) <= 80
    (line,) = (line for line in lines if "123456789" in line)
    head, tail = line.split()[0].split("…")
    assert name.startswith(head) and name.endswith(tail) and tail.endswith(".jpg") and len(head) >= 10
    assert name in "".join(line.removesuffix("123456789").rstrip() for line in terminal(table, None)), (
        "a file has it whole"
    )


def test_names_that_would_read_the_same_are_kept_whole(terminal) -> None:
    names = [f"{'a' * 60}{i}{'b' * 120}.jpg" for i in range(2)]
    lines = terminal(Shown("t", ["image", "boxes"], [[name, "1"] for name in names], {}))
    assert max(map(cell_len, lines)) <= 80 and not any("…" in line for line in lines)
    for name in names:
        assert name in "".join(line[:74].strip() for line in lines)


def test_text_is_folded_between_words(terminal) -> None:
    rows = [["one", "pip install 'frcnn[gpu]' and a driver of NVIDIA's " * 3, "what for"]]
    lines = terminal(Shown("t", ["what", "how", "for"], rows, {"text_columns": range(3)}), 60)
    assert max(map(cell_len, lines)) <= 60 and "'frcnn[gpu]'" in "\n".join(lines)


def test_a_terminal_folds_lines_between_words_but_not_what_is_copied(capsys, monkeypatch) -> None:
    line, whole = "  anchors: " + "sizes of boxes " * 6, "word " * 20 + "end"
    say(line)
    assert capsys.readouterr().out == f"{line}\n", "a file has lines as they are"
    monkeypatch.setattr(console, "_console", lambda *, stderr: Console(width=40, force_terminal=True))
    say(line)
    note(whole)
    out, err = (text.splitlines() for text in capsys.readouterr())
    assert " ".join(map(str.strip, out)) == line.strip() and " ".join(map(str.strip, err)) == whole
    assert len(out) > 2 and max(map(len, out + err)) <= 40
    assert all(part.startswith("    ") for part in out[1:])
    say(whole, exact=True)
    next_step("detect", *whole.split())
    assert capsys.readouterr() == (f"{whole}\n", f"next: frcnn detect {whole}\n")


def test_next_step_quotes_and_follows_what_is_printed(capsys) -> None:
    say("a result")
    next_step("detect", Path("-odd name.onnx"), *few(["no such file"]), where=", on its GPU")
    assert capsys.readouterr() == ("a result\n", "next, on its GPU: frcnn detect './-odd name.onnx' IMAGES\n")


def test_few_images_are_named_and_many_are_not(tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.png" for i in range(4)]
    for file in files:
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file)
    assert few(files[:3]) == files[:3]
    assert few([tmp_path]) == [tmp_path]
    for images in (files, None, [], [tmp_path / "missing.png"], ["rtsp://camera"]):
        assert few(images) == ["IMAGES"]
