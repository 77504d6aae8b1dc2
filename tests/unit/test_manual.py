"""The manual of the command line: made of what `--help` is made of, and sound as a manual page."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from forgefile import cli
from forgefile.forge import VERBS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "forge.1"


def needs(program, package):
    if shutil.which(program) is None:
        pytest.skip(f"{program} is missing: package {package}")


def test_it_is_up_to_date():
    argv = [sys.executable, ROOT / "scripts" / "manual", "--check"]
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_man_has_nothing_to_say():
    needs("man", "man-db")
    env = {**os.environ, "LC_ALL": "C.UTF-8", "MANROFFSEQ": "", "MANWIDTH": "80"}
    argv = ("man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", PAGE)
    assert subprocess.run(argv, env=env, capture_output=True, check=True).stderr == b""


def test_mandoc_has_nothing_to_say():
    needs("mandoc", "mandoc")
    said = subprocess.run(("mandoc", "-T", "lint", PAGE), capture_output=True, text=True, check=False).stdout
    assert [line for line in said.splitlines() if "missing date" not in line] == []  # a date would be another each day


@pytest.mark.parametrize("page", ["forge.1", "commands.md"])
def test_every_verb_and_option_is_told(page):
    text = (ROOT / "docs" / page).read_text().replace("\\-", "-").replace("\\fB", "")
    for verb in VERBS:
        assert verb == "build" or re.search(rf"^(\.SS|##) forge {verb}\b", text, flags=re.MULTILINE)
        for action in cli._parser(verb)._actions:
            for name in set(action.option_strings) - {"-h", "--help"}:
                assert re.search(rf"(?<![\w-]){name}(?![\w-])", text), name
