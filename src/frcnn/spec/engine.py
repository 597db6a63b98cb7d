"""The manifest of an engine artifact (``*.frcnn``), which exporter and runtime share.

The file is a zip of stored (uncompressed) parts: ``manifest.json``, a :class:`EngineManifest`, and what it lists.
A detection is its ``steps`` in order, over tensors told apart by name: engines, and operators whose kernels the runtime
launches between them. A TensorRT plan with plugins is one step.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal

import msgspec

from frcnn.spec import (
    Manifest,
    ModelSpec,
    NonNegative,
    Positive,
    Precision,
    PrintableText,
    Record,
    Size,
    read_versioned,
)

__all__ = [
    "ENGINE_SCHEMA_VERSION",
    "INPUTS",
    "MANIFEST_PART",
    "OUTPUTS",
    "PART_NAME",
    "PRECISION_PART",
    "SUFFIX",
    "TARGETS",
    "TENSORRT_ELEMENTS",
    "EngineManifest",
    "EngineStep",
    "EngineTensor",
    "MemoryNeeds",
    "OperatorStep",
    "Part",
    "PrecisionRecord",
    "Profile",
    "Range",
    "Target",
    "kernel_part",
]

ENGINE_SCHEMA_VERSION: Final = 4
SUFFIX: Final = ".frcnn"
MANIFEST_PART: Final = "manifest.json"
PRECISION_PART: Final = "precision.json"

INPUTS: Final = ("images", "image_sizes")
OUTPUTS: Final = ("num_detections", "boxes", "scores", "labels")

Target = Literal["tensorrt-rtx", "tensorrt", "onnxruntime"]
TARGETS: Final[tuple[Target, ...]] = ("tensorrt-rtx", "tensorrt", "onnxruntime")

Form = Literal["plan", "split"]
"""One engine with the operators inside, which TensorRT alone has, or two with the operators' kernels between them."""

TensorElement = Literal["float32", "float16", "bfloat16", "int32", "int64", "bool"]
TENSORRT_ELEMENTS: Final[Mapping[str, TensorElement]] = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
"""Element types by the name of TensorRT's ``DataType``."""

ONNX_ELEMENTS: Final[Mapping[int, TensorElement]] = {
    1: "float32",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    16: "bfloat16",
}
"""Element types by their number in ``onnx.TensorProto``; the package onnx is not needed to run a model."""

TensorLayout = Literal["planar", "channels_last", "nhwc"]
"""How (N, C, H, W) lies in memory: as written, or as (N, H, W, C). An engine knows a ``channels_last`` tensor as
(N, C, H, W) in a format of its own, and an ``nhwc`` one as (N, H, W, C)."""

Sha256 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
ComputeCapability = Annotated[str, msgspec.Meta(pattern=r"\A[1-9][0-9]?\.[0-9]\Z")]
Architecture = Annotated[str, msgspec.Meta(pattern=r"\A(sm|compute)_[1-9][0-9]{1,2}[af]?\Z")]

# Messages, tables and commands to paste show these: nothing in them may steer a terminal or a shell.
Version = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9.+-]{0,63}\Z")]
TensorName = Annotated[str, msgspec.Meta(pattern=r"\A[^\x00-\x1f\x7f-\x9f]+\Z", max_length=1000)]

_STEM: Final = "[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?"
PART_NAME: Final = rf"\A{_STEM}(/{_STEM})*\Z"
"""A part's name: a relative path that means the same file on every system, without ``.``, ``..`` and hidden files."""

PartName = Annotated[str, msgspec.Meta(pattern=PART_NAME, max_length=200)]


class Range(Record, frozen=True, kw_only=True):
    """The sizes that an engine takes: from ``min`` to ``max``, fastest at ``opt``."""

    min: Positive
    opt: Positive
    max: Positive

    def __post_init__(self) -> None:
        if not self.min <= self.opt <= self.max:
            raise ValueError(f"expected min <= opt <= max, got {self.min}:{self.opt}:{self.max}")

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int) and self.min <= value <= self.max

    def __str__(self) -> str:
        return str(self.min) if self.min == self.max else f"{self.min}:{self.opt}:{self.max}"


class Profile(Record, frozen=True, kw_only=True):
    """One set of shapes that the engines are made for; canvas sizes in pixels."""

    batch: Range
    height: Range
    width: Range

    def holds(self, batch: int, canvas: Size) -> bool:
        """Return whether a batch of images on a canvas may be run."""
        return batch in self.batch and canvas[0] in self.height and canvas[1] in self.width

    @property
    def is_static(self) -> bool:
        """Whether it has one canvas only."""
        return self.height.min == self.height.max and self.width.min == self.width.max

    def __str__(self) -> str:
        """Return the canvases as ``frcnn build --size`` takes them: ``HxW``, or min, opt and max with colons."""
        height, width = self.height, self.width
        if self.is_static:
            return f"{height.max}x{width.max}"
        return f"{height.min}x{width.min}:{height.opt}x{width.opt}:{height.max}x{width.max}"


class EngineTensor(Record, frozen=True, kw_only=True):
    """A tensor between steps: its element type, how (N, C, H, W) lies in memory, and C of a feature map if known."""

    element: TensorElement
    layout: TensorLayout = "planar"
    channels: Positive | None = None

    def engine_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape by which engines know the tensor, from (N, C, H, W); other ranks have one shape only."""
        return (shape[0], *shape[2:], shape[1]) if self.layout == "nhwc" else shape

    def operator_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape by which operators know the tensor, from that of an engine."""
        return (shape[0], shape[-1], *shape[1:-1]) if self.layout == "nhwc" else shape


class EngineStep(Record, frozen=True, kw_only=True, tag="engine", tag_field="kind"):
    """Run an engine, whose serialized form is a part."""

    part: PartName
    inputs: tuple[TensorName, ...]
    outputs: tuple[TensorName, ...]


class OperatorStep(Record, frozen=True, kw_only=True, tag="operator", tag_field="kind"):
    """Launch the kernels of an operator of the domain ``frcnn``, one of ``frcnn.plugins.OPERATORS``.

    ``node`` is the node's name in ``model.onnx``; ``inputs`` and ``outputs`` are tensors in the operator's order.
    """

    node: TensorName
    operator: TensorName
    attributes: dict[str, int | float | tuple[float, ...]]
    inputs: tuple[TensorName, ...]
    outputs: tuple[TensorName, ...]


class Part(Record, frozen=True, kw_only=True):
    """A file in the artifact."""

    size_bytes: NonNegative
    sha256: Sha256


class MemoryNeeds(Record, frozen=True, kw_only=True):
    """Device memory for the largest shapes of each profile, the most of them; engine scratch is known on a GPU only.

    Attributes:
        weights_bytes: all engines' weights.
        tensors_bytes: inputs, outputs and what flows between steps.
        workspace_bytes: the operators' kernels' scratch.
    """

    weights_bytes: NonNegative
    tensors_bytes: NonNegative
    workspace_bytes: NonNegative

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.tensors_bytes + self.workspace_bytes


class PrecisionRecord(Record, frozen=True, kw_only=True):
    """The precision of one layer, as the network definition that its engine was built from has it.

    Attributes:
        step: index of the step whose engine it is in.
        type: TensorRT's layer type, like ``"CONVOLUTION"``.
        element: type of its output.
        heavy: whether it is one of those that the artifact's precision is about: convolutions, matrix products.
    """

    step: NonNegative
    layer: str
    type: PrintableText
    element: PrintableText
    heavy: bool


class EngineManifest(Record, frozen=True, kw_only=True):
    """The manifest of an engine artifact.

    Attributes:
        source: the manifest of the ``model.onnx`` that it was built from.
        source_onnx_sha256: SHA-256 of that file.
        target: which TensorRT runs it.
        target_version: the version that built it, which must also run it.
        version_compatible: whether the engines are version compatible plans of TensorRT, which the lean runtime of that
            version runs, too.
        cuda_major: CUDA release that the kernels were compiled for.
        precision: type of the heavy layers, as the engines' own network definitions have it; ``int8`` where not all
            are, and the others have the type of ``images``.
        profiles: shapes that the engines are made for; engine profiles are in this order.
        compute_capabilities: GPUs that the engines are for, like ``"8.9"``; empty: the target's default.
        architectures: ``sm_NN`` or ``compute_NN``, what each kernel is there for.
        tensors: every tensor that a step reads or writes, by name.
        steps: what a detection does, in order.
        parts: every other file in the artifact, by name.
        versions: package name -> version of what built it.
    """

    schema_version: Positive
    source: Manifest
    source_onnx_sha256: Sha256
    target: Target
    target_version: Version
    version_compatible: bool
    cuda_major: Positive
    precision: Precision
    profiles: Annotated[tuple[Profile, ...], msgspec.Meta(min_length=1)]
    compute_capabilities: tuple[ComputeCapability, ...]
    architectures: tuple[Architecture, ...]
    tensors: dict[TensorName, EngineTensor]
    steps: tuple[EngineStep | OperatorStep, ...]
    parts: dict[PartName, Part]
    memory: MemoryNeeds
    versions: dict[PrintableText, PrintableText]

    def __post_init__(self) -> None:
        if MANIFEST_PART in self.parts:
            raise ValueError(f"parts: {MANIFEST_PART} is the manifest's own name")
        if self.version_compatible and self.target != "tensorrt":
            raise ValueError(f"version_compatible: expected false for the target {self.target}")
        known = set(INPUTS)
        for step in self.steps:
            missing = [name for name in (*step.inputs, *step.outputs) if name not in self.tensors]
            missing += [name for name in step.inputs if name not in known]
            if missing:
                raise ValueError(f"steps: the tensor {missing[0]!r} comes from nowhere or has no type")
            if isinstance(step, EngineStep) and step.part not in self.parts:
                raise ValueError(f"steps: the part {step.part!r} is not listed")
            again = [name for name in step.outputs if name in known]
            if again:
                raise ValueError(f"steps: the tensor {again[0]!r} is written twice")
            known |= set(step.outputs)
        if not set(OUTPUTS) <= known:
            raise ValueError(f"steps: expected the outputs {', '.join(OUTPUTS)}")

    @property
    def model(self) -> ModelSpec:
        """The detector, as in the manifest of a ``model.onnx``."""
        return self.source.model

    @property
    def form(self) -> Form:
        """The form of the engines."""
        return "plan" if len(self.steps) == 1 else "split"

    def to_json(self) -> bytes:
        """Return the manifest as JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1)

    @classmethod
    def from_json(cls, text: bytes, *, source: str) -> EngineManifest:
        """Read a manifest's JSON strictly; ``source`` names the file in messages. See :func:`read_versioned`."""
        remake = "build the artifact again: frcnn build model.onnx"
        return read_versioned(text, cls, ENGINE_SCHEMA_VERSION, source=source, remake=remake)

    def build_command(
        self,
        output: str | os.PathLike[str],
        *,
        canvases: Sequence[Size] = (),
        batch: Range | None = None,
        compute_capabilities: Sequence[str] | None = None,
    ) -> str:
        """Return the command that builds the artifact again, as it is but for what is given.

        ``canvases``, (height, width), are taken in addition. TensorRT builds for its own GPU, whatever
        ``compute_capabilities``.
        """
        gpus = self.compute_capabilities if compute_capabilities is None else compute_capabilities
        ranges = [profile.batch for profile in self.profiles]
        whole = Range(min=min(r.min for r in ranges), opt=ranges[0].opt, max=max(r.max for r in ranges))
        name = os.fspath(output)
        name += "" if name.endswith(SUFFIX) else SUFFIX
        sizes = dict.fromkeys([*map(str, self.profiles), *(f"{height}x{width}" for height, width in canvases)])
        source = "model-int8.onnx" if self.precision == "int8" else "model.onnx"
        precision: str = self.precision
        if precision == "int8":  # the option is for the rest then
            precision = "fp16" if self.tensors[INPUTS[0]].element == "float16" else "fp32"
        form = " --form split" if self.form == "split" and self.target == "tensorrt" else ""  # where it is no default
        return (
            f"frcnn build {source} -o {shlex.quote(name)} --target {self.target} "
            f"--precision {precision} --batch {batch or whole} --size {','.join(sizes)}"
            + (f" --compute-capability {','.join(gpus)}" if gpus and self.target == "tensorrt-rtx" else "")
            + (" --version-compatible" if self.version_compatible else form)
        )

    def code_for(self, architecture: str) -> tuple[str, ...]:
        """Return the ``architectures`` whose code runs on a GPU of one, ``sm_NN``: its own, then PTX, newest first."""
        own = int("".join(filter(str.isdigit, architecture)))
        numbers = (name.removeprefix("compute_") for name in self.architectures if name.startswith("compute_"))
        ptx = sorted((int(number) for number in numbers if number.isdigit() and int(number) <= own), reverse=True)
        return (*(name for name in self.architectures if name == architecture), *(f"compute_{n}" for n in ptx))

    def profile_for(self, batch: int, canvas: Size) -> int | None:
        """Return the index of the first profile that holds a batch on a canvas, static ones first; None if none."""
        holding = [i for i, profile in enumerate(self.profiles) if profile.holds(batch, canvas)]
        return min(holding, key=lambda i: (not self.profiles[i].is_static, i), default=None)


def kernel_part(entry: str, fingerprint: str, architecture: str) -> str:
    """Return the part that holds a kernel, by its ``extern "C"`` name, compiled for ``sm_NN`` or ``compute_NN``."""
    suffix = "ptx" if architecture.startswith("compute_") else "cubin"
    return f"kernels/{entry}-{fingerprint}.{architecture}.{suffix}"
