"""Digests of files and trees.

xxh3-128 throughout: it reads as fast as memory, and the store is written by its owner alone. A source's digest is
taken again only for files whose status (type, mode, size, times, inode) differs from what was seen last.
"""

import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import xxhash

from forgefile.errors import StoreError

_CHUNK = 1 << 20
_BLOCK = 512
"""The unit of st_blocks, stat(2)."""
_ZEROS = bytes(_CHUNK)
_RACY_NS = 50_000_000
"""A file that changed this shortly before it was read may change again within the clock's tick: read it anew."""
_SECOND_NS, _COARSE_NS = 1_000_000_000, 2_000_000_000
"""On a file system that knows whole seconds alone, or even ones, the tick is that long."""
ALL_BITS = (1 << 128) - 1
"""What a source's digest has of the sum of its paths' hashes."""
_SUMMARY_BITS = (1 << 63) - 1
_MARKS = ("user.overlay.", "trusted.overlay.")
_KEPT_MARKS = ("opaque", "whiteout", "whiteouts")

StatKey = tuple[int, int, int, int, int]
"""Mode, size, mtime and ctime in nanoseconds, inode: while these are the same, so is the content."""
Entry = tuple[str, int, str]
"""Type letter, mode bits, and the content's digest or the link's target."""
Seen = dict[str, tuple[StatKey | None, Entry]]
"""What was seen of a source: path below it ("" for itself) → (status, entry of its listing)."""


def stat_key(status: os.stat_result) -> StatKey:
    """Return what decides whether a file has to be read again."""
    return status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def file_digest(path: str) -> str:
    """Return the digest of a file's content.

    Of a file of more than 1 MiB it covers the size and, with their places, the aligned pieces of 1 MiB that are not
    all zeros: holes are neither read nor hashed, and a file has the same digest with and without them.
    """
    digest = xxhash.xxh3_128()
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        if size <= _CHUNK:
            digest.update(data := os.read(descriptor, size + 1))
            while len(data) > size:  # proc(5) has files with content whose size is 0
                digest.update(data := os.read(descriptor, _CHUNK))
                size = 0
            return digest.hexdigest()
        buffer = memoryview(bytearray(_CHUNK))
        for at in _pieces(descriptor, size):
            length = min(_CHUNK, size - at)
            if os.preadv(descriptor, [buffer[:length]], at) != length:
                raise StoreError(f"{path} became shorter while it was read")
            if buffer[:length] != _ZEROS[:length]:
                digest.update(at.to_bytes(8, "little"))
                digest.update(buffer[:length])
        digest.update(size.to_bytes(8, "little"))
        return digest.hexdigest()
    finally:
        os.close(descriptor)


def _pieces(descriptor: int, size: int) -> Iterator[int]:
    """Yield where each aligned piece of a file begins that has data, in order."""
    at = 0
    while at < size:
        try:
            begin = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError:  # ENXIO: a hole until the end
            return
        end = min(os.lseek(descriptor, begin, os.SEEK_HOLE), size)
        yield from range(begin - begin % _CHUNK, end, _CHUNK)
        at = end + -end % _CHUNK


# Sources -------------------------------------------------------------------------------------------------------------


class Scan(NamedTuple):
    """A source as it is now."""

    digest: str
    seen: Seen
    changed: bool
    """`seen` differs from what was handed in and is worth keeping."""


def scan(path: str, seen: Seen, digest: str = "") -> Scan:
    """Return the digest of a file or folder; `seen` and `digest` are what an earlier scan found.

    Covers names, types, permission bits, content and link targets; not owners and not times. Raises OSError.
    """
    now = time.time_ns()
    found: Seen = {}
    left = [""]
    while left:
        name = left.pop()
        at = f"{path}/{name}" if name else path
        found[name] = look(at, seen.get(name), now)
        if found[name][1][0] == "d":
            left += [f"{name}/{each}" if name else each for each in os.listdir(at)]
    return Scan(_digest(found, seen if digest else {}, digest or "0"), found, found != seen)


def _digest(found: Seen, seen: Seen, digest: str) -> str:
    """Return the digest of a source: the sum of its paths' hashes, so that one change costs one path.

    `digest` is that of what was `seen`.
    """
    total = int(digest, 16)
    for name, known in found.items():
        before = seen.get(name)
        if before is None or before[1] != known[1]:
            total += entry_hash(name, known[1])
            total -= entry_hash(name, before[1]) if before else 0
    for name in seen.keys() - found.keys():
        total -= entry_hash(name, seen[name][1])
    return f"{total & ALL_BITS:032x}"


def entry_hash(name: str, entry: Entry) -> int:
    """Return the hash of one path of a source, of 128 bits."""
    kind, mode, digest = entry
    return xxhash.xxh3_128_intdigest(f"{name}\0{kind}{mode:o} {digest}".encode("utf-8", "surrogateescape"))


def look(path: str, known: tuple[StatKey | None, Entry] | None, now: int) -> tuple[StatKey | None, Entry]:
    """Return the status and the entry of one path; its content is read only if it is not known or may differ.

    The status is None when it is so fresh that the next change may not show in it. `now` in nanoseconds.
    """
    status = os.lstat(path)
    key = stat_key(status)
    if known is not None and known[0] == key:
        return known
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISDIR(status.st_mode):
        entry = ("d", mode, "")
    elif stat.S_ISREG(status.st_mode):
        entry = ("f", mode, file_digest(path))
    elif stat.S_ISLNK(status.st_mode):
        entry = ("l", 0, os.readlink(path))
    else:
        entry = ("p" if stat.S_ISFIFO(status.st_mode) else "s", mode, str(status.st_rdev))
    return (None if is_fresh(status, now) else key), entry


def is_fresh(status: os.stat_result, now: int) -> bool:
    """Tell whether a path changed so shortly before `now`, in nanoseconds, that its next change may not show."""
    tick = _RACY_NS if status.st_ctime_ns % _SECOND_NS else _COARSE_NS
    return now - max(status.st_ctime_ns, status.st_mtime_ns) < tick


# Outputs -------------------------------------------------------------------------------------------------------------


class Sealed(NamedTuple):
    """An output that will not change any more."""

    digest: str
    size: int
    """Bytes of content; a hard-linked file counts once."""
    disk_bytes: int
    """What it takes on the disk, but for files with several names: others may have them anyway."""


def seal_file(path: str, epoch: int) -> Sealed:
    """Give a file output its final mode and time and return its digest, which tells executables from other files.

    Raises `StoreError` when it is no regular file.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        raise StoreError("its steps made no output", hint="a step must write to box.out, or to OUT") from None
    if not stat.S_ISREG(status.st_mode):
        raise StoreError("its steps made something else than a file where a file belongs")
    executable = bool(status.st_mode & 0o111)
    os.chmod(path, 0o755 if executable else 0o644)
    os.utime(path, (epoch, epoch))
    disk_bytes = status.st_blocks * _BLOCK if status.st_nlink == 1 else 0
    return Sealed(file_digest(path) + ("x" if executable else ""), status.st_size, disk_bytes)


def seal_layer(path: str, epoch: int) -> Sealed:
    """Cut a layer's times at `epoch` (seconds) and return its digest.

    The digest covers names, types, content, modes, owners, times, extended attributes, devices, link counts and
    overlayfs' whiteouts; not what overlayfs notes for itself, which is taken away.
    """
    walk = _LayerWalk(epoch * 1_000_000_000)
    left = [(os.fsencode(path), b".", os.lstat(path))]
    while left:
        left += reversed(walk.entry(*left.pop()))
    return Sealed(walk.digest.hexdigest(), walk.size, walk.disk_bytes)


def layer_summary(path: str) -> int:
    """Return the statuses of all paths of a layer in 63 bits: while they are the same, so is the layer. Raises OSError.

    A path counts with its owners, mode, size, times and inode, and its name by the times of its folder. The change time
    of a file that has names elsewhere does not count: what a shared cache has, too, gets and loses names there.
    """
    names: dict[int, int] = {}
    top = os.lstat(path)
    total, left = hash((*stat_key(top), top.st_uid, top.st_gid)), [path]
    while left:
        with os.scandir(left.pop()) as entries:
            for entry in entries:
                s = entry.stat(follow_symlinks=False)
                changed_ns = s.st_ctime_ns
                if stat.S_ISDIR(s.st_mode):
                    left.append(entry.path)
                elif s.st_nlink > 1:
                    names[s.st_ino] = names.get(s.st_ino, 0) + 1
                    if names[s.st_ino] < s.st_nlink:
                        changed_ns = 0
                total += hash((s.st_mode, s.st_size, s.st_mtime_ns, changed_ns, s.st_ino, s.st_uid, s.st_gid))
    return total & _SUMMARY_BITS


class _LayerWalk:
    def __init__(self, epoch_ns: int) -> None:
        self.digest = xxhash.xxh3_128()
        self.size = self.disk_bytes = 0
        self._epoch_ns = epoch_ns
        self._links: dict[int, bytes] = {}

    def entry(self, path: bytes, name: bytes, status: os.stat_result) -> list[tuple[bytes, bytes, os.stat_result]]:
        """Take up one entry and return, of a folder, what it holds: (path, name, status) in order of the names."""
        kind = stat.S_IFMT(status.st_mode)
        entries: list[tuple[bytes, os.stat_result]] = []
        attributes = self._attributes(path)
        if kind == stat.S_IFDIR:
            with os.scandir(path) as found:
                entries = sorted((entry.name, entry.stat(follow_symlinks=False)) for entry in found)
        time_ns = min(status.st_mtime_ns, self._epoch_ns)
        if status.st_mtime_ns != time_ns:
            os.utime(path, ns=(time_ns, time_ns), follow_symlinks=False)
        content = self._content(path, name, status)
        line = (status.st_mode, status.st_uid, status.st_gid, time_ns, content, attributes)
        self.digest.update(b"%d\0%b\0%b\0" % (len(name), name, repr(line).encode()))
        return [(path + b"/" + each, name + b"/" + each, below) for each, below in entries]

    def _content(self, path: bytes, name: bytes, status: os.stat_result) -> object:
        kind = stat.S_IFMT(status.st_mode)
        if status.st_nlink > 1 and kind != stat.S_IFDIR:
            first = self._links.setdefault(status.st_ino, name)
            if first is not name:
                return first
        else:
            self.disk_bytes += os.lstat(path).st_blocks * _BLOCK  # again: attributes that went may have had a block
        if kind == stat.S_IFREG:
            self.size += status.st_size
            return file_digest(os.fsdecode(path))
        if kind == stat.S_IFLNK:
            return os.readlink(path)
        return status.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else None

    def _attributes(self, path: bytes) -> tuple[tuple[str, bytes], ...]:
        kept = []
        names = []
        with suppress(OSError):
            names = sorted(os.listxattr(path, follow_symlinks=False))
        for name in names:
            mark = next((name.removeprefix(prefix) for prefix in _MARKS if name.startswith(prefix)), None)
            if mark is None or mark in _KEPT_MARKS:
                kept.append((mark or name, os.getxattr(path, name, follow_symlinks=False)))
            else:
                os.removexattr(path, name, follow_symlinks=False)
        return tuple(kept)
