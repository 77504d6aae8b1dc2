"""Where the targets of a graph are drawn: from left to right in columns, each after all that it needs.

After Sugiyama, Tagawa and Toda (IEEE Trans. Syst. Man Cybern. 11, 1981): a column for each target, waypoints where an
edge crosses columns, an order in each column that keeps edges apart, and heights that keep them straight. Pure.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

WIDTH, HEIGHT = 176, 44
"""Of a box, in the units of the drawing."""
_COLUMN, _ROW, _WAY = WIDTH + 64, HEIGHT + 16, 14
"""From one column to the next, from one box to the next, and from one waypoint to the next."""
_WAYPOINTS = 4000
"""Beyond so many, edges go straight: such a graph is read by searching in it."""
_SWEEPS = 13
"""An odd number: the last sweep goes from left to right, so that a chain is a straight line."""

Node = str | tuple[str, str, int]
"""A target, or the waypoint of an edge in a column."""
_Neighbours = Mapping[Node, Sequence[Node]]


class Layout(NamedTuple):
    """A drawing. The places of boxes are those of their upper left corners."""

    width: float
    height: float
    boxes: Mapping[str, tuple[float, float]]
    edges: list[tuple[str, str, str]]
    """From what is needed, to what needs it, and the path between as SVG draws it."""


def laid_out(needs: Mapping[str, Sequence[str]]) -> Layout:
    """Return the drawing of a graph: each target with what it needs, inputs first."""
    if not needs:
        return Layout(0, 0, {}, [])
    column: dict[str, int] = {}
    for name, below in needs.items():
        column[name] = max((column[each] + 1 for each in below if each in column), default=0)
    edges = [(each, name) for name, below in needs.items() for each in dict.fromkeys(below) if each in column]
    columns: list[list[Node]] = [[] for _ in range(max(column.values()) + 1)]
    for name, at in column.items():
        columns[at].append(name)
    chains = _chains(edges, column, columns)
    before: dict[Node, list[Node]] = {node: [] for nodes in columns for node in nodes}
    after: dict[Node, list[Node]] = {node: [] for nodes in columns for node in nodes}
    for chain in chains:
        for left, right in pairwise(chain):
            after[left].append(right)
            before[right].append(left)
    _order(columns, before, after)
    heights = _heights(columns, before, after)
    half = {node: HEIGHT / 2 if isinstance(node, str) else 0.0 for node in heights}
    top = min(height - half[node] for node, height in heights.items())
    bottom = max(height + half[node] for node, height in heights.items())
    boxes = {name: (at * _COLUMN, heights[name] - HEIGHT / 2 - top) for name, at in column.items()}
    paths = [
        (of, to, _path(column[of], column[to], [heights[node] - top for node in chain]))
        for (of, to), chain in zip(edges, chains, strict=True)
    ]
    return Layout((len(columns) - 1) * _COLUMN + WIDTH, bottom - top, boxes, paths)


def _chains(
    edges: Sequence[tuple[str, str]], column: Mapping[str, int], columns: list[list[Node]]
) -> list[list[Node]]:
    """Return each edge as the nodes on its way, and put its waypoints into their columns."""
    is_small = sum(column[to] - column[of] - 1 for of, to in edges) <= _WAYPOINTS
    chains: list[list[Node]] = []
    for of, to in edges:
        ways: list[Node] = [(of, to, at) for at in range(column[of] + 1, column[to])] if is_small else []
        for at, way in enumerate(ways, column[of] + 1):
            columns[at].append(way)
        chains.append([of, *ways, to])
    return chains


def _order(columns: list[list[Node]], before: _Neighbours, after: _Neighbours) -> None:
    """Order each column by where the neighbours of its nodes are, to and fro."""
    place = {node: float(at) for nodes in columns for at, node in enumerate(nodes)}
    for sweep in range(_SWEEPS):
        for nodes in columns if sweep % 2 == 0 else reversed(columns):
            nodes.sort(key=_mean(nodes, before if sweep % 2 == 0 else after, place).__getitem__)
            place.update((node, float(at)) for at, node in enumerate(nodes))


def _heights(columns: list[list[Node]], before: _Neighbours, after: _Neighbours) -> dict[Node, float]:
    """Return the height of each node's middle: near those of its neighbours, in order and with room between."""
    height: dict[Node, float] = {}
    for nodes in columns:
        height.update(_apart(nodes, dict.fromkeys(nodes, 0.0)))
    for sweep in range(_SWEEPS):
        for nodes in columns if sweep % 2 == 0 else reversed(columns):
            height.update(_apart(nodes, _mean(nodes, before if sweep % 2 == 0 else after, height)))
    return height


def _mean(nodes: Sequence[Node], near: _Neighbours, where: Mapping[Node, float]) -> dict[Node, float]:
    """Return for each node the mean of where its neighbours are; where it is itself when it has none."""
    return {
        node: sum(where[each] for each in near[node]) / len(near[node]) if near[node] else where[node] for node in nodes
    }


def _apart(nodes: Sequence[Node], wanted: Mapping[Node, float]) -> dict[Node, float]:
    """Return heights as near to the wanted ones as the order and the room between nodes allow.

    Neighbours that want the same room become a block, which lies where they want to be on average: an isotonic
    regression, by pooling adjacent violators.
    """
    offsets = [0.0]
    for upper, lower in pairwise(nodes):
        offsets.append(offsets[-1] + _room(upper, lower))
    blocks: list[tuple[float, int]] = []
    for node, offset in zip(nodes, offsets, strict=False):
        wish, count = wanted[node] - offset, 1
        while blocks and blocks[-1][0] / blocks[-1][1] > wish / count:
            more, others = blocks.pop()
            wish, count = wish + more, count + others
        blocks.append((wish, count))
    places = (wish / count for wish, count in blocks for _ in range(count))
    return {node: place + offset for node, place, offset in zip(nodes, places, offsets, strict=False)}


def _room(upper: Node, lower: Node) -> float:
    """Return how far the middles of two neighbours are apart at least."""
    boxes = isinstance(upper, str) + isinstance(lower, str)
    return (_WAY, (_WAY + _ROW) / 2, _ROW)[boxes]


def _path(first: int, last: int, heights: Sequence[float]) -> str:
    """Return an edge as a smooth path between two columns, through the heights of the nodes on its way."""
    x, told = first * _COLUMN + WIDTH, [f"M{first * _COLUMN + WIDTH} {heights[0]:.1f}"]
    for at, (y, to_y) in enumerate(pairwise(heights), 1):
        is_end = at == len(heights) - 1
        to_x = (last if is_end else first + at) * _COLUMN
        bend = (to_x - x) // 2
        told.append(f"C{x + bend} {y:.1f} {to_x - bend} {to_y:.1f} {to_x} {to_y:.1f}")
        if not is_end:
            x = to_x + WIDTH
            told.append(f"H{x}")
    return "".join(told)
