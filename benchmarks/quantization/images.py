"""The images to calibrate on and those for the gate, which never overlap."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from frcnn.benchmarks.accuracy.images import open_annotated
from frcnn.benchmarks.accuracy.orientation import Reading, turn_upright
from frcnn.console import track
from frcnn.errors import ImageError, UsageError
from frcnn.runtime.dataset.annotations import AnnotatedImage, GroundTruth
from frcnn.runtime.dataset.files import Skipped, find_images
from frcnn.runtime.images.canvases import OnnxCanvases
from frcnn.runtime.images.image import RGBImage
from frcnn.runtime.images.preprocess import place, prepare
from frcnn.runtime.images.sources import files_of, is_video
from frcnn.spec import Manifest
from frcnn.spec.engine import INPUTS

MIN_IMAGES: Final = 8
"""Fewer that can be used are refused."""
MIN_GATE_IMAGES: Final = MIN_IMAGES // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Images that may be used."""

    gate: Mapping[Path, AnnotatedImage]  # those that the gate can judge by; all, where nothing is annotated
    others: Sequence[Path] = ()  # those without annotations, where others have some; for calibration only
    missing: Skipped = field(default_factory=dict)  # annotated images that are not in the folder

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.gate) + len(self.others)


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Images that can be used, each for one purpose."""

    calibration: tuple[Path, ...]  # files to calibrate on
    gate: Mapping[Path, AnnotatedImage]  # files for the gate, with their annotations where there are some
    skipped: Skipped  # why others cannot be used, by file


def find_candidates(paths: Sequence[Path], ground_truth: GroundTruth | None, exif: Reading | None = None) -> Candidates:
    """Return the images of files and folders.

    With annotations the first path is the folder that their file names are relative to; ``exif``: see ``turn_upright``.
    """
    annotated: Mapping[Path, AnnotatedImage] = {}
    missing: Skipped = {}
    if ground_truth is not None:
        found, missing = find_images(ground_truth, paths[0], allow_missing=True)
        annotated, _ = turn_upright(found, exif)
        # file names may lead into sub-folders, so the folder itself need not hold an image
        paths = [path for path in paths if path != paths[0] or any(f.parent == path for f in annotated)]
    files, unusable = files_of(map(str, paths))
    for error in unusable.values():
        raise error
    images = list({file.resolve(): file for file in files if not is_video(file)}.values())  # links: no image is in both
    if ground_truth is None:
        if not images:
            raise UsageError("--images: expected images, got videos only", hint="give a folder of images")
        return Candidates(gate={file: AnnotatedImage(file_name=str(file), size=None) for file in images})
    known = {file.resolve() for file in annotated}
    return Candidates(gate=annotated, others=[file for file in images if file.resolve() not in known], missing=missing)


def split(candidates: Candidates, manifest: Manifest, *, calibration: int, gate: int) -> Split:
    """Choose so many images to calibrate on and so many for the gate, at most.

    They are taken in the order of the SHA-256 of their file names, so the choice depends on no listing and no seed.
    Calibration takes images without annotations first. Where there are too few for both, each gets half.
    Only as many files are decoded as are needed.
    """
    skipped: Skipped = {}
    others = _usable(_shuffled(candidates.others), {}, manifest, calibration, skipped)
    wanted = calibration - len(others)
    judged = _usable(_shuffled(candidates.gate), candidates.gate, manifest, wanted + gate, skipped)
    count = len(judged) + len(others)
    if count < MIN_IMAGES or len(judged) < MIN_GATE_IMAGES:
        raise _too_few(count, len(judged), candidates, skipped)
    taken = min(wanted, max(len(judged) // 2, len(judged) - gate))
    chosen = judged[taken : taken + gate]
    return Split(
        calibration=(*others, *judged[:taken]), gate={file: candidates.gate[file] for file in chosen}, skipped=skipped
    )


def calibration_inputs(files: Iterable[Path], manifest: Manifest) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield the network's inputs of one image at a time, prepared as ``Detector`` prepares it.

    ``images`` are (1, 3, H, W) float32 and ``image_sizes`` (1, 2) int32, (height, width) on the canvas.
    """
    images, sizes = INPUTS
    for file in files:
        prepared = prepare(RGBImage.open(file), manifest)
        yield {images: prepared.pixels[None], sizes: np.array([prepared.resized], np.int32)}


def _shuffled(files: Iterable[Path]) -> list[Path]:
    """Return files in an order that has nothing to do with their names: neighbours are often of one scene or class."""
    return sorted(files, key=lambda file: (hashlib.sha256(os.fsencode(file.name)).digest(), str(file)))


def _usable(
    files: Sequence[Path], annotated: Mapping[Path, AnnotatedImage], manifest: Manifest, maximum: int, skipped: Skipped
) -> list[Path]:
    """Return the first files that decode and that a canvas holds; note the reasons for the others."""
    found: list[Path] = []
    canvases = OnnxCanvases(manifest)
    for file in track(files, total=min(len(files), maximum), what="reading images"):
        if len(found) >= maximum:
            break
        try:
            image = open_annotated(file, annotated.get(file))
            place(image, manifest.model.transform, canvases)
        except ImageError as error:
            skipped[str(file)] = str(error)
            continue
        found.append(file)
    return found


def _too_few(count: int, judged: int, candidates: Candidates, skipped: Skipped) -> ImageError:
    if count < MIN_IMAGES:
        expected, got, of = f"{MIN_IMAGES} images", count, len(candidates)
    else:
        expected, got, of = f"{MIN_GATE_IMAGES} annotated images", judged, len(candidates.gate)
    reason = f"; {next(iter(skipped.values()))}" if skipped else ""
    return ImageError(
        f"--images: expected {expected} or more that can be used, got {got} of {of}{reason}",
        hint="give about 100 images to calibrate on and as many for the gate, like those that the model will see",
    )
