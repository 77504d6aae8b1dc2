"""The loop: decides, runs, records and tells. The only module that knows both the pure core and the I/O.

`build` runs what the plan says and decides the rest on the way, as soon as a target's inputs are known: so a target
that is rebuilt to the same content stops the rebuild there.
"""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from forgefile import events, host
from forgefile.cache.records import Record
from forgefile.cache.store import Store, project_of
from forgefile.errors import ForgefileError, UsageError
from forgefile.fingerprint import encode, fingerprint
from forgefile.graph import Graph, inputs, remaining
from forgefile.job import Job, View
from forgefile.loader import load
from forgefile.model import Sandbox, Source, Target
from forgefile.plan import Decision
from forgefile.planner import Planner
from forgefile.schedule import Schedule

if TYPE_CHECKING:
    from forgefile.executor import JobResult, Message, Pool

EPOCH = 1_735_689_600
"""2025-01-01, the clock of all builds unless SOURCE_DATE_EPOCH says otherwise."""
_SECONDS_UNKNOWN = 1.0
"""What a target that never ran is expected to take, in seconds."""


class Settings(NamedTuple):
    """How a build is to be run."""

    jobs: int
    keep_going: bool = False


class Project(NamedTuple):
    """A Forgefile as evaluated, with its store."""

    root: str
    graph: Graph
    store: Store
    planner: Planner

    @classmethod
    def open(cls, file: str, definitions: Sequence[str], *, read_only: bool, stand: str = ".",
             store: str | None = None) -> "Project":  # fmt: skip
        """Evaluate a Forgefile with `NAME=VALUE` definitions and open its store (see `store_of`).

        `stand` is the folder in which the user is, from which places are shown.
        Raises `UsageError` and `ForgefileError`; read-only, nothing is written.
        """
        path = os.path.abspath(file)
        graph = load(path, settings(definitions))
        root = os.path.dirname(path)
        folder = store_of(path, store)
        _refuse_within(folder, root, graph)
        found = Store.open(folder, project=project_of(folder, path), read_only=read_only)
        return cls(root, graph, found, Planner(root, graph, found, _epoch(), os.path.abspath(stand)))

    def close(self) -> None:
        """Let go of the store."""
        self.store.records.close()


def store_of(file: str, store: str | None = None) -> str:
    """Return the absolute path of the store of a Forgefile.

    That is the folder `store`, or else the one that FORGE_STORE names, or else .forge beside the Forgefile.
    """
    named = os.environ.get("FORGE_STORE") or None if store is None else store
    if named == "":
        raise UsageError("--store names no folder")
    return os.path.abspath(named or os.path.join(os.path.dirname(os.path.abspath(file)), ".forge"))


def _refuse_within(store: str, root: str, graph: Graph) -> None:
    """Raise `ForgefileError` when a source holds the store, or a target would be placed in it."""
    if store == os.path.join(root, ".forge"):
        return  # refused where they are declared
    real, project = os.path.realpath(store) + os.sep, os.path.realpath(root)
    holds = {artifact: target for target in graph.targets.values() for artifact in target.inputs
             if isinstance(artifact, Source)
             and real.startswith(os.path.realpath(os.path.join(root, artifact.path)) + os.sep)}  # fmt: skip
    places = {target: target for target in graph.targets.values() if f"{project}/{target.name}".startswith(real)}
    for artifact, target in (*holds.items(), *places.items()):
        what = f"the source '{artifact.path}' holds" if isinstance(artifact, Source) else f"'{target.name}' lies in"
        raise ForgefileError(f"{what} the store {store}", location=target.location, hint="name another with --store")


def settings(definitions: Sequence[str]) -> dict[str, str]:
    """Return `NAME=VALUE` definitions as a mapping. Raises `UsageError` for any other form."""
    found = {}
    for definition in definitions:
        name, equals, value = definition.partition("=")
        if not equals or not name:
            raise UsageError(f"-D {definition}: expected NAME=VALUE")
        found[name] = value
    return found


def _epoch() -> int:
    text = os.environ.get("SOURCE_DATE_EPOCH", str(EPOCH))
    if not text.isdecimal():
        raise UsageError(f"SOURCE_DATE_EPOCH is {text!r}; expected seconds since 1970")
    return int(text)


Tell = Callable[[events.Event], None]
Clock = Callable[[], float]
"""Seconds since forge started."""


def planned(planner: Planner, decisions: Mapping[Target, Decision], now: float) -> list[events.Planned]:
    """Return the events that tell of a plan."""
    return [
        events.Planned(
            t=now, target=target.name, action=decision.action, reasons=decision.reasons,
            expected_s=planner.expected(target),
        )
        for target, decision in decisions.items()
    ]  # fmt: skip


def build(
    planner: Planner, store: Store, wanted: Collection[Target], settings: Settings, *, tell: Tell, clock: Clock
) -> int:
    """Build targets; return the exit status. Every move is told.

    Raises `UsageError` before anything ran when a tool or source is missing, the disk is full or a place is taken.
    """
    decisions = planner.plan(wanted)
    if all(decision.action == "none" for decision in decisions.values()):
        return _Build(planner, store, decisions, wanted, settings, tell=tell, clock=clock).run()

    def waits(holder: str) -> None:
        tell(events.Note(t=clock(), message=f"waiting for the forge that builds here (process {holder})"))

    if store.records.read_only:
        raise UsageError(f"{store.root} cannot be written", hint="make it writable, or name another store with --store")
    with store.lock(waits) as changed:
        store.sweep()
        if store.records.fresh:
            store.discard(())
        if changed:
            decisions = planner.plan(wanted)
        store.refuse_full_disk()
        for target in wanted:
            if target.output == "file":
                store.refuse_place(planner.place_of(target))
        return _Build(planner, store, decisions, wanted, settings, tell=tell, clock=clock).run()


class _Build:
    """One run of the loop."""

    def __init__(self, planner: Planner, store: Store, decisions: Mapping[Target, Decision],
                 wanted: Collection[Target], settings: Settings, *, tell: Tell, clock: Clock) -> None:  # fmt: skip
        self._planner = planner
        self._store = store
        self._decisions = dict(decisions)
        self._wanted = frozenset(wanted)
        self._settings = settings
        self._tell = tell
        self._clock = clock
        self._schedule = Schedule(tuple(decisions))
        self._count = dict.fromkeys(("built", "restored", "current", "failed", "skipped"), 0)
        self._slots: dict[int, Target] = {}
        self._pool: Pool | None = None

    def run(self) -> int:
        """Run until nothing is left; return the exit status."""
        for event in planned(self._planner, self._decisions, self._clock()):
            self._tell(event)
        try:
            self._advance()
            while self._schedule.busy:
                self._start()
                self._listen()
                self._advance()
            status = 1 if self._count["failed"] else 0
        except KeyboardInterrupt:
            status = 130
            for target in self._slots.values():
                self._fail(target, events.Failed(t=self._clock(), target=target.name, message="interrupted"))
            self._skip(self._schedule.stop(), "the build was interrupted")
        finally:
            self._close()
        now = self._clock()
        self._tell(events.Finished(t=now, status=status, wall_s=now, **self._count))
        return status

    def _close(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None
            self._store.sweep()

    # Deciding

    def _advance(self) -> None:
        """Decide about every target that has become ready."""
        for target in self._schedule.ready():
            decision = self._decisions[target]
            if decision.action == "maybe":
                decision = self._decisions[target] = self._planner.decide(target, placed=target in self._wanted)
            if decision.action == "run":
                self._schedule.queue(target)
                continue
            path = None
            if target in self._wanted and target.output == "file":
                path = self._planner.shown_place(target)
            if decision.action == "restore":
                self._restore(target)
                self._told("restored", events.Restored(
                    t=self._clock(), target=target.name, path=path, reasons=decision.reasons))  # fmt: skip
            else:
                self._told("current", events.Current(t=self._clock(), target=target.name, path=path))
            self._schedule.done(target)

    def _restore(self, target: Target) -> None:
        self._store.records.make_current(target.name, fingerprint(self._planner.manifests[target]))
        self._place(target)

    def _place(self, target: Target) -> str | None:
        """Put a file that was asked for at its place; return the place."""
        if target not in self._wanted or target.output != "file":
            return None
        self._store.place(self._planner.results[target], self._planner.place_of(target))
        return self._planner.shown_place(target)

    def _told(self, count: str, event: events.Event) -> None:
        self._count[count] += 1
        self._tell(event)

    # Running

    def _start(self) -> None:
        """Give queued targets to free workers, the longest way to the end first."""
        if self._pool is None:
            from forgefile.executor import Pool  # noqa: PLC0415  only a build that runs something needs it

            self._pool = Pool(self._settings.jobs)
        free = self._pool.free
        for slot, target in zip(free, self._schedule.start(self._priorities, len(free)), strict=False):
            self._slots[slot] = target
            decision = self._decisions[target]
            self._tell(events.Started(t=self._clock(), target=target.name, reasons=decision.reasons,
                                      expected_s=self._planner.expected(target), worker=slot))  # fmt: skip
            self._pool.submit(slot, self._job(target))

    def _priorities(self, _: Collection[Target]) -> Mapping[Target, float]:
        return remaining(tuple(self._decisions), lambda target: self._planner.expected(target) or _SECONDS_UNKNOWN)

    def _job(self, target: Target) -> Job:
        described = self._planner.describe(target)
        name = fingerprint(self._planner.manifests[target])
        self._store.records.keep_log(target.name, name)
        base = getattr(target.rule, "base", None) if target.output == "tree" else None
        return Job(
            target=target.name,
            store=self._store.root,
            staging=self._store.stage(),
            log=self._store.log_path(name),
            steps=described.steps,
            views=self._views(target),
            programs=host.unusual(described.tools),
            output=target.output,
            base=self._planner.results[base].layers if isinstance(base, Target) else None,
            epoch=self._planner.epoch,
        )

    def _views(self, target: Target) -> tuple[View, ...]:
        """Return the target's inputs as its steps see them."""
        box, views = Sandbox(), []
        scratched = self._planner.describe(target).scratched
        for artifact in target.inputs:
            if isinstance(artifact, Source):
                views.append(View(at=box.path(artifact), host=self._planner.source_path(artifact)))
                continue
            result = self._planner.results[artifact]
            if result.kind == "file":
                views.append(View(at=box.path(artifact), host=self._store.object_path(result.digest)))
                continue
            views.append(View(at=box.path(artifact), layers=result.layers))
            if artifact in scratched:
                views.append(View(at=box.scratch(artifact), layers=result.layers, writable=True))
        return tuple(views)

    def _listen(self) -> None:
        """Wait for a worker's message and take it up."""
        if self._pool is None or not self._slots:
            return
        for slot, message in self._pool.messages():
            self._hear(self._slots[slot], slot, message)

    def _hear(self, target: Target, slot: int, message: "Message") -> None:
        from forgefile.executor import Printed, StepBegan  # noqa: PLC0415

        if isinstance(message, StepBegan):
            self._tell(events.StepStarted(t=self._clock(), target=target.name, command=message.command))
        elif isinstance(message, Printed):
            for line in message.lines:
                self._tell(events.Output(t=self._clock(), target=target.name, line=line))
        else:
            del self._slots[slot]
            self._ended(target, message)

    def _ended(self, target: Target, result: "JobResult") -> None:
        """Record what a job made and go on above it, or tell how it failed."""
        changed = self._changed_meanwhile(target)
        if result.committed is None or changed is not None:
            self._fail(target, self._failure(target, result, changed))
            return
        manifest, made = self._planner.manifests[target], result.committed.result
        records = self._store.records
        before = records.current(target.name)
        with records.together():
            for digest, seen in self._planner.listings(target).items():
                records.keep_listing(digest, seen)
            if result.committed.key is None:
                records.keep_layer(made.layers[-1])
            else:
                records.keep_object_key(made.digest, result.committed.key)
            reasons = self._decisions[target].reasons
            name, text = fingerprint(manifest), encode(manifest)
            records.remember(
                Record(name, target.name, text, made, result.seconds, reasons, self._planner.options)
            )
        self._planner.results[target] = made
        path = self._place(target)
        self._told("built", events.Built(
            t=self._clock(), target=target.name, wall_s=result.seconds, size=made.size, path=path,
            changed=before is None or before.result.digest != made.digest,
        ))  # fmt: skip
        self._schedule.done(target)

    def _changed_meanwhile(self, target: Target) -> str | None:
        """Return the input of a target that is no longer what it was when the target began, or None."""
        for needed in inputs(target):
            if self._store.problem(self._planner.results[needed]) is not None:
                return needed.name
        return self._planner.changed_meanwhile(target)

    def _failure(self, target: Target, result: "JobResult", changed: str | None) -> events.Failed:
        message, command, hint = f"{changed} changed while it was used", "", "run forge again"
        if result.failed is not None:
            command, message, hint = result.failed.command, result.failed.message, result.failed.hint or ""
        log = self._store.log_path(fingerprint(self._planner.manifests[target]))
        return events.Failed(
            t=self._clock(), target=target.name, message=message, command=command or None, tail=result.tail,
            location=str(target.location) if target.location else None, hint=hint or None, log=log,
            wall_s=result.seconds,
        )  # fmt: skip

    def _fail(self, target: Target, event: events.Failed) -> None:
        """Tell of a failed target and give up what needs it; without -k also all that has not begun."""
        self._told("failed", event)
        self._skip(self._schedule.fail(target), target.name)
        if not self._settings.keep_going:
            self._skip(self._schedule.stop(), target.name)

    def _skip(self, targets: Collection[Target], because: str) -> None:
        for target in targets:
            self._told("skipped", events.Skipped(t=self._clock(), target=target.name, because=because))
