"""AP of the demo's models in every provider and precision: ``benchmarks/results/int8-demo.json``.

The scenes are others than those that the int8 model was made with. What this system cannot run is left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import msgspec

from frcnn.benchmarks.timing.environment import now, read_environment
from frcnn.cli import main as frcnn
from frcnn.console import note
from frcnn.files import writable_folder, write_text
from frcnn.processors import available_cpus
from maintenance.bench_models import DEMO, MODELS, checkpoint_of, make_int8
from maintenance.committed import AccuracyRow, Evaluation, Measures, ProviderAccuracy, System
from maintenance.int8_models import annotated_scenes

_SEED: Final = 7
_RUNS: Final = (
    {"provider": "cpu", "precision": "fp32"},
    {"provider": "openvino", "precision": "fp32"},
    {"provider": "openvino", "precision": "bf16"},
    {"provider": "cpu", "precision": "int8"},
    {"provider": "openvino", "precision": "int8", "rest": "fp32"},
    {"provider": "openvino", "precision": "int8", "rest": "bf16"},
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the file to write")
    parser.add_argument("--folder", type=Path, default=Path("out/bench"), help="of models (default: %(default)s)")
    parser.add_argument("--count", type=int, default=400, help="scenes (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    folder, model = writable_folder(chosen.folder), MODELS["demo"]
    scenes = annotated_scenes(folder / f"scenes-{_SEED}-{chosen.count}", DEMO, count=chosen.count, seed=_SEED)
    float32, int8 = make_int8(folder, model)
    rows: list[AccuracyRow] = []
    for run in _RUNS:
        row = msgspec.convert(run | {"ap": 0.0, "images": 0}, AccuracyRow)
        options = ["--provider", row.provider]
        if row.provider == "openvino":
            options += ["--precision", row.rest if row.precision == "int8" else row.precision]
        if not rows:
            options += ["--checkpoint", str(checkpoint_of(folder, model)), "--arch", model.arch]
        found = _evaluate(int8 if row.precision == "int8" else float32, scenes, options)
        if found is None:
            note(f"left out: {run}")
            continue
        if not rows:
            rows.append(_row({"provider": "eager", "precision": "fp32"}, found.eager, found.images))
        rows.append(_row(run, found, found.images))
    result = ProviderAccuracy(
        checkpoint=checkpoint_of(folder, model).name, environment=_system(chosen.count), rows=tuple(rows)
    )
    write_text(chosen.output, msgspec.json.format(msgspec.json.encode(result), indent=1).decode() + "\n")
    return 0


def _evaluate(model: Path, scenes: Path, options: Sequence[str]) -> Evaluation | None:
    """Return what ``frcnn eval`` finds; None where it does not run."""
    with TemporaryDirectory() as folder:
        report = Path(folder) / "eval.json"
        where = ["--annotations", str(scenes / "instances.json"), "--images", str(scenes / "images")]
        if frcnn(["eval", str(model), *where, *options, "--json", str(report)]):
            return None
        return msgspec.json.decode(report.read_bytes(), type=Evaluation)


def _row(run: dict[str, str], measures: Measures | None, images: int) -> AccuracyRow:
    assert measures is not None and measures.AP is not None
    return msgspec.convert(run | {"ap": measures.AP, "images": images}, AccuracyRow)


def _system(count: int) -> System:
    command = f"python -m maintenance.provider_accuracy --count {count} -o benchmarks/results/int8-demo.json"
    threads = available_cpus()
    found = read_environment(command=command, threads=threads, load_before=None, date=now(), gpu=None)
    return System(
        cpu=found.cpu,
        threads=threads,
        versions=found.packages | {"frcnn": found.frcnn, "python": found.python},
        command=command,
        date=found.date,
    )


if __name__ == "__main__":
    sys.exit(main())
