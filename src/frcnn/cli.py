"""The ``frcnn`` command: one verb each for what users do.

A verb is a module with ``add_arguments(parser)`` and ``run(arguments)``, which returns an exit code, or the verb and
arguments to go on with. ``arguments.command`` is the whole command line, for results that state how they were made. A
verb is imported only when it is asked for, and imports heavy packages only inside ``run``, so that every ``--help``
works in a bare environment.

Exit codes: 0 all done; 1 disagreement, regression or some inputs skipped (named); 2 usage or unusable input;
130 interrupted (Ctrl-C); 141 the reader of standard output left; 143 terminated.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import importlib
import logging
import os
import re
import shlex
import signal
import sys
import textwrap
import traceback
import warnings
from collections.abc import Sequence
from itertools import takewhile
from types import FrameType, ModuleType
from typing import Final, NamedTuple, NoReturn

from frcnn._version import __version__
from frcnn.errors import FrcnnError, OutputError, UsageError, did_you_mean, printable
from frcnn.files import standard_output
from frcnn.log import LOGGER
from frcnn.processors import keep_to_share

__all__ = ["VERBS", "main"]

EXIT_USAGE, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE, EXIT_TERMINATED = 2, 130, 141, 143


class Verb(NamedTuple):
    """The module of a verb, and what it does."""

    module: str
    summary: str


VERBS: Final[dict[str, Verb]] = {
    "try": Verb("frcnn.benchmarks.commands.try_", "try a checkpoint, or a bundled one: export, compare, measure, look"),
    "export": Verb("frcnn.exporter.commands.export", "turn a checkpoint into model.onnx"),
    "quantize": Verb("frcnn.benchmarks.commands.quantize", "turn model.onnx into an int8 one whose accuracy holds"),
    "build": Verb("frcnn.exporter.commands.build", "turn model.onnx or a checkpoint into one artifact for a GPU"),
    "triton": Verb("frcnn.runtime.commands.triton", "write a model repository for NVIDIA's Triton"),
    "detect": Verb("frcnn.runtime.commands.detect", "find objects in images, videos, folders and streams"),
    "tune": Verb("frcnn.benchmarks.commands.tune", "find what runs a model fastest on this processor, and remember it"),
    "compare": Verb("frcnn.benchmarks.commands.compare", "check a model against its checkpoint run by torchvision"),
    "bench": Verb("frcnn.benchmarks.commands.bench", "measure speed against eager torchvision: table, JSON and report"),
    "eval": Verb("frcnn.benchmarks.commands.eval", "COCO mAP of a model, and its difference to torchvision"),
    "profile": Verb("frcnn.benchmarks.commands.profile", "time per stage and per layer"),
    "inspect": Verb("frcnn.runtime.commands.inspect", "show what is in a model file"),
    "doctor": Verb("frcnn.runtime.commands.doctor", "show what this system can run and what is missing"),
    "unpack": Verb("frcnn.runtime.commands.unpack", "write the engines in an artifact as files of their own"),
    "completion": Verb("frcnn.completion", "let the Tab key complete frcnn in bash, zsh and fish"),
}
_GROUPS: Final = {
    "begin": ("try",),
    "make": ("export", "quantize", "build", "triton"),
    "run": ("detect", "tune"),
    "prove": ("compare", "bench", "eval", "profile"),
    "look": ("inspect", "doctor", "unpack", "completion"),
}
"""The verbs as the overview shows them."""
ALIASES: Final = {"predict": "detect", "val": "eval"}
"""What people who come from ultralytics call a verb."""


class Terminated(BaseException):
    """SIGTERM arrived; unwinds like KeyboardInterrupt so that half-written files are removed."""


def _on_sigterm(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Fits paragraphs to the terminal; indented lines, examples and lists, stay as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = [
            part if re.search(r"^ ", part, re.MULTILINE) else textwrap.fill(part, width, break_on_hyphens=False)
            for part in text.split("\n\n")
        ]
        return super()._fill_text("\n\n".join(paragraphs), width, indent)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in our two lines and where the options are listed, in place of all of the usage."""

    def error(self, message: str) -> NoReturn:
        example = next((line for line in (self.description or "").splitlines() if line.startswith("  frcnn ")), "")
        self.refuse(message.removeprefix("argument "), example and f"for instance: {example.strip()}")

    def refuse(self, message: str, hint: str) -> NoReturn:
        """Print an error and leave."""
        _print_error(UsageError(message, hint=hint))
        self.exit(EXIT_USAGE, f"help: {self.prog} --help\n")

    def refuse_unknown(self, words: Sequence[str]) -> None:
        """Refuse an option that there is not: argparse would complain of what else is missing first."""
        for word in takewhile(lambda word: word != "--", words):
            name = word.partition("=")[0]
            if name.startswith("--") and " " not in name and name not in self._option_string_actions:
                self.refuse(f"there is no option {name}", did_you_mean(name, self._option_string_actions))

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            name, known = "/".join(action.option_strings) or action.dest, list(map(str, action.choices))
            self.refuse(f"{name}: expected one of {', '.join(known)}, got {value}", did_you_mean(value, known))


def _overview_parser() -> _Parser:
    width, lines = max(map(len, VERBS)), list[str]()
    called = {verb: f" (or: {alias})" for alias, verb in ALIASES.items()}
    for group, names in _GROUPS.items():
        lines.append(f"{group}:")
        lines += [f"  {name:<{width}}  {VERBS[name].summary}{called.get(name, '')}" for name in names]
    text = "\n".join(lines)
    parser = _Parser(
        prog="frcnn",
        usage="frcnn VERB ...",
        description="Make a trained torchvision Faster R-CNN fast and deployable.",
        epilog=f"{text}\n\n'frcnn VERB --help' explains a verb.",
        formatter_class=_HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"frcnn {__version__}")
    return parser


def add_arguments(parser: argparse.ArgumentParser, name: str) -> ModuleType:
    """Add the arguments of a verb, and return its module."""
    module = importlib.import_module(VERBS[name].module)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--wide", action="store_true", help="show every column of a table on a narrow terminal, too")
    module.add_arguments(parser)
    return module


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code; ``argv`` are the arguments after the program's name."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    previous = signal.signal(signal.SIGTERM, _on_sigterm)
    show_before, warnings.showwarning = warnings.showwarning, _print_warning
    handler = _WarningHandler()
    LOGGER.addHandler(handler)
    keep_to_share()
    atexit.register(gc.freeze)  # else Python looks through PyTorch's millions of objects once more, for seconds
    try:
        return _flushed(_exit_code(arguments))
    finally:
        signal.signal(signal.SIGTERM, previous)
        warnings.showwarning = show_before
        LOGGER.removeHandler(handler)


def _exit_code(arguments: list[str]) -> int:
    try:
        return _run(arguments)
    except SystemExit as stop:  # argparse: --help is 0, a usage error is 2
        return stop.code if isinstance(stop.code, int) else EXIT_USAGE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Terminated:
        print("terminated", file=sys.stderr)
        return EXIT_TERMINATED
    except BrokenPipeError:  # the reader of our standard output went away: `frcnn inspect ... | head`
        return EXIT_BROKEN_PIPE


def _flushed(code: int) -> int:
    """Flush standard output and return the exit code: another one where that fails.

    It is then replaced, since Python flushes it again at its end and would fail with a traceback.
    """
    try:
        with standard_output():
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        code = EXIT_BROKEN_PIPE
    except OutputError as error:
        if code != EXIT_USAGE:  # else an error is already printed
            _print_error(error)
        code = EXIT_USAGE
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


class _WarningHandler(logging.Handler):
    """Prints what is logged as a warning is printed, to the standard error of that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            _print_warning(record.getMessage())
        except Exception:
            self.handleError(record)


def _print_warning(message: Warning | str, *_details: object, **_more: object) -> None:
    """Print a warning on one line, without the place in our code."""
    print(f"warning: {' '.join(str(message).removeprefix('frcnn: ').split())}", file=sys.stderr)


def _run(arguments: list[str]) -> int:
    overview = _overview_parser()
    if not arguments:
        overview.print_help(sys.stderr)
        return EXIT_USAGE
    name = ALIASES.get(arguments[0], arguments[0])
    if name.startswith("-"):
        overview.refuse_unknown(arguments[:1])
        overview.parse_args(arguments[:1])
    if name not in VERBS:
        overview.refuse(f"there is no verb {name!r}", did_you_mean(name, VERBS, f"there are {', '.join(VERBS)}"))
    parser = _Parser(prog=f"frcnn {name}", allow_abbrev=False)
    parser.formatter_class = _HelpFormatter
    verb = add_arguments(parser, name)
    from frcnn import console

    parser.description = verb.__doc__
    parser.epilog = "".join(f"'frcnn {alias}' is the same." for alias, of in ALIASES.items() if of == name)
    if not {"-h", "--help"}.intersection(arguments):
        parser.refuse_unknown(arguments[1:])
    given = argparse.Namespace(command=shlex.join(["frcnn", *arguments]))
    warnings.filterwarnings("ignore", module=r"PIL\.")  # images that cannot be used are reported by us
    try:
        # options may stand between positional arguments
        options = parser.parse_intermixed_args(arguments[1:], given)
        console.is_wide = options.wide
        result: int | list[str] = verb.run(options)
    except BrokenPipeError:
        raise
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        _print_error(error)
        return EXIT_USAGE
    return result if isinstance(result, int) else _run(result)


def _print_error(error: Exception) -> None:
    """Print one line on what is wrong and one on what to do."""
    if isinstance(error, FrcnnError):
        message, hint = "; ".join([error.message, *getattr(error, "__notes__", ())]), error.hint
    else:
        reason = printable(" ".join(str(error).split()))
        message = f"unexpected {type(error).__name__}: {reason}" if reason else f"unexpected {type(error).__name__}"
        hint = "this is a fault of frcnn's; please report it with the output of the same command with --debug"
    print(f"error: {message}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
