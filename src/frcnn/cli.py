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
import importlib
import logging
import os
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from types import FrameType
from typing import Final, NamedTuple, NoReturn

from frcnn._version import __version__
from frcnn.errors import FrcnnError, OutputError, printable
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
    "build": Verb("frcnn.exporter.commands.build", "turn model.onnx or a checkpoint into one artifact for a GPU"),
    "quantize": Verb(
        "frcnn.benchmarks.commands.quantize", "turn a float32 model.onnx into an int8 one whose accuracy holds"
    ),
    "detect": Verb("frcnn.runtime.commands.detect", "find objects in images, folders and videos"),
    "compare": Verb("frcnn.benchmarks.commands.compare", "check a model against its checkpoint run by torchvision"),
    "bench": Verb(
        "frcnn.benchmarks.commands.bench", "measure speed against eager torchvision, as a table, JSON and a report"
    ),
    "eval": Verb("frcnn.benchmarks.commands.eval", "COCO mAP of a model, and the difference to eager torchvision"),
    "tune": Verb("frcnn.benchmarks.commands.tune", "find what runs a model fastest on this processor, and remember it"),
    "profile": Verb("frcnn.benchmarks.commands.profile", "time per stage and per layer"),
    "inspect": Verb("frcnn.runtime.commands.inspect", "show what is in a model file"),
    "unpack": Verb("frcnn.runtime.commands.unpack", "write the engines in an artifact as files of their own"),
    "doctor": Verb("frcnn.runtime.commands.doctor", "show what this system can run and what is missing"),
}


class Terminated(BaseException):
    """SIGTERM arrived; unwinds like KeyboardInterrupt so that half-written files are removed."""


def _on_sigterm(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated


def _overview_parser() -> argparse.ArgumentParser:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items())
    parser = argparse.ArgumentParser(
        prog="frcnn",
        description="Make a trained torchvision Faster R-CNN fast and deployable.",
        epilog=f"verbs:\n{verbs}\n\n'frcnn VERB --help' explains a verb.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"frcnn {__version__}")
    parser.add_argument("verb", metavar="VERB", choices=list(VERBS), help="one of the verbs below")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code; ``argv`` are the arguments after the program's name."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    previous = signal.signal(signal.SIGTERM, _on_sigterm)
    show_before, warnings.showwarning = warnings.showwarning, _print_warning
    handler = _WarningHandler()
    LOGGER.addHandler(handler)
    keep_to_share()
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
    name = str(overview.parse_args(arguments[:1]).verb)
    verb = importlib.import_module(VERBS[name].module)
    from frcnn.console import show_all_columns

    parser = argparse.ArgumentParser(prog=f"frcnn {name}", description=verb.__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--wide", action="store_true", help="show every column of a table on a narrow terminal, too")
    verb.add_arguments(parser)
    given = argparse.Namespace(command=shlex.join(["frcnn", *arguments]))
    warnings.filterwarnings("ignore", module=r"PIL\.")  # images that cannot be used are reported by us
    try:
        # options may stand between positional arguments
        options = parser.parse_intermixed_args(arguments[1:], given)
        show_all_columns(options.wide)
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
