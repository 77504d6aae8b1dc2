"""Budgets: whether an output takes more than its rule allows, and what is told then.

A budget decides nothing of the content: it is looked at when an output is there, be it built, restored or up to date.
So another budget runs no step.
"""

from collections.abc import Iterator, Mapping
from itertools import chain

from forgefile.cache.seal import Result
from forgefile.cache.store import Store
from forgefile.contents import sizes
from forgefile.contents.output import place_of
from forgefile.contents.sizes import Stack
from forgefile.errors import UsageError
from forgefile.fingerprint import fingerprint
from forgefile.graph import inputs
from forgefile.model import Target
from forgefile.plan import Decision
from forgefile.planner import Planner
from forgefile.report import words
from forgefile.report.sizes import grown, told
from forgefile.report.words import Line, Span
from forgefile.resume import kind_of

_SHOWN = 5
"""How many packages and folders are told of."""


def stacks(planner: Planner, store: Store, target: Target, result: Result) -> list[Stack]:
    """Return the layers of a result, or of the trees that a file was made of."""
    if result.kind == "tree":
        return [Stack(place_of(store, result).layers, tuple(_names(planner, store, target, result)))]
    below = [(needed, planner.results.get(needed)) for needed in inputs(target)]
    found = [stacks(planner, store, needed, made) for needed, made in below if made and store.problem(made) is None]
    return list(dict.fromkeys(chain.from_iterable(found)))


def _names(planner: Planner, store: Store, target: Target, result: Result) -> Iterator[tuple[str, str]]:
    """Yield which target made each layer of a result, with its rule, as far as that is known."""
    stack = list(_stack(target))[::-1]
    if len(stack) == len(result.layers):
        yield from ((below.name, kind_of(below)) for below in stack)
        return
    made = {held.result.layers[-1]: held.target for held in store.records.held()
            if held.result.layers and held.project == store.records.project}  # fmt: skip
    for name in (made.get(layer, "") for layer in result.layers):
        known = planner.graph.targets.get(name)
        yield name, kind_of(known) if known else ""


def _stack(target: Target) -> Iterator[Target]:
    """Yield a tree and those below it."""
    below: Target | None = target
    while below is not None:
        yield below
        below = below.base


def excess(planner: Planner, store: Store, target: Target) -> str | None:
    """Return in words by how much a target's result is over its budget, or None: it is not, or it has none."""
    if target.budget is None:
        return None
    try:
        taken = _over(planner, store, target, target.budget)
    except UsageError as error:
        return f"nobody can tell whether it is within its budget: {error.message}"
    amounts = [words.size(octets) for octets in (taken, taken - target.budget, target.budget)] if taken else []
    return "it takes {}, which is {} over its budget of {}".format(*amounts) if amounts else None


def _over(planner: Planner, store: Store, target: Target, budget: int) -> int | None:
    """Return the bytes that a result takes when they are more than a budget."""
    result = planner.results[target]
    if result.kind == "file":
        return result.size if result.size > budget else None
    known = [planner.results[below] for below in _stack(target) if below in planner.results]
    if len(known) == len(result.layers) and sum(each.size for each in known) <= budget:
        return None  # what its layers add is never less than what can be seen of them
    size: int = sizes.rows(place_of(store, result), ())[0]["size"]
    return size if size > budget else None


def told_of(planner: Planner, store: Store, decisions: Mapping[Target, Decision]) -> dict[Target, Decision]:
    """Return decisions, inputs first, with other ones about results that are over budget and about what needs them."""
    found = dict(decisions)
    for target, decision in decisions.items():
        if failing := tuple(f"{needed.name} would fail" for needed in inputs(target) if found[needed].action == "fail"):
            found[target] = Decision("fail", failing)
        elif decision.action in ("none", "restore") and (problem := excess(planner, store, target)):
            found[target] = Decision("fail", (*decision.reasons, problem))
    return found


def account(planner: Planner, store: Store, target: Target) -> list[str]:
    """Return what takes the room in a result, and what grew since the one before it, in lines."""
    try:
        return list(map(words.text, _account(planner, store, target)))
    except UsageError as error:  # a tool that reads it is missing
        return [error.message]


def _account(planner: Planner, store: Store, target: Target) -> Iterator[Line]:
    result = planner.results[target]
    now = sizes.rows(place_of(store, result), stacks(planner, store, target, result))
    yield from told(now, _SHOWN)
    before = store.records.previous(target.name, fingerprint(planner.manifests[target]))
    if before is None or store.problem(before.result) is not None:
        yield (Span("no result before it is in the store"),)
        return
    old = sizes.rows(place_of(store, before.result), ())
    more = now[0]["size"] - old[0]["size"]
    if more <= 0:
        yield (Span(f"the result before it took {words.size(old[0]['size'])}"),)
        return
    yield (Span(f"it grew by {words.size(more)} since the result before it"),)
    yield from grown(sizes.grown(old, now), _SHOWN)
