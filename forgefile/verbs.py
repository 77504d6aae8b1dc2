"""The commands beside `build`: each from parsed arguments to an exit status. Printed to standard output."""

import argparse
import io
import json
import os
import sys
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from forgefile import engine
from forgefile.cache.layout import RECORDS
from forgefile.cache.store import Store, folder_of, project_of, remove_store
from forgefile.errors import StoreError, UsageError
from forgefile.graph import OptionValue, inputs
from forgefile.loader import load
from forgefile.model import Secret, Source, Target
from forgefile.plan import Decision
from forgefile.reads import Reads
from forgefile.report import words

if TYPE_CHECKING:
    from forgefile.cache.collect import Choice

_ABOUT = {
    "list": "List the targets and options that the Forgefile declares.",
    "why": "Say why targets would be built now, or, of those that are up to date, why they were built last.",
    "log": "Print what the last run of a target printed, whether it succeeded or not.",
    "export": "Write a tree to a folder that is not there yet, or to DEST.tar; or a file target to a file.",
    "clean": "Remove this project's results of targets (default: all), placed files too, so that they are built again.",
    "gc": "Remove results that are not the latest of any target of any project that has this store.",
    "verify": "Build targets, and again from nothing under other conditions; name the first that comes out otherwise.",
    "doctor": "Say what this machine lacks for the Forgefile (or, without one, for all rules) and how to mend it.",
}

_VERIFY_EPILOG = """\
The second build is later, and has another time zone, locale, umask, user (for root), number of cores, folder and
directory order. What was downloaded is not downloaded again.

example:
  forge verify disk.img   is disk.img, and all that it is made of, the same when it is built again?
"""


def arguments(verb: str, parser: argparse.ArgumentParser) -> None:
    """Add a verb's own arguments to its parser."""
    parser.description = _ABOUT[verb]
    add = parser.add_argument
    match verb:
        case "list":
            add("words", nargs="*", metavar="TARGET", help="names or globs (default: all)")
            add("--json", action="store_true", help="print one JSON object for each target and each option")
        case "why":
            add("words", nargs="*", metavar="TARGET", help="names or globs (default: the Forgefile's default ones)")
        case "log":
            add("word", metavar="TARGET")
        case "export":
            add("word", metavar="TARGET")
            add("destination", metavar="DEST", help="a folder that is not there yet, or a file that ends with .tar")
        case "clean":
            add("words", nargs="*", metavar="TARGET", help="names or globs (default: all)")
            add("--all", action="store_true", help="remove the whole store, downloaded packages too")
        case "gc":
            add("--max-size", type=_size, metavar="SIZE", help="stop when the store is no larger, as 20G or 500MiB; "
                "the least recently used goes first, and downloaded packages go last")  # fmt: skip
            add("-n", "--dry-run", action="store_true", help="say what would be removed; remove nothing")
        case "verify":
            add("words", nargs="*", metavar="TARGET", help="names or globs (default: the Forgefile's default ones)")
            parser.epilog = _VERIFY_EPILOG


def run(verb: str, options: argparse.Namespace) -> int:
    """Run a verb and return the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error is from the start
    if verb == "doctor":
        from forgefile import doctor  # noqa: PLC0415

        return doctor.run(options)
    if verb == "verify":
        from forgefile import verify  # noqa: PLC0415

        return verify.run(options)
    if verb == "gc":
        return _gc(options)
    root = engine.store_of(options.file, options.store)
    looks = verb != "clean" or not os.path.isdir(root)
    try:
        project = engine.Project.open(options.file, options.define, read_only=looks, store=options.store)
    except StoreError:
        if verb != "clean" or not options.all:
            raise
        with suppress(StoreError):  # on a full disk they can still be read
            _refuse_shared(Store.open(root, project=project_of(root, options.file), read_only=True))
        remove_store(root)
        _print("removed the store, whose records could not be used; placed files are left alone")
        return 0
    try:
        return _VERBS[verb](project, options)
    finally:
        project.close()


def _size(text: str) -> int:
    """Return the bytes in a size; a bare K, M, G or T is KiB, MiB, GiB or TiB."""
    from forgefile.units import size_bytes  # noqa: PLC0415

    try:
        return size_bytes(f"{text}iB" if text[-1:] in tuple("KMGT") else text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _print(line: str = "") -> None:
    sys.stdout.write(line + "\n")


def _waits(holder: str) -> None:
    _print(f"waiting for the forge that builds here (process {holder})")
    sys.stdout.flush()


# list ----------------------------------------------------------------------------------------------------------------


def _list(project: engine.Project, options: argparse.Namespace) -> int:
    graph = project.graph
    chosen = graph.select(options.words or ["*"]) if graph.targets else ()
    if options.json:
        shown = [_target_json(project, target) for target in chosen]
        shown += [] if options.words else [_option_json(option) for option in graph.options]
        for each in shown:
            _print(json.dumps({key: value for key, value in each.items() if value is not None}))
        return 0
    rows = []
    for target in chosen:
        default = "*" if target in graph.defaults else " "
        rows.append((f"{default} {target.name}", target.output, type(target.rule).__name__, _about(target)))
    for line in _aligned(rows):
        _print(line)
    if graph.defaults and not options.words:
        _print("\n* is built by default")
    if graph.options and not options.words:
        _print("\noptions (-D NAME=VALUE)")
        for line in _aligned([_option_row(option) for option in graph.options]):
            _print(line)
    return 0


def _about(target: Target) -> str:
    """Return the first line of what a target's rule says of itself."""
    return (type(target.rule).__doc__ or "").strip().partition("\n")[0]


def _target_json(project: engine.Project, target: Target) -> dict[str, Any]:
    """Return what is known of a target without planning it."""
    record = project.store.records.current(target.name)
    return {
        "target": target.name,
        "rule": type(target.rule).__name__,
        "output": target.output,
        "targets": [needed.name for needed in inputs(target)],
        "sources": [artifact.path for artifact in target.inputs if isinstance(artifact, Source)],
        "secrets": [artifact.name for artifact in target.inputs if isinstance(artifact, Secret)],
        "about": _about(target),
        "location": str(target.location) if target.location else None,
        "default": target in (project.graph.defaults or project.graph.targets.values()),
        "last_s": project.store.records.seconds(target.name),
        "size": record.result.size if record else None,
    }


def _option_json(option: OptionValue) -> dict[str, Any]:
    return {
        "option": option.name,
        "value": option.value,
        "default": option.default,
        "choices": option.choices,
        "help": option.help,
    }


def _option_row(option: OptionValue) -> tuple[str, ...]:
    default = "" if option.value == option.default else f"default {option.default}"
    return f"  {option.name}", option.value, default, ", ".join(option.choices), option.help


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines whose columns stand below each other; empty columns are left out."""
    if not rows:
        return []
    columns = [column for column in zip(*rows, strict=True) if any(column)]
    widths = [max(map(len, column)) for column in columns]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in zip(*columns, strict=True)]  # fmt: skip


# why, log ------------------------------------------------------------------------------------------------------------


def _why(project: engine.Project, options: argparse.Namespace) -> int:
    wanted = project.graph.select(options.words)
    decisions = engine.foresee(project, wanted)
    for target in wanted:
        _tell_why(project, target, decisions, indent="")
    return 0


_PAST = {"never built": "it had never been built"}
_ACTIONS = {"run": "would run", "maybe": "may run", "restore": "would be restored", "none": "is up to date"}


def _tell_why(project: engine.Project, target: Target, decisions: dict[Target, Decision], indent: str) -> None:
    decision = decisions[target]
    _print(f"{indent}{target.name} {_ACTIONS[decision.action]}")
    if decision.action == "none":
        record = project.store.records.current(target.name)
        for reason in record.reasons if record else ():
            _print(f"{indent}  built last because: {words.printable(_PAST.get(reason, reason))}")
    elif decision.action == "maybe":
        for needed in inputs(target):
            if decisions[needed].action in ("run", "maybe"):
                _tell_why(project, needed, decisions, indent + "  ")
    else:
        for reason in decision.reasons:
            _print(f"{indent}  {words.printable(reason)}")


def _one(project: engine.Project, word: str) -> Target:
    chosen = project.graph.select([word])
    if len(chosen) != 1:
        raise UsageError(f"'{word}' matches {len(chosen)} targets; name one")
    return chosen[0]


def _log(project: engine.Project, options: argparse.Namespace) -> int:
    target = _one(project, options.word)
    fingerprint = project.store.records.log(target.name)
    if fingerprint is None:
        raise UsageError(f"target '{target.name}' never ran, or was cleaned since, so there is no log")
    try:
        with open(project.store.log_path(fingerprint), "rb") as stream:
            sys.stdout.flush()
            while chunk := stream.read(1 << 16):
                sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
    except FileNotFoundError:
        raise UsageError(f"the log of '{target.name}' is no longer there") from None
    return 0


# export --------------------------------------------------------------------------------------------------------------


def _export(project: engine.Project, options: argparse.Namespace) -> int:
    from forgefile import export  # noqa: PLC0415

    target = _one(project, options.word)
    decision = project.planner.plan((target,))[target]
    if decision.action not in ("none", "restore") or target not in project.planner.results:
        raise UsageError(f"target '{target.name}' is not up to date", hint=f"forge {target.name}")
    destination = os.path.abspath(options.destination)
    if os.path.lexists(destination):
        raise UsageError(f"{options.destination} exists already", hint="forge export never writes over anything")
    if not os.path.isdir(os.path.dirname(destination)):
        raise UsageError(f"there is no folder {os.path.dirname(options.destination)}", hint="make it first")
    _refuse_changed(project, target)
    export.export(project.store.root, project.planner.results[target], destination)
    _print(f"{target.name} is at {options.destination}")
    return 0


def _refuse_changed(project: engine.Project, target: Target) -> None:
    """Raise `UsageError` when somebody changed an output in the store; it leaves it, so that it can be built again."""
    result = project.planner.results[target]
    project.store.compares_layers = True
    problem = project.store.problem(result)
    if problem is None:
        return
    store = Store.open(project.store.root, project=project.store.records.project)
    if not store.records.read_only:
        with store.lock(_waits):
            store.compares_layers = True
            store.problem(result)
    store.records.close()
    raise UsageError(f"the output of target '{target.name}' {problem}", hint=f"forge {target.name}")


# clean ---------------------------------------------------------------------------------------------------------------


def _clean(project: engine.Project, options: argparse.Namespace) -> int:
    store, records = project.store, project.store.records
    if options.all and options.words:
        raise UsageError("--all removes the whole store; name no targets with it")
    chosen = project.graph.select(options.words or ["*"]) if project.graph.targets else ()
    if not os.path.exists(store.root):
        _print("there is no store, so nothing to remove")
        return 0
    _refuse_read_only(store)
    with store.lock(_waits):
        if options.all:
            _refuse_shared(store)
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
    _print(f"removed {words.count(results, 'result')} and {words.count(removed, 'placed file')}{kept}")
    return 0


def _refuse_read_only(store: Store) -> None:
    if not os.access(store.root, os.W_OK):
        raise UsageError(f"{store.root} cannot be written", hint="make it writable")


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
        _print(f"{name} was changed since it was built and is left alone")
        return False
    os.unlink(path)
    project.store.records.keep_placed(path, "", None)
    return True


# gc ------------------------------------------------------------------------------------------------------------------


def _gc(options: argparse.Namespace) -> int:
    """Collect what no target needs. Where a store is named, there need be no Forgefile."""
    from forgefile.cache import collect  # noqa: PLC0415

    store, declared = _store_alone(options)
    try:
        if options.dry_run or not os.path.isdir(store.root):
            choice = collect.plan(store, options.max_size, declared)
        else:
            _refuse_read_only(store)
            with store.lock(_waits):
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
        declared = load(file, engine.settings(options.define), Reads()).targets.keys()
    project = project_of(root, file)
    try:
        return Store.open(root, project=project, read_only=options.dry_run or not os.path.isdir(root)), declared
    except StoreError:  # on a full disk nothing can be noted before something is removed
        return Store.open(root, project=project, read_only=True), declared


def _tell_collected(store: Store, choice: "Choice", options: argparse.Namespace) -> int:
    """Say what left the store, or would, and what stays; return 1 when the limit is not met."""
    last = [(gone.held[-1], gone.freed) for gone in choice.results]
    alone = {held.project for held, _ in last} <= {store.records.project}
    rows = [
        (held.target, words.size(freed), time.strftime("last used %Y-%m-%d", time.localtime(held.used)),
         "" if alone else folder_of(store.root, held.project))
        for held, freed in last
    ]  # fmt: skip
    for line in _aligned(rows):
        _print(line)
    counts = ((len(choice.results), "result"), (choice.cached, "cached file"), (choice.strays, "stray file"))
    what = words.names([words.count(number, noun) for number, noun in counts if number]) or "nothing"
    _print(f"{'would remove' if options.dry_run else 'removed'} {what}, {words.size(choice.freed)}")
    spare = f" and {words.count(choice.spare, 'earlier one')}" if choice.spare else ""
    needed = f"{words.count(choice.needed, 'result')} that targets need"
    _print(f"kept {needed}{spare}; the store takes {words.size(choice.left)}")
    if options.max_size is not None and choice.left > options.max_size:
        _print(f"that is more than {words.size(options.max_size)}: nothing else can be removed")
        return 1
    return 0


_VERBS: dict[str, Callable[[engine.Project, argparse.Namespace], int]] = {
    "list": _list,
    "why": _why,
    "log": _log,
    "export": _export,
    "clean": _clean,
}
