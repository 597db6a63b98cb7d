"""examples/cpp: built with CMake without a warning, and its boxes compared with those of the Python runtime."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from support.engine_files import engine_manifest, engine_parts, listed_parts, static_profile
from support.exports import Exports
from support.made_once import made_once
from support.quantized import quantized

from frcnn.benchmarks.trial import ARCHITECTURE, BUNDLE, CHECKPOINT
from frcnn.cli import main
from frcnn.errors import ImageSizeError
from frcnn.runtime import Detector
from frcnn.runtime.images.canvases import EngineCanvases
from frcnn.spec.engine import Profile, Range

pytestmark = pytest.mark.integration

SOURCE = Path(__file__).parents[2] / "examples" / "cpp"
PHOTOGRAPHS = sorted((BUNDLE / "images").glob("*.jpg"))[:5]
WARNINGS = "-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror"
SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=all -O1"
SCORE = 0.2


def run(*command: object, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ, LC_ALL="C.UTF-8", ASAN_OPTIONS="detect_leaks=0")  # pytest's parents may be traced
    words = [os.fspath(word) if isinstance(word, Path) else str(word) for word in command]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600)


def must_run(*command: object, folder: Path | None = None) -> str:
    done = run(*command, folder=folder)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def require_tools() -> None:
    """Skip where the compiler or a library from the distribution is missing."""
    missing = [name for name in ("cmake", "g++") if shutil.which(name) is None]
    for package, header in (
        ("libopencv-imgcodecs-dev", "opencv2/imgcodecs.hpp"),
        ("nlohmann-json3-dev", "nlohmann/json.hpp"),
    ):
        if not any(
            (Path(root) / header).is_file() for root in ("/usr/include", "/usr/include/opencv4", "/usr/local/include")
        ):
            missing.append(package)
    if missing:
        pytest.skip(f"C++: not installed: {', '.join(missing)}")


def onnxruntime_headers(folder: Path) -> Path:
    """Return a folder with ONNX Runtime's headers: those of Debian 13's package, unpacked and not installed."""
    if shutil.which("apt-get") is None:
        pytest.skip("C++: ONNX Runtime's headers: set ONNXRUNTIME_ROOT to an unpacked release")
    targets = must_run("apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI)", "Created-By: Packages")
    archive = next((line.split()[1] for line in targets.splitlines() if line.startswith("Debian ")), None)
    if archive is None:
        pytest.skip("C++: ONNX Runtime's headers: apt knows no archive of Debian's; set ONNXRUNTIME_ROOT")
    signed = "signed-by=/usr/share/keyrings/debian-archive-keyring.gpg"
    (folder / "trixie.list").write_text(f"deb [{signed}] {archive} trixie main\n")
    (folder / "lists" / "partial").mkdir(parents=True)
    options = {
        "Dir::Etc::sourcelist": folder / "trixie.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "",
    }
    apt = ["apt-get", "-q", *(f"-o{name}={value}" for name, value in options.items())]
    must_run(*apt, "update")
    must_run(*apt, "download", "libonnxruntime-dev", folder=folder)
    (package,) = folder.glob("libonnxruntime-dev_*.deb")
    must_run("dpkg-deb", "-x", package, folder / "unpacked")
    return folder / "unpacked" / "usr" / "include" / "onnxruntime"


def make_onnxruntime(folder: Path) -> None:
    """Lay out ONNX Runtime as its release is: the headers, and the library of the Python package."""
    (folder / "fetched").mkdir()
    onnxruntime_headers(folder / "fetched").rename(folder / "include")
    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    (folder / "lib").mkdir()
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / "lib" / name).symlink_to(library)


def make_build(folder: Path) -> None:
    root = os.environ.get("ONNXRUNTIME_ROOT") or made_once("onnxruntime for C++", make_onnxruntime)
    flags = f"{WARNINGS} {SANITIZERS}"
    must_run(
        "cmake",
        "-S",
        SOURCE,
        "-B",
        folder,
        f"-DONNXRUNTIME_ROOT={root}",
        f"-DCMAKE_CXX_FLAGS={flags}",
        "-DCMAKE_BUILD_TYPE=None",
    )
    must_run("cmake", "--build", folder, "--parallel", 2)


@pytest.fixture(scope="module")
def built() -> Path:
    """The build folder; its programs have the sanitizers in them."""
    require_tools()
    return made_once("build of examples/cpp", make_build)


@pytest.fixture(scope="module")
def program(built: Path) -> Path:
    return built / "detect_onnxruntime"


def export_demo(path: Path, *options: str) -> None:
    assert main(["export", str(CHECKPOINT), "--arch", ARCHITECTURE, *options, "-o", str(path)]) == 0


@pytest.fixture(scope="module")
def demo() -> Path:
    """The demo's model, which takes any canvas and has names of classes."""
    labels = ("--labels", str(BUNDLE / "labels.txt"))
    return made_once("demo for C++", lambda folder: export_demo(folder / "model.onnx", *labels)) / "model.onnx"


@dataclass(frozen=True)
class Found:
    """What one of the two found in an image: labels, scores, and corners in pixels."""

    size: tuple[int, int]
    labels: list[int]
    scores: list[float]
    boxes: np.ndarray


def found_by(program: Path, model: Path, images: Iterable[Path]) -> list[Found]:
    """Read the lines of the program; they have the fields of ``frcnn detect --jsonl``."""
    paths = list(images)
    lines = [json.loads(line) for line in must_run(program, model, *paths, "--score", SCORE).splitlines()]
    assert [(line["id"], line["file_name"]) for line in lines] == [(i, str(path)) for i, path in enumerate(paths, 1)]
    found = []
    for line in lines:
        results = line["results"]
        boxes = np.array([result["bbox"] for result in results]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        size = line["height"], line["width"]
        labels, scores = ([result[name] for result in results] for name in ("category_id", "score"))
        found.append(Found(size, labels, scores, boxes))
    return found


def compare(program: Path, model: Path, images: Iterable[Path]) -> int:
    """Assert that program and Python runtime find the same; return how many detections that are."""
    paths, total = list(images), 0
    with Detector.load(model) as detector:
        for path, ours, expected in zip(
            paths, found_by(program, model, paths), detector(paths, score=SCORE), strict=True
        ):
            assert ours.size == expected.image_size, path
            assert sorted(ours.labels) == sorted(expected.labels.tolist()), path
            left = set(range(len(expected)))
            for label, score, box in zip(ours.labels, ours.scores, ours.boxes, strict=True):
                near = [
                    i
                    for i in left
                    if expected.labels[i] == label
                    and abs(expected.scores[i] - score) <= 1e-4
                    and np.abs(expected.boxes[i] - box).max() <= 0.05
                ]
                assert near, f"{path}: {label} {score} {box}"
                left.remove(near[0])
            total += len(expected)
    return total


def photograph(index: int = 2) -> Image.Image:
    return Image.open(PHOTOGRAPHS[index]).convert("RGB")


def save_other_kinds(folder: Path) -> list[Path]:
    """Write what is no upright RGB photograph, and a wide image that is shrunk by its long side."""
    image = photograph()
    pixels = np.asarray(image)
    grey = np.asarray(image.convert("L"))
    for orientation in range(2, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.save(folder / f"orientation-{orientation}.jpg", exif=exif, quality=95)
    image.convert("L").save(folder / "grey.jpg")
    Image.fromarray(np.dstack([pixels, grey])).save(folder / "alpha.png")
    Image.fromarray(np.dstack([grey, grey])).save(folder / "grey-alpha.png")
    Image.fromarray((grey.astype(np.uint16) * 250 + 77).astype(np.uint16)).save(folder / "grey-16-bit.png")
    image.quantize(64).save(folder / "palette.png", transparency=3)
    image.save(folder / "photograph.webp", quality=95)
    image.save(folder / "photograph.tiff")
    tall = [photograph(i).resize((300, 400)) for i in range(5)]
    wide = Image.new("RGB", (1500, 400))
    for i, one in enumerate(tall):
        wide.paste(one, (300 * i, 0))
    wide.save(folder / "wide.png")
    wide.crop((0, 0, 300, 400)).resize((150, 200)).save(folder / "small.bmp")
    return sorted(folder.iterdir())


def test_boxes_of_the_demo_are_those_of_the_python_runtime(program: Path, demo: Path) -> None:
    assert compare(program, demo, PHOTOGRAPHS) > 50


def test_other_kinds_of_images_give_the_same_boxes(program: Path, demo: Path, tmp_path: Path) -> None:
    assert compare(program, demo, save_other_kinds(tmp_path)) > 100


def test_the_lines_are_those_of_detect_with_names(
    program: Path, demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [str(path) for path in PHOTOGRAPHS[:2]]
    assert main(["detect", str(demo), *images, "--jsonl", "-"]) == 0
    expected = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    names = ["__background__", *(BUNDLE / "labels.txt").read_text().split()]
    lines = [json.loads(line) for line in must_run(program, demo, *images).splitlines()]
    for line, other in zip(lines, expected, strict=True):
        assert line["results"] and list(line) == list(other)
        for result in line["results"]:
            assert result.pop("class_name") == names[result["category_id"]]
            assert list(result) == list(other["results"][0])


def test_a_model_with_a_list_of_canvases_gives_the_same_boxes(program: Path, tmp_path: Path) -> None:
    export_demo(tmp_path / "model.onnx", "--size", "320x512,512x320,512x512")
    assert compare(program, tmp_path / "model.onnx", PHOTOGRAPHS) > 50


def test_a_model_with_one_canvas_gives_the_same_boxes_or_refuses_the_image(
    program: Path, exports: Exports, tmp_path: Path
) -> None:
    model = exports("resnet50_fpn", size=(160, 288)).path
    wide, tall = tmp_path / "wide.png", tmp_path / "tall.png"
    photograph().resize((500, 300)).save(wide)
    photograph().resize((300, 500)).save(tall)
    assert compare(program, model, [wide]) > 0
    done = run(program, model, tall, wide)
    assert done.returncode == 1 and len(done.stdout.splitlines()) == 1
    with pytest.raises(ImageSizeError), Detector.load(model) as detector:
        detector([tall])
    assert re.fullmatch(r"error: .*tall.png: resized to 266x160 it fits no canvas.*\nhint: .*288x160.*\n", done.stderr)


def test_a_float16_model_gives_the_same_boxes(program: Path, exports: Exports) -> None:
    assert compare(program, exports("resnet50_fpn", "fp16").path, PHOTOGRAPHS) > 0


def test_an_int8_model_gives_the_same_boxes(program: Path, demo: Path) -> None:
    assert compare(program, quantized(demo, symmetric=False), PHOTOGRAPHS) > 50


def test_weights_may_lie_outside_the_model(program: Path, demo: Path, tmp_path: Path) -> None:
    onnx.save_model(onnx.load(demo), tmp_path / "model.onnx", save_as_external_data=True, location="weights.bin")
    assert (tmp_path / "weights.bin").stat().st_size > 1_000_000
    images = PHOTOGRAPHS[:1]
    (ours,), (inside,) = (found_by(program, model, images) for model in (tmp_path / "model.onnx", demo))
    assert ours.scores == inside.scores and np.array_equal(ours.boxes, inside.boxes)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.onnx", None, "no such file"),
        ("text.onnx", b"no model\n", "ONNX Runtime cannot load it"),
        ("empty.onnx", b"", "ONNX Runtime cannot load it"),
        ("zip.onnx", b"PK\x03\x04" + bytes(100), "ONNX Runtime cannot load it"),
    ],
)
def test_what_is_no_model_is_one_line_and_a_hint(
    program: Path, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = run(program, tmp_path / name, PHOTOGRAPHS[0])
    assert done.returncode == 2 and not done.stdout
    assert re.fullmatch(rf"error: \S+{name}: .*{message}.*\nhint: .*frcnn export.*\n", done.stderr), done.stderr


def test_a_model_of_others_and_a_damaged_manifest_are_refused(program: Path, demo: Path, tmp_path: Path) -> None:
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["x"], ["y"])], "other", values[:1], values[1:])
    other = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    whole = Detector.load(demo).manifest.to_json()
    assert whole.count('"size_divisible":32') == whole.count('"min_size":320') == 1
    changes: dict[str, tuple[str | None, str]] = {
        "other": (None, "without the manifest of frcnn"),
        "zero": (whole.replace('"size_divisible":32', '"size_divisible":0'), "expected a positive number, got 0"),
        "huge": (whole.replace('"min_size":320', '"min_size":9e30'), "the manifest is damaged"),
        "list": ("[1, 2]", "the manifest is damaged"),
        "cut": ('{"schema_version": 1, "model": {"tra', "the manifest is damaged"),
        "later": ('{"schema_version": 9}', "schema version 9, expected 1"),
        "part": ('{"schema_version": 1, "model": {}}', "the manifest is damaged"),
    }
    for name, (manifest, message) in changes.items():
        if manifest is not None:
            onnx.helper.set_model_props(other, {"frcnn.manifest": manifest})
        onnx.save_model(other, tmp_path / f"{name}.onnx")
        done = run(program, tmp_path / f"{name}.onnx", PHOTOGRAPHS[0])
        assert done.returncode == 2 and not done.stdout
        assert re.fullmatch(rf"error: .*{message}.*\nhint: .+\n", done.stderr), done.stderr


def test_what_is_no_image_is_named_and_the_others_are_done(program: Path, demo: Path, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image\n")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    bad = [tmp_path / name for name in ("text.jpg", "empty.png", "folder.png", "miss\ning.jpg")]
    done = run(program, demo, *bad)
    assert done.returncode == 2 and not done.stdout
    lines = done.stderr.splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["error:", "hint:"] * 4
    assert [str(path).replace("\n", " ") in line for path, line in zip(bad, lines[::2], strict=True)] == [True] * 4

    done = run(program, demo, bad[0], PHOTOGRAPHS[0])
    assert done.returncode == 1 and json.loads(done.stdout)["id"] == 2
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize("options", [[], ["model.onnx"], ["m", "i", "--scroe", "1"], ["m", "i", "--score", "2"]])
def test_usage_is_one_line_and_a_hint(program: Path, options: list[str]) -> None:
    done = run(program, *options)
    assert done.returncode == 2 and not done.stdout
    assert re.fullmatch(r"error: .+\nhint: .*--score.*\n", done.stderr)


CANVASES = """
#include <fstream>
#include <iostream>
#include <iterator>
#include "manifest.h"

int main(int, char** names) {
    std::ifstream file(names[1]);
    const auto manifest = frcnn::EngineManifest::parse({std::istreambuf_iterator<char>(file), {}}, names[1]);
    for (frcnn::Size size; std::cin >> size.height >> size.width;) {
        const auto canvas = manifest.canvas_for(manifest.model.resized(size));
        if (canvas) {
            std::cout << text(*canvas) << " " << manifest.profile_for(*canvas) << std::endl;
        } else {
            std::cout << "none" << std::endl;
        }
    }
}
"""


def test_canvas_and_profile_of_a_plan_are_those_of_the_python_runtime(built: Path, tmp_path: Path) -> None:
    def between(low: int, high: int) -> Range:
        return Range(min=low, opt=high, max=high)

    dynamic = Profile(batch=between(1, 1), height=between(250, 1100), width=between(320, 1344))
    profiles = (dynamic, static_profile(800, 1088), static_profile(1088, 800))
    manifest = engine_manifest(listed_parts(engine_parts(target="tensorrt")), target="tensorrt", profiles=profiles)
    (tmp_path / "manifest.json").write_bytes(manifest.to_json())
    (tmp_path / "canvases.cpp").write_text(CANVASES)
    libraries = [built / "libfrcnn_images.a", "-lopencv_imgcodecs", "-lopencv_core", *SANITIZERS.split()]
    must_run("g++", "-std=c++17", f"-I{SOURCE}", tmp_path / "canvases.cpp", *libraries, "-o", tmp_path / "canvases")

    rng = np.random.default_rng(0)
    sizes = [tuple(size) for size in rng.integers(20, 3000, (200, 2)).tolist()]
    text = "\n".join(f"{height} {width}" for height, width in sizes)
    done = subprocess.run(
        [tmp_path / "canvases", tmp_path / "manifest.json"], input=text, capture_output=True, text=True, check=True
    )
    canvases, expected = EngineCanvases(manifest), []
    for size in sizes:
        try:
            canvas = canvases.canvas_of(manifest.model.transform.resized_size(*size), name="image")
            expected.append(f"{canvas[0]}x{canvas[1]} {canvases.batch_to_run(1, canvas)[0]}")
        except ImageSizeError:
            expected.append("none")
    assert done.stdout.splitlines() == expected
    assert {line.rpartition(" ")[2] for line in expected} == {"0", "1", "2", "none"}
