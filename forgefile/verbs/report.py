"""forge report: write a page of one build, a single HTML file that needs no network.

It has the time line, the graph, what ran and why, what the cache saved, sizes, logs and warnings.
"""

import argparse
import os
import sys

from forgefile.cache.store import Store, folder_of
from forgefile.errors import UsageError
from forgefile.files import head, write_whole
from forgefile.history import Build, builds
from forgefile.page import MARK, page
from forgefile.report import words
from forgefile.verbs import say
from forgefile.verbs.history import command_line, number, open_store

SYNOPSIS = "report [FILE]"
SUMMARY = "write a page of the last build: time, graph, reasons, savings, sizes, logs"
EXAMPLES = (("forge report", "write forge-report.html, of the last build"),
            ("forge report --build 7 seventh.html", "of an earlier one; forge history has the numbers"))  # fmt: skip
_FILE = "forge-report.html"
_HEAD_BYTES = 200


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments to its parser."""
    add = parser.add_argument
    add("destination", nargs="?", metavar="FILE", default=_FILE, help=f"where to (default: {_FILE}; - prints it)")
    add("--build", type=number, metavar="N", help="which build, as forge history numbers them (default: the last)")


def run(options: argparse.Namespace) -> int:
    """Write the page; return the exit status. The Forgefile is not evaluated."""
    to = options.destination
    if to != "-":
        _refuse(to)
    store = open_store(options)
    try:
        build = _chosen(store, options.build)
        project = os.path.basename(folder_of(store.root, store.records.project))
        text = page(store, build, project=project, command=command_line(build))
    finally:
        store.records.close()
    if to == "-":
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode())
        sys.stdout.buffer.flush()
        return 0
    try:
        write_whole(to, text)
    except OSError as error:
        raise UsageError(f"cannot write {to}: {error.strerror}") from error
    took = "" if build.note.wall_s is None else f" after {words.duration(build.note.wall_s)}"
    say(f"build {build.note.number}, {build.ending}{took}, is told in {to}")
    return 0


def _refuse(to: str) -> None:
    """Raise `UsageError` when a page cannot be written to a path, or something else lies there."""
    folder = os.path.dirname(to) or "."
    if os.path.isdir(to):
        raise UsageError(f"{to} is a folder", hint="name a file")
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write {to}", hint="name a file in a folder that exists and can be written")
    if os.path.lexists(to) and MARK.encode() not in head(to, _HEAD_BYTES):
        raise UsageError(f"{to} exists and is no page of forge's", hint="name another file, or move that away")


def _chosen(store: Store, wanted: int | None) -> Build:
    """Return the build of a number, or the last one that does not run any more; raise `UsageError` for none."""
    found = builds(store)
    over = [build for build in found if build.ending != "running"]
    if wanted is None:
        if not over:
            raise UsageError("no build was noted yet, so there is nothing to report", hint="forge")
        return over[0]
    for build in found:
        if build.note.number == wanted:
            if build.ending == "running":
                raise UsageError(f"build {wanted} is not over", hint="when it is, ask again")
            return build
    kept = f"{found[-1].note.number} to {found[0].note.number} are kept" if found else "none was noted yet"
    raise UsageError(f"there is no build {wanted}: {kept}", hint="forge history lists them")
