"""Disk images: their partitions, and the file systems in them as trees, without a mount and without a loop device.

An image is read as it is, whoever made it. Formats of virtual machines are unpacked first. ext4 is read in its place;
of others, a tool of theirs writes out what they hold. Facts: UEFI 2.10, section 5.3; the magic numbers of libmagic.
"""

import os
import struct
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from forgefile import host
from forgefile.contents.ext4 import Ext4
from forgefile.contents.tree import Node, Path
from forgefile.errors import UsageError

_SECTORS = (512, 4096)
_FORMATS = ((0, b"QFI\xfb", "qcow2"), (0, b"KDMV", "vmdk"), (0, b"# Disk Descri", "vmdk"), (0, b"vhdxfile", "vhdx"),
            (0, b"conectix", "vpc"), (64, b"\x7f\x10\xda\xbe", "vdi"))  # fmt: skip
_SYSTEMS = ((1080, b"\x53\xef", "ext4"), (0, b"hsqs", "squashfs"), (1024, b"\xe2\xe1\xf5\xe0", "erofs"),
            (54, b"FAT1", "vfat"), (82, b"FAT32", "vfat"), (4086, b"SWAPSPACE2", "swap"), (0, b"XFSB", "xfs"),
            (0x10040, b"_BHRfS_M", "btrfs"), (0, b"LUKS\xba\xbe", "LUKS"), (32769, b"CD001", "iso9660"))  # fmt: skip
"""(place, magic number, name)"""
_CHUNK = 1 << 20
_EXTENDED = (0x05, 0x0F, 0x85)
_LOGICAL = 4
"""How many entries of an MBR come before those of its extended partition."""
_TOOLS = {"vfat": "mcopy", "squashfs": "unsquashfs", "erofs": "fsck.erofs"}
_TREES = ("ext4", *_TOOLS)


class Partition(NamedTuple):
    """A partition, or the whole of an image that has none. Sizes are bytes."""

    number: int
    """From 1; 0 is the whole."""
    name: str
    type: str
    """A GUID, or two hexadecimal digits in an MBR; empty for the whole."""
    id: str
    attributes: str
    start: int
    size: int
    filesystem: str
    """What it holds: `ext4`, `vfat`, `swap` …; empty when that is not known."""
    label: str
    uuid: str
    """Of the file system."""

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.start + self.size

    @property
    def shown(self) -> str:
        """What it is called: its name, or else its number."""
        return self.name or (str(self.number) if self.number else "image")


class Image(NamedTuple):
    """A disk image, or the image of a file system."""

    file: str
    """Where its bytes lie, from the first to the last."""
    format: str
    table: str
    """`gpt`, `mbr`, or empty where a file system has no table above it."""
    id: str
    size: int
    partitions: tuple[Partition, ...]
    sector: int = 512

    def read(self, at: int, length: int) -> bytes:
        """Return bytes of the disk; none from beyond its end, where only what is damaged leads."""
        if at >= self.size:
            return b""
        descriptor = os.open(self.file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(descriptor, length, at)
        finally:
            os.close(descriptor)

    def tree(self, partition: Partition, folder: str) -> Node | None:
        """Return the root of what a partition holds, or None when that is no tree, or none that can be read here.

        `folder` is an empty one, which may be filled. Raises `UsageError` when the tool for it is missing.
        """
        if partition.filesystem == "ext4":
            with suppress(ValueError):
                return Ext4(lambda at, length: self.read(partition.start + at, length)).root
            return None
        return Path([folder]) if self._unpack(partition, folder) else None

    def _unpack(self, partition: Partition, folder: str) -> bool:
        """Write out what a partition holds; return whether that could be done."""
        program = _TOOLS.get(partition.filesystem)
        if program is None:
            return False
        source, out = self.file, os.path.join(folder, "")
        if program == "fsck.erofs" and partition.start:
            source = self._copied(partition, os.path.dirname(folder))
        command = {
            "mcopy": ("mcopy", "-s", "-n", "-p", "-Q", "-m", "-i", f"{source}@@{partition.start}", "::/", out),
            "unsquashfs": ("unsquashfs", "-n", "-f", "-o", str(partition.start), "-d", folder, source),
            "fsck.erofs": ("fsck.erofs", f"--extract={folder}", "--overwrite", "--preserve", source),
        }[program]
        try:
            _run(command)
        except subprocess.CalledProcessError:
            return False
        return True


    def _copied(self, partition: Partition, folder: str) -> str:
        """Copy a partition to a file, with holes for zeros, and return its path: not every tool reads from within."""
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as stream:
            for at in range(0, partition.size, _CHUNK):
                piece = self.read(partition.start + at, min(_CHUNK, partition.size - at))
                if any(piece):
                    stream.seek(at)
                    stream.write(piece)
            stream.truncate(partition.size)
            return stream.name


def open_image(path: str, folder: str) -> Image | None:
    """Return the image that a file is, or None when it is none.

    What has to be unpacked is, below `folder`. Raises OSError, and `UsageError` when the tool for it is missing.
    """
    if not os.path.isfile(path):
        return None
    with open(path, "rb") as stream:
        head = stream.read(1 << 17)
    form = next((name for at, magic, name in _FORMATS if head[at : at + len(magic)] == magic), "raw")
    if form != "raw":
        raw = os.path.join(folder, f"{len(os.listdir(folder))}.raw")
        try:
            _run(("qemu-img", "convert", "-W", "-t", "unsafe", "-f", form, "-O", "raw", path, raw))
        except subprocess.CalledProcessError as error:
            said = error.stderr.decode("utf-8", "replace").strip()
            raise UsageError(f"{path} cannot be read as {form}: {said}") from None
        path = raw
    image = Image(path, form, "", "", os.path.getsize(path), ())
    for read_table in (_gpt, _mbr):
        if table := read_table(image):
            return table
    whole = _told(image, Partition(0, "", "", "", "", 0, image.size, "", "", ""))
    return image._replace(partitions=(whole,)) if whole.filesystem or form != "raw" else None


def _run(command: tuple[str, ...]) -> None:
    """Run a program in silence. Raises `UsageError` when it is missing, CalledProcessError when it fails."""
    program = host.find(command[0])
    if program is None:
        hint = host.install_line([command[0]])
        raise UsageError(f"this needs {command[0]}, which this machine does not have", hint=hint)
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    subprocess.run((program, *command[1:]), stdin=subprocess.DEVNULL, capture_output=True, check=True, env=environment)


def _gpt(image: Image) -> Image | None:
    """Return the image with the partitions of its GPT, if it has one."""
    for sector in _SECTORS:
        header = image.read(sector, 92)
        if not header.startswith(b"EFI PART"):
            continue
        disk, entries_at, count, size = struct.unpack_from("<16sQII", header, 56)
        raw = image.read(entries_at * sector, min(count, 1024) * size)
        found = []
        for number in range(len(raw) // size):
            kind, own, first, last, flags, name = struct.unpack_from("<16s16sQQQ72s", raw, number * size)
            if any(kind):
                text = name.decode("utf-16-le", "replace").rstrip("\0")
                start, bytes_ = first * sector, (last - first + 1) * sector
                part = Partition(number + 1, text, _guid(kind), _guid(own), f"{flags:#x}", start, bytes_, "", "", "")
                found.append(_told(image, part))
        return image._replace(table="gpt", id=_guid(disk), partitions=tuple(found), sector=sector)
    return None


def _guid(raw: bytes) -> str:
    return str(uuid.UUID(bytes_le=raw)).upper()


def _mbr(image: Image) -> Image | None:
    """Return the image with the partitions of its MBR, if it has one."""
    head = image.read(0, 512)
    if head[510:] != b"\x55\xaa" or _told(image, Partition(0, "", "", "", "", 0, 0, "", "", "")).filesystem:
        return None
    disk = f"{struct.unpack_from('<I', head, 440)[0]:08x}"
    found = []
    for number, active, kind, start, size in _entries(image, head):
        own = f"{disk}-{number:02x}"
        part = Partition(number, "", f"{kind:02x}", own, f"{active:#x}", start, size, "", "", "")
        found.append(_told(image, part))
    return image._replace(table="mbr", id=disk, partitions=tuple(found)) if found else None


def _entries(image: Image, head: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield number, flags, type, first byte and size of the partitions of an MBR, those of its extended one last."""
    extended = 0
    for number, (active, kind, first, count) in enumerate(_table(head), start=1):
        if kind in _EXTENDED:
            extended = first
        elif kind and first + count <= image.size // _SECTORS[0]:
            yield number, active, kind, first * 512, count * 512
    at, number = extended, _LOGICAL
    while at and number < 64:  # noqa: PLR2004  a chain that leads in a circle
        (active, kind, first, count), (_, _, follows, _), *_ = _table(image.read(at * 512, 512))
        number += 1
        if kind:
            yield number, active, kind, (at + first) * 512, count * 512
        at = extended + follows if follows else 0


def _table(sector: bytes) -> list[tuple[int, int, int, int]]:
    """Return (flags, type, first sector, number of sectors) of the entries in one sector."""
    found = [struct.unpack_from("<B3xB3xII", sector.ljust(512, b"\0"), at) for at in range(446, 510, 16)]
    return [(active, kind, first, count) for active, kind, first, count in found]


def _told(image: Image, part: Partition) -> Partition:
    """Return a partition with what its first bytes tell of a file system."""
    head = image.read(part.start, 1 << 17)
    kind = next((name for at, magic, name in _SYSTEMS if head[at : at + len(magic)] == magic), "")
    label = own = ""
    if kind == "ext4":
        with suppress(ValueError):
            system = Ext4(lambda at, length: image.read(part.start + at, length))
            label, own = system.label, system.uuid
    elif kind == "vfat":
        at = 67 if head[82:87] == b"FAT32" else 39
        number = struct.unpack_from("<I", head, at)[0]
        own = f"{number >> 16:04X}-{number & 0xFFFF:04X}"
        label = head[at + 4 : at + 15].decode("ascii", "replace").rstrip()
    elif kind == "swap":
        own, label = str(uuid.UUID(bytes=head[1036:1052])), head[1052:1068].rstrip(b"\0").decode("utf-8", "replace")
    return part._replace(filesystem=kind, label=label, uuid=own)


def main_tree(image: Image, folder: str) -> Node | None:
    """Return the tree that an image has for one without partitions: the root file system's, or the only one."""
    found = sorted(trees_of(image, folder), key=lambda pair: pair[0].filesystem == "vfat")
    trees = [tree for _, tree in found]
    return next((tree for tree in trees if {"etc", "usr"} & tree.children().keys()), trees[0] if trees else None)


def trees_of(image: Image, folder: str) -> list[tuple[Partition, Node]]:
    """Return the partitions that hold a tree, with its root; in `folder` there is room to unpack them."""
    found = [(part, image.tree(part, tempfile.mkdtemp(dir=folder))) for part in image.partitions
             if part.filesystem in _TREES]  # fmt: skip
    return [(part, tree) for part, tree in found if tree is not None]
