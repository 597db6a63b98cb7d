"""A detector of another trainer as a live torchvision model, with what its configuration said and what was assumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from torch import Tensor
from torchvision.models.detection import FasterRCNN

from frcnn.errors import CheckpointError, FrcnnError
from frcnn.exporter.checkpoint.builders import type_and_text
from frcnn.exporter.checkpoint.layout import FoundWeights, Trainer, other_model
from frcnn.exporter.checkpoint.trainers import detectron2, mmdetection
from frcnn.exporter.checkpoint.trainers.arguments import describe, with_args
from frcnn.exporter.checkpoint.trainers.build import build_restatement
from frcnn.exporter.checkpoint.trainers.config import read_config, read_python_config
from frcnn.exporter.checkpoint.trainers.settings import Converted
from frcnn.exporter.model.spec_from_model import read_model_spec
from frcnn.spec import ModelSpec

NAMES: Final[dict[str | None, str]] = {
    "torchvision": "torchvision",
    "detectron2": "Detectron2",
    "mmdetection": "MMDetection",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """A detector of another trainer; ``labels`` are those of its configuration."""

    model: FasterRCNN
    spec: ModelSpec
    facts: tuple[str, ...]
    assumptions: tuple[str, ...]
    labels: tuple[str, ...] | None


def read_foreign(
    trainer: Trainer,
    state: Mapping[str, Tensor],
    *,
    source: Path,
    config: Path | None,
    found: FoundWeights,
    args: Mapping[str, object],
) -> Foreign:
    """Convert weights of Detectron2 or MMDetection, by its configuration or, without any, as its own models are."""
    if other := other_model(state):
        raise CheckpointError(f"{source} holds {other[0]}, expected a Faster R-CNN", hint=other[1])
    said, origin = None, ""
    if config is not None:
        said, origin = read_config(config), f"in {config.name}"
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
        left = [name for name in how.removeprefix("--arg ").split(", ") if name not in args]
        if not left:  # all of it was given
            continue
        how = how if how == "--config" else f"--arg {', '.join(left)}"
        if said is None:
            assumptions.append(f"{line}; as {name}'s own models have it ({how})")
        else:
            facts.append(f"{line} ({origin})")
    return Foreign(
        model=model,
        spec=read_model_spec(model, architecture=f"{name} {settings.architecture}"),
        facts=tuple(facts),
        assumptions=tuple(assumptions),
        labels=settings.labels,
    )
