"""`BootTest`: a disk image, booted in an emulated machine."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Literal

from forgefile import units
from forgefile.model import Call, File, Rule, Sandbox, Step
from forgefile.programs import machine
from forgefile.programs.boot import Boot, boot
from forgefile.units import duration_seconds, size_bytes

_LEAST_MEMORY = 16 << 20
_MOST_CPUS = 64


class BootTest(Rule):
    """Boot a disk image with QEMU until its serial console shows a text; the output is the console's log.

    The machine has one disk (virtio), one serial port and no network. What it writes to its disk is thrown away, the
    image is never changed. The target is done, and the machine ends, as soon as the text is there. It has failed when
    the time is up, the machine ends before, or the kernel panics; then the last lines of the console are told, and what
    was waited for. Like any target it does not run again while the disk and the fields are the same.

    The log has the console's lines up to the text, without colours and without the times that the kernel puts before
    its lines; `forge log` has them with the times. QEMU emulates the processor on every machine alike, without KVM, and
    the machine's clock begins at `SOURCE_DATE_EPOCH`. What an operating system starts at once still ends in any order,
    so **two logs need not have the same bits**: `forge verify` boots again and asks for the text, but does not compare.

    ```python
    BootTest(disk=disk, expect="login:")
    BootTest(disk=disk, expect=re.compile(r"Reached target .*[Mm]ulti-[Uu]ser"), firmware="uefi", timeout="10min")
    ```
    """

    repeats = False

    disk: File
    """The image: raw, or of a format of `QemuImage`. Required."""
    expect: str | re.Pattern[str]
    """What a line of the console has to have: a text, or a regular expression of Python that `re.compile` made. Lines
    are seen as the log has them. One that has not ended counts, as a prompt does. Required."""
    timeout: str = "5min"
    """How long to wait for it, by the host's clock. Another limit alone does not boot again what booted."""
    firmware: Literal["bios", "uefi"] = "bios"
    """What starts the disk: SeaBIOS, or edk2 (Debian's packages ovmf and qemu-efi-aarch64) with variables as they are
    when a machine is new. An image that lacks what it needs fails at once."""
    arch: Literal["amd64", "arm64"] = "amd64"
    """The machine's architecture, by Debian's name. arm64 has `uefi` only."""
    memory: str = "1GiB"
    """The machine's memory."""
    cpus: int = 1
    """The machine's processors, each a thread of QEMU's: give the target as many `cores`."""

    def check(self) -> None:
        """Refuse what no console shows and no machine has."""
        text = self.expect if isinstance(self.expect, str) else self.expect.pattern
        if not isinstance(text, str):
            raise self.refuse("expect", "is an expression for bytes", hint='write re.compile(r"…")')
        if not text.strip():
            raise self.refuse("expect", "is empty, which every line has")
        if isinstance(self.expect, str) and not text.isprintable():
            raise self.refuse("expect", f"{text!r}: lines hold printable characters only")
        if self.firmware == "bios" and self.arch != "amd64":
            raise self.refuse("firmware", f"{self.arch} has no BIOS", hint="set firmware='uefi'")
        if not 1 <= self.cpus <= _MOST_CPUS:
            raise self.refuse("cpus", f"{self.cpus}: from 1 to {_MOST_CPUS}")
        if self._number("memory", size_bytes, self.memory) < _LEAST_MEMORY:
            raise self.refuse("memory", f"'{self.memory}' is too little", hint=f"at least {_LEAST_MEMORY >> 20}MiB")
        if not self._number("timeout", duration_seconds, self.timeout):
            raise self.refuse("timeout", "leaves no time")

    def _number(self, name: str, read: Callable[[str], float], text: str) -> float:
        try:
            return read(text)
        except ValueError as error:
            raise self.refuse(name, str(error)) from None

    def steps(self, box: Sandbox) -> Iterable[Step]:
        """Return the one step that boots the disk."""
        text, flags = (self.expect, None) if isinstance(self.expect, str) else (self.expect.pattern, self.expect.flags)
        yield Call(
            boot,
            Boot(
                disk=box.path(self.disk),
                out=box.out,
                tmp=box.tmp,
                arch=self.arch,
                firmware=self.firmware,
                expect=text,
                flags=flags,
                timeout_s=duration_seconds(self.timeout),
                memory=size_bytes(self.memory),
                cpus=self.cpus,
            ),
            tools=(str(machine.__file__), str(units.__file__), *machine.tools(self.arch, self.firmware)),
        )
