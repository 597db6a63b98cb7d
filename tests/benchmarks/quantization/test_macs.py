"""Multiplications and additions of a layer, worked out by hand."""

from __future__ import annotations

import onnx

from frcnn.benchmarks.quantization.macs import layer_macs


def test_macs_of_every_layer(tiny_model):
    """Two convolutions of stride 2 and 4, the RPN head on 4 x 8 cells, and 20 proposals of 3 x 3 cells."""
    macs = layer_macs(onnx.load_model(tiny_model), (32, 64))
    cells, proposals, channels = 4 * 8, 20, 8
    assert sorted(macs.values()) == sorted(
        [
            16 * 32 * channels * 3 * 9,
            cells * channels * channels * 9,
            cells * channels * channels * 9,  # the RPN's own
            cells * 3 * channels,
            cells * 12 * channels,
            proposals * 16 * channels * 9,
            proposals * 16 * 16,
            proposals * 4 * 16,
            proposals * 16 * 16,
        ]
    )
    assert macs["roi_heads/box_predictor/cls_score/Gemm"] == proposals * 4 * 16


def test_the_model_is_not_changed(tiny_model):
    model = onnx.load_model(tiny_model)
    layer_macs(model, (32, 32))
    assert model == onnx.load_model(tiny_model)
