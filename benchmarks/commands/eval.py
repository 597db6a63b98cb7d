"""Measure a model's accuracy on annotated images: COCO's AP and AR, and the difference to eager torchvision.

With --predictions, COCO results of any tool are scored in place of a model's detections; no image is read.

AP is the mean of the average precisions at an IoU of 0.50, 0.55, ... 0.95; AP50 and AP75 are those at one IoU; APs, APm
and APl those of small, medium and large objects. All from 0 to 1, by faster-coco-eval. With --checkpoint, eager
torchvision is measured on the same decoded images, each padded as torchvision pads it.

Annotations are COCO's instances.json, or a folder of Pascal VOC's XML files, whose difficult objects count neither way.
A class of the model is the category of the same name, or without names the one whose id is the class's number.

The exit code is 1 where an image could not be used (it is named, and its annotations are left out) or AP falls below
eager's by more than --limit. Ctrl-C ends the measurement early and reports what was measured, marked as partial.

  frcnn eval model.onnx --annotations instances.json --images folder/
  frcnn eval m.onnx --annotations a.json --images folder/ --checkpoint my.pth
  frcnn eval --predictions results.json --annotations instances.json
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from frcnn.benchmarks.accuracy.drawing import Difference, drawing_paths, find_differences, write_pairs
from frcnn.benchmarks.accuracy.images import Eager, collect
from frcnn.benchmarks.accuracy.orientation import turn_upright, warn_of_reading
from frcnn.benchmarks.accuracy.report import Evaluation
from frcnn.benchmarks.accuracy.scoring import COCO_DETECTIONS, import_coco_eval, read_predictions
from frcnn.benchmarks.candidates.artifacts import AnyManifest
from frcnn.benchmarks.candidates.candidate import padded_canvas
from frcnn.benchmarks.commands.reference import load_options, prepare_reference, with_options_of_export
from frcnn.console import few, next_step, note, say, steps, warn, write_json
from frcnn.errors import ImageError, UsageError
from frcnn.exporter.commands.checkpoint_options import (
    add_checkpoint_arguments,
    given_options,
    load_from_options,
    read_labels,
)
from frcnn.files import file_sha256, writable_file, writable_folder
from frcnn.options import add_annotation_options, add_batch_size, add_json, add_number
from frcnn.runtime import Detector
from frcnn.runtime.commands.run_options import add_run_options, batch_size, take_tuned
from frcnn.runtime.dataset.annotations import read_annotations
from frcnn.runtime.dataset.class_map import map_classes
from frcnn.runtime.dataset.faults import tell_names
from frcnn.runtime.dataset.files import find_images
from frcnn.runtime.model_files.artifact import open_artifact
from frcnn.runtime.tuned import Tuned
from frcnn.spec import full_labels
from frcnn.spec.engine import EngineManifest

if TYPE_CHECKING:
    from frcnn.exporter.checkpoint.loaded import LoadedCheckpoint

_INVALID: Final = "annotations are invalid and are left out"
_OF_A_MODEL: Final = (
    *("model", "images", "map", "allow_unmapped", "allow_missing", "exif", "checkpoint"),
    *("device", "provider", "precision", "threads", "batch_size"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("model", metavar="MODEL", type=Path, nargs="?", help="the artifact: model.onnx or model.frcnn")
    text = "in place of a model: COCO results with the annotations' own ids, of frcnn detect --annotations or any tool"
    parser.add_argument("--predictions", metavar="FILE", type=Path, help=text)
    group = parser.add_argument_group("annotated images")
    group.add_argument(
        "--annotations", metavar="PATH", type=Path, required=True, help="COCO's instances.json, or VOC's Annotations/"
    )
    group.add_argument("--images", metavar="FOLDER", type=Path, help="of a model: file names are relative to it")
    add_annotation_options(group)
    group.add_argument("--allow-missing", action="store_true", help="leave out images that are not in the folder")
    add_checkpoint_arguments(parser, as_option=True, or_else="; eager torchvision is measured beside the model")
    group = parser.add_argument_group("measurement")
    add_run_options(
        group,
        device="where the artifact runs, and eager where torch can (default: cuda for model.frcnn and bf16, else cpu)",
        threads="processor threads of eager and of model.onnx (default: all)",
    )
    add_batch_size(group)
    text = "detections of a class in an image that count, the best (default and minimum: COCO's 100)"
    least = COCO_DETECTIONS
    add_number(group, "--max-detections", minimum=least, default=least, metavar="N", help=text)
    text = "exit with 1 where AP falls by more than X below eager's"
    add_number(group, "--limit", minimum=0.0, maximum=1.0, metavar="X", help=text)
    group = parser.add_argument_group("results")
    add_json(group)
    text = "draw the images in which eager and the model differ here"
    group.add_argument("-o", "--output", metavar="FOLDER", type=Path, help=text)
    text = "differences scoring less are not drawn (default: %(default)s)"
    add_number(group, "--draw-score", minimum=0.0, maximum=1.0, default=0.3, metavar="X", help=text)
    text = "draw so many, the surest differences (default: %(default)s)"
    add_number(group, "--draw-max", "--draw-most", minimum=1, default=50, metavar="N", help=text)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; return 1 where images were skipped or the limit is passed."""
    _check(arguments)
    if arguments.predictions is not None:
        return _score_predictions(arguments)
    manifest = open_artifact(arguments.model).manifest
    spec = manifest.model
    with steps() as step:
        step(f"reading {arguments.annotations.name}")
        ground_truth = read_annotations(arguments.annotations, arguments.images, skip_invalid=arguments.skip_invalid)
    if arguments.labels is not None:
        spec = msgspec.structs.replace(spec, labels=full_labels(read_labels(arguments.labels), spec.num_classes))
    classes = map_classes(spec, ground_truth, arguments.map, allow_unmapped=arguments.allow_unmapped)
    files, missing = find_images(ground_truth, arguments.images, allow_missing=arguments.allow_missing)
    files, other_reading = turn_upright(files, arguments.exif)
    loaded = None
    if arguments.checkpoint is not None:
        with steps() as step:
            loaded = load_from_options(with_options_of_export(arguments, [arguments.model]), step)
        prepare_reference(loaded, manifest, arguments)
    tuned = take_tuned(arguments)
    options = load_options(arguments, manifest, tuned)
    with steps() as step:
        step(f"loading {arguments.model.name}")
        loading = Detector.load(arguments.model if tuned is None else tuned.artifact.path, **options)
    with loading as detector:
        tell_names(warn, list(missing), "images are not in the folder and are left out")
        tell_names(warn, ground_truth.invalid, _INVALID)
        classes.tell(ground_truth)
        eager = None if loaded is None else _eager(loaded, on_gpu=options["device"] == "cuda")
        collected = collect(detector, files, eager=eager, batch_size=batch_size(arguments, tuned))
    unusable = list(collected.skipped)
    for reason in collected.skipped.values():
        warn(f"skipped {reason}")
    if not collected.images:
        if collected.is_partial:
            raise KeyboardInterrupt
        raise ImageError(f"none of the {len(files)} images could be used", hint="see the warnings above")
    collected.skipped = missing | collected.skipped
    evaluation = Evaluation.of_collected(
        ground_truth, classes, collected, max_detections=arguments.max_detections, limit=arguments.limit
    )
    if arguments.exif is None:
        warn_of_reading(collected.images, other_reading, classes.categories)
    differing = list[Difference]()
    if arguments.output is not None:
        differing = find_differences(collected.images, min_score=arguments.draw_score)
    about, title = _about(manifest, arguments, tuned), "" if loaded is None else _eager_title(loaded)
    _report(evaluation, about, arguments, of=len(files), differing=differing, eager=title)
    if collected.is_partial:
        raise KeyboardInterrupt
    images = few([arguments.images] if len(files) <= 256 else None)
    if evaluation.passed is False and arguments.output is None:
        next_step(*shlex.split(arguments.command)[1:], "-o", "differences")
    elif evaluation.passed is not False and not unusable:
        verb = "tune" if arguments.model.suffix == ".onnx" and tuned is None else "profile"
        next_step(verb, arguments.model, "--images", *images)
    return 1 if unusable or evaluation.passed is False else 0


def _eager_title(loaded: LoadedCheckpoint) -> str:
    from frcnn.benchmarks.candidates.trainer_models import eager_title

    return eager_title(loaded.spec.transform.resize)


def _score_predictions(arguments: argparse.Namespace) -> int:
    if arguments.annotations.is_dir():
        raise UsageError("--predictions: VOC's annotations have no ids", hint="give COCO's instances.json")
    ground_truth = read_annotations(arguments.annotations, Path(), skip_invalid=arguments.skip_invalid)
    results = read_predictions(arguments.predictions, ground_truth)
    tell_names(warn, ground_truth.invalid, _INVALID)
    evaluation = Evaluation(
        ground_truth, ground_truth.images, ground_truth.categories, results, max_detections=arguments.max_detections
    )
    about = {"path": str(arguments.predictions), "kind": "predictions", "sha256": file_sha256(arguments.predictions)}
    _report(evaluation, about, arguments, of=len(ground_truth.images))
    return 0


def _about(manifest: AnyManifest, arguments: argparse.Namespace, tuned: Tuned | None) -> dict[str, Any]:
    spec = manifest.model
    file = arguments.model if tuned is None else tuned.artifact.path
    return {
        "path": str(file),
        "kind": manifest.target if isinstance(manifest, EngineManifest) else "onnx",
        "architecture": spec.architecture,
        "precision": manifest.precision if tuned is None else tuned.precision,
        **({} if tuned is None else {"tuned": tuned.text}),
        "classes": spec.num_classes,
        "sha256": file_sha256(file),
    }


def _report(
    evaluation: Evaluation,
    about: dict[str, Any],
    arguments: argparse.Namespace,
    *,
    of: int,
    differing: Sequence[Difference] = (),
    eager: str = "",
) -> None:
    """Write and print the results; ``of`` is how many images there were, ``eager`` what runs the checkpoint."""
    show = note if arguments.json == "-" else say
    drawings = {} if arguments.output is None else drawing_paths(differing[: arguments.draw_max], arguments.output)
    if arguments.json is not None:
        document = evaluation.as_json(
            model=about, eager={"checkpoint": str(arguments.checkpoint)}, command=arguments.command
        )
        drawn = {str(path): str(item.file) for path, item in drawings.items()}
        write_json(document | ({} if arguments.output is None else {"drawn": drawn}), arguments.json)
    if arguments.json != "-":
        evaluation.show(eager=eager)
    if evaluation.is_partial:
        show(f"PARTIAL: interrupted after {len(evaluation.images)} of {of} images")
    if arguments.output is not None:
        write_pairs(drawings, titles=(eager, arguments.model.name))
        more = f", of {len(differing)} (--draw-max)," if len(differing) > len(drawings) else ""
        where = f"drawn in {arguments.output}" if drawings else "nothing to draw"
        note(f"{len(drawings)} images{more} with differences scoring {arguments.draw_score:g} or more: {where}")
    if evaluation.passed is not None and evaluation.difference is not None:
        fall = evaluation.difference["AP"]
        verdict = "within" if evaluation.passed else "NOT within"
        change = "undefined" if fall is None else f"{fall:+.4f}"
        show(f"{verdict} the limit: AP differs from eager's by {change}, it may fall by {evaluation.limit:g}")


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what goes together with nothing, outputs that cannot be written and a missing package before the work."""
    import_coco_eval()
    if arguments.predictions is not None:
        given = [name for name in _OF_A_MODEL if getattr(arguments, name) not in (None, [], False)]
        flags = [name if name == "model" else f"--{name.replace('_', '-')}" for name in given]
        for option in [*flags, *given_options(arguments)]:
            raise UsageError(f"{option} does not go with --predictions", hint="leave out one of them")
    elif arguments.model is None or arguments.images is None:
        what = "a model, or --predictions" if arguments.model is None else "--images"
        raise UsageError(f"eval: expected {what}", hint="frcnn eval model.onnx --annotations FILE --images FOLDER")
    if arguments.checkpoint is None:
        eager = {"--limit": arguments.limit is not None, "-o": arguments.output is not None}
        given = [option for option, is_given in eager.items() if is_given] + list(given_options(arguments))
        for option in given:
            if option != "--labels":
                raise UsageError(f"{option} goes with --checkpoint only", hint="give the checkpoint, or leave it out")
    if arguments.output is not None:
        writable_folder(arguments.output)
    if arguments.json not in (None, "-"):
        writable_file(arguments.json)


def _eager(loaded: LoadedCheckpoint, *, on_gpu: bool) -> Eager:
    """Return eager torchvision, each image on the canvas that torchvision itself would choose."""
    import torch

    from frcnn.benchmarks.candidates.eager_detector import EagerDetector

    if on_gpu and torch.cuda.is_available():
        torch.backends.cudnn.allow_tf32 = False  # eager is the reference: float32 is float32
        loaded.model.to("cuda")
    eager = EagerDetector(loaded.model, loaded.spec)
    return lambda image: eager.detect(image, padded_canvas(loaded.spec, image))
