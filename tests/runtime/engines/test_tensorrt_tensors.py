"""A deserialised engine that is not what its manifest says is refused before anything is executed."""

from __future__ import annotations

from typing import Any

import pytest
from support.engine_files import static_profile
from support.fake_tensorrt import FakeTensorRT, ICudaEngine, ILogger, blob

from frcnn.errors import ArtifactError
from frcnn.runtime.engines.tensorrt_tensors import check_profiles, check_step, check_tensors
from frcnn.spec.engine import EngineStep, EngineTensor, Profile, Range

MAPS = {"x": "in HALF LINEAR 3", "y": "out HALF HWC8 64"}
STEP = EngineStep(part="engines/features.plan", inputs=("x",), outputs=("y",))
PROFILES = (
    static_profile(800, 1344),
    Profile(
        batch=Range(min=1, opt=2, max=4), height=Range(min=320, opt=800, max=1344), width=Range(min=64, opt=96, max=128)
    ),
)
SHAPES = [
    [(1, 3, 800, 1344), (1, 3, 800, 1344), (8, 3, 800, 1344)],
    [(1, 3, 320, 64), (2, 3, 800, 96), (4, 3, 1344, 128)],
]


def engine_of(trt: FakeTensorRT, **tensors: str) -> ICudaEngine:
    return ICudaEngine(trt, ILogger(), blob(**tensors))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"x": MAPS["x"]}, "engines/features.plan has the outputs , the manifest says y"),
        (MAPS | {"z": "out HALF LINEAR 8"}, "has the outputs y, z, the manifest says y"),
        (MAPS | {"z": "in HALF LINEAR 8"}, "has the inputs x, z, the manifest says x"),
        ({"x": "out HALF LINEAR 3", "y": "in HALF HWC8 64"}, "has the inputs y, the manifest says x"),
    ],
)
def test_an_engine_with_other_inputs_or_outputs_than_its_step_is_refused(tensors: Any, message: str) -> None:
    trt = FakeTensorRT(is_rtx=False)
    check_step(trt, engine_of(trt, **MAPS), STEP)
    with pytest.raises(ArtifactError, match=message) as caught:
        check_step(trt, engine_of(trt, **tensors), STEP)
    assert "frcnn build" in caught.value.hint


@pytest.mark.parametrize("layout", ["channels_last", "nhwc"])
def test_an_engine_with_other_channels_is_refused(layout: Any) -> None:
    trt = FakeTensorRT(is_rtx=False)
    engine = engine_of(trt, y="out HALF HWC8 64" if layout == "channels_last" else "out HALF LINEAR 64")
    engine._tensors["y"].shape = (-1, 64, -1, -1) if layout == "channels_last" else (-1, -1, -1, 64)
    check_tensors(trt, engine, {"y": EngineTensor(element="float16", layout=layout, channels=64)})
    check_tensors(trt, engine, {"y": EngineTensor(element="float16", layout=layout)})
    with pytest.raises(ArtifactError, match="the engine's 'y' has 64 channels, the manifest says 256"):
        check_tensors(trt, engine, {"y": EngineTensor(element="float16", layout=layout, channels=256)})


@pytest.mark.parametrize("layout", ["planar", "nhwc"])
@pytest.mark.parametrize(
    ("profile", "bound", "shape", "message"),
    [
        (0, 2, (4, 3, 800, 1344), "profile 0 of the engine takes a batch of 1 to 4, the manifest says 1 to 8"),
        (0, 0, (1, 3, 320, 1344), "profile 0 of the engine takes a height of 320 to 800, the manifest says 800 to 800"),
        (1, 2, (4, 3, 1344, 256), "profile 1 of the engine takes a width of 64 to 256, the manifest says 64 to 128"),
    ],
)
def test_an_engine_that_takes_other_images_is_refused(
    layout: Any, profile: int, bound: int, shape: tuple[int, ...], message: str
) -> None:
    images = EngineTensor(element="float32", layout=layout)
    trt = FakeTensorRT(is_rtx=False)
    engine = engine_of(trt, images="in FLOAT LINEAR 3", y=MAPS["y"])
    found = [[images.engine_shape(each) for each in shapes] for shapes in SHAPES]
    trt.profile_shapes["images"] = found
    check_profiles(engine, PROFILES, {"images": images})
    found[profile][bound] = images.engine_shape(shape)
    with pytest.raises(ArtifactError, match=message):
        check_profiles(engine, PROFILES, {"images": images})


def test_an_engine_with_another_number_of_profiles_is_refused() -> None:
    engine = engine_of(FakeTensorRT(is_rtx=False), **MAPS)
    check_profiles(engine, PROFILES, {})
    with pytest.raises(ArtifactError, match="the engine has 2 profiles, the manifest says 1"):
        check_profiles(engine, PROFILES[:1], {})


@pytest.mark.parametrize(
    ("description", "layout"),
    [
        ("Row major linear FP16 format (kLINEAR)", "planar"),  # of 11.4
        ("Eight channel FP16 format (kHWC8) where C is padded to a multiple of 8", "channels_last"),
        ("Row major linear FP32 format", "planar"),  # of 10.6
        ("Channel major FP16 format where C % 8 == 0", "channels_last"),
        ("Channel major FP32 format", "channels_last"),
    ],
)
def test_the_lean_runtime_tells_layouts_in_words(
    description: str, layout: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = FakeTensorRT(is_rtx=False, is_lean=True)
    engine = engine_of(trt, y="out HALF LINEAR 64")
    monkeypatch.setattr(ICudaEngine, "get_tensor_format_desc", lambda *_: description)
    check_tensors(trt, engine, {"y": EngineTensor(element="float16", layout=layout)})
    monkeypatch.setattr(ICudaEngine, "get_tensor_format_desc", lambda *_: "Row major FP16 where column stride % 64")
    with pytest.raises(ArtifactError, match="'y' is float16 Row major FP16 where column stride % 64, the manifest"):
        check_tensors(trt, engine, {"y": EngineTensor(element="float16", layout=layout)})
