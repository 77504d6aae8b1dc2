"""forge why: say why targets would be built now, or, of those that are up to date, why they were built last."""

import argparse

from forgefile import engine
from forgefile.graph import inputs
from forgefile.model import Target
from forgefile.plan import Decision
from forgefile.report import words
from forgefile.verbs import opened, say

SYNOPSIS = "why [TARGET…]"
SUMMARY = "say why a target would be built, or why it was built last"
EXAMPLES = (("forge why disk.img", "what of it changed, or what did when it was built last"),)
_PAST = {"never built": "it had never been built"}
_ACTIONS = {"run": "would run", "maybe": "may run", "restore": "would be restored", "none": "is up to date"}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments to its parser."""
    help_ = "names or globs (default: the Forgefile's default ones)"
    parser.add_argument("words", nargs="*", metavar="TARGET", help=help_)


def run(options: argparse.Namespace) -> int:
    """Say for each target why; return the exit status."""
    with opened(options) as project:
        wanted = project.graph.select(options.words)
        decisions = engine.foresee(project, wanted)
        for target in wanted:
            _tell_why(project, target, decisions, indent="")
    return 0


def _tell_why(project: engine.Project, target: Target, decisions: dict[Target, Decision], indent: str) -> None:
    decision = decisions[target]
    say(f"{indent}{target.name} {_ACTIONS[decision.action]}")
    if decision.action == "none":
        record = project.store.records.current(target.name)
        for reason in record.reasons if record else ():
            say(f"{indent}  built last because: {words.printable(_PAST.get(reason, reason))}")
        for reason in decision.reasons:
            say(f"{indent}  but {words.printable(reason)}")
    elif decision.action == "maybe":
        for needed in inputs(target):
            if decisions[needed].action in ("run", "maybe"):
                _tell_why(project, needed, decisions, indent + "  ")
    else:
        for reason in decision.reasons:
            say(f"{indent}  {words.printable(reason)}")
