"""Eager runs our restatement of another trainer's model as it runs torchvision's, with the proof of ties."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from support.tiny_detector import noise
from support.trainer_states import c4, converted, settings

from frcnn.benchmarks.candidates.eager_detector import EagerDetector, to_tensor
from frcnn.benchmarks.parity.comparison import Limits
from frcnn.benchmarks.parity.matching import equal_detections
from frcnn.exporter.checkpoint.trainers.build import build_restatement
from frcnn.exporter.checkpoint.trainers.settings import Converted
from frcnn.exporter.model.spec_from_model import read_model_spec
from frcnn.runtime import RGBImage


@pytest.mark.parametrize(
    "make",
    [converted, c4, lambda: converted(settings(trainer="mmdetection", stride_in_1x1=False, channel_order="rgb"))],
    ids=["detectron2", "c4", "mmdetection"],
)
def test_eager_is_the_whole_restatement_and_computes_what_ties_could_choose(make: Callable[[], Converted]) -> None:
    model = build_restatement(make())
    spec = read_model_spec(model, architecture="tiny")
    image = RGBImage(pixels=noise(0, 90, 130), name="noise")
    canvas = spec.transform.canvas_size(*spec.transform.resized_size(*image.size))
    eager = EagerDetector(model, spec)
    found = eager.detect(image, canvas)
    with torch.inference_mode():
        (whole,) = model([to_tensor(image)])
    np.testing.assert_allclose(found.boxes, whole["boxes"].numpy(), atol=1e-4)
    assert len(found) > 20
    others = eager.alternatives(image, canvas, noise=0.0)  # nothing is tied: no proposals, no boxes
    assert equal_detections(found, others.own, Limits(rule="exact")).any(1).all()
    assert len(others.own) > len(found) and len(others.tied) < len(others.own)
