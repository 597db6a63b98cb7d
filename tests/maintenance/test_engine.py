"""The engine benchmark without a GPU: its arithmetic, its verdicts, its files, and the artifact that it runs bare."""

from __future__ import annotations

import dataclasses
import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import maintenance.bare_artifact as bare_artifact
import maintenance.engine as engine
import maintenance.engine_models as engine_models
import maintenance.engine_ways as engine_ways
import msgspec
import numpy as np
import pytest
import torch
from maintenance.bare_artifact import BareArtifact
from maintenance.engine_models import MODELS, Files, load_images, make
from maintenance.engine_timing import Calls, Way, in_turn, percentiles, times_faster
from support.engine_files import source_manifest
from support.fake_device import FakeDevice
from support.simt import require_compiler
from support.tiny_artifact import TinyArtifact, profile
from torch.overrides import TorchFunctionMode

from frcnn.benchmarks.candidates.eager_detector import EagerDetector
from frcnn.errors import ArtifactError, UsageError
from frcnn.exporter.model.spec_from_model import read_model_spec
from frcnn.files.archive import write_archive
from frcnn.runtime.images.image import RGBImage

ROOT = Path(__file__).resolve().parents[2]


def ways(*names: str) -> list[Way]:
    return [Way(name=name, run=lambda: None) for name in names]


def calls(*ms: float) -> Calls:
    return Calls(gpu_ms=list(ms), wall_ms=[2 * value for value in ms])


def test_ways_take_turns_and_the_warm_up_counts_for_nothing() -> None:
    asked: list[tuple[str, int]] = []

    def timer(way: Way, count: int) -> Calls:
        asked.append((way.name, count))
        return calls(*[float(len(asked))] * count)

    found = in_turn(ways("a", "b", "c"), timer, rounds=3, calls=2)
    assert [name for name, count in asked if count != 2] == ["a", "b", "c"]
    assert "".join(name for name, count in asked if count == 2) == "abcbcacab"
    assert found["a"].gpu_ms == [4.0, 4.0, 9.0, 9.0, 11.0, 11.0]
    assert found["a"].wall_ms == [8.0, 8.0, 18.0, 18.0, 22.0, 22.0]


def test_percentiles() -> None:
    found = percentiles(list(range(101)))
    assert (found.p50, found.p90, found.p99, found.min, found.max, found.calls) == (50, 90, 99, 0, 100, 101)


def found_with(ours: float, eager_half: float) -> dict[str, Calls]:
    return {
        "eager fp32": calls(20.0, 20.0),
        "eager fp16": calls(eager_half, eager_half),
        "eager fp16, channels last": calls(9.0, 9.0),
        "frcnn fp16": calls(ours, ours),
        "frcnn fp32": calls(4.0, 4.0),
    }


@pytest.mark.parametrize(
    ("ours", "eager_half", "ratio_met", "target_met"),
    [(1.0, 10.0, True, True), (1.0, 4.0, False, True), (1.6, 10.0, True, False)],
)
def test_verdicts(ours: float, eager_half: float, ratio_met: bool, target_met: bool) -> None:
    entry = engine.summary("r50", "image", 1, found_with(ours, eager_half))
    assert (entry["ratio_met"], entry["target_met"]) == (ratio_met, target_met)
    assert entry["times_eager"]["frcnn fp16"] == {"eager": "eager fp16", "ratio": eager_half / ours}
    assert entry["times_eager"]["frcnn fp32"] == {"eager": "eager fp32", "ratio": 5.0}
    assert entry["ways"]["frcnn fp16"]["gpu_ms"]["p50"] == ours
    assert entry["ways"]["frcnn fp16"]["wall_ms"]["p99"] == 2 * ours
    json.dumps(entry)


@pytest.mark.parametrize(("what", "batch"), [("network", 1), ("image", 8)])
def test_the_target_is_for_an_image_at_batch_one(what: str, batch: int) -> None:
    entry = engine.summary("r50", what, batch, found_with(1.0, 10.0))
    assert "target_met" not in entry and "ratio_met" not in entry
    without = {name: found for name, found in found_with(1.0, 10.0).items() if name.startswith("eager")}
    assert "times_eager" not in engine.summary("r50", "image", 1, without)


def test_times_faster_is_by_the_clock() -> None:
    found = {"a": Calls(gpu_ms=[1, 1], wall_ms=[30, 30]), "b": Calls(gpu_ms=[9, 9], wall_ms=[10, 10])}
    assert times_faster(found, "a", "b") == 3


def test_it_needs_a_gpu(tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert engine.main(["-o", str(tmp_path / "a.json"), "--models-in", str(tmp_path)]) == 2
    assert "needs an NVIDIA GPU" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_that_tensorrt_refuses_the_gpu_is_an_answer(monkeypatch: Any, tmp_path: Path) -> None:
    def refuse(path: Path) -> Any:
        raise ArtifactError("TensorRT-RTX refuses the engine", hint="frcnn build")

    monkeypatch.setattr(engine_ways.Detector, "load", refuse)
    loaded = engine_ways.load_both(tmp_path / "a.frcnn", "frcnn fp16", engine_ways.ExitStack())
    assert (loaded.detector, loaded.bare) == (None, None)
    assert loaded.refusal == "TensorRT-RTX refuses the engine (frcnn build)"
    assert engine.overheads([loaded], [], lambda way, count: calls(), 4) == []
    shown = {"model": "r50", "artifacts": [{"name": "frcnn fp16", "runs": False, "refusal": "no"}], "measurements": []}
    engine._show(shown)


class OnTheCpu(TorchFunctionMode):
    """``cuda`` means the CPU."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function is torch.Tensor.cuda:
            return args[0]
        if kwargs.get("device") == "cuda":
            kwargs["device"] = "cpu"
        return function(*args, **kwargs)


def every_way_once(way: Way, count: int) -> Calls:
    assert way.run() is not None or way.name in ("frcnn fp16", "graph")
    return calls(*[1.0] * max(count, 2))


@pytest.fixture
def small_demo(tmp_path: Path, monkeypatch: Any) -> Path:
    """A folder with one image for the demo's checkpoint, on a system where cuda is the CPU."""
    pixels = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    np.savez(tmp_path / "demo-images.npz", noise=pixels)
    monkeypatch.setattr(torch.nn.Module, "cuda", lambda module: module)
    return tmp_path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:CUDA is not available or torch_xla")
def test_where_tensorrt_refuses_eager_is_measured_alone(small_demo: Path, monkeypatch: Any) -> None:
    def refuse(path: Path, device: str = "") -> Any:
        raise ArtifactError(f"{device or 'TensorRT-RTX'} refuses the engine")

    monkeypatch.setattr(engine_ways.Detector, "load", refuse)
    with OnTheCpu():
        report = engine.measure_model(MODELS["demo"], small_demo, every_way_once, rounds=1, calls=2)
    json.dumps(report)
    assert [(a["name"], a["runs"], a["refusal"]) for a in report["artifacts"]] == [
        ("frcnn fp32", False, "TensorRT-RTX refuses the engine"),
        ("frcnn fp16", False, "TensorRT-RTX refuses the engine"),
        ("frcnn onnx fp32", False, "cuda refuses the engine"),
        ("frcnn onnx fp16", False, "cuda refuses the engine"),
    ]
    assert [row["what"] for row in report["measurements"]] == ["image", "network"]
    for row in report["measurements"]:
        assert list(row["ways"]) == ["eager fp32", "eager fp16", "eager fp16, channels last"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:CUDA is not available or torch_xla")
def test_an_artifact_is_measured_beside_eager_and_held_to_it(small_demo: Path, monkeypatch: Any) -> None:
    """The artifact is a stand-in that answers as eager does; what is tried is the way of its answers to the report."""
    model = MODELS["demo"].eager(small_demo)
    eager = EagerDetector(model, read_model_spec(model, architecture="demo"))
    asked: list[dict[str, Any]] = []

    class Detector:
        manifest = SimpleNamespace(model=eager.spec)

        def __call__(self, images: Any, **options: Any) -> Any:
            asked.append(options)
            image = images[0]
            if isinstance(image, torch.Tensor | np.ndarray):
                return [image]
            return [eager.detect(image, eager.spec.transform.canvas_size(320, 427))]

        def __enter__(self) -> Detector:
            return self

        def __exit__(self, *error: object) -> None: ...

    source = source_manifest()
    bare = SimpleNamespace(
        artifact=SimpleNamespace(manifest=msgspec.structs.replace(source, model=eager.spec)),
        stream=7,
        pipeline=lambda raw_images: "pipeline",
        launch=asked.append,
    )
    monkeypatch.setattr(engine_ways.Detector, "load", lambda path, **_: Detector())
    monkeypatch.setattr(engine_ways, "open_artifact", lambda path: bare.artifact)
    monkeypatch.setattr(engine_ways, "BareArtifact", lambda path: nullcontext(bare))
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda stream: f"stream {stream}")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "current")
    one = dataclasses.replace(MODELS["demo"], precisions=("fp16",))
    with OnTheCpu():
        report = engine.measure_model(one, small_demo, every_way_once, rounds=1, calls=2)
    json.dumps(report)
    assert [entry["name"] for entry in report["artifacts"]] == ["frcnn fp16", "frcnn onnx fp16"]
    for entry in report["artifacts"]:
        assert entry["runs"] is True
        assert entry["parity"]["is_judged"] is True
        assert entry["parity"]["passed"] is True
    raw_image, network, overhead = report["measurements"]
    assert list(raw_image["ways"])[-2:] == ["frcnn fp16", "frcnn onnx fp16"]
    assert list(network["ways"])[-1] == "frcnn fp16"
    assert raw_image["ratio_met"] is False  # all ways take the same here
    assert overhead["overhead_us"] == 1000  # 2 ms by the clock, 1 ms on the GPU
    assert overhead["overhead_met"] is False
    assert {"batch_size": 1, "stream": "current", "device_output": True} in asked
    assert {"batch_size": 1} in asked, "ONNX Runtime's images and answers are on the host"
    assert "pipeline" in asked


# ---- models


def test_what_is_there_is_not_made_again(tmp_path: Path, monkeypatch: Any) -> None:
    made: list[tuple[str, ...]] = []

    def export(model: Any, path: Path, *, precision: str, architecture: str) -> None:
        made.append(("export", path.name, precision))
        path.touch()

    def build(source: Path, path: Path, *, target: str, batch: str, size: str | None) -> None:
        made.append(("build", source.name, path.name, target, batch, str(size)))
        path.touch()

    monkeypatch.setattr("frcnn.exporter.graph.export.export_onnx", export)
    monkeypatch.setattr("frcnn.exporter.engine.artifact.build_engine", build)
    monkeypatch.setattr(engine_models, "draw_images", lambda folder, name: None)
    make(tmp_path, [MODELS["demo"]])
    assert made == [
        ("export", "demo-fp32.onnx", "fp32"),
        ("build", "demo-fp32.onnx", "demo-fp32.frcnn", "tensorrt-rtx", "1:1:8", "None"),
        ("export", "demo-fp16.onnx", "fp16"),
        ("build", "demo-fp16.onnx", "demo-fp16.frcnn", "tensorrt-rtx", "1:1:8", "None"),
    ]
    made.clear()
    Files.of(tmp_path, "demo", "fp16").artifact.unlink()
    make(tmp_path, [MODELS["demo"]])
    assert [what for what, *_ in made] == ["build"]
    made.clear()
    make(tmp_path / "exports", [MODELS["demo"]], target=None)
    assert [what for what, *_ in made] == ["export", "export"]
    make(tmp_path / "exports", [MODELS["demo"]], target="tensorrt")
    assert [entry[3] for entry in made if entry[0] == "build"] == ["tensorrt", "tensorrt"]
    made.clear()
    make(tmp_path / "one", [MODELS["demo"]], precisions=["fp16"])
    assert [name for what, name, *_ in made if what == "export"] == ["demo-fp16.onnx"]


def test_the_demo_is_the_shipped_checkpoint(tmp_path: Path) -> None:
    model = MODELS["demo"].eager(tmp_path)
    assert not model.training
    weights = torch.load(ROOT / "examples" / "train_demo" / "digits.pth", weights_only=True)["model"]
    name, value = next(iter(weights.items()))
    assert torch.equal(model.state_dict()[name], value)


def test_images_are_kept(tmp_path: Path, monkeypatch: Any) -> None:
    with pytest.raises(UsageError, match=r"there is no .*demo-images\.npz") as caught:
        load_images(tmp_path, "demo")
    assert "engine_models" in caught.value.hint
    monkeypatch.setattr(engine_models, "_IMAGES_OF", {"demo": 2})
    engine_models.draw_images(tmp_path, "demo")
    images = load_images(tmp_path, "demo")
    assert [image.name for image in images] == ["scene 00", "scene 01"]
    assert all(image.pixels.dtype == np.uint8 and image.pixels.ndim == 3 for image in images)
    assert not np.array_equal(images[0].pixels, images[1].pixels)


# ---- the bare artifact


@pytest.mark.slow
def test_a_bare_artifact_runs_plainly_then_by_its_graph(tmp_path: Path, monkeypatch: Any) -> None:
    require_compiler()
    source = source_manifest()
    small = msgspec.structs.replace(source.model.transform, min_size=64, max_size=128)
    model = msgspec.structs.replace(source.model, transform=small)
    source = msgspec.structs.replace(source, model=model)
    tiny = TinyArtifact(source, profiles=(profile((1, 2), (64, 128), (64, 128)),))
    path = tmp_path / "tiny.frcnn"
    write_archive(path, tiny.manifest.to_json(), tiny.parts.items())
    device: Any = FakeDevice()
    engines = tiny.engines(device)
    parts = {tiny.read_part(name): made for name, made in engines.items()}
    monkeypatch.setattr(bare_artifact, "load_engine", lambda data, **rest: parts[data])
    image = RGBImage(pixels=np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8), name="noise")
    device.activate()
    with BareArtifact(path, device=device) as bare:
        plain, replayed = bare.run([image]), bare.run([image])
        assert set(plain) == {"num_detections", "boxes", "scores", "labels"}
        assert plain["num_detections"][0] > 0
        for name, found in plain.items():
            np.testing.assert_array_equal(found, replayed[name])
        pipeline = bare.pipeline([image])
        assert pipeline.has_graph
        launched = device.calls["graph launch"]
        bare.launch(pipeline)
        assert device.calls["graph launch"] == launched + 1
        device.synchronize(bare.stream)
        assert bare.said == []
    bare.close()
    assert device.left_open() == {}
    assert not device.misuses


def test_a_model_onnx_is_no_engine_artifact(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(bare_artifact, "open_artifact", lambda path: object())
    with pytest.raises(UsageError, match="expected an engine artifact"):
        BareArtifact(tmp_path / "model.onnx")
