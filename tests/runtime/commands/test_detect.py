"""``frcnn detect``, as a user runs it, on the stand-in model."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image
from support.engine_files import write_engine_file
from support.names import not_utf8
from support.recordings import record, shown, uneven_times

from frcnn.cli import main
from frcnn.errors import ArtifactError
from frcnn.runtime import loading
from frcnn.runtime.images.video import open_video, writing_video
from frcnn.spec import Manifest

ImageFile = Callable[..., Path]
Captured = pytest.CaptureFixture[str]


def detect(model: Path, *arguments: object) -> int:
    return main(["detect", str(model), *map(str, arguments), "--threads", "1"])


def files_under(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.avi"
    with writing_video(path, 10.0) as writer:
        for level in (250, 0, 250):
            writer.write(np.full((360, 480, 3), level, np.uint8))
    return path


def test_results_and_copies_are_written(
    model_path: Path, image_file: ImageFile, tmp_path: Path, capsys: Captured
) -> None:
    one, two = image_file("a.jpg", 250, 600, 800), image_file("b.png", 100, 600, 800)
    out, results = tmp_path / "out", tmp_path / "deep" / "er" / "out.json"
    assert detect(model_path, one, two, "-o", out, "--json", results, "--score", 0.3) == 0
    entries = read(results)
    assert [(entry["image_id"], entry["category_id"], entry["file_name"]) for entry in entries] == [
        (1, 1, str(one)),
        (1, 2, str(one)),
        (2, 1, str(two)),
    ]
    assert entries[2]["bbox"] == pytest.approx([80, 120, 320, 240], rel=1e-5)
    assert set(entries[0]) == {"image_id", "category_id", "bbox", "score", "file_name", "copy"}
    assert files_under(out) == ["a.jpg", "b.png"]
    with Image.open(out / "a.jpg") as copy, Image.open(one) as original:
        assert (copy.format, copy.size) == ("JPEG", original.size)
        assert not np.array_equal(np.asarray(copy), np.asarray(original))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "2 image(s), 3 object(s) scoring 0.3 or more" in captured.err


def test_the_font_of_copies_is_chosen(model_path: Path, image_file: ImageFile, clip: Path, tmp_path: Path) -> None:
    font = Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans-Bold.ttf")
    image = image_file("a.png", 250, 300, 400)
    assert detect(model_path, image, clip, "-o", tmp_path / "usual") == 0
    assert detect(model_path, image, clip, "-o", tmp_path / "bold", "--font", font) == 0
    for name in ("a.png", "clip.mp4"):
        assert (tmp_path / "usual" / name).read_bytes() != (tmp_path / "bold" / name).read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--font", "x.ttf"], "--font is for annotated copies, and none are written"),
        (["--font", "x.ttf", "-o", "out"], "font: expected a scalable TrueType or OpenType font, got x.ttf: "),
    ],
)
def test_a_font_that_is_of_no_use_is_refused_before_the_work(
    model_path: Path,
    image_file: ImageFile,
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert detect(model_path, image_file("a.png"), *options) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert not Path("out").exists()


def test_without_outputs_a_table_is_printed(model_path: Path, image_file: ImageFile, capsys: Captured) -> None:
    assert detect(model_path, image_file("a.jpg", 250), image_file("b.jpg", 0), "--score", "0.3") == 0
    captured = capsys.readouterr()
    assert "1 cat, 1 dog" in captured.out
    assert "nothing" in captured.out
    assert "80x60" in captured.out
    assert f"nothing found in 1: {image_file('b.jpg')}" in captured.err


def test_json_on_standard_output_is_alone_there(model_path: Path, image_file: ImageFile, capsys: Captured) -> None:
    assert detect(model_path, image_file("a.jpg", 250), "--json", "-") == 0
    assert len(json.loads(capsys.readouterr().out)) == 1


def test_no_detections_are_valid_json_and_listed(model_path: Path, image_file: ImageFile, tmp_path: Path) -> None:
    black = image_file("black.png", 0)
    assert detect(model_path, black, "--json", tmp_path / "r.json", "--json-index", tmp_path / "i.json") == 0
    assert read(tmp_path / "r.json") == []
    assert read(tmp_path / "i.json") == {
        "images": [{"id": 1, "file_name": str(black), "height": 60, "width": 80}],
        "annotations": [],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "teddy bear"}],
    }


def test_classes_are_chosen_by_name_or_number(
    model_path: Path,
    model_of: Callable[..., Path],
    manifest_of: Callable[..., Manifest],
    image_file: ImageFile,
    capsys: Captured,
) -> None:
    path = image_file("a.jpg", 250)
    assert detect(model_path, path, "--json", "-", "--score", 0, "--classes", "dog, teddy bear") == 0
    assert [entry["category_id"] for entry in json.loads(capsys.readouterr().out)] == [2]
    nameless = model_of(manifest_of(labels=None))
    assert detect(nameless, path, "--json", "-", "--score", 0, "--classes", "2,3") == 0
    assert [entry["category_id"] for entry in json.loads(capsys.readouterr().out)] == [2]
    assert detect(model_path, path, "--classes", "dog,bird") == 2
    captured = capsys.readouterr()
    assert captured.err == "error: classes: the model does not know 'bird'\nhint: it knows: cat, dog, teddy bear\n"


def test_a_bad_image_among_good_ones_is_skipped(
    model_path: Path, image_file: ImageFile, tmp_path: Path, capsys: Captured
) -> None:
    image_file("in/a.png", 250)
    (tmp_path / "in" / "b.png").write_bytes(b"\x89PNG broken")
    image_file("in/c.png", 200)
    missing = tmp_path / "missing.jpg"
    out, results = tmp_path / "out", tmp_path / "r.json"
    assert detect(model_path, tmp_path / "in", missing, "-o", out, "--json", results) == 1
    assert {entry["image_id"] for entry in read(results)} == {1, 3}  # a bad image keeps its number
    assert files_under(out) == ["a.png", "c.png"]
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith(f"skipped: {tmp_path / 'in' / 'b.png'}: ") for line in lines)
    assert f"skipped: {missing}: no such file or folder (check the path)" in lines
    assert lines[-1] == f"skipped 2 of 4 inputs: {missing}, {tmp_path / 'in' / 'b.png'}"


def test_nothing_usable_is_exit_code_2(model_path: Path, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "bad.jpg").write_text("broken")
    (tmp_path / "empty").mkdir()
    results = tmp_path / "r.json"
    assert detect(model_path, tmp_path / "bad.jpg", tmp_path / "empty", "--json", results) == 2
    assert "error: none of the 2 input(s) could be used" in capsys.readouterr().err
    assert not results.exists()


def test_images_of_extreme_sizes_are_detected(model_path: Path, image_file: ImageFile, tmp_path: Path) -> None:
    one = image_file("one.png", 250, 1, 1)
    wide = image_file("wide.png", 250, 3, 20_000)
    assert detect(model_path, one, wide, "-o", tmp_path / "out", "--json", tmp_path / "r.json") == 0
    boxes = {entry["image_id"]: entry["bbox"] for entry in read(tmp_path / "r.json")}
    assert boxes[1] == pytest.approx([0.1, 0.2, 0.4, 0.4], rel=1e-5)
    assert boxes[2] == pytest.approx([2000, 0.6, 8000, 1.2], rel=1e-5)
    assert files_under(tmp_path / "out") == ["one.png", "wide.png"]


def test_a_static_model_skips_what_does_not_fit(
    model_of: Callable[..., Path], manifest_of: Callable[..., Manifest], image_file: ImageFile, capsys: Captured
) -> None:
    static = model_of(manifest_of(canvases=((64, 96),)))
    assert detect(static, image_file("fits.png"), image_file("turned.png", 200, 80, 60)) == 1
    captured = capsys.readouterr()
    assert "turned.png (80x60): resized to 85x64 it fits none of the model's canvases 64x96" in captured.err
    assert "--size 64x96,96x64" in captured.err


def test_larger_images_than_max_pixels_are_refused(model_path: Path, image_file: ImageFile, capsys: Captured) -> None:
    assert detect(model_path, image_file("a.png"), "--max-pixels", 100) == 2
    assert "more than the limit of 100" in capsys.readouterr().err


def test_copies_of_equal_names_get_numbers(model_path: Path, image_file: ImageFile, tmp_path: Path) -> None:
    one, two = image_file("x/p.jpg", 250), image_file("y/p.jpg", 250)
    out = tmp_path / "out"
    assert detect(model_path, one, two, "-o", out, "--json", tmp_path / "r.json") == 0
    assert files_under(out) == ["p-2.jpg", "p.jpg"]
    copies = {entry["file_name"]: entry["copy"] for entry in read(tmp_path / "r.json")}
    assert copies == {str(one): str(out / "p.jpg"), str(two): str(out / "p-2.jpg")}


def test_inputs_are_not_overwritten(model_path: Path, image_file: ImageFile, tmp_path: Path, capsys: Captured) -> None:
    path = image_file("a.jpg", 250)
    before = path.read_bytes()
    for arguments in (["-o", tmp_path], ["--json", path], ["--json", model_path]):
        assert detect(model_path, path, *arguments) == 2
        assert "is an input and would be overwritten" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_an_unwritable_output_is_refused_before_the_work(
    model_path: Path, image_file: ImageFile, tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "file").write_text("in the way")
    path = image_file("a.jpg", 250)
    for arguments in (
        ["-o", tmp_path / "file"],
        ["-o", tmp_path / "file" / "deeper"],
        ["--json", tmp_path / "file" / "r.json"],
        ["--json", tmp_path],
    ):
        assert detect(model_path, path, *arguments) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("error: cannot ")
        assert captured.err.count("\n") == 2
    assert files_under(tmp_path) == ["a.jpg", "file"]


def test_exif_orientation_is_applied_to_the_copy(model_path: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.full((400, 600, 3), 250, np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    assert detect(model_path, tmp_path / "a.jpg", "-o", tmp_path / "out", "--json", tmp_path / "r.json") == 0
    with Image.open(tmp_path / "out" / "a.jpg") as copy:
        assert copy.size == (400, 600)
        assert 0x0112 not in copy.getexif()
    assert read(tmp_path / "r.json")[0]["bbox"] == pytest.approx([40, 120, 160, 240], rel=1e-5)


def test_frames_of_a_video_are_numbered_with_the_images(
    model_path: Path, image_file: ImageFile, clip: Path, tmp_path: Path
) -> None:
    one, two = image_file("a.png", 250), image_file("b.png", 250)
    results, index = tmp_path / "r.json", tmp_path / "i.json"
    out = tmp_path / "out"
    assert detect(model_path, one, clip, two, "-o", out, "--json", results, "--json-index", index) == 0
    assert [(entry["image_id"], entry.get("frame")) for entry in read(results)] == [
        (1, None),
        (2, 0),
        (4, 2),
        (5, None),
    ]
    assert [(image["id"], Path(image["file_name"]).name) for image in read(index)["images"]] == [
        (1, "a.png"),
        (2, "clip.avi"),
        (3, "clip.avi"),
        (4, "clip.avi"),
        (5, "b.png"),
    ]
    assert files_under(out) == ["a.png", "b.png", "clip.mp4"]
    frames = [image for image in read(index)["images"] if "frame" in image]
    assert [(frame["frame"], frame["time_s"]) for frame in frames] == [(0, 0.0), (1, 0.1), (2, 0.2)]
    assert read(results)[1]["time_s"] == 0.0
    copy = open_video(out / "clip.mp4")
    assert copy.fps == pytest.approx(10)
    assert [frame.size for frame in copy.frames()] == [(360, 480)] * 3


def test_a_browsers_recording_is_whole_and_its_copy_lasts_as_long(
    model_path: Path, tmp_path: Path, capsys: Captured
) -> None:
    times = uneven_times(40)
    clip, lines, out = record(tmp_path / "tab.webm", times, has_rate=False), tmp_path / "r.jsonl", tmp_path / "out"
    assert detect(model_path, clip, "-o", out, "--jsonl", lines) == 0
    assert "damaged" not in capsys.readouterr().err
    found = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [line["time_s"] for line in found] == times
    assert {line["copy"] for line in found} == {str(out / "tab.mp4")}
    written, duration = shown(out / "tab.mp4")
    assert written == pytest.approx(times, abs=1e-4)
    assert duration == pytest.approx(times[-1] * 40 / 39, abs=1e-4)


def test_names_that_are_not_utf8_are_taken_everywhere(
    model_path: Path, image_file: ImageFile, clip: Path, tmp_path: Path
) -> None:
    """The model's, an image's, a video's and those of all outputs."""
    folder = not_utf8(tmp_path)
    model, image = folder / "model.onnx", folder / os.fsdecode(b"n\xe9.jpg")
    video = folder / os.fsdecode(b"n\xe9.avi")
    model.write_bytes(model_path.read_bytes())
    image.write_bytes(image_file("a.jpg", 250).read_bytes())
    clip.rename(video)
    outputs = ["-o", folder / "out", "--json", folder / "r.json", "--jsonl", folder / "r.jsonl"]
    assert detect(model, image, video, *outputs) == 0
    assert [entry["file_name"] for entry in read(folder / "r.json")] == [str(image), str(video), str(video)]
    assert sorted(os.fsencode(path.name) for path in (folder / "out").iterdir()) == [b"n\xe9.jpg", b"n\xe9.mp4"]


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_the_table_is_printed_in_every_encoding(
    encoding: str, model_path: Path, image_file: ImageFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", screen)
    assert detect(model_path, image_file("日本.jpg", 250)) == 0
    screen.flush()
    assert rb"\u65e5\u672c.jpg |1 cat |" in screen.buffer.getvalue()


def test_a_bad_video_among_good_ones_is_skipped(model_path: Path, clip: Path, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"broken")
    assert detect(model_path, clip, tmp_path / "bad.mp4", "-o", tmp_path / "out") == 1
    assert files_under(tmp_path / "out") == ["clip.mp4"]
    assert capsys.readouterr().err.splitlines()[-1] == f"skipped 1 of 2 inputs: {tmp_path / 'bad.mp4'}"


def test_a_video_that_ends_early_is_reported(model_path: Path, tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "clip.avi"
    with writing_video(path, 10.0) as writer:
        for index in range(60):
            writer.write(np.random.default_rng(index).integers(0, 256, (120, 160, 3), dtype=np.uint8))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert detect(model_path, path, "--json", tmp_path / "r.json") == 1
    err = capsys.readouterr().err
    assert " frames could be read (those were used)" in err
    assert f"{len(whole) - len(whole) // 2:,} bytes are missing at its end" in err


def test_an_invalid_model_is_refused(image_file: ImageFile, tmp_path: Path, capsys: Captured) -> None:
    path = image_file("a.jpg")
    assert detect(path, path, "-o", tmp_path / "out") == 2  # also: the model is an input
    assert detect(tmp_path / "model.onnx", path) == 2
    assert "model.onnx: no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [["--score", "1.5"], ["--batch-size", "0"], ["--threads", "0"], ["--max-pixels", "0"]]
)
def test_options_out_of_range_are_refused(
    model_path: Path, image_file: ImageFile, options: list[str], capsys: Captured
) -> None:
    assert main(["detect", str(model_path), str(image_file("a.jpg")), *options]) == 2
    assert capsys.readouterr().err.startswith(f"error: {options[0]}: expected ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "2"], "workers: a model.onnx holds no engines, got 2"),
        (["--trusted-hash", "ab"], "trusted_hashes: a model.onnx holds no engines, got ['ab']"),
        (["--provider", "cuda", "--device", "cpu"], "provider: 'cuda' runs on device 'cuda', got device 'cpu'"),
    ],
)
def test_options_that_do_not_go_with_a_model_are_refused(
    model_path: Path, image_file: ImageFile, options: list[str], message: str, capsys: Captured
) -> None:
    assert main(["detect", str(model_path), str(image_file("a.png")), *options]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}\n")


def test_the_provider_is_the_one_that_runs(model_path: Path, image_file: ImageFile, tmp_path: Path) -> None:
    for options in ([], ["--provider", "cpu"]):
        assert detect(model_path, image_file("a.png", 250), "--json", tmp_path / f"{len(options)}.json", *options) == 0
    assert read(tmp_path / "0.json") == read(tmp_path / "2.json")


def test_an_artifact_runs_only_where_its_hash_is_trusted(
    image_file: ImageFile, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_engine_file(tmp_path / "model.frcnn")
    own = hashlib.sha256(path.read_bytes()).hexdigest()

    def command(*more: str) -> str:
        assert main(["detect", str(path), str(image_file("a.png")), *more]) == 2
        return capsys.readouterr().err.splitlines()[0]

    def no_gpu() -> NoReturn:
        raise ArtifactError("came as far as the GPU")

    monkeypatch.setattr(loading, "CudaDevice", no_gpu)
    assert f"the file's SHA-256 {own} is not among trusted_hashes" in command("--trusted-hash", "0" * 64)
    assert command("--trusted-hash", "0" * 64, "--trusted-hash", own) == "error: came as far as the GPU"
    assert command("--trusted-hash", own, "--workers", "0") == "error: --workers: expected 1 or more, got 0"


CATEGORIES = [{"id": 90, "name": "Dog"}, {"id": 17, "name": "cat"}, {"id": 5, "name": "kite"}]


@pytest.fixture
def instances(tmp_path: Path) -> Callable[..., Path]:
    """Write annotations that list images by their names, with ids from 700, and hold nothing else."""

    def write(*names: str, **size: int) -> Path:
        images = [{"id": 700 + index, "file_name": name, **size} for index, name in enumerate(names)]
        path = tmp_path / "set" / "instances.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"images": images, "categories": CATEGORIES}))
        return path

    return write


def test_results_have_the_ids_of_the_annotations(
    model_path: Path, image_file: ImageFile, instances: Callable[..., Path], tmp_path: Path, capsys: Captured
) -> None:
    image_file("images/b.png", 250)
    image_file("images/a.png", 250)
    file = instances("c.png", "D:\\old\\B.png", "a.png")
    out, lines, index = tmp_path / "r.json", tmp_path / "r.jsonl", tmp_path / "i.json"
    outputs = ("--json", out, "--jsonl", lines, "--json-index", index)
    assert detect(model_path, tmp_path / "images", "--annotations", file, *outputs, "--score", "0.3") == 0
    assert [(x["image_id"], x["category_id"]) for x in read(out)] == [(702, 17), (702, 90), (701, 17), (701, 90)]
    (first, second) = (json.loads(line) for line in lines.read_text().splitlines())
    assert (first["id"], second["id"], second["results"]) == (702, 701, read(out)[2:])
    assert [image["id"] for image in read(index)["images"]] == [702, 701]
    assert read(index)["categories"] == CATEGORIES
    err = capsys.readouterr().err
    assert "1 classes are spelt differently there: 'dog' as 'Dog'" in err
    assert "1 classes of the model are no category; their detections do not count: 3" in err


def test_classes_that_are_no_category_have_no_results_and_may_be_paired(
    model_path: Path, image_file: ImageFile, instances: Callable[..., Path], capsys: Captured
) -> None:
    image, file = image_file("a.png", 250), instances("a.png")
    options = ("--annotations", file, "--json", "-", "--score", "0")
    assert detect(model_path, image, *options, "--map", "cat=kite", "--map", "dog=17") == 0
    assert [entry["category_id"] for entry in json.loads(capsys.readouterr().out)] == [5, 17]
    document = read(file)
    file.write_text(json.dumps(document | {"categories": CATEGORIES[:1]}))
    assert detect(model_path, image, *options) == 0
    assert [entry["category_id"] for entry in json.loads(capsys.readouterr().out)] == [90]
    file.write_text(json.dumps(document | {"categories": CATEGORIES[2:]}))
    assert detect(model_path, image, *options) == 2
    assert "1 categories are no class of the model: 5 'kite'; the model's 3 are cat, dog" in capsys.readouterr().err


def test_images_that_the_annotations_do_not_list_are_refused_or_left_out(
    model_path: Path, image_file: ImageFile, instances: Callable[..., Path], tmp_path: Path, capsys: Captured
) -> None:
    one, other, file = image_file("a.png", 250), image_file("b.png", 250), instances("a.png")
    options = ("--annotations", file, "--json", "-", "-o", tmp_path / "out")
    assert detect(model_path, other, one, *options) == 2
    assert f"error: 1 of 2 inputs are not listed in {file}: {other}" in capsys.readouterr().err
    assert detect(model_path, other, one, *options, "--allow-missing") == 0
    captured = capsys.readouterr()
    assert [entry["image_id"] for entry in json.loads(captured.out)] == [700]
    assert f"warning: 1 inputs are not in the annotations and are left out: {other}" in captured.err
    assert files_under(tmp_path / "out") == ["a.png"]


def test_an_image_of_another_size_than_annotated_is_noted(
    model_path: Path, image_file: ImageFile, instances: Callable[..., Path], tmp_path: Path, capsys: Captured
) -> None:
    image, output = image_file("a.png", 250), tmp_path / "r.json"
    assert detect(model_path, image, "--annotations", instances("a.png", height=80, width=60), "--json", output) == 0
    what = "1 images have another size in the annotations; boxes are in the images' own pixels, turned upright"
    assert f"{what}: {image}\n" in capsys.readouterr().err
    assert detect(model_path, image, "--annotations", instances("a.png", height=60, width=80), "--json", output) == 0
    assert "another size" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--map", "cat=17"], "--map and --allow-missing go with --annotations only"),
        (["--allow-missing"], "--map and --allow-missing go with --annotations only"),
        (["--annotations", "x.json"], "--annotations goes with --json, --jsonl or --json-index"),
        (["--annotations", ".", "--json", "-"], "--annotations: . is a folder, and VOC's annotations have no ids"),
        (["--annotations", "x.json", "--json", "-"], "x.json: no such file or folder"),
    ],
)
def test_options_of_annotations_are_refused_where_they_have_no_effect(
    options: list[str], message: str, model_path: Path, image_file: ImageFile, capsys: Captured
) -> None:
    assert detect(model_path, image_file("a.png", 250), *options) == 2
    assert f"error: {message}" in capsys.readouterr().err
