"""``frcnn triton``: the repository, and a real tritonserver on it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from maintenance.triton_server import BACKENDS, ROOT, NotHereError, Server, install_packages, run_client, serving
from support.engine_files import static_profile, write_engine_file
from support.exports import Exports
from support.made_once import made_once

from frcnn.benchmarks.trial import ARCHITECTURE, BUNDLE, CHECKPOINT
from frcnn.cli import main
from frcnn.runtime import Detections, Detector
from frcnn.runtime.triton.front import detect_each, padded

Captured = pytest.CaptureFixture[str]
IMAGES = sorted((BUNDLE / "images").glob("*.jpg"))[:8]
CLIENT = ROOT / "examples" / "triton" / "client.py"
NETWORK_TEXT = """\
name: "tiny_network"
backend: "onnxruntime"
max_batch_size: 8
dynamic_batching {
}
instance_group {
  count: 1
  kind: KIND_CPU
}
input {
  name: "images"
  data_type: TYPE_FP32
  dims: [3, -1, -1]
}
input {
  name: "image_sizes"
  data_type: TYPE_INT32
  dims: [2]
}
output {
  name: "num_detections"
  data_type: TYPE_INT32
  dims: [1]
  reshape {
    shape: []
  }
}
"""


def written(model: Path, repository: Path, *options: str) -> dict[str, bytes]:
    assert main(["triton", str(model), "-o", str(repository), *options]) == 0
    return {str(file.relative_to(repository)): file.read_bytes() for file in repository.rglob("*") if file.is_file()}


def refused(arguments: list[str], capsys: Captured) -> tuple[str, str]:
    assert main(["triton", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    error, hint = captured.err.splitlines()
    return error.removeprefix("error: "), hint.removeprefix("hint: ")


def test_a_model_is_a_network_and_a_front(tiny_model: Path, tmp_path: Path, capsys: Captured) -> None:
    files = written(tiny_model, tmp_path / "repository", "--name", "tiny")
    assert sorted(files) == [
        *("tiny/1/manifest.json", "tiny/1/model.py", "tiny/config.pbtxt"),
        *("tiny_network/1/model.onnx", "tiny_network/config.pbtxt"),
    ]
    assert files["tiny_network/1/model.onnx"] == tiny_model.read_bytes()
    assert files["tiny_network/config.pbtxt"].decode().startswith(NETWORK_TEXT)
    assert 'string_value: "[\\"__background__\\", \\"one\\"' in files["tiny/config.pbtxt"].decode()
    assert f"tritonserver --model-repository={tmp_path}/repository" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["repository"]


def test_the_model_is_named_like_its_file(tiny_model: Path, tmp_path: Path) -> None:
    files = written(tiny_model, tmp_path / "repository", "--backend", "python", "--device", "cuda", "--batch", "3")
    assert sorted(files) == ["model/1/model.onnx", "model/1/model.py", "model/config.pbtxt"]
    text = files["model/config.pbtxt"].decode()
    assert all(part in text for part in ("max_batch_size: 3", "kind: KIND_GPU", "gpus: [0]", 'string_value: "cuda"'))


def test_a_plan_of_tensorrt_runs_by_tensorrt(tmp_path: Path) -> None:
    profiles = (static_profile(800, 1344), static_profile(1344, 800, (1, 2, 4)))
    model = write_engine_file(tmp_path / "plan.frcnn", target="tensorrt", profiles=profiles)
    files = written(model, tmp_path / "repository")
    assert {"plan_network/1/model.plan", "plan/1/model.py"} < set(files)
    text = files["plan_network/config.pbtxt"].decode()
    assert all(part in text for part in ('backend: "tensorrt"', "max_batch_size: 8", 'profile: ["0", "1"]', "KIND_GPU"))


@pytest.mark.parametrize("target", ["tensorrt-rtx", "onnxruntime"])
def test_an_artifact_that_triton_has_no_backend_for_runs_by_frcnn(target: Any, tmp_path: Path) -> None:
    model = write_engine_file(tmp_path / "model.frcnn", target=target)
    assert written(model, tmp_path / "repository")["model/1/model.frcnn"] == model.read_bytes()


@pytest.mark.parametrize(
    ("options", "error", "hint"),
    [
        (["--backend", "tensorrt"], "backend: tensorrt does not run ", "onnxruntime or python"),
        (["--name", "a b"], "name: expected letters, digits, '_', '-' and '.', got 'a b'", "give one with --name"),
        (["--batch", "0"], "batch: expected 1 or more, got 0", ""),
    ],
)
def test_an_option_that_makes_no_sense_writes_nothing(
    options: list[str], error: str, hint: str, tiny_model: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert main(["triton", str(tiny_model), "-o", str(tmp_path / "repository"), *options]) == 2
    captured = capsys.readouterr().err
    assert captured.startswith(f"error: {error}")
    assert hint in captured
    assert list(tmp_path.iterdir()) == []


def test_an_artifact_is_for_a_gpu_and_its_batch(tmp_path: Path, capsys: Captured) -> None:
    model = write_engine_file(tmp_path / "model.frcnn", target="tensorrt")
    error, hint = refused([str(model), "-o", str(tmp_path / "r"), "--batch", "9"], capsys)
    assert error == "batch: expected an artifact for 1 to 9 images, got one for 1 to 8"
    assert hint == "build it again with --batch 1:1:9"
    assert "holds engines for a GPU" in refused([str(model), "-o", str(tmp_path / "r"), "--device", "cpu"], capsys)[0]


def test_a_folder_that_has_something_is_left_as_it_is(tiny_model: Path, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "other").mkdir()
    error, hint = refused([str(tiny_model), "-o", str(tmp_path)], capsys)
    assert error == f"cannot write the repository {tmp_path}: it is not empty, there is other"
    assert hint == "choose a new folder with -o"
    (tmp_path / "other").rmdir()
    assert written(tiny_model, tmp_path)  # an empty one is filled


@pytest.mark.parametrize("content", [b"", b"no model", None])
def test_a_file_that_is_no_model_writes_nothing(content: bytes | None, tmp_path: Path, capsys: Captured) -> None:
    model = tmp_path / "model.onnx"
    if content is not None:
        model.write_bytes(content)
    error, hint = refused([str(model), "-o", str(tmp_path / "repository")], capsys)
    assert str(model) in error
    assert hint
    assert not (tmp_path / "repository").exists()


def test_a_damaged_plan_writes_nothing(tmp_path: Path, capsys: Captured) -> None:
    model = write_engine_file(tmp_path / "model.frcnn", target="tensorrt")
    data = bytearray(model.read_bytes())
    at = data.find(b"engines/model.plan") + 40
    data[at] ^= 255
    model.write_bytes(data)
    assert refused([str(model), "-o", str(tmp_path / "repository")], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["model.frcnn"]


def test_each_image_has_its_detections_or_its_own_error(tiny_model: Path) -> None:
    good, bad = IMAGES[0].read_bytes(), b"no image"
    with Detector.load(tiny_model, threads=1) as detector:
        first, refusal, last = detect_each(detector, [(good, "a"), (bad, "b"), (good, "c")], 2)
        (expected,) = detector([good])
    assert str(refusal).startswith("b: not an image")
    for found in (first, last):
        assert isinstance(found, Detections)
        assert found.boxes.tobytes() == expected.boxes.tobytes()
    assert [array.shape for array in padded([expected, expected], 12)] == [(2, 1), (2, 12, 4), (2, 12), (2, 12)]


# What follows needs packages that are downloaded.


@pytest.fixture(scope="module")
def packages() -> Path:
    try:
        return made_once("triton packages", install_packages)
    except NotHereError as error:
        pytest.skip(str(error))


CHECK_CONFIG = """
import sys
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as schema
for path in sys.argv[1:]:
    config = text_format.Parse(open(path).read(), schema.ModelConfig())
    assert config.name == path.split("/")[-2], path
    assert config.input and config.output and config.max_batch_size, path
    assert config.HasField("dynamic_batching"), path
    print(config.name, config.backend, schema.ModelInstanceGroup.Kind.Name(config.instance_group[0].kind),
          [list(tensor.dims) for tensor in (*config.input, *config.output)])
"""


@pytest.mark.integration
def test_each_configuration_follows_the_schema_of_triton(
    packages: Path, exports: Exports, tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "r").mkdir()
    written(tiny_model, tmp_path / "r/tiny")
    written(tiny_model, tmp_path / "r/gpu", "--device", "cuda")
    written(exports("resnet18_fpn_max", "fp16", (320, 480)).path, tmp_path / "r/half")
    for target in ("tensorrt", "tensorrt-rtx"):
        written(write_engine_file(tmp_path / f"{target}.frcnn", target=target), tmp_path / f"r/{target}")
    configs = sorted(map(str, tmp_path.glob("r/*/*/config.pbtxt")))
    assert len(configs) == 9
    done = run_client(packages, "-c", CHECK_CONFIG, *configs)
    assert done.returncode == 0, done.stderr
    assert "tensorrt_network tensorrt KIND_GPU [[3, -1, -1], [2], [1], [100, 4], [100], [100]]" in done.stdout
    assert "[[3, 320, 480], [2]," in done.stdout


NETWORK_IN_PYTHON = '''
"""Runs the network where this tritonserver has no backend for ONNX Runtime."""
import onnxruntime
import triton_python_backend_utils as triton
import numpy as np


class TritonPythonModel:
    def initialize(self, args):
        file = f"{args['model_repository']}/{args['model_version']}/model.onnx"
        self.session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def execute(self, requests):
        inputs = ("images", "image_sizes")
        values = [[triton.get_input_tensor_by_name(one, name).as_numpy() for name in inputs] for one in requests]
        images, sizes = (np.concatenate(arrays) for arrays in zip(*values))
        names = ("num_detections", "boxes", "scores", "labels")
        outputs = self.session.run(names, {"images": images, "image_sizes": sizes})
        responses, start = [], 0
        for value, _ in values:
            rows = slice(start, start := start + len(value))
            tensors = [triton.Tensor(name, output[rows]) for name, output in zip(names, outputs)]
            responses.append(triton.InferenceResponse(tensors))
        return responses
'''


@pytest.fixture(scope="module")
def model() -> Path:
    def export(folder: Path) -> None:
        options = ["--arch", ARCHITECTURE, "--labels", str(BUNDLE / "labels.txt"), "-o", str(folder / "model.onnx")]
        assert main(["export", str(CHECKPOINT), *options]) == 0

    return made_once("demo for triton", export) / "model.onnx"


@pytest.fixture(scope="module")
def server(packages: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two models: ``digits`` over a network in the server, ``whole`` by frcnn alone."""
    folder = tmp_path_factory.mktemp("triton")
    written(model, folder / "digits", "--name", "digits")
    written(model, folder / "whole", "--name", "whole", "--backend", "python")
    if BACKENDS not in os.environ:
        config = folder / "digits" / "digits_network" / "config.pbtxt"
        config.write_text(config.read_text().replace('"onnxruntime"', '"python"'))
        (config.parent / "1" / "model.py").write_text(NETWORK_IN_PYTHON)
    with serving(packages, [folder / "digits", folder / "whole"], folder) as running:
        yield running


@pytest.fixture(scope="module")
def expected(model: Path) -> list[Detections]:
    with Detector.load(model) as detector:
        return detector([path.read_bytes() for path in IMAGES])


def assert_same(found: list[dict[str, Any]], expected: list[Detections]) -> None:
    """Hold detections to the Detector's: which ones exactly, boxes within 0.01 px and scores within 1e-4."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one["labels"] == other.labels.tolist()
        np.testing.assert_allclose(np.reshape(one["boxes"], (-1, 4)), other.boxes, atol=0.01)
        np.testing.assert_allclose(one["scores"], other.scores, atol=1e-4)


@pytest.mark.integration
@pytest.mark.parametrize("name", ["digits", "whole"])
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_the_example_finds_what_the_detector_finds(
    server: Server, packages: Path, expected: list[Detections], name: str, protocol: str
) -> None:
    url = server.http if protocol == "http" else server.grpc
    done = run_client(packages, CLIENT, *IMAGES, "--model", name, "--protocol", protocol, "--url", url)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["image"] for line in lines] == list(map(str, IMAGES))
    assert_same(lines, expected)
    assert [line["classes"] for line in lines] == [one.class_names for one in expected]


MANY = """
import json, sys, threading
import tritonclient.http as http
from client import detect

url, name, *paths = sys.argv[1:]
files = [open(path, "rb").read() for path in paths]
results = [None] * 8

def work(index):
    own = http.InferenceServerClient(url, network_timeout=120, connection_timeout=120)
    results[index] = [found for data in files for found in detect(own, http, name, [data])]

threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
client = http.InferenceServerClient(url, network_timeout=120, connection_timeout=120)
results.append(detect(client, http, name, files))
print(json.dumps([results, client.get_inference_statistics(f"{name}_network")["model_stats"][0]]))
"""


@pytest.mark.integration
def test_eight_clients_at_once_and_a_batch_find_the_same(
    server: Server, packages: Path, expected: list[Detections]
) -> None:
    done = run_client(packages, "-c", MANY, server.http, "digits", *IMAGES)
    assert done.returncode == 0, done.stderr
    results, statistics = json.loads(done.stdout)
    for found in results:
        assert_same(found, expected)
    batches = {int(entry["batch_size"]): entry["compute_infer"]["count"] for entry in statistics["batch_stats"]}
    assert max(batches) > 1, f"no batch had more than one image: {batches}"


HOSTILE = """
import json, struct, sys, zlib
import tritonclient.grpc as grpc
import tritonclient.http as http
from client import detect

def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

http_url, grpc_url, name, path = sys.argv[1:]
good = open(path, "rb").read()
header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
bomb = b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")
said = []
for module, url in ((http, http_url), (grpc, grpc_url)):
    client = module.InferenceServerClient(url)
    for upload in ([b""], [b"GIF89a" + bytes(100)], [good[:3000]], [bomb], [good, b"/etc/passwd"], [good] * 9):
        try:
            detect(client, module, name, upload)
            said.append("nothing")
        except Exception as error:
            said.append(str(error))
    said.append(len(detect(client, module, name, [good])))
print(json.dumps(said))
"""


@pytest.mark.integration
@pytest.mark.parametrize("name", ["digits", "whole"])
def test_a_hostile_upload_is_an_error_of_its_request_alone(server: Server, packages: Path, name: str) -> None:
    done = run_client(packages, "-c", HOSTILE, server.http, server.grpc, name, IMAGES[0])
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    for empty, broken, cut, bomb, second, many, count in (said[:7], said[7:]):
        assert "image: the file is empty" in empty
        assert "image: " in broken
        assert "image: " in cut
        assert "pixels" in bomb
        assert "image[1]: not an image" in second
        assert "batch-size must be <= 8" in many
        assert count == 1
