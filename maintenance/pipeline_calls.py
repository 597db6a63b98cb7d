"""What measurements of whole pipelines on a GPU share: images, a pipeline's work as calls, the time of its stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Final

import torch
from torch import Tensor

from frcnn.runtime import Detector
from frcnn.runtime.gpu.pipeline import Launched, Pipeline
from maintenance.bare_detector import BareDetector
from maintenance.eager_forms import Call

_REPEATS: Final = 30


def stages_us(bare: BareDetector, pipeline: Pipeline) -> dict[str, float]:
    """Return the median microseconds between two launches, by the name of the second."""
    device, stream = bare.device, bare.stream
    events = [device.create_event()]
    found: dict[str, list[float]] = {}
    for _ in range(_REPEATS):
        names: list[str] = []

        def after(launched: Launched, names: list[str] = names) -> None:
            names.append(f"{launched.kind}: {launched.name}")
            if len(events) == len(names):
                events.append(device.create_event())
            events[len(names)].record(stream)

        events[0].record(stream)
        pipeline.launch_in_steps(stream, after)
        device.synchronize(stream)
        for i, name in enumerate(names):
            found.setdefault(name, []).append(events[i + 1].ms_since(events[i]) * 1e3)
    for event in events:
        event.close()
    return {name: median(values) for name, values in found.items()}


def graph_and_steps(bare: BareDetector, pipeline: Pipeline) -> dict[str, Call]:
    """Return the work of a pipeline, uploaded already, as a graph and plain, each on PyTorch's current stream."""
    stream = torch.cuda.ExternalStream(bare.stream)

    def joined(launch: Callable[[], None]) -> Call:
        def call() -> None:
            stream.wait_stream(torch.cuda.current_stream())
            launch()
            torch.cuda.current_stream().wait_stream(stream)

        return call

    return {
        "one CUDA graph": joined(lambda: bare.launch(pipeline)),
        "launched step by step": joined(lambda: pipeline.launch_in_steps(bare.stream, lambda _: None)),
    }


_WARM_CALLS: Final = 8


def left_on_device(detector: Detector, images: Sequence[Tensor]) -> Call:
    """Return a call that detects in one batch of images in device memory and leaves the detections there.

    It is called some times before: each worker records a CUDA graph of its own.
    """

    def call() -> object:
        return detector(images, batch_size=len(images), stream=torch.cuda.current_stream(), device_output=True)

    for _ in range(_WARM_CALLS):
        call()
    return call


def draw(shape: tuple[int, ...], seed: int) -> Tensor:
    """Return noise (height, width, 3) uint8 on the GPU."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (*shape, 3), generator=generator, dtype=torch.uint8).cuda()


def as_float(image: Tensor) -> Tensor:
    """Return an image (H, W, 3) uint8 as torchvision's models take it: (3, H, W) float32 in [0, 1]."""
    return image.permute(2, 0, 1).float().div(255).contiguous()
