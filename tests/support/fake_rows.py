"""Rows of a benchmark that take exactly as long as they are told to, on a clock of their own, and err as told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from frcnn.benchmarks.candidates.candidate import Candidate, NetworkClock, Task
from frcnn.benchmarks.report.results import EngineInfo
from frcnn.benchmarks.timing.session import Session
from frcnn.runtime import Detections, RGBImage
from frcnn.spec import ModelSpec, Size

__all__ = ["FakeClock", "FakeRow", "images", "jitter", "session_of"]


class FakeClock:
    """Seconds that pass only when somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def wait(self, who: str, ms: float) -> None:
        self.log.append(who)
        self.now += ms / 1e3


def jitter(seed: int, size: float) -> Callable[[], float]:
    """Return what gives factors round 1, normally distributed, the same ones for a seed."""
    random = np.random.default_rng(seed)
    return lambda: float(np.exp(random.normal(0, size)))


@dataclass(kw_only=True)
class FakeRow:
    """Takes ``ms`` an image (``network_ms`` for the network) and is wrong by ``error_px`` in every box."""

    name: str
    clock: FakeClock
    ms: float
    network_ms: float = 7.0
    error_px: float = 0.0
    factor: Callable[[], float] = field(default=lambda: 1.0)
    fails_at: int | None = None
    calls: int = 0
    seen: list[str] = field(default_factory=list)
    closed: bool = False
    build_s: float | None = None
    network_clock: NetworkClock = "wall"
    engine: EngineInfo | None = None
    precision: str | None = None

    def canvas_of(self, image: RGBImage) -> Size:
        return image.size

    def detect(self, images: Sequence[RGBImage]) -> list[Detections]:
        self.calls += 1
        if self.fails_at is not None and self.calls >= self.fails_at:
            raise RuntimeError(f"{self.name} ran out of luck")
        self.seen += [image.name for image in images]
        self.clock.wait(self.name, self.ms * len(images) * self.factor())
        return [found(image, self.error_px) for image in images]

    def network(self, images: Sequence[RGBImage]) -> Callable[[], object]:
        return lambda: self.clock.wait(self.name, self.network_ms * len(images) * self.factor())

    def close(self) -> None:
        self.closed = True

    def candidate(self, **changes: object) -> Candidate:
        fields: dict[str, object] = {
            "id": self.name,
            "name": self.name,
            "backend": "torch",
            "device": "cpu",
            "precision": "fp32",
            "open": lambda task: self,
        }
        return Candidate(**(fields | changes))  # type: ignore[arg-type]


def found(image: RGBImage, error_px: float = 0.0) -> Detections:
    """Return the two objects that are in every image."""
    boxes = np.array([[1, 2, 30, 40], [5, 5, 20, 60]], np.float32) + np.float32(error_px)
    return Detections(
        boxes=boxes,
        scores=np.array([0.9, 0.8], np.float32),
        labels=np.array([1, 2]),
        image_size=image.size,
    )


def images(count: int = 16, size: Size = (64, 96)) -> tuple[RGBImage, ...]:
    return tuple(RGBImage(pixels=np.zeros((*size, 3), np.uint8), name=f"p{i}") for i in range(count))


def session_of(
    candidates: Sequence[Candidate],
    clock: FakeClock,
    spec: ModelSpec,
    folder: object,
    *,
    batches: Sequence[int] = (1, 2),
    is_trained: bool = True,
) -> Session:
    shown = images()
    task = Task(
        model=torch.nn.Identity(),  # type: ignore[arg-type]  # fakes run no model
        spec=spec,
        sha256=None,
        images=shown,
        equal_images=shown,
        folder=folder,  # type: ignore[arg-type]
        device="cpu",
        threads=1,
        is_trained=is_trained,
    )
    return Session(
        task, candidates, lambda image, canvas: found(image), batches=batches, clock=clock, sleep=clock.sleep
    )
