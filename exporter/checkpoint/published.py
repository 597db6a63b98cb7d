"""The files that torchvision publishes for Faster R-CNN, each known by its whole SHA-256."""

from __future__ import annotations

from typing import Final

from torchvision.models import WeightsEnum, get_model_weights

__all__ = ["TORCHVISION_NAMES", "published_sha256", "published_weights"]

TORCHVISION_NAMES: Final = (
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
)
"""Those of ``ARCHITECTURES`` that torchvision publishes weights for."""

# torchvision gives the first eight digits only, as the end of a file's name. That finds damage; a file with the same
# eight digits can be made in hours. The rest is what independent projects recorded of the same files, all alike.
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
    """Return the SHA-256 of the file of some weights, hexadecimal; None for a file that is not known here."""
    return _SHA256.get(str(weights.url).rpartition("/")[2])


def published_weights(sha256: str) -> tuple[str, WeightsEnum] | None:
    """Return the architecture and torchvision's name of a file that torchvision publishes, by its SHA-256."""
    for name in TORCHVISION_NAMES:
        for weights in get_model_weights(name):
            if published_sha256(weights) == sha256:
                return name, weights
    return None
