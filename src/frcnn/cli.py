"""The ``frcnn`` command: one verb each for what users do.

A verb is a module with ``add_arguments(parser)`` and ``run(arguments) -> exit code``. It is imported only when it
is asked for, and imports heavy packages only inside ``run``, so that every ``--help`` works in a bare environment.

Exit codes: 0 all done; 1 disagreement, regression or some inputs skipped (named); 2 usage or unusable input;
130 interrupted (Ctrl-C); 143 terminated.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Final, NamedTuple, NoReturn

from frcnn._version import __version__
from frcnn.errors import FrcnnError

__all__ = ["VERBS", "main"]

EXIT_OK: Final = 0
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130
EXIT_TERMINATED: Final = 143


class Verb(NamedTuple):
    """Where a verb lives and what it is for."""

    module: str
    summary: str


VERBS: Final[dict[str, Verb]] = {
    "export": Verb("frcnn.exporter.commands.export", "turn a checkpoint into model.onnx"),
    "detect": Verb("frcnn.runtime.commands.detect", "find objects in pictures, folders and videos"),
    "compare": Verb("frcnn.benchmarks.commands.compare", "check a model against its checkpoint run by torchvision"),
    "inspect": Verb("frcnn.runtime.commands.inspect", "show what is in a model file"),
    "doctor": Verb("frcnn.runtime.commands.doctor", "say what this machine can run and what is missing"),
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
    """Run one verb and return its exit code.

    Args:
        argv: the arguments after the program's name; those of the process by default.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    overview = _overview_parser()
    if not arguments:
        overview.print_help(sys.stderr)
        return EXIT_USAGE
    try:
        name = str(overview.parse_args(arguments[:1]).verb)
        verb = importlib.import_module(VERBS[name].module)
        parser = argparse.ArgumentParser(prog=f"frcnn {name}", description=verb.__doc__, allow_abbrev=False)
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
        verb.add_arguments(parser)
        options = parser.parse_args(arguments[1:])
    except SystemExit as stop:  # argparse: --help is 0, a usage error is 2
        return stop.code if isinstance(stop.code, int) else EXIT_USAGE
    except KeyboardInterrupt:  # while the verb's module is imported
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    return _run(verb.run, options)


def _run(run: object, options: argparse.Namespace) -> int:
    assert callable(run)
    previous = signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        code = int(run(options))
        sys.stdout.flush()
        return code
    except FrcnnError as error:
        if options.debug:
            traceback.print_exc()
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Terminated:
        print("terminated", file=sys.stderr)
        return EXIT_TERMINATED
    except BrokenPipeError:  # the reader of our standard output went away: `frcnn inspect ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    finally:
        signal.signal(signal.SIGTERM, previous)
