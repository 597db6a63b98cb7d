"""``frcnn detect --slice``, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.tiny_detector import noise

from frcnn.cli import main
from frcnn.runtime import Detector
from frcnn.runtime.images.video import open_video, writing_video

Captured = pytest.CaptureFixture[str]


def detect(model: Path, *arguments: object) -> int:
    return main(["detect", str(model), *map(str, arguments), "--threads", "1"])


def entries(path: Path) -> list[dict]:
    return [
        {name: entry[name] for name in ("image_id", "category_id", "bbox", "score")}
        for entry in json.loads(path.read_text())
    ]


def test_an_image_that_exif_turns_its_copy_and_its_results(tiny_model: Path, tmp_path: Path, capsys: Captured) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file, out, results = tmp_path / "a.png", tmp_path / "out", tmp_path / "r.json"
    Image.fromarray(noise(1, 150, 90)).save(file, exif=exif)
    options = ["--slice", 60, "--overlap", 0.5, "--merge", "weighted", "--merge-iou", 0.4, "--no-whole"]
    assert detect(tiny_model, file, "-o", out, "--json", results, *options, "--score", 0.4) == 0
    with Detector.load(tiny_model, threads=1) as detector:
        (found,) = detector.sliced([file], size=60, overlap=0.5, merge="weighted", iou=0.4, whole=False, score=0.4)
    assert found.image_size == (90, 150)
    assert entries(results) == [
        {name: entry[name] for name in ("image_id", "category_id", "bbox", "score")} for entry in found.to_coco(1)
    ]
    assert len(found) > 6
    with Image.open(out / "a.png") as copy:
        assert copy.size[0] % 150 == copy.size[1] % 90 == 0
    assert capsys.readouterr().err.startswith(f"1 image(s), {len(found)} object(s)")


def test_the_frames_of_a_video_are_cut_in_batches(tiny_model: Path, tmp_path: Path) -> None:
    clip, out, results = tmp_path / "clip.avi", tmp_path / "out", tmp_path / "r.json"
    with writing_video(clip, 10.0) as writer:
        for seed in range(3):
            writer.write(noise(seed, 96, 128))
    assert detect(tiny_model, clip, "-o", out, "--json", results, "--slice", 64, "--batch-size", 4, "--score", 0.5) == 0
    with Detector.load(tiny_model, threads=1) as detector:
        frames = list(open_video(clip).frames())
        counts = [len(found) for found in detector.sliced(frames, size=64, score=0.5, batch_size=4)]
    assert [sum(entry["image_id"] == number for entry in entries(results)) for number in (1, 2, 3)] == counts
    assert min(counts) > 0
    assert len(list(open_video(out / "clip.mp4").frames())) == 3


def test_a_slice_larger_than_the_images_is_noted_once(tiny_model: Path, tmp_path: Path, capsys: Captured) -> None:
    for name in ("a.png", "b.png"):
        Image.fromarray(noise(1, 60, 80)).save(tmp_path / name)
    assert detect(tiny_model, tmp_path, "--slice", 640, "--jsonl", "-") == 0
    sliced = capsys.readouterr()
    assert sliced.err.count("warning: images of 640x640 pixels or less fit in a slice and are not cut") == 1
    assert detect(tiny_model, tmp_path, "--jsonl", "-") == 0
    assert capsys.readouterr().out == sliced.out


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--slice", 0], "error: the size of slices: expected 1 pixel or more, got 0"),
        (["--slice", 640, "--overlap", 1], "error: the overlap of slices: expected 0 or more and less than 1, got 1.0"),
        (
            ["--slice", 640, "--overlap", -0.5],
            "error: the overlap of slices: expected 0 or more and less than 1, got -0.5",
        ),
        (["--slice", "many"], "error: --slice: invalid int value: 'many'"),
        (["--overlap", 0.2], "error: --overlap, --merge, --merge-iou and --no-whole go with --slice only"),
        (["--no-whole"], "error: --overlap, --merge, --merge-iou and --no-whole go with --slice only"),
    ],
)
def test_what_makes_no_sense_is_refused_in_two_lines(
    tmp_path: Path, options: list[object], error: str, capsys: Captured
) -> None:
    assert detect(tmp_path / "no.onnx", tmp_path, *options) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == error
    assert second.startswith(("hint: ", "help: "))


def test_an_image_of_too_many_slices_is_skipped(tiny_model: Path, tmp_path: Path, capsys: Captured) -> None:
    small, large = tmp_path / "a.png", tmp_path / "b.png"
    Image.fromarray(noise(1, 4, 4)).save(small)
    Image.fromarray(np.zeros((200, 200, 3), np.uint8)).save(large)
    assert detect(tiny_model, small, large, "--slice", 1, "--overlap", 0, "--no-whole", "--json", "-") == 1
    error = capsys.readouterr().err
    assert f"skipped: {large} (200x200): 40,000 slices of 1 pixels that overlap by 0, more than 10,000 (make" in error
    assert "1 image(s)" in error
