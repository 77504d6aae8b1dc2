"""One target's steps, each in namespaces of its own: what they see and what they may do.

`run` is called in a process made for one job. It builds, in a private mount namespace that ends with the process, a
folder that is shown to every step as /run/forge, and a root of the host's programs, read-only. Each step then gets
its own mount, PID, IPC and UTS namespaces, a network namespace unless it asks for the host's network, an allow-listed
environment, and a PID 1 with whose end everything that the step started ends. Nothing is ever mounted on the host.

Unaware of manifests, records and the scheduler.
"""

import math
import os
import select
import signal
import socket
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from forgefile import jobserver, linux
from forgefile.errors import BuildError, ForgeError
from forgefile.host import PATH
from forgefile.job import Job, StepFailed
from forgefile.lend import Lent, keep_cache, lend, lend_cache
from forgefile.model import Call, Copy, Run, Sandbox, Step, Write
from forgefile.programs.copy import copy
from forgefile.roots import MOUNT_POINTS, enter, furnish, host_file, write_text
from forgefile.units import duration_text

_PREFIX = Sandbox.prefix
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
# From capabilities(7): modules, raw I/O, accounting, reboot, clock, audit, MAC, syslog, wake alarms, BPF, perf.
_DROPPED_CAPABILITIES = (16, 17, 20, 22, 25, 29, 30, 32, 33, 34, 35, 36, 37, 38, 39)
_POLICY_RC_D = "#!/bin/sh\n# No service starts while an image is built.\nexit 101\n"


_TOKENS = (3, 4)
"""The file descriptors by which make takes tokens and puts them back: the form that it knows since version 4.2."""
_KILLED = 128 + signal.SIGKILL
"""The exit status of a shell whose last program got SIGKILL."""
NO_MEMORY = "if memory ran out (dmesg tells), memory=… where targets are declared keeps some from running at once"
"""The hint for what was killed by someone else."""
_GRACE_S = 5
"""How long a step's processes may take to end after SIGTERM."""
_POLL_LIMIT_S = 86_400
"""How long poll(2), whose limit is that of an int, is let wait at once."""

Print = Callable[[bytes], None]


def run(job: Job, deadline: float, printed: Print, began: Callable[[int, str], None]) -> StepFailed | None:
    """Run a job's steps in order in this process's private mount namespace; stop at the first that fails.

    At `deadline`, in seconds of the monotonic clock, the processes of the step that runs get a SIGTERM, and what is
    left of them after a while is killed. Afterwards the output lies in `job.staging`: `run/out`, or for a tree with a
    base what changed in `upper`. `printed` receives what the steps print, `began` each step's number and title.
    Raises `BuildError` when the sandbox itself cannot be made.
    """
    try:
        linux.unshare(linux.CLONE_NEWNS)
        linux.mount(None, "/", flags=linux.MS_REC | linux.MS_PRIVATE)
        os.chdir(job.store)
        os.umask(0o022)
        furnish(job)
    except OSError as error:
        raise BuildError(f"the sandbox cannot be made: {error}", hint="forge doctor says what is missing") from error
    for number, step in enumerate(job.steps):
        began(number, title(step))
        if failed := _run_step(job, step, deadline, printed):
            return failed
    return None


def title(step: Step) -> str:
    """Return a step as one line that a person can read, and for a `Run` paste into a shell of the same sandbox."""
    match step:
        case Run():
            import shlex  # noqa: PLC0415

            return shlex.join(step.argv)
        case Call():
            return step.name.rpartition(".")[2].replace("_", " ")
        case Write():
            return f"write {step.path}"
        case Copy():
            return f"copy {step.source} to {step.destination}"
    return type(step).__name__


def _run_step(job: Job, step: Step, deadline: float, printed: Print) -> StepFailed | None:
    """Run one step in its own namespaces and wait for its end."""
    host_root = f"{job.staging}/root"
    root = host_root if step.root is None else f"{job.staging}/run{step.root.removeprefix(_PREFIX)}"
    caches = getattr(step, "caches", ())
    for cache in caches:
        lend_cache(job, cache)
    lent: list[Lent] = []
    places = [] if step.root is None else [f"{root}/{name}" for name in MOUNT_POINTS]
    places = [place for place in places if not os.path.lexists(place)]
    for place in places:
        os.mkdir(place)
    try:
        if step.root is not None and isinstance(step, Run):
            lent = [*lend(root, "/usr/sbin/policy-rc.d", _POLICY_RC_D, 0o755)]
            if step.network:
                lent += lend(root, "/etc/resolv.conf", host_file("/etc/resolv.conf"), 0o644)
        status, message = _isolated(lambda: _inside(job, step, root), job, step, deadline, printed)
    except OSError as error:
        status, message = 1, str(error)
    finally:
        for each in reversed(lent):
            each.put_back()
        for place in places:
            with suppress(OSError):
                os.rmdir(place)
        for cache in caches:
            keep_cache(job, cache)
    return _failure(step, status, message) if status or message else None


def _failure(step: Step, status: int, message: str) -> StepFailed:
    """Return how a step failed, from its exit status and from what PID 1 said of an error: words and a hint."""
    words, _, hint = message.partition("\0")
    words = words or ended(status)
    if status == _KILLED or words == ended(-signal.SIGKILL):
        hint = hint or NO_MEMORY
    return StepFailed(title(step), words, hint or None)


def ended(status: int) -> str:
    """Return how a program ended in words; `status` is its exit status, or minus the signal's number."""
    if status < 0:
        with suppress(ValueError):
            return f"killed by {signal.Signals(-status).name}"
        return f"killed by signal {-status}"
    return f"exit status {status}"


def _isolated(inside: Callable[[], NoReturn], job: Job, step: Step, deadline: float, printed: Print) -> tuple[int, str]:
    """Fork a PID 1 with namespaces of its own that calls `inside`; return its status and what it says of an error."""
    output_read, output_write = os.pipe()
    error_read, error_write = os.pipe()
    outer = os.fork()
    if not outer:
        try:
            linux.die_with_parent()
            flags = linux.CLONE_NEWNS | linux.CLONE_NEWPID | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS
            alone = not getattr(step, "network", False)
            linux.unshare(flags | (linux.CLONE_NEWNET if alone else 0))
            first = os.fork()
            if not first:
                linux.die_with_parent()
                os.dup2(output_write, 1)
                os.dup2(output_write, 2)
                if alone:
                    linux.loopback_up()
                _guarded(inside, error_write)
            signal.signal(signal.SIGTERM, lambda *_: os.kill(first, signal.SIGTERM))
            os._exit(_exit_status(os.waitpid(first, 0)[1], error_write))
        except OSError as error:
            os.write(error_write, f"the sandbox cannot be made: {error}".encode())
        os._exit(1)
    os.close(output_write)
    os.close(error_write)
    late = _follow(output_read, deadline, printed, outer)
    os.close(output_read)
    with open(error_read, "rb") as stream:
        message = stream.read().decode("utf-8", "replace")
    status = os.waitstatus_to_exitcode(os.waitpid(outer, 0)[1])
    if late:
        limit = duration_text(job.timeout_s or 0)
        message = f"took longer than {limit}\0timeout=… where it is declared sets the limit"
    return status, message


def _follow(output: int, deadline: float, printed: Print, process: int) -> bool:
    """Pass on what a step prints until its end, which is brought about at the deadline; return whether it was."""
    signals = [signal.SIGTERM, signal.SIGKILL]
    ready = select.poll()
    ready.register(output, select.POLLIN)
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            os.kill(process, signals.pop(0))
            deadline = time.monotonic() + _GRACE_S if signals else math.inf
        elif ready.poll(None if left == math.inf else math.ceil(min(left, _POLL_LIMIT_S) * 1000)):
            if not (chunk := os.read(output, 1 << 16)):
                return len(signals) < 2  # noqa: PLR2004  one was sent
            printed(chunk)


def _exit_status(status: int, error_write: int) -> int:
    """Return the exit status in a wait status; an end by a signal, which has none, is told through `error_write`."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        os.write(error_write, ended(code).encode())
    return abs(code)


def _guarded(inside: Callable[[], NoReturn], error_write: int) -> NoReturn:
    """Call `inside`, which exits; tell of an exception through `error_write`, of a bug with its traceback."""
    try:
        inside()
    except ForgeError as error:
        os.write(error_write, f"{error.message}\0{error.hint or ''}".encode("utf-8", "replace"))
    except OSError as error:
        os.write(2, traceback.format_exc().encode("utf-8", "replace"))
        os.write(error_write, str(error).encode("utf-8", "replace"))
    except BaseException as error:  # noqa: BLE001  the process ends here, and the parent is told
        os.write(2, traceback.format_exc().encode("utf-8", "replace"))
        os.write(error_write, f"{type(error).__name__}: {error}".encode("utf-8", "replace"))
    finally:
        os._exit(1)


def _inside(job: Job, step: Step, root: str) -> NoReturn:
    """Enter the step's root as PID 1 of its namespaces and do what it says."""
    linux.mount(None, "/", flags=linux.MS_REC | linux.MS_PRIVATE)
    socket.sethostname("forge")
    environment = _environment(job, step)
    enter(job, step, root)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    os.setsid()
    linux.drop_capabilities(_DROPPED_CAPABILITIES)
    linux.ignore_sync()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    match step:
        case Run():
            _exec_and_reap(step)
        case Write():
            os.makedirs(os.path.dirname(step.path), exist_ok=True)
            with suppress(FileNotFoundError):
                os.unlink(step.path)
            write_text(step.path, step.text, step.mode)
            os.chmod(step.path, step.mode)
        case Copy():
            copy(step)
        case Call():
            step.function(step.argument)
    os._exit(0)


def _environment(job: Job, step: Step) -> dict[str, str]:
    network = getattr(step, "network", False)
    return {
        "PATH": f"{_PREFIX}/bin:{PATH}" if step.root is None else PATH,
        "HOME": "/root",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "TERM": "dumb",
        "SOURCE_DATE_EPOCH": str(job.epoch),
        **{name: value for name, value in os.environ.items() if network and name.lower() in _PROXIES},
        **({"MAKEFLAGS": f" -j --jobserver-auth={_TOKENS[0]},{_TOKENS[1]}"} if _takes_tokens(step) else {}),
        **(step.env if isinstance(step, Run) else {}),
    }


def _takes_tokens(step: Step) -> bool:
    return isinstance(step, Run) and step.jobserver


def _exec_and_reap(step: Run) -> NoReturn:
    """Run a program as a child of PID 1, collect what others leave, and exit as it does."""
    child = os.fork()
    if not child:
        _exec(step)
    signal.signal(signal.SIGTERM, _pass_on)
    while True:
        pid, status = os.wait()
        if pid == child:
            if os.WIFSIGNALED(status):
                raise BuildError(ended(os.waitstatus_to_exitcode(status)))
            os._exit(os.waitstatus_to_exitcode(status))


def _pass_on(number: int, _: object) -> None:
    """Send a signal to all processes of this PID namespace but this one."""
    with suppress(ProcessLookupError):
        os.kill(-1, number)


def _exec(step: Run) -> NoReturn:
    """Become the step's program; say on standard error what stands in the way."""
    try:
        source = os.memfd_create("stdin") if step.stdin is not None else os.open("/dev/null", os.O_RDONLY)
        if step.stdin is not None:
            os.write(source, step.stdin.encode("utf-8", "surrogateescape"))
            os.lseek(source, 0, os.SEEK_SET)
        os.dup2(source, 0)
        if step.stdout is not None:
            os.dup2(os.open(step.stdout, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), 1)
        if step.cwd is not None:
            os.chdir(step.cwd)
        os.closerange(3, 64)
        for each in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores, and what it starts would as well
            signal.signal(each, signal.SIG_DFL)
        if step.jobserver:
            for number in _TOKENS:
                os.dup2(os.open(f"{_PREFIX}/{jobserver.NAME}", os.O_RDWR), number)
                os.set_inheritable(number, True)
        os.execvp(step.argv[0], step.argv)  # noqa: S606  no shell is wanted
    except FileNotFoundError:
        os.write(2, f"{step.argv[0]}: not found\n".encode("utf-8", "replace"))
        os._exit(127)
    except OSError as error:
        os.write(2, f"{step.argv[0]}: {error.strerror}\n".encode("utf-8", "replace"))
    os._exit(126)
