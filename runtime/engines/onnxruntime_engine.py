"""Engines of ONNX Runtime: a network as ONNX, run on a worker's stream and addresses by the CUDA provider.

The CPU provider runs the same class on host memory. ONNX Runtime fixes the stream when it makes a session, so each
stream has a session of its own, with the network's weights and an arena for what lies between its layers; the contexts
of a stream share it. The arena never shrinks, so a captured graph may hold addresses in it. Layers are not reported.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any, Final, Literal

import numpy as np

from frcnn.errors import ArtifactError, one_line
from frcnn.files.external_data import external_tensor
from frcnn.runtime.gpu.device import Device, LayerReport, Shape
from frcnn.runtime.gpu.program import ELEMENT_DTYPES
from frcnn.runtime.onnxruntime_sessions import CUDA_OPTIONS, FATAL_ONLY, load_cuda_libraries, session_options
from frcnn.spec import Precision
from frcnn.spec.engine import ONNX_ELEMENTS, EngineTensor

Provider = Literal["cpu", "cuda"]

_PROVIDERS: Final[Mapping[Provider, str]] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_REBUILD: Final = "build the artifact again: frcnn build model.onnx --target onnxruntime"

_ONNX_NUMBERS: Final = {element: number for number, element in ONNX_ELEMENTS.items()}
_ELEMENTS: Final = {f"tensor({element.replace('float32', 'float')})": element for element in ONNX_ELEMENTS.values()}

_SHAPE_OPERATORS: Final = (
    "Add Cast Ceil Concat Constant ConstantOfShape Div Equal Floor Gather Identity Max Min Mod Mul Range ReduceProd "
    "Reshape Shape Size Slice Split Squeeze Sub Unsqueeze Where"
)
"""Arithmetic of shapes, which the CUDA provider leaves to the CPU: a shape lies in host memory from the start."""

_RECORDABLE: Final = (
    "Add AveragePool BatchNormalization Cast Clip Conv Div Erf Flatten Gelu Gemm GlobalAveragePool HardSigmoid "
    "HardSwish Identity LayerNormalization LeakyRelu MatMul MaxPool Mul Pad ReduceMean Relu Reshape Resize Shape "
    "Sigmoid Slice Softmax Sqrt Squeeze Sub Tanh Transpose Unsqueeze"
)
"""Operators whose CUDA kernels take all they need as arguments.

Others, Concat and Split among them, copy tables from pinned host memory that is freed after the run; a graph would copy
from it again, and freeing it while a graph is captured ends the process.
"""


class OnnxRuntimeContext:
    """A network bound to shapes; see :class:`~frcnn.runtime.gpu.device.EngineContext`."""

    workspace_bytes = 0  # ONNX Runtime's own arena holds what lies between layers

    def __init__(self, engine: OnnxRuntimeEngine) -> None:
        self._engine = engine
        self._session: _Session | None = None
        self._binding: Any = None
        self._shapes: dict[str, Shape] = {}
        self._pointers: dict[str, int] = {}

    def bind(self, profile: int, input_shapes: Mapping[str, Shape], stream: int) -> Mapping[str, Shape]:
        """Return the outputs' shapes for the inputs'; a network has no profiles."""
        self._session = session = self._engine.session_of(stream)
        outputs = session.output_shapes(input_shapes)
        self._shapes = {**input_shapes, **outputs}
        self._binding = session.raw.io_binding()
        return outputs

    def enqueue(self, pointers: Mapping[str, int], workspace: int, stream: int) -> None:
        """Put the network's work on the bound stream."""
        session = self._session
        assert session is not None and session.stream == stream
        if pointers != self._pointers:
            self._point_to(session, pointers)
        session.run(self._binding)

    def report_layers(self, report: LayerReport) -> None:
        """Report nothing: ONNX Runtime tells no layer's time before its session ends."""

    def is_capturable(self, stream: int) -> bool:
        """Return whether :meth:`enqueue` may be captured in a graph.

        The network runs once more, on the addresses of the last call: ONNX Runtime plans its memory in the first run of
        a shape and takes it in the second, and each thread has its own handles of cuBLAS and cuDNN.
        """
        session = self._session
        if session is None or not session.is_recordable or not self._pointers:
            return False
        session.run(self._binding)
        return True

    def close(self) -> None:
        """Release it; a second call does nothing."""
        session, self._session, self._binding = self._session, None, None
        if session is not None:
            self._engine.release(session)

    def _point_to(self, session: _Session, pointers: Mapping[str, int]) -> None:
        for name, pointer in pointers.items():
            bind = self._binding.bind_output if name in session.outputs else self._binding.bind_input
            element = _ONNX_NUMBERS[session.elements[name]]
            bind(name, self._engine.provider, self._engine.device_id, element, self._shapes[name], pointer)
        self._pointers = dict(pointers)


class OnnxRuntimeEngine:
    """A network as serialized ONNX; see :class:`~frcnn.runtime.gpu.device.Engine`.

    Args:
        onnxruntime: the package.
        data: a ``ModelProto`` of standard operators.
        device: where it runs; with the CPU provider, host memory.
        device_id: the GPU's number.
        tensors: those of the manifest, which inputs and outputs are checked against.
        precision: of the heavy layers; half precisions run channels-last.
        name: names it in messages.
    """

    def __init__(
        self,
        onnxruntime: ModuleType,
        data: bytes,
        *,
        provider: Provider,
        device: Device,
        device_id: int = 0,
        tensors: Mapping[str, EngineTensor],
        precision: Precision,
        name: str,
    ) -> None:
        try:
            external = external_tensor(data)
        except ValueError as error:
            raise ArtifactError(f"{name}: expected an ONNX model, got a damaged one: {error}", hint=_REBUILD) from error
        if external is not None:
            raise ArtifactError(f"{name}: the values of {external!r} lie in another file", hint=_REBUILD)
        if provider == "cuda":
            load_cuda_libraries(onnxruntime)
        self.onnxruntime = onnxruntime
        self.provider: Provider = provider
        self.device = device
        self.device_id = device_id
        self.tensors = tensors
        self.precision = precision
        self.name = name
        self._data: bytes | None = data
        self._lock = threading.Lock()
        self._sessions: dict[int, _Session] = {}

    def create_context(self) -> OnnxRuntimeContext:
        """Return a context, without device memory of its own."""
        if self._data is None:
            raise ArtifactError("the engine was closed", hint="load the detector again")
        return OnnxRuntimeContext(self)

    def session_of(self, stream: int) -> _Session:
        """Return the session of a stream, made now if it has none; each call needs a :meth:`release`."""
        with self._lock:
            session = self._sessions.get(stream)
            if session is None:
                assert self._data is not None
                session = self._sessions[stream] = _Session(self, self._data, stream)
            session.users += 1
            return session

    def release(self, session: _Session) -> None:
        """Give a session back; with the last user its memory is freed."""
        with self._lock:
            session.users -= 1
            if session.users == 0:
                del self._sessions[session.stream]
                self.device.activate()
                session.close()

    def close(self) -> None:
        """Release it, after its contexts. A second call does nothing."""
        self._data = None


class _Session:
    """A session of ONNX Runtime on one stream."""

    def __init__(self, engine: OnnxRuntimeEngine, data: bytes, stream: int) -> None:
        self.stream = stream
        self.users = 0
        self._engine = engine
        onnxruntime = engine.onnxruntime
        wanted = _PROVIDERS[engine.provider]
        options = session_options(onnxruntime, threads=1)
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        provider_options = _cuda_options(engine, stream) if engine.provider == "cuda" else {}
        try:
            # without ONNX Runtime's own fallback, which prints and goes on with a slower provider
            self.raw: Any = onnxruntime.InferenceSession(
                data, options, providers=[(wanted, provider_options)], enable_fallback=0
            )
        except Exception as error:  # ONNX Runtime's own classes derive from Exception alone
            raise self._refusal(f"cannot load it: {one_line(error)}") from error
        if wanted not in self.raw.get_providers():
            raise ArtifactError(
                f"{engine.name}: ONNX Runtime's {wanted} did not start",
                hint="install the CUDA and cuDNN libraries that this onnxruntime-gpu needs: "
                "pip install 'onnxruntime-gpu[cuda,cudnn]'",
            )
        self.elements = {value.name: value.type for value in (*self.raw.get_inputs(), *self.raw.get_outputs())}
        self._check_tensors()
        self.outputs = tuple(value.name for value in self.raw.get_outputs())
        self._fixed_rows = {value.name: isinstance(value.shape[0], int) for value in self.raw.get_inputs()}
        assigned = [
            (subgraph.ep_name, node.op_type, node.name)
            for subgraph in self.raw.get_provider_graph_assignment_info()
            for node in subgraph.get_nodes()
        ]
        self.is_recordable = True
        if engine.provider == "cuda":
            self._check_nodes(assigned)
            kinds = {kind for provider, kind, _ in assigned if provider == wanted}
            self.is_recordable = kinds <= set(_RECORDABLE.split())
        self._options = onnxruntime.RunOptions()
        self._options.log_severity_level = FATAL_ONLY
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def run(self, binding: Any) -> None:
        """Put a run on the stream."""
        try:
            self.raw.run_with_iobinding(binding, self._options)
        except Exception as error:
            raise self._refusal(f"cannot run it: {one_line(error)}") from error

    def output_shapes(self, input_shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """Return the outputs' shapes for the inputs', by a run on zeros.

        It runs on the first row of each input only, for networks treat rows alike and a batch takes more memory; their
        number follows from that.
        """
        rows = {name: shape[0] if self._fixed_rows[name] else 1 for name, shape in input_shapes.items()}
        (times,) = {shape[0] // rows[name] for name, shape in input_shapes.items()}
        binding = self.raw.io_binding()
        for name, shape in input_shapes.items():
            element = self.elements[name]
            zeros = np.zeros((rows[name], *shape[1:]), ELEMENT_DTYPES[element])
            value = self._engine.onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(zeros, _ONNX_NUMBERS[element])
            binding.bind_ortvalue_input(name, value)
        for name in self.outputs:
            binding.bind_output(name, self._engine.provider, self._engine.device_id)
        self.run(binding)
        found = dict(zip(self.outputs, (tuple(value.shape()) for value in binding.get_outputs()), strict=True))
        return {name: (shape[0] * times, *shape[1:]) for name, shape in found.items()}

    def close(self) -> None:
        """Free its memory."""
        self.raw = None

    def _check_tensors(self) -> None:
        """Compare inputs and outputs with a manifest, and keep their element types by name."""
        for name, kind in self.elements.items():
            found, tensor = _ELEMENTS.get(kind, kind), self._engine.tensors.get(name)
            if tensor is None or found != tensor.element or tensor.layout == "channels_last":
                listed = "none" if tensor is None else f"{tensor.element}, {tensor.layout}"
                raise ArtifactError(
                    f"{self._engine.name}: the network has a tensor {name!r} of {found}, the manifest lists {listed}",
                    hint=_REBUILD,
                )
            self.elements[name] = found

    def _check_nodes(self, assigned: Iterable[tuple[str, str, str]]) -> None:
        """Refuse a network that runs on the GPU in part only."""
        elsewhere = [
            f"{kind} {name}".rstrip()
            for provider, kind, name in assigned
            if provider != _PROVIDERS["cuda"] and kind not in _SHAPE_OPERATORS.split()
        ]
        if elsewhere:
            more = f" and {len(elsewhere) - 3} more" if len(elsewhere) > 3 else ""
            raise self._refusal(f"has no CUDA kernel for {', '.join(elsewhere[:3])}{more}")

    def _refusal(self, what: str) -> ArtifactError:
        return ArtifactError(
            f"{self._engine.name}: ONNX Runtime {self._engine.onnxruntime.__version__} {what}",
            hint="upgrade onnxruntime-gpu, or build with --precision fp32 or another --target",
        )


def _cuda_options(engine: OnnxRuntimeEngine, stream: int) -> dict[str, str]:
    """Return the options of the CUDA provider; with a stream given it uses no other one."""
    return {
        **CUDA_OPTIONS,
        "device_id": str(engine.device_id),
        "user_compute_stream": str(stream),
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_use_max_workspace": "1",
        "prefer_nhwc": str(int(engine.precision != "fp32")),
    }
