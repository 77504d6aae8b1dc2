"""A shell command that runs beside forge, and is ended with all that it started.

It stays in forge's process group, so it has the terminal, and Ctrl-C and Ctrl-Z reach both. What it starts and leaves
behind becomes forge's child and is found so. Unaware of when it is to run.
"""

import os
import signal
import subprocess
import sys
import termios
import time
from contextlib import suppress

from forgefile import linux
from forgefile.channel import readable

_PATIENCE_S = 3
"""How long what is ended may take to end."""


class Following:
    """A command for /bin/sh that runs in a folder; `aside`: what it prints goes to standard error."""

    def __init__(self, command: str, folder: str, *, aside: bool) -> None:
        linux.adopt_orphans()
        self._modes = termios.tcgetattr(0) if os.isatty(0) else None
        sys.stdout.flush()
        out = sys.stderr.fileno() if aside else None
        self._shell = subprocess.Popen(("/bin/sh", "-c", command), cwd=folder, stdout=out)
        self.ending = os.pidfd_open(self._shell.pid)
        """A descriptor that can be read when the shell has ended."""

    def end(self, *, but: int | None) -> int:
        """End all that is left of the command; return the status of its shell, negative for a signal.

        That is all that forge's own process started, and what these did; `but` is a process that is spared, with its.
        """
        for number in (signal.SIGTERM, signal.SIGKILL):
            left = {process: os.pidfd_open(process) for process in _descendants(but)}
            for process in left:
                with suppress(OSError):  # it has just ended, or belongs to another user
                    os.kill(process, number)
            deadline = time.monotonic() + _PATIENCE_S
            for ending in left.values():
                readable([ending], max(deadline - time.monotonic(), 0))
                os.close(ending)
        os.close(self.ending)
        status = self._shell.poll() or 0
        _reap(but)
        if self._modes is not None and os.tcgetpgrp(0) == os.getpgrp():
            termios.tcsetattr(0, termios.TCSADRAIN, self._modes)  # it may have left the terminal raw
        return status


def _reap(but: int | None) -> None:
    """Take note of children that have ended, as far as they come before the one that is spared."""
    with suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and ended.si_pid != but:
            os.waitpid(ended.si_pid, 0)


def _descendants(but: int | None) -> list[int]:
    """Return the processes that this one and its children started and that have not ended, see proc_pid_stat(5)."""
    parents: dict[int, int] = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as stream:
            state, parent = stream.read().rpartition(")")[2].split()[:2]
            if state not in ("Z", "X") and int(name) != but:
                parents[int(name)] = int(parent)
    found = [os.getpid()]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found[1:]
