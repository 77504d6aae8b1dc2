"""What two outputs differ in as a whole: images by partition, trees by package, then by file.

What is found is plain data, an object for each thing that differs, as `forge diff --json` prints it. Unaware of
targets and of terminals.
"""

import os
import tempfile
from collections.abc import Iterator
from typing import Any

from forgefile.compare import Change, Detail, Extent, changes, first_byte
from forgefile.contents import look, packages
from forgefile.contents.image import Image, Partition, main_tree
from forgefile.contents.output import Place, opened, unpacking
from forgefile.contents.tree import KINDS, Node, Path, Status
from forgefile.errors import UsageError

Row = dict[str, Any]
_CHUNK = 1 << 20
_OUTSIDE = "no partition"
"""What stands for the bytes of a disk that lie in none of its partitions."""
_ENTRIES = 128 * 128
"""The bytes of a GPT's entries."""


def rows(first: Place, second: Place, extent: Extent) -> list[Row]:
    """Return all in which two outputs differ. Raises `UsageError` when one cannot be read."""
    return look(lambda: list(_rows(first, second, extent)))


def _rows(first: Place, second: Place, extent: Extent) -> Iterator[Row]:
    if first == second:
        return
    with unpacking(first, second) as folder:
        old, new = opened(first, folder), opened(second, folder)
        if old.image and new.image:
            yield from _images(old.image, new.image, extent, folder)
            return
        trees = [main_tree(each.image, folder) if each.image else each.tree for each in (old, new)]
        if trees[0] is not None and trees[1] is not None:
            yield from _trees(trees[0], trees[1], extent, "")
            return
        if old != new:
            raise UsageError(
                "one of both is a tree, the other is a file",
                hint="a tree can be compared with a tree, with a folder, and with an image that holds one",
            )
        for change in changes(Path([first.path]), Path([second.path]), extent):
            kept = tuple(detail for detail in change.details if detail.what in ("content", "mode", "type"))
            if kept:
                yield _row(change._replace(details=kept), "") | {"path": ""}


# Images --------------------------------------------------------------------------------------------------------------


def _images(old: Image, new: Image, extent: Extent, folder: str) -> Iterator[Row]:
    """Yield how two images differ: the whole, then each partition, then what each holds."""
    whole = [(what, str(getattr(old, what)), str(getattr(new, what))) for what in ("table", "id", "size")]
    if details := [_detail(Detail(*each)) for each in whole if each[1] != each[2]]:
        yield {"image": "image", "change": "changed", "details": details}
    pairs = _paired(old, new)
    for before, after in pairs:
        yield from _partition(before, after)
    if old.sector == new.sector and _extents(old) == _extents(new):
        yield from _outside(old, new)
    for before, after in pairs:
        if before and after and not _are_same((old, before), (new, after)):
            yield from _held((old, before), (new, after), extent, folder)


def _paired(old: Image, new: Image) -> list[tuple[Partition | None, Partition | None]]:
    """Return the partitions of two images that belong together: by their names, or where one has none, by number."""
    by_name = all(len({part.name for part in each.partitions} - {""}) == len(each.partitions) for each in (old, new))
    before, after = ({(part.name if by_name else part.number): part for part in each.partitions} for each in (old, new))
    return [(before.get(key), after.get(key)) for key in dict.fromkeys((*before, *after))]


def _partition(old: Partition | None, new: Partition | None) -> Iterator[Row]:
    part = new or old
    assert part is not None  # noqa: S101  one of them is there
    told = {"partition": part.shown, "number": part.number, "type": part.type, "id": part.id,
            "filesystem": part.filesystem, "size": part.size}  # fmt: skip
    if old is None or new is None:
        yield {**told, "change": "removed" if new is None else "added", "details": []}
        return
    values = [(what, str(getattr(old, what)), str(getattr(new, what))) for what in Partition._fields]
    found = [Detail(*each) for each in values if each[0] != "number" and each[1] != each[2]]
    if found:
        yield {**told, "change": "changed", "details": [_detail(each) for each in found]}


def _extents(image: Image) -> list[tuple[int, int]]:
    return [(part.start, part.end) for part in image.partitions]


def _outside(old: Image, new: Image) -> Iterator[Row]:
    """Yield where the bytes of two disks differ that lie in no partition, nor in the table: what firmware starts."""
    size = min(old.size, new.size)
    table = [(440, 512)]
    if old.table == "gpt":
        table += [(old.sector, 2 * old.sector + _ENTRIES), (size - old.sector - _ENTRIES, size)]
    at = 0
    for start, end in sorted([*table, *_extents(old), (size, size)]):
        gap = Partition(0, "", "", "", "", at, start - at, "", "", "")
        byte = first_byte(_Bytes(old, gap), _Bytes(new, gap)) if start > at else -1
        if byte >= 0:
            yield _bytes_row(_OUTSIDE, at + byte, (old.size, new.size))
            return
        at = max(at, end)


def _bytes_row(within: str, byte: int, sizes: tuple[int, int]) -> Row:
    return {"path": "", "in": within, "change": "changed", "type": "bytes", "size_before": sizes[0], "size": sizes[1],
            "details": [{"what": "content", "from_byte": byte}]}  # fmt: skip


def _are_same(old: tuple[Image, Partition], new: tuple[Image, Partition]) -> bool:
    """Tell whether two partitions have the same bytes."""
    if old[1].size != new[1].size:
        return False
    with open(old[0].file, "rb") as one, open(new[0].file, "rb") as other:
        buffers = [memoryview(bytearray(_CHUNK)), memoryview(bytearray(_CHUNK))]
        for at in range(0, old[1].size, _CHUNK):
            length = min(_CHUNK, old[1].size - at)
            for stream, (_, part), buffer in zip((one, other), (old, new), buffers, strict=True):
                os.preadv(stream.fileno(), [buffer[:length]], part.start + at)
            if buffers[0].obj != buffers[1].obj:
                return False
    return True


def _held(old: tuple[Image, Partition], new: tuple[Image, Partition], extent: Extent, folder: str) -> Iterator[Row]:
    """Yield how what two partitions hold differs: as trees, or where they are none, in their bytes."""
    name = new[1].shown
    trees = [image.tree(part, tempfile.mkdtemp(dir=folder)) for image, part in (old, new)]
    if trees[0] is not None and trees[1] is not None:
        found = list(_trees(trees[0], trees[1], extent, name))
        yield from found
        if found or new[1].filesystem != "erofs":  # whose tool leaves out attributes, links and set-id bits
            return
    yield _bytes_row(name, first_byte(_Bytes(*old), _Bytes(*new)), (old[1].size, new[1].size))


class _Bytes:
    """The bytes of a partition, as far as `compare.first_byte` wants to know them."""

    def __init__(self, image: Image, part: Partition) -> None:
        self._image, self._part = image, part
        self.status = Status(0, (0, 0), part.size, 0, 0, None, 1)

    def read(self, at: int, length: int) -> bytes:
        """Return bytes, fewer at the end."""
        return self._image.read(self._part.start + at, min(length, self._part.size - at))


# Trees ---------------------------------------------------------------------------------------------------------------


def _trees(old: Node, new: Node, extent: Extent, within: str) -> Iterator[Row]:
    """Yield how two trees differ: by package, then by file."""
    texts = packages.status_texts(old), packages.status_texts(new)
    if texts[0] != texts[1]:
        yield from _packages(packages.parse(*texts[0]), packages.parse(*texts[1]), within)
    for change in changes(old, new, extent):
        yield _row(change, within)


def _packages(old: dict[str, packages.Package], new: dict[str, packages.Package], within: str) -> Iterator[Row]:
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        row: Row = {"package": name, **({"in": within} if within else {})}
        row["change"] = "removed" if after is None else "added" if before is None else "changed"
        for each, suffix in ((before, "_before"), (after, "")):
            if each is not None:
                row |= {f"version{suffix}": each.version, f"size{suffix}": each.size, f"arch{suffix}": each.arch}
        yield row


def _row(change: Change, within: str) -> Row:
    row: Row = {"path": f"/{change.path}", **({"in": within} if within else {})}
    row |= {"change": change.change, "type": KINDS.get(change.type, "special file")}
    if change.change != "added":
        row["size_before"] = change.sizes[0]
    if change.change != "removed":
        row["size"] = change.sizes[1]
    row["details"] = [_detail(detail) for detail in change.details]
    if change.diff:
        row["diff"] = list(change.diff)
    return row


def _detail(detail: Detail) -> Row:
    found = {"what": detail.what, "name": detail.name, "before": detail.before, "after": detail.after}
    return {key: value for key, value in found.items() if value}
