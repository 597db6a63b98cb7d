"""Engines of TensorRT-RTX and TensorRT, which share one Python interface: deserialise, bind to shapes, enqueue.

A context gets all its memory from the caller and is captured into the caller's CUDA graph; TensorRT allocates nothing
while it runs. A serialized engine is code: the caller has checked its origin.

TensorRT-RTX compiles kernels just in time, and they are kept: only the first load on a system compiles them. An entry
holds those of one engine on one kind of GPU and is replaced as a whole. Of several processes the last to write wins.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from typing import Any, Final

from frcnn.errors import ArtifactError
from frcnn.plugins.cuda.kernel_cache import KernelCache, default_cache
from frcnn.plugins.tensorrt.library import never_free
from frcnn.runtime.dependencies import TensorRTLibrary, import_tensorrt
from frcnn.runtime.engines.compatibility import check_validity
from frcnn.runtime.engines.tensorrt_log import FailureLog, failure_log
from frcnn.runtime.engines.tensorrt_tensors import check_profiles, check_step, check_tensors
from frcnn.runtime.gpu.cuda_calls import driver_cuda_version, is_capturing
from frcnn.runtime.gpu.device import Device, LayerReport, Shape
from frcnn.spec.engine import EngineManifest, EngineStep

_CACHE_SCHEMA: Final = "frcnn runtime cache 1"  # changes when the key or the entry means something else


class TensorRTContext:
    """An execution context; see :class:`~frcnn.runtime.gpu.device.EngineContext`."""

    def __init__(self, engine: TensorRTEngine, context: Any) -> None:
        self._engine = engine
        self._context = context
        self._log = engine.log
        self.workspace_bytes = 0
        self._pointers: dict[str, int] = {}
        self._workspace = -1
        self._is_new_shape = False
        self._profiler: Any = None

    def bind(self, profile: int, input_shapes: Mapping[str, Shape], stream: int) -> Mapping[str, Shape]:
        """Set the profile and the inputs' shapes and return the outputs' shapes."""
        self._engine.save_cache()
        context, wanted = self._context, f"{dict(input_shapes)} in profile {profile}"
        self._log.clear()
        if not context.set_optimization_profile_async(profile, stream):
            raise _failure(f"TensorRT has no profile {profile}", self._log)
        for name, shape in input_shapes.items():
            if not context.set_input_shape(name, tuple(shape)):
                raise _failure(f"TensorRT does not take {wanted}", self._log)
        try:
            missing = context.infer_shapes()
        except RuntimeError as error:
            raise _failure(f"TensorRT does not take {wanted} ({error})", self._log) from error
        if missing:
            raise _failure(f"the engine also needs {', '.join(missing)}, got {wanted}", self._log)
        outputs = {name: tuple(context.get_tensor_shape(name)) for name in self._engine.outputs}
        self.workspace_bytes = int(context.update_device_memory_size_for_shapes())
        self._workspace = -1
        self._pointers.clear()
        self._is_new_shape = True
        return outputs

    def enqueue(self, pointers: Mapping[str, int], workspace: int, stream: int) -> None:
        """Put the engine's work on a stream."""
        context = self._context
        self._log.clear()
        for name, pointer in pointers.items():
            if self._pointers.get(name) != pointer:
                if not context.set_tensor_address(name, pointer):
                    raise _failure(f"TensorRT does not take the address of {name}", self._log)
                self._pointers[name] = pointer
        if self._workspace != workspace:
            context.set_device_memory(workspace, self.workspace_bytes)
            self._workspace = workspace
        if not context.execute_async_v3(stream):
            raise _failure("TensorRT cannot run the engine", self._log)
        if self._is_new_shape:
            self._is_new_shape = False
            self._engine.has_new_kernels = True
            if not is_capturing(stream):
                self._engine.save_cache()

    def report_layers(self, report: LayerReport) -> None:
        """Report every layer of every later :meth:`enqueue`."""
        self._profiler = _profiler_class(self._engine.trt)(report)  # kept here: TensorRT only points to it
        self._context.profiler = self._profiler

    def is_capturable(self, stream: int) -> bool:
        """Return whether :meth:`enqueue` may be captured in a graph.

        TensorRT proper cannot be asked: without data-dependent shapes, which our engines do not have, its work may be
        captured.
        """
        ask = getattr(self._context, "is_stream_capturable", None)
        return True if ask is None else bool(ask(stream))

    def close(self) -> None:
        """Release it; a second call does nothing."""
        if self._context is not None:
            self._engine.device.activate()
            self._context = self._profiler = None


def _failure(what: str, log: FailureLog, *, hint: str = "") -> ArtifactError:
    """Return the error of a failed step with TensorRT's reason, and the hint for it or else the one that is given."""
    found = log.explain()
    return ArtifactError(f"{what}: {found.reason}", hint=found.hint or hint)


def _profiler_class(trt: Any) -> Any:
    """Return a class of profilers that pass every layer to a function."""

    class Profiler(trt.IProfiler):  # type: ignore[misc] # TensorRT has no type information
        def __init__(self, report: LayerReport) -> None:
            trt.IProfiler.__init__(self)
            self._report = report

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self._report(layer_name, ms)

    return Profiler


class TensorRTEngine:
    """A deserialised engine, ``raw``; see :class:`~frcnn.runtime.gpu.device.Engine`.

    ``cache`` keeps the kernels that TensorRT-RTX compiles for the serialized engine, ``data``; None keeps nothing.
    """

    def __init__(
        self,
        trt: Any,
        runtime: Any,
        raw: Any,
        data: bytes,
        *,
        device: Device,
        log: FailureLog,
        cache: KernelCache | None,
    ) -> None:
        self.device = device
        self.log = log
        self.trt = trt
        self._runtime = runtime
        self.raw = raw
        self._cache = cache
        self._lock = threading.Lock()
        names = [raw.get_tensor_name(index) for index in range(raw.num_io_tensors)]
        self.outputs = tuple(name for name in names if raw.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT)
        self.has_new_kernels = False
        self._compiled: Any = None
        self._config = self._context_config(data)

    def create_context(self) -> TensorRTContext:
        """Return a context, without device memory of its own."""
        with self._lock:
            if self.raw is None:
                raise ArtifactError("the engine was closed", hint="load the detector again")
            self.log.clear()
            context = self.raw.create_execution_context(self._config)
            if context is None:
                raise _failure("TensorRT cannot make an execution context", self.log)
            return TensorRTContext(self, context)

    def save_cache(self) -> None:
        """Write the kernels that were compiled since the last time to disk, if there is a cache."""
        with self._lock:
            if self._cache is None or self._compiled is None or not self.has_new_kernels:
                return
            self.has_new_kernels = False
            compiled = self._compiled.serialize()
            if compiled is not None and (content := bytes(compiled)) != self._cache.read(self._key):
                self._cache.write(self._key, content)

    def close(self) -> None:
        """Release it, after its contexts. A second call does nothing."""
        if self.raw is None:
            return
        self.device.activate()
        self.save_cache()
        with self._lock:
            self._config = self._compiled = self.raw = self._runtime = None

    def _context_config(self, data: bytes) -> Any:
        """Return the configuration of contexts: the caller's memory and graph, exact kernels, a disk cache."""
        trt = self.trt
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if not hasattr(trt, "CudaGraphStrategy"):  # TensorRT proper compiles nothing at run time
            return strategy
        config = self.raw.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        config.cuda_graph_strategy = trt.CudaGraphStrategy.DISABLED
        # by default a slower kernel runs until the right one is compiled; a graph would keep the slower one
        config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        if self._cache is not None:
            self._key = cache_key(
                data,
                gpu=self.device.name,
                compute_capability=self.device.compute_capability,
                driver_cuda_version=driver_cuda_version(),
                tensorrt_version=trt.__version__,
            )
            self._compiled = config.create_runtime_cache()
            kept = self._cache.read(self._key)
            if kept is not None:
                self._compiled.deserialize(kept)  # kernels of another system are refused and compiled again
            config.set_runtime_cache(self._compiled)
        return config


def load_engine(
    data: bytes,
    *,
    target: TensorRTLibrary,
    device: Device,
    cache: KernelCache | None,
    manifest: EngineManifest | None = None,
    part: str = "",
) -> TensorRTEngine:
    """Deserialise an engine, which is code, on a GPU, whose context becomes current on this thread.

    ``cache`` keeps TensorRT-RTX's compiled kernels. Inputs, outputs and profiles are checked against the
    ``manifest`` that lists the engine as ``part``.
    """
    trt = import_tensorrt(target)
    log = failure_log(target)
    device.activate()
    log.clear()
    runtime = trt.Runtime(log.logger)
    if log.has_errors:  # the object then holds nothing: to deserialise with it, or to free it, ends the process
        never_free(runtime)
        raise _failure(f"{device.name}: {target} {trt.__version__} cannot be used here", log)
    if hasattr(runtime, "get_engine_validity"):
        check_validity(trt, runtime, data, device=device, log=log)
    raw = runtime.deserialize_cuda_engine(data)
    if raw is None:
        raise _failure(
            f"{device.name}: {target} {trt.__version__} cannot load the engine",
            log,
            hint=f"frcnn build model.onnx -o model.frcnn --target {target.removesuffix('-lean')}",
        )
    engine = TensorRTEngine(trt, runtime, raw, data, device=device, log=log, cache=cache)
    if manifest is not None:
        check_tensors(trt, raw, manifest.tensors)
        for step in manifest.steps:
            if isinstance(step, EngineStep) and step.part == part:
                check_step(trt, raw, step)
        check_profiles(raw, manifest.profiles, manifest.tensors)
    return engine


def default_runtime_cache() -> KernelCache:
    """Return the cache for TensorRT-RTX's kernels, beside that of ours; see ``default_cache``."""
    return default_cache("tensorrt-rtx", max_bytes=1 << 30)


def cache_key(
    engine: bytes, *, gpu: str, compute_capability: str, driver_cuda_version: str, tensorrt_version: str
) -> bytes:
    """Return the key of an engine's kernels; TensorRT checks the driver itself, more closely."""
    digest = hashlib.sha256(engine).hexdigest()
    parts = (_CACHE_SCHEMA, gpu, compute_capability, driver_cuda_version, tensorrt_version, digest)
    return hashlib.sha256("\0".join(parts).encode()).digest()
