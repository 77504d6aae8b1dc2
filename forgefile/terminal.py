"""The terminal of the user, for a program behind a pseudo-terminal: what is typed goes in, what it prints comes out.

A program never gets the user's terminal itself, into which it could type (TIOCSTI, ioctl_tty(2)). Unaware of what runs
there. Facts: pty(7), termios(3), ioctl_tty(2).
"""

import errno
import fcntl
import os
import select
import signal
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, NamedTuple

_CHUNK = 1 << 16
_WINDOW_BYTES = 8
_TIOCSPTLCK = 0x40045431
"""The request that locks the end for the program, or, with a zero, unlocks it."""


class Terminal(NamedTuple):
    """What a pseudo-terminal has to have to be like the user's."""

    attributes: list[Any]
    window: bytes
    numbers: tuple[int, ...]
    """The standard files that are this terminal."""


def here() -> Terminal | None:
    """Return the terminal on which a person is and looks: standard input and output. None: that is not so."""
    numbers = tuple(filter(os.isatty, (0, 1, 2)))
    return Terminal(termios.tcgetattr(0), _window(), numbers) if {0, 1} <= set(numbers) else None


def _window() -> bytes:
    return fcntl.ioctl(1, termios.TIOCGWINSZ, bytes(_WINDOW_BYTES))


def opened_like(terminal: Terminal, devpts: str) -> BinaryIO:
    """Open the first pseudo-terminal, like another terminal, of a devpts that is mounted at a path.

    Returns the end that the user has, for the caller to close. The program's has the name `0` in the devpts.
    """
    master = open(f"{devpts}/ptmx", "r+b", 0, opener=lambda p, f: os.open(p, f | os.O_NOCTTY))  # noqa: SIM115
    fcntl.ioctl(master, _TIOCSPTLCK, bytes(4))
    termios.tcsetattr(master, termios.TCSANOW, terminal.attributes)
    fcntl.ioctl(master, termios.TIOCSWINSZ, terminal.window)
    return master


@contextmanager
def handed_over(master: int) -> Iterator[None]:
    """Have the user's terminal pass on each key as it is, and its size when that changes; afterwards it is as before.

    The size follows a moment late if this process is stopped meanwhile.
    """
    before = termios.tcgetattr(0)

    def resize(*_: object) -> None:
        with suppress(OSError):
            fcntl.ioctl(master, termios.TIOCSWINSZ, _window())

    def resume(*_: object) -> None:
        with suppress(OSError, termios.error):
            tty.setraw(0, termios.TCSANOW)
        resize()

    handlers = {signal.SIGWINCH: resize, signal.SIGCONT: resume}
    found = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        resume()
        yield
    finally:
        for number, handler in found.items():
            signal.signal(number, handler)
        with suppress(OSError, termios.error):  # it hung up
            termios.tcsetattr(0, termios.TCSADRAIN, before)


def relay(master: int) -> bool:
    """Pass on what is typed and printed until no program has the other end; return whether the user is still there.

    When the user has left, that ends it at once: closing `master` then tells the programs, whatever they are at.
    """
    os.set_blocking(master, False)
    typed = b""
    while True:
        poll = select.poll()
        poll.register(master, select.POLLIN | (select.POLLOUT if typed else 0))
        if not typed:
            poll.register(0, select.POLLIN)
        for number, ready in poll.poll():
            if number == 0:
                if not (typed := _read(0)):
                    return False
            elif ready & select.POLLOUT:
                with suppress(BlockingIOError):
                    typed = typed[os.write(master, typed) :]
            if number == master and ready & (select.POLLIN | select.POLLHUP):
                if not (printed := _read(master)):
                    return True
                if not _written(printed):
                    return False


def _read(number: int) -> bytes:
    """Return what can be read; nothing at the end, which a terminal tells by EIO."""
    try:
        return os.read(number, _CHUNK)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return b""


def _written(printed: bytes) -> bool:
    """Write to the user's terminal; return whether it is still there."""
    while printed:
        try:
            printed = printed[os.write(1, printed) :]
        except BlockingIOError:  # whoever opened it before us has set that
            select.select((), (1,), ())
        except OSError:
            return False
    return True
