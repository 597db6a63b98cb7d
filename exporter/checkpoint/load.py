"""Load a checkpoint file as a live ``FasterRCNN`` with its description.

Weights do not hold anchors, sizes, thresholds or the epsilons of batch norms, so ``read_checkpoint`` also returns what
it read from the weights and what it assumed, line by line.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN

from frcnn.errors import CheckpointError, UsageError
from frcnn.exporter.checkpoint.architecture_match import (
    CLASS_SCORES,
    choose_norm,
    compare,
    floating_dtypes,
    infer_architecture,
    read_num_classes,
    with_current_names,
)
from frcnn.exporter.checkpoint.architectures import ARCHITECTURES, DEFAULT_NORM_EPS
from frcnn.exporter.checkpoint.assumptions import NO_LABELS, assumptions_of, facts_of
from frcnn.exporter.checkpoint.builder_arguments import short_name
from frcnn.exporter.checkpoint.builders import build_model, resolve_builder, type_and_text
from frcnn.exporter.checkpoint.file import read_checkpoint_file
from frcnn.exporter.checkpoint.layout import FoundWeights, Trainer, boxes_alone, find_weights, other_model, trainer_of
from frcnn.exporter.checkpoint.loaded import LoadedCheckpoint, require_finite, with_labels
from frcnn.exporter.checkpoint.published import download, parse_weights, published_weights
from frcnn.exporter.checkpoint.trainers.foreign import NAMES, read_foreign
from frcnn.exporter.model.spec_from_model import read_model_spec
from frcnn.spec import CheckpointOptions, ModelSpec

_NO_ARCH: Final = "leave --arch out: the weights tell it"
_PROFILER_COUNTERS: Final = ("total_ops", "total_params")  # thop leaves them in every module


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    arch: str | None = None,
    args: Mapping[str, object] | None = None,
    labels: Sequence[str] | None = None,
    trust_pickle: bool = False,
    state_key: str | None = None,
    trainer: Trainer | None = None,
    config: str | os.PathLike[str] | None = None,
    boxes_only: bool = False,
) -> tuple[FasterRCNN, ModelSpec]:
    """Load a trained Faster R-CNN of torchvision, Detectron2 or MMDetection from a checkpoint file.

    The trainer, the architecture and the number of classes are read from the names and shapes of the weights. No code
    in the file is run unless ``trust_pickle`` is set. A detector of another trainer becomes a torchvision model of that
    trainer's arithmetic.

    Args:
        path: a file written by ``torch.save`` (a state_dict, bare or inside a dictionary), a ``.safetensors`` file, or
            a ``.pkl`` of arrays as Detectron2's zoo has them.
        arch: a known architecture name, ``"pkg.module:function"`` or ``"file.py:function"``. Default: the only
            architecture that has the names and shapes of the weights.
        args: keyword arguments for the function that builds the model, such as ``{"min_size": 640}``. Default: the
            architecture's own values.
        labels: class names, either ``num_classes`` with the background at index 0, or ``num_classes - 1`` without
            it. Default: the names stored in the checkpoint, if any.
        trust_pickle: also read pickled objects, which **runs code from the file**. Set it only for files from people
            you trust with your system. A whole pickled model is used with its own settings.
        state_key: name of the entry that holds the weights, for files with several.
        trainer: whose weights they are, where their names do not tell.
        config: the configuration that Detectron2 (``.yaml``) or MMDetection (``.py``) trained with; it is not run.
            Default: the one in MMDetection's checkpoint, else that of the trainer's own models.
        boxes_only: leave out mask and keypoint heads, with which a model is refused otherwise.

    Returns:
        The model in eval mode, float32, on the CPU, and its description.

    Raises:
        CheckpointError: the file cannot be read, holds something else, or does not fit the architecture.
        UsageError: an argument, label or architecture name is not valid.
        UnsupportedModelError: a part of the model cannot be exported.
        MissingDependencyError: the file is a safetensors file, and the package safetensors is not installed.
    """
    loaded = read_checkpoint(
        path,
        arch=arch,
        args=args,
        labels=labels,
        trust_pickle=trust_pickle,
        state_key=state_key,
        trainer=trainer,
        config=config,
        boxes_only=boxes_only,
    )
    return loaded.model, loaded.spec


def load_pretrained(
    text: str,
    *,
    args: Mapping[str, object] | None = None,
    labels: Sequence[str] | None = None,
    progress: Callable[[str], None] = lambda what: None,
) -> LoadedCheckpoint:
    """Load ``NAME=WEIGHTS`` that torchvision publishes, downloading them unless ``torch.hub`` has them already.

    Labels are torchvision's by default. Raises UsageError for names and arguments, CheckpointError for the download.
    """
    name, weights = parse_weights(text)
    categories = weights.meta["categories"] if labels is None else labels
    path = download(name, weights, progress)
    progress(f"reading {path.name}")
    return read_checkpoint(path, arch=name, args=args, labels=categories)


def read_checkpoint(
    path: str | os.PathLike[str],
    *,
    arch: str | None = None,
    args: Mapping[str, object] | None = None,
    labels: Sequence[str] | None = None,
    trust_pickle: bool = False,
    state_key: str | None = None,
    trainer: Trainer | None = None,
    config: str | os.PathLike[str] | None = None,
    boxes_only: bool = False,
) -> LoadedCheckpoint:
    """Load a detector and report what was read and what was assumed; see ``load_checkpoint``."""
    source, given = Path(path), dict(args or {})
    options = CheckpointOptions(
        arch=arch and short_name(arch),
        args=tuple(f"{key}={value!r}" for key, value in given.items()),
        state_key=state_key,
        trainer=trainer,
        config=None if config is None else Path(config).name,
        boxes_only=boxes_only,
    )
    kept = options if options != CheckpointOptions() else None
    if isinstance(labels, str):
        raise UsageError(f"labels: expected a sequence of names, got the text {labels!r}", hint="pass a list")
    builder = None if arch is None else resolve_builder(arch)
    content, sha256 = read_checkpoint_file(source, trust_pickle=trust_pickle)
    found = find_weights(content, source=str(source), state_key=state_key)
    if found.module is not None and arch is None:
        if given:
            raise UsageError("--arg goes with --arch: a pickled model has its own settings", hint="give --arch too")
        return replace(_from_module(found, source, labels, sha256, boxes_only=boxes_only), options=kept)
    given_state = found.state if found.module is None else found.module.state_dict()
    state = {name: tensor for name, tensor in given_state.items() if name.rpartition(".")[2] not in _PROFILER_COUNTERS}
    counters = len(given_state) - len(state)
    facts = [_where(found, state)]
    if counters:
        facts.append(f"left out: {counters} counters of a profiler ({', '.join(_PROFILER_COUNTERS)})")
    if boxes_only:
        state, left_out = boxes_alone(state)
        facts.append(f"left out: {_require_left_out(left_out, source)}")
    whose = _trainer(state, trainer, source)
    if whose != "torchvision":
        if arch is not None:
            raise UsageError(f"--arch goes with torchvision's models, {source} is {NAMES[whose]}'s", hint=_NO_ARCH)
        read = read_foreign(whose, state, found, source=source, sha256=sha256, config=config, args=given, labels=labels)
        return replace(read, facts=(*facts, *read.facts), options=kept)
    if config is not None:
        raise UsageError(
            f"--config goes with checkpoints of Detectron2 and MMDetection, {source} is torchvision's",
            hint="leave it out; --arg sets what the weights do not hold",
        )
    num_classes = _check_classes(state, source, arch, given)
    published = published_weights(sha256)
    if arch is None or builder is None:
        arch, why = infer_architecture(
            state,
            source=str(source),
            num_classes=num_classes,
            args=given,
            recorded=found.name,
            published=published[0] if published else None,
        )
        builder = ARCHITECTURES[arch]
        facts.append(why)
    norms, norm_facts, assumptions = _norms(arch, state, given, published is not None and published[0] == arch)
    model = build_model(arch, builder, num_classes=num_classes, args=given | norms)
    _load(model.to("cpu", torch.float32).eval(), state, source=source, arch=arch)
    spec = read_model_spec(model, architecture=short_name(arch))
    official = tuple(published[1].meta["categories"]) if published and found.labels is None else None
    spec, label_fact = with_labels(spec, labels, found.labels or official, source)
    assumptions += assumptions_of(model, spec, given=given.keys(), known=arch in ARCHITECTURES)
    facts += [*facts_of(spec), *label_fact, *norm_facts, *(f"given: {k}={v!r}" for k, v in given.items())]
    return LoadedCheckpoint(
        model=model,
        spec=spec,
        facts=tuple(facts),
        assumptions=(*found.notes, *assumptions),
        sha256=sha256,
        options=kept,
    )


def _trainer(state: Mapping[str, Tensor], given: Trainer | None, source: Path) -> Trainer:
    """Return whose weights they are, by their names; by ``--from`` where those do not tell."""
    told = trainer_of(state)
    if given is not None and told not in (None, given):
        raise UsageError(
            f"--from {given}, but the names of the weights in {source} are {NAMES[told]}'s", hint="leave --from out"
        )
    return told or given or "torchvision"


def _require_left_out(left_out: str, source: Path) -> str:
    if not left_out:
        raise UsageError(f"--boxes-only: {source} has no head but that of its boxes", hint="leave it out")
    return left_out


def _from_module(
    found: FoundWeights, source: Path, labels: Sequence[str] | None, sha256: str, *, boxes_only: bool
) -> LoadedCheckpoint:
    if not isinstance(found.module, FasterRCNN):
        raise CheckpointError(
            f"{source} holds a pickled {type(found.module).__qualname__}, expected a torchvision FasterRCNN"
        )
    model = found.module.to("cpu", torch.float32).eval()
    facts = []
    if boxes_only:
        _, left_out = boxes_alone(model.state_dict())
        facts.append(f"left out: {_require_left_out(left_out, source)}")
        for part in ("roi_pool", "head", "predictor"):
            setattr(model.roi_heads, f"mask_{part}", None)
            setattr(model.roi_heads, f"keypoint_{part}", None)
    require_finite(model, source)
    name = type(model).__name__
    spec = read_model_spec(model, architecture=name)
    spec, label_fact = with_labels(spec, labels, found.labels, source)
    return LoadedCheckpoint(
        model=model,
        spec=spec,
        facts=(f"weights: a whole pickled {name}, with its own anchors, sizes and thresholds", *facts, *label_fact),
        assumptions=(*found.notes, *(() if spec.labels else (NO_LABELS,))),
        sha256=sha256,
    )


def _where(found: FoundWeights, state: Mapping[str, Tensor]) -> str:
    entry = f"entry {found.entry!r}" if found.entry else "a bare state_dict"
    dtypes = floating_dtypes(state)
    cast = "" if dtypes == ("float32",) else ", computed in float32"
    ignored = f"; {found.ignored} tensors outside it are not the detector's" if found.ignored else ""
    return f"weights: {entry}, {len(state)} tensors, {'/'.join(dtypes)}{cast}{ignored}"


def _check_classes(
    state: Mapping[str, Tensor], source: Path, arch: str | None, given: Mapping[str, object]
) -> int | None:
    """Return the number of classes in the weights; refuse other models, and another number from the user."""
    if (arch is None or arch in ARCHITECTURES) and (other := other_model(state)):
        raise CheckpointError(f"{source} holds {other[0]}, expected a Faster R-CNN", hint=other[1])
    num_classes = read_num_classes(state)
    wanted = given.get("num_classes", num_classes)
    if num_classes is not None and wanted != num_classes:
        raise UsageError(
            f"--arg num_classes={wanted!r}, but the weights in {source} are for {num_classes} classes"
            " (the background included)",
            hint="leave num_classes out: it is read from the weights",
        )
    return num_classes


def _norms(
    arch: str, state: Mapping[str, Tensor], given: Mapping[str, object], published: bool
) -> tuple[dict[str, Any], list[str], list[str]]:
    """Return arguments for the backbone's batch norms, with lines for facts and assumptions."""
    choice = choose_norm(arch, state) if arch in ARCHITECTURES else None
    if choice is None:
        return {}, [], []
    norm, eps = choice
    arguments = {key: value for key, value in (("norm", norm), ("norm_eps", eps)) if key not in given}
    if "norm_eps" in given:
        return arguments, [], []
    layer = "FrozenBatchNorm2d" if given.get("norm", norm) == "frozen" else "BatchNorm2d"
    line = f"batch norms: {layer} with eps {eps:g}"
    if published:
        return arguments, [f"{line}, as torchvision has it for this file"], []
    if eps == DEFAULT_NORM_EPS:
        return arguments, [], [f"{line}; as {arch} has it (--arg norm_eps)"]
    origin = "as after fine-tuning from torchvision's COCO weights (from ImageNet weights alone: --arg norm_eps=1e-5)"
    return arguments, [], [f"{line}, {origin}"]


def _load(model: FasterRCNN, state: Mapping[str, Tensor], *, source: Path, arch: str) -> None:
    expected = model.state_dict()
    renamed = with_current_names(state, expected)
    misfit = compare(renamed, expected)
    if any(line.startswith(f"{CLASS_SCORES} ") for line in misfit.misshaped):
        trained, built = (side[CLASS_SCORES].shape[0] for side in (renamed, expected))
        if trained != built:
            raise CheckpointError(
                f"the weights in {source} are for {trained} classes (the background included), {arch} built {built}",
                hint="let the function take num_classes, or build as many classes as were trained",
            )
    if misfit.misshaped:
        raise _does_not_fit(source, arch, misfit.describe())
    try:  # a model's own loading hooks may accept other names
        model.load_state_dict(renamed, strict=misfit.count > 0)
    except Exception as error:
        raise _does_not_fit(source, arch, misfit.describe() or type_and_text(error)) from error
    require_finite(model, source)


def _does_not_fit(source: Path, arch: str, how: str) -> CheckpointError:
    message = f"the weights in {source} do not fit {arch}: {how}"
    same = "build the layers that were trained, of the same names and shapes"
    return CheckpointError(message, hint="leave --arch out to see what they fit" if arch in ARCHITECTURES else same)
