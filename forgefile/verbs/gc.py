"""forge gc: remove results that are not the latest of any target of any project that has this store."""

import argparse
import os
import sys
import time
from collections.abc import Collection

from forgefile import engine
from forgefile.cache import collect
from forgefile.cache.layout import RECORDS
from forgefile.cache.store import Store, folder_of, project_of
from forgefile.errors import ForgefileError, StoreError, UsageError
from forgefile.loader import load
from forgefile.reads import Reads
from forgefile.report import words
from forgefile.units import size_bytes
from forgefile.verbs import aligned, refuse_read_only, say, waits

SYNOPSIS = "gc"
SUMMARY = "make the store smaller: remove what no target needs"
EXAMPLES = (("forge gc -n", "what would go, and how much that is"),
            ("forge gc --max-size 20G", "go on, least recently used first, until the store is no larger"))  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments to its parser."""
    add = parser.add_argument
    add("--max-size", type=_size, metavar="SIZE", help="stop when the store is no larger, as 20G or 500MiB; "
        "the least recently used goes first, and downloaded packages go last")  # fmt: skip
    add("-n", "--dry-run", action="store_true", help="say what would be removed; remove nothing")


def _size(text: str) -> int:
    """Return the bytes in a size; a bare K, M, G or T is KiB, MiB, GiB or TiB."""
    if text.isdigit() and int(text):
        raise argparse.ArgumentTypeError(f"'{text}' has no unit; write one, as in {text}GiB")
    try:
        return size_bytes(f"{text}iB" if text[-1:] in tuple("KMGT") else text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(options: argparse.Namespace) -> int:
    """Collect what no target needs. Where a store is named, there need be no Forgefile."""
    store, declared = _store_alone(options)
    try:
        if options.dry_run or not os.path.isdir(store.root):
            choice = collect.plan(store, options.max_size, declared)
        else:
            refuse_read_only(store)
            with store.lock(waits, alone=True):
                store.sweep()
                choice = collect.plan(store, options.max_size, declared)
                collect.carry_out(store, choice)
        return _tell_collected(store, choice, options)
    finally:
        store.records.close()


def _store_alone(options: argparse.Namespace) -> tuple[Store, Collection[str] | None]:
    """Open the store and return it with the names of the targets that the Forgefile declares, if there is one."""
    file = os.path.abspath(options.file)
    root = engine.store_of(file, options.store)
    named = options.store or os.environ.get("FORGE_STORE")
    if named and not os.path.exists(os.path.join(root, RECORDS)):
        raise UsageError(f"there is no store {root}")
    declared: Collection[str] | None = None
    if os.path.exists(file) or not named:
        try:
            declared = load(file, engine.settings(options.define), Reads()).targets.keys()
        except ForgefileError as error:
            where = f" ({error.location})" if error.location else ""
            sys.stderr.write(f"forge: note: the Forgefile has an error{where}, so all targets count that it ever had\n")
    project = project_of(root, file)
    try:
        return Store.open(root, project=project, read_only=options.dry_run or not os.path.isdir(root)), declared
    except StoreError:  # on a full disk nothing can be noted before something is removed
        return Store.open(root, project=project, read_only=True), declared


def _tell_collected(store: Store, choice: collect.Choice, options: argparse.Namespace) -> int:
    """Say what left the store, or would, and what stays; return 1 when the limit is not met."""
    last = [(gone.held[-1], gone.freed) for gone in choice.results]
    alone = {held.project for held, _ in last} <= {store.records.project}
    rows = [
        (held.target, words.size(freed), time.strftime("last used %Y-%m-%d", time.localtime(held.used)),
         "" if alone else folder_of(store.root, held.project))
        for held, freed in last
    ]  # fmt: skip
    for line in aligned(rows):
        say(line)
    counts = ((len(choice.results), "result"), (choice.cached, "cached file"), (choice.strays, "stray file"))
    what = words.names([words.count(number, noun) for number, noun in counts if number]) or "nothing"
    say(f"{'would remove' if options.dry_run else 'removed'} {what}, {words.size(choice.freed)}")
    spare = f" and {words.count(choice.spare, 'earlier one')}" if choice.spare else ""
    needed = f"{words.count(choice.needed, 'result')} that targets need"
    say(f"kept {needed}{spare}; the store takes {words.size(choice.left)}")
    if options.max_size is not None and choice.left > options.max_size:
        say(f"that is more than {words.size(options.max_size)}: nothing else can be removed")
        return 1
    return 0
