"""What every network in host memory promises, on each library that runs a ``model.onnx`` on the CPU."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnx.parser
import pytest
from support.concurrent_calls import mixed_images
from support.processes import run_python

from frcnn.errors import ArtifactError, MissingDependencyError, UsageError
from frcnn.runtime import Detector
from frcnn.runtime.host.onnxruntime_backend import OnnxRuntimeBackend
from frcnn.runtime.host.openvino_backend import OpenVinoBackend
from frcnn.runtime.host.providers import RunProvider
from frcnn.spec import Manifest

SIZES = np.array([[32, 64], [16, 32]], np.int32)
IMAGES = np.stack([np.full((3, 32, 64), level, np.float32) for level in (0.5, 1.0)])


class Library(NamedTuple):
    name: str
    backend: type[OnnxRuntimeBackend] | type[OpenVinoBackend]
    module: str
    extra: str
    double: str
    """How its messages call float64."""


@pytest.fixture(
    params=[
        Library("ONNX Runtime", OnnxRuntimeBackend, "onnxruntime", "cpu", r"tensor\(double\)"),
        Library("OpenVINO", OpenVinoBackend, "openvino", "openvino", "f64"),
    ],
    ids=lambda library: library.module,
)
def library(request: pytest.FixtureRequest) -> Library:
    found: Library = request.param
    return found


def test_it_runs_a_batch(library: Library, model_path: Path) -> None:
    output = library.backend(model_path, threads=1).run(IMAGES, SIZES)
    assert output.num_detections.tolist() == [2, 2]
    np.testing.assert_allclose(output.scores[:, 0], [0.5, 1.0])
    np.testing.assert_allclose(output.boxes[1, 1], [16, 8, 32, 16])
    assert [value.dtype for value in (output.num_detections, output.boxes, output.scores, output.labels)] == [
        np.int32,
        np.float32,
        np.float32,
        np.int32,
    ]


def test_an_output_is_not_changed_by_the_next_call(library: Library, model_path: Path) -> None:
    backend = library.backend(model_path, threads=1)
    first = backend.run(IMAGES, SIZES)
    backend.run(IMAGES / 2, SIZES)
    np.testing.assert_allclose(first.scores[:, 0], [0.5, 1.0])


def test_a_file_of_version_1_of_the_domain_runs_by_its_bodies(
    library: Library, model_path: Path, tmp_path: Path
) -> None:
    model = onnx.load(model_path)
    (last,) = (node for node in model.graph.node if "scores" in node.output)
    last.output[:] = ["candidates"]
    model.graph.node.add(domain="frcnn", op_type="GroupedNMS", input=["boxes", "candidates"], output=["scores"])
    model.graph.node[-1].attribute.append(onnx.helper.make_attribute("iou_threshold", 0.5))
    body = """<domain: "frcnn", opset_import: ["" : 20]>
        GroupedNMS <iou_threshold> (boxes, scores) => (kept) { half = Constant <value_float: float = @iou_threshold> ()
        kept = Mul (scores, half) }"""
    model.functions.append(onnx.parser.parse_function(body))
    model.opset_import.append(onnx.helper.make_opsetid("frcnn", 1))
    onnx.checker.check_model(model)
    onnx.save(model, tmp_path / "model.onnx")
    output = library.backend(tmp_path / "model.onnx", threads=1).run(IMAGES, SIZES)
    np.testing.assert_allclose(output.scores[:, 0], [0.25, 0.5])


def test_half_precision_models_take_float32_images(
    library: Library, model_of: Callable[..., Path], manifest_of: Callable[..., Manifest]
) -> None:
    backend = library.backend(model_of(manifest_of(precision="fp16"), dtype="float16"), threads=1)
    np.testing.assert_allclose(backend.run(IMAGES, SIZES).scores[:, 0], [0.5, 1.0])


def test_the_bits_are_the_same_in_any_batch_and_after_any_canvas(tiny_model: Path, provider: RunProvider) -> None:
    images = mixed_images(16)
    with Detector.load(tiny_model, provider=provider, threads=2) as detector:
        alone = [detector([image])[0] for image in images]
        for batch_size in (2, 5, 16):
            together = detector(images, batch_size=batch_size)
            for one, found in zip(alone, together, strict=True):
                np.testing.assert_array_equal(one.boxes, found.boxes)
                np.testing.assert_array_equal(one.scores, found.scores)
                np.testing.assert_array_equal(one.labels, found.labels)


def test_other_inputs_are_refused(library: Library, model_path: Path, tmp_path: Path) -> None:
    model = onnx.load(model_path)
    for node in model.graph.node:
        node.input[:] = ["pixels" if name == "images" else name for name in node.input]
    model.graph.input[0].name = "pixels"
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ArtifactError, match=r"expected inputs \('images', 'image_sizes'\).*got \('pixels'"):
        library.backend(tmp_path / "model.onnx")


def test_other_outputs_are_refused(library: Library, model_path: Path, tmp_path: Path) -> None:
    model = onnx.load(model_path)
    del model.graph.output[3]
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(
        ArtifactError, match=r"and outputs \{'num_detections': .*, 'labels': .* got .*'scores': [^,]*\}"
    ):
        library.backend(tmp_path / "model.onnx")


def test_other_input_types_are_refused(library: Library, model_path: Path, tmp_path: Path) -> None:
    model = onnx.load(model_path)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ArtifactError, match=f"expected images as one of .*, got {library.double}"):
        library.backend(tmp_path / "model.onnx")


def test_a_model_that_does_not_load_is_refused(
    library: Library, model_path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(model_path)
    model.graph.node[-1].op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ArtifactError, match=rf"model\.onnx: {library.name} cannot load it: .*NoSuchOperator") as raised:
        library.backend(tmp_path / "model.onnx")
    assert "\n" not in raised.value.message
    assert capfd.readouterr() == ("", "")


def test_a_file_that_is_no_whole_model_is_refused(library: Library, model_path: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(model_path.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="expected an ONNX model, got a truncated one"):
        library.backend(tmp_path / "model.onnx")


def test_a_failing_network_is_our_error(library: Library, model_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    backend = library.backend(model_path, threads=1)
    with pytest.raises(ArtifactError, match=rf"{library.name} failed on 2 image\(s\) on a 32x64 canvas") as raised:
        backend.run(IMAGES[:, :2].copy(), SIZES)
    assert "\n" not in raised.value.message
    assert capfd.readouterr() == ("", "")
    np.testing.assert_allclose(backend.run(IMAGES, SIZES).scores[:, 0], [0.5, 1.0])


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on memory is Linux's")
@pytest.mark.parametrize("threads", [1, 2])
def test_where_memory_runs_out_it_is_our_error(library: Library, tiny_model: Path, threads: int) -> None:
    """And never the detections of the call before, which OpenVINO's ``infer`` gives on one thread."""
    done = run_python(
        """
import resource, sys
import numpy as np
from pathlib import Path
from frcnn.errors import ArtifactError
from frcnn.runtime.host.onnxruntime_backend import OnnxRuntimeBackend
from frcnn.runtime.host.openvino_backend import OpenVinoBackend
backend = globals()[sys.argv[1]](Path(sys.argv[2]), threads=int(sys.argv[3]))
small, large = np.ones((4, 3, 64, 64), np.float32), np.ones((4, 3, 1600, 1600), np.float32)
backend.run(small, np.full((4, 2), 64, np.int32))
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**25, used + 2**25))
try:
    backend.run(large, np.full((4, 2), 1600, np.int32))
except ArtifactError as error:
    print(error)
print(len(backend.run(small, np.full((4, 2), 64, np.int32)).boxes))
""",
        library.backend.__name__,
        str(tiny_model),
        str(threads),
    )
    assert f"{library.name} failed on 4 image(s) on a 1600x1600 canvas" in done
    assert done.splitlines()[-1] == "4"


def test_threads_are_checked(library: Library, model_path: Path) -> None:
    with pytest.raises(UsageError, match="threads: expected 1 or more, got 0"):
        library.backend(model_path, threads=0)


def test_without_the_library_the_extra_is_named(
    library: Library, model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library.module, None)
    with pytest.raises(MissingDependencyError, match=rf"frcnn\[{library.extra}\]"):
        library.backend(model_path)


def test_a_closed_backend_refuses_calls(library: Library, model_path: Path) -> None:
    backend = library.backend(model_path, threads=1)
    backend.close()
    backend.close()
    with pytest.raises(UsageError, match="closed"):
        backend.run(IMAGES, SIZES)


def test_every_library_takes_the_share_of_a_container(tmp_path: Path, model_path: Path) -> None:
    """A quota of one processor, on a system that has eight; the command sees to PyTorch."""
    for name, text in {
        "proc/self/cgroup": "0::/\n",
        "proc/self/mountinfo": "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        "sys/fs/cgroup/cpu.max": "100000 100000\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    code = """
import os, sys
from pathlib import Path
from frcnn import processors
os.sched_getaffinity = lambda _pid: set(range(8))
os.environ.pop("OMP_NUM_THREADS", None)
processors.keep_to_share(Path(sys.argv[1]))
import torch
from frcnn.runtime import Detector
from frcnn.runtime.dependencies import import_opencv
threads = lambda: len(os.listdir("/proc/self/task"))
opencv = import_opencv().getNumThreads()
Detector.load(sys.argv[2]).close()
before = threads()
detector = Detector.load(sys.argv[2])
onnxruntime = 1 + threads() - before
request = Detector.load(sys.argv[2], provider="openvino")._backend._network._request
openvino = request.get_compiled_model().get_property("INFERENCE_NUM_THREADS")
print(torch.get_num_threads(), opencv, onnxruntime, openvino)
"""
    assert run_python(code, tmp_path, model_path) == "1 1 1 1\n"
