"""What is to be done about each target: the pure core asked about the files and records of this project.

A target's manifest is known as soon as its inputs are. Unaware of how steps are run.
"""

import json
import os
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from forgefile import host
from forgefile.cache.digest import Seen, scan
from forgefile.cache.records import Record
from forgefile.cache.seal import Result
from forgefile.cache.snapshot import UNSURE
from forgefile.cache.store import Store
from forgefile.errors import ForgeError, ForgefileError, UsageError
from forgefile.fingerprint import SANDBOX, Listing, Manifest, canonical, fingerprint, resumed
from forgefile.graph import Graph, critical, inputs, remaining
from forgefile.model import Artifact, Sandbox, Secret, Source, Step, Target, tools
from forgefile.plan import Decision, Known, decide, undecided
from forgefile.reads import Reads

_PACKAGE_PARENT = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep

_SECONDS_UNKNOWN = 1.0
"""What a target that never ran is expected to take where some target has to be first, in seconds."""


class Described(NamedTuple):
    """What a target's rule says: its steps, and what they see and use."""

    steps: tuple[Step, ...]
    texts: tuple[str, ...]
    """The steps in canonical JSON."""
    scratched: tuple[Target, ...]
    """The input trees that are shown writable."""
    tools: tuple[tuple[str, str], ...]
    """(name, path) of host programs and data files."""


class Looked(NamedTuple):
    """What was found of a source or tool without a scan, in which nothing was added or removed."""

    digest: str
    before: str
    """The digest of what it was."""
    entries: Listing
    """What differs from that."""
    is_still: Callable[[], bool]
    """Tells whether it is the same by now."""


class Evaluation(NamedTuple):
    """What a Forgefile said."""

    graph: Graph
    reads: Reads
    """What it looked at."""
    known: Mapping[Target, Result] = {}
    """The results of targets that are up to date without asking."""
    looked: Mapping[str, Looked] = {}
    """What is known of sources and tools that changed."""


class Planner:
    """Plans the targets of one graph in one store.

    `root` is the project folder, `epoch` in seconds, `stand` the folder in which the user is.
    """

    def __init__(self, root: str, evaluation: Evaluation, store: Store, epoch: int, stand: str) -> None:
        self.root = root
        self.epoch = epoch
        self._stand = stand
        self.results: dict[Target, Result] = {}
        """Of the targets that need not run, or have run."""
        self.manifests: dict[Target, Manifest] = {}
        self.resumes = False
        """Whether results that are not clean are as good as others."""
        self.graph, self.reads, self.known, self._looked = evaluation
        self.options = tuple((option.name, option.value) for option in self.graph.options)
        self._store = store
        self._records = store.records
        self._steps: dict[Target, tuple[Sandbox, tuple[Step, ...], tuple[str, ...]]] = {}
        self._described: dict[Target, Described] = {}
        self._tools: dict[str, str | None] = {}
        self._digests: dict[str, str] = {}
        self._paths: dict[str, str] = {}
        """By digest, a path that was scanned."""
        self._seen: dict[str, tuple[str, Seen]] = {}
        self._listings: dict[str, Listing | None] = {}
        self._contents: dict[Secret, bytes] = {}
        self._key = b""

    def plan(self, wanted: Collection[Target]) -> dict[Target, Decision]:
        """Decide about targets and all that they need, as far as can be told before anything runs; inputs first.

        Raises `UsageError` when a host tool, a source or a secret is missing.
        """
        self.results.clear()
        self._digests.clear()
        self._listings.clear()
        self._contents.clear()
        closure = self.graph.closure(wanted)
        with self.reads:
            for target in closure:
                if target not in self._steps and target not in self.known:
                    box = Sandbox()
                    self._steps[target] = box, *_steps(target, box)
        for target in closure:
            if target not in self.known:
                self.describe(target)
                self.secrets(target)
        self._refuse_told(closure)
        decisions: dict[Target, Decision] = {}
        for target in closure:
            if target in self.known:
                self.results[target] = self.known[target]
                decisions[target] = Decision("none")
                continue
            dirty = tuple(needed.name for needed in inputs(target) if needed not in self.results)
            decisions[target] = undecided(dirty) if dirty else self.decide(target, placed=target in wanted)
        return decisions

    def expected(self, target: Target) -> float | None:
        """Return how many seconds a target took last, if it ever ran."""
        return self._records.seconds(target.name)

    def remaining(self, targets: Collection[Target]) -> dict[Target, float]:
        """Return the longest way from the start of each target, inputs first, to the end, in expected seconds."""
        return remaining(targets, self._seconds)

    def critical(self, targets: Collection[Target]) -> tuple[Target, ...]:
        """Return the longest way through targets in expected seconds, the first to run first."""
        return critical(targets, self._seconds)

    def _seconds(self, target: Target) -> float:
        return self.expected(target) or _SECONDS_UNKNOWN

    def place_of(self, target: Target) -> str:
        """Return the path of the project at which a file target is placed."""
        return os.path.join(self.root, target.name)

    def placed_status(self, target: Target) -> int:
        """Return the status that a file target had when it was placed, in the 64 bits of `snapshot.status_of`."""
        placed = self._records.placed(self.place_of(target))
        return UNSURE if placed is None else hash(placed[1])

    def shown_place(self, target: Target) -> str:
        """Return the place of a file target as the user would write it."""
        return os.path.relpath(self.place_of(target), self._stand)

    def describe(self, target: Target) -> Described:
        """Return a planned target's steps with the tools that they use, found once."""
        if target not in self._described:
            box, steps, texts = self._steps[target]
            names = dict.fromkeys(name for step in steps for name in tools(step))
            for name in names.keys() - self._tools.keys():
                self._tools[name] = host.find(name)
            found = {name: self._tools[name] for name in names}
            if missing := [name for name, path in found.items() if path is None]:
                raise host.missing_error(missing, target.name, target.location)
            pairs = tuple((name, path) for name, path in found.items() if path is not None)
            self._described[target] = Described(steps, texts, tuple(box.scratched), pairs)
        return self._described[target]

    def decide(self, target: Target, *, placed: bool) -> Decision:
        """Decide about a target whose inputs are known; note its result when it need not run.

        `placed`: it was asked for, so that a file output has to lie at its place, too.
        """
        manifest = self.manifest(target)
        current = self._records.current(target.name)
        if self.resumes and current and current.fingerprint == fingerprint(resumed(manifest)):
            manifest = resumed(manifest)
        self.manifests[target] = manifest
        wanted = fingerprint(manifest)
        found = current if current and current.fingerprint == wanted else self._records.find(wanted, target.name)
        lost = self._store.problem(found.result) if found else None
        known = Known(
            last=current.manifest if current and (current is not found or lost) else None,
            current=found is not None and current is found,
            available=found is not None and lost is None,
            lost=lost,
        )
        decision = self._naming_options(decide(manifest, known, self._listing), current)
        if found is None or lost is not None:
            return decision
        self.results[target] = found.result
        if decision.action == "none" and placed and target.output == "file":
            return self._decide_place(target, found) or decision
        return decision

    def _naming_options(self, decision: Decision, current: Record | None) -> Decision:
        """Add to reasons that tell of a changed value the name of the option that brought it."""
        before = dict(current.options) if current else {}
        changed = [(o.name, before[o.name], o.value) for o in self.graph.options if o.name in before]
        reasons = list(decision.reasons)
        for name, old, new in changed:
            for number, reason in enumerate(reasons):
                if old != new and f"{old} → {new}" in reason:
                    reasons[number] = f"{reason} (option {name})"
        return decision._replace(reasons=tuple(reasons))

    def _decide_place(self, target: Target, record: Record) -> Decision | None:
        path = self.place_of(target)
        if self._store.is_placed(record.result, path):
            return None
        there = "is not there"
        if os.path.lexists(path):
            there = "is an earlier result" if self._store.is_as_placed(path) else "was changed since it was built"
        return Decision("restore", (f"{target.name} {there}",))

    def manifest(self, target: Target) -> Manifest:
        """Return what decides a target whose inputs are known."""
        described = self.describe(target)
        return Manifest(
            output=target.output,
            epoch=self.epoch,
            steps=described.texts,
            inputs=tuple(self.named_digest(artifact, target) for artifact in target.inputs),
            tools=tuple((name.removeprefix(_PACKAGE_PARENT), self.digest(path)) for name, path in described.tools),
            sandbox=(
                str(SANDBOX),
                *(f"base {tree.name}" for tree in (target.base,) if tree),
                *(f"scratch {tree.name}" for tree in described.scratched),
            ),
        )

    def named_digest(self, artifact: Artifact, target: Target) -> tuple[str, str]:
        """Return an input of a target as its manifest has it: the name and the digest."""
        if isinstance(artifact, Source):
            return artifact.path, self._source_digest(artifact, target)
        if isinstance(artifact, Secret):
            return f"secret '{artifact.name}'", self.secret_digest(self.secrets(target)[artifact])
        return artifact.name, self.results[artifact].digest

    def secrets(self, target: Target) -> dict[Secret, bytes]:
        """Return the contents of a target's secrets as they were when this run first looked at them.

        Raises `UsageError` when one cannot be read.
        """
        wanted = [artifact for artifact in target.inputs if isinstance(artifact, Secret)]
        if wanted:
            from forgefile.secret import read  # noqa: PLC0415  most targets have none

            for secret in wanted:
                if secret not in self._contents:
                    self._contents[secret] = read(secret, self.root, target.location)
        return {secret: self._contents[secret] for secret in wanted}

    def secret_contents(self) -> list[bytes]:
        """Return the contents of all secrets that this run has looked at."""
        return list(self._contents.values())

    def _refuse_told(self, targets: Collection[Target]) -> None:
        """Raise `ForgefileError` when a step has a secret in it, which is to be in a file alone."""
        for secret, content in self._contents.items():
            bare = json.dumps(os.fsdecode(content.strip()), ensure_ascii=False)[1:-1]
            for target in targets:
                if target not in self.known and any(bare in text for text in self._steps[target][2]):
                    raise ForgefileError(
                        f"target '{target.name}': its steps have the secret '{secret.name}' in them",
                        location=target.location,
                        hint="give the rule what forge.secret returned; it stands for the path of a file",
                    )

    def secret_digest(self, content: bytes) -> str:
        """Return the digest of a secret by the store's key."""
        from forgefile.cache.keyed import digest  # noqa: PLC0415  likewise

        self._key = self._key or self._store.key()
        return digest(self._key, content)

    def _source_digest(self, source: Source, target: Target) -> str:
        try:
            return self.digest(self.source_path(source))
        except OSError as error:
            raise UsageError(
                f"the source '{source.path}' of target '{target.name}' cannot be read: {error.strerror}",
                location=target.location,
            ) from error

    def source_path(self, source: Source) -> str:
        """Return where a source lies."""
        return os.path.normpath(os.path.join(self.root, source.path))

    def digest(self, path: str) -> str:
        """Return the digest of a source or tool as it was when this run first looked at it. Raises OSError."""
        if path not in self._digests:
            self._digests[path] = self._looked[path].digest if path in self._looked else self._scan(path)
        return self._digests[path]

    def changed_meanwhile(self, target: Target) -> str | None:
        """Return the source or secret of a target that is not what it was when its manifest was made, or None."""
        for secret, content in self.secrets(target).items():
            from forgefile.secret import is_still  # noqa: PLC0415  most targets have none

            if not is_still(secret, self.root, content):
                return f"the secret '{secret.name}'"
        for source in target.inputs:
            if isinstance(source, Source):
                path = self.source_path(source)
                if not self._is_still(path):
                    return source.path
        return None

    def _is_still(self, path: str) -> bool:
        if path in self._looked:
            return self._looked[path].is_still()
        try:
            return self._scan(path) == self._digests[path]
        except OSError:
            return False

    def seen(self, path: str) -> Seen | None:
        """Return what was seen of a source or tool, or None when this run did not look."""
        return self._seen[path][1] if path in self._seen else None

    def listings(self, target: Target) -> dict[str, Listing]:
        """Return by digest what the sources of a target hold, as far as that is known."""
        digests = {self._digests[self.source_path(source)] for source in target.inputs if isinstance(source, Source)}
        return {digest: listing for digest in digests if (listing := self._listing(digest)) is not None}

    def _listing(self, digest: str) -> Listing | None:
        """Return what the source with a digest holds, or held."""
        if digest not in self._listings:
            self._listings[digest] = self._find_listing(digest)
        return self._listings[digest]

    def _find_listing(self, digest: str) -> Listing | None:
        if (path := self._paths.get(digest)) is not None:
            return {name: entry for name, (_, entry) in self._seen[path][1].items()}
        if found := next((each for each in self._looked.values() if each.digest == digest), None):
            before = self._listing(found.before)
            return None if before is None else {**before, **found.entries}
        return self._records.listing(digest)

    def _scan(self, path: str) -> str:
        real = os.path.realpath(path)
        digest, seen = self._seen.get(path) or self._records.seen(real)
        found = scan(real, seen, digest)
        if found.changed:
            self._records.keep_seen(real, found.digest, found.seen)
        self._seen[path] = found.digest, found.seen
        self._paths[found.digest] = path
        return found.digest


def _steps(target: Target, box: Sandbox) -> tuple[tuple[Step, ...], tuple[str, ...]]:
    """Return the steps of a target's rule, as values and in canonical JSON."""
    try:
        steps = tuple(target.rule.steps(box))
        if wrong := [step for step in steps if not isinstance(step, Step)]:
            raise TypeError(f"{wrong[0]!r} is no step")  # noqa: TRY301  told below like any fault of the rule
        return steps, tuple(canonical(step) for step in steps)
    except ForgeError:
        raise
    except Exception as error:
        rule = type(target.rule).__name__
        raise ForgefileError(
            f"target '{target.name}': {rule}.steps failed: {type(error).__name__}: {error}", location=target.location
        ) from error
