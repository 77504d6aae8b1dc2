"""What two outputs of one target differ in, in words. Unaware of how they came about."""

import os
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress

from forgefile import host
from forgefile.cache.digest import file_digest

_CHUNK = 1 << 20
_SHOWN, _BEFORE = 32, 16
"""How many bytes of a content are shown, and how many of them from before the first that differs."""
_LINES, _REPORT_BYTES, _PATIENCE_S = 60, 1 << 20, 120
"""How many lines of diffoscope's are shown, how many bytes it prints at most, and how long it may take."""
_WHITEOUT = "removed file"
"""What overlayfs keeps where the tree below has something that is no more."""
_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "symbolic link", stat.S_IFIFO: "pipe",
          stat.S_IFSOCK: "socket", stat.S_IFCHR: "character device", stat.S_IFBLK: "block device"}  # fmt: skip


def differences(first: str, second: str) -> tuple[list[str], str | None]:
    """Return in words how two files, or two folders with all in them, differ, in the order of their paths.

    Also returns where below both the first file with another content lies: empty for the outputs themselves.
    """
    here, there = _entries(first), _entries(second)
    links = _links(here), _links(there)
    words, file = [], None
    for name in sorted({*here, *there}):
        found = [f"only the {'first' if name in here else 'second'} time"]
        if name in here and name in there:
            paths = _join(first, name), _join(second, name)
            found = list(_metadata(here[name], there[name], paths))
            if links[0][name] != links[1][name]:
                found.append(f"hard link to {links[0][name]} → {links[1][name]}")
            if content := _content(here[name], there[name], paths):
                found.append(content)
                file = name if file is None and stat.S_ISREG(here[name].st_mode) else file
        words += [f"{name}: {each}" if name else each for each in found]
    return words, file


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if name else folder


def _entries(path: str) -> dict[str, os.stat_result]:
    """Return the status of a path and of all below it, by the path from there."""
    found, left = {}, [""]
    while left:
        name = left.pop()
        found[name] = os.lstat(_join(path, name))
        if stat.S_ISDIR(found[name].st_mode):
            left += [_join(name, each).lstrip("/") for each in os.listdir(_join(path, name))]
    return found


def _links(entries: Mapping[str, os.stat_result]) -> dict[str, str]:
    """Return for each name the first one of the same file: what else links to it lies elsewhere in the store."""
    first: dict[int, str] = {}
    return {name: first.setdefault(entries[name].st_ino, name) for name in sorted(entries)}


def _metadata(first: os.stat_result, second: os.stat_result, paths: tuple[str, str]) -> Iterator[str]:
    """Yield how two paths differ in what is not their content."""
    kinds = _kind(first), _kind(second)
    if kinds[0] != kinds[1]:
        yield f"{kinds[0]} → {kinds[1]}"
        return
    modes = stat.S_IMODE(first.st_mode), stat.S_IMODE(second.st_mode)
    if modes[0] != modes[1]:
        yield f"mode {modes[0]:04o} → {modes[1]:04o}"
    if (first.st_uid, first.st_gid) != (second.st_uid, second.st_gid):
        yield f"owner {first.st_uid}:{first.st_gid} → {second.st_uid}:{second.st_gid}"
    if first.st_mtime_ns != second.st_mtime_ns:
        yield f"time {_moment(first.st_mtime_ns)} → {_moment(second.st_mtime_ns)}"
    attributes = [_attributes(path) for path in paths]
    for name in sorted({*attributes[0], *attributes[1]}):
        if attributes[0].get(name) != attributes[1].get(name):
            yield f"attribute {name}"


def _kind(status: os.stat_result) -> str:
    if stat.S_ISCHR(status.st_mode) and not status.st_rdev:
        return _WHITEOUT
    return _KINDS.get(stat.S_IFMT(status.st_mode), "special file")


def _moment(time_ns: int) -> str:
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds)) + (f".{rest:09d}" if rest else "")


def _attributes(path: str) -> dict[str, bytes]:
    with suppress(OSError):
        return {n: os.getxattr(path, n, follow_symlinks=False) for n in os.listxattr(path, follow_symlinks=False)}
    return {}


def _content(first: os.stat_result, second: os.stat_result, paths: tuple[str, str]) -> str | None:
    """Return how two paths of one kind differ in their content, or None."""
    kind = stat.S_IFMT(first.st_mode)
    if kind != stat.S_IFMT(second.st_mode):
        return None
    if kind == stat.S_IFLNK:
        here, there = map(os.readlink, paths)
        return None if here == there else f"leads to {here} → {there}"
    if kind in (stat.S_IFCHR, stat.S_IFBLK) and first.st_rdev != second.st_rdev:
        numbers = [f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}" for status in (first, second)]
        return f"device {numbers[0]} → {numbers[1]}"
    if kind != stat.S_IFREG or (first.st_size == second.st_size and file_digest(paths[0]) == file_digest(paths[1])):
        return None
    return _first_byte(*paths)


def _first_byte(first: str, second: str) -> str:
    """Return in words where two files begin to differ, and what they have there."""
    with open(first, "rb") as here, open(second, "rb") as there:
        at = 0
        while (old := here.read(_CHUNK)) == (new := there.read(_CHUNK)):
            at += len(old)
        at += next((n for n, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]),
                   min(len(old), len(new)))  # fmt: skip
        shown = []
        for stream in (here, there):
            stream.seek(max(at - _BEFORE, 0))
            shown.append(repr(stream.read(_SHOWN)).removeprefix("b"))
    return f"content from byte {at}: {shown[0]} → {shown[1]}"


def report(first: str, second: str, temporary: str) -> list[str]:
    """Return what diffoscope says of two files, its first lines; nothing where it is not installed.

    `temporary` is a folder for what it unpacks, which is left as it is when it takes too long.
    """
    program = host.find("diffoscope")
    if program is None:
        return []
    command = (program, "--text-color=never", f"--max-text-report-size={_REPORT_BYTES}", "--text=-", first, second)
    try:
        said = subprocess.run(
            command, env={**os.environ, "TMPDIR": temporary}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, timeout=_PATIENCE_S, check=False,
        ).stdout  # fmt: skip
    except subprocess.TimeoutExpired:
        return [f"took longer than {_PATIENCE_S} s"]
    lines = said.decode("utf-8", "replace").splitlines()
    return [*lines[:_LINES], *([f"and {len(lines) - _LINES} more lines"] if len(lines) > _LINES else [])]
