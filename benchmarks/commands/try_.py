"""Try a checkpoint: export it, compare it with eager torchvision, measure both, and look at the result.

The architecture is read off the weights, as frcnn export does. Then eager torchvision and the export detect in turns,
in as many of the images as the budget allows. One folder gets it all: model.onnx, index.html (pictures, agreement,
speed, what was read and assumed, what to run next), annotated/, detections.json, results.json.

Without a checkpoint, a small detector of handwritten digits is tried, on annotated photographs that come with it.

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
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from frcnn.benchmarks.accuracy.images import Collected, DetectedImage
from frcnn.benchmarks.accuracy.orientation import turn_upright
from frcnn.benchmarks.accuracy.report import Evaluation
from frcnn.benchmarks.accuracy.scoring import COCO_DETECTIONS
from frcnn.benchmarks.candidates.images import image_files
from frcnn.benchmarks.report.write import html
from frcnn.benchmarks.timing.environment import load_average, read_environment
from frcnn.benchmarks.trial import ARCHITECTURE, BUNDLE, CHECKPOINT
from frcnn.benchmarks.trial.page import Account, Step, document_of, draw_pictures, headline, results_of
from frcnn.benchmarks.trial.trial import MAX_IMAGES, Trial, read_images, run_trial, spread
from frcnn.console import Steps, next_step, note, say, steps, warn, write_json
from frcnn.errors import MissingDependencyError, UsageError
from frcnn.exporter.commands.checkpoint_options import add_checkpoint_arguments, given_options, load_from_options
from frcnn.exporter.commands.export import export_loaded
from frcnn.files import writable_folder, write_text
from frcnn.options import add_annotation_options, add_images, add_number, refuse_annotation_options
from frcnn.runtime import Detector
from frcnn.runtime.dataset.annotations import AnnotatedImage, GroundTruth, read_annotations
from frcnn.runtime.dataset.class_map import ClassMap, map_classes
from frcnn.runtime.dataset.files import find_images
from frcnn.runtime.results.report import Report
from frcnn.spec import ModelSpec

if TYPE_CHECKING:
    from frcnn.exporter.checkpoint.loaded import LoadedCheckpoint

_Annotations = tuple[GroundTruth, ClassMap]

_PACKAGES: Final = ("torch", "torchvision", "onnxscript", "onnxruntime", "faster_coco_eval", "jinja2")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_checkpoint_arguments(parser, weights=True, or_else="; without one a small detector that frcnn brings along")
    group = parser.add_argument_group("images")
    add_images(group, more=" (default: 12 annotated photographs that frcnn brings along)")
    text = (
        "measure accuracy too: COCO's instances.json, or VOC's Annotations/, whose file names are relative to --images"
    )
    group.add_argument("--annotations", metavar="PATH", type=Path, help=text)
    add_annotation_options(group)
    group = parser.add_argument_group("trial")
    text = "for everything that is made (default: %(default)s)"
    group.add_argument("-o", "--output", metavar="FOLDER", type=Path, default=Path("frcnn-try"), help=text)
    text = "how long both detect, at most, but in one image at least; exporting comes on top (default: %(default)g)"
    add_number(group, "--budget", minimum=1.0, maximum=86400.0, default=60.0, metavar="SECONDS", help=text)
    text = "draw detections that score as much (default: %(default)g)"
    add_number(group, "--score", minimum=0.0, maximum=1.0, default=0.5, metavar="X", help=text)
    group.add_argument("--no-open", action="store_true", help="do not open the page in the browser")


def run(arguments: argparse.Namespace) -> int:
    """Export, detect with both, write the page; return 1 where they disagree."""
    for package in _PACKAGES:
        if find_spec(package) is None:
            raise MissingDependencyError(package.replace("_", "-"), extra="bench", why="frcnn try")
    if arguments.annotations is None:
        refuse_annotation_options(arguments)
    elif len(arguments.images or ()) != 1:
        raise UsageError("--annotations: expected one --images FOLDER, which its file names are relative to")
    load_before = load_average()  # before our own work
    output, is_bundled = writable_folder(arguments.output), arguments.checkpoint is None and arguments.weights is None
    if is_bundled or arguments.images is None:
        bundle = Path(shutil.copytree(BUNDLE, output / "bundle", dirs_exist_ok=True))
        if is_bundled:
            arguments.checkpoint, arguments.arch = bundle / CHECKPOINT.name, arguments.arch or ARCHITECTURE
        if arguments.images is None:
            arguments.images = [bundle / "images"]
            arguments.annotations = bundle / "instances.json" if is_bundled else None
    with steps() as step:
        loaded = load_from_options(arguments, step)
        files, annotations = _files(arguments, loaded.spec, step)
        export_loaded(loaded, output / "model.onnx", sizes=None, precision="fp32", progress=step)
        trial, evaluation = _tried(arguments, loaded, files, annotations, step)
        step("drawing")
        threads = sys.modules["torch"].get_num_threads()
        account = Account(
            name=Path(arguments.checkpoint or arguments.weights).name,
            loaded=loaded,
            trial=trial,
            evaluation=evaluation,
            environment=read_environment(command=arguments.command, threads=threads, load_before=load_before),
            images=len(files),
            score=arguments.score,
            steps=next_steps(arguments, is_bundled=is_bundled, agrees=trial.parity.passed),
        )
        _write(account, output)
    _conclude(account, output / "index.html", opens=not arguments.no_open)
    if trial.is_partial:
        raise KeyboardInterrupt
    return 0 if trial.parity.passed else 1


def _files(
    arguments: argparse.Namespace, spec: ModelSpec, step: Steps
) -> tuple[dict[Path, AnnotatedImage | None], _Annotations | None]:
    """Return the files to choose from, in the order in which they are taken, and the annotations if there are some."""
    if arguments.annotations is None:
        return dict.fromkeys(spread(image_files(arguments.images))), None
    step(f"reading {arguments.annotations.name}")
    (folder,) = arguments.images
    ground_truth = read_annotations(arguments.annotations, folder, skip_invalid=arguments.skip_invalid)
    classes = map_classes(spec, ground_truth, arguments.map, allow_unmapped=arguments.allow_unmapped)
    annotated, missing = find_images(ground_truth, folder, allow_missing=True)
    if missing:
        warn(f"{len(missing)} annotated images are not in {folder} and are left out")
    chosen = spread(list(annotated))
    upright, _ = turn_upright({file: annotated[file] for file in chosen[: 2 * MAX_IMAGES]}, arguments.exif)
    return {**dict.fromkeys(chosen), **upright}, (ground_truth, classes)


def _tried(
    arguments: argparse.Namespace,
    loaded: LoadedCheckpoint,
    files: dict[Path, AnnotatedImage | None],
    annotations: _Annotations | None,
    step: Steps,
) -> tuple[Trial, Evaluation | None]:
    from frcnn.benchmarks.candidates.eager_detector import EagerDetector

    step("reading images")
    known = {file: image for file, image in files.items() if image is not None}
    images, skipped = read_images(known if annotations else files, known)
    for reason in skipped.values():
        warn(f"skipped {reason}")
    step("loading model.onnx")
    with Detector.load(arguments.output / "model.onnx") as detector:
        eager, what = EagerDetector(loaded.model, loaded.spec), f"detecting with both, at most {arguments.budget:g} s"
        trial = run_trial(eager, detector, images, budget_s=arguments.budget, report=lambda _, share: step(what, share))
    if annotations is None:
        return trial, None
    step("scoring")
    rows = [DetectedImage(file := Path(seen.image.name), known[file], seen.model, seen.eager) for seen in trial.seen]
    collected = Collected(images=rows, is_partial=trial.is_partial)
    return trial, Evaluation.of_collected(*annotations, collected, max_detections=COCO_DETECTIONS)


def next_steps(arguments: argparse.Namespace, *, is_bundled: bool, agrees: bool) -> list[Step]:
    """Return what to run next, with the real names of files; first what matters most."""
    output, checkpoint = arguments.output, arguments.checkpoint
    model, images = output / "model.onnx", ["--images", *arguments.images]
    options = [word for words in given_options(arguments).values() for word in words]
    scored = [] if arguments.annotations is None else ["--annotations", arguments.annotations]
    compare = ("Compare all of the images:", "compare", checkpoint, model, *images, *options)
    bench = ("Measure speed with care, beside other ways to run it:", "bench", checkpoint, model, *images, *options)
    found = ("-o", output / "detected", "--json", output / "all.json")
    chosen = [
        *(
            [("Try your own checkpoint on your own images:", "try", "my.pth", "--images", "folder/")]
            if is_bundled
            else []
        ),
        ("Detect in more images; copies with boxes, and COCO results:", "detect", model, *arguments.images, *found),
        *([compare, (*bench, "-o", output / "report")] if checkpoint else []),
        ("Find what runs it fastest on this processor:", "tune", model, *images),
        *([("Measure accuracy on all images:", "eval", model, *scored, *images)] if scored else []),
        ("Make it int8, if accuracy holds:", "quantize", model, *images, *scored, "-o", output / "model-int8.onnx"),
    ]
    if not agrees:
        chosen.sort(key=lambda step: step[1] != "compare")
    return [Step(str(why), shlex.join(["frcnn", *map(str, words)])) for why, *words in chosen]


def _write(account: Account, output: Path) -> None:
    pictures = draw_pictures(account, writable_folder(output / "annotated"))
    found = Report(account.trial.seen[0].model.label_names)
    for number, seen in enumerate(account.trial.seen, start=1):
        found.add(number, seen.image.name, seen.model)
    found.write_results(str(output / "detections.json"))
    write_json(results_of(account), str(output / "results.json"))
    write_text(output / "index.html", html(document_of(account, pictures)))


def _conclude(account: Account, page: Path, *, opens: bool) -> None:
    """Print the result, where the page is, and last what to run next; open the page where there is a browser."""
    result = headline(account)
    for line in result.notes:
        note(line.replace(", below,", ""))
    say(result.text if result.tone == "bad" else f"AGREE: {result.text}")
    say(f"page: {page}")
    has_display = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if opens and sys.stdout.isatty() and has_display:
        webbrowser.open(page.resolve().as_uri())
    next_step(*shlex.split(account.steps[0].command)[1:])
