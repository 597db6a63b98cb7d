"""Candidates that run the torchvision model itself: float32, channels-last, mixed precision, torch.compile."""

from __future__ import annotations

import copy
import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from frcnn.benchmarks.candidates.candidate import (
    EAGER_EQUAL_ID,
    EAGER_ID,
    LEFT_OUT,
    RESTATED_ID,
    Candidate,
    CannotRunError,
    Runner,
    Task,
    reason_of,
    time_limit,
)
from frcnn.benchmarks.candidates.eager_detector import match_export, run_network, to_detections, to_tensor
from frcnn.benchmarks.candidates.trainer_models import OwnRunner, TrainerModel, eager_title
from frcnn.runtime import Detections, RGBImage

_COMPILE_NOTE: Final = (
    "backbone and FPN are compiled (dynamic shapes); the rest of torchvision's model breaks the graph"
)


class EagerRunner(Runner):
    """torchvision's own model, called as its users call it: a list of tensors in, dictionaries out.

    The model is copied. ``channels_last`` is the backbone's layout; ``half`` runs under autocast to float16.
    """

    def __init__(self, task: Task, *, channels_last: bool = False, half: bool = False) -> None:
        if task.device == "cuda" and not torch.cuda.is_available():
            raise CannotRunError("PyTorch finds no NVIDIA GPU on this system")
        super().__init__(task.spec)
        self._device = torch.device(task.device)
        self._half = half
        self.model = copy.deepcopy(task.model).eval().to(self._device)
        match_export(self.model, task.spec)
        if channels_last:
            self.model.backbone.to(memory_format=torch.channels_last)
            self.model.backbone.register_forward_pre_hook(_to_channels_last)
        self.network_clock = "cuda" if task.device == "cuda" else "wall"

    def detect(self, images: Sequence[RGBImage]) -> list[Detections]:
        """Detect in a list of images; the detections are on the host."""
        with self._inference():
            found = self.model(self._tensors(images))
        return [to_detections(result, image, self.spec) for result, image in zip(found, images, strict=True)]

    def network(self, images: Sequence[RGBImage]) -> Callable[[], object]:
        """Return what runs backbone, RPN and box head on a prepared batch."""
        with torch.inference_mode():
            batch, _ = self.model.transform(self._tensors(images))

        def run() -> object:
            with self._inference():
                return run_network(self.model, batch.tensors, batch.image_sizes)

        return run

    @contextmanager
    def _inference(self) -> Iterator[None]:
        autocast = torch.autocast(self._device.type, torch.float16) if self._half else nullcontext()
        with torch.inference_mode(), autocast:
            yield

    def _tensors(self, images: Sequence[RGBImage]) -> list[Tensor]:
        return [to_tensor(image).to(self._device) for image in images]


def _to_channels_last(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (inputs[0].contiguous(memory_format=torch.channels_last), *inputs[1:])


def eager_candidates(
    device: str, *, mixed_sizes: bool, trainer: str = "torchvision", own: TrainerModel | None = None, why_not: str = ""
) -> list[Candidate]:
    """Return the candidates that run the eager model; with mixed sizes a reference on equal-sized images.

    The reference is the model of another trainer itself, ``own``; where there is none, its note says why.
    """
    eager = eager_title(trainer)
    tf32 = "convolutions in TF32, as PyTorch does by default" if device == "cuda" else ""

    def candidate(key: str, form: str, open_model: Callable[[Task], Runner], **fields: Any) -> Candidate:
        common = {"device": device, "precision": "tf32" if device == "cuda" else "fp32"}
        return Candidate(id=key, name=form, backend="torch", open=open_model, **(common | fields))

    half = {"device": "cuda", "precision": "fp16"}
    last = partial(EagerRunner, channels_last=True)
    amp_last = partial(_open_amp, channels_last=True)
    compiled_note = "; ".join(filter(None, (_COMPILE_NOTE, tf32)))
    name, restated = f"{eager}, fp32", list[Candidate]()
    open_eager: Callable[[Task], Runner] = EagerRunner
    if own is not None:
        restated.append(candidate(RESTATED_ID, name, EagerRunner, note=tf32))
        name, open_eager = eager_title(trainer, own), partial(OwnRunner, model=own)
    candidates = [
        candidate(EAGER_ID, name, open_eager, note="; ".join(filter(None, (tf32, why_not)))),
        *restated,
        candidate("eager-channels-last", f"{eager}, fp32, channels-last", last),
        candidate("eager-amp-fp16", f"{eager}, AMP fp16", _open_amp, **half),
        candidate("eager-amp-channels-last", f"{eager}, AMP fp16, channels-last", amp_last, **half),
        candidate("torch-compile", "torch.compile", _open_compiled, note=compiled_note),
    ]
    if mixed_sizes:
        note = "the reference of the candidates that take only one image size"
        fields = {"images": "equal-sized", "reference": EAGER_EQUAL_ID, "note": note}
        candidates.append(candidate(EAGER_EQUAL_ID, f"{name}, equal-sized images", open_eager, **fields))
    return candidates


def _open_amp(task: Task, *, channels_last: bool = False) -> Runner:
    if task.device != "cuda":
        missing = "--device is cpu" if torch.cuda.is_available() else "no NVIDIA GPU"
        raise CannotRunError(f"{missing}: mixed precision in fp16 is measured on a GPU only, with --device cuda")
    return EagerRunner(task, half=True, channels_last=channels_last)


def _open_compiled(task: Task) -> Runner:
    """Compile, and run one image of each canvas, all within the time limit."""
    if not task.compile_limit_s:
        raise CannotRunError(LEFT_OUT)
    if not task.compiles:
        raise CannotRunError("left out on a CPU, where it takes minutes: --compile-limit SECONDS tries it")
    runner = EagerRunner(task)
    importlib.import_module("torch._inductor.compile_fx")  # an import that the time limit ends leaves half a module
    started = time.monotonic()
    try:
        with time_limit(task.compile_limit_s, "torch.compile"):
            runner.model.backbone = torch.compile(runner.model.backbone, dynamic=True)
            for image in {runner.canvas_of(image): image for image in task.images}.values():
                runner.detect([image])
    except Exception as error:  # whatever the compiler raises is the candidate's reason
        torch.compiler.reset()
        if isinstance(error, CannotRunError):
            raise
        raise CannotRunError(f"torch.compile does not work here: {reason_of(error)}") from error
    runner.build_s = time.monotonic() - started
    return runner
