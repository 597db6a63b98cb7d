"""The public face: load a model file, detect in images."""

from __future__ import annotations

import os
from collections.abc import Collection, Generator, Iterable, Iterator
from contextlib import closing
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

from frcnn.errors import KernelError, UsageError
from frcnn.plugins.cuda.arrays import stream_handle
from frcnn.runtime.backend import Backend, Device, Done, Pending
from frcnn.runtime.detections import ClassFilter, Detections, checked_score, resolve_classes
from frcnn.runtime.device_detections import DeviceDetections
from frcnn.runtime.host.onnxruntime_providers import Provider
from frcnn.runtime.images.decode import DEFAULT_MAX_PIXELS
from frcnn.runtime.images.given import listed
from frcnn.runtime.images.image import RGBImage
from frcnn.runtime.images.preprocess import Placed
from frcnn.runtime.loading import load_backend
from frcnn.runtime.results.outputs import PendingDetections, Wanted
from frcnn.runtime.streaming.batches import naming_images
from frcnn.runtime.streaming.stream import (
    OnError,
    Streams,
    Submit,
    answered,
    on_one_canvas,
    placed_in_turn,
    with_images,
    without_images,
)
from frcnn.spec import Manifest

__all__ = ["Detector", "OnError"]

Answer = TypeVar("Answer")


class Detector:
    """Finds objects in images with a model file; made by ``Detector.load``.

    An image is a path, a PIL image, a NumPy array (H, W, 3) or (H, W) uint8 RGB or grey, a NumPy array (3, H, W)
    float32 RGB in [0, 1], or a torch tensor (3, H, W), uint8 or floating in [0, 1]. Files are turned upright by
    their EXIF orientation; a PIL image is taken as it stands. Boxes are in that image's own pixels.

    With an engine an image may also be an array in device memory (PyTorch, CuPy, PyCUDA, Numba, DLPack): (H, W, 3) or
    (H, W) uint8, of any strides; a torch tensor whose first side is 3 is (3, H, W). It is read where it lies, after
    what is on its stream (the legacy default stream where it names none), and must stay as it is until its answer is
    there. Floating images are prepared on the CPU.

    One detector may be called from several threads at once, and within its own streams; a stream is for one thread at
    a time. After an error or Ctrl-C it goes on as before. One with an engine does not survive a fork, and no stream
    does.

    Attributes:
        manifest: what the model says of itself.
    """

    def __init__(self, backend: Backend, manifest: Manifest, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> None:
        """Wrap a backend; ``Detector.load`` does this for a file.

        Raises:
            UsageError: ``max_pixels`` is less than 1.
        """
        self.manifest = manifest
        self._backend = backend
        self._streams = Streams(backend)
        self._max_pixels = _checked_max_pixels(max_pixels)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        device: Device | None = None,
        provider: Provider | None = None,
        threads: int | None = None,
        trusted_hashes: Collection[str] | None = None,
        workers: int | None = None,
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> Self:
        """Load a model file, told by its content, not its name.

        An engine artifact holds serialized engines, and those are code: whoever made one can run what they like here.
        Load only what comes from where you trust; ``trusted_hashes`` pins it. A ``model.onnx`` is data.

        Args:
            path: a ``model.onnx`` made by ``frcnn export``, or a ``*.frcnn`` made by ``frcnn build``.
            device: ``"cpu"`` or ``"cuda"``; None: what the file is for, the processor for a ``model.onnx`` and the GPU
                for an engine.
            provider: what ONNX Runtime runs a ``model.onnx`` with: ``"cpu"``, ``"cuda"`` or ``"tensorrt"``; the
                device's own by default.
            threads: processor threads of a ``model.onnx``; all that this process may use by default.
            trusted_hashes: SHA-256 of the engine artifacts that may be loaded, as ``sha256sum`` prints them; None
                trusts any. All parts' own hashes are checked either way.
            workers: batches that an engine runs at once, in several threads or one after another in a list or stream;
                2 by default. Each takes the activations' memory again.
            max_pixels: larger image files and PIL images are refused before they are decoded.

        Raises:
            ArtifactError: no model of frcnn's, a damaged one, one that is not trusted, or one that does not run here.
            MissingDependencyError: the package that runs it is not installed.
            UsageError: an option that makes no sense.
        """
        _checked_max_pixels(max_pixels)
        backend, manifest = load_backend(
            path,
            device=device,
            provider=provider,
            threads=threads,
            trusted_hashes=trusted_hashes,
            workers=workers,
        )
        return cls(backend, manifest, max_pixels=max_pixels)

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The names of all classes, index 0 the background; None where they have no names."""
        return self.manifest.model.labels

    @overload
    def __call__(
        self,
        images: Iterable[object],
        *,
        score: float = 0.0,
        classes: ClassFilter | None = None,
        batch_size: int = 1,
        same_canvas: bool = False,
        stream: Any = None,
        device_output: Literal[False] = False,
    ) -> list[Detections]: ...

    @overload
    def __call__(
        self,
        images: Iterable[object],
        *,
        batch_size: int = 1,
        same_canvas: bool = False,
        stream: Any = None,
        device_output: Literal[True],
    ) -> list[DeviceDetections]: ...

    def __call__(
        self,
        images: Iterable[object],
        *,
        score: float = 0.0,
        classes: ClassFilter | None = None,
        batch_size: int = 1,
        same_canvas: bool = False,
        stream: Any = None,
        device_output: bool = False,
    ) -> list[Detections] | list[DeviceDetections]:
        """Detect in a list of images.

        The answer for an image does not depend on the others: only images that share a canvas run in one batch.

        Args:
            images: the images.
            score: keep what scores this much or more (the model has its own threshold below that).
            classes: keep these classes, names or indices; None keeps all.
            batch_size: the most images the network takes at a time. More than 1 gains nothing on a CPU.
            same_canvas: pad all images to the canvas of the largest, as torchvision does with a list; then each
                answer depends on the others' sizes, and all images are in memory at once.
            stream: with an engine, the caller's CUDA stream (of PyTorch, CuPy, PyCUDA or cuda.core, or a CUstream as an
                int): images in device memory are read after what is on it now, and with ``device_output`` what comes
                on it later finds the answers.
            device_output: with an engine, leave the answers in device memory, without waiting for them. There is
                nothing to filter by then.

        Returns:
            One ``Detections`` (with ``device_output`` one ``DeviceDetections``) an image, in order.

        Raises:
            ArtifactError: the network failed.
            ImageError: an image that cannot be used; the message names it.
            UsageError: an option that makes no sense, or a single image where a list belongs.
        """
        wanted = self._wanted(score, classes)
        handle = _stream_handle(stream)
        size = self._checked_batch_size(batch_size)
        if device_output and wanted.filters:
            raise UsageError(
                "device_output: answers in device memory are not filtered by score or classes",
                hint="filter what DeviceDetections.to_host() returns",
            )
        placed: Iterable[Placed] = self._placed(images, ahead=False)
        if same_canvas:
            placed = on_one_canvas(list(placed), self._backend.canvases)
        elif isinstance(images, list | tuple) and len(images) == 1:
            placed = list(placed)
        if device_output:
            return self._answers(placed, lambda batch: self._submit_to_device(batch, handle), size)
        return self._answers(placed, lambda batch: self._submit(batch, wanted, handle), size)

    def stream(
        self,
        images: Iterable[object],
        *,
        batch_size: int = 1,
        score: float = 0.0,
        classes: ClassFilter | None = None,
        on_error: OnError | None = None,
    ) -> Generator[Detections]:
        """Detect in images as they come, reading ahead in a thread while the network works.

        An exception of the iterable, an unusable image and a batch that fails are raised after the images before
        them are answered, with a note of the image where the message does not name it. About six batches are held at
        most, however slow the consumer. Closing the generator, or the detector, stops the thread after the image in
        hand; one that an iterable blocks for more than 5 s is left behind until that returns.

        Args:
            images: the images; only the thread iterates over it.
            batch_size: the most images (of one canvas) the network takes at a time.
            score: keep what scores this much or more.
            classes: keep these classes, names or indices; None keeps all.
            on_error: called, in the thread, with the position of an image that cannot be used and its error; the
                image is then skipped.

        Yields:
            One ``Detections`` an image, in order.

        Raises:
            ImageError: an image that cannot be used, without ``on_error``; the message names it.
            UsageError: an option that makes no sense, or a single image where an iterable belongs.
        """
        wanted = self._wanted(score, classes)
        size = self._checked_batch_size(batch_size)
        return without_images(self._stream(self._placed(images, ahead=True, on_error=on_error), wanted, size))

    def stream_images(
        self,
        images: Iterable[object],
        *,
        batch_size: int = 1,
        score: float = 0.0,
        classes: ClassFilter | None = None,
        on_error: OnError | None = None,
    ) -> Generator[tuple[RGBImage, Detections]]:
        """Do as ``stream`` does, and yield each image, decoded and upright, with what was found in it.

        Raises:
            ImageError: see ``stream``.
            UsageError: likewise; or an image in device memory, which is not brought back.
        """
        wanted = self._wanted(score, classes)
        size = self._checked_batch_size(batch_size)
        return with_images(self._stream(self._placed(images, ahead=True, on_error=on_error), wanted, size))

    def close(self) -> None:
        """Stop all streams and release the network; the detector cannot be used afterwards.

        A call that runs in another thread ends first; whoever goes on with a stream is told that the detector is
        closed.
        """
        self._streams.close()
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
        self, placed: Iterator[Placed], wanted: Wanted, batch_size: int
    ) -> Generator[tuple[Placed, Detections]]:
        return self._streams.stream(placed, lambda batch: self._submit(batch, wanted, None), batch_size)

    def _answers(self, placed: Iterable[Placed], submit: Submit[Answer], batch_size: int) -> list[Answer]:
        if isinstance(placed, list):  # one image: no order to keep, and no time to lose
            with naming_images(placed):
                return submit(placed).result()
        with closing(answered(self._backend, placed, submit, batch_size)) as pairs:
            return [found for _, found in pairs]

    def _placed(self, images: Iterable[object], *, ahead: bool, on_error: OnError | None = None) -> Iterator[Placed]:
        return placed_in_turn(
            self._backend, listed(images), max_pixels=self._max_pixels, ahead=ahead, on_error=on_error
        )

    def _wanted(self, score: float, classes: ClassFilter | None) -> Wanted:
        labels = None if classes is None else resolve_classes(classes, self.labels)
        return Wanted(score=checked_score(score), labels=labels)

    def _checked_batch_size(self, batch_size: int) -> int:
        if batch_size < 1:
            raise UsageError(f"batch_size: expected 1 or more, got {batch_size}")
        self._backend.canvases.check_batch_size(batch_size)
        return batch_size

    def _submit(self, batch: list[Placed], wanted: Wanted, stream: int | None) -> Pending[list[Detections]]:
        return PendingDetections(self._backend.submit(batch, stream=stream), batch, wanted, self.labels)

    def _submit_to_device(self, batch: list[Placed], stream: int | None) -> Pending[list[DeviceDetections]]:
        return Done(self._backend.submit_to_device(batch, stream=stream))


def _checked_max_pixels(max_pixels: int) -> int:
    if max_pixels < 1:
        raise UsageError(f"max_pixels: expected 1 or more, got {max_pixels}")
    return max_pixels


def _stream_handle(stream: Any) -> int | None:
    if stream is None:
        return None
    try:
        return stream_handle(stream)
    except KernelError as error:
        raise UsageError(error.message, hint=error.hint) from error
