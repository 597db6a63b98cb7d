"""The page of a trial: the result first, then pictures, agreement, speed, accuracy, what was read, and what to run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from frcnn.benchmarks.accuracy.report import Evaluation
from frcnn.benchmarks.report.document import Bar, Bars, Block, Document, Gallery, Headline, Paragraph, Picture, Table
from frcnn.benchmarks.report.formatting import NONE, number, ratio_text
from frcnn.benchmarks.report.results import Environment
from frcnn.benchmarks.timing.environment import is_busy
from frcnn.benchmarks.trial.trial import Seen, Trial
from frcnn.runtime import Detections
from frcnn.runtime.images.sources import output_names
from frcnn.runtime.results.display import jpeg_base64, write_image
from frcnn.runtime.results.draw import annotate

if TYPE_CHECKING:
    from frcnn.exporter.checkpoint.loaded import LoadedCheckpoint

_PICTURES: Final = 8
_PICTURE_PX: Final = 720
_FEW: Final = 5
"""Detections of an image that are drawn where none in any image reaches the score."""
_MEASURES: Final = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")


class Step(NamedTuple):
    """Something to run next."""

    why: str
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What the page tells.

    Attributes:
        name: of the checkpoint ``loaded``.
        evaluation: None without annotations.
        images: how many there were to choose from.
        score: detections below it are not drawn.
        steps: what to run next.
    """

    name: str
    loaded: LoadedCheckpoint
    trial: Trial
    evaluation: Evaluation | None
    environment: Environment
    images: int
    score: float
    steps: Sequence[Step]

    @property
    def best_score(self) -> float:
        """The highest score of the model's detections; 0 without any."""
        return max(float(seen.model.scores.max(initial=0.0)) for seen in self.trial.seen)


def draw_pictures(account: Account, folder: Path) -> list[Picture]:
    """Write each image with the model's detections drawn, and return the first of them for the page."""
    names = output_names(Path(seen.image.name) for seen in account.trial.seen)
    pictures: list[Picture] = []
    for seen in account.trial.seen:
        shown = _shown(seen, account)
        drawn = annotate(seen.image.uint8(), shown)
        path = folder / names[Path(seen.image.name)]
        write_image(path, drawn)
        if len(pictures) < _PICTURES:
            jpeg, size = jpeg_base64(drawn, longest_side_px=_PICTURE_PX, quality=82)
            pictures.append(Picture(jpeg, f"{path.name}: {len(shown)} found", size))
    return pictures


def _shown(seen: Seen, account: Account) -> Detections:
    best = sorted(seen.model.scores.tolist(), reverse=True)[:_FEW] or [1.0]
    return seen.model.filter(
        score=min(account.score, best[-1]) if account.best_score < account.score else account.score
    )


def headline(account: Account) -> Headline:
    """Return the result: whether the detections agree, and how fast the model is where they do."""
    trial, system = account.trial, account.environment
    both, load = trial.parity.total, system.load_before or 0.0
    ratio = None if trial.model is None else trial.model.ratio
    notes = []
    if trial.is_partial:
        notes.append(f"Interrupted: {_images(account)} of {account.images} were seen.")
    if not both.expected + both.found:
        notes.append("Neither finds anything in these images, so that they agree shows little: try others.")
    elif account.best_score < account.score:
        notes.append(
            f"No detection scores {account.score:g} or more, the best has {account.best_score:.2f}: so it is with"
            " weights that are not trained, and with images that have none of the classes."
        )
    if is_busy(load, system.cores) and load <= system.cores:
        notes.append(f"This system was busy (load {load:.1f} on {system.cores} processors): times are rough.")
    notes.append("A quick measurement; frcnn bench, below, makes one to quote.")
    if not trial.parity.passed:
        return Headline("", f"The detections DISAGREE: {both}.", notes, "bad")
    tied = f" ({both.tied} more are tied)" if both.tied else ""
    same = f"the same boxes: {both.matched} of {both.expected} detections agree in {_images(account)}{tied}."
    if ratio is None or load > system.cores:
        why = "nothing was timed" if ratio is None else f"the system was too busy to time anything (load {load:.1f})"
        return Headline("", f"{same[0].upper()}{same[1:-1]}; {why}.", notes, "warning")
    value = f"{ratio.median:.1f}x"
    if ratio.low <= 1 <= ratio.high:
        return Headline(value, f"About as fast as eager torchvision here ({value}), and {same}", notes, "warning")
    is_good = ratio.low > 1 and ratio.rounds > 2 and not trial.is_partial and account.best_score >= account.score
    return Headline(value, f"{value} eager torchvision's speed, and {same}", notes, "good" if is_good else "warning")


def _images(account: Account) -> str:
    return "1 image" if len(account.trial.seen) == 1 else f"{len(account.trial.seen)} images"


def document_of(account: Account, pictures: Sequence[Picture]) -> Document:
    """Return the page."""
    system = account.environment
    steps = [(Paragraph(step.why), Paragraph(step.command, "code")) for step in account.steps]
    sections: dict[str, list[Block]] = {
        "What it finds": _finds(account, pictures),
        "Agreement": _agreement(account.trial),
        "Speed": _speed(account),
        "Accuracy": _accuracy(account),
        "What was read and assumed": _read(account.loaded),
        "What to run next": [part for step in steps for part in step],
    }
    where = f"{system.cpu}, {system.threads} threads, {system.date}"
    filled = {title: blocks for title, blocks in sections.items() if blocks}
    return Document(f"A first look at {account.name}", where, headline(account), filled)


def _finds(account: Account, pictures: Sequence[Picture]) -> list[Block]:
    what, seen = f"scoring {account.score:g} or more", len(account.trial.seen)
    if account.best_score < account.score:
        what = f"that score best, at most {_FEW} of an image, since none scores {account.score:g}"
    drawn = "all images" if seen == account.images else f"{_images(account)} of {account.images}"
    return [
        Paragraph(f"Detections of the exported model {what}. In the folder annotated: {drawn}."),
        Gallery(pictures),
    ]


def _agreement(trial: Trial) -> list[Block]:
    parity, both = trial.parity, trial.parity.total
    text = f"The detections DISAGREE: {both}."
    if parity.passed:
        text = f"{both.matched} of eager's {both.expected} detections have one of the model's, of their class, in their"
        text += f" place. Boxes differ by up to {number(both.box_px)} px, scores by {number(both.score)}."
    rows = []
    for one in (*parity.images, both):
        counts = (one.expected, one.found, one.matched, one.tied, one.unmatched, one.label_mismatches)
        rows.append((Path(one.image).name, *map(str, counts), number(one.box_px), number(one.score)))
    columns = ("image", "eager", "model", "pairs", "tied", "missing", "relabelled", "box px", "score")
    table = Table("Detections in each image, and the largest differences of pairs", columns, rows, folded=True)
    return [Paragraph(f"{text} The limits: {parity.limits}.", "plain" if parity.passed else "bad"), table]


def _speed(account: Account) -> list[Block]:
    trial, system = account.trial, account.environment
    if trial.eager is None or trial.model is None:
        return [Paragraph("It was interrupted before a whole round was timed.", "warning")]
    named = (("eager torchvision", trial.eager, 7), ("the exported model, ONNX Runtime", trial.model, 2))
    slowest = max(trial.eager.p50_ms, trial.model.p50_ms)
    bars = [Bar(name, f"{number(m.p50_ms)} ms", m.p50_ms / slowest, colour) for name, m, colour in named]
    text = (
        f"Eager's speed times {ratio_text(trial.model.ratio)}: the median of {len(trial.model.rounds_ms)} rounds, and"
        " the interval that holds it. In a round both detect in one image, from decoded image to boxes. Float32 on the"
        " CPU; OpenVINO, int8 and GPUs can be faster."
    )
    is_busy = (system.load_before or 0.0) > system.cores
    busy = [Paragraph("The system was too busy: these figures mean nothing. Try again.", "warning")] if is_busy else []
    return [*busy, Bars("Median time of an image", bars), Paragraph(text)]


def _accuracy(account: Account) -> list[Block]:
    evaluation = account.evaluation
    if evaluation is None or evaluation.eager is None or evaluation.difference is None:
        return []
    named = {"eager torchvision": evaluation.eager.overall, "the exported model": evaluation.model.overall}
    named["difference"] = evaluation.difference
    rows = [
        (name, *(_cell(of[key], signed=of is evaluation.difference) for key in _MEASURES)) for name, of in named.items()
    ]
    text = f"COCO's box measure on {_images(account)} with {evaluation.objects()} objects."
    return [Paragraph(text), Table("Average precision and recall, 0 to 1", ("", *_MEASURES), rows)]


def _cell(value: float | None, *, signed: bool) -> str:
    return NONE if value is None else f"{value:{'+' if signed else ''}.3f}"


def _read(loaded: LoadedCheckpoint) -> list[Block]:
    why = "Weights do not hold anchors, sizes or thresholds; --arg gives those that training changed."
    blocks: list[Block] = []
    for title, lines in (("Read off the weights", loaded.facts), ("Assumed", loaded.assumptions)):
        if lines:
            rows = [(what, value) for what, _, value in (line.partition(": ") for line in lines)]
            blocks += [Table(title, ("what", "value"), rows, text_columns=2)]
    return [*blocks[:1], Paragraph(why), *blocks[1:]] if loaded.assumptions else blocks


def results_of(account: Account) -> dict[str, Any]:
    """Return everything that was measured, for ``results.json``."""
    evaluation, trial = account.evaluation, account.trial
    about, command = {"checkpoint": account.name}, account.environment.command
    return {
        "schema_version": 1,
        "headline": headline(account).text,
        "agrees": trial.parity.passed,
        "partial": trial.is_partial,
        "parity": trial.parity,
        "eager": trial.eager,
        "model": trial.model,
        "accuracy": None if evaluation is None else evaluation.as_json(model=about, eager=about, command=command),
        "read": account.loaded.facts,
        "assumed": account.loaded.assumptions,
        "images": {"seen": len(trial.seen), "of": account.images},
        "next": [step.command for step in account.steps],
        "environment": account.environment,
    }
