"""``Detector.load("model.frcnn")`` on a GPU: parity, threads, streams, no growth, little on the host."""

from __future__ import annotations

import gc
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from frcnn.benchmarks.candidates.artifacts import canvases_of
from frcnn.benchmarks.candidates.eager_detector import EagerDetector
from frcnn.benchmarks.parity.comparison import compare_images, default_limits, total
from frcnn.benchmarks.parity.matching import match
from frcnn.benchmarks.timing.measure import cuda_ms, wall_ms
from frcnn.runtime import Detections, Detector
from frcnn.runtime.model_files.artifact import open_artifact
from frcnn.spec import Precision
from gpu.models import demo_eager, demo_files, demo_images, needs_engines, open_bare
from gpu.system import ROOT, run, skip_or_fail

pytestmark = pytest.mark.gpu

Optional = Callable[[str], ModuleType]

MAX_OVERHEAD_US = 50.0
PAGE_BYTES = 4096
GROWTH_BYTES = 16 << 20  # the allocator of Python and of glibc may keep a little more


@pytest.fixture(autouse=True, scope="module")
def engines(device):
    needs_engines()


@pytest.fixture(scope="module")
def images():
    return demo_images()


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def precision(request):
    chosen: Precision = request.param
    return chosen


@pytest.fixture(scope="module")
def detector(precision):
    with Detector.load(demo_files(precision).artifact) as made:
        yield made


def same(a: Detections, b: Detections) -> None:
    for name in ("boxes", "scores", "labels"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_parity_with_eager_in_float32(detector, precision, images):
    """The limits of the CPU: fp32 0.01 px and 1e-4; fp16 an IoU of 0.99 above score 0.3."""
    model, spec = demo_eager()
    limits = default_limits(precision, spec.roi_heads.pooler.kind)
    canvases = canvases_of(open_artifact(demo_files(precision).artifact).manifest)
    result = total(
        list(compare_images(EagerDetector(model, spec), detector, images, limits, canvases=canvases)), limits
    )
    assert result.total.expected > len(images)
    assert result.passed, result.total


def test_parity_with_onnx_runtime(optional, images):
    optional("onnxruntime")
    files = demo_files("fp32")
    with Detector.load(files.onnx) as portable, Detector.load(files.artifact) as detector:
        for image in images:
            (expected,), (found,) = portable([image.pixels], score=0.3), detector([image.pixels], score=0.3)
            pairs = match(expected, found)
            assert len(pairs.pairs) == len(expected) == len(found)
            left, right = pairs.pairs.T
            assert np.abs(expected.boxes[left] - found.boxes[right]).max(initial=0) <= 0.05
            assert np.abs(expected.scores[left] - found.scores[right]).max(initial=0) <= 1e-3
            np.testing.assert_array_equal(expected.labels[left], found.labels[right])


def test_images_in_device_memory_give_the_detections_of_host_memory(detector, images):
    for image in images[:4]:
        (expected,) = detector([image.pixels])
        on_gpu = torch.tensor(image.pixels, device="cuda")
        same(detector([on_gpu])[0], expected)
        same(detector([on_gpu.permute(2, 0, 1)])[0], expected)
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            torch.cuda._sleep(50_000_000)
            late = torch.zeros_like(on_gpu)
            late.copy_(torch.tensor(image.pixels), non_blocking=True)
        same(detector([late], stream=side)[0], expected)


def test_device_output_stays_on_the_device(detector, images):
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        on_gpu = [torch.tensor(image.pixels, device="cuda") for image in images[:3]]
        outputs = detector(on_gpu, stream=stream, device_output=True)
        arrays = [
            [torch.as_tensor(getattr(output, name), device="cuda").clone() for name in ("boxes", "scores", "labels")]
            for output in outputs
        ]
        counts = [int(torch.as_tensor(output.num_detections, device="cuda")) for output in outputs]
    expected = detector([image.pixels for image in images[:3]])
    for output, (boxes, scores, labels), count, wanted in zip(outputs, arrays, counts, expected, strict=True):
        assert count == len(wanted)
        same(output.to_host(), wanted)
        np.testing.assert_array_equal(boxes[:count].cpu().numpy() * output.to_image, wanted.boxes)
        np.testing.assert_array_equal(scores[:count].cpu().numpy(), wanted.scores)
        np.testing.assert_array_equal(labels[:count].cpu().numpy(), wanted.labels)


def test_eight_threads_get_the_detections_of_one(detector, images):
    expected = [detector([image.pixels])[0] for image in images]

    def work(thread: int) -> None:
        for round_number in range(20):
            index = (thread + round_number) % len(images)
            same(detector([images[index].pixels])[0], expected[index])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))


def test_a_stream_of_images_keeps_their_order(detector, images):
    expected = [detector([image.pixels])[0] for image in images]
    for found, wanted in zip(detector.stream(image.pixels for image in images), expected, strict=True):
        same(found, wanted)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def test_ten_thousand_calls_take_no_memory(detector, images):
    shapes = [image.pixels for image in images[:3]]
    on_gpu = [torch.tensor(pixels, device="cuda") for pixels in shapes]

    def calls(count: int) -> None:
        for number in range(count):
            index = number % 3
            detector([shapes[index] if number % 2 else on_gpu[index]])
        gc.collect()
        torch.cuda.synchronize()

    calls(500)
    gpu_before, host_before = torch.cuda.mem_get_info()[0], resident_bytes()
    calls(10_000)
    assert torch.cuda.mem_get_info()[0] >= gpu_before
    assert resident_bytes() - host_before < GROWTH_BYTES


def test_the_overhead_on_the_host_is_small(detector, precision, images):
    """A call that returns detections to the host takes little longer than the GPU's work, the graph alone."""
    on_gpu = [torch.tensor(images[0].pixels, device="cuda")]
    with open_bare(demo_files(precision).artifact) as bare:
        pipeline, stream = bare.pipeline(images[:1]), torch.cuda.ExternalStream(bare.stream)

        def launch() -> None:
            bare.launch(pipeline)

        def overhead_us() -> float:
            call_ms = median(wall_ms(lambda: detector(on_gpu)) for _ in range(400))
            with torch.cuda.stream(stream):
                graph_ms = median(cuda_ms(launch) for _ in range(400))
            return (call_ms - graph_ms) * 1e3

        launch()
        detector(on_gpu)
        found = [overhead_us() for _ in range(3)]
    assert median(found) <= MAX_OVERHEAD_US, found


def test_after_closing_another_detector_loads(precision, images):
    found = []
    for _ in range(3):
        with Detector.load(demo_files(precision).artifact) as made:
            found.append(made([images[0].pixels])[0])
    same(found[0], found[1])
    same(found[1], found[2])
    assert torch.ones(3, device="cuda").sum() == 3  # the context that PyTorch shares is alive


def test_compute_sanitizer_is_clean(precision, images, tmp_path):
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if sanitizer is None:
        skip_or_fail("compute-sanitizer is not installed")
    image = tmp_path / "scene.png"
    Image.fromarray(images[0].pixels).save(image)
    script = Path(__file__).parent / "sanitized_detection.py"
    # TensorRT probes CUDA with calls that may fail, so errors of calls are no faults; those of kernels are
    options = ["--tool", "memcheck", "--report-api-errors", "no", "--error-exitcode", "9"]
    command = [sanitizer, *options, sys.executable, str(script)]
    done = run([*command, str(demo_files(precision).artifact), str(image)], timeout_s=1200)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "three detections ran" in done.stdout
    assert "ERROR SUMMARY: 0 errors" in done.stdout


def test_the_pycuda_example_runs(optional, images, tmp_path):
    optional("pycuda")
    image = tmp_path / "scene.png"
    Image.fromarray(images[0].pixels).save(image)
    script = ROOT / "examples" / "pycuda_detect" / "detect.py"
    command = [sys.executable, str(script), str(demo_files("fp16").artifact), str(image)]
    done = run(command, timeout_s=300)
    assert done.returncode == 0, done.stderr
    with Detector.load(demo_files("fp16").artifact) as made:
        (expected,) = made([images[0].pixels])
    assert f"{len(expected)} detections" in done.stdout
    assert "in PyCUDA's own context" in done.stdout
