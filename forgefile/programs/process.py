"""Start a host program and wait for it. Unaware of what it does."""

import os
import shlex
from collections.abc import Generator, Iterable, Mapping

from forgefile.errors import BuildError

_IGNORED = (13, 25)
"""SIGPIPE and SIGXFSZ, which Python ignores, and which what it starts would ignore as well (numbers: signal(7))."""


class Process:
    """A host program that runs. What it writes goes to the log; with `quiet`, warnings only if it fails."""

    def __init__(
        self,
        argv: tuple[str, ...],
        *,
        env: Mapping[str, str] | None = None,
        stdin: str = "/dev/null",
        stdout: str | None = None,
        quiet: bool = False,
    ) -> None:
        """Start `argv`, found by PATH, with `env` beside the environment; the streams are paths of files."""
        self.argv = argv
        self.warnings = b""
        actions: list[tuple[int, int, str, int, int] | tuple[int, int, int]] = [
            (os.POSIX_SPAWN_OPEN, 0, stdin, os.O_RDONLY, 0)
        ]
        if stdout is not None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            actions.append((os.POSIX_SPAWN_OPEN, 1, stdout, flags, 0o644))
        self._warnings = os.memfd_create(argv[0]) if quiet else None
        if self._warnings is not None:
            actions.append((os.POSIX_SPAWN_DUP2, self._warnings, 2))
        try:
            self.pid = os.posix_spawnp(
                argv[0], argv, {**os.environ, **(env or {})}, file_actions=actions, setsigdef=_IGNORED
            )
        except FileNotFoundError as error:
            raise BuildError(f"the host has no program '{argv[0]}'") from error

    def wait(self) -> None:
        """Wait for its end; `warnings` is then what a quiet one told. Raise `BuildError` unless it ended well."""
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.warnings = self._take_warnings()
        if status:
            os.write(2, self.warnings)
            how = f"exited with status {status}" if status > 0 else f"was ended by signal {-status}"
            raise BuildError(f"{self.argv[0]} {how}: {shlex.join(self.argv)}")

    def _take_warnings(self) -> bytes:
        if self._warnings is None:
            return b""
        text = os.pread(self._warnings, 1 << 16, 0)
        os.close(self._warnings)
        return text


Job = Generator[Process, None, None]
"""Work that runs programs one after another: it yields each when it has started it, and goes on when that ended."""


def together(jobs: Iterable[Job]) -> None:
    """Run jobs at the same time: each has its first program started before the first is waited for.

    Then they are followed to their ends in their order; let those that have many short programs stand first.
    """
    started = [(job, next(job, None)) for job in jobs]
    failure: BuildError | None = None
    for job, first in started:
        process = first
        while process:
            try:
                process.wait()
                process = next(job, None) if failure is None else None
            except BuildError as error:
                process, failure = _resume(job, error, failure)
    if failure:
        raise failure


def _resume(job: Job, error: BuildError, failure: BuildError | None) -> tuple[Process | None, BuildError | None]:
    """Tell a job that its program failed; return what it does next, and the failure that counts: the first."""
    try:
        return job.throw(error), failure
    except StopIteration:
        return None, failure
    except BuildError as told:
        return None, failure or told
