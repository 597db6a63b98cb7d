"""frcnn.runtime.ray on a real cluster on this machine, whose workers and jobs are killed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.made_once import made_once

from frcnn.benchmarks.trial import ARCHITECTURE, BUNDLE, CHECKPOINT
from frcnn.cli import main
from frcnn.errors import ArtifactError, FrcnnError, ImageError, OutputError, UsageError
from frcnn.exporter import export_onnx, load_checkpoint
from frcnn.files import file_sha256
from frcnn.runtime import Detections, Detector
from frcnn.runtime.model_files.artifact import open_artifact
from frcnn.runtime.ray import detect_dataset, read_detections, write_coco
from frcnn.runtime.ray.dataset import _parts
from frcnn.runtime.ray.rows import JOB_FILE, Job
from frcnn.spec import Manifest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "ray_data" / "detect.py"
PHOTOGRAPHS = sorted((BUNDLE / "images").iterdir())
REASON = "not an image in a format that Pillow reads"
WORKER = b"ray::MapWorker(MapBatches(PartDetector))"

START = """
import sys, ray
ray.init(num_cpus=2, include_dashboard=False, object_store_memory=200_000_000)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


def environment() -> dict[str, str]:
    """Return the variables of a driver and of the workers that the cluster starts: no telemetry, our own folders."""
    ours = {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # listen on 127.0.0.1 only
        "RAY_AUTH_MODE": "token",
        "RAY_TMPDIR": os.environ["TMPDIR"],  # short: the names of sockets may have 107 letters
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | ours


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster with two processors."""
    command = [sys.executable, "-c", START]
    log = Path(os.environ["TMPDIR"], "ray.log")
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as head,
    ):
        assert head.stdin is not None and head.stdout is not None
        try:
            lines = iter(head.stdout.readline, "")
            address = next((line.strip() for line in lines if re.fullmatch(r"127\.0\.0\.1:\d+\n", line)), None)
            assert address, log.read_text()
            yield address
        finally:
            head.stdin.close()
            head.wait(60)


@pytest.fixture(scope="module")
def model() -> Path:
    def export(folder: Path) -> None:
        labels = (BUNDLE / "labels.txt").read_text().split()
        detector, _ = load_checkpoint(CHECKPOINT, arch=ARCHITECTURE, labels=labels)
        export_onnx(detector, folder / "model.onnx", labels=labels, architecture=ARCHITECTURE)

    return made_once("ray demo", export) / "model.onnx"


def fill(folder: Path, count: int) -> list[Path]:
    """Make a folder of photographs, of which the last of each hundred, and the 6th, is no image."""
    folder.mkdir(parents=True)
    files = [folder / f"{index:04}.jpg" for index in range(count)]
    for index, file in enumerate(files):
        if index == 5 or index % 100 == 99:
            file.write_bytes(b"no image")
        else:
            shutil.copy(PHOTOGRAPHS[index % len(PHOTOGRAPHS)], file)
    return files


def start(*arguments: object) -> subprocess.Popen[str]:
    """Start the example's command."""
    command = [sys.executable, str(EXAMPLE), *map(str, arguments)]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(job: subprocess.Popen[str]) -> str:
    out, errors = job.communicate(timeout=600)
    assert job.returncode == 0, out + errors
    return out


def run_script(text: str, **names: object) -> None:
    code = "".join(f"{name} = {value!r}\n" for name, value in names.items()) + text
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr


def workers() -> list[int]:
    """Return the processes of our cluster that detect."""
    ours = f"RAY_TMPDIR={os.environ['TMPDIR']}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            if (folder / "cmdline").read_bytes().startswith(WORKER) and ours in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


def parts(output: Path) -> set[Path]:
    return set(output.glob("part-*.parquet"))


def wait_for(met: Callable[[], bool], job: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 300
    while not met():
        if job.poll() is not None:
            raise AssertionError("".join(job.communicate()))
        assert time.monotonic() < end
        time.sleep(0.02)


def check_rows(output: Path, files: list[Path], model: Path) -> None:
    """Hold the rows to one process: each image once, the same boxes to the bit, unreadable ones with a reason."""
    rows = [row for file in parts(output) for row in pq.read_table(file).to_pylist()]
    assert sorted(row["image"] for row in rows) == [str(file) for file in files]
    found = dict(read_detections(output))
    photographs = {content.read_bytes(): content for content in PHOTOGRAPHS}
    with Detector.load(model, threads=1) as detector:
        expected = dict(zip(PHOTOGRAPHS, detector(PHOTOGRAPHS), strict=True))
    for file in files:
        one, original = found[str(file)], photographs.get(file.read_bytes())
        if original is None:
            assert one == REASON
            continue
        assert isinstance(one, Detections)
        assert len(one)
        for name in ("boxes", "scores", "labels"):
            assert np.array_equal(getattr(one, name), getattr(expected[original], name))
        assert (one.class_names, one.image_size) == (expected[original].class_names, expected[original].image_size)


@pytest.mark.slow
def test_every_image_has_one_row_though_a_worker_is_killed(cluster: str, model: Path, tmp_path: Path) -> None:
    files, output = fill(tmp_path / "images", 110), tmp_path / "out"
    coco = tmp_path / "coco.json"
    job = start(model, tmp_path / "images", "-o", output, "--address", cluster, "--part-size", 4, "--coco", coco)
    wait_for(lambda: len(parts(output)) >= 2, job)
    before = workers()
    os.kill(before[0], signal.SIGKILL)
    assert len(parts(output)) < 25
    wait_for(lambda: len(set(workers()) - set(before)) == 1, job)  # Ray starts another
    assert "110 images, 0 of them done before, 2 without detections:\n" in finish(job)  # and what Ray says
    check_rows(output, files, model)
    assert {file.name[:5] for file in output.iterdir()} == {"part-", "_dete"}

    folder, mine = str(tmp_path / "images"), str(tmp_path / "mine.json")
    assert main(["detect", str(model), folder, "--score", "0", "--threads", "1", "--json", mine]) == 1
    assert json.loads(coco.read_text()) == json.loads(Path(mine).read_text())

    written = {file: file.stat().st_mtime_ns for file in parts(output)}
    shutil.copy(PHOTOGRAPHS[0], tmp_path / "images" / "new.jpg")
    again = start(model, tmp_path / "images", "-o", output, "--address", cluster, "--part-size", 4)
    assert "111 images, 110 of them done before" in finish(again)
    assert {file: file.stat().st_mtime_ns for file in written} == written
    assert len(parts(output)) == len(written) + 1
    check_rows(output, [*files, tmp_path / "images" / "new.jpg"], model)


PIPELINES = """
from pathlib import Path
import numpy as np, ray, pyarrow as pa
from frcnn.runtime import Detector
from frcnn.runtime.ray import RayDetector

ray.init(address=address)
expected = {found.source: found for found in Detector.load(model, threads=1)(sorted(map(str, Path(images).iterdir())))}
kwargs = {"model": ray.put(Path(model).read_bytes())}
pool = {"num_cpus": 1, "compute": ray.data.ActorPoolStrategy(size=1)}  # the other one reads

def check(dataset):
    rows = dataset.take_all()
    assert len(rows) == len(expected) and {row["path"] for row in rows} == set(expected)
    for row in rows:
        assert np.array_equal(np.stack(row["boxes"]), expected[row["path"]].boxes), row["path"]
        assert list(row["class_names"]) == expected[row["path"]].class_names and row["error"] is None

encoded = ray.data.read_binary_files(images, include_paths=True)
found = encoded.map_batches(RayDetector, fn_constructor_kwargs=kwargs, batch_format="pyarrow", batch_size=4, **pool)
found.write_parquet(output)
check(ray.data.read_parquet(output))
pixels = ray.data.read_images(images, include_paths=True, mode="RGB")
check(pixels.map_batches(RayDetector, fn_constructor_kwargs={**kwargs, "column": "image"}, batch_size=4, **pool))
"""


@pytest.mark.slow
def test_the_class_detects_in_pipelines_of_bytes_and_of_arrays(cluster: str, model: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for photograph in PHOTOGRAPHS[:6]:
        shutil.copy(photograph, tmp_path / "images")
    folder, output = str(tmp_path / "images"), str(tmp_path / "out")
    run_script(PIPELINES, address=cluster, model=str(model), images=folder, output=output)


@pytest.mark.slow
def test_parquet_of_bytes_and_of_paths_is_read(cluster: str, model: Path, tmp_path: Path) -> None:
    contents = [None, b"no image", *(file.read_bytes() for file in PHOTOGRAPHS[:6])]
    pq.write_table(pa.table({"picture": contents, "n": range(8)}), tmp_path / "bytes.parquet", row_group_size=3)
    shutil.copy(PHOTOGRAPHS[0], tmp_path / "here.jpg")
    pq.write_table(pa.table({"file": ["here.jpg", str(PHOTOGRAPHS[1]), "gone.jpg"]}), tmp_path / "paths.parquet")
    common = ("--address", cluster, "--part-size", 5)
    finish(start(model, tmp_path / "bytes.parquet", "--column", "picture", "-o", tmp_path / "a", *common))
    finish(start(model, tmp_path / "paths.parquet", "--column", "file", "-o", tmp_path / "b", *common))

    expected = Detector.load(model, threads=1)(PHOTOGRAPHS[:6])
    found = dict(read_detections(tmp_path / "a"))
    rows = [found[f"{tmp_path}/bytes.parquet#{row}"] for row in range(8)]
    assert rows[:2] == ["there is no image in this row", REASON]
    assert all(np.array_equal(a.boxes, b.boxes) for a, b in zip(rows[2:], expected, strict=True))

    found = dict(read_detections(tmp_path / "b"))
    assert np.array_equal(found[f"{tmp_path}/here.jpg"].boxes, expected[0].boxes)
    assert np.array_equal(found[str(PHOTOGRAPHS[1])].boxes, expected[1].boxes)
    assert "gone.jpg: cannot be read: " in found[f"{tmp_path}/gone.jpg"]


DEADLY = """
import os, signal
from frcnn.errors import FrcnnError
from frcnn.runtime.detector import Detector
from frcnn.runtime.ray import dataset, detect_dataset, workers

class Deadly(workers.PartDetector):
    def _images(self, names):
        if any(name.endswith("0005.jpg") for name in names):
            os.kill(os.getpid(), signal.SIGKILL)
        return names

dataset.PartDetector = Deadly
try:
    detect_dataset(model, images, output, part_size=2, retries=1, address=address)
except FrcnnError as error:
    assert "workers died 2 times in the images from" in error.message and "0005.jpg" in error.message, error
else:
    raise AssertionError
"""


@pytest.mark.slow
def test_images_that_kill_their_worker_each_time_end_the_job(cluster: str, model: Path, tmp_path: Path) -> None:
    fill(tmp_path / "images", 8)
    output = str(tmp_path / "out")
    run_script(DEADLY, model=str(model), images=str(tmp_path / "images"), output=output, address=cluster)
    assert 0 < len(parts(tmp_path / "out")) < 4


def raised(kind: type[FrcnnError], *arguments: object, **options: object) -> str:
    with pytest.raises(kind) as caught:
        detect_dataset(*arguments, **options)  # type: ignore[arg-type]
    assert caught.value.hint
    return caught.value.message


def test_bad_input_is_one_line_and_nothing_is_written(model: Path, tmp_path: Path) -> None:
    images, output, text = tmp_path / "images", tmp_path / "out", tmp_path / "text.txt"
    fill(images, 2)
    text.write_text("no model")
    assert "text.txt" in raised(ArtifactError, text, images, output)
    assert "no such file or folder" in raised(ImageError, model, tmp_path / "gone", output)
    (tmp_path / "empty").mkdir()
    assert "there are none" in raised(ImageError, model, tmp_path / "empty", output)
    assert "no file system of pyarrow's" in raised(UsageError, model, "nowhere://bucket", output)
    assert "does not know 'cat'" in raised(UsageError, model, images, output, classes=["cat"])
    assert "expected 1 or more workers" in raised(UsageError, model, images, output, workers=0)
    assert not output.exists()
    assert "cannot" in raised(OutputError, model, images, text / "out")


def test_an_output_of_another_model_or_of_others_is_not_added_to(model: Path, tiny_model: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    fill(images, 2)
    assert "no Ray cluster at 127.0.0.1:9: " in raised(UsageError, model, images, tmp_path / "a", address="127.0.0.1:9")
    assert not list((tmp_path / "a").iterdir())
    manifest = open_artifact(model).manifest
    assert isinstance(manifest, Manifest)
    job = Job(model_sha256=file_sha256(model), score=0.0, classes=None, manifest=manifest)
    (tmp_path / "a" / JOB_FILE).write_bytes(msgspec.json.encode(job))
    assert "detections with model_sha256" in raised(UsageError, tiny_model, images, tmp_path / "a")
    assert "with score 0.0, now it is 0.5" in raised(UsageError, model, images, tmp_path / "a", score=0.5)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.parquet").write_bytes(b"")
    assert "has other files, such as" in raised(UsageError, model, images, tmp_path / "b")
    (tmp_path / "a" / "part-0.parquet").write_bytes(b"damaged")
    assert "no rows of detections" in raised(ArtifactError, model, images, tmp_path / "a")


def test_parts_are_the_same_whatever_is_done_already() -> None:
    names = [f"{index}.jpg" for index in range(10)]
    whole = list(_parts(names, {}, 4))
    assert [part["images"] for part in whole] == [names[:4], names[4:8], names[8:]]
    done = dict.fromkeys(names[:4])
    assert list(_parts(names, done, 4)) == whole[1:]


S3 = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The query of an address on a local S3 with the bucket ``photos``."""
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--target", str(site)]
    if (done := subprocess.run([*pip, "moto[server]>=5.2,<6"], capture_output=True, text=True)).returncode:
        pytest.skip(f"needs the package moto[server]: {done.stderr.strip()[-300:]}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    with subprocess.Popen(
        [sys.executable, "-c", S3],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": str(site)},
    ) as server:
        assert server.stdin is not None and server.stdout is not None
        try:
            port = next(line for line in iter(server.stdout.readline, "") if line.strip().isdigit()).strip()
            yield f"endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1&allow_bucket_creation=true"
        finally:
            server.stdin.close()
            server.wait(30)


@pytest.mark.integration
def test_images_and_rows_are_in_a_bucket(bucket: str, model: Path, tmp_path: Path) -> None:
    from pyarrow import fs

    store, _ = fs.FileSystem.from_uri(f"s3://photos?{bucket}")
    store.create_dir("photos")
    files = [*PHOTOGRAPHS[:6], tmp_path / "bad.jpg"]
    files[-1].write_bytes(b"no image")
    for file in files:
        with store.open_output_stream(f"photos/in/{file.name}") as copy:
            copy.write(file.read_bytes())
    output = f"s3://photos/out?{bucket}"
    for before in (0, 7):
        done = finish(start(model, f"s3://photos/in?{bucket}", "-o", output, "--part-size", 3, "--workers", 2))
        assert f"7 images, {before} of them done before, 1 without detections:\n" in done
    expected = Detector.load(model, threads=1)(PHOTOGRAPHS[:6])
    found = dict(read_detections(output))
    for file, one in zip(PHOTOGRAPHS[:6], expected, strict=True):
        assert np.array_equal(found[f"s3://photos/in/{file.name}"].boxes, one.boxes)
    assert found["s3://photos/in/bad.jpg"] == REASON
    write_coco(output, tmp_path / "coco.json")
    assert len(json.loads((tmp_path / "coco.json").read_text())) == sum(map(len, expected))
    message = raised(ImageError, model, f"s3://nothing/in?{bucket}", output)
    assert message.startswith("s3://nothing/in: cannot be listed: ")


@pytest.mark.integration
def test_two_thousand_images_survive_the_end_of_a_worker_and_of_the_job(
    cluster: str, model: Path, tmp_path: Path
) -> None:
    files, output = fill(tmp_path / "images", 2000), tmp_path / "out"
    arguments = (model, tmp_path / "images", "-o", output, "--address", cluster, "--part-size", 20)
    job = start(*arguments)
    wait_for(lambda: len(parts(output)) >= 20, job)
    os.kill(workers()[0], signal.SIGKILL)
    wait_for(lambda: len(parts(output)) >= 60, job)
    job.kill()
    job.communicate()
    written = {file: file.stat().st_mtime_ns for file in parts(output)}
    assert 60 <= len(written) < 100
    done = re.search(r"2000 images, (\d+) of them done before, 21 without", finish(start(*arguments)))
    assert done and int(done[1]) >= 20 * len(written)
    assert {file: file.stat().st_mtime_ns for file in written} == written
    check_rows(output, files, model)
