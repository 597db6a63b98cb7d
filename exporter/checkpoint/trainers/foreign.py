"""A detector of another trainer as a live torchvision model, with what its configuration said and what was assumed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from torch import Tensor

from frcnn.errors import CheckpointError, FrcnnError
from frcnn.exporter.checkpoint.assumptions import NO_LABELS
from frcnn.exporter.checkpoint.builders import type_and_text
from frcnn.exporter.checkpoint.layout import FoundWeights, Trainer, other_model
from frcnn.exporter.checkpoint.loaded import LoadedCheckpoint, require_finite, with_labels
from frcnn.exporter.checkpoint.trainers import detectron2, mmdetection
from frcnn.exporter.checkpoint.trainers.arguments import describe, with_args
from frcnn.exporter.checkpoint.trainers.build import build_restatement
from frcnn.exporter.checkpoint.trainers.config import read_config, read_python_config
from frcnn.exporter.checkpoint.trainers.settings import Converted
from frcnn.exporter.model.spec_from_model import read_model_spec

NAMES: Final[dict[str | None, str]] = {
    "torchvision": "torchvision",
    "detectron2": "Detectron2",
    "mmdetection": "MMDetection",
}


def read_foreign(
    trainer: Trainer,
    state: Mapping[str, Tensor],
    found: FoundWeights,
    *,
    source: Path,
    sha256: str,
    config: str | os.PathLike[str] | None,
    args: Mapping[str, object],
    labels: Sequence[str] | None,
) -> LoadedCheckpoint:
    """Convert weights of Detectron2 or MMDetection, by its configuration or, without any, as its own models are."""
    if other := other_model(state):
        raise CheckpointError(f"{source} holds {other[0]}, expected a Faster R-CNN", hint=other[1])
    said, origin = None, ""
    if config is not None:
        said, origin = read_config(Path(config)), f"in {Path(config).name}"
    elif found.config is not None and trainer == "mmdetection":
        said = read_python_config(found.config, source=f"the configuration in {source}")
        origin = "in the checkpoint"
    convert = detectron2.convert if trainer == "detectron2" else mmdetection.convert
    name = NAMES[trainer]
    try:
        converted = convert(state, said, labels=found.labels)
        settings = with_args(converted.settings, args)
        model = build_restatement(Converted(settings=settings, state=converted.state))
    except FrcnnError:
        raise
    except Exception as error:  # weights of any shape, under these names
        raise CheckpointError(
            f"the weights in {source} fit no Faster R-CNN of {name}: {type_and_text(error)}",
            hint="save the whole detector; --debug shows the traceback",
        ) from error
    facts = [f"trainer: {name}, by the names of its weights", f"architecture: {settings.architecture}"]
    assumptions: list[str] = []
    for line, how in describe(settings):
        known = {*args, *state}  # Detectron2 kept pixel_mean and pixel_std with the weights
        left = [name for name in how.removeprefix("--arg ").split(", ") if name not in known]
        if not left:  # all of it was given
            continue
        how = how if how == "--config" else f"--arg {', '.join(left)}"
        if said is None:
            assumptions.append(f"{line}; as {name}'s own models have it ({how})")
        else:
            facts.append(f"{line} ({origin})")
    require_finite(model, source)
    spec = read_model_spec(model, architecture=f"{name} {settings.architecture}")
    spec, label_fact = with_labels(spec, labels, found.labels or settings.labels, source)
    return LoadedCheckpoint(
        model=model,
        spec=spec,
        facts=(*facts, *label_fact, *(f"given: {key}={value!r}" for key, value in args.items())),
        assumptions=(*found.notes, *assumptions, *(() if spec.labels else (NO_LABELS,))),
        sha256=sha256,
    )
