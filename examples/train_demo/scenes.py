"""Composes images of handwritten digits lying on photographs, with exact boxes.

The ink is scikit-learn's 1,797 handwritten digits (8x8 scans), enlarged to 16..300 px, turned, sheared,
coloured and overlapping; the ground is photographs that ship inside scikit-learn's and scikit-image's wheels;
then come changing light, blur and sensor noise. ``train`` and ``test`` scenes share neither a digit nor a
photograph.

As a program it writes a COCO-format folder (``images/*.jpg``, ``instances.json``, ``labels.txt``)::

    python examples/train_demo/scenes.py -o scenes --count 24 --seed 7
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPLITS = ("train", "test")

# The photographs of each split, by the file name they have in the wheel.
PHOTOGRAPHS = {
    "train": (
        "astronaut.png", "brick.png", "chelsea.png", "china.jpg", "coins.png", "grass.png",
        "hubble_deep_field.jpg", "ihc.png", "retina.jpg", "rocket.jpg",
    ),
    "test": ("camera.png", "coffee.png", "flower.jpg", "gravel.png"),
}  # fmt: skip
FIRST_TEST_DIGIT = 1437  # digits [0, 1437) are for training, [1437, 1797) for test

ASPECTS = (4 / 3, 3 / 2, 16 / 9, 1.0, 3 / 4, 2 / 3)  # width / height
MIN_SIDE, MAX_SIDE = 240, 720
MIN_DIGIT, MAX_DIGIT = 16, 300  # ink height before turning, px
SMALLEST_SHARE = 0.065  # of the shorter side: still legible once a detector shrinks the image to 320 px
LARGEST_SHARE = 0.62
MAX_TURN = 30.0  # degrees either way; more would turn a 6 into a 9
MAX_HIDDEN = 0.35  # the share of a digit's ink that later digits may cover
MAX_OUTSIDE = 0.12  # the share of a digit's ink that may lie outside the image
MAX_BOX_IOU = 0.45

Floats = NDArray[np.float32]
Scene = tuple[NDArray[np.uint8], Floats, NDArray[np.int64]]


def compose(rng: np.random.Generator, split: str = "test", size: tuple[int, int] | None = None) -> Scene:
    """Compose one scene; equal generator states give equal scenes.

    Args:
        rng: The only source of chance.
        split: "train" or "test": which digits and photographs are used.
        size: (width, height) in pixels; drawn at random when None.

    Returns:
        The image (H, W, 3) uint8 RGB; boxes (N, 4) float32, x1 y1 x2 y2 in pixels, tight around each
        digit's ink inside the image, ink that other digits cover included; labels (N,) int64 in 1..10
        (digit + 1; 0 is the background). N is at most 10.
    """
    width, height = size or _image_size(rng)
    canvas = _background(rng, split, width, height)
    glyphs, digits = _digits(split)
    owner = np.full((height, width), -1, np.int16)  # which digit's ink is on top
    areas: list[int] = []
    boxes: list[tuple[int, int, int, int]] = []
    labels: list[int] = []
    for ink_height in _ink_heights(rng, width, height):
        pick = int(rng.integers(len(digits)))
        ink = _ink(rng, glyphs[pick], ink_height)
        for _ in range(12):
            corner = _corner(rng, ink.shape, width, height)
            placed = _clip(ink, corner, owner.shape)
            if placed is None or not _fits(placed, owner, areas, boxes):
                continue
            alpha, rows, columns, box = placed
            mask = alpha > 0.5
            owner[rows, columns][mask] = len(areas)
            canvas[rows, columns] = _paint(rng, canvas[rows, columns], alpha)
            areas.append(int(mask.sum()))
            boxes.append(box)
            labels.append(int(digits[pick]) + 1)
            break
    smallest = min((y2 - y1 for _, y1, _, y2 in boxes), default=MIN_DIGIT)
    image = _expose(rng, canvas, smallest)
    return image, np.asarray(boxes, np.float32).reshape(-1, 4), np.asarray(labels, np.int64)


def _image_size(rng: np.random.Generator) -> tuple[int, int]:
    """Draw (width, height): landscape, portrait or square, sides in MIN_SIDE..MAX_SIDE."""
    aspect = float(rng.choice(ASPECTS))
    long_side = rng.uniform(MIN_SIDE * max(aspect, 1 / aspect), MAX_SIDE)
    if aspect >= 1:
        return round(long_side), round(long_side / aspect)
    return round(long_side * aspect), round(long_side)


def _ink_heights(rng: np.random.Generator, width: int, height: int) -> list[float]:
    """Draw 3..10 ink heights in pixels, log-uniform, largest first so that small digits are not buried."""
    shorter = min(width, height)
    low, high = max(MIN_DIGIT, SMALLEST_SHARE * shorter), min(MAX_DIGIT, LARGEST_SHARE * shorter)
    count = int(rng.integers(3, 11))
    return sorted(np.exp(rng.uniform(math.log(low), math.log(high), count)).tolist(), reverse=True)


@functools.cache
def _digits(split: str) -> tuple[Floats, NDArray[np.int64]]:
    """Return one split's digits: (N, 8, 8) float32 in [0, 1] and their values (N,) int64 in 0..9."""
    from sklearn.datasets import load_digits

    data = load_digits()
    part = slice(None, FIRST_TEST_DIGIT) if split == "train" else slice(FIRST_TEST_DIGIT, None)
    return (data.images[part] / 16).astype(np.float32), data.target[part].astype(np.int64)


@functools.cache
def _photographs(split: str) -> list[Image.Image]:
    """Load one split's photographs from the installed wheels, as RGB."""
    import skimage.data
    import sklearn.datasets

    folders = (Path(skimage.data.__file__).parent, Path(sklearn.datasets.__file__).parent / "images")
    found = []
    for name in PHOTOGRAPHS[split]:
        path = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if path is None:
            raise ValueError(f"neither scikit-image nor scikit-learn as installed has the photograph {name}")
        with Image.open(path) as image:
            found.append(image.convert("RGB"))
    return found


def _background(rng: np.random.Generator, split: str, width: int, height: int) -> Floats:
    """Crop a random window of a photograph, perhaps mirrored, recoloured: (H, W, 3) float32 in 0..255."""
    photographs = _photographs(split)
    photo = photographs[int(rng.integers(len(photographs)))]
    scale = min(photo.width / width, photo.height / height) * rng.uniform(0.35, 1.0)
    left, top = rng.uniform(0, photo.width - width * scale), rng.uniform(0, photo.height - height * scale)
    window = (left, top, left + width * scale, top + height * scale)
    pixels = np.asarray(photo.resize((width, height), Image.Resampling.BICUBIC, box=window), np.float32)
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    if rng.random() < 0.3:
        pixels = pixels[..., rng.permutation(3)]
    contrast = rng.uniform(0.6, 1.05)
    cast = rng.uniform(0.85, 1.15, 3)
    return np.clip((pixels * contrast + (1 - contrast) * 127) * cast, 0, 255).astype(np.float32)


def _ink(rng: np.random.Generator, glyph: Floats, ink_height: float) -> Floats:
    """Enlarge, turn and shear one 8x8 scan: ink coverage (h, w) float32 in [0, 1], cropped to the ink."""
    written = np.flatnonzero((glyph > 0.25).any(axis=1))
    cell = ink_height / (written[-1] - written[0] + 1)  # output pixels per scanned pixel
    stretch, shear = rng.uniform(0.85, 1.2), rng.uniform(-0.2, 0.2)
    angle = math.radians(rng.uniform(-MAX_TURN, MAX_TURN))
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    inverse = np.array([[1 / stretch, shear], [0.0, 1.0]]) @ turn / cell  # output pixel -> scanned pixel
    pad = 3
    side = math.ceil(cell * (8 + pad) * 1.5)
    offset = (8 + 2 * pad) / 2 - inverse @ np.array([side / 2, side / 2])
    scan = Image.fromarray(np.pad(glyph, pad))
    matrix = (*inverse[0].tolist(), float(offset[0]), *inverse[1].tolist(), float(offset[1]))
    smooth = scan.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    edge = 1.3 * cell  # so that the outline is about a pixel wide at any size
    weight = rng.uniform(0.42, 0.58)  # a lower threshold is a thicker pen
    alpha = np.clip((np.asarray(smooth, np.float32) - weight) * edge + 0.5, 0, 1)
    rows, columns = np.flatnonzero((alpha > 0.02).any(axis=1)), np.flatnonzero((alpha > 0.02).any(axis=0))
    cropped: Floats = alpha[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return cropped


def _corner(rng: np.random.Generator, shape: tuple[int, ...], width: int, height: int) -> tuple[int, int]:
    """Draw the (x, y) of an ink map's upper left corner; it may hang a little over the image's edge."""
    ink_height, ink_width = shape
    over_x, over_y = round(0.1 * ink_width), round(0.1 * ink_height)
    x = int(rng.integers(-over_x, max(width - ink_width + over_x, 1 - over_x)))
    y = int(rng.integers(-over_y, max(height - ink_height + over_y, 1 - over_y)))
    return x, y


Box = tuple[int, int, int, int]
Placed = tuple[Floats, slice, slice, Box]


def _clip(ink: Floats, corner: tuple[int, int], shape: tuple[int, ...]) -> Placed | None:
    """Clip an ink map to the image: coverage, rows, columns and tight box; None if too much is outside."""
    (x, y), (height, width) = corner, shape
    top, left = max(-y, 0), max(-x, 0)
    alpha = ink[top : height - y, left : width - x]
    mask = alpha > 0.5
    if mask.sum() < (1 - MAX_OUTSIDE) * (ink > 0.5).sum() or not mask.any():
        return None
    x, y = x + left, y + top
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = (x + int(columns[0]), y + int(rows[0]), x + int(columns[-1]) + 1, y + int(rows[-1]) + 1)
    return alpha, slice(y, y + alpha.shape[0]), slice(x, x + alpha.shape[1]), box


def _fits(placed: Placed, owner: NDArray[np.int16], areas: list[int], boxes: list[Box]) -> bool:
    """Tell whether a digit may be drawn here: it hides none too far, and no two boxes nearly coincide."""
    alpha, rows, columns, (x1, y1, x2, y2) = placed
    below = owner[rows, columns][alpha > 0.5]
    for index, area in enumerate(areas):
        a1, b1, a2, b2 = boxes[index]
        shared = max(min(x2, a2) - max(x1, a1), 0) * max(min(y2, b2) - max(y1, b1), 0)
        if shared == 0:
            continue
        if shared > MAX_BOX_IOU * ((x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - shared):
            return False
        left = int((owner == index).sum()) - int((below == index).sum())
        if left < (1 - MAX_HIDDEN) * area:
            return False
    return True


def _paint(rng: np.random.Generator, ground: Floats, alpha: Floats) -> Floats:
    """Lay ink of a colour that stands out on this ground: (h, w, 3) and (h, w) -> (h, w, 3), float32."""
    under = ground[alpha > 0.5] @ np.array([0.299, 0.587, 0.114], np.float32)
    candidates = rng.uniform(0, 255, (12, 3)).astype(np.float32)
    contrast = np.abs(candidates @ np.array([0.299, 0.587, 0.114], np.float32) - under.mean())
    enough = np.flatnonzero(contrast > max(50.0, 1.3 * float(under.std())))
    colour = candidates[enough[0] if len(enough) else int(contrast.argmax())]
    if rng.random() < 0.25:  # a soft shadow to one side
        shift = rng.integers(1, 4, 2)
        ground = ground * (1 - 0.4 * np.roll(alpha, shift, (0, 1)))[..., None]
    left, right = rng.uniform(0.85, 1.15, 2)
    ramp = np.linspace(left, right, alpha.shape[1], dtype=np.float32)[None, :, None]
    opacity = (rng.uniform(0.82, 1.0) * alpha)[..., None]
    painted: Floats = (ground * (1 - opacity) + np.clip(colour * ramp, 0, 255) * opacity).astype(np.float32)
    return painted


def _expose(rng: np.random.Generator, canvas: Floats, smallest: int) -> NDArray[np.uint8]:
    """Light, blur (less when the smallest digit, in px, is small) and noise: (H, W, 3) float32 -> uint8."""
    height, width, _ = canvas.shape
    direction, (low, high) = rng.uniform(0, 2 * math.pi), np.sort(rng.uniform(0.5, 1.25, 2))
    x, y = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)
    ramp = (math.cos(direction) * x[None] + math.sin(direction) * y[:, None]) / math.sqrt(2)
    lit = canvas * (low + (high - low) * (ramp + 1) / 2)[..., None].astype(np.float32)
    if rng.random() < 0.3:  # a lamp
        centre_x, centre_y = rng.uniform(-1, 1, 2)
        spot = np.exp(-((x[None] - centre_x) ** 2 + (y[:, None] - centre_y) ** 2) / rng.uniform(0.2, 0.8))
        lit += rng.uniform(15, 50) * spot[..., None].astype(np.float32)
    image = Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))
    sigma = rng.uniform(0, min(2.5, 0.045 * smallest))
    if sigma > 0.3:
        image = image.filter(ImageFilter.GaussianBlur(sigma))
    noise = rng.standard_normal(canvas.shape, np.float32) * np.float32(rng.uniform(1, 14))
    return np.clip(np.asarray(image, np.float32) + noise, 0, 255).astype(np.uint8)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code (2 for a user's error)."""
    parser = argparse.ArgumentParser(description="Compose digit scenes into a COCO-format folder.")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--count", type=int, default=24, help="number of images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="(default: %(default)s)")
    parser.add_argument("--split", choices=SPLITS, default="test", help="(default: %(default)s)")
    args = parser.parse_args(argv)
    if args.count < 1 or args.seed < 0:
        parser.error("--count must be at least 1 and --seed at least 0")
    try:
        from coco import write_folder  # here, since it needs torch and composing does not

        rngs = (np.random.default_rng([args.seed, index]) for index in range(args.count))
        write_folder(args.out, (compose(rng, args.split) for rng in rngs), NAMES)
    except (ValueError, OSError, ImportError) as error:
        print(f"scenes: {error}", file=sys.stderr)
        return 2
    print(f"{args.count} {args.split} scenes in {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
