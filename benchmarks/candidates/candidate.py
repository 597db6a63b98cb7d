"""What a row of the benchmark is: a way to run the model, and what running it needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from frcnn.benchmarks.timing.measure import Stopwatch
from frcnn.runtime import Detections, RGBImage
from frcnn.spec import ModelSpec, Precision, Size

if TYPE_CHECKING:
    from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

__all__ = ["EAGER_ID", "File", "Runner", "Task", "Way"]

EAGER_ID = "eager-fp32"


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A model file that a row runs.

    Attributes:
        path: where it is.
        precision: of the heavy layers, where it says so.
        build_s: time that the run itself took to build it; None where it was given, or left by an earlier run.
    """

    path: Path
    precision: Precision | None
    build_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What all rows work on.

    Attributes:
        model: the torchvision model, in eval mode, float32, on the CPU; rows copy it.
        spec: its description.
        sha256: of the checkpoint; None where there is none.
        images: as given.
        equal_images: the same, all of one size; the same objects where they are so anyway.
        folder: where artifacts are built.
        device: ``"cpu"`` or ``"cuda"``: where eager runs.
        threads: for every row.
        compile_limit_s: how long ``torch.compile`` may take.
        say: takes what goes on, for the progress bar.
    """

    model: GeneralizedRCNN
    spec: ModelSpec
    sha256: str | None
    images: Sequence[RGBImage]
    equal_images: Sequence[RGBImage]
    folder: Path
    device: Literal["cpu", "cuda"]
    threads: int
    compile_limit_s: float = 60.0
    say: Callable[[str], None] = field(default=lambda what: None)


class Runner(Protocol):
    """A row that is loaded and ready.

    Attributes:
        build_s: how much of the time to load it went into compiling the model; None where nothing was compiled.
    """

    build_s: float | None

    @property
    def network_stopwatch(self) -> Stopwatch:
        """What times the scope ``network``: wall clock, or CUDA events."""
        ...

    def canvas_of(self, image: RGBImage) -> Size:
        """Return the canvas that an image alone goes on.

        Raises:
            ImageError: the row cannot take the image.
        """
        ...

    def detect(self, images: Sequence[RGBImage]) -> list[Detections]:
        """Detect in one batch of images, padded to one canvas, as torchvision pads a list."""
        ...

    def network(self, images: Sequence[RGBImage]) -> Callable[[], object]:
        """Prepare a batch, and return what runs only the network on it.

        Raises:
            CannotRunError: the row's preprocessing cannot be taken off.
        """
        ...

    def close(self) -> None:
        """Release everything."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to run the model.

    Attributes:
        id: see ``results.Row``; likewise the following.
        name: for people.
        backend: what executes it.
        device: where.
        precision: of the heavy layers.
        images: which images it takes.
        reference: id of the row that it is compared with.
        note: what a reader must know.
        largest_batch: the most images that one call takes.
        prepare: makes or finds its file; None where it needs none, for it runs the model itself.
        open: loads it.
    """

    id: str
    name: str
    backend: str
    device: str
    precision: str
    open: Callable[[Task, File | None], Runner]
    prepare: Callable[[Task], File] | None = None
    images: Literal["as given", "equal-sized"] = "as given"
    reference: str = EAGER_ID
    note: str = ""
    largest_batch: int | None = None
