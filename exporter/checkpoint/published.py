"""The weights that torchvision publishes for Faster R-CNN: names, SHA-256, and the download of ``--weights``."""

from __future__ import annotations

import http.client
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from torchvision.models import WeightsEnum, get_model_weights

from frcnn.errors import CheckpointError, UsageError, did_you_mean, one_line
from frcnn.exporter.checkpoint.builder_arguments import TORCHVISION_NAMES
from frcnn.files import file_sha256

_EXAMPLE: Final = "for instance --weights fasterrcnn_resnet50_fpn_v2=COCO_V1"

# torchvision publishes the first eight digits only, in the names of the files. They detect damage, but a file with the
# same eight digits can be made in hours. Several independent projects recorded the whole hashes of the same files.
_SHA256: Final = {
    "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth": "258fb6c638b15964ddcdd1ae0748c5eef1be9e732750120cc857feed3faac384",
    "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth": "dd69338a24b8d7381807e247652bdc356325bcbaf1cd3e092e00e0a1a58706bf",
    "fasterrcnn_mobilenet_v3_large_fpn-fb6a3cc7.pth": (
        "fb6a3cc702b1df54c18a44b26708cd083614211062d0c36d2ca7bf9270df3533"
    ),
    "fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth": (
        "907ea3f91ff92242bc1baea8049276a3e76bca48ce7560bd268cc029f37977b5"
    ),
}


def published_sha256(weights: WeightsEnum) -> str | None:
    """Return the SHA-256 of the file of weights, hexadecimal; None if it is not known here."""
    return _SHA256.get(str(weights.url).rpartition("/")[2])


def published_weights(sha256: str) -> tuple[str, WeightsEnum] | None:
    """Return the architecture and the weights that torchvision publishes with a SHA-256."""
    for name in TORCHVISION_NAMES:
        for weights in get_model_weights(name):
            if published_sha256(weights) == sha256:
                return name, weights
    return None


def parse_weights(text: str) -> tuple[str, WeightsEnum]:
    """Return the architecture and weights that ``NAME=WEIGHTS`` names; UsageError lists those there are."""
    name, equals, entry = text.partition("=")
    if not equals:
        raise UsageError(f"--weights: expected NAME=WEIGHTS, got {text!r}", hint=_EXAMPLE)
    if name not in TORCHVISION_NAMES:
        raise UsageError(
            f"--weights: torchvision has no Faster R-CNN {name!r}; it has {', '.join(TORCHVISION_NAMES)}",
            hint=f"{did_you_mean(name, TORCHVISION_NAMES)} {_EXAMPLE}".strip(),
        )
    members = get_model_weights(name).__members__
    if entry not in members:
        hint = f"{did_you_mean(entry, members)} {_EXAMPLE}".strip()
        raise UsageError(f"--weights: {name} has no weights {entry!r}; it has {', '.join(members)}", hint=hint)
    return name, members[entry]


def download(name: str, weights: WeightsEnum, progress: Callable[[str], None] = lambda what: None) -> Path:
    """Return the file of weights in ``torch.hub``'s folder, downloaded if it is not there.

    Its whole SHA-256 is checked before it is read; a download with another one is deleted, and CheckpointError raised.
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
        progress(f"downloading {path.name}, {weights.meta['_file_size']:.0f} MB")
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=expected, progress=False)
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        reason = "".join(filter(str.isprintable, str(getattr(error, "reason", None) or error)))  # the server's words
        raise CheckpointError(f"cannot download {url}: {reason}", hint=by_hand) from error
    except RuntimeError as error:  # torch.hub: the hash differs
        raise CheckpointError(f"{url} is not the file that torchvision publishes: {error}", hint=by_hand) from error
    return path


def _require_sha256(path: Path, expected: str) -> None:
    try:
        found = file_sha256(path)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {one_line(error)}", hint="check the file's permissions") from error
    if found != expected:
        raise CheckpointError(
            f"{path} is not the file that torchvision publishes: its SHA-256 is {found}, expected {expected}",
            hint="delete it, and it is downloaded again",
        )
