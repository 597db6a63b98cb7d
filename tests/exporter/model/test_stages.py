"""The operators of a model and their attributes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.families import build

from frcnn.exporter.model.spec_from_model import read_model_spec
from frcnn.exporter.model.stages import Stages, float32_floor, read_stages
from frcnn.plugins import OPERATORS


@given(st.floats(0, 1))
@settings(max_examples=200)
def test_float32_floor_is_the_largest_float32_that_is_not_greater(value):
    floor = float32_floor(value)
    assert floor == float(np.float32(floor))
    assert floor <= value < float(np.nextafter(np.float32(floor), np.float32(2)))


@pytest.mark.parametrize("value", [0.3, 0.5, 0.7, 0.45, 0.6, 0.05])
def test_the_floor_decides_as_the_float64_threshold(value):
    near = np.float32(value).view(np.int32) + np.arange(-50, 50, dtype=np.int32)
    overlaps = near.astype(np.int32).view(np.float32)
    expected = overlaps.astype(np.float64) > value
    assert expected.any() and not expected.all()
    assert np.array_equal(overlaps > np.float32(float32_floor(value)), expected)


def stages_of(family: str) -> Stages:
    model = build(family)
    return read_stages(model, read_model_spec(model).roi_heads.pooler)


@pytest.mark.parametrize("family", ["vgg16", "swin_fpn"])
def test_attributes_are_those_of_the_specs_in_float32(family):
    stages = stages_of(family)
    pooling = "MultiscaleRoIPool" if family == "vgg16" else "MultiscaleRoIAlign"
    found = (stages.proposals, stages.pooling, stages.detections)
    assert [stage.spec.name for stage in found] == ["RegionProposals", pooling, "BoxDetections"]
    kinds = {"int": int, "float": float, "floats": tuple}
    for stage in found:
        expected = [(attribute.name, kinds[attribute.kind]) for attribute in OPERATORS[stage.spec.name].attributes]
        assert [(name, type(value)) for name, value in stage.attributes.items()] == expected
        for value in stage.attributes.values():
            assert np.array_equal(np.float32(value), value)


def test_anchors_are_rows_with_their_level():
    model = build("swin_fpn")
    rows = np.reshape(stages_of("swin_fpn").proposals.attributes["anchors"], (-1, 5))
    assert rows[:, 0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for level, anchors in enumerate(model.rpn.anchor_generator.cell_anchors):
        assert np.array_equal(rows[rows[:, 0] == level, 1:], anchors.numpy())


def test_thresholds_weights_and_counts_are_those_of_the_model():
    model = build("resnet18_fpn_max")
    model.rpn.score_thresh, model.rpn.min_size = 0.1, 2.5
    model.rpn._pre_nms_top_n["testing"] = 77
    stages = read_stages(model, read_model_spec(model).roi_heads.pooler)
    shown = {name: value for name, value in stages.proposals.attributes.items() if name != "anchors"}
    assert shown == {
        "strides": (0.0,) * 5,
        "box_weights": (1.0, 1.0, 1.0, 1.0),
        "max_log_scale": float(np.log(np.float32(1000 / 16))),
        "pre_nms_top_n": 77,
        "post_nms_top_n": 100,
        "iou_threshold": float32_floor(0.7),
        "score_threshold": float(np.float32(0.1)),
        "min_size": 2.5,
    }
    assert stages.detections.attributes == {
        "box_weights": (8.0, 9.0, 4.0, 3.0),
        "max_log_scale": shown["max_log_scale"],
        "score_threshold": float(np.float32(0.2)),
        "iou_threshold": float32_floor(0.3),
        "min_size": float(np.float32(0.01)),
        "max_detections": 20,
    }
    model.rpn.anchor_generator.level_strides = (4, 8, 16, 32, 64)
    model.roi_heads.min_box_size, model.rpn.score_thresh = 1e-30, -1.0
    restated = read_stages(model, read_model_spec(model).roi_heads.pooler)
    assert restated.proposals.attributes["strides"] == (4.0, 8.0, 16.0, 32.0, 64.0)
    assert restated.proposals.attributes["score_threshold"] == -1
    assert restated.detections.attributes["min_size"] == float(np.float32(1e-30))
    assert stages.pooling.attributes == {
        "output_height": 5,
        "output_width": 6,
        "spatial_scales": (1 / 4, 1 / 8, 1 / 16),
        "level_thresholds": read_model_spec(model).roi_heads.pooler.level_thresholds,
    }
