"""A candidate of the benchmark: one way to run the model, and what running it needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from frcnn.benchmarks.report.results import EngineInfo
from frcnn.errors import FrcnnError
from frcnn.runtime import Detections, RGBImage
from frcnn.spec import ModelSpec, Precision, Size

if TYPE_CHECKING:
    from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

EAGER_ID = "eager-fp32"
EAGER_EQUAL_ID = "eager-fp32-equal"
"""The reference on equal-sized images, where the images given differ in size."""

NetworkClock = Literal["wall", "cuda"]


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
    """What all candidates work on.

    Attributes:
        model: in eval mode, float32, on the CPU; candidates copy it.
        sha256: of the checkpoint; None where there is none.
        equal_images: the images resized to one size; the same objects where they have it already.
        folder: where artifacts are built.
        device: where eager runs.
        is_trained: whether the weights are; random ones tell nothing about bf16 and int8, see ``correctness.check``.
        compiles: whether ``torch.compile`` is tried.
        compile_limit_s: how long ``torch.compile``, and NNCF, may take; 0 leaves them out.
        log: takes a line about what goes on.
    """

    model: GeneralizedRCNN
    spec: ModelSpec
    sha256: str | None
    images: Sequence[RGBImage]
    equal_images: Sequence[RGBImage]
    folder: Path
    device: Literal["cpu", "cuda"]
    threads: int
    is_trained: bool = True
    compiles: bool = True
    compile_limit_s: float = 60.0
    log: Callable[[str], None] = field(default=lambda what: None)


class Runner(ABC):
    """A candidate that is loaded.

    Attributes:
        build_s: the part of the loading time that compiling took; None where nothing was compiled.
        network_clock: what times the scope ``network``: the wall clock, or CUDA events.
        engine: of an engine artifact; None for all else.
        precision: that the candidate turned out to run in; None where it is the one that was asked for.
    """

    build_s: float | None = None
    network_clock: NetworkClock = "wall"
    engine: EngineInfo | None = None
    precision: str | None = None

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec

    def canvas_of(self, image: RGBImage) -> Size:
        """Return the canvas (height, width) that an image alone is padded to: torchvision's.

        Raises:
            ImageError: the candidate cannot take the image.
        """
        return padded_canvas(self.spec, image)

    @abstractmethod
    def detect(self, images: Sequence[RGBImage]) -> list[Detections]:
        """Detect in one batch of images, padded to one canvas, as torchvision pads a list; detections on the host."""

    @abstractmethod
    def network(self, images: Sequence[RGBImage]) -> Callable[[], object]:
        """Prepare a batch, and return what runs only the network on it.

        Raises:
            CannotRunError: the preprocessing cannot be taken off.
        """

    def close(self) -> None:  # noqa: B027
        """Release what does not go with the object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to run the model; the fields up to ``note`` are those of ``results.Row``.

    Attributes:
        open: loads it; takes the task, and the path of its file where there is ``prepare``.
        prepare: makes or finds its file; None where it runs the model itself.
        max_batch: the most images that one call takes; None for no limit.
        limits: precision whose limits its float32 is held to; None for its own.
    """

    id: str
    name: str
    backend: str
    device: str
    precision: str
    images: Literal["as given", "equal-sized"] = "as given"
    reference: str = EAGER_ID
    note: str = ""
    open: Callable[..., Runner]
    prepare: Callable[[Task], File] | None = None
    max_batch: int | None = None
    limits: Precision | None = None


def padded_canvas(spec: ModelSpec, image: RGBImage) -> Size:
    """Return the canvas (height, width) that torchvision pads an image to."""
    return spec.transform.canvas_size(*spec.transform.resized_size(*image.size))
