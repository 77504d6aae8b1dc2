"""The displays: each draws the one stream of events in its own form.

Owns the choice of a form, the stream that text goes to, and the feeding of several displays at once. Unaware of what
any event says. A form is imported when it is chosen.
"""

import errno
import io
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from typing import Literal, TextIO

from forgefile.events import Event, Reporter

Form = Literal["auto", "terminal", "plain", "json", "github"]
EVERY_LINE = ("json", "github")
"""The forms that tell every line that steps print; for others, unless they are verbose, the latest is enough."""
Verbosity = Literal["quiet", "normal", "verbose"]


def reporter(
    form: Form,
    stream: TextIO,
    *,
    verbosity: Verbosity = "normal",
    dry_run: bool = False,
    explain: bool = False,
    trace: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Reporter:
    """Return the display of a run on `stream`, and in the trace file when one is named.

    `auto` is what `form_for` returns. `dry_run` shows the `planned` events as a table; without it they only serve the
    live display. `explain` tells every reason for what runs, before it does.

    Raises `UsageError` when the trace file could not be written.
    """
    form = form_for(stream, environ) if form == "auto" else form
    shown = _form(form, stream, verbosity, dry_run=dry_run, explain=explain, environ=environ)
    if trace is None:
        return shown
    from forgefile.report.trace import Trace  # noqa: PLC0415  only --trace needs it

    return Tee((shown, Trace(trace)))


def form_for(stream: TextIO, environ: Mapping[str, str] = os.environ) -> Form:
    """Return the form that fits a stream.

    That is `terminal` on one that can move its cursor, `github` in a job of GitHub Actions, and `plain` elsewhere.
    """
    if stream.isatty() and environ.get("TERM", "dumb") not in ("", "dumb", "unknown"):
        return "terminal"
    return "github" if environ.get("GITHUB_ACTIONS") == "true" else "plain"


def _form(
    form: Form, stream: TextIO, verbosity: Verbosity, *, dry_run: bool, explain: bool, environ: Mapping[str, str]
) -> Reporter:
    if form == "json":
        from forgefile.report.json import Json  # noqa: PLC0415  one form a run

        return Json(stream)
    if form == "terminal":
        from forgefile.report.terminal import Terminal  # noqa: PLC0415  one form a run

        return Terminal(stream, verbosity=verbosity, dry_run=dry_run, explain=explain, environ=environ)
    if form == "github" and not dry_run:
        from forgefile.report.github import Github  # noqa: PLC0415  one form a run

        return Github(stream, verbosity=verbosity, explain=explain, environ=environ)
    from forgefile.report.plain import Plain  # noqa: PLC0415  one form a run

    return Plain(stream, verbosity=verbosity, dry_run=dry_run, explain=explain, environ=environ)


class Tee:
    """Feeds several reporters, in order."""

    def __init__(self, reporters: Iterable[Reporter]) -> None:
        self._reporters = tuple(reporters)

    def report(self, event: Event) -> None:
        """Hand an event to each."""
        for each in self._reporters:
            each.report(event)

    def close(self) -> None:
        """Close each, the last first, also when one cannot be closed."""
        with ExitStack() as stack:
            for each in self._reporters:
                stack.callback(each.close)


class Sink:
    """A text stream that whoever reads it may leave, and that takes every character.

    When the reader is gone (a closed pipe, a terminal hung up), what is written is lost in silence, now and when
    Python flushes its streams at exit. A character that the stream's encoding does not have is written as an escape.
    A stream that another program has made non-blocking, which it shares with us, is waited for.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._left = False
        raw = getattr(getattr(stream, "buffer", None), "raw", None)
        self._raw = raw if isinstance(raw, io.FileIO) else None
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Write text; return its length."""
        if not self._left:
            if not text.isascii():
                text = text.encode(self.encoding, "backslashreplace").decode(self.encoding)
            try:
                if self._raw is None:
                    self._stream.write(text)
                else:
                    self._stream.flush()
                    _write_all(self._raw, text.encode(self.encoding))
            except OSError as error:
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Pass on what was written."""
        if not self._left:
            try:
                self._stream.flush()
            except OSError as error:
                self._lose(error)

    def isatty(self) -> bool:
        """Say whether a terminal takes the text."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Return the stream's file descriptor."""
        return self._stream.fileno()

    def size(self) -> tuple[int, int]:
        """Return how many columns and lines the terminal has at this moment."""
        with suppress(OSError, ValueError):
            columns, lines = os.get_terminal_size(self.fileno())
            if columns > 0 and lines > 0:
                return columns, lines
        return 80, 24

    def _lose(self, error: OSError) -> None:
        """Send what is left in the stream's buffer to nowhere, when `error` says that its reader is gone."""
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise error
        self._left = True
        with suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            try:
                os.dup2(nowhere, self._stream.fileno())
            finally:
                os.close(nowhere)


def _write_all(file: io.FileIO, data: bytes) -> None:
    """Write bytes past a stream's buffer, which loses some of them when the reader is not ready for all."""
    rest = memoryview(data)
    while rest:
        if written := file.write(rest):
            rest = rest[written:]
        else:
            from select import select  # noqa: PLC0415  hardly ever

            select([], [file], [])
