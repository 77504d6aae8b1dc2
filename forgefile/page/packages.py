"""What packages a tree in the store holds, and which of its layers put each there."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from forgefile.contents import look
from forgefile.contents.packages import installed
from forgefile.contents.tree import stacked


class Package(NamedTuple):
    """An installed package."""

    name: str
    version: str
    size: int
    """Bytes when unpacked, as its maintainer's tools estimated them (Installed-Size, deb-control(5))."""
    layer: int
    """Which of the layers put this version into the tree, counted from the lowest."""


def packages(folders: Sequence[str]) -> list[Package]:
    """Return what is installed in a tree, the largest first; its layers are in folders, the lowest first.

    Nothing when there is no list, or no layer any more.
    """
    found: dict[str, Package] = {}
    for layer, there in enumerate(look(lambda: list(_installed(folders)))):
        found = {
            name: found[name] if name in found and found[name][:3] == (name, version, size)
            else Package(name, version, size, layer)
            for name, (version, size) in there.items()
        }  # fmt: skip
    return sorted(found.values(), key=lambda package: (-package.size, package.name))


def _installed(folders: Sequence[str]) -> Iterator[dict[str, tuple[str, int]]]:
    """Yield version and size of what is installed as far as each layer, by name."""
    for number in range(len(folders)):
        there: dict[str, tuple[str, int]] = {}
        with suppress(OSError):
            root = stacked(folders[: number + 1])
            there = {name: (package.version, package.size) for name, package in installed(root).items()}
        yield there
