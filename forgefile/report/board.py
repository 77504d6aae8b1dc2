"""What a live display shows at its foot: what runs now, and how much of the whole is done.

Owns the account of running targets and of expected work. Unaware of streams, threads and colours; `clock` is its only
source of time.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from forgefile.events import (
    Built,
    Current,
    Differs,
    Downloading,
    Event,
    Failed,
    Finished,
    Output,
    Planned,
    Restored,
    Retrying,
    Same,
    Skipped,
    Started,
    StepStarted,
    Verifying,
)
from forgefile.report.ink import cut, padded
from forgefile.report.words import Line, Span, Tone, columns, next_try, printable, size, stopwatch, text

_NARROW = 60
"""Columns below which what can be spared goes."""
_TINY = 40
"""Columns below which the bar gives way to words."""
_BAR = 24
"""The greatest width of the bar in columns."""
_LEAST_TEXT = 8
"""The columns that a name has at least, and below which a line of output is not worth its place."""
_FETCHED = len("↓ 1000 MiB")
_ROWS = 9
"""How many rows may be taken of a terminal that is not twice as high."""
_LINE_FACTOR = 8
"""How many characters of a line, for each column, are looked at: some of them may be sequences."""
_GUESS_S = 1.0
"""How long a target takes of which nothing is known, when nothing is known of any."""
_LEAST_S = 0.01
_NEARLY = 0.9
"""The part of its expected time after which a target nears its end ever more slowly."""


class _Running(NamedTuple):
    """A target that runs: since when (seconds since forge started), how long it should take, its last line."""

    since: float
    expected_s: float | None
    line: str = ""
    tone: Tone = "aside"
    fetched: int = 0


class _Work:
    """The expected work of all targets that run or may, in seconds, and how much of it is done.

    A target that never ran counts as the mean of those that did, in this run or before. Each event costs the same,
    however many targets there are.
    """

    def __init__(self) -> None:
        self._expected: dict[str, float | None] = {}
        self._all_s = self._ended_s = 0.0
        self._unknown = 0
        self._timed, self._timed_s = 0, 0.0
        self._ended: set[str] = set()

    def plan(self, target: str, expected_s: float | None) -> None:
        """Count a target in."""
        if target in self._expected:
            return
        self._expected[target] = expected_s
        if expected_s is None:
            self._unknown += 1
        else:
            self._all_s += max(expected_s, _LEAST_S)
            self._learn(expected_s)

    def _learn(self, seconds: float) -> None:
        self._timed += 1
        self._timed_s += max(seconds, _LEAST_S)

    def end(self, target: str, took_s: float | None) -> None:
        """Count a target as done, after so many seconds if it ran to its end."""
        if target in self._ended or target not in self._expected:
            return
        self._ended.add(target)
        expected_s = self._expected[target]
        if expected_s is None:
            self._unknown -= 1
            expected_s = max(took_s or 0.0, _LEAST_S)
            self._all_s += expected_s
            if took_s is not None:
                self._learn(took_s)
        self._ended_s += max(expected_s, _LEAST_S)

    @property
    def count(self) -> tuple[int, int]:
        """How many targets are done, and of how many."""
        return len(self._ended), len(self._expected)

    def part(self, running: Mapping[str, float]) -> tuple[float, bool]:
        """Return which part is done, 0 to 1, when these targets run for so many seconds, and whether that is a guess.

        It is one when most of the work is of targets that never ran. They are taken to take the mean; one that has run
        for half of that to be half done from then on, and the others to take as long as those that run.
        """
        ended, count = self.count
        if ended == count:
            return (1.0 if count else 0.0), False
        new = [elapsed for target, elapsed in running.items() if self._expected[target] is None]
        guess = self._timed_s / self._timed if self._timed else _GUESS_S
        begun = sum(max(2 * elapsed, guess) for elapsed in new)
        guessed = begun + (self._unknown - len(new)) * (begun / len(new) if new else guess)
        done = self._ended_s + sum(new)
        for target, elapsed in running.items():
            if known := self._expected[target]:
                done += _done(elapsed, max(known, _LEAST_S))
        return min(done / (self._all_s + guessed), 1.0), guessed > self._all_s


def _done(elapsed: float, expected: float) -> float:
    """Return how much is done of a target that takes about so long: all that it ran for, but never all of it."""
    if elapsed < _NEARLY * expected:
        return elapsed
    return expected * (1 - (1 - _NEARLY) * _NEARLY * expected / elapsed)


class Board:
    """What is going on, drawn anew for the width that the terminal has at that moment."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._start = clock()
        self._running: dict[str, _Running] = {}
        self._work = _Work()
        self._furthest = 0.0
        self._failed = 0
        self._fetched = 0
        self._name_width = self._time_width = self._expected_width = 0

    def note(self, event: Event) -> None:
        """Take note of an event."""
        self._start = self._clock() - event.t
        match event:
            case Planned() if event.action in ("run", "maybe"):
                self._work.plan(event.target, event.expected_s)
            case Started():
                self._work.plan(event.target, event.expected_s)
                self._running[event.target] = _Running(event.t, event.expected_s)
            case Output():
                self._say(event.target, event.line)
            case StepStarted():
                self._say(event.target, f"$ {event.command}")
            case Retrying():
                self._say(event.target, next_try(event), "warning")
            case Downloading() if event.target in self._running:
                running = self._running[event.target]
                self._fetched += event.download_bytes - running.fetched
                self._running[event.target] = running._replace(fetched=event.download_bytes)
            case Verifying() | Finished():  # another build may follow
                self._work, self._furthest, self._failed, self._fetched = _Work(), 0.0, 0, 0
            case Built() | Failed() | Restored() | Current() | Skipped() | Same() | Differs():
                self._running.pop(event.target, None)
                self._work.end(event.target, event.wall_s if isinstance(event, Built | Same) else None)
                self._failed += isinstance(event, Failed | Differs)

    def _say(self, target: str, line: str, tone: Tone = "aside") -> None:
        running = self._running.get(target)
        if running is not None and not line.isspace() and line:
            self._running[target] = running._replace(line=line, tone=tone)

    def rows(self, width: int, height: int, *, ascii_only: bool = False) -> tuple[Line, ...]:
        """Return a row for the whole and one for each target that runs, as many as there is room for.

        Each is narrower than the terminal: what a full last column does is another thing in each.
        """
        now = self._clock() - self._start
        dots = "..." if ascii_only else "…"
        return tuple(_trimmed(cut(row, max(width - 1, 1), ellipsis=dots if width > _LEAST_TEXT else ""))
                     for row in self._rows(now, width, height, ascii_only=ascii_only))  # fmt: skip

    def _rows(self, now: float, width: int, height: int, *, ascii_only: bool) -> Iterator[Line]:
        room = max(min(height - 2, max(_ROWS - 1, height // 2)), 1)
        shown = list(self._running.items())
        hidden = len(shown) - room + 1 if len(shown) > room else 0
        shown = shown[: len(shown) - hidden]
        self._widen(now, shown)
        yield self._whole(now, width, ascii_only=ascii_only)
        fetches = width >= _TINY and any(running.fetched for _, running in shown)
        for name, running in shown:
            row = self._row(now, name, running, width, ascii_only=ascii_only)
            if fetches:
                fetched = f"{_arrow(ascii_only=ascii_only)}{size(running.fetched)}" if running.fetched else ""
                row = (*row, Span(f"  {fetched.ljust(_FETCHED)}", "good"))
            if width - 1 - sum(columns(span.text) for span in row) >= _LEAST_TEXT + 2:
                line = printable(running.line[: _LINE_FACTOR * width])
                row = (*row, Span(f"  {line.strip()}", running.tone))
            yield row
        if hidden:
            yield (Span(f"{_indent(width)}and {hidden} more running", "aside"),)

    def _widen(self, now: float, shown: list[tuple[str, _Running]]) -> None:
        """Make the columns as wide as what was shown in them so far: they do not jump when a target ends."""
        for name, running in shown:
            self._name_width = max(self._name_width, columns(name))
            self._time_width = max(self._time_width, len(stopwatch(now - running.since)))
            if running.expected_s is not None:
                self._expected_width = max(self._expected_width, len(_expected(running)))

    def _row(self, now: float, name: str, running: _Running, width: int, *, ascii_only: bool) -> Line:
        name_width = min(self._name_width, max(width // 4, _LEAST_TEXT))
        elapsed, expected_s = now - running.since, running.expected_s
        late = expected_s is not None and elapsed > 1.5 * expected_s + 1
        row: Line = (
            Span(_indent(width)),
            *padded(cut((Span(name),), name_width, ellipsis="" if ascii_only else "…"), name_width),
            Span(f"  {stopwatch(elapsed).rjust(self._time_width)}", "warning" if late else "kept"),
        )
        if self._expected_width:
            gap = "" if width < _TINY else " "
            of = f"{gap}/{gap}{_expected(running)}" if expected_s is not None else ""
            row = (*row, Span(of.ljust(self._expected_width + 1 + 2 * len(gap)), "aside"))
        return row

    def _whole(self, now: float, width: int, *, ascii_only: bool) -> Line:
        ended, targets = self._work.count
        elapsed = {name: max(now - running.since, 0.0) for name, running in self._running.items()}
        part, is_guess = self._work.part(elapsed)
        self._furthest = part = max(part, self._furthest)
        gap, of = ("  ", " of ") if width >= _TINY else (" ", "/")
        row = [Span(f"{'~' if is_guess else ''}{int(part * 100)} %{gap}{ended}{of}{targets}", "name")]
        row.append(Span(f"{' targets' if width >= _NARROW else ''}{gap}{stopwatch(now)}"))
        if self._failed:
            row.append(Span(f"{gap}{self._failed} failed", "bad"))
        if self._fetched and width >= _NARROW:
            row.append(Span(f"{gap}{_arrow(ascii_only=ascii_only)}{size(self._fetched)}", "good"))
        length = min(_BAR, width - 1 - len(gap) - len(text(tuple(row))))
        if width < _TINY or length < _LEAST_TEXT:
            return tuple(row)
        full = int(part * length)
        done, left = "#-" if ascii_only else "━─"
        return Span(done * full, "good"), Span(left * (length - full), "aside"), Span(gap), *row


def _indent(width: int) -> str:
    return "  " if width >= _TINY else ""


def _expected(running: _Running) -> str:
    return stopwatch(max(running.expected_s or 0, 1))


def _arrow(*, ascii_only: bool) -> str:
    return "" if ascii_only else "↓ "


def _trimmed(row: Line) -> Line:
    """Return a row without blanks at its end."""
    while row and not row[-1].text.strip():
        row = row[:-1]
    return (*row[:-1], Span(row[-1].text.rstrip(), row[-1].tone)) if row else row
