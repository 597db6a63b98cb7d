"""report.md and report.html say what a run measured: never a wrong row as a gain, and nothing of the data as markup."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support.bench_results import EAGER, FASTEST, WRONG, made_up, replaced

from frcnn.benchmarks.report.content import document_of
from frcnn.benchmarks.report.document import Cell, Document, Table
from frcnn.benchmarks.report.drawing import letters, svg
from frcnn.benchmarks.report.figures import agreement, batch_figures, latency_figures
from frcnn.benchmarks.report.formatting import number, ratio_text
from frcnn.benchmarks.report.ranking import headline, ranked, ranks
from frcnn.benchmarks.report.results import NotToldApart, Ratio, Results
from frcnn.benchmarks.report.table import show_results
from frcnn.benchmarks.report.write import escaped, html, markdown, write_report
from frcnn.errors import MissingDependencyError

HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)> | `b` *c* [d](http://e) </title>&lt;\n# f"
VOID = {"br", "meta"}


class Page(HTMLParser):
    """Reads a page: every element with its attributes, the text, and whether elements are closed in their order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, {name: value or "" for name, value in attributes}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text.append(data)

    def named(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def run() -> Results:
    return made_up()


@pytest.fixture(scope="module")
def document(run) -> Document:
    return document_of(run)


@pytest.fixture(scope="module")
def page(document) -> str:
    return html(document)


def with_row(run: Results, row_id: str, **changes) -> Results:
    return replaced(run, rows=tuple(replaced(row, **changes) if row.id == row_id else row for row in run.rows))


def with_ratio(run: Results, row_id: str, **changes) -> Results:
    row = run.row(row_id)
    measures = tuple(replaced(m, ratio=replaced(m.ratio, **changes)) for m in row.measures)
    return with_row(run, row_id, measures=measures)


def only(run: Results, *ids: str) -> Results:
    return replaced(run, rows=tuple(row for row in run.rows if row.id in ids))


def with_noise(run: Results, **changes) -> Results:
    return replaced(run, noise=replaced(run.noise, **changes))


# the headline


def test_the_fastest_right_row_is_the_headline_with_its_spread(run):
    alone = only(run, EAGER, FASTEST, WRONG)
    result = headline(alone)
    measure = run.row(FASTEST).measure("images", 1)
    assert result.value == f"{measure.ratio.median:.2f}x"
    assert result.tone == "good"
    of_eager = run.row(EAGER).measure("images", 1)
    times = f"{number(measure.p50_ms)} ms against {number(of_eager.p50_ms)} ms"
    assert result.text == f"frcnn {result.value} eager ({times}), boxes within the limits of fp16: TensorRT-RTX fp16"
    assert f"p90 {number(measure.p90_ms)} ms; {ratio_text(measure.ratio)} eager" in result.notes[0]
    assert "95 % interval of the median, 7 rounds" in result.notes[0]
    exact = headline(with_row(alone, FASTEST, precision="fp32", name="frcnn, TensorRT"))
    assert exact.text.endswith("), same boxes: TensorRT, fp32")


def test_the_headline_is_of_frcnn_and_names_a_faster_rival(run):
    rival = headline(with_row(run, FASTEST, name="NNCF int8 of our graph"))
    assert rival.text.startswith("frcnn ") and "TensorRT fp16" in rival.text
    assert "faster still" not in rival.text, "the two cannot be told apart"
    faster = with_noise(with_row(with_ratio(run, FASTEST, median=9.0), FASTEST, name="NNCF"), not_told_apart=())
    assert headline(faster).text.endswith("; faster still: NNCF")
    assert headline(only(run, EAGER, "eager-amp")).text.startswith("No row of frcnn was both")


def test_the_first_line_of_all_three_is_the_headline(run, document, page, capsys):
    show_results(run)
    text = headline(run).text
    assert capsys.readouterr().out.splitlines()[0] == text
    assert markdown(document).split("**")[1] == escaped(text)
    assert text in " ".join(" ".join(Page(page).text).split())


def test_what_could_not_run_is_one_line_by_reason(run, capsys):
    missing = with_row(with_row(run, "torch-compile", status="unavailable", reason="no NVIDIA GPU: a, b"), WRONG,
                       status="unavailable", measures=(), reason="no NVIDIA GPU: c")  # fmt: skip
    show_results(missing)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("not run here: "))
    assert line == (
        "not run here: torchvision's own ONNX export TensorRT, eager torchvision torch.compile (no NVIDIA GPU); "
        "frcnn OpenVINO (the package 'openvino' is not installed)"
    )


def test_a_wrong_row_is_never_the_headline_however_fast(run):
    wrong = run.row(WRONG)
    fastest = run.row(FASTEST)
    assert wrong.measure("images", 1).ratio.median > 1.5 * fastest.measure("images", 1).ratio.median
    assert wrong not in ranked(run)
    assert f"Measured but wrong, so not ranked: {wrong.name}." in headline(run).notes
    assert headline(only(run, EAGER, WRONG)).value == ""


def test_a_row_that_was_not_compared_is_not_called_fast(run):
    unchecked = with_row(only(run, EAGER, FASTEST), FASTEST, correctness=None)
    result = headline(unchecked)
    assert (result.value, result.tone) == ("", "warning")
    assert any("not compared with eager" in note for note in result.notes)


@pytest.mark.parametrize(
    ("low", "start"),
    [
        (1.2, "Too noisy to tell frcnn from eager"),
        (1.4, "frcnn is faster than eager, by how much the system was too noisy to say"),
    ],
)
def test_a_noisy_system_gives_no_number_and_no_ranks(run, low, start):
    noisy = with_ratio(with_noise(only(run, EAGER, FASTEST), too_noisy=True, noise=0.3), FASTEST, low=low, high=9.0)
    result = headline(noisy)
    assert result.text.startswith(f"{start}: its fastest correct row reads ")
    assert result.value == ""
    assert ranks(noisy) == {}
    assert "There are no ranks" in markdown(document_of(noisy))


@pytest.mark.parametrize("how", ["interval", "pair"])
def test_a_row_within_the_noise_of_eager_is_no_gain(run, how):
    alone = only(run, EAGER, FASTEST)
    if how == "interval":
        alone = with_ratio(alone, FASTEST, low=0.97, high=9.0)
    else:
        blur = NotToldApart(first=FASTEST, second=EAGER, scope="images", batch=1)
        alone = with_noise(alone, not_told_apart=(blur,))
    result = headline(alone)
    assert result.text.startswith("frcnn cannot be told apart from eager: ")
    assert result.value == ""


def test_a_row_slower_than_eager_is_called_slower(run):
    result = headline(only(run, EAGER, "onnxruntime-cpu"))
    assert result.text.startswith("frcnn 0.18x eager (") and result.text.endswith(
        "nothing of frcnn is faster than eager here"
    )
    assert result.tone == "bad"


def test_rows_that_cannot_be_told_apart_share_a_rank(run):
    places = ranks(run)
    assert places[FASTEST] == places["tensorrt-fp16"] == 1
    assert places["eager-amp"] == 3
    assert WRONG not in places
    assert EAGER not in places
    apart = with_noise(run, not_told_apart=())
    assert sorted(ranks(apart).values()) == list(range(1, len(places) + 1))
    # the same pair at another batch size, or of the network alone, says nothing of this one
    elsewhere = tuple(replaced(blur, batch=8) for blur in run.noise.not_told_apart)
    assert ranks(with_noise(run, not_told_apart=elsewhere)) == ranks(apart)


def test_a_partial_run_is_called_partial_first(run):
    partial = replaced(run, partial=True, partial_reason="interrupted (Ctrl-C)")
    assert document_of(partial).headline.notes[0].startswith("This run is partial: interrupted (Ctrl-C).")
    assert document_of(partial).headline.tone == "warning"


def test_few_rounds_are_not_called_an_interval_of_95_per_cent(run):
    few = with_ratio(only(run, EAGER, FASTEST), FASTEST, rounds=3)
    assert "smallest and largest of 3 rounds" in headline(few).notes[0]


# the table, and both files


def cells_of(text: str, key: str) -> list[str]:
    """Return the cells of a row of the first table of report.md."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {key}: "))
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_every_row_is_in_the_table_with_its_status_and_reason(run, document):
    text = markdown(document)
    for place, row in enumerate(run.rows):
        cells = cells_of(text, "ABCDEFGHIJK"[place])
        assert cells[0].startswith(f"{'ABCDEFGHIJK'[place]}: {escaped(row.name)}")
        assert cells[1] == (f"{row.status} ({escaped(row.reason)})" if row.reason else row.status)


def test_a_wrong_row_has_times_but_neither_ratio_nor_rank(run, document):
    cells = cells_of(markdown(document), "I")
    assert cells[2] == number(run.row(WRONG).measure("images", 1).p50_ms)
    assert [cells[6], cells[8], cells[9]] == ["-", "-", "-"]
    assert ratio_text(run.row(WRONG).measure("images", 1).ratio) not in markdown(document)


def test_both_files_have_the_same_content(run, document, page):
    text, shown_text = markdown(document), " ".join(" ".join(Page(page).text).split())
    blocks = [block for of_section in document.sections.values() for block in of_section]
    tables = [block for block in blocks if isinstance(block, Table)]
    tables += [block.table for block in blocks if getattr(block, "table", None) is not None]
    assert len(tables) > 15
    for table in tables:
        for row in table.rows:
            assert len(row) == len(table.columns)
            for cell in row:
                shown = cell if isinstance(cell, str) else cell.text
                assert escaped(shown) in text
                assert " ".join(shown.split()) in shown_text
    for note in document.headline.notes:
        assert escaped(note) in text
        assert note in shown_text
    assert run.environment.command in text
    assert run.environment.command in shown_text


def test_a_report_is_one_file_that_asks_for_nothing_else(run, tmp_path):
    markdown_file, html_file = write_report(run, tmp_path / "new" / "report")
    assert [markdown_file.name, html_file.name] == ["report.md", "report.html"]
    text = html_file.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "link", "img", "iframe", "object", "embed", "form"})
    outward = [value for _, at in page.elements for name, value in at.items() if name in ("src", "href", "action")]
    assert outward and all(value.startswith("#") for value in outward)
    assert not re.search(r"url\((?!#)|@import|http(?!-equiv)|xlink", text)
    assert any("default-src 'none'" in at.get("content", "") for at in page.named("meta"))
    assert write_report(run, tmp_path / "new" / "report") == [markdown_file, html_file]
    assert html_file.read_text(encoding="utf-8") == text, "the same run, the same report"


def test_links_inside_the_page_lead_somewhere_and_ids_are_used_once(page):
    read = Page(page)
    ids = [at["id"] for _, at in read.elements if "id" in at]
    assert len(ids) == len(set(ids))
    assert {at["href"][1:] for tag in ("a", "use") for at in read.named(tag)} <= set(ids)
    assert set(re.findall(r"url\(#([^)]*)\)", page)) <= set(ids)
    assert {at["aria-labelledby"] for at in read.named("section")} <= set(ids)


def test_a_page_can_be_used_without_seeing_it(page):
    read = Page(page)
    drawings = read.named("svg")
    assert len(drawings) == len(read.named("figure")) == 12
    assert all(at["role"] == "img" and len(at["aria-label"]) > 20 for at in drawings)
    assert len(read.named("caption")) == len(read.named("table"))
    scopes = [at["scope"] for at in read.named("th")]
    assert set(scopes) == {"row", "col"}
    assert scopes.count("row") == len(read.named("tr")) - len(read.named("thead"))
    assert all(at["tabindex"] == "0" and at["aria-label"] for at in read.named("div") if at.get("class") == "scroll")
    assert [len(read.named(tag)) for tag in ("main", "nav", "header", "h1")] == [1, 1, 1, 1]
    levels = [int(tag[1]) for tag, _ in read.elements if re.fullmatch("h[1-6]", tag)]
    assert all(lower - upper <= 1 for upper, lower in itertools.pairwise(levels))
    assert read.elements[[tag for tag, _ in read.elements].index("body") + 1] == (
        "a",
        {"class": "skip", "href": "#content"},
    )


def test_figures_have_no_colour_but_those_of_the_style_sheet(page):
    for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        assert set(re.findall(r"(?:fill|stroke): ([^;\"]+)", drawing)) <= {
            "none",
            *(f"var(--{name})" for name in ("ink", "soft", "rule", "band", "panel", "on")),
            *(f"var(--c{place})" for place in range(8)),
        }
        assert "#a1b2" not in drawing
    names = set(re.findall(r"var\(--([\w-]+)", page))
    assert names - set(re.findall(r"--([\w-]+):", page)) == set()


def test_letters_of_equal_points_do_not_cover_each_other():
    points = [(4.0, 10.0, Cell("", key=key)) for key in "ABCDE"] + [(4.01, 100.0, Cell("", key="F"))]
    placed = []

    def draw(axes):
        axes.set_xlim(0, 8)
        axes.set_ylim(0, 100)
        letters(axes, points)
        placed.extend(axes.transData.transform(text.get_position())[1] for text in axes.texts)
        assert all(axes.bbox.ymin <= height <= axes.bbox.ymax for height in placed)

    svg(draw, "letters")
    assert len(placed) == 6
    assert all(upper - lower > 16 for lower, upper in itertools.pairwise(sorted(placed)))


def test_a_renderer_that_is_missing_is_named_before_the_run(run, monkeypatch, tmp_path):
    monkeypatch.setattr("frcnn.benchmarks.report.drawing.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="jinja2") as caught:
        write_report(run, tmp_path)
    assert "frcnn[report]" in caught.value.hint


def test_what_comes_from_data_is_text_and_nothing_else(run, page):
    row = replaced(run.row(FASTEST), name=HOSTILE, note=HOSTILE, missing=(HOSTILE,))
    absent = replaced(run.row("openvino"), reason=HOSTILE)
    artifact = replaced(row.artifact, name=HOSTILE)
    check = replaced(row.correctness, limits=HOSTILE)
    rows = tuple(
        {FASTEST: replaced(row, artifact=artifact, correctness=check), "openvino": absent}.get(r.id, r)
        for r in run.rows
    )
    work = replaced(
        run.workload,
        model=HOSTILE,
        checkpoint=HOSTILE,
        source=HOSTILE,
        images=tuple(replaced(image, name=HOSTILE) for image in run.workload.images),
        skipped=tuple(replaced(one, name=HOSTILE, reason=HOSTILE) for one in run.workload.skipped),
    )
    gpu = replaced(
        run.environment.gpu,
        name=HOSTILE,
        states=tuple(replaced(s, throttling=(HOSTILE,)) for s in run.environment.gpu.states),
    )
    system = replaced(run.environment, cpu=HOSTILE, gpu=gpu, os=HOSTILE, command=HOSTILE, packages={HOSTILE: HOSTILE})
    comparison = replaced(run.comparison, file=HOSTILE, notes=(HOSTILE,))
    curves = tuple(replaced(curve, note=HOSTILE, unit=HOSTILE) for curve in run.curves)
    hostile = replaced(
        run, rows=rows, workload=work, environment=system, comparison=comparison, curves=curves, partial=True,
        partial_reason=HOSTILE, noise=replaced(run.noise, how=HOSTILE),
    )  # fmt: skip
    document = document_of(hostile)
    text = html(document)
    plain, read = Page(page), Page(text)
    assert read.open == []
    assert text.count("&lt;script&gt;") > 20
    assert {tag for tag, _ in read.elements} <= {tag for tag, _ in plain.elements}
    assert {name for _, at in read.elements for name in at} <= {name for _, at in plain.elements for name in at}
    assert text.count("</title>") == text.count("<title>")
    rendered = markdown(document)
    in_code = rendered.partition("```sh\n")[2].partition("\n```")[0]
    outside = rendered.replace(in_code, "")
    assert not re.search(r"(?<!\\)<|(?<!\\)\*c|(?<!\\)\[d", outside)
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in cells_table(outside, "image")}
    assert widths == {5}
    assert not re.search("^# f", outside, re.MULTILINE)


def cells_table(text: str, first: str) -> list[str]:
    """Return the lines of the table whose first heading is given."""
    lines = text.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(f"| {first} |"))
    return [line for line in lines[start:] if line][: 2 + 16]


@pytest.mark.parametrize("text", ["wr\u202egno\u202c", "a\x00b\x1b[31m", "\udcff.jpg", "a\u2066b"])
def test_control_characters_are_replaced(run, text, tmp_path):
    skipped = tuple(replaced(one, name=text) for one in run.workload.skipped)
    for path in write_report(replaced(run, workload=replaced(run.workload, skipped=skipped)), tmp_path):
        written = path.read_text(encoding="utf-8")
        assert "\ufffd" in written
        assert not re.search("[\x00\x1b\u202e\u2066]", written)


@pytest.mark.parametrize("name", ["$x$ costs \\alpha", "漢字 \U0001f600", "50 % _{a}^b", "a" * 500])
def test_names_are_drawn_as_they_are(run, name):
    figure = latency_figures(with_row(only(run, FASTEST), FASTEST, name=name))[0]
    drawn = name if len(name) < 40 else "…"
    assert any(drawn in text for text in Page(figure.svg).text)
    assert Page(figure.svg).open == []


def test_a_command_with_backticks_stays_inside_its_fence(run):
    command = "frcnn bench 'a```b.pth'"
    text = markdown(document_of(replaced(run, environment=replaced(run.environment, command=command))))
    assert f"````sh\n{command}\n````" in text


# runs of which little is there


def test_a_run_of_one_row_and_nothing_else_is_a_report(run, tmp_path):
    eager = replaced(run.row(EAGER), measures=(), stages=(), of_roofline=None, status="failed", reason="no memory")
    work = replaced(
        run.workload, images=(), skipped=(), proposals=(), detections=(), checkpoint=None, canvases=(), batches=()
    )
    noise = replaced(run.noise, row=None, null=None, noise=None, not_told_apart=(), how="")
    system = replaced(run.environment, gpu=None, affinity=(), packages={}, load_before=None, turbo=True)
    little = replaced(
        run, rows=(eager,), curves=(), roofline=None, comparison=None, workload=work, noise=noise, environment=system
    )
    for path in write_report(little, tmp_path):
        text = path.read_text(encoding="utf-8")
        assert "No row of frcnn was both measured and found right" in text
        assert "The weights are random" in text
        assert "no memory" in text
    assert Page((tmp_path / "report.html").read_text(encoding="utf-8")).named("figure") == []


def test_one_call_and_differences_of_nothing_are_drawn(run):
    row = run.row(FASTEST)
    measure = row.measure("images", 1)
    ratio = Ratio(median=1.0, min=1.0, max=1.0, low=1.0, high=1.0, rounds=1)
    once = replaced(measure, rounds_ms=((4.0,),), p50_ms=4.0, p90_ms=4.0, p99_ms=4.0, mean_ms=4.0, ratio=ratio)
    same = replaced(row.correctness, box_px=0.0, score=0.0, iou=1.0, expected=0, found=0, matched=0)
    text = html(document_of(with_row(only(run, EAGER, FASTEST), FASTEST, measures=(once,), correctness=same)))
    assert Page(text).open == []
    assert "nan" not in text.lower().replace("name", "")
    assert "1 calls, median 4.00 ms" in text


def test_agreement_counts_what_both_have():
    check = made_up().row(WRONG).correctness
    assert agreement(check) == pytest.approx(291 / 339)
    assert agreement(replaced(check, relabelled=10, matched=281)) == pytest.approx(281 / 339)
    assert agreement(replaced(check, matched=0, unmatched=0, relabelled=0, moved=0)) == 1.0


def test_the_slowest_call_is_among_the_dots(run):
    samples = [t for of_round in run.row(FASTEST).measure("images", 1).rounds_ms for t in of_round]
    many = tuple(tuple(samples) for _ in range(5))
    measure = replaced(run.row(FASTEST).measure("images", 1), rounds_ms=many)
    figures = latency_figures(with_row(only(run, FASTEST), FASTEST, measures=(measure,)))
    # the ticks of the axis stand below all dots
    marks = [
        (float(x), float(y)) for x, y in re.findall(r'<use href="[^"]*" x="([\d.]+)" y="([\d.]+)"', figures[0].svg)
    ]
    floor = max(y for _, y in marks)
    dots = [x for x, y in marks if y < floor - 5]
    assert 100 <= len(dots) <= 120
    # a whisker is a line between two points of one height
    lines = re.findall(r'd="M ([\d.]+) ([\d.]+)\s+L ([\d.]+) ([\d.]+)\s*"', figures[0].svg)
    whisker = max(float(x2) for x1, y1, x2, y2 in lines if y1 == y2 and x1 != "10")
    assert max(dots) == pytest.approx(whisker, abs=0.01)


def test_a_row_measured_at_one_batch_size_has_no_line(run):
    row = run.row(FASTEST)
    assert batch_figures(with_row(only(run, FASTEST), FASTEST, measures=row.measures[:1])) == []


# in a browser

MEASURE = """<script>
const one = document.getElementById("page");
one.onload = () => {
  const page = one.contentDocument.documentElement, wide = [];
  const edge = page.clientWidth + 0.5;
  for (const at of one.contentDocument.querySelectorAll("body *")) {
    // what is scrolled by itself may be wide; on a phone only tables of few columns are
    const held = at.closest(".scroll") && !(edge < 700 && at.closest("table.cards"));
    if (!held && !at.closest("thead") && at.getBoundingClientRect().right > edge) wide.push(at.outerHTML.slice(0, 200));
  }
  document.title = JSON.stringify([page.clientWidth, page.scrollWidth, wide.length, wide.slice(0, 3)]);
};
</script>"""


def over_the_edge(page: str, width: int, folder: Path) -> tuple[int, int, int, str]:
    """Show a page in a frame of a width, as a browser's own window cannot be as narrow as a phone.

    Returns:
        the width, the width of what is in it, how many elements run over the edge, and the first of them.
    """
    frame = page.replace("&", "&amp;").replace('"', "&quot;")
    style = f"border:0;width:{width}px;height:900px"
    measuring = folder / "measuring.html"
    measuring.write_text(
        f'<!doctype html><title>none</title><iframe id="page" style="{style}" srcdoc="{frame}"></iframe>{MEASURE}',
        encoding="utf-8",
    )
    options = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
        " --disable-component-update --disable-sync --hide-scrollbars --virtual-time-budget=5000"
    )
    done = subprocess.run(
        ["chromium", *options.split(), f"--user-data-dir={folder / 'profile'}", "--dump-dom", measuring.as_uri()],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    found = re.search(r"<title>\[(\d+),(\d+),(\d+),(.*?)\]</title>", done.stdout)
    assert found is not None, done.stderr[-2000:]
    return int(found[1]), int(found[2]), int(found[3]), found[4]


needs_chromium = pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_runs_over_the_edge_in_a_browser(run, tmp_path, width):
    long = with_row(run, "openvino", name="a-name-of-one-word-" * 8, reason="/a/path/without/any/blank" * 8)
    page = html(document_of(long)).replace("<details>", "<details open>")
    *widths, count, first = over_the_edge(page, width, tmp_path)
    assert (widths, count) == ([width, width], 0), first


@pytest.mark.slow
@needs_chromium
def test_an_element_that_is_too_wide_is_detected(page, tmp_path):
    wide = page.replace("<header>", '<header><p style="width:500px">wide</p>')
    shown, held, count, first = over_the_edge(wide, 360, tmp_path)
    assert (shown, count) == (360, 1), first
    assert held > 500


COLOURS = re.compile(r"--([\w-]+): (#[0-9a-f]{6});")


def luminance(colour: str) -> float:
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    bright, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colours_can_be_read_in_light_and_dark(theme):
    css = (Path(__file__).parents[3] / "benchmarks" / "report" / "report.css").read_text(encoding="utf-8")
    colours = dict(COLOURS.findall(re.findall(r":root \{(.*?)\}", css, re.DOTALL)[theme]))
    for ground in ("paper", "panel"):
        for ink in ("ink", "soft", "good", "warning", "bad", "link"):
            assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
        for place in range(8):
            assert contrast(colours[f"c{place}"], colours[ground]) >= 3, (place, ground)
    for place in range(8):
        assert contrast(colours["on"], colours[f"c{place}"]) >= 4.5, place
