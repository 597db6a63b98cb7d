"""Blocks, stems and pyramids that torchvision has not, against what they are defined as."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support import trainer_states as tiny
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from frcnn.exporter.checkpoint.trainers.build import build_restatement
from frcnn.exporter.checkpoint.trainers.networks.backbones import ResNetBody
from frcnn.exporter.checkpoint.trainers.networks.blocks import SplitBlock, shortcut
from frcnn.exporter.checkpoint.trainers.networks.hrnet import Exchange, HRNetBody
from frcnn.exporter.checkpoint.trainers.networks.necks import BalancedPyramid, MergedPyramid, PathAggregationNetwork
from frcnn.exporter.checkpoint.trainers.networks.shapes import Shapes
from frcnn.exporter.checkpoint.trainers.settings import Converted
from frcnn.exporter.graph.export import export_onnx
from frcnn.runtime import Detector

FPN = "backbone.fpn"
OUT, WIDTHS = 16, (8, 16, 24, 32)


def loaded(build: Callable[[Shapes], nn.Module], weights: dict[str, Tensor], prefix: str) -> nn.Module:
    """Return the module that the weights' shapes make, with the weights: every one has its place."""
    module = build(Shapes(weights, tiny.settings(stride_in_1x1=False)))
    own = {name.removeprefix(f"{prefix}."): t for name, t in weights.items() if name.startswith(f"{prefix}.")}
    module.load_state_dict(own)
    return module.eval()


def norm(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    mean, var = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
    return F.batch_norm(x, mean, var, weights[f"{name}.weight"], weights[f"{name}.bias"], eps=1e-5)


def split_block(given: int, width: int, out: int, *, has_shortcut: bool) -> tiny.Weights:
    weights = tiny.Weights()
    weights.conv("b.conv1", 4 * width, given, 1)
    weights.norm("b.bn1", 4 * width)
    for i in range(3):
        weights.conv(f"b.convs.{i}", width, width, 3)
        weights.norm(f"b.bns.{i}", width)
    weights.conv("b.conv3", out, 4 * width, 1)
    weights.norm("b.bn3", out)
    if has_shortcut:
        weights.conv("b.downsample.1", out, given, 1)
        weights.norm("b.downsample.2", out)
    return weights


@pytest.mark.parametrize(("is_first", "stride"), [(True, 2), (True, 1), (False, 1)])
@torch.inference_mode()
def test_a_block_of_res2net(is_first: bool, stride: int) -> None:
    weights = split_block(8, 4, 8, has_shortcut=is_first)
    block = loaded(lambda s: SplitBlock(s, "b", 8, stride=stride, dilation=1, is_first=is_first), weights, "b")
    x = torch.randn(2, 8, 10, 13, generator=torch.Generator().manual_seed(0))
    parts = F.relu(norm(F.conv2d(x, weights["b.conv1.weight"]), weights, "b.bn1")).split(4, dim=1)
    y: list[Tensor] = []
    for i in range(3):
        given = parts[i] if is_first or i == 0 else parts[i] + y[-1]
        y.append(F.relu(norm(F.conv2d(given, weights[f"b.convs.{i}.weight"], None, stride, 1), weights, f"b.bns.{i}")))
    y.append(F.avg_pool2d(parts[3], 3, stride, 1) if stride > 1 else parts[3])
    expected = norm(F.conv2d(torch.cat(y, 1), weights["b.conv3.weight"]), weights, "b.bn3")
    around = x
    if is_first:
        around = F.avg_pool2d(x, stride, stride, ceil_mode=True, count_include_pad=False)
        around = norm(F.conv2d(around, weights["b.downsample.1.weight"]), weights, "b.downsample.2")
    torch.testing.assert_close(block(x), F.relu(expected + around))


@torch.inference_mode()
def test_a_shortcut_averages_what_there_is_at_the_edge() -> None:
    weights = tiny.Weights()
    weights.conv("b.downsample.1", 1, 1, 1)
    weights.norm("b.downsample.2", 1)
    way = shortcut(Shapes(weights, tiny.settings()), "b", 1, stride=2)
    assert way is not None
    mean = way[0](torch.arange(9.0).reshape(1, 1, 3, 3))
    assert mean.flatten().tolist() == [2, 3.5, 6.5, 8]


@torch.inference_mode()
def test_a_deep_stem_and_that_of_a_regnet_halve_as_often_as_theirs() -> None:
    deep, regnet = tiny.state(), tiny.state()
    for weights in (deep, regnet):
        for name in [name for name in weights if name.startswith(("backbone.body.conv1", "backbone.body.bn1"))]:
            del weights[name]
    own = tiny.Weights()
    for i, (given, out) in zip((0, 3, 6), ((3, 4), (4, 4), (4, 8)), strict=True):
        own.conv(f"backbone.body.stem.{i}", out, given, 3)
        own.norm(f"backbone.body.stem.{i + 1}", out)
    body = loaded(
        ResNetBody, own | {name: t for name, t in deep.items() if name.startswith("backbone.body")}, "backbone.body"
    )
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    y = x
    for i in (0, 3, 6):
        y = F.conv2d(y, own[f"backbone.body.stem.{i}.weight"], None, 2 if i == 0 else 1, 1)
        y = F.relu(norm(y, own, f"backbone.body.stem.{i + 1}"))
    torch.testing.assert_close(body(x)[0], body.get_submodule("layer1")(F.max_pool2d(y, 3, 2, 1)))
    small = tiny.Weights()
    small.conv("backbone.body.conv1", 8, 3, 3)
    small.norm("backbone.body.bn1", 8)
    shapes = Shapes(regnet | small, tiny.settings(strides=(2, 2, 2, 2)))
    assert [tuple(one.shape[-2:]) for one in ResNetBody(shapes)(x)] == [(16, 24), (8, 12), (4, 6), (2, 3)]


def pyramid() -> tiny.Weights:
    weights = tiny.Weights()
    for i, width in enumerate(WIDTHS):
        weights.conv(f"{FPN}.inner_blocks.{i}.0", OUT, width, 1, bias=True)
        weights.conv(f"{FPN}.layer_blocks.{i}.0", OUT, OUT, 3, bias=True)
    return weights


def maps(height: int, width: int) -> OrderedDict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    sides = [(height // 2**i, width // 2**i) for i in range(2, 6)]
    return OrderedDict(
        (str(i), torch.randn(2, c, *side, generator=generator))
        for i, (c, side) in enumerate(zip(WIDTHS, sides, strict=True))
    )


def plain(weights: dict[str, Tensor], x: OrderedDict[str, Tensor], *, has_extra: bool) -> list[Tensor]:
    of_fpn = {name: t for name, t in weights.items() if "inner_blocks" in name or "layer_blocks" in name}
    fpn = FeaturePyramidNetwork(list(WIDTHS), OUT, LastLevelMaxPool() if has_extra else None)
    fpn.load_state_dict({name.removeprefix(f"{FPN}."): t for name, t in of_fpn.items()})
    return list(fpn(x.copy()).values())


@torch.inference_mode()
def test_a_pyramid_with_a_path_back() -> None:
    weights = pyramid()
    for i in range(3):
        weights.conv(f"{FPN}.downsample_convs.{i}.0", OUT, OUT, 3, bias=True)
        weights.conv(f"{FPN}.pafpn_convs.{i}.0", OUT, OUT, 3, bias=True)
    neck = loaded(lambda s: PathAggregationNetwork(s, FPN, list(WIDTHS), OUT, has_extra=True), weights, FPN)
    x = maps(96, 160)
    y = plain(weights, x, has_extra=False)
    expected = [y[0]]
    for i in range(3):
        name = f"{FPN}.downsample_convs.{i}.0"
        y[i + 1] = y[i + 1] + F.conv2d(y[i], weights[f"{name}.weight"], weights[f"{name}.bias"], 2, 1)
        name = f"{FPN}.pafpn_convs.{i}.0"
        expected.append(F.conv2d(y[i + 1], weights[f"{name}.weight"], weights[f"{name}.bias"], 1, 1))
    expected.append(F.max_pool2d(expected[-1], 1, 2))
    found = neck(x)
    assert list(found) == ["0", "1", "2", "3", "pool"]
    for ours, theirs in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def balanced() -> tiny.Weights:
    weights = pyramid()
    for name in ("g", "theta", "phi", "conv_out"):
        weights.conv(f"{FPN}.refine.{name}", OUT, OUT, 1, bias=True, gain=0.3)
    return weights


@pytest.mark.parametrize(
    "size", [(96, 160), (224, 288), (320, 416), (64, 1312)]
)  # the last level of odd ones is uneven
@torch.inference_mode()
def test_a_balanced_pyramid(size: tuple[int, int]) -> None:
    weights, x = balanced(), maps(*size)
    neck = loaded(lambda s: BalancedPyramid(s, FPN, list(WIDTHS), OUT, has_extra=True), weights, FPN)
    y = plain(weights, x, has_extra=True)
    side = y[2].shape[-2:]
    gathered = [F.adaptive_max_pool2d(one, side) for one in y[:2]] + [F.interpolate(one, side) for one in y[2:]]
    mean = sum(gathered[1:], gathered[0]) / 5
    g, theta, phi = (
        F.conv2d(mean, weights[f"{FPN}.refine.{n}.weight"], weights[f"{FPN}.refine.{n}.bias"]).flatten(2)
        for n in ("g", "theta", "phi")
    )
    seen = torch.einsum("nij,ncj->nci", torch.einsum("nci,ncj->nij", theta, phi).softmax(-1), g).reshape(mean.shape)
    out = f"{FPN}.refine.conv_out"
    mean = mean + F.conv2d(seen, weights[f"{out}.weight"], weights[f"{out}.bias"])
    added = [F.interpolate(mean, one.shape[-2:]) for one in y[:2]]
    added += [F.adaptive_max_pool2d(mean, one.shape[-2:]) for one in y[2:]]
    for ours, one, more in zip(neck(x).values(), y, added, strict=True):
        torch.testing.assert_close(ours, one + more, atol=1e-5, rtol=1e-5)


BODY = "backbone.body"


def hrnet(width: int = 4) -> tiny.Weights:
    """Return an HRNet of one exchange a stage, and one block a branch."""
    weights = tiny.Weights()

    def convolved(name: str, given: int, out: int) -> None:
        weights.conv(f"{name}.0", out, given, 3)
        weights.norm(f"{name}.1", out)

    for i, given in ((1, 3), (2, 8)):
        weights.conv(f"{BODY}.conv{i}", 8, given, 3)
        weights.norm(f"{BODY}.bn{i}", 8)
    weights.stage(f"{BODY}.layer1", 8, 4, 16)
    widths = [width * 2**i for i in range(4)]
    convolved(f"{BODY}.transition1.0", 16, widths[0])
    for number in (2, 3, 4):
        before = 16 if number == 2 else widths[number - 2]
        convolved(f"{BODY}.transition{number - 1}.{number - 1}.0", before, widths[number - 1])
        for i in range(number):
            for k in (1, 2):
                weights.conv(f"{BODY}.stage{number}.0.branches.{i}.0.conv{k}", widths[i], widths[i], 3)
                weights.norm(f"{BODY}.stage{number}.0.branches.{i}.0.bn{k}", widths[i])
            for j in range(number):
                path = f"{BODY}.stage{number}.0.fuse_layers.{i}.{j}"
                if j > i:
                    weights.conv(f"{path}.0", widths[i], widths[j], 1)
                    weights.norm(f"{path}.1", widths[i])
                for k in range(i - j):
                    convolved(f"{path}.{k}", widths[j], widths[i] if k == i - j - 1 else widths[j])
    return weights


@torch.inference_mode()
def test_branches_exchange_what_they_make_of_their_maps() -> None:
    weights, name = hrnet(), f"{BODY}.stage3.0"
    exchange = loaded(lambda s: Exchange(s, name, (4, 8, 16)), weights, name)
    generator = torch.Generator().manual_seed(2)
    x = [torch.randn(1, 4 * 2**i, 16 // 2**i, 24 // 2**i, generator=generator) for i in range(3)]
    y = []
    for i, one in enumerate(x):
        block = f"{name}.branches.{i}.0"
        z = F.relu(norm(F.conv2d(one, weights[f"{block}.conv1.weight"], padding=1), weights, f"{block}.bn1"))
        z = norm(F.conv2d(z, weights[f"{block}.conv2.weight"], padding=1), weights, f"{block}.bn2")
        y.append(F.relu(one + z))

    def halved(one: Tensor, path: str) -> Tensor:
        return norm(F.conv2d(one, weights[f"{path}.0.weight"], None, 2, 1), weights, f"{path}.1")

    def doubled(one: Tensor, path: str, times: int) -> Tensor:
        small = norm(F.conv2d(one, weights[f"{path}.0.weight"]), weights, f"{path}.1")
        return small.repeat_interleave(times, 2).repeat_interleave(times, 3)

    fuse = f"{name}.fuse_layers"
    last = halved(F.relu(halved(y[0], f"{fuse}.2.0.0")), f"{fuse}.2.0.1") + halved(y[1], f"{fuse}.2.1.0") + y[2]
    first = y[0] + doubled(y[1], f"{fuse}.0.1", 2) + doubled(y[2], f"{fuse}.0.2", 4)
    middle = halved(y[0], f"{fuse}.1.0.0") + y[1] + doubled(y[2], f"{fuse}.1.2", 2)
    for ours, theirs in zip(exchange(x), (first, middle, last), strict=True):
        torch.testing.assert_close(ours, F.relu(theirs))


@torch.inference_mode()
def test_an_hrnet_has_four_maps_which_are_merged_into_one() -> None:
    weights = hrnet()
    found = loaded(lambda s: HRNetBody(s, BODY), weights, BODY)(torch.zeros(1, 3, 96, 160))
    assert [tuple(one.shape[1:]) for one in found] == [(4, 24, 40), (8, 12, 20), (16, 6, 10), (32, 3, 5)]
    neck = merged()
    x = maps(96, 160)
    module = loaded(lambda s: MergedPyramid(s, FPN, sum(WIDTHS)), neck, FPN)
    larger = [F.interpolate(one, x["0"].shape[-2:], mode="bilinear", align_corners=False) for one in x.values()]
    one = F.conv2d(torch.cat(larger, 1), neck[f"{FPN}.reduction_conv.weight"], neck[f"{FPN}.reduction_conv.bias"])
    for i, level in enumerate(module(x).values()):
        names = [f"{FPN}.layer_blocks.{i}.0.{part}" for part in ("weight", "bias")]
        expected = F.conv2d(F.avg_pool2d(one, 2**i), neck[names[0]], neck[names[1]], padding=1)
        torch.testing.assert_close(level, expected)


def merged() -> tiny.Weights:
    weights = tiny.Weights()
    weights.conv(f"{FPN}.reduction_conv", OUT, sum(WIDTHS), 1, bias=True)
    for i in range(5):
        weights.conv(f"{FPN}.layer_blocks.{i}.0", OUT, OUT, 3, bias=True)
    return weights


def with_hrnet() -> dict[str, Tensor]:
    heads = {name: t for name, t in tiny.state().items() if not name.startswith("backbone.")}
    neck = merged()
    neck.conv(f"{FPN}.reduction_conv", OUT, 60, 1, bias=True)
    return hrnet() | neck | heads


def with_balance() -> dict[str, Tensor]:
    return tiny.state() | {name: t for name, t in balanced().items() if "refine" in name}


@pytest.mark.slow
@pytest.mark.parametrize("state", [with_balance, with_hrnet])
def test_it_is_exported_for_canvases_of_any_size(state: Callable[[], dict[str, Tensor]], tmp_path: Path) -> None:
    settings = tiny.settings(trainer="mmdetection", stride_in_1x1=False, channel_order="rgb")
    model = build_restatement(Converted(settings=settings, state=state()))
    export_onnx(model, tmp_path / "model.onnx")
    detector = Detector.load(tmp_path / "model.onnx")
    for height, width in ((96, 150), (140, 96)):
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        with torch.inference_mode():
            expected = model([torch.from_numpy(pixels).permute(2, 0, 1).float() / 255])[0]
        found = detector([pixels], score=0)[0]
        assert len(found) == len(expected["boxes"]) > 10
        order = np.lexsort((found.boxes[:, 1], found.boxes[:, 0], found.labels))
        same = np.lexsort((expected["boxes"][:, 1], expected["boxes"][:, 0], expected["labels"]))
        np.testing.assert_allclose(found.boxes[order], expected["boxes"].numpy()[same], atol=1e-2)
