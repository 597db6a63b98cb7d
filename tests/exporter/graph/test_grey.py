"""A backbone for grey images, of one channel: torchvision gives it (1, H, W), the exported model RGB."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from maintenance.calibrated import calibrate
from PIL import Image
from support.families import build
from support.images import LANDSCAPE, photographs
from torch import nn

from frcnn.benchmarks.candidates.eager_detector import EagerDetector
from frcnn.exporter import export_onnx
from frcnn.exporter.model.networks import luma
from frcnn.exporter.model.spec_from_model import read_model_spec
from frcnn.runtime import Detector, RGBImage


def test_the_luma_is_that_of_pillow_and_of_grey_images_they_themselves():
    (photograph, *_) = photographs(LANDSCAPE)
    rgb = torch.from_numpy(photograph).permute(2, 0, 1)[None].float()
    grey = torch.from_numpy(np.array(Image.fromarray(photograph).convert("L")))
    backbone = nn.Identity()
    backbone.register_forward_pre_hook(luma)
    assert float((backbone(rgb)[0, 0] - grey).abs().max()) <= 0.51
    torch.testing.assert_close(backbone(rgb[:, :1].expand(-1, 3, -1, -1)), rgb[:, :1])
    assert torch.equal(backbone(rgb[:, :1]), rgb[:, :1])


@pytest.mark.slow
def test_detections_in_grey_images_are_those_of_eager(tmp_path):
    greys = [np.array(Image.fromarray(image).convert("L")) for image in photographs(LANDSCAPE)]
    tensors = [torch.from_numpy(grey)[None].float() / 255 for grey in greys]
    model = build("vgg16")
    model.backbone[0] = nn.Conv2d(1, 16, 3, padding=1)
    nn.init.kaiming_normal_(model.backbone[0].weight, mode="fan_out", nonlinearity="relu")
    model.transform.image_mean, model.transform.image_std = [0.4], [0.2]
    calibrate(model.eval(), tensors[:2])
    with torch.no_grad():
        expected = model(tensors)
    path, files = tmp_path / "model.onnx", [tmp_path / f"{i}.png" for i in range(len(greys))]
    for file, grey in zip(files, greys, strict=True):
        Image.fromarray(grey).save(file)
    export_onnx(model, path)
    eager = EagerDetector(model, read_model_spec(model))
    with Detector.load(path, threads=1) as detector:
        found = {"arrays": detector(greys), "files": detector(files)}
    found["eager on RGB"] = [eager.detect(RGBImage.open(file), (160, 224)) for file in files]
    for what, results in found.items():
        for result, wanted in zip(results, expected, strict=True):
            assert len(result) == len(wanted["boxes"]) > 10, what
            assert np.array_equal(result.labels, wanted["labels"].numpy()), what
            np.testing.assert_allclose(result.scores, wanted["scores"].numpy(), atol=1e-4)
            np.testing.assert_allclose(result.boxes, wanted["boxes"].numpy(), atol=0.02)
