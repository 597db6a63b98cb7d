"""Measure where the time of a model goes: by stage, from decoding to boxes, and by layer.

A model.onnx is run on the processor with ONNX Runtime's own profiler; a model.frcnn on the GPU, with CUDA events
between its steps and the layers that TensorRT reports. The profiler itself takes time, which is measured and printed.
Without --images, bundled images are used; times that depend on the number of objects differ on yours.

The exit code is 1 where an image could not be read (it is named).

  frcnn profile model.onnx --images folder/ --chart profile.html
  frcnn profile model.frcnn --batch 8 --size 800x1344 --json profile.json
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from frcnn.console import note, progress_bar, warn, write_json
from frcnn.errors import UsageError
from frcnn.files import file_sha256, writable_file, write_text
from frcnn.options import add_images, add_json, add_number, parse_sizes
from frcnn.runtime.commands.run_options import add_run_options

if TYPE_CHECKING:
    from frcnn.benchmarks.candidates.images import Images
    from frcnn.benchmarks.profile.inputs import Inputs
    from frcnn.benchmarks.profile.profile import Measured, Profile
    from frcnn.benchmarks.report.results import Environment
    from frcnn.runtime.model_files.artifact import Artifact
    from frcnn.spec import Size

__all__ = ["add_arguments", "run"]

_EXIT_OK: Final = 0
_EXIT_SKIPPED: Final = 1
_MAX_BATCH: Final = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("model", metavar="MODEL", type=Path, help="model.onnx or model.frcnn")
    group = parser.add_argument_group("what is run")
    add_images(group, more=", taken in turn")
    group.add_argument(
        "--size", metavar="HxW", help="canvas, height x width (default: that of the first image; others are left out)"
    )
    text = "images at a time (default: %(default)s)"
    add_number(group, "--batch", minimum=1, maximum=_MAX_BATCH, default=1, metavar="N", help=text)
    add_number(group, "--repeats", minimum=1, default=10, metavar="N", help="measured runs (default: %(default)s)")
    add_run_options(
        group,
        device="where it runs (default: what the file is for)",
        threads="processor threads of model.onnx (default: all)",
    )
    group = parser.add_argument_group("results")
    group.add_argument(
        "--chart", metavar="FILE", type=Path, default=Path("profile.html"), help="the chart (default: %(default)s)"
    )
    add_json(group)
    text = "layers in table and chart (default: %(default)s)"
    add_number(group, "--top", minimum=1, default=20, metavar="N", help=text)


def run(arguments: argparse.Namespace) -> int:
    """Measure, print and draw; return 1 where images were skipped."""
    from frcnn.benchmarks.candidates.artifacts import canvases_of, first_canvas, model_manifest
    from frcnn.benchmarks.profile.inputs import choose_inputs
    from frcnn.benchmarks.report.formatting import size_text
    from frcnn.benchmarks.timing.environment import load_average, now, read_environment, read_gpu
    from frcnn.runtime.model_files.artifact import open_artifact

    _check(arguments)
    date, load_before = now(), load_average()
    size = None if arguments.size is None else _one_size(arguments.size)
    artifact = open_artifact(arguments.model)
    _check_options(arguments, artifact)
    images = _images(arguments)
    manifest = artifact.manifest
    transform = model_manifest(manifest).model.transform
    inputs = choose_inputs(images, transform, canvases_of(manifest), canvas=size, first=first_canvas(manifest))
    if inputs.left_out:
        note(f"{len(inputs.left_out)} image(s) left out, which do not go on the canvas {size_text(inputs.canvas)}")
    measured = _measured(arguments, artifact, inputs)
    environment = read_environment(
        command=arguments.command,
        threads=_threads(arguments),
        load_before=load_before,
        date=date,
        gpu=None if measured.device == "cpu" or find_spec("torch") is None else read_gpu([]),
    )
    _report(_profile(arguments, artifact, inputs, images.source, measured, environment), arguments)
    return _EXIT_SKIPPED if images.skipped else _EXIT_OK


def _check(arguments: argparse.Namespace) -> None:
    """Refuse outputs that cannot be written, or are one file, before the work."""
    from frcnn.benchmarks.report.drawing import check_renderer

    check_renderer()
    outputs = [arguments.chart] if arguments.json in (None, "-") else [arguments.chart, Path(arguments.json)]
    for path in outputs:
        writable_file(path)
    if len({path.resolve() for path in (arguments.model, *outputs)}) <= len(outputs):
        raise UsageError("the model, --chart and --json are not three different files", hint="name others")


def _one_size(text: str) -> Size:
    sizes = parse_sizes(text)
    if len(sizes) > 1:
        raise UsageError(f"--size: expected one canvas, got {text!r}", hint="profile one after the other")
    return sizes[0]


def _check_options(arguments: argparse.Namespace, artifact: Artifact) -> None:
    """Refuse options that the file has no use for, as loading it would."""
    from frcnn.benchmarks.profile.onnx_profile import check_on_processor
    from frcnn.runtime.loading import check_engine_options
    from frcnn.runtime.model_files.artifact import OnnxArtifact

    if isinstance(artifact, OnnxArtifact):
        check_on_processor(arguments.device, arguments.provider)
    else:
        check_engine_options(
            arguments.model, device=arguments.device, provider=arguments.provider, threads=arguments.threads
        )


def _images(arguments: argparse.Namespace) -> Images:
    from frcnn.benchmarks.candidates.images import default_images, given_images

    found = default_images() if arguments.images is None else given_images(arguments.images)
    for item in found.skipped:
        warn(f"skipped {item.name}: {item.reason}")
    return found


def _measured(arguments: argparse.Namespace, artifact: Artifact, inputs: Inputs) -> Measured:
    from frcnn.benchmarks.profile.engine_profile import profile_engine
    from frcnn.benchmarks.profile.onnx_profile import profile_onnx
    from frcnn.runtime.loading import open_engines
    from frcnn.runtime.model_files.artifact import OnnxArtifact

    batch, repeats = arguments.batch, arguments.repeats
    if isinstance(artifact, OnnxArtifact):
        with progress_bar("loading") as report:
            return profile_onnx(
                artifact, inputs, batch=batch, repeats=repeats, threads=_threads(arguments), report=report
            )
    with ExitStack() as stack:
        device, engines = open_engines(artifact, trusted_hashes=None)
        stack.callback(device.close)
        for engine in engines.values():
            stack.callback(engine.close)
        report = stack.enter_context(progress_bar("loading"))
        return profile_engine(
            artifact.manifest,
            artifact.read_part,
            device,
            engines,
            inputs,
            batch=batch,
            repeats=repeats,
            report=report,
            warn=warn,
        )


def _threads(arguments: argparse.Namespace) -> int:
    from frcnn.runtime.host.onnxruntime_backend import available_cpus

    return int(arguments.threads or available_cpus())


def _profile(
    arguments: argparse.Namespace,
    artifact: Artifact,
    inputs: Inputs,
    source: str,
    measured: Measured,
    environment: Environment,
) -> Profile:
    from frcnn.benchmarks.candidates.artifacts import model_manifest
    from frcnn.benchmarks.profile.profile import SCHEMA_VERSION, Profile, layer_times, stage_times
    from frcnn.runtime.model_files.artifact import OnnxArtifact

    stages = stage_times(measured.runs, measured.more)
    total_ms = sum(stage.ms for stage in stages)
    return Profile(
        schema_version=SCHEMA_VERSION,
        environment=environment,
        model=str(arguments.model),
        sha256=file_sha256(arguments.model),
        architecture=model_manifest(artifact.manifest).model.architecture,
        runtime="onnxruntime" if isinstance(artifact, OnnxArtifact) else artifact.manifest.target,
        device=measured.device,
        precision=artifact.manifest.precision,
        batch=arguments.batch,
        canvas=inputs.canvas,
        source=source,
        images=inputs.used(arguments.repeats, arguments.batch),
        repeats=arguments.repeats,
        total_ms=total_ms,
        network_ms=measured.network_ms,
        profiled_ms=measured.profiled_ms,
        stages=tuple(stages),
        layers=tuple(layer_times(measured.runs, total_ms=total_ms)),
    )


def _report(profile: Profile, arguments: argparse.Namespace) -> None:
    from frcnn.benchmarks.profile.page import profile_page
    from frcnn.benchmarks.profile.table import show_profile

    if arguments.json is not None:
        write_json(profile, arguments.json)
    if arguments.json != "-":
        show_profile(profile, top=arguments.top)
        if arguments.json is not None:
            note(f"wrote {arguments.json}")
    write_text(arguments.chart, profile_page(profile, top=arguments.top))
    note(f"wrote {arguments.chart}")
