"""Detect in a folder, bucket or Parquet of images on a Ray cluster, into Parquet; again, only in what is missing.

Every image has exactly one row, whatever dies and is tried again: the images in their order are cut into parts, the
file of a part is named after its images, and appears whole. Who detects in a part again writes the same file.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from frcnn.errors import OutputError, UsageError
from frcnn.runtime.dependencies import import_ray
from frcnn.runtime.detections import ClassFilter, checked_score, resolve_classes
from frcnn.runtime.model_files.artifact import OnnxArtifact, open_artifact
from frcnn.runtime.ray.cluster import connect, plain_errors, room_for
from frcnn.runtime.ray.parquet_images import images_in_parquet
from frcnn.runtime.ray.rows import IMAGE, JOB_FILE, Job, read_job, read_rows
from frcnn.runtime.ray.storage import Storage, image_files
from frcnn.runtime.ray.workers import PartDetector, Tries


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectedDataset:
    """What :func:`detect_dataset` did.

    Attributes:
        images: how many there are, each with a row.
        before: how many of them had one before.
        errors: the images that cannot be used, with the reason.
    """

    images: int
    before: int
    errors: dict[str, str]


def detect_dataset(
    model: str | os.PathLike[str],
    images: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    column: str | None = None,
    score: float = 0.0,
    classes: ClassFilter | None = None,
    workers: int | None = None,
    cpus: float = 1,
    gpus: float = 0,
    part_size: int = 256,
    retries: int = 3,
    address: str | None = None,
    **options: Any,
) -> DetectedDataset:
    """Detect in all images on a Ray cluster and write Parquet, one row an image; run again, do only what is missing.

    The columns are ``image``, its path or address, and those of :class:`RayDetector`. With more than one machine,
    images and output are where all of them find them.

    Args:
        model: A ``model.onnx`` or ``model.frcnn`` on this machine; the cluster gets it from here.
        images: A folder or bucket, searched deeper; or Parquet, a file or a folder of files.
        output: The folder or bucket for the rows.
        column: Of Parquet, with the bytes of images or their paths. The bytes' images are called
            ``file.parquet#row``, from 0.
        score: Minimum score.
        classes: Class names or indices to keep; None keeps all.
        workers: How many detectors, each in an actor. Default: as many as the cluster has room for.
        cpus: Processors for each worker.
        gpus: GPUs for each worker, which may be a fraction of one.
        part_size: Images whose rows are in one file. A worker that dies loses a part at most.
        retries: How often a part is tried again whose worker died.
        address: Of the cluster, as ``ray.init`` takes it; ``"auto"`` is one that runs on this machine. Default: the one
            that this process is connected to, ``RAY_ADDRESS``, or a new one for this job on this machine.
        options: Of :class:`RayDetector`: ``batch_size``, ``provider``, ``precision`` and more.

    Raises:
        ArtifactError: The file is no model of frcnn's, or does not run on the cluster.
        FrcnnError: A part's worker died each time.
        ImageError: The images cannot be listed.
        OutputError: The output cannot be written.
        UsageError: An option makes no sense, there is no such cluster, or the output has rows of another model.
    """
    if (workers is not None and workers < 1) or part_size < 1 or retries < 0:
        got = f"workers={workers}, part_size={part_size}, retries={retries}"
        raise UsageError(f"expected 1 or more workers and images in a part, got {got}", hint="leave them out")
    artifact = open_artifact(model)
    is_onnx = isinstance(artifact, OnnxArtifact)
    if not is_onnx and not gpus:
        raise UsageError(f"{os.fspath(model)}: engines need a GPU, got gpus=0", hint="give gpus=1, or a fraction")
    manifest = artifact.manifest if isinstance(artifact, OnnxArtifact) else artifact.manifest.source
    wanted = None if classes is None else tuple(sorted(resolve_classes(classes, manifest.model.labels)))
    content, score = Path(model).read_bytes(), checked_score(score)
    source, target = Storage.of(images), Storage.of(output)
    names = image_files(source) if column is None else images_in_parquet(source, column)
    digest = hashlib.sha256(content).hexdigest()
    job = Job(model_sha256=digest, score=score, classes=wanted, manifest=manifest)
    done = _continued(target, job)
    before = sum(name in done for name in names)
    parts = list(_parts(names, done, part_size))
    if parts:
        ray = connect(address)
        target.write(JOB_FILE, msgspec.json.encode(job))
        tries = ray.remote(num_cpus=0)(Tries).remote()
        what = {"model": ray.put(content), "score": score, "classes": wanted, **options}
        found = (
            import_ray("ray.data")
            .from_items(parts, override_num_blocks=len(parts))
            .map_batches(
                PartDetector,
                fn_constructor_args=(source, target, column, what, tries, retries),
                batch_size=1,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=min(workers or room_for(ray, cpus, gpus), len(parts))),
                num_cpus=cpus,
                num_gpus=gpus or None,
            )
        )
        with plain_errors(ray):
            for batch in found.iter_batches(batch_size=None, batch_format="pyarrow"):
                for error in batch.column("error").drop_null().to_pylist():
                    raise pickle.loads(error)
        done = _rows(target)
    if missing := [name for name in names if name not in done]:
        text = f"{len(missing)} of {len(names)} images have no row in {target.name}, such as {missing[0]}"
        raise OutputError(text, hint="is it a folder that all machines share?")
    errors = {name: error for name in names if (error := done[name]) is not None}
    return DetectedDataset(images=len(names), before=before, errors=errors)


def _parts(names: Sequence[str], done: Mapping[str, str | None], size: int) -> Iterator[dict[str, Any]]:
    """Yield the parts that have images without a row: always the same ones, for the same names."""
    for start in range(0, len(names), size):
        images = [name for name in names[start : start + size] if name not in done]
        if images:
            digest = hashlib.sha256("\0".join(images).encode()).hexdigest()
            yield {"file": f"part-{digest[:32]}.parquet", "images": images}


def _continued(target: Storage, job: Job) -> dict[str, str | None]:
    """Return the images that have rows already, with their errors; refuse an output of another model or options."""
    target.prepare()
    if target.at(f"{target.name}/{JOB_FILE}").exists():
        former = read_job(target)
        for name in ("model_sha256", "score", "classes"):
            if (had := getattr(former, name)) != (has := getattr(job, name)):
                what = f"{target.name} has detections with {name} {had}, now it is {has}"
                raise UsageError(what, hint="detect into another folder")
        return _rows(target)
    if names := target.list([".parquet"], may_be_missing=True):
        raise UsageError(f"{target.name} has other files, such as {names[0]}", hint="detect into another folder")
    return {}


def _rows(target: Storage) -> dict[str, str | None]:
    """Return the images that have rows, with their errors."""
    done: dict[str, str | None] = {}
    for rows in read_rows(target, [IMAGE, "error"]):
        for image, error in zip(rows.column(IMAGE).to_pylist(), rows.column("error").to_pylist(), strict=True):
            if image in done:
                raise OutputError(f"{target.name} has two rows of {image}", hint="did two jobs write into it?")
            done[image] = error
    return done
