"""One target's steps, each in namespaces of its own: what they see and what they may do.

`run` is called in a process made for one job. It builds, in a private mount namespace that ends with the process, a
folder that is shown to every step as /run/forge, and a root of the host's programs, read-only. Each step then gets
its own mount, PID, IPC and UTS namespaces, a network namespace unless it asks for the host's network, an allow-listed
environment, and a PID 1 with whose end everything that the step started ends. Nothing is ever mounted on the host.

Unaware of manifests, records and the scheduler.
"""

import os
import shutil
import socket
import stat
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import NamedTuple, NoReturn

from forgefile import linux
from forgefile.cache.layout import CACHE, EMPTY, LAYERS, STAGING
from forgefile.errors import BuildError, ForgeError
from forgefile.host import PATH
from forgefile.model import Cache, Call, Copy, Output, Run, Sandbox, Step, Value, Write
from forgefile.programs.copy import copy

_PREFIX = Sandbox.prefix
_HOST_FOLDERS = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "opt", "nix", "gnu")
_HOST_ETC = (
    "alternatives", "apt/trusted.gpg.d", "ca-certificates", "debian_version", "default/grub", "hosts", "ld.so.cache",
    "ld.so.conf", "ld.so.conf.d", "mke2fs.conf", "nsswitch.conf", "os-release", "protocols", "services", "ssl",
)  # fmt: skip
_MOUNT_POINTS = ("proc", "sys", "dev", "run")
_KERNEL_SETTINGS = ("sys", "sysrq-trigger", "irq", "bus")
"""In /proc, what would change the running kernel of the whole machine."""
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
# From capabilities(7): modules, raw I/O, accounting, reboot, clock, audit, MAC, syslog, wake alarms, BPF, perf.
_DROPPED_CAPABILITIES = (16, 17, 20, 22, 25, 29, 30, 32, 33, 34, 35, 36, 37, 38, 39)
_POLICY_RC_D = "#!/bin/sh\n# No service starts while an image is built.\nexit 101\n"


class View(Value):
    """An input as the steps see it. `layers` (digests, lowest first) for a tree, `host` for anything else."""

    at: str
    host: str = ""
    layers: tuple[str, ...] = ()
    writable: bool = False


class Job(Value):
    """All that a worker needs to make one target: plain data."""

    target: str
    store: str
    staging: str
    """A folder that exists, is empty and lies on the store's file system."""
    log: str
    """The file that receives what the steps print."""
    steps: tuple[Step, ...]
    views: tuple[View, ...]
    programs: tuple[tuple[str, str], ...] = ()
    """(name, path) of the host programs that the usual PATH would not find."""
    output: Output
    base: tuple[str, ...] | None = None
    """The layers that the output tree builds on, or None when it builds on nothing."""
    epoch: int


class StepFailed(NamedTuple):
    """How a step ended when it did not end well."""

    command: str
    message: str
    hint: str | None = None


Print = Callable[[bytes], None]


def run(job: Job, printed: Print, began: Callable[[int, str], None]) -> StepFailed | None:
    """Run a job's steps in order in this process's private mount namespace; stop at the first that fails.

    Afterwards the output lies in `job.staging`: `run/out`, or for a tree with a base what changed in `upper`.
    `printed` receives what the steps print, `began` each step's number and title. Raises `BuildError` when the
    sandbox itself cannot be made.
    """
    try:
        linux.unshare(linux.CLONE_NEWNS)
        linux.mount(None, "/", flags=linux.MS_REC | linux.MS_PRIVATE)
        os.chdir(job.store)
        os.umask(0o022)
        _furnish(job)
    except OSError as error:
        raise BuildError(f"the sandbox cannot be made: {error}", hint="forge doctor says what is missing") from error
    for number, step in enumerate(job.steps):
        began(number, title(step))
        if failed := _run_step(job, step, printed):
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


# The folder /run/forge and the trees in it ---------------------------------------------------------------------------


def _furnish(job: Job) -> None:
    """Make STAGING/run, which steps see as /run/forge, and STAGING/root, the root of the host's programs."""
    run_ = f"{job.staging}/run"
    for folder in ("tmp", "in", "src", "scratch", "bin", "system-tmp"):
        os.makedirs(f"{run_}/{folder}")
    os.chmod(f"{run_}/system-tmp", 0o1777)
    if job.output == "tree":
        os.mkdir(f"{run_}/out", 0o755)
        if job.base is not None:
            overlay(job.base, f"{run_}/out", upper=job.staging)
    for number, view in enumerate(job.views):
        at = f"{run_}{view.at.removeprefix(_PREFIX)}"
        if view.host:
            _show(view.host, at)
        else:
            os.makedirs(at)
            overlay(view.layers, at, upper=f"{job.staging}/scratch-{number}" if view.writable else None)
    for name, path in job.programs:
        _show(path, f"{run_}/bin/{name}")
    _host_root(f"{job.staging}/root")


def overlay(layers: tuple[str, ...], at: str, *, upper: str | None) -> None:
    """Mount a stack of layers (lowest first) of the store, which is the current folder, at `at`.

    `upper` is a folder that gets `upper`, the changes, and `work`; None makes the mount read-only. The options are
    the same for root and in a user namespace, so that the layers come out the same: `userxattr` keeps overlayfs'
    marks where both can write them.
    """
    lower = dict.fromkeys(reversed(layers))  # overlayfs takes no folder twice, and the upper one hides the lower
    store = os.getcwd()
    folders = {str(number): f"{store}/{LAYERS}/{layer}" for number, layer in enumerate(lower)}
    folders["empty"] = f"{store}/{EMPTY}"
    options = ["userxattr", "lowerdir=" + ":".join(folders)]
    if upper is not None:
        for name in ("upper", "work"):
            folders[name] = f"{upper}/{name}"
            os.makedirs(folders[name])
            options.append(f"{name}dir={name}")
        like = os.stat(next(iter(folders.values())))
        os.chmod(folders["upper"], stat.S_IMODE(like.st_mode))
        os.chown(folders["upper"], like.st_uid, like.st_gid)
        os.utime(folders["upper"], ns=(like.st_mtime_ns, like.st_mtime_ns))
    with _linked(folders):
        linux.mount("forge", at, "overlay", 0 if upper else linux.MS_RDONLY, ",".join(options))


@contextmanager
def _linked(folders: Mapping[str, str]) -> Iterator[None]:
    """Work where each folder has a short name: mount options have one page, and commas and colons mean something."""
    before = os.getcwd()
    links = f"{before}/{STAGING}/links-{os.getpid()}"
    os.mkdir(links)
    for name, folder in folders.items():
        os.symlink(folder, f"{links}/{name}")
    os.chdir(links)
    try:
        yield
    finally:
        os.chdir(before)
        for name in folders:
            os.unlink(f"{links}/{name}")
        os.rmdir(links)


def _show(source: str, at: str) -> None:
    """Show a file or folder read-only at a path that is not there yet; a symbolic link is made again."""
    os.makedirs(os.path.dirname(at), exist_ok=True)
    if os.path.islink(source) and not os.path.exists(source):
        os.symlink(os.readlink(source), at)
        return
    if os.path.isdir(source):
        os.mkdir(at)
    else:
        os.close(os.open(at, os.O_CREAT | os.O_WRONLY, 0o600))
    linux.bind(source, at, read_only=True)


def _host_root(root: str) -> None:
    """Make a root folder in which the host's programs run and that holds nothing else of the host."""
    os.mkdir(root)
    linux.mount("forge", root, "tmpfs", linux.MS_NOSUID, "mode=755")
    for name in _HOST_FOLDERS:
        if os.path.islink(f"/{name}"):
            os.symlink(os.readlink(f"/{name}"), f"{root}/{name}")
        elif os.path.isdir(f"/{name}"):
            _show(f"/{name}", f"{root}/{name}")
    for name in ("dev", "proc", "sys", "run", "root", "mnt", "var/tmp", "var/lib/dpkg", "tmp", "etc/apt/apt.conf.d"):
        os.makedirs(f"{root}/{name}")
    for name in _HOST_ETC:
        if os.path.exists(f"/etc/{name}"):
            _show(f"/etc/{name}", f"{root}/etc/{name}")
    _write(f"{root}/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/nonexistent:/bin/false\n")
    _write(f"{root}/etc/group", "root:x:0:\nnogroup:x:65534:\n")
    _write(f"{root}/etc/hostname", "localhost\n")
    _write(f"{root}/etc/resolv.conf", _host_file("/etc/resolv.conf"))
    _write(f"{root}/var/lib/dpkg/status", "")


def _host_file(path: str) -> str:
    with suppress(OSError), open(path, encoding="utf-8", errors="replace") as stream:
        return stream.read()
    return ""


def _write(path: str, text: str, mode: int = 0o644) -> None:
    with open(path, "w", encoding="utf-8", opener=lambda p, f: os.open(p, f, mode)) as stream:
        stream.write(text)


# One step ------------------------------------------------------------------------------------------------------------


def _run_step(job: Job, step: Step, printed: Print) -> StepFailed | None:
    """Run one step in its own namespaces and wait for its end."""
    host_root = f"{job.staging}/root"
    root = host_root if step.root is None else f"{job.staging}/run{step.root.removeprefix(_PREFIX)}"
    caches = getattr(step, "caches", ())
    for cache in caches:
        _lend_cache(job, cache)
    lent: list[_Lent] = []
    places = [] if step.root is None else [f"{root}/{name}" for name in _MOUNT_POINTS]
    places = [place for place in places if not os.path.lexists(place)]
    for place in places:
        os.mkdir(place)
    try:
        if step.root is not None and isinstance(step, Run):
            lent = [*_lend(root, "/usr/sbin/policy-rc.d", _POLICY_RC_D, 0o755)]
            if step.network:
                lent += _lend(root, "/etc/resolv.conf", _host_file("/etc/resolv.conf"), 0o644)
        status, message = _isolated(lambda: _inside(job, step, root), printed, step)
    except OSError as error:
        status, message = 1, str(error)
    finally:
        for each in reversed(lent):
            each.put_back()
        for place in places:
            with suppress(OSError):
                os.rmdir(place)
        for cache in caches:
            _keep_cache(job, cache)
    if status or message:
        words, _, hint = message.partition("\0")
        return StepFailed(title(step), words or ended(status), hint or None)
    return None


def ended(status: int) -> str:
    """Return how a program ended in words; `status` is its exit status, or minus the signal's number."""
    import signal  # noqa: PLC0415

    if status < 0:
        with suppress(ValueError):
            return f"killed by {signal.Signals(-status).name}"
        return f"killed by signal {-status}"
    return f"exit status {status}"


def _isolated(inside: Callable[[], NoReturn], printed: Print, step: Step) -> tuple[int, str]:
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
            os._exit(_exit_status(os.waitpid(first, 0)[1], error_write))
        except OSError as error:
            os.write(error_write, f"the sandbox cannot be made: {error}".encode())
        os._exit(1)
    os.close(output_write)
    os.close(error_write)
    while chunk := os.read(output_read, 1 << 16):
        printed(chunk)
    os.close(output_read)
    with open(error_read, "rb") as stream:
        message = stream.read().decode("utf-8", "replace")
    return os.waitstatus_to_exitcode(os.waitpid(outer, 0)[1]), message


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
    _enter(job, step, root)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    os.setsid()
    linux.drop_capabilities(_DROPPED_CAPABILITIES)
    linux.ignore_sync()
    match step:
        case Run():
            _exec_and_reap(step)
        case Write():
            os.makedirs(os.path.dirname(step.path), exist_ok=True)
            with suppress(FileNotFoundError):
                os.unlink(step.path)
            _write(step.path, step.text, step.mode)
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
        **(step.env if isinstance(step, Run) else {}),
    }


def _enter(job: Job, step: Step, root: str) -> None:
    """Make the step's root this process's root, with what programs expect to find there mounted."""
    linux.bind(root, root)
    linux.mount("forge", f"{root}/run", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755")
    os.mkdir(f"{root}{_PREFIX}")
    linux.bind(f"{job.staging}/run", f"{root}{_PREFIX}")
    if step.root is None or isinstance(step, Run):
        linux.mount("proc", f"{root}/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
        for name in filter(os.path.exists, (f"{root}/proc/{each}" for each in _KERNEL_SETTINGS)):
            linux.bind(name, name, read_only=True)
        linux.bind("/sys", f"{root}/sys", read_only=True)
        _devices(f"{root}/dev")
        os.mkdir(f"{root}/run/lock", 0o1777)
        for temporary in ("/tmp", "/var/tmp"):
            if os.path.isdir(root + temporary) and not os.path.islink(root + temporary):
                linux.bind(f"{job.staging}/run/system-tmp", root + temporary)
    for cache in getattr(step, "caches", ()):
        if not _in_tmp(cache):
            at = resolve(root, cache.path)
            os.makedirs(at, exist_ok=True)
            linux.bind(_cache_copy(job, cache), at)
    linux.pivot_root(root)


def _devices(dev: str) -> None:
    """Mount a /dev with the devices that every program may expect, and a terminal multiplexer of its own."""
    linux.mount("forge", dev, "tmpfs", linux.MS_NOSUID, "mode=755")
    for name in filter(lambda name: os.path.exists(f"/dev/{name}"), _DEVICES):
        os.close(os.open(f"{dev}/{name}", os.O_CREAT | os.O_WRONLY, 0o666))
        linux.bind(f"/dev/{name}", f"{dev}/{name}")
    for name, to in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(to, f"{dev}/{name}")
    os.mkdir(f"{dev}/shm", 0o1777)
    os.chmod(f"{dev}/shm", 0o1777)
    os.mkdir(f"{dev}/pts")
    linux.mount("devpts", f"{dev}/pts", "devpts", linux.MS_NOSUID | linux.MS_NOEXEC, "newinstance,ptmxmode=0666")
    os.symlink("pts/ptmx", f"{dev}/ptmx")


def _exec_and_reap(step: Run) -> NoReturn:
    """Run a program as a child of PID 1, collect what others leave, and exit as it does."""
    child = os.fork()
    if not child:
        _exec(step)
    while True:
        pid, status = os.wait()
        if pid == child:
            if os.WIFSIGNALED(status):
                raise BuildError(ended(os.waitstatus_to_exitcode(status)))
            os._exit(os.waitstatus_to_exitcode(status))


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
        os.execvp(step.argv[0], step.argv)  # noqa: S606  no shell is wanted
    except FileNotFoundError:
        os.write(2, f"{step.argv[0]}: not found\n".encode("utf-8", "replace"))
        os._exit(127)
    except OSError as error:
        os.write(2, f"{step.argv[0]}: {error.strerror}\n".encode("utf-8", "replace"))
    os._exit(126)


# What is lent to a tree ----------------------------------------------------------------------------------------------


class _Lent:
    """A file put into a tree for one step. What was there is put back, unless the step wrote something else."""

    def __init__(self, root: str, path: str, text: str, mode: int) -> None:
        self._text = text
        folder, name = os.path.split(path)
        self._folder = os.open(resolve(root, folder), os.O_PATH | os.O_DIRECTORY)
        self._name = name
        self._aside = f"{name}.forge-aside"
        self._times = os.fstat(self._folder).st_mtime_ns
        self._had = self._kind() is not None
        if self._had:
            os.rename(name, self._aside, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with open(os.open(name, flags, mode, dir_fd=self._folder), "w", encoding="utf-8") as stream:
            stream.write(text)

    def _kind(self) -> int | None:
        with suppress(FileNotFoundError):
            return stat.S_IFMT(os.lstat(self._name, dir_fd=self._folder).st_mode)
        return None

    def _untouched(self) -> bool:
        if self._kind() != stat.S_IFREG:
            return False
        with open(os.open(self._name, os.O_RDONLY, dir_fd=self._folder), "rb") as stream:
            return stream.read() == self._text.encode()

    def put_back(self) -> None:
        """Restore what was there; a file that the step wrote itself stays and what was there goes."""
        if self._untouched():
            os.unlink(self._name, dir_fd=self._folder)
            if self._had:
                os.rename(self._aside, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        elif self._had:
            os.unlink(self._aside, dir_fd=self._folder)
        os.utime(f"/proc/self/fd/{self._folder}", ns=(self._times, self._times))
        os.close(self._folder)


def _lend(root: str, path: str, text: str, mode: int) -> Iterable[_Lent]:
    """Lend a file to a tree that has a folder for it."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return (_Lent(root, path, text, mode),)
    return ()


def resolve(root: str, path: str) -> str:
    """Return the path on this side of a path inside a tree, its links followed as if the tree were the root."""
    parts, done = [part for part in path.split("/") if part], root
    for _ in range(255):
        if not parts:
            return done
        part = parts.pop(0)
        if part == "..":
            done = done if done == root else os.path.dirname(done)
        elif os.path.islink(f"{done}/{part}"):
            link = os.readlink(f"{done}/{part}")
            done = root if link.startswith("/") else done
            parts[:0] = [each for each in link.split("/") if each and each != "."]
        else:
            done = f"{done}/{part}"
    raise BuildError(f"{path}: too many links")


# What steps share through the store ----------------------------------------------------------------------------------


def _in_tmp(cache: Cache) -> bool:
    return cache.path.startswith(f"{Sandbox.tmp}/")


def _cache_copy(job: Job, cache: Cache) -> str:
    """Return the folder that is the step's own copy of a cache."""
    if _in_tmp(cache):
        return f"{job.staging}/run{cache.path.removeprefix(_PREFIX)}"
    return f"{job.staging}/cache-{cache.name}"


def _lend_cache(job: Job, cache: Cache) -> None:
    """Make the step's own copy of a cache, of hard links, once for each job."""
    copied = _cache_copy(job, cache)
    if os.path.isdir(copied):
        return
    shared = f"{CACHE}/{cache.name}"
    os.makedirs(shared, exist_ok=True)
    with suppress(FileNotFoundError):  # another forge may replace a file meanwhile; the step then makes it itself
        shutil.copytree(shared, copied, copy_function=os.link)
    os.makedirs(f"{copied}/partial", exist_ok=True)


def _keep_cache(job: Job, cache: Cache) -> None:
    """Give what a step added or replaced in its copy of a cache to the others, file by file."""
    copied, shared = _cache_copy(job, cache), f"{CACHE}/{cache.name}"
    for path in _files(copied):
        to = f"{shared}/{path}"
        with suppress(FileNotFoundError):
            new, old = os.stat(f"{copied}/{path}"), os.stat(to)
            if (new.st_size, new.st_mtime_ns) == (old.st_size, old.st_mtime_ns):
                continue
        os.makedirs(os.path.dirname(to), exist_ok=True)
        arriving = f"{to}.{os.getpid()}"
        os.link(f"{copied}/{path}", arriving)
        os.replace(arriving, to)


def _files(folder: str) -> Iterator[str]:
    """Yield the regular files below a folder, but for locks and what is being fetched."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "partial"]
        for name in names:
            path = os.path.join(parent, name)
            if name != "lock" and not os.path.islink(path):
                yield os.path.relpath(path, folder)


