"""The images of a run: the user's, or those that can be had without any."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from frcnn.benchmarks.report.results import Skipped
from frcnn.errors import FrcnnError, ImageError, UsageError
from frcnn.runtime import RGBImage
from frcnn.runtime.images.sources import files_of, is_video
from frcnn.spec import Size

__all__ = ["Images", "default_images", "given_images", "made_equal"]

_COUNT: Final = 16
_SIZE: Final = (427, 640)
_MOST: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """What a run looks at.

    Attributes:
        images: decoded, at least one.
        skipped: inputs that could not be used.
        source: see ``results.Workload.source``.
        files: the files of the images, for timing their decoding; empty where there are none.
    """

    images: tuple[RGBImage, ...]
    skipped: tuple[Skipped, ...]
    source: str
    files: tuple[Path, ...]


def given_images(paths: Sequence[Path]) -> Images:
    """Read images and folders of images; what cannot be read is skipped and named.

    Raises:
        ImageError: not one image can be used.
        UsageError: there are more than 256 of them, or videos only.
    """
    files, unusable = files_of(map(str, paths))
    skipped = [Skipped(name=name, reason=error.message) for name, error in unusable.items()]
    files = [file for file in files if not is_video(file)]
    if len(files) > _MOST:
        raise UsageError(f"--images: expected at most {_MOST} images, got {len(files)}", hint="give a part of them")
    images, good = [], []
    for file in files:
        try:
            images.append(RGBImage.open(file))
        except FrcnnError as error:
            skipped.append(Skipped(name=str(file), reason=error.message.removeprefix(f"{file}: ")))
        else:
            good.append(file)
    if not images:
        why = "; ".join(f"{item.name}: {item.reason}" for item in skipped[:3]) or "videos only"
        raise ImageError(f"--images: not one image can be used: {why}", hint="give a folder of .jpg or .png files")
    return Images(images=tuple(images), skipped=tuple(skipped), source="given", files=tuple(good))


def default_images() -> Images:
    """Return 16 different images of 427 x 640: cut from scikit-learn's two photographs, or drawn without them."""
    if importlib.util.find_spec("sklearn") is not None:
        images, source = _photographs(), "cut from scikit-learn's two sample photographs, and mirrored"
    else:
        images, source = _drawn(), "drawn: digits and shapes on shaded noise, seeds 0 to 15"
    return Images(images=images, skipped=(), source=source, files=())


def made_equal(images: Sequence[RGBImage]) -> tuple[RGBImage, ...]:
    """Return images of the commonest size, the others resized to it; the same objects where all have it."""
    size = Counter(image.size for image in images).most_common(1)[0][0]
    return tuple(image if image.size == size else _resized(image, size) for image in images)


def _resized(image: RGBImage, size: Size) -> RGBImage:
    pixels = cv2.resize(image.uint8(), (size[1], size[0]), interpolation=cv2.INTER_AREA)
    return RGBImage(pixels=np.asarray(pixels, np.uint8), name=image.name, source=image.source)


def _photographs() -> tuple[RGBImage, ...]:
    """Return four cut-outs of each of two photographs, and their mirror images, all of one size."""
    from sklearn.datasets import load_sample_image

    height, width = _SIZE
    images = []
    for name in ("china.jpg", "flower.jpg"):
        whole: NDArray[np.uint8] = np.asarray(load_sample_image(name), np.uint8)
        for i, zoom in enumerate((1.0, 0.9, 0.8, 0.7)):
            h, w = round(whole.shape[0] * zoom), round(whole.shape[1] * zoom)
            top, left = (whole.shape[0] - h) * (i % 2), (whole.shape[1] - w) * (i // 2)
            cut = np.asarray(cv2.resize(whole[top : top + h, left : left + w], (width, height)), np.uint8)
            images.append(RGBImage(pixels=cut, name=f"{name}, {zoom:.0%}"))
            mirrored = np.ascontiguousarray(cut[:, ::-1])
            images.append(RGBImage(pixels=mirrored, name=f"{name}, {zoom:.0%}, mirrored"))
    return tuple(images)


def _drawn() -> tuple[RGBImage, ...]:
    return tuple(RGBImage(pixels=_scene(seed), name=f"drawn {seed}") for seed in range(_COUNT))


def _scene(seed: int) -> NDArray[np.uint8]:
    """Draw digits and discs of many sizes on a shaded, noisy ground."""
    random = np.random.default_rng(seed)
    height, width = _SIZE
    shade = np.linspace(random.integers(60, 120), random.integers(140, 220), width)[None, :, None]
    ground = np.clip(shade + random.normal(0, 8, (height, width, 3)), 0, 255)
    scene = np.ascontiguousarray(ground.astype(np.uint8))
    for _ in range(int(random.integers(6, 14))):
        x, y = int(random.integers(0, width - 40)), int(random.integers(40, height))
        color = tuple(int(c) for c in random.integers(0, 255, 3))
        if random.random() < 0.7:
            scale = float(random.uniform(1, 5))
            cv2.putText(scene, str(random.integers(0, 10)), (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, color, 4)
        else:
            cv2.circle(scene, (x, y), int(random.integers(8, 60)), color, -1)
    return scene
