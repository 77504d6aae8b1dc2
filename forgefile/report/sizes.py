"""What takes how much room, in lines, from the rows of `contents.sizes`."""

from collections.abc import Iterator, Sequence
from typing import Any

from forgefile.report.words import Line, Span, count, escaped, size

Row = dict[str, Any]
_HEADS = {"partition": "by partition", "layer": "by layer", "package": "by package", "folder": "by folder"}


def told(rows: Sequence[Row], number: int | None) -> Iterator[Line]:
    """Yield what takes room in sections, of packages and folders at most so many."""
    for key, head in _HEADS.items():
        found = [row for row in rows if key in row]
        for within in dict.fromkeys(row.get("in", "") for row in found):
            inside = [row for row in found if row.get("in", "") == within]
            shown = inside if key in ("layer", "partition") else inside[:number]
            yield (Span(f"{head} in {escaped(within)}" if within else head, "name"),)
            yield from _table([_columns(row, key) for row in shown])
            if len(inside) > len(shown):
                yield (Span(f"  and {len(inside) - len(shown)} more", "aside"),)


def grown(rows: Sequence[Row], number: int) -> Iterator[Line]:
    """Yield what grew, at most so many packages and so many folders."""
    for key in ("package", "folder"):
        found = [row for row in rows if key in row][:number]
        yield from _table([(f"+{size(row['size'])}", _what(row, key)) for row in found])


def _what(row: Row, key: str) -> str:
    where = f" in {escaped(row['in'])}" if row.get("in") else ""
    return (escaped(row[key]) or "of no package") + where


def _columns(row: Row, key: str) -> tuple[str, ...]:
    if key == "layer":
        hidden = f"{size(row['hidden'])} below it hidden" if row["hidden"] else ""
        return f"+{size(row['added'])}", str(row.get("target", row["layer"])), str(row.get("rule", "")), hidden
    if key == "partition":
        content = f"{size(row['content'])} of files" if "content" in row else ""
        return size(row["size"]), escaped(row["partition"]), row["filesystem"], content
    return size(row["size"]), escaped(row[key]) or "(of no package)"


def _table(rows: Sequence[Sequence[str]]) -> Iterator[Line]:
    """Yield rows with their columns below each other, the first to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *rest in rows:
        cells = [cell.ljust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        yield (Span(f"  {first.rjust(widths[0])}  {'  '.join(cells)}".rstrip()),)


def heading(title: str, whole: Row) -> Line:
    """Return how much an output takes as a whole."""
    files = f" in {count(whole['files'], 'file')}" if "files" in whole else ""
    return Span(escaped(title), "name"), Span(f": {size(whole['size'])}{files}")
