"""The commands beside `build`: a module each, named like its verb.

Each module has `SYNOPSIS`, what follows `forge` in one line, `SUMMARY`, a line for the list of commands, and
`EXAMPLES`, command lines with what each is for; its docstring's first paragraph describes the verb. `arguments` adds
what the verb takes to a parser, `run` gets what was parsed and returns the exit status.
"""

import argparse
import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Protocol, cast

from forgefile import engine
from forgefile.cache.seal import Result
from forgefile.cache.store import Store
from forgefile.errors import UsageError
from forgefile.fingerprint import fingerprint
from forgefile.forge import VERBS
from forgefile.model import Target
from forgefile.report.words import columns, ljust

_UNWOUND = ("diff", "export", "size")
"""Verbs that remove what they wrote beside the store when a signal ends them."""
_RENAMED = {"list": "listing"}
"""Verbs whose module has another name, lest it hide what Python has by that name."""


class Verb(Protocol):
    """What the module of a verb has."""

    SYNOPSIS: str
    SUMMARY: str
    EXAMPLES: tuple[tuple[str, str], ...]

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's own arguments to its parser."""

    def run(self, options: argparse.Namespace) -> int:
        """Run the verb and return the exit status."""


def verb(name: str) -> Verb:
    """Return the module of a verb, one of `VERBS` but `build`."""
    return cast("Verb", import_module(f"forgefile.verbs.{_RENAMED.get(name, name)}"))


def summaries() -> list[tuple[str, str]]:
    """Return a row for each verb: how it is called, and what it does."""
    return [(verb(name).SYNOPSIS, verb(name).SUMMARY) for name in VERBS[1:]]


def describe(name: str, parser: argparse.ArgumentParser) -> None:
    """Make a parser that of a verb."""
    module = verb(name)
    about = (module.__doc__ or "").partition("\n\n")[0].partition(": ")[2]
    parser.description = about[:1].upper() + about[1:]
    parser.epilog = examples(module.EXAMPLES)
    module.arguments(parser)


def examples(rows: Sequence[tuple[str, str]]) -> str:
    """Return command lines and what they are for as the end of a help text."""
    return "\n".join(["examples:", *(f"  {line}" for line in aligned(rows))])


def run(name: str, options: argparse.Namespace) -> int:
    """Run a verb and return the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error is from the start
    if name not in _UNWOUND:
        return verb(name).run(options)
    from forgefile.foreground import unwinding  # noqa: PLC0415  not for others

    with unwinding():
        return verb(name).run(options)
    raise AssertionError("it has ended by a signal")


@contextmanager
def opened(options: argparse.Namespace, *, read_only: bool = True) -> Iterator[engine.Project]:
    """Open the project that the options name, and close it."""
    project = engine.Project.open(options.file, options.define, read_only=read_only, store=options.store)
    try:
        yield project
    finally:
        project.close()


def one(project: engine.Project, word: str) -> Target:
    """Return the only target that a name or glob matches; raise `UsageError` when there are more or none."""
    chosen = project.graph.select([word])
    if len(chosen) != 1:
        raise UsageError(f"'{word}' matches {len(chosen)} targets; name one")
    return chosen[0]


@contextmanager
def opened_for(options: argparse.Namespace, *names: str) -> Iterator[engine.Project | None]:
    """Open the project that the options name; None where there is no Forgefile and all the names are paths."""
    if not os.path.lexists(options.file) and all(map(os.path.lexists, names)):
        yield None
        return
    with opened(options) as project:
        yield project


def named(project: engine.Project | None, word: str) -> Target | str:
    """Return the target that a word of the command line names, or else the word: the path of a file or folder."""
    if project is None or (word not in project.graph.targets and os.path.lexists(word)):
        if not (os.path.isfile(word) or os.path.isdir(word)):
            raise UsageError(f"{word} is neither a file nor a folder")
        return word
    try:
        return one(project, word)
    except UsageError as error:
        raise UsageError(error.message.replace("no target", "no target, file or folder"), hint=error.hint) from None


def latest(project: engine.Project, target: Target) -> tuple[str, Result]:
    """Return the fingerprint and the result that a target has now, or had last when it is not up to date.

    Says so then. Raises `UsageError` when there is none in the store.
    """
    planner, records = project.planner, project.store.records
    with suppress(UsageError):  # what is missing for a build may well be
        decision = planner.plan((target,))[target]
        if decision.action in ("none", "restore") and target in planner.results:
            return fingerprint(planner.manifests[target]), planner.results[target]
    record = records.current(target.name)
    problem = project.store.problem(record.result) if record else None
    if record is None or problem:
        what = f"has no result in the store: it {problem}" if problem else "was never built, or its result was cleaned"
        raise UsageError(f"target '{target.name}' {what}", hint=f"forge {target.name}")
    sys.stderr.write(f"forge: target '{target.name}' is not up to date; this is its last result\n")
    return record.fingerprint, record.result


def say(line: str = "") -> None:
    """Print a line to standard output."""
    sys.stdout.write(line + "\n")


def waits(holder: str) -> None:
    """Say which process holds the store's lock."""
    say(f"waiting for the forge that builds here (process {holder})")
    sys.stdout.flush()


def refuse_read_only(store: Store) -> None:
    """Raise `UsageError` when a store cannot be written."""
    if not os.access(store.root, os.W_OK):
        raise UsageError(f"{store.root} cannot be written", hint="make it writable")


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines whose columns stand below each other; empty columns are left out."""
    if not rows:
        return []
    filled = [column for column in zip(*rows, strict=True) if any(column)]
    widths = [max(map(columns, column)) for column in filled]
    return ["  ".join(ljust(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in zip(*filled, strict=True)]  # fmt: skip
