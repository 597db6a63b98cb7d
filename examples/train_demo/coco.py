"""Reads COCO-format folders and scores a detector by COCO's measure, with faster-coco-eval."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

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
            with Image.open(self.paths[index]) as image:
                pixels = np.asarray(image.convert("RGB"))
        except OSError as error:
            raise DataError(f"{self.paths[index]}: not a readable image ({error})") from error
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
        DataError: The folder is missing something, or its annotations do not fit together.
    """
    file = folder / "instances.json"
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        categories = sorted(document["categories"], key=lambda category: int(category["id"]))
        images = {image["id"]: folder / "images" / str(image["file_name"]) for image in document["images"]}
        label_of = {category["id"]: label for label, category in enumerate(categories, start=1)}
        found: dict[Any, list[tuple[list[float], int]]] = {image_id: [] for image_id in images}
        for annotation in document["annotations"]:
            x, y, width, height = (float(value) for value in annotation["bbox"])
            if annotation.get("iscrowd") or min(width, height) < 1:
                continue
            box = [x, y, x + width, y + height]
            found[annotation["image_id"]].append((box, label_of[annotation["category_id"]]))
        names = [str(category["name"]) for category in categories]
    except OSError as error:
        raise DataError(f"{file}: {error.strerror or error}") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{file}: not JSON ({error})") from error
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file}: not a COCO instances file ({type(error).__name__}: {error})") from error
    if not images or not names:
        raise DataError(f"{file}: lists no images or no categories")
    missing = next((path for path in images.values() if not path.is_file()), None)
    if missing is not None:
        raise DataError(f"{missing}: listed in {file.name} but not there")
    boxes = [np.array([box for box, _ in items], np.float32).reshape(-1, 4) for items in found.values()]
    labels = [np.array([label for _, label in items], np.int64) for items in found.values()]
    return Folder(names, list(images.values()), boxes, labels)


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
        truths: list[Document] = []
        for image_id, (image, boxes, labels) in enumerate(scenes, start=1):
            name = f"{image_id:05d}.jpg"
            Image.fromarray(image).save(partial / "images" / name, quality=92)
            height, width, _ = image.shape
            images.append({"id": image_id, "file_name": name, "width": width, "height": height})
            truths += _truths(image_id, boxes, labels, len(truths) + 1)
        document = {"images": images, "annotations": truths, "categories": _categories(names)}
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
    images: list[Document] = []
    truths: list[Document] = []
    detections: list[Document] = []
    for image_id, (image, boxes, labels) in enumerate(scenes, start=1):
        images.append({"id": image_id, "height": image.shape[0], "width": image.shape[1]})
        truths += _truths(image_id, boxes, labels, len(truths) + 1)
        with torch.inference_mode():
            (found,) = model([to_tensor(image).to(device)])
        found = {key: value.cpu().numpy() for key, value in found.items()}
        items = _annotations(image_id, found["boxes"], found["labels"])
        for item, score in zip(items, found["scores"].tolist(), strict=True):
            detections.append(item | {"score": score})
    categories = _categories(names)
    counts = {"images": len(images), "objects": len(truths)}
    return counts | _score({"images": images, "annotations": truths, "categories": categories}, detections)


def _categories(names: Sequence[str]) -> list[Document]:
    """Give the class names their ids, from 1."""
    return [{"id": label, "name": name} for label, name in enumerate(names, start=1)]


def _truths(image_id: int, boxes: NDArray[np.float32], labels: NDArray[np.int64], first_id: int) -> list[Document]:
    """Put one image's true boxes in COCO's form, with ids from ``first_id``; an area is the box's."""
    return [
        item | {"id": first_id + offset, "iscrowd": 0, "area": item["bbox"][2] * item["bbox"][3]}
        for offset, item in enumerate(_annotations(image_id, boxes, labels))
    ]


def _annotations(image_id: int, boxes: NDArray[np.float32], labels: NDArray[np.int64]) -> list[Document]:
    """Put boxes (N, 4) xyxy and labels (N,) in COCO's form (``bbox`` is x, y, width, height)."""
    return [
        {"image_id": image_id, "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels.tolist(), strict=True)
    ]


def _score(truth: Document, detections: list[Document]) -> Document:
    """Run faster-coco-eval on a COCO document and its detections."""
    from faster_coco_eval import COCO, COCOeval_faster

    names = [category["name"] for category in truth["categories"]]
    if not detections:
        return {"mAP": 0.0, "AP50": 0.0, "AP75": 0.0, "per_class": dict.fromkeys(names, 0.0)}
    ground = COCO(truth)
    found = ground.loadRes(detections)
    scorer = COCOeval_faster(ground, found, iouType="bbox", print_function=lambda *_: None)
    scorer.evaluate()
    scorer.accumulate()
    scorer.summarize()
    # (IoU, recall, class), for objects of any area and at most 100 boxes an image
    precision = np.asarray(scorer.eval["precision"])[..., 0, -1]
    valid = np.where(precision > -1, precision, np.nan)
    per_class = {
        name: round(float(np.nanmean(valid[..., k])), 4) if not np.isnan(valid[..., k]).all() else None
        for k, name in enumerate(names)
    }
    mean, half, three_quarters = (round(float(value), 4) for value in scorer.stats[:3])
    return {"mAP": mean, "AP50": half, "AP75": three_quarters, "per_class": per_class}
