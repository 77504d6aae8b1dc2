"""What two outputs differ in, path by path. Unaware of how they came about."""

import os
import stat
import subprocess
import time
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from forgefile import host
from forgefile.cache.digest import file_digest
from forgefile.contents.tree import Node, Path, Status, walk

_CHUNK = 1 << 20
_SHOWN, _BEFORE = 32, 16
"""How many bytes of a content are shown, and how many of them from before the first that differs."""
_LINES, _REPORT_BYTES, _PATIENCE_S = 60, 1 << 20, 120
"""How many lines of diffoscope's are shown, how many bytes it prints at most, and how long it may take."""
_LARGE = 64 << 20
"""A file of more bytes may be one that is mostly holes."""
_TEXT_BYTES = 4 << 20
"""Of two texts that are longer, the lines are not compared."""


class Readable(Protocol):
    """What can be read like a file."""

    @property
    def status(self) -> Status:
        """What it is, of which its size counts."""

    def read(self, at: int, length: int) -> bytes:
        """Return bytes, fewer at the end."""


class Detail(NamedTuple):
    """One thing in which a path differs."""

    what: str
    """`type`, `mode`, `owner`, `time`, `xattr`, `hard link`, `link`, `device` or `content`."""
    before: str
    after: str
    name: str = ""
    """Of an extended attribute."""


class Change(NamedTuple):
    """A path that differs."""

    path: str
    """From the root of the tree, without a slash before it; empty for that itself."""
    change: str
    """`added`, `removed` or `changed`."""
    type: int
    """What it is now, or was, one of `tree.KINDS`."""
    sizes: tuple[int, int]
    """Bytes of content before and after; of what is no file, 0."""
    details: tuple[Detail, ...] = ()
    diff: tuple[str, ...] = ()
    """The lines of two texts that differ, in the form of `diff -u`, without the names of the files."""


class Extent(NamedTuple):
    """How far a comparison goes."""

    times: bool = False
    texts: bool = False
    """Whether the lines of texts are compared."""


def changes(first: Node, second: Node, extent: Extent) -> Iterator[Change]:
    """Yield how two trees, or two files, differ, in the order of their paths. Raises OSError."""
    links = _Links(first), _Links(second)
    left: list[tuple[str, Node | None, Node | None]] = [("", first, second)]
    while left:
        path, old, new = left.pop()
        if old is not None and new is not None:
            if old.same_as(new) and old.status.type != stat.S_IFDIR:
                continue
            if change := _changed(path, (old, new), links, extent):
                yield change
        else:
            yield _alone(path, old, new)
        here = _children(old, new)
        there = _children(new, old)
        left += [(f"{path}/{name}".lstrip("/"), here.get(name), there.get(name))
                 for name in sorted({*here, *there}, reverse=True)]  # fmt: skip


def _children(node: Node | None, beside: Node | None) -> dict[str, Node]:
    if node is None or node.status.type != stat.S_IFDIR:
        return {}
    return node.children(beside if beside is not None and beside.status.type == stat.S_IFDIR else None)


def _alone(path: str, old: Node | None, new: Node | None) -> Change:
    node = old or new
    assert node is not None  # noqa: S101  one of them has it
    size, change = _size(node), "removed" if new is None else "added"
    details: tuple[Detail, ...] = ()
    if node.status.type == stat.S_IFLNK:
        details = (Detail("link", node.link(), "") if new is None else Detail("link", "", node.link()),)
    return Change(path, change, node.status.type, (size, 0) if new is None else (0, size), details)


def _size(node: Node) -> int:
    return node.status.size if node.status.type == stat.S_IFREG else 0


class _Links:
    """The names that a tree has for one file, found when they are asked for."""

    def __init__(self, root: Node) -> None:
        self._root = root
        self._first: dict[str, str] | None = None

    def first(self, path: str) -> str:
        """Return the first name of the file that a path is one of."""
        if self._first is None:
            first: dict[object, str] = {}
            found = [(name, node.status) for name, node in walk(self._root) if node.status.type != stat.S_IFDIR]
            self._first = {name: first.setdefault(status.identity, name) for name, status in sorted(found)
                           if status.names > 1}  # fmt: skip
        return self._first.get(path, path)


def _changed(
    path: str, nodes: tuple[Node, Node], links: tuple[_Links, _Links], extent: Extent
) -> Change | None:
    """Return how a path that both have differs, or None."""
    details = list(_metadata(*nodes, times=extent.times))
    old, new = nodes[0].status, nodes[1].status
    if path and stat.S_IFDIR not in (old.type, new.type) and max(old.names, new.names) > 1:
        firsts = links[0].first(path), links[1].first(path)
        if firsts[0] != firsts[1]:
            details.append(Detail("hard link", *firsts))
    lines: tuple[str, ...] = ()
    if content := _content(*nodes):
        details.append(content)
        if extent.texts and content.what == "content":
            lines = tuple(_lines(*nodes))
    sizes = _size(nodes[0]), _size(nodes[1])
    return Change(path, "changed", new.type, sizes, tuple(details), lines) if details else None


def _metadata(first: Node, second: Node, *, times: bool) -> Iterator[Detail]:
    """Yield how two paths differ in what is not their content."""
    old, new = first.status, second.status
    if old.kind != new.kind:
        yield Detail("type", old.kind, new.kind)
        return
    modes = stat.S_IMODE(old.mode), stat.S_IMODE(new.mode)
    if modes[0] != modes[1]:
        yield Detail("mode", f"{modes[0]:04o}", f"{modes[1]:04o}")
    if old.owner != new.owner:
        yield Detail("owner", "{}:{}".format(*old.owner), "{}:{}".format(*new.owner))
    if times and old.time_ns != new.time_ns:
        yield Detail("time", _moment(old.time_ns), _moment(new.time_ns))
    attributes = first.attributes(), second.attributes()
    for name in sorted({*attributes[0], *attributes[1]}):
        values = attributes[0].get(name), attributes[1].get(name)
        if values[0] != values[1]:
            yield Detail("xattr", _quoted(values[0]), _quoted(values[1]), name)


def _quoted(value: bytes | None) -> str:
    return "none" if value is None else repr(value).removeprefix("b")


def _moment(time_ns: int) -> str:
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds)) + (f".{rest:09d}" if rest else "")


def _content(first: Node, second: Node) -> Detail | None:
    """Return how two paths of one type differ in their content, or None."""
    old, new = first.status, second.status
    if old.type != new.type:
        return None
    if old.type == stat.S_IFLNK:
        here, there = first.link(), second.link()
        return None if here == there else Detail("link", here, there)
    if old.type in (stat.S_IFCHR, stat.S_IFBLK) and old.device != new.device:
        return Detail("device", *(f"{os.major(each.device)}:{os.minor(each.device)}" for each in (old, new)))
    if old.type != stat.S_IFREG:
        return None
    return Detail("content", "", "") if first_byte(first, second) >= 0 else None


def first_byte(first: Readable, second: Readable) -> int:
    """Return where two files begin to differ, or -1."""
    at, end = 0, max(first.status.size, second.status.size)
    if end > _LARGE and isinstance(first, Path) and isinstance(second, Path):  # without a look at holes
        digests = {file_digest(path.places[0]) for path in (first, second)}
        if len(digests) == 1:
            return -1
    while at < end:
        old, new = first.read(at, _CHUNK), second.read(at, _CHUNK)
        if old != new:
            return at + next((n for n, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]),
                             min(len(old), len(new)))  # fmt: skip
        at += _CHUNK
    return -1


def _lines(first: Node, second: Node) -> list[str]:
    """Return how the lines of two texts differ; nothing when one is no text, or where there is no diff(1)."""
    program = host.find("diff")
    texts = [node.read(0, node.status.size) for node in (first, second) if node.status.size <= _TEXT_BYTES]
    if program is None or len(texts) < 2 or not all(map(_is_text, texts)):  # noqa: PLR2004  both
        return []
    with open(os.memfd_create("old"), "w+b") as old, open(os.memfd_create("new"), "w+b") as new:
        for stream, text in zip((old, new), texts, strict=True):
            stream.write(text)
            stream.flush()
        numbers = old.fileno(), new.fileno()
        command = (program, "--unified", "--text", *(f"/proc/self/fd/{number}" for number in numbers))
        made = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, pass_fds=numbers, check=False,
                              env={"LC_ALL": "C"}).stdout  # fmt: skip
    return made.decode("utf-8", "replace").split("\n")[2:-1]


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in content


# For a verification --------------------------------------------------------------------------------------------------


def differences(first: str, second: str) -> tuple[list[str], str | None]:
    """Return in words how two files, or two folders with all in them, differ, in the order of their paths.

    Also returns where below both the first file with another content lies: empty for the outputs themselves.
    """
    words: list[str] = []
    file = None
    for change in sorted(changes(Path([first]), Path([second]), Extent(times=True))):
        paths = _join(first, change.path), _join(second, change.path)
        found = [_words(detail, paths) for detail in change.details]
        if change.change != "changed":
            found = [f"only the {'first' if change.change == 'removed' else 'second'} time"]
        elif file is None and any(detail.what == "content" for detail in change.details):
            file = change.path
        words += [f"{change.path}: {each}" if change.path else each for each in found]
    return words, file


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if name else folder


_PHRASES = {"type": "", "hard link": "hard link to ", "link": "leads to "}


def _words(detail: Detail, paths: tuple[str, str]) -> str:
    if detail.what == "content":
        nodes = Path([paths[0]]), Path([paths[1]])
        at = first_byte(*nodes)
        shown = [_quoted(node.read(max(at - _BEFORE, 0), _SHOWN)) for node in nodes]
        return f"content from byte {at}: {shown[0]} → {shown[1]}"
    if detail.what == "xattr":
        return f"attribute {detail.name}"
    return f"{_PHRASES.get(detail.what, f'{detail.what} ')}{detail.before} → {detail.after}"


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
