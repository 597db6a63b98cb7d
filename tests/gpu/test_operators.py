"""The kernels on a GPU against the references on the CPU, and against torchvision's CUDA operators."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from maintenance.kernel_cases import boxes_of_classes, check_same_boxes
from support.byte_resizes import by_opencv, by_pillow, random_bytes
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign, roi_pool

from frcnn.plugins.box_detections.reference import box_detections
from frcnn.plugins.cuda.launch import load_operator, load_preprocess
from frcnn.plugins.multiscale_roi_align.reference import multiscale_roi_align
from frcnn.plugins.multiscale_roi_pool.reference import multiscale_roi_pool
from frcnn.plugins.region_proposals.reference import region_proposals
from gpu.cases import (
    CANVAS,
    DETECTIONS,
    FORMS,
    PROPOSALS,
    call,
    head_case,
    maps_of,
    pooling,
    rois_of,
    rpn_case,
)

pytestmark = pytest.mark.gpu

BOUND = 16 * 2.0**-24  # of the largest cell: another order of the same sums
ROUNDING = {"float32": 0.0, "float16": 2.0**-10, "bfloat16": 2.0**-7}  # a last place of the result
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def assert_close(found: torch.Tensor, expected: torch.Tensor, largest: float, element: str) -> None:
    allowed = BOUND * largest + ROUNDING[element] * expected.abs()
    difference = (found.float() - expected).abs()
    assert (difference <= allowed).all(), f"{float(difference.max())}, largest cell {largest}"


@pytest.mark.parametrize("element", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    ("images", "levels", "anchors", "pre", "post"),
    [
        (1, 5, 3, 1000, 1000),
        (4, 5, 3, 1000, 300),
        (2, 1, 9, 4096, 1000),
        (1, 1, 15, 6000, 1000),
        (16, 3, 1, 100, 50),
        (1, 2, 15, 2000, 4000),
    ],
)
@pytest.mark.parametrize("exact", [True, False])
def test_proposals_are_those_of_the_reference(device, stream, element, images, levels, anchors, pre, post, exact):
    case, inputs = rpn_case(images, levels, anchors, element, device, seed=levels + pre, exact=exact)
    given = {**case, **PROPOSALS, "pre_nms_top_n": pre, "post_nms_top_n": post}
    operator = load_operator("RegionProposals", element=element, **given)
    found = call(operator, *inputs, stream=stream).cpu()
    again = call(operator, *inputs, stream=stream).cpu()
    assert torch.equal(found, again)
    sizes, canvas, *maps = (tensor.cpu() for tensor in inputs)
    expected = region_proposals(sizes, canvas, maps[:levels], maps[levels:], **given)
    assert (expected[..., 2] >= expected[..., 0]).any()
    if exact:
        assert torch.equal(found, expected)
        return
    for ours, theirs in zip(found, expected, strict=True):
        check_same_boxes(*(boxes[boxes[:, 2] >= boxes[:, 0]] for boxes in (ours, theirs)))


@pytest.mark.parametrize("element", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    ("images", "per_image", "classes", "most"),
    [(1, 1000, 91, 100), (8, 300, 21, 100), (2, 4096, 3, 300), (1, 500, 1203, 300), (16, 5, 2, 7)],
)
@pytest.mark.parametrize("exact", [True, False])
def test_detections_are_those_of_the_reference(device, stream, element, images, per_image, classes, most, exact):
    inputs = head_case(images, per_image, classes, element, device, seed=classes, exact=exact)
    given = {**DETECTIONS, "max_detections": most}
    operator = load_operator("BoxDetections", element=element, **given)
    found = [tensor.cpu() for tensor in call(operator, *inputs, stream=stream)]
    again = [tensor.cpu() for tensor in call(operator, *inputs, stream=stream)]
    assert all(map(torch.equal, found, again))
    expected = box_detections(*(tensor.cpu() for tensor in inputs), **given)
    if exact:
        assert torch.equal(found[0], expected.num_detections)
        assert torch.equal(found[1], expected.boxes)
        assert torch.equal(found[3], expected.labels)
        assert float((found[2] - expected.scores).abs().max()) <= 2e-6
        return
    for i, wanted in enumerate(expected.num_detections.tolist()):
        ours = boxes_of_classes(found[1][i], found[3][i], int(found[0][i]))
        theirs = boxes_of_classes(expected.boxes[i], expected.labels[i], wanted)
        check_same_boxes(ours, theirs, differing=0.02)


@pytest.mark.parametrize("form", FORMS, ids="-".join)
@pytest.mark.parametrize(
    ("levels", "sampling", "aligned", "grid"), [(4, 2, 0, (7, 7)), (1, 0, 1, (14, 14)), (5, 0, 0, (3, 5))]
)
def test_align_is_the_reference_within_a_bound(device, stream, form, levels, sampling, aligned, grid):
    element, layout, output_layout = form
    given = pooling(levels, grid, sampling_ratio=sampling, aligned=aligned)
    align = load_operator("MultiscaleRoIAlign", element=element, layout=layout, output_layout=output_layout, **given)
    for seed, (images, per_image, channels) in enumerate([(2, 300, 32), (1, 1000, 64), (3, 7, 8), (1, 33, 264)]):
        rois = rois_of(images, per_image, given["level_thresholds"], seed)
        maps = maps_of(images, channels, levels, element, layout, device)
        found = call(align, rois.to(device), *maps, stream=stream)
        expected = multiscale_roi_align(rois, [m.float().cpu() for m in maps], **given)
        assert_close(found.cpu(), expected, max(float(m.float().abs().max()) for m in maps), element)


@pytest.mark.parametrize("form", FORMS, ids="-".join)
@pytest.mark.parametrize(("levels", "grid"), [(1, (7, 7)), (4, (7, 7)), (2, (5, 3))])
def test_max_pooling_is_the_reference_bit_for_bit(device, stream, form, levels, grid):
    element, layout, output_layout = form
    given = pooling(levels, grid)
    pool = load_operator("MultiscaleRoIPool", element=element, layout=layout, output_layout=output_layout, **given)
    for seed, (images, per_image, channels) in enumerate([(2, 300, 32), (1, 1000, 64), (3, 7, 8)]):
        rois = rois_of(images, per_image, given["level_thresholds"], seed)
        maps = maps_of(images, channels, levels, element, layout, device)
        found = call(pool, rois.to(device), *maps, stream=stream)
        assert torch.equal(found.cpu(), multiscale_roi_pool(rois, [m.cpu() for m in maps], **given))


def test_align_is_torchvisions_cuda_operator_within_a_bound(device, stream):
    given = pooling(4, sampling_ratio=2, aligned=0)
    align = load_operator("MultiscaleRoIAlign", layout="channels_last", **given)
    theirs = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    maps = maps_of(1, 256, 4, "float32", "channels_last", device)
    for seed in range(5):
        rois = rois_of(1, 1000, given["level_thresholds"], seed)
        present = (rois[..., 2] > rois[..., 0]) & (rois[..., 3] > rois[..., 1])
        rois = rois[present][None].to(device)
        # torchvision infers the scales from the canvas
        expected = theirs({str(i): m for i, m in enumerate(maps)}, [rois[0]], [CANVAS])
        found = call(align, rois, *maps, stream=stream)
        # torchvision's CUDA kernel is compiled with contraction: its samples lie a few roundings elsewhere, so that
        # one exactly on the border of the map may count or not
        close = (found - expected).abs() <= 1e-4 * max(float(m.abs().max()) for m in maps)
        assert float((~close).float().mean()) < 1e-3


def test_max_pooling_is_torchvisions_cuda_operator(device, stream):
    given = pooling(1)
    pool = load_operator("MultiscaleRoIPool", **given)
    (feature,) = maps_of(1, 64, 1, "float32", "planar", device)
    rois = rois_of(1, 1000, given["level_thresholds"], 3)
    rois = rois[(rois[..., 2] > rois[..., 0]) & (rois[..., 3] > rois[..., 1])][None].to(device)
    expected = roi_pool(feature, [rois[0]], (7, 7), 0.25)
    found = call(pool, rois, feature, stream=stream)
    # torchvision's CUDA kernel is compiled with contraction: the edge of a bin may move by a rounding
    differing = (found != expected).float().mean()
    assert float(differing) < 1e-3


@pytest.mark.parametrize("element", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    "shapes", [[(1080, 1920)], [(427, 640), (640, 427), (33, 61)], [(1, 1)], [(4000, 3000)]], ids=str
)
def test_preprocessing_is_torchvisions(device, stream, element, shapes):
    rng = np.random.default_rng(len(shapes))
    raw_images = [torch.from_numpy(rng.integers(0, 256, (*s, 3), dtype=np.uint8)) for s in shapes]
    transform = GeneralizedRCNNTransform(800, 1333, list(MEAN), list(STD))
    expected, _ = transform([image.permute(2, 0, 1).float() / 255 for image in raw_images])
    on_device = [image.to(device) for image in raw_images]
    rows = [
        (p.data_ptr(), *p.shape[:2], *p.stride(), *size)
        for p, size in zip(on_device, expected.image_sizes, strict=True)
    ]
    images = torch.full(expected.tensors.shape, float("nan"), dtype=getattr(torch, element), device=device)
    preprocess = load_preprocess(element=element, image_mean=MEAN, image_std=STD)
    preprocess(torch.tensor(rows, device=device), out=images, stream=stream)
    bound = {"float32": 1e-3, "float16": 3e-3, "bfloat16": 2e-2}[element]
    assert float((images.float().cpu() - expected.tensors).abs().max()) <= bound


@pytest.mark.parametrize(
    "shapes", [[(1080, 1920)], [(427, 640), (640, 427), (33, 61)], [(1, 1)], [(4000, 3000)]], ids=str
)
@pytest.mark.parametrize(("rule", "resized"), [("detectron2", by_pillow), ("mmdetection", by_opencv)])
def test_preprocessing_is_the_other_trainers_to_the_bit(device, stream, rule, resized, shapes):
    raw_images = [random_bytes(*shape) for shape in shapes]
    sizes = [(800, 800 * width // height) for height, width in shapes]
    canvas = max(height for height, _ in sizes) + 3, max(width for _, width in sizes) + 5
    on_device = [torch.from_numpy(image).to(device) for image in raw_images]
    rows = [(p.data_ptr(), *p.shape[:2], *p.stride(), *size) for p, size in zip(on_device, sizes, strict=True)]
    images = torch.full((len(shapes), 3, *canvas), float("nan"), device=device)
    preprocess = load_preprocess(image_mean=(0, 0, 0), image_std=(1 / 255,) * 3, resize=rule)
    preprocess(torch.tensor(rows, device=device), out=images, stream=stream)
    for found, raw, (height, width) in zip(images.cpu().numpy(), raw_images, sizes, strict=True):
        np.testing.assert_array_equal(
            found[:, :height, :width].round(3), resized(raw, height, width).transpose(2, 0, 1)
        )
        assert not found[:, height:].any() and not found[:, :, width:].any()
