"""Turn a trained torchvision Faster R-CNN into one ONNX file that runs anywhere.

The architecture and the number of classes are read off the weights. What weights do not hold (anchors, sizes,
thresholds) is taken from the architecture and printed; --arg changes it.

  frcnn export my.pth --labels labels.txt -o model.onnx
  frcnn export my.pth --arch fasterrcnn_resnet50_fpn --arg min_size=640 -o model.onnx
  frcnn export my.pth --arch mypkg.models:build -o model.onnx
  frcnn export --weights fasterrcnn_resnet50_fpn_v2=COCO_V1 -o model.onnx
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path

from frcnn.console import say, spinner
from frcnn.errors import UsageError
from frcnn.exporter.commands.checkpoint_options import add_checkpoint_arguments, load_from_options, print_checkpoint
from frcnn.files import writable_folder
from frcnn.spec import PRECISIONS, Manifest, Size

__all__ = ["add_arguments", "parse_sizes", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_checkpoint_arguments(parser, weights=True)
    group = parser.add_argument_group("model")
    group.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        help="the ONNX file; by default the checkpoint's name with .onnx, in the current folder",
    )
    group.add_argument(
        "--size",
        metavar="HxW[,HxW...]",
        help="fixed canvases, height x width in pixels, like 800x1344,1344x800; by default any size",
    )
    group.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="of the heavy layers; box decoding, scores and overlaps are float32 always; bf16 runs with TensorRT and "
        "CUDA only (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Export and say what was made."""
    sizes = None if arguments.size is None else parse_sizes(arguments.size)
    output = _output_path(arguments)
    loaded = load_from_options(arguments)
    print_checkpoint(loaded)
    writable_folder(output.parent)  # before the export, which takes long, not after it
    from frcnn.exporter.graph.export import export_onnx

    started = time.monotonic()
    with spinner(f"exporting {output.name}"):
        manifest = export_onnx(
            loaded.model,
            output,
            labels=loaded.spec.labels,
            size=sizes,
            precision=arguments.precision,
            architecture=loaded.spec.architecture,
            source_sha256=loaded.sha256,
            assumptions=loaded.assumptions,
        )
    _print_result(output, manifest, time.monotonic() - started)
    return 0


def parse_sizes(text: str) -> tuple[Size, ...]:
    """Parse ``800x1344,1344x800``: (height, width) pairs.

    Raises:
        UsageError: an item is not HEIGHTxWIDTH, or is given twice.
    """
    sizes: list[Size] = []
    for item in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,6})[xX×]([0-9]{1,6})\s*", item)  # noqa: RUF001  # people paste it
        size = (int(match[1]), int(match[2])) if match else (0, 0)
        if 0 in size:
            raise UsageError(
                f"--size: expected HEIGHTxWIDTH in pixels, got {item!r}", hint="for instance --size 800x1344,1344x800"
            )
        if size in sizes:
            raise UsageError(f"--size: {size[0]}x{size[1]} is given twice", hint="keep one of the two")
        sizes.append(size)
    return tuple(sizes)


def _output_path(arguments: argparse.Namespace) -> Path:
    if arguments.output is not None:
        output: Path = arguments.output
        if output.suffix != ".onnx":
            raise UsageError(f"-o: expected a file name ending in .onnx, got {output}", hint=f"-o {output}.onnx")
        return output
    if arguments.checkpoint is not None:
        return Path(f"{arguments.checkpoint.stem}.onnx")
    name = str(arguments.weights or "model").partition("=")[0]
    return Path(f"{Path(name).name or 'model'}.onnx")


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
