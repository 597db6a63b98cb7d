"""``--arch`` and ``--arg KEY=VALUE``: the function that builds the model, and its arguments. Does not import torch."""

from __future__ import annotations

import ast
import keyword
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from frcnn.errors import UsageError, did_you_mean
from frcnn.options import KnownName

TORCHVISION_NAMES: Final = (
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
)
"""Architectures that torchvision has builders of, and publishes weights for."""

ARCHITECTURE: Final = KnownName(
    "--arch: unknown architecture",
    (
        *TORCHVISION_NAMES,
        *(f"fasterrcnn_resnet{depth}_fpn" for depth in (18, 34, 101, 152)),
        *("fasterrcnn_vgg16", "fasterrcnn_resnet50_c4", "fasterrcnn_resnet101_c4"),
    ),
    "Your own function: --arch mypkg.models:build or --arch path/to/models.py:build",
)
"""What ``--arch`` takes; ``architectures.ARCHITECTURES`` has the builders, by these names."""

_EXAMPLE: Final = "write it as --arg min_size=640, once for each argument"

# the plain numbers among the arguments of FasterRCNN and its transform
_COUNTS: Final = frozenset(
    {
        *("min_size", "max_size", "size_divisible", "box_detections_per_img", "num_classes"),
        *("rpn_pre_nms_top_n_train", "rpn_pre_nms_top_n_test"),
        *("rpn_post_nms_top_n_train", "rpn_post_nms_top_n_test"),
    }
)
_FRACTIONS: Final = frozenset({"rpn_nms_thresh", "rpn_score_thresh", "box_nms_thresh", "box_score_thresh", "norm_eps"})


def parse_args(items: Iterable[str]) -> dict[str, object]:
    """Parse ``KEY=VALUE`` options: a value is a Python literal (``640``, ``None``, ``((32,), (64,))``), else text."""
    parsed: dict[str, object] = {}
    for item in items:
        key, equals, text = item.partition("=")
        key = key.strip()
        if not equals or not key.isidentifier() or keyword.iskeyword(key):
            raise UsageError(f"--arg: expected KEY=VALUE, got {item!r}", hint=_EXAMPLE)
        if key in parsed:
            raise UsageError(f"--arg {key} is given twice", hint="keep one of the two")
        parsed[key] = _literal(text.strip())
    return parsed


def _literal(text: str) -> object:
    try:
        value: object = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # {[]: 1} is the second
        return text
    return value


def short_name(arch: str) -> str:
    """Return ``arch`` without folders, for artifacts."""
    where, _, name = arch.rpartition(":")
    return f"{Path(where).name}:{name}" if where.endswith(".py") else arch


def refuse_unknown(args: Mapping[str, object], accepted: Iterable[str], *, builder: str) -> None:
    """Raise UsageError, which lists the accepted arguments, for those that a builder does not accept."""
    names = sorted(accepted)
    unknown = sorted(set(args).difference(names))
    if unknown:
        hint = did_you_mean(unknown[0], names, f"it takes {', '.join(names)}" if names else "it takes none")
        raise UsageError(f"{builder} takes no argument {', '.join(map(repr, unknown))}", hint=hint)


def check_values(args: Mapping[str, object]) -> None:
    """Raise UsageError for plain numbers among ``FasterRCNN``'s arguments that it should check itself and does not."""
    for key, value in args.items():
        if key in _COUNTS and not _is_count(value):
            raise UsageError(f"--arg {key}: expected a whole number above 0, got {value!r}", hint=_EXAMPLE)
        if key in _FRACTIONS and not _is_fraction(value):
            raise UsageError(f"--arg {key}: expected a number from 0 to 1, got {value!r}", hint=_EXAMPLE)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_fraction(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 1
