"""Execute ``model.onnx`` with OpenVINO, on the CPU."""

from __future__ import annotations

import re
from pathlib import Path
from threading import Lock
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from frcnn.errors import ArtifactError, FrcnnError, UsageError
from frcnn.runtime.backend import NetworkOutput, closed_error
from frcnn.runtime.dependencies import import_onnx, import_openvino, openvino_core
from frcnn.runtime.forks import uninterrupted_by_forks
from frcnn.runtime.host.backend import REMAKE, check_values, checked_output, checked_threads, run_error
from frcnn.runtime.host.providers import RunPrecision
from frcnn.runtime.model_files.onnx_outline import read_outline
from frcnn.spec.engine import INPUTS, OUTPUTS

_HINTS: Final[dict[RunPrecision, str]] = {"fp32": "f32", "bf16": "bf16"}
_IMAGE_TYPES: Final = ("f32", "f16", "bf16")
_WHERE: Final = re.compile(
    r"Exception from \S+:\d+:|Caught exception:|Check '.*?' failed at (\S+:\d+:|FrontEnd API failed with)"
)
_MAX_CHARACTERS: Final = 300


class OpenVinoBackend:
    """A ``Network`` on OpenVINO, on ``threads`` threads: by default all processors this process may use.

    OpenVINO itself computes in bfloat16 where the processor can; here float32 is float32 unless ``precision`` is
    ``"bf16"``. Layers that are int8 in the file stay int8. Calls run one after another, each on all threads.
    """

    def __init__(self, path: Path, *, precision: RunPrecision = "fp32", threads: int | None = None) -> None:
        threads = checked_threads(threads)
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "ENABLE_CPU_PINNING": False,  # the threads of every detector and process would share the first processors
            "PERFORMANCE_HINT": "LATENCY",
        }
        try:
            with openvino_core() as core:
                if precision == "bf16":
                    _require_bfloat16(core)
                read = core.read_model(model=_read(path))
                _check_values(read, path)
                if precision == "bf16":
                    _keep_rois_exact(read)
                compiled = core.compile_model(_taking_float32(read), "CPU", settings)
                self._request: Any = compiled.create_infer_request()
        except FrcnnError:
            raise
        except Exception as error:  # pybind11 raises RuntimeError for nearly everything
            raise ArtifactError(f"{path}: OpenVINO cannot load it: {_one_line(error)}", hint=REMAKE) from error
        self._path = path
        self._lock = Lock()

    def run(self, images: NDArray[np.float32], image_sizes: NDArray[np.int32]) -> NetworkOutput:
        """Detect; see ``Network.run``."""
        feeds = dict(zip(INPUTS, (images, image_sizes), strict=True))
        with self._lock:
            if self._request is None:
                raise closed_error()
            try:
                self._infer(feeds)
                outputs = [self._request.get_tensor(name).data.copy() for name in OUTPUTS]
            except Exception as error:
                raise run_error(self._path, "OpenVINO", images.shape, _one_line(error)) from error
        return checked_output(self._path, len(images), outputs)

    def close(self) -> None:
        """Release the model; a call in another thread ends first."""
        with self._lock:
            self._request = None

    def _infer(self, feeds: dict[str, NDArray[Any]]) -> None:
        """Run the model, to the end even where Ctrl-C comes in between.

        Not by ``infer``: on one thread it returns as if nothing were wrong when memory runs out, and the outputs are
        those of the call before (2026.4).
        """
        with uninterrupted_by_forks():
            try:
                self._request.start_async(feeds, share_inputs=True)
            finally:
                self._request.wait()


def _require_bfloat16(core: Any) -> None:
    """Refuse where OpenVINO would compute in float32 without saying so."""
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        name = core.get_property("CPU", "FULL_DEVICE_NAME")
        raise UsageError(f"precision: this processor ({name}) has no bf16", hint="use precision 'fp32'")


def _read(path: Path) -> bytes:
    """Return the model with its local functions inlined: OpenVINO's reader knows none."""
    read_outline(path)  # whole, and no values in other files, which onnx would read
    import_onnx()
    import onnx.inliner

    try:
        model = onnx.load(path, load_external_data=False)
        # the inliner copies the model several times: without the weights that takes half the time
        weights = {tensor.name: tensor.raw_data for tensor in model.graph.initializer}
        for tensor in model.graph.initializer:
            tensor.ClearField("raw_data")
        inlined = onnx.inliner.inline_local_functions(model)
        del model  # which holds the memory of its weights
        for tensor in inlined.graph.initializer:
            if data := weights.pop(tensor.name):
                tensor.raw_data = data
        whole: bytes = inlined.SerializeToString()
    except Exception as error:  # protobuf's DecodeError, whichever protobuf that is
        raise ArtifactError(f"{path}: onnx cannot read it: {_one_line(error)}", hint=REMAKE) from error
    return whole


def _check_values(model: Any, path: Path) -> None:
    inputs = {value.get_any_name(): value.get_element_type().get_type_name() for value in model.inputs}
    outputs = {_name(value): value.get_element_type().get_type_name() for value in model.outputs}
    check_values(path, inputs, outputs, integer="i32", floating=_IMAGE_TYPES)


def _keep_rois_exact(model: Any) -> None:
    """Have OpenVINO keep the coordinates that RoIAlign takes in float32.

    In bf16 a coordinate of 600 pixels is rounded to 4: on the demo's checkpoint 27 % of the boxes then have an IoU
    below 0.97 with those in float32, and 6 % without it. What leads to an output without a heavy layer in between stays
    in float32, so the coordinates become outputs; nobody reads them.
    """
    model.add_outputs([node.input_value(1) for node in model.get_ops() if node.get_type_name() == "ROIAlign"])


def _name(output: Any) -> str:
    """Return the name of an output among those that OpenVINO gives to its value."""
    names: set[str] = output.get_names()
    return next((name for name in OUTPUTS if name in names), min(names, default=""))


def _taking_float32(model: Any) -> Any:
    """Have OpenVINO convert the images to the type of the model's input itself."""
    openvino = import_openvino()
    converting = openvino.preprocess.PrePostProcessor(model)
    converting.input("images").tensor().set_element_type(openvino.Type.f32)
    return converting.build()


def _one_line(error: Exception) -> str:
    """Return the message of an error on one line, without the places in OpenVINO's source."""
    return " ".join(_WHERE.sub("", str(error)).split())[:_MAX_CHARACTERS]
