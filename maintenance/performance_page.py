"""Render the documents' figures from what is committed under benchmarks/results.

These are docs/performance.md, docs/reference/gpu-support.md and zoo.md, the README's table of speed, the figures in
docs/reliability.md, and what has run on a GPU wherever that is said; each is a template beside this module.
src/frcnn/spec/gpu_runs.json has what has run for frcnn itself.
``python -m maintenance.performance_page`` (or ``make performance``) writes them; with ``--check`` it writes
nothing and exits with 1 where one is not what the files say.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from frcnn.benchmarks.report.content import rows_table
from frcnn.benchmarks.report.formatting import number, percent, ratio_text, size_text
from frcnn.benchmarks.report.ranking import head_measure, headline, ratio_of
from frcnn.benchmarks.report.write import markdown_environment
from frcnn.console import note
from frcnn.errors import FrcnnError, UsageError
from frcnn.files import write_text
from frcnn.spec.gpu_runs import GENERATIONS, engine_name, loaded_by, summary
from maintenance.committed import Committed, KernelForm, ZooRow, read_committed
from maintenance.cpu_speeds import accuracy_lines, cpu_speeds
from maintenance.gpu_support import ENGINES, OURS, cell, data_text, pipelines, runs_of

BEGIN: Final = "<!-- figures: made by make performance; edits are lost -->"
END: Final = "<!-- end of figures -->"
GPU_BEGIN: Final = "<!-- what ran on a GPU: made by make performance; edits are lost -->"
GPU_END: Final = "<!-- end of what ran on a GPU -->"
_ROOT: Final = Path(__file__).resolve().parents[1]


def _render(template: str, committed: Committed, **values: object) -> str:
    runs = runs_of(committed)
    environment = markdown_environment(Path(__file__).parent)
    environment.filters |= {convert.__name__: convert for convert in (number, percent, ratio_text, size_text)}
    functions = (
        accuracy_lines,
        cell,
        cpu_speeds,
        engine_name,
        head_measure,
        headline,
        loaded_by,
        ratio_of,
        rows_table,
        summary,
        zoo_outcome,
    )
    environment.globals |= {function.__name__: function for function in functions}
    text = environment.get_template(f"{template}.md.j2").render(
        committed=committed,
        gpu_runs=runs,
        plan_ran=any(run.form == "plan" for run in runs),
        engines=ENGINES,
        ours=OURS,
        pipelines=list(pipelines(committed)),
        generations=GENERATIONS,
        kernel_forms=_kernel_forms,
        **values,
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def zoo_outcome(row: ZooRow, rows: Sequence[ZooRow]) -> str:
    """Return how a configuration came out: as the one whose network it has, where it was not run itself."""
    if not row.same_as:
        return row.outcome
    own = (row.trainer, row.same_as)
    return next((other.outcome for other in rows if (other.trainer, other.configuration) == own), "not tried")


def _kernel_forms(rows: Iterable[KernelForm]) -> dict[str, list[KernelForm]]:
    """Return the compiled forms of each kernel, in the file's order."""
    forms: dict[str, list[KernelForm]] = defaultdict(list)
    for row in rows:
        forms[row.kernel.partition(" ")[0]].append(row)
    return forms


def page(committed: Committed) -> str:
    """Return docs/performance.md. A kind of which nothing is committed has the command that measures it."""
    return _render("performance", committed) + "\n"


def readme_table(committed: Committed) -> str:
    """Return the README's table of speed, with the files that its numbers are from."""
    return _render("readme", committed)


def with_figures(document: str, figures: str, *, name: str, begin: str = BEGIN, end: str = END) -> str:
    """Return a document with the figures between its markers.

    Args:
        document: its text.
        figures: what to put there.
        name: of the document, for the error.
        begin: the first marker.
        end: the last one.

    Raises:
        UsageError: the markers are not there once each, in this order.
    """
    before, has_begin, rest = document.partition(begin)
    _, has_end, after = rest.partition(end)
    if not has_begin or not has_end or begin in rest or end in before + after:
        raise UsageError(
            f"the figures in {name} have lost their place",
            hint=f"put the lines {begin} and {end} where they belong, once each",
        )
    return f"{before}{begin}\n\n{figures}\n\n{end}{after}"


def pages(root: Path) -> dict[Path, str]:
    """Return what the generated pages of a checkout are to hold.

    Args:
        root: of the checkout.

    Raises:
        ArtifactError: a committed result cannot be read.
        UsageError: a document has no markers, or there is no checkout.
    """
    docs = root / "docs"
    readme, reliability = root / "README.md", docs / "reliability.md"
    results = root / "benchmarks" / "results"
    if not readme.is_file() or not reliability.is_file() or not results.is_dir():
        raise UsageError(f"{root} is no checkout of frcnn", hint="run this in a clone, or give its folder with --root")
    committed = read_committed(results)
    wanted = {
        docs / "performance.md": page(committed),
        docs / "reference" / "gpu-support.md": _render("gpu_support", committed) + "\n",
        docs / "reference" / "zoo.md": _render("zoo", committed) + "\n",
        root / "src" / "frcnn" / "spec" / "gpu_runs.json": data_text(runs_of(committed)),
        readme: with_figures(readme.read_text("utf-8"), readme_table(committed), name="README.md"),
        reliability: with_figures(
            reliability.read_text("utf-8"), _render("reliability", committed), name="docs/reliability.md"
        ),
    }
    for path, folder in ((readme, "docs/"), (docs / "limits.md", ""), (docs / "tutorials" / "gpu.md", "../")):
        wanted[path] = with_figures(
            wanted.get(path) or path.read_text("utf-8"),
            _render("gpu_runs", committed, folder=folder),
            name=path.relative_to(root).as_posix(),
            begin=GPU_BEGIN,
            end=GPU_END,
        )
    return wanted


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=_ROOT, help="the checkout; this one by default")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a page is out of date")
    chosen = parser.parse_args(arguments)
    try:
        wanted = pages(chosen.root)
        stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text("utf-8") != text]
        for path in stale:
            if not chosen.check:
                write_text(path, wanted[path])
            note(f"{path}: {'out of date; run make performance' if chosen.check else 'written'}")
    except FrcnnError as error:
        note(f"error: {error.message}")
        note(f"hint: {error.hint}")
        return 2
    return 1 if stale and chosen.check else 0


if __name__ == "__main__":
    sys.exit(main())
