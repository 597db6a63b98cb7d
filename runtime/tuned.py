"""What ``frcnn tune`` found for a model, read from the file beside it, and this machine, which it must be made on."""

from __future__ import annotations

import os
import platform
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypedDict

from frcnn._version import __version__
from frcnn.errors import ArtifactError, one_line, printable
from frcnn.files import file_sha256
from frcnn.packages import installed_version
from frcnn.processors import available_cpus
from frcnn.runtime.model_files.artifact import OnnxArtifact, open_artifact
from frcnn.spec import LONGEST_MANIFEST_BYTES, Precision
from frcnn.spec.tuning import TUNED_SUFFIX, Arithmetic, HostProvider, Machine, Setting, TunedModel, Tuning

_REMAKE: Final = "run frcnn tune again, or remove the file"

_CPU_INFO: Final = Path("/proc/cpuinfo")
_FEATURES_TEXT: Final = """
    avx2 fma avx512f avx512_vnni avx_vnni avx512_bf16 avx512_fp16 amx_tile amx_int8 amx_bf16 amx_fp16 avx10_2
    asimd asimdhp asimddp bf16 i8mm sve sve2 sme
"""
_X86: Final = ("vendor_id", "cpu family", "model", "stepping")
_ARM: Final = ("CPU implementer", "CPU variant", "CPU part", "CPU revision")

PACKAGES: Final[Mapping[HostProvider, str]] = {"cpu": "onnxruntime", "openvino": "openvino"}
"""The package of each provider, which is also its module."""

_DISTRIBUTIONS: Final = {"onnxruntime": ("onnxruntime-gpu", "onnxruntime"), "openvino": ("openvino",)}


class LoadOptions(TypedDict):
    """How a setting is loaded; see ``Detector.load``."""

    provider: HostProvider
    precision: Arithmetic | None
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """The choice of a tuned file.

    Attributes:
        artifact: the model to run: the one asked for, or the int8 model beside it.
        precision: the lowest that is used.
        text: what is used and says which file, as one line.
    """

    artifact: OnnxArtifact
    setting: Setting
    precision: Precision
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Void:
    """A tuned file that does not count here, and why, as one line."""

    reason: str


def tuned_path(model: str | os.PathLike[str]) -> Path:
    """Return the path of a model's tuned file, whether it is there or not."""
    return Path(f"{os.fspath(model)}{TUNED_SUFFIX}")


def load_options(setting: Setting) -> LoadOptions:
    """Return a setting as options of ``Detector.load``."""
    precision = setting.precision if setting.provider == "openvino" else None
    return {"provider": setting.provider, "precision": precision, "threads": setting.threads}


def read_tuned(artifact: OnnxArtifact) -> Tuned | Void | None:
    """Return what a model is to be run with here, or None where it has no tuned file.

    It is an ``ArtifactError`` if the file is no tuning, or names as the int8 model what is none of this model.
    """
    path = tuned_path(artifact.path)
    tuning = read_tuning(path)
    if tuning is None:
        return None
    setting, model = tuning.choice, tuning.run_model(tuning.choice)
    file = path.with_name(model.name) if setting.int8 else artifact.path
    void = tuning.void_reason(machine=read_machine(), versions=read_versions(), sha256=file_sha256(artifact.path))
    if not void and setting.int8:
        void = _void_int8(path, file, model)
    if void:
        return Void(reason=f"{path} does not count here: {void}")
    chosen = open_artifact(file) if setting.int8 else artifact
    if not isinstance(chosen, OnnxArtifact) or chosen.manifest.model != artifact.manifest.model:
        raise ArtifactError(f"{path}: {file.name} is another model than {artifact.path.name}", hint=_REMAKE)
    if (found := chosen.manifest.precision) != model.precision:
        raise ArtifactError(f"{path}: {file.name} is {found}, expected {model.precision}", hint=_REMAKE)
    precision, text = setting.lowest_precision(tuning.model.precision), f"tuned: {tuning.describe(setting)} ({path})"
    return Tuned(artifact=chosen, setting=setting, precision=precision, text=text)


def read_tuning(path: Path) -> Tuning | None:
    """Read a tuned file; None where there is none."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ArtifactError(f"{path}: expected a file, got something else", hint=_REMAKE)
            text = file.read(LONGEST_MANIFEST_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {one_line(error)}", hint=_REMAKE) from error
    return Tuning.from_json(text, source=os.fspath(path))


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting for the other end of a pipe that has the file's name."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _void_int8(path: Path, file: Path, model: TunedModel) -> str:
    """Return why the int8 model beside the tuned file is not the one that was measured; empty where it is."""
    if file.is_symlink() or (file.exists() and not file.is_file()):
        raise ArtifactError(f"{path}: expected {file.name} to be a file of this folder", hint=_REMAKE)
    if not file.exists():
        return f"{file.name} is missing"
    try:
        return "" if file_sha256(file) == model.sha256 else f"{file.name} has changed"
    except OSError as error:
        raise ArtifactError(f"{file}: cannot be read: {one_line(error)}", hint=_REMAKE) from error


def read_machine() -> Machine:
    """Return the processor, by what the system tells of its first one, and how many this process may use."""
    told: dict[str, str] = {}
    with suppress(OSError):
        first = _CPU_INFO.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
        for line in first.splitlines():
            name, _, value = line.partition(":")
            told[name.strip()] = printable(value.strip())
    features = set(told.get("flags", told.get("Features", "")).split())
    return Machine(
        processor=told.get("model name") or platform.processor() or platform.machine(),
        signature=" ".join(f"{name} {told[name]}" for name in (*_X86, *_ARM) if name in told),
        features=tuple(sorted(features & {*_FEATURES_TEXT.split()})),
        processors=available_cpus(),
    )


def read_versions() -> dict[str, str]:
    """Return the versions of frcnn and of the packages that run a model in host memory, without importing them."""
    versions = {"frcnn": __version__}
    for package, distributions in _DISTRIBUTIONS.items():
        for name in distributions:
            if found := installed_version(name):
                versions[package] = found
    return versions
