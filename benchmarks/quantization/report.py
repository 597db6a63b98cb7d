"""The report of a quantisation: a typed document for ``--json``, and the table."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from frcnn.benchmarks.accuracy.scoring import Measures
from frcnn.benchmarks.quantization.gate import Attempt, Proof
from frcnn.benchmarks.report.formatting import bytes_text
from frcnn.benchmarks.report.results import Environment
from frcnn.console import say, show_table
from frcnn.spec import Quantization

SCHEMA_VERSION: Final = 1

Target = Literal["cpu", "tensorrt"]

_SHOWN: Final = {
    "AP": "AP",
    "AP50": "AP50",
    "AP75": "AP75",
    "detections": "detections above score 0.3",
    "missing": "missing or relabelled",
    "moved": "moved",
}
_COUNTS: Final = ("detections",)


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A model, as the gate measured it."""

    measures: Measures  # see Verdict.measures; the float model's agreement is that with itself
    bytes: int  # size of the file
    ms_per_image: float  # mean time of a detection, decoding included; roughly, it is no benchmark


class GroupReport(msgspec.Struct, frozen=True, kw_only=True):
    """A group of layers."""

    name: str
    layers: tuple[str, ...]  # names of its nodes
    macs: float  # its share of the multiplications and additions of all layers, from 0 to 1
    recovered: float | None  # of the drop, by its return to float32 alone; None where it was not asked for
    precision: Literal["fp32", "int8"]  # of the result


class QuantizationReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was quantised, how the gate judged it, and what it cost.

    Attributes:
        passed: whether the gate held; if not, no file was written.
        proof: ``"accuracy"``, AP on annotated images, or ``"agreement"`` with the float model, which is weaker.
        drop: AP points of 100 that were lost; or, by agreement, the percentage of both models' detections that are
            missing, relabelled or moved.
        max_drop: most AP points that may be lost.
        objects: that are annotated in the images of the gate; None without annotations.
        float_macs: share of the multiplications and additions that stay in float32, from 0 to 1.
        calibration_images: the files calibrated on; ``gate_images``: those of the gate, none of which are among them.
        sensitivity_images: how many of them the search used for each group alone; 0 where nothing was searched for.
        skipped: why other files could not be used.
        float32: the model that was quantised; ``int8``: the result.
        attempts: models that the gate judged, in order.
        seconds: by step, and in ``"all"``.
        peak_memory_bytes: of this process since its start; None where the system does not tell.
    """

    schema_version: int = SCHEMA_VERSION
    model: str
    output: str
    target: Target
    passed: bool
    proof: Proof
    drop: float
    max_drop: float
    objects: int | None
    float_macs: float
    float32: Measured
    int8: Measured
    groups: tuple[GroupReport, ...]
    attempts: tuple[Attempt, ...]
    calibration_images: tuple[str, ...]
    gate_images: tuple[str, ...]
    sensitivity_images: int
    skipped: dict[str, str]
    quantization: Quantization
    seconds: dict[str, float]
    peak_memory_bytes: int | None
    environment: Environment

    def float_groups(self) -> tuple[GroupReport, ...]:
        """Return the groups that stay in float32, whether always or for the gate."""
        return tuple(group for group in self.groups if group.precision == "fp32")


def show(report: QuantizationReport) -> None:
    """Print the table, the groups in float32 and the verdict."""
    rows = [
        (_SHOWN[name], _cell(name, value), _cell(name, report.int8.measures[name]))
        for name, value in report.float32.measures.items()
        if name in _SHOWN
    ]
    before, after = report.float32, report.int8
    rows.append(("file", bytes_text(before.bytes), bytes_text(after.bytes)))
    rows.append(("an image, roughly", f"{before.ms_per_image:.0f} ms", f"{after.ms_per_image:.0f} ms"))
    objects = "" if report.objects is None else f" with {report.objects} objects"
    calibrated = len(report.calibration_images)
    gate = f"gate: {len(report.gate_images)} images{objects}, none of the {calibrated} that were calibrated on"
    show_table(gate, ("", "float32", "int8"), rows)
    if report.sensitivity_images:
        _show_groups(report)
    for group in report.float_groups():
        layers = "1 layer" if len(group.layers) == 1 else f"{len(group.layers)} layers"
        say(f"float32: {group.name}, {layers}, {group.macs:.1%} of the MACs")
    say(f"int8: {1 - report.float_macs:.1%} of the MACs")
    memory = "" if report.peak_memory_bytes is None else f", at most {bytes_text(report.peak_memory_bytes)} of memory"
    say(f"took {report.seconds['all']:.0f} s{memory}")
    say(f"{'HOLDS' if report.passed else 'DOES NOT HOLD'}: {report.attempts[-1].verdict.text}")
    if report.proof == "agreement":
        say("this is the weaker proof: whether AP holds, only --annotations can tell")


def _show_groups(report: QuantizationReport) -> None:
    unit = "AP points" if report.proof == "accuracy" else "% of the detections"
    rows = [
        (
            group.name,
            "-" if group.recovered is None else f"{group.recovered:+.2f}",
            group.precision,
            f"{group.macs:.1%}",
            str(len(group.layers)),
        )
        for group in report.groups
    ]
    title = f"each group in float32 alone: what it recovers, in {unit}, on {report.sensitivity_images} images"
    show_table(title, ("group", "recovered", "result", "MACs", "layers"), rows, text_columns=(0, 2))


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return str(round(value)) if name in _COUNTS else f"{value:.4f}"
