"""What is kept of each build, for those who look back.

A `Journal` stands between a build and its display and notes what it hears; two short writes to the records are all that
it costs, one when the build begins, so that a killed one is known, and one when it ends. What it keeps is bounded,
however many targets there are. Unaware of how anything is shown.
"""

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeVar

from forgefile import events
from forgefile.cache.records import BuildNote
from forgefile.cache.seal import Result
from forgefile.cache.store import Store
from forgefile.errors import ForgeError, StoreError
from forgefile.fingerprint import fingerprint
from forgefile.graph import inputs
from forgefile.job import SecretFile
from forgefile.model import Target
from forgefile.plan import Decision
from forgefile.resume import Entry, kind_of

if TYPE_CHECKING:
    from forgefile.engine import Project, Settings

Ending = Literal["done", "failed", "interrupted", "stopped", "killed", "running"]
TARGETS_KEPT, OTHERS_KEPT = 1000, 300
"""Of how many targets of a build it is kept what became of them; with other targets it is filled up to so many."""
_PACKED_BYTES = 4096
"""What is larger is compressed."""
_NAMES_KEPT, _REASONS_KEPT, _STEPS_KEPT, _NOTES_KEPT, _RETRIES_KEPT = 100, 50, 50, 100, 20
_TEXT_KEPT = 2000
"""How many characters of a reason, a command or a message."""
_INTERRUPTED, _BUG = 130, 3
_ENDINGS: Mapping[int, Ending] = {0: "done", 1: "failed", _INTERRUPTED: "interrupted"}
_Heard = dict[str, Any]
_T = TypeVar("_T")


class Journal:
    """Passes events on to `tell`, and keeps what is to be known of the build when it has ended, however it did.

    Enter it when something is sure to be done, with the store's lock held. A full disk keeps nothing and is no error.
    """

    def __init__(
        self, project: "Project", decisions: Mapping[Target, Decision], settings: "Settings", *,
        tell: Callable[[events.Event], None], clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self._project = project
        self._records = project.store.records
        self._decisions = decisions
        self._jobs = settings.jobs
        self._tell = tell
        self._clock = clock
        self._hide = _hider(project)
        self._targets: dict[str, _Heard] = {}
        self._unheard: dict[str, int] = {}
        self._notes: list[str] = []
        self._finished: events.Finished | None = None
        self._number: int | None = None
        self._hear: Mapping[type[events.Event], Callable[[Any], None]] = {
            events.Started: self._started,
            events.StepStarted: self._step,
            events.Retrying: self._retrying,
            events.Built: self._built,
            events.Restored: self._restored,
            events.Failed: self._failed,
            events.Skipped: self._skipped,
            events.Note: self._note,
            events.Finished: self._end,
        }

    def __enter__(self) -> Self:
        """Note that the build begins."""
        arguments = tuple(map(self._hide, sys.argv[1:]))
        with suppress(StoreError):
            self._number = self._records.begin_build(time.time() - self._clock(), arguments)
        return self

    def report(self, event: events.Event) -> None:
        """Take note of an event and pass it on."""
        hear = self._hear.get(type(event))
        if hear is not None:
            hear(event)
        self._tell(event)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Note how the build ended."""
        if self._number is None:
            return
        ended = self._finished
        wall_s = ended.wall_s if ended else self._clock()
        if error is None and ended is not None:
            status = ended.status
        elif isinstance(error, KeyboardInterrupt):
            status = _INTERRUPTED
        else:
            status = error.status if isinstance(error, ForgeError) else _BUG
            self._notes.append(self._text(f"forge stopped: {error}"))
        with suppress(StoreError):
            self._records.end_build(self._number, wall_s, status, self._summary(), self._details())

    # Listening

    def _heard(self, event: events.TargetEvent) -> _Heard:
        """Return what is kept of a target; of one too many, what is thrown away."""
        if event.target in self._targets:
            return self._targets[event.target]
        if len(self._targets) < TARGETS_KEPT or isinstance(event, events.Failed):
            return self._targets.setdefault(event.target, {})
        return {}

    def _started(self, event: events.Started) -> None:
        self._heard(event).update(
            start=event.t, worker=event.worker, expected_s=event.expected_s, reasons=self._reasons(event.reasons)
        )

    def _step(self, event: events.StepStarted) -> None:
        steps = self._heard(event).setdefault("steps", [])
        if len(steps) < _STEPS_KEPT:
            steps.append((event.t, self._text(event.command)))

    def _retrying(self, event: events.Retrying) -> None:
        retries = self._heard(event).setdefault("retries", [])
        if len(retries) < _RETRIES_KEPT:
            retries.append((event.t, self._text(event.message)))

    def _built(self, event: events.Built) -> None:
        self._became(event, "built").update(changed=event.changed, wall_s=event.wall_s)

    def _restored(self, event: events.Restored) -> None:
        self._became(event, "restored")["reasons"] = self._reasons(event.reasons)

    def _failed(self, event: events.Failed) -> None:
        told = {"message": event.message, "command": event.command, "hint": event.hint, "location": event.location}
        failure: _Heard = {name: self._text(text) for name, text in told.items() if text}
        failure["tail"] = [self._text(line) for line in event.tail]
        self._became(event, "failed").update(failure=failure, wall_s=event.wall_s)

    def _skipped(self, event: events.Skipped) -> None:
        skipped = self._became(event, "skipped")
        if event.because is not None:
            skipped["because"] = self._text(event.because)

    def _became(self, event: events.TargetEvent, end: str) -> _Heard:
        """Note how a target ended and return what is kept of it."""
        self._unheard[end] = self._unheard.get(end, 0) + 1
        heard = self._heard(event)
        heard.update(end=end, ended=event.t)
        return heard

    def _note(self, event: events.Note) -> None:
        if len(self._notes) < _NOTES_KEPT:
            self._notes.append(self._text(event.message))

    def _end(self, event: events.Finished) -> None:
        self._finished = event

    def _reasons(self, reasons: tuple[str, ...]) -> list[str]:
        more = [f"and {len(reasons) - _REASONS_KEPT} more"] if len(reasons) > _REASONS_KEPT else []
        return [self._text(reason) for reason in reasons[:_REASONS_KEPT]] + more

    def _text(self, text: str) -> str:
        """Return a text as it may be kept: not too long, and without secrets."""
        text = self._hide(text)
        return text if len(text) <= _TEXT_KEPT else f"{text[:_TEXT_KEPT]}…"

    # Keeping

    def _summary(self) -> dict[str, Any]:
        """Return what the history says: how many targets ended how, and the first of their names."""
        ends = ("built", "restored", "failed", "skipped")
        counts = {end: self._unheard.get(end, 0) for end in ends}
        counts["current"] = self._finished.current if self._finished else 0
        names: dict[str, list[str]] = {end: [] for end in ends}
        for name, heard in self._targets.items():
            if (end := heard.get("end")) and len(names[end]) < _NAMES_KEPT:
                names[end].append(name)
        return {"counts": counts, "names": {end: found for end, found in names.items() if found}}

    def _details(self) -> bytes:
        """Return all that a report tells, packed."""
        from forgefile import __version__  # noqa: PLC0415  no module of ours

        kept = self._kept()
        told = {
            "forge": __version__,
            "jobs": self._jobs,
            "options": [(name, self._text(value)) for name, value in self._project.planner.options],
            "targets": [self._told(known) for known in kept.values()],
            "left_out": max(self._total() - len(kept), 0),
            "notes": self._notes,
        }
        text = json.dumps(told, separators=(",", ":")).encode("ascii")
        if len(text) < _PACKED_BYTES:
            return text
        import zlib  # noqa: PLC0415  not for a few targets

        return zlib.compress(text, 1)

    def _total(self) -> int:
        """Return how many targets the build had."""
        part = self._project.part
        return len(self._decisions) if part is None else len(part.saved.entries)

    def _told(self, known: "_Known") -> _Heard:
        """Return what is kept of a target, as plain data."""
        told = {key: value for key, value in known._asdict().items() if value is not None}
        heard = self._targets.get(known.name, {})
        if "start" in heard and (target := self._project.graph.targets.get(known.name)) is not None:
            told["log"] = fingerprint(self._project.planner.manifests[target])
        end = "unfinished" if heard else "current" if self._finished else "unknown"
        return {**told, "end": end, **heard}

    def _kept(self) -> dict[str, "_Known"]:
        """Return the targets to tell of, inputs first: those of which something was heard, what they need, and others.

        Of a graph that is known from a snapshot only those are looked at: it may have many more.
        """
        part, planner = self._project.part, self._project.planner
        if part is None:
            heard = [target for name, target in self._project.graph.targets.items() if name in self._targets]
            chosen = _chosen(heard, inputs, self._decisions)
            targets = [target for target in self._decisions if target in chosen]
            return _known((t.name, kind_of(t), [n.name for n in inputs(t)], t.output, planner.results.get(t))
                          for t in targets)  # fmt: skip
        entries = part.saved.entries
        results = {target.name: result for target, result in planner.results.items()}

        def below(place: int) -> list[int]:
            return [needed for needed in Entry(*entries[place]).inputs if needed >= 0]

        places = _chosen(
            [part.places[name] for name in self._targets if name in part.places], below, range(len(entries))
        )
        found = []
        for place in sorted(places):
            entry = Entry(*entries[place])
            result = results.get(entry.name) or Result(entry.output, *entry.result)  # type: ignore[arg-type]
            found.append((entry.name, entry.rule, [entries[n][0] for n in below(place)], entry.output, result))
        return _known(found)


class _Known(NamedTuple):
    """What is known of a target whether it ran or not."""

    name: str
    rule: str
    output: str
    inputs: list[str]
    size: int | None
    """Bytes; of a tree what its top layer adds."""
    layer: str | None
    """A tree's top layer."""
    base: str | None
    """The input that a tree's layer lies on."""


def _known(found: Iterable[tuple[str, str, list[str], str, Result | None]]) -> dict[str, _Known]:
    """Return what is known of targets by their names; given are name, rule, inputs, output and result, inputs first."""
    known: dict[str, _Known] = {}
    layers: dict[str, tuple[str, ...]] = {}
    for name, rule, below, output, result in found:
        layers[name] = mine = result.layers if result else ()
        base = next((each for each in below if mine[1:] and layers.get(each) == mine[:-1]), None)
        size, layer = result.size if result else None, mine[-1] if mine else None
        known[name] = _Known(name, rule, output, below, size, layer, base)
    return known


def _chosen(heard: Sequence[_T], below: Callable[[_T], Iterable[_T]], others: Iterable[_T]) -> set[_T]:
    """Return what was heard of, and with room what that needs, the nearest first, and others."""
    chosen = dict.fromkeys(heard[:TARGETS_KEPT])
    left = deque(chosen)
    while left and len(chosen) < OTHERS_KEPT:
        for each in below(left.popleft()):
            if each not in chosen:
                chosen[each] = None
                left.append(each)
    for each in others:
        if len(chosen) >= OTHERS_KEPT:
            break
        chosen.setdefault(each)
    return set(chosen)


def _hider(project: "Project") -> Callable[[str], str]:
    """Return what takes the contents of the project's secrets out of a text."""
    contents = project.planner.secret_contents()
    if not contents:
        return lambda text: text
    from forgefile.secret import Hider  # noqa: PLC0415  most projects have none

    return Hider(SecretFile(name="", at="", content=content) for content in contents).text


# Looking back --------------------------------------------------------------------------------------------------------


class Build(NamedTuple):
    """A build as the history tells of it."""

    note: BuildNote
    ending: Ending
    counts: Mapping[str, int]
    """Of targets, by how they ended; of a build that was killed, those whose results it left."""
    names: Mapping[str, Sequence[str]]
    """The first of them."""


def builds(store: Store) -> list[Build]:
    """Return the project's history, the latest build first."""
    notes = store.records.builds()
    holder = store.builder() if any(note.status is None for note in notes) else ""
    return [_build(store, note, holder) for note in notes]


def _build(store: Store, note: BuildNote, holder: str) -> Build:
    if note.status is not None:
        ending = _ENDINGS.get(note.status, "stopped")
        return Build(note, ending, note.summary.get("counts", {}), note.summary.get("names", {}))
    built = [name for name, *_ in store.records.built_in(note.number)]
    names = {"built": built[:_NAMES_KEPT]} if built else {}
    return Build(note, "running" if holder == str(note.process) else "killed", {"built": len(built)}, names)


def details(store: Store, number: int) -> dict[str, Any]:
    """Return what was kept of a build for a report; of one that did not end, what its records tell."""
    packed = store.records.build_details(number)
    if packed[:1] not in (b"", b"{"):
        import zlib  # noqa: PLC0415  likewise

        packed = zlib.decompress(packed)
    if packed:
        found: dict[str, Any] = json.loads(packed)
        return found
    return {"targets": [
        {"name": name, "end": "built", "wall_s": seconds, "reasons": list(reasons), "size": size, "inputs": []}
        for name, seconds, reasons, size in store.records.built_in(number)
    ]}  # fmt: skip
