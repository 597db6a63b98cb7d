"""Manifests with any JSON in any place: a manifest that says the same when it is written again, or one clear line."""

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.engine_files import source_manifest, write_engine_file
from support.tuned import a_tuning

from frcnn.errors import ArtifactError, UsageError, printable
from frcnn.runtime.model_files.engine_artifact import open_engine_artifact
from frcnn.spec import Manifest, full_labels
from frcnn.spec.engine import EngineManifest
from frcnn.spec.tuning import Setting, Tuning

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 2**31, 2**63, 2**64, 10**30]),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        ["../../etc/passwd", "/etc/passwd", "\x1b[2J", "a\nb", "\u202egnp", "", "a" * 300, "engines/0.plan"]
    ),
)
ANY_JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner)
)
TUNING = msgspec.to_builtins(
    a_tuning(Setting(int8=True, provider="openvino", precision="bf16", threads=1, batch=2), allowed=["bf16", "int8"])
)
SOURCE = msgspec.to_builtins(source_manifest(canvases=((64, 96),)))


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    path = write_engine_file(tmp_path_factory.mktemp("engine") / "model.frcnn")
    return msgspec.to_builtins(open_engine_artifact(path).manifest)


def places(value, so_far=()):
    """Every place in a tree of dictionaries and lists."""
    yield so_far
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for key, inner in items:
        yield from places(inner, (*so_far, key))


def with_value(tree, place, value):
    if not place:
        return value
    key, *rest = place
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[key] = with_value(tree[key], rest, value)
    return copy


def require_manifest_or_one_line(kind, tree):
    text = json.dumps(tree)
    try:
        manifest, refusal = kind.from_json(text.encode(), source="it"), None
    except ArtifactError as error:
        manifest, refusal = None, error
    if manifest is None:
        assert refusal.message.startswith("it: ") and refusal.message.isprintable() and refusal.hint
    else:
        again = manifest.to_json()
        assert kind.from_json(again if isinstance(again, bytes) else again.encode(), source="again") == manifest


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Manifest, EngineManifest, Tuning])
@given(data=st.data())
@settings(max_examples=150)
def test_any_value_in_a_manifest_is_read_or_refused(kind, engine, data):
    tree = {Manifest: SOURCE, EngineManifest: engine, Tuning: TUNING}[kind]
    place = data.draw(st.sampled_from(list(places(tree))))
    require_manifest_or_one_line(kind, with_value(tree, place, data.draw(ANY_JSON)))


HOSTILE = {
    "deep": ("[" * 100_000, "damaged"),
    "deep objects": ('{"a":' * 100_000, "damaged"),
    "too long": (" " * ((4 << 20) + 1), "it has 4,194,305 bytes, expected 4,194,304 at most"),
    "a key twice": (
        source_manifest().to_json().replace('"opset"', '"precision":"fp16","opset"'),
        "'precision' is there twice",
    ),
    "an endless number": (source_manifest().to_json().replace('"opset":20', '"opset":' + "9" * 10_000), "damaged"),
    "no deviation": (source_manifest().to_json().replace("0.229", "0"), "image_std"),
    "a tiny deviation": (source_manifest().to_json().replace("0.229", "1e-320"), "image_std"),
    "an infinite mean": (source_manifest().to_json().replace("0.485", "1e999"), "out of range"),
    "an escape sequence": (source_manifest().to_json().replace('cat"', 'c\\u001b[2Jt"'), "labels"),
    "a second line": (source_manifest().to_json().replace('cat"', 'cat\\nAGREE"'), "labels"),
    "an escape in a version": (source_manifest().to_json().replace("2.14.1", "\\u009b2J"), "versions"),
    "an escape in a key": (source_manifest().to_json().replace('"opset"', '"\\u001b[2J"'), "\\x1b[2J"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_manifest_is_one_clear_line(kind):
    text, message = HOSTILE[kind]
    with pytest.raises(ArtifactError) as raised:
        Manifest.from_json(text, source="it")
    assert raised.value.message.startswith("it: the manifest is damaged: ")
    assert message in raised.value.message
    assert raised.value.message.isprintable()
    assert len(raised.value.message) < 2100


def test_labels_with_control_characters_never_get_into_a_file():
    with pytest.raises(UsageError, match=r"the name 'c\\x1b\[2Jt' has control characters"):
        full_labels(["c\x1b[2Jt", "dog"], 3)


@given(st.text(st.characters(), max_size=50))
def test_printable_text_is_one_line_without_control_characters(text):
    assert printable(text).isprintable()
    assert printable(text) == text or not text.isprintable()
