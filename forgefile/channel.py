"""A way for plain data between two processes: pickled, each with its length before it.

`multiprocessing.connection` does the same, and imports thirty modules, which every process that is forked for a step
would carry along. Unaware of what is sent. Only for processes that trust each other, as pickle wants it.
"""

import os
import pickle
import select
import struct
from collections.abc import Iterable
from typing import Any, Self

_LENGTH = struct.Struct("=Q")
_PIECE = 1 << 20


class Channel:
    """One end of a connected socket or pipe, by its file descriptor, which is closed with it."""

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        """Return the file descriptor, for select(2) and its like."""
        return self._number

    def send(self, value: object) -> None:
        """Send a value; raise OSError when nobody is there to read it."""
        data = pickle.dumps(value)
        rest = memoryview(_LENGTH.pack(len(data)) + data)
        while rest:
            rest = rest[os.write(self._number, rest) :]

    def receive(self) -> Any:
        """Wait for a value and return it; raise EOFError when the other end is gone, if in the middle of a value."""
        return pickle.loads(self.receive_bytes())  # noqa: S301  see above

    def receive_bytes(self) -> bytes:
        """Wait for a value and return it as it was pickled."""
        return self._read(_LENGTH.unpack(self._read(_LENGTH.size))[0])

    def _read(self, size: int) -> bytes:
        data = b""
        while left := size - len(data):
            if not (piece := os.read(self._number, min(left, _PIECE))):
                raise EOFError
            data += piece
        return data

    def close(self) -> None:
        """Close the file descriptor."""
        os.close(self._number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def readable(numbers: Iterable[int], patience_s: float | None = None) -> list[int]:
    """Wait until some of these file descriptors have something to read, or end; return them, none when it is late."""
    ready = select.poll()
    for number in numbers:
        ready.register(number, select.POLLIN)
    return [number for number, _ in ready.poll(None if patience_s is None else patience_s * 1000)]
