"""Whether KVM runs a guest here: found out by running one, and remembered until the host boots again.

That /dev/kvm can be opened does not tell: where virtual machines are nested, a guest may begin and never go on. So a
machine as forge starts them, with one sector of code on its disk, has to end by itself within a limit of time.

Unaware of what is to be booted.
"""

import os
import platform
import subprocess
import tempfile
from contextlib import suppress
from typing import NamedTuple

from forgefile import linux
from forgefile.cache.snapshot import boot
from forgefile.programs.machine import KINDS, Image, Machine, command

_LIMIT_S = 5.0
"""Some thirty times what it takes."""


class _Probe(NamedTuple):
    """A guest that ends its machine at once."""

    code: bytes
    words: tuple[str, ...]
    status: int
    """QEMU's exit status then."""


_PROBES = {
    # mov al, 16; out 0xf4, al; hlt, which the BIOS starts; QEMU exits with 16 * 2 + 1
    "amd64": _Probe(bytes.fromhex("b010e6f4f4"), ("-device", "isa-debug-exit,iobase=0xf4,iosize=1"), 33),
    # mov w0, #0x84000008; hvc #0: SYSTEM_OFF (Arm's Power State Coordination Interface, 5.9)
    "arm64": _Probe(bytes.fromhex("000180520080b072020000d400000014"), ("-kernel", ""), 0),
}


def problem(arch: str, program: str) -> str | None:
    """Return why KVM runs no guest of an architecture for this user, None when it does; `program` is QEMU's path."""
    if KINDS[arch].host != platform.machine():
        return f"the image is for {arch}, this machine is not"
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return "this machine has no /dev/kvm"
    except OSError as error:
        return f"/dev/kvm cannot be opened: {error.strerror}"
    key = f"{boot()} {os.stat(program).st_mtime_ns} {program} "
    file = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "forge", "kvm")
    answer = _noted(file, key)
    if answer is None:
        answer = runs(arch, program, "kvm")
        _note(file, f"{key}{answer:d}")
    return None if answer else "a guest that was tried did not run"


def runs(arch: str, program: str, accel: str) -> bool:
    """Return whether a guest runs and ends its machine within the limit of time."""
    probe = _PROBES[arch]
    with tempfile.TemporaryDirectory(prefix="forge-kvm-") as folder:
        disk = f"{folder}/disk"
        with open(disk, "wb") as stream:
            stream.write(probe.code.ljust(510, b"\0") + b"\x55\xaa")
            stream.truncate(1 << 20)
        words = command(Machine(arch, "bios", accel, 64 << 20, 1, disk, Image("raw", 512, True, False, arch)))
        with suppress(subprocess.TimeoutExpired):
            done = subprocess.run(
                (program, *words[1:], *(word or disk for word in probe.words)),
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=_LIMIT_S,
                check=False, preexec_fn=linux.die_with_parent,
            )  # fmt: skip
            return done.returncode == probe.status
    return False


def _noted(file: str, key: str) -> bool | None:
    with suppress(OSError, UnicodeDecodeError), open(file, encoding="utf-8") as stream:
        text = stream.read()
        if text in (f"{key}0", f"{key}1"):
            return text.endswith("1")
    return None


def _note(file: str, text: str) -> None:
    """Keep an answer; where that cannot be, it is found out again."""
    arriving = f"{file}.{os.getpid()}"
    with suppress(OSError):
        os.makedirs(os.path.dirname(file), exist_ok=True)
        with open(arriving, "w", encoding="utf-8", errors="surrogateescape") as stream:
            stream.write(text)
        os.replace(arriving, file)
