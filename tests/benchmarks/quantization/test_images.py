"""Which images are calibrated on, and which are for the gate."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image
from support.names import not_utf8
from support.tiny_detector import noise

from frcnn.benchmarks.quantization.images import calibration_inputs, find_candidates, split
from frcnn.errors import FrcnnError, ImageError, UsageError
from frcnn.runtime.dataset.annotations import AnnotatedImage, GroundTruth
from frcnn.runtime.images.image import RGBImage
from frcnn.runtime.images.preprocess import prepare
from frcnn.runtime.model_files.artifact import open_artifact
from frcnn.spec import Manifest


@pytest.fixture
def manifest(tiny_model) -> Manifest:
    manifest = open_artifact(tiny_model).manifest
    assert isinstance(manifest, Manifest)
    return manifest


def write_images(folder: Path, count: int, *, start: int = 0, size: tuple[int, int] = (40, 48)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(start, start + count):
        Image.fromarray(noise(index, *size)).save(folder / f"{index:03}.png")
    return folder


def annotated(*names: str, size: tuple[int, int] | None = (40, 48)) -> GroundTruth:
    images = tuple(AnnotatedImage(file_name=name, size=size) for name in names)
    return GroundTruth(source="truth.json", categories={1: "one"}, images=images)


def test_no_image_serves_both_purposes_and_the_choice_depends_on_names_only(manifest, tmp_path):
    folder = write_images(tmp_path / "a", 20)
    found = find_candidates([folder], None)
    chosen = split(found, manifest, calibration=12, gate=100)
    assert (len(chosen.calibration), len(chosen.gate), chosen.skipped) == (10, 10, {})
    assert not set(chosen.calibration) & set(chosen.gate)
    assert list(chosen.calibration) != sorted(chosen.calibration)

    again = write_images(tmp_path / "b", 20)
    other = split(find_candidates(sorted(again.iterdir(), reverse=True), None), manifest, calibration=12, gate=100)
    assert [file.name for file in other.calibration] == [file.name for file in chosen.calibration]


def test_links_to_one_image_are_one_image(manifest, tmp_path):
    """Else one could be calibrated on, and the other judge the result."""
    folder = write_images(tmp_path / "a", 8)
    for image in sorted(folder.iterdir()):
        (folder / f"link-{image.name}").symlink_to(image)
    assert len(find_candidates([folder], None)) == 8


def test_names_that_are_not_utf8_are_shuffled_like_others(manifest, tmp_path):
    folder = not_utf8(tmp_path)
    for image in sorted(write_images(tmp_path / "a", 8).iterdir()):
        image.rename(folder / os.fsdecode(b"n\xe9" + os.fsencode(image.name)))
    chosen = split(find_candidates([folder], None), manifest, calibration=4, gate=4)
    assert len({*chosen.calibration, *chosen.gate}) == 8


def test_no_more_are_taken_than_asked_for(manifest, tmp_path, monkeypatch):
    found = find_candidates([write_images(tmp_path / "a", 30)], None)
    opened: list[object] = []
    open_image = RGBImage.open
    monkeypatch.setattr(RGBImage, "open", lambda path: opened.append(path) or open_image(path))
    chosen = split(found, manifest, calibration=5, gate=6)
    assert (len(chosen.calibration), len(chosen.gate), len(opened)) == (5, 6, 11)


def test_where_there_are_too_few_each_gets_half_or_what_the_other_leaves(manifest, tmp_path):
    found = find_candidates([write_images(tmp_path / "a", 20)], None)
    sizes = {}
    for asked in ((100, 100), (12, 8), (100, 6), (4, 100)):
        chosen = split(found, manifest, calibration=asked[0], gate=asked[1])
        sizes[asked] = (len(chosen.calibration), len(chosen.gate))
    assert sizes == {(100, 100): (10, 10), (12, 8): (12, 8), (100, 6): (14, 6), (4, 100): (4, 16)}


def test_images_without_annotations_are_calibrated_on_first(manifest, tmp_path):
    folder = write_images(tmp_path / "a", 12)
    truth = annotated(*(f"{index:03}.png" for index in range(6)))
    chosen = split(find_candidates([folder], truth), manifest, calibration=8, gate=100)
    assert {file.name for file in chosen.calibration} >= {f"{index:03}.png" for index in range(6, 12)}
    assert (len(chosen.calibration), len(chosen.gate)) == (8, 4)
    assert all(image.size == (40, 48) for image in chosen.gate.values())


def test_more_folders_are_for_calibration_only(manifest, tmp_path):
    annotated_folder, more = write_images(tmp_path / "a", 6), write_images(tmp_path / "b", 6)
    truth = annotated(*(f"{index:03}.png" for index in range(6)))
    chosen = split(find_candidates([annotated_folder, more], truth), manifest, calibration=6, gate=100)
    assert {file.parent for file in chosen.calibration} == {more}
    assert {file.parent for file in chosen.gate} == {annotated_folder}


def test_annotated_images_in_sub_folders_are_found_and_missing_ones_named(manifest, tmp_path):
    write_images(tmp_path / "a" / "sub", 8)
    found = find_candidates([tmp_path / "a"], annotated("sub/000.png", "sub/001.png", "sub/900.png"))
    assert [file.name for file in found.gate] == ["000.png", "001.png"]
    assert found.missing == {"sub/900.png": "not in the folder"}


def test_images_that_cannot_be_used_are_skipped_with_their_reasons(manifest, tmp_path):
    folder = write_images(tmp_path / "a", 10)
    (folder / "000.png").write_bytes(b"no image")
    write_images(folder, 1, start=1, size=(41, 48))
    truth = annotated(*(f"{index:03}.png" for index in range(10)))
    chosen = split(find_candidates([folder], truth), manifest, calibration=100, gate=100)
    assert sorted(Path(name).name for name in chosen.skipped) == ["000.png", "001.png"]
    assert "its annotations are for 48x40" in chosen.skipped[str(folder / "001.png")]
    assert len(chosen.calibration) + len(chosen.gate) == 8


@pytest.mark.parametrize("count", [1, 7])
def test_fewer_than_eight_are_refused(count, manifest, tmp_path):
    folder = write_images(tmp_path / "a", count)
    (folder / "broken.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=f"expected 8 images or more that can be used, got {count} of {count + 1}; "):
        split(find_candidates([folder], None), manifest, calibration=100, gate=100)


def test_a_gate_of_less_than_four_annotated_images_is_refused(manifest, tmp_path):
    folder = write_images(tmp_path / "a", 20)
    found = find_candidates([folder], annotated("000.png", "001.png"))
    with pytest.raises(ImageError, match="expected 4 annotated images or more that can be used, got 2 of 2"):
        split(found, manifest, calibration=100, gate=100)


def test_images_that_no_canvas_holds_are_refused_with_the_canvas(manifest, tmp_path):
    folder = write_images(tmp_path / "a", 9)
    small = msgspec.structs.replace(manifest, canvases=((32, 32),))
    with pytest.raises(ImageError, match=r"got 0 of 9; .* fits none of the model's canvases 32x32"):
        split(find_candidates([folder], None), small, calibration=100, gate=100)


def test_paths_without_images_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "clip.mp4").write_bytes(b"")
    with pytest.raises(ImageError, match="the folder has none"):
        find_candidates([tmp_path / "empty"], None)
    with pytest.raises(FrcnnError, match="no such file or folder"):
        find_candidates([tmp_path / "none"], None)
    with pytest.raises(UsageError, match="expected images, got videos only"):
        find_candidates([tmp_path / "clip.mp4"], None)
    with pytest.raises(UsageError, match=r"none of the 1 images that truth\.json lists"):
        find_candidates([tmp_path / "empty"], annotated("000.png"))


def test_inputs_are_prepared_as_the_detector_prepares_them(manifest, tmp_path):
    files = sorted(write_images(tmp_path / "a", 2).iterdir())
    first, second = calibration_inputs(files, manifest)
    expected = prepare(RGBImage.open(files[0]), manifest)
    assert np.array_equal(first["images"], expected.pixels[None])
    assert first["image_sizes"].tolist() == [list(expected.resized)]
    assert (first["images"].dtype, second["image_sizes"].dtype) == (np.float32, np.int32)
