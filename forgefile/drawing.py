"""A graph as text that other programs draw: DOT for Graphviz, and Mermaid.

Owns the look and the escaping: any name is shown as it is, but for what cannot be printed. Unaware of where the facts
come from.
"""

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from forgefile.events import Action
from forgefile.report.words import count, duration, size

Kind = Literal["target", "source", "secret"]
State = Action | Literal["restored", "changed"]


class Node(NamedTuple):
    """A target, source or secret."""

    kind: Kind
    name: str
    state: State = "none"
    rule: str = ""
    seconds: float | None = None
    """How long it took last."""
    size: int | None = None
    """Bytes of its latest result."""
    is_critical: bool = False


class Drawing(NamedTuple):
    """What is drawn. Edges are (from, to) by the places of nodes, from what is taken to what takes it."""

    nodes: tuple[Node, ...]
    edges: tuple[tuple[int, int], ...]
    critical_s: float | None = None
    """The length of the critical path, as far as it is known."""

    def is_critical(self, edge: tuple[int, int]) -> bool:
        """Tell whether an edge is one of the critical path."""
        below, above = (self.nodes[place] for place in edge)
        return below.is_critical and above.is_critical


class _Look(NamedTuple):
    fill: str
    line: str
    words: str
    style: str = "solid"


_LOOKS: dict[State, _Look] = {
    "run": _Look("#ffd8a8", "#b35900", "would run"),
    "maybe": _Look("#fff3bf", "#b35900", "may run", "dashed"),
    "restore": _Look("#d0ebff", "#1864ab", "would be restored"),
    "restored": _Look("#e7f5ff", "#1864ab", "restored last"),
    "fail": _Look("#ffc9c9", "#c92a2a", "would fail"),
    "changed": _Look("#ffd8a8", "#b35900", "changed"),
    "none": _Look("#f1f3f5", "#868e96", "up to date"),
}
_CRITICAL = "#c92a2a"


def label(node: Node) -> tuple[str, ...]:
    """Return the lines that a node shows."""
    told = [node.rule] if node.rule else [node.kind]
    told += [duration(node.seconds)] if node.seconds is not None else []
    told += [size(node.size)] if node.size is not None else []
    state = () if node.kind != "target" and node.state == "none" else (_LOOKS[node.state].words,)
    return (shown(node.name), " · ".join(told), *state)


def shown(name: str) -> str:
    """Return a name with escapes for what cannot be printed."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)


def caption(drawing: Drawing) -> str:
    """Return in a line how many targets there are of each state, and how long the critical path is."""
    states = [node.state for node in drawing.nodes if node.kind == "target"]
    told = ", ".join(f"{states.count(state)} {look.words}" for state, look in _LOOKS.items() if state in states)
    path = sum(node.is_critical for node in drawing.nodes)
    if not path:
        return told
    time = "never timed" if drawing.critical_s is None else f"about {duration(drawing.critical_s)}"
    return f"{told}; critical path: {count(path, 'target')}, {time}"


def dot(drawing: Drawing) -> Iterator[str]:
    """Yield the lines of a graph in the DOT language (graphviz.org/doc/info/lang.html)."""
    yield "digraph forge {"
    yield '  graph [rankdir=LR, bgcolor=white, fontname="Helvetica,Arial,sans-serif", fontsize=11, labelloc=b,'
    yield f"         label={_quoted((caption(drawing),))}]"
    yield '  node [fontname="Helvetica,Arial,sans-serif", fontsize=11, shape=box, margin="0.15,0.08"]'
    yield '  edge [color="#868e96", arrowsize=0.7]'
    for place, node in enumerate(drawing.nodes):
        look = _LOOKS[node.state]
        line = _CRITICAL if node.is_critical else look.line
        style = f"{'rounded,' if node.kind == 'target' else ''}filled,{look.style}"
        shape = {"target": "box", "source": "note", "secret": "note"}[node.kind]
        yield (
            f'  n{place} [label={_quoted(label(node))}, tooltip={_quoted((shown(node.name),))}, shape={shape}, '
            f'style="{style}", fillcolor="{look.fill}", color="{line}", penwidth={3 if node.is_critical else 1}]'
        )
    for edge in drawing.edges:
        critical = f' [color="{_CRITICAL}", penwidth=3]' if drawing.is_critical(edge) else ""
        yield f"  n{edge[0]} -> n{edge[1]}{critical}"
    yield "}"


def _quoted(lines: Iterable[str]) -> str:
    """Return lines as a string of DOT, in which backslashes and HTML's entities have a meaning."""
    escaped = (
        line.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        for line in lines
    )
    return '"' + "\\n".join(escaped) + '"'


def mermaid(drawing: Drawing) -> Iterator[str]:
    """Yield the lines of a flowchart for Mermaid (mermaid.js.org/syntax/flowchart.html)."""
    yield "flowchart LR"
    for place, node in enumerate(drawing.nodes):
        opening, closing = ("(", ")") if node.kind == "target" else ("[/", "/]")
        text = "<br/>".join(map(_entities, label(node)))
        yield f'  n{place}{opening}"{text}"{closing}:::{"critical_" if node.is_critical else ""}{node.state}'
    critical = []
    for number, edge in enumerate(drawing.edges):
        yield f"  n{edge[0]} --> n{edge[1]}"
        if drawing.is_critical(edge):
            critical.append(str(number))
    for name, look in _LOOKS.items():
        dashes = ",stroke-dasharray:5 3" if look.style == "dashed" else ""
        yield f"  classDef {name} fill:{look.fill},color:#000,stroke:{look.line}{dashes}"
        yield f"  classDef critical_{name} fill:{look.fill},color:#000,stroke:{_CRITICAL},stroke-width:3px{dashes}"
    if critical:
        yield f"  linkStyle {','.join(critical)} stroke:{_CRITICAL},stroke-width:3px"


def _entities(text: str) -> str:
    """Return text in which all that Mermaid or HTML could take for syntax is an entity of Mermaid's."""
    return "".join(c if c.isalnum() or c in " ._-/,·" else f"#{ord(c)};" for c in text)


def state_of(action: Action, *, was_restored: bool) -> State:
    """Return the state of a target for which something was decided."""
    return "restored" if action == "none" and was_restored else action
