"""Reads and writes COCO-format folders, and scores a detector by COCO's measure, as frcnn eval does."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from frcnn.benchmarks.accuracy.orientation import turn_upright
from frcnn.benchmarks.accuracy.scoring import score
from frcnn.errors import ImageError, UsageError
from frcnn.runtime import Detections, RGBImage
from frcnn.runtime.dataset.annotations import AnnotatedImage, Annotation, read_coco
from frcnn.runtime.dataset.files import find_images

Scene = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64]]
Document = dict[str, Any]  # JSON


class DataError(ValueError):
    """A folder or file of the user's that cannot be used; the message is one line."""


@dataclass(frozen=True)
class Folder:
    """A COCO-format folder: ``images/`` and ``instances.json``.

    Attributes:
        names: Class names in the order of their category ids; class ``names[k]`` has label ``k + 1``.
        paths: The images' files.
        boxes: For each image (N, 4) float32, x1 y1 x2 y2 in pixels; N may be 0.
        labels: For each image (N,) int64, 1 to ``len(names)``.
    """

    names: list[str]
    paths: list[Path]
    boxes: list[NDArray[np.float32]]
    labels: list[NDArray[np.int64]]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Scene:
        """Return one image (H, W, 3) uint8 RGB with its boxes and labels."""
        try:
            pixels = RGBImage.open(self.paths[index]).uint8()
        except ImageError as error:
            raise DataError(error.message) from error
        return pixels, self.boxes[index], self.labels[index]

    def subset(self, indices: Iterable[int]) -> Folder:
        """Return the folder restricted to the images of these indices."""
        kept = list(indices)
        return Folder(
            self.names,
            [self.paths[i] for i in kept],
            [self.boxes[i] for i in kept],
            [self.labels[i] for i in kept],
        )


def read_folder(folder: Path) -> Folder:
    """Read a COCO-format folder. Crowd annotations and boxes under one pixel are left out.

    Raises:
        DataError: The folder is missing something, or its annotations contradict each other.
    """
    try:
        ground_truth = read_coco(folder / "instances.json")
        files, _ = turn_upright(find_images(ground_truth, folder / "images")[0])
    except UsageError as error:
        raise DataError(error.message.removeprefix("--annotations: ").removeprefix("--images: ")) from error
    if not ground_truth.categories:
        raise DataError(f"{ground_truth.source}: lists no categories")
    ids = sorted(ground_truth.categories)
    boxes, labels = [], []
    for image in files.values():
        items = [item for item in image.annotations if not item.iscrowd and min(item.bbox[2:]) >= 1]
        corners = [(x, y, x + width, y + height) for x, y, width, height in (item.bbox for item in items)]
        boxes.append(np.array(corners, np.float32).reshape(-1, 4))
        labels.append(np.array([ids.index(item.category_id) + 1 for item in items], np.int64))
    return Folder([ground_truth.categories[category] for category in ids], list(files), boxes, labels)


def write_folder(out: Path, scenes: Iterable[Scene], names: Sequence[str]) -> None:
    """Write a COCO-format folder, with ``labels.txt`` beside, that appears only when complete.

    Args:
        out: The folder to make; it must not exist, or be empty.
        scenes: Images with their boxes and labels (1 to ``len(names)``), saved as JPEG.
        names: Class names without the background.

    Raises:
        DataError: ``out`` is there already and not an empty folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists already; name a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent))
    try:
        (partial / "images").mkdir()
        images: list[Document] = []
        annotations: list[Document] = []
        for image_id, (image, boxes, labels) in enumerate(scenes, start=1):
            name = f"{image_id:05d}.jpg"
            Image.fromarray(image).save(partial / "images" / name, quality=92)
            height, width, _ = image.shape
            images.append({"id": image_id, "file_name": name, "width": width, "height": height})
            for item in _annotations(boxes, labels):
                number = {"id": len(annotations) + 1, "image_id": image_id, "iscrowd": 0}
                annotations.append(msgspec.structs.asdict(item) | number)
        categories = [{"id": label, "name": name} for label, name in enumerate(names, start=1)]
        document = {"images": images, "annotations": annotations, "categories": categories}
        (partial / "instances.json").write_text(json.dumps(document) + "\n", encoding="utf-8")
        (partial / "labels.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
        partial.chmod(0o755)
        os.replace(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def to_tensor(image: NDArray[np.uint8]) -> Tensor:
    """Turn (H, W, 3) uint8 RGB into the float32 CHW tensor in [0, 1] torchvision's detectors take."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255


def evaluate(model: nn.Module, scenes: Iterable[Scene], names: Sequence[str], device: str = "cpu") -> Document:
    """Score a detector by COCO's box measure.

    Args:
        model: A torchvision detector; it is put in evaluation mode.
        scenes: Images with their true boxes and labels (1 to ``len(names)``).
        names: Class names without the background.
        device: Where the model is.

    Returns:
        ``images`` and ``objects`` (counts), ``mAP`` (IoU 0.50:0.95), ``AP50``, ``AP75`` and ``per_class``
        (name -> AP at 0.50:0.95, null for a class absent from the images); every AP in [0, 1].
    """
    model.eval()
    images: list[AnnotatedImage] = []
    detections: list[Detections] = []
    for image, boxes, labels in scenes:
        images.append(AnnotatedImage(file_name="", size=None, annotations=_annotations(boxes, labels)))
        with torch.inference_mode():
            (result,) = model([to_tensor(image).to(device)])
        arrays = {key: value.cpu().numpy() for key, value in result.items()}
        detections.append(Detections(**arrays, image_size=image.shape[:2]))
    scores = score(images, detections, {label: label for label in range(1, len(names) + 1)})
    per_class = {name: scores.per_class[label]["AP"] for label, name in enumerate(names, start=1)}
    return {
        "images": len(images),
        "objects": sum(len(image.annotations) for image in images),
        **{name: round(scores.overall[key] or 0.0, 4) for name, key in (("mAP", "AP"), ("AP50",) * 2, ("AP75",) * 2)},
        "per_class": {name: None if value is None else round(value, 4) for name, value in per_class.items()},
    }


def _annotations(boxes: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[Annotation, ...]:
    """Put boxes (N, 4) xyxy and labels (N,) in COCO's form; an area is the box's."""
    return tuple(
        Annotation(category_id=label, bbox=(x1, y1, x2 - x1, y2 - y1), area=(x2 - x1) * (y2 - y1))
        for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels.tolist(), strict=True)
    )
