"""Files are found by the names in annotations, from whatever system; what is ambiguous is not, and says so."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from frcnn.errors import UsageError
from frcnn.log import warn_once
from frcnn.runtime.dataset.annotations import AnnotatedImage, GroundTruth
from frcnn.runtime.dataset.files import find_images, match_sources
from frcnn.runtime.images.sources import Source


def saved(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(b"x")
    return folder


def ground_truth(*names: str) -> GroundTruth:
    images = tuple(AnnotatedImage(file_name=name, size=None) for name in names)
    return GroundTruth(source="set.json", categories={1: "cat"}, images=images)


def found(folder: Path, *names: str, **options: bool) -> dict[str, str]:
    """Return the file of each name, relative to the folder."""
    files, _ = find_images(ground_truth(*names), folder, **options)
    return {image.file_name: file.relative_to(folder).as_posix() for file, image in files.items()}


def refused(folder: Path, *names: str, **options: bool) -> UsageError:
    with pytest.raises(UsageError) as caught:
        find_images(ground_truth(*names), folder, **options)
    return caught.value


def test_missing_images_are_named_and_may_be_left_out(tmp_path):
    folder = saved(tmp_path / "p", "a.png")
    names = ["a.png", *(f"{i}.png" for i in range(12))]
    with pytest.raises(UsageError) as caught:
        find_images(ground_truth(*names), folder)
    assert f"12 of 13 images that set.json lists are not in {folder}: 0.png, 1.png," in caught.value.message
    assert "9.png and 2 more" in caught.value.message
    assert "--allow-missing" in caught.value.hint
    files, missing = find_images(ground_truth(*names), folder, allow_missing=True)
    assert list(files) == [folder / "a.png"]
    assert list(missing) == names[1:]


def test_images_of_another_set_are_refused(tmp_path):
    folder = saved(tmp_path / "p", "x.png")
    with pytest.raises(UsageError) as caught:
        find_images(ground_truth("a.png", "b.png"), folder, allow_missing=True)
    message = f"none of the 2 images that set.json lists (a.png, ...) is in {folder}, which has x.png"
    assert (caught.value.message, caught.value.hint) == (message, "check that annotations and images are of one set")


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is no folder"):
        find_images(ground_truth("a.png"), tmp_path / "none")


NFC, NFD = (unicodedata.normalize(form, "Zoë/café é.jpg") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("sub\\a.jpg", "sub/a.jpg"),
        ("..\\..\\data\\sub\\a.jpg", "sub/a.jpg"),
        ("../images/a.jpg", "a.jpg"),
        ("D:\\data\\val\\a.jpg", "a.jpg"),
        ("\\\\server\\share\\sub\\a.jpg", "sub/a.jpg"),
        ("/home/somebody/images/sub/a.jpg", "sub/a.jpg"),
        ("https://host/bucket/a.jpg", "a.jpg"),
        ("val/a.jpg", "a.jpg"),
        ("a.jpg", "deep/in/a.jpg"),
        ("/data/in/a.jpg", "in/a.jpg"),
        ("A.JPG", "a.jpg"),
        ("/data/Sub/A.JPG", "sub/a.jpg"),
        (NFC, NFD),
        (NFD, NFC),
        (f"C:\\{NFC}", NFD),
        ("Straße.jpg", "STRASSE.jpg"),
    ],
)
def test_a_name_of_another_system_is_found_by_its_last_parts_and_that_is_said(tmp_path, caplog, name, file):
    warn_once.cache_clear()
    folder = saved(tmp_path / "images", file, "other.jpg")
    assert found(folder, name, "other.jpg") == {name: file, "other.jpg": "other.jpg"}
    said = f"1 of 2 images are found in {folder} by the last parts of their names: {name} is {Path(file)}"
    assert caplog.messages == [f"frcnn: {said}"]


def test_names_as_they_stand_are_found_without_a_word(tmp_path, caplog):
    names = ["a.jpg", "sub/a.jpg", "b\\c.jpg", "C.jpg", "c.jpg"]
    folder = saved(tmp_path, *names)
    assert found(folder, *reversed(names)) == {name: name for name in names}
    assert list(found(folder, *reversed(names))) == names[::-1]
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("name", "files", "file"),
    [
        ("D:\\x\\sub\\a.jpg", ["a.jpg", "sub/a.jpg"], "sub/a.jpg"),  # more parts agree
        ("D:\\x\\a.jpg", ["a.jpg", "A.jpg"], "a.jpg"),  # as written
        ("/x/A.Jpg", ["y/A.Jpg", "a.jpg"], "a.jpg"),  # y is not x
    ],
)
def test_of_several_files_the_best_is_found(tmp_path, name, files, file):
    assert found(saved(tmp_path, *files), name) == {name: file}


def test_a_file_in_another_folder_is_not_taken_for_it(tmp_path):
    folder = saved(tmp_path / "images", "train/1.jpg", "val/2.jpg")
    error = refused(folder, "val/1.jpg", "val/2.jpg")
    assert error.message == f"1 of 2 images that set.json lists are not in {folder}: val/1.jpg"
    assert error.hint.startswith("val/1.jpg may be train/1.jpg, in another folder or of another kind: give the")


def test_several_files_that_fit_are_named(tmp_path):
    folder = saved(tmp_path, "x/a.jpg", "y/a.jpg", "b.jpg")
    error = refused(folder, "a.jpg", "b.jpg")
    assert "a.jpg may be any of x/a.jpg, y/a.jpg: give the folder that file names are relative to" in error.hint
    assert "--allow-missing" in error.hint
    files, missing = find_images(ground_truth("a.jpg", "b.jpg"), folder, allow_missing=True)
    assert (list(files), missing) == ([folder / "b.jpg"], {"a.jpg": "may be any of x/a.jpg, y/a.jpg"})
    assert "b.jpg may be b.jpg" not in refused(folder, "x/a.jpg", "a.jpg").hint


@pytest.mark.parametrize("names", [("D:\\train\\a.jpg", "D:\\val\\a.jpg"), ("a.jpg", "./a.jpg"), ("A.JPG", "/x/a.jpg")])
def test_two_names_of_one_file_are_refused(tmp_path, names):
    error = refused(saved(tmp_path, "a.jpg"), *names, allow_missing=True)
    assert error.hint.startswith(f"{names[0]} may be a.jpg, as may another")


def test_a_file_that_has_a_name_of_its_own_is_no_other_image(tmp_path):
    assert found(saved(tmp_path, "a.jpg"), "old/a.jpg", "a.jpg", allow_missing=True) == {"a.jpg": "a.jpg"}


def test_another_suffix_is_in_the_hint(tmp_path):
    assert refused(saved(tmp_path, "sub/a.PNG"), "a.jpg").hint.startswith(
        "a.jpg may be sub/a.PNG, in another folder or"
    )


def test_paths_of_another_place_are_called_so(tmp_path):
    folder = saved(tmp_path, "b.jpg")
    for name in ("D:\\x\\a.jpg", "/home/x/a.jpg", "../a.jpg"):
        assert refused(folder, name).hint.startswith(f"{name} is a path of another place or system")


def test_linked_folders_are_searched_once(tmp_path):
    saved(tmp_path / "elsewhere", "sub/a.jpg")
    folder = saved(tmp_path / "images", "b.jpg")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "again").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    (found_file,) = found(folder, "A.jpg").values()
    assert found_file.endswith("/sub/a.jpg")


def test_a_folder_of_folders_is_not_called_empty(tmp_path):
    saved(tmp_path, "train/b.jpg", "val/b.jpg")
    assert refused(tmp_path, "a.jpg").message.endswith("which has train, val")


def listed(names: list[str], files: dict[str, str], **options: bool) -> tuple[dict[str, str], list[str]]:
    """Return the name of each file, and the files that are not listed; files have places in the folders given."""
    sources = [
        Source(kind="video" if file.endswith(".mp4") else "image", name=file, at=Path(file), place=Path(place))
        for file, place in files.items()
    ]
    found, missing = match_sources(ground_truth(*names), sources, **options)
    return {name: image.file_name for name, image in found.items()}, missing


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a.jpg", "deep/in/a.jpg"),
        ("in/a.jpg", "/data/deep/in/a.jpg"),
        ("DEEP/IN/A.JPG", "deep/in/a.jpg"),
        (NFC, NFD),
    ],
)
def test_a_file_is_the_image_whose_name_has_its_last_parts(name, file, caplog):
    assert listed([name, "other.jpg"], {file: "x.jpg"}) == ({file: name}, [])
    assert caplog.messages == []


@pytest.mark.parametrize("name", ["D:\\data\\sub\\a.jpg", "https://host/bucket/sub/a.jpg", "/else/where/SUB/A.JPG"])
def test_a_file_is_the_image_with_the_last_parts_of_its_place_and_that_is_said(name, caplog):
    warn_once.cache_clear()
    files = {"images/sub/a.jpg": "sub/a.jpg"}
    assert listed([name, "other.jpg"], files) == ({"images/sub/a.jpg": name}, [])
    said = f"frcnn: 1 of 1 inputs are found in set.json by the last parts of names: images/sub/a.jpg is {name}"
    assert caplog.messages == [said]


def test_an_image_that_has_a_file_is_no_other_files():
    files = {"val/a.jpg": "a.jpg", "train/a.jpg": "a.jpg"}
    assert listed(["val/a.jpg"], files, allow_missing=True) == ({"val/a.jpg": "val/a.jpg"}, ["train/a.jpg"])


def test_of_two_names_a_file_is_the_one_with_more_of_its_path():
    files = {"images/a.jpg": "a.jpg", "images/sub/a.jpg": "sub/a.jpg"}
    assert listed(["sub/a.jpg", "a.jpg"], files)[0] == files


@pytest.mark.parametrize(
    ("names", "files", "hint"),
    [
        (["a.jpg"], ["b.jpg"], "check that annotations and images are of one set"),
        (["val/a.jpg"], ["train/a.jpg"], "train/a.jpg may be val/a.jpg, in another folder or of another kind"),
        (["a.jpg"], ["x/a.jpg", "y/a.jpg"], "x/a.jpg may be a.jpg, as may another"),
        (["D:\\x\\a.jpg", "D:\\y\\a.jpg"], ["a.jpg"], "a.jpg may be any of D:\\x\\a.jpg, D:\\y\\a.jpg"),
        (["clip.mp4"], ["clip.mp4"], "check that annotations and images are of one set"),  # its frames have no id
    ],
)
def test_files_that_are_not_listed_or_not_alone_are_refused_by_name(names, files, hint):
    places = {file: file for file in files}
    with pytest.raises(UsageError) as caught:
        listed(names, places)
    message = f"{len(files)} of {len(files)} inputs are not listed in set.json: {', '.join(files)}"
    assert (caught.value.message, caught.value.hint) == (message, hint)
    with pytest.raises(UsageError, match=r"or leave them out: --allow-missing\)$"):
        listed([*names, "good.png"], {**places, "good.png": "good.png"})
    names, places = [*names, "good.png"], {**places, "good.png": "good.png"}
    assert listed(names, places, allow_missing=True) == ({"good.png": "good.png"}, files)
