"""Quantise a ``model.onnx`` to int8: calibrate, search for a recipe, and write what passes the gate."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx

from frcnn.benchmarks.accuracy.orientation import READINGS, Reading
from frcnn.benchmarks.quantization.gate import AccuracyGate, AgreementGate, Found, Gate, Proof, detect, search
from frcnn.benchmarks.quantization.images import MIN_GATE_IMAGES, Split, calibration_inputs, find_candidates, split
from frcnn.benchmarks.quantization.models import QuantizedModels, layer_macs, read_float_model
from frcnn.benchmarks.quantization.report import GroupReport, Measured, QuantizationReport, Target
from frcnn.benchmarks.timing.environment import load_average, read_environment
from frcnn.console import track
from frcnn.errors import UsageError
from frcnn.exporter.graph.inline import inline_operators
from frcnn.exporter.graph.source_model import SourceModel
from frcnn.files import replacing, temporary_folder, writable_file
from frcnn.processors import available_cpus
from frcnn.runtime import Detections
from frcnn.runtime.dataset.annotations import AnnotatedImage, count_objects, read_annotations
from frcnn.runtime.dataset.class_map import map_classes
from frcnn.runtime.dataset.faults import tell_names
from frcnn.runtime.images.image import RGBImage
from frcnn.runtime.images.preprocess import prepare
from frcnn.spec import Manifest

GATE_IMAGES: Final[Mapping[Proof, int]] = {"accuracy": 300, "agreement": 100}
"""Most images for the gate by default. AP needs more: each object counts once, in one class."""

PREDICTION_LAYERS: Final = "prediction layers"
"""The group of those that are in float32 always."""

SENSITIVITY_IMAGES: Final = 60
"""Most images to measure what each group of layers recovers: they only have to tell the groups apart."""

StrPath = str | os.PathLike[str]
Progress = Callable[[str], None]


def quantize_onnx(
    model: StrPath,
    output: StrPath,
    images: StrPath | Sequence[StrPath],
    *,
    annotations: StrPath | None = None,
    target: Target = "cpu",
    max_drop: float = 0.3,
    calibration_images: int = 100,
    gate_images: int | None = None,
    class_pairs: Sequence[str] = (),
    allow_unmapped: bool = False,
    skip_invalid: bool = False,
    exif: Reading | None = None,
    inline: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> QuantizationReport:
    """Quantise a float32 ``model.onnx`` to int8, by ONNX Runtime's quantiser, and write it if a gate holds.

    Activation ranges are found on images, prepared as ``Detector`` prepares them. Then the model is judged on other
    images: with annotations AP may fall by ``max_drop`` points; without, its detections must be those of the float
    model, which is the weaker proof. Where the gate does not hold, groups of layers go back to float32, that which
    recovers most first, until it does. All runs in ONNX Runtime on the CPU.

    Args:
        model: a float32 file of ``frcnn export``, not inlined.
        output: the file to write.
        images: a folder, or files and folders, like those that the model will see; at least 8. With annotations the
            first is the folder that their file names are relative to, and images without annotations are calibrated on
            first.
        annotations: COCO's ``instances.json``, or a folder of Pascal VOC's XML files.
        target: ``"cpu"``, or ``"tensorrt"``, which needs activations with zero point 0.
        max_drop: most AP points of 100 that may be lost.
        calibration_images: most images to calibrate on. Where there are too few for both, the gate gets half.
        gate_images: most images for the gate. Default: 300 with annotations, 100 without.
        class_pairs: ``MODEL=ANNOTATION`` each, names or numbers, for classes whose names differ.
        allow_unmapped: leave out the categories that are no class of the model.
        skip_invalid: leave out annotations that are invalid.
        exif: what boxes are in where EXIF turns an image: ``"upright"``, as it is shown, or ``"stored"``, its pixels as
            they are stored. Default: what boxes and sizes show, which a warning states.
        inline: write standard operators only, as ``export_onnx(inline=True)`` does.
        threads: of the CPU. Default: all that this process may use.
        progress: told what begins and what each model loses, in a line.

    Returns:
        The report. Where its ``passed`` is False, nothing was written.

    Raises:
        ArtifactError: the model is damaged, not frcnn's, or not a float32 one.
        ExportError: its graph is another than this version of frcnn exports.
        ImageError: too few images can be used.
        MissingDependencyError: ONNX Runtime or, with annotations, faster-coco-eval is not installed.
        OutputError: the file cannot be written.
        UsageError: an option makes no sense, or model, images and annotations do not fit each other.
    """
    request = _Request(
        model=Path(model),
        output=Path(output),
        target=target,
        max_drop=max_drop,
        inline=inline,
        threads=threads,
        progress=progress or (lambda line: None),
    )
    paths = [Path(images)] if isinstance(images, str | os.PathLike) else [Path(path) for path in images]
    if not paths:
        raise UsageError("images: expected a folder, or files and folders, got nothing")
    for name, count in (("calibration_images", calibration_images), ("gate_images", gate_images)):
        if count is not None and count < MIN_GATE_IMAGES:
            raise UsageError(f"{name}: expected {MIN_GATE_IMAGES} or more, got {count}")
    if exif not in (None, *READINGS):
        raise UsageError(f"exif: expected upright or stored, got {exif!r}")
    source = read_float_model(request.model)
    ground_truth, categories = None, None
    if annotations is not None:
        ground_truth = read_annotations(Path(annotations), paths[0], skip_invalid=skip_invalid)
        classes = map_classes(source.manifest.model, ground_truth, class_pairs, allow_unmapped=allow_unmapped)
        categories = classes.categories
        tell_names(request.progress, ground_truth.invalid, "annotations are invalid and are left out")
        tell_names(request.progress, classes.respelt, "classes are spelt differently there")
    candidates = find_candidates(paths, ground_truth, exif)
    most = gate_images or GATE_IMAGES["agreement" if ground_truth is None else "accuracy"]
    chosen = split(candidates, source.manifest, calibration=calibration_images, gate=most)
    if candidates.missing:
        request.progress(f"{len(candidates.missing)} annotated images are not in {paths[0]}; they are left out")
    request.progress(
        f"{len(chosen.calibration)} images to calibrate on, {len(chosen.gate)} others for the gate"
        + (f", {len(chosen.skipped)} cannot be used" if chosen.skipped else "")
    )
    with temporary_folder() as folder:
        return _quantize(request, source, chosen, categories, folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    model: Path
    output: Path
    target: Target
    max_drop: float
    inline: bool
    threads: int | None
    progress: Progress

    def __post_init__(self) -> None:
        if self.output.suffix != ".onnx":
            raise UsageError(
                f"-o: expected a file name ending in .onnx, got {self.output}", hint=f"-o {self.output}.onnx"
            )
        if self.output.resolve() == self.model.resolve():
            raise UsageError(f"-o: {self.output} is the model and would be overwritten", hint="choose another output")
        if self.target not in ("cpu", "tensorrt"):
            raise UsageError(f"target: expected cpu or tensorrt, got {self.target!r}")
        if not 0 <= self.max_drop <= 100:
            raise UsageError(f"max_drop: expected 0 to 100, got {self.max_drop:g}")
        writable_file(self.output)  # before the work, which takes long, not after it


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[step] = time.monotonic() - start


class _Runs:
    """Makes models and detects with them; keeps the file and the manifest of the last."""

    def __init__(
        self, request: _Request, models: QuantizedModels, path: Path, files: Mapping[Path, AnnotatedImage]
    ) -> None:
        self._request, self._models, self._files = request, models, files
        self.path = path
        self.manifest: Manifest | None = None
        self.ms_per_image = 0.0

    def __call__(self, float_groups: Sequence[str], count: int, what: str) -> list[Detections]:
        """Detect in the first images; see ``search.Run``."""
        self.manifest = self._models.write(self.path, float_groups)
        files = dict(list(self._files.items())[:count])
        found, self.ms_per_image = detect(self.path, files, threads=self._request.threads, what=what)
        return [image.model for image in found]


def _quantize(
    request: _Request, source: SourceModel, images: Split, categories: Mapping[int, int] | None, folder: Path
) -> QuantizationReport:
    seconds, load_before, started = dict[str, float](), load_average(), time.monotonic()
    request.progress(f"detecting with the float model in {len(images.gate)} images")
    with _timed(seconds, "float32"):
        reference, float_ms = detect(request.model, images.gate, threads=request.threads, what="float32")
    gate: Gate = (
        AgreementGate(reference, source.manifest.model)
        if categories is None
        else AccuracyGate(reference, categories, max_drop=request.max_drop)
    )
    calibration_s, gate_s = (len(files) * float_ms / 1e3 for files in (images.calibration, images.gate))
    request.progress(f"calibrating takes about {2 * calibration_s:.0f} s, each model to try at most {gate_s:.0f} s")
    with _timed(seconds, "calibration"):
        inputs = calibration_inputs(images.calibration, source.manifest)
        models = QuantizedModels(
            source,
            track(inputs, total=len(images.calibration), what="calibrating"),
            images=len(images.calibration),
            symmetric=request.target == "tensorrt",
            threads=request.threads or available_cpus(),
        )
    groups = models.groups | {PREDICTION_LAYERS: models.prediction_layers}
    shares = _shares(source, groups, images)
    run = _Runs(request, models, folder / request.output.name, images.gate)
    with _timed(seconds, "search"):
        tried = {group: shares[group] for group in models.groups}
        found = search(tried, gate, run, part=SENSITIVITY_IMAGES, progress=request.progress)
    last = found.attempts[-1].verdict
    assert run.manifest is not None and run.manifest.quantization is not None
    if last.passed:
        if request.inline:
            onnx.save_model(inline_operators(onnx.load_model(run.path)), run.path)
        with replacing(request.output) as temporary:
            shutil.copyfile(run.path, temporary)  # the very file that passed the gate
    reports = _group_reports(groups, shares, found)
    return QuantizationReport(
        model=str(request.model),
        output=str(request.output),
        target=request.target,
        passed=last.passed,
        proof=gate.proof,
        drop=last.drop,
        max_drop=request.max_drop,
        objects=None if categories is None else count_objects(images.gate.values(), categories.values()),
        float_macs=sum(group.macs for group in reports if group.precision == "fp32"),
        float32=Measured(measures=gate.reference, bytes=request.model.stat().st_size, ms_per_image=float_ms),
        int8=Measured(measures=last.measures, bytes=run.path.stat().st_size, ms_per_image=run.ms_per_image),
        groups=reports,
        attempts=found.attempts,
        calibration_images=tuple(map(str, images.calibration)),
        gate_images=tuple(map(str, images.gate)),
        sensitivity_images=found.sensitivity_images,
        skipped=images.skipped,
        quantization=run.manifest.quantization,
        seconds=seconds | {"all": time.monotonic() - started},
        peak_memory_bytes=_peak_memory_bytes(),
        environment=read_environment(command="", threads=request.threads or available_cpus(), load_before=load_before),
    )


def _shares(source: SourceModel, groups: Mapping[str, Sequence[str]], images: Split) -> dict[str, float]:
    """Return each group's share of the MACs, on the canvas of the first image calibrated on."""
    canvas = prepare(RGBImage.open(images.calibration[0]), source.manifest).canvas
    macs = layer_macs(source.model, canvas)
    total = sum(macs.values())
    return {group: sum(macs.get(layer, 0) for layer in layers) / total for group, layers in groups.items()}


def _group_reports(
    groups: Mapping[str, tuple[str, ...]], shares: Mapping[str, float], found: Found
) -> tuple[GroupReport, ...]:
    in_float = {PREDICTION_LAYERS, *found.attempts[-1].float_groups}
    return tuple(
        GroupReport(
            name=name,
            layers=layers,
            macs=shares[name],
            recovered=found.recovered.get(name),
            precision="fp32" if name in in_float else "int8",
        )
        for name, layers in groups.items()
    )


def _peak_memory_bytes() -> int | None:
    """Return the most memory that this process has had; None where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
