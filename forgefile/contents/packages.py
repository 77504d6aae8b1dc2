"""The Debian packages that a tree has, as dpkg notes them, or what unpacks packages without dpkg.

Facts: deb-control(5), dpkg-query(1), and distroless images, which have a file for each package in status.d.
"""

import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from forgefile.contents.tree import Node, content, find

_STATUS = "var/lib/dpkg/status"
_FOLDER = "var/lib/dpkg/status.d"
"""Where images have it whose packages were unpacked without dpkg: a file for each."""
_INFO = "var/lib/dpkg/info"


class Package(NamedTuple):
    """An installed package."""

    version: str
    size: int
    """What it says that it takes, in bytes."""
    arch: str


def installed(root: Node) -> dict[str, Package]:
    """Return the packages of a tree by name, with `:ARCH` where one is there for several architectures."""
    return parse(*status_texts(root))


def status_texts(root: Node) -> list[bytes]:
    """Return what a tree notes of its packages: what dpkg does, then the files of others."""
    texts = [content(root, _STATUS)]
    folder = find(root, _FOLDER)
    if folder is not None and folder.status.type == stat.S_IFDIR:
        files = sorted((name, node) for name, node in folder.children().items() if not name.endswith(".md5sums"))
        texts += [node.read(0, node.status.size) for _, node in files if node.status.type == stat.S_IFREG]
    return texts


def parse(status: bytes, *files: bytes) -> dict[str, Package]:
    """Return what dpkg's status says that is installed, and what is by the files of others, which say no more of it."""
    found: list[tuple[str, Package]] = []
    for text, state in ((status, ""), *((text, "ok installed") for text in files)):
        for paragraph in text.decode("utf-8", "replace").split("\n\n"):
            fields = dict(_fields(paragraph))
            if "Package" in fields and fields.get("Status", state).endswith("ok installed"):
                kib = fields.get("Installed-Size", "0")
                size = int(kib) * 1024 if kib.isdecimal() else 0
                arch = fields.get("Architecture", "")
                found.append((fields["Package"], Package(fields.get("Version", ""), size, arch)))
    several = Counter(name for name, _ in found)
    return {f"{name}:{each.arch}" if several[name] > 1 else name: each for name, each in sorted(found)}


_WANTED = ("Package", "Status", "Version", "Architecture", "Installed-Size")


def _fields(paragraph: str) -> Iterator[tuple[str, str]]:
    for line in paragraph.splitlines():
        name, colon, value = line.partition(": ")
        if colon and name in _WANTED:
            yield name, value.strip()


def owners(root: Node, packages: Mapping[str, Package]) -> dict[str, str]:
    """Return for the files of a tree which package brought them, as far as it notes that: path → package.

    Paths are as the package has them: /bin may be a link in the tree.
    """
    found: dict[str, str] = {}
    names = {f"{name.partition(':')[0]}:{each.arch}": name for name, each in packages.items()}
    for folder, ending in ((_INFO, ".list"), (_FOLDER, ".md5sums")):
        node = find(root, folder)
        if node is None or node.status.type != stat.S_IFDIR:
            continue
        for file, listed in node.children().items():
            if not file.endswith(ending):
                continue
            package = file.removesuffix(ending)
            package = names.get(package, package)
            text = listed.read(0, listed.status.size).decode("utf-8", "surrogateescape")
            lines = text.splitlines() if ending == ".list" else [line.partition("  ")[2] for line in text.splitlines()]
            found.update((line.strip("/"), package) for line in lines)
    return found
