"""Match the names and shapes of weights with those of a model, and find the architecture that they fit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from frcnn.errors import CheckpointError
from frcnn.exporter.checkpoint.architectures import ARCHITECTURES, DEFAULT_NORM_EPS, FROZEN_NORM_EPS, Norm
from frcnn.exporter.checkpoint.builders import build_model

_OWN: Final = "name the function that builds your model: --arch mypkg.models:build or --arch models.py:build"
_NEVER_FROZEN: Final = frozenset({"fasterrcnn_resnet50_fpn_v2"})
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
    """Names that only the model has, names that only the weights have, and lines about names of both that differ."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshaped: tuple[str, ...]

    @property
    def count(self) -> int:
        """The number of names that do not fit."""
        return len(self.missing) + len(self.unexpected) + len(self.misshaped)

    def describe(self, limit: int = 5) -> str:
        """Return one line with the number of names of each kind, and the first ``limit`` of them."""
        kinds = (("missing", self.missing), ("unexpected", self.unexpected), ("of another shape", self.misshaped))
        listed = {kind: ", ".join(names[:limit]) + (", ..." if len(names) > limit else "") for kind, names in kinds}
        return "; ".join(f"{len(names)} {kind}: {listed[kind]}" for kind, names in kinds if names)


def with_current_names(state: Mapping[str, Tensor], expected: Iterable[str]) -> dict[str, Tensor]:
    """Rename weights from before torchvision 0.13, as its own ``_load_from_state_dict`` methods do."""
    wanted = frozenset(expected)
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        new = name
        for pattern, replacement in _RENAMED:
            new = pattern.sub(replacement, new)
        renamed[new if name not in wanted and new in wanted else name] = tensor
    return renamed


def compare(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Misfit:
    """Compare weights (after ``with_current_names``) with a model's own ``state_dict()``, on any device."""
    given = {name: tensor for name, tensor in state.items() if not name.endswith(_COUNTER)}
    wanted = {name: tensor for name, tensor in expected.items() if not name.endswith(_COUNTER)}
    misshaped = []
    for name in given.keys() & wanted.keys():
        found, needed = given[name], wanted[name]
        if found.shape != needed.shape:
            misshaped.append(f"{name} is {tuple(found.shape)}, expected {tuple(needed.shape)}")
        elif needed.is_floating_point() and not found.is_floating_point():
            misshaped.append(f"{name} is {_dtype(found)}, expected floating point")
    return Misfit(
        missing=tuple(name for name in wanted if name not in given),
        unexpected=tuple(name for name in given if name not in wanted),
        misshaped=tuple(sorted(misshaped)),
    )


def read_num_classes(state: Mapping[str, Tensor]) -> int | None:
    """Return the number of classes including the background; None if the box predictor is not torchvision's."""
    scores = state.get(CLASS_SCORES)
    return int(scores.shape[0]) if scores is not None and scores.ndim == 2 else None


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def floating_dtypes(state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return the names of the floating-point types in the weights, sorted."""
    return tuple(sorted({_dtype(t) for t in state.values() if t.is_floating_point()}))


def non_finite(state: Mapping[str, Tensor]) -> str | None:
    """Return one line about the first tensor that holds NaN or infinity, or None."""
    for name, tensor in state.items():
        if tensor.is_floating_point():
            bad = int((~torch.isfinite(tensor)).sum())
            if bad:
                return f"{name} has {bad} of {tensor.numel()} values that are NaN or infinite"
    return None


def infer_architecture(
    state: Mapping[str, Tensor],
    *,
    source: str,
    num_classes: int | None,
    args: Mapping[str, object],
    recorded: str | None,
    published: str | None,
) -> tuple[str, str]:
    """Return the only architecture that fits the weights, and the reason as one line.

    ``recorded`` is the name in the checkpoint and ``published`` the architecture for which torchvision publishes the
    file; both select among architectures with the same names and shapes. If none or several fit, raise CheckpointError.
    """
    misfits = _misfits(state, num_classes, args)
    fitting = [name for name, misfit in misfits.items() if misfit.count == 0]
    if len(fitting) == 1:
        return fitting[0], f"architecture: {fitting[0]}, the only known one with these {len(state)} names and shapes"
    if not fitting:
        raise _no_fit(misfits, source, num_classes, recorded)
    if published in fitting:
        return published, f"architecture: {published}, the file is torchvision's own"
    for name in fitting:
        if recorded is not None and recorded.replace("_", "") == name.replace("_", ""):
            return name, f"architecture: {name}, named in the checkpoint; names and shapes fit"
    raise CheckpointError(
        f"{source} fits {len(fitting)} architectures with the same names and shapes: {', '.join(fitting)}",
        hint=f"name the one it was trained as: {' or '.join(f'--arch {name}' for name in fitting)}",
    )


def _misfits(state: Mapping[str, Tensor], num_classes: int | None, args: Mapping[str, object]) -> dict[str, Misfit]:
    misfits: dict[str, Misfit] = {}
    refused: CheckpointError | None = None
    for name, builder in ARCHITECTURES.items():
        try:
            model = build_model(name, builder, num_classes=num_classes, args=args, device="meta")
        except CheckpointError as error:  # this architecture does not accept the user's arguments
            refused = error
            continue
        expected = model.state_dict()
        misfits[name] = compare(with_current_names(state, expected), expected)
    if not misfits and refused is not None:
        raise refused
    return misfits


def _no_fit(
    misfits: Mapping[str, Misfit], source: str, num_classes: int | None, recorded: str | None
) -> CheckpointError:
    closest = min(misfits, key=lambda name: misfits[name].count)
    notes = f" (it says {recorded!r})" if recorded else ""
    if num_classes is None:
        notes += " (its box predictor is not torchvision's)"
    return CheckpointError(
        f"{source} fits no known architecture{notes}; the closest is {closest}, {misfits[closest].describe(3)}",
        hint=_OWN,
    )


def choose_norm(arch: str, state: Mapping[str, Tensor]) -> tuple[Norm, float] | None:
    """Return kind and epsilon of the backbone's batch norms in training, for a known architecture; None without any.

    The weights of ``BatchNorm2d`` include a counter of batches, those of ``FrozenBatchNorm2d`` do not. A variance of
    exactly zero excludes an epsilon of 0.0, which would divide by zero.
    """
    backbone = {name: tensor for name, tensor in state.items() if name.startswith("backbone.")}
    variances = [tensor for name, tensor in backbone.items() if name.endswith(".running_var")]
    if not variances:
        return None
    if arch in _NEVER_FROZEN or any(name.endswith(".num_batches_tracked") for name in backbone):
        return "batch", DEFAULT_NORM_EPS
    eps = FROZEN_NORM_EPS.get(arch, DEFAULT_NORM_EPS)
    if any(not bool(variance.all()) for variance in variances):
        eps = DEFAULT_NORM_EPS
    return "frozen", eps
