"""Which stage a layer belongs to, by the names that runtimes give layers."""

from __future__ import annotations

import pytest

from frcnn.benchmarks.profile.stage_names import NETWORK_STAGES, stage_of, stages_in_order


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("backbone/body/layer1/0/relu/Relu:0_nchwc", "backbone"),
        ("fused backbone/features/0/Conv", "backbone"),
        ("backbone/fpn/inner_blocks/3/0/Conv", "FPN"),
        ("backbone/body/layer4/2/relu/Relu + backbone/fpn/inner_blocks/3/0/Conv", "FPN"),
        ("rpn/head/cls_logits/Conv", "RPN head"),
        ("rpn/GroupedNMS", "proposals"),
        ("RoiAlign_527", "RoI pooling"),
        ("MaxRoiPool_3", "RoI pooling"),
        ("roi_heads/MultiscaleRoIAlign", "RoI pooling"),
        ("fused roi_heads/box_head/fc6/Gemm", "box head"),
        ("roi_heads/box_predictor/bbox_pred/Gemm", "box head"),
        ("__myl_Fc+roi_heads.box_head.fc6", "box head"),
        ("roi_heads/Softmax", "post"),
        ("PWN(rpn/Sigmoid)", "proposals"),
        ("ReorderOutput_token_47", None),
        ("graph/Split_10", None),
        ("my.backbone/Conv", None),
    ],
)
def test_stages_are_matched_by_name(name, stage):
    assert stage_of(name) == stage
    assert stage is None or stage in NETWORK_STAGES


def test_unnamed_layers_belong_to_the_stage_that_they_run_in():
    names = [
        "Cast",
        "backbone/Conv",
        "Reorder",
        "rpn/TopK",
        "NonMaxSuppression",
        "roi_heads/Mul",
        "NonMaxSuppression_2",
    ]
    assert stages_in_order(names) == ["backbone"] * 3 + ["proposals"] * 2 + ["post"] * 2


def test_sorting_rois_around_pooling_belongs_to_pooling():
    names = [
        "rpn/Where",
        "Split",
        "Sqrt",
        "RoiAlign_1",
        "Gather",
        "roi_heads/box_head/Gemm",
        "rpn/x",
        "NonZero",
        "rpn/y",
    ]
    pooling = ["RoI pooling"] * 4
    assert stages_in_order(names) == ["proposals", *pooling, "box head", "proposals", "proposals", "proposals"]
    assert stages_in_order([]) == []
