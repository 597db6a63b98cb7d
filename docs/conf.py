"""How Sphinx builds the site: ``make docs``, with warnings as errors, into ``out/docs``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS / "_ext"), str(DOCS.parent / "src")]

from frcnn import __version__  # noqa: E402 -- of this tree, whose path was just added

project = "frcnn"
author = "the maintainers of frcnn"
project_copyright = "the maintainers of frcnn, Apache-2.0"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "command_line", "operators"]
exclude_patterns = ["_ext"]
suppress_warnings = ["myst.header"]  # generated pages put a fourth level under a second one
smartquotes = False  # they turn the dashes of an option in a table into one
nitpicky = True
nitpick_ignore_regex = [
    # Other projects' names, which would need a network to be resolved, and types of annotations that are not public.
    (r"py:.*", r"(?!frcnn\.).*"),
    (r"py:.*", r"frcnn\.(benchmarks|exporter|files|plugins|runtime)\..*"),
    (r"py:(data|obj|class)", r"frcnn\.spec\.(engine\..*|[A-Z])"),
]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
napoleon_use_ivar = True
napoleon_attr_annotations = False  # the text states shape and type
napoleon_use_rtype = False
maximum_signature_line_length = 90

html_theme = "furo"
html_title = f"frcnn {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b6e4f", "color-brand-content": "#0b6e4f"},
    "dark_css_variables": {"color-brand-primary": "#6fd3ae", "color-brand-content": "#6fd3ae"},
}

# Files outside docs/ that a page includes, and the page that does.
INCLUDED = {"SECURITY.md": "security.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
LINK = re.compile(r"\[([^\]\n]+)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def link_inside_the_site(text: str, page: Path) -> str:
    """Turn links to files outside ``docs/`` into links to the page that includes them, or into plain text.

    In the repository, where pages are read as files, those links lead to the files.

    Args:
        text: a page, in Markdown.
        page: its file, or the file that it includes, to which links are relative.
    """

    def replaced(link: re.Match[str]) -> str:
        label, target, anchor = link[1], link[2], link[3] or ""
        if "://" in target or target.startswith("mailto:"):
            return link[0]
        place = (page.parent / target).resolve()
        if place.parent == DOCS.parent and place.name in INCLUDED:
            place = DOCS / INCLUDED[place.name]
        if not place.is_relative_to(DOCS):
            return label
        return f"[{label}](/{place.relative_to(DOCS).as_posix()}{anchor})"

    return LINK.sub(replaced, text)


def setup(app: Sphinx) -> None:
    """Rewrite links of pages and of what they include, and set two details of Python's descriptions."""
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"

    def with_dashes(_app: Sphinx, document: nodes.document) -> None:
        for text in document.findall(nodes.Text):
            if text == " -- ":
                text.parent.replace(text, nodes.Text(" – "))  # noqa: RUF001 -- between a parameter and its text

    def of_page(app: Sphinx, name: str, source: list[str]) -> None:
        source[0] = link_inside_the_site(source[0], Path(app.env.doc2path(name)))

    def of_included(app: Sphinx, path: Path, _parent: str, source: list[str]) -> None:
        source[0] = link_inside_the_site(source[0], DOCS / path)

    app.connect("doctree-read", with_dashes)
    app.connect("source-read", of_page)
    app.connect("include-read", of_included)
