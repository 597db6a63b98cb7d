"""A detector of PyTorch networks and our kernels, on a device in host memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from maintenance.torch_detector import BOXES, make_detector
from support.exports import calibrated
from support.fake_device import FakeDevice, code_of
from support.images import SHAPES, photographs
from support.simt import require_compiler
from support.torch_engines import on_fake_device

from frcnn.benchmarks.candidates.eager_detector import EagerDetector
from frcnn.benchmarks.parity.comparison import compare_images, default_limits, total
from frcnn.runtime import Detector
from frcnn.runtime.gpu.backend import EngineBackend
from frcnn.runtime.images.image import RGBImage

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("family", ["resnet50_fpn", "resnet50_fpn_v2"])
def test_it_detects_what_eager_detects(family):
    require_compiler()
    model = calibrated(family)
    made = make_detector(model, "fp32", architecture="sm_89", on_gpu=False, compile_code=code_of)
    device = FakeDevice()

    made = on_fake_device(made, device)
    backend = EngineBackend(made.manifest, made.parts.__getitem__, device, made.engines)
    with Detector(backend, made.manifest.source) as detector:
        eager = EagerDetector(model, made.manifest.source.model)
        limits = default_limits("fp32", "align")
        images = [RGBImage(pixels=photographs(shape)[0], name=str(shape)) for shape in SHAPES]
        found = compare_images(eager, detector, images, limits, canvases=backend.canvases, warm_up=False)
        parity = total(list(found), limits)
    assert parity.passed, parity.total
    assert parity.total.matched > 20
    assert not device.misuses


def test_an_engine_reads_and_writes_addresses():
    model = calibrated("resnet50_fpn")
    made = make_detector(model, "fp32", architecture="sm_89", on_gpu=False, compile_code=code_of)
    engine = made.engines[BOXES]
    channels = made.manifest.tensors["pooled"].channels
    context = engine.create_context()
    shapes = context.bind(0, {"pooled": (3, channels, 7, 7)}, 0)
    pooled = np.random.default_rng(0).normal(size=(3, 7, 7, channels)).astype(np.float32)  # as channels-last lies
    outputs = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    context.enqueue({"pooled": pooled.ctypes.data} | {n: a.ctypes.data for n, a in outputs.items()}, 0, 0)
    with torch.inference_mode():
        head, predictor = model.roi_heads.box_head, model.roi_heads.box_predictor
        expected = predictor(head(torch.from_numpy(pooled).movedim(-1, 1)))
    for name, tensor in zip(engine.outputs, expected, strict=True):
        assert np.abs(outputs[name] - tensor.numpy()).max() < 1e-4
        assert np.abs(outputs[name]).max() > 1e-2
