"""The libraries of the tools themselves read what ``frcnn.runtime.formats`` writes, and it reads what they write.

Each is installed by pip into a folder of its own. FiftyOne's data sets are in MongoDB: where ``FIFTYONE_DATABASE_URI``
names none, and FiftyOne cannot download one, its samples alone are tested.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.detection_sets import NAMES, detection_sets
from support.made_once import made_once

from frcnn.runtime import Detections, formats

pytestmark = pytest.mark.integration

LABEL_STUDIO = """
from xml.sax.saxutils import quoteattr
from label_studio_sdk.converter import Converter
from label_studio_sdk.label_interface import LabelInterface

labels = "".join(f"<Label value={quoteattr(name)}/>" for name in NAMES[1:])
tags = f'<Image name="image" value="$image"/><RectangleLabels name="label" toName="image">{labels}</RectangleLabels>'
interface = LabelInterface(f"<View>{tags}</View>")
tasks = json.load(open("in.json"))
faults = [interface.validate_prediction(p, return_errors=True) for task in tasks for p in task["predictions"]]
for number, task in enumerate(tasks):
    result = task["predictions"][0]["result"]
    task |= {"id": number, "annotations": [{"id": number, "completed_by": 1, "result": result}]}
json.dump(tasks, open("tasks.json", "w"))
Path("images").mkdir()
Converter(f"<View>{tags}</View>", None, download_resources=False).convert_to_coco(
    "tasks.json", "coco", output_image_dir="images", is_dir=False
)
answer = {"faults": faults, "coco": json.load(open("coco/result.json"))}
"""
DATUMARO = """
import datumaro
answer = {}
for item in datumaro.Dataset.import_from("set", "cvat"):
    boxes = [[*x.points, x.label, float(x.attributes["score"])] for x in item.annotations]
    answer[item.id] = {"size": item.media.size, "boxes": boxes}
"""
FIFTYONE = """
import fiftyone as fo

content = json.load(open("in.json"))
samples = [fo.Sample.from_dict(sample) for sample in content["samples"]]
answer = {"samples": [
    [[x.label, x.confidence, *x.bounding_box] for x in sample.predictions.detections] for sample in samples
]}
try:
    fo.list_datasets()
except fo.core.config.FiftyOneConfigError as error:
    answer["without"] = str(error)
else:
    dataset = fo.Dataset.from_json("in.json", name="frcnn-test", overwrite=True)
    answer |= {"classes": dataset.classes, "count": dataset.count("predictions.detections")}
    dataset.export(export_dir="exported", dataset_type=fo.types.FiftyOneDataset, export_media=False)
    dataset.delete()
"""


def installed(package: str) -> Path:
    """Return a folder with a package and what it needs."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--target"]
    return made_once(package, lambda folder: subprocess.run([*pip, str(folder), package], check=True))


def ask(code: str, package: str, folder: Path) -> Any:
    """Return what code sets ``answer`` to, run with a package in a folder."""
    start = f"import json\nfrom pathlib import Path\nNAMES = {NAMES!r}\n"
    end = "\njson.dump(answer, open('answer.json', 'w'))\n"
    own = {"PYTHONPATH": str(installed(package)), "FIFTYONE_DO_NOT_TRACK": "1", "HOME": str(folder)}
    command = [sys.executable, "-c", start + code + end]
    done = subprocess.run(command, cwd=folder, env=os.environ | own, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "answer.json").read_text())


def coco_boxes(found: Detections) -> np.ndarray[Any, Any]:
    return np.array([entry["bbox"] for entry in found.to_coco(1)]).reshape(-1, 4)


def test_label_studio(tmp_path: Path) -> None:
    expected = detection_sets()
    formats.write("label-studio", tmp_path / "in.json", expected)
    answer = ask(LABEL_STUDIO, "label-studio-sdk", tmp_path)
    assert answer["faults"] == [[], [], []]
    coco = answer["coco"]
    names = {category["id"]: category["name"] for category in coco["categories"]}
    for image, found in zip(coco["images"], expected, strict=True):
        entries = [entry for entry in coco["annotations"] if entry["image_id"] == image["id"]]
        boxes = np.array([entry["bbox"] for entry in entries]).reshape(-1, 4)
        np.testing.assert_allclose(boxes, coco_boxes(found), atol=1e-3)
        assert [names[entry["category_id"]] for entry in entries] == found.class_names


def test_datumaro_reads_cvat(tmp_path: Path) -> None:
    expected = detection_sets(".")
    for found in expected:
        path = tmp_path / "set" / "images" / (found.source or "")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", found.image_size[::-1]).save(path)
    formats.write("cvat", tmp_path / "set" / "annotations.xml", expected)
    answer = ask(DATUMARO, "datumaro", tmp_path)
    for found in expected:
        read = answer[str(Path(found.source or "").with_suffix(""))]
        assert read["size"] == list(found.image_size)
        rows = np.array(read["boxes"]).reshape(-1, 6)
        np.testing.assert_allclose(rows[:, :4], found.boxes, atol=0.0051)  # it rounds to two decimals
        np.testing.assert_array_equal(rows[:, 4] + 1, found.labels)
        np.testing.assert_array_equal(rows[:, 5].astype(np.float32), found.scores)


def test_fiftyone(tmp_path: Path) -> None:
    expected = detection_sets()
    formats.write("fiftyone", tmp_path / "in.json", expected)
    answer = ask(FIFTYONE, "fiftyone", tmp_path)
    for rows, found in zip(answer["samples"], expected, strict=True):
        assert [row[0] for row in rows] == found.class_names
        np.testing.assert_array_equal(np.float32([row[1] for row in rows]), found.scores)
        (height, width), sides = found.image_size, np.array([row[2:] for row in rows]).reshape(-1, 4)
        np.testing.assert_allclose(sides * [width, height, width, height], coco_boxes(found), atol=1e-3)
    if "without" in answer:
        pytest.skip(answer["without"])
    assert (answer["classes"], answer["count"]) == ({"predictions": list(NAMES[1:])}, 240)
    again = formats.from_fiftyone(tmp_path / "exported" / "samples.json", label_names=NAMES)
    for found, other in zip(again, expected, strict=True):
        np.testing.assert_array_equal(found.boxes, other.boxes)
        assert found.to_json() == other.to_json()
