"""The images of a run: the user's, or those that can be had without any."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from frcnn.benchmarks.report.results import Skipped
from frcnn.console import warn
from frcnn.errors import FrcnnError, ImageError, UsageError
from frcnn.runtime import RGBImage
from frcnn.runtime.images.sources import files_of, is_video
from frcnn.spec import Size

_COUNT: Final = 16
_SIZE: Final = (427, 640)
_MAX_IMAGES: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """What a run looks at."""

    images: tuple[RGBImage, ...]  # decoded, at least one
    skipped: tuple[Skipped, ...]  # inputs that could not be used
    source: str  # see results.Workload.source
    files: tuple[Path, ...]  # of the images, for timing their decoding; empty where there are none


def chosen_images(paths: Sequence[Path] | None) -> Images:
    """Return the images of :func:`given_images`, or without paths the default ones; warn of what is skipped."""
    images = default_images() if paths is None else given_images(paths)
    for item in images.skipped:
        warn(f"skipped {item.name}: {item.reason}")
    return images


def image_files(paths: Iterable[str | Path]) -> list[Path]:
    """Return the image files of ``--images``, videos left out; raise where one cannot be used, or there is none."""
    files, unusable = files_of(map(str, paths))
    for error in unusable.values():
        raise error
    images = [file for file in files if not is_video(file)]
    if not images:
        raise UsageError("--images: expected images, got videos only", hint="give a folder of images")
    return images


def given_images(paths: Sequence[Path]) -> Images:
    """Read at most 256 images and folders of images; what cannot be read is skipped and named."""
    files, unusable = files_of(map(str, paths))
    skipped = [Skipped(name=name, reason=error.message) for name, error in unusable.items()]
    files = [file for file in files if not is_video(file)]
    if len(files) > _MAX_IMAGES:
        raise UsageError(
            f"--images: expected at most {_MAX_IMAGES} images, got {len(files)}", hint="give a part of them"
        )
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
        images, source = tuple(map(_drawn, range(_COUNT))), "drawn: digits and shapes on shaded noise, seeds 0 to 15"
    return Images(images=images, skipped=(), source=source, files=())


def made_equal(images: Sequence[RGBImage]) -> tuple[RGBImage, ...]:
    """Return images of the commonest size, the others resized to it; the same objects where all have it."""
    size = Counter(image.size for image in images).most_common(1)[0][0]
    return tuple(image if image.size == size else _resized(image, size) for image in images)


def _resized(image: RGBImage, size: Size) -> RGBImage:
    resized = Image.fromarray(image.uint8()).resize(size[::-1], Image.Resampling.BOX)
    return RGBImage(pixels=np.asarray(resized, np.uint8), name=image.name, source=image.source)


def _photographs() -> tuple[RGBImage, ...]:
    """Return four cut-outs of each of two photographs, and their mirror images, all of one size."""
    from sklearn.datasets import load_sample_image

    images = []
    for name in ("china.jpg", "flower.jpg"):
        whole = Image.fromarray(load_sample_image(name))
        for i, zoom in enumerate((1.0, 0.9, 0.8, 0.7)):
            width, height = round(whole.width * zoom), round(whole.height * zoom)
            left, top = (whole.width - width) * (i // 2), (whole.height - height) * (i % 2)
            cut = whole.resize(_SIZE[::-1], Image.Resampling.BILINEAR, (left, top, left + width, top + height))
            mirrored = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            for suffix, shown in (("", cut), (", mirrored", mirrored)):
                images.append(RGBImage(pixels=np.asarray(shown, np.uint8), name=f"{name}, {zoom:.0%}{suffix}"))
    return tuple(images)


def _drawn(seed: int) -> RGBImage:
    """Draw digits and discs of many sizes on a shaded, noisy ground."""
    random = np.random.default_rng(seed)
    height, width = _SIZE
    shade = np.linspace(random.integers(60, 120), random.integers(140, 220), width)[None, :, None]
    ground = np.clip(shade + random.normal(0, 8, (height, width, 3)), 0, 255)
    scene = Image.fromarray(ground.astype(np.uint8))
    draw = ImageDraw.Draw(scene)
    for _ in range(int(random.integers(6, 14))):
        place = float(random.integers(0, width - 40)), float(random.integers(0, height - 40))
        red, green, blue = random.integers(0, 255, 3).tolist()
        if random.random() < 0.7:
            font = ImageFont.load_default(float(random.uniform(20, 120)))
            draw.text(place, str(random.integers(0, 10)), (red, green, blue), font)
        else:
            draw.circle(place, int(random.integers(8, 60)), (red, green, blue))
    return RGBImage(pixels=np.asarray(scene, np.uint8), name=f"drawn {seed}")
