"""The live display of a terminal: what runs now, and above it, in colour, the lines that a log would have.

Unaware of wording, which is `words`', and of the screen, which is `foot`'s.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

from forgefile.events import Event, Finished, Started, Verified
from forgefile.report import Sink, Verbosity
from forgefile.report.board import Board
from forgefile.report.ink import ink, painted, short
from forgefile.report.words import Account, Line

if TYPE_CHECKING:
    from forgefile.report.foot import Foot


class Terminal:
    """Draws a run on a terminal. `clock` gives seconds; the display counts with it between two events."""

    def __init__(
        self,
        stream: TextIO,
        *,
        verbosity: Verbosity = "normal",
        dry_run: bool = False,
        explain: bool = False,
        environ: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sink = Sink(stream)
        self._ink = ink(environ, terminal=True)
        self._ascii_only = not self._sink.encoding.lower().startswith("utf")
        self._ellipsis = "..." if self._ascii_only else "…"
        starts = verbosity == "verbose"
        self._account = Account(verbosity=verbosity, dry_run=dry_run, explain=explain, starts=starts)
        self._shortens = verbosity == "normal" and not explain
        self._lively = verbosity != "quiet" and not dry_run
        self._board = Board(clock)
        self._lock = threading.Lock()  # the foot is drawn in a thread of its own
        self._foot: Foot | None = None

    def report(self, event: Event) -> None:
        """Show an event."""
        with self._lock:
            self._board.note(event)
        if isinstance(event, Started) and self._lively and self._foot is None:
            from forgefile.report.foot import Foot  # noqa: PLC0415  only when something runs

            self._foot = Foot(self._sink, self._rows)
            self._foot.start()
        if isinstance(event, Finished | Verified):
            self._stop()
        self._print(self._account.lines(event))

    def close(self) -> None:
        """Take the display away, put the cursor back and say what is left to say."""
        self._stop()
        self._print(self._account.rest())

    def _stop(self) -> None:
        foot, self._foot = self._foot, None
        if foot is not None:
            foot.stop()

    def _rows(self, width: int, height: int) -> Sequence[str]:
        with self._lock:
            rows = self._board.rows(width, height, ascii_only=self._ascii_only)
        return [painted(row, self._ink) for row in rows]

    def _print(self, lines: Sequence[Line]) -> None:
        if not lines:
            if self._foot is not None:
                self._foot.say(())
            return
        if self._shortens:
            width, _ = self._sink.size()
            lines = [short(line, width, ellipsis=self._ellipsis) for line in lines]
        told = [painted(line, self._ink) for line in lines]
        if self._foot is not None:
            self._foot.say(told)
        else:
            self._sink.write("".join(f"{line}\n" for line in told))
            self._sink.flush()
