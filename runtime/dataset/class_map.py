"""Which class of the model is which category of the annotations; nothing is paired by guess.

Pairs given by the user come first. Other classes with names are paired by name, where case, spaces, hyphens and
underscores may differ. Classes without are paired by number: class 17 is the category with the id 17, as in
torchvision's COCO models, whose 90 classes have COCO's ids with their gaps. A category without objects gives way to one
that has some: tools write a root for all others.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from frcnn.console import note, warn
from frcnn.errors import UsageError, did_you_mean
from frcnn.runtime.dataset.annotations import GroundTruth
from frcnn.runtime.dataset.faults import names_shown, tell_names
from frcnn.runtime.dataset.files import name_key
from frcnn.spec import ModelSpec


class ClassMap(NamedTuple):
    """Pairs of classes and categories."""

    categories: dict[int, int]  # category id by class index
    left_out: tuple[int, ...]  # categories with objects that are no class of the model; not evaluated
    unused: tuple[int, ...]  # classes that are no category; their detections do not count
    respelt: tuple[str, ...]  # classes that are spelt differently there, with the category's spelling

    def tell(self, ground_truth: GroundTruth) -> None:
        """Print what is left out, and what is paired although it is spelt differently."""
        names = [ground_truth.categories[category] for category in self.left_out]
        tell_names(warn, names, "categories are no class of the model and are left out")
        tell_names(note, self.respelt, "classes are spelt differently there")
        unused = list(map(str, self.unused))
        tell_names(note, unused, "classes of the model are no category; their detections do not count")


def map_classes(
    model: ModelSpec, ground_truth: GroundTruth, pairs: Sequence[str] = (), *, allow_unmapped: bool = False
) -> ClassMap:
    """Pair classes and categories as :func:`pair_classes` does; refuse a set that a model cannot be measured on.

    Categories that are no class of the model are refused, or left out with ``allow_unmapped``.
    """
    classes = pair_classes(model, ground_truth, pairs)
    if classes.left_out and not allow_unmapped:
        raise _unmapped(model, ground_truth, classes.left_out, may_allow=True)
    paired = set(classes.categories.values())
    if not ground_truth.used_categories(with_crowds=False) & paired:
        raise _nothing(ground_truth, only_crowds=bool(ground_truth.used_categories() & paired))
    return classes


def pair_classes(model: ModelSpec, ground_truth: GroundTruth, pairs: Sequence[str] = ()) -> ClassMap:
    """Pair a model's classes with the categories; ``pairs`` are ``MODEL=ANNOTATION`` each, names or numbers."""
    labels = range(1, model.num_classes)
    names = {} if model.labels is None else {label: model.label_name(label) for label in labels}
    categories, used = ground_truth.categories, ground_truth.used_categories()
    ids = list(categories) if ground_truth.has_ids else []
    given: dict[int, int] = {}
    for pair in pairs:
        left, separator, right = pair.partition("=")
        if not separator:
            raise UsageError(f"--map: expected MODEL=ANNOTATION, got {pair!r}", hint="like --map airplane=aeroplane")
        label = _resolve(left, names, labels, f"--map {pair}", "class of the model")
        if label in given:
            raise UsageError(f"--map {pair}: {left!r} is paired twice", hint="give one pair for a class")
        given[label] = _resolve(right, categories, ids, f"--map {pair}", "category of the annotations", used)
    mapping = {label: label for label in labels if label in ids} if model.labels is None else {}
    mapping |= given
    respelt: list[str] = []
    for label, name in names.items():
        same_name = [] if label in given else _called(name, categories, used)
        same_name = [c for c in same_name if categories[c] == name or categories[c] not in names.values()]
        if len(same_name) > 1 and same_name[0] in used:
            raise UsageError(
                f"{ground_truth.source}: {len(same_name)} categories are called {name!r}: {str(same_name)[1:-1]}",
                hint=f"choose one: --map {label}={same_name[0]}, or give them names of their own in the annotations",
            )
        if same_name:
            mapping[label] = same_name[0]
            if categories[same_name[0]] != name:
                respelt.append(f"{name!r} as {categories[same_name[0]]!r}")
    left_out = tuple(category for category in categories if category in used - set(mapping.values()))
    if not mapping:
        left_out = left_out or tuple(categories)
        raise _unmapped(model, ground_truth, left_out, may_allow=False) if left_out else _nothing(ground_truth)
    return ClassMap(mapping, left_out, tuple(label for label in labels if label not in mapping), tuple(respelt))


def _called(wanted: str, names: Mapping[int, str], used: Collection[int]) -> list[int]:
    """Return the indices that have a name: of all spellings of it those that are used, of these the exact one."""
    found = [index for index, name in names.items() if _letters(name) == _letters(wanted)]
    found = [index for index in found if index in used] or found
    return [index for index in found if names[index] == wanted] or found


@cache
def _letters(name: str) -> str:
    """Return what a name is compared by; a name of separators only is compared as it is."""
    return re.sub(r"[\s_-]", "", name_key(name)) or name


def _resolve(
    text: str, names: Mapping[int, str], numbers: Iterable[int], option: str, what: str, used: Collection[int] = ()
) -> int:
    """Return the index that a name or number stands for."""
    wanted = text.strip()
    found = _called(wanted, names, used)
    by_number = {str(number): number for number in numbers}
    if len(found) == 1 or wanted in by_number:
        return found[0] if len(found) == 1 else by_number[wanted]
    if found:
        raise UsageError(f"{option}: more than one {what} is called {wanted!r}", hint="give its number")
    hint = did_you_mean(wanted, names.values(), f"there are: {names_shown(list(names.values() or by_number))}")
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


def _nothing(ground_truth: GroundTruth, *, only_crowds: bool = False) -> UsageError:
    what, hint = "has no objects of the model's classes", "check that annotations and model are of one set"
    if only_crowds:
        what = "has crowd or difficult objects only, which count neither way"
        hint = "set iscrowd or difficult to 0 where it is one plain object: some tools write iscrowd 1 for every mask"
    return UsageError(f"{ground_truth.source} {what}: there is nothing to measure against", hint=hint)
