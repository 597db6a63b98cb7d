"""A whole run: from a checkpoint and images to results, within a time."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch

from frcnn.benchmarks.candidates.artifacts import onnx_manifest
from frcnn.benchmarks.candidates.candidate import (
    EAGER_ID,
    RESTATED_ID,
    Candidate,
    Report,
    Task,
    padded_canvas,
    reason_of,
)
from frcnn.benchmarks.candidates.eager import EagerRunner
from frcnn.benchmarks.candidates.eager_detector import EagerDetector, match_export, to_tensor
from frcnn.benchmarks.candidates.images import Images
from frcnn.benchmarks.candidates.trainer_models import TrainerModel
from frcnn.benchmarks.profile.onnx_profile import work_of_layers
from frcnn.benchmarks.report.results import SCHEMA_VERSION, Curve, GpuState, ImageInfo, Results, Roofline, Workload
from frcnn.benchmarks.timing.ceilings import measure_ceilings, roofline_of
from frcnn.benchmarks.timing.curves import batch_curves, size_curves, variant_curves
from frcnn.benchmarks.timing.environment import gpu_state, load_average, now, read_environment, read_gpu
from frcnn.benchmarks.timing.measure import Limits
from frcnn.benchmarks.timing.session import Loaded, Session
from frcnn.benchmarks.timing.stage_shares import decode_ms, eager_stages, onnx_stages, shares
from frcnn.console import warn
from frcnn.runtime import RGBImage
from frcnn.runtime.host.onnxruntime_backend import OnnxRuntimeBackend
from frcnn.runtime.images.preprocess import prepare
from frcnn.spec import Manifest

_CHECK_SHARE: Final = 0.03
_MIN_CHECK_IMAGES: Final = 2

Suite = Literal["quick", "full"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How thorough a run is."""

    suite: Suite
    budget_s: float  # for everything, building included; measuring takes what is left of it
    min_measuring_s: float  # that measuring gets even where building took it all
    check_images: int  # most that are compared with eager; fewer, but 2, where eager takes long
    curves_s: float  # for each curve
    export_curves: bool  # whether ours is exported anew for the curves that need it, while time is left
    batches: tuple[int, ...] = (1, 2, 4, 8)


SUITES: Final[dict[Suite, Plan]] = {
    "quick": Plan(
        suite="quick", budget_s=240.0, min_measuring_s=60.0, check_images=8, curves_s=8.0, export_curves=False
    ),
    "full": Plan(
        suite="full", budget_s=1800.0, min_measuring_s=600.0, check_images=16, curves_s=60.0, export_curves=True
    ),
}


@dataclass
class BenchRun:
    """Runs stage after stage; the results so far can be read at any moment."""

    task: Task
    candidates: InitVar[Sequence[Candidate]]
    images: Images
    plan: Plan
    checkpoint: str | None
    command: str
    report: Report = lambda what, share: None
    own: InitVar[TrainerModel | None] = None

    def __post_init__(self, candidates: Sequence[Candidate], own: TrainerModel | None) -> None:
        """Begin: the time counts from here."""
        task, plan = self.task, self.plan
        self._started = time.perf_counter()
        self._date, self._load_before = now(), load_average()
        self._gpu_states: list[GpuState] = []
        eager = EagerDetector(task.model, task.spec, own)
        self._truth = functools.cache(eager.detect)  # images are told apart by identity
        self.session = Session(
            task,
            candidates,
            self._truth,
            batches=plan.batches,
            check_images=plan.check_images,
            alternatives=functools.cache(eager.alternatives),
        )
        self._proposals: tuple[int, ...] = ()
        self._detections: tuple[int, ...] = ()
        self._curves: list[Curve] = []
        self._roofline: Roofline | None = None

    def go(self) -> None:
        """Do everything; an interrupt leaves what was done."""
        plan = self.plan
        self._note_gpu("before")
        self._count_objects(self._choose_images())
        self.session.load(lambda what, share: self.report(what, 0.35 * share))
        spent = time.perf_counter() - self._started
        later = plan.curves_s * 3 + 0.1 * plan.budget_s
        limits = Limits(budget_s=max(plan.min_measuring_s, plan.budget_s - spent - later))
        self.session.measure(limits, lambda what, share: self.report(what, 0.35 + 0.5 * share))
        self._note_gpu("after the rounds")
        looks = {"stages": self._find_stages, "roofline": self._find_roofline, "curves": self._find_curves}
        for what, look in looks.items():
            self.report(what, 0.87)
            try:
                look()
            except Exception as error:  # a closer look that fails leaves the measures as they are
                warn(f"{what} could not be measured: {reason_of(error)}")
        self._note_gpu("after")

    def results(self, *, partial: str = "") -> Results:
        """Return what was measured so far; ``partial`` tells why the run ended early."""
        task, rows = self.task, self.session.rows()
        has_equal = any(item.candidate.images == "equal-sized" for item in self.session.loaded)
        return Results(
            schema_version=SCHEMA_VERSION,
            environment=read_environment(
                command=self.command,
                threads=task.threads,
                load_before=self._load_before,
                date=self._date,
                gpu=read_gpu(self._gpu_states),
            ),
            workload=Workload(
                suite=self.plan.suite,
                device=task.device,
                budget_s=self.plan.budget_s,
                checkpoint=self.checkpoint,
                checkpoint_sha256=task.sha256,
                model=task.spec.architecture,
                num_classes=task.spec.num_classes,
                source=self.images.source,
                images=tuple(ImageInfo(name=Path(image.name).name, size=image.size) for image in task.images),
                skipped=self.images.skipped,
                equal_size=task.equal_images[0].size if has_equal else None,
                canvases=tuple(dict.fromkeys(padded_canvas(task.spec, image) for image in task.images)),
                proposals=self._proposals,
                detections=self._detections,
                batches=self.plan.batches,
            ),
            rows=rows,
            curves=(*batch_curves(rows), *self._curves),
            roofline=self._roofline,
            noise=self.session.noise(),
            partial=bool(partial),
            partial_reason=partial,
        )

    def _choose_images(self) -> Sequence[RGBImage]:
        """Return the images that are checked: as many as eager finds its way through in a share of the budget."""
        task = self.task
        eager_s = math.inf
        for image in task.images[:_MIN_CHECK_IMAGES]:
            started = time.perf_counter()
            self._truth(image, padded_canvas(task.spec, image))
            eager_s = min(eager_s, time.perf_counter() - started)
        in_time = int(_CHECK_SHARE * self.plan.budget_s / eager_s)
        count = min(self.plan.check_images, max(_MIN_CHECK_IMAGES, in_time))
        self.session.check_images = count
        return task.images[:count]

    @torch.inference_mode()
    def _count_objects(self, chosen: Sequence[RGBImage]) -> None:
        """Count proposals and detections of the images that are checked."""
        task = self.task
        match_export(task.model, task.spec)
        proposals = []
        for image in chosen:
            images, _ = task.model.transform([to_tensor(image)])
            maps = task.model.backbone(images.tensors)
            found, _ = task.model.rpn(images, maps if isinstance(maps, dict) else {"0": maps})
            proposals.append(len(found[0]))
        self._proposals = tuple(proposals)
        self._detections = tuple(len(self._truth(image, padded_canvas(task.spec, image))) for image in chosen)
        if not any(self._detections):
            warn("eager finds nothing in these images: agreement with it means little; give images with --images")

    def _note_gpu(self, when: str) -> None:
        if torch.cuda.is_available() and (state := gpu_state(when)) is not None:
            self._gpu_states.append(state)

    def _find_stages(self) -> None:
        task = self.task
        decoding = decode_ms(task.images[:8], self.images.files[:8])
        for item in self.session.loaded:
            if isinstance(item.runner, EagerRunner) and item.candidate.id in (EAGER_ID, RESTATED_ID):
                item.note(stages=shares({"decode": decoding, **eager_stages(item.runner, task.images[0])}))
        for item, path in self._our_files():
            item.note(stages=shares({"decode": decoding, **onnx_stages(path, task.images[0], threads=task.threads)}))

    def _find_roofline(self) -> None:
        if (found := self._our_float32()) is None:
            return
        path, manifest = found
        placed = prepare(self.task.images[0], manifest)
        feeds = {"images": placed.pixels[None], "image_sizes": np.array([placed.resized], np.int32)}
        layers = work_of_layers(path, feeds, threads=self.task.threads)
        devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        self._roofline = roofline_of(layers, placed.canvas, [measure_ceilings(device) for device in devices])
        for item, row in zip(self.session.loaded, self.session.rows(), strict=True):
            floor, measure = self._roofline.floors_ms.get(f"{row.device} {row.precision}"), row.measure("network", 1)
            if floor is not None and measure is not None:
                item.note(of_roofline=floor / measure.p50_ms)

    def _find_curves(self) -> None:
        plan, task = self.plan, self.task
        canvas = padded_canvas(task.spec, task.images[0])
        if (found := self._our_float32()) is not None and found[1].canvases is None:
            network = OnnxRuntimeBackend(found[0], threads=task.threads)
            self._curves += size_curves(task, network, canvas, budget_s=plan.curves_s)
            network.close()
        until = self._started + plan.budget_s if plan.export_curves else -math.inf
        self._curves += variant_curves("RoIs", task, canvas, budget_s=plan.curves_s, export_until=until)
        self._curves += variant_curves("classes", task, canvas, budget_s=plan.curves_s, export_until=until)

    def _our_files(self) -> list[tuple[Loaded, Path]]:
        """Return the candidates that run a ``model.onnx`` of ours on the CPU, with their files."""
        ours = (item for item in self.session.loaded if item.candidate.id.startswith("onnxruntime-cpu"))
        return [(item, item.file.path) for item in ours if item.runner is not None and item.file is not None]

    def _our_float32(self) -> tuple[Path, Manifest] | None:
        manifests = ((path, onnx_manifest(path)) for _, path in self._our_files())
        return next((found for found in manifests if found[1].precision == "fp32"), None)
