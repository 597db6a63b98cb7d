"""``results.json``: what a benchmark run measured, and everything needed to read or repeat it.

Times are milliseconds unless a name ends in ``_s`` (seconds). A *call* is one batch: a measure's samples are the times
of calls, and ``fps`` counts images. Every number was measured in the run that wrote it; what was not is None.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final, Literal, Self

import msgspec

from frcnn.errors import ArtifactError, one_line
from frcnn.files import write_text
from frcnn.spec import Precision, Record, Size, read_versioned
from frcnn.spec.engine import Form, Target

SCHEMA_VERSION: Final = 2

Status = Literal["ok", "unavailable", "wrong", "failed"]
"""``ok``: measured, and right. ``unavailable``: this system cannot run it. ``wrong``: measured, but its detections
disagree with eager's, so its times are never shown as a gain. ``failed``: it should have run and did not."""

Scope = Literal["images", "network"]
"""``images``: decoded images in, boxes in image pixels out. ``network``: a prepared batch in, raw outputs out."""

StageName = Literal["decode", "preprocess", "backbone+FPN", "RPN", "RoI pooling", "box head", "post"]
CurveKind = Literal["batch", "image size", "RoIs", "classes"]
Verdict = Literal["regression", "gain", "same", "not comparable"]


class GpuState(Record, frozen=True, kw_only=True):
    """What a GPU reports at one moment."""

    when: str
    sm_clock_mhz: int | None
    memory_clock_mhz: int | None
    power_w: float | None
    temperature_c: float | None
    throttling: tuple[str, ...]  # nvidia-smi's reasons for a lowered clock


class Gpu(Record, frozen=True, kw_only=True):
    """The GPU that candidates of device ``cuda`` ran on; ``states`` are in the order of time."""

    name: str
    driver: str
    compute_capability: str
    memory_bytes: int
    states: tuple[GpuState, ...]


class Environment(Record, frozen=True, kw_only=True):
    """The system, and how the run was started; what the system does not report is None."""

    system: str  # its architecture, like "x86_64"
    cpu: str
    cores: int  # logical processors of the system
    affinity: tuple[int, ...]  # those that the run was allowed to use; frcnn does not change them
    threads: int  # of each candidate: torch's intra-op threads, ONNX Runtime's, OpenVINO's
    governor: str | None  # of the first core's clock
    turbo: bool | None  # whether the clock may rise above the base clock
    load_before: float | None  # processes ready to run, mean of 1 minute
    load_after: float | None  # includes the run itself
    memory_bytes: int | None
    gpu: Gpu | None
    packages: dict[str, str]  # package -> version, of all that is installed and took part
    frcnn: str
    python: str
    os: str
    date: str  # when the run began, ISO 8601 with the offset to UTC
    command: str  # repeats the run


class ImageInfo(Record, frozen=True, kw_only=True):
    """An image of the run: its name and (height, width) in pixels."""

    name: str
    size: Size


class Skipped(Record, frozen=True, kw_only=True):
    """An input that could not be used, and why."""

    name: str
    reason: str


class Workload(Record, frozen=True, kw_only=True):
    """What every candidate had to do; sizes are (height, width) in pixels."""

    suite: str  # "quick" or "full"
    device: str  # where eager ran: "cpu" or "cuda"
    budget_s: float
    checkpoint: str | None  # its file name; None where the weights are random
    checkpoint_sha256: str | None
    model: str  # the architecture
    num_classes: int  # the background included
    source: str  # of the images: "given", or a sentence about those that frcnn brings along
    images: tuple[ImageInfo, ...]
    skipped: tuple[Skipped, ...]
    equal_size: Size | None  # that images were resized to for candidates of images="equal-sized"
    canvases: tuple[Size, ...]  # that the network saw, each once
    proposals: tuple[int, ...]  # per image after the RPN's NMS, by eager
    detections: tuple[int, ...]  # per image, by eager
    batches: tuple[int, ...]


class EngineInfo(Record, frozen=True, kw_only=True):
    """What an engine artifact's manifest says of its engines."""

    target: Target
    version: str  # of the target's library
    form: Form
    precision: Precision


class Artifact(Record, frozen=True, kw_only=True):
    """The file that a candidate ran, and whether the run itself built it."""

    name: str
    size_bytes: int
    sha256: str
    built_here: bool


class Correctness(Record, frozen=True, kw_only=True):
    """How a candidate's detections compare with eager's in this run, by the limits of its precision."""

    passed: bool
    limits: str  # in words
    images: int
    expected: int  # eager's detections
    found: int  # the candidate's detections
    matched: int  # pairs of one label
    unmatched: int  # detections of either side without a partner, clear of the cut-off
    relabelled: int  # pairs of different labels
    moved: int  # pairs of less IoU than the limit
    box_px: float  # largest difference of a box coordinate, in pixels of the image
    score: float  # largest difference of scores
    iou: float  # smallest among pairs
    tied: int = 0  # detections of either side that differ by a choice among equal scores only; no pairs


class Ratio(Record, frozen=True, kw_only=True):
    """How many times as fast as the reference, over the ratios of rounds.

    ``low`` to ``high`` holds the true median with 95 %; with fewer than 6 rounds it is ``min`` to ``max``.
    """

    median: float
    min: float
    max: float
    low: float
    high: float
    rounds: int


class Measure(Record, frozen=True, kw_only=True):
    """Times of a candidate at one batch size; percentiles and the mean are over all calls."""

    scope: Scope
    batch: int
    rounds_ms: tuple[tuple[float, ...], ...]  # the time of every call, in the order they were made
    warm_up: int  # untimed calls before the first round
    p50_ms: float
    p90_ms: float  # MLPerf's figure for a single stream
    p99_ms: float  # interpolated; with fewer than 100 calls it is close to the largest
    mean_ms: float
    fps: float  # images of all calls / time of all calls
    ratio: Ratio | None  # None for a candidate that is its own reference


class StageShare(Record, frozen=True, kw_only=True):
    """Median time of one stage of an image, and its share of all stages, 0 to 1.

    ``decode`` is the file's bytes -> RGB; it is no part of the scope ``images``.
    """

    name: StageName
    ms: float
    share: float


class Row(Record, frozen=True, kw_only=True):
    """A candidate, one way to run the model, and what was measured of it."""

    id: str  # short and stable: "eager-fp32", "onnxruntime-cpu", ...
    name: str
    backend: str  # "torch", "onnxruntime", "openvino", "tensorrt-rtx" or "tensorrt"
    device: str  # "cpu" or "cuda"
    precision: str  # of the heavy layers
    images: Literal["as given", "equal-sized"]  # equal-sized: resized to workload.equal_size first, untimed
    reference: str  # id of the candidate that its ratios refer to: eager fp32 on the same images
    status: Status
    reason: str  # why it is not ok, one line
    note: str = ""  # what a reader must know to judge the figures
    artifact: Artifact | None = None  # None for eager
    engine: EngineInfo | None = None  # None for all but an engine artifact that was loaded
    build_s: float | None = None  # checkpoint -> artifact, or torch.compile's first calls; None where it was given
    load_s: float | None = None  # file, or a model in memory for eager -> a candidate that is ready to run
    peak_host_bytes: int | None = None  # growth of resident memory from before loading to the peak of the first calls
    peak_gpu_bytes: int | None = None  # the same of the GPU's memory
    correctness: Correctness | None = None  # None where it was not checked; the reason tells why
    measures: tuple[Measure, ...] = ()
    missing: tuple[str, ...] = ()  # why a scope or batch size has no measure: "images, batch 8: ..."
    stages: tuple[StageShare, ...] = ()  # at batch 1; empty where it cannot be told
    of_roofline: float | None = None  # minimum time of the network / its time at batch 1

    def measure(self, scope: Scope, batch: int) -> Measure | None:
        """Return the measure of a scope and batch size, or None."""
        return next((m for m in self.measures if (m.scope, m.batch) == (scope, batch)), None)


class CurvePoint(Record, frozen=True, kw_only=True):
    """One point: x in the curve's unit, the time of a call (quartiles), and images per second."""

    x: float
    low_ms: float
    median_ms: float
    high_ms: float
    fps: float


class Curve(Record, frozen=True, kw_only=True):
    """How a candidate's cost grows with one thing, all else as in the workload."""

    kind: CurveKind
    row: str
    unit: str  # of x: "images", "megapixels of the canvas", "proposals" or "classes"
    points: tuple[CurvePoint, ...]  # by rising x
    note: str = ""  # what was changed, and how; empty where that is plain


class Ceilings(Record, frozen=True, kw_only=True):
    """What the device can do at best, measured in the same run."""

    device: str
    copy_bytes_per_s: float  # read and written
    matmul_flops_per_s: dict[str, float]  # by precision; multiplications and additions


class Work(Record, frozen=True, kw_only=True):
    """What one stage of the network has to do for one image, counted from the graph.

    Each layer reads its inputs and weights and writes its outputs once. Layers that a compiler merges into a neighbour
    (activations, sums, changes of shape) move nothing.
    """

    stage: StageName
    flops: float  # multiplications and additions of convolutions and matrix products
    bytes: float


class Roofline(Record, frozen=True, kw_only=True):
    """The minimum time of the network, layer by layer, for one image of the canvas (height, width)."""

    canvas: Size
    work: tuple[Work, ...]
    ceilings: tuple[Ceilings, ...]
    floors_ms: dict[str, float]  # "cpu fp32" -> sum over layers of max(flops / matmul rate, bytes / copy rate)


class NotToldApart(Record, frozen=True, kw_only=True):
    """Two candidates whose difference is within this run's noise, at one scope and batch size."""

    first: str
    second: str
    scope: Scope
    batch: int


class NoiseVerdict(Record, frozen=True, kw_only=True):
    """Whether the system was quiet enough."""

    row: str | None  # the candidate that ran as two, interleaved as the others: the null pair
    null: Ratio | None  # between the two; 1 on a quiet system
    noise: float | None  # relative difference that this run cannot tell from none: 0.02 is 2 %
    too_noisy: bool  # the noise is above the limit
    limit: float
    not_told_apart: tuple[NotToldApart, ...]
    how: str  # how it was decided, in words


class Change(Record, frozen=True, kw_only=True):
    """One figure then and now.

    ``regression`` is slower by more than the limit, beyond both runs' noise and rounds, or no longer ``ok``. ``same``
    is within the limit, the noise or the rounds. ``not comparable`` is in one run only, or has too few rounds.
    """

    row: str
    name: str
    scope: Scope | None  # None, like the batch, for a status
    batch: int | None
    what: str  # "x eager" (ratio to the reference) or "status"
    old: str
    new: str
    change: float | None  # new / old - 1; negative is slower
    verdict: Verdict
    reason: str = ""  # why it is the same or not comparable


class Comparison(Record, frozen=True, kw_only=True):
    """What changed since an earlier run."""

    file: str
    limit: float  # a loss larger than this is a regression: 0.05 is 5 %
    notes: tuple[str, ...]  # what differs apart from the code: system, versions, threads, checkpoint
    changes: tuple[Change, ...]


class Results(Record, frozen=True, kw_only=True):
    """A run."""

    schema_version: int
    environment: Environment
    workload: Workload
    rows: tuple[Row, ...]  # eager fp32 first; those that could not run are among them
    curves: tuple[Curve, ...]
    roofline: Roofline | None  # None where the graph could not be counted
    noise: NoiseVerdict
    comparison: Comparison | None = None  # with --against
    partial: bool = False  # the run ended early; what is here was measured in full
    partial_reason: str = ""

    def row(self, row_id: str) -> Row | None:
        """Return a row by its id, or None."""
        return next((row for row in self.rows if row.id == row_id), None)

    def write(self, path: Path) -> None:
        """Write the results; the file is there in full or not at all.

        Of a name that is not UTF-8, which msgspec refuses, it has ``?`` for the other bytes.
        """
        plain = json.dumps(msgspec.to_builtins(self), ensure_ascii=False).encode(errors="replace")
        text = msgspec.json.encode(json.loads(plain, parse_constant=lambda _: None))
        write_text(path, msgspec.json.format(text, indent=1).decode() + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read results, strictly."""
        try:
            text = path.read_bytes()
        except OSError as error:
            raise ArtifactError(
                f"cannot read {path}: {one_line(error)}", hint="give a results.json of frcnn bench"
            ) from error
        return read_versioned(text, cls, SCHEMA_VERSION, source=str(path), remake="run frcnn bench again")
