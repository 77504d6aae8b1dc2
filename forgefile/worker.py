"""A worker: a process that takes one job at a time, runs its steps in a sandbox, then seals and commits what they made.

Unaware of targets, manifests and the other workers.
"""

import encodings.ascii  # noqa: F401  which steps use where Python's own files are out of reach
import math
import os
import pickle
import signal
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from errno import EDQUOT, ENOSPC
from typing import NamedTuple, NoReturn

from forgefile import linux
from forgefile.cache.seal import commit, half_made, keep_failed, keep_stopped, made_in
from forgefile.channel import Channel
from forgefile.errors import ForgeError
from forgefile.job import Again, Fetched, Job, JobResult, Printed, SecretFile, StepBegan, StepFailed, Stopped
from forgefile.jobserver import NAME
from forgefile.lend import downloads
from forgefile.model import Run
from forgefile.roots import clear
from forgefile.sandbox import Ears, Network, apart, run
from forgefile.secret import Hider, find

_LINE_LIMIT = 2_000
_TAIL_LINES = 15
_LOG_LIMIT, _LOG_END = 64 << 20, 1 << 16
"""How many bytes of what steps print a log has, and how many of each step's end beyond that."""
_PAUSE_S, _PAUSE_GROWTH, _PAUSE_LIMIT_S = 2, 4, 60
"""How long forge waits before it tries again: at first, how many times as long then, and at most."""


def work(number: int) -> NoReturn:
    """Be a worker, with jobs from a socket, until the parent hangs up or says to stop."""
    os.setsid()
    os.umask(0o022)
    for signal_number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(signal_number, signal.SIG_DFL)
    linux.adopt_orphans()
    linux.die_with_parent()
    channel = Channel(number)
    network: Network | None = None
    with suppress(EOFError, OSError, _Stopped):
        signal.signal(signal.SIGTERM, _stop)
        while True:
            packed, job = channel.receive_bytes(), None
            try:
                network = network or apart()
                job = pickle.loads(packed)  # noqa: S301  from our own parent
                result = _do(job, network, channel)
            except ForgeError as error:
                result = JobResult(0.0, failed=StepFailed("", error.message, error.hint))
            except (OSError, ImportError, AttributeError) as error:  # of the last two, a `Call` of what is not there
                result = JobResult(0.0, failed=StepFailed("", str(error), None))
            if job is not None:
                clear(job.staging)  # a worker that cannot do that is none any more
            channel.send(result)
    _wait_for_all()
    os._exit(0)


class _Stopped(BaseException):
    """Forge said that this worker has to stop."""


def _stop(*_: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Stopped


def _wait_for_all() -> None:
    """Wait until all that a job started has ended, also what a process that was killed left to its worker."""
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


class _Ending(NamedTuple):
    """How one try of a job ended: well, or why not."""

    failed: StepFailed | None
    tail: tuple[str, ...] = ()
    step: int = 0
    retries: int = 0
    """How often the step that failed may be tried again."""


def _do(job: Job, network: Network, channel: Channel) -> JobResult:
    """Run a job in processes of its own, and commit its output or keep what there is of it."""
    begin, since_ns = time.monotonic(), time.time_ns()
    ending = _tries(job, network, begin, channel)
    failed, committed, kept, fetched = ending.failed, None, None, None
    try:
        failed = failed or _leak(job)
        if failed is None:
            committed = commit(job.store, job.staging, job.output, job.base, job.epoch)
            fetched = downloads(job, since_ns)
    except ForgeError as error:
        failed = StepFailed("", error.message, error.hint)
    except OSError as error:
        failed = StepFailed("", f"its output cannot be stored: {error}", None)
    if failed:
        failed = _hidden(job, failed)
        with suppress(OSError):  # the failure is what has to be told
            if not any(find(path, job.secrets) for _, path in half_made(job.staging, job.base)):
                kept = keep_failed(job.store, job.staging, job.failed_as, job.base)
                what = pickle.dumps(Stopped(_without_secrets(job), ending.step, failed))
                keep_stopped(job.store, job.staging, job.failed_as, what)
    return JobResult(time.monotonic() - begin, committed, failed, ending.tail, kept, fetched)


def _without_secrets(job: Job) -> Job:
    """Return a job that may be kept on the disk."""
    bare = tuple(SecretFile(name=each.name, at=each.at, content=b"") for each in job.secrets)
    return job._replace(secrets=bare)


def _leak(job: Job) -> StepFailed | None:
    """Return the failure of a job whose output has a secret."""
    if (found := find(made_in(job.staging, job.base), job.secrets)) is None:
        return None
    secret, path = found
    where = f" in {path}" if path else ""
    hint = "whoever gets the output could read it there; what belongs into it is a source or an option"
    return StepFailed("", f"its output has the secret '{secret}'{where}", hint)


def _hidden(job: Job, failed: StepFailed) -> StepFailed:
    """Return a failure whose words have no secret."""
    text = Hider(job.secrets).text
    return StepFailed(text(failed.command), text(failed.message), text(failed.hint) if failed.hint else None)


def _tries(job: Job, network: Network, begin: float, channel: Channel) -> _Ending:
    """Run a job's steps, again from nothing as often as the step that fails may be tried again."""
    deadline = math.inf if job.timeout_s is None else begin + job.timeout_s
    failures: Counter[int] = Counter()
    with open(job.log, "wb"):
        pass
    while True:
        ending = _try(job, network, deadline, channel)
        failures[ending.step] += 1
        failed, number, tries = ending.failed, failures[ending.step] + 1, ending.retries + 1
        tries = tries if job.resumed is None else 1  # again would be from nothing
        wait_s = min(_PAUSE_S * _PAUSE_GROWTH ** (number - 2), _PAUSE_LIMIT_S)
        if failed is None or number > tries or time.monotonic() + wait_s > deadline:
            if failed and number > 2:  # noqa: PLR2004  it was tried before
                failed = failed._replace(message=f"{failed.message}, after {number - 1} tries")
            return ending._replace(failed=failed)
        channel.send(Again(failed, number, tries, wait_s))
        with open(job.log, "ab") as log:
            log.write(f"forge: {failed.message}; try {number} of {tries} in {wait_s} s\n".encode("utf-8", "replace"))
        time.sleep(wait_s)
        clear(job.staging, NAME)


def _try(job: Job, network: Network, deadline: float, channel: Channel) -> _Ending:
    """Run a job's steps."""
    log = _Log(job, channel)
    try:
        failed = run(job, network, deadline, Ears(log.printed, log.began, log.fetched))
    except ForgeError as error:
        failed = StepFailed("", error.message, error.hint)
    except OSError as error:
        failed = StepFailed("", str(error), "is the disk full?" if error.errno in (ENOSPC, EDQUOT) else None)
    finally:
        log.close()
    _wait_for_all()
    return _Ending(failed, log.tail if failed else (), log.step, log.retries if failed and failed.command else 0)


class _Log:
    """What a job's steps print: into the log file as it is, and in lines to the parent.

    Neither the file nor what this holds in memory grows without limit. Unless every line is wanted, the parent hears
    the last of each chunk: no display has room for more.
    """

    def __init__(self, job: Job, channel: Channel) -> None:
        self._file = open(job.log, "ab", buffering=0)  # noqa: SIM115  lives as long as the process
        self._room = max(_LOG_LIMIT - os.fstat(self._file.fileno()).st_size, 0)
        self._left_out = 0
        self._end = b""
        self._channel = channel
        self._steps = job.steps
        self._every_line = job.every_line
        self._hider = Hider(job.secrets)
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
        self._channel.send(StepBegan(number, command))

    def printed(self, chunk: bytes) -> None:
        self._tell(self._hider.feed(chunk))

    def fetched(self, octets: int) -> None:
        if octets:
            self._channel.send(Fetched(octets))

    def _tell(self, chunk: bytes) -> None:
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
        self._tell(self._hider.rest())
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
        self._channel.send(Printed(_texts(lines if self._every_line else lines[-1:])))


def _texts(lines: Iterable[bytes]) -> tuple[str, ...]:
    return tuple(line[:_LINE_LIMIT].decode("utf-8", "replace") for line in lines)
