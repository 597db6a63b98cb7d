"""Which class is which category."""

from __future__ import annotations

import msgspec
import pytest
from support.engine_files import source_manifest

from frcnn.errors import UsageError
from frcnn.runtime.dataset.annotations import AnnotatedImage, Annotation, GroundTruth
from frcnn.runtime.dataset.class_map import map_classes
from frcnn.spec import ModelSpec

NAMED = source_manifest().model  # cat, dog, teddy bear
BARE = msgspec.structs.replace(NAMED, labels=None, num_classes=91)


def ground_truth(categories: dict[int, str], *used: int, has_ids: bool = True) -> GroundTruth:
    objects = tuple(Annotation(category_id=c, bbox=(0, 0, 9, 9), area=81) for c in used or categories)
    image = AnnotatedImage(file_name="a.png", size=None, annotations=objects)
    return GroundTruth(source="set.json", categories=categories, images=(image,), has_ids=has_ids)


def refused(model: ModelSpec, of: GroundTruth, *pairs: str, **options: bool) -> UsageError:
    with pytest.raises(UsageError) as caught:
        map_classes(model, of, pairs, **options)
    assert "\n" not in str(caught.value)
    return caught.value


def test_classes_are_paired_by_name_in_any_case_whatever_the_ids():
    found = map_classes(NAMED, ground_truth({40: "Dog", 2: "cat"}))
    assert found.categories == {1: 2, 2: 40}
    assert (found.left_out, found.unused) == ((), (3,))


def test_without_names_numbers_are_paired_with_their_gaps():
    """COCO's ids leave out 12; class 12 of torchvision's models stands for nothing."""
    found = map_classes(BARE, ground_truth({11: "fire hydrant", 13: "stop sign", 90: "toothbrush"}))
    assert found.categories == {11: 11, 13: 13, 90: 90}
    assert 12 in found.unused and 90 not in found.unused


def test_the_error_lists_categories_that_are_no_class():
    error = refused(NAMED, ground_truth({1: "cat", 5: "bus", 6: "train", 7: "truck"}, 1, 5, 7))
    assert error.message.startswith(
        "set.json: 2 categories are no class of the model: 5 'bus', 7 'truck'; the model's 3"
    )
    assert "cat, dog, teddy bear" in error.message
    assert "--map MODEL=ANNOTATION" in error.hint and "--allow-unmapped" in error.hint
    error = refused(BARE, ground_truth({1: "cat", 91: "hair brush", 0: "zero"}))
    assert "91 'hair brush', 0 'zero'; the model has classes 1 to 90, without names" in error.message


def test_unmapped_categories_may_be_left_out_but_not_all():
    found = map_classes(NAMED, ground_truth({1: "cat", 5: "bus"}), allow_unmapped=True)
    assert (found.categories, found.left_out) == ({1: 1}, (5,))
    error = refused(NAMED, ground_truth({5: "bus"}), allow_unmapped=True)
    assert "--allow-unmapped" not in error.hint


def test_a_category_without_objects_need_not_be_a_class():
    assert map_classes(NAMED, ground_truth({1: "cat", 5: "bus"}, 1)).left_out == ()


@pytest.mark.parametrize("pair", ["Teddy Bear=plush toy", "3=plush toy", "teddy bear=8", " 3 = 8 "])
def test_a_pair_is_of_names_or_numbers(pair):
    found = map_classes(NAMED, ground_truth({1: "cat", 2: "dog", 8: "plush toy"}), [pair])
    assert found.categories == {1: 1, 2: 2, 3: 8}


def test_a_pair_of_the_user_takes_precedence():
    found = map_classes(BARE, ground_truth({1: "person", 2: "bicycle"}), ["1=2", "2=1"])
    assert found.categories == {1: 2, 2: 1}


def test_two_classes_may_be_one_category():
    found = map_classes(NAMED, ground_truth({1: "cat", 2: "dog", 3: "animal"}, 3), ["cat=animal", "dog=animal"])
    assert found.categories == {1: 3, 2: 3}


def test_voc_categories_are_paired_by_name_only():
    voc = ground_truth({1: "cat", 2: "dog"}, has_ids=False)
    assert map_classes(NAMED, voc).categories == {1: 1, 2: 2}
    error = refused(BARE, voc)
    assert "2 categories are no class of the model: cat, dog; the model has classes 1 to 90" in error.message
    assert map_classes(BARE, voc, ["17=cat", "18=dog"]).categories == {17: 1, 18: 2}
    assert "no category of the annotations is called '1'" in refused(BARE, voc, "17=1").message


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["cat"], "--map: expected MODEL=ANNOTATION, got 'cat'"),
        (["bird=cat"], "--map bird=cat: no class of the model is called 'bird'"),
        (["0=cat"], "--map 0=cat: no class of the model is called '0'"),
        (["cat=bird"], "--map cat=bird: no category of the annotations is called 'bird'"),
        (["cat=cat", "1=dog"], "--map 1=dog: '1' is paired twice"),
    ],
)
def test_malformed_pairs_are_refused(pairs, message):
    assert refused(NAMED, ground_truth({1: "cat", 2: "dog"}), *pairs).message == message


def test_ambiguous_category_names_are_refused():
    both = ground_truth({1: "CAT", 2: "Cat"})
    error = refused(NAMED, both)
    assert "2 categories are called 'cat': 1, 2" in error.message and "--map 1=1" in error.hint
    assert map_classes(NAMED, both, ["cat=2"], allow_unmapped=True).left_out == (1,)
    assert "more than one category" in refused(BARE, both, "1=cat").message


def test_of_several_spellings_the_models_own_counts():
    both = ground_truth({1: "Cat", 2: "cat"})
    assert "no class of the model: 1 'Cat'" in refused(NAMED, both).message
    assert map_classes(NAMED, both, allow_unmapped=True).categories == {1: 2}
    assert map_classes(BARE, both, ["7=cat"]).categories[7] == 2


@pytest.mark.parametrize("root", ["Cat", "cat"])
def test_a_category_without_objects_gives_way_to_one_that_has_some(root):
    """Roboflow writes a root without objects, which may have the name of a class."""
    rooted = ground_truth({0: root, 1: "CAT"}, 1)
    assert map_classes(NAMED, rooted).categories == {1: 1}
    assert map_classes(NAMED, rooted, ["cat=cat"]).categories == {1: 1}
    assert map_classes(NAMED, ground_truth({0: root, 1: "CAT", 2: "dog"}, 2)).categories[2] == 2


@pytest.mark.parametrize("name", ["Teddy Bear", "teddybear", "teddy-bear", "TEDDY_BEAR"])
def test_names_that_differ_by_case_or_separators_are_paired_and_said(name):
    found = map_classes(NAMED, ground_truth({1: "cat", 3: name}))
    assert found.categories == {1: 1, 3: 3}
    assert found.respelt == (f"'teddy bear' as {name!r}",)


def test_a_category_is_not_paired_by_spelling_with_a_class_when_another_class_has_its_name():
    """Detectors of letters have classes that differ by case alone."""
    letters = msgspec.structs.replace(NAMED, labels=("__background__", "a", "A", "b"))
    assert map_classes(letters, ground_truth({1: "a", 2: "B"})).categories == {1: 1, 3: 2}
    assert map_classes(letters, ground_truth({1: "A"})).categories == {2: 1}


def test_crowds_alone_are_nothing_to_measure_against():
    crowd = Annotation(category_id=1, bbox=(0, 0, 9, 9), iscrowd=True)
    image = AnnotatedImage(file_name="a.png", size=None, annotations=(crowd,))
    error = refused(NAMED, GroundTruth(source="set.json", categories={1: "cat"}, images=(image,)))
    assert "set.json has crowd or difficult objects only" in error.message
    empty = GroundTruth(source="set.json", categories={1: "cat"}, images=(AnnotatedImage(file_name="a", size=None),))
    assert "set.json has no objects of the model's classes" in refused(NAMED, empty).message
