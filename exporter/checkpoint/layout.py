"""Find the weights in the content of a checkpoint: their entry, prefix and names."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from frcnn.errors import CheckpointError, did_you_mean
from frcnn.spec import BACKGROUND, ResizeRule

Trainer: TypeAlias = ResizeRule

_MARK: Final = re.compile(r"(?:^|\.)(?=roi_heads?\.)")  # in every Faster R-CNN: MMDetection's has one roi_head
_COMPILED: Final = "_orig_mod."  # torch.compile inserts it at any place
_DEPTH: Final = 3
_MAX_REPEATED_BYTES: Final = 64 << 20
_SAVE: Final = "save torch.save(model.state_dict(), 'my.pth')"
_LABEL_ENTRIES: Final = ("labels", "CLASSES", "classes", "class_names", "class_to_idx", "idx_to_class")
_NAME_ENTRIES: Final = ("arch", "architecture", "model_name")

_ONLY = "frcnn exports Faster R-CNN only: torchvision's, Detectron2's and MMDetection's"
_BOXES = "--boxes-only (boxes_only=True) exports its boxes alone"

# (pattern of a key, what the model is, what to do); the first match counts
_FAMILIES: Final[tuple[tuple[str, str, str], ...]] = (
    (r"(^|\.)roi_heads\.box_head\.0\.|(^|\.)roi_head\.bbox_head\.0\.", "a Cascade R-CNN, a chain of box heads", _ONLY),
    (r"(^|\.)roi_heads?\.mask_", "a Mask R-CNN", f"{_BOXES}; masks have no deployable form here"),
    (r"(^|\.)roi_heads?\.keypoint_", "a Keypoint R-CNN", f"{_BOXES}; keypoints have no deployable form here"),
    (r"(^|\.)head\.regression_head\.bbox_ctrness\.", "a torchvision FCOS", _ONLY),
    (r"(^|\.)head\.classification_head\.module_list\.", "a torchvision SSD", _ONLY),
    (r"(^|\.)head\.classification_head\.", "a torchvision RetinaNet", _ONLY),
    (r"(^|\.)head\.cls_subnet\.", "a RetinaNet of Detectron2", _ONLY),
    (r"(^|\.)proposal_generator\.|(^|\.)backbone\.bottom_up\.", "a Detectron2 model without RoI heads", _ONLY),
    (r"(^|\.)(bbox|rpn)_head\.", "an MMDetection model without RoI heads", _ONLY),
    (r"(^|\.)transformer\.encoder\..*|(^|\.)class_embed\.", "a DETR-like model", _ONLY),
    (r"(^|\.)\d+\.(conv|cv\d)\.|(^|\.)dfl\.conv\.|(^|\.)module_list\.\d+\.", "a YOLO model", _ONLY),
    (r"^(module\.|model\.)?(fc|classifier|heads?)\.(\d+\.)?weight$", "an image classifier", "train a detector with it"),
    (r"(^|\.)(layer1|features|stages|blocks)\.\d+\.", "a backbone without a detector", "save the whole detector"),
)

_WITH_ROI_HEADS = ("a Cascade R-CNN, a chain of box heads", "a Mask R-CNN", "a Keypoint R-CNN")

_TRAINERS: Final[tuple[tuple[Trainer, re.Pattern[str]], ...]] = (
    ("detectron2", re.compile(r"proposal_generator\.|backbone\.bottom_up\.")),
    ("mmdetection", re.compile(r"rpn_head\.|roi_head\.")),
    ("torchvision", re.compile(r"rpn\.")),
)

# heads that use the boxes and do not change them
_OTHER_HEADS: Final = re.compile(r"roi_heads?\.(mask|keypoint)_|sem_seg_head\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundWeights:
    """The weights in a checkpoint; the last three are those of the checkpoint as a whole."""

    entry: str  # their place, like model_state_dict or state_dict/ema.; empty for a bare state_dict
    state: Mapping[str, Tensor] = field(default_factory=dict)  # by the names of a FasterRCNN
    module: nn.Module | None = None  # a whole pickled model, in place of a state
    ignored: int = 0  # tensors in the same dictionary that are not the detector's
    notes: tuple[str, ...] = ()  # choices among several, one line each
    labels: tuple[str, ...] | None = None
    name: str | None = None  # of the architecture
    config: str | None = None  # the text of the trainer's configuration


def find_weights(content: object, *, source: str, state_key: str | None = None) -> FoundWeights:
    """Find the detector in a checkpoint, under ``state_key`` if there are several.

    Of several the only running average (EMA) is used, with a note. Raises CheckpointError if there is no detector, the
    choice is open, or a tensor is not a plain one.
    """
    candidates = list(_walk(content, "", _DEPTH, set()))
    if not candidates:
        raise _nothing_found(content, source)
    listed = ", ".join(repr(c.entry) for c in candidates)
    notes: tuple[str, ...] = ()
    if state_key is not None:
        chosen = [c for c in candidates if c.entry.strip("./") == state_key.strip("./")]
        if not chosen:
            hint = did_you_mean(state_key, (c.entry for c in candidates), f"it has {listed}")
            raise CheckpointError(f"{source} has no weights under {state_key!r}", hint=hint)
    else:
        averaged = [c for c in candidates if _is_averaged(c.entry)]
        chosen = averaged if len(candidates) > 1 and len(averaged) == 1 else candidates
        if chosen != candidates:
            notes = (f"weights: {chosen[0].entry!r}, the running average, out of {listed} (--state-key takes another)",)
    if len(chosen) != 1:
        raise CheckpointError(
            f"{source} holds {len(chosen)} detectors: {listed}", hint="choose one with --state-key (state_key=...)"
        )
    one, labels = chosen[0], _labels(content)
    if labels is None and any(not isinstance(names, (int, type(None))) for names in _stored(content, _LABEL_ENTRIES)):
        notes += ("labels: not read from the checkpoint: neither a list of names, nor names by number from 0 or 1",)
    _require_plain(one.state, source)
    return replace(one, notes=notes, labels=labels, name=_name(content), config=_config(content))


def trainer_of(names: Iterable[str]) -> Trainer | None:
    """Return whose names the weights have; None if nobody's that is known."""
    listed = list(names)
    return next((trainer for trainer, mark in _TRAINERS if any(map(mark.match, listed))), None)


def boxes_alone(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Return the weights without those of heads beside the box head, and what was left out, for people."""
    heads = {name: match[1] or "semantic" for name in state if (match := _OTHER_HEADS.match(name))}
    kinds = " and ".join(sorted(set(heads.values())))
    kept = {name: tensor for name, tensor in state.items() if name not in heads}
    return kept, f"{len(heads)} weights of the {kinds} head" if heads else ""


def _require_plain(state: Mapping[str, Tensor], source: str) -> None:
    """Refuse tensors that are not plain, or that expand a few stored numbers beyond the memory."""
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


def _walk(value: object, entry: str, depth: int, seen: set[tuple[int, int]]) -> Iterator[FoundWeights]:
    if isinstance(value, nn.Module):
        detectors = (m for m in value.modules() if isinstance(m, GeneralizedRCNN))
        yield from (FoundWeights(entry=entry, module=module) for module in detectors)
        return
    if not isinstance(value, Mapping) or (id(value), depth) in seen:  # a pickle may contain a mapping many times
        return
    tensors = {k: v for k, v in value.items() if isinstance(k, str) and isinstance(v, Tensor)}
    cleaned = {k.replace(_COMPILED, ""): v for k, v in tensors.items()}
    marks = (_MARK.search(k) for k in cleaned)
    prefixes = dict.fromkeys(mark.string[: mark.end()] for mark in marks if mark is not None)
    for prefix in prefixes:
        state = {k[len(prefix) :]: v for k, v in cleaned.items() if k.startswith(prefix)}
        if prefix == "" and len(prefixes) > 1:  # the empty prefix matches the others' keys too
            state = {k: v for k, v in state.items() if not any(p and k.startswith(p) for p in prefixes)}
        place = "/".join(filter(None, (entry, prefix)))
        yield FoundWeights(entry=place, state=state, ignored=len(tensors) - len(state))
    if depth and not prefixes:
        seen.add((id(value), depth))
        for key, child in value.items():
            yield from _walk(child, "/".join(filter(None, (entry, _named(key)))), depth - 1, seen)


def _named(key: object) -> str:
    """Return a key as text; the text of a nested key may be endless."""
    return str(key) if isinstance(key, (str, int)) else f"a {type(key).__name__}"


def _is_averaged(entry: str) -> bool:
    words = entry.lower().replace(".", "_").replace("/", "_").split("_")
    return not {"ema", "swa", "averaged"}.isdisjoint(words)


def _nothing_found(content: object, source: str) -> CheckpointError:
    tensors = _largest_mapping_of_tensors(content, _DEPTH, set())
    if tensors:
        shown = ", ".join(repr(name) for name in list(tensors)[:3])
        unknown = f"{len(tensors)} tensors ({shown}, ...)", "save model.state_dict() of a torchvision FasterRCNN"
        what, hint = other_model(tensors) or unknown
        return CheckpointError(f"{source} holds {what}, expected a Faster R-CNN", hint=hint)
    if isinstance(content, nn.Module):
        found = f"a {type(content).__module__}.{type(content).__qualname__}"
    elif isinstance(content, Mapping):
        keys = [repr(key) if isinstance(key, str) else _named(key) for key in list(content)[:6]]
        found = f"a dictionary with {', '.join(keys) or 'nothing in it'}"
    else:
        found = f"a {type(content).__name__}"
    message = f"{source} holds no weights of a Faster R-CNN: expected a state_dict, found {found}"
    return CheckpointError(message, hint=_SAVE)


def _largest_mapping_of_tensors(value: object, depth: int, seen: set[tuple[int, int]]) -> Mapping[str, Tensor]:
    if not isinstance(value, Mapping) or (id(value), depth) in seen:
        return {}
    seen.add((id(value), depth))
    own = {k: v for k, v in value.items() if isinstance(k, str) and isinstance(v, Tensor)}
    inner = [_largest_mapping_of_tensors(v, depth - 1, seen) for v in value.values()] if depth else []
    return max([own, *inner], key=len)


def _stored(content: object, entries: tuple[str, ...]) -> Iterator[Any]:
    """Yield what a checkpoint, or an entry of Lightning's or of MMEngine's, has under some keys."""
    if isinstance(content, Mapping):
        meta = content.get("meta")
        dataset = meta.get("dataset_meta") if isinstance(meta, Mapping) else None
        for container in (content, content.get("data"), content.get("hyper_parameters"), meta, dataset):
            if isinstance(container, Mapping):
                yield from (container[entry] for entry in entries if entry in container)


def _labels(content: object) -> tuple[str, ...] | None:
    for names in _stored(content, _LABEL_ENTRIES):
        ordered = _by_number(names) if isinstance(names, Mapping) else names
        if isinstance(ordered, (list, tuple)) and ordered and all(isinstance(n, str) for n in ordered):
            return tuple(ordered)
    return None


def _by_number(names: Mapping[Any, Any]) -> tuple[Any, ...] | None:
    """Return names in order, from name -> number or number -> name; None unless the numbers count from 0 or 1."""
    try:
        pairs = [(value, key) if isinstance(value, int) else (int(key), value) for key, value in names.items()]
    except (TypeError, ValueError):
        return None
    numbers = sorted(number for number, _ in pairs)
    if numbers not in ([*range(len(pairs))], [*range(1, len(pairs) + 1)]):
        return None
    background = () if numbers[:1] == [0] else (BACKGROUND,)
    return (*background, *(name for _, name in sorted(pairs)))


def _name(content: object) -> str | None:
    return next((name for name in _stored(content, _NAME_ENTRIES) if isinstance(name, str) and name), None)


def _config(content: object) -> str | None:
    """Return the text of MMDetection's configuration, which version 3 calls ``cfg``."""
    meta = content.get("meta") if isinstance(content, Mapping) else None
    texts = [meta.get(key) for key in ("cfg", "config")] if isinstance(meta, Mapping) else []
    return next((text for text in texts if isinstance(text, str) and text), None)


def other_model(keys: Collection[str]) -> tuple[str, str] | None:
    """Return what a state_dict is, by its keys, and what to do; None if it may be of a Faster R-CNN, or is unknown."""
    has_roi_heads = any(_MARK.search(key) for key in keys)
    for pattern, what, hint in _FAMILIES:
        if (what in _WITH_ROI_HEADS or not has_roi_heads) and any(re.search(pattern, key) for key in keys):
            return what, hint
    return None
