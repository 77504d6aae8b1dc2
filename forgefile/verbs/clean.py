"""forge clean: remove results of this project's targets, and placed files, so that they are built again."""

import argparse
import os
from contextlib import suppress

from forgefile import engine
from forgefile.cache.store import Store, folder_of, project_of, remove_store
from forgefile.errors import StoreError, UsageError
from forgefile.report import words
from forgefile.verbs import opened, refuse_read_only, say, waits

SYNOPSIS = "clean [TARGET…]"
SUMMARY = "remove results, so that they are built again"
EXAMPLES = (("forge clean rootfs", "forget one target; what is made of it is built again if it comes out otherwise"),
            ("forge clean --all", "start anew, with downloads too"))  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments to its parser."""
    parser.add_argument("words", nargs="*", metavar="TARGET", help="names or globs (default: all)")
    parser.add_argument("--all", action="store_true", help="remove the whole store, downloaded packages too")


def run(options: argparse.Namespace) -> int:
    """Remove results; return the exit status."""
    root = engine.store_of(options.file, options.store)
    try:
        with opened(options, read_only=not os.path.isdir(root)) as project:
            return _clean(project, options)
    except StoreError:
        if not options.all:
            raise
        with suppress(StoreError):  # on a full disk they can still be read
            _refuse_shared(Store.open(root, project=project_of(root, options.file), read_only=True))
        remove_store(root)
        say("removed the store, whose records could not be used; placed files are left alone")
        return 0


def _clean(project: engine.Project, options: argparse.Namespace) -> int:
    store, records = project.store, project.store.records
    if options.all and options.words:
        raise UsageError("--all removes the whole store; name no targets with it")
    chosen = project.graph.select(options.words or ["*"]) if project.graph.targets else ()
    if not os.path.exists(store.root):
        say("there is no store, so nothing to remove")
        return 0
    refuse_read_only(store)
    with store.lock(waits, alone=True):
        if options.all:
            _refuse_shared(store)
            if store.shown():
                raise UsageError("a shell is open in this store", hint="leave it first")
        store.sweep()
        names = dict.fromkeys(target.name for target in chosen)
        names |= dict.fromkeys(() if options.words else sorted(records.targets()))
        removed = sum(_unplace(project, name) for name in names)
        results = store.discard(names)
        store.discard_failed(names if options.words else None)
        if options.all:
            project.close()
            remove_store(store.root)
    kept = "" if options.all else "; downloads are kept (--all removes them)"
    say(f"removed {words.count(results, 'result')} and {words.count(removed, 'placed file')}{kept}")
    return 0


def _refuse_shared(store: Store) -> None:
    """Raise `UsageError` when another project, whose folder is there, has results in a store."""
    folders = {folder_of(store.root, held.project) for held in store.records.held()}
    folders.discard(folder_of(store.root, store.records.project))
    if others := sorted(filter(os.path.isdir, folders)):
        raise UsageError(
            f"{store.root} has results of other projects: {words.names(others)}",
            hint="forge clean, without --all, removes those of this project; do so there, too, and then --all here",
        )


def _unplace(project: engine.Project, name: str) -> bool:
    """Remove a target's placed file, unless a person changed it since."""
    path = os.path.join(project.root, name)
    placed = project.store.records.placed(path)
    if placed is None or not os.path.lexists(path):
        return False
    if not project.store.is_as_placed(path):
        say(f"{name} was changed since it was built and is left alone")
        return False
    os.unlink(path)
    project.store.records.keep_placed(path, "", None)
    return True
