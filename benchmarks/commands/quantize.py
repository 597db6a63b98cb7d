"""Quantise a float32 model.onnx to int8, and write it only if its accuracy holds.

The layers' ranges are found on some of the images; other images are the gate. With --annotations AP may fall by
--max-drop points of 100. Without, the detections must be those of the float model, which is the weaker proof. Where the
gate does not hold, groups of layers go back to float32, that which recovers most first. Where nothing holds, the exit
code is 1 and no file is written.

Annotations are COCO's instances.json, or a folder of Pascal VOC's XML files. Images without annotations are calibrated
on first; no image serves both purposes.

  frcnn quantize model.onnx --images folder/ -o model-int8.onnx
  frcnn quantize model.onnx --images folder/ --annotations a.json -o int8.onnx
  frcnn quantize model.onnx --images folder/ --for tensorrt -o model-int8.onnx
"""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from frcnn.console import few, next_step, note, say, warn, write_json
from frcnn.files import writable_file
from frcnn.options import add_annotation_options, add_images, add_json, add_number, refuse_annotation_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("model", metavar="MODEL", type=Path, help="a float32 model.onnx of 'frcnn export'")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="the int8 file to write")
    text = "what it is for: tensorrt needs activations with zero point 0 (default: %(default)s)"
    parser.add_argument("--for", dest="target", choices=("cpu", "tensorrt"), default="cpu", help=text)
    text = "write standard operators only, for readers that know no functions in a model, such as OpenVINO's"
    parser.add_argument("--inline", action="store_true", help=text)
    add_number(parser, "--threads", minimum=1, metavar="N", help="processor threads (default: all)")
    group = parser.add_argument_group("images")
    text = ", 8 or more; with --annotations the first is the folder that their file names are relative to"
    add_images(group, required=True, more=text)
    text = "most images to calibrate on (default: %(default)s)"
    add_number(group, "--calibration", minimum=4, default=100, metavar="N", help=text)
    text = "most images for the gate (default: 300 with annotations, 100 without)"
    add_number(group, "--gate", minimum=4, metavar="N", help=text)
    group = parser.add_argument_group("gate")
    text = "instances.json, or the folder of VOC's XML files"
    group.add_argument("--annotations", metavar="PATH", type=Path, help=text)
    text = "most AP points of 100 that may be lost (default: %(default)s)"
    add_number(group, "--max-drop", minimum=0.0, maximum=100.0, default=0.3, metavar="X", help=text)
    add_annotation_options(group)
    add_json(parser.add_argument_group("results"))


def run(arguments: argparse.Namespace) -> int:
    """Quantise and print the report; return 1 where the gate does not hold."""
    from frcnn.benchmarks.quantization.quantize import quantize_onnx
    from frcnn.benchmarks.quantization.report import show

    if arguments.json not in (None, "-"):
        writable_file(arguments.json)
    if not arguments.annotations:
        refuse_annotation_options(arguments)
    report = quantize_onnx(
        arguments.model,
        arguments.output,
        arguments.images,
        annotations=arguments.annotations,
        target=arguments.target,
        max_drop=arguments.max_drop,
        calibration_images=arguments.calibration,
        gate_images=arguments.gate,
        class_pairs=arguments.map,
        allow_unmapped=arguments.allow_unmapped,
        skip_invalid=arguments.skip_invalid,
        exif=arguments.exif,
        inline=arguments.inline,
        threads=arguments.threads,
        progress=note,
    )
    for reason in report.skipped.values():
        warn(f"skipped {reason}")
    environment = msgspec.structs.replace(report.environment, command=arguments.command)
    report = msgspec.structs.replace(report, environment=environment)
    write_json(report, arguments.json)
    if arguments.json != "-":
        show(report)
    tell = note if arguments.json == "-" else say
    tell(f"wrote {report.output}" if report.passed else f"{report.output} was not written")
    if report.passed:
        next_step("detect", arguments.output, *few(arguments.images))
    return 0 if report.passed else 1
