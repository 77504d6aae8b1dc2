"""The paths of a tree, wherever it lies: in the layers of a store, in a folder, in the image of a file system.

Layers are stacked here by reading them, and not by a mount: so a store can be one that is only read, and what two
trees have in common is known without a look at it. Facts: overlayfs, in the kernel's filesystems/overlayfs.rst.
"""

import os
import stat
from collections.abc import Hashable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol

_MARKS = ("user.overlay.", "trusted.overlay.")
_OPAQUE = "user.overlay.opaque"
KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "symbolic link", stat.S_IFIFO: "pipe",
         stat.S_IFSOCK: "socket", stat.S_IFCHR: "character device", stat.S_IFBLK: "block device"}  # fmt: skip
WHITEOUT = "removed file"
"""What overlayfs keeps where the tree below has something that is no more."""


class Status(NamedTuple):
    """What a path is beside its content."""

    mode: int
    """With the type of the file, inode(7)."""
    owner: tuple[int, int]
    size: int
    time_ns: int
    device: int
    identity: Hashable
    """What all names of one file have in common."""
    names: int
    """How many the file has, at least."""

    @property
    def type(self) -> int:
        """The type of the file, one of `KINDS`."""
        return stat.S_IFMT(self.mode)

    @property
    def kind(self) -> str:
        """The type in words."""
        if self.type == stat.S_IFCHR and not self.device:
            return WHITEOUT
        return KINDS.get(self.type, "special file")


class Node(Protocol):
    """A path of a tree. Whatever is asked of it raises OSError when it cannot be read."""

    @property
    def status(self) -> Status:
        """What it is."""

    def children(self, beside: "Node | None" = None) -> "dict[str, Node]":
        """Return what a folder holds, by name.

        What the folder `beside` of another tree is known to hold just as it is here may be left out.
        """

    def link(self) -> str:
        """Return where a symbolic link leads."""

    def attributes(self) -> dict[str, bytes]:
        """Return the extended attributes."""

    def read(self, at: int, length: int) -> bytes:
        """Return bytes of a file's content, fewer at its end."""

    def same_as(self, other: "Node") -> bool:
        """Tell whether both are known to be one file."""


class Path:
    """A path of a folder, or of a stack of layers: of those that have it, the uppermost first.

    `layered`: overlayfs' marks say what is hidden; elsewhere they are files like others.
    """

    def __init__(self, places: Sequence[str], *, layered: bool = False) -> None:
        self.places = tuple(places)
        self._layered = layered
        self._status: Status | None = None

    @property
    def status(self) -> Status:
        """What the uppermost is."""
        if self._status is None:
            s = os.lstat(self.places[0])
            identity = (s.st_dev, s.st_ino)
            self._status = Status(
                s.st_mode, (s.st_uid, s.st_gid), s.st_size, s.st_mtime_ns, s.st_rdev, identity, s.st_nlink
            )
        return self._status

    def children(self, beside: Node | None = None) -> dict[str, Node]:
        """Return what the folders hold, by name; but for what the folders that both have at their end say of both."""
        if not isinstance(beside, Path):
            return dict(self._all())
        own, other = _apart(self.places, beside.places)
        names = {name for folder in (*own, *other) for name in os.listdir(folder)}
        found = {name: self._child(name) for name in names}
        return {name: child for name, child in found.items() if child is not None}

    def _all(self) -> Iterator[tuple[str, Node]]:
        found: dict[str, list[str]] = {}
        done: set[str] = set()
        for folder in self.places:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name in done:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        found.setdefault(entry.name, []).append(entry.path)
                        if self._layered and _is_opaque(entry.path):
                            done.add(entry.name)
                        continue
                    done.add(entry.name)
                    plain = entry.is_file(follow_symlinks=False) or entry.is_symlink()
                    hides = self._layered and not plain and _is_whiteout(entry.stat(follow_symlinks=False))
                    if entry.name not in found and not hides:
                        found[entry.name] = [entry.path]
        for name, places in found.items():
            yield name, Path(places, layered=self._layered)

    def _child(self, name: str) -> "Path | None":
        places: list[str] = []
        for folder in self.places:
            path = f"{folder}/{name}"
            try:
                status = os.lstat(path)
            except FileNotFoundError:
                continue
            if not stat.S_ISDIR(status.st_mode):
                if not places and not (self._layered and _is_whiteout(status)):
                    places.append(path)
                break
            places.append(path)
            if self._layered and _is_opaque(path):
                break
        return Path(places, layered=self._layered) if places else None

    def link(self) -> str:
        """Return where a symbolic link leads."""
        return os.readlink(self.places[0])

    def attributes(self) -> dict[str, bytes]:
        """Return the extended attributes, but for overlayfs' own."""
        path = self.places[0]
        with suppress(OSError):
            names = os.listxattr(path, follow_symlinks=False)
            kept = [name for name in names if not (self._layered and name.startswith(_MARKS))]
            return {name: os.getxattr(path, name, follow_symlinks=False) for name in kept}
        return {}

    def read(self, at: int, length: int) -> bytes:
        """Return bytes of a file's content, fewer at its end."""
        descriptor = os.open(self.places[0], os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return os.pread(descriptor, length, at)
        finally:
            os.close(descriptor)

    def same_as(self, other: Node) -> bool:
        """Tell whether both are one file of one file system."""
        return isinstance(other, Path) and self.status.identity == other.status.identity


def _apart(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return two stacks without the lowest folders that both have."""
    common = 0
    while common < min(len(one), len(other)) and one[-1 - common] == other[-1 - common]:
        common += 1
    return one[: len(one) - common], other[: len(other) - common]


def _is_opaque(path: str) -> bool:
    """Tell whether a folder of a layer hides what lower layers have in its place."""
    with suppress(OSError):
        return os.getxattr(path, _OPAQUE, follow_symlinks=False) == b"y"
    return False


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and not status.st_rdev


def stacked(layers: Sequence[str]) -> Path:
    """Return the root of a tree of layers, by their paths, lowest first."""
    return Path(tuple(dict.fromkeys(reversed(layers))), layered=True)


def find(root: Node, path: str) -> Node | None:
    """Return a path of a tree, or None when it is not there; folders on the way may be links, as /bin may be."""
    node, parts, links = root, path.split("/")[::-1], 0
    while parts:
        part = parts.pop()
        if part in ("", "."):
            continue
        child = node._child(part) if isinstance(node, Path) else node.children().get(part)  # noqa: SLF001  our own
        if child is None:
            return None
        if parts and child.status.type == stat.S_IFLNK:
            links += 1
            to = child.link()
            if links > 40 or ".." in to.split("/"):  # noqa: PLR2004  as the kernel's MAXSYMLINKS
                return None
            node = root if to.startswith("/") else node
            parts += to.split("/")[::-1]
            continue
        if parts and child.status.type != stat.S_IFDIR:
            return None
        node = child
    return node


def content(root: Node, path: str) -> bytes:
    """Return the content of a file of a tree, empty when there is none."""
    node = find(root, path)
    return node.read(0, node.status.size) if node is not None and node.status.type == stat.S_IFREG else b""


def walk(root: Node) -> Iterator[tuple[str, Node]]:
    """Yield all paths of a tree with what they are: the root as "", then those below it, in order of their names."""
    left: list[tuple[str, Node]] = [("", root)]
    while left:
        name, node = left.pop()
        yield name, node
        if node.status.type == stat.S_IFDIR:
            below = node.children()
            left += [(f"{name}/{each}".lstrip("/"), below[each]) for each in sorted(below, reverse=True)]
