"""Cases of a measurement: each in a process of its own, with a limit of its own, its figures kept as they come.

A run that was stopped goes on where it was: cases that passed are not run again.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from frcnn.benchmarks.timing.measure import Limits
from frcnn.errors import FrcnnError
from frcnn.files import write_text
from maintenance.eager_forms import Call, keep_forms
from maintenance.gpu_session import how_it_ended, run_limited

_LISTS: Final = ("artifacts", "checks", "stages", "parity", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One thing to be shown.

    Attributes:
        name: as ``--only`` takes it.
        shows: what.
        run: measures, and adds to a report.
        limit_s: its process is killed then; twice to three times what it is thought to take.
    """

    name: str
    shows: str
    run: Callable[[Run], None]
    limit_s: int


@dataclass(kw_only=True)
class Run:
    """The report of one case, which is on disk after every addition.

    Attributes:
        path: of the report.
        models: folder of checkpoints, exports, artifacts and images.
        limits: of a measurement of speed.
    """

    path: Path
    models: Path
    limits: Limits
    report: dict[str, Any] = field(default_factory=lambda: {name: [] for name in (*_LISTS, "models")})

    def add(self, kind: str, **entry: Any) -> None:
        """Add to one of the report's lists."""
        self.report[kind].append(entry)
        print(f"{kind}: {json.dumps(entry)[:400]}", flush=True)
        self.write()

    def write(self) -> None:
        """Put the report on disk."""
        write_text(self.path, json.dumps(self.report, indent=1) + "\n")

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Keep a fault as one of the report's failures, and go on."""
        try:
            yield
        except (FrcnnError, RuntimeError, AssertionError, ValueError, TypeError, AttributeError) as error:
            self.add("failed", case=what, error=str(error))

    def keep(self, model: str, batch: int, what: str, forms: Mapping[str, Call]) -> None:
        """Time forms in interleaved rounds."""
        keep_forms(self.path, self.report, _model_of(self.report, model), batch, what, forms, self.limits)


def run_cases(
    cases: Sequence[Case], path: Path, begins: Mapping[str, Any], *, module: str, options: Sequence[str]
) -> bool:
    """Run the cases that have not passed yet and merge what each has left; return whether all of the report's passed.

    Args:
        cases: in order.
        path: of the report, which is written after each case.
        begins: what the report says besides.
        module: is run for each case with ``--case NAME -o FILE`` and the options.
        options: of the module.
    """
    report: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    report |= {name: report.get(name, []) for name in ("cases", *_LISTS, "models")} | dict(begins)
    for case in cases:
        if any(entry["case"] == case.name and entry["ended"] == "passed" for entry in report["cases"]):
            continue
        own = path.with_suffix(f".{case.name.replace(' ', '-')}.json")
        own.unlink(missing_ok=True)
        print(f"== {case.name}: {case.shows}", flush=True)
        began = time.monotonic()
        command = [sys.executable, "-m", module, "--case", case.name, "-o", str(own.resolve()), *options]
        status = run_limited(command, case.limit_s)
        ended = how_it_ended(status)
        if own.exists():
            _merge(report, json.loads(own.read_text("utf-8")))
            own.unlink()
        report["cases"] = [entry for entry in report["cases"] if entry["case"] != case.name]
        report["cases"].append({"case": case.name, "ended": ended, "seconds": round(time.monotonic() - began, 1)})
        print(f"{case.name}: {ended}", flush=True)
        write_text(path, json.dumps(report, indent=1) + "\n")
    return all(entry["ended"] == "passed" for entry in report["cases"])


def _merge(report: dict[str, Any], found: Mapping[str, Any]) -> None:
    """Add the lists of a case's report; measurements to those of their model."""
    for name in _LISTS:
        report[name] += found[name]
    for entry in found["models"]:
        _model_of(report, entry["model"])["measurements"] += entry["measurements"]


def _model_of(report: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a report's entry of a model, which is added where it is missing."""
    models: list[dict[str, Any]] = report["models"]
    if not any(entry["model"] == name for entry in models):
        models.append({"model": name, "artifacts": [], "detections": {}, "measurements": []})
    return next(entry for entry in models if entry["model"] == name)
