"""Lines of text, as a CI log wants them: no cursor movements, no colours unless asked for, each line written whole."""

import os
from collections.abc import Mapping
from typing import TextIO

from forgefile.events import Event
from forgefile.report import Sink, Verbosity
from forgefile.report.ink import ink, painted
from forgefile.report.words import Account, Line


class Plain:
    """Writes the account of a run to a stream, a line at a time."""

    def __init__(
        self,
        stream: TextIO,
        *,
        verbosity: Verbosity = "normal",
        dry_run: bool = False,
        explain: bool = False,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._sink = Sink(stream)
        self._ink = ink(environ, terminal=False)
        self._account = Account(verbosity=verbosity, dry_run=dry_run, explain=explain)

    def report(self, event: Event) -> None:
        """Write what there is to say of an event."""
        self._write(self._account.lines(event))

    def close(self) -> None:
        """Write what is left to say."""
        self._write(self._account.rest())

    def _write(self, lines: tuple[Line, ...]) -> None:
        if lines:
            self._sink.write("".join(f"{painted(line, self._ink)}\n" for line in lines))
            self._sink.flush()
