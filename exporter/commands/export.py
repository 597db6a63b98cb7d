"""Turn a trained Faster R-CNN of torchvision, Detectron2 or MMDetection into one ONNX file that runs anywhere.

The trainer, the architecture and the number of classes are read off the weights. What weights do not hold (anchors,
sizes, thresholds) is taken from the architecture and printed; --arg changes it.

  frcnn export my.pth --labels labels.txt -o model.onnx
  frcnn export my.pth --arch fasterrcnn_resnet50_fpn --arg min_size=640
  frcnn export my.pth --arch mypkg.models:build -o model.onnx
  frcnn export model_final.pkl --config config.yaml
  frcnn export --weights fasterrcnn_resnet50_fpn_v2=COCO_V1 -o model.onnx
  frcnn export my.pth --inline -o model-inline.onnx
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from frcnn.console import next_step, say, steps
from frcnn.exporter.commands.checkpoint_options import (
    add_checkpoint_arguments,
    add_output_argument,
    given_options,
    load_from_options,
    output_path,
    print_checkpoint,
)
from frcnn.files import writable_file
from frcnn.options import parse_sizes
from frcnn.spec import PRECISIONS, Manifest, Precision, Size

if TYPE_CHECKING:
    from frcnn.exporter.checkpoint.loaded import LoadedCheckpoint

_SUFFIX: Final = ".onnx"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_checkpoint_arguments(parser, weights=True)
    group = parser.add_argument_group("model")
    add_output_argument(group, "the ONNX file", _SUFFIX)
    text = "fixed canvases, height x width in pixels, like 800x1344,1344x800; by default any size"
    group.add_argument("--size", metavar="HxW[,HxW...]", help=text)
    text = "of the heavy layers; box decoding, scores and overlaps are float32 always; bf16 runs with TensorRT and "
    text += "CUDA only (default: %(default)s)"
    group.add_argument("--precision", choices=PRECISIONS, default="fp32", help=text)
    text = "write standard operators only, for readers that know no functions in a model, such as OpenVINO's"
    group.add_argument("--inline", action="store_true", help=text)


def run(arguments: argparse.Namespace) -> int:
    """Export and print what was made."""
    sizes = None if arguments.size is None else parse_sizes(arguments.size)
    output = output_path(arguments, _SUFFIX)
    with steps() as step:
        loaded = load_from_options(arguments, step)
        print_checkpoint(loaded)
        writable_file(output)  # before the export, which takes long, not after it
        started = time.monotonic()
        manifest = export_loaded(
            loaded, output, sizes=sizes, precision=arguments.precision, inline=arguments.inline, progress=step
        )
    _print_result(output, manifest, time.monotonic() - started)
    where = ", on a GPU" if manifest.precision == "bf16" else ""
    if arguments.checkpoint is None:
        next_step("detect", output, "IMAGES", where=where)
    else:  # the file knows the architecture and its arguments
        given = given_options(arguments)
        how = [*given.get("--config", []), *given.get("--trust-pickle", [])]
        if ":" in (arguments.arch or ""):  # code, which is not run because a file names it
            how = ["--arch", arguments.arch, *how]
        next_step("compare", arguments.checkpoint, output, *how, "--images", "IMAGES", where=where)
    return 0


def export_loaded(
    loaded: LoadedCheckpoint,
    path: Path,
    *,
    sizes: tuple[Size, ...] | None,
    precision: Precision,
    inline: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Manifest:
    """Export a checkpoint with its labels, hash and assumptions."""
    from frcnn.exporter.graph.export import export_onnx

    return export_onnx(
        loaded.model,
        path,
        labels=loaded.spec.labels,
        size=sizes,
        precision=precision,
        inline=inline,
        architecture=loaded.spec.architecture,
        source_sha256=loaded.sha256,
        assumptions=loaded.assumptions,
        checkpoint_options=loaded.options,
        progress=progress,
    )


def _print_result(output: Path, manifest: Manifest, seconds: float) -> None:
    model = manifest.model
    canvas = f"any multiples of {model.transform.size_divisible}"
    if manifest.canvases is not None:
        canvas = ", ".join(f"{height}x{width}" for height, width in manifest.canvases)
    kept = model.roi_heads.detections_per_img
    say(f"wrote {output}: {output.stat().st_size / 1e6:.1f} MB, {manifest.precision}, {seconds:.1f} s")
    say(f"  inputs:  images (N, 3, H, W), HxW {canvas}; image_sizes (N, 2)")
    say(f"  outputs: num_detections (N), boxes (N, {kept}, 4), scores (N, {kept}), labels (N, {kept})")
    if manifest.precision == "bf16":
        say("  runs:    with TensorRT and CUDA only: ONNX Runtime has no bf16 kernels for the CPU")
