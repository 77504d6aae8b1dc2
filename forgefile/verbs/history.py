"""forge history: list the last builds: when each began, how it ended, how long it took, what it ran."""

import argparse
import json
import os
import shlex
import time
from typing import Any

from forgefile import engine
from forgefile.cache.store import Store, project_of
from forgefile.history import Build, builds
from forgefile.loader import missing
from forgefile.report import words
from forgefile.verbs import aligned, say

SYNOPSIS = "history"
SUMMARY = "list the last builds: when, what each ran, how long, how it ended"
EXAMPLES = (("forge history", "the last 20 builds, the latest first"),
            ("forge history -n 1 --json", "the last one, for a program"))  # fmt: skip
_SHOWN = 20
_DONE = {"failed": "failed", "built": "built", "restored": "restored"}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments to its parser."""
    parser.add_argument("-n", "--number", type=number, metavar="N", default=_SHOWN,
                        help=f"how many builds (default: {_SHOWN}; the last 200 are kept)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object for each build")


def number(text: str) -> int:
    """Return the number that a word of the command line is, from 1 on."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a number from 1, got {text!r}")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """List builds; return the exit status. The Forgefile is not evaluated: a broken one has a history, too."""
    store = open_store(options)
    try:
        found = builds(store)[: options.number]
    finally:
        store.records.close()
    if options.json:
        for build in found:
            say(json.dumps(_json(build)))
    elif not found:
        say("no build was noted yet")
    else:
        for line in aligned([_row(build) for build in found]):
            say(line)
    return 0


def open_store(options: argparse.Namespace) -> Store:
    """Return the store of the Forgefile that the options name, to read; raise `UsageError` when there is neither."""
    file = os.path.abspath(options.file)
    root = engine.store_of(file, options.store)
    if not os.path.exists(file) and not os.path.isdir(root):
        raise missing(file)
    return Store.open(root, project=project_of(root, file), read_only=True)


def _row(build: Build) -> tuple[str, ...]:
    note = build.note
    took = "" if note.wall_s is None else words.duration(note.wall_s)
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(note.began))
    return f"{note.number:>4}", when, build.ending, f"{took:>10}", what(build), command_line(build)


def command_line(build: Build) -> str:
    """Return the command line of a build as it can be pasted."""
    return words.pasteable(shlex.join(("forge", *build.note.arguments)))


def what(build: Build) -> str:
    """Return what a build did in words: `failed tuned; built system`."""
    told = []
    for end, word in _DONE.items():
        count, names = build.counts.get(end, 0), list(build.names.get(end, ()))
        if count:
            more = [""] * (count - len(names))
            told.append(f"{word} {words.printable(words.names([*names, *more]))}")
    if skipped := build.counts.get("skipped", 0):
        told.append(f"{skipped} skipped")
    return "; ".join(told) or "nothing"


def _json(build: Build) -> dict[str, Any]:
    """Return a build as JSON data; what is not known is left out."""
    note = build.note
    told = {
        "build": note.number,
        "began": round(note.began, 3),
        "arguments": note.arguments,
        "ended": build.ending,
        "status": note.status,
        "wall_s": note.wall_s,
        **build.counts,
        "targets": build.names,
    }
    return {key: value for key, value in told.items() if value is not None}
