"""``frcnn eval``, end to end: a checkpoint, the model exported from it, annotated images.

The detections of eager are the ground truth, so that every result is known.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from faster_coco_eval import COCO, COCOeval_faster
from PIL import Image
from support.images import SHAPES, photographs, tensor

import frcnn
from frcnn.benchmarks.accuracy.scoring import coco_results
from frcnn.cli import main
from frcnn.files import file_sha256
from frcnn.log import warn_once

FAMILIES_FILE = Path(__file__).parents[2] / "support" / "families.py"
FAMILY = "resnet50_fpn"
ARCH = ("--arch", f"{FAMILIES_FILE}:{FAMILY}")
MEASURES = {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"}


@pytest.fixture(scope="module")
def found(exports) -> list[dict[str, torch.Tensor]]:
    """What eager finds in each image."""
    model = exports(FAMILY).model
    with torch.inference_mode():
        return [model([tensor(photographs(shape)[i])])[0] for i, shape in enumerate(SHAPES)]


@pytest.fixture
def document(found) -> dict[str, Any]:
    """Annotations without a fault: all that eager finds."""
    labels = sorted({int(label) for image in found for label in image["labels"]})
    assert len(labels) > 2
    annotations = []
    for i, image in enumerate(found):
        for (x1, y1, x2, y2), label in zip(image["boxes"].tolist(), image["labels"].tolist(), strict=True):
            annotations.append({"image_id": i, "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1]})
    images = [{"id": i, "file_name": f"{i}.png", "height": s[0], "width": s[1]} for i, s in enumerate(SHAPES)]
    categories = [{"id": label, "name": f"thing {label}"} for label in labels]
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.fixture
def evaluate(exports, images, document, tmp_path) -> Callable[..., int]:
    def run(*options: str, annotations: Any = None) -> int:
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(document if annotations is None else annotations))
        model = str(exports(FAMILY).path)
        return main(
            ["eval", model, "--annotations", str(path), "--images", str(images), "--threads", "1", *map(str, options)]
        )

    return run


@pytest.fixture
def measured(evaluate, tmp_path, capsys) -> Callable[..., dict[str, Any]]:
    """Evaluate and return the JSON and the exit code."""

    def run(*options: str, annotations: Any = None) -> dict[str, Any]:
        code = evaluate(*options, "--json", str(tmp_path / "out.json"), annotations=annotations)
        result: dict[str, Any] = json.loads((tmp_path / "out.json").read_text())
        return result | {"exit": code}

    return run


def test_the_models_own_boxes_score_1(measured, exports):
    result = measured()
    assert result["exit"] == 0
    assert (result["AP"], result["AP50"], result["AR100"]) == (1.0, 1.0, 1.0)
    assert set(result) >= MEASURES
    assert result["images"] == 3
    assert result["objects"] == sum(of_class["objects"] for of_class in result["per_class"].values()) > 10
    assert {of_class["AP"] for of_class in result["per_class"].values()} == {1.0}
    assert result["eager"] is result["difference"] is result["passed"] is None
    assert (result["partial"], result["skipped"]) == (False, {})
    assert result["model"]["path"] == str(exports(FAMILY).path) and len(result["model"]["sha256"]) == 64
    assert result["command"].startswith(f"frcnn eval {exports(FAMILY).path} --annotations ")
    assert {"frcnn", "faster-coco-eval", "onnxruntime"} <= set(result["versions"])


def test_boxes_that_are_a_fifth_too_wide_pass_seven_thresholds(measured, document):
    """An IoU of 5/6: enough for seven of the ten thresholds, 0.50 to 0.80."""
    for annotation in document["annotations"]:
        annotation["bbox"][2] *= 1.2
    document["annotations"] = document["annotations"][:1]
    result = measured("--allow-unmapped")
    (only,) = (of_class for of_class in result["per_class"].values() if of_class["objects"])
    assert only["AR100"] == pytest.approx(0.7)
    assert only["AP75"] > 0


def test_objects_that_are_not_found_halve_recall(measured, document):
    """As many again that are not there: half of what is to be found is found, at any IoU."""
    extra = [annotation | {"bbox": [0, 0, 3, 3]} for annotation in document["annotations"]]
    document["annotations"] += extra
    result = measured()
    assert (result["AR100"], result["AP"]) == (0.5, pytest.approx(51 / 101))


def test_equal_models_do_not_differ_from_eager(measured, checkpoint, tmp_path, capsys):
    result = measured("--checkpoint", checkpoint, *ARCH, "--limit", "0.001", "-o", tmp_path / "differences")
    assert result["exit"] == 0
    assert (result["eager"]["AP"], result["difference"]["AP"], result["passed"]) == (1.0, 0.0, True)
    assert result["eager"]["checkpoint"] == str(checkpoint)
    assert set(result["eager"]["per_class"]) == set(result["per_class"])
    captured = capsys.readouterr()
    assert "within the limit" in captured.out and "eager torchvision" in captured.out
    assert "nothing to draw" in captured.err
    assert list((tmp_path / "differences").iterdir()) == []


def test_differences_to_another_checkpoint_are_drawn(measured, checkpoint, tmp_path, capsys):
    weights = torch.load(checkpoint, weights_only=True)
    weights["roi_heads.box_predictor.cls_score.weight"] *= 1.3
    torch.save(weights, checkpoint)
    folder = tmp_path / "differences"
    result = measured("--checkpoint", checkpoint, *ARCH, "-o", folder, "--draw-score", "0", "--draw-max", "2")
    assert result["exit"] == 0 and result["eager"]["AP"] < result["AP"] == 1.0
    assert result["difference"]["AP"] == result["AP"] - result["eager"]["AP"]
    drawn = result["drawn"]
    assert sorted(drawn) == sorted(map(str, folder.iterdir())) and len(drawn) == 2
    assert all(Path(file).stem == Path(path).stem for path, file in drawn.items())
    with Image.open(next(folder.iterdir())) as pair:
        assert pair.width > 2 * min(width for _, width in SHAPES)
    assert "2 images, of 3 (--draw-max), with differences scoring 0 or more" in capsys.readouterr().err


def test_a_fall_of_ap_beyond_the_limit_is_exit_code_1(monkeypatch, measured, checkpoint, capsys):
    """The model is made to miss every second detection that eager has."""
    from frcnn.benchmarks.accuracy import report

    calls = []

    def every_second(*arguments):
        calls.append(None)
        return coco_results(*arguments)[:: 2 if len(calls) % 2 else 1]  # the model is first

    monkeypatch.setattr(report, "coco_results", every_second)
    result = measured("--checkpoint", checkpoint, *ARCH, "--limit", "0.001")
    assert (result["exit"], result["passed"], result["eager"]["AP"]) == (1, False, 1.0)
    assert result["difference"]["AP"] < -0.2
    assert "NOT within the limit: AP differs from eager's by -0." in capsys.readouterr().out
    result = measured("--checkpoint", checkpoint, *ARCH, "--limit", "0.9")
    assert (result["exit"], result["passed"]) == (0, True)


def test_a_broken_image_is_named_and_its_objects_do_not_count(measured, images, capsys):
    whole = measured()
    (images / "1.png").write_bytes(b"no image")
    result = measured()
    assert result["exit"] == 1
    assert (result["images"], list(result["skipped"]), result["AP"]) == (2, ["1.png"], 1.0)
    assert result["objects"] < whole["objects"]
    err = capsys.readouterr().err
    assert err.count("1.png") == 1 and "warning: skipped" in err


def test_missing_images_may_be_left_out(evaluate, measured, images, capsys):
    (images / "2.png").unlink()
    assert evaluate() == 2
    assert "1 of 3 images" in capsys.readouterr().err
    result = measured("--allow-missing")
    assert (result["exit"], result["images"], result["skipped"]) == (0, 2, {"2.png": "not in the folder"})
    assert "1 images are not in the folder and are left out: 2.png" in capsys.readouterr().err


def test_boxes_in_stored_pixels_of_images_that_exif_turns_are_said_and_settled(measured, document, images, capsys):
    """Turned by half, nothing but the detections tells."""
    for i, (height, width) in enumerate(SHAPES):
        exif = Image.Exif()
        exif[0x0112] = 3
        with Image.open(images / f"{i}.png") as image:
            image.transpose(Image.Transpose.ROTATE_180).save(images / f"{i}.png", exif=exif)
        for annotation in document["annotations"]:
            if annotation["image_id"] == i:
                x, y, *sides = annotation["bbox"]
                annotation["bbox"] = [width - x - sides[0], height - y - sides[1], *sides]
    warn_once.cache_clear()
    assert measured()["AP"] < 0.5
    err = capsys.readouterr().err
    assert "EXIF turns 3 of 3 images; boxes are taken as upright in 3" in err
    assert "and 1.00 if their boxes are read the other way: --exif upright or --exif stored settles it" in err
    assert measured("--exif", "stored")["AP"] == 1.0
    assert "warning" not in capsys.readouterr().err


def test_an_interruption_reports_partial_results(measured, monkeypatch, checkpoint, tmp_path, evaluate, capsys):
    from frcnn.benchmarks.candidates.eager_detector import EagerDetector

    detect = EagerDetector.detect

    def interrupted(self, image, canvas):
        if image.name.endswith("2.png"):
            raise KeyboardInterrupt
        return detect(self, image, canvas)

    monkeypatch.setattr(EagerDetector, "detect", interrupted)
    result = measured("--checkpoint", checkpoint, *ARCH)
    assert (result["exit"], result["partial"], result["images"], result["AP"]) == (130, True, 2, 1.0)
    captured = capsys.readouterr()
    assert "PARTIAL: interrupted after 2 of 3 images" in captured.out
    assert "interrupted" in captured.err


def test_a_folder_of_voc_annotations_is_read(exports, images, found, tmp_path, capsys):
    folder = tmp_path / "Annotations"
    folder.mkdir()
    for i, image in enumerate(found):
        objects = "".join(
            f"<object><name>thing {label}</name><difficult>0</difficult><bndbox><xmin>{x1 + 1}</xmin>"
            f"<ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            for (x1, y1, x2, y2), label in zip(image["boxes"].tolist(), image["labels"].tolist(), strict=True)
        )
        size = f"<size><width>{SHAPES[i][1]}</width><height>{SHAPES[i][0]}</height></size>"
        (folder / f"{i}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    names = tmp_path / "labels.txt"
    names.write_text("\n".join(f"thing {label}" for label in range(1, exports(FAMILY).spec.num_classes)))
    command = ["eval", str(exports(FAMILY).path), "--annotations", str(folder), "--images", str(images)]
    assert main([*command, "--threads", "1"]) == 2
    assert "are no class of the model: thing 1" in capsys.readouterr().err
    assert main([*command, "--labels", str(names), "--json", "-", "--threads", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["AP"] == 1.0


def test_json_on_standard_output_is_alone_there(evaluate, capsys):
    assert evaluate("--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["AP"] == 1.0


def test_without_json_tables_are_printed(evaluate, capsys):
    assert evaluate() == 0
    out = capsys.readouterr().out
    assert "3 images" in out and "thing 1" in out and "1.0000" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--limit", "0.1"], "--limit goes with --checkpoint only"),
        (["-o", "x"], "-o goes with --checkpoint only"),
        (["--arch", "fasterrcnn_resnet50_fpn"], "--arch goes with --checkpoint only"),
        (["--batch-size", "0"], "--batch-size: expected 1 or more, got 0"),
        (["--max-detections", "99"], "--max-detections: expected 100 or more, got 99"),
        (["--draw-score", "nan"], "--draw-score: expected a number from 0 to 1, got nan"),
        (["--map", "1"], "--map: expected MODEL=ANNOTATION, got '1'"),
        (["--json", "."], "cannot write .: it is a folder"),
    ],
)
def test_invalid_options_are_refused(options, message, evaluate, capsys):
    assert evaluate(*options) == 2
    assert f"error: {message}" in capsys.readouterr().err


def test_annotations_without_objects_of_the_models_classes_are_refused(evaluate, document, capsys):
    for annotation in document["annotations"]:
        annotation["iscrowd"] = 1
    assert evaluate() == 2
    assert "has crowd or difficult objects only" in capsys.readouterr().err


def test_crowds_are_counted_beside_the_objects(measured, document, capsys):
    document["annotations"][0]["iscrowd"] = 1
    result = measured()
    count = len(document["annotations"]) - 1
    assert (result["objects"], result["crowd_or_difficult"]) == (count, 1)
    assert f"{count} objects (and 1 crowd or difficult, which do not count)" in capsys.readouterr().out


def test_invalid_annotations_are_named_and_may_be_left_out(evaluate, measured, document, capsys):
    document["annotations"].append(document["annotations"][0] | {"bbox": [1, 2, 3, -4]})
    assert evaluate() == 2
    assert "bbox is [1, 2, 3, -4]" in capsys.readouterr().err
    result = measured("--skip-invalid")
    assert (result["exit"], result["AP"], len(result["invalid"])) == (0, 1.0, 1)
    assert "1 annotations are invalid and are left out: annotations[" in capsys.readouterr().err


def test_classes_spelt_differently_are_paired_and_said(measured, document, exports, tmp_path, capsys):
    names = tmp_path / "labels.txt"
    names.write_text("\n".join(f"Thing_{label}" for label in range(1, exports(FAMILY).spec.num_classes)))
    assert measured("--labels", names)["AP"] == 1.0
    assert "classes are spelt differently there: 'Thing_" in capsys.readouterr().err


def test_only_broken_images_are_an_error(evaluate, images, capsys):
    for path in images.iterdir():
        path.write_bytes(b"no image")
    assert evaluate() == 2
    assert "error: none of the 3 images could be used" in capsys.readouterr().err


def test_a_checkpoint_of_another_model_is_refused(evaluate, checkpoint, tmp_path, capsys):
    builder = tmp_path / "builder.py"
    builder.write_text(
        "from support.families import resnet50_fpn\n\ndef build():\n    model = resnet50_fpn()\n"
        "    model.roi_heads.nms_thresh = 0.4\n    return model\n"
    )
    assert evaluate("--checkpoint", checkpoint, "--arch", f"{builder}:build") == 2
    err = capsys.readouterr().err
    assert "is another model than the checkpoint: box head: expected" in err
    assert "hint: give eval the same --arch and --arg as export" in err


def test_results_of_detect_score_as_the_model_does(measured, document, exports, images, tmp_path, capsys):
    """Boxes are moved, so that what is a match depends on the last digits."""
    for i, annotation in enumerate(document["annotations"]):
        annotation["id"] = i + 1
        annotation["bbox"][0] += annotation["bbox"][2] * (i % 7) / 10
    for image in document["images"]:
        image["id"] += 400
    for annotation in document["annotations"]:
        annotation["image_id"] += 400
    expected = measured("--allow-unmapped")
    assert 0.1 < expected["AP"] < 0.9
    results, annotations, out = tmp_path / "results.json", tmp_path / "instances.json", tmp_path / "scored.json"
    model = str(exports(FAMILY).path)
    command = ["detect", model, str(images), "--annotations", str(annotations), "--json", str(results), "--threads"]
    assert main([*command, "1", "--score", "0"]) == 0
    command = ["eval", "--predictions", str(results), "--annotations", str(annotations), "--json", str(out)]
    capsys.readouterr()
    assert main(command) == 0
    captured = capsys.readouterr()
    assert "accuracy by COCO's box measure: 3 images" in captured.out and "cut results" not in captured.err
    scored = json.loads(out.read_text())
    assert scored["model"] == {"path": str(results), "kind": "predictions", "sha256": file_sha256(results)}
    assert {key for key in scored if scored[key] != expected[key]} == {"model", "command"}
    # other tools read the results with the annotations as they are
    truth = COCO(str(annotations))
    evaluation = COCOeval_faster(truth, truth.loadRes(str(results)), iouType="bbox", print_function=lambda *_: None)
    for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
        step()
    assert evaluation.stats[0] == pytest.approx(expected["AP"], abs=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "eval: expected a model, or --predictions"),
        (["m.onnx"], "eval: expected --images"),
        (["m.onnx", "--predictions", "r.json"], "model does not go with --predictions"),
        (["--predictions", "r.json", "--images", "x"], "--images does not go with --predictions"),
        (["--predictions", "r.json", "--allow-missing"], "--allow-missing does not go with --predictions"),
        (["--predictions", "r.json", "--threads", "1"], "--threads does not go with --predictions"),
        (["--predictions", "r.json", "--labels", "x"], "--labels does not go with --predictions"),
        (["--predictions", "r.json", "--limit", "0"], "--limit goes with --checkpoint only"),
        (["--predictions", "r.json", "-o", "x"], "-o goes with --checkpoint only"),
        (["--predictions", "r.json"], "--predictions: VOC's annotations have no ids"),
    ],
)
def test_a_model_and_its_options_do_not_go_with_predictions(options, message, tmp_path, capsys):
    assert main(["eval", *options, "--annotations", str(tmp_path)]) == 2
    assert f"error: {message}" in capsys.readouterr().err


def test_predictions_are_scored_without_torch_and_onnxruntime(document, tmp_path):
    results = [annotation | {"score": 0.05} for annotation in document["annotations"]]
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "instances.json").write_text(json.dumps(document))
    code = (
        "import sys\n"
        "for name in ('torch', 'torchvision', 'onnxruntime', 'onnx', 'openvino'):\n    sys.modules[name] = None\n"
        "from frcnn.cli import main\n"
        "sys.exit(main(['eval', '--predictions', 'results.json', '--annotations', 'instances.json', '--json', '-']))"
    )
    environment = dict(os.environ, PYTHONPATH=str(Path(frcnn.__file__).parents[1]))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["AP"] == 1.0
