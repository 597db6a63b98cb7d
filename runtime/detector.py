"""The public face: load a model file, detect in images."""

from __future__ import annotations

import os
from collections.abc import Collection, Generator, Iterable, Iterator
from contextlib import closing
from typing import Any, Final, Literal, Self, TypeVar, overload

from frcnn.errors import KernelError, UsageError
from frcnn.plugins.cuda.arrays import stream_handle
from frcnn.runtime.backend import Backend, Device, Done, Pending, closed_error
from frcnn.runtime.detections import ClassFilter, Detections, checked_score, resolve_classes
from frcnn.runtime.device_detections import DeviceDetections
from frcnn.runtime.forks import fork_safe_lock
from frcnn.runtime.host.providers import Provider, RunPrecision
from frcnn.runtime.images.decode import DEFAULT_MAX_PIXELS
from frcnn.runtime.images.image import ChannelOrder, RGBImage, checked_channel_order
from frcnn.runtime.images.preprocess import Placed
from frcnn.runtime.images.slices import MergeBy, Slicing
from frcnn.runtime.loading import Origin, load_backend
from frcnn.runtime.results.merge import merged
from frcnn.runtime.results.outputs import DetectionFilter, PendingDetections
from frcnn.runtime.streaming.batches import naming_images
from frcnn.runtime.streaming.stream import (
    OnError,
    Streams,
    Submit,
    detect_in_batches,
    image_list,
    on_one_canvas,
    place_each,
    with_images,
    without_images,
)
from frcnn.spec import Manifest

__all__ = ["Detector", "OnError"]

Result = TypeVar("Result")

_LOADING: Final = fork_safe_lock()


class Detector:
    """A Faster R-CNN loaded from a model file; see :meth:`load`.

    An image is one of

    - a path, the bytes of an image file, or a file opened in binary mode; it is turned upright by its EXIF orientation;
    - a PIL image, taken as it stands;
    - a NumPy array ``(H, W, 3)`` RGB, ``(H, W)`` or ``(H, W, 1)`` grey, uint8, or ``(3, H, W)`` RGB, float32 in [0, 1];
    - a torch tensor ``(3, H, W)`` RGB, uint8 or floating in [0, 1];
    - an :class:`RGBImage`;
    - with an engine, an array in device memory (PyTorch, CuPy, PyCUDA, Numba, DLPack): ``(H, W, 3)`` or ``(H, W)``,
      uint8, of any strides, or a torch tensor ``(3, H, W)``. It is read in place after the work on its stream (the
      legacy default stream if it names none) and must not change before its detections are there.

    Arrays and tensors are RGB, or BGR with ``channel_order="bgr"``, which costs no copy. OpenCV's arrays are BGR: taken
    for RGB they give worse detections and no error. Files, PIL images and :class:`RGBImage` know their order.

    The detector resizes, normalises and pads images itself, by torchvision's rules (on the GPU with an engine, unless
    the image is floating), and returns boxes in pixels of the original image.

    Several threads may call one detector at once; a stream belongs to one thread at a time. After an error or Ctrl-C it
    can be used as before.

    A detector can be pickled, and used after a fork: there it is loaded anew by its path and options, on the first call
    and if the file is still the same. On a GPU it is refused after a fork, and so is an open stream everywhere.

    Attributes:
        manifest: The description of the model in its file.

    Example:
        >>> with Detector.load("model.onnx") as detector:
        ...     detections = detector(["street.jpg"], score=0.5)[0]
        >>> detections.boxes.shape, detections.class_names
        ((2, 4), ['car', 'person'])
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
        self._channel_order: ChannelOrder = "rgb"
        self._process = os.getpid()
        self._origin: Origin | None = None
        self._closed = False

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        device: Device | None = None,
        provider: Provider | None = None,
        precision: RunPrecision | None = None,
        threads: int | None = None,
        trusted_hashes: Collection[str] | None = None,
        workers: int | None = None,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        channel_order: ChannelOrder = "rgb",
    ) -> Self:
        """Load a model file, recognised by its content, not its name.

        An engine artifact holds serialized engines, and those are code: its author can run anything on this system.
        Load artifacts from sources you trust only; ``trusted_hashes`` pins them. A ``model.onnx`` is data.

        Args:
            path: A ``model.onnx`` made by ``frcnn export``, or a ``*.frcnn`` made by ``frcnn build``.
            device: ``"cpu"`` or ``"cuda"``. Default: the CPU for a ``model.onnx``, the GPU for an engine.
            provider: What runs a ``model.onnx``: ONNX Runtime's ``"cpu"``, ``"cuda"`` or ``"tensorrt"``, or
                ``"openvino"`` on the CPU, or ``"tuned"``: what ``frcnn tune`` chose for this machine, which may be an
                int8 model beside the file. Default: the device's own of ONNX Runtime.
            precision: What ``"openvino"`` computes float layers in: ``"fp32"``, or ``"bf16"`` where the processor has
                it. Default: ``"fp32"``. The other providers compute in the file's own precision.
            threads: CPU threads of a ``model.onnx``. Default: all that this process may use, of a container its share.
            trusted_hashes: SHA-256 of the engine artifacts that may be loaded, as ``sha256sum`` prints them; None
                trusts any. The hashes inside the artifact are checked either way.
            workers: Batches that an engine runs at once, in several threads or one after another in a list or stream.
                Default: 2. Each needs the memory of the activations again.
            max_pixels: Larger image files and PIL images are refused before they are decoded.
            channel_order: Of arrays and tensors: ``"rgb"``, or ``"bgr"`` as OpenCV's; a call can say otherwise.

        Raises:
            ArtifactError: The file is no model of frcnn's, is damaged, is not trusted, or does not run here.
            MissingDependencyError: The package that runs it is not installed.
            UsageError: An option makes no sense, or does not apply to the file.
        """
        _checked_max_pixels(max_pixels)
        order = checked_channel_order(channel_order)
        options: dict[str, Any] = {
            "device": device,
            "provider": provider,
            "precision": precision,
            "threads": threads,
            "trusted_hashes": trusted_hashes,
            "workers": workers,
        }
        origin = Origin.of(path, options)
        backend, manifest = load_backend(path, **options)
        detector = cls(backend, manifest, max_pixels=max_pixels)
        detector._origin, detector._channel_order = origin, order
        return detector

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The names of all classes, index 0 the background; None if they have no names."""
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
        channel_order: ChannelOrder | None = None,
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
        channel_order: ChannelOrder | None = None,
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
        channel_order: ChannelOrder | None = None,
        stream: Any = None,
        device_output: bool = False,
    ) -> list[Detections] | list[DeviceDetections]:
        """Detect objects in a list of images.

        The detections of an image do not depend on the other images: only images that share a canvas run in a batch.

        Args:
            images: The images.
            score: Minimum score. The model has its own threshold below that.
            classes: Class names or indices to keep; None keeps all.
            batch_size: Maximum images that the network takes at a time. More than 1 gains nothing on a CPU.
            same_canvas: Pad all images to the canvas of the largest, as torchvision does with a list. The detections
                then depend on the other images' sizes, and all images are in memory at once.
            channel_order: Of arrays and tensors, see above; None: the one that the detector was loaded with.
            stream: With an engine, the caller's CUDA stream (of PyTorch, CuPy, PyCUDA or cuda.core, or a CUstream as
                an int). Images in device memory are read after the work on it now; with ``device_output``, later work
                on it finds the detections complete.
            device_output: With an engine, leave the detections in device memory, without waiting for them. They are
                not filtered by ``score`` or ``classes``.

        Returns:
            A ``Detections`` (with ``device_output`` a ``DeviceDetections``) per image, in order.

        Raises:
            ArtifactError: The network failed.
            ImageError: An image cannot be used; the message names it.
            UsageError: An option makes no sense, or ``images`` is a single image.
        """
        size = self._checked_batch_size(batch_size)
        keep = self._filter(score, classes)
        handle = _stream_handle(stream)
        if device_output and not keep.keeps_all:
            raise UsageError(
                "device_output: detections in device memory are not filtered by score or classes",
                hint="filter what DeviceDetections.to_host() returns",
            )
        placed: Iterable[Placed] = self._placed(images, channel_order, ahead=False)
        if same_canvas:
            placed = on_one_canvas(list(placed), self._backend.canvases)
        elif isinstance(images, list | tuple) and len(images) == 1:
            placed = list(placed)
        if device_output:
            return self._run(placed, lambda batch: Done(self._backend.submit_to_device(batch, stream=handle)), size)
        return self._run(placed, lambda batch: self._submit(batch, keep, handle), size)

    def sliced(
        self,
        images: Iterable[object],
        *,
        size: int = 640,
        overlap: float = 0.2,
        whole: bool = True,
        merge: MergeBy = "nms",
        iou: float = 0.5,
        score: float = 0.0,
        classes: ClassFilter | None = None,
        batch_size: int = 1,
        channel_order: ChannelOrder | None = None,
    ) -> list[Detections]:
        """Detect small objects in large images: in overlapping slices of each, and merge what is found.

        Slices are views of the decoded image; only those of a few batches are prepared at a time. An image that fits in
        one slice has the detections that :meth:`__call__` finds.

        Args:
            images: The images, in host memory.
            size: See :class:`Slicing`, as of the next four.
            overlap: The share of a slice that it has in common with the next.
            whole: Whether the whole image is detected in, too.
            merge: ``"nms"`` or ``"weighted"``.
            iou: The overlap beyond which boxes of one class are merged.
            score: Minimum score in a slice.
            classes: Class names or indices to keep; None keeps all.
            batch_size: Maximum slices that the network takes at a time.
            channel_order: See :meth:`__call__`.

        Returns:
            A ``Detections`` per image, in order.

        Raises:
            ArtifactError: The network failed.
            ImageError: An image cannot be used, or would have too many slices; the message names it.
            UsageError: An option makes no sense, an image is in device memory, or ``images`` is a single image.

        Example:
            >>> (found,) = detector.sliced(["city.tif"], size=640, overlap=0.2, score=0.5, batch_size=8)
        """
        slicing = Slicing(size=size, overlap=overlap, whole=whole, merge=merge, iou=iou)
        count, keep = self._checked_batch_size(batch_size), self._filter(score, classes)
        placed = self._placed(images, channel_order, ahead=False, slicing=slicing)
        pairs = detect_in_batches(self._backend, placed, lambda batch: self._submit(batch, keep, None), count)
        return list(without_images(merged(with_images(pairs), slicing)))

    def stream(
        self,
        images: Iterable[object],
        *,
        batch_size: int = 1,
        score: float = 0.0,
        classes: ClassFilter | None = None,
        channel_order: ChannelOrder | None = None,
        on_error: OnError | None = None,
        slicing: Slicing | None = None,
    ) -> Generator[Detections]:
        """Detect objects in images as they come, reading ahead in a thread while the network works.

        An exception of the iterable, an unusable image and a failed batch are raised after the detections of the
        images before them, with a note that names the image. About six batches are held at most, however slow the
        consumer. Closing the generator, or the detector, stops the thread after the current image; a thread that the
        iterable blocks for more than 5 s is left behind until the iterable returns.

        Args:
            images: The images; only the thread iterates over them.
            batch_size: Maximum images (of one canvas) that the network takes at a time.
            score: Minimum score.
            classes: Class names or indices to keep; None keeps all.
            channel_order: See :meth:`__call__`.
            on_error: Called in the thread with the position and the error of an image that cannot be used, which is
                then skipped. None raises the error.
            slicing: Detect in slices of each image, see :meth:`sliced`; a batch is of slices then.

        Yields:
            A ``Detections`` per image, in order.

        Raises:
            ArtifactError: The network failed.
            ImageError: An image cannot be used and ``on_error`` is None; the message names it.
            UsageError: An option makes no sense, or ``images`` is a single image.

        Example:
            >>> for detections in detector.stream(sorted(Path("frames").glob("*.jpg")), batch_size=8):
            ...     print(detections.source, len(detections))
        """
        pairs = self._stream(images, batch_size, score, classes, channel_order, on_error, slicing)
        return without_images(pairs if slicing is None else merged(with_images(pairs), slicing))

    def stream_images(
        self,
        images: Iterable[object],
        *,
        batch_size: int = 1,
        score: float = 0.0,
        classes: ClassFilter | None = None,
        channel_order: ChannelOrder | None = None,
        on_error: OnError | None = None,
        slicing: Slicing | None = None,
    ) -> Generator[tuple[RGBImage, Detections]]:
        """Detect as :meth:`stream` does, and yield each image, decoded, upright and in RGB, with its detections.

        Raises:
            ArtifactError: See :meth:`stream`.
            ImageError: Likewise.
            UsageError: Likewise; or an image is in device memory, which is not copied back.
        """
        pairs = with_images(self._stream(images, batch_size, score, classes, channel_order, on_error, slicing))
        return pairs if slicing is None else merged(pairs, slicing)

    def close(self) -> None:
        """Stop all streams and release the network; the detector cannot be used afterwards.

        A call in another thread ends first; the next item of an open stream raises that the detector is closed.
        """
        self._closed = True
        if self._process == os.getpid():
            self._streams.close()
            self._backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Return what travels to another process: the file's path and hash and the options, not the network."""
        if self._closed:
            raise closed_error()
        if self._origin is None:
            raise UsageError("a detector made of a backend cannot be pickled", hint="use Detector.load")
        self._origin = self._origin.hashed()
        return {**self.__dict__, "_backend": None, "_streams": None, "_process": None}

    def _own_backend(self) -> Backend:
        """Return the backend, loaded anew where it is not this process' own and can be; each call begins here."""
        with _LOADING:
            if self._process != os.getpid() and self._origin is not None:
                if self._closed:
                    raise closed_error()
                if self._process is None or not self._backend.on_gpu:
                    self._backend, self.manifest = self._origin.load()
                    self._streams = Streams(self._backend)
                    self._process = os.getpid()
        return self._backend

    def _stream(
        self,
        images: Iterable[object],
        batch_size: int,
        score: float,
        classes: ClassFilter | None,
        channel_order: ChannelOrder | None,
        on_error: OnError | None,
        slicing: Slicing | None,
    ) -> Generator[tuple[Placed, Detections]]:
        size, keep = self._checked_batch_size(batch_size), self._filter(score, classes)
        placed = self._placed(images, channel_order, ahead=True, on_error=on_error, slicing=slicing)
        return self._streams.stream(placed, lambda batch: self._submit(batch, keep, None), size)

    def _run(self, placed: Iterable[Placed], submit: Submit[Result], batch_size: int) -> list[Result]:
        if isinstance(placed, list):  # one image: skip the bookkeeping of order
            with naming_images(placed):
                return submit(placed).result()
        with closing(detect_in_batches(self._backend, placed, submit, batch_size)) as pairs:
            return [found for _, found in pairs]

    def _placed(
        self,
        images: Iterable[object],
        order: ChannelOrder | None,
        *,
        ahead: bool,
        on_error: OnError | None = None,
        slicing: Slicing | None = None,
    ) -> Iterator[Placed]:
        order = self._channel_order if order is None else checked_channel_order(order)
        return place_each(self._backend, image_list(images), self._max_pixels, order, ahead, on_error, slicing)

    def _filter(self, score: float, classes: ClassFilter | None) -> DetectionFilter:
        labels = None if classes is None else resolve_classes(classes, self.labels)
        return DetectionFilter(score=checked_score(score), labels=labels)

    def _checked_batch_size(self, batch_size: int) -> int:
        if batch_size < 1:
            raise UsageError(f"batch_size: expected 1 or more, got {batch_size}")
        self._own_backend().canvases.check_batch_size(batch_size)
        return batch_size

    def _submit(self, batch: list[Placed], keep: DetectionFilter, stream: int | None) -> Pending[list[Detections]]:
        return PendingDetections(self._backend.submit(batch, stream=stream), batch, keep, self.labels)


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
