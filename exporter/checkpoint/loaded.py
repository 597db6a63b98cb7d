"""A checkpoint's model and what is said about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from torchvision.models.detection import FasterRCNN

from frcnn.errors import CheckpointError, UsageError
from frcnn.exporter.checkpoint.architecture_match import non_finite
from frcnn.spec import CheckpointOptions, ModelSpec, full_labels


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedCheckpoint:
    """A float32 model in eval mode on the CPU, with lines about what was read from the weights and what was assumed.

    ``options`` are those that were given; None where there were none.
    """

    model: FasterRCNN
    spec: ModelSpec
    facts: tuple[str, ...]
    assumptions: tuple[str, ...]
    sha256: str
    options: CheckpointOptions | None = None


def require_finite(model: FasterRCNN, source: Path) -> None:
    """Refuse weights that are not finite, with a ``CheckpointError``."""
    bad = non_finite(model.state_dict())
    if bad:
        raise CheckpointError(f"{source}: {bad}", hint="the training diverged; take an earlier checkpoint")


def with_labels(
    spec: ModelSpec, given: Sequence[str] | None, kept: Sequence[str] | None, source: Path
) -> tuple[ModelSpec, list[str]]:
    """Return the description with class names, given or kept in the file, and a line about them."""
    if given is not None:
        labels = full_labels(given, spec.num_classes)
        return msgspec.structs.replace(spec, labels=labels), [f"labels: {len(labels) - 1} names given"]
    if kept is None:
        return spec, []
    try:
        labels = full_labels(kept, spec.num_classes)
    except UsageError as error:
        raise CheckpointError(
            f"{source}: the class names kept in it do not fit its weights: {error.message}",
            hint="give the right ones with --labels",
        ) from error
    return msgspec.structs.replace(spec, labels=labels), [f"labels: {len(labels) - 1} names kept with the weights"]
