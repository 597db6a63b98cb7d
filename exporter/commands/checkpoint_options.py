"""The options of every verb that takes a checkpoint. Imports torch only when a checkpoint is read."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, get_args

from frcnn.console import say
from frcnn.errors import UsageError
from frcnn.exporter.checkpoint.builder_arguments import ARCHITECTURE, parse_args
from frcnn.files import read_small_text
from frcnn.options import Group
from frcnn.packages import import_package
from frcnn.spec import ResizeRule

if TYPE_CHECKING:
    from frcnn.exporter.checkpoint.loaded import LoadedCheckpoint

_TRAINERS: Final = get_args(ResizeRule)
_ONE_A_LINE: Final = "write one class name a line, in the order of the class indices, as UTF-8 text"
_LARGEST_LABEL_FILE_BYTES: Final = 1 << 22


def add_checkpoint_arguments(
    parser: argparse.ArgumentParser,
    *,
    weights: bool = False,
    metavar: str = "CHECKPOINT",
    or_else: str = "",
    as_option: bool = False,
) -> None:
    """Add the checkpoint (the first positional argument, or ``--checkpoint``) and the options that go with it.

    ``weights`` also adds ``--weights``, which replaces the checkpoint. ``metavar`` and ``or_else``, what the verb takes
    instead, are for the help.
    """
    group = parser.add_argument_group("checkpoint")
    group.add_argument(
        "--checkpoint" if as_option else "checkpoint",
        metavar=metavar,
        type=Path,
        nargs="?" if weights and not as_option else None,
        help="trained weights: .pth, .pt, .ckpt, .safetensors or Detectron2's .pkl" + or_else,
    )
    if weights:
        text = "torchvision's own weights instead of a checkpoint: fasterrcnn_resnet50_fpn_v2=COCO_V1"
        group.add_argument("--weights", metavar="NAME=WEIGHTS", help=text)
    text = "the architecture: a known name, mypkg.models:build or models.py:build, any function that returns a "
    text += "FasterRCNN; by default the one that the weights fit"
    group.add_argument("--arch", metavar="NAME", type=ARCHITECTURE, help=text)
    text = "an argument for that function, what the weights do not hold: min_size=640; repeat for more"
    group.add_argument("--arg", metavar="KEY=VALUE", dest="args", action="append", default=[], help=text)
    text = "whose the weights are, where their names do not tell"
    group.add_argument("--from", dest="trainer", choices=_TRAINERS, help=text)
    text = "the configuration that Detectron2 (.yaml) or MMDetection (.py) trained with, which is read and not run; by "
    text += "default the one in the checkpoint, else that of the trainer's own models"
    group.add_argument("--config", metavar="FILE", type=Path, help=text)
    text = "leave out mask and keypoint heads, with which a model is refused otherwise"
    group.add_argument("--boxes-only", action="store_true", help=text)
    text = "class names, one a line, with or without the background first; by default those in the checkpoint"
    group.add_argument("--labels", metavar="FILE", type=Path, help=text)
    text = "the entry that holds the weights, where a checkpoint has several"
    group.add_argument("--state-key", metavar="ENTRY", help=text)
    text = "read pickled objects too, which runs code from the file; only for files whose makers you trust"
    group.add_argument("--trust-pickle", action="store_true", help=text)


def add_output_argument(group: Group, what: str, suffix: str) -> None:
    """Add ``-o``, for :func:`output_path`."""
    text = f"{what}; by default the input's name with {suffix}, in the current folder"
    group.add_argument("-o", "--output", metavar="FILE", type=Path, help=text)


def output_path(arguments: argparse.Namespace, suffix: str) -> Path:
    """Return the file to write: ``-o``, or the name of the checkpoint or of ``--weights``."""
    output: Path | None = arguments.output
    if output is None:
        name = arguments.checkpoint or str(arguments.weights or "model").partition("=")[0]
        return Path(f"{Path(name).stem or 'model'}{suffix}")
    if output.suffix != suffix:
        raise UsageError(f"-o: expected a file name ending in {suffix}, got {output}", hint=f"-o {output}{suffix}")
    return output


def given_options(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """Return each option that goes with a checkpoint and is given, with the words that give it."""
    options = {"--weights": getattr(arguments, "weights", None), "--arch": arguments.arch, "--arg": arguments.args}
    options |= {"--from": arguments.trainer, "--config": arguments.config}
    options |= {"--labels": arguments.labels, "--state-key": arguments.state_key}
    words = {
        flag: [word for item in (value if isinstance(value, list) else [value]) for word in (flag, str(item))]
        for flag, value in options.items()
        if value not in (None, [])
    }
    flags = {"--boxes-only": arguments.boxes_only, "--trust-pickle": arguments.trust_pickle}
    return words | {flag: [flag] for flag, given in flags.items() if given}


def load_from_options(
    arguments: argparse.Namespace, step: Callable[[str], None] = lambda what: None
) -> LoadedCheckpoint:
    """Load what the options name; ``step`` is told what begins."""
    weights: str | None = getattr(arguments, "weights", None)
    if (arguments.checkpoint is None) == (weights is None):
        got = "neither" if weights is None else "both"
        raise UsageError(f"expected a checkpoint or --weights NAME=WEIGHTS, got {got}", hint="give one of the two")
    args = parse_args(arguments.args)
    labels = None if arguments.labels is None else read_labels(arguments.labels)
    for option in ("--arch", "--state-key", "--from", "--config", "--boxes-only"):
        if weights is not None and option in given_options(arguments):
            raise UsageError(
                f"{option} does not go with --weights, which names the architecture", hint="leave one of them out"
            )
    step("importing PyTorch")
    for package in ("torch", "torchvision"):
        import_package(package, package=package, extra="export", why="reading a checkpoint")
    if weights is not None:
        from frcnn.exporter.checkpoint.load import load_pretrained

        return load_pretrained(weights, args=args, labels=labels, progress=step)
    from frcnn.exporter.checkpoint.load import read_checkpoint

    step(f"reading {arguments.checkpoint.name}")
    return read_checkpoint(
        arguments.checkpoint,
        arch=arguments.arch,
        args=args,
        labels=labels,
        trust_pickle=arguments.trust_pickle,
        state_key=arguments.state_key,
        trainer=arguments.trainer,
        config=arguments.config,
        boxes_only=arguments.boxes_only,
    )


def print_checkpoint(loaded: LoadedCheckpoint) -> None:
    """Print what was read off the weights and what was assumed."""
    for title, lines in (("read off the weights", loaded.facts), ("assumed", loaded.assumptions)):
        if lines:
            say(f"{title}:")
            for line in lines:
                say(f"  {line}")


def read_labels(path: Path) -> tuple[str, ...]:
    """Read class names, one a line."""
    limit = _LARGEST_LABEL_FILE_BYTES
    text = read_small_text(path, option="--labels", what="class names", limit=limit, hint=_ONE_A_LINE)
    names = [line.strip() for line in text.rstrip().split("\n")]
    fault = ""
    if not all(name.isprintable() for name in names):
        fault = f"{path} is no plain text: it has control characters"
    elif "" in names:
        fault = f"{path} is empty" if names == [""] else f"line {names.index('') + 1} of {path} is empty"
    if fault:
        raise UsageError(f"--labels: {fault}", hint=_ONE_A_LINE)
    return tuple(names)
