"""What can start a disk image, and the command line by which QEMU emulates a machine for it.

Unaware of what becomes of the machine's console, and of who waits for it.

Facts: qemu(1); UEFI 2.10, sections 5.2 and 5.3 (the tables of partitions); Discoverable Partitions Specification
(uapi-group.org) for the types of partitions.
"""

import os
import re
import struct
import subprocess
from typing import NamedTuple
from uuid import UUID

from forgefile.errors import BuildError

HEAD = 64 << 10
"""How many bytes of a disk hold its table of partitions, for sectors of up to 4096 bytes."""
_FORMATS = ((0, b"QFI\xfb", "qcow2"), (0, b"KDMV", "vmdk"), (64, b"\x7f\x10\xda\xbe", "vdi"), (0, b"vhdxfile", "vhdx"),
            (0, b"conectix", "vpc"))  # fmt: skip
"""Offset, magic number and QEMU's name of each format that `QemuImage` makes; a VHD of fixed size is raw in effect."""
_ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
_BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649"
_TYPED = {
    "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709": "amd64", "8484680C-9521-48C6-9C11-B0720656F69E": "amd64",
    "44479540-F297-41B2-9AF7-D131D5F0458A": "amd64", "75250D76-8CC6-458E-BD66-BD47CC81A812": "amd64",
    "B921B045-1DF0-41C3-AF44-4C6F280D3FAE": "arm64", "B0E01050-EE5F-4390-949A-9101B17104E9": "arm64",
}  # fmt: skip
"""Which machine starts a disk with a partition of a type for / or /usr; x86-64 also starts what i386 does."""
_SIGNATURE, _TABLE, _PROTECTIVE, _MBR_ESP = b"\x55\xaa", 446, 0xEE, 0xEF


class Kind(NamedTuple):
    """How QEMU emulates one architecture."""

    program: str
    machine: str
    code: str
    """The UEFI firmware, and below the variables that it starts with: where Debian has them."""
    variables: str
    host: str
    """What uname(2) calls it."""


KINDS = {
    "amd64": Kind(
        "qemu-system-x86_64", "q35",
        "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd", "x86_64",
    ),
    "arm64": Kind(
        "qemu-system-aarch64", "virt,gic-version=max",
        "/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd", "aarch64",
    ),
}  # fmt: skip
"""By Debian's names."""


def tools(arch: str, firmware: str) -> tuple[str, ...]:
    """Return the host programs and files that a machine takes; `qemu-img` reads images that are not raw."""
    kind = KINDS[arch]
    return (kind.program, "qemu-img", *((kind.code, kind.variables) if firmware == "uefi" else ()))


# The image -----------------------------------------------------------------------------------------------------------


class Image(NamedTuple):
    """What a disk image says of itself."""

    format: str
    """As QEMU calls it."""
    sector_size: int
    bios: bool
    """Whether its first sector holds code that a BIOS starts."""
    uefi: bool
    """Whether it has an EFI system partition."""
    arch: str | None
    """The architecture that its partitions' types, or its code for a BIOS, speak of."""

    def problem(self, firmware: str) -> str | None:
        """Return why a firmware cannot start it, as far as that can be seen."""
        if firmware == "bios":
            return None if self.bios else "has nothing that a BIOS could start: no code in its first sector"
        return None if self.uefi else "has nothing that UEFI could start: no EFI system partition"


def look(path: str, scratch: str) -> Image:
    """Return what an image says of itself; `scratch` is a file that may be written. Raises `BuildError` and OSError."""
    with open(path, "rb") as stream:
        head = stream.read(HEAD)
    found = next((name for offset, magic, name in _FORMATS if head.startswith(magic, offset)), "raw")
    if found != "raw":
        head = _converted(path, found, scratch)
    return _read(found, head)


def _converted(path: str, format_: str, scratch: str) -> bytes:
    """Return the first bytes of the disk that an image holds."""
    words = ("qemu-img", "dd", "-U", "-f", format_, "-O", "raw", f"bs={HEAD}", "count=1", f"if={path}", f"of={scratch}")
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except FileNotFoundError:
        raise BuildError("the host has no program 'qemu-img'", hint="apt-get install qemu-utils") from None
    if done.returncode:
        raise BuildError(f"qemu-img cannot read the image: {done.stderr.decode('utf-8', 'replace').strip()}")
    with open(scratch, "rb") as stream:
        head = stream.read()
    os.unlink(scratch)
    return head


def _read(format_: str, head: bytes) -> Image:
    head = head.ljust(HEAD, b"\0")
    signed = head[510:512] == _SIGNATURE
    entries = [head[_TABLE + 16 * number : _TABLE + 16 * number + 16] for number in range(4)] if signed else []
    types = {f"{entry[4]:02x}" for entry in entries if entry[4]}
    bios = signed and any(head[:440])
    size = next((size for size in (512, 4096) if head.startswith(b"EFI PART", size)), 512)
    if head.startswith(b"EFI PART", size):
        types = _guids(head, size)
    arch = next((_TYPED[each] for each in sorted(types) if each in _TYPED), None)
    uefi = bool(types & {_ESP, f"{_MBR_ESP:02x}"})
    return Image(format_, size, bios, uefi, arch or ("amd64" if bios or _BIOS_BOOT in types else None))


def _guids(head: bytes, size: int) -> set[str]:
    """Return the types of the partitions in a GPT."""
    first, number, length = struct.unpack_from("<Q", head, size + 72)[0], *struct.unpack_from("<II", head, size + 80)
    places = range(first * size, min(first * size + number * length, HEAD - 15), max(length, 16))
    types = {str(UUID(bytes_le=head[place : place + 16])).upper() for place in places}
    return types - {str(UUID(int=0))}


# The machine ---------------------------------------------------------------------------------------------------------


class Machine(NamedTuple):
    """A machine that is to be emulated."""

    arch: str
    firmware: str
    """`bios` or `uefi`."""
    accel: str
    """`kvm` or `tcg`."""
    memory: int
    """Bytes."""
    cpus: int
    disk: str
    image: Image
    write: bool = False
    """Whether what the machine writes goes into the image, or into a file without a name that ends with it."""


def command(machine: Machine) -> tuple[str, ...]:
    """Return the argv of QEMU for a machine with a disk and nothing else: no console, screen, monitor or network."""
    kind = KINDS[machine.arch]
    words = [
        kind.program, "-nodefaults", "-no-user-config", "-display", "none",
        "-machine", kind.machine,
        "-accel", "tcg,thread=multi" if machine.accel == "tcg" else machine.accel,
        "-cpu", "max" if machine.accel == "tcg" else "host",
        "-smp", str(machine.cpus), "-m", f"{machine.memory >> 20}M",
    ]  # fmt: skip
    if machine.firmware == "uefi":
        words += ["-drive", f"if=pflash,format=raw,readonly=on,file={kind.code}"]
        words += ["-drive", f"if=pflash,format=raw,snapshot=on,file={kind.variables}"]
    snapshot = "off" if machine.write else "on"
    path = machine.disk.replace(",", ",,")
    words += ["-drive", f"if=none,id=disk,format={machine.image.format},snapshot={snapshot},file={path}"]
    sectors = f"logical_block_size={machine.image.sector_size},physical_block_size={machine.image.sector_size}"
    return (*words, "-device", f"virtio-blk-pci,drive=disk,bootindex=0,{sectors}")


def explained(program: str, said: str) -> str:
    """Return what QEMU said when it failed, without its name."""
    lines = [re.sub(rf"^(\S*/)?{re.escape(program)}: ", "", line) for line in said.splitlines()]
    return "; ".join(line.strip() for line in lines if line.strip() and not line.startswith("warning:"))
