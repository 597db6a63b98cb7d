"""What ``compare``, ``bench`` and ``eval`` share: a model file beside its checkpoint, which eager torchvision runs."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frcnn.benchmarks.candidates.artifacts import AnyManifest, device_for, model_difference, model_manifest
from frcnn.console import note
from frcnn.errors import ArtifactError, UsageError
from frcnn.exporter.checkpoint.builder_arguments import parse_args, short_name
from frcnn.exporter.commands.checkpoint_options import given_options
from frcnn.runtime.backend import Device
from frcnn.runtime.model_files.artifact import open_artifact
from frcnn.runtime.tuned import Tuned
from frcnn.runtime.tuned import load_options as setting_options
from frcnn.spec.engine import EngineManifest

if TYPE_CHECKING:
    from frcnn.benchmarks.candidates.trainer_models import TrainerModel
    from frcnn.exporter.checkpoint.loaded import LoadedCheckpoint


def with_options_of_export(arguments: argparse.Namespace, paths: Sequence[Path]) -> argparse.Namespace:
    """Return arguments with the export's options of the checkpoint where they are not given; say so.

    The first of the model files that has any counts; one that cannot be read is passed over.

    Raises:
        ArtifactError: an argument has another value than for the export.
        UsageError: the export's architecture is code, which is not run because a file names it, and none is given; or
            its configuration is not found.
    """
    for path in paths:
        with suppress(ArtifactError):
            if kept := model_manifest(open_artifact(path).manifest).checkpoint_options:
                break
    else:
        return arguments
    if None not in (arguments.arch, kept.arch) and short_name(arguments.arch) != kept.arch:
        return arguments  # another function, with arguments of its own
    given = parse_args(arguments.args)
    taken: dict[str, Any] = {
        "arch": None if arguments.arch else kept.arch,
        "args": [item for item in kept.args if not parse_args([item]).keys() & given.keys()],
        "state_key": None if arguments.state_key else kept.state_key,
        "trainer": None if arguments.trainer else kept.trainer,
        "config": _found_config(arguments, path, kept.config),
        "boxes_only": kept.boxes_only and not arguments.boxes_only,
    }
    for key, value in parse_args(kept.args).items():
        if key in given and given[key] != value:
            raise ArtifactError(
                f"{path} is another model than the checkpoint: it was exported with --arg {key}={value!r}, "
                f"got {given[key]!r}",
                hint="leave it out: it is read from the file",
            )
    if ":" in (taken["arch"] or ""):
        raise _not_run(arguments, path, taken["arch"])
    if words := given_options(argparse.Namespace(**taken, labels=None, trust_pickle=False)):
        note(f"{shlex.join(chain.from_iterable(words.values()))}: as {path} was exported")
    taken["args"] += arguments.args
    return argparse.Namespace(**vars(arguments) | {name: value for name, value in taken.items() if value})


def _found_config(arguments: argparse.Namespace, path: Path, name: str | None) -> Path | None:
    """Return the configuration of the export, which is sought here and by the checkpoint; None if one is given."""
    if name is None or arguments.config is not None:
        return None
    for folder in (Path(), arguments.checkpoint.parent):
        if (folder / Path(name).name).is_file():
            return folder / Path(name).name
    raise UsageError(
        f"{path} was exported with --config {name}, which is neither here nor beside the checkpoint",
        hint=f"say where it is: {arguments.command} --config {shlex.quote(name)}",
    )


def _not_run(arguments: argparse.Namespace, path: Path, arch: str) -> UsageError:
    """Return the error with the command line to go on with; the code's file is sought here and by the checkpoint."""
    file, folders = Path(arch.rpartition(":")[0]), (Path(), arguments.checkpoint.parent)
    place = next((folder / arch for folder in folders if file.suffix == ".py" and (folder / file).is_file()), arch)
    return UsageError(
        f"{path} was exported with --arch {arch}: that is code, which is not run because a file names it",
        hint=f"if you trust it: {arguments.command} --arch {shlex.quote(str(place))}",
    )


def prepare_reference(loaded: LoadedCheckpoint, manifest: AnyManifest, arguments: argparse.Namespace) -> None:
    """Require that the checkpoint's model is that of the file, and give eager ``--threads``.

    Raises:
        ArtifactError: the first difference of the models, with which a comparison would mean nothing.
    """
    if arguments.threads is not None:
        import torch

        torch.set_num_threads(arguments.threads)
    if difference := model_difference(loaded.spec, manifest):
        raise ArtifactError(
            f"{arguments.model} is another model than the checkpoint: {difference}",
            hint=f"give {arguments.command.split()[1]} the same --arch and --arg as export",
        )


def own_reference(
    arguments: argparse.Namespace, loaded: LoadedCheckpoint, manifest: AnyManifest
) -> tuple[TrainerModel | None, str]:
    """Return the model of another trainer itself, where it can be had, and what the reference is called."""
    from frcnn.benchmarks.candidates.trainer_models import eager_title

    own, why_not = None, "it pads images as it likes, and this file has canvases"
    if model_manifest(manifest).canvases is None and not isinstance(manifest, EngineManifest):
        own, why_not = own_model_of(arguments, loaded)
    trainer = loaded.spec.transform.resize
    return own, eager_title(trainer, own) + (f" ({why_not})" if own is None and trainer != "torchvision" else "")


def own_model_of(
    arguments: argparse.Namespace, loaded: LoadedCheckpoint, *, device: Device = "cpu"
) -> tuple[TrainerModel | None, str]:
    """Return the model of another trainer itself, else why there is none; for torchvision's nothing."""
    from frcnn.benchmarks.candidates.candidate import CannotRunError
    from frcnn.benchmarks.candidates.trainer_models import own_model

    trainer = loaded.spec.transform.resize
    if trainer == "torchvision":
        return None, ""
    if arguments.args:
        return None, "it knows no --arg"
    try:
        return own_model(trainer, arguments.checkpoint, arguments.config, device=device), ""
    except CannotRunError as error:
        return None, str(error)


def load_options(arguments: argparse.Namespace, manifest: AnyManifest, tuned: Tuned | None) -> dict[str, Any]:
    """Return the options of ``Detector.load``: that of ``device`` is None where ``--provider`` decides it.

    ``--threads`` is eager's alone where the file holds engines. A tuned choice stands for all options.
    """
    if tuned is not None:
        return {"device": "cpu", **setting_options(tuned.setting)}
    options = {"device": arguments.device, "provider": arguments.provider}
    if options == {"device": None, "provider": None}:
        options["device"] = device_for(manifest)
    options["precision"] = arguments.precision
    return options if isinstance(manifest, EngineManifest) else options | {"threads": arguments.threads}
