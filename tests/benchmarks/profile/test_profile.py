"""Runs become stages and layers: medians, shares, work; and which stage a layer belongs to, by its name."""

from __future__ import annotations

import pytest

from frcnn.benchmarks.profile.profile import STAGES, LayerRun, layer_times, stage_of, stage_times, stages_in_order


def layer(name, stage, ms, gflop=None):
    return LayerRun(name=name, op="Conv", stage=stage, ms=ms, flops=None if gflop is None else gflop * 1e9)


RUNS = [
    [layer("a", "backbone", 4.0, 2.0), layer("b", "backbone", 2.0), layer("c", "post", 1.0)],
    [layer("a", "backbone", 8.0, 2.0), layer("b", "backbone", 3.0), layer("c", "post", 3.0)],
    [layer("a", "backbone", 5.0, 2.0), layer("c", "post", 2.0)],
]


def test_stages_are_medians_of_sums_in_the_order_of_data():
    found = stage_times(RUNS, {"between layers": [1.0, 2.0, 9.0], "post": [10.0, 10.0, 10.0], "decode": [2.0] * 3})
    assert [(stage.name, stage.ms, stage.layers) for stage in found] == [
        ("decode", 2.0, 0),
        ("backbone", 6.0, 2),  # 6, 11, 5
        ("post", 12.0, 1),  # 11, 13, 12
        ("between layers", 2.0, 0),
    ]
    assert sum(stage.share for stage in found) == pytest.approx(1)
    assert found[2].share == pytest.approx(12 / 22)
    assert (found[1].gflop, found[1].gflop_per_s) == (2.0, pytest.approx(2.0 / 6e-3))
    assert (found[2].gflop, found[2].gflop_per_s) == (None, None)
    assert [stage.name for stage in found] == [stage for stage in STAGES if stage in {s.name for s in found}]


def test_layers_are_medians_the_slowest_first():
    found = layer_times(RUNS, total_ms=20.0)
    assert [(item.name, item.ms, item.share) for item in found] == [("a", 5.0, 0.25), ("b", 2.0, 0.1), ("c", 2.0, 0.1)]
    assert [item.gflop_per_s for item in found] == [pytest.approx(400), None, None]


def test_a_layer_that_did_not_run_took_no_time():
    (found,) = layer_times([[layer("a", "post", 4.0)], [], []], total_ms=1.0)
    assert found.ms == 0.0


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("backbone/body/layer1/0/relu/Relu:0_nchwc", "backbone"),
        ("fused backbone/features/0/Conv", "backbone"),
        ("backbone/fpn/inner_blocks/3/0/Conv", "FPN"),
        ("backbone/body/layer4/2/relu/Relu + backbone/fpn/inner_blocks/3/0/Conv", "FPN"),
        ("rpn/head/cls_logits/Conv", "RPN head"),
        ("rpn/RegionProposals (region_proposals_select)", "proposals"),
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
    assert stage is None or stage in STAGES


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


def test_the_bodies_of_proposals_and_detections_are_known_by_what_they_search():
    names = {
        "backbone/Conv": "backbone",
        "rpn/head/conv/Conv": "RPN head",
        "ReorderOutput": "RPN head",
        "rpn/head/cls_logits/Conv": "RPN head",
        "Reshape_46": "proposals",
        "TopK_48": "proposals",
        "Exp_60": "proposals",
        "NonMaxSuppression_99": "proposals",
        "Sqrt_166": "RoI pooling",
        "MaxRoiPool_180": "RoI pooling",
        "Gather_181": "RoI pooling",
        "roi_heads/box_head/fc6/Gemm": "box head",
        "ReorderInput": "box head",
        "roi_heads/box_predictor/cls_score/Gemm": "box head",
        "Softmax_202": "post",
        "NonMaxSuppression_250": "post",
        "Concat_289": "post",
    }
    assert stages_in_order(list(names)) == list(names.values())


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
