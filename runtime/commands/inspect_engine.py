"""What ``frcnn inspect`` says of an engine artifact."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

from frcnn.console import say, show_table
from frcnn.errors import printable
from frcnn.runtime.commands.model_facts import model_facts
from frcnn.runtime.model_files.engine_artifact import EngineArtifact
from frcnn.spec.engine import MANIFEST_PART, EngineManifest, EngineStep, OperatorStep, PrecisionRecord
from frcnn.spec.supported_gpus import gpus_text

__all__ = ["engine_as_json", "show_engine"]

_KERNEL: Final = re.compile(r"(?P<kernel>kernels/.+)\.(?:sm|compute)_[^.]+\.(?:cubin|ptx)")
_HASH_DIGITS: Final = 12  # enough to tell parts apart at a glance; --hashes prints all 64
_MIB: Final = 1 << 20


def engine_as_json(artifact: EngineArtifact, *, layers: bool) -> dict[str, Any]:
    """Return what there is to say, for a program.

    Args:
        artifact: the file.
        layers: with the precision of every layer.

    Raises:
        ArtifactError: a part is damaged.
    """
    artifact.check_parts()
    records = artifact.read_precision()
    report: dict[str, Any] = {
        "kind": "engine",
        "file": str(artifact.path),
        "file_bytes": artifact.file_bytes,
        "sha256": artifact.sha256(),
        "manifest": json.loads(artifact.manifest.to_json()),
        "layer_counts": [
            {"element": element, "heavy": heavy, "other": other} for element, heavy, other in _counted(records)
        ],
    }
    if layers:
        fields = ("step", "layer", "type", "element", "heavy")
        report["layers"] = [{name: getattr(record, name) for name in fields} for record in records]
    return report


def show_engine(artifact: EngineArtifact, *, layers: bool, hashes: bool) -> None:
    """Print tables on an artifact.

    Args:
        artifact: the file.
        layers: with the precision of every layer.
        hashes: with the SHA-256 of every part.

    Raises:
        ArtifactError: a part is damaged.
    """
    artifact.check_parts()
    manifest, records = artifact.manifest, artifact.read_precision()
    facts = [*_engine_facts(artifact), *model_facts(manifest.source)]
    show_table(f"engine artifact {artifact.path}", ("what", "value"), facts, text_columns=2)
    profiles = [(str(p.batch), str(p.height), str(p.width)) for p in manifest.profiles]
    show_table("profiles", ("batch (min:opt:max)", "height", "width"), profiles, text_columns=3)
    steps = [row for index, step in enumerate(manifest.steps) for row in _step_rows(index, step, manifest)]
    show_table("a detection, step by step", ("", "runs", "", "tensors"), steps, text_columns=4)
    if records:
        counts = [(element, str(heavy), str(other)) for element, heavy, other in _counted(records)]
        show_table("layers", ("type of output", "heavy", "other"), counts)
    show_table("parts", ("part", "SHA-256 begins", "files", "bytes"), _part_rows(manifest), text_columns=2)
    if layers:
        _show_layers(records)
    if hashes:
        say(f"SHA-256 of the parts, as sha256sum -c takes them in the folder of frcnn unpack ({MANIFEST_PART} apart)")
        for name, part in manifest.parts.items():
            say(f"{part.sha256}  {name}")
    for assumption in manifest.source.assumptions:
        say(f"assumed: {assumption}")
    say(f"SHA-256 of the file: {artifact.sha256()}")


def _engine_facts(artifact: EngineArtifact) -> list[tuple[str, str]]:
    manifest = artifact.manifest
    memory = manifest.memory
    cubins = [name for name in manifest.architectures if name.startswith("sm_")]
    ptx = [name for name in manifest.architectures if name not in cubins]
    kernels = [*([", ".join(cubins)] if cubins else []), *(f"PTX from {name} on for others" for name in ptx)]
    return [
        ("target", f"{manifest.target} {manifest.target_version}, CUDA {manifest.cuda_major}"),
        ("GPUs", f"compute capability {gpus_text(manifest.compute_capabilities)}"),
        ("kernels", "; ".join(kernels) or "none"),
        ("precision", manifest.precision),
        (
            "GPU memory",
            f"{_mib(memory.total_bytes)} MiB: weights {_mib(memory.weights_bytes)}, tensors "
            f"{_mib(memory.tensors_bytes)}, kernels {_mib(memory.workspace_bytes)}; scratch on top",
        ),
        ("file", f"{artifact.file_bytes:,} bytes"),
        ("built with", ", ".join(f"{name} {version}" for name, version in manifest.versions.items()) or "unknown"),
    ]


def _step_rows(index: int, step: EngineStep | OperatorStep, manifest: EngineManifest) -> list[tuple[str, ...]]:
    """Return what a step runs and reads, and what it writes; tensors one a line, for their names are long."""
    if isinstance(step, EngineStep):
        runs, outputs = step.part, step.outputs
    else:
        numbers = (f"{name} {_value(value)}" for name, value in step.attributes.items())
        runs, outputs = "\n  ".join((step.operator, *numbers)), (step.output,)
    return [
        (str(index), runs, "reads", _tensors(step.inputs, manifest)),
        ("", "", "writes", _tensors(outputs, manifest)),
    ]


def _tensors(names: Iterable[str], manifest: EngineManifest) -> str:
    lines = []
    for name in names:
        tensor = manifest.tensors[name]
        lines.append(f"{name} {tensor.element}{' NHWC' if tensor.layout == 'channels_last' else ''}")
    return "\n".join(lines)


def _value(value: float | tuple[float, ...]) -> str:
    return " ".join(f"{item:g}" for item in (value if isinstance(value, tuple) else (value,)))


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


def _show_layers(records: Sequence[PrecisionRecord]) -> None:
    rows = [
        (str(record.step), record.type, record.element, "heavy" if record.heavy else "", printable(record.layer))
        for record in records
    ]
    show_table("every layer", ("step", "layer type", "type of output", "", "layer"), rows, text_columns=5)


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / _MIB:,.1f}"
