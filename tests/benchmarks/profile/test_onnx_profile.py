"""A ``model.onnx``, profiled: by a clock of known delays, and in the real ONNX Runtime."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from support.images import LANDSCAPE, photographs

from frcnn.benchmarks.candidates.images import given_images
from frcnn.benchmarks.profile import onnx_profile
from frcnn.benchmarks.profile.inputs import choose_inputs
from frcnn.benchmarks.profile.onnx_profile import check_on_processor, profile_onnx
from frcnn.benchmarks.profile.profile import LayerRun
from frcnn.errors import ArtifactError, UsageError
from frcnn.runtime.images.canvases import OnnxCanvases
from frcnn.runtime.model_files.artifact import open_artifact

FAMILY = "vgg16"


@pytest.fixture
def inputs(exports, tmp_path):
    for i, pixels in enumerate(photographs(LANDSCAPE)[:2]):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    manifest = exports(FAMILY).manifest
    return choose_inputs(
        given_images([tmp_path]), manifest.model.transform, OnnxCanvases(manifest), canvas=(160, 224), first=None
    )


def silent(what, share):
    assert 0 <= share <= 1


DECODE, PREPROCESS, PLAIN, POST = 3.0, 5.0, 40.0, 7.0
LAYERS = (("backbone/Conv", "backbone", 30.0, 1e9), ("rpn/TopK", "proposals", 8.0, None))
FIRST_RUN = 1000.0


class Delays:
    """A clock that only the stand-ins for what is timed move on; the first run is slow."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        self.profiled_runs = 0
        monkeypatch.setattr(onnx_profile, "time", SimpleNamespace(perf_counter=lambda: self.now / 1e3))
        monkeypatch.setattr(onnx_profile.RGBImage, "open", self.takes(DECODE, lambda file: None))
        monkeypatch.setattr(onnx_profile, "with_pixels", self.takes(PREPROCESS, onnx_profile.with_pixels))
        monkeypatch.setattr(onnx_profile, "boxes_in_image", self.takes(POST, onnx_profile.boxes_in_image))
        monkeypatch.setattr(onnx_profile, "OnnxRuntimeBackend", lambda path, threads: self)
        monkeypatch.setattr(onnx_profile, "profiled_session", self.profiled_session)
        self.between = iter([9.0, 1.0, 2.0, 6.0])

    def takes(self, ms, real):
        def call(*arguments):
            self.now += ms
            return real(*arguments)

        return call

    def run(self, images, sizes):
        self.now += PLAIN + (FIRST_RUN if self.profiled_runs == 0 else 0)
        n = len(images)
        return SimpleNamespace(num_detections=np.full(n, 2, np.int32), boxes=np.zeros((n, 5, 4), np.float32))

    def close(self):
        pass

    @contextmanager
    def profiled_session(self, path, *, threads):
        yield SimpleNamespace(run=self.run_profiled, finish=self.finish)

    def run_profiled(self, feeds):
        self.profiled_runs += 1
        self.now += sum(ms for _, _, ms, _ in LAYERS) + next(self.between)

    def finish(self):
        run = [LayerRun(name=name, op="", stage=stage, ms=ms, flops=flops) for name, stage, ms, flops in LAYERS]
        return [run] * self.profiled_runs


def test_every_delay_is_attributed_to_its_stage(exports, inputs, monkeypatch):
    Delays(monkeypatch)
    artifact = open_artifact(exports(FAMILY).path)
    found = profile_onnx(artifact, inputs, batch=2, repeats=3, threads=1, report=silent)
    assert found.more == {
        "decode": pytest.approx([2 * DECODE] * 3),
        "preprocess": pytest.approx([2 * PREPROCESS] * 3),
        "post": pytest.approx([2 * POST] * 3),
        "between layers": pytest.approx([1.0, 2.0, 6.0]),
    }
    assert found.network_ms == pytest.approx(PLAIN)
    assert found.profiled_ms == pytest.approx(38 + 2)
    assert [[(layer.name, layer.ms, layer.flops) for layer in run] for run in found.runs] == [
        [("backbone/Conv", 30.0, 1e9), ("rpn/TopK", 8.0, None)]
    ] * 3


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_real_model_has_all_its_stages(exports, inputs, precision):
    artifact = open_artifact(exports(FAMILY, precision).path)
    found = profile_onnx(artifact, inputs, batch=1, repeats=2, threads=1, report=silent)
    assert len(found.runs) == 2
    stages = {layer.stage for run in found.runs for layer in run}
    assert stages == {"backbone", "RPN head", "proposals", "RoI pooling", "box head", "post"}  # one map: no FPN
    assert set(found.more) == {"decode", "preprocess", "post", "between layers"}
    assert all(len(times) == 2 and min(times) >= 0 for times in found.more.values())
    heavy = [layer for layer in found.runs[0] if layer.op == "Conv" and layer.stage == "backbone"]
    assert len(heavy) > 5 and all(layer.flops for layer in heavy)
    names = [[layer.name for layer in run] for run in found.runs]
    assert names[0] == names[1] and len(set(names[0])) == len(names[0])
    for run, between in zip(found.runs, found.more["between layers"], strict=True):
        assert sum(layer.ms for layer in run) + between > 0.5 * found.network_ms


def test_bf16_and_gpus_are_refused_in_one_line(exports, inputs):
    artifact = open_artifact(exports(FAMILY, "bf16").path)
    with pytest.raises(ArtifactError, match="is bf16, which ONNX Runtime has no CPU kernels for"):
        profile_onnx(artifact, inputs, batch=1, repeats=1, threads=1, report=silent)
    for device, provider in (("cuda", None), (None, "cuda"), ("cuda", "tensorrt")):
        with pytest.raises(UsageError, match=r"of a model\.onnx only the processor can be profiled") as raised:
            check_on_processor(device, provider)
        assert "frcnn build" in raised.value.hint
    with pytest.raises(UsageError, match="'cuda' runs on device 'cuda', got device 'cpu'"):
        check_on_processor("cpu", "cuda")
    for device, provider in ((None, None), ("cpu", None), (None, "cpu"), ("cpu", "cpu")):
        check_on_processor(device, provider)
