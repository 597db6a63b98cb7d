"""A TensorRT that deserialises and runs without a GPU, for order and faults. It does no arithmetic.

Its classes have names of the real ones only: a test compares the two. ``calls`` records the calls; ``faults`` sets
their results.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from types import SimpleNamespace
from typing import Any

Severity = Enum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE", start=0)


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING = Severity.INTERNAL_ERROR, Severity.ERROR, Severity.WARNING

    def __init__(self) -> None:
        self.is_ready = True

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class IProfiler:
    def __init__(self) -> None:
        self.is_ready = True

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        raise NotImplementedError


def _numbered(name: str, members: str) -> Any:
    return IntEnum(name, members, start=0)


ExecutionContextAllocationStrategy = _numbered(
    "ExecutionContextAllocationStrategy", "STATIC ON_PROFILE_CHANGE USER_MANAGED"
)
CudaGraphStrategy = _numbered("CudaGraphStrategy", "DISABLED WHOLE_GRAPH_CAPTURE")
DynamicShapesKernelSpecializationStrategy = _numbered("DynamicShapesKernelSpecializationStrategy", "LAZY EAGER NONE")
EngineValidity = _numbered("EngineValidity", "VALID SUBOPTIMAL INVALID")
_REASONS = "VERSION_MISMATCH UNSUPPORTED_CC OLD_CUDA_DRIVER OLD_CUDA_RUNTIME INSUFFICIENT_GPU_MEMORY MALFORMED_ENGINE"
EngineInvalidityDiagnostics = IntEnum(
    "EngineInvalidityDiagnostics", {name: 1 << bit for bit, name in enumerate([*_REASONS.split(), "CUDA_ERROR"])}
)
TensorIOMode = _numbered("TensorIOMode", "NONE INPUT OUTPUT")
TensorLocation = _numbered("TensorLocation", "DEVICE HOST")
LayerInformationFormat = _numbered("LayerInformationFormat", "ONELINE JSON")
DataType = Enum("DataType", "FLOAT HALF BF16 INT32 INT64 BOOL INT8")
TensorFormat = Enum("TensorFormat", "LINEAR HWC HWC8 HWC16 CHW32")


def blob(**tensors: str) -> bytes:
    """Return an "engine" of tensors, as ``in FLOAT LINEAR 8`` (mode, type, layout, channels)."""
    return ";".join(f"{name} {text}" for name, text in tensors.items()).encode()


class FakeTensorRT:
    """The module, of TensorRT-RTX, TensorRT proper or its lean runtime, whose bindings have no ``TensorFormat``.

    ``faults`` and ``logs`` map the name of a call to its result instead and to the error that it logs; ``layers`` is
    the inspector's JSON; ``layer_times`` are reported to a profiler on every run. ``compiled`` is what the runtime
    cache serialises to; every first run of shapes adds to it. ``profile_shapes`` are an input's, by its name: of each
    profile the smallest, best and largest.
    """

    __version__ = "1.7.1.116"

    def __init__(self, *, is_rtx: bool = True, is_lean: bool = False) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.faults: dict[str, Any] = {}
        self.logs: dict[str, str] = {}
        self.compiled = b""
        self.layers = "{}"
        self.layer_times: list[tuple[str, float]] = []
        self.ILogger = ILogger
        self.IProfiler = IProfiler
        self.ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy
        self.TensorIOMode = TensorIOMode
        self.TensorLocation = TensorLocation
        self.LayerInformationFormat = LayerInformationFormat
        self.DataType = DataType
        if not is_lean:
            self.TensorFormat = TensorFormat
        self.profile_shapes: dict[str, list[list[tuple[int, ...]]]] = {}
        self.is_rtx = is_rtx
        if is_rtx:
            self.CudaGraphStrategy = CudaGraphStrategy
            self.DynamicShapesKernelSpecializationStrategy = DynamicShapesKernelSpecializationStrategy
            self.EngineValidity = EngineValidity
            self.EngineInvalidityDiagnostics = EngineInvalidityDiagnostics

    def Runtime(self, logger: ILogger) -> Runtime:
        assert logger.is_ready, "the base class was not initialised"
        return (RTXRuntime if self.is_rtx else Runtime)(self, logger)

    def respond(self, logger: ILogger, name: str, opt: Any, *arguments: Any) -> Any:
        self.calls.append((name, *arguments))
        if name in self.logs:
            logger.log(Severity.WARNING, "a warning that nobody needs")
            logger.log(Severity.ERROR, self.logs[name])
        return self.faults.get(name, opt)


class Runtime:
    def __init__(self, trt: FakeTensorRT, logger: ILogger) -> None:
        self._trt, self._logger = trt, logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
        engine = ICudaEngine(self._trt, self._logger, serialized_engine)
        return self._trt.respond(self._logger, "deserialize", engine, bytes(serialized_engine))


class RTXRuntime(Runtime):
    def get_engine_validity(self, buffer: bytes) -> tuple[EngineValidity, int]:
        return self._trt.respond(self._logger, "validity", (EngineValidity.VALID, 0))


class ICudaEngine:
    num_optimization_profiles = 2

    def __init__(self, trt: FakeTensorRT, logger: ILogger, data: bytes) -> None:
        self._trt, self._logger = trt, logger
        rows = [row.split() for row in data.decode().split(";")]
        self._tensors: dict[str, Any] = {
            name: SimpleNamespace(mode=mode, element=element, layout=layout, shape=(-1, int(channels), -1, -1))
            for name, mode, element, layout, channels in rows
        }

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if self._tensors[name].mode == "in" else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return DataType[self._tensors[name].element]

    def get_tensor_format(self, name: str, profile_index: int) -> Any:
        if not hasattr(self._trt, "TensorFormat"):
            raise TypeError("Unregistered type : nvinfer1::TensorFormat")
        return TensorFormat[self._tensors[name].layout]

    def get_tensor_format_desc(self, name: str, profile_index: int) -> str:
        layout = self._tensors[name].layout
        return "Row major linear FP16 format (kLINEAR)" if layout == "LINEAR" else f"A format (k{layout}) of its own"

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return self._trt.profile_shapes[name][profile_index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].shape

    def get_tensor_location(self, name: str) -> TensorLocation:
        return self._trt.respond(self._logger, "location", TensorLocation.DEVICE, name)

    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig(self._trt, self._logger)

    def create_execution_context(self, runtime_config: Any) -> Any:
        context = (RTXContext if self._trt.is_rtx else IExecutionContext)(self._trt, self._logger)
        if isinstance(runtime_config, IRuntimeConfig):
            context.cache = runtime_config.cache
        return self._trt.respond(self._logger, "context", context, runtime_config)

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self._trt)


class EngineInspector:
    def __init__(self, trt: FakeTensorRT) -> None:
        self._trt = trt

    def get_engine_information(self, format: LayerInformationFormat) -> str:  # noqa: A002 # the real one's name
        assert format is LayerInformationFormat.JSON
        return self._trt.layers


class IRuntimeCache:
    def __init__(self, trt: FakeTensorRT, logger: ILogger) -> None:
        self._trt, self._logger = trt, logger

    def deserialize(self, blob: bytes) -> bool:
        if self._trt.respond(self._logger, "cache read", True, blob):
            self._trt.compiled = blob
            return True
        return False

    def serialize(self) -> Any:
        return self._trt.respond(self._logger, "cache", self._trt.compiled)


class IRuntimeConfig:
    cuda_graph_strategy: Any = CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    dynamic_shapes_kernel_specialization_strategy: Any = DynamicShapesKernelSpecializationStrategy.LAZY

    def __init__(self, trt: FakeTensorRT, logger: ILogger) -> None:
        self._trt, self._logger = trt, logger
        self.strategy: Any = ExecutionContextAllocationStrategy.STATIC
        self.cache: IRuntimeCache | None = None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache(self._trt, self._logger)

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        self.cache = cache
        return True


class IExecutionContext:
    profiler: IProfiler | None = None

    def __init__(self, trt: FakeTensorRT, logger: ILogger) -> None:
        self._trt, self._logger = trt, logger
        self._shapes: dict[str, tuple[int, ...]] = {}
        self.cache: IRuntimeCache | None = None

    def _respond(self, name: str, opt: Any, *arguments: Any) -> Any:
        return self._trt.respond(self._logger, name, opt, *arguments)

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        return self._respond("profile", True, profile_index, stream_handle)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = shape
        return self._respond("shape", True, name, shape)

    def infer_shapes(self) -> list[str]:
        found = self._respond("infer", [])
        if isinstance(found, Exception):
            raise found
        return found

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (next(iter(self._shapes.values()))[0], 4)

    def update_device_memory_size_for_shapes(self) -> int:
        return self._respond("memory needed", 4096)

    def set_device_memory(self, memory: int, size: int) -> None:
        self._respond("memory", None, memory, size)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        return self._respond("address", True, name, memory)

    def execute_async_v3(self, stream_handle: int) -> bool:
        kernels = repr(sorted(self._shapes.items())).encode()
        if self.cache is not None and kernels not in self._trt.compiled:
            self._trt.compiled += kernels
        if self.profiler is not None:
            assert self.profiler.is_ready, "the base class was not initialised"
            for layer, ms in self._trt.layer_times:
                self.profiler.report_layer_time(layer, ms)
        return self._respond("run", True, stream_handle)


class RTXContext(IExecutionContext):
    def is_stream_capturable(self, stream: int) -> bool:
        return self._respond("capturable", True, stream)
