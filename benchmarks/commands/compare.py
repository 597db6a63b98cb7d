"""Check that a model detects the same objects as its checkpoint in eager torchvision.

Both detect in the same images on the same canvas; detections are paired by overlap. The exit code is 0 when they agree,
1 when they do not or when an image was skipped. Without limits on the command line these hold for trained weights:

  fp32  boxes within 0.01 px, scores within 1e-4, the same labels, nothing
        missing
  fp16  above score 0.3: IoU at least 0.99 for 98 % of the detections (where
        two boxes of one object score nearly the same, rounding decides which
        NMS keeps), the same labels, nothing missing
  bf16  above score 0.3: IoU at least 0.97 for 92 % of the detections, 1 %
        missing or relabelled (8 bits of mantissa, fp16 has 11)
  int8  above score 0.3: IoU at least 0.9 for 85 % of the detections, 1 %
        missing or relabelled (frcnn eval tells what that costs)

With RoI max pooling, where rounding a RoI to whole cells turns a last-bit difference into a whole cell, 95 % of the
detections above score 0.3 have a partner of their label in fp16 and bf16, 92 % in int8.

In fp32, detections that differ by the choice among equal scores only, which eager computes as well, count as tied.
A detection without a partner counts only where its score is clear of the model's own cut-off by --margin.

The checkpoint is read with --arch, --arg and --state-key of export, which MODEL holds, where they are not given. An
--arch that names code must be given. A checkpoint of Detectron2 or MMDetection is compared with the trainer's own model
where that is installed, else with a restatement of it in eager PyTorch; the table says which.

  frcnn compare my.pth model.onnx --images folder/
  frcnn compare my.pth model.frcnn --images folder/
"""

from __future__ import annotations

import argparse
from itertools import chain
from pathlib import Path

import msgspec

from frcnn.benchmarks.candidates.artifacts import AnyManifest, canvases_of
from frcnn.benchmarks.candidates.images import image_files
from frcnn.benchmarks.commands.reference import (
    load_options,
    own_reference,
    prepare_reference,
    with_options_of_export,
)
from frcnn.benchmarks.parity.comparison import ImageParity, Parity, compare_images, default_limits, total
from frcnn.console import few, next_step, note, say, show_table, steps, track, warn, write_json
from frcnn.errors import ImageError
from frcnn.exporter.commands.checkpoint_options import (
    add_checkpoint_arguments,
    given_options,
    load_from_options,
    print_checkpoint,
)
from frcnn.options import add_images, add_json, add_number
from frcnn.runtime import Detector, RGBImage
from frcnn.runtime.commands.run_options import add_run_options, take_tuned
from frcnn.runtime.model_files.artifact import open_artifact
from frcnn.spec import Precision

_LIMITS = {
    "box-px": "largest difference of a box coordinate in pixels (fp32)",
    "score": "largest difference of scores (fp32)",
    "iou": "a pair of less IoU has moved (fp16, bf16 and int8)",
    "moved": "largest share of pairs that may have moved (fp16, bf16 and int8)",
    "min-score": "detections below this are ignored",
    "margin": "distance from the cut-off from which on a missing detection counts",
    "unmatched": "largest share of detections that may be missing or have another label",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_checkpoint_arguments(parser)
    group = parser.add_argument_group("comparison")
    group.add_argument("model", metavar="MODEL", type=Path, help="the artifact: model.onnx or model.frcnn")
    add_images(group, required=True)
    add_run_options(
        group,
        device="where the artifact runs; eager is on the CPU (default: cuda for model.frcnn and bf16, else cpu)",
        threads="processor threads of eager and of model.onnx (default: all)",
    )
    add_json(group)
    limits = parser.add_argument_group("limits (defaults above)")
    for name, help_text in _LIMITS.items():
        add_number(limits, f"--{name}", minimum=0.0, metavar="X", help=help_text)


def run(arguments: argparse.Namespace) -> int:
    """Compare and print; return 1 on disagreement."""
    with steps() as step:
        loaded = load_from_options(with_options_of_export(arguments, [arguments.model]), step)
    from frcnn.benchmarks.candidates.eager_detector import EagerDetector

    manifest = open_artifact(arguments.model).manifest
    prepare_reference(loaded, manifest, arguments)
    own, title = own_reference(arguments, loaded, manifest)
    tuned = take_tuned(arguments)
    precision = _precision(manifest, arguments) if tuned is None else tuned.precision
    given = {name: getattr(arguments, name) for name in (option.replace("-", "_") for option in _LIMITS)}
    limits = msgspec.structs.replace(
        default_limits(precision, manifest.model.roi_heads.pooler.kind),
        **{name: value for name, value in given.items() if value is not None},
    )
    file = arguments.model if tuned is None else tuned.artifact.path
    with steps() as step:
        step(f"loading {file.name}")
        loading = Detector.load(file, **load_options(arguments, manifest, tuned))
    with loading as detector:
        if arguments.json != "-":
            print_checkpoint(loaded)
        canvases, eager = canvases_of(manifest), EagerDetector(loaded.model, loaded.spec, own)
        files = image_files(arguments.images)
        results: list[ImageParity] = []
        for file in track(files, total=len(files), what="comparing"):
            try:
                image = RGBImage.open(file)
                results.extend(compare_images(eager, detector, [image], limits, canvases=canvases, warm_up=not results))
            except ImageError as error:
                warn(f"skipped {file}: {error}")
    if not results:
        raise ImageError(f"none of the {len(files)} images could be used", hint="see the warnings above")
    parity = total(results, limits)
    write_json(parity, arguments.json)
    _show(parity, title, is_json_printed=arguments.json == "-")
    if not parity.passed:
        next_step("inspect", arguments.model)  # where it was made with other sizes or thresholds, it is there
    elif len(results) == len(files):
        options = chain.from_iterable(given_options(arguments).values())
        next_step("bench", arguments.checkpoint, arguments.model, *options, "--images", *few(arguments.images))
    return 0 if parity.passed and len(results) == len(files) else 1


def _precision(manifest: AnyManifest, arguments: argparse.Namespace) -> Precision:
    """Return the lowest precision that a layer is computed in: the file's, or that of ``--precision``."""
    lowered = arguments.precision == "bf16" and manifest.precision != "int8"
    return "bf16" if lowered else manifest.precision


def _show(parity: Parity, reference: str, *, is_json_printed: bool) -> None:
    """Print the table of images, the limits, the times and the verdict; without the table to standard error."""
    show = note if is_json_printed else say
    if not is_json_printed:
        rows = [_row(result) for result in (*parity.images, parity.total)]
        show_table(f"model against {reference}", list(rows[-1]), [list(row.values()) for row in rows])
    t = parity.total
    show(f"limits: {parity.limits}")
    ratio = t.eager_ms / t.model_ms
    show(f"median time, roughly: eager {t.eager_ms:.0f} ms, model {t.model_ms:.0f} ms, {ratio:.1f}x (no benchmark)")
    tied = f" and {t.tied} tied detections" if t.tied else ""
    show(f"AGREE: {t.matched} pairs{tied} in {len(parity.images)} images" if parity.passed else f"DISAGREE: {t}")


def _row(result: ImageParity) -> dict[str, str]:
    return {
        "image": Path(result.image).name,
        "missing": str(result.unmatched),
        "tied": str(result.tied),
        "relabelled": str(result.label_mismatches),
        "moved": str(result.moved),
        "box px": f"{result.box_px:.5f}",
        "score": f"{result.score:.1e}",
        "min IoU": f"{result.iou:.5f}",
        "pairs": str(result.matched),
        "eager": str(result.expected),
        "model": str(result.found),
        "eager ms": f"{result.eager_ms:.0f}",
        "model ms": f"{result.model_ms:.0f}",
    }
