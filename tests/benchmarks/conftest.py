"""What tests of quantisation share: annotated images for the tiny model, and a gate that no model passes."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from PIL import Image
from support.made_once import made_once
from support.tiny_detector import noise

from frcnn.benchmarks.quantization import quantize
from frcnn.benchmarks.quantization.gate import AccuracyGate
from frcnn.runtime import Detector

COUNT = 24


@pytest.fixture(scope="session")
def annotated_noise(tiny_model) -> Path:
    """A folder with ``images/`` and ``instances.json``: what the tiny model finds is the truth."""

    def make(folder: Path) -> None:
        (folder / "images").mkdir()
        images, annotations = [], []
        with Detector.load(tiny_model, threads=1) as detector:
            for index in range(COUNT):
                pixels, name = noise(index, 40, 48), f"{index:03}.png"
                Image.fromarray(pixels).save(folder / "images" / name)
                images.append({"id": index, "file_name": name, "height": 40, "width": 48})
                (found,) = detector([pixels])
                for (x1, y1, x2, y2), label in zip(found.boxes.tolist(), found.labels.tolist(), strict=True):
                    annotations.append({"image_id": index, "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1]})
        categories = [{"id": label, "name": name} for label, name in enumerate(("one", "two", "three"), start=1)]
        document = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "instances.json").write_text(json.dumps(document))

    return made_once("annotated noise", make)


@pytest.fixture
def impassable(monkeypatch) -> None:
    """No model passes; groups are put back one after the other, each judged on few images."""
    judge = AccuracyGate.judge
    monkeypatch.setattr(
        AccuracyGate, "judge", lambda gate, found: msgspec.structs.replace(judge(gate, found), passed=False)
    )
    monkeypatch.setattr(quantize, "SENSITIVITY_IMAGES", 4)
