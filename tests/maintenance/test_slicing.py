"""maintenance.slicing: the large image, what counts as found, and the page's part."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from maintenance.committed import read_committed
from maintenance.performance_page import page
from maintenance.slicing import Composed, compose, figures, read_scenes
from PIL import Image

from frcnn.benchmarks.trial import BUNDLE
from frcnn.runtime import Detections

LABELS = ("__background__", *(BUNDLE / "labels.txt").read_text().split())


def test_boxes_follow_their_scenes_into_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scene is black but for its objects, which are white: so each box of the image is, and nothing else."""
    monkeypatch.setattr("maintenance.slicing._CELL", 200)
    monkeypatch.setattr("maintenance.slicing._BLOCK", 600)
    monkeypatch.setattr("maintenance.slicing._BLOCKS", (1, 2))
    Image.new("RGB", (300, 200)).save(tmp_path / "black.png")
    pixels = np.zeros((400, 300, 3), np.uint8)
    pixels[100:200, 60:180] = 255
    scene = Composed(pixels, np.float32([[60, 100, 180, 200]]), np.array([4]))
    made = compose([tmp_path / "black.png"], [scene], 3)
    assert made.pixels.shape == (600, 1200, 3)
    assert made.labels.tolist() == [4] * 10
    inside = np.zeros((600, 1200), bool)
    for x1, y1, x2, y2 in made.boxes:
        inside[round(y1) : round(y2), round(x1) : round(x2)] = True
    assert ((made.pixels[:, :, 0] > 127) != inside).mean() < 0.005
    assert np.array_equal(compose([tmp_path / "black.png"], [scene], 3).pixels, made.pixels)


def test_an_object_is_found_once_by_its_class_alone() -> None:
    truth = Composed(
        np.zeros((200, 200, 3), np.uint8),
        np.float32([[0, 0, 10, 10], [20, 0, 30, 10], [50, 50, 150, 150]]),
        np.array([1, 1, 2]),
    )
    found = Detections(
        boxes=np.float32([[0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 150, 149], [20, 0, 30, 10]]),
        scores=np.float32([0.9, 0.8, 0.7, 0.6]),
        labels=np.array([1, 1, 2, 2]),
        image_size=(200, 200),
    )
    assert figures(found, truth) == {
        "recall_small": 0.5,
        "recall_medium": 0,
        "recall_large": 1,
        "recall": round(2 / 3, 4),
        "precision": 0.5,
        "detections": 4,
    }
    assert figures(found[:0], truth)["precision"] == 0


def test_the_scenes_of_the_demo_are_read() -> None:
    scenes = read_scenes(BUNDLE, LABELS)
    assert (len(scenes), sum(len(scene.labels) for scene in scenes)) == (12, 84)


def test_a_report_gets_a_part_of_the_page(tmp_path: Path) -> None:
    row = {"way": "in slices", "precision": 0.5, "detections": 7, "seconds": 1.234}
    row |= {f"recall{size}": 0.25 for size in ("", "_small", "_medium", "_large")}
    report = {
        "environment": {"cpu": "a processor", "threads": 2, "command": "python -m maintenance.slicing"},
        "image": [100, 300],
        "photographs": 5,
        "objects": {"small": 1, "medium": 2, "large": 3},
        "score": 0.5,
        "sliced": [row],
        "memory": {"megapixels": 100, "before_mib": 200, "decoded_mib": 900, "after_mib": 1000},
    }
    (tmp_path / "a-cut.json").write_text(json.dumps(report))
    text = page(read_committed(tmp_path))
    assert "| in slices | 25.0 % | 25.0 % | 25.0 % | 25.0 % | 50.0 % | 7 | 1.23 |" in text
    assert "300x100" in text and "a-cut.json" in text
