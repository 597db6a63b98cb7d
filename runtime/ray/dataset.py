"""Detect in a folder, bucket or Parquet of images on a Ray cluster, into Parquet; again, only in what is missing.

Every image has exactly one row, whatever dies and is tried again: the images in their order are cut into parts, the
file of a part is named after its images, and appears whole. Who detects in a part again writes the same file.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import msgspec

from frcnn.errors import FrcnnError, ImageError, OutputError, UsageError, did_you_mean
from frcnn.runtime.dependencies import import_pyarrow, import_ray
from frcnn.runtime.detections import ClassFilter, checked_score, resolve_classes
from frcnn.runtime.model_files.artifact import OnnxArtifact, open_artifact
from frcnn.runtime.ray.detector import RayDetector
from frcnn.runtime.ray.rows import IMAGE, JOB_FILE, Job, read_job, read_rows, table
from frcnn.runtime.ray.storage import Storage, image_files

_ROW: Final = re.compile(r"\.parquet#\d+$")
_CONNECT_SECONDS: Final = 5
_AGAIN: Final = "what is done is kept: run it again for the rest"


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
        raise UsageError("workers and part_size: expected 1 or more, and 0 or more retries")
    artifact = open_artifact(model)
    is_onnx = isinstance(artifact, OnnxArtifact)
    if not is_onnx and not gpus:
        raise UsageError(f"{os.fspath(model)}: engines need a GPU, got gpus=0", hint="give gpus=1, or a fraction")
    manifest = artifact.manifest if isinstance(artifact, OnnxArtifact) else artifact.manifest.source
    wanted = None if classes is None else tuple(sorted(resolve_classes(classes, manifest.model.labels)))
    content, score = Path(model).read_bytes(), checked_score(score)
    source, target = Storage.of(images), Storage.of(output)
    names = image_files(source) if column is None else _in_parquet(source, column)
    digest = hashlib.sha256(content).hexdigest()
    done = _continued(target, Job(model_sha256=digest, score=score, classes=wanted, manifest=manifest))
    before = sum(name in done for name in names)
    parts = list(_parts(names, done, part_size))
    if parts:
        ray = _connect(address)
        tries = ray.remote(num_cpus=0)(_Tries).remote()
        what = {"model": ray.put(content), "score": score, "classes": wanted, **options}
        found = (
            import_ray("ray.data")
            .from_items(parts, override_num_blocks=len(parts))
            .map_batches(
                _PartDetector,
                fn_constructor_args=(source, target, column, what, tries, retries),
                batch_size=1,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=min(workers or _room(ray, cpus, gpus), len(parts))),
                num_cpus=cpus,
                num_gpus=gpus or None,
            )
        )
        with _plain_errors(ray):
            for _ in found.iter_batches(batch_size=None):
                pass
        done = _rows(target)
    if missing := [name for name in names if name not in done]:
        text = f"{len(missing)} of {len(names)} images have no row in {target.name}, such as {missing[0]}"
        raise OutputError(text, hint="is it a folder that all machines share?")
    errors = {name: error for name in names if (error := done[name]) is not None}
    return DetectedDataset(images=len(names), before=before, errors=errors)


class _Tries:
    """Counts how often a part was begun: Ray itself begins one again for ever that is the end of its worker."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def begin(self, file: str) -> int:
        """Return how often the part was begun before."""
        self._counts[file] += 1
        return self._counts[file] - 1


class _PartDetector:
    """Detects in the images of a part, and writes their rows to the part's file."""

    def __init__(
        self,
        source: Storage,
        target: Storage,
        column: str | None,
        options: dict[str, Any],
        tries: Any,
        retries: int,
    ) -> None:
        self._detector = RayDetector(**options)
        self._source, self._target, self._column = source, target, column
        self._tries, self._retries = tries, retries

    def __call__(self, batch: Any) -> Any:
        """Take parts, ``file`` and ``images``; return their files."""
        for part in batch.to_pylist():
            if self._target.at(f"{self._target.name}/{part['file']}").exists():  # by a worker that died after it
                continue
            if (before := import_ray().get(self._tries.begin.remote(part["file"]))) > self._retries:
                first, last = part["images"][0], part["images"][-1]
                hint = "is one of them too large for the worker's memory? part_size=1 finds which"
                raise FrcnnError(f"workers died {before} times in the images from {first} to {last}", hint=hint)
            rows = table(self._detector.detect(self._images(part["images"]), self._source))
            pa = import_pyarrow()
            rows = rows.add_column(0, pa.field(IMAGE, pa.string(), nullable=False), pa.array(part["images"]))
            content = pa.BufferOutputStream()
            import_pyarrow("pyarrow.parquet").write_table(rows, content)
            self._target.write(part["file"], content.getvalue())
        return batch.select(["file"])

    def _images(self, names: Sequence[str]) -> list[Any]:
        """Return what the detector takes for each name: the name, or the bytes of a row of Parquet."""
        if self._column is None or not all(_ROW.search(name) for name in names):
            return list(names)
        rows: dict[str, list[int]] = {}
        for name in names:
            file, _, row = name.rpartition("#")
            rows.setdefault(file, []).append(int(row))
        return [image for file, some in rows.items() for image in _take(self._source.at(file), self._column, some)]


def _parts(names: Sequence[str], done: Mapping[str, str | None], size: int) -> Iterator[dict[str, Any]]:
    """Yield the parts that have images without a row: always the same ones, for the same names."""
    for start in range(0, len(names), size):
        images = [name for name in names[start : start + size] if name not in done]
        if images:
            digest = hashlib.sha256("\0".join(images).encode()).hexdigest()
            yield {"file": f"part-{digest[:32]}.parquet", "images": images}


def _in_parquet(place: Storage, column: str) -> list[str]:
    """Return the names of the images in a column of Parquet: ``file#row``, or the paths that the column has."""
    parquet, types = import_pyarrow("pyarrow.parquet"), import_pyarrow("pyarrow").types
    names: dict[str, None] = {}
    for name in place.list([".parquet"]):
        at = place.at(name)
        with _reading(name):
            schema = parquet.read_schema(at.path, filesystem=at.files)
            if column not in schema.names:
                what = f"{name}: expected a column {column!r}, got {', '.join(schema.names)}"
                raise UsageError(what, hint=did_you_mean(column, schema.names, "name the column of the images"))
            kind = schema.field(column).type
            if types.is_string(kind) or types.is_large_string(kind):
                paths = parquet.read_table(at.path, columns=[column], filesystem=at.files).column(0).to_pylist()
                names.update(dict.fromkeys(at.at(path).name for path in paths if path is not None))
            elif types.is_binary(kind) or types.is_large_binary(kind):
                count = parquet.read_metadata(at.path, filesystem=at.files).num_rows
                names.update(dict.fromkeys(f"{name}#{row}" for row in range(count)))
            else:
                raise UsageError(f"{name}: {column!r} is {kind}", hint="expected the bytes of images, or their paths")
    if not names:
        raise ImageError(f"{place.name}: expected Parquet with images, there is none")
    return list(names)


def _take(file: Storage, column: str, rows: Sequence[int]) -> Iterator[bytes | None]:
    """Yield the bytes in some rows, in order, with one group of rows in memory."""
    parquet, start = import_pyarrow("pyarrow.parquet"), 0
    with _reading(file.name), file.files.open_input_file(file.path) as content:
        groups = parquet.ParquetFile(content)
        for group in range(groups.num_row_groups):
            end = start + groups.metadata.row_group(group).num_rows
            if some := [row - start for row in rows if start <= row < end]:
                yield from groups.read_row_group(group, columns=[column]).column(0).take(some).to_pylist()
            start = end


@contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise ImageError(f"{name}: cannot be read as Parquet: {error}") from error


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
    target.write(JOB_FILE, msgspec.json.encode(job))
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


def _connect(address: str | None) -> ModuleType:
    """Return the module ``ray``, connected to a cluster."""
    known = address or os.environ.get("RAY_ADDRESS") or "local"
    if known == "local":  # no telemetry, and nothing that listens beyond this machine; both count before the import
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    ray = import_ray()
    if ray.is_initialized():
        return ray
    hint = "is it running, and does RAY_AUTH_MODE say token if it wants one? without an address there is a new one here"
    try:
        if match := re.fullmatch(r"([^:/]+):(\d+)", known):  # Ray itself tries for two minutes, and ends the process
            socket.create_connection((match[1], int(match[2])), _CONNECT_SECONDS).close()
        ray.init(address=known, **({"include_dashboard": False} if known == "local" else {}))
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"no Ray cluster at {known}: {getattr(error, 'strerror', None) or error}", hint=hint
        ) from error
    return ray


def _room(ray: ModuleType, cpus: float, gpus: float) -> int:
    """Return how many workers the cluster has room for."""
    has = ray.cluster_resources()
    room = min(int(has.get(name, 0) / each) for name, each in (("CPU", cpus), ("GPU", gpus)) if each)
    if room < 1:
        what = f"a worker needs {cpus:g} CPUs and {gpus:g} GPUs, the cluster has {has.get('CPU', 0):g} and "
        raise UsageError(what + f"{has.get('GPU', 0):g}", hint="give workers= where it grows when asked")
    return room


@contextmanager
def _plain_errors(ray: ModuleType) -> Iterator[None]:
    """Raise what a worker raised, in place of what Ray made of it."""
    try:
        yield
    except Exception as error:
        found: BaseException | None = error
        while found is not None and not isinstance(found, FrcnnError):
            found = getattr(found, "cause", None) or found.__cause__
        if found is not None:
            raise found from None
        if isinstance(error, ray.exceptions.RayError):
            raise FrcnnError(f"the job ended: {str(error).strip().splitlines()[0]}", hint=_AGAIN) from error
        raise
