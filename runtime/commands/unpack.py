"""Write what is in a model.frcnn as files of their own: engines, kernels, the manifest.

Engines are TensorRT's own serialized files, or ONNX files, as they are, for programs of your own. A file is written
whole or not at all, and its SHA-256 is checked on the way. The folder must be new or empty; --force replaces files of
the same names and leaves others.

  frcnn unpack model.frcnn -o model/
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from frcnn.console import next_step, say, show_table
from frcnn.errors import OutputError, UsageError, one_line
from frcnn.files import replacing, writable_folder
from frcnn.spec.engine import MANIFEST_PART, EngineManifest, EngineStep
from frcnn.spec.gpu_runs import loaded_by, read_runs

if TYPE_CHECKING:
    from frcnn.runtime.model_files.engine_artifact import EngineArtifact


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``frcnn unpack``."""
    parser.add_argument("model", help="model.frcnn, made by frcnn build")
    parser.add_argument("-o", "--output", metavar="FOLDER", type=Path, required=True, help="new or empty folder")
    parser.add_argument("--force", action="store_true", help="write into a folder that is not empty, too")


def run(arguments: argparse.Namespace) -> int:
    """Run ``frcnn unpack``."""
    from frcnn.runtime.model_files.artifact import open_artifact
    from frcnn.runtime.model_files.engine_artifact import EngineArtifact

    artifact = open_artifact(arguments.model)
    if not isinstance(artifact, EngineArtifact):
        raise UsageError(
            f"{arguments.model}: expected an engine artifact, got an ONNX model, which has nothing to unpack",
            hint="build one: frcnn build model.onnx -o model.frcnn",
        )
    folder = arguments.output
    _check_folder(folder, force=arguments.force)
    artifact.check_parts()  # of a damaged file nothing is written
    writable_folder(folder)
    _write_all(artifact, folder)
    parts = artifact.manifest.parts
    rows = [(MANIFEST_PART, f"{len(artifact.archive.manifest_bytes):,}")]
    rows += [(name, f"{part.size_bytes:,}") for name, part in parts.items()]
    show_table("unpacked", ("file", "bytes"), rows)
    say(f"written to {folder}")
    if artifact.manifest.target == "tensorrt" and artifact.manifest.form == "plan":
        say("\n".join(_trtexec_lines(artifact.manifest, folder)), exact=True)
        say(f"for trtexec, Triton and DeepStream of this TensorRT, on this kind of GPU. {loaded_by(read_runs())}")
    next_step("inspect", Path(arguments.model), "--hashes")
    return 0


def _check_folder(folder: Path, *, force: bool) -> None:
    """Refuse a folder that is not empty, without ``force``, or cannot be read."""
    try:
        first = next(folder.iterdir(), None) if folder.is_dir() else None
    except OSError as error:
        raise OutputError(
            f"cannot look into {folder}: {one_line(error)}", hint="choose a new folder with -o"
        ) from error
    if first is not None and not force:
        raise OutputError(
            f"cannot unpack into {folder}: it is not empty, there is {first.name}",
            hint="choose a new folder with -o, or replace files in it with --force",
        )


def _write_all(artifact: EngineArtifact, folder: Path) -> None:
    """Write every part and the manifest."""
    root = folder.resolve()
    for name, part in artifact.manifest.parts.items():
        path = folder / name
        if not path.parent.resolve().is_relative_to(root):
            raise OutputError(f"cannot write {path}: a link leads out of {folder}", hint="choose a new folder with -o")
        with replacing(path) as temporary, temporary.open("wb") as file:
            for chunk in artifact.archive.stream(name, part):
                file.write(chunk)
    with replacing(folder / MANIFEST_PART) as temporary:
        temporary.write_bytes(artifact.archive.manifest_bytes)


def _trtexec_lines(manifest: EngineManifest, folder: Path) -> list[str]:
    """Return the commands by which NVIDIA's trtexec runs the only engine, at the opt shapes of each profile."""
    (part,) = (step.part for step in manifest.steps if isinstance(step, EngineStep))
    lines = []
    for index, profile in enumerate(manifest.profiles):
        batch, height, width = (r.opt for r in (profile.batch, profile.height, profile.width))
        shapes = f"images:{batch}x3x{height}x{width},image_sizes:{batch}x2"
        line = f"trtexec --loadEngine={shlex.quote(str(folder / part))} --shapes={shapes}"
        lines.append(line + (f" --useProfile={index}" if index else ""))
    return lines
