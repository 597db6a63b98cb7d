"""Direct launches: the same code as on a GPU, with a driver that runs the kernels on the CPU."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from support.dlpack_only import DLPackOnly
from support.host_driver import HostArray, HostDriver, operator_on_host
from support.libcuda import run_with_stand_in
from support.simt import require_compiler

from frcnn.errors import KernelError, MissingDependencyError
from frcnn.plugins import direct
from frcnn.plugins.cuda import launch
from frcnn.plugins.cuda.arrays import stream_handle, view_of
from frcnn.plugins.cuda.launch import load_operator, load_preprocess
from frcnn.plugins.grouped_nms.kernel import kernels as nms_kernels
from frcnn.plugins.grouped_nms.reference import grouped_nms
from frcnn.plugins.multiscale_roi_align.kernel import kernels as align_kernels
from frcnn.plugins.multiscale_roi_align.reference import multiscale_roi_align
from frcnn.plugins.multiscale_roi_pool.kernel import kernels as pool_kernels
from frcnn.plugins.multiscale_roi_pool.reference import multiscale_roi_pool
from frcnn.plugins.preprocess import kernels as preprocess_kernels
from frcnn.plugins.roi_pooling.level_boundaries import NEVER

ELEMENT = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
POOLING = {"output_height": 7, "output_width": 7, "spatial_scales": [0.25, 0.125], "level_thresholds": [40.0]}
ALIGN = POOLING | {"sampling_ratio": 2, "aligned": 0}


@pytest.fixture(autouse=True, scope="module")
def compiler():
    require_compiler()


@pytest.fixture
def driver():
    return HostDriver()


@pytest.fixture
def nms(driver):
    return operator_on_host(nms_kernels(iou_threshold=0.5), driver)


def proposals(groups: int, boxes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(groups * 1000 + boxes)
    corners = torch.rand(groups, boxes, 2, generator=generator) * 30
    sizes = torch.rand(groups, boxes, 2, generator=generator) * 20
    scores = torch.rand(groups, boxes, generator=generator) - 0.2
    return torch.cat([corners, corners + sizes], dim=2), scores


def rois_and_maps(dtype: torch.dtype, *, last: bool = False) -> tuple[torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(5)
    corners = torch.rand(2, 9, 2, generator=generator) * 90
    rois = torch.cat([corners, corners + torch.rand(2, 9, 2, generator=generator) * 80], dim=2)
    kind = torch.channels_last if last else torch.contiguous_format
    sizes = ((32, 40), (16, 20))
    maps = [torch.randn(2, 8, *size, generator=generator).to(dtype).contiguous(memory_format=kind) for size in sizes]
    return rois, maps


@pytest.mark.slow
@pytest.mark.parametrize(("groups", "boxes"), [(3, 100), (1, 1), (2, 33)])
def test_nms_with_scratch_is_the_reference(nms, driver, groups, boxes):
    candidates, scores = proposals(groups, boxes)
    kept = torch.empty_like(scores)
    needed = nms.scratch_bytes(candidates.shape, scores.shape)
    memory = torch.full((needed + 64,), 0xCD, dtype=torch.uint8)
    nms(HostArray(candidates), HostArray(scores), out=HostArray(kept), scratch=HostArray(memory[:needed]), stream=17)
    assert torch.equal(kept, grouped_nms(candidates, scores, iou_threshold=0.5))
    assert (memory[needed:] == 0xCD).all()
    assert [(entry, stream) for entry, _, stream in driver.launches] == [
        ("grouped_nms_mask", 17),
        ("grouped_nms_resolve", 17),
    ]


def test_scratch_holds_both_tensors_each_at_a_multiple_of_256_bytes(nms):
    tiles = 4
    assert nms.scratch_bytes((3, 100, 4), (3, 100)) == 1280 + 4 * 3 * 16 * tiles * (tiles + 1)
    assert nms.output_shape((3, 100, 4), (3, 100)) == (3, 100)


@pytest.mark.parametrize(("groups", "boxes"), [(0, 5), (4, 0), (0, 0)])
def test_no_boxes_need_no_scratch(nms, groups, boxes):
    candidates, scores = torch.zeros(groups, boxes, 4), torch.zeros(groups, boxes)
    nms(HostArray(candidates), HostArray(scores), out=HostArray(scores.clone()), stream=0)
    assert nms.scratch_bytes(candidates.shape, scores.shape) == 0


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
    pooled = torch.empty(pool.output_shape(rois.shape, *(m.shape for m in maps)), dtype=dtype, memory_format=kind)
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
    assert preprocess.output_shape((5, 8), H=32, W=64) == (5, 3, 32, 64)
    with pytest.raises(KernelError, match="sizes must be given for H, W, got none"):
        preprocess.output_shape((5, 8))


def test_launches_are_planned_once_for_shapes(nms, driver):
    candidates, scores = proposals(2, 20)
    scratch = HostArray(torch.empty(nms.scratch_bytes(candidates.shape, scores.shape), dtype=torch.uint8))
    for _ in range(2):
        nms(HostArray(candidates), HostArray(scores), out=HostArray(scores.clone()), scratch=scratch, stream=0)
    assert driver.launches[0][1] is driver.launches[2][1]


def call_nms(nms, **changed):
    """Call with (2, 4) boxes, some arguments changed."""
    candidates, scores = proposals(2, 4)
    arguments = {
        "boxes": HostArray(candidates),
        "scores": HostArray(scores),
        "out": HostArray(torch.empty(2, 4)),
        "scratch": HostArray(torch.empty(2048, dtype=torch.uint8)),
        "stream": 0,
    } | changed
    nms(arguments.pop("boxes"), arguments.pop("scores"), **arguments)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scores": HostArray(torch.zeros(2, 4).double())}, "scores must be float32, got <f8"),
        ({"scores": HostArray(torch.zeros(2, 5))}, r"M of scores must be 4, got 5 in \(2, 5\)"),
        ({"scores": HostArray(torch.zeros(4, 2).t())}, r"scores must lie as written .*strides of \(16, 4\) bytes, got"),
        ({"scores": torch.zeros(2, 4)}, "scores must lie in device memory, got host memory"),
        ({"scores": np.zeros((2, 4), np.float32)}, "scores must lie in device memory, got host memory"),
        ({"scores": [0.5]}, "scores must be an array in device memory, .* got list"),
        ({"scores": HostArray(torch.zeros(2, 4), mask=1)}, "scores cannot be read as an array: it has a mask"),
        ({"scores": HostArray(torch.zeros(9)[1:].view(2, 4))}, "scores must begin at a multiple of 16 bytes"),
        ({"out": HostArray(torch.zeros(2, 4), read_only=True)}, "out is written, got a read-only array"),
        ({"out": HostArray(torch.zeros(2, 4).half())}, "out must be float32, got float16"),
        ({"out": HostArray(torch.zeros(2, 5))}, r"out must have the shape \(2, 4\), got \(2, 5\)"),
        ({"out": HostArray(torch.zeros(8))}, r"out must have the shape \(G, M\), got \(8,\)"),
        ({"scratch": None}, "needs 512 bytes of scratch for these shapes, got none"),
        ({"scratch": HostArray(torch.zeros(100))}, "scratch must have at least 512 bytes, got 400"),
        ({"scratch": HostArray(torch.zeros(400, 2)[:, :1])}, "scratch must lie in one piece"),
        ({"scratch": HostArray(torch.zeros(400), read_only=True)}, "scratch is written, got a read-only array"),
        ({"scratch": torch.zeros(400)}, "scratch must lie in device memory"),
        ({"stream": None}, "stream must be a CUDA stream or its handle as an int, got NoneType"),
        ({"stream": True}, "got bool"),
    ],
)
def test_an_array_that_a_kernel_cannot_take_is_refused_before_any_launch(nms, driver, changed, message):
    with pytest.raises(KernelError, match=message):
        call_nms(nms, **changed)
    assert driver.launches == []
    call_nms(nms)  # unchanged, it is launched
    assert len(driver.launches) == 2


def test_arrays_that_overlap_are_refused(nms, driver):
    scores = torch.zeros(2, 4)
    with pytest.raises(KernelError, match="out is written, it must not share memory with operator: scores"):
        call_nms(nms, scores=HostArray(scores), out=HostArray(scores))
    shared = torch.zeros(600)
    with pytest.raises(KernelError, match="scratch is written, it must not share memory with operator: out"):
        call_nms(nms, out=HostArray(shared[592:].view(2, 4)), scratch=HostArray(shared))
    assert driver.launches == []


def test_memory_of_another_device_is_refused(nms, driver):
    scores = torch.zeros(2, 4)
    driver.unreachable = {scores.data_ptr()}
    with pytest.raises(KernelError, match="scores must lie in memory of the current CUDA device"):
        call_nms(nms, scores=HostArray(scores))
    assert driver.launches == []


def test_the_number_of_arrays_and_of_pointers_is_checked(nms):
    with pytest.raises(KernelError, match=r"takes 2 arrays \(boxes, scores\), got 1"):
        nms(HostArray(torch.zeros(1, 1, 4)), out=None, stream=0)
    kernel = nms.kernels[0]
    with pytest.raises(KernelError, match="grouped_nms_mask takes 4 pointers, got 3"):
        kernel.launch(kernel.kernel.bind({"G": 1, "M": 1}), [16, 16, 16], 0)


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
        nms = load_operator("GroupedNMS", iou_threshold=0.5, driver=driver)
        assert [loaded.kernel.entry for loaded in nms.kernels] == ["grouped_nms_mask", "grouped_nms_resolve"]
        assert all(code.startswith(beginning) for code in driver.codes)
        assert len(driver.codes) == 2


def test_loading_for_a_named_architecture_asks_no_device(tmp_path, monkeypatch):
    monkeypatch.setenv("FRCNN_CACHE_DIR", str(tmp_path))
    driver = HostDriver("none")
    load_preprocess(image_mean=(0, 0, 0), image_std=(1, 1, 1), architecture="sm_80", driver=driver)
    one_level = ALIGN | {"spatial_scales": [0.25], "level_thresholds": [NEVER]}
    align = load_operator("MultiscaleRoIAlign", **one_level, element="float16", architecture="sm_80", driver=driver)
    assert [tensor.name for tensor in align.inputs] == ["rois", "feature_0"]
    assert [tensor.element for tensor in align.inputs] == ["float32", "float16"]


def test_unknown_operators_and_attributes_are_refused():
    with pytest.raises(KernelError, match="operator must be one of GroupedNMS, MultiscaleRoIAlign, MultiscaleRoIPool"):
        load_operator("NMS", iou_threshold=0.5)
    with pytest.raises(KernelError, match="GroupedNMS needs the attribute 'iou_threshold'") as caught:
        load_operator("GroupedNMS")
    assert caught.value.hint == "its attributes are iou_threshold"
    with pytest.raises(KernelError, match="GroupedNMS has no attribute 'threshold'"):
        load_operator("GroupedNMS", iou_threshold=0.5, threshold=1)


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
from frcnn.plugins.grouped_nms.reference import grouped_nms
from frcnn.plugins.kernel import Launch

library = ctypes.CDLL("libcuda.so.1", mode=ctypes.RTLD_GLOBAL)
try:
    load_operator("GroupedNMS", iou_threshold=0.5)
except KernelError as error:
    print(error)
StandIn().set_context(0xC0)
try:
    load_operator("GroupedNMS", iou_threshold=0.5, architecture="compute_75")
except KernelError as error:
    print(error)

nms = load_operator("GroupedNMS", iou_threshold=0.5)
again = load_operator("GroupedNMS", iou_threshold=0.5)
print(library.stand_in_loads())
kernels = iter([loaded.kernel for loaded in nms.kernels])
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
corners = torch.rand(2, 70, 2, generator=torch.Generator().manual_seed(1)) * 9
boxes, scores = torch.cat([corners, corners + 5], dim=2), torch.rand(2, 70)
kept = torch.empty_like(scores)
scratch = HostArray(torch.empty(nms.scratch_bytes(boxes.shape, scores.shape), dtype=torch.uint8))
nms(HostArray(boxes), HostArray(scores), out=HostArray(kept), scratch=scratch, stream=0xABCD)
print(torch.equal(kept, grouped_nms(boxes, scores, iou_threshold=0.5)), 0 < int((kept > 0).sum()) < 140, streams)
try:
    nms(HostArray(boxes), HostArray(scores), out=HostArray(kept), scratch=scratch, stream=0xABCD)
except KernelError as error:
    print(error)
"""


@pytest.mark.slow
def test_calls_of_the_driver_through_nvidias_bindings(tmp_path):
    """Order and types of the arguments, geometry, stream, one load a process, and errors."""
    no_context, no_binary, loads, equal, refused = run_with_stand_in(STAND_IN, tmp_path).splitlines()
    assert no_context.startswith("no CUDA context is current on this thread (make one first")
    assert "CUDA_ERROR_NO_BINARY_FOR_GPU (load it for the architecture of the GPU" in no_binary
    assert loads == "2"
    assert equal == f"True True [{0xABCD}, {0xABCD}]"
    assert "cuLaunchKernel returned CUDA_ERROR_INVALID_HANDLE (the stream must be alive" in refused
