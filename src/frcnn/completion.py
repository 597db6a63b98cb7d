"""Print the script by which a shell completes verbs, options, choices and files of frcnn when Tab is pressed.

Write it to where the shell looks for such scripts, once and after each update, and open a new shell:

  frcnn completion bash > ~/.local/share/bash-completion/completions/frcnn
  frcnn completion zsh > ~/.zfunc/_frcnn
  frcnn completion fish > ~/.config/fish/completions/frcnn.fish

bash needs the package bash-completion, and zsh a line fpath+=~/.zfunc before compinit in ~/.zshrc.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import shtab

from frcnn.cli import ALIASES, VERBS
from frcnn.cli import add_arguments as add_arguments_of
from frcnn.files import standard_output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell to complete in")


def run(arguments: argparse.Namespace) -> int:
    """Print the script."""
    parser = argparse.ArgumentParser(prog="frcnn")
    parser.add_argument("--version", action="version", version="")
    verbs = parser.add_subparsers()
    for name, verb in VERBS.items():
        aliases = [alias for alias, of in ALIASES.items() if of == name]
        one = verbs.add_parser(name, help=verb.summary, aliases=aliases)
        add_arguments_of(one, name)
        for action in one._actions:
            _complete(action)
    script = shtab.complete(parser, arguments.shell)
    with standard_output():
        print(script)
    return 0


def _complete(action: Any) -> None:
    """Have known names, folders or files offered for what an option or argument takes."""
    shown = str(action.metavar or action.dest)
    if action.option_strings and action.nargs == "+":
        action.nargs = None  # else bash is offered no option after the first value
    if known := getattr(action.type, "known", None):
        action.choices = known
    elif action.choices is None and action.nargs != 0:
        if "FOLDER" in shown:
            action.complete = shtab.DIRECTORY
        elif action.type is Path or "FILE" in shown or not action.option_strings:
            action.complete = shtab.FILE
