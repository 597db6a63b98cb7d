"""Show what this system can run, what is missing, and how to get it.

The exit code is 0 where at least detection on the CPU works, else 1. What is missing besides is only needed for what
the table says.
"""

from __future__ import annotations

import argparse
from typing import Final

from frcnn import __version__
from frcnn.console import next_step, say, show_table, write_json

_EXIT_CANNOT_DETECT: Final = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``frcnn doctor``."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(arguments: argparse.Namespace) -> int:
    """Run ``frcnn doctor``."""
    from frcnn.runtime.doctor.system import can_detect, look_around

    findings = look_around()
    works = can_detect(findings)
    if arguments.json:
        report = {"frcnn": __version__, "can_detect": works, "findings": findings}
        write_json(report)
    else:
        rows = [(i.name, i.status, "; ".join(filter(None, (i.detail, i.fix))), i.purpose) for i in findings]
        show_table(
            f"frcnn {__version__}", ("what", "status", "found, or how to get it", "for"), rows, text_columns=range(4)
        )
        missing = ", ".join(item.name for item in findings if item.essential and item.status != "ok")
        say("detection works here" if works else f"detection does not work here: {missing}")
    if works:
        has_torch = any(item.name == "torch" and item.status == "ok" for item in findings)
        next_step(*(["try"] if has_torch else ["detect", "MODEL", "IMAGES"]))
    return 0 if works else _EXIT_CANNOT_DETECT
