"""The loop: decides, runs, records and tells. The only module that knows both the pure core and the I/O.

`build` runs what the plan says and decides the rest on the way, as soon as a target's inputs are known: so a target
that is rebuilt to the same content stops the rebuild there.
"""

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from forgefile import events, forecast, host
from forgefile.cache.layout import store_in
from forgefile.cache.records import Record
from forgefile.cache.snapshot import Key, Snapshot, boot, generation
from forgefile.cache.store import Store, project_of
from forgefile.channel import Channel, readable
from forgefile.errors import ForgefileError, OvertakenError, StoreError, UsageError
from forgefile.fingerprint import encode, fingerprint, is_whole, resumed
from forgefile.graph import Graph, inputs
from forgefile.job import Again, Fetched, Job, JobResult, Message, Printed, SecretFile, StepBegan, View
from forgefile.jobserver import Jobserver
from forgefile.model import CORES, MEMORY, Run, Sandbox, Secret, Source, Target
from forgefile.nursery import Nursery
from forgefile.plan import Decision
from forgefile.planner import Evaluation, Planner
from forgefile.reads import Reads
from forgefile.schedule import Schedule, State

if TYPE_CHECKING:
    from forgefile.executor import Pool
    from forgefile.resume import Part

EPOCH = 1_735_689_600
"""2025-01-01, the clock of all builds unless SOURCE_DATE_EPOCH says otherwise."""
_OVERTAKEN = "another forge changed the store meanwhile"
_CHANGED = "a layer was changed since it was built"
_GLANCE_S = 0.2
"""How often it is looked whether another forge has done what this one waits for."""


class Settings(NamedTuple):
    """How a build is to be run."""

    jobs: int
    keep_going: bool = False
    every_line: bool = True
    """Whether every line that steps print is told, or the latest is enough."""
    began_ns: int = 0
    """When forge began, in nanoseconds since 1970."""
    key: Key | None = None
    """What the run's snapshot goes by; None keeps none."""
    place: bool = True
    """Whether files that were asked for are placed in the project."""
    shuffled: bool = False
    """Whether steps see folders in another order than usual."""
    resume: bool = False
    """Whether what failed goes on from the step that failed."""
    tolerant: bool = False
    """Whether what is over its budget is noted and not a failure: for who looks into it."""
    newer: Channel | None = None
    """Where somebody who watches may say `Newer`: then what is still right is built to its end, and nothing else.

    When nobody is there any more, the build is interrupted."""


class Project(NamedTuple):
    """A Forgefile as evaluated, or the part of it that a snapshot's difference reaches, with its store."""

    root: str
    graph: Graph
    store: Store
    planner: Planner
    snapshot: Snapshot | None = None
    part: "Part | None" = None

    @classmethod
    def open(
        cls, file: str, definitions: Sequence[str], *, read_only: bool, stand: str = ".", store: str | None = None,
        snapshot: Snapshot | None = None, reads: Reads | None = None,
    ) -> "Project":  # fmt: skip
        """Evaluate a Forgefile with `NAME=VALUE` definitions and open its store (see `store_of`).

        `reads` is told what the evaluation looks at, also when that fails. `stand` is the folder in which the user is,
        from which places are shown. With a snapshot of the same command line, in which only artifacts changed, nothing
        is evaluated; unless read-only, the rest of the graph is left out.
        Raises `UsageError` and `ForgefileError`; read-only, nothing is written.
        """
        path, reads = os.path.abspath(file), reads or Reads()
        part = None
        if snapshot is not None:
            from forgefile.resume import part as part_of  # noqa: PLC0415  only where there is one

            part = part_of(snapshot, whole=read_only)
        if part is None:
            snapshot = None
            from forgefile.loader import load  # noqa: PLC0415  not with a snapshot

            graph = load(path, settings(definitions), reads)
        else:
            graph = part.graph
        root = os.path.dirname(path)
        folder = store_of(path, store)
        _refuse_within(folder, root, graph)
        _refuse_shown(root, graph)
        found = Store.open(folder, project=project_of(folder, path), read_only=read_only)
        evaluation = Evaluation(graph, reads, part.known, part.looked) if part else Evaluation(graph, reads)
        planner = Planner(root, evaluation, found, _epoch(), os.path.abspath(stand))
        project = cls(root, graph, found, planner, snapshot, part)
        if any(found.problem(result) is not None for result in evaluation.known.values()):
            project.close()
            return cls.open(file, definitions, read_only=read_only, stand=stand, store=store)
        return project

    def wanted(self, words: Collection[str]) -> tuple[Target, ...]:
        """Return the targets that names and globs select; of a part, those that it has of them."""
        return self.graph.select(words) if self.part is None else self.part.wanted

    def use(self, wanted: Collection[Target]) -> None:
        """Note that the results of targets, and of all that they need, are used now; on a full disk nobody does."""
        with suppress(StoreError):
            self.store.records.use({target.name for target in self.graph.closure(wanted)})

    def close(self) -> None:
        """Let go of the store."""
        self.store.records.close()


def store_of(file: str, store: str | None = None) -> str:
    """Return the absolute path of the store of a Forgefile; `store` is what `--store` names.

    Raises `UsageError` when that is empty.
    """
    if store == "":
        raise UsageError("--store names no folder")
    return store_in(os.getcwd(), os.path.abspath(file), store)


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


def _refuse_shown(root: str, graph: Graph) -> None:
    """Raise `ForgefileError` when a source is, or holds, the file of a secret: its plain digest would be noted."""
    files = {secret: os.path.realpath(os.path.join(root, secret.file)) for secret in graph.secrets if secret.file}
    uses = [(target, each) for target in graph.targets.values() for each in target.inputs if isinstance(each, Source)]
    for target, source in uses if files else ():
        real = os.path.realpath(os.path.join(root, source.path)).rstrip("/")
        for secret, file in files.items():
            if f"{file}/".startswith(f"{real}/"):
                raise ForgefileError(
                    f"the source '{source.path}' shows the file of the secret '{secret.name}'",
                    location=target.location,
                    hint="keep the secret where no source is",
                )


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


class Newer(NamedTuple):
    """Word to a build that what it is made from has changed."""

    what: str
    """What changed, in words."""
    still: Mapping[str, str] | None
    """Target → fingerprint of all whose inputs are known, as they would be built now; None: that is not known."""


Tell = Callable[[events.Event], None]
Pairs = tuple[tuple[str, str], ...]
"""(name, path) of programs."""
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


def waiting(holder: str, now: float) -> events.Note:
    """Return the event that tells of a wait for another forge."""
    return events.Note(t=now, message=f"waiting for the forge that builds here (process {holder})")


def foresee(project: Project, wanted: Collection[Target]) -> dict[Target, Decision]:
    """Return what a build would decide now about targets and all that they need, inputs first. Nothing is changed.

    Raises `UsageError` when a host tool or a source is missing.
    """
    decisions = project.planner.plan(wanted)
    if any(decision.action != "none" for decision in decisions.values()):
        decisions = _on_whole_layers(project, wanted, decisions)
    if any(target.budget is not None for target in decisions):
        from forgefile import budget  # noqa: PLC0415  only where there is one

        return budget.told_of(project.planner, project.store, decisions)
    return decisions


def foretell(project: Project, wanted: Collection[Target], settings: Settings, *, tell: Tell, clock: Clock) -> None:
    """Tell what a build would do and what that would take; write nothing and run nothing.

    Raises `UsageError` when a tool or source is missing, the disk has no room for what is sure to be written, or a
    place is taken.
    """
    planner, store = project.planner, project.store
    decisions = foresee(project, wanted)
    if settings.resume:
        for target, decision in decisions.items():
            if decision.action == "run" and (how := _way_on(planner, store, target)) is not None:
                decisions[target] = decision._replace(reasons=(*decision.reasons, _told_on(how)))
    for event in planned(planner, decisions, clock()):
        tell(event)
    tell(forecast.predicted(planner, store, decisions, jobs=settings.jobs, now=clock()))
    forecast.refuse_small_disk(planner, store, decisions)
    _refuse_places(project, wanted)


def _way_on(planner: Planner, store: Store, target: Target) -> int | str | None:
    """Return the step from which a target goes on that failed, or why it is built whole; None: it did not fail."""
    from forgefile.halted import halted, resumed_at  # noqa: PLC0415  hardly ever

    stopped = halted(store.root, store.failed_name(target.name))
    return None if stopped is None else resumed_at(stopped, job_of(planner, store, target, staging="", log=""))


def _told_on(way: int | str) -> str:
    return f"goes on from step {way + 1}" if isinstance(way, int) else f"is built whole: {way}"


def _sweep(store: Store) -> None:
    """Remove what a forge left that was killed when all was done."""
    with suppress(OSError):
        if not store.records.read_only:
            store.sweep()


def build(
    project: Project, wanted: Collection[Target], settings: Settings, *, tell: Tell, clock: Clock,
    nursery: Nursery | None = None,
) -> int:
    """Build targets, with workers from `nursery` or one of its own; return the exit status. Every move is told.

    Raises `UsageError` before anything ran when a tool or source is missing, the disk has no room or a place is taken,
    and `OvertakenError` when the project relies on a snapshot that another forge made void.
    """
    planner, store = project.planner, project.store
    planner.resumes = settings.resume
    before = generation(store.root, store.lock_name)
    if project.snapshot is not None and before != project.snapshot.facts.generation:
        raise OvertakenError(_OVERTAKEN)
    decisions = planner.plan(wanted)
    placed = wanted if settings.place else ()
    run = partial(_Build, project, placed=placed, settings=settings, clock=clock, nursery=nursery)
    if all(decision.action == "none" for decision in decisions.values()):
        job = run(decisions, tell=tell)
        status = job.run()
        _sweep(store)
        if job.left_nothing and before is not None and before == generation(store.root, store.lock_name):
            _keep(project, wanted, settings, before)
        return status

    if store.records.read_only:
        raise UsageError(f"{store.root} cannot be written", hint="make it writable, or name another store with --store")

    def note(message: str) -> None:
        tell(events.Note(t=clock(), message=message))

    if store.records.fresh:
        store.discard_unknown()
    with store.lock(lambda holder: tell(waiting(holder, clock()))) as changed:
        if changed and project.snapshot is not None:
            raise OvertakenError(_OVERTAKEN)
        store.sweep()
        if changed:
            decisions = planner.plan(wanted)
        decisions = _on_whole_layers(project, wanted, decisions)
        _refuse(project, placed, decisions, note)
        from forgefile.history import Journal  # noqa: PLC0415  only a build that does something is noted

        with Journal(project, decisions, settings, tell=tell, clock=clock) as journal:
            job = run(decisions, tell=journal.report)
            status = job.run()
        if job.left_nothing:
            _keep(project, wanted, settings, generation(store.root, store.lock_name, mine=True) or "")
        return status


def _on_whole_layers(
    project: Project, wanted: Collection[Target], decisions: dict[Target, Decision]
) -> dict[Target, Decision]:
    """Return the decisions, made anew if a layer that they would use was changed. From here on layers are compared.

    Raises `OvertakenError` when the project relies on a snapshot that knew that layer.
    """
    planner, store = project.planner, project.store
    used = {target for target, decision in decisions.items() if decision.action == "restore"}
    used |= {needed for target, decision in decisions.items() if decision.action in ("run", "maybe")
             for needed in inputs(target) if needed in planner.results}  # fmt: skip
    store.compares_layers = True
    if not any(store.problem(planner.results[target]) for target in used if target.output == "tree"):
        return decisions
    if project.part is not None:
        raise OvertakenError(_CHANGED)
    return planner.plan(wanted)


def _refuse(
    project: Project, placed: Collection[Target], decisions: Mapping[Target, Decision], note: Callable[[str], None]
) -> None:
    """Raise `UsageError` when the disk has no room, or something lies where a file that was asked for is to be.

    When it is only likely that the disk has no room, that is noted.
    """
    project.store.refuse_full_disk()
    forecast.refuse_small_disk(project.planner, project.store, decisions)
    for doubt in forecast.doubts(project.store, decisions):
        note(doubt)
    _refuse_places(project, placed)


def _refuse_places(project: Project, placed: Collection[Target]) -> None:
    """Raise `UsageError` when something lies where a file that was asked for is to be."""
    for target in placed:
        if target.output == "file":
            project.store.refuse_place(project.planner.place_of(target))


def _keep(project: Project, wanted: Collection[Target], settings: Settings, now: str) -> None:
    """Keep what this run knew, now that nothing is left to do."""
    if settings.key is None or project.store.records.read_only:
        return
    from forgefile import resume  # noqa: PLC0415  not needed before

    occasion = resume.Occasion(settings.key, project.store.lock_name, now, boot(), settings.began_ns)
    if project.part is not None and project.snapshot is not None:
        resume.keep_part(project.planner, project.store.root, project.snapshot, project.part, occasion)
    else:
        resume.keep(project.planner, project.store.root, wanted, occasion)


def job_of(
    planner: Planner, store: Store, target: Target, *, staging: str, log: str,
    unusual: Callable[[Pairs], Pairs] = host.unusual, **more: Any,
) -> Job:  # fmt: skip
    """Return what the steps of a planned target do and see; its inputs have results.

    `unusual` tells which programs have to be shown to them; `more` are fields of `Job`.
    """
    described = planner.describe(target)
    return Job(
        target=target.name,
        store=store.root,
        staging=staging,
        log=log,
        failed_as=store.failed_name(target.name),
        steps=described.steps,
        views=_views(planner, store, target),
        secrets=tuple(
            SecretFile(name=secret.name, at=Sandbox().path(secret), content=content)
            for secret, content in planner.secrets(target).items()
        ),
        programs=unusual(described.tools),
        output=target.output,
        base=planner.results[target.base].layers if target.base else None,
        epoch=planner.epoch,
        timeout_s=target.timeout_s,
        hidden=(planner.root, store.root, os.path.expanduser("~")),
        **more,
    )


def _views(planner: Planner, store: Store, target: Target) -> tuple[View, ...]:
    """Return a target's inputs as its steps see them."""
    box, views = Sandbox(), []
    scratched = planner.describe(target).scratched
    for artifact in target.inputs:
        if isinstance(artifact, Secret):
            continue
        if isinstance(artifact, Source):
            views.append(View(at=box.path(artifact), host=planner.source_path(artifact)))
            continue
        result = planner.results[artifact]
        if result.kind == "file":
            views.append(View(at=box.path(artifact), host=store.object_path(result.digest)))
            continue
        views.append(View(at=box.path(artifact), layers=result.layers))
        if artifact in scratched:
            views.append(View(at=box.scratch(artifact), layers=result.layers, writable=True))
    return tuple(views)


class _Build:
    """One run of the loop."""

    def __init__(self, project: Project, decisions: Mapping[Target, Decision], *, placed: Collection[Target],
                 settings: Settings, tell: Tell, clock: Clock, nursery: Nursery | None) -> None:  # fmt: skip
        self._planner = project.planner
        self._store = project.store
        self._decisions = dict(decisions)
        self._placed = frozenset(placed)
        self._settings = settings
        self._tell = tell
        self._clock = clock
        self._schedule = Schedule(tuple(decisions), {CORES: settings.jobs, MEMORY: host.memory_bytes()})
        self._count = dict.fromkeys(("built", "restored", "current", "failed", "skipped"), 0)
        self._count["current"] = project.part.spared if project.part else 0
        self._slots: dict[int, Target] = {}
        self._fetched: dict[int, int] = {}
        self._unclean: dict[Target, None] = {}
        self._nursery = nursery
        self._pool: Pool | None = None
        self._jobserver = Jobserver()
        self._elsewhere: dict[Target, None] = {}
        """What is built now as another target or by another forge; it is decided when that has ended."""
        self._looked_at = 0.0
        self._waits_for: set[str] = set()
        self._claimed: dict[Target, str] = {}
        self._ended_here: list[str] = []
        self._programs: dict[Pairs, Pairs] = {}
        self._is_outdated = False
        self.left_nothing = True
        """Whether nothing is left to do or to tell."""

    def run(self) -> int:
        """Run until nothing is left; return the exit status."""
        for event in planned(self._planner, self._decisions, self._clock()):
            self._tell(event)
        try:
            self._advance()
            while self._schedule.busy or self._elsewhere:
                self._start()
                self._listen()
                self._heed()
                self._advance()
                self._look_elsewhere()
            status = 1 if self._count["failed"] else 130 if self._is_outdated else 0
        except KeyboardInterrupt:
            status = 130
            for target in self._slots.values():
                self._skip([target, *self._schedule.fail(target)])
            self._skip(self._schedule.stop())
        finally:
            self._close()
        now = self._clock()
        unclean = tuple(target.name for target in self._unclean) or None
        self.left_nothing &= not status
        self._tell(events.Finished(t=now, status=status, wall_s=now, unclean=unclean, **self._count))
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
            if self._decisions[target].action == "maybe":
                self._decide(target)
            self._take_up(target)

    def _decide(self, target: Target) -> Decision:
        decision = self._decisions[target] = self._planner.decide(target, placed=target in self._placed)
        return decision

    def _take_up(self, target: Target) -> None:
        """Do what was decided about a target that is ready: queue it, or be done with it."""
        decision = self._decisions[target]
        if decision.action == "run":
            self._schedule.queue(target)
            return
        path = self._place(target)
        if decision.action == "restore":
            self._store.records.make_current(target.name, fingerprint(self._planner.manifests[target]))
        if problem := self._excess(target) or (self._misplaced(target) if decision.action == "restore" else None):
            self._fail(target, problem)
            return
        if decision.action == "restore":
            self._store.discard_failed((target.name,))
            self._told("restored", events.Restored(
                t=self._clock(), target=target.name, path=path, reasons=decision.reasons, clean=self._clean(target),
            ))  # fmt: skip
        else:
            clean = self._clean(target)
            self._told("current", events.Current(t=self._clock(), target=target.name, path=path, clean=clean))
        self._schedule.done(target)

    def _excess(self, target: Target, wall_s: float = 0.0) -> events.Failed | None:
        """Return the failure of a target whose result is there and takes more than it may, or None.

        When that is tolerated, it is noted.
        """
        if target.budget is None:
            return None
        from forgefile import budget  # noqa: PLC0415  only where there is one

        problem = budget.excess(self._planner, self._store, target)
        if problem is None:
            return None
        if self._settings.tolerant:
            self.left_nothing = False
            self._tell(events.Note(t=self._clock(), message=f"{target.name}: {problem}"))
            return None
        return events.Failed(
            t=self._clock(),
            target=target.name,
            message="\n".join((problem, *budget.account(self._planner, self._store, target))),
            location=str(target.location) if target.location else None,
            hint=f"forge size {target.name} tells all of it, forge diff {target.name} what changed",
            wall_s=wall_s,
        )

    def _place(self, target: Target) -> str | None:
        """Return the place of a file that was asked for."""
        return self._planner.shown_place(target) if target in self._placed and target.output == "file" else None

    def _misplaced(self, target: Target, wall_s: float = 0.0) -> events.Failed | None:
        """Put a file that was asked for at its place; return the failure when that cannot be done."""
        if self._place(target) is None:
            return None
        try:
            self._store.place(self._planner.results[target], self._planner.place_of(target))
        except UsageError as error:
            location = str(target.location) if target.location else None
            return events.Failed(
                t=self._clock(), target=target.name, message=error.message, location=location, hint=error.hint,
                wall_s=wall_s,
            )  # fmt: skip
        return None

    def _clean(self, target: Target) -> Literal[False] | None:
        """Note whether a target that is done was resumed, or made from what was; return False if so."""
        manifest = self._planner.manifests.get(target)
        if (manifest is None or is_whole(manifest)) and not any(needed in self._unclean for needed in inputs(target)):
            return None
        self._unclean[target] = None
        return False

    def _told(self, count: str, event: events.Event) -> None:
        self._count[count] += 1
        self._tell(event)

    # Running

    def _start(self) -> None:
        """Give queued targets whose pools have room to free workers, the longest way to the end first."""
        if self._pool is None:
            from forgefile.executor import Pool  # noqa: PLC0415  only a build that runs something needs it

            self._pool = Pool(self._settings.jobs, self._nursery or Nursery())
        self._jobserver.take_back()
        while True:
            started = self._schedule.start(self._priorities, self._jobserver.lent)
            chosen = [target for target in started if self._is_mine(target)]
            for slot, target in zip(self._pool.free, chosen, strict=False):
                self._begin(target, slot, self._pool)
            if len(chosen) == len(started):
                break
            self._advance()  # above what another forge has built
        while self._ended_here:  # not before what is above it: else another forge would have the better start there
            self._store.unclaim(self._ended_here.pop())

    def _begin(self, target: Target, slot: int, pool: "Pool") -> None:
        """Have a worker run a target."""
        self._slots[slot] = target
        self._fetched[slot] = 0
        decision = self._decisions[target]
        self._tell(events.Started(t=self._clock(), target=target.name, reasons=decision.reasons,
                                  expected_s=self._planner.expected(target), worker=slot))  # fmt: skip
        job = self._job(target, slot)
        if any(isinstance(step, Run) and step.jobserver for step in job.steps):
            self._jobserver.open(slot, job.staging, min(target.pools[CORES], self._settings.jobs) - 1)
        pool.submit(slot, job)

    # Beside other forges

    def _is_mine(self, target: Target) -> bool:
        """Claim a target that is to begin. Withdraw it when the same is built now, here or elsewhere, or has been."""
        name = fingerprint(self._planner.manifests[target])
        is_equal_here = name in self._claimed.values()
        holder = None if is_equal_here else self._store.claim(name)
        if is_equal_here or holder is not None:
            self._schedule.withdraw(target)
            self._elsewhere[target] = None
            if holder is not None and holder not in self._waits_for:
                self._waits_for.add(holder)
                self._tell(waiting(holder, self._clock()))
            return False
        if self._store.records.changed_by_others and self._decide(target).action != "run":
            self._store.unclaim(name)
            self._schedule.withdraw(target)
            self._take_up(target)
            return False
        self._claimed[target] = name  # a target that goes on from a failed step gets another manifest
        return True

    def _look_elsewhere(self) -> None:
        """Decide about what another forge built and builds no more. Looks now and then, however often it is called."""
        if not self._elsewhere or time.monotonic() < self._looked_at + _GLANCE_S:
            return
        self._looked_at = time.monotonic()
        for target in tuple(self._elsewhere):
            if target not in self._elsewhere:  # it was given up just now
                continue
            name = fingerprint(self._planner.manifests[target])
            if name not in self._claimed.values() and self._store.claim(name) is None:
                self._store.unclaim(name)
                del self._elsewhere[target]
                self._decide(target)
                self._take_up(target)
        self._advance()

    def _priorities(self) -> Mapping[Target, float]:
        """Return the longest way from each target to the end."""
        return self._planner.remaining(tuple(self._decisions))

    def _job(self, target: Target, slot: int) -> Job:
        at = self._resumed_at(target) if self._settings.resume else None
        name = fingerprint(self._planner.manifests[target])
        self._store.records.keep_log(target.name, name)
        return job_of(
            self._planner, self._store, target, staging=self._store.stage(slot), log=self._store.log_path(name),
            every_line=self._settings.every_line, shuffled=self._settings.shuffled, resumed=at,
        )  # fmt: skip

    def _resumed_at(self, target: Target) -> int | None:
        """Return the step from which a target goes on that failed, and tell so; None: it is built whole."""
        manifest = self._planner.manifests[target] = self._planner.manifest(target)
        at = _way_on(self._planner, self._store, target)
        if at is None:
            return None
        self._tell(events.Note(t=self._clock(), message=f"{target.name} {_told_on(at)}"))
        if isinstance(at, str):
            return None
        self._planner.manifests[target] = resumed(manifest)
        return at

    def _listen(self) -> None:
        """Wait for a worker's message and take it up."""
        patience_s = _GLANCE_S if self._elsewhere else None
        if self._pool is None or not self._slots:
            time.sleep(patience_s or 0)
            return
        spare = self._schedule.spare(self._jobserver.lent)
        self._jobserver.share(spare)
        also = [] if spare else list(self._jobserver.pipes)
        if self._settings.newer is not None:
            also.append(self._settings.newer.fileno())
        for slot, message in self._pool.messages(also, patience_s):
            self._hear(self._slots[slot], slot, message)

    def _heed(self) -> None:
        """When there is news, end what would be built otherwise now, and begin nothing more."""
        if self._settings.newer is None or not readable([self._settings.newer.fileno()], 0):
            return
        try:
            newer: Newer = self._settings.newer.receive()
        except (EOFError, OSError):
            raise KeyboardInterrupt from None
        for slot, target in tuple(self._slots.items()):
            if newer.still is None or newer.still.get(target.name) == fingerprint(self._planner.manifests[target]):
                continue
            if self._pool is not None:
                self._pool.end(slot)
            del self._slots[slot]
            self._jobserver.close(slot)
            self._ended_here.append(self._claimed.pop(target))
            self._give_up(target, newer.what)
        self._outdate(newer.what)
        left = ", ".join(target.name for target in self._slots.values())
        told = f"{newer.what} changed; to be built on: {left}" if left else f"{newer.what} changed"
        self._tell(events.Note(t=self._clock(), message=told))

    def _give_up(self, target: Target, what: str) -> None:
        """Skip a target that runs, or ran, for a change."""
        self._skip([target, *self._schedule.fail(target)], f"{what} changed", outdated=True)

    def _outdate(self, what: str) -> None:
        """Begin nothing more, for a change."""
        self._is_outdated = True
        self._skip(self._schedule.stop(), f"{what} changed", outdated=True)

    def _hear(self, target: Target, slot: int, message: Message) -> None:
        if isinstance(message, StepBegan):
            self._tell(events.StepStarted(t=self._clock(), target=target.name, command=message.command))
        elif isinstance(message, Printed):
            for line in message.lines:
                self._tell(events.Output(t=self._clock(), target=target.name, line=line))
        elif isinstance(message, Fetched):
            self._fetched[slot] += message.octets
            self._tell(events.Downloading(t=self._clock(), target=target.name, download_bytes=self._fetched[slot]))
        elif isinstance(message, Again):
            self._tell(events.Retrying(
                t=self._clock(), target=target.name, message=message.failed.message, command=message.failed.command,
                number=message.number, tries=message.tries, wait_s=message.wait_s,
            ))  # fmt: skip
        else:
            del self._slots[slot]
            self._jobserver.close(slot)
            self._ended(target, message)
            self._ended_here.append(self._claimed.pop(target))
            self._looked_at = 0.0  # what waits may be equal

    def _ended(self, target: Target, result: JobResult) -> None:
        """Record what a job made and go on above it, or tell how it failed."""
        changed = self._changed_meanwhile(target)
        if changed is not None and self._settings.newer is not None:  # who watches has yet to say so
            self._give_up(target, changed)
            self._outdate(changed)
            return
        if result.committed is None or changed is not None:
            if not self._count["failed"]:
                began = [t.name for t in self._decisions if self._schedule.state(t) is State.RUNNING]
                self._store.discard_failed(None, but=began)
            self._fail(target, self._failure(target, result, changed))
            return
        self._store.discard_failed((target.name,))
        manifest, made = self._planner.manifests[target], result.committed.result
        records = self._store.records
        before = records.current(target.name)
        with records.together():
            for digest, listing in self._planner.listings(target).items():
                records.keep_listing(digest, listing)
            self._store.keep(result.committed)
            reasons = self._decisions[target].reasons
            name, text = fingerprint(manifest), encode(manifest)
            records.remember(Record(
                name, target.name, text, made, result.seconds, reasons, self._planner.options,
                result.committed.disk_bytes, result.downloads,
            ))  # fmt: skip
        self._planner.results[target] = made
        if problem := self._excess(target, result.seconds) or self._misplaced(target, result.seconds):
            self._fail(target, problem)
            return
        self._told("built", events.Built(
            t=self._clock(), target=target.name, wall_s=result.seconds, size=made.size, path=self._place(target),
            changed=before is None or before.result.digest != made.digest, clean=self._clean(target),
        ))  # fmt: skip
        self._schedule.done(target)

    def _changed_meanwhile(self, target: Target) -> str | None:
        """Return the input of a target that is no longer what it was when the target began, or None."""
        for needed in inputs(target):
            if self._store.problem(self._planner.results[needed]) is not None:
                return needed.name
        return self._planner.changed_meanwhile(target)

    def _failure(self, target: Target, result: JobResult, changed: str | None) -> events.Failed:
        message, command, hint = f"{changed} changed while it was used", "", "run forge again"
        if result.failed is not None:
            command, message, hint = result.failed.command, result.failed.message, result.failed.hint or ""
        if result.failed is not None and not hint:
            hint = self._undeclared(target, (*result.tail, message)) or ""
        if result.kept:
            hint = hint or "forge shell --failed shows what it had made, where it failed"
        log = self._store.log_path(fingerprint(self._planner.manifests[target]))
        return events.Failed(
            t=self._clock(), target=target.name, message=message, command=command or None, tail=result.tail,
            location=str(target.location) if target.location else None, hint=hint or None, log=log,
            kept=result.kept, wall_s=result.seconds,
        )  # fmt: skip

    def _undeclared(self, target: Target, lines: Collection[str]) -> str | None:
        from forgefile.undeclared import hint  # noqa: PLC0415  only what failed needs it

        steps, files = self._planner.describe(target).steps, self._planner.graph.targets
        return hint(target, steps, lines, self._planner.root, files)

    def _fail(self, target: Target, event: events.Failed) -> None:
        """Tell of a failed target and give up what needs it; without -k also all that has not begun."""
        self._told("failed", event)
        self._skip(self._schedule.fail(target), target.name)
        if not self._settings.keep_going:
            self._skip(self._schedule.stop(), target.name)

    def _skip(self, targets: Collection[Target], because: str | None = None, *, outdated: bool | None = None) -> None:
        for target in targets:
            self._elsewhere.pop(target, None)
            self._told("skipped", events.Skipped(
                t=self._clock(), target=target.name, because=because, outdated=outdated))  # fmt: skip
