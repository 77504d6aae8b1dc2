"""forge why: say why targets would be built now, or, of those that are up to date, why they were built last.

With two names, A and B: how A reaches B, through which targets and which fields of their rules, the shortest way first.
B, or A, may be a source, a file in one, or a secret. If A does not need B, it is shown how B needs A.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from typing import Any

from forgefile import engine
from forgefile.errors import UsageError, did_you_mean
from forgefile.graph import Path, inputs, ways
from forgefile.model import Artifact, Secret, Source, Target, places
from forgefile.plan import Decision
from forgefile.report import words
from forgefile.verbs import aligned, one, opened, say

SYNOPSIS = "why [TARGET|SOURCE…]"
SUMMARY = "say why a target would be built, or why it was built last; of two, how one needs the other"
EXAMPLES = (("forge why disk.img", "what of it changed, or what did when it was built last"),
            ("forge why disk.img overlay", "through which targets and fields the image takes the source"))  # fmt: skip
_PAST = {"never built": "it had never been built"}
_ACTIONS = {
    "run": "would run", "maybe": "may run", "restore": "would be restored", "fail": "would fail",
    "none": "is up to date",
}  # fmt: skip
_PAIR = 2
_SHOWN = 10
"""How many ways are shown."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments to its parser."""
    help_ = "names or globs (default: the Forgefile's default ones); two, also of sources: how one needs the other"
    parser.add_argument("words", nargs="*", metavar="TARGET|SOURCE", help=help_)
    parser.add_argument("--json", action="store_true", help="print one JSON object for each target, or each way")


def run(options: argparse.Namespace) -> int:
    """Say why, or how one needs the other; return the exit status, 1 when neither does."""
    with opened(options) as project:
        if len(options.words) == _PAIR:
            first, second = (_meant(project, word) for word in options.words)
            return _tell_ways(project, first, second, is_json=options.json)
        for word in options.words:
            _refuse_source(project, word)
        wanted = project.graph.select(options.words)
        decisions = engine.foresee(project, wanted)
        for target in wanted:
            if options.json:
                say(json.dumps(_why_json(project, target, decisions[target])))
            else:
                _tell_why(project, target, decisions, indent="")
    return 0


def _refuse_source(project: engine.Project, word: str) -> None:
    """Raise `UsageError` when a word names a source, for which there is no reason but that a target takes it."""
    path = os.path.normpath(word)
    sources = {each.path for target in project.graph.targets.values() for each in target.inputs
               if isinstance(each, Source)}  # fmt: skip
    if word not in project.graph.targets and path in sources:
        raise UsageError(f"'{word}' is a source", hint=f"forge why TARGET {word} shows how a target needs it")


def _tell_why(project: engine.Project, target: Target, decisions: dict[Target, Decision], indent: str) -> None:
    decision = decisions[target]
    say(f"{indent}{target.name} {_ACTIONS[decision.action]}")
    if decision.action == "none":
        record = project.store.records.current(target.name)
        for reason in record.reasons if record else ():
            say(f"{indent}  built last because: {words.printable(_PAST.get(reason, reason))}")
    elif decision.action == "maybe":
        for needed in inputs(target):
            if decisions[needed].action in ("run", "maybe"):
                _tell_why(project, needed, decisions, indent + "  ")
    else:
        for reason in decision.reasons:
            say(f"{indent}  {words.printable(reason)}")


def _why_json(project: engine.Project, target: Target, decision: Decision) -> dict[str, Any]:
    record = project.store.records.current(target.name)
    return {"target": target.name, "action": decision.action, "reasons": decision.reasons,
            "built_because": record.reasons if record else ()}  # fmt: skip


# Two names -----------------------------------------------------------------------------------------------------------


def _meant(project: engine.Project, word: str) -> Artifact:
    """Return what a word names: a target, a source or the one that holds a path, a secret, or a glob's only target."""
    graph = project.graph
    others = dict.fromkeys(each for target in graph.targets.values() for each in target.inputs)
    path = os.path.normpath(word)
    checks: tuple[Callable[[Artifact], bool], ...] = (
        lambda each: isinstance(each, Target) and each.name == word,
        lambda each: isinstance(each, Source) and each.path == path,
        lambda each: isinstance(each, Secret) and each.name == word,
        lambda each: isinstance(each, Source)
        and path.startswith(f"{each.path}/")
        and os.path.lexists(os.path.join(project.root, path)),
    )
    for check in checks:
        if found := [each for each in (*graph.targets.values(), *others) if check(each)]:
            return found[0]
    if any(letter in word for letter in "*?["):
        return one(project, word)
    known = list(dict.fromkeys((*graph.targets, *map(_name, others))))
    raise UsageError(f"there is no target or source '{word}'", hint=did_you_mean(word, known))


def _name(artifact: Artifact) -> str:
    return artifact.path if isinstance(artifact, Source) else artifact.name


def _tell_ways(project: engine.Project, first: Artifact, second: Artifact, *, is_json: bool) -> int:
    if first == second:
        raise UsageError(f"'{_name(first)}' is named twice", hint="name two")
    for above, below in ((first, second), (second, first)):
        if isinstance(above, Target):
            found = ways(project.graph.closure((above,)), above, below)
            if found.number and is_json:
                for path in islice(found.paths, _SHOWN):
                    say(json.dumps(_way_json(path)))
                return 0
            if found.number:
                _tell_paths(above, below, found.number, found.paths)
                return 0
    if not is_json:
        say(f"{words.printable(_name(first))} does not need {words.printable(_name(second))}, nor the other way round")
    return 1


def _tell_paths(above: Target, below: Artifact, count: int, paths: Iterator[Path]) -> None:
    how = "" if count == 1 else f" in {count} ways"
    say(f"{above.name} needs {words.printable(_name(below))}{how}")
    for number, path in enumerate(islice(paths, _SHOWN)):
        if number:
            say()
        rows = [("", name, fields, f"→ {words.printable(_name(needed))}") for name, fields, needed in _links(path)]
        for line in aligned(rows):
            say(f"  {line}")
    if count > _SHOWN:
        say(f"\nand {words.count(count - _SHOWN, 'longer way')}")


def _links(path: Path) -> Iterator[tuple[str, str, Artifact]]:
    """Yield of each target on a path its name, the fields with which it takes the next, and that."""
    for target, needed in pairwise(path):
        if isinstance(target, Target):
            yield target.name, ", ".join(places(target.rule, needed)), needed


def _way_json(path: Path) -> dict[str, Any]:
    kind = "target" if isinstance(path[-1], Target) else "source" if isinstance(path[-1], Source) else "secret"
    links = [{"target": target.name, "fields": list(places(target.rule, needed))}
             for target, needed in pairwise(path) if isinstance(target, Target)]  # fmt: skip
    return {"path": [*links, {kind: _name(path[-1])}]}
