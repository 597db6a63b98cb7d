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
from typing import Final

from frcnn.benchmarks.candidates.artifacts import canvases_of, first_canvas
from frcnn.benchmarks.candidates.images import chosen_images
from frcnn.benchmarks.profile.engine_profile import profile_engine
from frcnn.benchmarks.profile.inputs import Inputs, choose_inputs
from frcnn.benchmarks.profile.onnx_profile import check_on_processor, profile_onnx
from frcnn.benchmarks.profile.page import profile_page, show_profile
from frcnn.benchmarks.profile.profile import SCHEMA_VERSION, Measured, Profile, layer_times, stage_times
from frcnn.benchmarks.report.drawing import check_renderer
from frcnn.benchmarks.report.formatting import size_text
from frcnn.benchmarks.timing.environment import load_average, now, read_environment, read_gpu
from frcnn.console import few, next_step, note, steps, warn, write_json
from frcnn.errors import UsageError
from frcnn.files import file_sha256, writable_file, write_text
from frcnn.options import add_images, add_json, add_number, parse_sizes
from frcnn.processors import available_cpus
from frcnn.runtime.commands.run_options import add_run_options
from frcnn.runtime.loading import check_engine_options, open_engines
from frcnn.runtime.model_files.artifact import OnnxArtifact, open_artifact
from frcnn.runtime.model_files.engine_artifact import EngineArtifact
from frcnn.spec import Size

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
    size = _check(arguments)
    date, load_before = now(), load_average()
    artifact = open_artifact(arguments.model)
    manifest, threads = artifact.manifest, int(arguments.threads or available_cpus())
    where = {name: getattr(arguments, name) for name in ("device", "provider", "precision")}
    if isinstance(artifact, OnnxArtifact):
        check_on_processor(**where)
    else:
        check_engine_options(arguments.model, threads=arguments.threads, **where)
    images = chosen_images(arguments.images)
    model = manifest.model
    inputs = choose_inputs(images, model.transform, canvases_of(manifest), canvas=size, first=first_canvas(manifest))
    if inputs.left_out:
        note(f"{len(inputs.left_out)} image(s) left out, which do not go on the canvas {size_text(inputs.canvas)}")
    measured = _measured(artifact, inputs, batch=arguments.batch, repeats=arguments.repeats, threads=threads)
    stages = stage_times(measured.runs, measured.more)
    total_ms = sum(stage.ms for stage in stages)
    profile = Profile(
        schema_version=SCHEMA_VERSION,
        environment=read_environment(
            command=arguments.command,
            threads=threads,
            load_before=load_before,
            date=date,
            gpu=None if measured.device == "cpu" or find_spec("torch") is None else read_gpu([]),
        ),
        model=str(arguments.model),
        sha256=file_sha256(arguments.model),
        architecture=model.architecture,
        runtime="onnxruntime" if isinstance(artifact, OnnxArtifact) else artifact.manifest.target,
        device=measured.device,
        precision=manifest.precision,
        batch=arguments.batch,
        canvas=inputs.canvas,
        source=images.source,
        images=inputs.used(arguments.repeats, arguments.batch),
        repeats=arguments.repeats,
        total_ms=total_ms,
        network_ms=measured.network_ms,
        profiled_ms=measured.profiled_ms,
        stages=tuple(stages),
        layers=tuple(layer_times(measured.runs, total_ms=total_ms)),
    )
    _report(profile, arguments)
    return 1 if images.skipped else 0


def _check(arguments: argparse.Namespace) -> Size | None:
    """Refuse outputs that cannot be written, or are one file, before the work; return the canvas of ``--size``."""
    check_renderer()
    outputs = [arguments.chart] if arguments.json in (None, "-") else [arguments.chart, Path(arguments.json)]
    for path in outputs:
        writable_file(path)
    if len({path.resolve() for path in (arguments.model, *outputs)}) <= len(outputs):
        raise UsageError("the model, --chart and --json are not three different files", hint="name others")
    sizes = () if arguments.size is None else parse_sizes(arguments.size)
    if len(sizes) > 1:
        raise UsageError(f"--size: expected one canvas, got {arguments.size!r}", hint="profile one after the other")
    return sizes[0] if sizes else None


def _measured(
    artifact: OnnxArtifact | EngineArtifact, inputs: Inputs, *, batch: int, repeats: int, threads: int
) -> Measured:
    if isinstance(artifact, OnnxArtifact):
        with steps(log=False) as report:
            report("loading", 0.0)
            return profile_onnx(artifact, inputs, batch=batch, repeats=repeats, threads=threads, report=report)
    with ExitStack() as stack:
        device, engines = open_engines(artifact, trusted_hashes=None)
        stack.callback(device.close)
        for engine in engines.values():
            stack.callback(engine.close)
        report = stack.enter_context(steps(log=False))
        report("loading", 0.0)
        return profile_engine(artifact, device, engines, inputs, batch=batch, repeats=repeats, report=report, warn=warn)


def _report(profile: Profile, arguments: argparse.Namespace) -> None:
    write_json(profile, arguments.json)
    write_text(arguments.chart, profile_page(profile, top=arguments.top))
    if arguments.json != "-":
        show_profile(profile, top=arguments.top)
        if arguments.json is not None:
            note(f"wrote {arguments.json}")
    note(f"wrote {arguments.chart}")
    how = ("tune", "--images", *few(arguments.images)) if arguments.model.suffix == ".onnx" else ("inspect", "--layers")
    next_step(how[0], arguments.model, *how[1:])
