"""The commands that write files, each over a tiny detector, and what their files must be at every moment."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import onnx
import torch
from PIL import Image

from frcnn.benchmarks.report.results import Results
from frcnn.benchmarks.report.write import write_report
from frcnn.runtime.model_files.artifact import open_artifact
from frcnn.runtime.model_files.engine_artifact import EngineArtifact
from support.processes import environment
from support.tiny_detector import build, noise

ROOT = Path(__file__).parents[2]
ARCH = f"{Path(__file__).with_name('tiny_detector.py')}:build"
TRAIN = ROOT / "examples" / "train_demo" / "train.py"
KILLED = Path(__file__).with_name("killed.py")
IMAGES = 200


def run(command: list[str], *, folder: Path, at: int = 0) -> subprocess.Popen[str]:
    """Start a command that kills itself at its Nth touch of a folder; 0: it ends as it would."""
    whole = [sys.executable, str(KILLED), str(folder), str(at), *command]
    return subprocess.Popen(whole, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the commands read, made once."""

    folder: Path

    def __post_init__(self) -> None:
        torch.save(build().state_dict(), self.folder / "tiny.pth")
        (self.folder / "labels.txt").write_text("one\ntwo\nthree\n")
        (self.folder / "images").mkdir()
        images, boxes = [], []
        for index in range(IMAGES):
            Image.fromarray(noise(index, 40, 48)).save(self.folder / "images" / f"{index:04}.png")
            images.append({"id": index, "file_name": f"{index:04}.png", "height": 40, "width": 48})
            boxes.append({"id": index + 1, "image_id": index, "category_id": 1, "bbox": [4, 4, 20, 20], "iscrowd": 0})
        document = {
            "images": images,
            "annotations": boxes,
            "categories": [{"id": i, "name": str(i)} for i in (1, 2, 3)],
        }
        (self.folder / "instances.json").write_text(json.dumps(document))
        few = {"images": images[:2], "annotations": boxes[:2], "categories": document["categories"]}
        (self.folder / "training" / "images").mkdir(parents=True)
        for image in images[:2]:
            Image.fromarray(noise(image["id"], 80, 96)).save(self.folder / "training" / "images" / image["file_name"])
            image |= {"height": 80, "width": 96}
        (self.folder / "training" / "instances.json").write_text(json.dumps(few))

    def __truediv__(self, name: str) -> str:
        return str(self.folder / name)


@dataclass(frozen=True, slots=True)
class Verb:
    """A command that writes into a folder.

    ``command`` takes the inputs, the output's folder and whether the run is the earlier one, whose results differ.
    ``check`` takes the folder, that of an undisturbed run, and the files that are there, whole and not the earlier
    run's, and asserts that they are what the undisturbed run wrote. ``resumes``: ``--resume`` continues ``resume.pth``.
    """

    command: Callable[[Inputs, Path, bool], list[str]]
    check: Callable[[Path, Path, list[str]], None]
    resumes: bool = False


def files(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield str(path.relative_to(folder))


def _same_bytes(out: Path, undisturbed: Path, new: list[str]) -> None:
    for name in new:
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes(), name


def _export(inputs: Inputs, out: Path, earlier: bool) -> list[str]:
    more = ["--labels", inputs / "labels.txt"] if earlier else []
    return ["frcnn", "export", inputs / "tiny.pth", "--arch", ARCH, "-o", str(out / "model.onnx"), *more]


def _build(inputs: Inputs, out: Path, earlier: bool) -> list[str]:
    options = ["--size", "32x32", "--batch", "2" if earlier else "1", "--kernel-arch", "sm_89"]
    return ["frcnn", "build", inputs / "model.onnx", "-o", str(out / "model.frcnn"), *options]


def _check_build(out: Path, undisturbed: Path, new: list[str]) -> None:
    for name in new:
        artifact, expected = open_artifact(out / name), open_artifact(undisturbed / name)
        assert isinstance(artifact, EngineArtifact) and isinstance(expected, EngineArtifact)
        artifact.check_parts()
        ours, theirs = (msgspec.structs.asdict(each.manifest) for each in (artifact, expected))
        # TensorRT's plans are not the same bytes from build to build
        assert ours | {"parts": list(ours["parts"])} == theirs | {"parts": list(theirs["parts"])}


def _train(inputs: Inputs, out: Path, earlier: bool) -> list[str]:
    data = ["--data", inputs / "training", "--val", inputs / "training", "--backbone-weights", "none"]
    steps = ["--steps", "4", "--save-every", "1", "--batch", "1", "--seed", "1" if earlier else "0"]
    return [str(TRAIN), *data, *steps, "--workers", "0", "--quiet", "--out", str(out)]


def _check_train(out: Path, undisturbed: Path, new: list[str]) -> None:
    for name in new:
        if name == "resume.pth":
            state, expected = (torch.load(folder / name, weights_only=True) for folder in (out, undisturbed))
            assert 1 <= state["step"] <= expected["step"]
            if state["step"] == expected["step"]:
                for key, value in expected["model"].items():
                    assert torch.equal(state["model"][key], value), key
        elif name == "figures.json":
            figures, expected = (json.loads((folder / name).read_text()) for folder in (out, undisturbed))
            assert figures | {"seconds": 0} == expected | {"seconds": 0}
            assert figures["sha256"] == hashlib.sha256((out / "detector.pth").read_bytes()).hexdigest()
        else:
            _same_bytes(out, undisturbed, [name])


def _bench(inputs: Inputs, out: Path, earlier: bool) -> list[str]:
    checkpoint = ["frcnn", "bench", inputs / "tiny.pth", inputs / "model.onnx", "--arch", ARCH, "--device", "cpu"]
    images = [inputs / f"images/{index:04}.png" for index in range(4)]
    options = ["--threads", "1", "--batch", "1,2" if earlier else "1", "--budget", "1", "--compile-limit", "0"]
    return [*checkpoint, *options, "-o", str(out), "--images", *images]


def _check_bench(out: Path, undisturbed: Path, new: list[str]) -> None:
    """Times differ from run to run; that the pages show the results that are there does not."""
    if "results.json" in new:
        found, expected = (Results.read(folder / "results.json") for folder in (out, undisturbed))
        assert [(row.id, row.status) for row in found.rows] == [(row.id, row.status) for row in expected.rows]
    for name in new:
        if name in ("report.md", "report.html"):
            assert "results.json" in new, f"{name} is there before the results that it shows"
            again = out.with_name("report-again")
            again.mkdir(exist_ok=True)
            write_report(Results.read(out / "results.json"), again)
            assert (out / name).read_bytes() == (again / name).read_bytes()
        elif name.endswith(".onnx"):
            onnx.checker.check_model(onnx.load(out / name))


def _eval(inputs: Inputs, out: Path, earlier: bool) -> list[str]:
    model = inputs / ("earlier.onnx" if earlier else "model.onnx")
    options = ["--annotations", inputs / "instances.json", "--images", inputs / "images", "--threads", "1"]
    return ["frcnn", "eval", model, *options, "--json", str(out / "map.json")]


def _check_eval(out: Path, undisturbed: Path, new: list[str]) -> None:
    for name in new:
        found, expected = (json.loads((folder / name).read_text()) for folder in (out, undisturbed))
        assert found | {"command": ""} == expected | {"command": ""}


def _detect(inputs: Inputs, out: Path, earlier: bool) -> list[str]:
    where = ["--json", out / "r.json", "--jsonl", out / "r.jsonl", "--json-index", out / "index.json", "-o", out / "c"]
    score = ["--score", "0.9" if earlier else "0.5"]
    return ["frcnn", "detect", inputs / "model.onnx", inputs / "images", "--threads", "1", *score, *map(str, where)]


def _check_detect(out: Path, undisturbed: Path, new: list[str]) -> None:
    for name in new:
        if not name.endswith(".jsonl"):
            _same_bytes(out, undisturbed, [name])
            continue
        written = (out / name).read_bytes()
        assert (undisturbed / "r.jsonl").read_bytes().startswith(written), name  # the last line may lack its end
        for index in range(written.count(b"\n")):  # what is reported has its copy
            _same_bytes(out, undisturbed, [f"c/{index:04}.png"])


VERBS = {
    "export": Verb(_export, _same_bytes),
    "build": Verb(_build, _check_build),
    "train": Verb(_train, _check_train, resumes=True),
    "bench": Verb(_bench, _check_bench),
    "eval": Verb(_eval, _check_eval),
    "detect": Verb(_detect, _check_detect),
}
