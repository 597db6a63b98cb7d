"""Engines of ONNX Runtime: the CPU's provider on host memory, and what the CUDA provider is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.fake_device import FakeDevice
from support.fake_onnxruntime import FakeOnnxRuntime

from frcnn.errors import ArtifactError, MissingDependencyError
from frcnn.runtime import dependencies
from frcnn.runtime.engines.onnxruntime_engine import OnnxRuntimeContext, OnnxRuntimeEngine
from frcnn.spec.engine import EngineTensor

Load = Callable[..., OnnxRuntimeEngine]
TENSORS = {name: EngineTensor(element="float32") for name in ("images", "small", "wide")}
STREAM, OTHER = 1001, 1002
SHAPE = (3, 3, 32, 64)


def network(*, static: bool = False, extra: tuple[Any, ...] = (), element: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """Two maps of half the size and of the size, by sizes that are computed from the input's shape."""
    kind = helper.tensor_dtype_to_np_dtype(element)
    weight = (np.arange(12).reshape(4, 3, 1, 1) / 10).astype(kind)
    nodes = [
        helper.make_node("Conv", ["images", "weight"], ["small"], "conv", strides=[2, 2]),
        helper.make_node("Shape", ["small"], ["channels"], "rows", start=0, end=2),
        helper.make_node("Shape", ["images"], ["canvas"], "canvas", start=2, end=4),
        helper.make_node("Concat", ["channels", "canvas"], ["size"], "size", axis=0),
        helper.make_node("Resize", ["small", "", "", "size"], ["wide" if not extra else "up"], "up", mode="nearest"),
        *extra,
    ]
    n, _, h, w = SHAPE if static else ("batch", 3, "2*h", "2*w")
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("images", element, [n, 3, h, w])],
        [helper.make_tensor_value_info(name, element, [n, 4, None, None]) for name in ("small", "wide")],
        [numpy_helper.from_array(weight, "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture
def load(device: FakeDevice) -> Load:
    def make(model: onnx.ModelProto | bytes | None = None, *, package: Any = onnxruntime, **options: Any) -> Any:
        data = model if isinstance(model, bytes) else (model or network()).SerializeToString()
        options = {"provider": "cpu", "precision": "fp32", "tensors": TENSORS, "name": "a.frcnn, features"} | options
        return OnnxRuntimeEngine(package, data, device=device, **options)

    return make


class Bound:
    """A context bound to a shape, with arrays for its tensors."""

    def __init__(self, engine: OnnxRuntimeEngine, shape: tuple[int, ...] = SHAPE, stream: int = STREAM) -> None:
        self.context: OnnxRuntimeContext = engine.create_context()
        self.stream = stream
        made = self.context.bind(0, {"images": shape}, stream)
        self.images = np.random.default_rng(sum(shape)).random(shape, dtype=np.float32)
        self.outputs = {name: np.zeros(shape, np.float32) for name, shape in made.items()}
        self.pointers = {name: array.ctypes.data for name, array in (self.outputs | {"images": self.images}).items()}

    def run(self) -> dict[str, np.ndarray]:
        self.context.enqueue(self.pointers, 0, self.stream)
        return self.outputs


def expected(images: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(network().SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(("small", "wide"), session.run(["small", "wide"], {"images": images}), strict=True))


@pytest.mark.parametrize("shape", [SHAPE, (1, 3, 32, 32), (8, 3, 64, 32)])
@pytest.mark.parametrize("provider", ["cpu", "cuda"])
def test_outputs_lie_at_the_addresses_given(load: Load, provider: str, shape: tuple[int, ...]) -> None:
    package: Any = onnxruntime if provider == "cpu" else FakeOnnxRuntime(on_cpu=("Shape", "Concat"))
    bound = Bound(load(package=package, provider=provider, device_id=int(provider == "cuda")), shape)
    assert bound.context.workspace_bytes == 0
    n, _, h, w = shape
    assert {name: array.shape for name, array in bound.outputs.items()} == {
        "small": (n, 4, h // 2, w // 2),
        "wide": (n, 4, h, w),
    }
    for _ in range(2):  # read again at each run
        bound.images += 1
        for name, array in bound.run().items():
            np.testing.assert_array_equal(array, expected(bound.images)[name])
    bound.context.report_layers(lambda name, ms: pytest.fail(name))
    bound.run()


def test_a_network_of_one_batch_only(load: Load) -> None:
    bound = Bound(load(network(static=True)))
    assert bound.outputs["wide"].shape == (3, 4, 32, 64)
    np.testing.assert_array_equal(bound.run()["wide"], expected(bound.images)["wide"])
    with pytest.raises(ArtifactError, match=r"a\.frcnn, features: ONNX Runtime .* cannot run it: .*images"):
        Bound(load(network(static=True)), (2, 3, 32, 64))


def test_half_precision_is_bound_by_its_number(load: Load) -> None:
    extra = (helper.make_node("Identity", ["up"], ["wide"], "same"),)
    tensors = dict.fromkeys(TENSORS, EngineTensor(element="float16"))
    context = load(network(extra=extra, element=TensorProto.FLOAT16), tensors=tensors).create_context()
    made = context.bind(0, {"images": SHAPE}, STREAM)
    arrays = {name: np.ones(shape, np.float16) for name, shape in {**made, "images": SHAPE}.items()}
    context.enqueue({name: array.ctypes.data for name, array in arrays.items()}, 0, STREAM)
    np.testing.assert_allclose(arrays["wide"][0, :, 0, 0], [0.3, 1.2, 2.1, 3.0], rtol=2e-3)


class TestSessions:
    """ONNX Runtime fixes the stream of a session when it makes it."""

    def test_the_contexts_of_a_stream_share_a_session(self, load: Load) -> None:
        package = FakeOnnxRuntime(on_cpu=("Shape", "Concat"))
        engine = load(package=package, provider="cuda", device_id=1)
        assert package.sessions == []
        first, second, other = Bound(engine), Bound(engine, (1, 3, 64, 64)), Bound(engine, stream=OTHER)
        assert [options["user_compute_stream"] for options in package.sessions] == ["1001", "1002"]
        for bound in (first, second, other, first):
            np.testing.assert_array_equal(bound.run()["wide"], expected(bound.images)["wide"])
        first.context.close()
        first.context.close()
        np.testing.assert_array_equal(second.run()["wide"], expected(second.images)["wide"])
        second.context.close()
        Bound(engine)  # all of the stream were closed: its address may stand for another one
        assert len(package.sessions) == 3

    def test_a_closed_engine_makes_no_context(self, load: Load) -> None:
        engine = load()
        engine.close()
        engine.close()
        with pytest.raises(ArtifactError, match="the engine was closed"):
            engine.create_context()


class TestCuda:
    """What the CUDA provider is asked for, and what is refused."""

    @pytest.mark.parametrize(("precision", "nhwc"), [("fp32", "0"), ("fp16", "1"), ("bf16", "1")])
    def test_options(self, load: Load, precision: str, nhwc: str) -> None:
        package = FakeOnnxRuntime(on_cpu=("Shape", "Concat"))
        bound = Bound(load(package=package, provider="cuda", device_id=1, precision=precision))
        assert package.sessions == [
            {
                "use_tf32": "0",
                "cudnn_conv_algo_search": "HEURISTIC",
                "device_id": "1",
                "user_compute_stream": str(STREAM),
                "arena_extend_strategy": "kSameAsRequested",
                "cudnn_conv_use_max_workspace": "1",
                "prefer_nhwc": nhwc,
            }
        ]
        bound.run()
        entries, addresses = package.runs[-1]
        assert entries == {"disable_synchronize_execution_providers": "1"}
        assert addresses == bound.pointers

    def test_a_provider_that_does_not_start_is_refused(self, load: Load) -> None:
        engine = load(package=FakeOnnxRuntime(starts=False), provider="cuda")
        with pytest.raises(ArtifactError, match="CUDAExecutionProvider did not start") as raised:
            engine.create_context().bind(0, {"images": SHAPE}, STREAM)
        assert "onnxruntime-gpu[cuda,cudnn]" in raised.value.hint

    @pytest.mark.parametrize(
        ("missing", "named"), [(("Conv",), "Conv conv"), (("Conv", "Resize"), "Conv conv, Resize")]
    )
    def test_a_node_without_a_cuda_kernel_is_refused_by_name(
        self, load: Load, missing: tuple[str, ...], named: str
    ) -> None:
        engine = load(package=FakeOnnxRuntime(on_cpu=("Shape", "Concat", *missing)), provider="cuda")
        with pytest.raises(ArtifactError, match=f"ONNX Runtime 1.31.1 has no CUDA kernel for {named}") as raised:
            engine.create_context().bind(0, {"images": SHAPE}, STREAM)
        assert "--precision fp32" in raised.value.hint

    def test_it_is_captured_after_two_runs_of_the_shape(self, load: Load) -> None:
        package = FakeOnnxRuntime(on_cpu=("Shape", "Concat"))
        bound = Bound(load(package=package, provider="cuda", device_id=1))
        assert not bound.context.is_capturable(STREAM)  # it never ran
        bound.run()
        before = len(package.runs)
        assert bound.context.is_capturable(STREAM)
        assert [addresses for _, addresses in package.runs[before:]] == [bound.pointers]

    def test_an_operator_that_stages_in_pinned_memory_is_not_captured(self, load: Load) -> None:
        package = FakeOnnxRuntime(on_cpu=("Shape",))  # Concat runs on the GPU
        bound = Bound(load(package=package, provider="cuda", device_id=1))
        bound.run()
        assert not bound.context.is_capturable(STREAM)

    def test_an_error_of_a_run_is_one_line(self, load: Load) -> None:
        package = FakeOnnxRuntime(on_cpu=("Shape", "Concat"))
        bound = Bound(load(package=package, provider="cuda", device_id=1))
        package.fails = lambda: True
        with pytest.raises(ArtifactError, match="cannot run it: CUDA failure 900: operation not permitted") as raised:
            bound.run()
        assert "\n" not in raised.value.message
        package.fails = lambda: False
        np.testing.assert_array_equal(bound.run()["wide"], expected(bound.images)["wide"])


@pytest.mark.parametrize("data", [b"", b"no model", network().SerializeToString()[:-40]])
def test_what_is_no_network_is_refused(load: Load, data: bytes) -> None:
    with pytest.raises(ArtifactError, match=r"^a\.frcnn, features: ") as raised:
        load(data).create_context().bind(0, {"images": SHAPE}, STREAM)
    assert "frcnn build" in raised.value.hint or "upgrade" in raised.value.hint


def test_values_in_another_file_are_refused(load: Load) -> None:
    model = network()
    weight = model.graph.initializer[0]
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../secret")
    with pytest.raises(ArtifactError, match="the values of 'weight' lie in another file"):
        load(model)


@pytest.mark.parametrize(
    ("tensors", "listed"),
    [
        ({"images": EngineTensor(element="float16")}, "'images' of float32, the manifest lists float16, planar"),
        ({"wide": EngineTensor(element="float32", layout="channels_last")}, "'wide' of float32, .* channels_last"),
        ({"small": None}, "'small' of float32, the manifest lists none"),
    ],
)
def test_tensors_must_be_the_manifests(load: Load, tensors: dict[str, Any], listed: str) -> None:
    given = {name: tensor for name, tensor in (TENSORS | tensors).items() if tensor is not None}
    with pytest.raises(ArtifactError, match=listed) as raised:
        load(tensors=given).create_context().bind(0, {"images": SHAPE}, STREAM)
    assert "--target onnxruntime" in raised.value.hint


def test_a_package_without_the_cuda_provider_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingDependencyError, match="'onnxruntime-gpu', which is not installed") as raised:
        dependencies.import_onnxruntime_gpu()
    assert f"(onnxruntime {onnxruntime.__version__} here has " in raised.value.message
    assert raised.value.hint == "pip install 'frcnn[onnxruntime]'"
    package = FakeOnnxRuntime()
    monkeypatch.setattr(importlib, "import_module", lambda name: package)
    assert dependencies.import_onnxruntime_gpu() is package
