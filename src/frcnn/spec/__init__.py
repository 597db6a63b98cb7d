"""The typed description of a model that every room shares, and the manifest that travels in a ``model.onnx``.

In: JSON of a manifest, or values.
Out: checked, frozen records. ``engine`` describes an engine artifact, ``supported_gpus`` the GPUs it is
for, ``gpu_runs`` those on which one has run.

Sizes are ``(height, width)`` in pixels everywhere in frcnn. A *canvas* is the padded tensor the network
sees; an image is resized first (short side / long side as the model defines) and then padded onto a canvas.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from frcnn.errors import ArtifactError, UsageError

__all__ = [
    "BACKGROUND",
    "LONGEST_MANIFEST_BYTES",
    "MANIFEST_KEY",
    "PRECISIONS",
    "SCHEMA_VERSION",
    "CheckpointOptions",
    "Manifest",
    "ModelSpec",
    "NonNegative",
    "PoolerKind",
    "PoolerSpec",
    "Positive",
    "Precision",
    "PrintableText",
    "Quantization",
    "RPNSpec",
    "Record",
    "ResizeRule",
    "RoIHeadsSpec",
    "Size",
    "TransformSpec",
    "full_labels",
    "read_versioned",
]

SCHEMA_VERSION: Final = 1
MANIFEST_KEY: Final = "frcnn.manifest"
BACKGROUND: Final = "__background__"
LONGEST_MANIFEST_BYTES: Final = 4 << 20  # those of real models are below 100 KB

Size = tuple[int, int]  # (height, width) in pixels

Precision = Literal["fp32", "fp16", "bf16", "int8"]
PRECISIONS: Final[tuple[Precision, ...]] = ("fp32", "fp16", "bf16")
"""Those that a checkpoint is exported in; ``"int8"`` is a float32 model that was quantised."""
PoolerKind = Literal["align", "max"]
ResizeRule = Literal["torchvision", "detectron2", "mmdetection"]

_LARGEST: Final = (1 << 63) - 1
Positive = Annotated[int, msgspec.Meta(ge=1, le=_LARGEST)]
NonNegative = Annotated[int, msgspec.Meta(ge=0, le=_LARGEST)]
PrintableText = Annotated[str, msgspec.Meta(pattern=r"\A[^\x00-\x1f\x7f-\x9f]*\Z")]  # without control characters
Mean = Annotated[float, msgspec.Meta(ge=-1e6, le=1e6)]
Deviation = Annotated[float, msgspec.Meta(ge=1e-6, le=1e6)]
T = TypeVar("T", bound="Record")


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Frozen, keyword-only and strict: an unknown or missing field is an error when decoding."""


class TransformSpec(Record, frozen=True, kw_only=True, omit_defaults=True):
    """Preprocessing, as in ``torchvision.models.detection.transform.GeneralizedRCNNTransform``.

    Attributes:
        min_size: length in pixels that the short side is resized to.
        max_size: limit in pixels of the long side after resizing.
        fixed_size: (height, width) that every image is resized to instead, or None.
        size_divisible: a canvas is a multiple of this many pixels in both directions.
        image_mean: per-channel mean (R, G, B) of images in [0, 1].
        image_std: per-channel standard deviation, likewise.
        resize: whose rule sizes and pixels follow. ``"torchvision"`` interpolates float32 numbers between four pixels;
            ``"detectron2"`` resizes 8-bit pixels as Pillow's ``BILINEAR`` does, which averages where it shrinks;
            ``"mmdetection"`` as OpenCV's ``INTER_LINEAR`` does.
    """

    min_size: Positive
    max_size: Positive
    fixed_size: tuple[Positive, Positive] | None
    size_divisible: Positive
    image_mean: tuple[Mean, Mean, Mean]
    image_std: tuple[Deviation, Deviation, Deviation]
    resize: ResizeRule = "torchvision"

    def resized_size(self, height: int, width: int) -> Size:
        """Return the (height, width) an image is resized to before padding.

        As torchvision's ``_resize_image_and_masks`` outside scripting: ``floor(side * scale)`` with a Python float.
        Detectron2's ``ResizeShortestEdge`` and MMCV's ``rescale_size`` round to the nearest, and differ in the order of
        their products. Extreme shapes, whose shorter side becomes 0 and where all three fail, keep 1 pixel.
        """
        if self.fixed_size is not None:
            return self.fixed_size
        short, long = min(height, width), max(height, width)
        if self.resize == "detectron2":
            scale = self.min_size / short
            sides = [self.min_size if side == short else side * scale for side in (height, width)]
            if max(sides) > self.max_size:
                shrink = self.max_size / max(sides)
                sides = [side * shrink for side in sides]
            return max(1, int(sides[0] + 0.5)), max(1, int(sides[1] + 0.5))
        scale = min(self.min_size / short, self.max_size / long)
        if self.resize == "mmdetection":
            return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
        return max(1, math.floor(float(height) * scale)), max(1, math.floor(float(width) * scale))

    def canvas_size(self, height: int, width: int) -> Size:
        """Return the smallest (height, width) canvas that holds a resized image of that size."""
        step = self.size_divisible
        return -(-height // step) * step, -(-width // step) * step


class RPNSpec(Record, frozen=True, kw_only=True):
    """Region proposal network, at inference.

    Attributes:
        num_levels: feature maps the RPN looks at.
        anchors_per_location: anchors at each cell, per level.
        pre_nms_top_n: candidates kept per level before NMS.
        post_nms_top_n: proposals kept per image after NMS.
        nms_thresh: proposals overlapping a better one by more than this IoU are dropped.
        score_thresh: proposals scoring less are dropped.
    """

    num_levels: Positive
    anchors_per_location: tuple[Positive, ...]
    pre_nms_top_n: Positive
    post_nms_top_n: Positive
    nms_thresh: float
    score_thresh: float


class PoolerSpec(Record, frozen=True, kw_only=True, omit_defaults=True):
    """RoI pooling.

    Attributes:
        kind: ``"align"`` (RoIAlign, bilinear) or ``"max"`` (RoI max pooling, as in the first papers).
        feature_names: the backbone's maps that are pooled from, finest first.
        spatial_scales: map size / canvas size, one per pooled map; powers of two.
        level_thresholds: ``len(feature_names) - 1`` rising float32 values; a RoI is pooled from the map whose
            index is the number of thresholds that are <= sqrt(area of the RoI in canvas pixels).
        output_size: (height, width) of the pooled grid.
        sampling_ratio: samples per bin side for ``"align"``; 0 means adaptive.
        aligned: whether the samples of ``"align"`` are moved by half a pixel, as Detectron2 and MMDetection have them.
    """

    kind: PoolerKind
    feature_names: tuple[str, ...]
    spatial_scales: tuple[float, ...]
    level_thresholds: tuple[float, ...]
    output_size: tuple[Positive, Positive]
    sampling_ratio: NonNegative
    aligned: bool = False


class RoIHeadsSpec(Record, frozen=True, kw_only=True):
    """Box head, at inference.

    Attributes:
        score_thresh: detections must score more than this.
        nms_thresh: detections overlapping a better one of their class by more than this IoU are dropped.
        detections_per_img: the most detections per image.
    """

    pooler: PoolerSpec
    score_thresh: float
    nms_thresh: float
    detections_per_img: Positive


class ModelSpec(Record, frozen=True, kw_only=True):
    """What a Faster R-CNN is, apart from its weights.

    Attributes:
        architecture: the builder's or the class's name; for people, never for decisions.
        num_classes: classes including the background (index 0).
        labels: ``num_classes`` names, index 0 the background; None where nobody named them.
    """

    architecture: PrintableText
    num_classes: Annotated[int, msgspec.Meta(ge=2, le=_LARGEST)]
    labels: tuple[PrintableText, ...] | None
    transform: TransformSpec
    rpn: RPNSpec
    roi_heads: RoIHeadsSpec

    def __post_init__(self) -> None:
        if self.labels is not None and len(self.labels) != self.num_classes:
            raise ValueError(f"labels: expected {self.num_classes} names, got {len(self.labels)}")

    def label_name(self, label: int) -> str:
        """Return the name of class index ``label`` (its number as text where labels have no names)."""
        return str(label) if self.labels is None else self.labels[label]


class Quantization(Record, frozen=True, kw_only=True):
    """How a model was quantised to int8; weights are symmetric, one scale a channel.

    Attributes:
        quantizer: package and version that placed the Q/DQ nodes and found their scales.
        symmetric: whether the zero point of activations is 0 too, as TensorRT needs it.
        images: how many it was calibrated on.
        float_layers: nodes that stay in float32 though their kind is quantised.
    """

    quantizer: PrintableText
    symmetric: bool
    images: Positive
    float_layers: tuple[PrintableText, ...]


class CheckpointOptions(Record, frozen=True, kw_only=True, omit_defaults=True):
    """What the command line said of a checkpoint when it was exported.

    Attributes:
        arch: ``--arch``, the folder of a file left out. It may name code, which a reader must not run unasked.
        args: each ``--arg``, ``KEY=VALUE``.
        state_key: ``--state-key``.
        trainer: ``--from``.
        config: ``--config``, the folder left out.
        boxes_only: ``--boxes-only``.
    """

    arch: PrintableText | None = None
    args: tuple[PrintableText, ...] = ()
    state_key: PrintableText | None = None
    trainer: ResizeRule | None = None
    config: PrintableText | None = None
    boxes_only: bool = False


class Manifest(Record, frozen=True, kw_only=True, omit_defaults=True):
    """The manifest of a ``model.onnx``: its ``metadata_props["frcnn.manifest"]``.

    Attributes:
        precision: type of the network's heavy layers; decode, softmax, scores and IoU are float32 always. Of an
            ``"int8"`` model the other layers are float32.
        canvases: the (height, width) canvases the artifact takes, or None: any multiple of
            ``model.transform.size_divisible``.
        opset: ONNX opset of the standard operators.
        versions: package name -> version of what made the artifact.
        source_sha256: SHA-256 of the checkpoint file, where there was one.
        assumptions: what was not in the weights and was taken as a default, one line each.
        quantization: of an ``"int8"`` model; None otherwise.
        checkpoint_options: those without which the checkpoint is another model; None where there were none.
    """

    schema_version: Positive
    model: ModelSpec
    precision: Precision
    canvases: tuple[tuple[Positive, Positive], ...] | None
    opset: Positive
    versions: dict[PrintableText, PrintableText]
    source_sha256: PrintableText | None
    assumptions: tuple[PrintableText, ...]
    quantization: Quantization | None = None
    checkpoint_options: CheckpointOptions | None = None

    def __post_init__(self) -> None:
        if (self.precision == "int8") != (self.quantization is not None):
            raise ValueError(f"quantization: expected with precision int8 only, got precision {self.precision}")

    def to_json(self) -> str:
        """Return the manifest as JSON text."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes, *, source: str) -> Manifest:
        """Read a manifest's JSON strictly; ``source`` names the file in messages. See :func:`read_versioned`."""
        return read_versioned(text, cls, SCHEMA_VERSION, source=source, remake="export the model again")

    def canvas_for(self, resized: Size) -> Size | None:
        """Return the canvas a resized image goes on: the smallest that holds it, or None if none does."""
        needed = self.model.transform.canvas_size(*resized)
        if self.canvases is None:
            return needed
        fitting = [c for c in self.canvases if c[0] >= resized[0] and c[1] >= resized[1]]
        return min(fitting, key=lambda c: (c[0] * c[1], c), default=None)


class _Versioned(msgspec.Struct):
    schema_version: int


def read_versioned(
    text: str | bytes, kind: type[T], schema_version: int, *, source: str, remake: str, what: str = "manifest"
) -> T:
    """Read a record strictly; ``source`` names the file in messages, ``remake`` is how to make it anew.

    It is an ``ArtifactError`` if the text is no such record of that schema version, is too long, or has an entry
    twice, which two readers might read differently. ``what`` is its name in messages.
    """
    if len(text) > LONGEST_MANIFEST_BYTES:
        size = f"{len(text):,} bytes, expected {LONGEST_MANIFEST_BYTES:,} at most"
        raise ArtifactError(f"{source}: the {what} is damaged: it has {size}", hint=remake)
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        version = msgspec.json.decode(text, type=_Versioned).schema_version
        if version != schema_version:
            raise ArtifactError(
                f"{source}: {what} schema version {version}, expected {schema_version}",
                hint=f"{remake} with this version of frcnn, or install the matching one",
            )
        record = msgspec.json.decode(text, type=kind)
        json.loads(text, object_pairs_hook=_refuse_repeated)
        return record
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{source}: the {what} is damaged: {error}", hint=remake) from error


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> None:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"the entry {max(names, key=names.count)!r} is there twice")


def full_labels(labels: Sequence[str], num_classes: int) -> tuple[str, ...]:
    """Return ``num_classes`` names with the background first, whether ``labels`` begin with it or not."""
    names = tuple(labels)
    if len(names) != num_classes and (len(names) != num_classes - 1 or BACKGROUND in names):
        raise UsageError(
            f"labels: expected {num_classes - 1} names (or {num_classes} with the background first), got {len(names)}",
            hint="one name a line, in the order of the class indices the model was trained with",
        )
    if any(not name.strip() for name in names):
        raise UsageError("labels: a name is empty", hint="remove blank lines from the label file")
    for name in names:
        if any(unicodedata.category(letter) == "Cc" for letter in name):
            raise UsageError(f"labels: the name {name!r} has control characters", hint="give names that can be printed")
    return names if len(names) == num_classes else (BACKGROUND, *names)
