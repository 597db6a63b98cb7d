"""``import frcnn.runtime`` and every ``--help`` of the room work without the heavy packages."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys

import pytest

import frcnn.runtime

HEAVY = (
    "torch",
    "torchvision",
    "onnx",
    "onnxruntime",
    "cv2",
    "pandas",
    "supervision",
    "tensorrt",
    "tensorrt_rtx",
    "pycuda",
)
MODULES = sorted(module.name for module in pkgutil.walk_packages(frcnn.runtime.__path__, "frcnn.runtime."))


def run(code: str) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def test_no_module_of_the_room_needs_a_heavy_package() -> None:
    assert "frcnn.runtime.commands.detect" in MODULES
    blocked = f"import sys, importlib; sys.modules.update(dict.fromkeys({HEAVY!r}))"
    done = run(f"{blocked}\nfor name in {MODULES!r}: importlib.import_module(name)")
    assert done.returncode == 0, done.stderr


def test_the_image_type_has_its_old_name_for_a_release() -> None:
    with pytest.warns(DeprecationWarning, match="RGBImage") as caught:
        assert frcnn.runtime.Picture is frcnn.runtime.RGBImage
    assert caught[0].filename == __file__, "the caller is named"
    with pytest.raises(AttributeError, match="Drawing"):
        _ = frcnn.runtime.Drawing
