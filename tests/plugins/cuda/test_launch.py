"""Direct launches: the same code as on a GPU, with a driver that runs the kernels on the CPU."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.dlpack_only import DLPackOnly
from support.host_driver import HostArray, HostDriver, operator_on_host
from support.libcuda import run_with_stand_in
from support.simt import require_compiler
from support.stage_inputs import anchors_of, box_predictions, image_sizes, present_rois, rpn_predictions

from frcnn.errors import KernelError, MissingDependencyError
from frcnn.plugins import direct
from frcnn.plugins.box_detections.kernel import kernels as detections_kernels
from frcnn.plugins.box_detections.reference import box_detections
from frcnn.plugins.cuda import launch
from frcnn.plugins.cuda.arrays import stream_handle, view_of
from frcnn.plugins.cuda.launch import load_operator, load_preprocess
from frcnn.plugins.multiscale_roi_align.kernel import kernels as align_kernels
from frcnn.plugins.multiscale_roi_align.reference import multiscale_roi_align
from frcnn.plugins.multiscale_roi_pool.kernel import kernels as pool_kernels
from frcnn.plugins.multiscale_roi_pool.reference import multiscale_roi_pool
from frcnn.plugins.preprocess import kernels as preprocess_kernels
from frcnn.plugins.region_proposals.kernel import kernels as proposals_kernels
from frcnn.plugins.region_proposals.reference import region_proposals
from frcnn.plugins.roi_pooling.level_boundaries import NEVER

ELEMENT = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
POOLING = {"output_height": 7, "output_width": 7, "spatial_scales": [0.25, 0.125], "level_thresholds": [40.0]}
DETECTIONS: dict[str, Any] = {
    "box_weights": (10.0, 10.0, 5.0, 5.0),
    "max_log_scale": 4.135166645050049,
    "score_threshold": 0.05,
    "iou_threshold": 0.5,
    "min_size": 1e-2,
    "max_detections": 5,
}
PROPOSALS: dict[str, Any] = {
    "anchors": anchors_of((3, 1)),
    "strides": (0.0,),
    "box_weights": (1.0, 1.0, 1.0, 1.0),
    "max_log_scale": 4.135166645050049,
    "pre_nms_top_n": 60,
    "post_nms_top_n": 40,
    "iou_threshold": 0.7,
    "score_threshold": 0.0,
    "min_size": 1e-3,
}
ALIGN = POOLING | {"sampling_ratio": 2, "aligned": 0}


@pytest.fixture(autouse=True, scope="module")
def compiler():
    require_compiler()


@pytest.fixture
def driver():
    return HostDriver()


@pytest.fixture
def detect(driver):
    return operator_on_host(detections_kernels(**DETECTIONS), driver, "BoxDetections")


def head(images: int, per_image: int, classes: int = 4) -> list[torch.Tensor]:
    """Return the inputs of BoxDetections, on which every decision is exact."""
    rng = np.random.default_rng(images * 1000 + per_image)
    rois, sizes = present_rois(rng, images, per_image, (90, 120)), image_sizes(rng, images, (90, 120))
    return [rois, sizes, *box_predictions(rng, images * per_image, classes, score_threshold=0.05)]


def outputs_of(operator, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return tensors for the outputs of a call, filled with 7."""
    shapes = operator.output_shapes(*(tensor.shape for tensor in inputs))
    return [
        torch.full(shape, 7, dtype=getattr(torch, tensor.element))
        for shape, tensor in zip(shapes, operator.outputs, strict=True)
    ]


def rois_and_maps(dtype: torch.dtype, *, last: bool = False) -> tuple[torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(5)
    corners = torch.rand(2, 9, 2, generator=generator) * 90
    rois = torch.cat([corners, corners + torch.rand(2, 9, 2, generator=generator) * 80], dim=2)
    kind = torch.channels_last if last else torch.contiguous_format
    sizes = ((32, 40), (16, 20))
    maps = [torch.randn(2, 8, *size, generator=generator).to(dtype).contiguous(memory_format=kind) for size in sizes]
    return rois, maps


@pytest.mark.slow
@pytest.mark.parametrize(("images", "per_image"), [(3, 100), (1, 1), (2, 33)])
def test_several_outputs_and_scratch_are_those_of_the_reference(detect, driver, images, per_image):
    inputs = head(images, per_image)
    out = outputs_of(detect, inputs)
    needed = detect.scratch_bytes(*(tensor.shape for tensor in inputs))
    memory = torch.full((needed + 64,), 0xCD, dtype=torch.uint8)
    detect(*map(HostArray, inputs), out=[*map(HostArray, out)], scratch=HostArray(memory[:needed]), stream=17)
    expected = box_detections(*inputs, **DETECTIONS)
    assert int(expected.num_detections.max()) > 0
    for found, wanted, name in zip(out, expected, expected._fields, strict=True):
        if name == "scores":  # exp differs in its last bits
            assert torch.allclose(found, wanted, rtol=0, atol=2e-6)
        else:
            assert torch.equal(found, wanted)
    assert (memory[needed:] == 0xCD).all()
    assert [(entry, stream) for entry, _, stream in driver.launches] == [
        ("box_detections_candidates", 17),
        ("box_detections_suppress", 17),
        ("box_detections_select", 17),
    ]


@pytest.mark.slow
def test_inputs_come_in_the_order_of_the_spec_whatever_kernel_reads_them_first(driver):
    rng = np.random.default_rng(3)
    sizes = image_sizes(rng, 2, (80, 96))
    images, objectness, deltas = rpn_predictions(rng, 2, (3, 1), cells=(10, 12))
    propose = operator_on_host(proposals_kernels(**PROPOSALS), driver, "RegionProposals")
    inputs = [tensor.contiguous() for tensor in (sizes, images, *objectness, *deltas)]
    (out,) = outputs_of(propose, inputs)
    scratch = torch.empty(propose.scratch_bytes(*(tensor.shape for tensor in inputs)), dtype=torch.uint8)
    propose(*map(HostArray, inputs), out=HostArray(out), scratch=HostArray(scratch), stream=0)
    assert torch.equal(out, region_proposals(sizes, images, objectness, deltas, **PROPOSALS))


def test_scratch_holds_every_tensor_at_a_multiple_of_256_bytes(detect):
    inputs = head(3, 100)
    tensors = {
        "statistics": 300 * 2,
        "candidates": 3 * 3 * 4,
        "kept_counts": 3 * 3,
        "kept_scores": 3 * 3 * 5,
        "kept_rois": 3 * 3 * 5,
        "kept_boxes": 3 * 3 * 5 * 4,
    }
    made = [tensor.name for loaded in detect.kernels for tensor in loaded.kernel.outputs]
    assert made == [*tensors, *(tensor.name for tensor in detect.outputs)]
    *others, last = (4 * count for count in tensors.values())
    assert detect.scratch_bytes(*(tensor.shape for tensor in inputs)) == sum(-(-b // 256) * 256 for b in others) + last
    assert detect.output_shapes(*(tensor.shape for tensor in inputs)) == ((3,), (3, 5, 4), (3, 5), (3, 5))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", list(ELEMENT), ids=str)
@pytest.mark.parametrize("layouts", [(False, False), (True, False), (True, True)], ids=str)
def test_max_pooling_in_every_type_and_layout(driver, dtype, layouts):
    last, output_last = layouts
    names = {True: "channels_last", False: "planar"}
    kernels = pool_kernels(element=ELEMENT[dtype], layout=names[last], output_layout=names[output_last], **POOLING)
    pool = operator_on_host(kernels, driver)
    rois, maps = rois_and_maps(dtype, last=last)
    kind = torch.channels_last if output_last else torch.contiguous_format
    pooled = torch.empty(*pool.output_shapes(rois.shape, *(m.shape for m in maps)), dtype=dtype, memory_format=kind)
    pool(HostArray(rois), *map(HostArray, maps), out=HostArray(pooled), stream=0)
    assert torch.equal(pooled, multiscale_roi_pool(rois, maps, **POOLING))


def test_align_is_the_reference(driver):
    align = operator_on_host(align_kernels(**ALIGN), driver)
    rois, maps = rois_and_maps(torch.float32)
    pooled = torch.empty(18, 8, 7, 7)
    align(HostArray(rois, strides=False), *map(HostArray, maps), out=HostArray(pooled), stream=0)
    assert torch.allclose(pooled, multiscale_roi_align(rois, maps, **ALIGN), rtol=0, atol=1e-5)


def test_the_canvas_of_preprocessing_is_that_of_its_output(driver):
    preprocess = operator_on_host(preprocess_kernels(image_mean=(0, 0, 0), image_std=(1, 1, 1)), driver)
    image = np.full((4, 6, 3), 255, np.uint8)
    address = image.__array_interface__["data"][0]
    table = torch.tensor([[address, 4, 6, *image.strides, 8, 12]])
    images = torch.full((1, 3, 10, 16), 7.0)
    preprocess(HostArray(table), out=HostArray(images), stream=0)
    assert (images[..., :8, :12] == 1).all()
    assert images.sum() == 3 * 8 * 12
    assert preprocess.output_shapes((5, 8), H=32, W=64) == ((5, 3, 32, 64),)
    with pytest.raises(KernelError, match="sizes must be given for H, W, got none"):
        preprocess.output_shapes((5, 8))


def test_launches_are_planned_once_for_shapes(detect, driver):
    for _ in range(2):
        call(detect)
    assert driver.launches[0][1] is driver.launches[3][1]


def call(detect, out: Any = None, **changed: Any) -> None:
    """Call with 2 images of 4 RoIs, some arguments changed."""
    inputs = head(2, 4)
    names = [tensor.name for tensor in detect.outputs]
    outputs = dict(zip(names, map(HostArray, outputs_of(detect, inputs)), strict=True))
    arrays = {tensor.name: HostArray(value) for tensor, value in zip(detect.inputs, inputs, strict=True)}
    rest = {"scratch": HostArray(torch.empty(4096, dtype=torch.uint8)), "stream": 0}
    for given in (outputs, arrays, rest):
        given |= {name: value for name, value in changed.items() if name in given}
    detect(*arrays.values(), out=list(outputs.values()) if out is None else out, **rest)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rois": HostArray(torch.zeros(2, 4, 4).double())}, "rois must be float32, got <f8"),
        ({"image_sizes": HostArray(torch.ones(3, 2).int())}, r"N of image_sizes must be 2, got 3 in \(3, 2\)"),
        ({"class_logits": HostArray(torch.zeros(9, 4))}, r"N\*R of class_logits must be 8, got 9 in \(9, 4\)"),
        ({"box_deltas": HostArray(torch.zeros(8, 15))}, r"4\*C of box_deltas must be 16, got 15 in \(8, 15\)"),
        (
            {"class_logits": HostArray(torch.zeros(4, 8).t())},
            r"class_logits must lie as written .*strides of \(16, 4\) bytes, got",
        ),
        ({"rois": torch.zeros(2, 4, 4)}, "rois must lie in device memory, got host memory"),
        ({"rois": np.zeros((2, 4, 4), np.float32)}, "rois must lie in device memory, got host memory"),
        ({"rois": [0.5]}, "rois must be an array in device memory, .* got list"),
        ({"rois": HostArray(torch.zeros(2, 4, 4), mask=1)}, "rois cannot be read as an array: it has a mask"),
        ({"rois": HostArray(torch.zeros(33)[1:].view(2, 4, 4))}, "rois must begin at a multiple of 16 bytes"),
        ({"scores": HostArray(torch.zeros(2, 5), read_only=True)}, "scores is written, got a read-only array"),
        ({"scores": HostArray(torch.zeros(2, 5).half())}, "scores must be float32, got float16"),
        ({"labels": HostArray(torch.zeros(2, 5))}, "labels must be int32, got float32"),
        ({"boxes": HostArray(torch.zeros(2, 6, 4))}, r"boxes must have the shape \(2, 5, 4\), got \(2, 6, 4\)"),
        ({"boxes": HostArray(torch.zeros(10, 4))}, r"boxes must have the shape \(N, 5, 4\), got \(10, 4\)"),
        ({"out": HostArray(torch.zeros(2, 5))}, r"writes 4 arrays \(num_detections, boxes, scores, labels\), got 1"),
        ({"scratch": None}, "needs 1664 bytes of scratch for these shapes, got none"),
        ({"scratch": HostArray(torch.zeros(100))}, "scratch must have at least 1664 bytes, got 400"),
        ({"scratch": HostArray(torch.zeros(800, 2)[:, :1])}, "scratch must lie in one piece"),
        ({"scratch": HostArray(torch.zeros(800), read_only=True)}, "scratch is written, got a read-only array"),
        ({"scratch": torch.zeros(800)}, "scratch must lie in device memory"),
        ({"stream": None}, "stream must be a CUDA stream or its handle as an int, got NoneType"),
        ({"stream": True}, "got bool"),
    ],
)
def test_an_array_that_a_kernel_cannot_take_is_refused_before_any_launch(detect, driver, changed, message):
    with pytest.raises(KernelError, match=message):
        call(detect, **changed)
    assert driver.launches == []
    call(detect)  # unchanged, it is launched
    assert len(driver.launches) == 3


def test_arrays_that_overlap_are_refused(detect, driver):
    shared = torch.zeros(1000)
    part = HostArray(shared[:10].view(2, 5))
    with pytest.raises(KernelError, match="scores is written, it must not share memory with BoxDetections: rois"):
        call(detect, scores=part, rois=HostArray(shared[:32].view(2, 4, 4)))
    with pytest.raises(KernelError, match="scratch is written, it must not share memory with BoxDetections: scores"):
        call(detect, scores=part, scratch=HostArray(shared))
    with pytest.raises(KernelError, match="scores is written, it must not share memory with BoxDetections: boxes"):
        call(detect, scores=part, boxes=HostArray(shared[:40].view(2, 5, 4)))
    assert driver.launches == []


def test_memory_of_another_device_is_refused(detect, driver):
    logits = torch.zeros(8, 4)
    driver.unreachable = {logits.data_ptr()}
    with pytest.raises(KernelError, match="class_logits must lie in memory of the current CUDA device"):
        call(detect, class_logits=HostArray(logits))
    assert driver.launches == []


def test_the_number_of_arrays_and_of_pointers_is_checked(detect):
    with pytest.raises(KernelError, match=r"takes 4 arrays \(rois, .*, box_deltas\), got 1"):
        detect(HostArray(torch.zeros(1, 1, 4)), out=None, stream=0)
    kernel = detect.kernels[0]
    with pytest.raises(KernelError, match="box_detections_candidates takes 4 pointers, got 3"):
        kernel.launch(kernel.kernel.bind({"N": 1, "R": 1, "C": 2}), [16, 16, 16], 0)


@pytest.mark.parametrize(("layout", "given"), [("channels_last", False), ("planar", True)])
def test_maps_in_the_other_layout_are_refused(driver, layout, given):
    align = operator_on_host(align_kernels(layout=layout, **ALIGN), driver)
    rois, maps = rois_and_maps(torch.float32, last=given)
    with pytest.raises(KernelError, match="feature_0 must lie"):
        align(HostArray(rois), *map(HostArray, maps), out=HostArray(torch.empty(18, 8, 7, 7)), stream=0)
    assert driver.launches == []


def test_a_dimension_of_one_may_have_any_stride():
    tensor = torch.zeros(1, 1, 5, 1).as_strided((1, 1, 5, 1), (99, 7, 1, 3))
    for layout in ("planar", "channels_last"):
        view_of(HostArray(tensor), "x").check("float32", (1, 1, 5, 1), layout)


@pytest.mark.parametrize("dtype", [*ELEMENT, torch.int32, torch.int64], ids=str)
def test_dlpack_gives_the_same_view_as_the_array_interface(dtype):
    tensor = torch.zeros(2, 8, 3, 5).to(dtype).contiguous(memory_format=torch.channels_last)
    by_interface, by_dlpack = view_of(HostArray(tensor), "x"), view_of(DLPackOnly(tensor), "x")
    assert by_dlpack.on_device is False
    for field in ("pointer", "shape", "strides", "element", "element_bytes", "read_only", "size_bytes"):
        assert getattr(by_dlpack, field) == getattr(by_interface, field)
    assert by_dlpack.element == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("version", ["none", "0.1"])
def test_dlpack_without_a_cuda_core_that_reads_it_names_the_extra(monkeypatch, version):
    monkeypatch.setitem(sys.modules, "cuda.core.utils", None if version == "none" else ModuleType("cuda.core.utils"))
    with pytest.raises(MissingDependencyError, match=r"by DLPack needs the package 'cuda-core>=1'") as raised:
        view_of(DLPackOnly(torch.zeros(2)), "x")
    assert raised.value.hint == "pip install 'frcnn[cuda]'"


def test_an_array_that_cannot_be_exported_is_reported():
    with pytest.raises(KernelError, match=r"x cannot be read as an array: Can't export tensors that require gradient"):
        view_of(torch.zeros(2, requires_grad=True), "x")


@pytest.mark.parametrize(
    ("stream", "handle"),
    [
        (0, 0),
        (2**40, 2**40),
        (SimpleNamespace(cuda_stream=3), 3),
        (SimpleNamespace(ptr=4), 4),
        (SimpleNamespace(handle=5), 5),
        (SimpleNamespace(handle=9, __cuda_stream__=lambda: (0, 6)), 6),
        (SimpleNamespace(__cuda_stream__=(0, 7)), 7),
    ],
    ids=["default", "int", "cuda_stream", "ptr", "handle", "__cuda_stream__()", "__cuda_stream__"],
)
def test_streams_of_every_library(stream, handle):
    assert stream_handle(stream) == handle


def test_loading_compiles_for_the_current_device(tmp_path, monkeypatch):
    monkeypatch.setenv("FRCNN_CACHE_DIR", str(tmp_path))
    for architecture, beginning in (("sm_90", b"\x7fELF"), ("sm_999", b"//\n// Generated by NVIDIA NVVM Compiler")):
        driver = HostDriver(architecture)
        detect = load_operator("BoxDetections", **DETECTIONS, driver=driver)
        assert [loaded.kernel for loaded in detect.kernels] == list(detections_kernels(**DETECTIONS))
        assert all(code.startswith(beginning) for code in driver.codes)
        assert len(driver.codes) == 3


def test_loading_for_a_named_architecture_asks_no_device(tmp_path, monkeypatch):
    monkeypatch.setenv("FRCNN_CACHE_DIR", str(tmp_path))
    driver = HostDriver("none")
    load_preprocess(image_mean=(0, 0, 0), image_std=(1, 1, 1), architecture="sm_80", driver=driver)
    one_level = ALIGN | {"spatial_scales": [0.25], "level_thresholds": [NEVER]}
    align = load_operator("MultiscaleRoIAlign", **one_level, element="float16", architecture="sm_80", driver=driver)
    assert [tensor.name for tensor in align.inputs] == ["rois", "feature_0"]
    assert [tensor.element for tensor in align.inputs] == ["float32", "float16"]


def test_unknown_operators_and_attributes_are_refused():
    with pytest.raises(KernelError, match="operator must be one of BoxDetections, MultiscaleRoIAlign, MultiscaleRoIP"):
        load_operator("NMS", iou_threshold=0.5)
    with pytest.raises(KernelError, match="MultiscaleRoIPool needs the attribute 'output_height'") as caught:
        load_operator("MultiscaleRoIPool")
    assert caught.value.hint == (
        "its attributes are output_height, output_width, spatial_scales, level_thresholds, element, layout, "
        "output_layout, channels"
    )
    with pytest.raises(KernelError, match="BoxDetections has no attribute 'layout'"):
        load_operator("BoxDetections", **DETECTIONS, layout="planar")


@pytest.mark.parametrize("name", direct.__all__)
def test_the_former_module_name_warns(name):
    with pytest.warns(
        DeprecationWarning, match=rf"frcnn\.plugins\.direct\.{name} is frcnn\.plugins\.cuda\.launch\.{name}"
    ):
        assert getattr(direct, name) is getattr(launch, name)
    with pytest.raises(AttributeError, match="has no attribute 'unload'"):
        direct.unload  # noqa: B018


STAND_IN = """
import ctypes
import torch
from support.host_driver import HostArray
from support.libcuda import StandIn
from support.simt import launch_on_host
from frcnn.errors import KernelError
from frcnn.plugins.cuda.launch import load_operator
from frcnn.plugins.kernel import Launch
from frcnn.plugins.multiscale_roi_pool.reference import multiscale_roi_pool

library = ctypes.CDLL("libcuda.so.1", mode=ctypes.RTLD_GLOBAL)
try:
    load_operator("MultiscaleRoIPool", **POOLING)
except KernelError as error:
    print(error)
StandIn().set_context(0xC0)
try:
    load_operator("MultiscaleRoIPool", **POOLING, architecture="compute_75")
except KernelError as error:
    print(error)

pool = load_operator("MultiscaleRoIPool", **POOLING)
again = load_operator("MultiscaleRoIPool", **POOLING)
print(library.stand_in_loads())
kernels = iter([loaded.kernel for loaded in pool.kernels])
streams = []

@ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint), ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)
)
def launch(function, geometry, stream, parameters):
    kernel = next(kernels, None)
    if kernel is None:
        return 400  # CUDA_ERROR_INVALID_HANDLE
    streams.append(stream)
    count, last = len(kernel.inputs), len(kernel.inputs) + len(kernel.integers)
    places = [*range(count), *range(last, last + len(kernel.outputs))]
    pointers = [ctypes.c_uint64.from_address(parameters[i]).value for i in places]
    integers = tuple(ctypes.c_int32.from_address(parameters[i]).value for i in range(count, last))
    shape = Launch(grid=tuple(geometry[:3]), block=tuple(geometry[3:6]), integers=integers, output_shapes=())
    launch_on_host(kernel, shape, pointers)
    return 0

library.stand_in_launch(launch)
rois = torch.tensor([[[0.0, 0, 90, 70], [8, 8, 30, 40]]])
maps = [torch.randn(1, 8, size, size, generator=torch.Generator().manual_seed(size)) for size in (32, 16)]
pooled = torch.full((2, 8, 7, 7), 7.0)
pool(HostArray(rois), *map(HostArray, maps), out=HostArray(pooled), stream=0xABCD)
print(torch.equal(pooled, multiscale_roi_pool(rois, maps, **POOLING)), float(pooled.min()) != 7, streams)
try:
    pool(HostArray(rois), *map(HostArray, maps), out=HostArray(pooled), stream=0xABCD)
except KernelError as error:
    print(error)
"""


@pytest.mark.slow
def test_calls_of_the_driver_through_nvidias_bindings(tmp_path):
    """Order and types of the arguments, geometry, stream, one load a process, and errors."""
    no_context, no_binary, loads, equal, refused = run_with_stand_in(
        f"POOLING = {POOLING}\n{STAND_IN}", tmp_path
    ).splitlines()
    assert no_context.startswith("no CUDA context is current on this thread (make one first")
    assert "CUDA_ERROR_NO_BINARY_FOR_GPU (load it for the architecture of the GPU" in no_binary
    assert loads == "1"
    assert equal == f"True True [{0xABCD}]"
    assert "cuLaunchKernel returned CUDA_ERROR_INVALID_HANDLE (the stream must be alive" in refused
