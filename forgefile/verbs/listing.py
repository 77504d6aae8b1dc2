"""forge list: list the targets and options that the Forgefile declares."""

import argparse
import json
from collections.abc import Container
from typing import Any

from forgefile import engine
from forgefile.graph import OptionValue, inputs
from forgefile.model import Secret, Source, Target
from forgefile.verbs import aligned, opened, say

SYNOPSIS = "list [TARGET…]"
SUMMARY = "list the targets and options that the Forgefile declares"
EXAMPLES = (("forge list", "what can be built, and with which options"),
            ("forge list 'arm64/*' --json", "for a program"))  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments to its parser."""
    parser.add_argument("words", nargs="*", metavar="TARGET", help="names or globs (default: all)")
    parser.add_argument("--json", action="store_true", help="print one JSON object for each target and each option")


def run(options: argparse.Namespace) -> int:
    """List targets and options; return the exit status."""
    with opened(options) as project:
        _list(project, options)
    return 0


def _list(project: engine.Project, options: argparse.Namespace) -> None:
    graph = project.graph
    chosen = graph.select(options.words or ["*"]) if graph.targets else ()
    unclean = _unclean(project)
    if options.json:
        shown = [_target_json(project, target, unclean) for target in chosen]
        shown += [] if options.words else [_option_json(option) for option in graph.options]
        for each in shown:
            say(json.dumps({key: value for key, value in each.items() if value is not None}))
        return
    rows = []
    for target in chosen:
        default = "*" if target in graph.defaults else " "
        clean = "not clean" if target in unclean else ""
        rows.append((f"{default} {target.name}", target.output, type(target.rule).__name__, clean, _about(target)))
    for line in aligned(rows):
        say(line)
    if graph.defaults and not options.words:
        say("\n* is built by default")
    if graph.options and not options.words:
        say("\noptions (-D NAME=VALUE)")
        for line in aligned([_option_row(option) for option in graph.options]):
            say(line)


def _unclean(project: engine.Project) -> set[Target]:
    """Return the targets whose latest result was resumed after a failure, or made from one that was."""
    records = project.store.records
    resumed, found = records.resumed(), set[Target]()
    for target in project.graph.targets.values() if resumed else ():
        record = records.current(target.name)
        made_from = dict(record.manifest.inputs) if record else {}
        for needed in found.intersection(inputs(target)):
            below = records.current(needed.name)
            if below and made_from.get(needed.name) == below.result.digest:
                found.add(target)
                break
        if target.name in resumed:
            found.add(target)
    return found


def _about(target: Target) -> str:
    """Return the first line of what a target's rule says of itself."""
    return (type(target.rule).__doc__ or "").strip().partition("\n")[0]


def _target_json(project: engine.Project, target: Target, unclean: Container[Target]) -> dict[str, Any]:
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
        "budget": target.budget,
        "clean": False if target in unclean else None,
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
