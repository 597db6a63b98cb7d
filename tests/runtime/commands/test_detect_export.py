"""``frcnn detect --export``: files for labelling tools."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from frcnn.cli import main
from frcnn.runtime import Detector, formats
from frcnn.runtime.images.video import writing_video

ImageFile = Callable[..., Path]
Captured = pytest.CaptureFixture[str]


def detect(model: Path, *arguments: object) -> int:
    return main(["detect", str(model), *map(str, arguments), "--threads", "1"])


def refused(model: Path, *arguments: object, capsys: Captured) -> str:
    assert detect(model, *arguments) == 2
    return capsys.readouterr().err


def test_all_formats_have_what_was_detected(
    model_path: Path, image_file: ImageFile, tmp_path: Path, capsys: Captured
) -> None:
    images = [image_file("a.jpg", 250, 600, 800), image_file("b.png", 0, 300, 400)]
    exports = [part for kind in formats.FORMATS for part in ("--export", f"{kind}={tmp_path / kind}")]
    assert detect(model_path, *images, "--score", 0.3, *exports, "--json", tmp_path / "r.json") == 0
    assert capsys.readouterr().out == ""  # no table
    with Detector.load(model_path, threads=1) as detector:
        expected, names = detector([str(path) for path in images], score=0.3), detector.labels
    sizes = {found.source or "": found.image_size for found in expected}
    for read in (
        formats.from_cvat(tmp_path / "cvat"),
        formats.from_fiftyone(tmp_path / "fiftyone"),
        formats.from_label_studio(tmp_path / "label-studio", label_names=names),
        formats.from_yolo(tmp_path / "yolo-scores" / "labels", image_sizes=sizes, label_names=names),
    ):
        assert [found.to_json() for found in read] == [found.to_json() for found in expected]
    assert expected[0]
    assert len(json.loads((tmp_path / "r.json").read_text())) == sum(map(len, expected))


def test_what_cannot_be_exported_is_refused_before_the_work(
    model_path: Path, image_file: ImageFile, tmp_path: Path, capsys: Captured
) -> None:
    image, old = image_file("a.jpg", 250, 60, 80), tmp_path / "old"
    old.mkdir()
    (old / "b.txt").touch()
    assert "expected FORMAT=PATH, got 'cvat'" in refused(model_path, image, "--export", "cvat", capsys=capsys)
    assert "there is no 'coco'" in refused(model_path, image, "--export", "coco=a", capsys=capsys)
    assert "not empty, there is b.txt" in refused(model_path, image, "--export", f"yolo={old}", capsys=capsys)
    assert "would be overwritten" in refused(model_path, image, "--export", f"cvat={image}", capsys=capsys)
    twice = ["--export", f"cvat={tmp_path}/x", "--export", f"fiftyone={tmp_path}/x"]
    assert "two results" in refused(model_path, image, *twice, capsys=capsys)
    with writing_video(tmp_path / "clip.avi", 10.0) as writer:
        writer.write(np.zeros((36, 48, 3), np.uint8))
    moving = refused(model_path, image, tmp_path / "clip.avi", "--export", f"cvat={tmp_path}/x", capsys=capsys)
    assert "clip.avi is none" in moving
    assert not (tmp_path / "x").exists()
