"""Read the architecture off the names and shapes of weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from torch import Tensor

from frcnn.errors import CheckpointError
from frcnn.exporter.checkpoint.architectures import ARCHITECTURES, DEFAULT_NORM_EPS, FROZEN_NORM_EPS, Norm
from frcnn.exporter.checkpoint.builders import build_model
from frcnn.exporter.checkpoint.state_dict_fit import Misfit, compare, modernised

__all__ = ["choose_norm", "infer_architecture"]

_OWN: Final = "name the function that builds your model: --arch mypkg.models:build or --arch models.py:build"
_NEVER_FROZEN: Final = frozenset({"fasterrcnn_resnet50_fpn_v2"})


class NormChoice(NamedTuple):
    """Batch norms of the backbone: their kind and constant."""

    norm: Norm
    eps: float


def infer_architecture(
    state: Mapping[str, Tensor],
    *,
    source: str,
    num_classes: int | None,
    args: Mapping[str, object],
    recorded: str | None,
    published: str | None,
) -> tuple[str, str]:
    """Return the one architecture that weights fit, and a line that says why.

    Args:
        state: names -> tensors.
        source: the file's name, for messages.
        num_classes: as read off the weights.
        args: arguments that the user gave for the builder.
        recorded: the name in the checkpoint; decides between architectures with the same names and shapes.
        published: the architecture that torchvision publishes this very file for; likewise.

    Raises:
        CheckpointError: none fits, or several do.
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
        hint=f"say which one it was trained as: {' or '.join(f'--arch {name}' for name in fitting)}",
    )


def _misfits(state: Mapping[str, Tensor], num_classes: int | None, args: Mapping[str, object]) -> dict[str, Misfit]:
    misfits: dict[str, Misfit] = {}
    refused: CheckpointError | None = None
    for name, builder in ARCHITECTURES.items():
        try:
            model = build_model(name, builder, num_classes=num_classes, args=args, device="meta")
        except CheckpointError as error:  # the user's arguments do not go with this one
            refused = error
            continue
        expected = model.state_dict()
        misfits[name] = compare(modernised(state, expected), expected)
    if not misfits and refused is not None:
        raise refused
    return misfits


def _no_fit(
    misfits: Mapping[str, Misfit], source: str, num_classes: int | None, recorded: str | None
) -> CheckpointError:
    closest = min(misfits, key=lambda name: misfits[name].count)
    said = f" (it says {recorded!r})" if recorded else ""
    if num_classes is None:
        said += " (its box predictor is not torchvision's)"
    return CheckpointError(
        f"{source} fits no known architecture{said}; the closest is {closest}, {misfits[closest].describe(3)}",
        hint=_OWN,
    )


def choose_norm(arch: str, state: Mapping[str, Tensor]) -> NormChoice | None:
    """Return the batch norms that weights of a known architecture were trained with; None where there are none.

    ``BatchNorm2d`` counts batches in the weights and ``FrozenBatchNorm2d`` does not. A variance of exactly zero
    cannot have been trained with a constant of 0.0, which would divide by it.
    """
    backbone = {name: tensor for name, tensor in state.items() if name.startswith("backbone.")}
    variances = [tensor for name, tensor in backbone.items() if name.endswith(".running_var")]
    if not variances:
        return None
    if arch in _NEVER_FROZEN or any(name.endswith(".num_batches_tracked") for name in backbone):
        return NormChoice("batch", DEFAULT_NORM_EPS)
    eps = FROZEN_NORM_EPS.get(arch, DEFAULT_NORM_EPS)
    if any(not bool(variance.all()) for variance in variances):
        eps = DEFAULT_NORM_EPS
    return NormChoice("frozen", eps)
