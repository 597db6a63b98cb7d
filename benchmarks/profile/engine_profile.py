"""Profile an engine artifact on a GPU: every step between two CUDA events, and the layers that its engines report.

TensorRT waits for every layer that it reports; ONNX Runtime reports none. So an artifact is run in three ways: as one
CUDA graph, as in use; step by step with events between; and the same with layers reported. The first tells the overhead
of the others.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import median

from frcnn.benchmarks.candidates.candidate import Report
from frcnn.benchmarks.profile.inputs import Inputs
from frcnn.benchmarks.profile.profile import LayerRun, Measured, StageName, stages_in_order
from frcnn.runtime.gpu.device import Device, Engine, Event
from frcnn.runtime.gpu.pipeline import Launched, Pipeline, PipelineKey
from frcnn.runtime.gpu.program import load_program
from frcnn.runtime.gpu.worker import Worker
from frcnn.runtime.images.canvases import EngineCanvases
from frcnn.runtime.images.image import RGBImage
from frcnn.runtime.images.preprocess import boxes_in_image
from frcnn.runtime.model_files.engine_artifact import EngineArtifact

_Layers = list[tuple[str, float]]
"""Names and milliseconds of layers, as engines report them."""


def profile_engine(
    artifact: EngineArtifact,
    device: Device,
    engines: Mapping[str, Engine],
    inputs: Inputs,
    *,
    batch: int,
    repeats: int,
    report: Report,
    warn: Callable[[str], None],
) -> Measured:
    """Run an artifact ``repeats`` times in each of the three ways.

    The device is active on this thread; the caller closes it and the engines, which are given by part.
    """
    profile, size = EngineCanvases(artifact.manifest).batch_to_run(batch, inputs.canvas)
    if size > batch:
        warn(f"the engine runs {size} images at the least: {size} are timed, {batch} of them asked for")
    program = load_program(artifact.manifest, artifact.read_part, engines, device)
    with ExitStack() as stack:
        worker = Worker(program, device, warn)
        stack.callback(worker.close)
        key = PipelineKey(size, inputs.canvas, True)
        runner = _Runner(device=device, worker=worker, inputs=inputs, key=key, profile=profile, batch=batch, warn=warn)
        stack.callback(runner.close)
        for _ in range(2):  # plainly, then captured
            runner.whole_ms(0)
        whole_ms, plain, reported = [], [], []
        for run in range(repeats):
            report("timing steps", run / repeats / 2)
            whole_ms.append(runner.whole_ms(run))
            plain.append(runner.in_steps(run))
        runner.report_layers()
        runner.in_steps(0)
        for run in range(repeats):
            report("timing layers", (run + repeats) / repeats / 2)
            reported.append(runner.in_steps(run))
    if not any(layers for run in reported for _, _, layers in run.steps):
        warn("the engines reported no layers: they are shown as a whole, between layers")
    more: dict[StageName, list[float]] = {
        "copies": [run.pixels_ms + run.sum_ms("upload", "download") for run in plain],
        "preprocess": [run.sum_ms("preprocess") for run in plain],
        "post": [run.post_ms for run in plain],
        "between layers": [
            max(0.0, a.sum_ms("engine") - sum(ms for _, _, layers in b.steps for _, ms in layers))
            for a, b in zip(plain, reported, strict=True)
        ],
    }
    return Measured(
        device=device.name,
        runs=[_layers(a, b) for a, b in zip(plain, reported, strict=True)],
        more=more | ({"decode": [run.decode_ms for run in plain]} if inputs.files else {}),
        network_ms=median(whole_ms),
        profiled_ms=median(sum(ms for _, ms, _ in run.steps) for run in reported),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """A detection: decoding and scaling boxes by the clock, the copy of the pixels and the steps by events.

    A step is a launch, its milliseconds, and the layers that were reported of it.
    """

    decode_ms: float
    pixels_ms: float
    steps: Sequence[tuple[Launched, float, _Layers]]
    post_ms: float

    def sum_ms(self, *kinds: str) -> float:
        return sum(ms for launched, ms, _ in self.steps if launched.kind in kinds)


@dataclass(slots=True, kw_only=True)
class _Runner:
    """Runs batches on one worker, with events where they are wanted."""

    device: Device
    worker: Worker
    inputs: Inputs
    key: PipelineKey
    profile: int
    batch: int
    warn: Callable[[str], None]
    events: list[Event] = field(default_factory=list)
    reported: _Layers = field(default_factory=list)

    def whole_ms(self, run: int) -> float:
        """Run as one graph; return the time from the first upload to the detections, without the pixels."""
        pipeline = self._upload(run)
        self._mark(0)
        pipeline.launch(self.worker.stream, self.warn)
        self._mark(1)
        self.device.synchronize(self.worker.stream)
        return self._between_ms(0)

    def in_steps(self, run: int) -> _Run:
        """Run step by step, with an event behind each."""
        chosen = self.inputs.batch(run, self.batch)
        started = time.perf_counter()
        for index in chosen if self.inputs.files else ():
            RGBImage.open(self.inputs.files[index])
        decode_ms = (time.perf_counter() - started) * 1e3
        self._mark(0)
        pipeline = self._upload(run)
        self._mark(1)
        launches: list[tuple[Launched, _Layers]] = []

        def after(launched: Launched) -> None:
            launches.append((launched, list(self.reported)))
            self.reported.clear()
            self._mark(len(launches) + 1)

        pipeline.launch_in_steps(self.worker.stream, after)
        self.device.synchronize(self.worker.stream)
        steps = [(launched, self._between_ms(i), layers) for i, (launched, layers) in enumerate(launches, 1)]
        pixels_ms, started = self._between_ms(0), time.perf_counter()
        for row, index in enumerate(chosen):
            count = int(pipeline.outputs["num_detections"][row])
            boxes_in_image(pipeline.outputs["boxes"][row, :count], self.inputs.placed[index])
        post_ms = (time.perf_counter() - started) * 1e3
        return _Run(decode_ms=decode_ms, pixels_ms=pixels_ms, steps=steps, post_ms=post_ms)

    def report_layers(self) -> None:
        self._upload(0).report_layers(lambda name, ms: self.reported.append((name, ms)))

    def close(self) -> None:
        with ExitStack() as stack:
            for event in self.events:
                stack.callback(event.close)

    def _mark(self, index: int) -> None:
        if index == len(self.events):
            self.events.append(self.device.create_event())
        self.events[index].record(self.worker.stream)

    def _between_ms(self, index: int) -> float:
        return self.events[index + 1].ms_since(self.events[index])

    def _upload(self, run: int) -> Pipeline:
        placed = [self.inputs.placed[index] for index in self.inputs.batch(run, self.batch)]
        return self.worker.upload(self.key, self.profile, placed, ())


def _layers(plain: _Run, reported: _Run) -> list[LayerRun]:
    """Return the layers of the engines as reported, and the operators' kernels as timed without that.

    Names that occur again are numbered: two engines, or one that runs a layer twice, may report the same.
    """
    items: list[tuple[str, str, float]] = []
    for (launched, step_ms, _), (_, _, layers) in zip(plain.steps, reported.steps, strict=True):
        if launched.kind == "operator":
            items.append((launched.name, "kernel", step_ms))
        items += [(name, "", ms) for name, ms in layers]
    seen: Counter[str] = Counter()
    runs = []
    for (name, op, ms), stage in zip(items, stages_in_order([name for name, _, _ in items]), strict=True):
        seen[name] += 1
        unique = name if seen[name] == 1 else f"{name} #{seen[name]}"
        runs.append(LayerRun(name=unique, op=op, stage=stage, ms=ms))
    return runs
