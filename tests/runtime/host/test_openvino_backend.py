"""frcnn.runtime.host.openvino_backend: what only OpenVINO has, its precision and its import."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.concurrent_calls import mixed_images
from support.processes import run_python
from support.processor import has_bfloat16

from frcnn.errors import UsageError
from frcnn.runtime import Detector
from frcnn.runtime.dependencies import import_openvino
from frcnn.runtime.host.openvino_backend import OpenVinoBackend
from frcnn.spec import Manifest

SIZES = np.array([[32, 64]], np.int32)
IMAGES = np.full((1, 3, 32, 64), 0.7231, np.float32)


def test_float32_is_float32_unless_bf16_is_asked_for(tiny_model: Path) -> None:
    """OpenVINO's own default is bf16 where the processor has it."""
    images = mixed_images(8)

    def scores(**options: Any) -> np.ndarray:
        with Detector.load(tiny_model, threads=1, **options) as detector:
            return np.array([found.scores[0] for found in detector(images)])

    truth = scores()
    assert np.abs(scores(provider="openvino") - truth).max() < 1e-6
    if has_bfloat16():
        lower = np.abs(scores(provider="openvino", precision="bf16") - truth).max()
        assert 1e-5 < lower < 0.05


def executed(backend: OpenVinoBackend) -> list[Any]:
    return list(backend._request.get_compiled_model().get_runtime_model().get_ordered_ops())


def told(node: Any, key: str) -> str:
    return str(node.get_rt_info()[key].astype(str)) if key in node.get_rt_info() else ""


def test_float32_is_float32_in_every_layer(tiny_model: Path) -> None:
    layers = executed(OpenVinoBackend(tiny_model, threads=1))
    assert "bf16" not in {told(node, "runtimePrecision") for node in layers}


def test_in_bf16_the_coordinates_of_rois_stay_in_float32(tiny_model: Path) -> None:
    if not has_bfloat16():
        pytest.skip("this processor has no bf16")
    layers = executed(OpenVinoBackend(tiny_model, precision="bf16", threads=1))
    convolutions = [node for node in layers if told(node, "layerType") == "Convolution"]
    assert {told(node, "runtimePrecision") for node in convolutions} == {"bf16"}
    (align,) = [node for node in layers if told(node, "layerType") == "ROIAlign"]
    coordinates = align.input_value(1).get_node()
    assert told(coordinates, "runtimePrecision") == "f32"
    assert told(coordinates, "layerType") != "Reorder"


def test_bf16_is_refused_where_the_processor_has_none(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO would compute in float32 and say nothing."""
    core = import_openvino().Core
    monkeypatch.setattr(
        core, "get_property", lambda self, device, name: {"OPTIMIZATION_CAPABILITIES": ["FP32"]}.get(name, "Old CPU")
    )
    with pytest.raises(UsageError, match=r"precision: this processor \(Old CPU\) has no bf16"):
        Detector.load(model_path, provider="openvino", precision="bf16")
    Detector.load(model_path, provider="openvino").close()


def test_a_bf16_model_runs(model_of: Callable[..., Path], manifest_of: Callable[..., Manifest]) -> None:
    """Computed in float32, on weights that are bf16 in the file."""
    backend = OpenVinoBackend(model_of(manifest_of(precision="bf16"), dtype="bfloat16"), threads=1)
    np.testing.assert_allclose(backend.run(IMAGES, SIZES).scores[:, 0], [0.7231], rtol=2**-8)


def test_threads_are_not_bound_to_processors(model_path: Path) -> None:
    """Else those of every process would share the first ones."""
    backend = OpenVinoBackend(model_path, threads=1)
    assert backend._request.get_compiled_model().get_property("ENABLE_CPU_PINNING") is False


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks on this system")
def test_a_forked_process_ends_and_can_load_its_own(tiny_model: Path) -> None:
    """It has none of the threads that OpenVINO waits for when a model is destroyed."""
    code = """
import gc, os, signal, sys
import numpy as np
from frcnn.runtime import Detector
image = np.full((40, 60, 3), 90, np.uint8)
detector = Detector.load(sys.argv[1], provider="openvino", threads=2)
expected = len(detector([image])[0])
if os.fork() == 0:
    signal.alarm(20)  # ends a child that hangs
    own = Detector.load(sys.argv[1], provider="openvino", threads=2)
    assert len(own([image])[0]) == expected
    own.close()
    detector.close()
    del detector, own
    gc.collect()
    sys.exit(7)
print(os.waitstatus_to_exitcode(os.wait()[1]), len(detector([image])[0]) == expected)
"""
    assert run_python(code, tiny_model) == "7 True\n"


@pytest.mark.skipif(os.name == "nt", reason="no stacks for signals on this system")
def test_signals_arrive_whatever_was_closed_and_where(tiny_model: Path) -> None:
    """OpenVINO has them handled on a stack that goes with the detector."""
    code = """
import gc, signal, sys
from threading import Thread
from frcnn.runtime import Detector
load = lambda: Detector.load(sys.argv[1], provider="openvino", threads=1)
arrived = []
signal.signal(signal.SIGINT, lambda number, frame: arrived.append(number))
first, second = load(), load()
signal.raise_signal(signal.SIGINT)
first.close()
signal.raise_signal(signal.SIGINT)
second.close()
del first, second
gc.collect()
signal.raise_signal(signal.SIGINT)
kept = load()
closing = Thread(target=kept.close)
closing.start()
closing.join()
del kept
gc.collect()
signal.raise_signal(signal.SIGINT)
print(len(arrived))
"""
    assert run_python(code, tiny_model) == "4\n"


def test_importing_it_tells_nobody(tmp_path: Path) -> None:
    """It would start a process that calls its maker, and keep an identifier in the user's home."""
    code = """
import sys
from frcnn.runtime.dependencies import import_openvino
openvino = import_openvino()
print(openvino.convert_model.__name__, "openvino_telemetry" in sys.modules)
"""
    environment = {"HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("convert_model False\n", "")
    assert list(tmp_path.iterdir()) == []
