"""One target's steps, each in namespaces of its own: what they see and what they may do.

`run` is called in a worker. It builds, in a mount namespace that ends with the job, a folder that is shown to every
step as /run/forge; the root of the host's programs, read-only, is the worker's. Each step then gets its own mount, PID,
IPC and UTS namespaces, a network namespace unless it asks for the host's network, an allow-listed environment, the
capabilities that its kind needs, and a PID 1 with whose end everything that the step started ends. Nothing is ever
mounted on the host. A step that mounts is root of a user namespace of its own: what forge mounted is locked there
(mount_namespaces(7)), and what root may do elsewhere it may not.

Unaware of manifests, records and the scheduler.
"""

import errno
import math
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple, NoReturn

from forgefile import jobserver, linux, userns
from forgefile.errors import BuildError, ForgeError
from forgefile.host import PATH, PROXIES
from forgefile.job import NO_MEMORY, Job, StepFailed, ended
from forgefile.lend import Arrivals, Lent, keep_cache, lend, lend_cache
from forgefile.model import Call, Copy, Run, Sandbox, Step, Write, uses_network
from forgefile.roots import MOUNT_POINTS, clear, entrance, furnish, host_file, mounts, seen, settle, write_text

_PREFIX = Sandbox.prefix
# From capabilities(7). No CAP_DAC_READ_SEARCH (2): with it, open_by_handle_at(2) opens any file of the host.
_CHOWN, _DAC_OVERRIDE, _FOWNER, _FSETID, _KILL, _SETGID, _SETUID = 0, 1, 3, 4, 5, 6, 7
_SYS_CHROOT, _SYS_ADMIN, _MKNOD, _SETFCAP = 18, 21, 27, 31
_FILES = (_CHOWN, _DAC_OVERRIDE, _FOWNER, _FSETID, _MKNOD, _SETFCAP)
"""What it takes to make a tree: the capabilities of forge's own steps."""
_PROGRAMS = (*_FILES, _KILL, _SETGID, _SETUID, _SYS_CHROOT)
"""And to run a maintainer script, which may become a user, end what it started, or enter a tree."""
NAMESPACES = linux.CLONE_NEWNS | linux.CLONE_NEWPID | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS
_POLICY_RC_D = "#!/bin/sh\n# No service starts while an image is built.\nexit 101\n"


_FILES_LIMIT = (1 << 31) - 1
_TOKENS = (3, 4)
"""The file descriptors by which make takes tokens and puts them back: the form that it knows since version 4.2."""
_KILLED = 128 + signal.SIGKILL
"""The exit status of a shell whose last program got SIGKILL."""
GRACE_S = 5
"""How long a step's processes may take to end after SIGTERM."""
_POLL_LIMIT_S = 86_400
"""How long poll(2), whose limit is that of an int, is let wait at once."""

_LOOK_S = 0.5
"""How often to look at how much was downloaded."""

Print = Callable[[bytes], None]
Look = Callable[[], None] | None


class Ears(NamedTuple):
    """Who hears of a job while it runs."""

    printed: Print
    """Receives what the steps print."""
    began: Callable[[int, str], None]
    """Receives each step's number and title."""
    fetched: Callable[[int], None]
    """Receives, now and then, how many more bytes came into the folders of downloads."""


class Network:
    """A network namespace with nothing but a loopback device, in which one step runs after another.

    A step whose packets went through it has left something there, a port that stays taken for a minute: the next step
    gets another.
    """

    def __init__(self) -> None:
        self._namespace = self._counters = -1

    @property
    def is_there(self) -> bool:
        """Whether the next step enters a namespace that is there, and needs none of its own."""
        return self._namespace >= 0

    def way(self) -> tuple[linux.Prepared, ...]:
        """Return the calls that enter the namespace that is there."""
        return (linux.joining(self._namespace, linux.CLONE_NEWNET),) if self.is_there else ()

    def keep(self, process: int) -> None:
        """Keep the namespace of a process for the steps after it."""
        with suppress(OSError):  # it has ended already
            self._counters = os.open(f"/proc/{process}/net/dev", os.O_RDONLY)
            self._namespace = os.open(f"/proc/{process}/ns/net", os.O_RDONLY)

    def settle(self, *, well: bool) -> None:
        """Let go of the namespace unless the step that ran in it ended well and sent nothing."""
        if self.is_there and well and not self._was_used():
            return
        for number in (self._namespace, self._counters):
            if number >= 0:
                os.close(number)
        self._namespace = self._counters = -1

    def _was_used(self) -> bool:
        """Tell whether any device has sent or received anything."""
        _, _, *devices = os.pread(self._counters, 1 << 16, 0).splitlines()
        return any(set(line.partition(b":")[2].split()) != {b"0"} for line in devices)


def run(job: Job, network: Network, deadline: float, ears: Ears) -> StepFailed | None:
    """Run a job's steps in order in a mount namespace made for it; stop at the first that fails.

    At `deadline`, in seconds of the monotonic clock, the processes of the step that runs get a SIGTERM, and what is
    left of them after a while is killed. Afterwards the output lies in `job.staging`: `run/out`, or for a tree with a
    base what changed in `upper`.
    Raises `BuildError` when the sandbox itself cannot be made.
    """
    with furnished(job):
        for number, step in enumerate(job.steps):
            if number < (job.resumed or 0) and not isinstance(step, Copy | Write):
                continue
            ears.began(number, title(step))
            if failed := _run_step(job, step, network, deadline, ears):
                return failed
    return None


@contextmanager
def furnished(job: Job, *, host: bool = True) -> Iterator[None]:
    """Work where all is mounted that a job's steps see; without `host`, that is not the host's programs.

    Raises `BuildError` when that cannot be done.
    """
    with ExitStack() as stack:
        try:
            if host:
                settle(job)
            else:
                clear(job.staging)
            if job.resumed is not None:
                from forgefile.cache.seal import take_up  # noqa: PLC0415  a shell has no use for it

                take_up(job.store, job.staging, job.failed_as, job.base)
            stack.enter_context(linux.more_mounts())
            os.chdir(job.store)
            furnish(job)
        except OSError as error:
            raise cannot_be_made(error) from error
        yield


def apart() -> Network:
    """Part this process from the host's mounts and from what no step may do; to be done once, before `run`.

    Returns what `run` needs to do without a new network for each step. Raises `BuildError`.
    """
    try:
        linux.leave_mounts()
        linux.filter_calls()
        linux.bound_capabilities(_PROGRAMS)
    except OSError as error:
        raise cannot_be_made(error) from error
    return Network()


def cannot_be_made(problem: OSError) -> BuildError:
    """Return the error that says why there is no sandbox."""
    return BuildError(f"the sandbox cannot be made: {problem}", hint="forge doctor says what is missing")


def title(step: Step) -> str:
    """Return a step as one line that a person can read, and for a `Run` paste into a shell of the same sandbox."""
    match step:
        case Run():
            from shlex import join  # noqa: PLC0415  a shell has no use for it

            return join(step.argv)
        case Call():
            return step.name.rpartition(".")[2].replace("_", " ")
        case Write():
            return f"write {step.path}"
        case Copy():
            return f"copy {step.source} to {step.destination}"
    return type(step).__name__


def _run_step(job: Job, step: Step, network: Network, deadline: float, ears: Ears) -> StepFailed | None:
    """Run one step in its own namespaces and wait for its end."""
    try:
        with prepared(job, step) as root:
            arrivals = Arrivals(job, getattr(step, "caches", ()))
            look = (lambda: ears.fetched(arrivals.more())) if arrivals else None
            try:
                status, message = _isolated(
                    job, step, root, network, deadline=deadline, printed=ears.printed, look=look
                )
            finally:
                if look:
                    look()
    except OSError as error:
        status, message = 1, str(error)
    return _failure(step, status, message) if status or message else None


@contextmanager
def prepared(job: Job, step: Step) -> Iterator[str]:
    """Put what a step is lent where it sees it, and take it back afterwards; yield the step's root."""
    root = f"{job.staging}/root" if step.root is None else f"{seen(job)}{step.root.removeprefix(_PREFIX)}"
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
        yield root
    finally:
        for each in reversed(lent):
            each.put_back()
        for place in places:
            with suppress(OSError):
                os.rmdir(place)
        for cache in caches:
            keep_cache(job, cache)


def _failure(step: Step, status: int, message: str) -> StepFailed:
    """Return how a step failed, from its exit status and from what PID 1 said of an error: words and a hint."""
    words, _, hint = message.partition("\0")
    words = words or ended(status)
    if status == _KILLED or words == ended(-signal.SIGKILL):
        hint = hint or NO_MEMORY
    return StepFailed(title(step), words, hint or None)


def _isolated(
    job: Job, step: Step, root: str, network: Network, *, deadline: float, printed: Print, look: Look
) -> tuple[int, str]:
    """Fork a PID 1 with namespaces of its own that does a step; return its status and what it says of an error."""
    alone = not uses_network(step)
    fresh = alone and not network.is_there
    way = [*(network.way() if alone else ()), linux.naming_host("forge")]
    inside = partial(go_inside, step, entrance(job, step, root), _deed(step, environment_of(job, step)), fresh=fresh)
    (output_read, output_write), (error_read, error_write) = os.pipe(), os.pipe()
    with open(output_read, "rb", 0), open(error_read, "rb") as error:
        try:
            first = linux.fork(NAMESPACES | (linux.CLONE_NEWNET if fresh else 0))
            if not first:
                be_first(way, inside, output_write, error_write)
        except OSError as problem:
            raise cannot_be_made(problem) from problem
        finally:
            os.close(output_write)
            os.close(error_write)
        try:
            if fresh:
                network.keep(first)
            late = _follow(output_read, deadline, printed, first, look)
            message = error.read().decode("utf-8", "replace")
        except BaseException:
            os.kill(first, signal.SIGKILL)
            raise
        finally:
            status = os.waitstatus_to_exitcode(os.waitpid(first, 0)[1])
    if alone:
        network.settle(well=not message)
    if late:
        from forgefile.units import duration_text  # noqa: PLC0415  a shell has no use for it

        limit = duration_text(job.timeout_s or 0)
        message = f"took longer than {limit}\0timeout=… where it is declared sets the limit"
    return status, message


def _follow(output: int, deadline: float, printed: Print, process: int, look: Look) -> bool:
    """Pass on what a step prints until its end, which is brought about at the deadline; return whether it was.

    Meanwhile `look`, if there is one, is called again and again.
    """
    signals = [signal.SIGTERM, signal.SIGKILL]
    ready = select.poll()
    ready.register(output, select.POLLIN)
    next_look = time.monotonic() + _LOOK_S if look else math.inf
    while True:
        now = time.monotonic()
        if look and now >= next_look:
            look()
            next_look = now + _LOOK_S
        left = deadline - now
        if left <= 0:
            os.kill(process, signals.pop(0))
            deadline = time.monotonic() + GRACE_S if signals else math.inf
        elif ready.poll(None if left == next_look == math.inf
                        else math.ceil(min(left, next_look - now, _POLL_LIMIT_S) * 1000)):  # fmt: skip
            if not (chunk := os.read(output, 1 << 16)):
                return len(signals) < 2  # noqa: PLR2004  one was sent
            printed(chunk)


def be_first(
    way: Iterable[linux.Prepared], inside: Callable[[], NoReturn], output: int | None, error: int
) -> NoReturn:
    """Be PID 1: end with the parent, go a `way` into namespaces, and call `inside`, which exits.

    What is printed goes to `output`, if that is not None; what is told of an exception, to `error`. No other file stays
    open: a step can look into /proc/1/fd.
    """
    try:
        linux.die_with_parent()
        linux.make(way)
        if output is not None:
            os.dup2(output, 1)
            os.dup2(output, 2)
        os.closerange(3, error)
        os.closerange(error + 1, _FILES_LIMIT)
        inside()
    except ForgeError as problem:
        message = f"{problem.message}\0{problem.hint or ''}"
    except BaseException as problem:  # noqa: BLE001  the process ends here, and the parent is told
        sys.excepthook(type(problem), problem, problem.__traceback__)
        message = str(problem) if isinstance(problem, OSError) else f"{type(problem).__name__}: {problem}"
    os.write(error, message.encode("utf-8", "replace"))
    os._exit(1)


def go_inside(step: Step, entrance: Iterable[linux.Prepared], deed: Callable[[], object], *, fresh: bool) -> NoReturn:
    """Enter the step's root as PID 1 of its namespaces, of which the network may be `fresh`, and do what it says."""
    if fresh:
        linux.loopback_up()
    linux.make(entrance)
    os.setsid()
    if mounts(step):
        userns.confine()
    linux.hide_memory()
    kept = _capabilities(step)
    if kept != _PROGRAMS:  # those are bounded already
        linux.bound_capabilities(kept)
    linux.keep_capabilities(kept)
    signal.signal(signal.SIGTERM, pass_on)
    deed()
    os._exit(0)


def pass_on(number: int, _: object) -> None:
    """Pass a signal on to all other processes of this PID namespace; where there are none, end."""
    try:
        os.kill(-1, number)
    except ProcessLookupError:
        os._exit(128 + number)


def _deed(step: Step, environment: dict[str, str]) -> Callable[[], object]:
    """Return what does a step. All that it imports is imported: forge's modules are out of reach of a step."""
    match step:
        case Run():
            return partial(_exec_and_reap, step, environment)
        case Call():
            return partial(_call, step, environment)
        case Write():
            return partial(_write, step)
        case Copy():
            from forgefile.programs.copy import copy  # noqa: PLC0415

            return partial(copy, step)
    raise TypeError(step)


def _call(step: Call, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    step.function(step.argument)


def _write(step: Write) -> None:
    os.makedirs(os.path.dirname(step.path), exist_ok=True)
    with suppress(FileNotFoundError):
        os.unlink(step.path)
    write_text(step.path, step.text, step.mode)
    os.chmod(step.path, step.mode)


def _capabilities(step: Step) -> tuple[int, ...]:
    """Return the capabilities that a step has, in its user namespace if it mounts."""
    if mounts(step):
        return (*_PROGRAMS, _SYS_ADMIN)
    return _PROGRAMS if isinstance(step, Run) else _FILES


def environment_of(job: Job, step: Step) -> dict[str, str]:
    """Return the variables that a step has."""
    network = uses_network(step)
    return {
        "PATH": f"{_PREFIX}/bin:{PATH}" if step.root is None else PATH,
        "HOME": "/root",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "TERM": "dumb",
        "SOURCE_DATE_EPOCH": str(job.epoch),
        **({name: value for name, value in os.environ.items() if name.lower() in PROXIES} if network else {}),
        **({"MAKEFLAGS": f" -j --jobserver-auth={_TOKENS[0]},{_TOKENS[1]}"} if _takes_tokens(step) else {}),
        **(step.env if isinstance(step, Run) else {}),
    }


def _takes_tokens(step: Step) -> bool:
    return isinstance(step, Run) and step.jobserver


def _exec_and_reap(step: Run, environment: dict[str, str]) -> NoReturn:
    """Run a program as a child of PID 1, collect what others leave, and exit as it does."""
    child = spawn(step, environment)
    while True:
        pid, status = os.wait()
        if pid == child:
            if os.WIFSIGNALED(status):
                raise BuildError(ended(os.waitstatus_to_exitcode(status)))
            os._exit(os.waitstatus_to_exitcode(status))


def spawn(step: Run, environment: dict[str, str], own: Sequence[tuple[Any, ...]] | None = None) -> int:
    """Start the step's program and return its process id; say on standard error what stands in the way.

    `own` are file actions (posix_spawn(3)) in place of those that the step asks for; then the program leads a session.

    posix_spawn copies none of this process's memory, which fork does and exec throws away. The signals that Python
    ignores are what they were.
    """
    os.environ["PATH"] = environment["PATH"]  # where posix_spawnp looks
    try:
        actions = _redirections(step) if own is None else own
        if step.cwd is not None:
            os.chdir(step.cwd)
        for argv in (step.argv, ("sh", *step.argv)):  # a text without #! is a script for sh, as in a shell
            try:
                return os.posix_spawnp(
                    argv[0], argv, environment, file_actions=actions, setsid=own is not None, setsigmask=(),
                    setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
                )  # fmt: skip
            except OSError as error:
                if error.errno != errno.ENOEXEC:
                    raise
    except (FileNotFoundError, ValueError):  # the latter for a name that is empty
        os.write(2, f"{step.argv[0]}: not found\n".encode("utf-8", "replace"))
        os._exit(127)
    except OSError as error:
        os.write(2, f"{step.argv[0]}: {error.strerror}\n".encode("utf-8", "replace"))
    os._exit(126)


def _redirections(step: Run) -> list[tuple[Any, ...]]:
    """Give this process the step's standard input; return the file actions that open the rest."""
    if step.stdin is not None:
        source = os.memfd_create("stdin")
        os.write(source, step.stdin.encode("utf-8", "surrogateescape"))
        os.lseek(source, 0, os.SEEK_SET)
    else:
        source = os.open("/dev/null", os.O_RDONLY)
    os.dup2(source, 0)
    actions: list[tuple[Any, ...]] = []
    if step.stdout is not None:
        output = os.open(step.stdout, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        actions.append((os.POSIX_SPAWN_DUP2, output, 1))
    if step.jobserver:
        tokens = f"{_PREFIX}/{jobserver.NAME}"
        actions += [(os.POSIX_SPAWN_OPEN, number, tokens, os.O_RDWR, 0) for number in _TOKENS]
    return actions
