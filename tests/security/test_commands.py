"""The command on hostile files: exit code 2, an ``error:`` line and a hint, not a byte outside the output folder."""

import json
import zipfile

import pytest
import torch
from PIL import Image
from support.engine_files import engine_parts, source_manifest, write_engine_file
from support.hostile.onnx_models import answering, external_models
from support.hostile.pickles import in_torch_zip, runs_code
from support.hostile.watch import misdeeds

from frcnn.cli import main
from frcnn.files.archive import write_archive
from frcnn.spec import Manifest

ESCAPE = "\x1b[2J\x1b]0;mine\x07"


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder to work in, with an ``out`` folder; it and nothing else may change."""
    folder = tmp_path / "work"
    (folder / "out").mkdir(parents=True)
    Image.new("RGB", (64, 48), (90, 90, 90)).save(folder / "photo.png")
    (folder / "model.onnx").write_bytes(answering().SerializeToString())
    monkeypatch.chdir(folder)
    return folder


def run(work, capfd, *arguments):
    """Run the command and return its exit code and what it printed; nothing but ``out`` may change."""
    before = {path: path.stat().st_mtime_ns for path in work.parent.rglob("*") if "out" not in path.parts}
    with misdeeds(work / "out") as seen:
        code = main([*map(str, arguments)])
    assert seen == []
    assert {path: path.stat().st_mtime_ns for path in work.parent.rglob("*") if "out" not in path.parts} == before
    captured = capfd.readouterr()
    for text in captured:
        assert "Traceback" not in text
        assert all(line.isprintable() for line in text.split("\n"))
    return code, captured.out, captured.err


def refused(work, capfd, *arguments):
    code, out, err = run(work, capfd, *arguments)
    assert (code, out) == (2, "")
    lines = err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["error", "hint"]
    assert "unexpected" not in lines[0]
    return lines[0]


def with_manifest(text):
    model = answering()
    model.metadata_props[0].value = text
    return model.SerializeToString()


GOOD = source_manifest(precision="fp32").to_json()
MODELS = {
    "empty": b"",
    "text": b"hello\n" * 100,
    "zip": b"PK\x03\x04" + bytes(100),
    "deep manifest": with_manifest("[" * 100_000),
    "manifest of escapes": with_manifest(GOOD.replace('cat"', '\\u001b[2J"')),
    "manifest with an unknown entry of escapes": with_manifest(GOOD.replace('"opset"', '"\\u001b[2J"')),
    "manifest with a key twice": with_manifest(GOOD.replace('"opset"', '"opset":3,"opset"')),
    "external data": external_models("/etc/passwd", 9)["initializer"].SerializeToString(),
    "maker of escapes": answering()
    .SerializeToString()
    .replace(b"frcnn.manifest", b"other.manifest")
    .replace(b"frcnn", b"\x1b[2Jx"),
    "half": answering().SerializeToString()[:-300],
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("verb", ["inspect", "detect", "unpack", "eval", "build", "quantize", "tune"])
def test_a_hostile_model_is_an_error_of_one_line_with_a_hint(work, capfd, kind, verb):
    model = work / "hostile.onnx"
    model.write_bytes(MODELS[kind])
    (work / "instances.json").write_text(json.dumps(COCO))
    arguments = {
        "detect": [work / "photo.png", "-o", work / "out"],
        "unpack": ["-o", work / "out"],
        "eval": ["--annotations", work / "instances.json", "--images", work],
        "build": ["-o", work / "out" / "model.frcnn"],
        "tune": ["--images", work],
        "quantize": ["-o", work / "out" / "int8.onnx", "--images", work],
    }
    refused(work, capfd, verb, model, *arguments.get(verb, []))
    assert not list((work / "out").iterdir())


def test_invalid_detections_are_an_error_and_leave_no_results(work, capfd):
    (work / "model.onnx").write_bytes(answering(scores=(float("nan"), 0)).SerializeToString())
    out = work / "out"
    line = refused(work, capfd, "detect", "model.onnx", "photo.png", "-o", out, "--json", out / "a.json")
    assert line.startswith("error: photo.png: the model's output is invalid: boxes or scores that are NaN or infinite")
    assert not list(out.glob("*.json")) and not list(out.glob("*.png"))


COCO = {
    "images": [{"id": 1, "file_name": "photo.png", "height": 48, "width": 64}],
    "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 29, 38], "area": 1102}],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "teddy bear"}],
}
ANNOTATIONS = {
    "an image elsewhere": ("photo.png", "../another.png"),
    "an absolute image": ("photo.png", "/etc/passwd"),
    "an escape sequence": ("photo.png", ESCAPE),
    "an absurd number": ('"id": 1', '"id": ' + "9" * 400),
    "cut": ('"categories"', ""),
}


@pytest.mark.parametrize("kind", ANNOTATIONS)
def test_hostile_annotations_are_an_error_of_one_line_with_a_hint(work, capfd, kind):
    old, new = ANNOTATIONS[kind]
    text = json.dumps(COCO)
    assert old in text
    (work / "instances.json").write_text(text.replace(old, json.dumps(new)[1:-1] if new == ESCAPE else new))
    refused(work, capfd, "eval", "model.onnx", "--annotations", "instances.json", "--images", work)


def test_names_of_categories_steer_no_terminal(work, capfd):
    text = json.dumps(COCO).replace('"cat"', json.dumps(f"cat{ESCAPE}"))
    (work / "instances.json").write_text(text)
    options = ["--annotations", "instances.json", "--images", work, "--json", work / "out" / "a.json"]
    code, out, err = run(work, capfd, "eval", "model.onnx", *options)
    assert code in (0, 1, 2)
    assert "cat\\x1b[2J" in out + err


CHECKPOINTS = {
    "pickle": runs_code()["os.system"],
    "zip": in_torch_zip(runs_code()["builtins.eval"]),
    "half a zip": in_torch_zip(runs_code()["builtins.eval"])[:-50],
    "text": b"hello\n" * 100,
    "safetensors": (99).to_bytes(8, "little") + b"{" * 99,
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
@pytest.mark.parametrize("verb", ["export", "compare"])
def test_a_hostile_checkpoint_is_an_error_of_one_line_with_a_hint(work, capfd, kind, verb):
    (work / "my.pth").write_bytes(CHECKPOINTS[kind])
    arguments = {"export": ["-o", work / "out" / "m.onnx"], "compare": ["model.onnx", "--images", work]}[verb]
    refused(work, capfd, verb, "my.pth", *arguments)
    assert not list((work / "out").iterdir())


def test_keys_of_a_checkpoint_steer_no_terminal(work, capfd):
    torch.save({ESCAPE: 1, "a\nb": 2}, work / "my.pth")
    assert "\\x1b[2J" in refused(work, capfd, "export", "my.pth", "-o", work / "out" / "m.onnx")


def test_names_of_images_steer_no_terminal(work, capfd):
    good, bad = f"a{ESCAPE}.png", f"b{ESCAPE}\nAGREE.png"
    (work / "images").mkdir()
    (work / "photo.png").rename(work / "images" / good)
    (work / "images" / bad).write_bytes(b"no image")
    code, out, err = run(work, capfd, "detect", "model.onnx", work / "images", "-o", work / "out")
    assert code == 1
    assert "b\\x1b[2J" in err and "\nAGREE" not in err
    code, out, err = run(work, capfd, "detect", "model.onnx", "images", "[/bold]")
    assert code == 1 and "a\\x1b[2J" in out and "[/bold]: no file has such a name" in err


def test_a_file_name_that_is_not_utf8_is_shown_as_escapes(work, capfd):
    name = b"a\xff.png".decode("utf-8", "surrogateescape")
    (work / "photo.png").rename(work / name)
    code, out, _ = run(work, capfd, "detect", "model.onnx", work / name)
    assert code == 0 and "a\\udcff.png" in out


def test_markup_in_names_is_shown_as_it_is(work, capfd):
    (work / "[").mkdir()
    (work / "model.onnx").rename(work / "[" / "red] [bold]\\.onnx")
    code, out, _ = run(work, capfd, "inspect", "[/red] [bold]\\.onnx")
    assert code == 0 and "model [/red] [bold]\\.onnx" in out


def test_text_of_a_manifest_steers_no_terminal(work, capfd):
    manifest = Manifest.from_json(GOOD.replace('cat"', 'c\u202eat[/bold]"'), source="it")
    (work / "model.onnx").write_bytes(answering(manifest=manifest).SerializeToString())
    code, out, _ = run(work, capfd, "inspect", "model.onnx")
    assert code == 0 and "c\\u202eat[/bold]" in out


def test_names_in_a_graph_steer_no_terminal(work, capfd):
    model = answering()
    model.graph.input[0].name = f"images{ESCAPE}"
    model.graph.node.add(op_type=f"Op{ESCAPE}", domain="x")
    (work / "model.onnx").write_bytes(model.SerializeToString())
    code, out, _ = run(work, capfd, "inspect", "model.onnx")
    assert code == 0 and "images\\x1b[2J" in out and "x::Op\\x1b[2J" in out
    refused(work, capfd, "detect", "model.onnx", "photo.png")


PART_NAMES = ["../evil", "/evil", "a/../../evil", "..\\evil", "C:evil", ".hidden", f"a{ESCAPE}", "a/./b", "a//b"]


@pytest.mark.parametrize("name", PART_NAMES)
def test_unpack_refuses_part_names_outside_the_folder(work, capfd, name):
    """Both the zip and its manifest name it, so that only the names are wrong."""
    engine = write_engine_file(work / "good.frcnn")
    with zipfile.ZipFile(engine) as archive:
        text = archive.read("manifest.json").decode()
    parts = engine_parts()
    moved = {(json.dumps(name)[1:-1] if old == "engines/features.plan" else old): data for old, data in parts.items()}
    text = text.replace("engines/features.plan", json.dumps(name)[1:-1].replace("\\", "\\"))
    with zipfile.ZipFile(work / "bad.frcnn", "w") as archive:
        archive.writestr("manifest.json", text)
        for part, data in moved.items():
            archive.writestr(json.loads(f'"{part}"'), data)
    engine.unlink()
    refused(work, capfd, "unpack", "bad.frcnn", "-o", work / "out" / "new")
    assert not list((work / "out").iterdir())


@pytest.mark.parametrize("verb", ["inspect", "unpack", "detect"])
def test_a_hostile_manifest_of_an_artifact_is_an_error_of_one_line(work, capfd, verb):
    text = b'{"schema_version": 1, "\\u001b[2J": ' + b"[" * 5000
    write_archive(work / "bad.frcnn", text, [("a", b"x")])
    arguments = {"unpack": ["-o", work / "out" / "new"], "detect": ["photo.png"]}.get(verb, [])
    refused(work, capfd, verb, "bad.frcnn", *arguments)
