"""Show what is in a model file: what frcnn knows of it, its inputs and outputs, its operators.

Of a model.onnx the weights are not loaded. Of a model.frcnn no engine is loaded; every part's SHA-256 is checked, and
the file's is printed, which Detector.load(trusted_hashes=...) takes.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from frcnn.console import next_step, say, show_table, write_json
from frcnn.errors import UsageError, printable
from frcnn.runtime.model_files.artifact import count_precisions
from frcnn.spec import Manifest, Quantization, Size
from frcnn.spec.engine import MANIFEST_PART, EngineManifest, EngineStep, OperatorStep, PrecisionRecord
from frcnn.spec.supported_gpus import gpus_text

if TYPE_CHECKING:
    from frcnn.runtime.model_files.artifact import Network, OnnxArtifact
    from frcnn.runtime.model_files.engine_artifact import EngineArtifact

_KERNEL: Final = re.compile(r"(?P<kernel>kernels/.+)\.(?:sm|compute)_[^.]+\.(?:cubin|ptx)")
_HASH_DIGITS: Final = 12  # enough to tell parts apart at a glance; --hashes prints all 64
_MAX_VALUES: Final = 8  # of an attribute; more, like a level's anchors, are counted
_MIB: Final = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``frcnn inspect``."""
    parser.add_argument("model", help="model.onnx, made by frcnn export, or model.frcnn, made by frcnn build")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--layers", action="store_true", help="list the precision of every layer")
    parser.add_argument("--hashes", action="store_true", help="of a model.frcnn: list the SHA-256 of every part")


def run(arguments: argparse.Namespace) -> int:
    """Run ``frcnn inspect``."""
    from frcnn.runtime.model_files.artifact import OnnxArtifact, open_artifact, read_network

    artifact = open_artifact(arguments.model)
    if not isinstance(artifact, OnnxArtifact):
        artifact.check_parts()  # of a damaged file nothing is shown
        if arguments.json:
            write_json(_engine_as_json(artifact, layers=arguments.layers))
        else:
            _show_engine(artifact, layers=arguments.layers, hashes=arguments.hashes)
        next_step("detect", artifact.path, "IMAGES", where=", on its GPU")
        return 0
    if arguments.hashes:
        raise UsageError(
            f"--hashes: {arguments.model} is an ONNX model, only a model.frcnn has that",
            hint="build one: frcnn build model.onnx -o model.frcnn",
        )
    network = read_network(artifact)
    if arguments.json:
        write_json(_as_json(artifact, network, layers=arguments.layers))
    else:
        _show(artifact, network, layers=arguments.layers)
    next_step("detect", artifact.path, "IMAGES", where=", on a GPU" * (artifact.manifest.precision == "bf16"))
    return 0


def _as_json(artifact: OnnxArtifact, network: Network, *, layers: bool) -> dict[str, Any]:
    outline = artifact.outline
    return {
        "kind": "onnx",
        "file": str(artifact.path),
        "file_bytes": outline.file_bytes,
        "weight_bytes": outline.weight_bytes,
        "producer": outline.producer,
        "manifest": artifact.manifest,
        "opsets": network.opsets,
        "inputs": network.inputs,
        "outputs": network.outputs,
        "operators": network.operators,
        "functions": network.functions,
        "layer_counts": count_precisions(network.layers),
    } | ({"layers": network.layers} if layers else {})


def _show(artifact: OnnxArtifact, network: Network, *, layers: bool) -> None:
    show_table(f"model {artifact.path}", ("what", "value"), _facts(artifact, network), text_columns=range(2))
    values = [("input", value) for value in network.inputs] + [("output", value) for value in network.outputs]
    rows = [(value.name, kind, value.dtype, " x ".join(value.shape)) for kind, value in values]
    show_table("inputs and outputs", ("name", "", "type", "shape"), rows, text_columns=range(4))
    counted = [(name, str(count)) for name, count in network.operators.items()]
    show_table("operators", ("operator", "count"), counted)
    bodies = [(name, ", ".join(f"{n} {op}" for op, n in ops.items())) for name, ops in network.functions.items()]
    if bodies:
        show_table("functions in the file", ("operator", "made of"), bodies, text_columns=range(2))
    if layers:
        heavy = [(printable(layer.name), layer.precision, layer.operator) for layer in network.layers]
        title = "every convolution and matrix product"
        show_table(title, ("layer", "precision", "operator"), heavy, text_columns=range(3))
    for assumption in artifact.manifest.assumptions:
        say(f"assumed: {assumption}")


def _facts(artifact: OnnxArtifact, network: Network) -> list[tuple[str, str]]:
    manifest, outline = artifact.manifest, artifact.outline
    layers = ", ".join(f"{count} {name}" for name, count in count_precisions(network.layers).items())
    canvases = f"any multiple of {manifest.model.transform.size_divisible}"
    if manifest.canvases is not None:
        canvases = ", ".join(map(_by, manifest.canvases))
    return [
        *_model_facts(manifest),
        ("precision", manifest.precision),
        ("layers", f"{layers or 'no'} convolutions and matrix products"),
        *_quantization_facts(manifest.quantization),
        ("canvases", f"{canvases} (height x width)"),
        ("opset", str(manifest.opset)),
        ("file", f"{outline.file_bytes:,} bytes, {outline.weight_bytes:,} of them weights"),
        ("made with", _versions(manifest.versions)),
        ("checkpoint SHA-256", manifest.source_sha256 or "unknown"),
    ]


def _quantization_facts(quantization: Quantization | None) -> list[tuple[str, str]]:
    """Return the rows on how an int8 model was quantised."""
    if quantization is None:
        return []
    zero_point = "zero point 0, as TensorRT needs it" if quantization.symmetric else "unsigned, for processors"
    layers = quantization.float_layers
    names = ", ".join(layers) if len(layers) <= _MAX_VALUES else f"{len(layers)} layers, listed by --layers"
    return [
        ("quantised by", f"{quantization.quantizer} on {quantization.images} image(s)"),
        ("activations", zero_point),
        ("kept in float", names or "nothing but what the recipe never quantises"),
    ]


def _engine_as_json(artifact: EngineArtifact, *, layers: bool) -> dict[str, Any]:
    records = artifact.read_precision()
    counts = [{"element": element, "heavy": heavy, "other": other} for element, heavy, other in _counted(records)]
    return {
        "kind": "engine",
        "file": str(artifact.path),
        "file_bytes": artifact.archive.file_bytes,
        "sha256": artifact.archive.sha256(),
        "manifest": artifact.manifest,
        "layer_counts": counts,
    } | ({"layers": records} if layers else {})


def _show_engine(artifact: EngineArtifact, *, layers: bool, hashes: bool) -> None:
    manifest, records = artifact.manifest, artifact.read_precision()
    facts = [*_engine_facts(artifact), *_model_facts(manifest.source)]
    show_table(f"engine artifact {artifact.path}", ("what", "value"), facts, text_columns=range(2))
    profiles = [(str(p.batch), str(p.height), str(p.width)) for p in manifest.profiles]
    show_table("profiles", ("batch (min:opt:max)", "height", "width"), profiles, text_columns=range(3))
    steps = [row for index, step in enumerate(manifest.steps) for row in _step_rows(index, step, manifest)]
    show_table("a detection, step by step", ("", "runs", "", "tensors"), steps, text_columns=range(4))
    if records:
        counts = [(element, str(heavy), str(other)) for element, heavy, other in _counted(records)]
        show_table("layers", ("type of output", "heavy", "other"), counts)
    show_table("parts", ("part", "SHA-256 begins", "files", "bytes"), _part_rows(manifest), text_columns=range(2))
    if layers:
        rows = [(printable(r.layer), r.element, "heavy" if r.heavy else "", r.type, str(r.step)) for r in records]
        show_table("every layer", ("layer", "type of output", "", "layer type", "step"), rows, text_columns=range(4))
    if hashes:
        say(f"SHA-256 of the parts, as sha256sum -c takes them in the folder of frcnn unpack ({MANIFEST_PART} apart)")
        for name, part in manifest.parts.items():
            say(f"{part.sha256}  {name}", exact=True)
    for assumption in manifest.source.assumptions:
        say(f"assumed: {assumption}")
    say(f"SHA-256 of the file: {artifact.archive.sha256()}")


def _engine_facts(artifact: EngineArtifact) -> list[tuple[str, str]]:
    manifest = artifact.manifest
    memory = manifest.memory
    mib = [f"{size / _MIB:,.1f}" for size in (memory.weights_bytes, memory.tensors_bytes, memory.workspace_bytes)]
    total = f"{memory.total_bytes / _MIB:,.1f}"
    cubins = [name for name in manifest.architectures if name.startswith("sm_")]
    ptx = [name for name in manifest.architectures if name not in cubins]
    kernels = [*([", ".join(cubins)] if cubins else []), *(f"PTX from {name} on for others" for name in ptx)]
    return [
        ("target", f"{_target(manifest)}, CUDA {manifest.cuda_major}"),
        ("GPUs", _gpus(manifest)),
        ("kernels", "; ".join(kernels) or "none"),
        ("precision", manifest.precision),
        ("GPU memory", "{} MiB: weights {}, tensors {}, kernels {}; scratch on top".format(total, *mib)),
        ("file", f"{artifact.archive.file_bytes:,} bytes"),
        ("built with", _versions(manifest.versions)),
    ]


def _target(manifest: EngineManifest) -> str:
    if manifest.target == "onnxruntime":
        return "onnxruntime"
    return f"{manifest.target} {manifest.target_version}{', version compatible' * manifest.version_compatible}"


def _gpus(manifest: EngineManifest) -> str:
    if manifest.target == "onnxruntime":
        return "those that the kernels are for"
    return f"compute capability {gpus_text(manifest.compute_capabilities)}"


def _step_rows(index: int, step: EngineStep | OperatorStep, manifest: EngineManifest) -> list[tuple[str, ...]]:
    """Return what a step runs and reads, and what it writes; tensors one a line, for their names are long."""
    if isinstance(step, EngineStep):
        runs, outputs = step.part, step.outputs
    else:
        numbers = (f"{name} {_value(value)}" for name, value in step.attributes.items())
        runs, outputs = "\n  ".join((step.operator, *numbers)), step.outputs
    return [
        (str(index), runs, "reads", _tensors(step.inputs, manifest)),
        ("", "", "writes", _tensors(outputs, manifest)),
    ]


def _tensors(names: Iterable[str], manifest: EngineManifest) -> str:
    tensors = ((name, manifest.tensors[name]) for name in names)
    return "\n".join(f"{name} {t.element}{' NHWC' * (t.layout != 'planar')}" for name, t in tensors)


def _value(value: float | tuple[float, ...]) -> str:
    values = value if isinstance(value, tuple) else (value,)
    return " ".join(f"{item:g}" for item in values) if len(values) <= _MAX_VALUES else f"{len(values)} numbers"


def _counted(records: Sequence[PrecisionRecord]) -> list[tuple[str, int, int]]:
    """Return (type, heavy layers, other layers), most layers first."""
    every = Counter(record.element for record in records)
    heavy = Counter(record.element for record in records if record.heavy)
    return [(element, heavy[element], count - heavy[element]) for element, count in every.most_common()]


def _part_rows(manifest: EngineManifest) -> list[tuple[str, str, str, str]]:
    """Return a row a part; one for all architectures of a kernel."""
    groups: dict[str, list[str]] = {}
    for name in manifest.parts:
        match = _KERNEL.fullmatch(name)
        groups.setdefault(name if match is None else f"{match['kernel']}.*", []).append(name)
    rows = []
    for group, names in groups.items():
        begins = manifest.parts[group].sha256[:_HASH_DIGITS] if group in manifest.parts else ""
        total = sum(manifest.parts[name].size_bytes for name in names)
        rows.append((group, begins, str(len(names)), f"{total:,}"))
    return rows


def _model_facts(manifest: Manifest) -> list[tuple[str, str]]:
    """Return the rows (what, value) on the detector in a file of either kind."""
    model = manifest.model
    transform, rpn, heads = model.transform, model.rpn, model.roi_heads
    sizes = f"short side {transform.min_size}, long side at most {transform.max_size}"
    if transform.fixed_size is not None:
        sizes = f"resized to {_by(transform.fixed_size)}"
    rule = "" if transform.resize == "torchvision" else f", resized as {transform.resize} does"
    names = ", ".join(model.labels[1:]) if model.labels is not None else "without names"
    return [
        ("architecture", model.architecture),
        ("classes", f"{model.num_classes - 1}: {names}"),
        ("images", f"{sizes} (pixels){rule}"),
        ("normalisation", f"mean {_value(transform.image_mean)}, std {_value(transform.image_std)}"),
        (
            "proposals",
            f"{rpn.num_levels} level(s), {rpn.pre_nms_top_n} candidates a level, {rpn.post_nms_top_n} kept, "
            f"IoU {rpn.nms_thresh:g}, score {rpn.score_thresh:g}",
        ),
        (
            "detections",
            f"at most {heads.detections_per_img}, IoU {heads.nms_thresh:g}, score above {heads.score_thresh:g}",
        ),
        (
            "RoI pooling",
            f"{heads.pooler.kind} {_by(heads.pooler.output_size)}, {len(heads.pooler.feature_names)} map(s)",
        ),
    ]


def _by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items()) or "unknown"
