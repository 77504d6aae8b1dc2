"""Read ext2, ext3 and ext4 out of an image, with all that a tree can have, without a mount and without a copy.

debugfs(8) would tell of names, owners and attributes as text for people, in which a line end in a name is lost, and
would write out each file to compare. Facts: the kernel's documentation, filesystems/ext4. A journal is not replayed.
"""

import os
import stat
import struct
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import NamedTuple

from forgefile.contents.tree import Node, Status

Read = Callable[[int, int], bytes]
"""(first byte, how many) → that many bytes of the file system."""

_ROOT = 2
_MAGIC = 0xEF53
_UNKNOWN = 0x1 | 0x8 | 0x10 | 0x1000 | 0x10000
"""Incompatible features: compression, journal device, meta_bg, dirdata, encryption."""
_WIDE = 0x80
"""The feature 64bit."""
_EXTENTS, _INLINE = 0x80000, 0x10000000
_ATTRIBUTES = 0xEA020000
_PREFIXES = {1: "user.", 2: "system.posix_acl_access", 3: "system.posix_acl_default", 4: "trusted.", 6: "security.",
             7: "system.", 8: "system.richacl"}  # fmt: skip
_NAMED_ENTRIES = (0x02, 0x08)
"""The tags of an ACL's entries that have an id: ACL_USER and ACL_GROUP."""
_FAST_LINK, _LONGEST_LINK = 60, 4096
_WRITTEN = 32768
"""Extents longer than that are allocated and hold nothing yet."""


class Extent(NamedTuple):
    """Blocks of a file that lie one after another."""

    at: int
    """The first in the file."""
    blocks: int
    block: int
    """The first in the file system."""


class Ext4:
    """A file system. Raises ValueError when it is none, or has a feature that is not known here."""

    def __init__(self, read: Read) -> None:
        self.read = read
        raw = read(1024, 1024)
        if len(raw) < 1024 or struct.unpack_from("<H", raw, 56)[0] != _MAGIC:  # noqa: PLR2004  the superblock's size
            raise ValueError("it is no ext4")
        first_data_block, log_size = struct.unpack_from("<II", raw, 20)
        self._per_group = struct.unpack_from("<I", raw, 40)[0]
        revision, incompatible = struct.unpack_from("<I", raw, 76)[0], struct.unpack_from("<I", raw, 96)[0]
        if incompatible & _UNKNOWN or log_size > 6:  # noqa: PLR2004  blocks of 64 KiB
            raise ValueError(f"its features are not known here: {incompatible:#x}")
        self.block = 1024 << log_size
        self._inode_size = struct.unpack_from("<H", raw, 88)[0] if revision else 128
        wide = bool(incompatible & _WIDE)
        self._group_size = struct.unpack_from("<H", raw, 254)[0] if wide else 32
        self._groups_at = (first_data_block + 1) * self.block
        self._wide = wide
        digits = raw[104:120].hex()
        self.uuid = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
        self.label = raw[120:136].rstrip(b"\0").decode("utf-8", "replace")
        self._tables: dict[int, bytes] = {}
        self.above: dict[int, int] = {}
        """Of each folder that was listed, by inode, in which it lies."""

    @property
    def root(self) -> "Inode":
        """The root folder."""
        return Inode(self, _ROOT, _ROOT)

    def inode(self, number: int) -> bytes:
        """Return an inode as it lies there."""
        group, index = divmod(number - 1, self._per_group)
        raw = self.read(self._groups_at + group * self._group_size, self._group_size)
        table = struct.unpack_from("<I", raw, 8)[0]
        if self._wide:
            table |= struct.unpack_from("<I", raw, 40)[0] << 32
        # A block's worth at once: inodes of one folder lie together.
        at = table * self.block + index * self._inode_size
        piece = at // self.block
        if piece not in self._tables:
            if len(self._tables) > 4096:  # noqa: PLR2004  16 MiB
                self._tables.clear()
            self._tables[piece] = self.read(piece * self.block, self.block)
        return self._tables[piece][at % self.block :][: self._inode_size]


class Inode:
    """A file of an ext4, a `Node`; `above` is the inode of the folder that it was found in."""

    def __init__(self, system: Ext4, number: int, above: int = 0) -> None:
        self._system = system
        self._number = number
        self._above = above

    @cached_property
    def _raw(self) -> bytes:
        return self._system.inode(self._number)

    @cached_property
    def _flags(self) -> int:
        return int(struct.unpack_from("<I", self._raw, 32)[0])

    @cached_property
    def status(self) -> Status:
        """What it is."""
        raw = self._raw
        mode, uid, size, _, _, seconds, _, gid, links = struct.unpack_from("<HHIIIiIHH", raw)
        uid_high, gid_high = struct.unpack_from("<HH", raw, 120)
        size |= struct.unpack_from("<I", raw, 108)[0] << 32
        nanoseconds = 0
        if self._extra >= 12:  # noqa: PLR2004  up to i_mtime_extra
            extra = struct.unpack_from("<I", raw, 136)[0]
            seconds, nanoseconds = seconds + ((extra & 3) << 32), extra >> 2
        device = 0
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            old, new = struct.unpack_from("<II", raw, 40)
            device = (os.makedev(old >> 8 & 0xFF, old & 0xFF) if old
                      else os.makedev(new >> 8 & 0xFFF, new & 0xFF | new >> 12 & 0xFFF00))  # fmt: skip
        owner = (uid | uid_high << 16, gid | gid_high << 16)
        time_ns = seconds * 1_000_000_000 + nanoseconds
        return Status(mode, owner, size, time_ns, device, (id(self._system), self._number), links)

    @property
    def _extra(self) -> int:
        return int(struct.unpack_from("<H", self._raw, 128)[0]) if len(self._raw) > 128 else 0  # noqa: PLR2004

    def children(self, beside: Node | None = None) -> dict[str, Node]:  # noqa: ARG002  nothing is known of both
        """Return what a folder holds, by name; of a root folder, without an empty lost+found.

        Raises OSError for a folder in two folders, below which there might be no end.
        """
        if self._system.above.setdefault(self._number, self._above) != self._above:
            raise OSError(f"the image is damaged: the folder of inode {self._number} lies in two folders")
        if self._flags & _INLINE:
            raw = [self._raw[44:100], self._stored.get("system.data", b"")]
        else:
            block, size = self._system.block, self.status.size
            raw = [self.read(at, block) for at in range(0, size, block)]
        found: dict[str, Node] = {os.fsdecode(name): Inode(self._system, inode, self._number)
                                  for piece in raw for name, inode in _entries(piece)}  # fmt: skip
        if self._number == _ROOT and "lost+found" in found and not found["lost+found"].children():
            del found["lost+found"]
        return found

    def link(self) -> str:
        """Return where a symbolic link leads."""
        size = self.status.size
        if size > _LONGEST_LINK:
            raise OSError(f"the link of inode {self._number} is damaged")
        if size < _FAST_LINK and not self._flags & (_EXTENTS | _INLINE):
            return os.fsdecode(self._raw[40 : 40 + size])
        return os.fsdecode(self.read(0, size))

    def attributes(self) -> dict[str, bytes]:
        """Return the extended attributes as the kernel shows them."""
        return {name: _shown_acl(value) if name.startswith("system.posix_acl_") else value
                for name, value in self._stored.items() if name != "system.data"}  # fmt: skip

    @cached_property
    def _stored(self) -> dict[str, bytes]:
        """The extended attributes as they are stored: in the inode, and in a block of their own."""
        found: dict[str, bytes] = {}
        first = 128 + self._extra
        if len(self._raw) >= first + 8 and struct.unpack_from("<I", self._raw, first)[0] == _ATTRIBUTES:
            found.update(self._list(self._raw[first + 4 :], 0))
        at = struct.unpack_from("<I", self._raw, 104)[0] | struct.unpack_from("<H", self._raw, 118)[0] << 32
        if at:
            raw = self._system.read(at * self._system.block, self._system.block)
            found.update(self._list(raw, 32))
        return dict(sorted(found.items()))

    def _list(self, raw: bytes, at: int) -> Iterator[tuple[str, bytes]]:
        while at + 16 <= len(raw) and raw[at : at + 4] != bytes(4):
            length, prefix, offset, inode, size = struct.unpack_from("<BBHII", raw, at)
            name = _PREFIXES.get(prefix, "") + os.fsdecode(raw[at + 16 : at + 16 + length])
            value = Inode(self._system, inode).read(0, size) if inode else raw[offset : offset + size]
            yield name, value
            at += 16 + (length + 3 & ~3)

    def read(self, at: int, length: int) -> bytes:
        """Return bytes of the content, fewer at its end."""
        length = max(min(length, self.status.size - at), 0)
        if self._flags & _INLINE:
            return (self._raw[40:100] + self._stored.get("system.data", b""))[at : at + length]
        block, parts, end = self._system.block, [], at + length
        for extent in self._extents:
            begin = extent.at * block
            if begin + extent.blocks * block <= at:
                continue
            if begin >= end:
                break
            parts.append(bytes(max(begin - at, 0)))
            at = max(at, begin)
            take = min(begin + extent.blocks * block, end) - at
            parts.append(self._system.read(extent.block * block + at - begin, take))
            at += take
        parts.append(bytes(end - at))
        return b"".join(parts)

    def same_as(self, other: Node) -> bool:
        """Tell whether both are one file of one image."""
        return isinstance(other, Inode) and self.status.identity == other.status.identity

    @cached_property
    def _extents(self) -> list[Extent]:
        raw = self._raw[40:100]
        return sorted(self._tree(raw, 6) if self._flags & _EXTENTS else self._mapped(raw))

    def _tree(self, raw: bytes, levels: int) -> Iterator[Extent]:
        magic, count, _, depth = struct.unpack_from("<HHHH", raw)
        if magic != 0xF30A or levels < 0:  # noqa: PLR2004  the magic number of a node
            raise OSError(f"the extents of inode {self._number} are damaged")
        for at in range(12, 12 + 12 * count, 12):
            if depth:
                _, low, high = struct.unpack_from("<IIH", raw, at)
                yield from self._tree(self._block(high << 32 | low), levels - 1)
            else:
                first, length, high, low = struct.unpack_from("<IHHI", raw, at)
                if length <= _WRITTEN:
                    yield Extent(first, length, high << 32 | low)

    def _block(self, number: int) -> bytes:
        return self._system.read(number * self._system.block, self._system.block)

    def _mapped(self, raw: bytes) -> Iterator[Extent]:
        """Yield the blocks of a file that has no extents: 12, then those that blocks of numbers name."""
        numbers = struct.unpack("<15I", raw)
        yield from (Extent(at, 1, block) for at, block in enumerate(numbers[:12]) if block)
        at, span = 12, 1
        for depth, block in enumerate(numbers[12:], start=1):
            span *= self._system.block // 4
            yield from self._named(block, depth, at)
            at += span

    def _named(self, block: int, depth: int, at: int) -> Iterator[Extent]:
        if not block:
            return
        if not depth:
            yield Extent(at, 1, block)
            return
        per_block = self._system.block // 4
        for index, number in enumerate(struct.unpack(f"<{per_block}I", self._block(block))):
            yield from self._named(number, depth - 1, at + index * per_block ** (depth - 1))


def _entries(raw: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield name and inode of the entries in one block of a folder."""
    at = 0
    while at + 8 <= len(raw):
        inode, length, name_length = struct.unpack_from("<IHB", raw, at)
        name = raw[at + 8 : at + 8 + name_length]
        if inode and name not in (b".", b".."):
            yield name, inode
        if length < 8:  # noqa: PLR2004  damaged, or an entry of 64 KiB
            return
        at += length


def _shown_acl(raw: bytes) -> bytes:
    """Return an ACL as the kernel shows it, acl(5), from what ext4 stores: without ids where none is needed."""
    at, entries = 4, []
    while at + 4 <= len(raw):
        tag, permissions = struct.unpack_from("<HH", raw, at)
        named = tag in _NAMED_ENTRIES
        number = struct.unpack_from("<I", raw, at + 4)[0] if named else 0xFFFFFFFF
        entries.append(struct.pack("<HHI", tag, permissions, number))
        at += 8 if named else 4
    return struct.pack("<I", 2) + b"".join(entries)
