"""The builder call, which TensorRT and TensorRT-RTX share: profiles, flags, progress, a way out, errors as one line."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

from frcnn.errors import UsageError
from frcnn.exporter.engine.network import Network
from frcnn.exporter.engine.shapes import ProfileShapes
from frcnn.files import replacing
from frcnn.spec.supported_gpus import gpus_text

__all__ = ["BuildSettings", "Phases", "build_serialized", "check_compute_capabilities"]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSettings:
    """How engines are built, apart from their shapes.

    Attributes:
        compute_capabilities: ``"8.9"``; empty: the flavour's default, or the GPU that is there.
        optimization_level: TensorRT's, 0 to 5; None: its default.
        timing_cache: file that keeps what TensorRT measured, read and written; None: none.
    """

    compute_capabilities: tuple[str, ...] = ()
    optimization_level: int | None = None
    timing_cache: Path | None = None


@dataclass(slots=True)
class Phases:
    """How far a build is, from what TensorRT's progress monitor reports: phases in phases, each of some steps."""

    _open: list[list[Any]] = field(default_factory=list)  # name, steps, steps done; outermost first
    _max: float = 0.0

    def start(self, name: str, steps: int) -> None:
        """Enter a phase."""
        self._open.append([name, max(1, steps), 0])

    def step(self, name: str, step: int) -> float:
        """Note a step as done and return the share of all work that is, which never falls."""
        for phase in self._open:
            if phase[0] == name:
                phase[2] = min(step + 1, phase[1])
        share, width = 0.0, 1.0
        for _name, steps, done in self._open:
            width /= steps
            share += done * width
        self._max = max(self._max, min(share, 1.0))
        return self._max

    def finish(self, name: str) -> None:
        """Leave a phase."""
        self._open = [phase for phase in self._open if phase[0] != name]


def build_serialized(
    network: Network,
    profiles: Sequence[ProfileShapes],
    settings: BuildSettings,
    *,
    report: Callable[[float], None] | None = None,
) -> bytes:
    """Build an engine.

    Ctrl-C and SIGTERM are held back while TensorRT's C++ runs, stop it at its next step, and are then answered.

    Args:
        network: the definition.
        profiles: shapes of the inputs, one entry a profile.
        settings: all else.
        report: told the share of the work that is done, from threads of TensorRT's.

    Returns:
        the serialized engine.

    Raises:
        ExportError: TensorRT fails; the message has its reason.
        UsageError: the timing cache cannot be used.
        KernelError: a plugin of ours fails.
    """
    config = network.builder.create_builder_config()
    _set_flags(network, config)
    _set_compute_capabilities(network, config, settings.compute_capabilities)
    if settings.optimization_level is not None:
        config.builder_optimization_level = settings.optimization_level
    cache = _attach_timing_cache(network, config, settings.timing_cache)
    for index, shapes in enumerate(profiles):
        _add_profile(network, config, shapes, index)

    faults: list[BaseException] = []
    with _held_signals() as is_stopped:
        monitor = _monitor(network.trt, report, is_stopped, faults)
        if monitor is not None:
            config.progress_monitor = monitor
        plan = network.builder.build_serialized_network(network.definition, config)
    if faults:
        raise faults[0]
    if plan is None:
        raise network.messages.failure(f"TensorRT cannot build {network.name}")
    if cache is not None and settings.timing_cache is not None:
        with replacing(settings.timing_cache) as temporary:
            temporary.write_bytes(memoryview(cache.serialize()))
    return bytes(memoryview(plan))


def check_compute_capabilities(trt: Any, wanted: Sequence[str]) -> None:
    """Refuse compute capabilities that TensorRT-RTX builds no engine for.

    Raises:
        UsageError: one is, or is named twice.
    """
    known = _compute_capabilities(trt)
    for index, name in enumerate(wanted):
        if name not in known:
            raise UsageError(
                f"--compute-capability: expected some of {', '.join(known)}, got {name!r}",
                hint=f"leave it out for engines for {gpus_text(())}",
            )
        if name in wanted[:index]:
            raise UsageError(f"--compute-capability: {name} is given twice", hint="keep one of the two")


def _compute_capabilities(trt: Any) -> dict[str, Any]:
    """Return the compute capabilities that engines can be built for without their GPU, like ``{"8.9": SM89}``."""
    members = getattr(getattr(trt, "ComputeCapability", None), "__members__", {})
    numbers = {name[2:]: member for name, member in members.items() if name.startswith("SM")}
    return {f"{number[:-1]}.{number[-1]}": member for number, member in numbers.items()}


def _set_flags(network: Network, config: Any) -> None:
    trt = network.trt
    # float32 layers are to be float32: TF32 keeps 10 bits of a product's factors
    config.clear_flag(trt.BuilderFlag.TF32)
    # TensorRT-RTX: without this an engine may allocate while it runs, and cannot be captured in a graph
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the inspector tells types and names by it


def _set_compute_capabilities(network: Network, config: Any, wanted: Sequence[str]) -> None:
    known = _compute_capabilities(network.trt)
    if not known or not wanted:
        return
    config.num_compute_capabilities = len(wanted)
    for index, name in enumerate(wanted):
        if not config.set_compute_capability(known[name], index):
            raise network.messages.failure(f"TensorRT refuses the compute capability {name}")


def _attach_timing_cache(network: Network, config: Any, path: Path | None) -> Any:
    """Return the timing cache that the build uses, filled from the file; None without one."""
    if path is None:
        return None
    try:
        kept = path.read_bytes()
    except FileNotFoundError:
        kept = b""
    except OSError as error:
        raise UsageError(f"--timing-cache: cannot read {path}: {error.strerror}", hint="name another file") from error
    cache = config.create_timing_cache(kept)
    is_lost = cache is None or network.messages.is_cache_lost
    if is_lost or not config.set_timing_cache(cache, False):
        raise UsageError(
            f"--timing-cache: {path} is no timing cache of this TensorRT on this GPU",
            hint="name a file that does not exist yet, or delete this one",
        )
    return cache


def _add_profile(network: Network, config: Any, shapes: ProfileShapes, index: int) -> None:
    profile = network.builder.create_optimization_profile()
    try:
        for name, (minimum, opt, maximum) in shapes.items():
            profile.set_shape(name, minimum, opt, maximum)
        added = config.add_optimization_profile(profile)
    except ValueError as error:
        raise network.messages.failure(f"TensorRT refuses profile {index} of {network.name}: {error}") from error
    if added != index:
        raise network.messages.failure(f"TensorRT refuses profile {index} of {network.name}")


def _monitor(
    trt: Any, report: Callable[[float], None] | None, is_stopped: Callable[[], bool], faults: list[BaseException]
) -> Any:
    """Return an ``IProgressMonitor``; None where the flavour has none.

    Args:
        trt: the module.
        report: told the share of the work that is done.
        is_stopped: whether the build is to end.
        faults: takes what ``report`` raises, which must not unwind through C++; the build ends then.
    """
    if not hasattr(trt, "IProgressMonitor"):
        return None
    lock, phases = threading.Lock(), Phases()

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, name: str, _parent: str | None, steps: int) -> None:
            with lock:
                phases.start(name, steps)

        def step_complete(self, name: str, step: int) -> bool:
            with lock:
                share = phases.step(name, step)
                try:
                    if report is not None:
                        report(share)
                except BaseException as fault:
                    faults.append(fault)
            return not (faults or is_stopped())

        def phase_finish(self, name: str) -> None:
            with lock:
                phases.finish(name)

    return Monitor()


@contextmanager
def _held_signals() -> Iterator[Callable[[], bool]]:
    """Note signals instead of answering them, so that no exception unwinds through C++; answer the first at the end.

    Yields whether one has come. Elsewhere than on the main thread Python delivers none, and nothing is held.
    """
    caught: list[int] = []
    previous: dict[int, Any] = {}

    def note(number: int, _frame: FrameType | None) -> None:
        caught.append(number)

    if threading.current_thread() is threading.main_thread():
        # None: set by C code, and not ours to put back
        previous = {number: handler for number in _SIGNALS if callable(handler := signal.getsignal(number))}
    try:
        for number in previous:
            signal.signal(number, note)
        yield lambda: bool(caught)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if caught:
            signal.raise_signal(caught[0])
