"""Which class of the model is which category of the annotations; nothing is paired by guess.

Classes with names are paired by name, upper and lower case alike. Classes without are paired by number: class 17 is the
category with the id 17, as in torchvision's COCO models, whose 90 classes have COCO's ids with their gaps. Pairs given
by the user come before either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from frcnn.benchmarks.accuracy.truth import Truth, names_shown
from frcnn.errors import UsageError
from frcnn.spec import ModelSpec

__all__ = ["ClassMap", "map_classes"]

_HOW: Final = "pair them: --map MODEL=ANNOTATION (names or numbers; repeat for more)"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMap:
    """Pairs of classes and categories.

    Attributes:
        categories: category id by class index.
        left_out: categories with objects that no class stands for; they are not evaluated.
        idle: classes that are no category; their detections do not count.
    """

    categories: dict[int, int]
    left_out: tuple[int, ...]
    idle: tuple[int, ...]


def map_classes(model: ModelSpec, truth: Truth, pairs: Sequence[str] = (), *, allow_unmapped: bool = False) -> ClassMap:
    """Pair a model's classes with the categories.

    Args:
        model: its description.
        truth: the annotated set.
        pairs: ``MODEL=ANNOTATION`` each, names or numbers.
        allow_unmapped: leave out the categories that no class stands for.

    Raises:
        UsageError: a pair that makes no sense, categories that no class stands for, or none that any does.
    """
    found = _by_name(model, truth) if model.labels is not None else _by_number(model, truth)
    found |= _given(model, truth, pairs)
    missing = tuple(c for c in truth.categories if truth.objects_of(c) and c not in found.values())
    if missing and (not allow_unmapped or not found):
        raise _unmapped(model, truth, missing, any_mapped=bool(found))
    idle = tuple(label for label in range(1, model.num_classes) if label not in found)
    return ClassMap(categories=dict(sorted(found.items())), left_out=missing, idle=idle)


def _by_name(model: ModelSpec, truth: Truth) -> dict[int, int]:
    wanted = _categories_by_name(truth)
    found = {}
    for label in range(1, model.num_classes):
        name = model.label_name(label)
        ids = wanted.get(name.casefold(), [])
        if len(ids) > 1:
            raise UsageError(
                f"{truth.source}: {len(ids)} categories are called {name!r}: {', '.join(map(str, ids))}",
                hint="give them names of their own in the annotations",
            )
        if ids:
            found[label] = ids[0]
    return found


def _by_number(model: ModelSpec, truth: Truth) -> dict[int, int]:
    if not truth.has_ids:
        return {}
    return {label: label for label in range(1, model.num_classes) if label in truth.categories}


def _given(model: ModelSpec, truth: Truth, pairs: Sequence[str]) -> dict[int, int]:
    found: dict[int, int] = {}
    classes: dict[str, list[int]] = {}
    for label in range(1, model.num_classes) if model.labels is not None else ():
        classes.setdefault(model.label_name(label).casefold(), []).append(label)
    numbers = {str(label): label for label in range(1, model.num_classes)}
    ids = {str(category): category for category in truth.categories} if truth.has_ids else {}
    for pair in pairs:
        left, is_pair, right = pair.partition("=")
        if not is_pair:
            raise UsageError(f"--map: expected MODEL=ANNOTATION, got {pair!r}", hint="like --map airplane=aeroplane")
        label = _one(left, classes, numbers, pair, "class of the model")
        if label in found:
            raise UsageError(f"--map {pair}: {left!r} is paired twice", hint="give one pair for a class")
        found[label] = _one(right, _categories_by_name(truth), ids, pair, "category of the annotations")
    return found


def _one(text: str, names: Mapping[str, list[int]], numbers: Mapping[str, int], pair: str, what: str) -> int:
    """Return the one that a name or number stands for."""
    wanted = text.strip()
    found = names.get(wanted.casefold(), [])
    if len(found) == 1:
        return found[0]
    if wanted in numbers:
        return numbers[wanted]
    known = names_shown(list(names) or list(numbers))
    if found:
        raise UsageError(f"--map {pair}: more than one {what} is called {wanted!r}", hint="give its number")
    raise UsageError(f"--map {pair}: no {what} is called {wanted!r}", hint=f"there are: {known}")


def _categories_by_name(truth: Truth) -> dict[str, list[int]]:
    """Return the categories' ids by name in lower case."""
    found: dict[str, list[int]] = {}
    for category, name in truth.categories.items():
        found.setdefault(name.casefold(), []).append(category)
    return found


def _unmapped(model: ModelSpec, truth: Truth, missing: Sequence[int], *, any_mapped: bool) -> UsageError:
    shown = names_shown([f"{c} {truth.categories[c]!r}" if truth.has_ids else truth.categories[c] for c in missing])
    if model.labels is not None:
        classes = f"the model's {model.num_classes - 1} are {names_shown(list(model.labels[1:]))}"
    else:
        classes = f"the model has classes 1 to {model.num_classes - 1}, without names"
    leave = ", or leave them out: --allow-unmapped" if any_mapped else ""
    return UsageError(
        f"{truth.source}: {len(missing)} categories are no class of the model: {shown}; {classes}",
        hint=f"{_HOW}{leave}",
    )
