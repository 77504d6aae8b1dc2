"""forge export: write a tree to a folder that is not there yet, or to DEST.tar; or a file target to a file."""

import argparse
import os

from forgefile import engine, export
from forgefile.cache.store import Store
from forgefile.errors import UsageError
from forgefile.model import Target
from forgefile.verbs import one, opened, say, waits

SYNOPSIS = "export TREE DEST"
SUMMARY = "write a tree to a folder, or to DEST.tar"
EXAMPLES = (("forge export rootfs rootfs.tar", "a tree, with owners, modes, devices and attributes"),)

_ARCHIVES = (".zip", ".tgz", ".tar.gz", ".tar.xz", ".tar.zst", ".tar.bz2", ".cpio", ".iso", ".img", ".squashfs")
"""Endings by which people would expect no folder."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments to its parser."""
    parser.add_argument("word", metavar="TARGET", help="a name, or a glob that matches one")
    where = "a folder that is not there yet, or a file that ends with .tar"
    parser.add_argument("destination", metavar="DEST", help=where)


def run(options: argparse.Namespace) -> int:
    """Write an output to a place; return the exit status."""
    with opened(options) as project:
        _export(project, one(project, options.word), options)
    return 0


def _export(project: engine.Project, target: Target, options: argparse.Namespace) -> None:
    decision = project.planner.plan((target,))[target]
    if decision.action not in ("none", "restore") or target not in project.planner.results:
        raise UsageError(f"target '{target.name}' is not up to date", hint=f"forge {target.name}")
    if options.destination == "-":
        raise UsageError("forge export does not write to standard output", hint="name a folder, or an archive")
    destination = os.path.abspath(options.destination)
    if target.output == "tree" and options.destination.endswith(_ARCHIVES):
        hint = "write a .tar, or declare a Pack of the tree, which compresses it"
        raise UsageError(f"forge export writes no such archive: {options.destination}", hint=hint)
    if os.path.lexists(destination):
        raise UsageError(f"{options.destination} exists already", hint="forge export never writes over anything")
    if not os.path.isdir(os.path.dirname(destination)):
        raise UsageError(f"there is no folder {os.path.dirname(options.destination)}", hint="make it first")
    _refuse_changed(project, target)
    export.export(project.store.root, project.planner.results[target], destination)
    say(f"{target.name} is at {options.destination}")


def _refuse_changed(project: engine.Project, target: Target) -> None:
    """Raise `UsageError` when somebody changed an output in the store; it leaves it, so that it can be built again."""
    result = project.planner.results[target]
    project.store.compares_layers = True
    problem = project.store.problem(result)
    if problem is None:
        return
    store = Store.open(project.store.root, project=project.store.records.project)
    if not store.records.read_only:
        with store.lock(waits):
            store.compares_layers = True
            store.problem(result)
    store.records.close()
    raise UsageError(f"the output of target '{target.name}' {problem}", hint=f"forge {target.name}")
