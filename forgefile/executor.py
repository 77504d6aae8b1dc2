"""The process pool: jobs in, results out.

Each worker is a process that takes one job at a time, forks a process for the job's namespaces, then seals and commits
what it made. Steps' output streams to the parent while they run. When forge ends, however it ends, the kernel ends
its workers, their jobs and everything that these started; so does `Pool.close`. Workers are forked before forge
starts a thread.
"""

import math
import os
import pickle
import signal
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, NoReturn

from forgefile import linux, userns
from forgefile.cache.store import Committed, commit, keep_failed
from forgefile.errors import ForgeError, UsageError
from forgefile.files import remove_tree
from forgefile.job import Job, StepFailed
from forgefile.jobserver import NAME
from forgefile.model import Run
from forgefile.sandbox import NO_MEMORY, ended, run

_LINE_LIMIT = 2_000
_TAIL_LINES = 15
_LOG_LIMIT, _LOG_END = 64 << 20, 1 << 16
"""How many bytes of what steps print a log has, and how many of each step's end beyond that."""
_PATIENCE_S = 10
"""How long a worker may take to end what it runs."""
_PAUSE_S, _PAUSE_GROWTH, _PAUSE_LIMIT_S = 2, 4, 60
"""How long forge waits before it tries again: at first, how many times as long then, and at most."""


class StepBegan(NamedTuple):
    """A step of a job begins."""

    number: int
    command: str


class Printed(NamedTuple):
    """Lines that a step printed."""

    lines: tuple[str, ...]


class Again(NamedTuple):
    """A step failed that may succeed at another time: in `wait_s`, the job begins again, for the `number`th time."""

    failed: StepFailed
    number: int
    tries: int
    wait_s: float


class JobResult(NamedTuple):
    """How a job ended: `committed`, or why not."""

    seconds: float
    committed: Committed | None = None
    failed: StepFailed | None = None
    tail: tuple[str, ...] = ()
    kept: str | None = None
    """Where what a failed job had made can be looked at."""


Message = StepBegan | Printed | Again | JobResult


class Pool:
    """`size` worker processes; a slot is the number of one of them.

    Raises `UsageError` when this machine lets an ordinary user not do what workers must.
    """

    def __init__(self, size: int) -> None:
        self._context = get_context("fork")
        self._workers: dict[int, tuple[Any, Connection]] = {}
        self._busy: dict[int, float] = {}
        try:
            for slot in range(size):
                self._start(slot)
        except BaseException:
            self.close()
            raise

    def _start(self, slot: int) -> None:
        ours, theirs = self._context.Pipe()
        others = [connection for _, connection in self._workers.values()]
        process = self._context.Process(target=_work, args=(theirs, [ours, *others]), name=f"forge worker {slot}")
        process.start()
        theirs.close()
        self._workers[slot] = process, ours
        if userns.needed() and (problem := pickle.loads(ours.recv_bytes())):  # noqa: S301  our own child
            raise problem

    @property
    def free(self) -> list[int]:
        """The slots of workers that have no job."""
        return [slot for slot in self._workers if slot not in self._busy]

    def submit(self, slot: int, job: Job) -> None:
        """Give a job to a free worker."""
        self._busy[slot] = time.monotonic()
        self._workers[slot][1].send_bytes(pickle.dumps(job))

    def messages(self, also: Iterable[int] = ()) -> Iterator[tuple[int, Message]]:
        """Wait until some worker has something to say and yield it; a dead worker is replaced and its job failed.

        Yields nothing when one of the file descriptors in `also` has something to read.
        """
        connections = {self._workers[slot][1]: slot for slot in self._busy}
        for connection in wait([*connections, *also]):
            if not isinstance(connection, Connection):
                continue
            slot = connections[connection]
            try:
                message: Message = pickle.loads(self._workers[slot][1].recv_bytes())  # noqa: S301  our own child
            except (EOFError, OSError):
                message = self._replace(slot)
            if isinstance(message, JobResult):
                del self._busy[slot]
            yield slot, message

    def _replace(self, slot: int) -> JobResult:
        process, connection = self._workers[slot]
        process.join()
        connection.close()
        self._start(slot)
        how = f"its worker ended unexpectedly ({ended(process.exitcode)})"
        hint = NO_MEMORY if process.exitcode == -signal.SIGKILL else None
        return JobResult(time.monotonic() - self._busy[slot], failed=StepFailed("", how, hint))

    def close(self) -> None:
        """End all workers and everything that they run, and wait until it has ended."""
        for process, _ in self._workers.values():
            process.terminate()
        for process, connection in self._workers.values():
            process.join(_PATIENCE_S)
            if process.exitcode is None:
                process.kill()
                process.join()
            connection.close()
        self._workers.clear()
        self._busy.clear()


def _work(connection: Connection, foreign: list[Connection]) -> None:
    """Be a worker until the parent hangs up."""
    os.setsid()
    running: list[int] = []
    for signal_number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(signal_number, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda *_: _stop(running))
    linux.adopt_orphans()
    for other in foreign:
        other.close()
    if userns.needed():
        connection.send_bytes(pickle.dumps(_entered()))
    linux.die_with_parent()
    with suppress(EOFError, OSError):
        while True:
            job: Job = pickle.loads(connection.recv_bytes())  # noqa: S301  from our own parent
            try:
                result = _do(job, connection, running)
            except OSError as error:
                result = JobResult(0.0, failed=StepFailed("", str(error), None))
            connection.send_bytes(pickle.dumps(result))
    os._exit(0)


def _stop(running: list[int]) -> NoReturn:
    """End what this worker runs, wait until all of it has ended, and end."""
    for child in running:
        os.kill(child, signal.SIGKILL)
    _wait_for_all()
    os._exit(0)


def _wait_for_all() -> None:
    """Wait until all that a job started has ended, also what a job that was killed left to its worker."""
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def _entered() -> UsageError | None:
    """Enter the user namespace in which all of this worker's jobs run; return what forbids it."""
    try:
        userns.enter()
    except UsageError as error:
        return error
    return None


class _Ending(NamedTuple):
    """How one try of a job ended: well, or why not."""

    failed: StepFailed | None
    tail: tuple[str, ...] = ()
    step: int = 0
    retries: int = 0
    """How often the step that failed may be tried again."""


def _do(job: Job, connection: Connection, running: list[int]) -> JobResult:
    """Run a job in processes of its own, commit its output or keep what there is of it, and leave no staging behind."""
    begin = time.monotonic()
    ending = _tries(job, begin, connection, running)
    failed, committed, kept = ending.failed, None, None
    if failed is None:
        try:
            committed = commit(job.store, job.staging, job.output, job.base, job.epoch)
        except ForgeError as error:
            failed = StepFailed("", error.message, error.hint)
        except OSError as error:
            failed = StepFailed("", f"its output cannot be stored: {error}", None)
    if failed:
        with suppress(OSError):  # the failure is what has to be told
            kept = keep_failed(job.store, job.staging, job.target, job.base)
    remove_tree(job.staging)
    return JobResult(time.monotonic() - begin, committed, failed, ending.tail, kept)


def _tries(job: Job, begin: float, connection: Connection, running: list[int]) -> _Ending:
    """Run a job's steps, again from nothing as often as the step that fails may be tried again."""
    deadline = math.inf if job.timeout_s is None else begin + job.timeout_s
    failures: Counter[int] = Counter()
    with open(job.log, "wb"):
        pass
    while True:
        ending = _try(job, deadline, connection, running)
        failures[ending.step] += 1
        failed, number, tries = ending.failed, failures[ending.step] + 1, ending.retries + 1
        wait_s = min(_PAUSE_S * _PAUSE_GROWTH ** (number - 2), _PAUSE_LIMIT_S)
        if failed is None or number > tries or time.monotonic() + wait_s > deadline:
            if failed and number > 2:  # noqa: PLR2004  it was tried before
                failed = failed._replace(message=f"{failed.message}, after {number - 1} tries")
            return ending._replace(failed=failed)
        connection.send_bytes(pickle.dumps(Again(failed, number, tries, wait_s)))
        with open(job.log, "ab") as log:
            log.write(f"forge: {failed.message}; try {number} of {tries} in {wait_s} s\n".encode("utf-8", "replace"))
        time.sleep(wait_s)
        for name in filter(NAME.__ne__, os.listdir(job.staging)):
            remove_tree(f"{job.staging}/{name}")


def _try(job: Job, deadline: float, connection: Connection, running: list[int]) -> _Ending:
    """Run a job's steps in a process of its own."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.close(read)
        _job_process(job, deadline, connection, write)
    running.append(child)
    os.close(write)
    with open(read, "rb") as stream:
        said = stream.read()
    _, status = os.waitpid(child, 0)
    running.clear()
    _wait_for_all()
    if said:
        ending: _Ending = pickle.loads(said)  # noqa: S301  our own child
        return ending
    code = os.waitstatus_to_exitcode(status)
    hint = NO_MEMORY if code == -signal.SIGKILL else None
    return _Ending(StepFailed("", f"its sandbox ended unexpectedly ({ended(code)})", hint))


def _job_process(job: Job, deadline: float, connection: Connection, write: int) -> None:
    """Run the steps; say how it went through `write`. Never returns."""
    linux.die_with_parent()
    log = _Log(job, connection)
    try:
        failed = run(job, deadline, log.printed, log.began)
    except ForgeError as error:
        failed = StepFailed("", error.message, error.hint)
    except OSError as error:
        failed = StepFailed("", str(error), "is the disk full?" if error.errno == 28 else None)  # noqa: PLR2004  ENOSPC
    log.close()
    tail, retries = (log.tail if failed else ()), (log.retries if failed and failed.command else 0)
    os.write(write, pickle.dumps(_Ending(failed, tail, log.step, retries)))
    os._exit(0)


class _Log:
    """What a job's steps print: into the log file as it is, and in lines to the parent.

    Neither the file nor what this holds in memory grows without limit. Unless every line is wanted, the parent hears
    the last of each chunk: no display has room for more.
    """

    def __init__(self, job: Job, connection: Connection) -> None:
        self._file = open(job.log, "ab", buffering=0)  # noqa: SIM115  lives as long as the process
        self._room = max(_LOG_LIMIT - os.fstat(self._file.fileno()).st_size, 0)
        self._left_out = 0
        self._end = b""
        self._connection = connection
        self._steps = job.steps
        self._every_line = job.every_line
        self._rest = b""
        self._tail: list[bytes] = []
        self._flaky: tuple[bytes, ...] = ()
        self._is_flaky = False
        self.step = 0

    @property
    def tail(self) -> tuple[str, ...]:
        return _texts(self._tail)

    @property
    def retries(self) -> int:
        """How often the current step may be tried again, should it fail."""
        step = self._steps[self.step]
        return step.retries if isinstance(step, Run) and (self._is_flaky or not step.flaky) else 0

    def began(self, number: int, command: str) -> None:
        self._flush()
        self._file.write(f"+ {command}\n".encode("utf-8", "surrogateescape"))
        self._tail.clear()
        self.step = number
        self._flaky = tuple(text.encode() for text in getattr(self._steps[number], "flaky", ()))
        self._is_flaky = False
        self._connection.send_bytes(pickle.dumps(StepBegan(number, command)))

    def printed(self, chunk: bytes) -> None:
        self._write(chunk)
        *lines, self._rest = (self._rest + chunk).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        if len(self._rest) > _LINE_LIMIT:
            lines.append(self._rest)
            self._rest = b""
        self._send(lines)

    def close(self) -> None:
        self._flush()
        self._file.close()

    def _write(self, chunk: bytes) -> None:
        """Write to the file what there is room for, and of the rest keep the end."""
        self._file.write(chunk[: self._room])
        if rest := chunk[self._room :]:
            self._left_out += len(rest)
            self._end = (self._end + rest)[-_LOG_END:]
        self._room -= len(chunk) - len(rest)

    def _flush(self) -> None:
        """Write and send what was held back of the current step."""
        if self._rest:
            self._send([self._rest])
            self._rest = b""
        if self._end:
            self._file.write(
                f"\nforge: {self._left_out - len(self._end)} bytes are left out here\n".encode() + self._end
            )
            self._left_out, self._end = 0, b""

    def _send(self, raw: list[bytes]) -> None:
        lines = [line for line in raw if line.strip()]
        if not lines:
            return
        self._is_flaky = self._is_flaky or any(text in line for text in self._flaky for line in lines)
        self._tail = [*self._tail, *lines[-_TAIL_LINES:]][-_TAIL_LINES:]
        self._connection.send_bytes(pickle.dumps(Printed(_texts(lines if self._every_line else lines[-1:]))))


def _texts(lines: Iterable[bytes]) -> tuple[str, ...]:
    return tuple(line[:_LINE_LIMIT].decode("utf-8", "replace") for line in lines)
