"""Build an engine artifact: one file that 'frcnn detect' runs on an NVIDIA GPU.

From a model.onnx, or from a checkpoint, which is exported on the way. Only TensorRT needs a GPU, of the kind that the
artifact is for. Without --size it takes what the file takes or, where that is any size, every canvas that the model's
own resizing makes of images.

  frcnn build model.onnx -o model.frcnn --batch 1:1:8 --size 800x1344,1344x800
  frcnn build my.pth --precision fp16 --size 320x320:800x1088:1344x1344
  frcnn build model-int8.onnx -o model.frcnn --precision fp16
  frcnn build model.onnx -o model.frcnn --target onnxruntime
  frcnn build model.onnx -o model.frcnn --target tensorrt --optimization-level 5
  frcnn build model.onnx -o model.frcnn --target tensorrt --version-compatible
"""

from __future__ import annotations

import argparse
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

from frcnn.console import Steps, next_step, note, say, steps
from frcnn.errors import UsageError
from frcnn.exporter.commands.checkpoint_options import (
    add_checkpoint_arguments,
    add_output_argument,
    given_options,
    load_from_options,
    output_path,
    print_checkpoint,
)
from frcnn.exporter.commands.export import export_loaded
from frcnn.files import temporary_folder, writable_file
from frcnn.spec import PRECISIONS
from frcnn.spec.engine import SUFFIX, TARGETS, EngineManifest, OperatorStep
from frcnn.spec.gpu_runs import read_runs, summary
from frcnn.spec.supported_gpus import gpus_text, runs_on

if TYPE_CHECKING:
    from frcnn.exporter.engine.artifact import Built
    from frcnn.exporter.engine.request import Request
    from frcnn.exporter.graph.source_model import SourceModel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_checkpoint_arguments(parser, weights=True, metavar="MODEL", or_else="; or a model.onnx of 'frcnn export'")
    group = parser.add_argument_group("artifact", summary(read_runs()))
    add_output_argument(group, "the artifact", SUFFIX)
    text = "what runs the networks; auto: what serves the GPU that is named, or else here, best (default: %(default)s)"
    group.add_argument("--target", choices=("auto", *TARGETS), default="auto", help=text)
    text = "images in a batch (default: %(default)s)"
    group.add_argument("--batch", metavar="N|MIN:OPT:MAX", default="1:1:8", help=text)
    text = "canvases, height x width in pixels: HxW, or a range HxW:HxW:HxW of min, opt and max"
    group.add_argument("--size", metavar="SIZE[,SIZE...]", help=text)
    text = "of the heavy layers; by default that of the model.onnx, or fp32 for a checkpoint. Of an int8 model: of the "
    text += "layers that are not int8, fp32 (the default) or fp16"
    group.add_argument("--precision", choices=PRECISIONS, help=text)
    text = "GPUs that frcnn's own kernels are compiled for; by default those of the engines. PTX is always added"
    group.add_argument("--kernel-arch", metavar="sm_NN[,sm_NN...]", help=text)
    text = f"GPUs that the engines are for; by default {gpus_text(())}, with --target tensorrt the one that is here, "
    text += "with --target onnxruntime all. TensorRT-RTX serves 7.5, too, but neither 9.0 nor 10.x"
    group.add_argument("--compute-capability", metavar="N.N[,N.N...]", help=text)
    text = "images to run 'frcnn compare' on, against the checkpoint, where there is a GPU"
    group.add_argument("--verify", metavar="PATH", nargs="+", type=Path, help=text)
    _add_tensorrt_arguments(parser)


def _add_tensorrt_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("artifact of --target tensorrt")
    text = "one plan with the operators inside, or two engines with the operators between them; by default a plan "
    group.add_argument("--form", choices=("plan", "split"), help=f"{text}where TensorRT can, from 10.13 on")
    text = "two engines that the lean runtime of the same TensorRT runs, too"
    group.add_argument("--version-compatible", action="store_true", help=text)
    text = "how long TensorRT searches"
    group.add_argument("--optimization-level", metavar="0..5", type=int, help=text)
    text = "most streams that an engine uses beside ours; by default TensorRT's choice"
    group.add_argument("--aux-streams", metavar="N", type=int, help=text)
    text = "most GPU memory that a layer uses as scratch; by default all"
    group.add_argument("--workspace", metavar="MIB", type=int, help=text)
    text = (
        "where TensorRT keeps what it measured, for the next build; by default beside the artifact, like model.timing"
    )
    group.add_argument("--timing-cache", metavar="FILE|none", help=f"{text}, and replaced where it cannot be used")


def run(arguments: argparse.Namespace) -> int | list[str]:
    """Build and print what was made; with ``--verify``, go on with ``compare``."""
    from frcnn.exporter.engine.artifact import build_artifact
    from frcnn.exporter.engine.request import prepare

    output = output_path(arguments, SUFFIX)
    is_onnx = _is_onnx(arguments)
    if arguments.verify and (is_onnx or arguments.checkpoint is None):
        raise UsageError("--verify compares with a checkpoint, got none", hint="build from the checkpoint itself")
    request, reason = _request(arguments, output)
    prepare(request)
    writable_file(output)  # before the work, which takes long, not after it
    started = time.monotonic()
    with steps() as step:
        source = _read(arguments) if is_onnx else _export(arguments, request, step)
        built = build_artifact(source, output, request, progress=step)
    _print_result(output, built, time.monotonic() - started, reason, request.settings.timing_cache)
    return _go_on(arguments, output, built.manifest)


def _request(arguments: argparse.Namespace, output: Path) -> tuple[Request, str]:
    """Return the options of the build, and the reason for the target if it was left to the command."""
    from frcnn.exporter.engine.build_gpu import choose_target
    from frcnn.exporter.engine.builder import BuildSettings, timing_cache_beside
    from frcnn.exporter.engine.request import Request

    architectures, capabilities = arguments.kernel_arch, _items(arguments.compute_capability or "")
    target, reason = choose_target(capabilities) if arguments.target == "auto" else (arguments.target, "")
    named = arguments.timing_cache
    timing_cache = None if named in (None, "none") else Path(named)
    if named is None and target == "tensorrt":
        timing_cache = timing_cache_beside(output)
    request = Request(
        target=target,
        form=arguments.form,
        batch=arguments.batch,
        size=arguments.size,
        architectures=None if architectures is None else _items(architectures),
        settings=BuildSettings(
            compute_capabilities=capabilities,
            optimization_level=arguments.optimization_level,
            timing_cache=timing_cache,
            replace_timing_cache=named is None,
            version_compatible=arguments.version_compatible,
            aux_streams=arguments.aux_streams,
            workspace_mib=arguments.workspace,
        ),
    )
    return request, reason


def _items(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",") if item.strip())


def _is_onnx(arguments: argparse.Namespace) -> bool:
    """Return whether the model is a ``model.onnx``; options that say how to read a checkpoint do not go with one."""
    from frcnn.exporter.graph.source_model import is_onnx

    if arguments.checkpoint is None or not is_onnx(arguments.checkpoint):
        return False
    for option in given_options(arguments):
        raise UsageError(
            f"{option} goes with a checkpoint, got the ONNX model {arguments.checkpoint}",
            hint="leave it out, or give the checkpoint",
        )
    return True


def _read(arguments: argparse.Namespace) -> SourceModel:
    from frcnn.exporter.graph.source_model import in_precision, read_source_model

    source = read_source_model(arguments.checkpoint)
    return in_precision(source, arguments.precision, arguments.checkpoint)


def _export(arguments: argparse.Namespace, request: Request, step: Steps) -> SourceModel:
    """Export the checkpoint to a file that is gone afterwards."""
    from frcnn.exporter.engine.profiles import parse_batch, static_canvases
    from frcnn.exporter.engine.request import require_sizes
    from frcnn.exporter.graph.source_model import read_source_model

    canvases = static_canvases(request.size)
    parse_batch(request.batch)  # what cannot be read is found before the export, which takes long
    loaded = load_from_options(arguments, step)
    print_checkpoint(loaded)
    require_sizes(loaded.spec)
    with temporary_folder() as folder:
        path = folder / "model.onnx"
        export_loaded(loaded, path, sizes=canvases, precision=arguments.precision or "fp32", progress=step)
        return read_source_model(path)


def _print_result(output: Path, built: Built, seconds: float, reason: str, timing_cache: Path | None) -> None:
    manifest = built.manifest
    operators = sum(isinstance(step, OperatorStep) for step in manifest.steps)
    engines = len(manifest.steps) - operators
    memory = manifest.memory
    megabytes = [f"{size / 1e6:.1f}" for size in (memory.weights_bytes, memory.tensors_bytes, memory.workspace_bytes)]
    say(f"wrote {output}: {output.stat().st_size / 1e6:.1f} MB, {seconds:.1f} s")
    say(f"  target:    {_target_text(manifest)}")
    if reason:
        say(f"  chosen:    {reason}")
    for profile in manifest.profiles:
        say(f"  profile:   batch {profile.batch}, canvas {profile}")
    say(f"  steps:     {f'{engines} engines, {operators} operators' if operators else 'one engine, operators inside'}")
    say(f"  kernels:   for {', '.join(manifest.architectures)}")
    say(f"  precision: {built.proof.summary}; boxes and scores in fp32")
    say("  memory:    {} MB weights, {} MB tensors, {} MB for kernels; and the engines' own".format(*megabytes))
    if timing_cache is not None:
        say(f"  timings:   {timing_cache}: {timing_cache.stat().st_size / 1e6:.1f} MB, for the next build")


def _target_text(manifest: EngineManifest) -> str:
    if manifest.target == "onnxruntime":
        return "onnxruntime, on every GPU that it and the kernels run on"
    gpus = gpus_text(manifest.compute_capabilities)
    version = manifest.target_version + ", version compatible," * manifest.version_compatible
    return f"{manifest.target} {version} on compute capability {gpus}"


def _go_on(arguments: argparse.Namespace, output: Path, manifest: EngineManifest) -> int | list[str]:
    """Return the ``compare`` to go on with, for ``--verify``, where the engines' GPU is; else print what is next."""
    from frcnn.exporter.engine.build_gpu import gpu_compute_capability

    gpu = gpu_compute_capability()
    is_here = gpu is not None and runs_on(manifest.target, manifest.compute_capabilities, gpu)
    if not arguments.verify:
        next_step("detect", output, "IMAGES", where="" if is_here else ", on its GPU")
        return 0
    options = [word for words in given_options(arguments).values() for word in words]
    images = list(map(str, arguments.verify))
    command = ["compare", str(arguments.checkpoint), str(output), *options, "--images", *images]
    if is_here:
        return command
    missing = "an NVIDIA GPU" if gpu is None else f"a GPU that it is for (this one has compute capability {gpu})"
    note(f"not verified: that needs {missing}; where there is one: frcnn {shlex.join(command)}")
    return 0
