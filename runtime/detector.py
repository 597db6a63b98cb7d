"""The public face: load a model file, detect in pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from PIL import Image

from frcnn.errors import ImageError, UsageError
from frcnn.runtime.artifact import open_artifact
from frcnn.runtime.backend import Backend, Device
from frcnn.runtime.batches import answers_in_order
from frcnn.runtime.decode import DEFAULT_MAX_PIXELS
from frcnn.runtime.detections import ClassFilter, Detections, checked_score, resolve_classes
from frcnn.runtime.onnxruntime_backend import OnnxRuntimeBackend
from frcnn.runtime.pictures import Picture, as_picture, is_tensor
from frcnn.runtime.prefetch import prefetched
from frcnn.runtime.preprocess import Prepared, boxes_in_picture, common_canvas, onto_canvas, prepare
from frcnn.spec import Manifest

__all__ = ["Detector", "OnError"]

OnError = Callable[[int, ImageError], None]
"""Takes the position (from 0) of a picture that cannot be used, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """Which detections a call keeps.

    Attributes:
        score: least score; 0 keeps all that the model gives.
        labels: class indices, or None for all.
    """

    score: float
    labels: frozenset[int] | None


class Detector:
    """Finds objects in pictures with a model file; made by ``Detector.load``.

    A picture is a path, a PIL image, a NumPy array (H, W, 3) or (H, W) uint8 RGB or grey, a NumPy array (3, H, W)
    float32 RGB in [0, 1], or a torch tensor (3, H, W), uint8 or floating in [0, 1]. Files are turned upright by
    their EXIF orientation; a PIL image is taken as it stands. Boxes are in that picture's own pixels.

    One detector may be called from several threads at once.

    Attributes:
        manifest: what the model says of itself.
    """

    def __init__(self, backend: Backend, manifest: Manifest, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> None:
        """Wrap a backend; ``Detector.load`` does this for a file.

        Raises:
            UsageError: ``max_pixels`` is less than 1.
        """
        if max_pixels < 1:
            raise UsageError(f"max_pixels: expected 1 or more, got {max_pixels}")
        self.manifest = manifest
        self._backend = backend
        self._max_pixels = max_pixels

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        device: Device = "cpu",
        threads: int | None = None,
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> Self:
        """Load a model file, told by its content, not its name.

        Args:
            path: a ``model.onnx`` made by ``frcnn export``.
            device: ``"cpu"`` or ``"cuda"``.
            threads: processor threads of the network; all that this process may use by default.
            max_pixels: larger picture files and PIL images are refused before they are decoded.

        Raises:
            ArtifactError: no model of frcnn's, a damaged one, or one that does not run here.
            MissingDependencyError: the package that runs it is not installed.
            UsageError: an option that makes no sense.
        """
        artifact = open_artifact(path)
        backend = OnnxRuntimeBackend(artifact.path, device=device, threads=threads)
        return cls(backend, artifact.manifest, max_pixels=max_pixels)

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The names of all classes, index 0 the background; None where they have no names."""
        return self.manifest.model.labels

    def __call__(
        self,
        images: Iterable[object],
        *,
        score: float = 0.0,
        classes: ClassFilter | None = None,
        batch_size: int = 1,
        same_canvas: bool = False,
    ) -> list[Detections]:
        """Detect in a list of pictures.

        The answer for a picture does not depend on the others: only pictures that share a canvas run in one batch.

        Args:
            images: the pictures.
            score: keep what scores this much or more (the model has its own threshold below that).
            classes: keep these classes, names or indices; None keeps all.
            batch_size: the most pictures the network takes at a time. More than 1 gains nothing on a CPU.
            same_canvas: pad all pictures to the canvas of the largest, as torchvision does with a list; then each
                answer depends on the others' sizes, and all pictures are in memory at once.

        Returns:
            One ``Detections`` a picture, in order.

        Raises:
            ImageError: a picture that cannot be used; the message names it.
            UsageError: an option that makes no sense, or a single picture where a list belongs.
        """
        wanted = self._wanted(score, classes)
        prepared: Iterable[Prepared] = self._prepared(_listed(images), None)
        if same_canvas:
            prepared = self._on_one_canvas(list(prepared))
        pairs = answers_in_order(prepared, self._runner(wanted), batch_size=_checked_batch_size(batch_size))
        return [found for _, found in pairs]

    def stream(
        self,
        images: Iterable[object],
        *,
        batch_size: int = 1,
        score: float = 0.0,
        classes: ClassFilter | None = None,
        on_error: OnError | None = None,
    ) -> Generator[Detections]:
        """Detect in pictures as they come, reading ahead in a thread while the network works.

        An exception of the iterable, and an unusable picture, are raised after the pictures before them are
        answered. Closing the generator stops the thread.

        Args:
            images: the pictures; only the thread iterates over it.
            batch_size: the most pictures (of one canvas) the network takes at a time.
            score: keep what scores this much or more.
            classes: keep these classes, names or indices; None keeps all.
            on_error: called, in the thread, with the position of a picture that cannot be used and its error; the
                picture is then skipped.

        Yields:
            One ``Detections`` a picture, in order.

        Raises:
            ImageError: a picture that cannot be used, without ``on_error``; the message names it.
            UsageError: an option that makes no sense, or a single picture where an iterable belongs.
        """
        pairs = self.stream_pictures(images, batch_size=batch_size, score=score, classes=classes, on_error=on_error)
        return _second(pairs)

    def stream_pictures(
        self,
        images: Iterable[object],
        *,
        batch_size: int = 1,
        score: float = 0.0,
        classes: ClassFilter | None = None,
        on_error: OnError | None = None,
    ) -> Generator[tuple[Picture, Detections]]:
        """Do as ``stream`` does, and yield each picture, decoded and upright, with what was found in it."""
        wanted = self._wanted(score, classes)
        size = _checked_batch_size(batch_size)
        return self._stream(self._prepared(_listed(images), on_error), wanted, size)

    def close(self) -> None:
        """Release the network; the detector cannot be used afterwards."""
        self._backend.close()

    def __enter__(self) -> Self:
        """Return the detector; it is closed at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the detector."""
        self.close()

    def _stream(
        self, prepared: Iterator[Prepared], wanted: _Wanted, batch_size: int
    ) -> Generator[tuple[Picture, Detections]]:
        with closing(prefetched(prepared, depth=2 * batch_size)) as ahead:
            for item, found in answers_in_order(ahead, self._runner(wanted), batch_size=batch_size):
                yield item.picture, found

    def _prepared(self, images: Iterable[object], on_error: OnError | None) -> Iterator[Prepared]:
        for index, image in enumerate(_noting_position(images)):
            try:
                picture = as_picture(image, name=f"images[{index}]", max_pixels=self._max_pixels)
                ready = prepare(picture, self.manifest)
            except ImageError as error:
                if on_error is None:
                    raise
                on_error(index, error)
            else:
                yield ready

    def _on_one_canvas(self, prepared: list[Prepared]) -> Iterator[Prepared]:
        if prepared:
            canvas = common_canvas(prepared, self.manifest)
            for item in prepared:
                yield onto_canvas(item, canvas)

    def _wanted(self, score: float, classes: ClassFilter | None) -> _Wanted:
        labels = None if classes is None else resolve_classes(classes, self.labels)
        return _Wanted(score=checked_score(score), labels=labels)

    def _runner(self, wanted: _Wanted) -> Callable[[list[Prepared]], list[Detections]]:
        return lambda batch: self._detect(batch, wanted)

    def _detect(self, batch: list[Prepared], wanted: _Wanted) -> list[Detections]:
        images = batch[0].pixels[None] if len(batch) == 1 else np.stack([item.pixels for item in batch])
        output = self._backend.run(images, np.array([item.resized for item in batch], np.int32))
        found = []
        for index, item in enumerate(batch):
            rows = slice(int(output.num_detections[index]))
            detections = Detections(
                boxes=boxes_in_picture(output.boxes[index, rows], item),
                scores=output.scores[index, rows],
                labels=output.labels[index, rows].astype(np.int64),
                image_size=item.picture.size,
                source=item.picture.source,
                label_names=self.labels,
            )
            found.append(detections.filter(score=wanted.score, classes=wanted.labels))
        return found


def _second(pairs: Generator[tuple[Picture, Detections]]) -> Generator[Detections]:
    with closing(pairs):
        for _, found in pairs:
            yield found


def _listed(images: Iterable[object]) -> Iterable[object]:
    """Refuse a single picture where a list of them belongs."""
    single = isinstance(images, str | bytes | os.PathLike | Image.Image | np.ndarray | Picture) or is_tensor(images)
    if single or not isinstance(images, Iterable):
        raise UsageError(
            f"images: expected a list (or another iterable) of pictures, got one {type(images).__qualname__}",
            hint="put a single picture in a list: detector([picture])[0]",
        )
    return images


def _noting_position(images: Iterable[object]) -> Iterator[object]:
    """Yield the pictures; an exception of the iterable itself is noted with how far it came."""
    count = 0
    try:
        for image in images:
            yield image
            count += 1
    except Exception as error:
        error.add_note(f"raised by the iterable of pictures, at images[{count}]")
        raise


def _checked_batch_size(batch_size: int) -> int:
    if batch_size < 1:
        raise UsageError(f"batch_size: expected 1 or more, got {batch_size}")
    return batch_size
