"""Find objects in images, folders, videos, streams and cameras.

An input is an image, a video or a folder, which stands for the images and videos directly in it, by name; a quoted
pattern ('photos/**/*.jpg'); a list.txt of inputs, one a line; - for such a list or an image on standard input; the
address of an image, a video or a stream (http, https, rtsp); or the number of a camera. What is there as a file is
that file. Of a camera or stream the newest frame is used, until Ctrl-C or for --duration.

--slice 640 finds small objects in large images: each is cut into overlapping slices of so many pixels, and what is
found in them and in the whole image is merged.

Annotated copies go to -o, COCO results to --json; without either, a table is printed. What cannot be read is named and
skipped, and the exit code is 1 (2 where nothing could be read).

--jsonl writes one line an image or frame as soon as it is done. --json FILE appears when all is done; until then the
same lines are in FILE.partial.jsonl. Ctrl-C and SIGTERM finish the current image and end with 130 and 143: a FILE
that was there stays as it was, FILE.partial.jsonl keeps what was done, and --json - prints it. A second signal ends at
once.

In the COCO results, image_id counts the images and video frames from 1 in the order given, unusable ones included;
category_id is the model's label. --annotations instances.json puts the data set's own ids in their place, so that
frcnn eval --predictions, pycocotools and others score the results (give --score 0, which keeps all). Images without
objects have no entry there: --json-index lists all images and the categories, and is what pycocotools calls a ground
truth without annotations.

--export writes what a labelling tool imports, of images alone: label-studio=tasks.json, fiftyone=samples.json,
cvat=annotations.xml, or a new folder of text files, yolo=folder (yolo-scores=folder with the scores). Repeat it for
several. It names images as they were given.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from frcnn.console import few, next_step, note, steps
from frcnn.errors import ImageError, UsageError
from frcnn.files import writable_file, writable_folder
from frcnn.options import add_batch_size, add_map, add_number
from frcnn.runtime.commands.run_options import add_run_options, batch_size, take_tuned
from frcnn.runtime.images.decode import DEFAULT_MAX_PIXELS
from frcnn.runtime.model_files.artifact import open_artifact
from frcnn.runtime.streaming.live import DEFAULT_RECONNECT_S
from frcnn.runtime.tuned import load_options
from frcnn.spec.tuning import TUNED_SUFFIX

if TYPE_CHECKING:
    from frcnn.runtime.images.slices import Slicing
    from frcnn.runtime.images.sources import Source
    from frcnn.runtime.results.json_lines import ResultLines
    from frcnn.runtime.results.report import Report
    from frcnn.runtime.streaming.stopping import Stop

_EXIT_SKIPPED: Final = 1
_STANDARD_OUTPUT: Final = "-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``frcnn detect``."""
    parser.add_argument("model", help="model.onnx or model.frcnn, made by frcnn export or frcnn build")
    text = "image, folder, video, 'pattern', list.txt, address, camera's number, or - for standard input"
    parser.add_argument("inputs", nargs="+", metavar="input", help=text)

    sources = parser.add_argument_group("what is read")
    text = "search folders deeper; copies keep their places in them"
    sources.add_argument("--recursive", action="store_true", help=text)
    text = "how long to wait for a stream or camera that was lost (default: %(default)g; 0 ends at the first loss)"
    add_number(sources, "--reconnect", minimum=0.0, default=DEFAULT_RECONNECT_S, metavar="SECONDS", help=text)
    text = "how long to watch each stream or camera (default: until Ctrl-C)"
    add_number(sources, "--duration", minimum=0.0, metavar="SECONDS", help=text)
    text = "refuse larger images (default: %(default)s)"
    add_number(sources, "--max-pixels", minimum=1, default=DEFAULT_MAX_PIXELS, metavar="N", help=text)

    kept = parser.add_argument_group("what is kept")
    text = "lowest score to keep (default: %(default)s; 0 keeps all)"
    add_number(kept, "--score", minimum=0.0, maximum=1.0, default=0.5, metavar="X", help=text)
    kept.add_argument("--classes", metavar="A,B", help="only these classes: names or indices")

    large = parser.add_argument_group("large images")
    large.add_argument("--slice", type=int, metavar="PIXELS", help="cut images into slices of this side: 640")
    text = "share of a slice that the next one has, too (default: 0.2)"
    large.add_argument("--overlap", type=float, metavar="X", help=text)
    text = "of objects found twice keep the best (default), or their mean, weighted by the scores"
    large.add_argument("--merge", choices=("nms", "weighted"), help=text)
    text = "IoU beyond which two boxes of a class are one object (default: 0.5)"
    large.add_argument("--merge-iou", type=float, metavar="X", help=text)
    large.add_argument("--no-whole", action="store_true", help="detect in the slices only, not in the whole image, too")

    results = parser.add_argument_group("what is written")
    results.add_argument("-o", "--output", metavar="FOLDER", help="write annotated copies here")
    results.add_argument("--font", metavar="FILE", help="font of the names in copies (default: what this system has)")
    results.add_argument("--json", metavar="FILE", help="write COCO results with file names here; - is standard output")
    results.add_argument("--jsonl", metavar="FILE", help="write a line of JSON as each image is done; - likewise")
    results.add_argument("--json-index", metavar="FILE", help="write the COCO list of images and categories here")
    text = "write what a labelling tool or YOLO reads: FORMAT is cvat, fiftyone, label-studio, yolo or yolo-scores"
    results.add_argument("--export", metavar="FORMAT=PATH", action="append", default=[], help=text)

    ids = parser.add_argument_group("ids of a data set")
    text = "COCO's instances.json: results have its image ids and category ids; boxes do not matter"
    ids.add_argument("--annotations", metavar="FILE", type=Path, help=text)
    add_map(ids)
    text = "leave out what the annotations do not list"
    ids.add_argument("--allow-missing", action="store_true", help=text)

    how = parser.add_argument_group("how it runs")
    add_batch_size(how)
    add_run_options(
        how,
        device="where to run (default: what the file is for)",
        threads="processor threads (default: all this process may use)",
    )
    add_number(how, "--workers", minimum=1, metavar="N", help="batches that a model.frcnn runs at once (default: 2)")
    how.add_argument(
        "--trusted-hash",
        metavar="SHA256",
        action="append",
        help="load a model.frcnn with this SHA-256 only, as sha256sum prints it; repeat to allow several",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run ``frcnn detect``."""
    _check(arguments)
    slicing = _slicing(arguments)
    from frcnn.runtime.commands.file_detection import FileDetection
    from frcnn.runtime.dataset.ids import read_ids
    from frcnn.runtime.detections import resolve_classes
    from frcnn.runtime.detector import Detector
    from frcnn.runtime.images.sources import sources_of
    from frcnn.runtime.results.json_lines import ResultLines
    from frcnn.runtime.results.report import Report
    from frcnn.runtime.streaming.stopping import Stop

    sources, unusable = sources_of(arguments.inputs, recursive=arguments.recursive)
    _require_an_end(arguments, sources)
    _check_exports(arguments, sources)
    ids = None
    if arguments.annotations is not None:
        model = open_artifact(arguments.model).manifest.model
        pairs, allow_missing = arguments.map, arguments.allow_missing
        ids = read_ids(arguments.annotations, sources, model, pairs, allow_missing=allow_missing)
        sources = [source for source in sources if source.name in ids.images]
    copies = _output_paths(arguments, sources)
    tuned = take_tuned(arguments)
    given: Any = {name: getattr(arguments, name) for name in ("provider", "precision", "threads")}
    with steps(log=False) as step:
        step(f"loading {Path(arguments.model).name}")
        loading = Detector.load(
            arguments.model if tuned is None else tuned.artifact.path,
            device=arguments.device,
            **(given if tuned is None else load_options(tuned.setting)),
            trusted_hashes=arguments.trusted_hash,
            workers=arguments.workers,
            max_pixels=arguments.max_pixels,
        )
    with loading as detector:
        classes = None
        if arguments.classes is not None:
            classes = resolve_classes([name.strip() for name in arguments.classes.split(",")], detector.labels)
        if arguments.output is not None:  # before the work, so that it is not done in vain
            writable_folder(arguments.output)
        for path in _text_paths(arguments):
            writable_file(path)
        with Stop() as stop, ExitStack() as stack:
            lines = [stack.enter_context(ResultLines(path)) for path in _line_paths(arguments)]
            is_kept = arguments.json is not None or arguments.json_index is not None
            kept = {"is_kept": is_kept, "keeps_detections": bool(arguments.export)}
            report = Report(detector.labels, lines=lines, ids=ids, **kept)
            detection = FileDetection(
                detector=detector,
                report=report,
                copies=copies,
                stop=stop,
                max_pixels=arguments.max_pixels,
                options={"score": arguments.score, "classes": classes, "batch_size": batch_size(arguments, tuned)},
                slicing=slicing,
                reconnect_s=arguments.reconnect,
                duration_s=arguments.duration,
                font=arguments.font,
            )
            for name, error in unusable.items():
                detection.skip(name, error)
            detection.run(sources)
            if stop.is_asked:
                return _stopped(arguments, report, stop, inputs=len(sources))
            return _finished(arguments, report, detection.skipped, lines, inputs=len(sources) + len(unusable))


def _check(arguments: argparse.Namespace) -> None:
    """Refuse options that would have no effect."""
    if arguments.annotations is None and (arguments.map or arguments.allow_missing):
        raise UsageError("--map and --allow-missing go with --annotations only", hint="give it, or leave them out")
    if arguments.annotations is not None and not (arguments.json or arguments.jsonl or arguments.json_index):
        raise UsageError("--annotations goes with --json, --jsonl or --json-index", hint="give --json results.json")


def _slicing(arguments: argparse.Namespace) -> Slicing | None:
    """Return how images are cut; None where they are not."""
    from frcnn.runtime.images.slices import Slicing

    names = {"overlap": arguments.overlap, "merge": arguments.merge, "iou": arguments.merge_iou}
    given: dict[str, Any] = {name: value for name, value in names.items() if value is not None}
    if arguments.slice is not None:
        return Slicing(size=arguments.slice, whole=not arguments.no_whole, **given)
    if given or arguments.no_whole:
        raise UsageError(
            "--overlap, --merge, --merge-iou and --no-whole go with --slice only",
            hint="give --slice 640, or leave them out",
        )
    return None


def _check_exports(arguments: argparse.Namespace, sources: list[Source]) -> None:
    """Refuse before the work what --export could not write."""
    from frcnn.runtime.formats.writing import check_target

    moving = [source.name for source in sources if source.kind in ("video", "live")]
    if arguments.export and moving:
        raise UsageError(f"--export is for images, and {moving[0]} is none", hint="give --json or --jsonl")
    for (kind, path), pair in zip(_exports(arguments), arguments.export, strict=True):
        if not path:
            raise UsageError(f"--export: expected FORMAT=PATH, got {pair!r}", hint="like --export cvat=annotations.xml")
        check_target(kind, path)


def _exports(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    """Return each format of --export and where it goes."""
    return [(kind, path) for kind, _, path in (pair.partition("=") for pair in arguments.export)]


def _line_paths(arguments: argparse.Namespace) -> list[str | Path]:
    """Return where results go line by line: first in place of --json FILE, then to --jsonl."""
    from frcnn.runtime.results.json_lines import partial_path

    partial = [partial_path(arguments.json)] if _is_file(arguments.json) else []
    return partial + ([] if arguments.jsonl is None else [arguments.jsonl])


def _finished(
    arguments: argparse.Namespace,
    report: Report,
    skipped: dict[str, ImageError],
    lines: list[ResultLines],
    *,
    inputs: int,
) -> int:
    """Write the results of a run that came to its end and return the exit code."""
    if report.image_count and arguments.json is not None:
        report.write_results(arguments.json)
    if _is_file(arguments.json):
        lines[0].discard()
    if not report.image_count:
        raise ImageError(
            f"none of the {len(skipped)} input(s) could be used: {', '.join(skipped)}", hint="the lines above say why"
        )
    if arguments.json_index is not None:
        report.write_index(arguments.json_index)
    if arguments.export:
        from frcnn.runtime.formats import write

        for kind, path in _exports(arguments):
            write(kind, path, report.detections)
    elif arguments.json is None and arguments.jsonl is None and arguments.output is None:
        report.show()
    return _summary(arguments, report, skipped, inputs=inputs)


def _stopped(arguments: argparse.Namespace, report: Report, stop: Stop, *, inputs: int) -> int:
    """Print what a run that was asked to stop has done; the files of a whole run are left as they were."""
    from frcnn.runtime.results.json_lines import partial_path

    if arguments.json == _STANDARD_OUTPUT:
        report.write_results(arguments.json)
    elif arguments.json is not None:
        note(f"what was done is in {partial_path(arguments.json)}; {arguments.json} was not written")
    elif arguments.jsonl is None and arguments.output is None:
        report.show()
    for _, path in _exports(arguments):
        note(f"{path} was not written")
    note(f"stopped by {stop.reason} after {report.image_count} image(s) of {inputs} input(s)")
    return stop.exit_code


def _text_paths(arguments: argparse.Namespace) -> list[Path]:
    exports = [path for kind, path in _exports(arguments) if not kind.startswith("yolo")]
    names = (arguments.json, *_line_paths(arguments), arguments.json_index, *exports)
    return [Path(name) for name in names if _is_file(name)]


def _is_file(name: str | Path | None) -> bool:
    return name not in (None, _STANDARD_OUTPUT)


def _require_an_end(arguments: argparse.Namespace, sources: list[Source]) -> None:
    """Refuse sources that would never have their turn."""
    live = [source.name for source in sources[:-1] if source.kind == "live"]
    if live and arguments.duration is None:
        raise UsageError(
            f"{live[0]} does not end, so what follows would never be read", hint="end it with --duration SECONDS"
        )


def _output_paths(arguments: argparse.Namespace, sources: list[Source]) -> dict[Source, Path]:
    """Return where the annotated copy of each source goes; empty where none are wanted."""
    from frcnn.runtime.images.sources import copies_of, refuse_overwriting
    from frcnn.runtime.results.fonts import checked_font

    if arguments.font is not None and arguments.output is None:
        raise UsageError("--font is for annotated copies, and none are written", hint="add -o FOLDER")
    if arguments.font is not None:
        checked_font(arguments.font)
    exports = [path for _, path in _exports(arguments)]
    named = [name for name in (arguments.json, arguments.jsonl, arguments.json_index, *exports) if name is not None]
    for name in named:
        if named.count(name) > 1:
            raise UsageError(f"two results were to be written to {name}", hint="give each a file of its own")

    copies = {} if arguments.output is None else copies_of(sources, Path(arguments.output))
    videos = [path.with_suffix(".mp4") for path in copies.values()]
    files = [source.at for source in sources if isinstance(source.at, Path)]
    refuse_overwriting([*copies.values(), *videos, *_text_paths(arguments)], [*files, Path(arguments.model)])
    return copies


def _summary(arguments: argparse.Namespace, report: Report, skipped: dict[str, ImageError], *, inputs: int) -> int:
    """Print on standard error what was done and return the exit code."""
    from frcnn.runtime.dataset.faults import names_shown, tell_names

    place = "" if arguments.output is None else f"; annotated copies in {arguments.output}"
    note(f"{report.image_count} image(s), {report.object_count} object(s) scoring {arguments.score:g} or more{place}")
    empty = report.without_objects
    if empty:
        note(f"nothing found in {len(empty)}: {names_shown(empty)}")
    what = "images have another size in the annotations; boxes are in the images' own pixels, turned upright"
    tell_names(note, report.other_sizes, what)
    if skipped:
        note(f"skipped {len(skipped)} of {inputs} inputs: {', '.join(skipped)}")
        return _EXIT_SKIPPED
    from frcnn.runtime.images.sources import is_video

    model, names = Path(arguments.model), arguments.inputs
    if arguments.output is arguments.json is arguments.jsonl is None and not arguments.export:
        next_step("detect", model, *few(names), "-o", "annotated")
    elif arguments.annotations is not None and _is_file(arguments.json):
        next_step("eval", "--predictions", Path(arguments.json), "--annotations", Path(arguments.annotations))
    else:
        can = inputs <= 256 and not any(is_video(Path(name)) for name in names)
        verb = "tune" if model.suffix == ".onnx" and not Path(f"{model}{TUNED_SUFFIX}").exists() else "profile"
        next_step(verb, model, "--images", *few(names if can else None))
    return 0
