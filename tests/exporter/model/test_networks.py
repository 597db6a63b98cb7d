"""The two networks: their names, shapes and types."""

from __future__ import annotations

import pytest
import torch
from support.families import build
from torch import Tensor, nn

from frcnn.exporter.model import DeployableFasterRCNN
from frcnn.exporter.model.spec_from_model import read_model_spec


@pytest.mark.parametrize(("family", "levels", "pooled"), [("vgg16", 1, 1), ("mobilenet_v3_large_fpn", 3, 2)])
def test_outputs_are_maps_of_every_level_then_rows_of_every_roi(family, levels, pooled):
    model = build(family)
    spec = read_model_spec(model)
    deployable = DeployableFasterRCNN(model, spec)
    with torch.no_grad():
        objectness, deltas, features = deployable.features(torch.zeros(2, 3, 64, 96))
        class_logits, box_deltas = deployable.boxes(torch.zeros(5, *deployable.pooled_shape))
    anchors = spec.rpn.anchors_per_location
    assert [tensor.shape[:2] for tensor in objectness] == [(2, count) for count in anchors]
    assert [tensor.shape[:2] for tensor in deltas] == [(2, 4 * count) for count in anchors]
    assert (len(objectness), len(features)) == (levels, pooled)
    assert {tuple(tensor.shape[:2]) for tensor in features} == {(2, deployable.pooled_shape[0])}
    assert (class_logits.shape, box_deltas.shape) == ((5, spec.num_classes), (5, 4 * spec.num_classes))


def test_parameters_keep_the_names_of_torchvision():
    model = build("vgg16")
    deployable = DeployableFasterRCNN(model, read_model_spec(model))
    names = [*deployable.features.state_dict(), *deployable.boxes.state_dict()]
    assert names == list(model.state_dict())


class InFloat32(nn.Module):
    """A head that returns float32 whatever it is given."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, given: list[Tensor] | Tensor) -> tuple[list[Tensor], list[Tensor]] | tuple[Tensor, Tensor]:
        first, second = self.head(given)
        if isinstance(first, Tensor):
            return first.float(), second.float()
        return [tensor.float() for tensor in first], [tensor.float() for tensor in second]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_outputs_of_heads_in_another_type_are_cast_to_the_networks_type(precision):
    model = build("vgg16")
    spec = read_model_spec(model)
    model.rpn.head, heads = InFloat32(model.rpn.head), model.roi_heads
    heads.box_predictor = InFloat32(heads.box_predictor)
    deployable = DeployableFasterRCNN(model, spec, precision)
    expected = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    with torch.no_grad():
        objectness, deltas, features = deployable.features(torch.zeros(1, 3, 64, 96, dtype=expected))
        predictions = deployable.boxes(torch.zeros(2, *deployable.pooled_shape, dtype=expected))
    assert {tensor.dtype for tensor in (*objectness, *deltas, *features, *predictions)} == {expected}
    assert {p.dtype for p in deployable.parameters()} == {expected}
