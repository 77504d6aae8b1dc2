"""forge size: say what takes the room in an output, by layer, by package and by folder, the largest first.

Sizes are bytes of content; a file with several names counts once.
"""

import argparse
import json
import os

from forgefile import budget, engine
from forgefile.contents import sizes
from forgefile.contents.output import Place, place_of
from forgefile.contents.sizes import Row, Stack
from forgefile.report import page
from forgefile.report.sizes import heading, told
from forgefile.verbs import latest, named, opened_for, say

SYNOPSIS = "size TARGET|PATH"
SUMMARY = "say what takes the room: layers, packages, folders"
EXAMPLES = (("forge size system", "the largest packages and folders, and what each layer added"),
            ("forge size disk.img -n 50 --json", "for a program"))  # fmt: skip
_ROWS = 10


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments to its parser."""
    add = parser.add_argument
    add("word", metavar="TARGET|PATH", help="a target, file or folder")
    help_ = f"how many packages and folders (default: {_ROWS}, with --json all; 0: all)"
    add("-n", "--number", type=_number, metavar="N", help=help_)
    add("--json", action="store_true", help="print one JSON object for the whole and for each row")


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number from 0, got {text!r}")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Say what an output takes; return the exit status."""
    with opened_for(options, options.word) as project:
        title, place, stacks = _asked(project, options.word)
        rows = sizes.rows(place, stacks)
    number = options.number
    if options.json:
        for row in _limited(rows, number):
            say(json.dumps({"output": title, **row} if row is rows[0] else row))
        return 0
    shown = _ROWS if number is None else number or None
    page.show([heading(title, rows[0]), *told(rows, shown)])
    return 0


def _limited(rows: list[Row], number: int | None) -> list[Row]:
    """Return rows with at most so many packages and folders of each tree."""
    kept, counts = [], dict[tuple[str, str], int]()
    for row in rows:
        key = next((key for key in ("package", "folder") if key in row), "")
        counts[key, row.get("in", "")] = counts.get((key, row.get("in", "")), 0) + 1
        if not key or not number or counts[key, row.get("in", "")] <= number:
            kept.append(row)
    return kept


def _asked(project: engine.Project | None, word: str) -> tuple[str, Place, list[Stack]]:
    """Return what a word of the command line names, where it lies, and the layers that it was made of."""
    found = named(project, word)
    if project is None or isinstance(found, str):
        return word, Place(os.path.abspath(word)), []
    result = latest(project, found)[1]
    planner, store = project.planner, project.store
    return found.name, place_of(store, result), budget.stacks(planner, store, found, result)
