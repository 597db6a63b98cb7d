"""What the tests of the verbs share: a checkpoint and images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from support.images import SHAPES, photographs


@pytest.fixture
def images(tmp_path) -> Path:
    """A folder with an image of each shape."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i, shape in enumerate(SHAPES):
        Image.fromarray(photographs(shape)[i]).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def checkpoint(request, exports, tmp_path) -> Path:
    """The checkpoint of the module's family, to be changed at will."""
    path = tmp_path / "checkpoint.pth"
    torch.save(exports(request.module.FAMILY).model.state_dict(), path)
    return path
