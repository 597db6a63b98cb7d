"""The models whose figures are committed: their files are made once, and ``frcnn bench`` measures them."""

from __future__ import annotations

from pathlib import Path

import maintenance.bench_models as bench_models
import pytest
import torch
from maintenance.bench_models import DEMO, MODELS, Files, checkpoint_of, draw_images, main, make_artifacts, make_int8
from maintenance.int8_models import annotated_scenes, quantize_random
from support import families

from frcnn.benchmarks.trial import ARCHITECTURE, CHECKPOINT
from frcnn.runtime import RGBImage
from frcnn.runtime.model_files.artifact import OnnxArtifact, open_artifact


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """The commands of frcnn that are run, in a folder that holds none of their files; each leaves an empty output."""
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    ran: list[list[str]] = []

    def run(arguments: list[str]) -> int:
        ran.append(arguments)
        output = Path(arguments[arguments.index("-o") + 1])
        if arguments[0] == "bench":
            output.mkdir(exist_ok=True)
            output /= "results.json"
        output.touch()
        return 0

    monkeypatch.setattr(bench_models, "frcnn", run)
    return ran


def made(commands: list[list[str]]) -> list[tuple[str, str]]:
    return [(verb, Path(rest[rest.index("-o") + 1]).name) for verb, *rest in commands]


def test_files_that_are_missing_are_made(commands: list[list[str]], tmp_path: Path) -> None:
    demo = MODELS["demo"]
    paths = make_artifacts(tmp_path, demo, target="tensorrt")
    assert made(commands) == [
        ("export", "demo-fp32.onnx"),
        ("build", "demo-fp32.frcnn"),
        ("export", "demo-fp16.onnx"),
        ("build", "demo-fp16.frcnn"),
    ]
    assert [path.name for path in paths] == [name for _, name in made(commands)]
    assert commands[0][1:4] == [str(CHECKPOINT), "--arch", demo.arch]
    assert commands[3][-4:] == ["--target", "tensorrt", "--batch", "1:1:8"]
    commands.clear()
    Files.of(tmp_path, "demo", "fp16").artifact.unlink()
    make_artifacts(tmp_path, demo, target="tensorrt")
    assert made(commands) == [("build", "demo-fp16.frcnn")]
    commands.clear()
    assert len(make_artifacts(tmp_path / "exports", demo, target="none")) == 2
    assert [verb for verb, _ in made(commands)] == ["export", "export"]


def test_commands_name_no_place_of_this_system(
    commands: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results state their command, and are committed."""
    monkeypatch.chdir(DEMO.parents[1])
    make_artifacts(tmp_path, MODELS["demo"], target="none")
    assert commands[0][1:4] == ["benchmarks/trial/bundle/digits.pth", "--arch", ARCHITECTURE]


def test_an_export_that_fails_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_models, "frcnn", lambda arguments: 2)
    with pytest.raises(SystemExit) as raised:
        make_artifacts(tmp_path, MODELS["demo"], target="none")
    assert raised.value.code == 2


def test_weights_are_calibrated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODELS["mobilenet-v3-320"]
    monkeypatch.setattr(bench_models, "ARCHITECTURES", {model.arch: lambda **_: families.build("resnet18_fpn_max")})
    path = checkpoint_of(tmp_path, model)
    weights = torch.load(path, weights_only=True)
    families.build("resnet18_fpn_max").load_state_dict(weights)
    written = path.stat().st_mtime_ns
    assert checkpoint_of(tmp_path, model) == path
    assert path.stat().st_mtime_ns == written


def test_images_are_drawn_once(tmp_path: Path) -> None:
    folder = draw_images(tmp_path, MODELS["resnet50-fpn"])
    images = [RGBImage.open(path) for path in sorted(folder.iterdir())]
    assert [image.size for image in images] == [(600, 1000)] * 4
    first = sorted(folder.iterdir())[0]
    first.write_bytes(b"kept")
    draw_images(tmp_path, MODELS["resnet50-fpn"])
    assert first.read_bytes() == b"kept"


def test_full_size_models_are_measured_on_the_cpu(
    commands: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_models, "checkpoint_of", lambda folder, model: folder / f"{model.name}.pth")
    assert main(["-o", str(tmp_path), "--results", str(tmp_path / "results"), "--batch", "1"]) == 0
    names = ["resnet50-fpn", "mobilenet-v3-fpn", "mobilenet-v3-320"]
    assert made(commands) == [("bench", f"{name}-cpu") for name in names]
    assert commands[0] == [
        *("bench", str(tmp_path / "resnet50-fpn.pth"), "--arch", "fasterrcnn_resnet50_fpn", "--device", "cpu"),
        *("-o", str(tmp_path / "resnet50-fpn-cpu"), "--random-weights", "--batch", "1"),
    ]
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == sorted(
        f"{name}-cpu.json" for name in names
    )


def test_artifacts_are_measured_where_a_target_is_given(commands: list[list[str]], tmp_path: Path) -> None:
    arguments = ["-o", str(tmp_path), "--models", "demo", "--target", "none", "--device", "cuda"]
    assert main([*arguments, "--make-only"]) == 0
    assert [verb for verb, _ in made(commands)] == ["export", "export"]
    assert main(arguments) == 0
    bench = commands[-1]
    assert bench[:4] == [
        "bench",
        str(CHECKPOINT),
        *(str(tmp_path / f"demo-{p}.onnx") for p in ("fp32", "fp16")),
    ]
    assert bench[-2:] == ["--images", str(tmp_path / "demo-images")]


def test_the_demos_int8_passes_the_gate_and_random_weights_have_none(
    commands: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantised: list[Path] = []
    scenes = tmp_path / "scenes"
    monkeypatch.setattr(bench_models, "annotated_scenes", lambda folder, demo: scenes)
    monkeypatch.setattr(bench_models, "checkpoint_of", lambda folder, model: folder / f"{model.name}.pth")
    monkeypatch.setattr(bench_models, "quantize_random", lambda model, output: quantised.append(output))
    assert [path.name for path in make_int8(tmp_path, MODELS["demo"])] == ["demo-fp32.onnx", "demo-int8.onnx"]
    assert made(commands) == [("export", "demo-fp32.onnx"), ("quantize", "demo-int8.onnx")]
    assert str(scenes / "instances.json") in commands[-1]
    random = MODELS["mobilenet-v3-320"]
    paths = make_int8(tmp_path, random)
    assert made(commands)[2:] == [("export", "mobilenet-v3-320-fp32.onnx")] and quantised == paths[1:]
    commands.clear()
    assert make_int8(tmp_path, MODELS["demo"])[1].exists() and not commands


def test_both_precisions_are_measured(
    commands: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_models, "make_int8", lambda folder, model: [folder / "a.onnx", folder / "b.onnx"])
    assert main(["-o", str(tmp_path), "--int8", "--models", "demo", "--batch", "1"]) == 0
    (bench,) = commands
    assert bench[2:4] == [str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx")]
    assert "--random-weights" not in bench  # the demo's detections are judged
    images = Path(bench[bench.index("--images") + 1])
    assert {RGBImage.open(path).size for path in images.iterdir()} == {(390, 520)}


def test_random_weights_are_quantised_whole(tiny_model: Path, tmp_path: Path) -> None:
    quantize_random(tiny_model, tmp_path / "int8.onnx")
    artifact = open_artifact(tmp_path / "int8.onnx")
    assert isinstance(artifact, OnnxArtifact) and artifact.manifest.precision == "int8"
    quantization = artifact.manifest.quantization
    assert quantization is not None and not quantization.symmetric
    assert all(layer.startswith(("rpn/head/", "roi_heads/box_predictor/")) for layer in quantization.float_layers)


def test_scenes_are_composed_once(tmp_path: Path) -> None:
    scenes = annotated_scenes(tmp_path / "scenes", DEMO, count=2, seed=1)
    assert len(list((scenes / "images").iterdir())) == 2
    (scenes / "instances.json").write_text("kept")
    annotated_scenes(scenes, DEMO, count=2, seed=1)
    assert (scenes / "instances.json").read_text() == "kept"
