"""What TensorRT logs, as one sentence, with a hint where the cause is known.

TensorRT returns None or False and passes the reasons to a logger. The first of its lines often has the cause, the last
one the call that failed; some causes are only warnings. ``_CAUSES`` lists the causes that users meet.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

_MAX_LINES: Final = 64
_MAX_LINE: Final = 500  # characters; TensorRT cuts what it quotes in an error at 486
_MAX_REASON: Final = 1200
_ERRORS: Final = ("ERROR", "INTERNAL_ERROR")

# Where in NVIDIA's own source, and its numbers of errors, whose names follow.
_PLACE: Final = re.compile(
    r"\[\w+\.\w+::[\w:]+::\d+\]|\bIn (?:operator\(\)|[\w:]+) at \S+:\d+|(?:\bERROR: )?\b\w+\.[ch]pp:\d+"
    r"(?: In function \w+)?:(?:\s*\[\d+\])?|\bError Code:? \d+:|^\s*\d+: "
)
_NODE_DUMP: Final = re.compile(r"While parsing node number|--- (?:Begin|End) node ---")
# Follows every error on a system without a driver, also those of TensorRT-RTX, which builds without one.
_AFTERMATH: Final = re.compile(r"^Cuda Runtime .*driver version is insufficient")

_OUT_OF_MEMORY: Final = r"(?i:out ?of ?memory)|could not be allocated"
_NO_KERNEL: Final = "Could not find any implementation|has no runners that implement it"
_MEMORY_HINT: Final = (
    "nvidia-smi shows what else uses the GPU; a smaller batch or canvas takes less: --batch and --size of frcnn build"
)
_REBUILD: Final = "build the artifact again on this system: frcnn build model.onnx"


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why TensorRT failed, on one line, and how to fix it; the hint is empty where the cause is not known."""

    reason: str
    hint: str


@dataclass(frozen=True, slots=True)
class _Cause:
    """A cause: what one of its lines contains, and what any line besides, warnings included, must contain."""

    sign: str
    hint: str
    besides: str = ""


_CAUSES: Final = (
    _Cause(_OUT_OF_MEMORY, _MEMORY_HINT),
    _Cause(
        "insufficient workspace|requires workspace memory",
        "TensorRT may use too little memory while it builds: leave --workspace out, or raise it",
    ),
    _Cause(
        _NO_KERNEL,
        f"TensorRT had too little memory to try its kernels: {_MEMORY_HINT}; a --workspace that is too small does the "
        "same",
        besides=rf"insuff?icient memory|memory is insufficient|{_OUT_OF_MEMORY}",
    ),
    _Cause(
        _NO_KERNEL,
        "this TensorRT has no kernel for that part of the model on this GPU: another release may have one, and "
        "--target onnxruntime needs none",
    ),
    _Cause(
        "Unable to load library: ",
        "a file of TensorRT, for builds that of the kernels for this GPU, is missing, does not load or is of another "
        "release: install TensorRT as a whole, pip install --force-reinstall tensorrt, or add the file's folder to "
        "LD_LIBRARY_PATH",
    ),
    _Cause(
        "is not supported by this TensorRT release|Unsupported SM",
        "install a release of TensorRT that supports this GPU, or build with --target onnxruntime",
    ),
    _Cause(
        r"initialization failure with error:? 35\b|\w: Cuda Runtime .*driver version is insufficient",
        "there is no NVIDIA driver, or it is older than the CUDA of this TensorRT: r580 or later serves CUDA 13, r525 "
        "or later CUDA 12 (pip install tensorrt-cu12); frcnn doctor shows what is here",
    ),
    _Cause(
        r"initialization failure with error:? 100\b",
        "nvidia-smi lists the GPUs; CUDA_VISIBLE_DEVICES and the container must let one through",
    ),
    _Cause(
        r"initialization failure with error:? 803\b",
        "the driver's library and kernel module differ: reboot after the update",
    ),
    _Cause(
        "CUDA initialization failure",
        "frcnn doctor shows the driver, the CUDA that it serves and the GPUs that it sees",
    ),
    _Cause(
        "are the plugin name, version, and namespace correct|UNSUPPORTED_NODE",
        "TensorRT's parser does not know this operator: a newer TensorRT may, and --target onnxruntime needs no parser",
    ),
    _Cause(
        "Cannot find plugin: |could not find plugin|(?i:plugin ?creator)[^.]* not found",
        "the plan needs a plugin that is not loaded here; the plans of frcnn carry theirs: frcnn build model.onnx "
        "--target tensorrt",
    ),
    _Cause(
        "Unexpected call to stub",
        "TensorRT's lean runtime runs version compatible plans only: frcnn build model.onnx --target tensorrt "
        "--version-compatible, or install TensorRT itself: pip install 'frcnn[tensorrt]'",
    ),
    _Cause(
        "(?i:magic ?tag)|blobSize|END_OF_PLAN|mEnd - mCurrent|Cannot deserialize (?:with an )?empty",
        f"the engine is damaged, cut off, none at all, or of another TensorRT; {_REBUILD}",
    ),
    _Cause(
        "expecting library version|Version tag does not match|incompatible serialization version|old deserialization "
        "call|major version does not match|Forward Compatibility",
        f"the engine is of another release of TensorRT: install that one, or {_REBUILD}",
    ),
    _Cause(
        "incompatible device|hardware-compatible engine|multiprocessors but the engine",
        f"an engine runs on the kind of GPU that it was built on; {_REBUILD}",
    ),
    _Cause(
        "expectedPlatformTag|Platform specific tag mismatch",
        f"the engine is of another operating system or processor; {_REBUILD}",
    ),
)
"""The first one that applies explains a failure: memory first, as its want makes other calls fail."""


@dataclass(slots=True)
class LoggedLines:
    """The errors and the warnings that were logged, the latest ones of each."""

    errors: deque[str] = field(default_factory=lambda: deque(maxlen=_MAX_LINES))
    warnings: deque[str] = field(default_factory=lambda: deque(maxlen=_MAX_LINES))

    def keep(self, severity: str, message: str) -> None:
        """Keep a message, unless it is of no severity that can explain a failure."""
        if severity in _ERRORS:
            self.errors.append(message)
        elif severity == "WARNING":
            self.warnings.append(message)

    def take(self, kind: Literal["errors", "warnings"]) -> list[str]:
        """Return the messages of a kind and forget them; others may be logged meanwhile."""
        messages: deque[str] = getattr(self, kind)
        return [messages.popleft() for _ in range(len(messages))]


def make_logger(trt: Any, keep: Callable[[str, str], None]) -> Any:
    """Return an ``ILogger`` that passes severity and message to a function, which must not raise: C++ calls it."""

    class Logger(trt.ILogger):  # type: ignore[misc] # TensorRT has no type information
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            keep(severity.name, message)

    return Logger()


def explain(errors: Iterable[str], warnings: Iterable[str] = ()) -> Explanation:
    """Return why TensorRT failed, from what it logged, the oldest line first.

    The last errors are part of the reason, and so is the line with a known cause. Without any error the warnings take
    their place.
    """
    noted = list(warnings)
    lines = _distinct(list(errors) or noted)
    told = [line for line in lines if not _AFTERMATH.search(line)]
    if told and not any("initialization failure" in line for line in told):
        lines = told
    for cause in _CAUSES:
        found = next((index for index, line in enumerate(lines) if re.search(cause.sign, line)), None)
        if found is not None and (not cause.besides or re.search(cause.besides, "\n".join((*lines, *noted)))):
            return Explanation(_joined(lines, found), cause.hint)
    return Explanation(_joined(lines, None) or "TensorRT gives no reason", "")


def plain(message: str) -> str:
    """Return a message on one line, without places in NVIDIA's source."""
    return " ".join(_PLACE.sub(" ", message).split()).replace("( ", "(").replace(" )", ")")


def _distinct(messages: Iterable[str]) -> list[str]:
    """Return the messages as lines of bounded length, once each, without what the parser prints of a whole node."""
    lines = [plain(message) for message in messages if not _NODE_DUMP.search(message)]
    lines = [line if len(line) <= _MAX_LINE else line[: _MAX_LINE - 3] + "..." for line in dict.fromkeys(lines)]
    return [line for line in lines if line and not any(line != other and line in other for other in lines)]


def _joined(lines: Sequence[str], cause: int | None) -> str:
    """Return the line of the cause and as many of the last lines as there is room for, in their order."""
    kept: set[int] = set()
    room = _MAX_REASON
    for index in (*([] if cause is None else [cause]), *range(len(lines) - 1, -1, -1)):
        room -= 0 if index in kept else len(lines[index]) + 2
        if room < 0:
            break
        kept.add(index)
    return "; ".join(lines[index] for index in sorted(kept))
