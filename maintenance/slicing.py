"""Measure what slicing finds in a large image: recall by the objects' size, precision, and seconds.

    python -m maintenance.slicing --background PHOTOGRAPHS -o benchmarks/results/slicing-cpu.json

The image is composed, by a seed, of a folder's photographs in cells, and on each of them a shrunken scene whose objects
are known; two scenes are enlarged. The detector is the demo's, which finds handwritten digits; a photograph that shows
digits itself costs precision. ``--scenes`` is a folder with instances.json and images: the demo's by default, more of
them by examples/train_demo/scenes.py. What memory 100 megapixels take is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from frcnn.benchmarks.timing.environment import load_average, now, read_environment
from frcnn.benchmarks.trial import ARCHITECTURE, BUNDLE, CHECKPOINT
from frcnn.cli import main as frcnn
from frcnn.console import write_json
from frcnn.processors import available_cpus
from frcnn.runtime import Detections, Detector, Slicing
from frcnn.runtime.dataset.annotations import read_coco
from frcnn.runtime.images.decode import decode_file
from frcnn.runtime.results.merge import box_iou

_CELL: Final = 480
_BLOCK: Final = 3 * _CELL
_BLOCKS: Final = (3, 4)
_ENLARGED: Final = (0, 7)
"""Blocks that hold one scene, in place of nine."""
_SHARES: Final = (0.35, 0.95)
"""Of a cell, that a scene's longer side takes."""
_SIZES: Final = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, np.inf)}
"""Areas in pixels, as COCO has them."""
_WAYS: Final = {
    "whole image": None,
    "slices of 320, and whole": Slicing(size=320),
    "slices of 320, and whole, weighted": Slicing(size=320, merge="weighted"),
    "slices of 320 only": Slicing(size=320, whole=False),
    "slices of 480, and whole": Slicing(size=480),
    "slices of 640, and whole": Slicing(size=640),
}
_MEMORY: Final = """
import sys
from frcnn.runtime import Detector, RGBImage

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024

with Detector.load(sys.argv[1], threads=int(sys.argv[2])) as detector:
    detector([sys.argv[3]])
    before = peak()
    image = RGBImage.open(sys.argv[4])
    decoded = peak()
    detector.sliced([image], size=1280)
    print(before, decoded, peak())
"""


class Composed(NamedTuple):
    """An image (H, W, 3) uint8, and its objects: boxes (M, 4) x1, y1, x2, y2 and labels (M)."""

    pixels: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]


def compose(background: Sequence[Path], scenes: Sequence[Composed], seed: int) -> Composed:
    """Compose the large image."""
    random = np.random.default_rng(seed)
    rows, columns = _BLOCKS
    pixels = np.zeros((rows * _BLOCK, columns * _BLOCK, 3), np.uint8)
    boxes, labels = [], []
    for block in range(rows * columns):
        side = _BLOCK if block in _ENLARGED else _CELL
        corner = np.array(divmod(block, columns)) * _BLOCK
        for cell in np.ndindex(_BLOCK // side, _BLOCK // side):
            top, left = corner + np.array(cell) * side
            photograph = Image.open(background[int(random.integers(len(background)))]).convert("RGB")
            pixels[top : top + side, left : left + side] = _cropped(photograph, side)
            scene = scenes[int(random.integers(len(scenes)))]
            scale = side * random.uniform(*_SHARES) / max(scene.pixels.shape)
            height, width = (round(length * scale) for length in scene.pixels.shape[:2])
            y, x = top + random.integers(side - height + 1), left + random.integers(side - width + 1)
            small = Image.fromarray(scene.pixels).resize((width, height), Image.Resampling.LANCZOS)
            pixels[y : y + height, x : x + width] = np.asarray(small)
            ratios = np.array([width, height] * 2) / np.array([*scene.pixels.shape[1::-1]] * 2)
            boxes.append(scene.boxes * ratios + [x, y, x, y])
            labels.append(scene.labels)
    return Composed(pixels, np.concatenate(boxes).astype(np.float32), np.concatenate(labels))


def _cropped(photograph: Image.Image, side: int) -> NDArray[np.uint8]:
    """Return the middle of a photograph as a square of a side."""
    shorter, (width, height) = min(photograph.size), photograph.size
    left, top = (width - shorter) // 2, (height - shorter) // 2
    return np.asarray(photograph.resize((side, side), box=(left, top, left + shorter, top + shorter)))


def true_positives(found: Detections, truth: Composed) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which objects were found, and which detections found one: best first, each the object it overlaps most.

    By an IoU of 0.5 or more, of the same class; an object is found once.
    """
    ious = box_iou(found.boxes, truth.boxes) * (found.labels[:, None] == truth.labels)
    is_found, is_right = np.zeros(len(truth.boxes), bool), np.zeros(len(found), bool)
    for index, overlaps in enumerate(ious):
        free = np.where(is_found, 0, overlaps)
        best = int(free.argmax())
        if free[best] >= 0.5:
            is_found[best] = is_right[index] = True
    return is_found, is_right


def figures(found: Detections, truth: Composed) -> dict[str, float]:
    """Return recall by size, of the areas of the true boxes, and precision."""
    is_found, is_right = true_positives(found, truth)
    recall = {f"recall_{name}": _share(is_found[of_it]) for name, of_it in by_size(truth).items()}
    return {**recall, "recall": _share(is_found), "precision": _share(is_right), "detections": len(found)}


def by_size(truth: Composed) -> dict[str, NDArray[np.bool_]]:
    """Return which objects are small, medium and large."""
    areas = (truth.boxes[:, 2:] - truth.boxes[:, :2]).prod(1)
    return {name: (low <= areas) & (areas < high) for name, (low, high) in _SIZES.items()}


def _share(of_it: NDArray[np.bool_]) -> float:
    return round(float(of_it.sum()) / max(1, of_it.size), 4)


def read_scenes(folder: Path, labels: Sequence[str]) -> list[Composed]:
    """Read a folder of images with instances.json, whose categories are classes of the detector."""
    annotations = read_coco(folder / "instances.json")
    label_of = {number: labels.index(name) for number, name in annotations.categories.items()}
    scenes = []
    for image in annotations.images:
        corners = np.array([one.bbox for one in image.annotations], np.float32).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        kinds = np.array([label_of[one.category_id] for one in image.annotations], np.int64)
        scenes.append(Composed(decode_file(folder / "images" / image.file_name), corners, kinds))
    return scenes


def memory(model: Path, threads: int, composed: Composed, folder: Path) -> dict[str, float]:
    """Return the peak of a process, in MiB, before and after it decoded 100 megapixels, and after it detected."""
    small, large = folder / "small.png", folder / "large.png"
    Image.fromarray(composed.pixels[:1280, :1280]).save(small)
    tiles = np.tile(composed.pixels, (3, 2, 1))
    Image.fromarray(tiles[:10_000, :10_000]).save(large, compress_level=1)
    arguments = [sys.executable, "-c", _MEMORY, str(model), str(threads), str(small), str(large)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=1800)
    before, decoded, after = map(float, done.stdout.split())
    height, width = tiles[:10_000, :10_000].shape[:2]
    return {"megapixels": height * width / 1e6, "before_mib": before, "decoded_mib": decoded, "after_mib": after}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--background", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--scenes", type=Path, default=BUNDLE, help="default: the demo's")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--image", type=Path, help="keep the composed image here")
    parser.add_argument("--score", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=19)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    load, threads = load_average(), available_cpus()
    background = sorted(path for path in options.background.rglob("*") if path.suffix in (".jpg", ".png"))
    with tempfile.TemporaryDirectory() as name:
        model = Path(name) / "model.onnx"
        frcnn(["export", str(CHECKPOINT), "--arch", ARCHITECTURE, "-o", str(model)])
        with Detector.load(model, threads=threads) as detector:
            assert detector.labels is not None
            truth = compose(background, read_scenes(options.scenes, detector.labels), options.seed)
            if options.image:
                Image.fromarray(truth.pixels).save(options.image)
            rows = [row(detector, truth, way, score=options.score, rounds=options.rounds) for way in _WAYS]
        used = memory(model, threads, truth, Path(name))
    command = f"python -m maintenance.slicing --background PHOTOGRAPHS --seed {options.seed}"
    document = {
        "environment": read_environment(command=command, threads=threads, load_before=load, date=now(), gpu=None),
        "image": truth.pixels.shape[:2],
        "photographs": len(background),
        "objects": {name: int(of_it.sum()) for name, of_it in by_size(truth).items()},
        "score": options.score,
        "sliced": rows,
        "memory": used,
    }
    write_json(document, str(options.output))
    return 0


def row(detector: Detector, truth: Composed, way: str, *, score: float, rounds: int) -> dict[str, Any]:
    """Detect in one way, several times, and return its figures and the median of its seconds."""
    slicing, times = _WAYS[way], []
    for _ in range(rounds):
        start = time.perf_counter()
        if slicing is None:
            (found,) = detector([truth.pixels], score=score)
        else:
            (found,) = detector.sliced([truth.pixels], score=score, **asdict(slicing))
        times.append(time.perf_counter() - start)
    made = {"way": way, **figures(found, truth), "seconds": round(statistics.median(times), 3)}
    print(made, flush=True)
    return made


if __name__ == "__main__":
    raise SystemExit(main())
