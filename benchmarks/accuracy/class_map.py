"""Which class of the model is which category of the annotations; nothing is paired by guess.

Classes with names are paired by name, upper and lower case alike. Classes without are paired by number: class 17 is the
category with the id 17, as in torchvision's COCO models, whose 90 classes have COCO's ids with their gaps. Pairs given
by the user take precedence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from frcnn.benchmarks.accuracy.annotations import GroundTruth, names_shown
from frcnn.errors import UsageError
from frcnn.spec import ModelSpec

__all__ = ["ClassMap", "map_classes"]


class ClassMap(NamedTuple):
    """Pairs of classes and categories.

    Attributes:
        categories: category id by class index.
        left_out: categories with objects that are no class of the model; they are not evaluated.
        unused: classes that are no category; their detections do not count.
    """

    categories: dict[int, int]
    left_out: tuple[int, ...]
    unused: tuple[int, ...]


def map_classes(
    model: ModelSpec, ground_truth: GroundTruth, pairs: Sequence[str] = (), *, allow_unmapped: bool = False
) -> ClassMap:
    """Pair a model's classes with the categories.

    Args:
        model: its description.
        ground_truth: the annotated set.
        pairs: ``MODEL=ANNOTATION`` each, names or numbers.
        allow_unmapped: leave out the categories that are no class of the model.

    Raises:
        UsageError: a pair is malformed or ambiguous; categories are no class of the model, or all of them are none.
    """
    labels = range(1, model.num_classes)
    names = {} if model.labels is None else {label: model.label_name(label) for label in labels}
    classes, categories = _by_name(names), _by_name(ground_truth.categories)
    ids = list(ground_truth.categories) if ground_truth.has_ids else []
    mapping = {label: label for label in labels if label in ids} if model.labels is None else {}
    for label, name in names.items():
        same_name = categories.get(name.casefold(), [])
        if len(same_name) > 1:
            raise UsageError(
                f"{ground_truth.source}: {len(same_name)} categories are called {name!r}: {str(same_name)[1:-1]}",
                hint="give them names of their own in the annotations",
            )
        if same_name:
            mapping[label] = same_name[0]
    given: dict[int, int] = {}
    for pair in pairs:
        left, separator, right = pair.partition("=")
        if not separator:
            raise UsageError(f"--map: expected MODEL=ANNOTATION, got {pair!r}", hint="like --map airplane=aeroplane")
        label = _resolve(left, classes, labels, f"--map {pair}", "class of the model")
        if label in given:
            raise UsageError(f"--map {pair}: {left!r} is paired twice", hint="give one pair for a class")
        given[label] = _resolve(right, categories, ids, f"--map {pair}", "category of the annotations")
    mapping |= given
    used = ground_truth.used_categories() - set(mapping.values())
    left_out = tuple(category for category in ground_truth.categories if category in used)
    if left_out and (not allow_unmapped or not mapping):
        raise _unmapped(model, ground_truth, left_out, may_allow=bool(mapping))
    return ClassMap(mapping, left_out, tuple(label for label in labels if label not in mapping))


def _by_name(names: Mapping[int, str]) -> dict[str, list[int]]:
    """Return indices by name in lower case."""
    indices: dict[str, list[int]] = {}
    for index, name in names.items():
        indices.setdefault(name.casefold(), []).append(index)
    return indices


def _resolve(text: str, names: Mapping[str, list[int]], numbers: Iterable[int], option: str, what: str) -> int:
    """Return the index that a name or number stands for."""
    wanted = text.strip()
    found = names.get(wanted.casefold(), [])
    by_number = {str(number): number for number in numbers}
    if len(found) == 1 or wanted in by_number:
        return found[0] if len(found) == 1 else by_number[wanted]
    if found:
        raise UsageError(f"{option}: more than one {what} is called {wanted!r}", hint="give its number")
    hint = f"there are: {names_shown(list(names or by_number))}"
    raise UsageError(f"{option}: no {what} is called {wanted!r}", hint=hint)


def _unmapped(model: ModelSpec, ground_truth: GroundTruth, left_out: Sequence[int], *, may_allow: bool) -> UsageError:
    names = [ground_truth.categories[category] for category in left_out]
    if ground_truth.has_ids:
        names = [f"{category} {name!r}" for category, name in zip(left_out, names, strict=True)]
    classes = f"the model has classes 1 to {model.num_classes - 1}, without names"
    if model.labels is not None:
        classes = f"the model's {model.num_classes - 1} are {names_shown(model.labels[1:])}"
    allow = ", or leave them out: --allow-unmapped" if may_allow else ""
    return UsageError(
        f"{ground_truth.source}: {len(left_out)} categories are no class of the model: {names_shown(names)}; {classes}",
        hint=f"pair them: --map MODEL=ANNOTATION (names or numbers; repeat for more){allow}",
    )
