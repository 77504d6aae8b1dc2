"""Where workers are forked: a process that is itself forked while forge is small, and imports what they need.

A fork costs what the memory of the process costs, and workers fork for each step. forge may hold a graph of 100,000
targets by then; it also draws on the terminal in a thread by then, and a process with threads had better not fork.

A worker is a child of forge all the same (CLONE_PARENT, clone(2)). As an ordinary user, all are in one user namespace.
"""

import gc
import os
import pickle
import socket
import sys
from typing import NoReturn

from forgefile import linux, userns
from forgefile.errors import BuildError, UsageError

_ANSWER_BYTES = 1 << 16


class Nursery:
    """A process that forks workers when it is asked to."""

    def __init__(self) -> None:
        self._process, self._socket = _start()

    def fork(self, connection: int) -> int:
        """Fork a worker that gets its jobs through a socket, and return its process id.

        Raises `UsageError` when this machine lets an ordinary user not do what workers must.
        """
        answer = self._ask(connection)
        if not answer:  # somebody killed it
            self.close()
            self._process, self._socket = _start()
            answer = self._ask(connection)
        if not answer:
            raise BuildError("no worker could be started")
        said: int | UsageError = pickle.loads(answer)  # noqa: S301  our own child
        if isinstance(said, UsageError):
            raise said
        return said

    def _ask(self, connection: int) -> bytes:
        """Ask for a worker; return the answer, which is empty when nobody is there."""
        try:
            socket.send_fds(self._socket, [pickle.dumps(sys.path)], [connection])
            return self._socket.recv(_ANSWER_BYTES)
        except OSError:
            return b""

    def close(self) -> None:
        """End the process; the workers stay. After an interrupt of this, it ends when this process does."""
        process, self._process = self._process, 0
        if process:
            self._socket.close()
            os.waitpid(process, 0)


def _start() -> tuple[int, socket.socket]:
    """Fork the process; return its id and what it is asked through."""
    ours, theirs = socket.socketpair()
    process = os.fork()
    if not process:
        ours.close()
        _serve(theirs)
    theirs.close()
    return process, ours


def _serve(asked: socket.socket) -> NoReturn:
    """Fork a worker for each file descriptor that comes, until the parent hangs up."""
    try:
        os.setsid()
        linux.die_with_parent()
        from forgefile.worker import work  # noqa: PLC0415  takes longer than the fork, and nobody waits for it here

        problem = _entered()
        gc.freeze()  # a collection would touch, and so copy, what the workers share
        while True:
            path, connections, _, _ = socket.recv_fds(asked, _ANSWER_BYTES, 1)
            if not path:
                break
            worker = 0 if problem else linux.fork(linux.CLONE_PARENT)
            if not worker and not problem:
                asked.close()
                sys.path[:] = pickle.loads(path)  # noqa: S301  from our own parent
                work(connections[0])
            os.close(connections[0])
            asked.send(pickle.dumps(problem or worker))
    except (KeyboardInterrupt, OSError):
        pass  # the parent sees that nobody answers
    os._exit(0)


def _entered() -> UsageError | None:
    """Enter the user namespace in which all workers run; return what forbids it."""
    try:
        userns.enter()
    except UsageError as error:
        return error
    return None
