"""The model files of a search: the one to tune, and an int8 model beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from frcnn.benchmarks.candidates.artifacts import model_difference
from frcnn.errors import ArtifactError, UsageError, printable
from frcnn.files import file_sha256
from frcnn.runtime.model_files.artifact import OnnxArtifact, open_artifact
from frcnn.spec.tuning import TunedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """The model files."""

    model: OnnxArtifact
    int8: OnnxArtifact | None

    @property
    def files(self) -> tuple[TunedModel, TunedModel | None]:
        """Both as a tuned file names them."""
        return _tuned_model(self.model), None if self.int8 is None else _tuned_model(self.int8)


def open_models(model: Path, int8: Path | None) -> Models:
    """Read the manifests and check that the int8 model is one of this model and lies beside it."""
    own = _open(model)
    if int8 is None:
        return Models(model=own, int8=None)
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
    return Models(model=own, int8=quantised)


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
