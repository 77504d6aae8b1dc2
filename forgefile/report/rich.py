"""The live display of a terminal: what runs now, and above it, in colour, the lines that a log would have.

Owns the drawing and the clock that moves it. Unaware of wording, which is `words`'. rich is imported when the first
thing is drawn, so that a run with nothing to do goes without it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, NamedTuple, TextIO, cast

from forgefile.events import (
    Built,
    Current,
    Differs,
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
    Verified,
    Verifying,
)
from forgefile.report import Sink, Verbosity
from forgefile.report.words import Account, Line, Tone, clock, next_try, printable, text

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderResult
    from rich.live import Live
    from rich.text import Text

REFRESHES_PER_SECOND = 8

_STYLES: dict[Tone, str] = {
    "text": "",
    "name": "bold",
    "good": "green",
    "kept": "cyan",
    "bad": "bold red",
    "warning": "yellow",
    "aside": "dim",
}
_NARROW = 60
"""Columns below which times are shortened and the bar gives way to words."""
_BAR = 24
"""The greatest width of the bar in columns."""


class Rich:
    """Draws a run on a terminal. `clock` gives seconds; the display counts with it between two events."""

    def __init__(
        self,
        stream: TextIO,
        *,
        verbosity: Verbosity = "normal",
        dry_run: bool = False,
        explain: bool = False,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sink = Sink(stream)
        starts = verbosity == "verbose"
        self._account = Account(verbosity=verbosity, dry_run=dry_run, explain=explain, starts=starts)
        self._lively = verbosity != "quiet" and not dry_run
        self._dry_run = dry_run
        self._console = console
        self._live: Live | None = None
        self.board = Board(clock)

    def report(self, event: Event) -> None:
        """Show an event."""
        self.board.note(event)
        if isinstance(event, Started) and self._lively and self._live is None:
            self._live = _live(self._open(), self.board)
            self._live.start()
        if isinstance(event, Finished | Verified):
            self._stop()
        if isinstance(event, Started | Restored | Failed | Skipped | Verifying) or self._dry_run:
            self._open()
        self._print(self._account.lines(event))

    def close(self) -> None:
        """Take the display away, put the cursor back and say what is left to say."""
        self._stop()
        self._print(self._account.rest())

    def _open(self) -> Console:
        """Return the console, made when it is first needed."""
        if self._console is None:
            from rich.console import Console  # noqa: PLC0415  only when something is drawn

            self._console = Console(file=cast("IO[str]", self._sink), highlight=False, markup=False, emoji=False)
        return self._console

    def _stop(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def _print(self, lines: tuple[Line, ...]) -> None:
        if not lines:
            return
        if self._console is None:
            self._sink.write("".join(f"{text(line)}\n" for line in lines))
            self._sink.flush()
            return
        from rich.text import Text  # noqa: PLC0415  only when something is drawn

        drawn = [Text.assemble(*((span.text, _STYLES[span.tone]) for span in line)) for line in lines]
        self._console.print(Text("\n").join(drawn), soft_wrap=True)


class _Running(NamedTuple):
    """A target that runs: since when (seconds since forge started), how long it should take, its last line."""

    since: float
    expected_s: float | None
    line: str


class Board:
    """What the live display shows, drawn anew for the width that the terminal has at that moment."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # rich draws in a thread of its own
        self._running: dict[str, _Running] = {}
        self._expected: dict[str, float | None] = {}
        self._ended: set[str] = set()
        self._start = clock()
        self.widths: tuple[int, ...] = ()
        """The columns that each row of the latest drawing takes."""

    def note(self, event: Event) -> None:
        """Take note of an event."""
        with self._lock:
            self._start = self._clock() - event.t
            match event:
                case Planned() if event.action in ("run", "maybe"):
                    self._expected[event.target] = event.expected_s
                case Started():
                    expected = event.expected_s if event.expected_s is not None else self._expected.get(event.target)
                    self._expected[event.target] = expected
                    self._running[event.target] = _Running(event.t, expected, "")
                case Output() if event.target in self._running:
                    self._say(event.target, printable(event.line))
                case StepStarted() if event.target in self._running:
                    self._say(event.target, f"$ {printable(event.command)}")
                case Retrying() if event.target in self._running:
                    self._say(event.target, next_try(event))
                case Verifying():
                    self._expected.clear()
                    self._ended.clear()
                case Built() | Failed() | Restored() | Current() | Skipped() | Same() | Differs():
                    self._running.pop(event.target, None)
                    self._ended.add(event.target)

    def _say(self, target: str, line: str) -> None:
        if line.strip():
            self._running[target] = self._running[target]._replace(line=line)

    def progress(self) -> tuple[float, int, int]:
        """Return the part of the expected work that is done (0 to 1), and how many targets are, of how many."""
        now = self._clock() - self._start
        known = [seconds for seconds in self._expected.values() if seconds is not None]
        usual = sum(known) / len(known) if known else 1.0
        work = done = 0.0
        for target, expected_s in self._expected.items():
            expected = max(usual if expected_s is None else expected_s, 0.01)
            work += expected
            if target in self._ended:
                done += expected
            elif target in self._running:
                done += min(max(now - self._running[target].since, 0), 0.95 * expected)
        ended = len(self._ended & self._expected.keys())
        return (done / work if work else 0.0), ended, len(self._expected)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw a row for each target that runs, as many as there is room for, and the bar of the whole."""
        with self._lock:
            rows = list(self._rows(options.max_width, max(options.size.height - 2, 1), ascii_only=options.ascii_only))
        self.widths = tuple(row.cell_len for row in rows)
        yield from rows

    def _rows(self, width: int, height: int, *, ascii_only: bool) -> Iterator[Text]:
        from rich.text import Text  # noqa: PLC0415  only when something is drawn

        now = self._clock() - self._start
        oldest = list(self._running.items())
        hidden = max(len(oldest) - height + 1, 0) if len(oldest) > height else 0
        shown = oldest[: len(oldest) - hidden]
        times = [_times(now - running.since, running.expected_s, short=width < _NARROW) for _, running in shown]
        longest = max(map(len, times), default=0)
        name_width = min(max((len(name) for name, _ in shown), default=0), max(width // 3, 8))
        for (name, running), told in zip(shown, times, strict=True):
            row = Text(name, "bold")
            row.truncate(name_width, overflow="crop" if ascii_only else "ellipsis", pad=True)
            late = running.expected_s is not None and now - running.since > 1.5 * running.expected_s + 1
            row.append(f"  {told.rjust(longest)}", "yellow" if late else "cyan")
            row.append(f"  {running.line}", "dim")
            yield _cut(row, width, ascii_only=ascii_only)
        if hidden:
            yield _cut(Text(f"and {hidden} more running", "dim"), width, ascii_only=ascii_only)
        yield _cut(self._bar(now, width, ascii_only=ascii_only), width, ascii_only=ascii_only)

    def _bar(self, now: float, width: int, *, ascii_only: bool) -> Text:
        from rich.text import Text  # noqa: PLC0415  only when something is drawn

        part, ended, targets = self.progress()
        row = Text()
        if width >= _NARROW // 2:
            columns = min(_BAR, width // 3)
            full = int(part * columns)
            row.append(("#" if ascii_only else "━") * full, "green")
            row.append(("-" if ascii_only else "─") * (columns - full), "dim")
            row.append("  ")
        row.append(f"{int(part * 100)} %  {ended} of {targets}", "bold")
        row.append(f"{' targets' if width >= _NARROW else ''}  {clock(now)}")
        return row


def _times(elapsed: float, expected_s: float | None, *, short: bool) -> str:
    """Return how long a target runs, and how long it did last."""
    if expected_s is None:
        return clock(elapsed)
    return f"{clock(elapsed)}{'/' if short else ' of '}{clock(max(expected_s, 1))}"


def _cut(row: Text, width: int, *, ascii_only: bool) -> Text:
    """Return the row cut to less than the width: terminals differ in what a full last column does."""
    row.no_wrap = True
    row.truncate(max(width - 1, 1), overflow="crop" if ascii_only else "ellipsis")
    row.rstrip()
    return row


def _live(console: Console, board: Board) -> Live:
    """Return a display that keeps the board at the foot of the console."""
    from rich.control import Control  # noqa: PLC0415  only when something is drawn
    from rich.live import Live  # noqa: PLC0415
    from rich.segment import ControlType  # noqa: PLC0415

    class Foot(Live):
        """A live display that also takes away the rows that a terminal made narrower has wrapped."""

        def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
            columns = max(console.width, 1)
            wrapped = sum(max(taken - 1, 0) // columns for taken in board.widths)
            if not (console.is_interactive and wrapped):
                return super().process_renderables(renderables)
            reset, *drawn = super().process_renderables(renderables)
            up = ((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2))
            return [reset, Control(*up * wrapped), *drawn]

    return Foot(
        board,
        console=console,
        refresh_per_second=REFRESHES_PER_SECOND,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
