"""What the steps of a job see: the folder /run/forge, the trees in it, and the host's programs, read-only.

`furnish` is called in the job's private mount namespace, `enter` in that of one step. Unaware of what steps do.
"""

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from forgefile import jobserver, linux
from forgefile.cache.layout import EMPTY, LAYERS, STAGING
from forgefile.job import Job
from forgefile.lend import cache_copy, in_tmp, resolve
from forgefile.model import Run, Sandbox, Step

_PREFIX = Sandbox.prefix
_HOST_FOLDERS = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "opt", "nix", "gnu")
_HOST_ETC = (
    "alternatives", "apt/trusted.gpg.d", "ca-certificates", "debian_version", "default/grub", "hosts", "ld.so.cache",
    "ld.so.conf", "ld.so.conf.d", "mke2fs.conf", "nsswitch.conf", "os-release", "protocols", "services", "ssl",
)  # fmt: skip
MOUNT_POINTS = ("proc", "sys", "dev", "run")
_KERNEL_SETTINGS = ("sys", "sysrq-trigger", "irq", "bus")
"""In /proc, what would change the running kernel of the whole machine."""
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


def furnish(job: Job) -> None:
    """Make STAGING/run, which steps see as /run/forge, and STAGING/root, the root of the host's programs."""
    run_ = f"{job.staging}/run"
    for folder in ("tmp", "in", "src", "scratch", "bin", "system-tmp"):
        os.makedirs(f"{run_}/{folder}")
    os.chmod(f"{run_}/system-tmp", 0o1777)
    if os.path.exists(f"{job.staging}/{jobserver.NAME}"):
        os.link(f"{job.staging}/{jobserver.NAME}", f"{run_}/{jobserver.NAME}")
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
        options.append("volatile")  # or unmounting would wait for the disk
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
    folder = os.path.dirname(at)
    if not os.path.isdir(folder):
        os.makedirs(folder)
    try:
        is_folder = stat.S_ISDIR(os.stat(source).st_mode)
    except FileNotFoundError:
        os.symlink(os.readlink(source), at)
        return
    if is_folder:
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
    write_text(f"{root}/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/nonexistent:/bin/false\n")
    write_text(f"{root}/etc/group", "root:x:0:\nnogroup:x:65534:\n")
    write_text(f"{root}/etc/hostname", "localhost\n")
    write_text(f"{root}/etc/resolv.conf", host_file("/etc/resolv.conf"))
    write_text(f"{root}/var/lib/dpkg/status", "")


def host_file(path: str) -> str:
    """Return the text of a file of the host, empty when there is none."""
    with suppress(OSError), open(path, encoding="utf-8", errors="replace") as stream:
        return stream.read()
    return ""


def write_text(path: str, text: str, mode: int = 0o644) -> None:
    """Write a file that may be there already."""
    with open(path, "w", encoding="utf-8", opener=lambda p, f: os.open(p, f, mode)) as stream:
        stream.write(text)


def enter(job: Job, step: Step, root: str) -> None:
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
        if not in_tmp(cache):
            at = resolve(root, cache.path)
            os.makedirs(at, exist_ok=True)
            linux.bind(cache_copy(job, cache), at)
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
