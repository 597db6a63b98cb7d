"""The directive ``frcnn-verb``: a verb of the ``frcnn`` command, described by its own argument parser."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from frcnn.cli import add_arguments


def parser_of(verb: str) -> argparse.ArgumentParser:
    """Return the parser of a verb, as ``frcnn.cli`` makes it."""
    parser = argparse.ArgumentParser(prog=f"frcnn {verb}", add_help=False)
    parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=96)
    parser.description = add_arguments(parser, verb).__doc__
    return parser


class Verb(SphinxDirective):
    """What ``frcnn VERB --help`` says, as a part of a page."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        """Return the description, the usage and a list of options for each group."""
        parser = parser_of(self.arguments[0])
        usage = "\n".join(line[len("usage: ") :] for line in parser.format_usage().splitlines())
        found = [*described(parser.description or ""), nodes.literal_block(usage, usage, language="text")]
        for group in parser._action_groups:
            actions = [action for action in group._group_actions if action.help is not argparse.SUPPRESS]
            if actions:
                found.append(nodes.rubric("", (group.title or "").capitalize()))
                found.append(self._options(actions))
        return found

    def _options(self, actions: list[argparse.Action]) -> nodes.definition_list:
        items = nodes.definition_list(classes=["options"])
        for action in actions:
            term = nodes.term("", "", *intermixed(spellings(action)))
            help_text = argparse.HelpFormatter("")._expand_help(action) if action.help else ""
            definition = nodes.definition("", nodes.paragraph("", "", *quoted(help_text)))
            items += nodes.definition_list_item("", term, definition)
        return items


def spellings(action: argparse.Action) -> Iterator[str]:
    """Give each way to write an option, with what it takes; or a positional argument's name."""
    formatter = argparse.HelpFormatter("")
    if not action.option_strings:
        yield formatter._format_args(action, action.dest)
        return
    value = "" if action.nargs == 0 else " " + formatter._format_args(action, action.dest.upper())
    for option in action.option_strings:
        yield option + value


def intermixed(texts: Iterator[str]) -> Iterator[nodes.Node]:
    """Give literal texts with commas between them."""
    for number, text in enumerate(texts):
        if number:
            yield nodes.Text(", ")
        yield nodes.literal("", text)


def quoted(text: str) -> Iterator[nodes.Node]:
    """Give a line of help, with options and commands in it as literals."""
    for part in re.split(r"((?<![\w-])--?[a-z][\w-]*|'frcnn [^']+'|\b[\w.]+\.(?:onnx|frcnn)\b)", text):
        is_literal = part.startswith(("-", "'frcnn")) or part.endswith((".onnx", ".frcnn"))
        if part:
            yield nodes.literal("", part.strip("'")) if is_literal and part.strip("-") else nodes.Text(part)


def described(text: str) -> Iterator[nodes.Node]:
    """Give the paragraphs of a description; indented ones are literal."""
    for block in re.split(r"\n\s*\n", text.strip()):
        if all(line.startswith("  ") for line in block.splitlines()):
            yield nodes.literal_block("", "\n".join(line[2:] for line in block.splitlines()), language="text")
        else:
            yield nodes.paragraph("", "", *quoted(" ".join(block.split())))


def setup(app: Sphinx) -> dict[str, bool]:
    """Make the directive known to Sphinx."""
    app.add_directive("frcnn-verb", Verb)
    return {"parallel_read_safe": True}
