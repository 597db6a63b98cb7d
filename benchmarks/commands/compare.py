"""Check that a model answers as its checkpoint does in eager torchvision.

Both look at the same images on the same canvas; detections are paired by overlap. The exit code is 0 when they agree,
1 when they do not or when an image was skipped. Without limits on the command line these hold for trained weights:

  fp32                   boxes within 0.01 px, scores within 1e-4, the same labels, nothing missing
  fp16                   above score 0.3: IoU at least 0.99 for 98 % of the detections (where two boxes of one object
                         score all but the same, rounding decides which suppresses the other), the same labels,
                         nothing missing
  bf16                   above score 0.3: IoU at least 0.97 for 92 % of the detections, 1 % missing or relabelled
                         (bf16 has 8 bits of mantissa, fp16 has 11)
  RoI max pooling        fp16 and bf16, above score 0.3: 95 % of the detections have a partner of their label (rounding
                         a RoI to whole cells turns a last-bit difference into a whole cell)

A detection without a partner counts only where its score is clear of the model's own cut-off by --margin.

  frcnn compare my.pth model.onnx --images folder/
  frcnn compare my.pth model.frcnn --images folder/
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frcnn.console import note, say, show_table, track, warn
from frcnn.errors import ArtifactError, FrcnnError, ImageError, UsageError
from frcnn.exporter.commands.checkpoint_options import add_checkpoint_arguments, load_from_options, print_checkpoint
from frcnn.files import write_text
from frcnn.runtime.host.onnxruntime_providers import PROVIDERS

if TYPE_CHECKING:
    from frcnn.benchmarks.parity.comparison import ImageParity, Limits, Parity
    from frcnn.runtime.images.image import RGBImage
    from frcnn.spec import Manifest, ModelSpec
    from frcnn.spec.engine import EngineManifest

__all__ = ["add_arguments", "run"]

_EXIT_OK = 0
_EXIT_DISAGREEMENT = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_checkpoint_arguments(parser)
    group = parser.add_argument_group("comparison")
    group.add_argument("model", metavar="MODEL", type=Path, help="the artifact: model.onnx or model.frcnn")
    group.add_argument(
        "--images", metavar="PATH", type=Path, nargs="+", required=True, help="images and folders of images"
    )
    group.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        help="where the artifact runs; eager is on the CPU (default: cuda for model.frcnn and bf16, else cpu)",
    )
    group.add_argument(
        "--provider",
        choices=PROVIDERS,
        help="what of ONNX Runtime runs model.onnx (default: cuda on a GPU, cpu otherwise)",
    )
    group.add_argument("--json", metavar="FILE", help="write the whole comparison; - for standard output")
    group.add_argument(
        "--threads", type=int, default=None, help="processor threads of eager and of model.onnx (default: all)"
    )
    limits = parser.add_argument_group("limits (defaults above)")
    for name, help_text in (
        ("box-px", "largest difference of a box coordinate in pixels (fp32)"),
        ("score", "largest difference of scores (fp32)"),
        ("iou", "a pair of less IoU has moved (fp16 and bf16)"),
        ("moved", "largest share of pairs that may have moved (fp16 and bf16)"),
        ("min-score", "detections below this are not looked at"),
        ("margin", "distance from the cut-off from which on a missing detection counts"),
        ("unmatched", "largest share of detections that may be missing or have another label"),
    ):
        limits.add_argument(f"--{name}", type=float, default=None, metavar="X", help=help_text)


def run(arguments: argparse.Namespace) -> int:
    """Compare and print; return 1 on disagreement."""
    loaded = load_from_options(arguments)
    import torch

    from frcnn.benchmarks.candidates.artifacts import canvases_of
    from frcnn.benchmarks.candidates.eager_detector import EagerDetector
    from frcnn.benchmarks.parity.comparison import compare_images, total
    from frcnn.runtime import Detector
    from frcnn.runtime.model_files.artifact import open_artifact

    if arguments.threads is not None:
        if arguments.threads < 1:
            raise UsageError(f"--threads: expected 1 or more, got {arguments.threads}")
        torch.set_num_threads(arguments.threads)
    manifest = open_artifact(arguments.model).manifest
    _require_same_model(loaded.spec, manifest, arguments.model)
    limits = _limits(arguments, manifest)
    with Detector.load(arguments.model, **_load_options(arguments, manifest)) as detector:
        if arguments.json != "-":
            print_checkpoint(loaded)
        canvases = canvases_of(manifest)
        files = _files(arguments.images)
        skipped: list[str] = []
        eager = EagerDetector(loaded.model, loaded.spec)
        results: list[ImageParity] = []
        for image in track(_images(files, skipped), total=len(files), what="comparing"):
            try:
                results.extend(compare_images(eager, detector, [image], limits, canvases=canvases, warm_up=not results))
            except ImageError as error:
                _skip(skipped, image.name, error)
    if not results:
        raise ImageError(f"none of the {len(files)} images could be used", hint="see the warnings above")
    parity = total(results, limits)
    _print(parity, arguments.json)
    return _EXIT_OK if parity.passed and not skipped else _EXIT_DISAGREEMENT


def _files(paths: list[Path]) -> list[Path]:
    from frcnn.runtime.images.sources import files_of, is_video

    files, unusable = files_of(map(str, paths))
    for error in unusable.values():
        raise error
    images = [file for file in files if not is_video(file)]
    if not images:
        raise UsageError("--images: expected images, got videos only", hint="give a folder of images")
    return images


def _images(files: list[Path], skipped: list[str]) -> Iterator[RGBImage]:
    from frcnn.runtime.images.image import RGBImage

    for file in files:
        try:
            yield RGBImage.open(file)
        except ImageError as error:
            _skip(skipped, str(file), error)


def _skip(skipped: list[str], name: str, error: FrcnnError) -> None:
    skipped.append(name)
    warn(f"skipped {name}: {error}")


def _load_options(arguments: argparse.Namespace, manifest: Manifest | EngineManifest) -> dict[str, Any]:
    """Return what ``Detector.load`` is asked for; an engine has no use for processor threads, eager has."""
    from frcnn.benchmarks.candidates.artifacts import device_for
    from frcnn.spec.engine import EngineManifest

    options = {"device": arguments.device, "provider": arguments.provider}
    if arguments.device is None and arguments.provider is None:
        options["device"] = device_for(manifest)
    return options if isinstance(manifest, EngineManifest) else options | {"threads": arguments.threads}


def _require_same_model(spec: ModelSpec, manifest: Manifest | EngineManifest, path: Path) -> None:
    """Refuse to compare different models: their detections would differ, and say nothing of the export."""
    from frcnn.benchmarks.candidates.artifacts import model_manifest

    theirs = model_manifest(manifest).model
    for what, expected, got in (
        ("number of classes", spec.num_classes, theirs.num_classes),
        ("preprocessing", spec.transform, theirs.transform),
        ("RPN", spec.rpn, theirs.rpn),
        ("box head", spec.roi_heads, theirs.roi_heads),
    ):
        if expected != got:
            raise ArtifactError(
                f"{path} is another model than the checkpoint: {what}: expected {expected}, got {got}",
                hint="give compare the same --arch and --arg as export",
            )


def _limits(arguments: argparse.Namespace, manifest: Manifest | EngineManifest) -> Limits:
    import msgspec

    from frcnn.benchmarks.candidates.artifacts import model_manifest
    from frcnn.benchmarks.parity.comparison import default_limits

    given = {
        name: value
        for name in ("box_px", "score", "iou", "moved", "min_score", "margin", "unmatched")
        if (value := getattr(arguments, name)) is not None
    }
    for name, value in given.items():
        if not 0 <= value < float("inf"):
            raise UsageError(f"--{name.replace('_', '-')}: expected a number from 0, got {value}")
    pooler = model_manifest(manifest).model.roi_heads.pooler.kind
    return msgspec.structs.replace(default_limits(manifest.precision, pooler), **given)


def _print(parity: Parity, json_target: str | None) -> None:
    import msgspec

    if json_target is not None:
        text = msgspec.json.format(msgspec.json.encode(parity), indent=2).decode()
        if json_target == "-":
            say(text)
        else:
            write_text(json_target, text + "\n")
    show = note if json_target == "-" else say
    if json_target != "-":
        rows = [_row(result) for result in (*parity.images, parity.total)]
        show_table("model against eager torchvision", _COLUMNS, rows)
    t, limits = parity.total, parity.limits
    bound = {
        "exact": f"boxes within {limits.box_px:g} px, scores within {limits.score:g}",
        "overlap": f"above score {limits.min_score:g} IoU at least {limits.iou:g} for {1 - limits.moved:.0%} of pairs",
        "agreement": f"{1 - limits.unmatched:.0%} of detections above score {limits.min_score:g} agree",
    }[limits.rule]
    show(f"limits: {bound}; missing or relabelled at most {limits.unmatched:.1%}")
    ratio = t.eager_ms / t.model_ms
    show(f"median time, roughly: eager {t.eager_ms:.0f} ms, model {t.model_ms:.0f} ms, {ratio:.1f}x (no benchmark)")
    if parity.passed:
        show(f"AGREE: {t.matched} pairs in {len(parity.images)} images")
    else:
        show(
            f"DISAGREE: boxes differ by up to {t.box_px:.4g} px, scores by {t.score:.2g}, least IoU {t.iou:.4f}, "
            f"{t.moved} moved, {t.unmatched} missing, {t.label_mismatches} relabelled of {t.expected} + {t.found}"
        )


_COLUMNS = (
    "image",
    "eager",
    "model",
    "pairs",
    "relabelled",
    "missing",
    "moved",
    "box px",
    "score",
    "min IoU",
    "eager ms",
    "model ms",
)


def _row(result: ImageParity) -> tuple[str, ...]:
    return (
        Path(result.image).name,
        str(result.expected),
        str(result.found),
        str(result.matched),
        str(result.label_mismatches),
        str(result.unmatched),
        str(result.moved),
        f"{result.box_px:.5f}",
        f"{result.score:.1e}",
        f"{result.iou:.5f}",
        f"{result.eager_ms:.0f}",
        f"{result.model_ms:.0f}",
    )
