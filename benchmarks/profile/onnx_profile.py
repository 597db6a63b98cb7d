"""Profile a ``model.onnx`` in ONNX Runtime on the processor, with what the runtime does around it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from statistics import median

import numpy as np

from frcnn.benchmarks.profile.inputs import Inputs
from frcnn.benchmarks.profile.onnx_layers import profiled_session
from frcnn.benchmarks.profile.profile import Measured, Report, StageName
from frcnn.errors import UsageError
from frcnn.runtime.backend import Device
from frcnn.runtime.host.onnxruntime_backend import OnnxRuntimeBackend
from frcnn.runtime.host.providers import Provider, RunPrecision, check_precision, chosen_provider
from frcnn.runtime.images.image import RGBImage
from frcnn.runtime.images.preprocess import boxes_in_image, with_pixels
from frcnn.runtime.model_files.artifact import OnnxArtifact


def check_on_processor(device: Device | None, provider: Provider | None, precision: RunPrecision | None = None) -> None:
    """Refuse to profile a ``model.onnx`` on a GPU, or in another library than ONNX Runtime."""
    chosen = chosen_provider(device, provider)
    check_precision(chosen, precision)
    if chosen in ("openvino", "tuned"):
        raise UsageError(
            f"provider: only the layers of ONNX Runtime can be timed, got {chosen!r}",
            hint="leave provider out; whole runs are timed by frcnn bench",
        )
    if chosen != "cpu":
        raise UsageError(
            "device 'cuda': of a model.onnx only the processor can be profiled: on a GPU ONNX Runtime's profiler "
            "times launches, not the work",
            hint="profile an engine: frcnn build model.onnx -o model.frcnn; whole runs are timed by frcnn bench",
        )


def profile_onnx(
    artifact: OnnxArtifact,
    inputs: Inputs,
    *,
    batch: int,
    repeats: int,
    threads: int,
    report: Report = lambda what, share: None,
) -> Measured:
    """Do what the runtime does with a batch, the network with and without the profiler; once more to warm up."""
    ms: defaultdict[str, list[float]] = defaultdict(list)

    @contextmanager
    def timing(stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        ms[stage].append((time.perf_counter() - started) * 1e3)

    manifest, plain = artifact.manifest, OnnxRuntimeBackend(artifact.path, threads=threads)
    dtype = np.float16 if manifest.precision == "fp16" else np.float32
    with closing(plain), profiled_session(artifact.path, threads=threads) as profiled:
        for run in range(repeats + 1):
            report("profiling", run / (repeats + 1))
            chosen = inputs.batch(max(run - 1, 0), batch)
            if inputs.files:
                with timing("decode"):
                    for index in chosen:
                        RGBImage.open(inputs.files[index])
            with timing("preprocess"):
                prepared = [with_pixels(inputs.placed[index], manifest.model.transform) for index in chosen]
                images = np.stack([item.pixels for item in prepared]) if batch > 1 else prepared[0].pixels[None]
            sizes = np.array([item.resized for item in prepared], np.int32)
            with timing("plain"):
                output = plain.run(images, sizes)
            with timing("profiled"):
                profiled.run({"images": images.astype(dtype, copy=False), "image_sizes": sizes})
            with timing("post"):
                for count, boxes, item in zip(output.num_detections, output.boxes, prepared, strict=True):
                    boxes_in_image(boxes[: int(count)], item)
        runs = profiled.finish()[1:]
    ms.update({stage: times[1:] for stage, times in ms.items()})
    more: dict[StageName, list[float]] = {
        "preprocess": ms["preprocess"],
        "post": ms["post"],
        "between layers": [
            max(0.0, whole - sum(layer.ms for layer in run)) for whole, run in zip(ms["profiled"], runs, strict=True)
        ],
    }
    return Measured(
        device="cpu",
        runs=runs,
        more=more | ({"decode": ms["decode"]} if inputs.files else {}),
        network_ms=median(ms["plain"]),
        profiled_ms=median(ms["profiled"]),
    )
