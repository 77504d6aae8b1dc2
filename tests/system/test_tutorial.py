"""The tutorial, docs/index.md, as a reader follows it: a project is begun, built, changed, built again and booted.

Only the packages of the example are added to the Forgefile, so that its trees are restored from the example's store.
"""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.conftest import REPO, Project

pytestmark = pytest.mark.system


class Console:
    """The serial console of a machine."""

    def __init__(self, machine: "subprocess.Popen[bytes]") -> None:
        assert machine.stdin is not None
        assert machine.stdout is not None
        self._said = b""
        self._in, self._out = machine.stdin.fileno(), machine.stdout.fileno()
        os.set_blocking(self._out, False)

    def waits_for(self, text: str, seconds: float = 180) -> None:
        """Read until a text is there, and forget what came before it."""
        deadline = time.monotonic() + seconds
        while text.encode() not in self._said:
            assert time.monotonic() < deadline, f"{text!r} is not in:\n{self._said[-4000:].decode(errors='replace')}"
            try:
                self._said += os.read(self._out, 65536)
            except BlockingIOError:
                time.sleep(0.05)
        self._said = self._said.partition(text.encode())[2]

    def type(self, text: str) -> None:
        """Type a line."""
        os.write(self._in, f"{text}\r".encode())


@contextmanager
def booted(line: str, folder: Path, env: Mapping[str, str]) -> Iterator[Console]:
    """Run a command that boots a disk, and end it with its machine."""
    machine = subprocess.Popen(
        shlex.split(line), cwd=folder, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        yield Console(machine)
    finally:
        machine.kill()
        machine.communicate()


BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SET_UP = ("python3 -m venv", ". .venv", "pip install")
"""How lines begin that the machine of the tests has behind it."""


def told(shown: str) -> list[str]:
    """Return the lines of a dry run that are about targets, without their times."""
    lines = [re.sub(r" +[\d.]+ s\b", "", line) for line in shown.splitlines() if not re.match(r"\d|up to", line)]
    return [" ".join(line.split()) for line in lines]


def test_what_a_reader_does_works(example: Project, scratch: Path) -> None:
    folder = scratch / "tutorial"
    programs = folder / "bin"
    programs.mkdir(parents=True)
    (programs / "forge").write_text(f'#!/bin/sh\nexec {sys.executable} -m forgefile "$@"\n')
    (programs / "forge").chmod(0o755)
    env = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(REPO),
           "FORGE_STORE": str(example.root / ".forge")}  # fmt: skip
    boots, said, foreseen = list[str](), "", []
    for language, text in BLOCK.findall((REPO / "docs" / "index.md").read_text()):
        if language == "text":
            foreseen += [told(text)] if "would run" in text else []
            continue
        for line in text.splitlines():
            if line.startswith("cd "):
                folder /= line.removeprefix("cd ")
                forgefile = folder / "Forgefile.py"
                written = forgefile.read_text()
                assert '"initramfs-tools")' in written
                forgefile.write_text(written.replace('"initramfs-tools")', '"initramfs-tools", "openssh-server")'))
            elif line.startswith("forge boot "):
                boots.append(line)
            elif not line.startswith(SET_UP):
                done = subprocess.run(
                    ("sh", "-ec", line), cwd=folder, env=env, text=True, capture_output=True, check=False
                )
                assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
                said += done.stdout
                if line == "forge --dry-run":
                    foreseen.append(told(done.stdout))
    assert "restored packages" in said
    assert "building system (overlay/etc/motd: content changed)" in said
    first, second = foreseen
    assert first == second
    first_boot, boot = boots
    assert first_boot == boot
    with booted(boot, folder, env) as console:
        console.waits_for("first login:")
        console.type("root")
        console.waits_for("Welcome to first, made by forge.")
        console.waits_for("Changed by me.")
