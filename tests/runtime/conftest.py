"""A stand-in model: fixed boxes, and a score that identifies the image.

It has the inputs, outputs and manifest of an exported model, but no network. Parity with torchvision is tested
elsewhere, with real exported models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray
from PIL import Image
from support.engine_files import source_manifest
from support.fake_device import FakeDevice
from support.simt import require_compiler

from frcnn.runtime import Detector
from frcnn.runtime.host.providers import RunProvider
from frcnn.spec import MANIFEST_KEY, Manifest, Precision, ResizeRule, Size, TransformSpec

LABELS = ("__background__", "cat", "dog", "teddy bear")

GRAPH = """
<ir_version: 10, opset_import: ["" : 20], producer_name: "fake">
fake ({dtype}[N,3,H,W] images, int32[N,2] image_sizes)
  => (int32[N] num_detections, float[N,3,4] boxes, float[N,3] scores, int32[N,3] labels)
<float[1,3,4] shape = {{0.1, 0.2, 0.5, 0.6, 0.5, 0.5, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0}},
 float[1,3] lower = {{1.0, 0.5, 0.0}}, int32[1,3] classes = {{1, 2, 0}}, int64[3] axes = {{1, 2, 3}},
 int64[4] order = {{1, 0, 1, 0}}, int64[1] one = {{1}}, float zero = {{0.0}}, int32 two = {{2}},
 float[1024] weights>
{{
  wide = Cast<to = 1>(images)
  peak = ReduceMax<keepdims = 0>(wide, axes)
  some = Greater(peak, zero)
  some_number = Cast<to = 6>(some)
  num_detections = Mul(some_number, two)
  sides = Cast<to = 1>(image_sizes)
  corners = Gather<axis = 1>(sides, order)
  corners3 = Unsqueeze(corners, one)
  boxes = Mul(corners3, shape)
  peak1 = Unsqueeze(peak, one)
  scores = Mul(peak1, lower)
  nothing = Mul(some_number, num_detections)
  nothing1 = Unsqueeze(nothing, one)
  nothing0 = Sub(nothing1, nothing1)
  labels = Add(nothing0, classes)
}}
"""


def make_manifest(
    *,
    labels: tuple[str, ...] | None = LABELS,
    canvases: tuple[Size, ...] | None = None,
    min_size: int = 64,
    max_size: int = 128,
    fixed_size: Size | None = None,
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0),
    std: tuple[float, float, float] = (1.0, 1.0, 1.0),
    precision: Precision = "fp32",
    resize: ResizeRule = "torchvision",
) -> Manifest:
    """Return a manifest; by default images are not normalised, so that a grey level survives to the output."""
    base = source_manifest(precision=precision, canvases=canvases)
    heads = base.model.roi_heads
    pooler = replace(heads.pooler, feature_names=("0",), spatial_scales=(0.0625,), level_thresholds=())
    model = replace(
        base.model,
        architecture="fake",
        labels=labels,
        transform=TransformSpec(
            min_size=min_size,
            max_size=max_size,
            fixed_size=fixed_size,
            size_divisible=32,
            image_mean=mean,
            image_std=std,
            resize=resize,
        ),
        rpn=replace(base.model.rpn, num_levels=1, anchors_per_location=(3,), pre_nms_top_n=10, post_nms_top_n=10),
        roi_heads=replace(heads, pooler=pooler, detections_per_img=3),
    )
    return replace(base, model=model, assumptions=("min_size=64 (the builder's default)",))


def make_model(path: Path, manifest: Manifest | None, *, dtype: str = "float") -> Path:
    """Write a stand-in model; without a manifest it is an ONNX file of another program."""
    model = onnx.parser.parse_model(GRAPH.format(dtype=dtype))
    weights = onnx.numpy_helper.from_array(np.arange(1024, dtype=np.float32), "weights")
    for index, tensor in enumerate(model.graph.initializer):
        if tensor.name == "weights":
            del model.graph.initializer[index]
            break
    model.graph.initializer.append(weights)
    if manifest is not None:
        entry = model.metadata_props.add()
        entry.key, entry.value = MANIFEST_KEY, manifest.to_json()
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session")
def manifest_of() -> Callable[..., Manifest]:
    """``make_manifest``, for tests: modules of tests do not import each other."""
    return make_manifest


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a stand-in model with a manifest, or with none, into a new folder."""

    def write(manifest: Manifest | None, *, dtype: str = "float") -> Path:
        return make_model(tmp_path_factory.mktemp("model") / "model.onnx", manifest, dtype=dtype)

    return write


@pytest.fixture(scope="session")
def model_path(model_of: Callable[..., Path]) -> Path:
    """A stand-in model.onnx with dynamic canvases."""
    return model_of(make_manifest())


@pytest.fixture(scope="session", params=["cpu", "openvino"])
def provider(request: pytest.FixtureRequest) -> RunProvider:
    """Each provider that runs a model.onnx on the CPU: what a detector promises it promises on all of them."""
    name: RunProvider = request.param
    return name


@pytest.fixture(scope="session")
def detector(model_path: Path, provider: RunProvider) -> Detector:
    """A detector of the stand-in model."""
    return Detector.load(model_path, provider=provider, threads=1)


@pytest.fixture(scope="session")
def grey() -> Callable[..., NDArray[np.uint8]]:
    """Make an image of one grey level: the stand-in model's best score is ``level / 255``, black has no objects."""

    def make(level: int, height: int = 60, width: int = 80) -> NDArray[np.uint8]:
        return np.full((height, width, 3), level, np.uint8)

    return make


@pytest.fixture
def image_file(tmp_path: Path, grey: Callable[..., NDArray[np.uint8]]) -> Callable[..., Path]:
    """Write a grey image file under the test's folder."""

    def write(name: str, level: int = 200, height: int = 60, width: int = 80) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grey(level, height, width)).save(path)
        return path

    return write


@pytest.fixture
def device() -> Iterator[FakeDevice]:
    """A fake GPU, active on this thread; any misuse fails the test."""
    require_compiler()
    made = FakeDevice()
    made.activate()
    yield made
    assert made.misuses == []
