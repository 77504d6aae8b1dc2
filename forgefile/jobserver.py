"""Idle cores, lent to the jobs whose programs speak the jobserver protocol of GNU make.

A token is the right to run one process more. Each job has a named pipe of its own, in which lie the tokens that it
may take; its programs take one before they start a process and put it back afterwards. Since forge knows how many it
gave to whom, those that a killed program held are back when its job ends. Unaware of targets and of the schedule.

Facts: GNU make manual, 13.1.1 "POSIX Jobserver Interaction"; fifo(7).
"""

import os
from contextlib import suppress

NAME = "jobserver"
"""The name of the pipe in a job's staging folder, and below /run/forge."""
_TOKEN = b"+"


class _Lent:
    """One job's pipe; of the tokens that were put into it, `lent` are to come back before the job ends."""

    def __init__(self, path: str, own: int) -> None:
        os.mkfifo(path, 0o600)
        self.pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self.lent = 0
        self.hungry = True
        """It left none of its tokens unused when that was looked at."""
        os.write(self.pipe, _TOKEN * own)

    def take_back(self) -> None:
        found = 0
        with suppress(BlockingIOError):
            found = len(os.read(self.pipe, self.lent)) if self.lent else 0
        self.lent -= found
        self.hungry = not found

    def give(self) -> None:
        os.write(self.pipe, _TOKEN)
        self.lent += 1


class Jobserver:
    """The tokens of all jobs that run. A job is known by its slot."""

    def __init__(self) -> None:
        self._jobs: dict[int, _Lent] = {}

    @property
    def lent(self) -> int:
        """How many tokens are with jobs."""
        return sum(job.lent for job in self._jobs.values())

    @property
    def pipes(self) -> list[int]:
        """The pipes in which a token appears when a program puts one back that is lent."""
        return [job.pipe for job in self._jobs.values() if job.lent]

    def open(self, slot: int, staging: str, own: int) -> None:
        """Make the pipe of a job, with `own` tokens that are its own until it ends."""
        self._jobs[slot] = _Lent(f"{staging}/{NAME}", own)

    def close(self, slot: int) -> None:
        """Take all tokens from a job that has ended, if it had any."""
        if job := self._jobs.pop(slot, None):
            os.close(job.pipe)

    def take_back(self) -> None:
        """Take back what is lent and lies unused."""
        for job in self._jobs.values():
            job.take_back()

    def share(self, tokens: int) -> None:
        """Lend tokens, first to the jobs that left none unused, and to each as many."""
        jobs = [job for job in self._jobs.values() if job.hungry] or list(self._jobs.values())
        for number in range(tokens if jobs else 0):
            jobs[number % len(jobs)].give()
