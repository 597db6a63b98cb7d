"""A candidate of the benchmark: one way to run the model, and what running it needs."""

from __future__ import annotations

import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from frcnn.benchmarks.report.results import EngineInfo
from frcnn.errors import FrcnnError
from frcnn.runtime import Detections, RGBImage
from frcnn.spec import ModelSpec, Precision, Size

if TYPE_CHECKING:
    from torch import Tensor
    from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

EAGER_ID = "eager-fp32"
EAGER_EQUAL_ID = "eager-fp32-equal"
"""The reference on equal-sized images, where the images given differ in size."""
RESTATED_ID = "eager-restated"
"""Our restatement of another trainer's model, where that model itself is the reference."""

NetworkClock = Literal["wall", "cuda"]

Scores = TypeVar("Scores", "Tensor", NDArray[np.float32])

Report = Callable[[str, float], None]
"""Called with the work going on and the share of all that is done."""

LEFT_OUT: Final = "left out by --compile-limit 0"
_AGAIN_S: Final = 1.0
"""Python drops an exception that comes in a destructor or a callback: torch.compile once went on for 40 s."""


class CannotRunError(Exception):
    """This system cannot run a candidate, or it cannot do what was asked; the text is the reason, one line."""


def reason_of(error: Exception) -> str:
    """Return an exception's message on one line, with its class where it was not raised on purpose."""
    if isinstance(error, FrcnnError):
        return error.message
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, CannotRunError) else f"{type(error).__name__}: {text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A model file, and how long this run took to build it; None where it was given, or left by an earlier run.

    ``weights`` are those of OpenVINO's own form, which keeps them in a file beside.
    """

    path: Path
    build_s: float | None = None
    weights: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What all candidates work on."""

    model: GeneralizedRCNN  # in eval mode, float32, on the CPU; candidates copy it
    spec: ModelSpec
    sha256: str | None  # of the checkpoint; None where there is none
    images: Sequence[RGBImage]
    equal_images: Sequence[RGBImage]  # the images resized to one size; the same objects where they have it already
    folder: Path  # where artifacts are built
    device: Literal["cpu", "cuda"]  # where eager runs
    threads: int
    is_trained: bool = True  # random weights tell nothing about bf16 and int8, see correctness.check
    compiles: bool = True  # whether torch.compile is tried
    compile_limit_s: float = 60.0  # how long torch.compile, and NNCF, may take; 0 leaves them out
    log: Callable[[str], None] = field(default=lambda what: None)  # takes a line about what goes on


class Runner(ABC):
    """A candidate that is loaded."""

    build_s: float | None = None  # the part of the loading time that compiling took; None where nothing was compiled
    network_clock: NetworkClock = "wall"  # what times the scope "network": the wall clock, or CUDA events
    engine: EngineInfo | None = None  # of an engine artifact; None for all else
    precision: str | None = None  # that it turned out to run in; None where it is the one that was asked for

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec

    def canvas_of(self, image: RGBImage) -> Size:
        """Return the canvas (height, width) that an image alone is padded to: torchvision's."""
        return padded_canvas(self.spec, image)

    @abstractmethod
    def detect(self, images: Sequence[RGBImage]) -> list[Detections]:
        """Detect in one batch of images, padded to one canvas, as torchvision pads a list; detections on the host."""

    @abstractmethod
    def network(self, images: Sequence[RGBImage]) -> Callable[[], object]:
        """Prepare a batch, and return what runs only the network on it; CannotRunError where preprocessing stays on."""

    def close(self) -> None:  # noqa: B027
        """Release what does not go with the object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to run the model; the fields up to ``note`` are those of ``results.Row``."""

    id: str
    name: str
    backend: str
    device: str
    precision: str
    images: Literal["as given", "equal-sized"] = "as given"
    reference: str = EAGER_ID
    note: str = ""
    open: Callable[..., Runner]  # loads it; takes the task, and the path of its file where there is "prepare"
    prepare: Callable[[Task], File] | None = None  # makes or finds its file; None where it runs the model itself
    max_batch: int | None = None  # the most images that one call takes; None for no limit
    limits: Precision | None = None  # precision whose limits its float32 is held to; None for its own


def score_noise(scores: Scores, noise: float) -> Scores:
    """Return how far rounding moves scores: by ``noise`` at 0.5, and less towards 0 and 1, where logits move as far."""
    return 4 * noise * scores * (1 - scores) + 1e-7


def padded_canvas(spec: ModelSpec, image: RGBImage) -> Size:
    """Return the canvas (height, width) that torchvision pads an image to."""
    return spec.transform.canvas_size(*spec.transform.resized_size(*image.size))


class OutOfTimeError(BaseException):
    """Not an ``Exception``: compilers catch those, and fall back in silence."""


@contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """Run a block for so many seconds at most; CannotRunError where they were too few or cannot be bounded."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        raise CannotRunError(f"{what} is tried only where its time can be bounded: in the main thread, not on Windows")

    def ring(_signal: int, _frame: FrameType | None) -> None:
        raise OutOfTimeError

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_S)
    try:
        yield
    except OutOfTimeError as error:
        raise CannotRunError(
            f"{what} had not finished after {seconds:.0f} s; --compile-limit sets how long it may take"
        ) from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
