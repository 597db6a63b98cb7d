"""Find objects in pictures, folders and videos.

A folder stands for the pictures and videos directly in it, by name. Annotated copies go to -o, COCO results to
--json; without either, a table is printed. What cannot be read is named and skipped, and the exit code is 1 (2 where
nothing could be read).

In the COCO results, image_id counts the pictures and video frames from 1 in the order given, unusable ones included;
category_id is the model's label. Pictures without objects have no entry there: --json-index lists all pictures and
the categories, and is what pycocotools calls a ground truth without annotations.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final

from frcnn.console import note
from frcnn.errors import ImageError
from frcnn.runtime.decode import DEFAULT_MAX_PIXELS

if TYPE_CHECKING:
    from frcnn.runtime.report import Report
    from frcnn.runtime.survey import Survey

__all__ = ["add_arguments", "run"]

_EXIT_SKIPPED: Final = 1
_NAMES_SHOWN: Final = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``frcnn detect``."""
    parser.add_argument("model", help="model.onnx, made by frcnn export")
    parser.add_argument("inputs", nargs="+", metavar="input", help="picture, folder (not searched deeper) or video")
    parser.add_argument("-o", "--output", metavar="FOLDER", help="write annotated copies here")
    parser.add_argument("--json", metavar="FILE", help="write COCO results with file names here; - is standard output")
    parser.add_argument("--json-index", metavar="FILE", help="write the COCO list of pictures and categories here")
    parser.add_argument("--score", type=float, default=0.5, help="least score (default 0.5; 0 keeps all)")
    parser.add_argument("--classes", metavar="A,B", help="only these classes: names or indices")
    parser.add_argument("--threads", type=int, help="processor threads (default: all this process may use)")
    parser.add_argument(
        "--batch-size", type=int, default=1, help="pictures at a time (default 1; more helps GPUs only)"
    )
    parser.add_argument(
        "--max-pixels", type=int, default=DEFAULT_MAX_PIXELS, help="refuse larger pictures (default %(default)s)"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to run (default cpu)")


def run(arguments: argparse.Namespace) -> int:
    """Run ``frcnn detect``."""
    from frcnn.runtime.detections import resolve_classes
    from frcnn.runtime.detector import Detector
    from frcnn.runtime.report import Report
    from frcnn.runtime.sources import files_of
    from frcnn.runtime.survey import Survey

    warnings.filterwarnings("ignore", module=r"PIL\.")  # remarks on odd files; what cannot be used is said below
    files, unusable = files_of(arguments.inputs)
    copies = _output_paths(arguments, files)
    options = {"device": arguments.device, "threads": arguments.threads, "max_pixels": arguments.max_pixels}
    with Detector.load(arguments.model, **options) as detector:
        named = None if arguments.classes is None else [name.strip() for name in arguments.classes.split(",")]
        classes = None if named is None else resolve_classes(named, detector.labels)
        _require_writable(arguments)
        report = Report(detector.labels)
        survey = Survey(
            detector, report, copies, score=arguments.score, classes=classes, batch_size=arguments.batch_size
        )
        for name, error in unusable.items():
            survey.skip(name, error)
        survey.run(files)
    if not report.images:
        raise _nothing_usable(survey.skipped)
    if arguments.json is not None:
        report.write_results(arguments.json)
    if arguments.json_index is not None:
        report.write_index(arguments.json_index)
    if arguments.json is None and arguments.output is None:
        report.show()
    return _closing_words(arguments, report, survey, inputs=len(files) + len(unusable))


def _text_paths(arguments: argparse.Namespace) -> list[Path]:
    return [Path(name) for name in (arguments.json, arguments.json_index) if name not in (None, "-")]


def _output_paths(arguments: argparse.Namespace, files: list[Path]) -> dict[Path, Path]:
    """Return where the annotated copy of each file goes; empty where none are wanted.

    Raises:
        UsageError: an output is also an input.
    """
    from frcnn.runtime.sources import output_names, refuse_overwriting

    copies = {}
    if arguments.output is not None:
        copies = {file: Path(arguments.output) / name for file, name in output_names(files).items()}
    refuse_overwriting([*copies.values(), *_text_paths(arguments)], [*files, Path(arguments.model)])
    return copies


def _require_writable(arguments: argparse.Namespace) -> None:
    """Make the output folders before the work rather than find out after it.

    Raises:
        OutputError: a folder that cannot be written, or a folder where a file belongs.
    """
    from frcnn.errors import OutputError
    from frcnn.files import writable_folder

    if arguments.output is not None:
        writable_folder(arguments.output)
    for path in _text_paths(arguments):
        if path.is_dir():
            raise OutputError(f"cannot write {path}: it is a folder", hint="name a file")
        writable_folder(path.parent)


def _nothing_usable(skipped: dict[str, ImageError]) -> ImageError:
    """Return the error for a run in which no input could be used."""
    return ImageError(
        f"none of the {len(skipped)} input(s) could be used: {', '.join(skipped)}", hint="the lines above say why"
    )


def _closing_words(arguments: argparse.Namespace, report: Report, survey: Survey, *, inputs: int) -> int:
    """Say on standard error what was done and return the exit code."""
    place = "" if arguments.output is None else f"; annotated copies in {arguments.output}"
    note(f"{len(report.images)} picture(s), {len(report.results)} object(s) scoring {arguments.score:g} or more{place}")
    empty = report.without_objects
    if empty:
        more = f" and {len(empty) - _NAMES_SHOWN} more" if len(empty) > _NAMES_SHOWN else ""
        note(f"nothing found in {len(empty)}: {', '.join(empty[:_NAMES_SHOWN])}{more}")
    if survey.skipped:
        note(f"skipped {len(survey.skipped)} of {inputs} inputs: {', '.join(survey.skipped)}")
        return _EXIT_SKIPPED
    return 0
