"""The ``frcnn`` command: exit codes, one-line errors, signals, and help without any of a verb's work."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import frcnn
from frcnn.cli import VERBS, Verb, main
from frcnn.errors import did_you_mean, one_line

ROOT = Path(__file__).parent.parent
ENVIRONMENT = dict(os.environ, PYTHONPATH=str(ROOT / "src"), PYTHONUNBUFFERED="1", PYTHONWARNINGS="error")

# A verb for these tests: what it does is its first argument.
FAKE_VERB = '''
"""A stand-in verb."""
import sys, time
from pathlib import Path
from frcnn.errors import FrcnnError, MissingDependencyError, UsageError
from frcnn.files import replacing

def add_arguments(parser):
    parser.add_argument("action")
    parser.add_argument("--output")

def run(arguments):
    action = arguments.action
    if action.isdigit():
        return int(action)
    if action == "error":
        raise UsageError("size: expected 3, got 4", hint="give 3")
    if action == "no-hint":
        raise FrcnnError("nothing to add")
    if action == "missing":
        raise MissingDependencyError("torch", extra="export", why="reading a checkpoint")
    if action == "bug":
        raise RuntimeError("a bug")
    if action == "go-on":
        return ["fake", "1"]
    if action == "print":
        for _ in range(100_000):
            print("a line of text that fills the pipe")
        return 0
    if action == "sleep":
        with replacing(arguments.output) as temporary:
            temporary.write_text("half of it")
            print("started", flush=True)
            time.sleep(30)
        return 0
    raise AssertionError(action)
'''

PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
from frcnn.cli import VERBS, Verb, main
VERBS["fake"] = Verb("fake_verb", "for a test")
sys.exit(main(["fake", *sys.argv[1:]]))
"""


@pytest.fixture
def fake(tmp_path: Path) -> list[str]:
    """The command line of the stand-in verb, in a process of its own."""
    (tmp_path / "fake_verb.py").write_text(FAKE_VERB)
    return [sys.executable, "-c", PROGRAM.format(folder=str(tmp_path))]


def finish(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=60)


@contextmanager
def started(command: list[str], line: str = "") -> Iterator[subprocess.Popen[str]]:
    """Start a command and wait until it prints a line."""
    with subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(line)
        yield process


@pytest.mark.parametrize(
    ("action", "code", "printed"),
    [
        ("0", 0, ""),
        ("1", 1, ""),
        ("go-on", 1, ""),
        ("error", 2, "error: size: expected 3, got 4\nhint: give 3\n"),
        ("no-hint", 2, "error: nothing to add\n"),
        (
            "missing",
            2,
            "error: reading a checkpoint needs the package 'torch', which is not installed\n"
            "hint: pip install 'frcnn[export]'\n",
        ),
    ],
)
def test_a_verb_ends_with_its_code_or_with_one_error_and_a_hint(
    fake: list[str], action: str, code: int, printed: str
) -> None:
    done = finish([*fake, action])
    assert (done.returncode, done.stdout, done.stderr) == (code, "", printed)


def test_a_verb_may_go_on_with_another_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So one room's verb can end with another's without importing it."""
    (tmp_path / "first_verb.py").write_text(
        "def add_arguments(parser): pass\ndef run(arguments): return ['inspect', 'no such file']\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(VERBS, "first", Verb("first_verb", "for a test"))
    assert main(["first"]) == 2
    assert capsys.readouterr().err.startswith("error: no such file: no such file or folder\n")


def test_debug_shows_the_traceback(fake: list[str]) -> None:
    done = finish([*fake, "error", "--debug"])
    assert done.returncode == 2
    assert done.stderr.startswith("Traceback (most recent call last)")
    assert "fake_verb.py" in done.stderr
    assert done.stderr.endswith("error: size: expected 3, got 4\nhint: give 3\n")


def test_an_unexpected_exception_is_reported_as_a_fault_with_code_2(fake: list[str]) -> None:
    done = finish([*fake, "bug"])
    assert done.returncode == 2
    assert done.stderr.startswith("error: unexpected RuntimeError: a bug\nhint: this is a fault of frcnn's")
    assert "Traceback" in finish([*fake, "bug", "--debug"]).stderr


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_ends_it_and_leaves_no_half_written_file(
    fake: list[str], tmp_path: Path, number: signal.Signals, code: int, word: str
) -> None:
    output = tmp_path / "out" / "model.onnx"
    with started([*fake, "sleep", "--output", str(output)], "started") as process:
        assert list(output.parent.iterdir())
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == code
    assert errors == f"{word}\n"
    assert list(output.parent.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes")
def test_a_reader_that_leaves_ends_the_command_quietly(fake: list[str]) -> None:
    with started([*fake, "print"]) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
        process.wait(timeout=20)
    assert (process.returncode, errors) == (141, "")


def test_the_handler_of_sigterm_is_restored(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert main(["inspect", str(tmp_path / "missing.onnx")]) == 2
    assert signal.getsignal(signal.SIGTERM) is before


def test_no_arguments_print_the_verbs_and_are_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: frcnn")
    assert all(f"  {name} " in err and verb.summary in err for name, verb in VERBS.items())
    assert max(map(len, err.splitlines())) <= 80
    listed = re.findall(r"^(\w+):$|^  ([a-z]+)  ", err, re.MULTILINE)
    assert [group for group, _ in listed if group] == ["options", "begin", "make", "run", "prove", "look"]
    assert [verb for _, verb in listed if verb] == list(VERBS)


def test_help_and_version_are_no_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "usage: frcnn" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"frcnn {frcnn.__version__}\n"


@pytest.mark.parametrize("verb", [[], *([name] for name in VERBS)], ids=str)
def test_help_fits_80_columns(
    verb: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*verb, "--help"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_an_unknown_verb_lists_all_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"error: there is no verb 'train'\nhint: there are {', '.join(VERBS)}\nhelp: frcnn --help\n"


@pytest.mark.parametrize(
    ("command", "error", "hint"),
    [
        ("exprot", "there is no verb 'exprot'", "did you mean export?"),
        ("--versoin", "there is no option --versoin", "did you mean --version?"),
        ("compare --imgaes folder", "there is no option --imgaes", "did you mean --images?"),
        ("compare a.pth b.onnx --imgaes=x", "there is no option --imgaes", "did you mean --images?"),
        ("detect a b --xyzzy", "there is no option --xyzzy", ""),
        (
            "detect a b --device gpu",
            "--device: expected one of cpu, cuda, got gpu",
            "",
        ),
        (
            "detect a b --provider openvno",
            "--provider: expected one of cpu, cuda, tensorrt, openvino, tuned, got openvno",
            "did you mean openvino?",
        ),
        ("completion bsh", "shell: expected one of bash, zsh, fish, got bsh", "did you mean bash?"),
        (
            "unpack model.frcnn",
            "the following arguments are required: -o/--output",
            "for instance: frcnn unpack model.frcnn -o model/",
        ),
        ("detect a b --score", "--score: expected one argument", ""),
        ("doctor there", "unrecognized arguments: there", ""),
    ],
)
def test_a_usage_error_is_one_line_a_hint_and_where_to_read_on(
    command: str, error: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = command.split()
    assert main(words) == 2
    out, err = capsys.readouterr()
    program = "frcnn" if len(words) == 1 else f"frcnn {words[0]}"
    first, *middle, last = err.splitlines()
    assert (out, first, last) == ("", f"error: {error}", f"help: {program} --help")
    shown = [line for line in middle if not line.startswith("hint: for instance") or hint.startswith("for instance")]
    assert shown == ([f"hint: {hint}"] if hint else [])


@pytest.mark.parametrize(
    ("wanted", "known", "hint"),
    [
        ("persn", ["person", "parson bird"], "did you mean person?"),
        ("Person", ["car", "person"], "did you mean person?"),
        (
            "fasterrcnn_resnet50",
            ["fasterrcnn_vgg16", "fasterrcnn_resnet50_fpn"],
            "did you mean fasterrcnn_resnet50_fpn?",
        ),
        ("gpu", ["cpu", "cuda"], "known: cpu, cuda"),
        ("zebra", ["person", "car"], "known: person, car"),
        ("zebra", [], "known: "),
        (90, [900, 4], "did you mean 900?"),
    ],
)
def test_what_is_spelt_most_alike_is_proposed(wanted: object, known: list[object], hint: str) -> None:
    assert did_you_mean(wanted, known, f"known: {', '.join(map(str, known))}") == hint


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (FileNotFoundError(2, "No such file or directory", "a.onnx"), "No such file or directory"),
        (OSError("Error reading bytes\n  from the bucket"), "Error reading bytes from the bucket"),
        (RuntimeError(" "), "RuntimeError"),
        (ValueError("x" * 1000), "x" * 300),
    ],
)
def test_what_a_library_says_is_quoted_on_one_short_line(error: Exception, text: str) -> None:
    assert one_line(error) == text


@pytest.mark.parametrize(("alias", "verb"), [("predict", "detect"), ("val", "eval")])
def test_names_of_ultralytics_are_accepted(alias: str, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([alias, "--help"]) == 0
    of_alias = capsys.readouterr().out
    assert main([verb, "--help"]) == 0
    assert capsys.readouterr().out == of_alias
    assert of_alias.rstrip().endswith(f"'frcnn {alias}' is the same.")
    assert main(["--help"]) == 0
    assert f"(or: {alias})" in capsys.readouterr().out and alias not in VERBS


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_an_unknown_option_is_a_usage_error_and_names_it(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--no-such-option"]) == 2
    assert capsys.readouterr().err.startswith("error: there is no option --no-such-option\n")


def test_an_option_is_never_guessed_from_its_beginning(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "a.pth", "--prec", "fp16"]) == 2
    assert "--prec" in capsys.readouterr().err


def test_the_command_ends_without_a_last_collection() -> None:
    program = "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count() > 0)); from frcnn.cli import main"
    assert finish([sys.executable, "-c", f"{program}; main(['nothing'])"]).stdout == "True\n"


def test_the_module_is_the_command() -> None:
    done = finish([sys.executable, "-m", "frcnn", "--version"])
    assert (done.returncode, done.stdout) == (0, f"frcnn {frcnn.__version__}\n")
    assert finish([sys.executable, "-m", "frcnn"]).returncode == 2


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_while_the_verb_is_imported(fake: list[str], tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "fake_verb.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(30)\n")
    with started([*fake, "0"], "importing") as process:
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    expected = {signal.SIGINT: (130, "interrupted\n"), signal.SIGTERM: (143, "terminated\n")}
    assert (process.returncode, errors) == expected[number]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    ("arguments", "buffered"),
    [
        (["inspect", "MODEL"], True),
        (["inspect", "MODEL"], False),
        (["doctor"], True),
        (["doctor"], False),
        (["--help"], True),  # argparse ignores a write that fails, so that what is not buffered is lost in silence
    ],
)
def test_a_full_standard_output_is_one_error(tiny_model: Path, arguments: list[str], buffered: bool) -> None:
    """Whether Python notices when it prints, or only when it brings out what was printed."""
    given = [str(tiny_model) if argument == "MODEL" else argument for argument in arguments]
    command = [sys.executable, *([] if buffered else ["-u"]), "-m", "frcnn", *given]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, env=environment, stdout=full, stderr=subprocess.PIPE, text=True)
    lines = ended.stderr.splitlines()
    assert ended.returncode == 2, lines
    assert [line for line in lines if line.startswith(("error: ", "hint: ", "Traceback"))] == [
        "error: cannot write standard output: No space left on device",
        "hint: send it elsewhere, or name a file",
    ]
