"""Tell model files apart by their content and read their manifest."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from frcnn.errors import ArtifactError
from frcnn.files.archive import is_archive
from frcnn.runtime.model_files.engine_artifact import EngineArtifact, open_engine_artifact
from frcnn.runtime.model_files.onnx_outline import Outline, read_outline
from frcnn.spec import MANIFEST_KEY, Manifest

__all__ = ["Artifact", "OnnxArtifact", "open_artifact"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxArtifact:
    """A ``model.onnx`` made by ``frcnn export``.

    Attributes:
        path: the file.
        manifest: what it says of itself.
        outline: the file without its weights.
    """

    path: Path
    manifest: Manifest
    outline: Outline


Artifact = OnnxArtifact | EngineArtifact
"""A model file: what ``frcnn export`` or what ``frcnn build`` made."""


def open_artifact(path: str | os.PathLike[str]) -> Artifact:
    """Read what a model file is, whatever its name, without loading its weights.

    Raises:
        ArtifactError: it is missing, empty, a folder, truncated, neither an engine artifact nor an ONNX model, an ONNX
            model that frcnn did not make, or its manifest is damaged or of another version.
    """
    if is_archive(path):
        return open_engine_artifact(path)
    outline = read_outline(path)
    if MANIFEST_KEY not in outline.metadata:
        maker = f" (made by {outline.producer})" if outline.producer else ""
        raise ArtifactError(
            f"{os.fspath(path)}: an ONNX model, but not one of frcnn's: it has no {MANIFEST_KEY!r} in its "
            f"metadata{maker}",
            hint="make one from the checkpoint: frcnn export CHECKPOINT -o model.onnx",
        )
    manifest = Manifest.from_json(outline.metadata[MANIFEST_KEY], source=os.fspath(path))
    return OnnxArtifact(path=Path(path), manifest=manifest, outline=outline)
