"""The GPU, or the reason why there is none, and fixtures of the GPU tests."""

from __future__ import annotations

import support.own_folders  # noqa: F401 -- first: the imports below look for the user's folders

# isort: split
import importlib
import os
import warnings
from types import ModuleType

import pytest
import torch

from gpu.system import missing_gpu, skip_or_fail

# references run on the CPU, in several processes with pytest-xdist
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def device():
    """The GPU, its primary context current."""
    if reason := missing_gpu():
        skip_or_fail(reason)
    torch.cuda.init()
    torch.zeros(1, device="cuda")
    # the references are float32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture
def stream():
    """PyTorch's current stream, on which the tests' tensors are made."""
    return torch.cuda.current_stream()


@pytest.fixture(scope="session")
def optional():
    """Return a function that imports a package, or skips the test where it is not installed."""

    def import_or_skip(name: str) -> ModuleType:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # deprecations of other packages are no failure
                return importlib.import_module(name)
        except ModuleNotFoundError as error:
            pytest.skip(f"{error.name} is not installed")

    return import_or_skip
