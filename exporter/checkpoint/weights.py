"""torchvision's own weights, for ``--weights NAME=WEIGHTS``; the one place of the exporter that uses a network."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from torchvision.models import WeightsEnum, get_model_weights

from frcnn.errors import CheckpointError, UsageError
from frcnn.exporter.checkpoint.load import LoadedCheckpoint, read_checkpoint
from frcnn.exporter.checkpoint.published import TORCHVISION_NAMES, published_sha256

__all__ = ["load_pretrained", "parse_weights"]

_EXAMPLE: Final = "for instance --weights fasterrcnn_resnet50_fpn_v2=COCO_V1"


def parse_weights(text: str) -> tuple[str, WeightsEnum]:
    """Return the architecture and the weights that ``NAME=WEIGHTS`` names.

    Raises:
        UsageError: no such name or weights; the message lists those there are.
    """
    name, equals, entry = text.partition("=")
    if not equals:
        raise UsageError(f"--weights: expected NAME=WEIGHTS, got {text!r}", hint=_EXAMPLE)
    if name not in TORCHVISION_NAMES:
        raise UsageError(
            f"--weights: torchvision has no Faster R-CNN {name!r}; it has {', '.join(TORCHVISION_NAMES)}",
            hint=_EXAMPLE,
        )
    members = get_model_weights(name).__members__
    if entry not in members:
        raise UsageError(f"--weights: {name} has no weights {entry!r}; it has {', '.join(members)}", hint=_EXAMPLE)
    return name, members[entry]


def load_pretrained(
    text: str, *, args: Mapping[str, object] | None = None, labels: Sequence[str] | None = None
) -> LoadedCheckpoint:
    """Download weights that torchvision publishes, unless ``torch.hub`` has them already, and load them.

    Args:
        text: ``NAME=WEIGHTS``, like ``fasterrcnn_resnet50_fpn_v2=COCO_V1``.
        args: keyword arguments for the architecture.
        labels: class names instead of those torchvision publishes with the weights.

    Raises:
        UsageError: no such name, weights or argument.
        CheckpointError: the download fails, or the file has another SHA-256 than the one that torchvision publishes.
    """
    name, weights = parse_weights(text)
    path = _download(name, weights)
    categories = weights.meta["categories"] if labels is None else labels
    return read_checkpoint(path, arch=name, args=args, labels=categories)


def _download(name: str, weights: WeightsEnum) -> Path:
    """Return the file of some weights in ``torch.hub``'s folder, where torchvision itself looks for it.

    Its SHA-256 is checked before anything reads it, whether it was there already or is downloaded now. A download that
    has another is not kept.
    """
    url, expected = str(weights.url), published_sha256(weights)
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    by_hand = f"download {url} elsewhere, then: frcnn export {path.name} --arch {name}"
    if expected is None:
        raise CheckpointError(f"the SHA-256 of {url} is not known here, so that it could not be checked", hint=by_hand)
    if path.is_file():
        _require_sha256(path, expected)
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=expected, progress=True)
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        reason = "".join(filter(str.isprintable, str(getattr(error, "reason", None) or error)))  # the server's words
        raise CheckpointError(f"cannot download {url}: {reason}", hint=by_hand) from error
    except RuntimeError as error:  # torch.hub: the hash differs
        raise CheckpointError(f"{url} is not the file that torchvision publishes: {error}", hint=by_hand) from error
    return path


def _require_sha256(path: Path, expected: str) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}", hint="check the file's permissions") from error
    if found != expected:
        raise CheckpointError(
            f"{path} is not the file that torchvision publishes: its SHA-256 is {found}, expected {expected}",
            hint="delete it, and it is downloaded again",
        )
