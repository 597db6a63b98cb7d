"""Find the weights in what a training script saved: which entry, which prefix, which names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from frcnn.errors import CheckpointError
from frcnn.exporter.checkpoint.foreign_models import recognise

__all__ = ["FoundWeights", "find_weights"]

_MARK: Final = "roi_heads."  # every Faster R-CNN of torchvision has keys with it, whatever its parts are
_COMPILED: Final = "_orig_mod."  # torch.compile puts it anywhere
_DEPTH: Final = 3
_MAX_REPEATED_BYTES: Final = 64 << 20
_SAVE: Final = "save torch.save(model.state_dict(), 'my.pth')"
_LABEL_ENTRIES: Final = ("labels", "CLASSES", "classes", "class_names")
_NAME_ENTRIES: Final = ("arch", "architecture", "model_name")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundWeights:
    """The weights in a checkpoint.

    Attributes:
        state: name -> tensor, as a ``FasterRCNN`` names them; empty where ``module`` is set.
        module: a whole pickled model.
        entry: where it was, like ``model_state_dict`` or ``state_dict/ema.``; empty for a bare state_dict.
        ignored: entries of the same dictionary that are not the detector's.
        notes: what was chosen among several, one line each.
        labels: class names kept in the checkpoint, or None.
        name: the architecture's name kept in the checkpoint, or None.
    """

    state: Mapping[str, Tensor]
    module: nn.Module | None
    entry: str
    ignored: int
    notes: tuple[str, ...]
    labels: tuple[str, ...] | None
    name: str | None


@dataclass(frozen=True, slots=True)
class _Candidate:
    entry: str
    state: dict[str, Tensor]
    ignored: int
    module: nn.Module | None = None
    averaged: bool = False


def find_weights(content: object, *, source: str, state_key: str | None = None) -> FoundWeights:
    """Find the one detector in a checkpoint.

    Where there are two and one of them is a running average (EMA), that one is taken, and noted.

    Args:
        content: what ``read_checkpoint_file`` returned.
        source: the file's name, for messages.
        state_key: the entry to take, where there are several.

    Raises:
        CheckpointError: there is none, there are several and ``state_key`` names none of them, or a tensor of it is
            of no plain kind.
    """
    candidates = list(_walk(content, "", _DEPTH, set()))
    if not candidates:
        raise _nothing_found(content, source)
    listed = ", ".join(repr(c.entry) for c in candidates)
    notes: tuple[str, ...] = ()
    if state_key is not None:
        chosen = [c for c in candidates if c.entry.strip("./") == state_key.strip("./")]
        if not chosen:
            raise CheckpointError(f"{source} has no weights under {state_key!r}", hint=f"it has {listed}")
    else:
        averaged = [c for c in candidates if c.averaged]
        chosen = averaged if len(candidates) > 1 and len(averaged) == 1 else candidates
        if chosen != candidates:
            notes = (f"weights: {chosen[0].entry!r}, the running average, out of {listed} (--state-key takes another)",)
    if len(chosen) != 1:
        raise CheckpointError(
            f"{source} holds {len(chosen)} detectors: {listed}", hint="say which with --state-key (state_key=...)"
        )
    one = chosen[0]
    _require_plain(one.state, source)
    return FoundWeights(
        state=one.state,
        module=one.module,
        entry=one.entry,
        ignored=one.ignored,
        notes=notes,
        labels=_labels(content),
        name=_name(content),
    )


def _require_plain(state: Mapping[str, Tensor], source: str) -> None:
    """Refuse tensors that are not just numbers one after the other, or that a few numbers make larger than memory."""
    for name, tensor in state.items():
        if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_nested:
            kind = f"{tensor.layout} {tensor.dtype} tensor on {tensor.device}".replace("torch.", "")
            raise CheckpointError(f"{source}: {name} is a {kind}, expected plain numbers", hint=_SAVE)
        claimed, stored = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
        if claimed > max(stored, _MAX_REPEATED_BYTES):
            raise CheckpointError(
                f"{source}: {name} {tuple(tensor.shape)} would have {claimed:,} bytes, the file has {stored:,} for it",
                hint=_SAVE,
            )


def _walk(value: object, entry: str, depth: int, seen: set[tuple[int, int]]) -> Iterator[_Candidate]:
    if isinstance(value, nn.Module):
        detectors = [m for m in value.modules() if isinstance(m, GeneralizedRCNN)]
        for module in detectors:
            yield _Candidate(entry, {}, 0, module, _is_averaged(entry))
        return
    if not isinstance(value, Mapping) or (id(value), depth) in seen:  # a pickle may hold one mapping many times
        return
    tensors = {k: v for k, v in value.items() if isinstance(k, str) and isinstance(v, Tensor)}
    cleaned = {k.replace(_COMPILED, ""): v for k, v in tensors.items()}
    prefixes = dict.fromkeys(k[: k.index(_MARK)] for k in cleaned if k.startswith(_MARK) or f".{_MARK}" in k)
    for prefix in prefixes:
        state = {k[len(prefix) :]: v for k, v in cleaned.items() if k.startswith(prefix)}
        if prefix == "" and len(prefixes) > 1:  # the others' keys begin with nothing too
            state = {k: v for k, v in state.items() if not any(p and k.startswith(p) for p in prefixes)}
        name = "/".join(filter(None, (entry, prefix)))
        yield _Candidate(name, state, len(tensors) - len(state), None, _is_averaged(name))
    if depth and not prefixes:
        seen.add((id(value), depth))
        for key, child in value.items():
            yield from _walk(child, "/".join(filter(None, (entry, _named(key)))), depth - 1, seen)


def _named(key: object) -> str:
    """Return a key as text; one that is a nest of others may be endless when written out."""
    return str(key) if isinstance(key, (str, int)) else f"a {type(key).__name__}"


def _is_averaged(entry: str) -> bool:
    words = entry.lower().replace(".", "_").replace("/", "_").split("_")
    return not {"ema", "swa", "averaged"}.isdisjoint(words)


def _nothing_found(content: object, source: str) -> CheckpointError:
    tensors = _largest_mapping_of_tensors(content, _DEPTH, set())
    if tensors:
        what, hint = recognise(tensors)
        return CheckpointError(f"{source} holds {what}, expected a torchvision Faster R-CNN", hint=hint)
    if isinstance(content, nn.Module):
        found = f"a {type(content).__module__}.{type(content).__qualname__}"
    elif isinstance(content, Mapping):
        keys = [repr(key) if isinstance(key, str) else _named(key) for key in list(content)[:6]]
        found = f"a dictionary with {', '.join(keys) or 'nothing in it'}"
    else:
        found = f"a {type(content).__name__}"
    return CheckpointError(
        f"{source} holds no weights of a Faster R-CNN: expected a state_dict, found {found}",
        hint=_SAVE,
    )


def _largest_mapping_of_tensors(value: object, depth: int, seen: set[tuple[int, int]]) -> Mapping[str, Tensor]:
    if not isinstance(value, Mapping) or (id(value), depth) in seen:
        return {}
    seen.add((id(value), depth))
    own = {k: v for k, v in value.items() if isinstance(k, str) and isinstance(v, Tensor)}
    inner = [_largest_mapping_of_tensors(v, depth - 1, seen) for v in value.values()] if depth else []
    return max([own, *inner], key=len)


def _containers(content: object) -> Iterator[Mapping[Any, Any]]:
    if isinstance(content, Mapping):
        yield content
        data = content.get("data")
        if isinstance(data, Mapping):
            yield data


def _labels(content: object) -> tuple[str, ...] | None:
    for container in _containers(content):
        for entry in _LABEL_ENTRIES:
            names = container.get(entry)
            if isinstance(names, (list, tuple)) and names and all(isinstance(n, str) for n in names):
                return tuple(names)
    return None


def _name(content: object) -> str | None:
    for container in _containers(content):
        for entry in _NAME_ENTRIES:
            name = container.get(entry)
            if isinstance(name, str) and name:
                return name
    return None
