"""Known architectures, how weights select one, and builder functions of users."""

from __future__ import annotations

import copy
import functools
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models import WeightsEnum, detection, get_model, get_model_weights
from torchvision.models.detection import FasterRCNN
from torchvision.ops import FrozenBatchNorm2d

from frcnn.errors import CheckpointError, UsageError
from frcnn.exporter import MultiScaleRoIPool
from frcnn.exporter.checkpoint.architecture_match import choose_norm, infer_architecture
from frcnn.exporter.checkpoint.architectures import ARCHITECTURES, Builder
from frcnn.exporter.checkpoint.builder_arguments import ARCHITECTURE, TORCHVISION_NAMES, parse_args
from frcnn.exporter.checkpoint.builders import accepted_arguments, build_model, resolve_builder
from frcnn.exporter.checkpoint.load import _norms, read_checkpoint

TINY = Path(__file__).parents[2] / "support" / "tiny_models.py"
TWINS = {"fasterrcnn_mobilenet_v3_large_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn"}
SINGLE_LEVEL = ("fasterrcnn_vgg16", "fasterrcnn_resnet50_c4", "fasterrcnn_resnet101_c4")


@functools.cache
def on_meta(name: str) -> FasterRCNN:
    """Build without memory or numbers."""
    return build_model(name, ARCHITECTURES[name], num_classes=4, args={}, device="meta")


@pytest.fixture(autouse=True)
def quick_matching(monkeypatch):
    """Build what weights are compared with once for all tests, where no arguments are given."""

    def build(name: str, builder: Builder, *, num_classes: int, args: Mapping[str, object], device: str) -> FasterRCNN:
        if num_classes == 4 and not args:
            return on_meta(name)
        return build_model(name, builder, num_classes=num_classes, args=args, device=device)

    monkeypatch.setattr("frcnn.exporter.checkpoint.architecture_match.build_model", build)


def infer(state: Mapping[str, Tensor], **options: Any) -> tuple[str, str]:
    defaults: dict[str, Any] = {"source": "my.pth", "num_classes": 4, "args": {}, "recorded": None, "published": None}
    return infer_architecture(state, **(defaults | options))


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_builder_returns_a_faster_rcnn_with_the_number_of_classes(name):
    model = on_meta(name)
    assert type(model) is FasterRCNN
    assert ARCHITECTURES[name].__name__ == name
    assert model.state_dict()["roi_heads.box_predictor.cls_score.weight"].shape[0] == 4


@pytest.mark.parametrize("name", TORCHVISION_NAMES)
def test_builders_of_torchvision_keep_its_settings(name):
    with torch.device("meta"):
        theirs = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=4)
    ours = on_meta(name)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    for path in ("transform.min_size", "transform.max_size", "rpn.score_thresh", "rpn._pre_nms_top_n"):
        part, attribute = path.split(".")
        assert getattr(getattr(ours, part), attribute) == getattr(getattr(theirs, part), attribute)
    assert ours.rpn.anchor_generator.sizes == theirs.rpn.anchor_generator.sizes


@pytest.mark.parametrize("depth", [18, 34, 101, 152])
def test_resnet_fpn_depths(depth):
    state = on_meta(f"fasterrcnn_resnet{depth}_fpn").state_dict()
    blocks = {18: 2, 34: 6, 101: 23, 152: 36}[depth]
    assert f"backbone.body.layer3.{blocks - 1}.conv1.weight" in state
    assert f"backbone.body.layer3.{blocks}.conv1.weight" not in state
    c4 = on_meta("fasterrcnn_resnet50_c4").state_dict()  # its box head is the last stage
    assert not any(name.startswith("backbone.layer4") for name in c4)
    assert c4["roi_heads.box_head.layer4.2.conv3.weight"].shape == (2048, 512, 1, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "cells", "channels"), [("fasterrcnn_vgg16", 7, 512), (SINGLE_LEVEL[1], 14, 1024)])
def test_single_level_architectures_use_max_pooling_at_stride_16(name, cells, channels):
    pooler = on_meta(name).roi_heads.box_roi_pool
    assert isinstance(pooler, MultiScaleRoIPool)
    assert pooler.output_size == (cells, cells)
    small = {"min_size": 64, "max_size": 96, "rpn_post_nms_top_n_test": 5, "box_score_thresh": 0.0}
    model = build_model(name, ARCHITECTURES[name], num_classes=3, args=small).eval()
    with torch.no_grad():
        features = model.backbone(torch.rand(1, 3, 64, 96))
        (detections,) = model([torch.rand(3, 64, 96)])
    features = features["0"] if isinstance(features, dict) else features
    assert features.shape == (1, channels, 4, 6)
    assert 0 < len(detections["boxes"]) <= 10
    assert set(detections["labels"].tolist()) <= {1, 2}


@pytest.mark.parametrize("name", ["fasterrcnn_resnet18_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn"])
def test_norms(name):
    def kinds(**args: object) -> set[tuple[type, float]]:
        model = build_model(name, ARCHITECTURES[name], num_classes=2, args=args, device="meta")
        return {(type(m), m.eps) for m in model.modules() if isinstance(m, (nn.BatchNorm2d, FrozenBatchNorm2d))}

    assert kinds() == {(nn.BatchNorm2d, 1e-5)}
    assert kinds(norm="frozen") == {(FrozenBatchNorm2d, 1e-5)}
    assert kinds(norm="frozen", norm_eps=0.0) == {(FrozenBatchNorm2d, 0.0)}
    assert kinds(norm_eps=1e-3) == {(nn.BatchNorm2d, 1e-3)}
    with pytest.raises(CheckpointError, match="expected 'batch' or 'frozen', got 'group'"):
        kinds(norm="group")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn_v2", "fasterrcnn_mobilenet_v3_large_fpn"])
def test_anchors_by_argument(name):
    def build(**args: object) -> FasterRCNN:
        return build_model(name, ARCHITECTURES[name], num_classes=2, args=args, device="meta")

    levels = len(on_meta(name).rpn.anchor_generator.sizes)
    model = build(rpn_anchor_sizes=((16, 24),) * levels, rpn_aspect_ratios=(0.5, 2))
    assert model.rpn.anchor_generator.sizes == ((16, 24),) * levels
    assert model.rpn.anchor_generator.aspect_ratios == ((0.5, 2),) * levels
    assert model.rpn.head.cls_logits.out_channels == 4
    assert len(model.rpn.head.conv) == len(on_meta(name).rpn.head.conv)
    per_level = build(rpn_aspect_ratios=((1.0,),) * levels)
    assert per_level.rpn.anchor_generator.aspect_ratios == ((1.0,),) * levels
    with pytest.raises(CheckpointError, match=f"expected anchors for {levels} feature levels, got sizes for 1"):
        build(rpn_anchor_sizes=((16,),))
    with pytest.raises(CheckpointError, match="same number of anchors per location"):
        build(rpn_anchor_sizes=((16,),) * (levels - 1) + ((16, 32),))


def test_building_does_not_change_the_random_state():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    build_model("tiny", resolve_builder(f"{TINY}:build"), num_classes=2, args={})
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES.keys() - TWINS))
def test_architecture_is_inferred(name):
    for recorded in (None, *TWINS):  # a recorded name that does not fit is ignored
        inferred, why = infer(on_meta(name).state_dict(), recorded=recorded)
        assert inferred == name
        assert "the only known one" in why


def test_architectures_with_the_same_names_and_shapes_are_listed():
    state = on_meta("fasterrcnn_mobilenet_v3_large_fpn").state_dict()
    with pytest.raises(CheckpointError) as caught:
        infer(state)
    assert all(name in caught.value.message for name in TWINS)
    assert "--arch fasterrcnn_mobilenet_v3_large_fpn" in caught.value.hint


@pytest.mark.parametrize("name", sorted(TWINS))
def test_the_file_selects_among_architectures_with_the_same_shapes(name):
    state = on_meta(name).state_dict()
    assert infer(state, recorded=name)[0] == name
    assert infer(state, recorded=name.replace("mobilenet_v3", "mobilenetv3"))[0] == name
    assert infer(state, published=name)[0] == name
    with pytest.raises(CheckpointError, match="fits 2 architectures"):
        infer(state, recorded="something else")


def test_names_from_before_torchvision_0_13_are_accepted():
    """torchvision's COCO weights of fasterrcnn_resnet50_fpn still have the names from before 0.13."""
    old = {}
    for name, tensor in on_meta("fasterrcnn_resnet50_fpn").state_dict().items():
        short = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        for block in ("inner_blocks", "layer_blocks"):
            for level in range(4):
                short = short.replace(f"{block}.{level}.0.", f"{block}.{level}.")
        if not short.endswith("num_batches_tracked"):
            old[short] = tensor
    assert "backbone.fpn.inner_blocks.0.weight" in old and "rpn.head.conv.weight" in old
    assert infer(old)[0] == "fasterrcnn_resnet50_fpn"


def test_without_a_fit_the_closest_is_named():
    state = dict(on_meta("fasterrcnn_resnet34_fpn").state_dict())
    del state["roi_heads.box_head.fc6.bias"]
    state["backbone.attention.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as caught:
        infer(state, recorded="resnet34_with_attention")
    text = caught.value.message
    assert (
        "fits no known architecture (it says 'resnet34_with_attention'); the closest is fasterrcnn_resnet34_fpn" in text
    )
    assert "1 missing: roi_heads.box_head.fc6.bias; 1 unexpected: backbone.attention.weight" in text
    assert "--arch mypkg.models:build" in caught.value.hint


@pytest.mark.slow
def test_arguments_are_considered():
    args = {"rpn_aspect_ratios": (0.5, 1.0, 1.5, 2.0)}
    name = "fasterrcnn_resnet18_fpn"
    state = build_model(name, ARCHITECTURES[name], num_classes=4, args=args, device="meta").state_dict()
    assert infer(state, args=args)[0] == name
    with pytest.raises(CheckpointError, match=r"closest is fasterrcnn_resnet18_fpn.* expected \(12, 256, 1, 1\)"):
        infer(state)
    with pytest.raises(UsageError, match="takes no argument 'min_sizes'"):
        infer(state, args={"min_sizes": 3})


FROZEN = {"backbone.body.bn1.running_var": torch.ones(2)}
COUNTED = FROZEN | {"backbone.body.bn1.num_batches_tracked": torch.tensor(0)}


@pytest.mark.parametrize(
    ("arch", "state", "expected"),
    [
        ("fasterrcnn_resnet50_fpn", FROZEN, ("frozen", 0.0)),
        ("fasterrcnn_resnet50_fpn", COUNTED, ("batch", 1e-5)),
        ("fasterrcnn_resnet50_fpn", {"backbone.body.bn1.running_var": torch.tensor([1.0, 0.0])}, ("frozen", 1e-5)),
        ("fasterrcnn_resnet18_fpn", FROZEN, ("frozen", 1e-5)),
        ("fasterrcnn_mobilenet_v3_large_fpn", FROZEN, ("frozen", 1e-5)),
        ("fasterrcnn_resnet50_fpn_v2", FROZEN, ("batch", 1e-5)),
        ("fasterrcnn_vgg16", {"backbone.0.weight": torch.ones(1)}, None),
    ],
)
def test_norms_are_chosen_by_the_weights(arch, state, expected):
    assert choose_norm(arch, state) == expected


def norm_layers(model: nn.Module) -> list[tuple[str, type, float]]:
    return [(n, type(m), m.eps) for n, m in model.named_modules() if "BatchNorm" in type(m).__name__]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn"])
def test_published_file_is_loaded_as_torchvision_does(name, tmp_path, monkeypatch):
    """With a file of random numbers in the place of the one that torchvision publishes."""
    frozen = build_model(name, ARCHITECTURES[name], num_classes=91, args={"norm": "frozen"}).state_dict()
    for key, tensor in frozen.items():
        if key.endswith("running_var"):
            tensor.mul_(0.5)
    path = tmp_path / "published.pth"
    torch.save({k: v.half() for k, v in frozen.items()}, path)
    weights = get_model_weights(name)["COCO_V1"]
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_args, **_options: torch.load(path))
    theirs = get_model(name, weights=weights).eval()

    monkeypatch.setattr("frcnn.exporter.checkpoint.load.published_weights", lambda _sha256: (name, weights))
    loaded = read_checkpoint(path)
    assert loaded.spec.architecture == name  # by the file, although the 320 model has a twin
    assert norm_layers(loaded.model) == norm_layers(theirs)
    assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in loaded.model.state_dict().items())
    assert loaded.spec.labels == tuple(weights.meta["categories"])
    assert any("as torchvision has it for this file" in line for line in loaded.facts)
    assert not any("batch norms" in line for line in loaded.assumptions)


@pytest.mark.parametrize(
    ("arch", "given", "assumed"),
    [
        ("fasterrcnn_resnet50_fpn", {}, "FrozenBatchNorm2d with eps 0, as after fine-tuning from torchvision's"),
        ("fasterrcnn_resnet18_fpn", {}, "FrozenBatchNorm2d with eps 1e-05; as fasterrcnn_resnet18_fpn has it"),
        ("fasterrcnn_resnet18_fpn", {"norm": "batch"}, ": BatchNorm2d with eps 1e-05"),
        ("fasterrcnn_resnet50_fpn", {"norm_eps": 1e-5}, None),
    ],
)
def test_norms_are_reported(arch, given, assumed):
    arguments, facts, lines = _norms(arch, FROZEN, given, published=False)
    assert not facts
    assert len(lines) == (assumed is not None)
    assert all(str(assumed) in line for line in lines)
    assert not arguments.keys() & given.keys()


@pytest.fixture
def source(tmp_path):
    """Return a function that writes a module and returns its ``--arch``."""

    def write(text: str) -> str:
        path = tmp_path / "user_models.py"
        path.write_text(textwrap.dedent(text))
        return f"{path}:build"

    return write


def test_function_of_a_file_and_of_a_module(tmp_path, monkeypatch):
    package = tmp_path / "frcnn_test_pkg"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "models.py").write_text(TINY.read_text())
    monkeypatch.chdir(tmp_path)
    for arch in ("frcnn_test_pkg.models:build", "frcnn_test_pkg/models.py:build", f"{package}/models.py:build"):
        model = build_model(arch, resolve_builder(arch), num_classes=5, args={})
        assert model.roi_heads.box_predictor.cls_score.out_features == 5
    assert str(tmp_path) not in __import__("sys").path


def test_function_that_imports_its_neighbour_when_called(tmp_path, source):
    (tmp_path / "frcnn_test_neighbour.py").write_text(TINY.read_text())
    arch = source("def build():\n    import frcnn_test_neighbour\n    return frcnn_test_neighbour.build()\n")
    assert isinstance(build_model(arch, resolve_builder(arch), num_classes=4, args={}), FasterRCNN)


@pytest.mark.parametrize(
    ("arch", "expected"),
    [
        ("resnet50", "unknown architecture 'resnet50'"),
        ("", "unknown architecture ''"),
        ("models.py", "unknown architecture 'models.py'"),
        ("none/such.py:build", "there is no file none/such.py"),
        ("no_such_package.models:build", "there is no module 'no_such_package'"),
        ("json.no_such:build", "there is no module 'json.no_such'"),
        (f"{TINY}:bild", "has no function 'bild'"),
        (f"{TINY}:NOT_A_FUNCTION", "has no function 'NOT_A_FUNCTION'"),
    ],
)
def test_builder_that_does_not_exist(arch, expected):
    with pytest.raises(UsageError) as caught:
        resolve_builder(arch)
    assert expected in caught.value.message
    assert "build" in caught.value.hint  # an example, or the functions there are


@pytest.mark.parametrize(
    ("arch", "hint"),
    [
        ("resnet50", f"known: {', '.join(ARCHITECTURES)}. Your own function: --arch "),
        ("fasterrcnn_resnet50_fpnv2", "did you mean fasterrcnn_resnet50_fpn_v2? Your own function: --arch "),
        (f"{TINY}:buidl", "did you mean build?"),
    ],
)
def test_the_hint_of_an_unknown_architecture(arch, hint):
    with pytest.raises(UsageError) as caught:
        resolve_builder(arch)
    assert caught.value.hint.startswith(hint)
    assert ARCHITECTURE.known == tuple(ARCHITECTURES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import no_such_dependency\n", "needs the module 'no_such_dependency'"),
        ("def build(:\n", "SyntaxError"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
    ],
)
def test_builder_that_does_not_import(text, expected, source):
    with pytest.raises(CheckpointError) as caught:
        resolve_builder(source(text))
    assert expected in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("build_tuple", "returned a builtins.tuple, expected a torchvision FasterRCNN"),
        ("build_failing", "failed: OSError: the disk is on fire"),
        ("LightningLike", r"returned a .*LightningLike, expected .*is its attribute model: give that, model\.model\)"),
    ],
)
def test_builder_that_returns_no_detector(name, expected):
    arch = f"{TINY}:{name}"
    with pytest.raises(CheckpointError, match=expected):
        build_model(arch, resolve_builder(arch), num_classes=4, args={})


@pytest.mark.parametrize(
    ("arch", "args", "expected"),
    [
        (f"{TINY}:build_four_classes", {"side": 3}, r"takes no argument 'side' \(it takes min_size\)"),
        (f"{TINY}:build_tuple", {"a": 3}, r"takes no argument 'a' \(it takes none\)"),
        (f"{TINY}:build", {"max_sizes": 3, "min_size": 3}, "takes no argument 'max_sizes'"),
        ("fasterrcnn_vgg16", {"max_sizes": 3}, r"takes no argument 'max_sizes' \(did you mean max_size\?\)"),
        ("fasterrcnn_vgg16", {"x": 3}, r"takes no argument 'x' \(it takes .*max_size, min_size.*"),
        ("fasterrcnn_vgg16", {"min_size": "big"}, "min_size: expected a whole number above 0, got 'big'"),
        ("fasterrcnn_vgg16", {"min_size": -1}, "min_size: expected a whole number above 0, got -1"),
        ("fasterrcnn_vgg16", {"box_score_thresh": 5}, "box_score_thresh: expected a number from 0 to 1, got 5"),
        ("fasterrcnn_vgg16", {"box_nms_thresh": float("nan")}, "expected a number from 0 to 1, got nan"),
    ],
)
def test_invalid_arguments(arch, args, expected):
    with pytest.raises(UsageError, match=expected):
        build_model(arch, resolve_builder(arch), num_classes=4, args=args, device="meta")


def test_accepted_arguments():
    known = accepted_arguments(ARCHITECTURES["fasterrcnn_vgg16"])
    assert known is not None
    assert {"min_size", "fixed_size", "size_divisible", "box_score_thresh", "num_classes", "norm_eps"} <= known
    assert not {"self", "backbone", "kwargs"} & known
    assert accepted_arguments(resolve_builder(f"{TINY}:build")) is None
    assert accepted_arguments(resolve_builder(f"{TINY}:build_four_classes")) == frozenset({"min_size"})


def test_parse_args():
    items = ["min_size=640", "box_score_thresh=0.1", "a=None", "b=((32,),(64,))", "c=text", "d='640'", "e=a=b", "f="]
    assert parse_args(items) == {
        "min_size": 640,
        "box_score_thresh": 0.1,
        "a": None,
        "b": ((32,), (64,)),
        "c": "text",
        "d": "640",
        "e": "a=b",
        "f": "",
    }


@pytest.mark.parametrize("item", ["min_size", "=3", "min size=3", "3=3", "class=3", "", "a=2"])
def test_parse_args_refuses(item):
    with pytest.raises(UsageError, match="a is given twice" if item == "a=2" else "expected KEY=VALUE"):
        parse_args(["a=1", item])


@pytest.mark.slow
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda v: st.lists(v) | st.tuples(v, v)))
def test_parse_args_reads_back_any_literal(value):
    before = copy.deepcopy(value)
    assert parse_args([f"key={value!r}"]) == {"key": before}
