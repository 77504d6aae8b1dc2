"""What the page of a build tells: the history's plain data, made ready to be put into words. Unaware of HTML."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from forgefile.cache.store import Store
from forgefile.page.layout import Layout, laid_out
from forgefile.page.packages import Package, packages
from forgefile.report.words import clock, duration, printable

_LOG_LINES, _LOG_BYTES, _LOGS_BYTES = 200, 64 << 10, 2 << 20
"""What is shown of the end of one log, and of all."""
_WARNINGS, _STACKS, _PACKAGES, _SAVED, _FILES = 60, 8, 40, 12, 20
"""How many of each are shown."""
_WORTH_S = 0.05
"""What took less is nothing that was saved."""
_LATER_S = 5.0
"""A log that was written so long after the build's end is another build's."""
_SLOW_FACTOR, _SLOW_S = 1.5, 1.0
"""What took so much longer than before, and a little, is worth a word."""
_TICKS, _MINUTE_S = 6, 60
_WARNING = re.compile(r"(?i)^(?:\S+: )?(?:W|E|warning|error|fatal)\s?:\s?\S|^\S+: (?:warning|error): ")
LABELS = {
    "failed": "failed", "unfinished": "broken off", "built": "ran", "restored": "restored", "skipped": "skipped",
    "unknown": "not reached", "current": "up to date",
}  # fmt: skip
"""How targets can have ended, in the order in which they are told, and in words."""
_ORDER = {end: number for number, end in enumerate(LABELS)}


class Log(NamedTuple):
    """The end of what a target printed."""

    lines: tuple[str, ...]
    note: str = ""
    """What has to be said of it."""


class Row(NamedTuple):
    """A target of the build."""

    id: str
    name: str
    rule: str
    end: str
    heard: Mapping[str, Any]
    """All that was kept."""
    seconds: float | None
    """How long it ran."""
    last_s: float | None
    """How long it took when it ran before, or last."""
    log: Log | None
    is_critical: bool

    @property
    def label(self) -> str:
        """How it ended, in words."""
        return LABELS[self.end]


class Bar(NamedTuple):
    """A target on the time line; places and lengths in hundredths of the whole."""

    row: Row
    left: float
    width: float
    steps: tuple[float, ...]
    """Where within it steps began, in hundredths of it."""


class Tick(NamedTuple):
    """A mark on the axis of time."""

    left: float
    text: str


class Warned(NamedTuple):
    """Something that should be looked at."""

    row: Row | None
    text: str


class Stack(NamedTuple):
    """A tree: its layers, the lowest first, and the largest of its packages."""

    name: str
    layers: tuple[Row, ...]
    """The targets that added one each."""
    size: int
    packages: tuple[Package, ...]
    installed: int
    """How many packages there are."""
    more_bytes: int
    """What those take that are not shown."""


class Page(NamedTuple):
    """All that the page tells of one build."""

    rows: tuple[Row, ...]
    lanes: tuple[tuple[int, tuple[Bar, ...]], ...]
    """The workers by their numbers, and what each ran."""
    ticks: tuple[Tick, ...]
    critical: tuple[Row, ...]
    """The longest chain of targets that waited for one another."""
    spent_s: float
    saved: tuple[Row, ...]
    """What did not have to run, the longest first."""
    saved_s: float
    warnings: tuple[Warned, ...]
    more_warnings: int
    stacks: tuple[Stack, ...]
    files: tuple[Row, ...]
    graph: Layout


def content(store: Store, told: Mapping[str, Any], ended: float | None, wall_s: float | None) -> Page:
    """Return what there is to tell of a build; `told` is what the history kept, `ended` in seconds since 1970."""
    targets = [_whole(each) for each in told["targets"]]
    critical = _critical(targets)
    rows = _rows(store, targets, {each["name"] for each in critical}, ended)
    of = {row.name: row for row in rows}
    saved = sorted(
        (row for row in rows if row.end in ("restored", "current") and row.last_s), key=lambda row: -(row.last_s or 0.0)
    )
    span_s = max(wall_s or 0.0, 0.001, *(row.heard.get("ended", 0.0) for row in rows))
    warnings = list(_warnings(rows, told.get("notes", ())))
    files = (row for row in rows if row.heard.get("output") == "file" and row.heard.get("size"))
    return Page(
        rows=tuple(sorted(rows, key=lambda row: _ORDER[row.end])),
        lanes=_lanes(rows, span_s),
        ticks=_ticks(span_s),
        critical=tuple(of[each["name"]] for each in critical),
        spent_s=sum(row.seconds or 0.0 for row in rows),
        saved=tuple(row for row in saved[:_SAVED] if (row.last_s or 0.0) >= _WORTH_S),
        saved_s=sum(row.last_s or 0.0 for row in saved),
        warnings=tuple(warnings[:_WARNINGS]),
        more_warnings=max(len(warnings) - _WARNINGS, 0),
        stacks=tuple(_stacks(store, rows)),
        files=tuple(sorted(files, key=lambda row: -row.heard["size"])[:_FILES]),
        graph=laid_out({row.name: row.heard["inputs"] for row in rows}),
    )


def _whole(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return a target as it was kept, with an end that is known here and with what it may lack."""
    end = told.get("end") if told.get("end") in LABELS else "unknown"
    return {"reasons": (), "inputs": (), "steps": (), **told, "end": end}


def _rows(store: Store, targets: Sequence[dict[str, Any]], critical: set[str], ended: float | None) -> list[Row]:
    left = _LOGS_BYTES
    logs: dict[str, Log] = {}
    for told in sorted((told for told in targets if "log" in told), key=lambda told: _ORDER[told["end"]]):
        logs[told["name"]] = log = _log(store, told["log"], min(left, _LOG_BYTES), ended)
        left -= sum(len(line) + 1 for line in log.lines)
    return [
        Row(
            id=f"t{number}", name=told["name"], rule=told.get("rule", ""), end=told["end"], heard=told,
            seconds=told.get("wall_s"),
            last_s=told["expected_s"] if "expected_s" in told else store.records.seconds(told["name"]),
            log=logs.get(told["name"]), is_critical=told["name"] in critical,
        )
        for number, told in enumerate(targets)
    ]  # fmt: skip


def _log(store: Store, fingerprint: str, most: int, ended: float | None) -> Log:
    """Return the end of a log, of at most so many bytes."""
    try:
        with open(store.log_path(fingerprint), "rb") as stream:
            status = os.fstat(stream.fileno())
            if ended is not None and status.st_mtime > ended + _LATER_S:
                return Log((), "A later build wrote this log anew.")
            stream.seek(max(status.st_size - most, 0))
            text = stream.read(max(most, 0)).decode("utf-8", "replace")
    except OSError:
        return Log((), "The log is no longer in the store.")
    lines = [printable(line) for line in text.split("\n")]
    if status.st_size > most:
        del lines[0]
    if lines and not lines[-1]:
        del lines[-1]
    cut = status.st_size > most or len(lines) > _LOG_LINES
    note = "The end of a longer log." if cut else "" if lines else "It printed nothing."
    return Log(tuple(lines[-_LOG_LINES:]), note)


# Time ----------------------------------------------------------------------------------------------------------------


def _critical(targets: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the chain of targets that ran and decided how long the build took, in the order of time."""
    ran = {told["name"]: told for told in targets if "start" in told and "ended" in told}
    chain: list[Mapping[str, Any]] = []
    last = max(ran.values(), key=lambda told: float(told["ended"]), default=None)
    while last is not None:
        chain.append(last)
        below = [ran[name] for name in last["inputs"] if name in ran]
        last = max(below, key=lambda told: float(told["ended"]), default=None)
    return chain[::-1]


def _lanes(rows: Iterable[Row], span_s: float) -> tuple[tuple[int, tuple[Bar, ...]], ...]:
    lanes: dict[int, list[Bar]] = {}
    for row in rows:
        if "start" in row.heard:
            start = row.heard["start"]
            length = max(row.heard.get("ended", span_s) - start, 0.0)
            began = (at - start for at, _ in row.heard["steps"][1:])
            steps = tuple(100 * at / length for at in began if 0 < at < length)
            bar = Bar(row, 100 * start / span_s, 100 * length / span_s, steps)
            lanes.setdefault(row.heard.get("worker", 0), []).append(bar)
    return tuple((worker, tuple(sorted(bars, key=lambda bar: bar.left))) for worker, bars in sorted(lanes.items()))


def _ticks(span_s: float) -> tuple[Tick, ...]:
    """Return marks at round times, few enough to be read."""
    seconds = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30)
    minutes = (_MINUTE_S * many for many in (1, 2, 5, 10, 20, 30, 60, 120, 240, 480))
    step = next((step for step in (*seconds, *minutes) if span_s / step <= _TICKS), span_s / _TICKS)

    def text(at: float) -> str:
        return f"{at:g} s" if at < _MINUTE_S else clock(at)

    return tuple(Tick(100 * n * step / span_s, text(round(n * step, 3))) for n in range(int(span_s / step) + 1))


# Warnings ------------------------------------------------------------------------------------------------------------


def _warnings(rows: Sequence[Row], notes: Iterable[str]) -> Iterable[Warned]:
    """Yield what should be looked at: notes, what was tried again or took longer, and what programs warned of."""
    for note in notes:
        yield Warned(None, note)
    for row in rows:
        for _, message in row.heard.get("retries", ()):
            yield Warned(row, f"tried again: {message}")
        last_s, seconds = row.heard.get("expected_s"), row.seconds
        if last_s and seconds and row.end == "built" and seconds > _SLOW_FACTOR * last_s + _SLOW_S:
            yield Warned(row, f"took {duration(seconds)}, where it took {duration(last_s)} before")
    for row in rows:
        for line in dict.fromkeys(row.log.lines if row.log else ()):
            if _WARNING.match(line):
                yield Warned(row, line)


# Sizes ---------------------------------------------------------------------------------------------------------------


def _stacks(store: Store, rows: Sequence[Row]) -> Iterable[Stack]:
    """Yield the trees that no other tree builds on, the largest first."""
    trees = {row.name: row for row in rows if row.heard.get("layer")}
    below = {row.heard.get("base") for row in trees.values()}
    stacks: list[list[Row]] = []
    for row in (row for name, row in trees.items() if name not in below):
        layers = [row]
        while (base := trees.get(layers[-1].heard.get("base", ""))) is not None:
            layers.append(base)
        stacks.append(layers[::-1])
    stacks.sort(key=lambda layers: -sum(row.heard["size"] for row in layers))
    for layers in stacks[:_STACKS]:
        found = packages([store.layer_path(row.heard["layer"]) for row in layers])
        yield Stack(
            name=layers[-1].name,
            layers=tuple(layers),
            size=sum(row.heard["size"] for row in layers),
            packages=tuple(found[:_PACKAGES]),
            installed=len(found),
            more_bytes=sum(package.size for package in found[_PACKAGES:]),
        )
