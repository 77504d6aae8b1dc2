"""forge diff: say what differs between two outputs, by partition, by package and by file, like diff(1).

Without another to compare with, a target is compared with its own result before this one.
"""

import argparse
import json
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from forgefile import diff, engine
from forgefile.compare import Extent
from forgefile.contents.output import Place, place_of
from forgefile.diff import Row
from forgefile.errors import UsageError
from forgefile.model import Target
from forgefile.report import page, words
from forgefile.report.words import Line, Span, Tone
from forgefile.verbs import aligned, latest, named, one, opened, opened_for, say

SYNOPSIS = "diff TARGET|PATH [OTHER]"
SUMMARY = "say what differs: partitions, packages, files"
EXAMPLES = (("forge diff system", "what the last build of it changed"),
            ("forge diff packages system", "what one tree has that another has not"),
            ("forge diff disk.img old.img --json", "for a program"))  # fmt: skip
_ABOUT = """\
Both may be targets, files or folders; the second is what it became. Times do not count. The exit status is 0 when
nothing differs, 1 when something does, 2 when there is trouble.
"""
_LINES = 40
"""How many lines of a text's difference are shown."""
_TELLS = ("var/lib/dpkg/status", "var/lib/dpkg/status-old", "var/lib/dpkg/available")
"""What need not be shown line by line, since packages are."""
_MARKS: dict[str, tuple[str, Tone]] = {"added": ("+", "good"), "removed": ("-", "bad"), "changed": ("~", "warning")}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments to its parser."""
    add = parser.add_argument
    add("first", metavar="TARGET|PATH", help="a target, file or folder")
    add("second", metavar="OTHER", nargs="?", help="another one")
    add("--last", action="store_true", help="compare with the result before this one, as without OTHER")
    add("-a", "--all", action="store_true", help="each file of new folders, and all lines of texts")
    add("--times", action="store_true", help="times of modification count, too")
    add("--json", action="store_true", help="print one JSON object for each thing that differs")
    parser.epilog = f"{_ABOUT}\n{parser.epilog}"


class _Side(NamedTuple):
    """One of the two that are compared."""

    title: str
    place: Place


def run(options: argparse.Namespace) -> int:
    """Compare two outputs; return the exit status."""
    if options.last and options.second:
        raise UsageError("--last compares a target with itself", hint="leave out --last, or the other name")
    if options.second is None:
        with opened(options) as project:
            return _compare(*_with_last(project, options.first), options)
    with opened_for(options, options.first, options.second) as either:
        return _compare(_side(either, options.first), _side(either, options.second), options)


def _compare(first: _Side, second: _Side, options: argparse.Namespace) -> int:
    found = diff.rows(first.place, second.place, Extent(times=options.times, texts=True))
    if options.json:
        for row in (*found, _summary(found)):
            say(json.dumps(row))
    else:
        page.show(_shown(found, (first.title, second.title), everything=options.all))
    return 1 if found else 0


def _side(project: engine.Project | None, word: str) -> _Side:
    """Return what a word of the command line names: a target, or else a file or folder."""
    found = named(project, word)
    if project is None or isinstance(found, str):
        return _Side(word, Place(os.path.abspath(word)))
    return _Side(found.name, place_of(project.store, latest(project, found)[1]))


def _with_last(project: engine.Project, word: str) -> tuple[_Side, _Side]:
    """Return a target's result before its latest, and that. Raises `UsageError` when it is not in the store."""
    target: Target = one(project, word)
    name, result = latest(project, target)
    before = project.store.records.previous(target.name, name)
    if before is None or project.store.problem(before.result) is not None:
        raise UsageError(
            f"the store has no result of '{target.name}' before this one",
            hint="it was built only once, or 'forge gc' or 'forge clean' removed what was before",
        )
    return (_Side(f"{target.name}, the result before", place_of(project.store, before.result)),
            _Side(target.name, place_of(project.store, result)))  # fmt: skip


# In words ------------------------------------------------------------------------------------------------------------


def _summary(rows: Collection[Row]) -> Row:
    """Return what ends the JSON: whether all is the same, and how many things differ."""
    return {"same": not rows, "partitions": sum("partition" in row for row in rows),
            "packages": sum("package" in row for row in rows), "paths": sum("path" in row for row in rows)}  # fmt: skip


def _shown(rows: Sequence[Row], titles: tuple[str, str], *, everything: bool) -> Iterator[Line]:
    """Yield what differs in lines."""
    if not rows:
        yield (Span("no difference"),)
        return
    yield (Span(f"--- {titles[0]}", "bad"),)
    yield (Span(f"+++ {titles[1]}", "good"),)
    for parts in ([row for row in rows if key in row] for key in ("image", "partition")):
        yield from (_part(row) for row in parts)
    for within in dict.fromkeys(row.get("in", "") for row in rows if "package" in row or "path" in row):
        inside = [row for row in rows if row.get("in", "") == within]
        if within:
            yield (Span(f"in {words.escaped(within)}", "name"),)
        yield from _packages([row for row in inside if "package" in row])
        yield from _paths([row for row in inside if "path" in row], everything=everything)
    yield (Span(_counted(rows), "aside"),)


def _mark(row: Row) -> Span:
    sign, tone = _MARKS[row["change"]]
    return Span(f"{sign} ", tone)


def _part(row: Row) -> Line:
    if "image" in row:
        return _mark(row), Span(_details(row))
    kind = row["filesystem"] or "of no known kind"
    what = "" if row["change"] == "changed" else f", {words.size(row['size'])} {kind}"
    name = Span(f"partition {words.escaped(row['partition'])}", "name")
    return _mark(row), name, Span(f"{what}  {_details(row)}".rstrip())


def _packages(rows: Sequence[Row]) -> Iterator[Line]:
    if not rows:
        return
    table = aligned([(words.escaped(row["package"]), _arrow(row, "version"), _arrow(row, "size")) for row in rows])
    for row, line in zip(rows, table, strict=True):
        yield _mark(row), Span(line)


def _arrow(row: Row, key: str) -> str:
    """Return a value before and after, or the one that there is."""
    values = [row[name] for name in (f"{key}_before", key) if name in row]
    return " → ".join(dict.fromkeys(words.size(value) if key == "size" else words.escaped(value) for value in values))


def _paths(rows: Sequence[Row], *, everything: bool) -> Iterator[Line]:
    """Yield a line for each path, what differs in its lines below it; a folder that is new as a whole is one line."""
    left = iter(rows)
    row = next(left, None)
    while row is not None:
        whole = row["type"] == "folder" and row["change"] != "changed" and not everything
        inside: list[Row] = []
        following = next(left, None)
        while whole and following is not None and following["path"].startswith(f"{row['path']}/"):
            inside.append(following)
            following = next(left, None)
        yield _path(row, inside)
        yield from _lines(row, everything=everything)
        row = following


def _path(row: Row, inside: Collection[Row]) -> Line:
    name = words.escaped(row["path"]) + ("/" if row["type"] == "folder" and row["path"] != "/" else "")
    if row["change"] == "changed":
        return _mark(row), Span(f"{name}  " if name else "", "name"), Span(_details(row))
    size = "size" if row["change"] == "added" else "size_before"
    files = [each for each in inside if each["type"] != "folder"]
    octets = sum(each[size] for each in (row, *files))
    told = f"{words.count(len(files), 'file')}, {words.size(octets)}" if files else words.size(octets)
    kind = row["type"] if row["type"] not in ("file", "folder") else told if files or row["type"] == "file" else ""
    for detail in row["details"]:
        kind += f" to {words.escaped(detail.get('after') or detail['before'])}"
    return _mark(row), Span(name, "name"), Span(f"  {kind}".rstrip(), "aside")


def _details(row: Row) -> str:
    return ", ".join(_detail(row, detail) for detail in row["details"])


def _detail(row: Row, detail: Row) -> str:
    what, values = detail["what"], [words.escaped(detail.get(each, "")) for each in ("before", "after")]
    if "from_byte" in detail:
        return f"content from byte {detail['from_byte']} on"
    if what == "content":
        values = [words.size(row[each]) for each in ("size_before", "size")]
        return "content" if values[0] == values[1] else f"content {values[0]} → {values[1]}"
    if what in ("size", "start"):
        values = [words.size(int(each)) for each in values]
    labels = {"xattr": f"xattr {detail.get('name')} ", "hard link": "hard link to ", "link": "leads to "}
    if "path" in row:
        labels["type"] = ""
    return f"{labels.get(what, f'{what} ')}{values[0] or 'none'} → {values[1] or 'none'}"


def _lines(row: Row, *, everything: bool) -> Iterator[Line]:
    lines = row.get("diff", ()) if everything or row["path"].lstrip("/") not in _TELLS else ()
    shown = lines if everything else lines[:_LINES]
    tones: dict[str, Tone] = {"+": "good", "-": "bad", "@": "kept"}
    for line in shown:
        yield (Span(f"    {words.printable(line)}", tones.get(line[:1], "text")),)
    if len(lines) > len(shown):
        yield (Span(f"    and {words.count(len(lines) - len(shown), 'more line')}: --all shows them", "aside"),)


def _counted(rows: Collection[Row]) -> str:
    """Return how much differs, in one line."""
    counts: Counter[str] = Counter(key for row in rows for key in ("partition", "package", "path") if key in row)
    nouns: dict[str, str] = {"partition": "partition", "package": "package", "path": "file"}
    told = [words.count(counts[key], noun) for key, noun in nouns.items() if counts[key]]
    differs = "differs" if sum(counts.values()) == 1 else "differ"
    return f"{words.names(told)} {differs}" if told else "the images differ"
