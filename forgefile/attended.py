"""A program in the sandbox of a step, with a person at it: it has forge's own files, or a terminal like the user's.

`attend` is called in a process that has left the host's mounts. Unaware of which program it is, and of targets.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import BinaryIO, NoReturn

from forgefile import linux, terminal
from forgefile.errors import BuildError
from forgefile.job import Job
from forgefile.model import Run
from forgefile.roots import entrance, mounting_devpts
from forgefile.sandbox import (
    GRACE_S,
    NAMESPACES,
    be_first,
    cannot_be_made,
    environment_of,
    go_inside,
    pass_on,
    prepared,
    spawn,
)
from forgefile.terminal import Terminal

_ENDING = signal.SIGTERM, signal.SIGHUP
_PASSED = signal.SIGINT, signal.SIGQUIT, *_ENDING
_TERMINAL = "/dev/pts/0"
"""The program's terminal: its devpts has no other before the program opens one."""
_READY = b"\0"
"""What PID 1 says when it is on the terminal."""
_BY_SIGNAL = 128
"""What a shell adds to the number of the signal that ended a program."""


def attend(job: Job, step: Run) -> int:
    """Run a program of a furnished job's sandbox for a person; return its exit status, as a shell tells it.

    On a terminal (standard input and output) it has a terminal of its own, to which the user's is handed over: Ctrl-C
    and Ctrl-Z are the program's. Otherwise it has the files that forge has. Signals are passed on; what is left some
    seconds after one that ends it is killed. Raises `BuildError` when the sandbox cannot be made.
    """
    users = terminal.here()
    with prepared(job, step) as root, _opened(job, users) as master, _blocked():
        read, write = os.pipe()
        with open(read, "rb", 0) as told:
            try:
                devpts = _devpts(job) if master else None
                deed = partial(_run, step, environment_of(job, step), users, write)
                inside = partial(go_inside, step, entrance(job, step, root, devpts), deed, fresh=not step.network)
                first = linux.fork(NAMESPACES | (0 if step.network else linux.CLONE_NEWNET))
                if not first:
                    be_first((linux.naming_host("forge"),), inside, None, write)
            except OSError as problem:
                raise cannot_be_made(problem) from problem
            finally:
                os.close(write)
            try:
                with _passing(first, is_terminal=master is not None):
                    message = _follow(told, master)
                    status = os.waitstatus_to_exitcode(os.waitpid(first, 0)[1])
            except BaseException:
                os.kill(first, signal.SIGKILL)
                raise
    if message:
        words, _, hint = message.decode("utf-8", "replace").partition("\0")
        raise BuildError(words, hint=hint or None)
    return _told(status)


def _devpts(job: Job) -> str:
    """Return where the terminal of a job's program is mounted."""
    return f"{job.staging}/pts"


@contextmanager
def _opened(job: Job, users: Terminal | None) -> Iterator[BinaryIO | None]:
    """Work where a job has a terminal like the user's, if that is one; yield the user's end of it."""
    if users is None:
        yield None
        return
    try:
        os.mkdir(_devpts(job))
        linux.make((mounting_devpts(_devpts(job)),))
        master = terminal.opened_like(users, _devpts(job))
    except OSError as problem:
        raise cannot_be_made(problem) from problem
    with master:
        yield master


def _told(status: int) -> int:
    return status if status >= 0 else _BY_SIGNAL - status


@contextmanager
def _blocked() -> Iterator[None]:
    """Hold signals back, so that between fork and handler none is lost."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _passing(first: int, *, is_terminal: bool) -> Iterator[None]:
    """Pass signals on to PID 1; some seconds after one that ends programs, kill it."""

    def handle(number: int, _: object) -> None:
        if number in _ENDING:
            if signal.getitimer(signal.ITIMER_REAL)[0]:
                return  # a terminal that hangs up is told by the kernel and by what reads it
            signal.setitimer(signal.ITIMER_REAL, GRACE_S)
        with suppress(ProcessLookupError):
            os.kill(first, signal.SIGHUP if is_terminal and number in _ENDING else number)

    def kill(*_: object) -> None:
        with suppress(ProcessLookupError):
            os.kill(first, signal.SIGKILL)

    found = {number: signal.signal(number, handle) for number in _PASSED}
    found[signal.SIGALRM] = signal.signal(signal.SIGALRM, kill)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in found.items():
            signal.signal(number, handler)


def _follow(told: BinaryIO, master: BinaryIO | None) -> bytes:
    """Be between the user and the program until its PID 1 ends; return what that says of an error."""
    first = told.read(len(_READY))
    if master is None or first != _READY:
        return first + told.read()
    with master, terminal.handed_over(master.fileno()):
        is_there = terminal.relay(master.fileno())
    if not is_there:
        os.kill(os.getpid(), signal.SIGHUP)
    return told.read()


def _run(step: Run, environment: dict[str, str], users: Terminal | None, tell: int) -> NoReturn:
    """Run the program as a child of PID 1, collect what others leave, and end as it does."""
    actions: list[tuple[object, ...]] = []
    if users is not None:
        slave = os.open(_TERMINAL, os.O_RDWR | os.O_NOCTTY)
        for number in users.numbers:
            os.dup2(slave, number)
        actions = [(os.POSIX_SPAWN_OPEN, 0, _TERMINAL, os.O_RDWR, 0)]
        actions += [(os.POSIX_SPAWN_DUP2, 0, number) for number in users.numbers if number]
        os.write(tell, _READY)
    for number in _PASSED:
        signal.signal(number, pass_on)
    child = spawn(step, environment, actions)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED)
    while True:
        pid, status = os.wait()
        if pid == child:
            os._exit(_told(os.waitstatus_to_exitcode(status)))
