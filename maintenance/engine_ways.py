"""The ways to detect that the engine benchmark compares: eager torchvision, its half-precision forms, and artifacts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torchvision.models.detection import FasterRCNN

from frcnn.benchmarks.candidates.artifacts import AnyManifest
from frcnn.benchmarks.candidates.eager_detector import run_network, to_tensor
from frcnn.errors import ArtifactError, MissingDependencyError, UsageError
from frcnn.runtime import Detector
from frcnn.runtime.images.image import RGBImage
from frcnn.runtime.model_files.artifact import open_artifact
from maintenance.bare_artifact import BareArtifact
from maintenance.engine_timing import Way

__all__ = [
    "EAGER",
    "EAGER_AMP",
    "EAGER_LAST",
    "Loaded",
    "graph_way",
    "image_ways",
    "load_both",
    "load_portable",
    "network_ways",
]

EAGER: Final = "eager fp32"
EAGER_AMP: Final = "eager fp16"
EAGER_LAST: Final = "eager fp16, channels last"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A file that runs, an artifact in both forms; or why it does not.

    Attributes:
        name: which.
        detector: None where it does not run here.
        bare: likewise, and for a ``model.onnx``.
        manifest: what the file says of itself; None where it does not run here.
        refusal: why not.
    """

    name: str
    detector: Detector | None = None
    bare: BareArtifact | None = None
    manifest: AnyManifest | None = None
    refusal: str = ""


def load_both(path: Path, name: str, stack: ExitStack) -> Loaded:
    """Load an artifact; that TensorRT refuses the GPU, or is not there, is an answer, too."""
    try:
        detector = stack.enter_context(Detector.load(path))
        bare = stack.enter_context(BareArtifact(path))
    except (ArtifactError, MissingDependencyError) as error:
        return Loaded(name=name, refusal=str(error))
    return Loaded(name=name, detector=detector, bare=bare, manifest=bare.artifact.manifest)


def load_portable(path: Path, name: str, stack: ExitStack) -> Loaded:
    """Load a ``model.onnx`` on ONNX Runtime's CUDA provider; that it is not there is an answer, too."""
    try:
        detector = stack.enter_context(Detector.load(path, device="cuda"))
    except (ArtifactError, MissingDependencyError, UsageError) as error:
        return Loaded(name=name, refusal=str(error))
    return Loaded(name=name, detector=detector, manifest=open_artifact(path).manifest)


def image_ways(
    eager: FasterRCNN, last: FasterRCNN, loaded: Sequence[Loaded], raw_images: Sequence[RGBImage]
) -> list[Way]:
    """Return the ways from uint8 images in device memory to boxes in device memory.

    Args:
        eager: on the GPU.
        last: the same, channels last.
        loaded: artifacts.
        raw_images: a batch, of one canvas.
    """
    on_gpu = [torch.tensor(image.pixels, device="cuda") for image in raw_images]  # (H, W, 3) uint8

    def images() -> list[torch.Tensor]:
        return [image.permute(2, 0, 1).float().div(255) for image in on_gpu]

    ways = [
        Way(name=EAGER, run=_inference(lambda: eager(images()))),
        Way(name=EAGER_AMP, run=_inference(lambda: eager(images()), half=True)),
        Way(name=EAGER_LAST, run=_inference(lambda: last(images()), half=True)),
    ]
    for artifact in loaded:
        if artifact.bare is not None and artifact.detector is not None:
            ways.append(Way(name=artifact.name, run=_to_device(artifact.detector, on_gpu)))
        elif artifact.detector is not None:  # ONNX Runtime prepares images on the host, and answers there
            ways.append(Way(name=artifact.name, run=_to_host(artifact.detector, raw_images)))
    return ways


def _to_host(detector: Detector, raw_images: Sequence[RGBImage]) -> Callable[[], object]:
    images, count = [image.pixels for image in raw_images], len(raw_images)
    return lambda: detector(images, batch_size=count)


def _to_device(detector: Detector, raw_images: Sequence[torch.Tensor]) -> Callable[[], object]:
    images, count = list(raw_images), len(raw_images)

    def run() -> object:
        return detector(images, batch_size=count, stream=torch.cuda.current_stream(), device_output=True)

    return run


def network_ways(
    eager: FasterRCNN, last: FasterRCNN, loaded: Sequence[Loaded], raw_images: Sequence[RGBImage]
) -> list[Way]:
    """Return the ways from normalised images to boxes; ours is the whole graph, with the preprocessing kernel.

    Args:
        eager: on the GPU.
        last: the same, channels last.
        loaded: artifacts.
        raw_images: a batch, of one canvas.
    """
    batch, _ = eager.transform([to_tensor(image).cuda() for image in raw_images])
    images, sizes = batch.tensors, [(int(h), int(w)) for h, w in batch.image_sizes]
    images_last = images.contiguous(memory_format=torch.channels_last)
    ways = [
        Way(name=EAGER, run=_inference(lambda: run_network(eager, images, sizes))),
        Way(name=EAGER_AMP, run=_inference(lambda: run_network(eager, images, sizes), half=True)),
        Way(name=EAGER_LAST, run=_inference(lambda: run_network(last, images_last, sizes), half=True)),
    ]
    running = ((artifact.name, artifact.bare) for artifact in loaded)
    return ways + [graph_way(name, bare, raw_images) for name, bare in running if bare is not None]


def graph_way(name: str, bare: BareArtifact, images: Sequence[RGBImage]) -> Way:
    """Return the launch of an artifact's graph alone: nothing of the host is in it."""
    pipeline = bare.pipeline(images)
    stream = torch.cuda.ExternalStream(bare.stream)
    return Way(name=name, run=lambda: bare.launch(pipeline), stream=stream)


def _inference(run: Callable[[], object], *, half: bool = False) -> Callable[[], object]:
    def call() -> object:
        with torch.inference_mode(), torch.autocast("cuda", torch.float16, enabled=half):
            return run()

    return call
