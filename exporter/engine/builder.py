"""Build an engine with TensorRT or TensorRT-RTX: profiles, flags, timing cache, progress, interruption, errors."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Final

from frcnn.errors import UsageError, one_line
from frcnn.exporter.engine.network import Network
from frcnn.exporter.engine.shapes import ProfileShapes
from frcnn.files import replacing, writable_file
from frcnn.log import warn_once
from frcnn.packages import import_package
from frcnn.plugins.tensorrt.library import load_tensorrt, refuse_mixed_releases
from frcnn.spec.engine import Target
from frcnn.spec.supported_gpus import gpus_text

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSettings:
    """Settings of the builder, apart from shapes: options of :func:`~frcnn.exporter.build_engine`."""

    compute_capabilities: tuple[str, ...] = ()
    optimization_level: int | None = None
    timing_cache: Path | None = None
    replace_timing_cache: bool = False  # one that cannot be used, with a warning; it is refused otherwise
    version_compatible: bool = False
    aux_streams: int | None = None
    workspace_mib: int | None = None


def import_builder(target: Target) -> ModuleType:
    """Return the module that builds engines for a target, or raise MissingDependencyError."""
    if target == "tensorrt":
        trt = load_tensorrt()
        refuse_mixed_releases(trt)
        return trt
    why = "building an engine for TensorRT-RTX"
    return import_package("tensorrt_rtx", package="tensorrt-rtx-cu13", extra="rtx", why=why)


@dataclass(slots=True)
class Phases:
    """Progress of a build from TensorRT's progress monitor, which reports nested phases of some steps each."""

    _open: list[list[Any]] = field(default_factory=list)  # name, steps, steps done; outermost first
    _max: float = 0.0

    def start(self, name: str, steps: int) -> None:
        """Start a phase."""
        self._open.append([name, max(1, steps), 0])

    def step(self, name: str, step: int) -> float:
        """Record a finished step and return the finished share of all work, which never decreases."""
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
        """Finish a phase."""
        self._open = [phase for phase in self._open if phase[0] != name]


def build_serialized(
    network: Network,
    profiles: Sequence[ProfileShapes],
    settings: BuildSettings,
    *,
    report: Callable[[float], None] | None = None,
) -> bytes:
    """Build an engine with the shapes of each profile, and return it serialized.

    Ctrl-C and SIGTERM stop TensorRT at its next step and take effect after it has returned. ``report`` is called with
    the finished share of the work, 0 to 1, from threads of TensorRT. Raises ExportError with TensorRT's reason,
    KernelError where a plugin fails, and what :func:`attach_timing_cache` does.
    """
    config = _make_config(network, settings)
    file, cache = settings.timing_cache, None
    if file is not None:
        cache = attach_timing_cache(network, config, file, replace=settings.replace_timing_cache)
    for index, shapes in enumerate(profiles):
        _add_profile(network, config, shapes, index)

    faults: list[BaseException] = []
    with _held_signals() as is_stopped:
        config.progress_monitor = _monitor(network.trt, report, is_stopped, faults)
        plan = network.builder.build_serialized_network(network.definition, config)
    if faults:
        raise faults[0]
    if plan is None:
        raise network.messages.failure(f"TensorRT cannot build {network.name}")
    if file is not None:
        write_timing_cache(cache, file)
    return bytes(memoryview(plan))


def check_features(trt: Any) -> None:
    """Raise UsageError for a TensorRT without strong types; those that have them have every option of a build."""
    if not hasattr(getattr(trt, "NetworkDefinitionCreationFlag", None), "STRONGLY_TYPED"):
        raise UsageError(
            "--target tensorrt needs NetworkDefinitionCreationFlag.STRONGLY_TYPED of TensorRT, which "
            f"{trt.__version__} does not have",
            hint="install TensorRT 10.6 or newer, or build with --target onnxruntime",
        )


def check_compute_capabilities(trt: Any, wanted: Sequence[str]) -> None:
    """Raise UsageError for compute capabilities that TensorRT-RTX cannot build for, and for one that is given twice."""
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
    """Return the compute capabilities that engines can be built for without a GPU, like ``{"8.9": SM89}``."""
    members = getattr(getattr(trt, "ComputeCapability", None), "__members__", {})
    numbers = {name[2:]: member for name, member in members.items() if name.startswith("SM")}
    return {f"{number[:-1]}.{number[-1]}": member for number, member in numbers.items()}


def _make_config(network: Network, settings: BuildSettings) -> Any:
    trt, config = network.trt, network.builder.create_builder_config()
    # TF32 would round the inputs of float32 products to 10 bits
    config.clear_flag(trt.BuilderFlag.TF32)
    # TensorRT-RTX: otherwise an engine may allocate while it runs, and cannot be captured in a CUDA graph
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # for the inspector: types and names
    if settings.optimization_level is not None:
        config.builder_optimization_level = settings.optimization_level
    if settings.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        config.set_flag(trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
    if settings.aux_streams is not None:
        config.max_aux_streams = settings.aux_streams
    if settings.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mib << 20)
    known, wanted = _compute_capabilities(trt), settings.compute_capabilities
    if known and wanted:
        config.num_compute_capabilities = len(wanted)
        for index, name in enumerate(wanted):
            if not config.set_compute_capability(known[name], index):
                raise network.messages.failure(f"TensorRT refuses the compute capability {name}")
    return config


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
    """Return an ``IProgressMonitor`` that collects errors of ``report`` in ``faults``."""
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
    """Defer signals until the end of the block, so that no exception unwinds through C++.

    Yields a function that returns whether a signal has arrived. Only the main thread receives signals.
    """
    caught: list[int] = []
    previous: dict[int, Any] = {}

    def note(number: int, _frame: FrameType | None) -> None:
        caught.append(number)

    if threading.current_thread() is threading.main_thread():
        # a handler set by C code is None, and cannot be restored
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


def timing_cache_beside(artifact: Path) -> Path:
    """Return the file that the command keeps the timing cache of an artifact's builds in.

    It has the times of kernels, so that a second build does not measure them again.
    """
    return artifact.with_suffix(".timing")


def attach_timing_cache(network: Network, config: Any, path: Path, *, replace: bool) -> Any:
    """Give a builder's configuration the timing cache of a file, or an empty one, and return it.

    ``replace``: a file that this TensorRT on this GPU cannot use is warned of and taken for an empty one; UsageError is
    raised otherwise, and for one that cannot be read. OutputError tells before the build that it cannot be written.
    """
    try:
        stored = writable_file(path).read_bytes()
    except FileNotFoundError:
        stored = b""
    except OSError as error:
        raise UsageError(f"--timing-cache: cannot read {path}: {one_line(error)}", hint="name another file") from error
    cache = config.create_timing_cache(stored)
    is_lost = cache is None or network.messages.is_cache_lost
    if not is_lost and config.set_timing_cache(cache, False):  # False too where it is another GPU's
        return cache
    problem = f"{path} is no timing cache of this TensorRT on this GPU"
    if not replace:
        raise UsageError(f"--timing-cache: {problem}", hint="name a file that does not exist yet, or delete this one")
    warn_once(f"{problem}; a new one takes its place")
    cache = config.create_timing_cache(b"")
    if cache is None or not config.set_timing_cache(cache, False):
        raise network.messages.failure("TensorRT makes no timing cache")
    return cache


def write_timing_cache(cache: Any, path: Path) -> None:
    """Write a timing cache after a build: the whole file, or nothing of it."""
    with replacing(path) as temporary:
        temporary.write_bytes(memoryview(cache.serialize()))
