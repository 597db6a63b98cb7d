"""Measure detection on Ray against one process and against Ray's own example with eager torchvision, interleaved.

python -m maintenance.ray_speeds -o benchmarks/results/ray-cpu.json

Each round runs every candidate once, on copies of the demo's photographs: 1 worker on so many, 2 workers on twice as
many (weak scaling). A worker has one processor. ``images_per_s`` is of the images after the first ones, so without the
start of workers; ``job_s`` is the whole, on a cluster that runs already.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec
from PIL import Image

from frcnn.benchmarks.timing.environment import load_average, now, read_environment
from frcnn.benchmarks.trial import ARCHITECTURE, BUNDLE, CHECKPOINT
from frcnn.exporter import export_onnx, load_checkpoint
from frcnn.files import write_text
from frcnn.packages import installed_version
from frcnn.runtime.dependencies import import_ray
from frcnn.runtime.images.decode import decode_file
from frcnn.runtime.ray import detect_dataset, read_detections

_PART: Final = 10  # images
_SCORE: Final = 0.5
_ONE_PROCESS: Final = """
import sys, time
from pathlib import Path
from frcnn.runtime import Detector

model, folder, score, threads = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
start = time.perf_counter()
with Detector.load(model, threads=threads) as detector:
    stream = detector.stream(sorted(folder.iterdir()), score=score)
    count, objects = 0, len(next(stream))
    first = time.perf_counter()
    for found in stream:
        count, objects = count + 1, objects + len(found)
end = time.perf_counter()
print(count / (end - first), end - start, objects)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


class EagerModel:
    """What Ray's example of object detection has as its callable class, with the demo's torchvision model."""

    def __init__(self) -> None:
        self._model, _ = load_checkpoint(CHECKPOINT, arch=ARCHITECTURE)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Detect in the tensors of a batch."""
        import torch

        with torch.inference_mode():
            found = self._model([torch.as_tensor(image) for image in batch["tensor"]])
        objects = [int((one["scores"] >= _SCORE).sum()) for one in found]
        return {"objects": objects, "done": [time.time()] * len(objects)}


def to_tensor(row: dict[str, Any]) -> dict[str, Any]:
    """Make the model's input of an image, as the example's weights do."""
    from torchvision.transforms.functional import to_tensor

    return {"tensor": to_tensor(row["image"]).numpy()}


def one_process(model: Path, images: Path, threads: int) -> dict[str, float]:
    """Run ``Detector.stream`` in a process of its own."""
    arguments = [str(model), str(images), str(_SCORE), str(threads)]
    done = subprocess.run(
        [sys.executable, "-c", _ONE_PROCESS, *arguments], capture_output=True, text=True, check=True, timeout=600
    )
    speed, seconds, objects, peak = map(float, done.stdout.split())
    return {"images_per_s": speed, "job_s": seconds, "objects": objects, "peak_mib": peak / 1024}


def ours(model: Path, images: Path, workers: int) -> dict[str, float]:
    """Run ``detect_dataset``; a part is done when its file is there."""
    with tempfile.TemporaryDirectory() as folder, _peak() as peak:
        start = time.perf_counter()
        detect_dataset(model, images, folder, workers=workers, part_size=_PART, score=_SCORE)
        seconds = time.perf_counter() - start
        times = [file.stat().st_mtime for file in Path(folder).glob("part-*.parquet") for _ in range(_PART)]
        objects = sum(len(found) for _, found in read_detections(folder) if not isinstance(found, str))
    return {"images_per_s": _rate(times, workers), "job_s": seconds, "objects": objects, **peak}


def ray_example(images: Path, workers: int) -> dict[str, float]:
    """Run Ray's example: read and turn into tensors in tasks, detect in actors, four images at a time."""
    data = import_ray("ray.data")

    with _peak() as peak:
        start = time.perf_counter()
        blocks = len(list(images.iterdir())) // _PART
        found = data.read_images(str(images), mode="RGB", override_num_blocks=blocks).map(to_tensor)
        pool = data.ActorPoolStrategy(size=workers)
        times, objects = [], 0
        for batch in found.map_batches(EagerModel, batch_size=4, compute=pool, num_cpus=1).iter_batches(
            batch_size=None
        ):
            times.extend(batch["done"].tolist())
            objects += int(batch["objects"].sum())
        seconds = time.perf_counter() - start
    return {"images_per_s": _rate(times, workers), "job_s": seconds, "objects": objects, **peak}


def _rate(times: list[float], workers: int) -> float:
    """Return images a second after each worker's first part or batch, from the time at which each image was done."""
    start = sorted(set(times))[workers - 1]
    return sum(at > start for at in times) / (max(times) - start)


@contextmanager
def _peak() -> Iterator[dict[str, float]]:
    """Fill in the largest resident memory of a worker while the block runs."""
    found: dict[str, float] = {}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            for folder in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    if (folder / "cmdline").read_bytes().startswith(b"ray::MapWorker("):
                        lines = (folder / "status").read_text().splitlines()
                        peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
                        found["peak_mib"] = max(peak, found.get("peak_mib", 0.0))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def decode_ms(folder: Path) -> dict[str, float]:
    """Return milliseconds to decode a JPEG of the demo's size, and one of 1920x1080."""
    small = BUNDLE / "images" / "00001.jpg"
    large = folder / "large.jpg"
    with Image.open(small) as image:
        image.convert("RGB").resize((1920, 1080)).save(large, quality=90)
    times = {}
    for name, file in (("455x683", small), ("1920x1080", large)):
        rounds = []
        for _ in range(30):
            start = time.perf_counter()
            decode_file(file)
            rounds.append(1e3 * (time.perf_counter() - start))
        times[name] = round(statistics.median(rounds), 2)
    return times


def main() -> None:
    """Measure, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--images", type=int, default=100, help="for each worker (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    given = parser.parse_args()
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    ray = import_ray()
    before, date = load_average(), now()
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)  # two more for the example's reading
    import_ray("ray.data").DataContext.get_current().enable_progress_bars = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, images, twice = folder / "model.onnx", folder / "images", folder / "twice"
        detector, _ = load_checkpoint(CHECKPOINT, arch=ARCHITECTURE)
        export_onnx(detector, model)
        for place, count in ((images, given.images), (twice, 2 * given.images)):
            place.mkdir()
            for index in range(count):
                shutil.copy(BUNDLE / "images" / f"{index % 12 + 1:05}.jpg", place / f"{index:05}.jpg")
        candidates: dict[str, Callable[[], dict[str, float]]] = {
            "Detector.stream, 1 thread": lambda: one_process(model, images, 1),
            "Detector.stream, 2 threads": lambda: one_process(model, twice, 2),
            "frcnn on Ray, 1 worker": lambda: ours(model, images, 1),
            "frcnn on Ray, 2 workers": lambda: ours(model, twice, 2),
            "Ray's example, eager torchvision, 1 worker": lambda: ray_example(images, 1),
            "Ray's example, eager torchvision, 2 workers": lambda: ray_example(twice, 2),
        }
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in candidates}
        for number in range(given.rounds):
            for label, run in candidates.items():
                rounds[label].append(run())
                print(number, label, rounds[label][-1], flush=True)
        decoding = decode_ms(folder)
    environment = read_environment(
        command=" ".join(["python -m maintenance.ray_speeds", *sys.argv[1:]]),
        threads=2,
        load_before=before,
        date=date,
        gpu=None,
    )
    report = {
        "environment": msgspec.to_builtins(environment),
        "packages": {package: installed_version(package) for package in ("ray", "pyarrow")},
        "images_per_worker": given.images,
        "candidates": {label: _summary(runs) for label, runs in rounds.items()},
        "decode_ms": decoding,
    }
    write_text(given.output, json.dumps(report, indent=1) + "\n")


def _summary(runs: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    return {
        name: {
            "median": round(statistics.median(run[name] for run in runs), 2),
            "lowest": round(min(run[name] for run in runs), 2),
            "highest": round(max(run[name] for run in runs), 2),
        }
        for name in runs[0]
    }


if __name__ == "__main__":
    main()
