"""From a plan in which nothing is left to do to a snapshot, and from a snapshot to the part of a graph that changed.

Unaware of how a snapshot is kept and compared, which is `snapshot`'s, and of how anything is built.
"""

import os
import pickle
import sys
from array import array
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

from forgefile.cache.digest import ALL_BITS, Seen, entry_hash, is_fresh
from forgefile.cache.layout import LAYERS, OBJECTS, SNAPSHOTS
from forgefile.cache.seal import Result
from forgefile.cache.snapshot import UNSURE, Facts, Key, Snapshot, load_graph, names_in, runs_of, save, status_of
from forgefile.graph import Graph, OptionValue
from forgefile.model import Artifact, Rule, Sandbox, Secret, Source, Step, Target
from forgefile.planner import Looked, Planner
from forgefile.reads import Reads, is_there
from forgefile.report.words import nothing_done


class Kept(Rule):
    """A rule as its steps were when the Forgefile was evaluated."""

    base: Target | None
    inputs: tuple[Artifact, ...]
    scratched: tuple[int, ...]
    steps_kept: bytes
    kind: str
    """What the rule was called."""

    def steps(self, box: Sandbox) -> Iterable[Step]:
        """Return the steps that were kept."""
        for index in self.scratched:
            tree = self.inputs[index]
            if isinstance(tree, Target):
                box.scratch(tree)
        steps: tuple[Step, ...] = pickle.loads(self.steps_kept)  # noqa: S301  written by this user's forge alone
        return steps


class _KeptTree(Kept):
    output = "tree"


def kind_of(target: Target) -> str:
    """Return what a target's rule is called in the Forgefile."""
    return target.rule.kind if isinstance(target.rule, Kept) else type(target.rule).__name__


class Entry(NamedTuple):
    """A target as a snapshot keeps it. Inputs are targets by their place from 0 on, artifacts from -1 downwards."""

    name: str
    output: str
    rule: str
    inputs: tuple[int, ...]
    tools: tuple[int, ...]
    rest: bytes
    """Pickled: location, pools, time limit, budget, base or None and scratched (indices of all inputs), secrets with
    their indices, pickled steps."""
    result: tuple[str, tuple[str, ...], int]


class Saved(NamedTuple):
    """The graph of a snapshot, as it is kept."""

    entries: list[tuple[Any, ...]]
    artifacts: list[tuple[str, str, str]]
    """(path of the source or "", path that was asked for, digest)"""
    wanted: tuple[int, ...]
    options: tuple[tuple[Any, ...], ...]


class Part(NamedTuple):
    """The part of a graph that a difference reaches."""

    graph: Graph
    wanted: tuple[Target, ...]
    known: dict[Target, Result]
    """What the rest of the graph gives to this part."""
    spared: int
    """How many targets are not in the part."""
    saved: Saved
    places: dict[str, int]
    """Target's name → its place among all."""
    looked: dict[str, Looked]
    """Of changed artifacts, what the snapshot's look has found: path → that."""


def part(snapshot: Snapshot, *, whole: bool = False) -> Part | None:
    """Return what the changed artifacts of a snapshot reach, or None when the graph is lost.

    `whole`: the graph has all else, too, and knows it.
    """
    found = load_graph(snapshot)
    if found is None:
        return None
    saved = Saved(*found)
    marks = {~artifact for artifact in snapshot.changed}
    for place, entry in enumerate(saved.entries):
        if not marks.isdisjoint(entry[3]) or not marks.isdisjoint(entry[4]):
            marks.add(place)
    targets: dict[int, Target] = {}
    known: dict[Target, Result] = {}

    def add_known(place: int, inputs: tuple[Target, ...] = ()) -> None:
        entry = Entry(*saved.entries[place])
        targets[place] = target = _known(entry, inputs)
        known[target] = _result(entry)

    for place, entry in enumerate(saved.entries):
        below = [needed for needed in entry[3] if needed >= 0]
        if place in marks:
            for needed in below:
                if needed not in targets:
                    add_known(needed)
            targets[place] = _target(Entry(*entry), saved, targets)
        elif whole:
            add_known(place, tuple(targets[needed] for needed in below))
    graph = Graph(
        {targets[place].name: targets[place] for place in sorted(targets)},
        (),
        tuple(OptionValue(*option) for option in saved.options),
    )
    wanted = tuple(targets[place] for place in saved.wanted if whole or place in marks)
    places = {entry[0]: place for place, entry in enumerate(saved.entries) if place in marks}
    return Part(graph, wanted, known, len(saved.entries) - len(targets), saved, places, _looked(snapshot, saved))


def _looked(snapshot: Snapshot, saved: Saved) -> dict[str, Looked]:
    found = {}
    for artifact, delta in snapshot.deltas.items():
        _, path, before = saved.artifacts[artifact]
        digest = f"{(int(before, 16) + delta.hashes) & ALL_BITS:032x}"
        found[path] = Looked(digest, before, delta.entries, partial(snapshot.is_still, artifact))
    return found


def _known(entry: Entry, inputs: tuple[Target, ...]) -> Target:
    kind = _KeptTree if entry.output == "tree" else Kept
    rule = kind(base=None, inputs=inputs, scratched=(), steps_kept=b"", kind=entry.rule)
    return Target(entry.name, rule, None, inputs=inputs)


def _target(entry: Entry, saved: Saved, targets: dict[int, Target]) -> Target:
    found: list[Artifact] = [
        targets[each] if each >= 0 else Source(path=saved.artifacts[~each][0]) for each in entry.inputs
    ]
    rest = pickle.loads(entry.rest)  # noqa: S301  written by this user's forge alone
    location, pools, timeout_s, budget, base, scratched, secrets, steps = rest
    for index, secret in secrets:
        found.insert(index, secret)
    inputs = tuple(found)
    rule = (_KeptTree if entry.output == "tree" else Kept)(
        base=None if base is None else inputs[base], inputs=inputs, scratched=scratched, steps_kept=steps,
        kind=entry.rule,
    )  # fmt: skip
    return Target(entry.name, rule, location, pools=pools, timeout_s=timeout_s, budget=budget, inputs=inputs)


def _result(entry: Entry) -> Result:
    return Result(entry.output, *entry.result)  # type: ignore[arg-type]  # it is what a Result had


# Keeping -------------------------------------------------------------------------------------------------------------


class Occasion(NamedTuple):
    """What a snapshot is made of beside the plan."""

    key: Key
    lock: str
    generation: str
    boot: str
    began_ns: int
    """When forge began, since 1970."""


def keep(planner: Planner, store: str, wanted: Collection[Target], occasion: Occasion) -> None:
    """Keep what a run knew that evaluated the Forgefile and left nothing to do."""
    reads = planner.reads
    if not reads.steady:
        return
    closure = planner.graph.closure(wanted)
    places = {target: place for place, target in enumerate(closure)}
    artifacts: dict[tuple[str, str, str], int] = {}

    def number(name: str, path: str) -> int:
        return artifacts.setdefault((name, path, planner.digest(path)), len(artifacts))

    entries = [tuple(_entry(planner, target, places, number)) for target in closure]
    secret = _secret_variables(planner, closure)
    files = [os.path.join(planner.root, each.file) for t in closure for each in planner.secrets(t) if each.file]
    read = {**reads.paths, **dict.fromkeys(files, True)}
    fixed = {**watched(reads, read, occasion.began_ns), **_outputs(planner, store, wanted)}
    listing = _Listing(list(fixed), array("q", fixed.values()), bytearray())
    resolved = {path: real for path in fixed if (real := os.path.realpath(path)) != path}
    spans = []
    for _, path, _ in artifacts:
        real = os.path.realpath(path)
        if real != path:
            resolved[path] = real
        spans.append(len(listing.paths))
        listing.add(real, planner.seen(path), {})
    spans.append(len(listing.paths))
    tools_found = dict(pair for target in closure for pair in planner.describe(target).tools)
    facts = Facts(
        token=os.urandom(8).hex(),
        lock=occasion.lock,
        generation=occasion.generation,
        boot=occasion.boot,
        line=nothing_done([t.name for t in wanted if t.output == "file"] or [t.name for t in closure], len(closure)),
        variables=tuple((name, value) for name, value in reads.variables.items() if name not in secret),
        secrets=tuple(secret.items()),
        resolved=tuple(resolved.items()),
        tools=tuple(tools_found.items()),
        folders=tuple((folder, names_in(folder)) for folder in reads.folders),
        fixed=len(fixed),
        runs=runs_of(listing.paths),
        statuses=listing.statuses.tobytes(),
        hashes=bytes(listing.hashes),
        spans=spans,
    )
    options = tuple(map(tuple, planner.graph.options))
    graph = Saved(entries, list(artifacts), tuple(places[target] for target in wanted), options)
    save(os.path.join(store, SNAPSHOTS), occasion.key, facts, tuple(graph))


def _entry(
    planner: Planner, target: Target, places: Mapping[Target, int], number: Callable[[str, str], int]
) -> Entry:
    """Return what is kept of a target; `number` gives the number of an artifact by its name and path."""
    described = planner.describe(target)
    inputs = tuple(
        ~number(each.path, planner.source_path(each)) if isinstance(each, Source) else places[each]
        for each in target.inputs
        if not isinstance(each, Secret)
    )
    tools = tuple(~number("", path) for _, path in described.tools)
    rest = (
        target.location,
        target.pools,
        target.timeout_s,
        target.budget,
        target.inputs.index(target.base) if target.base else None,
        tuple(target.inputs.index(tree) for tree in described.scratched),
        tuple((index, each) for index, each in enumerate(target.inputs) if isinstance(each, Secret)),
        pickle.dumps(described.steps),
    )
    result = planner.results[target]
    return Entry(target.name, target.output, kind_of(target), inputs, tools, pickle.dumps(rest), result[1:])


def keep_part(planner: Planner, store: str, snapshot: Snapshot, part: Part, occasion: Occasion) -> None:
    """Keep what a run knew that planned and built a part of what a snapshot had."""
    facts, saved = snapshot.facts, part.saved
    listing = _Listing(facts.paths, array("q", facts.statuses), bytearray(facts.hashes))
    spans, runs = facts.spans, facts.runs
    for artifact in sorted(snapshot.changed, reverse=True):
        path = saved.artifacts[artifact][1]
        saved.artifacts[artifact] = (*saved.artifacts[artifact][:2], planner.digest(path))
        if artifact in snapshot.deltas:
            continue  # the facts have it as it is
        first, end = spans[artifact : artifact + 2]
        new = _Listing([], array("q"), bytearray())
        at = (first - facts.fixed) * 16
        hashes = {
            (path, status): facts.hashes[at + 16 * number : at + 16 * number + 16]
            for number, (path, status) in enumerate(
                zip(listing.paths[first:end], listing.statuses[first:end], strict=True)
            )
        }
        new.add(os.path.realpath(path), planner.seen(path), hashes)
        listing.paths[first:end] = new.paths
        listing.statuses[first:end] = new.statuses
        listing.hashes[(first - facts.fixed) * 16 : (end - facts.fixed) * 16] = new.hashes
        longer = len(new.paths) - (end - first)
        spans = [*spans[: artifact + 1], *(at + longer for at in spans[artifact + 1 :])] if longer else spans
        runs = []
    places = {path: number for number, path in enumerate(listing.paths[: facts.fixed])}
    for path, status in _outputs(planner, store, part.wanted).items():
        listing.statuses[places[path]] = status
    for target, result in planner.results.items():
        if target.name in part.places:
            place = part.places[target.name]
            saved.entries[place] = tuple(Entry(*saved.entries[place])._replace(result=result[1:]))
    facts = facts._replace(
        token=os.urandom(8).hex(),
        generation=occasion.generation,
        runs=runs or runs_of(listing.paths),
        statuses=listing.statuses.tobytes(),
        hashes=bytes(listing.hashes),
        spans=spans,
    )
    save(os.path.join(store, SNAPSHOTS), occasion.key, facts, tuple(saved))


def _secret_variables(planner: Planner, targets: Collection[Target]) -> dict[str, str | None]:
    """Return the variables that are secrets, and that targets took or the Forgefile read, with their digests."""
    taken = {secret.env for target in targets for secret in planner.secrets(target)}
    found: dict[str, str | None] = {}
    for name in filter(None, {secret.env for secret in planner.graph.secrets}):
        if name not in taken and name not in planner.reads.variables:
            continue
        value = os.environb.get(os.fsencode(name))
        found[name] = None if value is None else planner.secret_digest(value)
    return found


class _Listing(NamedTuple):
    """The flat lists of a snapshot, while they grow."""

    paths: list[str]
    statuses: "array[int]"
    hashes: bytearray

    def add(self, real: str, seen: Seen | None, hashes: Mapping[tuple[str, int], bytes]) -> None:
        """Add what was seen of an artifact at a path without links; the artifact itself comes first in it.

        `hashes` has those of paths whose status is the same.
        """
        for name, (key, entry) in (seen or {}).items():
            path = f"{real}/{name}" if name else real
            status = UNSURE if key is None else hash(key)
            self.paths.append(path)
            self.statuses.append(status)
            known = hashes.get((path, status)) if status != UNSURE else None
            self.hashes.extend(known or entry_hash(name, entry).to_bytes(16))


def watched(reads: Reads, read: Mapping[str, bool], began_ns: int) -> dict[str, int]:
    """Return the statuses of forge's modules and of the paths in `read`, and where their links lead.

    They are unsure of what changed since forge began, as are those of folders that `reads` saw listed.
    """
    found: dict[str, int] = {}
    modules = [module.__file__ for name, module in sys.modules.items() if name.partition(".")[0] == "forgefile"]
    for path, was_there in {**dict.fromkeys(filter(None, modules), True), **read}.items():
        real = os.path.realpath(path)
        sure = is_there(path) == was_there and _is_old(path, began_ns) and _is_old(real, began_ns)
        found[path] = status_of(path) if sure else UNSURE
        found[real] = status_of(real) if sure else UNSURE
    for folder, was_there in reads.folders.items():
        if is_there(folder) != was_there or not _is_old(folder, began_ns):
            found[folder] = UNSURE
    return found


def _is_old(path: str, began_ns: int) -> bool:
    """Tell whether a path is as it was when forge began, as far as its times tell."""
    try:
        status = os.lstat(path)
    except OSError:
        return True
    return not is_fresh(status, began_ns)


def _outputs(planner: Planner, store: str, wanted: Iterable[Target]) -> dict[str, int]:
    """Return the folders of outputs and the places of what was asked for, with their statuses."""
    found = {path: status_of(path) for path in (os.path.join(store, OBJECTS), os.path.join(store, LAYERS))}
    for target in wanted:
        if target.output == "file":
            found[planner.place_of(target)] = planner.placed_status(target)
    return found
