"""Rows at the foot of a terminal that are drawn again and again, and above them lines that stay.

Owns the cursor, the thread that writes, and what signals do to the screen. Unaware of what the rows say. Whoever says
something does not wait for the terminal: the lines are written with the next frame, each frame in one piece.

Between two frames the cursor stands at the beginning of the first row. Terminals that wrap rows anew when they become
narrower keep it there, so all that is below it can be taken away without knowing how much that is.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from forgefile.report import Sink

FRAME_S = 0.1
"""The least time between two frames."""
_TICK_S = 0.25
"""The time between two frames when there is no news but that of the clock."""
_LINES_LIMIT = 10_000
"""How many lines may wait for the terminal before whoever says more has to wait, too."""
_PATIENCE_S = 2.0
"""How long a signal waits for the frame that is being written."""
_SIGNALS = (signal.SIGTSTP, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

# ECMA-48, and the private modes of xterm (https://invisible-island.net/xterm/ctlseqs/ctlseqs.html)
_HIDE, _SHOW = "\x1b[?25l", "\x1b[?25h"
_NO_WRAP, _WRAP = "\x1b[?7l", "\x1b[?7h"
_CLEAR_LINE, _CLEAR_BELOW = "\x1b[K", "\x1b[J"
_CLEAR = f"\r{_CLEAR_LINE}\x1b[C{_CLEAR_BELOW}\r"
"""Clears the foot. tmux takes what is cleared from the first column of the first line for a page to be kept."""

Rows = Callable[[int, int], Sequence[str]]
"""Returns the rows for so many columns and lines, ready to be written."""


class Foot:
    """Draws from `start` to `stop`; `rows` is called in a thread of its own."""

    def __init__(self, sink: Sink, rows: Rows) -> None:
        self._sink = sink
        self._rows = rows
        self._lines: list[str] = []
        self._lock = threading.Lock()
        self._drawing = threading.RLock()  # a signal's handler takes it, maybe where the same thread has it
        self._news, self._room, self._ending = threading.Event(), threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._shown: tuple[int, int, Sequence[str]] = (0, 0, ())
        self._hidden = False
        self._paused = False
        self._thread = threading.Thread(target=self._run, name="foot", daemon=True)
        self._replaced: dict[int, object] = {}

    def start(self) -> None:
        """Begin to draw."""
        self._thread.start()
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) is signal.SIG_DFL:
                    signal.signal(number, self._signalled)
                    self._replaced[number] = signal.SIG_DFL

    def say(self, lines: Sequence[str]) -> None:
        """Have lines written above the foot, with the next frame; without lines, have the foot drawn anew."""
        if self._error is not None:
            raise self._error
        if lines:
            with self._lock:
                self._lines.extend(lines)
                self._room.clear()
            while len(self._lines) > _LINES_LIMIT and self._thread.is_alive():
                self._news.set()
                self._room.wait(FRAME_S)
        if not self._news.is_set():
            self._news.set()

    def stop(self) -> None:
        """Write what was said, take the foot away and put the cursor back; raise what drawing has raised."""
        try:
            self._ending.set()
            self._news.set()
            self._thread.join()
        finally:
            for number in self._replaced:
                signal.signal(number, signal.SIG_DFL)
            self._replaced.clear()
            self._leave()
        if self._error is not None:
            raise self._error

    # In the thread

    def _run(self) -> None:
        try:
            self._ending.wait(FRAME_S)  # what is done at once needs no foot
            while not self._ending.is_set():
                begun = time.monotonic()
                self._draw()
                self._ending.wait(FRAME_S - (time.monotonic() - begun))
                self._news.wait(_TICK_S - FRAME_S)
            self._draw(last=True)
        except BaseException as error:  # noqa: BLE001  raised again where `say` or `stop` is called
            self._error = error

    def _draw(self, *, last: bool = False) -> None:
        """Write the lines that wait, and below them the rows."""
        self._news.clear()
        with self._drawing:
            with self._lock:
                lines, self._lines = self._lines, []
                self._room.set()
            width, height = self._sink.size()
            rows = () if last or self._paused or not self._is_ours() else tuple(self._rows(width, height))
            shown = (width, height, rows)
            if lines or shown != self._shown:
                self._sink.write(self._frame(lines, rows))
                self._sink.flush()
                self._shown = shown

    def _frame(self, lines: Sequence[str], rows: Sequence[str]) -> str:
        """Return what brings the screen from the frame before to this one."""
        parts = ["\r"] if self._hidden else []
        if self._hidden and (lines or not rows):
            parts.append(_CLEAR)
        parts += [f"{line}\n" for line in lines]
        if rows:
            up = f"\x1b[{len(rows) - 1}A" if len(rows) > 1 else ""
            drawn = f"{_CLEAR_LINE}\n".join(rows)
            parts += ["" if self._hidden else _HIDE, _NO_WRAP, drawn, _CLEAR_BELOW, _WRAP, "\r", up]
        elif self._hidden:
            parts.append(_SHOW)
        self._hidden = bool(rows)
        return "".join(parts)

    def _is_ours(self) -> bool:
        """Tell whether the terminal is for us to draw on; not so when a shell has it and we run behind it."""
        try:
            return os.tcgetpgrp(self._sink.fileno()) == os.getpgrp()
        except OSError:
            return True

    # In the main thread

    def _signalled(self, number: int, _: FrameType | None) -> None:
        """Leave the screen as it should be, and let the signal do what it does; draw again if that lets us go on."""
        with self._still():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(signal.Signals(number))
            signal.signal(number, self._signalled)
        self._news.set()

    @contextmanager
    def _still(self) -> Iterator[None]:
        """Have nothing drawn meanwhile."""
        self._paused = True
        held = self._drawing.acquire(timeout=_PATIENCE_S)
        try:
            self._leave()
            yield
        finally:
            self._paused = False
            if held:
                self._drawing.release()

    def _leave(self) -> None:
        """Take the foot away and show the cursor, past the stream, which may be in the midst of writing."""
        if self._hidden:
            self._hidden = False
            self._shown = (0, 0, ())
            with suppress(OSError, ValueError):
                os.write(self._sink.fileno(), f"{_CLEAR}{_SHOW}".encode())
