"""What `forge init` writes: built with the real tools, booted, logged in to, changed, built again.

It has the packages of the example added, so that its trees are restored from the example's store.
"""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.conftest import Project

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
def booted(disk: Path) -> Iterator[Console]:
    """Run a disk that is not written in an emulated machine."""
    argv = ("qemu-system-x86_64", "-m", "1024", "-smp", "2", "-nographic", "-monitor", "none", "-serial", "stdio",
            "-nic", "none", "-drive", f"file={disk},format=raw,snapshot=on")  # fmt: skip
    machine = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        yield Console(machine)
    finally:
        machine.kill()
        machine.communicate()


def test_it_builds_and_boots_and_shows_what_was_changed(example: Project, scratch: Path) -> None:
    project = Project(scratch / "first")
    project.root.mkdir()
    shared = {"FORGE_STORE": str(example.root / ".forge")}
    assert project.forge("init", "--yes").status == 0
    forgefile = project.root / "Forgefile.py"
    text = forgefile.read_text()
    forgefile.write_text(text.replace('"initramfs-tools")', '"initramfs-tools", "openssh-server")'))
    first = project.build(env=shared)
    assert first.targets("restored") == {"rootfs", "packages"}
    assert first.targets("built") == {"system", "tuned", "disk.img"}
    with (project.root / "overlay/etc/motd").open("a") as stream:
        stream.write("Changed by me.\n")
    planned = project.build("--dry-run", env=shared).planned()
    assert planned["packages"] == ("none", ())
    assert planned["system"] == ("run", ("overlay/etc/motd: content changed",))
    assert project.build(env=shared).targets("built") == {"system", "tuned", "disk.img"}
    with booted(project.root / "disk.img") as console:
        console.waits_for("first login:")
        console.type("root")
        console.waits_for("Welcome to first, made by forge.")
        console.waits_for("Changed by me.")
