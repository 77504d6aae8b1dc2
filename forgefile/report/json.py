"""One JSON object a line, for programs: every event with all its fields, as it happens.

The names and meanings of the fields are a contract: fields may be added, none may be removed. A field that is not
known is left out. Everything is ASCII, so that no encoding can spoil it.
"""

import json
from typing import TextIO

from forgefile.events import Event
from forgefile.report import Sink


class Json:
    """Writes events to a stream as JSON lines (https://jsonlines.org), each flushed at once."""

    def __init__(self, stream: TextIO) -> None:
        self._sink = Sink(stream)
        self._encode = json.JSONEncoder(separators=(", ", ": "), allow_nan=False).encode

    def report(self, event: Event) -> None:
        """Write an event."""
        self._sink.write(self._encode(event.plain()) + "\n")
        self._sink.flush()

    def close(self) -> None:
        """Do nothing: every line is complete when it is written."""
