"""The page of a trial: the result first, then pictures, agreement, speed, accuracy, what was read, and what to run."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from PIL import Image

from frcnn.benchmarks.accuracy.report import Evaluation
from frcnn.benchmarks.report.document import (
    Bar,
    Bars,
    Block,
    Cell,
    Document,
    Gallery,
    Headline,
    Paragraph,
    Picture,
    Table,
    TableRow,
    Tone,
)
from frcnn.benchmarks.report.formatting import NONE, number, ratio_text
from frcnn.benchmarks.report.results import Environment, Ratio
from frcnn.benchmarks.trial.trial import Seen, Trial
from frcnn.files import replacing
from frcnn.runtime import Detections
from frcnn.runtime.images.sources import output_names
from frcnn.runtime.results.draw import annotate

_PICTURES: Final = 8
_PICTURE_PX: Final = 720
_FEW: Final = 5
"""Detections that are drawn of an image, where none in any image reaches the score."""
_BUSY: Final = 0.5
"""Processes that are ready to run, for each processor; an idle system has next to none."""


class Step(NamedTuple):
    """Something to run next."""

    why: str
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What the page tells.

    Attributes:
        name: of the checkpoint.
        facts: lines read off the weights; ``assumptions``: that were assumed.
        evaluation: None without annotations, or with ``unscored``, why there is none.
        images: how many there were to choose from.
        score: detections below it are not drawn.
    """

    name: str
    facts: Sequence[str]
    assumptions: Sequence[str]
    trial: Trial
    evaluation: Evaluation | None
    unscored: str
    environment: Environment
    images: int
    score: float
    steps: Sequence[Step]

    @property
    def best_score(self) -> float:
        """The highest score of the model's detections; 0 without any."""
        return max((float(seen.model.scores.max(initial=0.0)) for seen in self.trial.seen), default=0.0)


def draw_pictures(account: Account, folder: Path) -> list[Picture]:
    """Write each image with the model's detections drawn, and return the first of them for the page."""
    names = output_names(Path(seen.image.name) for seen in account.trial.seen)
    pictures: list[Picture] = []
    for seen in account.trial.seen:
        shown = _shown(seen, account)
        drawn = Image.fromarray(annotate(seen.image.uint8(), shown))
        path = folder / names[Path(seen.image.name)]
        with replacing(path) as temporary:
            drawn.save(temporary, format="PNG" if path.suffix == ".png" else "JPEG", quality=90)
        if len(pictures) < _PICTURES:
            drawn.thumbnail((_PICTURE_PX, _PICTURE_PX))
            buffer = io.BytesIO()
            drawn.save(buffer, format="JPEG", quality=82)
            jpeg = base64.b64encode(buffer.getvalue()).decode()
            pictures.append(Picture(jpeg, f"{path.name}: {len(shown)} detections", drawn.size))
    return pictures


def _shown(seen: Seen, account: Account) -> Detections:
    if account.best_score >= account.score:
        return seen.model.filter(score=account.score)
    lowest = sorted(seen.model.scores.tolist(), reverse=True)[:_FEW]
    return seen.model.filter(score=lowest[-1] if lowest else 1.0)


def headline(account: Account) -> Headline:
    """Return the result: whether the detections agree, and how fast the model is where they do."""
    trial, system = account.trial, account.environment
    both, ratio, load = trial.parity.total, _ratio(trial), system.load_before or 0.0
    notes = []
    if trial.is_partial:
        notes.append(f"Interrupted: {len(trial.seen)} of {account.images} images were seen.")
    if not both.expected + both.found:
        notes.append("Neither finds anything in these images, so that they agree shows little: try others.")
    elif account.best_score < account.score:
        notes.append(
            f"No detection scores {account.score:g} or more, the best has {account.best_score:.2f}: so it is with"
            " weights that are not trained, and with images that have none of the classes."
        )
    if load > _BUSY * system.cores:
        notes.append(f"This system was busy (load {load:.1f} on {system.cores} processors): times are rough.")
    notes.append("A quick measurement; frcnn bench, below, makes one to quote.")
    if not trial.parity.passed:
        return Headline("", f"The detections DISAGREE: {both}.", notes, "bad")
    same = f"the same boxes: {both.matched} of {both.expected} detections agree in {len(trial.seen)} images."
    if ratio is None or load > system.cores:
        why = "nothing was timed" if ratio is None else "this system is too busy to time anything"
        return Headline("", f"{same[0].upper()}{same[1:-1]}; {why}.", notes, "warning")
    value, tone = f"{ratio.median:.1f}x", ("good" if ratio.low > 1 and not trial.is_partial else "warning")
    if ratio.low <= 1 <= ratio.high:
        return Headline(value, f"About as fast as eager torchvision here ({value}), and {same}", notes, "warning")
    return Headline(value, f"{value} eager torchvision's speed, and {same}", notes, cast("Tone", tone))


def _ratio(trial: Trial) -> Ratio | None:
    return None if trial.model is None else trial.model.ratio


def document_of(account: Account, pictures: Sequence[Picture]) -> Document:
    """Return the page."""
    system = account.environment
    steps = [(Paragraph(step.why), Paragraph(step.command, "code")) for step in account.steps]
    sections: dict[str, list[Block]] = {
        "What it finds": _finds(account, pictures),
        "Agreement": _agreement(account.trial),
        "Speed": _speed(account),
        "Accuracy": _accuracy(account),
        "What was read and assumed": _read(account),
        "What to run next": [part for step in steps for part in step],
    }
    return Document(
        f"A first look at {account.name}",
        f"{system.cpu}, {system.threads} threads, {system.date}",
        headline(account),
        {title: blocks for title, blocks in sections.items() if blocks},
    )


def _finds(account: Account, pictures: Sequence[Picture]) -> list[Block]:
    what = f"scoring {account.score:g} or more"
    if account.best_score < account.score:
        what = f"that score best, at most {_FEW} of an image, since none scores {account.score:g}"
    chosen = (
        f"{len(account.trial.seen)} images, chosen evenly from {account.images}, are"
        if account.images > len(account.trial.seen)
        else "All images are"
    )
    return [Paragraph(f"Detections of the exported model {what}. {chosen} in the folder annotated."), Gallery(pictures)]


def _agreement(trial: Trial) -> list[Block]:
    parity = trial.parity
    rows: list[TableRow] = [
        (
            Path(one.image).name,
            *map(str, (one.expected, one.found, one.matched, one.unmatched, one.label_mismatches)),
            number(one.box_px),
            number(one.score),
        )
        for one in (*parity.images, parity.total)
    ]
    columns = ("image", "eager", "model", "pairs", "missing", "relabelled", "box px", "score")
    both = parity.total
    text = f"The detections DISAGREE: {both}."
    if parity.passed:
        text = f"{both.matched} of eager's {both.expected} detections have one of the model's, of their class, in their"
        text += f" place. Boxes differ by up to {number(both.box_px)} px, scores by {number(both.score)}."
    text += f" The limits: {parity.limits}."
    return [
        Paragraph(text, "plain" if parity.passed else "bad"),
        Table("Detections in each image, and the largest differences of pairs", columns, rows, folded=True),
    ]


def _speed(account: Account) -> list[Block]:
    trial = account.trial
    if trial.eager is None or trial.model is None:
        return [Paragraph("It was interrupted before a whole round was timed.", "warning")]
    slowest = max(trial.eager.p50_ms, trial.model.p50_ms)
    named = (("eager torchvision", trial.eager, 7), ("the exported model, ONNX Runtime", trial.model, 2))
    bars = [Bar(name, f"{number(m.p50_ms)} ms", m.p50_ms / slowest, colour) for name, m, colour in named]
    rows: list[TableRow] = [
        (
            name,
            *map(number, (m.p50_ms, m.p90_ms, min(min(r) for r in m.rounds_ms), m.fps)),
            str(sum(map(len, m.rounds_ms))),
        )
        for name, m, _ in named
    ]
    text = (
        f"Eager's speed times {ratio_text(trial.model.ratio)}: the median of {len(trial.model.rounds_ms)} rounds, and"
        " the interval that holds it. In a round both detect in one image, from decoded image to boxes. Float32 on the"
        " CPU; OpenVINO, int8 and GPUs can be faster."
    )
    return [
        Bars("Median time of an image", bars),
        Paragraph(text),
        Table("Milliseconds an image", ("", "median", "p90", "fastest", "images/s", "calls"), rows),
    ]


def _accuracy(account: Account) -> list[Block]:
    if account.unscored:
        return [Paragraph(account.unscored)]
    evaluation = account.evaluation
    if evaluation is None:
        return []
    named: list[tuple[str, Mapping[str, float | None], str]] = [("the exported model", evaluation.model.overall, "")]
    if evaluation.eager is not None and evaluation.difference is not None:
        named = [
            ("eager torchvision", evaluation.eager.overall, ""),
            *named,
            ("difference", evaluation.difference, "+"),
        ]
    columns = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
    rows: list[TableRow] = [
        (name, *(NONE if (value := measures[key]) is None else f"{value:{sign}.3f}" for key in columns))
        for name, measures, sign in named
    ]
    text = f"COCO's box measure on {len(account.trial.seen)} annotated images with {evaluation.objects()} objects."
    more = " frcnn eval, below, takes all of them." if account.images > len(account.trial.seen) else ""
    return [Paragraph(text + more), Table("Average precision and recall, 0 to 1", ("", *columns), rows)]


def _read(account: Account) -> list[Block]:
    read: list[TableRow] = [_halves(line) for line in account.facts]
    assumed: list[TableRow] = [_halves(line) for line in account.assumptions]
    why = "Weights do not hold anchors, sizes or thresholds. Where training changed one of these, give it with --arg:"
    return [
        Table("Read off the weights", ("what", "value"), read, text_columns=2),
        *((Paragraph(why), Table("Assumed", ("what", "value"), assumed, text_columns=2)) if assumed else ()),
    ]


def _halves(line: str) -> tuple[Cell | str, ...]:
    what, _, value = line.partition(": ")
    return (what, value)


def results_of(account: Account, *, command: str) -> dict[str, Any]:
    """Return everything that was measured, for ``results.json``."""
    evaluation = account.evaluation
    scores = None
    if evaluation is not None:
        scores = evaluation.as_json(model={}, eager={"checkpoint": account.name}, command=command)
    trial = account.trial
    return {
        "schema_version": 1,
        "headline": headline(account).text,
        "agrees": trial.parity.passed,
        "partial": trial.is_partial,
        "parity": trial.parity,
        "eager": trial.eager,
        "model": trial.model,
        "accuracy": scores,
        "read": account.facts,
        "assumed": account.assumptions,
        "images": {"seen": len(trial.seen), "of": account.images},
        "next": [step.command for step in account.steps],
        "environment": account.environment,
    }
