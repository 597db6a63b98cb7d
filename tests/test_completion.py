"""``frcnn completion``: what a shell offers when Tab is pressed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from frcnn.cli import VERBS, main
from frcnn.exporter.checkpoint.builder_arguments import ARCHITECTURE
from frcnn.runtime.host.providers import PROVIDERS

ASK_BASH = """
source frcnn.bash
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_shtab_frcnn frcnn "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
MOBILENETS = {name for name in ARCHITECTURE.known if "mobilenet" in name}


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A folder with files, a folder in it, and the scripts."""
    (tmp_path / "images").mkdir()
    (tmp_path / "model.onnx").touch()
    for shell in ("bash", "zsh", "fish"):
        assert main(["completion", shell]) == 0
        (tmp_path / f"frcnn.{shell}").write_text(capsys.readouterr().out)
    return tmp_path


def ask(folder: Path, *command: str) -> set[str]:
    if shutil.which(command[0]) is None:
        pytest.skip(f"this system has no {command[0]}")
    environment = {name: os.environ[name] for name in ("PATH", "HOME")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    return {line.partition("\t")[0] for line in done.stdout.splitlines()}


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("", {*VERBS, "predict", "val"}),
        ("ex", {"export"}),
        ("detect --prov", {"--provider"}),
        ("detect --provider ", set(PROVIDERS)),
        ("predict --provider o", {"openvino"}),
        ("export --arch ", set(ARCHITECTURE.known)),
        ("export my.pth --arch fasterrcnn_m", MOBILENETS),
        ("export mod", {"model.onnx"}),
        ("compare my.pth model.onnx --images im", {"images"}),
        ("compare my.pth model.onnx --images images --prov", {"--provider"}),
        ("unpack model.frcnn -o ", {"images"}),
        ("completion ", {"bash", "zsh", "fish"}),
    ],
)
@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_a_shell_offers_what_fits(shell: str, words: str, offered: set[str], folder: Path) -> None:
    commands = {
        "bash": ["--norc", "-c", ASK_BASH, "bash", "frcnn", *words.split(" ")],
        "fish": ["--no-config", "-c", f"source frcnn.fish; complete -C 'frcnn {words}'"],
    }
    assert {name.rstrip("/") for name in ask(folder, shell, *commands[shell])} == offered


def test_zsh_reads_the_script(folder: Path) -> None:
    assert ask(folder, "zsh", "-n", "frcnn.zsh") == set()
    text = (folder / "frcnn.zsh").read_text()
    assert text.startswith("#compdef frcnn") and all(f"    {verb}:'" in text for verb in VERBS)
