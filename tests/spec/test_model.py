"""The description of a model: torchvision's size rule, canvases, and a manifest that is read strictly."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, get_args

import msgspec
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from support.engine_files import source_manifest
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from frcnn.errors import ArtifactError, UsageError
from frcnn.spec import (
    BACKGROUND,
    PRECISIONS,
    SCHEMA_VERSION,
    CheckpointOptions,
    Manifest,
    NonNegative,
    Positive,
    Precision,
    Record,
    ResizeRule,
    Size,
    TransformSpec,
    full_labels,
    read_versioned,
)


def transform(min_size: int = 800, max_size: int = 1333, fixed_size: Size | None = None) -> TransformSpec:
    changes = {"min_size": min_size, "max_size": max_size, "fixed_size": fixed_size}
    return msgspec.structs.replace(source_manifest().model.transform, **changes)


def manifest(**changes: Any) -> Manifest:
    return msgspec.structs.replace(source_manifest(), **changes)


def torchvision_size(spec: TransformSpec, height: int, width: int, *, device: str = "meta") -> Size:
    """Ask torchvision itself; on the device "meta" with an image that has a size and no pixels."""
    fixed = None if spec.fixed_size is None else spec.fixed_size[::-1]  # torchvision: (width, height)
    mean, std = list(spec.image_mean), list(spec.image_std)
    rule = GeneralizedRCNNTransform(spec.min_size, spec.max_size, mean, std, fixed_size=fixed).eval()
    image, _ = rule.resize(torch.empty(3, height, width, device=device), None)
    return int(image.shape[1]), int(image.shape[2])


sides = st.integers(1, 20_000)


@pytest.mark.slow
@given(height=sides, width=sides, min_size=st.integers(16, 2000), extra=st.integers(0, 2000))
@example(height=427, width=640, min_size=800, extra=533)
@example(height=640, width=427, min_size=800, extra=533)  # 1199 x 800: the float rule loses a pixel
@example(height=1, width=1, min_size=800, extra=533)
@example(height=20_000, width=20_000, min_size=800, extra=533)
@settings(max_examples=150)
def test_the_resized_size_is_torchvisions(height: int, width: int, min_size: int, extra: int) -> None:
    spec = transform(min_size, min_size + extra)
    ours = spec.resized_size(height, width)
    scale = min(min_size / min(height, width), (min_size + extra) / max(height, width))
    assume(min(height, width) * scale >= 1)  # torchvision fails below; see the next test
    assert ours == torchvision_size(spec, height, width)


@given(height=sides, width=sides, fixed=st.tuples(st.integers(32, 1500), st.integers(32, 1500)))
@settings(max_examples=50)
def test_a_fixed_size_is_torchvisions(height: int, width: int, fixed: Size) -> None:
    spec = transform(fixed_size=fixed)
    assert spec.resized_size(height, width) == fixed == torchvision_size(spec, height, width)


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1)])
def test_a_side_never_vanishes(size: Size) -> None:
    """Where torchvision fails, a pixel is kept."""
    spec = transform()
    with pytest.raises(RuntimeError, match="greater than 0"):
        torchvision_size(spec, *size, device="cpu")
    assert sorted(spec.resized_size(*size)) == [1, 1333]


@pytest.mark.parametrize(
    ("rule", "size", "expected"),
    [  # of the trainers' own functions, for 800 and 1333; torchvision has (800, 1199) for the first
        ("detectron2", (427, 640), (800, 1199)),
        ("detectron2", (426, 640), (800, 1202)),
        ("detectron2", (375, 1242), (402, 1333)),
        ("detectron2", (161, 161), (800, 800)),
        ("detectron2", (20_000, 1), (1333, 1)),
        ("mmdetection", (426, 640), (800, 1202)),
        ("mmdetection", (1242, 375), (1333, 402)),
        ("mmdetection", (161, 161), (800, 800)),
        ("mmdetection", (1, 20_000), (1, 1333)),
    ],
)
def test_other_trainers_round_to_the_nearest(rule: ResizeRule, size: Size, expected: Size) -> None:
    assert msgspec.structs.replace(transform(), resize=rule).resized_size(*size) == expected


def test_a_model_of_torchvision_does_not_mention_other_rules() -> None:
    text = manifest().to_json()
    assert "resize" not in text and "aligned" not in text
    other = msgspec.structs.replace(
        manifest().model, transform=msgspec.structs.replace(transform(), resize="detectron2")
    )
    assert '"resize":"detectron2"' in manifest(model=other).to_json()


@given(height=st.integers(1, 4000), width=st.integers(1, 4000))
def test_a_canvas_is_the_smallest_multiple_that_holds_an_image(height: int, width: int) -> None:
    for side, needed in zip(transform().canvas_size(height, width), (height, width), strict=True):
        assert side % 32 == 0
        assert 0 <= side - needed < 32


def test_the_options_of_a_checkpoint_are_kept_where_there_are_any() -> None:
    assert "checkpoint_options" not in manifest().to_json(), "as in files of earlier versions"
    options = CheckpointOptions(arch="models.py:build", args=("min_size=640",), state_key="ema")
    made = manifest(checkpoint_options=options)
    assert Manifest.from_json(made.to_json(), source="model.onnx") == made
    assert Manifest.from_json(manifest().to_json(), source="model.onnx").checkpoint_options is None
    for hostile in ('"arch": "a\\u001b[2J"', '"trust_pickle": true', '"args": "min_size=640"'):
        text = manifest().to_json()[:-1] + f', "checkpoint_options": {{{hostile}}}}}'
        with pytest.raises(ArtifactError, match="damaged"):
            Manifest.from_json(text, source="model.onnx")


def test_without_canvases_any_multiple_will_do() -> None:
    assert manifest().canvas_for((799, 1201)) == (800, 1216)


@pytest.mark.parametrize(
    ("resized", "expected"),
    [
        ((800, 1344), (800, 1344)),
        ((1199, 800), (1344, 800)),
        ((320, 320), (640, 640)),
        ((640, 640), (640, 640)),
        ((641, 640), (800, 1344)),
        ((801, 801), None),
        ((800, 1345), None),
        ((1344, 1344), None),
    ],
)
def test_the_smallest_canvas_that_holds_an_image_is_taken(resized: Size, expected: Size | None) -> None:
    given = manifest(canvases=((800, 1344), (1344, 800), (640, 640)))
    assert given.canvas_for(resized) == expected
    reverse = manifest(canvases=((640, 640), (1344, 800), (800, 1344)))
    assert reverse.canvas_for(resized) == expected  # the order they were given in decides nothing


def test_labels_with_and_without_the_background() -> None:
    assert full_labels(["cat", "dog"], 3) == (BACKGROUND, "cat", "dog")
    assert full_labels(["nothing", "cat", "dog"], 3) == ("nothing", "cat", "dog")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        *(([*"abcd"][:n], f"expected 2 names (or 3 with the background first), got {n}") for n in (0, 1, 4)),
        (["cat", ""], "a name is empty"),
        (["cat", " \t"], "a name is empty"),
    ],
)
def test_invalid_labels_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        full_labels(names, 3)


def test_a_label_has_a_name_or_its_number() -> None:
    model = manifest().model
    assert model.label_name(2) == "dog"
    assert msgspec.structs.replace(model, labels=None).label_name(2) == "2"


@pytest.mark.parametrize("canvases", [None, ((800, 1344),), ((800, 1344), (1344, 800))])
def test_a_manifest_is_equal_after_json(canvases: tuple[Size, ...] | None) -> None:
    before = manifest(canvases=canvases, source_sha256="00" * 32)
    assert Manifest.from_json(before.to_json(), source="model.onnx") == before


def test_every_precision_is_read() -> None:
    assert get_args(Precision) == (*PRECISIONS, "int8") == ("fp32", "fp16", "bf16", "int8")
    for precision in PRECISIONS:
        text = manifest(precision=precision).to_json()
        assert Manifest.from_json(text, source="model.onnx").precision == precision


class Stamp(Record, frozen=True, kw_only=True):
    """Another record with a version, as an engine artifact's manifest is one."""

    schema_version: Positive
    count: NonNegative


def read_stamp(text: str) -> Stamp:
    return read_versioned(text, Stamp, 3, source="a.stamp", remake="stamp it again")


def test_a_record_of_any_kind_is_read_by_its_version() -> None:
    assert read_stamp('{"schema_version": 3, "count": 0}') == Stamp(schema_version=3, count=0)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ('{"schema_version": 2, "count": 0}', "a.stamp: manifest schema version 2, expected 3", "stamp it again with"),
        ('{"schema_version": 3, "count": -1}', "a.stamp: the manifest is damaged: .*count", "stamp it again"),
        ('{"schema_version": 3, "count": 0, "more": 1}', "a.stamp: the manifest is damaged: .*more", "stamp it again"),
        ('{"schema_version": 3}', "a.stamp: the manifest is damaged: .*count", "stamp it again"),
    ],
)
def test_an_invalid_record_is_refused_with_a_hint(text: str, message: str, hint: str) -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        read_stamp(text)
    assert caught.value.hint.startswith(hint)


def test_float32_thresholds_survive_json_to_the_last_bit() -> None:
    content = json.loads(manifest().to_json())
    content["model"]["roi_heads"]["pooler"]["level_thresholds"] = [111.99991607666016]
    once = Manifest.from_json(json.dumps(content), source="model.onnx")
    twice = Manifest.from_json(once.to_json().encode(), source="model.onnx")
    assert twice.model.roi_heads.pooler.level_thresholds == (111.99991607666016,)


def test_a_manifest_does_not_change() -> None:
    given: Any = manifest()
    with pytest.raises(AttributeError):
        given.precision = "fp16"


Change = Callable[[dict[str, Any]], object]
CHANGES: dict[str, tuple[Change, str]] = {
    "an unknown field": (lambda m: m.update(more=1), "more"),
    "an unknown field further in": (lambda m: m["model"]["rpn"].update(more=1), "more"),
    "a missing field": (lambda m: m.pop("precision"), "precision"),
    "a number as text": (lambda m: m["model"].update(num_classes="3"), "num_classes"),
    "a size of three": (lambda m: m.update(canvases=[[800, 1344, 3]]), "canvases"),
    "a size of zero": (lambda m: m.update(canvases=[[0, 1344]]), "canvases"),
    "a precision we do not know": (lambda m: m.update(precision="int8"), "precision"),
    "a pooler we do not know": (lambda m: m["model"]["roi_heads"]["pooler"].update(kind="crop"), "kind"),
    "a negative count": (lambda m: m["model"]["roi_heads"].update(detections_per_img=-1), "detections_per_img"),
    "too few labels": (lambda m: m["model"].update(labels=["a", "b"]), "labels"),
    "one class": (lambda m: m["model"].update(num_classes=1), "num_classes"),
    "a mean of two": (lambda m: m["model"]["transform"].update(image_mean=[0, 0]), "image_mean"),
    "null": (lambda m: m.update(model=None), "model"),
}


@pytest.mark.parametrize(("change", "named"), CHANGES.values(), ids=CHANGES)
def test_a_manifest_is_read_strictly_and_the_field_is_named(change: Change, named: str) -> None:
    content = json.loads(manifest().to_json())
    change(content)
    with pytest.raises(ArtifactError, match="the manifest is damaged") as caught:
        Manifest.from_json(json.dumps(content), source="model.onnx")
    assert caught.value.message.startswith("model.onnx: ")
    assert named in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1, -1, 10**20])
def test_another_schema_version_says_both(version: int) -> None:
    content = json.loads(manifest().to_json()) | {"schema_version": version, "news": True}
    with pytest.raises(ArtifactError, match=f"schema version {version}, expected {SCHEMA_VERSION}") as caught:
        Manifest.from_json(json.dumps(content), source="model.onnx")
    assert "export the model again" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "1",
        '"text"',
        "{}",
        '{"schema_version": 1}',
        '{"schema_version": "1"}',
        '{"schema_version": 1.5}',
        '{"schema_version": true}',
        b"\xff\xfe{}",
        b'{"schema_version": 1, "model": "\xff"}',
        "[" * 100_000,
        '{"model":' * 100_000,
        '{"schema_version": 1, "model": ' + "[" * 100_000,
        '{"schema_version": 1, "versions": ' + '{"a":' * 100_000,
    ],
    ids=lambda text: str(text[:24]),
)
def test_invalid_json_is_an_artifact_error(text: str | bytes) -> None:
    with pytest.raises(ArtifactError, match=r"^model\.onnx: the manifest is damaged"):
        Manifest.from_json(text, source="model.onnx")


@pytest.mark.parametrize("again", ["fp16", "fp32", "int8"])
def test_a_field_given_twice_is_refused(again: str) -> None:
    text = manifest().to_json()
    with pytest.raises(ArtifactError, match="precision"):
        Manifest.from_json(text[:-1] + f',"precision":"{again}"}}', source="model.onnx")


@given(text=st.text(max_size=200) | st.binary(max_size=200))
def test_random_text_is_an_artifact_error(text: str | bytes) -> None:
    with pytest.raises(ArtifactError):
        Manifest.from_json(text, source="model.onnx")
