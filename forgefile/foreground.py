"""Run a program that has the terminal, and that never outlives forge.

Unaware of what the program is.
"""

import os
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from forgefile import linux

_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class _EndedError(Exception):
    """This process got a signal that ends it."""


def run(program: str, words: tuple[str, ...], errors: BinaryIO) -> int:
    """Run a program on this process's terminal until it ends; return its exit status, of a signal the negative number.

    `program` is its path, `words` its argv, `errors` gets what it writes to standard error. A signal that ends this
    process ends the program first, and the terminal is put back as it was. If this process is killed, so is the
    program. Raises BrokenPipeError when nobody reads any more what it prints. Call where there is one thread.
    """
    with unwinding(), _terminal_kept():
        process = subprocess.Popen(
            words, executable=program, stderr=errors,
            preexec_fn=linux.die_with_parent,  # noqa: PLW1509  there is one thread
        )  # fmt: skip
        try:
            _wait(process)
            return process.wait()
        finally:
            process.kill()
            process.wait()
    raise AssertionError("it has ended by a signal")


def _wait(process: subprocess.Popen[bytes]) -> None:
    """Wait until a program has ended; raise BrokenPipeError when nobody reads any more what it prints."""
    ending = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(ending, select.POLLIN)
        poll.register(1, 0)  # an error is always told
        if ending not in dict(poll.poll()):
            raise BrokenPipeError
    finally:
        os.close(ending)


@contextmanager
def _terminal_kept() -> Iterator[None]:
    """Put the terminal back as it was, however a program leaves it."""
    try:
        before = termios.tcgetattr(0)
    except termios.error:
        yield
        return
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


@contextmanager
def unwinding() -> Iterator[None]:
    """Let what would end this process at once first unwind what stands in this block."""
    got: list[int] = []

    def unwind(number: int, _: object) -> None:
        got.append(number)
        raise _EndedError

    before = {number: signal.signal(number, unwind) for number in _ENDING}
    try:
        yield
    except _EndedError:
        sys.stdout.flush()
        signal.signal(got[0], signal.SIG_DFL)
        os.kill(os.getpid(), got[0])
    finally:
        for number, action in before.items():
            signal.signal(number, action)
