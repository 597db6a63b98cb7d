"""The tuned file (``model.onnx.tuned.json``): what runs a model fastest on one machine, as it was measured there.

In: JSON of the file, or values.
Out: checked, frozen records; and why they hold no longer, where machine, versions or models have changed.

The file is data from a folder and may be hostile: it names files of that folder only, and all numbers are bounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal

import msgspec

from frcnn.spec import Positive, Precision, PrintableText, Record, read_versioned
from frcnn.spec.engine import Sha256

TUNING_SCHEMA_VERSION: Final = 1
TUNED_SUFFIX: Final = ".tuned.json"
"""Of the tuned file's name, after the model's."""

HostProvider = Literal["cpu", "openvino"]
HOST_PROVIDERS: Final[Mapping[HostProvider, str]] = {"cpu": "ONNX Runtime", "openvino": "OpenVINO"}
"""Names, by what ``Detector.load`` calls the providers; the simplest first."""

Arithmetic = Literal["fp32", "bf16"]
ARITHMETIC: Final[tuple[Arithmetic, ...]] = ("fp32", "bf16")
"""In what a provider computes the layers that are not int8."""

Allowed = Literal["bf16", "int8"]
ALLOWED: Final[tuple[Allowed, ...]] = ("bf16", "int8")
"""Precisions that are chosen only where the user allows them."""

TrialStatus = Literal["agrees", "disagrees", "unproven", "slower", "failed", "left out"]

_LOWEST_FIRST: Final[tuple[Precision, ...]] = ("int8", "bf16", "fp16", "fp32")

Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
Threads = Annotated[int, msgspec.Meta(ge=1, le=4096)]
Batch = Annotated[int, msgspec.Meta(ge=1, le=64)]
Milliseconds = Annotated[float, msgspec.Meta(ge=0.0, le=1e9)]
Text = Annotated[PrintableText, msgspec.Meta(max_length=1000)]
FileName = Annotated[str, msgspec.Meta(pattern=r"\A(?!\.{1,2}\Z)[^/\\\x00-\x1f\x7f-\x9f]{1,255}\Z")]
"""A name in the folder of the tuned file: without separators, and not the folder itself or the one above."""


class Machine(Record, frozen=True, kw_only=True):
    """What decides how fast a model runs on a processor.

    Attributes:
        processor: its name; virtual machines often give several processors the same.
        signature: vendor, family, model and stepping; empty where the system does not tell.
        features: the instruction sets that inference libraries choose kernels by, sorted.
        processors: how many this process may use.
    """

    processor: Text
    signature: Text
    features: tuple[Text, ...]
    processors: Threads


class TunedModel(Record, frozen=True, kw_only=True):
    """A model file that was tried.

    Attributes:
        name: in the folder of the tuned file.
        precision: the manifest's.
    """

    name: FileName
    sha256: Sha256
    precision: Precision


class Setting(Record, frozen=True, kw_only=True):
    """One way to run the model.

    Attributes:
        int8: whether it runs the int8 model in place of the model itself.
        provider: as ``Detector.load`` takes it; ``precision``, ``threads`` likewise.
        batch: images of one canvas at a time.
    """

    int8: bool = False
    provider: HostProvider
    precision: Arithmetic
    threads: Threads
    batch: Batch

    def lowest_precision(self, model: Precision) -> Precision:
        """Return the lowest precision in use, which decides the limits of agreement, given that of the model itself."""
        used = (self.precision, "int8" if self.int8 else model)
        return next(precision for precision in _LOWEST_FIRST if precision in used)

    def precision_text(self, model: Precision) -> str:
        """Return the precisions in use, given that of the model itself: ``bf16``, ``int8``, ``int8+bf16``."""
        lowest = self.lowest_precision(model)
        return f"{lowest}+bf16" if lowest == "int8" and self.precision == "bf16" else lowest

    def describe(self, model: Precision) -> str:
        """Return the setting as text, given the precision of the model itself: ``OpenVINO, bf16, 2 threads``."""
        parts = [HOST_PROVIDERS[self.provider], self.precision_text(model)]
        parts.append(f"{self.threads} thread{'s' if self.threads > 1 else ''}")
        return ", ".join([*parts, f"batch {self.batch}"] if self.batch > 1 else parts)


class Trial(Record, frozen=True, kw_only=True):
    """What was measured of a setting.

    Attributes:
        status: ``"agrees"`` and ``"disagrees"`` with the float model's detections; ``"unproven"``: too few of them to
            tell; ``"slower"``: dropped early; ``"left out"``: the time was spent before it was tried.
        reason: what it differs in, or failed with; empty where it agrees.
        median_ms: of an image, decoded, its preprocessing included; ``low_ms`` and ``high_ms`` are the quartiles. None
            where nothing was timed.
        calls: how many were timed.
        images: how many were compared with the float model; 0 for the float model itself.
        finalist: whether it was timed in turns with the others of the last round; only such figures compare exactly.
    """

    setting: Setting
    status: TrialStatus
    reason: Text = ""
    median_ms: Milliseconds | None = None
    low_ms: Milliseconds | None = None
    high_ms: Milliseconds | None = None
    calls: Count = 0
    images: Count = 0
    finalist: bool = False


class Tuning(Record, frozen=True, kw_only=True):
    """The content of a tuned file.

    Attributes:
        date: ISO 8601.
        versions: package -> version, of those that the trials used.
        model: the model that the file lies beside.
        int8: the int8 model that was tried, too; None where none was.
        allowed: the precisions that the user allowed besides the model's own.
        choice: the fastest setting that agrees.
        trials: all, the choice among them.
    """

    schema_version: Positive
    date: Text
    machine: Machine
    versions: dict[Text, Text]
    model: TunedModel
    int8: TunedModel | None
    allowed: tuple[Allowed, ...]
    choice: Setting
    trials: tuple[Trial, ...]

    def __post_init__(self) -> None:
        if self.choice not in [trial.setting for trial in self.trials if trial.status == "agrees"]:
            raise ValueError("choice: expected one of the trials that agree")
        if any(trial.setting.int8 for trial in self.trials) and self.int8 is None:
            raise ValueError("int8: expected a model, as a trial ran it")
        if self.choice.threads > self.machine.processors:
            raise ValueError(f"threads: expected {self.machine.processors} at most, got {self.choice.threads}")
        for precision, is_used in zip(ALLOWED, (self.choice.precision == "bf16", self.choice.int8), strict=True):
            if is_used and precision not in self.allowed:
                raise ValueError(f"allowed: expected {precision}, which the choice uses")

    def to_json(self) -> str:
        """Return the content of the file."""
        return f"{msgspec.json.format(msgspec.json.encode(self), indent=2).decode()}\n"

    @classmethod
    def from_json(cls, text: str | bytes, *, source: str) -> Tuning:
        """Read a tuned file's JSON strictly; ``source`` names the file in messages. See :func:`read_versioned`."""
        remake = "run frcnn tune again, or remove the file"
        return read_versioned(text, cls, TUNING_SCHEMA_VERSION, source=source, remake=remake, what="tuning")

    def run_model(self, setting: Setting) -> TunedModel:
        """Return the model that a setting runs."""
        return self.int8 if setting.int8 and self.int8 is not None else self.model

    def describe(self, setting: Setting) -> str:
        """Return a setting as text: ``OpenVINO, bf16, 2 threads``."""
        return setting.describe(self.model.precision)

    def void_reason(self, *, machine: Machine, versions: Mapping[str, str], sha256: str) -> str:
        """Return why the figures hold no longer, as one line; empty where they do.

        Args:
            machine: this one.
            versions: package -> version, of those that are installed; a package that no trial used does not count.
            sha256: of the model.
        """
        if sha256 != self.model.sha256:
            return "the model has changed"
        if machine != self.machine:
            return f"it was measured on another machine: {_difference(self.machine, machine)}"
        for package, version in self.versions.items():
            if versions.get(package) != version:
                return f"it was measured with {package} {version}, here is {versions.get(package, 'none')}"
        return ""


def _difference(then: Machine, now: Machine) -> str:
    for name, label in (("processor", ""), ("signature", ""), ("processors", " processors usable")):
        if (old := getattr(then, name)) != (new := getattr(now, name)):
            return f"{old}{label}, here {new}"
    changed = sorted(set(then.features) ^ set(now.features))
    return f"instruction sets differ in {', '.join(changed)}"
