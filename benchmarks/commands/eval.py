"""Measure a model's accuracy on annotated images: COCO's AP and AR, and the difference to eager torchvision.

AP is the mean of the average precisions at an IoU of 0.50, 0.55, ... 0.95; AP50 and AP75 are those at one IoU; APs, APm
and APl those of small, medium and large objects. All from 0 to 1, by faster-coco-eval. With --checkpoint, eager
torchvision is measured on the same decoded images, each padded as torchvision pads it.

Annotations are COCO's instances.json, or a folder of Pascal VOC's XML files, whose difficult objects count neither way.
A class of the model is the category of the same name, or without names the one whose id is the class's number.

The exit code is 1 where an image could not be used (it is named, and its annotations are left out) or AP falls below
eager's by more than --limit. Ctrl-C ends the measurement early and reports what was measured, marked as partial.

  frcnn eval model.onnx --annotations instances.json --images folder/
  frcnn eval model.frcnn --annotations instances.json --images folder/ --checkpoint my.pth --limit 0.001 -o differences/
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from frcnn.console import note, say, warn
from frcnn.errors import ArtifactError, ImageError, OutputError, UsageError
from frcnn.exporter.commands.checkpoint_options import add_checkpoint_arguments, load_from_options, read_labels
from frcnn.files import writable_folder, write_text
from frcnn.runtime.host.onnxruntime_providers import PROVIDERS

if TYPE_CHECKING:
    from frcnn.benchmarks.accuracy.class_map import ClassMap
    from frcnn.benchmarks.accuracy.collecting import Eager
    from frcnn.benchmarks.accuracy.images import Skipped
    from frcnn.benchmarks.accuracy.report import Evaluation
    from frcnn.benchmarks.accuracy.truth import Truth
    from frcnn.exporter.checkpoint.load import LoadedCheckpoint
    from frcnn.runtime.model_files.artifact import Artifact
    from frcnn.spec import ModelSpec

__all__ = ["add_arguments", "run"]

_EXIT_OK: Final = 0
_EXIT_SKIPPED_OR_WORSE: Final = 1
_COCO_DETECTIONS: Final = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("model", metavar="MODEL", type=Path, help="the artifact: model.onnx or model.frcnn")
    group = parser.add_argument_group("annotated images")
    group.add_argument(
        "--annotations", metavar="PATH", type=Path, required=True, help="COCO's instances.json, or VOC's Annotations/"
    )
    group.add_argument("--images", metavar="FOLDER", type=Path, required=True, help="file names are relative to it")
    group.add_argument(
        "--map",
        metavar="MODEL=ANNOTATION",
        action="append",
        default=[],
        help="pair a class of the model with a category, by names or numbers: airplane=aeroplane; repeat for more",
    )
    group.add_argument(
        "--allow-unmapped", action="store_true", help="leave out categories that are no class of the model"
    )
    group.add_argument("--allow-missing", action="store_true", help="leave out images that are not in the folder")
    add_checkpoint_arguments(parser, as_option=True, or_else="; eager torchvision is measured beside the model")
    group = parser.add_argument_group("measurement")
    group.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        help="where the artifact runs, and eager where torch can (default: cuda for model.frcnn and bf16, else cpu)",
    )
    group.add_argument("--provider", choices=PROVIDERS, help="what of ONNX Runtime runs model.onnx")
    group.add_argument("--threads", type=int, help="processor threads of eager and of model.onnx (default: all)")
    group.add_argument("--batch-size", type=int, default=1, help="images at a time (default 1; more helps GPUs only)")
    group.add_argument(
        "--max-detections",
        type=int,
        default=_COCO_DETECTIONS,
        metavar="N",
        help="detections of a class in an image that count, the best (default and least: COCO's 100)",
    )
    group.add_argument(
        "--limit", type=float, metavar="X", help="exit with 1 where AP falls by more than X below eager's"
    )
    group = parser.add_argument_group("results")
    group.add_argument("--json", metavar="FILE", help="write everything that was measured; - for standard output")
    group.add_argument(
        "-o", "--output", metavar="FOLDER", type=Path, help="draw the images in which eager and the model differ here"
    )
    group.add_argument(
        "--draw-score",
        type=float,
        default=0.3,
        metavar="X",
        help="differences scoring less are not drawn (default 0.3)",
    )
    group.add_argument(
        "--draw-max",
        "--draw-most",
        type=int,
        default=50,
        metavar="N",
        help="draw so many, the surest differences (default 50)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; return 1 where images were skipped or the limit is passed."""
    from frcnn.benchmarks.accuracy.class_map import map_classes
    from frcnn.benchmarks.accuracy.collecting import collect
    from frcnn.benchmarks.accuracy.images import find_images
    from frcnn.benchmarks.accuracy.report import evaluate
    from frcnn.benchmarks.candidates.artifacts import model_manifest
    from frcnn.runtime import Detector
    from frcnn.runtime.model_files.artifact import open_artifact

    _check(arguments)
    artifact = open_artifact(arguments.model)
    truth = _truth(arguments)
    classes = map_classes(
        _named(model_manifest(artifact.manifest).model, arguments),
        truth,
        arguments.map,
        allow_unmapped=arguments.allow_unmapped,
    )
    files, missing = find_images(truth, arguments.images, allow_missing=arguments.allow_missing)
    _require_objects(truth, classes)
    loaded = None if arguments.checkpoint is None else _checkpoint(arguments, artifact)
    with Detector.load(arguments.model, **_load_options(arguments, artifact)) as detector:
        _tell_what_is_left_out(truth, classes, missing)
        eager = None if loaded is None else _eager(loaded, on_gpu=_device(arguments, artifact) == "cuda")
        collected = collect(detector, files, eager=eager, batch_size=arguments.batch_size)
    unusable = list(collected.skipped)
    for reason in collected.skipped.values():
        warn(f"skipped {reason}")
    if not collected.answers:
        if collected.is_partial:
            raise KeyboardInterrupt
        raise ImageError(f"none of the {len(files)} images could be used", hint="see the warnings above")
    collected.skipped = missing | collected.skipped
    found = evaluate(truth, classes, collected, maximum=arguments.max_detections, limit=arguments.limit)
    _report(found, arguments, artifact, of=len(files))
    if collected.is_partial:
        raise KeyboardInterrupt
    return _EXIT_SKIPPED_OR_WORSE if unusable or found.passed is False else _EXIT_OK


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what makes no sense, and outputs that cannot be written, before the work."""
    if arguments.checkpoint is None:
        given = {"--limit": arguments.limit is not None, "-o": arguments.output is not None}
        given |= {"--arch": arguments.arch is not None, "--arg": bool(arguments.args)}
        given |= {"--state-key": arguments.state_key is not None, "--trust-pickle": arguments.trust_pickle}
        for option, is_given in given.items():
            if is_given:
                raise UsageError(f"{option} goes with --checkpoint only", hint="give the checkpoint, or leave it out")
    for option, value, minimum in (
        ("--batch-size", arguments.batch_size, 1),
        ("--max-detections", arguments.max_detections, _COCO_DETECTIONS),
        ("--threads", arguments.threads, 1),
        ("--draw-max", arguments.draw_max, 1),
    ):
        if value is not None and value < minimum:
            raise UsageError(f"{option}: expected {minimum} or more, got {value}")
    for option, value in (("--limit", arguments.limit), ("--draw-score", arguments.draw_score)):
        if value is not None and not 0 <= value <= 1:
            raise UsageError(f"{option}: expected a number from 0 to 1, got {value}")
    if arguments.output is not None:
        writable_folder(arguments.output)
    if arguments.json not in (None, "-"):
        if Path(arguments.json).is_dir():
            raise OutputError(f"cannot write {arguments.json}: it is a folder", hint="name a file")
        writable_folder(Path(arguments.json).parent)


def _truth(arguments: argparse.Namespace) -> Truth:
    from frcnn.benchmarks.accuracy.coco_annotations import read_coco
    from frcnn.benchmarks.accuracy.voc_annotations import read_voc

    if arguments.annotations.is_dir():
        return read_voc(arguments.annotations, arguments.images)
    return read_coco(arguments.annotations)


def _named(spec: ModelSpec, arguments: argparse.Namespace) -> ModelSpec:
    """Return the model's description with the names that the user gives, if any."""
    import msgspec

    from frcnn.spec import full_labels

    if arguments.labels is None:
        return spec
    return msgspec.structs.replace(spec, labels=full_labels(read_labels(arguments.labels), spec.num_classes))


def _require_objects(truth: Truth, classes: ClassMap) -> None:
    evaluated = set(classes.categories.values())
    objects = (item for image in truth.images for item in image.objects)
    if not any(item.category in evaluated and not item.is_crowd for item in objects):
        raise UsageError(
            f"{truth.source} has no objects of the model's classes: there is nothing to measure against",
            hint="check that annotations and model are of one set",
        )


def _tell_what_is_left_out(truth: Truth, classes: ClassMap, missing: Skipped) -> None:
    from frcnn.benchmarks.accuracy.truth import names_shown

    if missing:
        warn(f"{len(missing)} images are not in the folder and are left out: {names_shown(list(missing))}")
    if classes.left_out:
        names = names_shown([truth.categories[category] for category in classes.left_out])
        warn(f"{len(classes.left_out)} categories are no class of the model and are left out: {names}")
    if classes.idle:
        numbers = names_shown(list(map(str, classes.idle)))
        note(f"{len(classes.idle)} classes of the model are no category; their detections do not count: {numbers}")


def _checkpoint(arguments: argparse.Namespace, artifact: Artifact) -> LoadedCheckpoint:
    """Load the checkpoint, and refuse one of another model: the difference would say nothing of the artifact."""
    from frcnn.benchmarks.candidates.artifacts import model_manifest

    loaded = load_from_options(arguments)
    if arguments.threads is not None:
        import torch

        torch.set_num_threads(arguments.threads)
    theirs = model_manifest(artifact.manifest).model
    for what, expected, got in (
        ("number of classes", loaded.spec.num_classes, theirs.num_classes),
        ("preprocessing", loaded.spec.transform, theirs.transform),
        ("RPN", loaded.spec.rpn, theirs.rpn),
        ("box head", loaded.spec.roi_heads, theirs.roi_heads),
    ):
        if expected != got:
            raise ArtifactError(
                f"{arguments.model} is another model than the checkpoint: {what}: expected {expected}, got {got}",
                hint="give eval the same --arch and --arg as export",
            )
    return loaded


def _eager(loaded: LoadedCheckpoint, *, on_gpu: bool) -> Eager:
    """Return eager torchvision, each image on the canvas that torchvision itself would choose."""
    import torch

    from frcnn.benchmarks.candidates.eager_detector import EagerDetector

    if on_gpu and torch.cuda.is_available():
        torch.backends.cudnn.allow_tf32 = False  # eager is the reference: float32 is float32
        loaded.model.to("cuda")
    eager, transform = EagerDetector(loaded.model, loaded.spec), loaded.spec.transform
    return lambda image: eager.detect(image, transform.canvas_size(*transform.resized_size(*image.size)))


def _device(arguments: argparse.Namespace, artifact: Artifact) -> str | None:
    """Return where the artifact runs; None: the provider says."""
    from frcnn.benchmarks.candidates.artifacts import device_for

    if arguments.device is None and arguments.provider is None:
        return device_for(artifact.manifest)
    device: str | None = arguments.device
    return device


def _load_options(arguments: argparse.Namespace, artifact: Artifact) -> dict[str, Any]:
    """Return what ``Detector.load`` is asked for; an engine has no use for processor threads, eager has."""
    from frcnn.runtime.model_files.engine_artifact import EngineArtifact

    options = {"device": _device(arguments, artifact), "provider": arguments.provider}
    return options if isinstance(artifact, EngineArtifact) else options | {"threads": arguments.threads}


def _report(found: Evaluation, arguments: argparse.Namespace, artifact: Artifact, *, of: int) -> None:
    say_or_note = note if arguments.json == "-" else say
    if arguments.json is not None:
        document = found.as_json(
            model=_about(artifact, arguments.model),
            eager=None if arguments.checkpoint is None else {"checkpoint": str(arguments.checkpoint)},
            command=arguments.command,
        )
        text = json.dumps(document, indent=2)
        if arguments.json == "-":
            say(text)
        else:
            write_text(arguments.json, text + "\n")
    if arguments.json != "-":
        found.show()
    if found.collected.is_partial:
        say_or_note(f"PARTIAL: interrupted after {len(found.collected.answers)} of {of} images")
    if arguments.output is not None:
        _draw(found, arguments)
    if found.passed is not None and found.difference is not None:
        fall = found.difference["AP"]
        verdict = "within" if found.passed else "NOT within"
        change = "undefined" if fall is None else f"{fall:+.4f}"
        say_or_note(f"{verdict} the limit: AP differs from eager's by {change}, it may fall by {found.limit:g}")


def _draw(found: Evaluation, arguments: argparse.Namespace) -> None:
    from frcnn.benchmarks.accuracy.drawing import differing, write_pairs

    items = differing(found.collected.answers, score=arguments.draw_score)
    drawn = items[: arguments.draw_max]
    write_pairs(drawn, arguments.output, titles=("eager torchvision", arguments.model.name))
    more = f", of {len(items)} (--draw-max)," if len(items) > len(drawn) else ""
    where = f"drawn in {arguments.output}" if items else "nothing to draw"
    note(f"{len(drawn)} images{more} with differences scoring {arguments.draw_score:g} or more: {where}")


def _about(artifact: Artifact, path: Path) -> dict[str, Any]:
    """Return what the results say of the model file."""
    from frcnn.benchmarks.candidates.artifacts import model_manifest
    from frcnn.runtime.model_files.engine_artifact import EngineArtifact

    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    spec = model_manifest(artifact.manifest).model
    return {
        "path": str(path),
        "kind": artifact.manifest.target if isinstance(artifact, EngineArtifact) else "onnx",
        "architecture": spec.architecture,
        "precision": artifact.manifest.precision,
        "classes": spec.num_classes,
        "sha256": sha256,
    }
