"""Arrays, streams and contexts of PyCUDA, CuPy and PyTorch, and CUDA graphs: without a copy, without a wait."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.dlpack_only import DLPackOnly

from frcnn.errors import KernelError
from frcnn.plugins.cuda.launch import load_operator
from frcnn.plugins.grouped_nms.reference import grouped_nms
from gpu.cases import call, maps_of, pooling, proposals, rois_of
from gpu.system import ROOT, run

pytestmark = pytest.mark.gpu

THRESHOLD = 0.5


@pytest.fixture(scope="module")
def nms(device):
    return load_operator("GroupedNMS", iou_threshold=THRESHOLD)


def buffers(nms, boxes, scores):
    """Return an output and scratch for a call."""
    return torch.empty_like(scores), torch.empty(
        nms.scratch_bytes(boxes.shape, scores.shape), dtype=torch.uint8, device=boxes.device
    )


def test_a_captured_launch_is_replayed_on_new_contents(device, nms):
    boxes, scores = (tensor.to(device) for tensor in proposals(5, 1000, seed=0))
    out, scratch = buffers(nms, boxes, scores)
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.graph(graph, stream=side):
        nms(boxes, scores, out=out, scratch=scratch, stream=side)
    for seed in range(1, 4):
        new_boxes, new_scores = proposals(5, 1000, seed=seed)
        boxes.copy_(new_boxes)
        scores.copy_(new_scores)
        graph.replay()
        assert torch.equal(out.cpu(), grouped_nms(new_boxes, new_scores, iou_threshold=THRESHOLD))


def test_the_first_launch_of_an_operator_can_be_captured(device):
    """Loading does everything that a capture forbids."""
    given = pooling(3, sampling_ratio=2, aligned=1)
    align = load_operator("MultiscaleRoIAlign", **given)
    rois = rois_of(1, 50, given["level_thresholds"], 0).to(device)
    maps = maps_of(1, 16, 3, "float32", "planar", device)
    out = torch.empty(50, 16, 7, 7, device=device)
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.graph(graph, stream=side):
        align(rois, *maps, out=out, stream=side)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, call(align, rois, *maps, stream=torch.cuda.current_stream()))


def test_two_streams_at_once(device, nms):
    cases = [tuple(tensor.to(device) for tensor in proposals(20, 1000, seed=seed)) for seed in range(2)]
    made = [buffers(nms, *case) for case in cases]
    streams = [torch.cuda.Stream() for _ in cases]
    torch.cuda.synchronize()
    for _ in range(50):
        for (boxes, scores), (out, scratch), stream in zip(cases, made, streams, strict=True):
            nms(boxes, scores, out=out, scratch=scratch, stream=stream)
    torch.cuda.synchronize()
    for (boxes, scores), (out, _) in zip(cases, made, strict=True):
        assert torch.equal(out.cpu(), grouped_nms(boxes.cpu(), scores.cpu(), iou_threshold=THRESHOLD))


def test_a_call_does_not_wait_for_the_stream(device, nms):
    boxes, scores = (tensor.to(device) for tensor in proposals(2, 100, seed=3))
    out, scratch = buffers(nms, boxes, scores)
    side = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(200_000_000)  # a tenth of a second of clock ticks
    nms(boxes, scores, out=out, scratch=scratch, stream=side)
    assert not side.query()
    side.synchronize()
    assert torch.equal(out.cpu(), grouped_nms(boxes.cpu(), scores.cpu(), iou_threshold=THRESHOLD))


def test_a_call_allocates_no_memory(device, nms):
    boxes, scores = (tensor.to(device) for tensor in proposals(2, 1000, seed=4))
    out, scratch = buffers(nms, boxes, scores)
    nms(boxes, scores, out=out, scratch=scratch, stream=torch.cuda.current_stream())
    torch.cuda.synchronize()
    before = torch.cuda.mem_get_info()[0]
    for _ in range(20):
        nms(boxes, scores, out=out, scratch=scratch, stream=torch.cuda.current_stream())
    torch.cuda.synchronize()
    assert torch.cuda.mem_get_info()[0] == before


def test_arrays_with_dlpack_only(device, nms, stream):
    boxes, scores = (tensor.to(device) for tensor in proposals(3, 200, seed=5))
    out, scratch = buffers(nms, boxes, scores)
    nms(DLPackOnly(boxes), DLPackOnly(scores), out=DLPackOnly(out), scratch=DLPackOnly(scratch), stream=stream)
    assert torch.equal(out.cpu(), grouped_nms(boxes.cpu(), scores.cpu(), iou_threshold=THRESHOLD))


def test_host_memory_is_refused(device, nms, stream):
    boxes, scores = (tensor.to(device) for tensor in proposals(3, 200, seed=5))
    out, scratch = buffers(nms, boxes, scores)
    with pytest.raises(KernelError, match="scores must lie in device memory"):
        nms(boxes, scores.cpu(), out=out, scratch=scratch, stream=stream)

    host = scores.cpu()
    data = (host.data_ptr() & ~15, False)
    wrong = SimpleNamespace(
        __cuda_array_interface__={"shape": tuple(host.shape), "typestr": "<f4", "data": data, "version": 3}
    )
    with pytest.raises(KernelError, match="scores must lie in memory of the current CUDA device"):
        nms(boxes, wrong, out=out, scratch=scratch, stream=stream)


def test_cupy_arrays_and_stream(device, optional, nms):
    cupy = optional("cupy")
    boxes, scores = proposals(4, 300, seed=6)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        theirs = cupy.asarray(boxes.numpy()), cupy.asarray(scores.numpy())
        out = cupy.empty(scores.shape, cupy.float32)
        scratch = cupy.empty(nms.scratch_bytes(boxes.shape, scores.shape), cupy.uint8)
        nms(*theirs, out=out, scratch=scratch, stream=stream)
        found = cupy.asnumpy(out, stream=stream)
    assert torch.equal(torch.from_numpy(found), grouped_nms(boxes, scores, iou_threshold=THRESHOLD))


# In a process of its own, which never creates the primary context of PyTorch and CuPy.
PYCUDA = """
import numpy as np
import pycuda.driver as cuda
from cuda.bindings import driver as bindings
from pycuda import gpuarray

from frcnn.errors import KernelError
from frcnn.plugins.cuda.launch import load_operator

cuda.init()
context = cuda.Device(0).make_context()
try:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 50, (6, 200, 2))
    boxes = np.concatenate([corners, corners + 10], axis=2).astype(np.float32)
    scores = rng.uniform(0, 1, (6, 200)).astype(np.float32)
    current = int(bindings.cuCtxGetCurrent()[1])
    nms = load_operator("GroupedNMS", iou_threshold=0.5)
    stream = cuda.Stream()
    given = gpuarray.to_gpu_async(boxes, stream=stream), gpuarray.to_gpu_async(scores, stream=stream)
    out = gpuarray.empty(scores.shape, np.float32)
    scratch = gpuarray.empty(nms.scratch_bytes(boxes.shape, scores.shape), np.uint8)
    nms(*given, out=out, scratch=scratch, stream=stream)
    assert int(bindings.cuCtxGetCurrent()[1]) == current, "the context was switched"
    found = out.get_async(stream=stream)
    stream.synchronize()
    np.savez(PATH, boxes=boxes, scores=scores, found=found)
    context.pop()
    try:
        load_operator("GroupedNMS", iou_threshold=0.25)
        raise AssertionError("there was no context, and yet it loaded")
    except KernelError as error:
        assert "no CUDA context is current" in str(error), error
    context.push()
finally:
    context.pop()
    context.detach()
"""


def test_pycuda_arrays_stream_and_its_own_context(device, optional, tmp_path):
    optional("pycuda")
    path = tmp_path / "found.npz"
    code = PYCUDA.replace("PATH", repr(str(path)))
    done = run([sys.executable, "-c", code], timeout_s=300)
    assert done.returncode == 0, done.stderr
    with np.load(path) as saved:
        boxes, scores, found = (torch.from_numpy(saved[name]) for name in ("boxes", "scores", "found"))
    assert torch.equal(found, grouped_nms(boxes, scores, iou_threshold=0.5))
    assert 6 < int((found > 0).sum()) < found.numel()


@pytest.mark.parametrize("library", ["torch", "cupy", "pycuda"])
def test_the_examples_run(device, optional, library):
    optional(library)
    script = ROOT / "examples" / "direct_launch" / f"with_{library}.py"
    done = run([sys.executable, str(script)], timeout_s=300)
    assert done.returncode == 0, done.stderr
    assert "boxes kept" in done.stdout
