"""Find what runs a model fastest on this machine's processor, and remember it.

Every provider that is installed (ONNX Runtime, OpenVINO), numbers of threads and batches are tried in float32, in a
minute or two. --allow adds lower precisions: bf16, where the processor has it, and int8, of the model that frcnn
quantize made (model-int8.onnx beside the model, or --int8). Each setting is compared with the float model's detections,
by the limits of frcnn compare, and one that disagrees is never chosen.

The choice is written beside the model, as model.onnx.tuned.json. detect, eval and compare use it where they are given
no --provider, --device, --threads or --precision, and so does Detector.load("model.onnx", provider="tuned"). It counts
on this machine only, with these versions of frcnn and the providers, and for these model files.

Use an idle machine, and images like those that the model is for: --images.

  frcnn tune model.onnx --images folder/
  frcnn tune model.onnx --images folder/ --allow bf16,int8
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

from frcnn.benchmarks.candidates.images import chosen_images
from frcnn.benchmarks.timing.environment import is_busy, load_average
from frcnn.benchmarks.tuning.report import show_tuning
from frcnn.benchmarks.tuning.tune import default_int8_path, how_to_quantise, open_models, tune
from frcnn.console import few, next_step, note, say, steps, warn, write_json
from frcnn.errors import MissingDependencyError, UsageError
from frcnn.files import write_text
from frcnn.options import add_images, add_json, add_number
from frcnn.processors import available_cpus
from frcnn.runtime.tuned import PACKAGES, tuned_path
from frcnn.spec.tuning import ALLOWED, Allowed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("model", metavar="MODEL", type=Path, help="a model.onnx")
    add_images(parser, more=" (default: 16 images of 427x640 that are drawn or come with scikit-learn)")
    text = "precisions below the model's own that may be chosen: bf16, int8 or both"
    parser.add_argument("--allow", metavar="PRECISION[,PRECISION]", default="", help=text)
    text = "the int8 model, in the model's folder (default with --allow int8: model-int8.onnx beside it)"
    parser.add_argument("--int8", metavar="FILE", type=Path, help=text)
    text = "about how long the search may take (default: %(default)g)"
    add_number(parser, "--budget", minimum=1.0, maximum=86400.0, default=90.0, metavar="SECONDS", help=text)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Search, print, write the tuned file."""
    allowed = parse_allowed(arguments.allow)
    if arguments.int8 is not None and "int8" not in allowed:
        raise UsageError("--int8 goes with --allow int8 only", hint="add --allow int8, or leave it out")
    if find_spec("onnxruntime") is None:
        raise MissingDependencyError("onnxruntime", extra="cpu", why="frcnn tune")
    model, int8 = open_models(arguments.model, _int8_path(arguments, allowed))
    images = chosen_images(arguments.images)
    providers = [name for name, package in PACKAGES.items() if find_spec(package) is not None]
    if "openvino" not in providers:
        note("OpenVINO is not installed, so it is not tried: pip install 'frcnn[openvino]'")
    load = load_average()
    if load is not None and is_busy(load, available_cpus()):
        warn(f"this system is busy (load {load:.1f} on {available_cpus()} processors): tune again when it is idle")
    with steps(log=False) as show:
        show("reading", 0.0)
        options = {"providers": providers, "allowed": allowed, "budget_s": arguments.budget}
        tuning = tune(model, int8, images.images, **options, report=show)
    write_json(tuning, arguments.json)
    is_json_printed = arguments.json == "-"
    show_tuning(tuning, model=arguments.model, to_stderr=is_json_printed)
    path = tuned_path(arguments.model)
    write_text(path, tuning.to_json())
    (note if is_json_printed else say)(f"wrote {path}: detect, eval and compare use it on this machine")
    next_step("detect", arguments.model, *few(arguments.images))
    return 0


def parse_allowed(text: str) -> tuple[Allowed, ...]:
    """Parse ``bf16,int8``."""
    given = {item.strip() for item in text.split(",") if item.strip()}
    if unknown := given - {*ALLOWED}:
        raise UsageError(
            f"--allow: expected precisions of {', '.join(ALLOWED)}, got {', '.join(sorted(unknown))}",
            hint="for instance --allow bf16,int8; float32 is always tried",
        )
    return tuple(precision for precision in ALLOWED if precision in given)


def _int8_path(arguments: argparse.Namespace, allowed: tuple[Allowed, ...]) -> Path | None:
    """Return the int8 model to try: that of the option, or the one that has the usual name; None without one."""
    if arguments.int8 is not None or "int8" not in allowed:
        given: Path | None = arguments.int8
        return given
    usual = default_int8_path(arguments.model)
    if usual.exists():
        return usual
    note(f"int8 is not tried: there is no {usual}: {how_to_quantise(arguments.model)}")
    return None
