"""Names of weights from before torchvision 0.13."""

from __future__ import annotations

import pytest
import torch

from frcnn.exporter.checkpoint.architecture_match import with_current_names

OLD, NEW = "rpn.head.conv.weight", "rpn.head.conv.0.0.weight"


@pytest.mark.parametrize(
    ("wanted", "name"),
    [({NEW}, NEW), ({OLD}, OLD), ({OLD, NEW}, OLD), ({"backbone.fpn.weight"}, OLD)],
    ids=["a model of today", "an old model", "a model with both", "a model with neither"],
)
def test_a_name_changes_only_into_one_that_the_model_has_instead(wanted, name):
    assert list(with_current_names({OLD: torch.zeros(1)}, wanted)) == [name]
