"""Pairs of drawings show where eager and a model differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frcnn.benchmarks.accuracy.drawing import draw_pair, drawing_paths, find_differences, write_pairs
from frcnn.benchmarks.accuracy.images import DetectedImage
from frcnn.errors import UsageError
from frcnn.runtime import Detections
from frcnn.runtime.dataset.annotations import AnnotatedImage

SAME, MOVED, RELABELLED, ALONE = (86, 180, 233), (204, 121, 167), (240, 228, 66), (213, 94, 0)
BOX = (40, 40, 200, 200)
TITLES = ("eager torchvision", "model.onnx")


def found(*rows: tuple[tuple[float, float, float, float], float, int]) -> Detections:
    return Detections(
        boxes=np.array([box for box, _, _ in rows], np.float32).reshape(-1, 4),
        scores=[score for _, score, _ in rows],
        labels=[label for _, _, label in rows],
        image_size=(400, 400),
        label_names=("__background__", "cat", "dog"),
    )


def detected(eager: Detections, model: Detections, file: str = "a.png") -> DetectedImage:
    ground_truth = AnnotatedImage(file_name=file, size=None)
    return DetectedImage(file=Path(file), ground_truth=ground_truth, model=model, eager=eager)


def colours(pixels: np.ndarray) -> set[tuple[int, ...]]:
    values, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
    return {tuple(value) for value, count in zip(values.tolist(), counts, strict=True) if count > 200}


def halves(eager: Detections, model: Detections, min_score: float = 0.3) -> tuple[set[tuple[int, ...]], ...]:
    (item,) = find_differences([detected(eager, model)], min_score=min_score)
    drawn = draw_pair(item, np.full((400, 400, 3), 128, np.uint8), titles=TITLES)
    assert drawn.shape[1] == 2 * 400 + 8
    known = {SAME, MOVED, RELABELLED, ALONE}
    return colours(drawn[:, :400]) & known, colours(drawn[:, 408:]) & known


CAT = (BOX, 0.9, 1)
ELSEWHERE = ((250, 250, 380, 380), 0.8, 1)


def test_equal_detections_do_not_differ():
    assert find_differences([detected(found(CAT), found(CAT)), detected(found(), found())], min_score=0.0) == []


@pytest.mark.slow
def test_a_detection_of_one_side_only_is_drawn_as_such():
    assert halves(found(CAT), found(CAT, ELSEWHERE)) == ({SAME}, {SAME, ALONE})
    assert halves(found(CAT, ELSEWHERE), found(CAT)) == ({SAME, ALONE}, {SAME})


@pytest.mark.slow
def test_another_label_and_a_moved_box_have_their_colours():
    assert halves(found(CAT), found((BOX, 0.9, 2))) == ({RELABELLED}, {RELABELLED})
    assert halves(found(CAT), found(((40, 40, 200, 230), 0.9, 1))) == ({MOVED}, {MOVED})


@pytest.mark.slow
def test_a_low_score_does_not_count_but_may_be_a_partner():
    weak = (ELSEWHERE[0], 0.2, 1)
    assert find_differences([detected(found(CAT), found(CAT, weak))], min_score=0.3) == []
    assert halves(found(CAT, weak), found((BOX, 0.9, 2), ELSEWHERE)) == ({SAME, RELABELLED}, {SAME, RELABELLED})
    assert halves(found(CAT), found(CAT, weak), min_score=0.1) == ({SAME}, {SAME, ALONE})


def test_the_highest_scoring_difference_comes_first():
    images = [detected(found(), found((BOX, score, 1)), f"{score}.png") for score in (0.4, 0.95, 0.6, 0.1)]
    assert [item.file.name for item in find_differences(images, min_score=0.3)] == ["0.95.png", "0.6.png", "0.4.png"]


@pytest.mark.parametrize("width", [40, 150, 900])
def test_pairs_of_any_image_size_are_drawn(width):
    few = found(((2, 2, 30, 30), 0.9, 1))
    (item,) = find_differences([detected(few, found())], min_score=0.3)
    drawn = draw_pair(item, np.full((60, width, 3), 128, np.uint8), titles=TITLES)
    assert drawn.shape[1] >= 2 * width and drawn.dtype == np.uint8


def test_drawings_keep_names_and_never_replace_an_image(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(np.full((400, 400, 3), 128, np.uint8)).save(folder / "a.png")
    items = find_differences([detected(found(CAT), found(), str(folder / "a.png"))], min_score=0.3)
    paths = drawing_paths(items, tmp_path / "out")
    assert [path.name for path in paths] == ["a.png"]
    write_pairs(paths, titles=TITLES)
    with Image.open(tmp_path / "out" / "a.png") as image:
        assert image.width == 808
    before = (folder / "a.png").read_bytes()
    with pytest.raises(UsageError, match="is an input and would be overwritten"):
        drawing_paths(items, folder)
    assert (folder / "a.png").read_bytes() == before


def test_drawings_of_one_name_are_told_apart(tmp_path):
    files = [tmp_path / part / "a.jpg" for part in ("left", "right")]
    items = find_differences([detected(found(CAT), found(), str(file)) for file in files], min_score=0.3)
    paths = drawing_paths(items, tmp_path / "out")
    assert {path.name: item.file for path, item in paths.items()} == {"a.jpg": files[0], "a-2.jpg": files[1]}
