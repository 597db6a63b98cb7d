"""Profile a ``model.onnx`` in ONNX Runtime on the processor, with what the runtime does around it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from statistics import median

import numpy as np

from frcnn.benchmarks.profile.inputs import Inputs
from frcnn.benchmarks.profile.onnx_runs import ProfiledSession, RanLayer, profiled_session
from frcnn.benchmarks.profile.profile import LayerRun, Measured, StageName
from frcnn.errors import UsageError
from frcnn.runtime.backend import Device
from frcnn.runtime.host.onnxruntime_backend import OnnxRuntimeBackend
from frcnn.runtime.host.onnxruntime_providers import Provider, chosen_provider
from frcnn.runtime.images.image import RGBImage
from frcnn.runtime.images.preprocess import boxes_in_image, with_pixels
from frcnn.runtime.model_files.artifact import OnnxArtifact

__all__ = ["check_on_processor", "profile_onnx"]

Report = Callable[[str, float], None]


def check_on_processor(device: Device | None, provider: Provider | None) -> None:
    """Refuse to profile a ``model.onnx`` on a GPU.

    Raises:
        UsageError: another device or provider than the processor is asked for, or two that do not go together.
    """
    where: Device = device or ("cpu" if provider in (None, "cpu") else "cuda")
    if chosen_provider(where, provider) != "cpu":
        raise UsageError(
            f"device {where!r}: of a model.onnx only the processor can be profiled: on a GPU ONNX Runtime's profiler "
            "times launches, not the work",
            hint="profile an engine: frcnn build model.onnx -o model.frcnn; whole runs are timed by frcnn bench",
        )


def profile_onnx(
    artifact: OnnxArtifact, inputs: Inputs, *, batch: int, repeats: int, threads: int, report: Report
) -> Measured:
    """Run a model once to warm up and then ``repeats`` times, with and without the profiler in turn.

    Args:
        artifact: the model.
        inputs: images, taken in turn.
        batch: images at a time.
        repeats: measured runs.
        threads: of one operator.
        report: called with the work going on and the share of all that is done.

    Raises:
        ArtifactError: ONNX Runtime cannot run it on the processor.
        MissingDependencyError: ONNX Runtime is not installed.
    """
    plain = OnnxRuntimeBackend(artifact.path, threads=threads)
    clock = _Clock()
    with closing(plain), profiled_session(artifact.path, threads=threads) as profiled:
        for run in range(repeats + 1):
            report("profiling", run / (repeats + 1))
            _once(clock, artifact, plain, profiled, inputs, inputs.batch(max(run - 1, 0), batch))
        runs = [[_layer(ran) for ran in layers] for layers in profiled.finish()][1:]
    ms = {stage: times[1:] for stage, times in clock.ms.items()}
    between = [
        max(0.0, whole - sum(layer.ms for layer in run)) for whole, run in zip(ms["profiled"], runs, strict=True)
    ]
    more: dict[StageName, list[float]] = {"preprocess": ms["preprocess"], "post": ms["post"], "between layers": between}
    return Measured(
        device="cpu",
        runs=runs,
        more=more | ({"decode": ms["decode"]} if inputs.files else {}),
        network_ms=median(ms["plain"]),
        profiled_ms=median(ms["profiled"]),
    )


class _Clock:
    """Collects milliseconds by stage."""

    def __init__(self) -> None:
        self.ms: defaultdict[str, list[float]] = defaultdict(list)

    @contextmanager
    def times(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.ms[stage].append((time.perf_counter() - started) * 1e3)


def _once(
    clock: _Clock,
    artifact: OnnxArtifact,
    plain: OnnxRuntimeBackend,
    profiled: ProfiledSession,
    inputs: Inputs,
    chosen: Sequence[int],
) -> None:
    """Do what the runtime does with a batch, the network twice: as it is, and with the profiler."""
    if inputs.files:
        with clock.times("decode"):
            for index in chosen:
                RGBImage.open(inputs.files[index])
    with clock.times("preprocess"):
        prepared = [with_pixels(inputs.placed[index], artifact.manifest.model.transform) for index in chosen]
        images = np.stack([item.pixels for item in prepared]) if len(prepared) > 1 else prepared[0].pixels[None]
    sizes = np.array([item.resized for item in prepared], np.int32)
    with clock.times("plain"):
        output = plain.run(images, sizes)
    with clock.times("profiled"):
        kind = np.float16 if artifact.manifest.precision == "fp16" else np.float32
        profiled.run({"images": images.astype(kind, copy=False), "image_sizes": sizes})
    with clock.times("post"):
        for count, boxes, item in zip(output.num_detections, output.boxes, prepared, strict=True):
            boxes_in_image(boxes[: int(count)], item)


def _layer(ran: RanLayer) -> LayerRun:
    gflop = None if ran.flops is None else ran.flops / 1e9
    return LayerRun(name=ran.name, op=ran.op, stage=ran.stage, ms=ran.ms, gflop=gflop)
