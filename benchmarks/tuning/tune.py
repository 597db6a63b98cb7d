"""Tune a model: from its files and images to the tuned file."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from frcnn.benchmarks.candidates.artifacts import canvases_of
from frcnn.benchmarks.parity.comparison import default_limits
from frcnn.benchmarks.timing.environment import now
from frcnn.benchmarks.timing.measure import Report
from frcnn.benchmarks.tuning.models import Models
from frcnn.benchmarks.tuning.search import Search, order_of
from frcnn.benchmarks.tuning.settings import base_settings
from frcnn.console import warn
from frcnn.errors import ImageSizeError
from frcnn.files import write_text
from frcnn.runtime import Detector, RGBImage
from frcnn.runtime.tuned import PACKAGES, load_options, read_machine, read_versions, tuned_path
from frcnn.spec import Manifest, Size
from frcnn.spec.tuning import TUNING_SCHEMA_VERSION, Allowed, HostProvider, Setting, Tuning


def tune(
    models: Models,
    images: Sequence[RGBImage],
    *,
    providers: Collection[HostProvider],
    allowed: Sequence[Allowed],
    budget_s: float,
    report: Report = lambda what, share: None,
) -> Tuning:
    """Search for the fastest setting of a model on this machine."""
    manifest, machine = models.model.manifest, read_machine()
    usable, batched = _usable(images, manifest)
    own, int8 = models.files
    pooler = manifest.model.roi_heads.pooler.kind
    search = Search(
        settings=base_settings(
            providers, has_int8=int8 is not None, has_bf16="bf16" in allowed, processors=machine.processors
        ),
        load=lambda setting: _load(models, setting),
        limits=lambda setting: default_limits(setting.lowest_precision(manifest.precision), pooler),
        describe=lambda setting: setting.describe(manifest.precision),
        images=usable,
        batched=batched,
        spec=manifest.model,
        budget_s=budget_s,
        report=report,
    )
    choice = search.run()
    used = {"frcnn", *(PACKAGES[attempt.setting.provider] for attempt in search.attempts)}
    return Tuning(
        schema_version=TUNING_SCHEMA_VERSION,
        date=now(),
        machine=machine,
        versions={package: version for package, version in read_versions().items() if package in used},
        model=own,
        int8=int8,
        allowed=tuple(allowed),
        choice=choice,
        trials=tuple(attempt.result() for attempt in search.attempts),
    )


def write_tuning(tuning: Tuning, model: Path) -> Path:
    """Write the tuned file beside a model, whole or not at all, and return its path."""
    path = tuned_path(model)
    write_text(path, tuning.to_json())
    return path


def _load(models: Models, setting: Setting) -> Detector:
    artifact = models.int8 if setting.int8 and models.int8 is not None else models.model
    return Detector.load(artifact.path, **load_options(setting))


def _usable(images: Sequence[RGBImage], manifest: Manifest) -> tuple[list[RGBImage], list[int]]:
    """Return the images that fit the model, as :func:`order_of` orders them, and the positions of one canvas."""
    usable: list[RGBImage] = []
    canvases: list[Size] = []
    for image in images:
        resized = manifest.model.transform.resized_size(*image.size)
        try:
            canvas = canvases_of(manifest).canvas_of(resized, name=image.name)
        except ImageSizeError as error:
            warn(f"skipped {error}")
        else:
            usable.append(image)
            canvases.append(canvas)
    if not usable:
        raise ImageSizeError("not one image fits a canvas of the model", hint="give others with --images")
    order, batched = order_of(canvases)
    return [usable[i] for i in order], batched
