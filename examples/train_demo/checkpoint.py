"""The demo's files: the run that ``--resume`` continues, and the deployable fp16 checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from coco import DataError
from torch import nn
from torchvision.models.detection import FasterRCNN

from frcnn.benchmarks.trial import ARCHITECTURE
from frcnn.benchmarks.trial.digits import build
from frcnn.files import replacing


@dataclass
class Progress:
    """How far a run has come: steps taken and seconds trained, earlier sittings included."""

    step: int = 0
    seconds: float = 0.0

    def share(self, steps: int, minutes: float) -> float:
        """Return the share of the run that is done, by whichever limit is nearer; 1 or more ends it."""
        return max(self.step / steps, self.seconds / (60 * minutes))


def _save(value: object, path: Path) -> None:
    """``torch.save``, whole or not at all, through an open file: given a path it would store the file's name, too."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(value, file)


def save_state(
    path: Path,
    detector: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    settings: dict[str, Any],
) -> None:
    """Write all that ``--resume`` needs."""
    state = {
        "model": detector.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "step": progress.step,
        "seconds": progress.seconds,
        "settings": settings,
    }
    _save(state, path)


def load_state(path: Path, detector: nn.Module, optimizer: torch.optim.Optimizer, settings: dict[str, Any]) -> Progress:
    """Restore a run saved by ``save_state``.

    Raises:
        DataError: There is nothing to resume, or it was started with other settings.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DataError(f"{path}: nothing to resume") from error
    except Exception as error:
        raise DataError(f"{path}: not a saved run ({type(error).__name__})") from error
    changed = [name for name, value in settings.items() if state["settings"].get(name) != value]
    if changed:
        was = ", ".join(f"--{name} {state['settings'].get(name)}" for name in changed)
        raise DataError(f"{path}: the run to resume had {was}; give the same, or start anew without --resume")
    detector.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["rng"])
    return Progress(state["step"], state["seconds"])


def save_checkpoint(path: Path, detector: nn.Module, names: list[str]) -> None:
    """Write the deployable checkpoint: fp16 weights, class names and where the architecture is."""
    weights = {
        key: (value.half() if value.is_floating_point() else value).cpu().contiguous()
        for key, value in detector.state_dict().items()
    }
    if not all(torch.isfinite(value).all() for value in weights.values()):
        raise DataError("a weight does not fit in fp16; the run diverged, try a smaller --lr")
    checkpoint = {"model": weights, "labels": names, "arch": ARCHITECTURE}
    _save(checkpoint, path)


def load_checkpoint(path: Path) -> tuple[FasterRCNN, list[str]]:
    """Load a checkpoint as stored: the detector in evaluation mode, float32, and its class names."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        names = [str(name) for name in checkpoint["labels"]]
        detector = build(len(names) + 1)
        detector.load_state_dict(checkpoint["model"])
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except Exception as error:
        raise DataError(f"{path}: not a checkpoint of this demo ({type(error).__name__})") from error
    return detector.eval(), names
