"""forge graph: print the graph of targets and sources, with what would be built, times and the critical path.

`dot` (the default) is for Graphviz, `mermaid` for pages that draw it, `svg` a picture that needs nothing else, `json`
one object a line. Arrows lead from what is taken to what takes it. The critical path is the longest chain of what
would run, or may, by the time it took last; when nothing would run, of all.
"""

import argparse
import json
import subprocess
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from forgefile import drawing, engine, host
from forgefile.drawing import Drawing, Node
from forgefile.errors import UsageError
from forgefile.model import Artifact, Secret, Source, Target
from forgefile.plan import Decision
from forgefile.verbs import opened, say

SYNOPSIS = "graph [TARGET…]"
SUMMARY = "print the graph: for Graphviz, Mermaid, a program, or as a picture"
EXAMPLES = (("forge graph --format svg disk.img > graph.svg", "a picture"),
            ("forge graph | dot -Tpdf -o graph.pdf", "or drawn by Graphviz as you like it"),
            ("forge graph --json", "for a program"))  # fmt: skip
_FORMATS = ("dot", "json", "mermaid", "svg")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments to its parser."""
    help_ = "names or globs, which are shown with all that they need (default: the Forgefile's default ones)"
    parser.add_argument("words", nargs="*", metavar="TARGET", help=help_)
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--format", choices=_FORMATS, default="dot", help="the form (default: dot)")
    forms.add_argument("--json", action="store_const", dest="format", const="json", help="as --format json")


def run(options: argparse.Namespace) -> int:
    """Print a graph; return the exit status."""
    if options.format == "svg" and host.find("dot") is None:
        hint = f"{host.install_line(['dot'])}; or choose --format mermaid"
        raise UsageError("a picture is drawn by Graphviz' dot, which this machine does not have", hint=hint)
    with opened(options) as project:
        facts = _facts(project, project.graph.select(options.words))
    if options.format == "json":
        for each in _objects(facts):
            say(json.dumps({key: value for key, value in each.items() if value is not None}))
        return 0
    drawn = _drawing(facts)
    if options.format == "svg":
        say(_svg("\n".join(drawing.dot(drawn))))
    else:
        for line in drawing.dot(drawn) if options.format == "dot" else drawing.mermaid(drawn):
            say(line)
    return 0


class _Facts(NamedTuple):
    """What is known of a graph."""

    decisions: Mapping[Target, Decision]
    changed: Collection[Artifact]
    """Sources and secrets that are not what they were when a target that takes them was built last."""
    restored: Collection[Target]
    seconds: Mapping[Target, float | None]
    sizes: Mapping[Target, int | None]
    critical: tuple[Target, ...]


def _facts(project: engine.Project, wanted: Collection[Target]) -> _Facts:
    planner, records = project.planner, project.store.records
    decisions = engine.foresee(project, wanted)
    current = {target: records.current(target.name) for target in decisions}
    chosen = [target for target, decision in decisions.items() if decision.action in ("run", "maybe")]
    chosen = chosen or list(decisions)
    changed: dict[Artifact, None] = {}
    for target, record in current.items():
        before = dict(record.manifest.inputs) if record else {}
        for each in target.inputs if record else ():
            if not isinstance(each, Target):
                name, digest = planner.named_digest(each, target)
                if before.get(name) != digest:
                    changed[each] = None
    return _Facts(
        decisions,
        changed,
        {target for target in decisions if records.is_earlier(target.name)},
        {target: planner.expected(target) for target in decisions},
        {target: record.result.size if record else None for target, record in current.items()},
        planner.critical(chosen),
    )


def _critical_s(facts: _Facts) -> float | None:
    """Return how long the critical path takes, as far as that is known."""
    known = [seconds for target in facts.critical if (seconds := facts.seconds[target]) is not None]
    return sum(known) if known else None


def _name(artifact: Artifact) -> str:
    return artifact.path if isinstance(artifact, Source) else artifact.name


def _node(facts: _Facts, each: Artifact) -> Node:
    if not isinstance(each, Target):
        kind: drawing.Kind = "source" if isinstance(each, Source) else "secret"
        return Node(kind, _name(each), "changed" if each in facts.changed else "none")
    state = drawing.state_of(facts.decisions[each].action, was_restored=each in facts.restored)
    rule, critical = type(each.rule).__name__, each in facts.critical
    return Node("target", each.name, state, rule, facts.seconds[each], facts.sizes[each], critical)


def _drawing(facts: _Facts) -> Drawing:
    others = [each for target in facts.decisions for each in target.inputs if not isinstance(each, Target)]
    places = {each: place for place, each in enumerate(dict.fromkeys([*others, *facts.decisions]))}
    edges = tuple((places[each], places[target]) for target in facts.decisions for each in target.inputs)
    return Drawing(tuple(_node(facts, each) for each in places), edges, _critical_s(facts))


def _objects(facts: _Facts) -> list[dict[str, Any]]:
    """Return what is known as objects of JSON: targets, what else they take, and the critical path."""
    found: list[dict[str, Any]] = []
    others: dict[Artifact, None] = {}
    for target, decision in facts.decisions.items():
        taken = [each for each in target.inputs if not isinstance(each, Target)]
        others.update(dict.fromkeys(taken))
        found.append({
            "target": target.name,
            "rule": type(target.rule).__name__,
            "output": target.output,
            "action": decision.action,
            "reasons": decision.reasons,
            "restored": target in facts.restored,
            "last_s": facts.seconds[target],
            "size": facts.sizes[target],
            "critical": target in facts.critical,
            "targets": [each.name for each in target.inputs if isinstance(each, Target)],
            "sources": [each.path for each in taken if isinstance(each, Source)],
            "secrets": [each.name for each in taken if isinstance(each, Secret)],
        })  # fmt: skip
    for each in others:
        kind = "source" if isinstance(each, Source) else "secret"
        found.append({kind: _name(each), "changed": each in facts.changed})
    found.append({"critical_path": [target.name for target in facts.critical], "last_s": _critical_s(facts)})
    return found


def _svg(text: str) -> str:
    """Return a graph in DOT as a picture."""
    argv = (host.find("dot") or "dot", "-Tsvg")
    ended = subprocess.run(argv, input=text.encode(), capture_output=True, check=False)
    if ended.returncode:
        raise UsageError(f"dot failed: {ended.stderr.decode(errors='replace').strip()}")
    return ended.stdout.decode().rstrip("\n")
