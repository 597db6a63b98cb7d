"""Tune a model: from its files and images to the tuned file."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from frcnn.benchmarks.candidates.artifacts import canvases_of, model_difference
from frcnn.benchmarks.candidates.candidate import Report
from frcnn.benchmarks.parity.comparison import default_limits
from frcnn.benchmarks.timing.environment import now
from frcnn.benchmarks.tuning.search import Search, order_of
from frcnn.benchmarks.tuning.trials import base_settings
from frcnn.console import warn
from frcnn.errors import ArtifactError, ImageSizeError, UsageError, printable
from frcnn.files import file_sha256
from frcnn.runtime import Detector, RGBImage
from frcnn.runtime.images.preprocess import place
from frcnn.runtime.model_files.artifact import OnnxArtifact, open_artifact
from frcnn.runtime.tuned import PACKAGES, load_options, read_machine, read_versions
from frcnn.spec import Manifest, Size
from frcnn.spec.tuning import TUNING_SCHEMA_VERSION, Allowed, HostProvider, Setting, TunedModel, Tuning


def open_models(model: Path, int8: Path | None) -> tuple[OnnxArtifact, OnnxArtifact | None]:
    """Read the manifests and check that the int8 model is one of this model and lies beside it."""
    own = _open(model)
    if int8 is None:
        return own, None
    if int8.parent.resolve() != model.parent.resolve() or int8.is_symlink():
        raise UsageError(
            f"--int8: expected a file in the folder of {model}, got {int8}",
            hint=f"copy it there: the tuned file names it. cp {int8} {default_int8_path(model)}",
        )
    quantised = _open(int8)
    if quantised.manifest.precision != "int8":
        precision = quantised.manifest.precision
        raise ArtifactError(
            f"{int8}: expected an int8 model, got {precision}",
            hint=f"make it from this model: {how_to_quantise(model)}",
        )
    difference = model_difference(own.manifest.model, quantised.manifest)
    if not difference and quantised.manifest.canvases != own.manifest.canvases:
        difference = f"canvases: expected {own.manifest.canvases}, got {quantised.manifest.canvases}"
    if difference:
        raise ArtifactError(
            f"{int8} is another model than {model}: {difference}",
            hint=f"make it from this model: {how_to_quantise(model)}",
        )
    return own, quantised


def default_int8_path(model: Path) -> Path:
    """Return where the int8 model of ``model.onnx`` is looked for: ``model-int8.onnx``."""
    return model.with_name(f"{model.stem}-int8{model.suffix}")


def how_to_quantise(model: Path) -> str:
    """Return the command that makes the int8 model of a model."""
    return f"frcnn quantize {model} --images FOLDER -o {default_int8_path(model)}"


def _open(path: Path) -> OnnxArtifact:
    artifact = open_artifact(path)
    if not isinstance(artifact, OnnxArtifact):
        raise ArtifactError(
            f"{path}: expected a model.onnx, got engines for a GPU",
            hint="engines are tuned when they are built; tune the model.onnx that it was built from",
        )
    return artifact


def _tuned_model(artifact: OnnxArtifact) -> TunedModel:
    return TunedModel(
        name=printable(artifact.path.name), sha256=file_sha256(artifact.path), precision=artifact.manifest.precision
    )


def tune(
    model: OnnxArtifact,
    int8: OnnxArtifact | None,
    images: Sequence[RGBImage],
    *,
    providers: Collection[HostProvider],
    allowed: Sequence[Allowed],
    budget_s: float,
    report: Report = lambda what, share: None,
) -> Tuning:
    """Search for the fastest setting of a model on this machine, an int8 model of it among them."""
    manifest, machine = model.manifest, read_machine()
    usable, batched = _usable(images, manifest)
    own, quantised = _tuned_model(model), None if int8 is None else _tuned_model(int8)
    pooler = manifest.model.roi_heads.pooler.kind

    def load(setting: Setting) -> Detector:
        artifact = int8 if setting.int8 and int8 is not None else model
        return Detector.load(artifact.path, **load_options(setting))

    search = Search(
        settings=base_settings(
            providers, has_int8=int8 is not None, has_bf16="bf16" in allowed, processors=machine.processors
        ),
        load=load,
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
        int8=quantised,
        allowed=tuple(allowed),
        choice=choice,
        trials=tuple(attempt.result() for attempt in search.attempts),
    )


def _usable(images: Sequence[RGBImage], manifest: Manifest) -> tuple[list[RGBImage], list[int]]:
    """Return the images that fit the model, as :func:`order_of` orders them, and the positions of one canvas."""
    usable: list[RGBImage] = []
    canvases: list[Size] = []
    for image in images:
        try:
            canvases.append(place(image, manifest.model.transform, canvases_of(manifest)).canvas)
            usable.append(image)
        except ImageSizeError as error:
            warn(f"skipped {error}")
    if not usable:
        raise ImageSizeError("not one image fits a canvas of the model", hint="give others with --images")
    order, batched = order_of(canvases)
    return [usable[i] for i in order], batched
