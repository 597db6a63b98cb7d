"""Rows that run the torchvision model itself: float32, channels-last, automatic mixed precision, torch.compile."""

from __future__ import annotations

import copy
import importlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from frcnn.benchmarks.candidates.candidate import File, Runner, Task, Way
from frcnn.benchmarks.candidates.eager_detector import fix_pooler_scales, run_network, to_tensor
from frcnn.benchmarks.candidates.unavailable import CannotRunError
from frcnn.benchmarks.timing.cuda_stopwatch import CudaStopwatch
from frcnn.benchmarks.timing.measure import Stopwatch, WallStopwatch
from frcnn.runtime import Detections, RGBImage
from frcnn.spec import Size

__all__ = ["EagerRunner", "eager_rows"]

_COMPILE_NOTE = "backbone and FPN are compiled (dynamic shapes); the rest of torchvision's model breaks the graph"


class EagerRunner:
    """torchvision's own model, called as its users call it: a list of tensors in, dictionaries out.

    Args:
        task: the model, which is copied, and its device.
        channels_last: the backbone's layout.
        half: under autocast to float16.
    """

    def __init__(self, task: Task, *, channels_last: bool = False, half: bool = False) -> None:
        self._spec = task.spec
        self._device = torch.device(task.device)
        model = copy.deepcopy(task.model).eval().to(self._device)
        fix_pooler_scales(model, task.spec)
        if channels_last:
            model.backbone.to(memory_format=torch.channels_last)
            model.backbone.register_forward_pre_hook(_to_channels_last)
        self.model = model
        self._half = half
        self.build_s: float | None = None
        self.network_stopwatch: Stopwatch = CudaStopwatch() if task.device == "cuda" else WallStopwatch()

    def canvas_of(self, image: RGBImage) -> Size:
        """Return the canvas that torchvision pads an image to."""
        transform = self._spec.transform
        return transform.canvas_size(*transform.resized_size(*image.size))

    def detect(self, images: Sequence[RGBImage]) -> list[Detections]:
        """Detect in a list of images, the answers back on the host."""
        with self._inference():
            found = self.model([self._tensor(image) for image in images])
        return [self._detections(result, p) for result, p in zip(found, images, strict=True)]

    def network(self, raw_images: Sequence[RGBImage]) -> Callable[[], object]:
        """Return what runs backbone, RPN and box head on a prepared batch."""
        with torch.inference_mode():
            images, _ = self.model.transform([self._tensor(image) for image in raw_images])

        def run() -> object:
            with self._inference():
                return run_network(self.model, images.tensors, images.image_sizes)

        return run

    def close(self) -> None:
        """Release the model."""
        del self.model

    @contextmanager
    def _inference(self) -> Iterator[None]:
        autocast = torch.autocast(self._device.type, torch.float16) if self._half else nullcontext()
        with torch.inference_mode(), autocast:
            yield

    def _tensor(self, image: RGBImage) -> Tensor:
        return to_tensor(image).to(self._device)

    def _detections(self, result: dict[str, Tensor], image: RGBImage) -> Detections:
        return Detections(
            boxes=result["boxes"].float().cpu().numpy(),
            scores=result["scores"].float().cpu().numpy(),
            labels=result["labels"].cpu().numpy(),
            image_size=image.size,
            source=image.source,
            label_names=self._spec.labels,
        )


def _to_channels_last(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (inputs[0].contiguous(memory_format=torch.channels_last), *inputs[1:])


def eager_rows(device: str, *, equal_sized: bool) -> list[Way]:
    """Return the rows that run the torchvision model.

    Args:
        device: where.
        equal_sized: whether the images differ in size, so that rows of equal-sized images need a reference.
    """
    common: dict[str, Any] = {"backend": "torch", "device": device}
    single = "tf32" if device == "cuda" else "fp32"
    on_gpu = "convolutions in TF32, as PyTorch does by default" if device == "cuda" else ""
    rows = [
        Way(id="eager-fp32", name="eager torchvision, fp32", precision=single, note=on_gpu, open=_open_eager, **common),
        Way(
            id="eager-channels-last",
            name="eager torchvision, fp32, channels-last",
            precision=single,
            open=lambda task, _: EagerRunner(_on_a_gpu_there_is(task), channels_last=True),
            **common,
        ),
        Way(
            id="eager-amp-fp16",
            name="eager torchvision, AMP fp16",
            precision="fp16",
            open=_open_amp,
            **(common | {"device": "cuda"}),
        ),
        Way(
            id="torch-compile",
            name="torch.compile",
            precision=single,
            open=_open_compiled,
            note="; ".join(filter(None, (_COMPILE_NOTE, on_gpu))),
            **common,
        ),
    ]
    if equal_sized:
        rows.append(
            Way(
                id="eager-fp32-equal",
                name="eager torchvision, fp32, equal-sized images",
                precision=single,
                open=_open_eager,
                images="equal-sized",
                reference="eager-fp32-equal",
                note="the reference of the rows that take only one image size",
                **common,
            )
        )
    return rows


def _on_a_gpu_there_is(task: Task) -> Task:
    if task.device == "cuda" and not torch.cuda.is_available():
        raise CannotRunError("PyTorch finds no NVIDIA GPU on this system")
    return task


def _open_eager(task: Task, _: File | None) -> Runner:
    return EagerRunner(_on_a_gpu_there_is(task))


def _open_amp(task: Task, _: File | None) -> Runner:
    if task.device != "cuda":
        raise CannotRunError("mixed precision in fp16 is measured on a GPU only: run with --device cuda")
    return EagerRunner(_on_a_gpu_there_is(task), half=True)


def _open_compiled(task: Task, _: File | None) -> Runner:
    """Compile, and run one image of each canvas, all within the time limit."""
    runner = EagerRunner(_on_a_gpu_there_is(task))
    limit = task.compile_limit_s
    if not limit:
        raise CannotRunError("left out by --compile-limit 0")
    importlib.import_module("torch._inductor.compile_fx")  # an import that the time limit ends leaves half a module
    started = time.monotonic()
    try:
        with _deadline(limit):
            runner.model.backbone = torch.compile(runner.model.backbone, dynamic=True)
            for image in {runner.canvas_of(image): image for image in task.images}.values():
                runner.detect([image])
    except _OutOfTimeError:
        torch.compiler.reset()
        raise CannotRunError(
            f"torch.compile had not finished after {limit:.0f} s; --compile-limit sets how long it may take"
        ) from None
    except Exception as error:  # whatever the compiler raises, the row has its reason
        torch.compiler.reset()
        text = " ".join(str(error).split())[:200]
        raise CannotRunError(f"torch.compile does not work here: {type(error).__name__}: {text}") from error
    runner.build_s = time.monotonic() - started
    return runner


class _OutOfTimeError(BaseException):
    """Not an ``Exception``: the compiler catches those, and falls back in silence."""


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raise in the block when the time is over."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        raise CannotRunError(
            "torch.compile is tried only where its time can be bounded: in the main thread, not on Windows"
        )

    def ring(_signal: int, _frame: FrameType | None) -> None:
        raise _OutOfTimeError

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
