"""The targets that a Forgefile declares and how they hang together.

A target's inputs are handles, so they exist before it: declaration order is a topological order and a cycle cannot be
written. networkx is imported only to draw: that alone takes longer than to find out what is to be built.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from heapq import heappop, heappush
from typing import NamedTuple

from forgefile.errors import UsageError, did_you_mean
from forgefile.model import Artifact, Secret, Target


class OptionValue(NamedTuple):
    """An option as declared, with the value that it has in this run."""

    name: str
    value: str
    default: str
    choices: tuple[str, ...]
    help: str


class Graph(NamedTuple):
    """Everything that one evaluation of a Forgefile says."""

    targets: Mapping[str, Target]
    """By name, in the order of declaration, which is a topological order."""
    defaults: tuple[Target, ...]
    options: tuple[OptionValue, ...]
    secrets: tuple[Secret, ...] = ()

    def select(self, patterns: Collection[str]) -> tuple[Target, ...]:
        """Return the targets that names and globs select, in order of declaration; the default ones for none.

        Raises `UsageError` for a pattern that selects nothing.
        """
        if not patterns:
            return self.defaults or tuple(self.targets.values())
        chosen: set[str] = set()
        for pattern in patterns:
            found = [name for name in self.targets if name == pattern] or [
                name for name in self.targets if fnmatchcase(name, pattern)
            ]
            if not found:
                raise UsageError(f"there is no target '{pattern}'", hint=did_you_mean(pattern, list(self.targets)))
            chosen.update(found)
        return tuple(target for name, target in self.targets.items() if name in chosen)

    def closure(self, roots: Iterable[Target]) -> tuple[Target, ...]:
        """Return the targets and all that they need, inputs first."""
        wanted, found = list(roots), set()
        while wanted:
            target = wanted.pop()
            if target not in found:
                found.add(target)
                wanted += inputs(target)
        return tuple(target for target in self.targets.values() if target in found)


def inputs(target: Target) -> tuple[Target, ...]:
    """Return the targets among a target's inputs."""
    return tuple(artifact for artifact in target.inputs if isinstance(artifact, Target))


def remaining(targets: Collection[Target], seconds: Callable[[Target], float]) -> dict[Target, float]:
    """Return for each target, inputs first, the length in seconds of the longest path from its start to the end."""
    after = dict.fromkeys(targets, 0.0)
    length: dict[Target, float] = {}
    for target in reversed(tuple(targets)):
        length[target] = seconds(target) + after[target]
        for needed in inputs(target):
            if needed in after:
                after[needed] = max(after[needed], length[target])
    return length


def critical(targets: Collection[Target], seconds: Callable[[Target], float]) -> tuple[Target, ...]:
    """Return the longest path through targets, which stand with inputs first; so do those on the path."""
    import networkx as nx  # noqa: PLC0415  100 ms

    graph, begin = nx.DiGraph(), "begin"
    for target in targets:
        below = [needed for needed in inputs(target) if needed in graph]
        graph.add_edges_from(((needed, target) for needed in below or (begin,)), weight=seconds(target))
    return tuple(nx.dag_longest_path(graph)[1:])


Path = tuple[Artifact, ...]
"""Targets, each of which takes the one after it, and what the last of them takes."""


class Ways(NamedTuple):
    """All paths from a target down to an artifact."""

    number: int
    paths: Iterator[Path]
    """The shortest first."""


def ways(targets: Collection[Target], above: Target, below: Artifact) -> Ways:
    """Return the paths on which a target reaches an artifact; `targets` holds all between, inputs first."""
    count: Counter[Artifact] = Counter({below: 1})
    distance: dict[Artifact, int] = {below: 0}
    for target in targets:
        if target is not below and (near := [distance[each] for each in target.inputs if each in distance]):
            count[target] = sum(count[each] for each in target.inputs)
            distance[target] = 1 + min(near)
    return Ways(count[above], _shortest_first(above, below, distance))


def _shortest_first(above: Target, below: Artifact, distance: Mapping[Artifact, int]) -> Iterator[Path]:
    """Yield paths; `distance` has the length of the shortest way down of all that reaches the end."""
    queue: list[tuple[int, int, int, Path]] = [(0, 0, 0, (above,))] if above in distance else []
    number = 0  # of equals, the nearest to its end; and then the first in the order of the fields
    while queue:
        *_, path = heappop(queue)
        last = path[-1]
        if last == below:
            yield path
        elif isinstance(last, Target):
            for each in last.inputs:
                if each in distance:
                    number += 1
                    heappush(queue, (len(path) + distance[each], -len(path), number, (*path, each)))
