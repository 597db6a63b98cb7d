"""Try a checkpoint: export it, compare it with eager torchvision, measure both, and look at the result.

The architecture is read off the weights, as frcnn export does. Then eager torchvision and the exported model detect in
turns in as many of the images as the budget allows. Everything is written into one folder: model.onnx, index.html (what
was found, agreement, speed, what was read off the weights and what was assumed, what to run next), annotated/,
detections.json and results.json. The page opens in the browser where there is one.

Without a checkpoint, a small detector of handwritten digits is tried, and without --images the annotated photographs
that come with it.

The exit code is 0 when the detections agree, 1 when they do not. Ctrl-C ends the measurement early and keeps what was
seen until then.

  frcnn try
  frcnn try my.pth --images folder/
  frcnn try my.pth --images folder/ --annotations instances.json -o first-look/
  frcnn try --weights fasterrcnn_resnet50_fpn_v2=COCO_V1 --images folder/
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import webbrowser
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from frcnn.benchmarks.timing.environment import load_average
from frcnn.benchmarks.trial import ARCHITECTURE, BUNDLE, CHECKPOINT
from frcnn.console import Steps, note, say, steps, warn, write_json
from frcnn.errors import MissingDependencyError, UsageError
from frcnn.exporter.commands.checkpoint_options import add_checkpoint_arguments, given_options, load_from_options
from frcnn.files import writable_folder, write_text
from frcnn.options import add_annotation_options, add_images, add_number

if TYPE_CHECKING:
    from frcnn.benchmarks.trial.page import Account, Step
    from frcnn.exporter.checkpoint.load import LoadedCheckpoint
    from frcnn.runtime.dataset.annotations import AnnotatedImage, GroundTruth
    from frcnn.runtime.dataset.class_map import ClassMap
    from frcnn.spec import ModelSpec

_EXIT_AGREE: Final = 0
_EXIT_DISAGREE: Final = 1
_EXTRA: Final = "bench"
_PACKAGES: Final = ("torch", "torchvision", "onnxscript", "onnxruntime", "jinja2")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_checkpoint_arguments(parser, weights=True, or_else="; without one a small detector that frcnn brings along")
    group = parser.add_argument_group("images")
    add_images(group, more=" (default: 12 annotated photographs that frcnn brings along)")
    text = (
        "also measure accuracy: COCO's instances.json, or VOC's Annotations/, whose file names are relative to --images"
    )
    group.add_argument("--annotations", metavar="PATH", type=Path, help=text)
    add_annotation_options(group)
    group = parser.add_argument_group("trial")
    text = "for everything that is made (default: %(default)s)"
    group.add_argument("-o", "--output", metavar="FOLDER", type=Path, default=Path("frcnn-try"), help=text)
    text = "how long both detect, at most, one image at least; exporting takes longer (default: %(default)g)"
    add_number(group, "--budget", minimum=1.0, maximum=86400.0, default=45.0, metavar="SECONDS", help=text)
    text = "draw detections that score as much (default: %(default)g)"
    add_number(group, "--score", minimum=0.0, maximum=1.0, default=0.5, metavar="X", help=text)
    group.add_argument("--no-open", action="store_true", help="do not open the page in the browser")


@dataclass(slots=True, kw_only=True)
class _Inputs:
    """The files to choose from, and with annotations what is known of them, by name."""

    files: list[Path]
    annotated: Mapping[str, AnnotatedImage] = field(default_factory=dict)
    ground_truth: GroundTruth | None = None
    classes: ClassMap | None = None


def run(arguments: argparse.Namespace) -> int:
    """Export, detect with both, write the page; return 1 where they disagree."""
    _check(arguments)
    load_before = load_average()  # before our own work
    output = writable_folder(arguments.output)
    is_bundled = arguments.checkpoint is None and arguments.weights is None
    _take_bundle(arguments, output / "bundle", is_bundled)
    with steps() as step:
        loaded = load_from_options(arguments, step)
        step("reading the annotations" if arguments.annotations else "finding the images")
        inputs = _inputs(arguments, loaded.spec)
        from frcnn.exporter.commands.export import export_loaded

        export_loaded(loaded, output / "model.onnx", sizes=None, precision="fp32", progress=step)
        account = _tried(arguments, loaded, inputs, output, load_before, step, is_bundled=is_bundled)
        step("drawing")
        page = _write(account, output, command=arguments.command)
    _conclude(account, page, opens=not arguments.no_open)
    if account.trial.is_partial:
        raise KeyboardInterrupt
    return _EXIT_AGREE if account.trial.parity.passed else _EXIT_DISAGREE


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what would fail after minutes."""
    for package in (*_PACKAGES, *(["faster_coco_eval"] if arguments.annotations else [])):
        if find_spec(package) is None:
            raise MissingDependencyError(package.replace("_", "-"), extra=_EXTRA, why="frcnn try")
    if arguments.annotations is not None and len(arguments.images or []) != 1:
        raise UsageError("--annotations: expected one --images FOLDER, which its file names are relative to")
    for name in () if arguments.annotations else ("map", "allow_unmapped", "skip_invalid", "exif"):
        if getattr(arguments, name):
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} goes with --annotations only", hint="give annotations, or leave it out")


def _take_bundle(arguments: argparse.Namespace, folder: Path, is_bundled: bool) -> None:
    """Put a copy of what frcnn brings along into the folder, and take it for what is not given."""
    if is_bundled or arguments.images is None:
        shutil.copytree(BUNDLE, folder, dirs_exist_ok=True)
    if is_bundled:
        arguments.checkpoint, arguments.arch = folder / CHECKPOINT.name, arguments.arch or ARCHITECTURE
    if arguments.images is None:
        arguments.images = [folder / "images"]
        if is_bundled:
            arguments.annotations = folder / "instances.json"


def _inputs(arguments: argparse.Namespace, spec: ModelSpec) -> _Inputs:
    from frcnn.benchmarks.accuracy.orientation import turn_upright
    from frcnn.benchmarks.trial.trial import MAX_IMAGES, spread
    from frcnn.runtime.dataset.annotations import read_annotations
    from frcnn.runtime.dataset.class_map import map_classes
    from frcnn.runtime.dataset.files import find_images
    from frcnn.runtime.images.sources import files_of, is_video

    if arguments.annotations is None:
        files, unusable = files_of(map(str, arguments.images))
        for error in unusable.values():
            raise error
        images = [file for file in files if not is_video(file)]
        if not images:
            raise UsageError("--images: expected images, got videos only", hint="give a folder of images")
        return _Inputs(files=spread(images))
    (folder,) = arguments.images
    ground_truth = read_annotations(arguments.annotations, folder, skip_invalid=arguments.skip_invalid)
    classes = map_classes(spec, ground_truth, arguments.map, allow_unmapped=arguments.allow_unmapped)
    found, missing = find_images(ground_truth, folder, allow_missing=True)
    if missing:
        warn(f"{len(missing)} annotated images are not in {folder} and are left out")
    chosen = spread(list(found))
    upright, _ = turn_upright({file: found[file] for file in chosen[: 2 * MAX_IMAGES]}, arguments.exif)
    return _Inputs(
        files=chosen,
        annotated={str(file): image for file, image in upright.items()},
        ground_truth=ground_truth,
        classes=classes,
    )


def _tried(
    arguments: argparse.Namespace,
    loaded: LoadedCheckpoint,
    inputs: _Inputs,
    output: Path,
    load_before: float | None,
    step: Steps,
    *,
    is_bundled: bool,
) -> Account:
    """Detect with both, and score."""
    import torch

    from frcnn.benchmarks.accuracy.report import Evaluation
    from frcnn.benchmarks.accuracy.scoring import COCO_DETECTIONS
    from frcnn.benchmarks.candidates.eager_detector import EagerDetector
    from frcnn.benchmarks.timing.environment import now, read_environment
    from frcnn.benchmarks.trial.page import Account
    from frcnn.benchmarks.trial.trial import read_images, run_trial
    from frcnn.runtime import Detector

    step("loading model.onnx and the images")
    detector = Detector.load(output / "model.onnx")
    images, skipped = read_images(
        inputs.files if not inputs.annotated else map(Path, inputs.annotated), inputs.annotated
    )
    for reason in skipped.values():
        warn(f"skipped {reason}")
    with detector:
        eager = EagerDetector(loaded.model, loaded.spec)
        text = f"detecting with both, at most {arguments.budget:g} s"
        trial = run_trial(eager, detector, images, budget_s=arguments.budget, report=lambda _, share: step(text, share))
    step("scoring" if inputs.ground_truth is not None else "reading what this system is")
    evaluation, unscored = None, ""
    if inputs.ground_truth is not None and inputs.classes is not None:
        if find_spec("faster_coco_eval") is None:
            unscored = f"It was not measured: that needs faster-coco-eval, of the extra {_EXTRA}."
        else:
            evaluation = Evaluation(
                inputs.ground_truth,
                inputs.classes,
                trial.collected(inputs.annotated),
                max_detections=COCO_DETECTIONS,
                limit=None,
            )
    threads = torch.get_num_threads()
    return Account(
        name=Path(arguments.checkpoint or str(arguments.weights)).name,
        facts=loaded.facts,
        assumptions=loaded.assumptions,
        trial=trial,
        evaluation=evaluation,
        unscored=unscored,
        environment=read_environment(
            command=arguments.command, threads=threads, load_before=load_before, date=now(), gpu=None
        ),
        images=len(inputs.files),
        score=arguments.score,
        steps=next_steps(arguments, output, is_bundled=is_bundled, agrees=trial.parity.passed),
    )


def next_steps(arguments: argparse.Namespace, output: Path, *, is_bundled: bool, agrees: bool) -> list[Step]:
    """Return what to run next, with the real names of files; first what matters most."""
    from frcnn.benchmarks.trial.page import Step

    model, images = output / "model.onnx", ["--images", *arguments.images]
    options = [word for words in given_options(arguments).values() for word in words]
    steps: dict[str, Step] = {}

    def add(why: str, verb: str, *words: object) -> None:
        steps[verb] = Step(why, shlex.join(["frcnn", verb, *map(str, words)]))

    if is_bundled:
        add("Try your own checkpoint on your own images:", "try", "my.pth", "--images", "folder/")
    add(
        "Detect in more images; copies with boxes and COCO results are written:",
        *("detect", model, *arguments.images, "-o", output / "detected", "--json", output / "all.json"),
    )
    if arguments.checkpoint is not None:
        checkpoint = arguments.checkpoint
        add("Compare the detections in all of the images:", "compare", checkpoint, model, *images, *options)
        text = "Measure speed with care, beside other ways to run it, for figures to quote:"
        add(text, "bench", checkpoint, model, *images, *options, "-o", output / "report")
    add("Find the provider and the number of threads that are fastest on this machine:", "tune", model, *images)
    scored = [] if arguments.annotations is None else ["--annotations", arguments.annotations]
    if scored:
        add("Measure accuracy on all annotated images:", "eval", model, *scored, *images)
    text = "Quantise to int8, which is written only if its accuracy holds:"
    add(text, "quantize", model, *images, *scored, "-o", output / "model-int8.onnx")
    first = () if agrees or "compare" not in steps else ("compare",)
    return [steps[verb] for verb in dict.fromkeys((*first, *steps))]


def _write(account: Account, output: Path, *, command: str) -> Path:
    from frcnn.benchmarks.report.write import html
    from frcnn.benchmarks.trial.page import document_of, draw_pictures, results_of
    from frcnn.runtime.results.report import Report

    pictures = draw_pictures(account, writable_folder(output / "annotated"))
    found = Report(account.trial.seen[0].model.label_names)
    for number, seen in enumerate(account.trial.seen, start=1):
        found.add(number, seen.image.name, seen.model)
    found.write_results(str(output / "detections.json"))
    write_json(results_of(account, command=command), str(output / "results.json"))
    page = output / "index.html"
    write_text(page, html(document_of(account, pictures)))
    return page


def _conclude(account: Account, page: Path, *, opens: bool) -> None:
    """Print the result, where the page is, and last what to run next; open the page where there is a browser."""
    from frcnn.benchmarks.trial.page import headline

    result = headline(account)
    for line in result.notes[:-1]:
        note(line)
    verdict = "AGREE" if account.trial.parity.passed else "DISAGREE"
    say(f"{verdict}: {result.text}")
    say(f"page: {page}")
    has_display = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if opens and sys.stdout.isatty() and has_display:
        webbrowser.open(page.resolve().as_uri())
    say(f"next: {account.steps[0].command}")
