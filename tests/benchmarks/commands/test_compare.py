"""``frcnn compare``, end to end: a checkpoint, the model exported from it, images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest
import torch
from support.engine_files import static_profile, write_engine_file
from support.images import SHAPES
from support.processor import has_bfloat16

from frcnn.cli import main
from frcnn.runtime import Detector
from frcnn.runtime.host.backend import HostBackend
from frcnn.runtime.host.onnxruntime_backend import OnnxRuntimeBackend
from frcnn.spec import Size
from frcnn.spec.engine import Profile, Range

FAMILIES_FILE = Path(__file__).parents[2] / "support" / "families.py"
FAMILY = "resnet18_fpn_max"
BUILDER = """
from support.families import resnet18_fpn_max

def build(min_size: int = 160, score: float = 0.2):
    model = resnet18_fpn_max()
    model.transform.min_size = (min_size,)
    model.roi_heads.score_thresh = score
    return model
"""


@pytest.fixture
def model_path(exports) -> Path:
    return exports(FAMILY).path


@pytest.fixture
def compare(checkpoint, model_path, images) -> Callable[..., int]:
    def run(*options: str, arch: str = f"{FAMILIES_FILE}:{FAMILY}", model: Path = model_path) -> int:
        paths = [str(checkpoint), str(model), "--images", str(images)]
        return main(["compare", *paths, "--arch", arch, "--threads", "1", *options])

    return run


def test_the_checkpoint_and_its_export_agree(compare, capsys):
    assert compare() == 0
    out = capsys.readouterr().out
    assert "AGREE: " in out and "DISAGREE" not in out
    assert all(f"{i}.png" in out for i in range(3)) and "total" in out


def test_a_changed_checkpoint_disagrees(compare, checkpoint, capsys):
    weights = torch.load(checkpoint, weights_only=True)
    weights["roi_heads.box_predictor.bbox_pred.weight"] *= 1.01
    torch.save(weights, checkpoint)
    assert compare() == 1
    out = capsys.readouterr().out
    assert "DISAGREE: boxes differ by up to" in out


def test_wider_limits_let_it_pass(compare, checkpoint, capsys):
    weights = torch.load(checkpoint, weights_only=True)
    weights["roi_heads.box_predictor.cls_score.bias"][1] += 1e-3
    torch.save(weights, checkpoint)
    assert compare() == 1
    assert compare("--score", "0.01", "--box-px", "5", "--margin", "0.05", "--unmatched", "0.1") == 0
    assert "scores within 0.01" in capsys.readouterr().out


@pytest.mark.parametrize(("arg", "what"), [("min_size=128", "preprocessing"), ("score=0.3", "box head")])
def test_other_arguments_make_another_model(arg, what, compare, tmp_path, capsys):
    builder = tmp_path / "builder.py"
    builder.write_text(BUILDER)
    assert compare("--arg", arg, arch=f"{builder}:build") == 2
    err = capsys.readouterr().err
    assert f"is another model than the checkpoint: {what}: expected" in err
    assert "hint: give compare the same --arch and --arg as export" in err
    assert compare(arch=f"{builder}:build") == 0


def test_a_broken_image_among_good_ones_is_named_and_skipped(compare, images, capsys):
    (images / "broken.png").write_bytes((images / "0.png").read_bytes()[:200])
    assert compare() == 1
    captured = capsys.readouterr()
    assert "skipped" in captured.err and "broken.png" in captured.err
    assert "AGREE: " in captured.out and "in 3 images" in captured.out


def test_only_broken_images_are_an_error(compare, images, capsys):
    for path in images.iterdir():
        path.write_bytes(b"no image")
    assert compare() == 2
    assert "error: none of the 3 images could be used" in capsys.readouterr().err


def test_json_holds_limits_images_and_verdict(compare, tmp_path, capsys):
    target = tmp_path / "parity.json"
    assert compare("--json", str(target)) == 0
    result = json.loads(target.read_text())
    assert result["passed"] is True
    assert result["limits"]["rule"] == "exact"
    assert [Path(p["image"]).name for p in result["images"]] == ["0.png", "1.png", "2.png"]
    assert result["total"]["matched"] == sum(p["matched"] for p in result["images"]) > 20
    assert result["total"]["box_px"] <= 0.01 and result["total"]["eager_ms"] > 0
    assert "AGREE" in capsys.readouterr().out


def test_json_on_standard_output_is_alone_there(compare, capsys):
    assert compare("--json", "-") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["passed"] is True
    assert "AGREE" in captured.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--box-px", "-1"], "--box-px: expected a number from 0, got -1"),
        (["--score", "nan"], "--score: expected a number from 0, got nan"),
        (["--threads", "0"], "--threads: expected 1 or more, got 0"),
    ],
)
def test_invalid_limits_are_refused(options, message, compare, capsys):
    assert compare(*options) == 2
    assert message in capsys.readouterr().err


def test_no_images_is_an_error(compare, images, capsys):
    for path in images.iterdir():
        path.unlink()
    assert compare() == 2
    assert "error: " in capsys.readouterr().err


def test_a_model_that_is_not_ours_is_an_error(compare, model_path, tmp_path, checkpoint, images, capsys):
    other = tmp_path / "other.onnx"
    other.write_bytes(b"not a model")
    command = ["compare", str(checkpoint), str(other), "--arch", f"{FAMILIES_FILE}:{FAMILY}", "--images", str(images)]
    assert main(command) == 2
    assert "other.onnx" in capsys.readouterr().err


LARGER = ((256, 320), (320, 256))
NO_LESS_THAN_160 = Profile(
    batch=Range(min=1, opt=1, max=4),
    height=Range(min=160, opt=160, max=320),
    width=Range(min=160, opt=224, max=320),
)


@pytest.fixture
def engine(exports, checkpoint, images, tmp_path, monkeypatch) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Compare with an engine artifact: a real file, and ONNX Runtime on the engine's canvases in the place of a GPU."""
    export = exports(FAMILY)

    def run(
        *options: str, profiles: tuple[Profile, ...], canvases: tuple[Size, ...], **changes: Any
    ) -> tuple[int, dict[str, Any]]:
        asked: dict[str, Any] = {}
        path = write_engine_file(
            tmp_path / "model.frcnn", source=export.manifest, profiles=profiles, **{"precision": "fp32"} | changes
        )

        def load(path: Path, **given: Any) -> Detector:
            asked.update(given, path=path)
            manifest = msgspec.structs.replace(export.manifest, canvases=canvases)
            return Detector(HostBackend(OnnxRuntimeBackend(export.path, threads=1), manifest), manifest)

        monkeypatch.setattr(Detector, "load", load)
        arch = ["--arch", f"{FAMILIES_FILE}:{FAMILY}", "--images", str(images), "--threads", "1"]
        return main(["compare", str(checkpoint), str(path), *arch, *options]), asked

    return run


def test_an_engine_is_compared_on_the_gpu_on_its_own_canvases(engine, tmp_path, capsys):
    code, asked = engine(profiles=tuple(static_profile(*canvas) for canvas in LARGER), canvases=LARGER)
    assert asked == {"path": tmp_path / "model.frcnn", "device": "cuda", "provider": None, "precision": None}
    assert code == 0
    assert "AGREE: " in capsys.readouterr().out


def test_a_profile_raises_small_canvases(engine, capsys):
    assert SHAPES[2] == (100, 240), "whose canvas, 128x288, is lower than the profile takes"
    canvases = ((160, 224), (224, 160), (160, 288))
    code, _ = engine(profiles=(NO_LESS_THAN_160,), canvases=canvases)
    assert code == 0
    assert "in 3 images" in capsys.readouterr().out


def test_eager_on_another_canvas_than_the_engine_disagrees(engine, capsys):
    code, _ = engine(profiles=(NO_LESS_THAN_160,), canvases=LARGER)
    assert code == 1
    assert "DISAGREE" in capsys.readouterr().out


@pytest.mark.parametrize(("precision", "limits"), [("fp16", 0.05), ("bf16", 0.1)])
def test_the_engines_own_precision_decides_the_limits(precision, limits, engine, tmp_path, capsys):
    target = tmp_path / "parity.json"
    options = {"profiles": (NO_LESS_THAN_160,), "canvases": ((160, 224), (224, 160), (160, 288))}
    code, _ = engine("--json", str(target), precision=precision, **options)
    assert code == 0
    assert json.loads(target.read_text())["limits"]["margin"] == limits


def test_an_image_that_fits_no_profile_is_skipped(engine, capsys):
    code, _ = engine(profiles=(static_profile(160, 224), static_profile(224, 160)), canvases=LARGER)
    assert code == 1
    err = capsys.readouterr().err
    assert "skipped" in err and "2.png" in err and "fits none of the engine's profiles" in err


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), {"device": "cpu", "provider": None, "precision": None}),
        (("--device", "cpu"), {"device": "cpu", "provider": None, "precision": None}),
        (("--device", "cuda"), {"device": "cuda", "provider": None, "precision": None}),
        (("--provider", "tensorrt"), {"device": None, "provider": "tensorrt", "precision": None}),
        (
            ("--provider", "openvino", "--precision", "bf16"),
            {"device": None, "provider": "openvino", "precision": "bf16"},
        ),
    ],
)
def test_device_and_provider_are_passed_on(options, expected, compare, model_path, monkeypatch):
    asked: dict[str, Any] = {}
    load = Detector.load

    def on_the_cpu(path: Path, **given: Any) -> Detector:
        asked.update(given)
        return load(path, threads=1)

    monkeypatch.setattr(Detector, "load", on_the_cpu)
    assert compare(*options) == 0
    assert asked == expected | {"threads": 1}


@pytest.mark.parametrize(("precision", "margin"), [("fp32", 0.001), ("bf16", 0.1)])
def test_the_limits_are_those_of_the_precision_that_openvino_computes_in(precision, margin, compare, tmp_path):
    if precision == "bf16" and not has_bfloat16():
        pytest.skip("this processor has no bf16")
    target = tmp_path / "parity.json"
    assert compare("--provider", "openvino", "--precision", precision, "--json", str(target)) == 0
    assert json.loads(target.read_text())["limits"]["margin"] == margin


def test_a_bf16_model_is_for_the_gpu(exports, compare, model_path, tmp_path, monkeypatch, capsys):
    """Without one the error names the package that is missing, not a node without a kernel."""
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    model = onnx.load(model_path)
    (entry,) = model.metadata_props
    entry.value = msgspec.structs.replace(exports(FAMILY).manifest, precision="bf16").to_json()
    onnx.save(model, tmp_path / "bf16.onnx")
    assert compare(model=tmp_path / "bf16.onnx") == 2
    assert "frcnn[gpu]" in capsys.readouterr().err
    assert compare("--device", "cpu", model=tmp_path / "bf16.onnx") == 2
    assert "is bf16, which ONNX Runtime has no CPU kernels for" in capsys.readouterr().err
