"""What takes how much room in an output: by layer, by package and by folder.

Sizes are bytes of content, of each file once however many names it has: what an archive of it would hold. What it
takes on a disk depends on the disk.
"""

import os
import stat
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from forgefile.contents import look, packages
from forgefile.contents.image import trees_of
from forgefile.contents.output import Place, opened, unpacking
from forgefile.contents.tree import Node, Path, stacked, walk

Row = dict[str, Any]
OTHER = ""
"""Stands for the package of files that belong to none."""


class Taken(NamedTuple):
    """What a tree takes, as plain data."""

    size: int
    files: int
    packages: dict[str, int]
    folders: dict[str, int]
    """Of each folder, with all below it; the root's is ""."""


def measure(root: Node) -> Taken:
    """Return what a tree takes. Raises OSError."""
    owners = _owners(root)
    by_package: Counter[str] = Counter()
    folders: Counter[str] = Counter()
    seen: set[Hashable] = set()
    for path, node in walk(root):
        status = node.status
        if status.type == stat.S_IFDIR:
            folders[path] += 0
        if status.type != stat.S_IFREG or (status.names > 1 and status.identity in seen):
            continue
        seen.add(status.identity)
        by_package[owners.get(path, OTHER)] += status.size
        folder = path
        while folder:
            folder = folder.rpartition("/")[0]
            folders[folder] += status.size
    return Taken(folders[""], len(seen), dict(by_package), dict(folders))


def _owners(root: Node) -> Mapping[str, str]:
    """Return which package brought each path; where a folder of the root is a link, of the path that it leads to."""
    links = {name: node.link().strip("/") for name, node in root.children().items() if node.status.type == stat.S_IFLNK}
    found = {}
    for path, package in packages.owners(root, packages.installed(root)).items():
        first, slash, rest = path.partition("/")
        found[f"{links.get(first, first)}{slash}{rest}"] = package
    return found


class Layer(NamedTuple):
    """What a layer adds to those below it."""

    added: int
    """Bytes of the files that it brings."""
    hidden: int
    """Bytes of files below it that it takes the place of, or removes."""


def layers(paths: Sequence[str]) -> list[Layer]:
    """Return what each layer of a tree adds, by their paths, lowest first. Raises OSError."""
    found = []
    for number in range(len(paths)):
        below = stacked(paths[:number]) if number else None
        above = stacked(paths[: number + 1])
        hidden, added = (sum(sizes.values()) for sizes in _changed(below, above))
        found.append(Layer(added, hidden))
    return found


def _changed(below: Path | None, above: Path) -> tuple[dict[Hashable, int], dict[Hashable, int]]:
    """Return the sizes of the files that only one of two trees has, by what they are."""
    sizes: tuple[dict[Hashable, int], dict[Hashable, int]] = ({}, {})
    left: list[tuple[Node | None, Node | None]] = [(below, above)]
    while left:
        pair = left.pop()
        if pair[0] is not None and pair[1] is not None and pair[0].same_as(pair[1]):
            continue
        folders = [node if node is not None and node.status.type == stat.S_IFDIR else None for node in pair]
        for node, found in zip(pair, sizes, strict=True):
            if node is not None and node.status.type == stat.S_IFREG:
                found[node.status.identity] = node.status.size
        pairs = zip(folders, reversed(folders), strict=True)
        inside = [{} if each is None else each.children(beside) for each, beside in pairs]
        left += [(inside[0].get(name), inside[1].get(name)) for name in {*inside[0], *inside[1]}]
    return sizes


def largest(sizes: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return names with what they take, the largest first; those that take nothing are left out."""
    return sorted(((name, size) for name, size in sizes.items() if size > 0), key=lambda pair: (-pair[1], pair[0]))


def grown(before: Iterable[Row], after: Iterable[Row]) -> list[Row]:
    """Return what grew from the rows of one output to those of another: packages, then folders, the most first.

    Of folders those that have it themselves: not the ones above them.
    """
    found: list[Row] = []
    for key in ("package", "folder"):
        old, new = _by_name(before, key), _by_name(after, key)
        more = {name: size - old.get(name, 0) for name, size in new.items() if size > old.get(name, 0)}
        for within in dict.fromkeys(where for where, _ in more):
            inside = {name: size for (where, name), size in more.items() if where == within}
            inside = deepest(inside) if key == "folder" else inside
            found += [{key: name, "in": within, "size": size} for name, size in largest(inside)]
    return found


def _by_name(rows: Iterable[Row], key: str) -> dict[tuple[str, str], int]:
    return {(row.get("in", ""), row[key]): row["size"] for row in rows if key in row}


def deepest(folders: Mapping[str, int]) -> dict[str, int]:
    """Return folders without those of which all that counts lies in one folder below them."""
    inner = {(name.rpartition("/")[0], size) for name, size in folders.items() if name}
    return {name: size for name, size in folders.items() if (name, size) not in inner}


# As a whole ----------------------------------------------------------------------------------------------------------


class Stack(NamedTuple):
    """A tree's layers in the store, lowest first, with what to call each: the target and its rule, if known."""

    paths: tuple[str, ...]
    names: tuple[tuple[str, str], ...]


def rows(place: Place, stacks: Sequence[Stack]) -> list[Row]:
    """Return what takes room in an output, and in the trees that it was made of, as plain data, the largest first.

    The first is the whole. Raises `UsageError` when something cannot be read.
    """
    return look(lambda: list(_rows(place, stacks)))


def _rows(place: Place, stacks: Sequence[Stack]) -> Iterator[Row]:
    with unpacking(place) as folder:
        found = opened(place, folder)
        trees: list[tuple[str, Taken]] = []
        if found.tree is not None:
            trees = [("", measure(found.tree))]
        elif found.image is not None:
            trees = [(part.shown, measure(tree)) for part, tree in trees_of(found.image, folder)]
        whole: Row = {"size": trees[0][1].size if found.tree is not None else os.path.getsize(place.path)}
        yield whole | ({"files": sum(taken.files for _, taken in trees)} if trees else {})
    content = {name: taken.size for name, taken in trees}
    for part in found.image.partitions if found.image is not None else ():
        row: Row = {"partition": part.shown, "number": part.number, "filesystem": part.filesystem, "size": part.size}
        yield row | ({"content": content[part.shown]} if part.shown in content else {})
    for stack in stacks:
        found_layers = zip(stack.paths, stack.names, layers(stack.paths), strict=True)
        for path, name, layer in sorted(found_layers, key=lambda found: -found[2].added):
            known = {"target": name[0], "rule": name[1]} if name[0] else {}
            yield {"layer": os.path.basename(path), **known, "added": layer.added, "hidden": layer.hidden}
    for key in ("package", "folder"):
        for within, taken in trees:
            where = {"in": within} if within else {}
            yield from ({key: name, **where, "size": size} for name, size in largest(_named(taken, key)))


def _named(taken: Taken, key: str) -> dict[str, int]:
    if key == "folder":
        return {f"/{name}": size for name, size in taken.folders.items() if name}
    return taken.packages if taken.packages.keys() != {OTHER} else {}
