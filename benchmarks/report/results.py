"""``results.json``: what a benchmark run measured, and everything needed to read or repeat it.

Times are milliseconds unless a name ends in ``_s`` (seconds). A *call* is one batch: a measure's samples are the times
of calls, and ``fps`` counts images. Every number was measured in the run that wrote it; what was not is None.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, Self

import msgspec

from frcnn.errors import ArtifactError
from frcnn.files import write_text
from frcnn.spec import Record, Size, read_versioned

__all__ = [
    "SCHEMA_VERSION",
    "Artifact",
    "Ceilings",
    "Change",
    "Comparison",
    "Correctness",
    "Curve",
    "CurvePoint",
    "Environment",
    "Gpu",
    "GpuState",
    "ImageInfo",
    "Measure",
    "NoiseVerdict",
    "NotToldApart",
    "Ratio",
    "Results",
    "Roofline",
    "Row",
    "Scope",
    "Skipped",
    "StageShare",
    "Status",
    "Verdict",
    "Work",
    "Workload",
]

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
    """What a GPU reports at one moment; ``throttling`` has nvidia-smi's reasons for a lowered clock."""

    when: str
    sm_clock_mhz: int | None
    memory_clock_mhz: int | None
    power_w: float | None
    temperature_c: float | None
    throttling: tuple[str, ...]


class Gpu(Record, frozen=True, kw_only=True):
    """The GPU that candidates of device ``cuda`` ran on; ``states`` are in the order of time."""

    name: str
    driver: str
    compute_capability: str
    memory_bytes: int
    states: tuple[GpuState, ...]


class Environment(Record, frozen=True, kw_only=True):
    """The system, and how the run was started.

    Attributes:
        system: its architecture, like ``"x86_64"``.
        cores: logical processors of the system.
        affinity: the logical processors that the run was allowed to use; frcnn does not change them.
        threads: threads of each candidate: torch's intra-op threads, ONNX Runtime's, OpenVINO's.
        governor: of the first core's clock; None, like the following, where the system does not tell.
        turbo: whether the clock may rise above the base clock.
        load_before: processes ready to run (1 minute's mean) before the run.
        load_after: the same at the end; the run itself is in it.
        packages: package -> version, of all that is installed and took part.
        date: when the run began, ISO 8601 with the offset to UTC.
        command: the command line that repeats the run.
    """

    system: str
    cpu: str
    cores: int
    affinity: tuple[int, ...]
    threads: int
    governor: str | None
    turbo: bool | None
    load_before: float | None
    load_after: float | None
    memory_bytes: int | None
    gpu: Gpu | None
    packages: dict[str, str]
    frcnn: str
    python: str
    os: str
    date: str
    command: str


class ImageInfo(Record, frozen=True, kw_only=True):
    """An image of the run: its name and (height, width) in pixels."""

    name: str
    size: Size


class Skipped(Record, frozen=True, kw_only=True):
    """An input that could not be used, and why."""

    name: str
    reason: str


class Workload(Record, frozen=True, kw_only=True):
    """What every candidate had to do.

    Attributes:
        suite: ``"quick"`` or ``"full"``.
        device: ``"cpu"`` or ``"cuda"``: where eager ran.
        budget_s: the time that the run was given.
        checkpoint: its file name; None where the weights are random.
        model: the architecture.
        num_classes: the background included.
        source: where the images come from: ``"given"``, or a sentence about those that frcnn brings along.
        equal_size: (height, width) that images were resized to for candidates of ``images="equal-sized"``; None where
            there was none.
        canvases: (height, width) in pixels that the network saw, each once.
        proposals: per image after the RPN's NMS, by eager.
        detections: per image, by eager.
    """

    suite: str
    device: str
    budget_s: float
    checkpoint: str | None
    checkpoint_sha256: str | None
    model: str
    num_classes: int
    source: str
    images: tuple[ImageInfo, ...]
    skipped: tuple[Skipped, ...]
    equal_size: Size | None
    canvases: tuple[Size, ...]
    proposals: tuple[int, ...]
    detections: tuple[int, ...]
    batches: tuple[int, ...]


class Artifact(Record, frozen=True, kw_only=True):
    """The file that a candidate ran, and whether the run itself built it."""

    name: str
    size_bytes: int
    sha256: str
    built_here: bool


class Correctness(Record, frozen=True, kw_only=True):
    """How a candidate's detections compare with eager's in this run, by the limits of its precision.

    Attributes:
        limits: in words.
        images: how many images were compared.
        expected: eager's detections looked at.
        found: the candidate's detections looked at.
        matched: pairs of one label.
        unmatched: detections of either side without a partner, clear of the cut-off.
        relabelled: pairs of different labels.
        moved: pairs of less IoU than the limit.
        box_px: largest difference of a box coordinate, in pixels of the image.
        score: largest difference of scores.
        iou: least IoU among pairs.
    """

    passed: bool
    limits: str
    images: int
    expected: int
    found: int
    matched: int
    unmatched: int
    relabelled: int
    moved: int
    box_px: float
    score: float
    iou: float


class Ratio(Record, frozen=True, kw_only=True):
    """How many times as fast as the reference, by the times of each round.

    Attributes:
        median: over the rounds, like min and max.
        low: lower end of the interval that holds the true median (95 %, or min to max with fewer than 6 rounds).
        high: its upper end.
    """

    median: float
    min: float
    max: float
    low: float
    high: float
    rounds: int


class Measure(Record, frozen=True, kw_only=True):
    """Times of a candidate at one batch size.

    Attributes:
        scope: what one call did.
        batch: images in a call.
        rounds_ms: the time of every call, one list per round, in the order they were made.
        warm_up: untimed calls before the first round.
        p50_ms: median over all calls.
        p90_ms: 90th percentile; MLPerf's figure for a single stream.
        p99_ms: 99th percentile, by interpolation; with fewer than 100 calls it is close to the largest.
        fps: images of all calls / time of all calls.
        ratio: reference's time / this candidate's within rounds; None for one that is its own reference.
    """

    scope: Scope
    batch: int
    rounds_ms: tuple[tuple[float, ...], ...]
    warm_up: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    fps: float
    ratio: Ratio | None


class StageShare(Record, frozen=True, kw_only=True):
    """Time of one stage of an image, in milliseconds (median), and its share of all stages, 0 to 1.

    ``decode`` is the file's bytes -> RGB; it is no part of the scope ``images``.
    """

    name: StageName
    ms: float
    share: float


class Row(Record, frozen=True, kw_only=True):
    """A candidate, one way to run the model, and what was measured of it.

    Attributes:
        id: short and stable, what other fields refer to: ``"eager-fp32"``, ``"onnxruntime-cpu"``, ...
        backend: what executes it: ``"torch"``, ``"onnxruntime"``, ``"openvino"``, ``"tensorrt-rtx"``, ``"tensorrt"``.
        device: ``"cpu"`` or ``"cuda"``.
        precision: of the heavy layers.
        images: ``"as given"``, or ``"equal-sized"``: resized to ``workload.equal_size`` first, untimed.
        reference: id of the candidate that its ratios refer to: eager fp32 on the same images.
        reason: why it is not ``ok``, one line; empty where it is.
        note: what a reader must know to judge the figures; empty where there is nothing.
        artifact: the file it ran; None for eager.
        build_s: time to build the artifact from the checkpoint; for ``torch.compile`` the time of the first calls. None
            where it was given or already there.
        load_s: time from a file (or a model in memory, for eager) to a candidate that is ready to run.
        peak_host_bytes: growth of the process's resident memory from before loading to the peak of the first calls.
        peak_gpu_bytes: the same of the GPU's memory.
        correctness: None where it was not checked; the reason tells why.
        measures: one per scope and batch size that ran.
        missing: why a scope or batch size has no measure: ``"images, batch 8: ..."``.
        stages: where the time of an image goes at batch 1; empty where it cannot be told.
        of_roofline: share of the device's roofline, 0 to 1: floor of the network / its time at batch 1.
    """

    id: str
    name: str
    backend: str
    device: str
    precision: str
    images: Literal["as given", "equal-sized"]
    reference: str
    status: Status
    reason: str
    note: str = ""
    artifact: Artifact | None = None
    build_s: float | None = None
    load_s: float | None = None
    peak_host_bytes: int | None = None
    peak_gpu_bytes: int | None = None
    correctness: Correctness | None = None
    measures: tuple[Measure, ...] = ()
    missing: tuple[str, ...] = ()
    stages: tuple[StageShare, ...] = ()
    of_roofline: float | None = None

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
    """How a candidate's cost grows with one thing, all else as in the workload.

    Attributes:
        row: id of the candidate.
        unit: of x: ``"images"``, ``"megapixels of the canvas"``, ``"proposals"``, ``"classes"``.
        points: by rising x.
        note: what was changed, and how; empty where that is plain.
    """

    kind: CurveKind
    row: str
    unit: str
    points: tuple[CurvePoint, ...]
    note: str = ""


class Ceilings(Record, frozen=True, kw_only=True):
    """What the device can do at best, measured in the same run.

    Attributes:
        copy_bytes_per_s: bytes read and written by a large copy, per second.
        matmul_flops_per_s: precision -> multiplications and additions of a large matrix product, per second.
    """

    device: str
    copy_bytes_per_s: float
    matmul_flops_per_s: dict[str, float]


class Work(Record, frozen=True, kw_only=True):
    """What one stage has to do for one image, counted from the graph.

    Attributes:
        stage: of the network.
        flops: multiplications and additions of its convolutions and matrix products.
        bytes: read and written, layer by layer: each layer's inputs, weights and outputs once. Layers that a compiler
            merges into a neighbour (activations, sums, changes of shape) move nothing.
    """

    stage: StageName
    flops: float
    bytes: float


class Roofline(Record, frozen=True, kw_only=True):
    """The least time that the network can take, layer by layer.

    Attributes:
        canvas: (height, width) that the work was counted for, batch 1.
        work: by stage.
        ceilings: by device.
        floors_ms: ``"device precision"`` (``"cpu fp32"``) -> sum over layers of the larger of flops / matmul rate and
            bytes / copy rate.
    """

    canvas: Size
    work: tuple[Work, ...]
    ceilings: tuple[Ceilings, ...]
    floors_ms: dict[str, float]


class NotToldApart(Record, frozen=True, kw_only=True):
    """Two candidates whose difference is within this run's noise, at one scope and batch size."""

    first: str
    second: str
    scope: Scope
    batch: int


class NoiseVerdict(Record, frozen=True, kw_only=True):
    """Whether the system was quiet enough.

    Attributes:
        row: id of the candidate that ran as two, interleaved as the others: the null pair.
        null: the ratio between the two; 1 on a quiet system.
        noise: relative size of a difference that this run cannot tell from none, from the null pair: 0.02 is 2 %.
        too_noisy: the noise is above ``limit``: differences between candidates should not be trusted.
        not_told_apart: pairs of candidates within the noise.
        how: how it was decided, in words.
    """

    row: str | None
    null: Ratio | None
    noise: float | None
    too_noisy: bool
    limit: float
    not_told_apart: tuple[NotToldApart, ...]
    how: str


class Change(Record, frozen=True, kw_only=True):
    """One figure then and now.

    Attributes:
        row: id of the candidate.
        scope: None, like the batch, for what does not belong to a measure (status).
        what: ``"x eager"`` (ratio to the reference) or ``"status"``.
        change: new / old - 1, where both are numbers; negative is slower.
        verdict: ``regression``: slower by more than the limit, beyond both runs' noise and rounds, or no longer ``ok``.
            ``same``: within the limit, the noise or the rounds. ``not comparable``: in one run only, or too few rounds.
        reason: why it is the same or not comparable.
    """

    row: str
    name: str
    scope: Scope | None
    batch: int | None
    what: str
    old: str
    new: str
    change: float | None
    verdict: Verdict
    reason: str = ""


class Comparison(Record, frozen=True, kw_only=True):
    """What changed since an earlier run.

    Attributes:
        file: the earlier results.
        limit: a loss larger than this is a regression: 0.05 is 5 %.
        notes: what differs between the two runs apart from the code: system, versions, threads, checkpoint.
        changes: one per figure that both runs, or one of them, have.
    """

    file: str
    limit: float
    notes: tuple[str, ...]
    changes: tuple[Change, ...]


class Results(Record, frozen=True, kw_only=True):
    """A run.

    Attributes:
        rows: the candidates, eager fp32 first; those that could not run are among them.
        roofline: None where the graph could not be counted.
        comparison: against an earlier run, with ``--against``.
        partial: the run ended early; what is here was measured in full.
        partial_reason: why, one line.
    """

    schema_version: int
    environment: Environment
    workload: Workload
    rows: tuple[Row, ...]
    curves: tuple[Curve, ...]
    roofline: Roofline | None
    noise: NoiseVerdict
    comparison: Comparison | None = None
    partial: bool = False
    partial_reason: str = ""

    def row(self, row_id: str) -> Row | None:
        """Return a row by its id, or None."""
        return next((row for row in self.rows if row.id == row_id), None)

    def write(self, path: Path) -> None:
        """Write the results; the file is there in full or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        write_text(path, msgspec.json.format(msgspec.json.encode(self), indent=1).decode() + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read results, strictly.

        Raises:
            ArtifactError: the file cannot be read, or is no ``results.json`` of this schema version.
        """
        try:
            text = path.read_bytes()
        except OSError as error:
            raise ArtifactError(
                f"cannot read {path}: {error.strerror}", hint="give a results.json of frcnn bench"
            ) from error
        return read_versioned(text, cls, SCHEMA_VERSION, source=str(path), remake="run frcnn bench again")
