"""What tests of all rooms share."""

from __future__ import annotations

import support.own_folders  # noqa: F401 -- first: what is imported below looks for the user's folders

import frcnn  # noqa: F401 -- before ONNX Runtime, which tells its maker what it runs otherwise

# isort: split
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch
from support.exports import Exports
from support.made_once import made_once
from support.tensorrt_contract import describe_tensorrt
from support.tiny_detector import export_tiny

from frcnn.log import warn_once

# OpenVINO tells its maker that it was imported, by this package; a test may import it without our accessor.
sys.modules.setdefault("openvino_telemetry", None)

# The tensors are small: more threads only wait for each other, the longer the busier the system.
torch.set_num_threads(1)

# Nothing is random without a seed; and a busy system's slowness is no failure.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("repeatable")

# A shell that starts the tests in the background has them ignore Ctrl-C, and so would every command that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    """Say what a run's log cannot tell otherwise."""
    return describe_tensorrt()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Undo what a verb that ran in this process set: with more threads half precision sums otherwise."""
    yield
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _forget_warnings() -> None:
    """Let every test see its own, whatever another test has seen."""
    warn_once.cache_clear()


@pytest.fixture(scope="session")
def exports() -> Exports:
    """Exports of the narrowed families, each made once a run: ``exports("vgg16").path``."""
    return Exports()


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """A real model.onnx that takes 2 ms an image."""
    return made_once("tiny", lambda folder: export_tiny(folder / "model.onnx")) / "model.onnx"
