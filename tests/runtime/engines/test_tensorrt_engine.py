"""Engines: the calls of TensorRT and their order, and the errors that users see when it refuses."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tensorrt_rtx
from maintenance.engine_layers import inspect_engine
from support import fake_tensorrt
from support.fake_tensorrt import FakeTensorRT, blob
from support.recorded_tensorrt import missing_in_tensorrt
from support.tensorrt_contract import Contract, make_libraries

from frcnn.errors import ArtifactError, MissingDependencyError
from frcnn.plugins.cuda.kernel_cache import KernelCache
from frcnn.runtime.engines import tensorrt_engine
from frcnn.runtime.engines.tensorrt_engine import TensorRTEngine, load_engine
from frcnn.runtime.engines.tensorrt_log import FailureLog, failure_log
from frcnn.runtime.engines.tensorrt_tensors import check_tensors
from frcnn.spec.engine import EngineTensor

STREAM = 77
SHAPES = {"x": (2, 8, 32, 48)}
DATA = blob(x="in HALF HWC8 64", y="out FLOAT LINEAR 64")
TENSORS = {
    "x": EngineTensor(element="float16", layout="channels_last"),
    "y": EngineTensor(element="float32"),
    "other": EngineTensor(element="int64"),
}


class Gpu:
    name, compute_capability = "A GPU", "8.9"

    def __init__(self) -> None:
        self.activated: list[int] = []

    def activate(self) -> None:
        self.activated.append(threading.get_ident())


class System:
    """A fake TensorRT in place of the real one, and a device."""

    def __init__(self, trt: FakeTensorRT, folder: Path) -> None:
        self.trt = trt
        self.folder = folder / "cache"
        self.gpu = Gpu()
        self.capturing = False

    def load(self, data: bytes = DATA, *, keep: bool = True, tensors: Any = None) -> TensorRTEngine:
        gpu: Any = self.gpu
        target = "tensorrt-rtx" if self.trt.is_rtx else "tensorrt"
        engine = load_engine(data, target=target, device=gpu, cache=KernelCache(self.folder) if keep else None)
        if tensors is not None:
            check_tensors(self.trt, engine.raw, tensors)
        return engine

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [call[1:] for call in self.trt.calls if call[0] == name]


@pytest.fixture(params=[True, False], ids=["tensorrt-rtx", "tensorrt"])
def is_rtx(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def system(is_rtx: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    made = System(FakeTensorRT(is_rtx=is_rtx), tmp_path)
    failure_log.cache_clear()
    real = importlib.import_module
    modules = ("tensorrt", "tensorrt_lean", "tensorrt_rtx")
    monkeypatch.setattr(importlib, "import_module", lambda name, *of: made.trt if name in modules else real(name, *of))
    monkeypatch.setattr(tensorrt_engine, "driver_cuda_version", lambda: "13.0")
    monkeypatch.setattr(tensorrt_engine, "is_capturing", lambda stream: made.capturing)
    yield made
    failure_log.cache_clear()


only_rtx = pytest.mark.parametrize("is_rtx", [True], ids=["tensorrt-rtx"], indirect=False)


def test_binding_and_enqueueing_call_tensorrt_in_order(system: System) -> None:
    engine = system.load(tensors=TENSORS)
    context = engine.create_context()
    system.trt.calls.clear()
    assert context.bind(1, SHAPES, STREAM) == {"y": (2, 4)}
    assert context.workspace_bytes == 4096
    context.enqueue({"x": 256, "y": 512}, 1024, STREAM)
    assert [call for call in system.trt.calls if not call[0].startswith("cache")] == [
        ("profile", 1, STREAM),
        ("shape", "x", (2, 8, 32, 48)),
        ("infer",),
        ("memory needed",),
        ("address", "x", 256),
        ("address", "y", 512),
        ("memory", 1024, 4096),
        ("run", STREAM),
    ]


def test_unchanged_addresses_and_memory_are_not_set_again(system: System) -> None:
    context = system.load().create_context()
    context.bind(0, SHAPES, STREAM)
    context.enqueue({"x": 256, "y": 512}, 1024, STREAM)
    system.trt.calls.clear()
    context.enqueue({"x": 256, "y": 512}, 1024, STREAM)
    assert system.trt.calls == [("run", STREAM)]
    context.enqueue({"x": 256, "y": 768}, 2048, STREAM)
    assert system.trt.calls[1:] == [("address", "y", 768), ("memory", 2048, 4096), ("run", STREAM)]
    context.bind(0, {"x": (1, 8, 32, 32)}, STREAM)
    system.trt.calls.clear()
    context.enqueue({"x": 256, "y": 768}, 2048, STREAM)
    assert {call[0] for call in system.trt.calls} >= {"address", "memory", "run"}


def test_contexts_use_the_callers_memory_and_graph(system: System, is_rtx: bool) -> None:
    system.load().create_context()
    ((how,),) = system.named("context")
    strategy = how.strategy if is_rtx else how
    assert strategy is fake_tensorrt.ExecutionContextAllocationStrategy.USER_MANAGED
    if is_rtx:  # our graphs, not TensorRT's; and the right kernels from the first run on, since a graph keeps them
        assert how.cuda_graph_strategy is fake_tensorrt.CudaGraphStrategy.DISABLED
        specialisation = fake_tensorrt.DynamicShapesKernelSpecializationStrategy
        assert how.dynamic_shapes_kernel_specialization_strategy is specialisation.EAGER


def test_a_context_tells_whether_it_can_be_captured(system: System, is_rtx: bool) -> None:
    context = system.load().create_context()
    assert context.is_capturable(STREAM) is True
    system.trt.faults["capturable"] = False
    assert context.is_capturable(STREAM) is (not is_rtx)  # TensorRT proper cannot be asked
    assert system.named("capturable") == [(STREAM,), (STREAM,)] * is_rtx


FAULTS = [
    ("profile", False, "TensorRT has no profile 0: Error X"),
    ("shape", False, "TensorRT does not take {'x': (2, 8, 32, 48)} in profile 0: Error X"),
    ("infer", RuntimeError("no"), "TensorRT does not take {'x': (2, 8, 32, 48)} in profile 0 (no): Error X"),
    ("infer", ["z"], "the engine also needs z, got {'x': (2, 8, 32, 48)} in profile 0: Error X"),
]


@pytest.mark.parametrize(("call", "fault", "message"), FAULTS)
def test_refused_shapes_are_explained(system: System, call: str, fault: Any, message: str) -> None:
    context = system.load().create_context()
    system.trt.faults[call], system.trt.logs[call] = fault, "[a.cpp::b::3] Error X"
    with pytest.raises(ArtifactError, match=re.escape(message) + "$"):
        context.bind(0, SHAPES, STREAM)


@pytest.mark.parametrize(
    ("call", "message"),
    [("address", "TensorRT does not take the address of x"), ("run", "TensorRT cannot run the engine")],
)
def test_refused_work_is_explained(system: System, call: str, message: str) -> None:
    context = system.load().create_context()
    context.bind(0, SHAPES, STREAM)
    system.trt.faults[call] = False
    with pytest.raises(ArtifactError, match=f"{message}: TensorRT gives no reason"):
        context.enqueue({"x": 256, "y": 512}, 1024, STREAM)
    del system.trt.faults[call]
    context.enqueue({"x": 256, "y": 512}, 1024, STREAM)  # a refused address is set again
    assert system.named("address")[-2:] == [("x", 256), ("y", 512)]


def test_an_engine_that_cannot_be_loaded_is_explained_on_one_line(system: System, is_rtx: bool) -> None:
    system.trt.faults["deserialize"] = None
    system.trt.logs["deserialize"] = "IRuntime::deserialize: Error Code 1: Magic tag\n  does not match"
    with pytest.raises(ArtifactError) as caught:
        system.load()
    target = "tensorrt-rtx" if is_rtx else "tensorrt"
    assert caught.value.message == (
        f"A GPU: {target} 1.7.1.116 cannot load the engine: IRuntime::deserialize: Magic tag does not match"
    )
    assert caught.value.hint == (
        "the engine is damaged, cut off, none at all, or of another TensorRT; build the artifact again on this system: "
        "frcnn build model.onnx"
    )
    system.trt.logs["deserialize"] = "something new"
    with pytest.raises(ArtifactError, match="cannot load the engine: something new") as caught:
        system.load()
    assert caught.value.hint == f"frcnn build model.onnx -o model.frcnn --target {target}"


def test_a_runtime_that_was_not_made_is_not_used(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """The object that comes back holds a null pointer: deserialising with it would end the process."""
    made = system.trt.Runtime

    def runtime(logger: Any) -> Any:
        # 11.2.1, driver too old or none
        logger.log(
            fake_tensorrt.Severity.ERROR,
            "createInferRuntime: Error Code 6: API Usage Error (CUDA initialization failure with error: 35 In "
            "checkCudaInstallation at /_src/runtime/dispatch/runtime.cpp:840)",
        )
        return made(logger)

    monkeypatch.setattr(system.trt, "Runtime", runtime, raising=False)
    with pytest.raises(ArtifactError, match="cannot be used here: createInferRuntime: API Usage Error") as caught:
        system.load()
    assert "it is older than the CUDA of this TensorRT" in caught.value.hint
    assert system.named("deserialize") == []


def test_a_context_that_cannot_be_made_is_explained(system: System) -> None:
    engine = system.load()
    system.trt.faults["context"] = None
    with pytest.raises(ArtifactError, match="cannot make an execution context: TensorRT gives no reason"):
        engine.create_context()


VALIDITY = [
    (1, "it was built by another TensorRT-RTX", "frcnn build model.onnx -o model.frcnn --target tensorrt-rtx"),
    (2, "does not run it on a GPU of this compute capability", "frcnn build model.onnx --target onnxruntime"),
    (4, "the CUDA driver is too old", "r580 or later"),
    (16, "not enough free GPU memory", "nvidia-smi"),
    (32, "it is damaged or no engine", "frcnn build"),
    (
        1 | 2,
        "it was built by another TensorRT-RTX; TensorRT-RTX does not run it",
        "frcnn build model.onnx --target onnxruntime",
    ),
    (0, "no device", "frcnn doctor"),
]


@only_rtx
@pytest.mark.parametrize(("diagnostics", "message", "hint"), VALIDITY)
def test_tensorrt_rtx_checks_an_engine_before_it_is_loaded(
    system: System, diagnostics: int, message: str, hint: str
) -> None:
    system.trt.faults["validity"] = (fake_tensorrt.EngineValidity.INVALID, diagnostics)
    system.trt.logs["validity"] = "no device"
    with pytest.raises(ArtifactError) as caught:
        system.load()
    assert caught.value.message.startswith("A GPU (compute capability 8.9): TensorRT-RTX 1.7.1.116 refuses the engine")
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert not system.named("deserialize")


@only_rtx
def test_an_engine_that_is_only_slower_here_is_loaded(system: System) -> None:
    system.trt.faults["validity"] = (fake_tensorrt.EngineValidity.SUBOPTIMAL, 0)
    system.load()
    assert system.named("deserialize") == [(DATA,)]


MANIFESTS = [
    ({"x": EngineTensor(element="float16")}, "'x' is float16 channels_last, the manifest says float16 planar"),
    ({"x": TENSORS["x"]}, "has a tensor 'y', which the manifest does not list"),
    ({**TENSORS, "y": EngineTensor(element="int32")}, "'y' is float32 planar, the manifest says int32 planar"),
]


@pytest.mark.parametrize(("tensors", "message"), MANIFESTS)
def test_a_manifest_that_does_not_match_is_refused(system: System, tensors: Any, message: str) -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        system.load(tensors=tensors)
    assert "frcnn build" in caught.value.hint


@pytest.mark.parametrize(
    ("tensor", "found"),
    [
        ("in BF16 HWC8 16", "bfloat16 channels_last"),
        ("in HALF HWC16 32", "float16 channels_last"),
        ("in FLOAT HWC 3", "float32 channels_last"),
        ("in INT32 LINEAR 1", "int32 planar"),
        ("in INT64 LINEAR 1", "int64 planar"),
        ("in BOOL LINEAR 1", "bool planar"),
        ("in HALF HWC8 12", "float16 HWC8"),  # 12 channels leave gaps: this is not (N, H, W, C)
        ("in HALF CHW32 32", "float16 CHW32"),
        ("in INT8 LINEAR 8", "INT8 planar"),
    ],
)
def test_the_type_and_layout_of_a_tensor_must_match_the_manifest(system: System, tensor: str, found: str) -> None:
    element, layout = found.split()
    matching, other = EngineTensor(element=element, layout=layout), TENSORS["x"]
    system.load(blob(x=tensor), tensors={"x": matching})
    if found != "float16 channels_last":
        with pytest.raises(ArtifactError, match=f"'x' is {found}, the manifest says float16 channels_last"):
            system.load(blob(x=tensor), tensors={"x": other})
    with pytest.raises(ArtifactError, match=f"'x' is {found}, the manifest says {element} elsewhere"):
        system.load(blob(x=tensor), tensors={"x": EngineTensor(element=element, layout="elsewhere")})


def test_a_tensor_whose_axes_the_network_declares_channels_last_is_planar(system: System) -> None:
    tensors = {"x": EngineTensor(element="float16", layout="nhwc")}
    system.load(blob(x="in HALF LINEAR 64"), tensors=tensors)
    with pytest.raises(ArtifactError, match="'x' is float16 channels_last, the manifest says float16 nhwc"):
        system.load(blob(x="in HALF HWC8 64"), tensors=tensors)


def test_a_tensor_in_host_memory_is_refused(system: System) -> None:
    system.trt.faults["location"] = fake_tensorrt.TensorLocation.HOST
    with pytest.raises(ArtifactError, match="wants 'x' in host memory"):
        system.load(tensors=TENSORS)


# ---- the runtime cache


def cached(system: System) -> list[bytes]:
    return [path.read_bytes()[32:] for path in system.folder.glob("entries/*/*")]


@only_rtx
def test_compiled_kernels_are_kept_after_the_first_run_of_each_shape(system: System) -> None:
    engine = system.load()
    context = engine.create_context()
    context.bind(0, SHAPES, STREAM)
    assert not system.named("cache")  # nothing can have been compiled yet
    context.enqueue({}, 0, STREAM)
    assert cached(system) == [system.trt.compiled]
    kept = system.trt.compiled
    context.bind(0, {"x": (1, 8, 32, 32)}, STREAM)
    context.enqueue({}, 0, STREAM)
    assert cached(system) == [system.trt.compiled] != [kept]
    system.trt.calls.clear()
    context.enqueue({}, 0, STREAM)
    assert not system.named("cache")  # nothing new can have been compiled
    context.close()
    engine.close()

    again = FakeTensorRT()
    kept, system.trt = system.trt.compiled, again
    failure_log.cache_clear()
    system.load()
    assert system.named("cache read") == [(kept,)]


@only_rtx
def test_nothing_is_saved_while_a_stream_is_captured(system: System) -> None:
    engine = system.load()
    context = engine.create_context()
    context.bind(0, SHAPES, STREAM)
    system.trt.calls.clear()
    system.capturing = True
    context.enqueue({}, 0, STREAM)
    assert not system.named("cache")
    system.capturing = False
    context.close()
    engine.close()
    assert cached(system) == [system.trt.compiled]


@only_rtx
def test_a_cache_that_does_not_fit_is_replaced(system: System) -> None:
    first = system.load()
    context = first.create_context()
    context.bind(0, SHAPES, STREAM)
    context.enqueue({}, 0, STREAM)
    kept = system.trt.compiled
    (path,) = system.folder.glob("entries/*/*")
    first.close()
    system.trt.faults["cache read"] = False
    system.trt.compiled = b"new"
    context = system.load().create_context()
    context.bind(0, SHAPES, STREAM)
    context.enqueue({}, 0, STREAM)
    assert path.read_bytes()[32:] == system.trt.compiled != kept
    assert system.trt.compiled.startswith(b"new")


@only_rtx
def test_without_a_folder_nothing_is_kept(system: System) -> None:
    engine = system.load(keep=False)
    context = engine.create_context()
    context.bind(0, SHAPES, STREAM)
    context.enqueue({}, 0, STREAM)
    engine.close()
    assert not system.folder.exists()
    assert not system.named("cache")


# ---- layers and their times


def test_layers_are_reported_from_report_layers_on(system: System) -> None:
    system.trt.layer_times = [("conv + relu", 1.5), ("reshape", 0.25)]
    context = system.load().create_context()
    context.bind(0, SHAPES, STREAM)
    context.enqueue({"x": 256, "y": 512}, 1024, STREAM)
    found: list[tuple[str, float]] = []
    context.report_layers(lambda name, ms: found.append((name, ms)))
    assert found == []
    for _ in range(2):
        context.enqueue({"x": 256, "y": 512}, 1024, STREAM)
    assert found == [("conv + relu", 1.5), ("reshape", 0.25)] * 2


# ---- lifetimes


def test_closing_twice_is_allowed_and_a_closed_engine_makes_no_context(system: System) -> None:
    engine = system.load()
    context = engine.create_context()
    for _ in range(2):
        context.close()
    for _ in range(2):
        engine.close()
    with pytest.raises(ArtifactError, match="the engine was closed"):
        engine.create_context()


def test_many_threads_make_and_run_contexts(system: System) -> None:
    engine = system.load()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            context = engine.create_context()
            for width in range(1, 20):
                context.bind(0, {"x": (1, 8, 32, 32 * width)}, STREAM)
                context.enqueue({"x": 256}, 0, STREAM)
            context.close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(system.named("run")) == 8 * 19


# ---- the log of TensorRT


def test_each_thread_reads_its_own_errors_and_those_of_tensorrts_threads() -> None:
    log = FailureLog(FakeTensorRT())
    log.clear()

    def other() -> None:
        log.clear()
        log.logger.log(fake_tensorrt.Severity.ERROR, "of another thread")

    def of_tensorrt() -> None:
        log.logger.log(fake_tensorrt.Severity.INTERNAL_ERROR, "of TensorRT's own thread")

    log.logger.log(fake_tensorrt.Severity.ERROR, "mine\nin two lines")
    log.logger.log(fake_tensorrt.Severity.ERROR, "mine in two lines")
    for work in (other, of_tensorrt):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert log.explain().reason == "mine in two lines; of TensorRT's own thread"
    assert log.explain().reason == "TensorRT gives no reason"
    log.logger.log(fake_tensorrt.Severity.ERROR, "long " * 200)
    assert len(log.explain().reason) == 500
    log.logger.log(fake_tensorrt.Severity.WARNING, "only a warning")
    assert log.explain().reason == "only a warning"


# ---- layers

DETAILED = {
    "Layers": [
        {
            "Name": "backbone/conv1 + relu",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "images", "Format/Datatype": "Row major linear FP32"}],
            "Outputs": [{"Name": "t", "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
        },
        {"Name": "box_head/fc6", "Outputs": [{"Name": "t", "Format": "Row major linear", "Datatype": "BFloat16"}]},
        {"Name": "decode", "Outputs": [{"Name": "t", "Datatype": "Float"}]},
        {"Name": "count", "Outputs": [{"Name": "n", "Datatype": "Int32"}]},
        {"Name": "signal", "Inputs": [], "Outputs": []},
    ],
    "Bindings": ["images"],
}


@pytest.mark.parametrize(
    ("inspection", "layers"),
    [
        (
            DETAILED,
            [
                ("backbone/conv1 + relu", "float16"),
                ("box_head/fc6", "bfloat16"),
                ("decode", "float32"),
                ("count", "int32"),
                ("signal", "unknown"),
            ],
        ),
        ({"Layers": ["conv", "fc"]}, [("conv", "unknown"), ("fc", "unknown")]),
    ],
)
def test_the_inspector_lists_the_precision_of_layers(
    system: System, inspection: Any, layers: list[tuple[str, str]]
) -> None:
    system.trt.layers = json.dumps(inspection)
    assert [(layer.name, layer.element) for layer in inspect_engine(system.load())] == layers


@pytest.mark.parametrize("text", ["no JSON", "[]", '{"Bindings": []}'])
def test_an_inspection_of_another_form_is_an_error(system: System, text: str) -> None:
    system.trt.layers = text
    with pytest.raises(msgspec.DecodeError):
        inspect_engine(system.load())


# ---- the real TensorRTs

CLASSES = ("ILogger", "IProfiler", "Runtime", "ICudaEngine", "EngineInspector", "IRuntimeConfig", "IExecutionContext")
ENUMS = ("ExecutionContextAllocationStrategy", "TensorIOMode", "TensorLocation", "LayerInformationFormat")
RTX_CLASSES = {"IRuntimeCache": "IRuntimeCache", "RTXRuntime": "Runtime", "RTXContext": "IExecutionContext"}
RTX_ENUMS = (
    "CudaGraphStrategy",
    "DynamicShapesKernelSpecializationStrategy",
    "EngineValidity",
    "EngineInvalidityDiagnostics",
)
OF_THE_FAKE = {"is_ready", "strategy", "cache"}
ONLY_RTX = {"create_runtime_cache", "set_runtime_cache", "cuda_graph_strategy"} | {
    "dynamic_shapes_kernel_specialization_strategy"
}


def names_used() -> dict[str, dict[str, int]]:
    """Return the real class -> the fake one's names -> how many arguments each takes, -1 where it is no method."""
    used: dict[str, dict[str, int]] = {}
    for fake, real in {**dict(zip(CLASSES, CLASSES, strict=True)), **RTX_CLASSES}.items():
        kind = getattr(fake_tensorrt, fake)
        for name, value in vars(kind).items():
            if not name.startswith("_") and name not in OF_THE_FAKE:
                count = len(inspect.signature(value).parameters) - 1 if inspect.isfunction(value) else -1
                used.setdefault(real, {})[name] = count
    return used


def test_the_fake_has_only_what_tensorrt_rtx_has() -> None:
    """So what the code asks of the fake in these tests, it may ask of the real one."""
    for kind, names in names_used().items():
        for name, count in names.items():
            real = getattr(getattr(tensorrt_rtx, kind), name)
            if count >= 0:
                signatures = re.findall(rf"^(?:\d+\. )?{name}\((.*)\) ->", real.__doc__ or "", re.MULTILINE)
                takes = [len(re.findall(r"(?:^|, )\w+: ", text)) - 1 for text in signatures if "*args" not in text]
                assert count in takes, f"{kind}.{name}: {signatures}"
    for name in (*ENUMS, *RTX_ENUMS):
        for member in getattr(fake_tensorrt, name):
            assert int(getattr(getattr(tensorrt_rtx, name), member.name)) == member.value
    assert fake_tensorrt.ILogger.ERROR.name == tensorrt_rtx.ILogger.ERROR.name
    for name in ("DataType", "TensorFormat"):
        assert {member.name for member in getattr(fake_tensorrt, name)} <= set(getattr(tensorrt_rtx, name).__members__)


def test_the_fake_has_only_what_tensorrt_has(tmp_path: Path) -> None:
    """TensorRT where it is installed, of any release; elsewhere NVIDIA's bindings of TensorRT 11, without TensorRT."""
    contract = Contract(make_libraries(tmp_path))
    only_rtx = ONLY_RTX | {"get_engine_validity", "create_runtime_config", "is_stream_capturable"}
    names = {
        (kind, name)
        for kind, found in names_used().items()
        for name in found
        if kind not in ("IRuntimeCache", "IRuntimeConfig") and name not in only_rtx
    }
    names |= {
        (name, member.name) for name in (*ENUMS, "DataType", "TensorFormat") for member in vars(fake_tensorrt)[name]
    }
    absent = {("", "CudaGraphStrategy"), ("", "EngineValidity")}  # these distinguish TensorRT-RTX from TensorRT
    _version, missing = missing_in_tensorrt(names | absent, contract)
    assert missing == absent

    members = {name: {m.name: m.value for m in getattr(fake_tensorrt, name)} for name in ENUMS}
    code = """
result = [kind + "." + n for kind, found in given.items() for n, value in found.items()
          if int(getattr(getattr(trt, kind), n)) != value]
"""
    assert contract(code, members) == []


WITHOUT_DRIVER = """
import sys
from types import SimpleNamespace
from frcnn.errors import ArtifactError
from frcnn.runtime.engines.tensorrt_engine import load_engine
gpu = SimpleNamespace(name="No GPU", compute_capability="0.0", activate=lambda: None)
try:
    load_engine(open(sys.argv[1], "rb").read(), target="tensorrt-rtx", device=gpu, cache=None)
except ArtifactError as error:
    print(error)
"""


def test_the_real_tensorrt_rtx_without_a_driver_is_explained(tmp_path: Path) -> None:
    """The real library, a real engine: our logger hears its reasons, and they fit on a line."""
    plan = tmp_path / "engine"
    plan.write_bytes(_small_engine())
    environment = {"PYTHONPATH": ":".join(sys.path), "CUDA_VISIBLE_DEVICES": "", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_DRIVER, plan], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    version = tensorrt_rtx.__version__
    assert line.startswith(f"No GPU (compute capability 0.0): TensorRT-RTX {version} refuses the engine: Error reading")
    assert "cudaError" in line
    assert ".cpp" not in line  # where in TensorRT's source helps nobody
    assert "frcnn doctor" in line
    assert not done.stderr


def _small_engine() -> bytes:
    logger = tensorrt_rtx.Logger(tensorrt_rtx.Logger.ERROR)
    builder = tensorrt_rtx.Builder(logger)
    network = builder.create_network(1 << int(tensorrt_rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    given = network.add_input("x", tensorrt_rtx.float32, (1, 4))
    constant = network.add_constant((1, 4), np.ones((1, 4), np.float32))
    added = network.add_elementwise(given, constant.get_output(0), tensorrt_rtx.ElementWiseOperation.SUM)
    network.mark_output(added.get_output(0))
    return bytes(builder.build_serialized_network(network, builder.create_builder_config()))


@pytest.mark.parametrize(("target", "extra"), [("tensorrt-rtx", "rtx"), ("tensorrt", "tensorrt")])
@pytest.mark.parametrize("error", [ModuleNotFoundError, OSError])
def test_a_missing_tensorrt_names_its_extra(target: Any, extra: str, error: type, monkeypatch: Any) -> None:
    def refuse(name: str) -> None:
        raise ModuleNotFoundError(name=name) if error is ModuleNotFoundError else OSError("a.so.11: wrong ELF class")

    monkeypatch.setattr(importlib, "import_module", refuse)
    gpu: Any = Gpu()
    with pytest.raises(MissingDependencyError, match=f"running a {target} artifact") as caught:
        load_engine(DATA, target=target, device=gpu, cache=None)
    if error is ModuleNotFoundError:
        assert caught.value.message.endswith("which is not installed")
        assert caught.value.hint == f"pip install 'frcnn[{extra}]'"
    else:
        assert caught.value.message.endswith("which does not load: a.so.11: wrong ELF class")
        assert caught.value.hint == f"pip install --force-reinstall 'frcnn[{extra}]'"
