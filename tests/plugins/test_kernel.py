"""Descriptions of kernels: letters, launches, limits, macros."""

from __future__ import annotations

import re

import pytest
from support.operator_forms import FORMS, attributes_of

from frcnn.errors import KernelError
from frcnn.plugins.box_detections.kernel import kernels as detections_kernels
from frcnn.plugins.expressions import INTEGERS, evaluate
from frcnn.plugins.kernel import KERNEL_FOLDER, read_sizes
from frcnn.plugins.multiscale_roi_align.kernel import kernels as align_kernels
from frcnn.plugins.multiscale_roi_pool.kernel import kernels as pool_kernels
from frcnn.plugins.operator import Tensor
from frcnn.plugins.operator_kernels import kernels_for
from frcnn.plugins.preprocess import kernels as preprocess_kernels

GRID = {"output_height": 7, "output_width": 7}
FOUR_LEVELS = {"spatial_scales": (0.25, 0.125, 0.0625, 0.03125), "level_thresholds": (112.0, 224.0, 448.0)}
ALIGN = {**GRID, **FOUR_LEVELS, "sampling_ratio": 2, "aligned": 0}
NORMALISATION = {"image_mean": (0.5,) * 3, "image_std": (0.2,) * 3}
ALL = [
    *preprocess_kernels(**NORMALISATION),
    *(kernel for form in FORMS if form[1] in (1, 5) for kernel in kernels_for(form[0], attributes_of(*form))),
    *pool_kernels(**GRID, **FOUR_LEVELS, element="float16", layout="channels_last"),
]


@pytest.mark.parametrize("kernel", ALL, ids=lambda kernel: kernel.entry)
def test_the_source_has_the_entry_with_the_arguments_in_the_stated_order(kernel):
    source = (KERNEL_FOLDER / kernel.source).read_text(encoding="utf-8")
    (arguments,) = re.findall(rf"^{kernel.entry}\((.*?)\) \{{", source, re.MULTILINE | re.DOTALL)
    levels = kernel.constants.get("LEVELS", 1)
    kinds = []
    for argument in re.split(r",\s*(?![^(]*\))", arguments):
        is_pointer = "*" in argument or "POINTER" in argument
        kinds += [is_pointer] * (levels if argument.startswith("EACH_LEVEL") else 1)
    stated = [True] * len(kernel.inputs) + [False] * len(kernel.integers) + [True] * len(kernel.outputs)
    assert kinds == stated


@pytest.mark.parametrize("kernel", ALL, ids=lambda kernel: kernel.entry)
def test_every_expression_is_over_the_letters_of_the_inputs(kernel):
    shapes = [text for tensor in kernel.inputs for text in tensor.shape]
    letters = {text for text in shapes if text.isidentifier()}
    if kernel.entry == "preprocess":
        letters |= {"H", "W"}  # the canvas, which no input has
    texts = [*shapes, *kernel.grid, *kernel.integers, *(text for tensor in kernel.outputs for text in tensor.shape)]
    for text in texts:
        evaluate(text, dict.fromkeys(letters, 1), INTEGERS)  # raises for any other name
    assert {*kernel.limits, *kernel.multiple_of} <= letters


def test_sizes_are_read_off_the_shapes():
    (align,) = align_kernels(**ALIGN)
    shapes = [(2, 1000, 4)] + [(2, 64, 40 >> i, 48 >> i) for i in range(4)]
    sizes = align.sizes(shapes)
    levels = {f"H_{i}": 40 >> i for i in range(4)} | {f"W_{i}": 48 >> i for i in range(4)}
    assert sizes == {"N": 2, "R": 1000, "C": 64} | levels
    launch = align.bind(sizes)
    assert launch.integers == (1000, 64, 40, 20, 10, 5, 48, 24, 12, 6)
    assert launch.output_shapes == ((2000, 64, 7, 7),)
    assert launch.grid == (2000, 1, 1)


def test_empty_inputs_give_an_empty_grid():
    (align,) = align_kernels(**ALIGN)
    shapes = [(1, 0, 4)] + [(1, 8, 4, 4)] * 4
    assert align.bind(align.sizes(shapes)).grid[0] == 0


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(2, 10, 4)], "takes 2 inputs, got 1"),
        ([(2, 10, 4), (19, 5)], r"N\*R of class_logits must be 20, got 19 in \(19, 5\)"),
        ([(2, 10, 5), (20, 5)], r"4 of rois must be 4, got 5"),
        ([(10, 4), (20, 5)], r"rois must have the shape \(N, R, 4\), got \(10, 4\)"),
        ([(2, 4097, 4), (8194, 5)], "holds at most R = 4096, got 4097"),
        ([(2, 10, 4), (20, 1)], "takes at least C = 2, got 1"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes, message):
    candidates, *_ = detections_kernels(**attributes_of("BoxDetections", 1))
    with pytest.raises(KernelError, match=message):
        candidates.bind(candidates.sizes(shapes))


def tensors(*shapes: tuple[str, ...]) -> list[Tensor]:
    return [Tensor(name=f"t{i}", element="float32", shape=shape) for i, shape in enumerate(shapes)]


def test_a_size_may_be_an_expression_over_letters_of_any_tensor():
    stated = tensors(("4*C", "N*R"), ("N", "R"), ("C", "ceil_div(R, 32)"))
    assert read_sizes("k", stated, [(20, 66), (2, 33), (5, 2)]) == {"N": 2, "R": 33, "C": 5}
    with pytest.raises(KernelError, match=r"^k: 4\*C of t0 must be 20, got 24 in \(24, 66\)$"):
        read_sizes("k", stated, [(24, 66), (2, 33), (5, 2)])
    with pytest.raises(KernelError, match=r"^k: ceil_div\(R, 32\) of t2 must be 2, got 3 in \(5, 3\)$"):
        read_sizes("k", stated, [(20, 66), (2, 33), (5, 3)])


def test_unknown_sizes_are_not_compared():
    stated = tensors(("N", "4*C"), ("N", "C"))
    assert read_sizes("k", stated, [(None, 99), (2, None)]) == {"N": 2}
    with pytest.raises(KernelError, match=r"4\*C of t0 must be 8, got 99 in \(\?, 99\)"):
        read_sizes("k", stated, [(None, 99), (None, 2)])


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"N": 65536, "H": 32, "W": 32}, "65536 blocks in z"),
        ({"N": 1, "H": 1, "W": 2**31}, "W is 2147483648, the kernel takes at most 2147483647"),
    ],
)
def test_launches_that_are_too_large_for_cuda_are_refused(sizes, message):
    (preprocess,) = preprocess_kernels(**NORMALISATION)
    with pytest.raises(KernelError, match=message):
        preprocess.bind(sizes)


REFUSED = [
    (preprocess_kernels, NORMALISATION, {"image_mean": (0.5,)}, "3 values"),
    (preprocess_kernels, NORMALISATION, {"image_std": (0.2, 0.0, 0.2)}, "image_std above 0"),
    (preprocess_kernels, NORMALISATION, {"image_mean": (0.5, float("nan"), 0.5)}, "must be numbers"),
    (preprocess_kernels, NORMALISATION, {"element": "float64"}, "element must be one of"),
]
ALIGN_REFUSED = [
    ({"element": "int8"}, "element must be one of float32, float16, bfloat16, got 'int8'"),
    ({"layout": "nhwc"}, "layout must be one of planar, channels_last, got 'nhwc'"),
    ({"output_layout": "channels_last"}, "output_layout must be one of planar, got"),
    ({"spatial_scales": ()}, "1 to 8 values, one per feature level, got 0"),
    ({"spatial_scales": (1.0,) * 9}, "got 9"),
    ({"spatial_scales": (0.25, 0.125, 0.0, 0.03125)}, "must be positive"),
    ({"level_thresholds": (1.0,)}, "3 values for 4 levels, got 1"),
    ({"level_thresholds": (3.0, 2.0, 4.0)}, "rising"),
    ({"level_thresholds": (1.0, 2.0, float("nan"))}, "rising"),
    ({"output_height": 0}, "1 to 1663 cells, got 0 x 7"),
    ({"output_height": 300}, "got 300 x 7"),
    ({"sampling_ratio": -1}, "sampling_ratio must be 0 to 16, got -1"),
    ({"aligned": 2}, "aligned must be 0 or 1, got 2"),
]
REFUSED += [(align_kernels, ALIGN, change, message) for change, message in ALIGN_REFUSED]


@pytest.mark.parametrize(("kernels", "valid", "change", "message"), REFUSED)
def test_values_that_no_kernel_has_are_refused(kernels, valid, change, message):
    with pytest.raises(KernelError, match=message):
        kernels(**valid | change)


@pytest.mark.parametrize(("element", "channels"), [("float16", 8), ("bfloat16", 8), ("float32", 4)])
def test_channels_last_maps_need_whole_vectors(element, channels):
    (align,) = align_kernels(**ALIGN, element=element, layout="channels_last")
    shapes = [(1, 10, 4)] + [(1, channels * 3, 4, 4)] * 4
    assert align.bind(align.sizes(shapes)).grid == (10, 1, 1)
    with pytest.raises(KernelError, match=f"multiple of {channels} channels, got C = {channels + 1}"):
        align.bind(align.sizes([(1, 10, 4)] + [(1, channels + 1, 4, 4)] * 4))


@pytest.mark.parametrize("grid", [(7, 7), (14, 14), (1, 1), (2, 3), (3, 554)])
@pytest.mark.parametrize("element", ["float32", "float16"])
def test_a_block_covers_all_channels_and_its_stage_fits_shared_memory(grid, element):
    attributes = {**ALIGN, "output_height": grid[0], "output_width": grid[1]}
    (align,) = align_kernels(**attributes, element=element, layout="channels_last")
    per_block = align.constants["CHANNELS_PER_BLOCK"]
    assert per_block % align.multiple_of["C"] == 0
    for channels in (per_block, per_block + align.multiple_of["C"]):
        launch = align.bind(align.sizes([(1, 1, 4)] + [(1, channels, 4, 4)] * 4))
        assert launch.grid[1] == -(-channels // per_block)
    assert per_block * grid[0] * grid[1] * (4 if element == "float32" else 2) <= 48 * 1024
    assert launch.block[0] % 32 == 0
    assert launch.block[0] <= 256


def test_macros_give_floats_as_float32():
    given = attributes_of("BoxDetections", 1) | {"iou_threshold": 0.1}
    assert detections_kernels(**given)[1].macros()["IOU_THRESHOLD"] == "0x1.99999a0000000p-4f"
    (align,) = align_kernels(**ALIGN)
    assert align.macros()["SPATIAL_SCALES"] == ",".join(f"0x1.0000000000000p-{i}f" for i in (2, 3, 4, 5))
    assert align.macros()["LEVELS"] == "4"
