"""The process pool: jobs in, results out.

What a job says while it runs streams to the parent. When forge ends, however it ends, the kernel ends its workers and
everything that these started; so does `Pool.close`. Unaware of what workers do.
"""

import os
import signal
import socket
import time
from collections.abc import Iterable, Iterator

from forgefile.channel import Channel, readable
from forgefile.job import NO_MEMORY, Job, JobResult, Message, StepFailed, ended
from forgefile.nursery import Nursery

_PATIENCE_S = 10
"""How long a worker may take to end what it runs."""


class Pool:
    """`size` worker processes, forked in a nursery; a slot is the number of one of them.

    All but the first are forked when they get a job.
    Raises `UsageError` when this machine lets an ordinary user not do what workers must.
    """

    def __init__(self, size: int, nursery: Nursery) -> None:
        self._size = size
        self._nursery = nursery
        self._workers: dict[int, tuple[int, Channel]] = {}
        self._busy: dict[int, float] = {}
        self._start(0)

    def _start(self, slot: int) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            channel = Channel(ours.detach())
            self._workers[slot] = self._nursery.fork(theirs.fileno()), channel

    @property
    def free(self) -> list[int]:
        """The slots of workers that have no job."""
        return [slot for slot in range(self._size) if slot not in self._busy]

    def submit(self, slot: int, job: Job) -> None:
        """Give a job to a free worker."""
        if slot not in self._workers:
            self._start(slot)
        self._busy[slot] = time.monotonic()
        self._workers[slot][1].send(job)

    def messages(self, also: Iterable[int] = (), patience_s: float | None = None) -> Iterator[tuple[int, Message]]:
        """Wait until some worker has something to say and yield it; a dead worker is replaced and its job failed.

        Yields nothing when one of the file descriptors in `also` has something to read, or when it gets late.
        """
        slots = {self._workers[slot][1].fileno(): slot for slot in self._busy}
        for number in readable([*slots, *also], patience_s):
            if (slot := slots.get(number)) is None:
                continue
            try:
                message: Message = self._workers[slot][1].receive()
            except (EOFError, OSError):
                message = self._replace(slot)
            if isinstance(message, JobResult):
                del self._busy[slot]
            yield slot, message

    def _replace(self, slot: int) -> JobResult:
        process, channel = self._workers.pop(slot)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        channel.close()
        self._start(slot)
        how = f"its worker ended unexpectedly ({ended(status)})"
        hint = NO_MEMORY if status == -signal.SIGKILL else None
        return JobResult(time.monotonic() - self._busy[slot], failed=StepFailed("", how, hint))

    def end(self, slot: int) -> None:
        """End the worker that has a job and everything that it runs; another takes its place."""
        process, channel = self._workers.pop(slot)
        del self._busy[slot]
        os.kill(process, signal.SIGTERM)
        _wait_for(process, channel)
        self._start(slot)

    def close(self) -> None:
        """End all workers and everything that they run, and wait until it has ended."""
        self._nursery.close()
        for process, _ in self._workers.values():
            os.kill(process, signal.SIGTERM)
        for process, channel in self._workers.values():
            _wait_for(process, channel)
        self._workers.clear()
        self._busy.clear()


def _wait_for(process: int, channel: Channel) -> None:
    """Wait until a worker that was told to end has ended."""
    ending = os.pidfd_open(process)
    if not readable([ending], _PATIENCE_S):
        os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    os.close(ending)
    channel.close()
