"""A file that tells how long everything took, for Perfetto (https://ui.perfetto.dev) and chrome://tracing.

The Trace Event Format (https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU): complete
events (`X`) for targets and, within them, their steps; instants (`i`) for what took no time; metadata (`M`) for names.
A row is a worker. The file appears whole when the run ends, however it ends.
"""

import json
import os
from typing import Any, NamedTuple

from forgefile.errors import ForgeError, UsageError
from forgefile.events import (
    Built,
    Current,
    Event,
    Failed,
    Finished,
    Restored,
    Retrying,
    Skipped,
    Started,
    StepStarted,
    TargetEvent,
)
from forgefile.files import head, write_whole

_PROCESS = 1
_HEAD = b'{"traceEvents":['
"""How a trace begins."""


class _Slice(NamedTuple):
    """Something that runs: its name, since when (seconds), and what is said of it."""

    name: str
    since: float
    arguments: dict[str, Any]


class _Open(NamedTuple):
    """A target that runs: its row, its slice, and that of its current step."""

    row: int
    target: _Slice
    step: list[_Slice]


class Trace:
    """Collects events and writes the trace file when closed.

    Raises `UsageError` when the file's folder cannot be written to, or something else lies there, before anything runs.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._events: list[dict[str, Any]] = []
        self._open: dict[str, _Open] = {}
        self._rows: set[int] = set()
        self._now = 0.0
        self._closed = False
        folder = os.path.dirname(self._path) or "."
        if os.path.isdir(self._path) or not os.access(folder, os.W_OK | os.X_OK):
            raise UsageError(f"cannot write the trace file '{self._path}'", hint="name a file in a folder that exists")
        if os.path.lexists(self._path) and head(self._path, len(_HEAD)) != _HEAD:
            raise UsageError(
                f"{self._path} exists and is no trace of forge's", hint="name another file, or move that away"
            )

    def report(self, event: Event) -> None:
        """Take note of an event."""
        self._now = max(self._now, event.t)
        match event:
            case Started():
                self._start(event)
            case StepStarted() if event.target in self._open:
                running = self._open[event.target]
                self._end_step(running, event.t)
                running.step.append(_Slice(event.command, event.t, {}))
            case Retrying() if event.target in self._open:
                self._end_step(self._open[event.target], event.t)
                self._instant(event)
            case Built() | Failed() if event.target in self._open:
                self._end(event.target, event.t, event.plain())
            case Built() | Failed() | Restored() | Current() | Skipped():
                self._instant(event)
            case Finished():
                self._events.append({**_at(event.event, "i", 0, event.t), "s": "g", "args": event.plain()})

    def close(self) -> None:
        """End what still runs and write the file; raise `ForgeError` when that cannot be."""
        if self._closed:
            return
        self._closed = True
        for target in list(self._open):
            self._end(target, self._now, {"event": "interrupted"})
        told = {"traceEvents": [*self._names(), *self._events], "displayTimeUnit": "ms"}
        try:
            write_whole(self._path, json.dumps(told, separators=(",", ":")))
        except OSError as error:
            raise ForgeError(f"cannot write the trace file '{self._path}': {error.strerror}") from error

    def _start(self, event: Started) -> None:
        busy = {running.row for running in self._open.values()}
        row = event.worker + 1
        while row in busy:  # slices of one row must nest, whatever the numbers of the workers
            row += 1
        self._rows.add(row)
        self._open[event.target] = _Open(row, _Slice(event.target, event.t, event.plain()), [])

    def _end_step(self, running: _Open, until: float) -> None:
        if running.step:
            self._complete(running.step.pop(), "step", running.row, until)

    def _end(self, target: str, until: float, ending: dict[str, Any]) -> None:
        running = self._open.pop(target)
        self._end_step(running, until)
        told = running.target._replace(arguments={**running.target.arguments, **ending})
        self._complete(told, "target", running.row, until)

    def _complete(self, told: _Slice, category: str, row: int, until: float) -> None:
        event = _at(told.name, "X", row, told.since)
        event |= {"cat": category, "dur": _micros(until) - event["ts"], "args": told.arguments}
        self._events.append(event)

    def _instant(self, event: TargetEvent) -> None:
        told = _at(f"{event.event}: {event.target}", "i", 0, event.t)
        self._events.append({**told, "s": "p", "cat": "target", "args": event.plain()})

    def _names(self) -> list[dict[str, Any]]:
        """Return the metadata: what the process and its rows are called, and their order."""
        rows = {0: "forge", **{row: f"worker {row}" for row in sorted(self._rows)}}
        told = [{**_at("process_name", "M", 0, 0), "args": {"name": "forge"}}]
        for row, name in rows.items():
            told.append({**_at("thread_name", "M", row, 0), "args": {"name": name}})
            told.append({**_at("thread_sort_index", "M", row, 0), "args": {"sort_index": row}})
        return told


def _at(name: str, phase: str, row: int, seconds: float) -> dict[str, Any]:
    """Return the fields that every trace event has."""
    return {"name": name, "ph": phase, "ts": _micros(seconds), "pid": _PROCESS, "tid": row}


def _micros(seconds: float) -> int:
    return round(seconds * 1_000_000)
