"""The backbone that training starts from: MobileNetV2's feature blocks, with ImageNet weights of a file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import nn
from torchvision.models import mobilenet_v2

# torchvision's MobileNet_V2_Weights.IMAGENET1K_V1; the name's suffix is the start of the file's SHA-256.
BACKBONE_FILE = "mobilenet_v2-b0353104.pth"


def mobilenet_features(weights: str | Path | None) -> nn.Sequential:
    """Return MobileNetV2's feature blocks, with the weights of a classification ``state_dict`` file, or random ones."""
    classifier = mobilenet_v2(weights=None)
    if weights is not None:
        try:
            classifier.load_state_dict(_read_weights(Path(weights)))
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"{weights}: not the weights of torchvision's mobilenet_v2") from error
    blocks: nn.Sequential = classifier.features
    return blocks


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read a backbone file; one that carries torchvision's name must also have torchvision's hash."""
    if path.name == BACKBONE_FILE:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if not digest.startswith(Path(BACKBONE_FILE).stem.rpartition("-")[2]):
            raise ValueError(f"{path}: damaged, its SHA-256 starts {digest[:8]}")
    try:
        state: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path}: not a PyTorch state_dict ({type(error).__name__})") from error
    return state
