"""What packages a tree in the store holds, read from dpkg's own list in its layers."""

import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from forgefile import userns

_STATUS = "var/lib/dpkg/status"
_KIB = 1024
_MOST_BYTES = 64 << 20
"""Of a list that is read; Debian's whole archive would take about that."""


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
    texts = userns.ask(lambda: [_read(folder) for folder in folders])
    found: dict[str, Package] = {}
    for layer, text in enumerate(texts):
        if text is None:
            continue
        installed = _installed(text.decode("utf-8", "replace"), layer)
        found = {
            name: found[name] if name in found and found[name][:3] == package[:3] else package
            for name, package in installed.items()
        }
    return sorted(found.values(), key=lambda package: (-package.size, package.name))


def _read(folder: str) -> bytes | None:
    """Return the list that a layer has; empty: the layer takes it away."""
    path = folder
    for part in _STATUS.split("/"):
        path = f"{path}/{part}"
        try:
            mode = os.lstat(path).st_mode
            if stat.S_ISCHR(mode):
                return b""  # overlayfs marks what a layer removes so
            if stat.S_ISREG(mode):
                with open(path, "rb") as stream:
                    return stream.read(_MOST_BYTES)
            if not stat.S_ISDIR(mode):
                return None
        except OSError:
            return None
    return None


def _installed(text: str, layer: int) -> dict[str, Package]:
    """Return the installed packages of a list by name and architecture."""
    found = {}
    for paragraph in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[:1] not in " \t")
        if fields.get("Status", "").endswith(" installed") and "Package" in fields:
            size = fields.get("Installed-Size", "0")
            octets = int(size) * _KIB if size.isdecimal() else 0
            key = f"{fields['Package']}:{fields.get('Architecture', '')}"
            found[key] = Package(fields["Package"], fields.get("Version", ""), octets, layer)
    return found
