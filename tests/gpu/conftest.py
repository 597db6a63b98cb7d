"""A GPU or a reason, and what the GPU tests share."""

from __future__ import annotations

import support.own_folders  # noqa: F401 -- first: what is imported below looks for the user's folders

# isort: split
import importlib
import os
import warnings
from collections.abc import Callable
from types import ModuleType

import pytest
import torch

from gpu.system import missing_gpu, skip_or_fail

# references run on the processor, in several processes side by side where pytest-xdist is told so
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def device() -> torch.device:
    """The GPU, its primary context current."""
    if reason := missing_gpu():
        skip_or_fail(reason)
    torch.cuda.init()
    torch.zeros(1, device="cuda")
    # the references are float32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture
def stream() -> object:
    """PyTorch's current stream, on which the tests' tensors are made."""
    return torch.cuda.current_stream()


@pytest.fixture(scope="session")
def optional() -> Callable[[str], ModuleType]:
    """Give a function that imports a package, or skips the test: another library is no part of having a GPU."""

    def import_or_skip(name: str) -> ModuleType:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what other packages deprecate is not ours to fail on
                return importlib.import_module(name)
        except ModuleNotFoundError as error:
            pytest.skip(f"{error.name} is not installed")

    return import_or_skip
