"""A detector as the callable class that Ray Data's ``map_batches`` takes."""

from __future__ import annotations

import getpass
import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from frcnn.errors import ImageError, OutputError
from frcnn.files import file_sha256, replacing
from frcnn.runtime.dependencies import import_pyarrow, import_ray
from frcnn.runtime.detections import ClassFilter, Detections
from frcnn.runtime.detector import Detector
from frcnn.runtime.model_files.artifact import open_artifact
from frcnn.runtime.model_files.engine_artifact import EngineArtifact
from frcnn.runtime.ray.rows import table
from frcnn.runtime.ray.storage import Storage, read_ahead

_NO_IMAGE: Final = "there is no image in this row"


class RayDetector:
    """Detects in batches of a Ray dataset: one detector for each actor, on what Ray gave the actor.

    An actor with GPUs runs a ``model.onnx`` on the first of them, one without on as many threads as it has processors.
    A ``model.frcnn`` needs a GPU, or a fraction of one.

    The column of images has the bytes of files (``ray.data.read_binary_files``), their paths or addresses, or arrays
    (``ray.data.read_images``, with ``batch_format="numpy"``). It is replaced by ``width``, ``height``, ``boxes``,
    ``scores``, ``labels``, ``class_names`` and ``error``; all other columns stay. An image that cannot be used has the
    reason as its ``error``, and null in the other six.

    Example:
        >>> images = ray.data.read_binary_files("s3://bucket/images", include_paths=True)
        >>> model = ray.put(Path("model.onnx").read_bytes())  # other machines need no copy of their own
        >>> found = images.map_batches(
        ...     RayDetector, fn_constructor_kwargs={"model": model}, batch_format="pyarrow", batch_size=64, num_cpus=1
        ... )
        >>> found.write_parquet("s3://bucket/detections")
    """

    def __init__(
        self,
        model: Any,
        *,
        column: str = "bytes",
        batch_size: int | None = None,
        score: float = 0.0,
        classes: ClassFilter | None = None,
        **options: Any,
    ) -> None:
        """Load the model; Ray does this once in each actor.

        Args:
            model: The path of the model file, which then lies on every machine; or its bytes, or what ``ray.put``
                returns for them, which are written to a temporary file, one for each machine.
            column: Of the images.
            batch_size: Images that the network takes at once, of one canvas. Default: 1 for a ``model.onnx``, and
                what the engines of a ``model.frcnn`` were optimised for.
            score: Minimum score.
            classes: Class names or indices to keep; None keeps all.
            options: Of ``Detector.load``; ``device`` and ``threads`` are Ray's.

        Raises:
            ArtifactError: The file is no model of frcnn's, is damaged, or does not run here.
            UsageError: An option makes no sense.
        """
        ray = import_ray()
        if isinstance(model, ray.ObjectRef):
            model = ray.get(model)
        path = _on_this_machine(model) if isinstance(model, bytes) else Path(model)
        artifact = open_artifact(path)
        self._batch_size = batch_size or 1
        if isinstance(artifact, EngineArtifact):
            self._batch_size = batch_size or max(profile.batch.opt for profile in artifact.manifest.profiles)
        elif ray.get_gpu_ids():
            options = {"device": "cuda", **options}
        elif options.get("provider") != "tuned":
            threads = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
            options = {"threads": max(1, int(threads)), **options}
        self._detector = Detector.load(path, **options)
        self._column = column
        self._options: dict[str, Any] = {"score": score, "classes": classes}

    def __call__(self, batch: Any) -> Any:
        """Return a batch, a ``pyarrow.Table`` or a dictionary of arrays, as a table with detections for the images."""
        pa = import_pyarrow()
        if isinstance(batch, pa.Table):
            images, rest = batch.column(self._column).to_pylist(), batch.drop_columns([self._column])
        else:
            images = list(batch[self._column])
            rest = pa.table({name: pa.array(list(values)) for name, values in batch.items() if name != self._column})
        found = table(self.detect(images))
        for field, column in zip(found.schema, found.columns, strict=True):
            rest = rest.append_column(field, column)
        return rest

    def detect(self, images: Sequence[Any], place: Storage | None = None) -> list[Detections | str]:
        """Return the detections of each image, or why there are none; names of images may begin at a place."""
        start = place or Storage.of(Path("images"))  # beside which relative paths are
        positions: list[int] = []  # in `images`, of what the detector was given
        failed: dict[int, str] = {}

        def read(image: Any) -> Any:
            if image is None:
                raise ImageError(_NO_IMAGE)
            return start.at(image).read() if isinstance(image, str) else image

        def readable() -> Iterator[Any]:
            for index, content in enumerate(read_ahead(read, images)):
                try:
                    image = content.result()
                except ImageError as error:
                    failed[index] = error.message
                    continue
                positions.append(index)
                yield image

        def unusable(position: int, error: ImageError) -> None:
            failed[positions[position]] = error.message.removeprefix(f"images[{position}]: ")

        stream = self._detector.stream(readable(), batch_size=self._batch_size, on_error=unusable, **self._options)
        found = list(stream)
        usable = iter(found)
        return [failed[index] if index in failed else next(usable) for index in range(len(images))]


def _on_this_machine(content: bytes) -> Path:
    """Return the path of a file with this content, which all actors of a user on a machine share."""
    digest = hashlib.sha256(content).hexdigest()
    folder = Path(tempfile.gettempdir(), f"frcnn-ray-{getpass.getuser()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and folder.stat(follow_symlinks=False).st_uid != os.getuid():
        raise OutputError(f"{folder}: belongs to another user", hint="set TMPDIR to a folder of your own")
    path = folder / digest
    if not path.exists() or file_sha256(path) != digest:
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    return path
