"""Compare the names and shapes of weights with those a model expects."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

__all__ = ["Misfit", "compare", "floating_dtypes", "modernised", "non_finite", "read_num_classes"]

CLASS_SCORES: Final = "roi_heads.box_predictor.cls_score.weight"

# torchvision before 0.13 (its COCO weights of fasterrcnn_resnet50_fpn among them) had one module less on these paths.
_RENAMED: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"((?:inner|layer)_blocks\.\d+)\.(weight|bias)$"), r"\1.0.\2"),
    (re.compile(r"(rpn\.head\.conv)\.(weight|bias)$"), r"\1.0.0.\2"),
)

# Batch norms count their batches for training only; frozen ones and old files have no such entry.
_COUNTER: Final = ".num_batches_tracked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """How weights and a model differ; nothing where they fit.

    Attributes:
        missing: names the model has and the weights have not.
        unexpected: names the weights have and the model has not.
        misshaped: names of both with different shapes, or no floating-point numbers; with what and what not.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshaped: tuple[str, ...]

    @property
    def count(self) -> int:
        """Return how many names do not fit."""
        return len(self.missing) + len(self.unexpected) + len(self.misshaped)

    def describe(self, limit: int = 5) -> str:
        """Return one line with the first ``limit`` names of each kind and how many there are."""
        kinds = (("missing", self.missing), ("unexpected", self.unexpected), ("of another shape", self.misshaped))
        return "; ".join(f"{len(names)} {kind}: {_listed(names, limit)}" for kind, names in kinds if names)


def _listed(names: tuple[str, ...], limit: int) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def modernised(state: Mapping[str, Tensor], expected: Iterable[str]) -> dict[str, Tensor]:
    """Return the weights under today's names where a model expects those and not the old ones.

    The rule of torchvision's own ``FeaturePyramidNetwork`` and ``RPNHead``.
    """
    wanted = frozenset(expected)
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        new = name
        for pattern, replacement in _RENAMED:
            new = pattern.sub(replacement, new)
        renamed[new if name not in wanted and new in wanted else name] = tensor
    return renamed


def compare(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Misfit:
    """Compare weights (already ``modernised``) with a model's own ``state_dict()``, on any device."""
    given = {name: tensor for name, tensor in state.items() if not name.endswith(_COUNTER)}
    wanted = {name: tensor for name, tensor in expected.items() if not name.endswith(_COUNTER)}
    misshaped = []
    for name in given.keys() & wanted.keys():
        theirs, ours = given[name], wanted[name]
        if theirs.shape != ours.shape:
            misshaped.append(f"{name} is {tuple(theirs.shape)}, expected {tuple(ours.shape)}")
        elif ours.is_floating_point() and not theirs.is_floating_point():
            misshaped.append(f"{name} is {_dtype(theirs)}, expected floating point")
    return Misfit(
        missing=tuple(name for name in wanted if name not in given),
        unexpected=tuple(name for name in given if name not in wanted),
        misshaped=tuple(sorted(misshaped)),
    )


def read_num_classes(state: Mapping[str, Tensor]) -> int | None:
    """Return the number of classes with the background, or None where the box predictor is none of torchvision's."""
    scores = state.get(CLASS_SCORES)
    return int(scores.shape[0]) if scores is not None and scores.ndim == 2 else None


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def floating_dtypes(state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return the names of the floating-point types in the weights, sorted."""
    return tuple(sorted({_dtype(t) for t in state.values() if t.is_floating_point()}))


def non_finite(state: Mapping[str, Tensor]) -> str | None:
    """Return a line about the first tensor with NaN or infinity in it, or None."""
    for name, tensor in state.items():
        if tensor.is_floating_point():
            bad = int((~torch.isfinite(tensor)).sum())
            if bad:
                return f"{name} has {bad} of {tensor.numel()} values that are NaN or infinite"
    return None
