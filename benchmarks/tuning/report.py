"""What ``frcnn tune`` prints: one table of all trials, what was left out and why, and the choice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from frcnn.console import note, say, show_table, warn
from frcnn.spec.tuning import HOST_PROVIDERS, Trial, Tuning

_COLUMNS: Final = ("provider", "precision", "ms", "result", "threads", "batch", "spread")
_NOISY: Final = 0.2


def show_tuning(tuning: Tuning, *, model: Path, to_stderr: bool) -> None:
    """Print the table and the conclusion; without the table to standard error."""
    show = note if to_stderr else say
    trials = sorted(tuning.trials, key=_order)
    if not to_stderr:
        machine = tuning.machine
        title = f"{model.name}, milliseconds an image on {machine.processor}, {machine.processors} processors"
        show_table(title, _COLUMNS, [_row(tuning, trial) for trial in trials], text_columns=(0, 1, 3))
    for trial in trials:
        if trial.reason and trial.status != "left out":
            show(f"{tuning.describe(trial.setting)}: {trial.status}: {trial.reason}")
    if any(trial.status == "left out" for trial in trials):
        warn("the time was spent before all settings were tried; --budget gives more")
    chosen = next(trial for trial in trials if trial.setting == tuning.choice)
    if _spread(chosen) > _NOISY:
        warn(f"the times of one setting differ by {_spread(chosen):.0%}: images of several sizes, or a busy machine")
    show(f"fastest here: {tuning.describe(tuning.choice)}: {_ms(chosen.median_ms)} ms an image{_gain(tuning, chosen)}")


def _order(trial: Trial) -> tuple[bool, bool, float]:
    """Return a key: those that were timed in turns first, by time, and those that cannot be chosen last."""
    return not trial.finalist, trial.status not in ("agrees", "slower"), trial.median_ms or 0.0


def _gain(tuning: Tuning, chosen: Trial) -> str:
    """Return how many times as fast as the default the choice is; empty where it is the default."""
    default = tuning.trials[0]
    if chosen.setting == default.setting or not chosen.median_ms or not default.median_ms:
        return ""
    return f", {default.median_ms / chosen.median_ms:.2f}x {tuning.describe(default.setting)}"


def _row(tuning: Tuning, trial: Trial) -> Sequence[str]:
    setting = trial.setting
    result = "chosen" if setting == tuning.choice else "last round" if trial.finalist else trial.status
    return (
        HOST_PROVIDERS[setting.provider],
        setting.precision_text(tuning.model.precision),
        _ms(trial.median_ms),
        result,
        str(setting.threads),
        str(setting.batch),
        f"{_spread(trial):.0%}" if trial.calls > 1 else "-",
    )


def _spread(trial: Trial) -> float:
    """Return the distance of the quartiles as a share of the median."""
    if trial.low_ms is None or trial.high_ms is None or not trial.median_ms:
        return 0.0
    return (trial.high_ms - trial.low_ms) / trial.median_ms


def _ms(value: float | None) -> str:
    """Return milliseconds with three digits that count."""
    return "-" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.3g}"
