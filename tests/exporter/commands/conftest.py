"""What the tests of the verbs share."""

import pytest
import torch
from support import tiny_models


@pytest.fixture
def checkpoint(tmp_path):
    """The weights of a tiny detector."""
    path = tmp_path / "my.pth"
    torch.save(tiny_models.build().state_dict(), path)
    return path
