"""forge shell: open a shell in a tree, or run a command there, with all that the target's steps saw.

The tree is what the target's result is; a target that is not up to date is built first. It cannot be changed: what is
written there is thrown away in the end, or kept with --keep. A file target has no tree: there the shell is the host's.
"""

import argparse
import os
import sys
import time
from typing import Any

from forgefile import at_once, engine, places, shell
from forgefile.cache.snapshot import Key, key_of
from forgefile.changes import Changes
from forgefile.errors import UsageError
from forgefile.events import Current, Event, Finished, Planned, Reporter
from forgefile.model import Target
from forgefile.report import reporter, words
from forgefile.shell import Place
from forgefile.verbs import one

SYNOPSIS = "shell TREE [-- COMMAND…]"
SUMMARY = "open a shell in a tree; what it changes is thrown away, or kept with --keep"
EXAMPLES = (
    ("forge shell rootfs", "look around, and try things that nobody will see"),
    ("forge shell rootfs -- dpkg -l", "run one command; its exit status is forge's"),
    ("forge shell rootfs --keep fix", "keep what is changed in the folder fix, for an Overlay"),
    ("forge shell --failed", "stand where the last target failed, in what it had made"),
)  # fmt: skip
_BEGAN = time.monotonic()
_SHOWN = 20
"""How many things that cannot be kept are told."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments to its parser."""
    add = parser.add_argument
    parser.usage = "forge shell [OPTION…] TREE [-- COMMAND…]"
    parser.set_defaults(passed=())
    add("words", nargs="*", metavar="TREE", help="a name, or a glob that matches one; with --failed it may be left out")
    add("--keep", metavar="NAME", help="keep what is changed in the folder NAME beside the Forgefile, for an Overlay")
    add("--failed", action="store_true", help="be at the step at which the last build failed, in what it had made")
    add("--host", action="store_true", help="have the host's programs, and the tree at /run/forge/out")
    add("--network", action="store_true", help="have the network, also if the target's steps have not")


def run(options: argparse.Namespace) -> int:
    """Open a shell, or run a command; return its exit status."""
    if len(options.words) > 1:
        raise UsageError(
            f"forge shell takes one target, not {len(options.words)}", hint="a command comes after '--'"
        )
    if not options.words and not options.failed:
        raise UsageError("which tree? name a target", hint="forge list has them; or --failed")
    project = engine.Project.open(
        options.file, options.define, read_only=False, stand=options.stand, store=options.store
    )
    try:
        kept = _kept(project, options.keep)
        place = _place(project, options)
    finally:
        project.close()
    if isinstance(place, int):
        return place
    status, changes = shell.enter(place, options.passed, kept)
    if changes is not None:
        _tell(changes, options.keep)
    return status


def _place(project: engine.Project, options: argparse.Namespace) -> Place | int:
    """Return where the shell is to be; an exit status when the target could not be built."""
    how = {"host": options.host, "network": options.network}
    if options.failed:
        place = places.in_failed(project, _failed(project, options.words), **how)
        _refuse_file(place.job.target, place.job.output, options)
        return place
    target = one(project, options.words[0])
    _refuse_file(target.name, target.output, options)
    if status := _build(project, target, options):
        return status
    place = places.in_target(project, target, **how)
    if not any(how.values()) and not place.job.secrets:
        at_once.keep(_key(target, options), project.store.root, place)
    return place


def _refuse_file(target: str, output: str, options: argparse.Namespace) -> None:
    if options.keep is not None and output == "file":
        raise UsageError(f"'{target}' is a file, so that there is no tree to keep changes of")


def _key(target: Target, options: argparse.Namespace) -> Key:
    """Return what the snapshot of a build of this target goes by."""
    return key_of(os.path.abspath(options.file), options.define, [target.name])


def _kept(project: engine.Project, name: str | None) -> str | None:
    """Return where changes are to be kept. Raises `UsageError` when they cannot be."""
    if name is None:
        return None
    path = os.path.normpath(os.path.join(project.root, name))
    if not name or os.path.isabs(name) or not path.startswith(f"{project.root}/"):
        raise UsageError(f"--keep {name}: expected the name of a folder beside the Forgefile")
    if os.path.lexists(path):
        raise UsageError(f"--keep {name}: it is there already", hint="name another, or move it away")
    if f"{path}/".startswith(f"{project.store.root}/"):
        raise UsageError(f"--keep {name}: that is in the store")
    if os.path.relpath(path, project.root) in project.graph.targets:
        raise UsageError(f"--keep {name}: a target has that name")
    folder = os.path.dirname(path)
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise UsageError(f"--keep {name}: {folder} is no folder that can be written")
    return path


def _failed(project: engine.Project, chosen: list[str]) -> str:
    """Return the target that failed last, or the chosen one."""
    if chosen:
        return chosen[0] if chosen[0] in project.store.failed() else one(project, chosen[0]).name
    for name in project.store.failed():
        return name
    raise UsageError("no target has failed since it was built last, or nothing of it could be kept")


def _build(project: engine.Project, target: Target, options: argparse.Namespace) -> int:
    """Build a target unless it is up to date, and tell of that on standard error; return the exit status."""
    held = _Held()
    settings = engine.Settings(
        len(os.sched_getaffinity(0)), every_line=False, began_ns=time.time_ns(), key=_key(target, options), place=False,
        tolerant=True,
    )
    try:
        return engine.build(project, (target,), settings, tell=held.report, clock=lambda: time.monotonic() - _BEGAN)
    finally:
        held.close()


class _Held:
    """Holds back what is told of a build until something has to be done; only then there is a display."""

    def __init__(self) -> None:
        self._display: Reporter | None = None
        self._held: list[Event] = []

    def report(self, event: Event) -> None:
        if isinstance(event, Finished) and not (event.status or event.built or event.restored):
            return
        self._held.append(event)
        if self._display is None and not isinstance(event, Planned | Current):
            self._display = reporter("auto", sys.stderr)
        if self._display is not None:
            for held in self._held:
                self._display.report(held)
            self._held.clear()

    def close(self) -> None:
        if self._display is not None:
            self._display.close()


def _tell(changes: Changes, name: str) -> None:
    """Say what was kept, how an Overlay takes it, and what it cannot take."""
    lines = [f"nothing was changed that could be kept; there is no folder {name}"]
    if changes.kept:
        globs = {"owners": changes.owners, "modes": changes.modes}
        more = "".join(f", {field}={_python(found)}" for field, found in globs.items() if found)
        lines = [f"{name} has {words.count(changes.kept, 'path')} that an Overlay lays into the tree:",
                 f"  Overlay(base=…, source=forge.source({name!r}){more})"]  # fmt: skip
    if changes.lost:
        lines.append("what it cannot do, and has to be done otherwise, for example by a Script:")
        lines += [f"  {words.printable(lost)}" for lost in changes.lost[:_SHOWN]]
        if len(changes.lost) > _SHOWN:
            lines.append(f"  and {len(changes.lost) - _SHOWN} more")
    sys.stderr.write("".join(f"forge: {line}\n" if number == 0 else f"{line}\n" for number, line in enumerate(lines)))


def _python(found: tuple[tuple[Any, ...], ...]) -> str:
    """Return globs with owners or modes as they stand in a Forgefile."""
    rows = [f"({glob!r}, {f'0o{rest[0]:03o}' if len(rest) == 1 else f'{rest[0]}, {rest[1]}'})" for glob, *rest in found]
    return f"({', '.join(rows)},)"
