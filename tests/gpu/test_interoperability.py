"""Arrays, streams and contexts of PyCUDA, CuPy and PyTorch, and CUDA graphs: without a copy, without a wait."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.dlpack_only import DLPackOnly

from frcnn.errors import KernelError
from frcnn.plugins.box_detections.reference import box_detections
from frcnn.plugins.cuda.launch import load_operator
from gpu.cases import DETECTIONS, buffers, call, head_case, maps_of, pooling, rois_of
from gpu.system import ROOT, run

pytestmark = pytest.mark.gpu

GIVEN = {**DETECTIONS, "max_detections": 100}


@pytest.fixture(scope="module")
def detect(device):
    return load_operator("BoxDetections", **GIVEN)


def case(device, *, images=4, per_image=1000, seed=0):
    """Return inputs of which every decision is exact."""
    return head_case(images, per_image, 21, "float32", device, seed=seed, exact=True)


def assert_right(outputs, inputs):
    count, boxes, scores, labels = (tensor.cpu() for tensor in outputs)
    expected = box_detections(*(tensor.cpu() for tensor in inputs), **GIVEN)
    assert torch.equal(count, expected.num_detections)
    assert int(count.min()) > 0
    assert torch.equal(boxes, expected.boxes)
    assert torch.equal(labels, expected.labels)
    assert float((scores - expected.scores).abs().max()) <= 2e-6


def test_a_captured_launch_is_replayed_on_new_contents(device, detect):
    inputs = case(device)
    outputs, scratch = buffers(detect, *inputs)
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.graph(graph, stream=side):
        detect(*inputs, out=outputs, scratch=scratch, stream=side)
    for seed in range(1, 4):
        for given, new in zip(inputs, case(device, seed=seed), strict=True):
            given.copy_(new)
        graph.replay()
        assert_right(outputs, inputs)


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


def test_two_streams_at_once(device, detect):
    cases = [case(device, images=8, seed=seed) for seed in range(2)]
    made = [buffers(detect, *inputs) for inputs in cases]
    streams = [torch.cuda.Stream() for _ in cases]
    torch.cuda.synchronize()
    for _ in range(50):
        for inputs, (outputs, scratch), stream in zip(cases, made, streams, strict=True):
            detect(*inputs, out=outputs, scratch=scratch, stream=stream)
    torch.cuda.synchronize()
    for inputs, (outputs, _) in zip(cases, made, strict=True):
        assert_right(outputs, inputs)


def test_a_call_does_not_wait_for_the_stream(device, detect):
    inputs = case(device, images=1)
    outputs, scratch = buffers(detect, *inputs)
    side = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(200_000_000)  # a tenth of a second of clock ticks
    detect(*inputs, out=outputs, scratch=scratch, stream=side)
    assert not side.query()
    side.synchronize()
    assert_right(outputs, inputs)


def test_a_call_allocates_no_memory(device, detect):
    inputs = case(device)
    outputs, scratch = buffers(detect, *inputs)
    detect(*inputs, out=outputs, scratch=scratch, stream=torch.cuda.current_stream())
    torch.cuda.synchronize()
    before = torch.cuda.mem_get_info()[0]
    for _ in range(20):
        detect(*inputs, out=outputs, scratch=scratch, stream=torch.cuda.current_stream())
    torch.cuda.synchronize()
    assert torch.cuda.mem_get_info()[0] == before


def test_arrays_with_dlpack_only(device, detect, stream):
    inputs = case(device, images=2)
    outputs, scratch = buffers(detect, *inputs)
    wrapped = [DLPackOnly(output) for output in outputs]
    detect(*map(DLPackOnly, inputs), out=wrapped, scratch=scratch, stream=stream)
    assert_right(outputs, inputs)


def test_host_memory_is_refused(device, detect, stream):
    rois, sizes, logits, deltas = case(device, images=1)
    outputs, scratch = buffers(detect, rois, sizes, logits, deltas)
    with pytest.raises(KernelError, match="class_logits must lie in device memory"):
        detect(rois, sizes, logits.cpu(), deltas, out=outputs, scratch=scratch, stream=stream)

    host = logits.cpu()
    data = (host.data_ptr() & ~15, False)
    wrong = SimpleNamespace(
        __cuda_array_interface__={"shape": tuple(host.shape), "typestr": "<f4", "data": data, "version": 3}
    )
    with pytest.raises(KernelError, match="class_logits must lie in memory of the current CUDA device"):
        detect(rois, sizes, wrong, deltas, out=outputs, scratch=scratch, stream=stream)


def test_cupy_arrays_and_stream(device, optional, detect):
    cupy = optional("cupy")
    inputs = case("cpu", images=2, seed=6)
    outputs, scratch = buffers(detect, *inputs)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        theirs = [cupy.asarray(tensor.numpy()) for tensor in inputs]
        out = [cupy.asarray(tensor.numpy()) for tensor in outputs]
        detect(*theirs, out=out, scratch=cupy.asarray(scratch.numpy()), stream=stream)
        found = [torch.from_numpy(cupy.asnumpy(array, stream=stream)) for array in out]
    assert_right(found, inputs)


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
    with np.load(PATH) as saved:
        inputs = [saved[f"input_{i}"] for i in range(4)]
    current = int(bindings.cuCtxGetCurrent()[1])
    detect = load_operator("BoxDetections", **GIVEN)
    stream = cuda.Stream()
    shapes = [array.shape for array in inputs]
    given = [gpuarray.to_gpu_async(array, stream=stream) for array in inputs]
    kinds = [np.int32, np.float32, np.float32, np.int32]
    out = [gpuarray.empty(shape, kind) for shape, kind in zip(detect.output_shapes(*shapes), kinds, strict=True)]
    scratch = gpuarray.empty(detect.scratch_bytes(*shapes), np.uint8)
    detect(*given, out=out, scratch=scratch, stream=stream)
    assert int(bindings.cuCtxGetCurrent()[1]) == current, "the context was switched"
    found = [array.get_async(stream=stream) for array in out]
    stream.synchronize()
    np.savez(PATH, *found)
    context.pop()
    try:
        load_operator("BoxDetections", **GIVEN | {"iou_threshold": 0.25})
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
    path = tmp_path / "arrays.npz"
    inputs = case("cpu", images=2, seed=7)
    np.savez(path, **{f"input_{i}": tensor.numpy() for i, tensor in enumerate(inputs)})
    code = PYCUDA.replace("PATH", repr(str(path))).replace("GIVEN", repr(GIVEN))
    done = run([sys.executable, "-c", code], timeout_s=300)
    assert done.returncode == 0, done.stderr
    with np.load(path) as saved:
        found = [torch.from_numpy(saved[name]) for name in saved.files]
    assert_right(found, inputs)


@pytest.mark.parametrize("library", ["torch", "cupy", "pycuda"])
def test_the_examples_run(device, optional, library):
    optional(library)
    script = ROOT / "examples" / "direct_launch" / f"with_{library}.py"
    done = run([sys.executable, str(script)], timeout_s=300)
    assert done.returncode == 0, done.stderr
    assert "detections" in done.stdout
