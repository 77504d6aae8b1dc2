"""The log of a job of GitHub Actions: a group for each target, and annotations for what failed.

Workflow commands are lines of their own
(https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands). A group cannot hold another, nor
can two be open, so what a target prints is told when it ends. What comes from a program is no command: the runner takes
a line for one that begins with `::` after blanks, or has `##[` anywhere.
"""

import os
import re
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Literal, TextIO

from forgefile.events import (
    Built,
    Differs,
    Event,
    Failed,
    Note,
    Output,
    Same,
    StepStarted,
)
from forgefile.report import Sink, Verbosity
from forgefile.report.ink import ink, painted
from forgefile.report.words import Account, Line, count, printable, text

_LINES_LIMIT = 10_000
"""How many lines a group has at most: the last. The pages that show a log are of no use beyond that."""
_TAIL_LINES = 5
_PLACE = re.compile(r"(.+?):([0-9]+)(?: \(.*)?")
_COMMAND = re.compile(r"^(\s*)::")


class Github:
    """Writes a run to a stream, each target as one piece. `environ` says where the repository lies."""

    def __init__(
        self,
        stream: TextIO,
        *,
        verbosity: Verbosity = "normal",
        explain: bool = False,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._sink = Sink(stream)
        self._ink = ink(environ, terminal=False)
        self._account = Account(verbosity=verbosity, explain=explain)
        self._quiet = verbosity == "quiet"
        self._printed: dict[str, deque[str]] = {}
        self._prints: set[str] = set()
        self._left_out: dict[str, int] = {}
        self._root = environ.get("GITHUB_WORKSPACE")

    def report(self, event: Event) -> None:
        """Write what there is to say of an event, or keep it until its target ends."""
        match event:
            case StepStarted() | Output() if self._quiet:
                pass
            case StepStarted():
                self._keep(event.target, f"$ {event.command}")
            case Output():
                self._prints.add(event.target)
                self._keep(event.target, event.line)
            case Note() if not self._quiet:
                self._write((annotation("warning", event.message),))
            case Built() | Failed() | Same() | Differs():
                self._write((*self._told(event), *self._annotated(event)))
            case _:
                self._write(self._lines(self._account.lines(event)))

    def close(self) -> None:
        """Do nothing: every piece is complete when it is written."""

    def _keep(self, target: str, line: str) -> None:
        kept = self._printed.setdefault(target, deque(maxlen=_LINES_LIMIT))
        self._left_out[target] = self._left_out.get(target, 0) + (len(kept) == _LINES_LIMIT)
        kept.append(line)

    def _told(self, event: Built | Failed | Same | Differs) -> Iterable[str]:
        """Yield how a target ended, as the title of a group of what it printed, if it did."""
        lines = self._account.lines(event)
        printed = self._printed.pop(event.target, ())
        left_out = self._left_out.pop(event.target, 0)
        prints = event.target in self._prints
        self._prints.discard(event.target)
        if prints and lines:
            yield f"::group::{_escaped(text(lines[0]))}"
            if left_out:
                yield f"({count(left_out, 'line')} before these: forge log {event.target})"
            yield from (harmless(printable(line)) for line in printed)
            yield "::endgroup::"
        if not prints or isinstance(event, Failed | Differs):
            yield from self._lines(lines)

    def _lines(self, lines: Iterable[Line]) -> Iterable[str]:
        return (harmless(painted(line, self._ink)) for line in lines)

    def _annotated(self, event: Event) -> Iterable[str]:
        if isinstance(event, Failed):
            more = (*event.tail[-_TAIL_LINES:], *((f"hint: {event.hint}",) if event.hint else ()))
            message = "\n".join(map(printable, (*event.message.splitlines(), *more)))
            yield annotation("error", message, f"{event.target} failed", event.location, self._root)
        elif isinstance(event, Differs):
            message = "\n".join(map(printable, event.differences))
            yield annotation("error", message, f"{event.target} differs", event.location, self._root)

    def _write(self, lines: Iterable[str]) -> None:
        if told := "".join(f"{line}\n" for line in lines):
            self._sink.write(told)
            self._sink.flush()


def annotation(
    level: Literal["error", "warning"],
    message: str,
    title: str = "",
    location: str | None = None,
    root: str | None = None,
) -> str:
    """Return the command that annotates a place, `FILE:LINE…` as seen from here, of the repository at `root`.

    Default of `root`: what the runner says.
    """
    root = os.path.realpath(root or os.environ.get("GITHUB_WORKSPACE") or ".")
    properties = {}
    if place := _PLACE.fullmatch(location or ""):
        file = os.path.relpath(os.path.realpath(place[1]), root)
        properties = {"file": os.path.abspath(place[1]) if file.startswith("../") else file, "line": place[2]}
    if title:
        properties["title"] = title
    told = ",".join(f"{name}={_escaped(value, ':,')}" for name, value in properties.items())
    return f"::{level}{' ' if told else ''}{told}::{_escaped(message)}"


def _escaped(value: str, more: str = "") -> str:
    """Return a text as commands take it: `%`, line ends, and in a property what parts properties, as `%` and hex."""
    return "".join(f"%{ord(each):02X}" if each in f"%\r\n{more}" else each for each in value)


def harmless(line: str) -> str:
    """Return a line that the runner takes for no command."""
    return _COMMAND.sub(r"\1| ::", line).replace("##[", "## [")
