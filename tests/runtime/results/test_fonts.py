"""frcnn.runtime.results.fonts: names in any script, with fonts of a folder or with none; the system's stay out."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw

from frcnn.errors import UsageError
from frcnn.runtime import Detections
from frcnn.runtime.results import fonts
from frcnn.runtime.results.draw import _extent, annotate
from frcnn.runtime.results.fonts import checked_font, font_of, label_runs

DEJAVU = Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
WORDS = {
    # two of one length each: as empty squares they would look the same
    "Greek": ("γατα", "δενδ"),
    "Cyrillic": ("кошка", "птица"),
    "Arabic": ("قطة", "كلب"),
    "Hebrew": ("חתול", "כלבה"),
    "Latin": ("čeřen", "źdźbł"),
}
Use = Callable[..., None]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Iterator[Use]:
    """Return what makes these folders the only ones that have fonts; at first there is none."""

    def only(*folders: Path, raqm: bool = True) -> None:
        monkeypatch.setattr(fonts, "_FOLDERS", tuple(map(str, folders)))
        monkeypatch.setattr(fonts, "find_spec", lambda _: None)
        monkeypatch.setattr(fonts.features, "check", lambda _: raqm)
        forget()

    def forget() -> None:
        for cached in (fonts._fonts, fonts._runs, fonts._name_runs):
            cached.cache_clear()

    only()
    yield only
    monkeypatch.undo()
    forget()


def drawn(name: str, **options: object) -> np.ndarray:
    found = Detections(
        boxes=np.array([[40, 60, 300, 220]], np.float32),
        scores=np.array([0.5], np.float32),
        labels=np.array([8]),
        image_size=(240, 320),
        label_names=("__background__", *"abcdefg", name),
    )
    return annotate(np.full((240, 320, 3), 90, np.uint8), found, **options)  # type: ignore[arg-type]


def text_of(name: str, font: str | None = None) -> str:
    return "".join(text for text, _ in label_runs(name, "0.50", 8, font))


def test_ascii_names_look_for_no_font(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_longest", None)
    assert label_runs("traffic light", "0.50", 8, None) == (("traffic light 0.50", None),)


@pytest.mark.parametrize("script", WORDS)
def test_letters_are_drawn_in_a_font_that_has_them(use: Use, script: str, tmp_path: Path) -> None:
    shutil.copy(DEJAVU, tmp_path)
    (tmp_path / "Another Sans.ttf").write_bytes(b"not a font")
    one, other = WORDS[script]
    without = drawn(one)
    use(tmp_path)
    assert not np.array_equal(without, drawn(one))
    assert not np.array_equal(drawn(one), drawn(other))
    name, score = label_runs(one, "0.50", 8, None)
    assert (name[0], score) == (one, (" 0.50", None))
    assert name[1] is not None
    with TTFont(name[1]) as font:
        assert set(map(ord, one)) <= set(font.getBestCmap())


def test_matplotlibs_fonts_are_there_where_it_is(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "find_spec", find_spec)
    assert fonts._fonts()[0] == str(DEJAVU)


@pytest.mark.parametrize("script", ["Greek", "Arabic", "Latin"])
def test_without_a_font_the_number_is_drawn_and_a_script_warned_of_once(
    use: Use, script: str, caplog: pytest.LogCaptureFixture
) -> None:
    words = {**WORDS, "Latin": ("straße", "weiß")}[script]  # which no accent can be taken from
    with caplog.at_level(logging.WARNING, "frcnn"):
        pictures = [drawn(word) for word in (*words, words[0])]
    assert [text_of(word) for word in words] == ["#8 0.50", "#8 0.50"]
    np.testing.assert_array_equal(pictures[0], pictures[1])
    (record,) = caplog.records
    for part in (f"no font of this system has {script} letters", "fonts-noto-core", "--font"):
        assert part in record.getMessage()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Kühlschrank", "Kuhlschrank 0.50"),
        ("Ku\N{COMBINING DIAERESIS}hlschrank", "Kuhlschrank 0.50"),
        ("cat \N{CAT FACE}", "cat 0.50"),
        ("\N{CAT FACE}", "#8 0.50"),
        ("猫 (cat)", "#8 0.50"),
        ("", " 0.50"),
    ],
)
def test_what_can_be_left_out_is(use: Use, name: str, text: str) -> None:
    assert text_of(name) == text


def test_symbols_alone_are_left_out_of_a_name_that_has_a_font(use: Use, tmp_path: Path) -> None:
    shutil.copy(DEJAVU, tmp_path)
    use(tmp_path)
    assert text_of("мост \N{BRIDGE AT NIGHT}") == "мост 0.50"
    assert text_of("мост") == "мост 0.50"


def test_right_to_left_needs_fribidi(use: Use, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copy(DEJAVU, tmp_path)
    use(tmp_path, raqm=False)
    with caplog.at_level(logging.WARNING, "frcnn"):
        assert text_of("قطة") == "#8 0.50"
        assert text_of("γάτα") == "γάτα 0.50"
    (record,) = caplog.records
    assert "FriBiDi is missing for Arabic letters" in record.getMessage()
    assert "libfribidi0" in record.getMessage()


def covering(monkeypatch: pytest.MonkeyPatch, **letters: str) -> None:
    """Make fonts of these names that have these letters; Pillow's own has ASCII."""
    monkeypatch.setattr(fonts, "_fonts", lambda: tuple(letters))
    has = {None: "".join(map(chr, range(33, 127))), **letters}
    monkeypatch.setattr(fonts, "_covers", lambda file, letter: letter == " " or letter in has[file])


def test_mixed_scripts_fall_back_run_by_run(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    covering(monkeypatch, arabic="قط", chinese="猫", thai="แมวน\N{THAI CHARACTER MAI THO}", base="น")
    assert label_runs("cat 猫", "0.50", 8, None) == (("cat ", None), ("猫", "chinese"), (" 0.50", None))
    # from right to left: what is said last stands leftmost
    assert label_runs("قط BMW", "0.50", 8, None) == (("BMW", None), ("قط ", "arabic"), (" 0.50", None))
    # a mark stays with its letter, which another font has, too
    assert label_runs("猫น้", "0.50", 8, None)[:2] == (("猫", "chinese"), ("น้", "thai"))


def test_one_font_for_a_whole_name_comes_before_several(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    covering(monkeypatch, chinese="猫", all="cat猫")
    assert label_runs("cat 猫", "0.50", 8, None)[0] == ("cat 猫", "all")
    assert label_runs("cat 猫", "0.50", 8, "chinese")[:2] == (("cat ", None), ("猫", "chinese"))


def test_the_callers_font_comes_first(use: Use) -> None:
    assert label_runs("cat", "0.50", 8, str(DEJAVU)) == (("cat", str(DEJAVU)), (" 0.50", str(DEJAVU)))
    assert not np.array_equal(drawn("cat"), drawn("cat", font=DEJAVU))
    assert text_of("猫", str(DEJAVU)) == "#8 0.50"
    np.testing.assert_array_equal(drawn("кот", font=DEJAVU), drawn("кот", font=str(DEJAVU)))


@pytest.mark.parametrize("content", [None, b"", b"not a font"])
def test_a_font_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.ttf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"font: expected a scalable TrueType or OpenType font, got .*a\.ttf: "):
        drawn("cat", font=path)
    with pytest.raises(UsageError):
        checked_font(path)


def test_fonts_are_tried_upright_and_without_serifs_first(use: Use, tmp_path: Path) -> None:
    files = ["Serif.ttf", "A-Bold.otf", "Longer-Sans.ttf", "Sans.TTC", "LastResort.otf", "notes.txt", "Arial.ttf"]
    for name in files:
        (tmp_path / "deeper").mkdir(exist_ok=True)
        (tmp_path / "deeper" / name).touch()
    use(tmp_path, tmp_path / "not there")
    names = [Path(file).name for file in fonts._fonts()]
    assert names == ["Sans.TTC", "Longer-Sans.ttf", "Arial.ttf", "Serif.ttf", "A-Bold.otf"]


def test_plates_hold_letters_that_reach_farther_than_pillows(use: Use) -> None:
    runs = label_runs("Ẳ ڸ", "0.50", 8, str(DEJAVU))
    image = Image.new("L", (200, 100))
    ImageDraw.Draw(image).text((50, 60), "Ẳ ڸ", font=font_of(str(DEJAVU), 40), fill=255, anchor="ls")
    box = image.getbbox()
    assert box is not None
    ascent, descent = font_of(None, 40).getmetrics()
    assert (60 - box[1], box[3] - 60) == _extent(runs, 40)[1:]
    assert (60 - box[1], box[3] - 60) > (ascent, descent)
