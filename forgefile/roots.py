"""What the steps of a job see: the folder /run/forge, the trees in it, and the host's programs, read-only.

`settle` is called in the mount namespace of a worker, `furnish` in that of a job, and in that of a step is done what
`entrance` returns. Unaware of what steps do.
"""

import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial

from forgefile import jobserver, linux
from forgefile.cache.layout import EMPTY, LAYERS, STAGING
from forgefile.files import own_folder, remove_tree
from forgefile.job import Job
from forgefile.lend import cache_copy, in_tmp, resolve
from forgefile.model import Run, Sandbox, Step

_PREFIX = Sandbox.prefix
_HOST_FOLDERS = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "opt", "nix", "gnu")
_HOST_ETC = (
    "alternatives", "apt/trusted.gpg.d", "ca-certificates", "debian_version", "default/grub", "hosts", "ld.so.cache",
    "ld.so.conf", "ld.so.conf.d", "mke2fs.conf", "nsswitch.conf", "os-release", "protocols", "services",
    "ssl/certs", "ssl/openssl.cnf",
)  # fmt: skip
MOUNT_POINTS = ("proc", "sys", "dev", "run")
_KERNEL_SETTINGS = ("sys", "sysrq-trigger", "irq", "bus", "fs", "acpi", "scsi", "mtrr", "dynamic_debug")
"""In /proc, what would change the running kernel of the whole machine."""
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


_FOLDERS = {
    "seen": 0o755, "run": 0o755, "run/bin": 0o755, "run/in": 0o755, "run/scratch": 0o755, "run/src": 0o755,
    "run/system-tmp": 0o1777, "run/tmp": 0o755,
}  # fmt: skip
"""The folders of a job's staging folder, with their modes."""
_NEVER_NS = 915_148_800_123_456_789
"""The modification time of those that are new, which is no time that anything else would give them."""


def settle(job: Job) -> None:
    """Mount at STAGING/root what all steps see that run the host's programs, read-only, unless that is done.

    Then what an earlier worker left in STAGING is removed first.
    """
    root = f"{job.staging}/root"
    if os.path.isdir(root) and _is_mount(root):
        return
    clear(job.staging, jobserver.NAME)
    os.makedirs(root, exist_ok=True)
    linux.mount("forge", root, "tmpfs", linux.MS_NOSUID, "mode=755")
    for name in _HOST_FOLDERS:
        if os.path.islink(f"/{name}"):
            os.symlink(os.readlink(f"/{name}"), f"{root}/{name}")
        elif os.path.isdir(f"/{name}"):
            _show(f"/{name}", f"{root}/{name}")
    for path in map(os.path.realpath, job.hidden):
        if path.split("/")[1] in _HOST_FOLDERS and os.path.dirname(path) != "/" and os.path.isdir(root + path):
            linux.mount("forge", root + path, "tmpfs", linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV)
    for name in ("dev", "proc", "run", "root", "mnt", "var/tmp", "var/lib/dpkg", "tmp", "etc/apt/apt.conf.d"):
        os.makedirs(f"{root}/{name}")
    for name in _HOST_ETC:
        if os.path.exists(f"/etc/{name}"):
            _show(f"/etc/{name}", f"{root}/etc/{name}")
    write_text(f"{root}/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/nonexistent:/bin/false\n")
    write_text(f"{root}/etc/group", "root:x:0:\nnogroup:x:65534:\n")
    write_text(f"{root}/etc/hostname", "localhost\n")
    write_text(f"{root}/etc/resolv.conf", host_file("/etc/resolv.conf"))
    write_text(f"{root}/var/lib/dpkg/status", "")
    _show("/sys", f"{root}/sys")
    linux.forbid_devices(root)
    linux.make(_devices(f"{root}/dev"))
    linux.make_read_only(root)


def furnish(job: Job) -> None:
    """Make STAGING/run, which steps see as /run/forge."""
    run_ = f"{job.staging}/run"
    inner = [view.at.removeprefix(f"{_PREFIX}/").partition("/") for view in job.views]
    shown = {folder for folder, slash, _ in inner if slash}
    for folder in (*shown, *(("bin",) if job.programs else ())):
        os.makedirs(f"{run_}/{folder}", exist_ok=True)
        linux.mount("forge", f"{run_}/{folder}", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755")
    if os.path.exists(f"{job.staging}/{jobserver.NAME}"):
        os.link(f"{job.staging}/{jobserver.NAME}", f"{run_}/{jobserver.NAME}")
    if job.output == "tree":
        with suppress(FileExistsError):  # it is half made
            os.mkdir(f"{run_}/out", 0o755)
        if job.base is not None:
            overlay(job.base, f"{run_}/out", upper=job.staging, order=_order(job, "out"))
    for number, view in enumerate(job.views):
        at = f"{run_}{view.at.removeprefix(_PREFIX)}"
        order = _order(job, str(number))
        if view.host:
            _show(view.host, at)
            if order and os.path.isdir(view.host):
                _shuffle_source(view.host, at, order)
        else:
            os.makedirs(at, exist_ok=True)
            upper = f"{job.staging}/scratch-{number}" if view.writable else None
            overlay(view.layers, at, upper=upper, order=order)
    if job.secrets:
        _disclose(job, f"{run_}/secret")
    for name, path in job.programs:
        _show(path, f"{run_}/bin/{name}")
    linux.bind(run_, seen(job))
    linux.forbid_devices(seen(job))


def seen(job: Job) -> str:
    """Return where STAGING/run is as steps are shown it: no device node in it opens a device of the host."""
    return f"{job.staging}/seen"


def mounts(step: Step) -> bool:
    """Tell whether a step may mount."""
    return getattr(step, "mounts", False)


def clear(staging: str, *kept: str) -> None:
    """Make a staging folder new for the next job: remove what there is but `kept` and what is as this made it.

    That is the root of the host's programs, and the folders in which nothing ever was. To make and to remove them would
    be most of the work of a small job on ext4 without a journal: it passes over inodes that were deleted in the last
    minute.
    """
    there = {"root", *kept}
    for parent in ("", "run"):
        folder = os.path.join(staging, parent)
        for name in os.listdir(folder) if os.path.isdir(folder) else ():
            path = os.path.join(parent, name)
            if _is_new(f"{staging}/{path}", _FOLDERS.get(path)):
                there.add(path)
            elif path not in there:
                remove_tree(f"{staging}/{path}")
    for path, mode in _FOLDERS.items():
        if path not in there:
            os.mkdir(f"{staging}/{path}")
            os.chmod(f"{staging}/{path}", mode)
    for path in _FOLDERS.keys() - there - {"run"}:
        os.utime(f"{staging}/{path}", ns=(_NEVER_NS, _NEVER_NS))


def _is_new(path: str, mode: int | None) -> bool:
    """Tell whether a path is a folder as `clear` made it with a mode, in which nothing was ever made or removed."""
    if mode is None:
        return False
    status = os.lstat(path)
    if (status.st_mode, status.st_uid, status.st_gid) != (stat.S_IFDIR | mode, os.geteuid(), os.getegid()):
        return False
    return (status.st_mtime_ns == _NEVER_NS or path.endswith("/run")) and not os.listxattr(path)


def _is_mount(path: str) -> bool:
    """Tell whether a folder is in another file system than the one that it lies in."""
    return os.stat(path).st_dev != os.stat(os.path.dirname(path)).st_dev


@cache
def _settings() -> tuple[str, ...]:
    """Return what /proc has of the settings of the running kernel."""
    return tuple(name for name in _KERNEL_SETTINGS if os.path.exists(f"/proc/{name}"))


def _disclose(job: Job, at: str) -> None:
    """Show the job's secrets in a folder that is in memory alone, and that ends with the job."""
    os.mkdir(at)
    linux.mount("forge", at, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC, "mode=755")
    for secret in job.secrets:
        file = f"{at}/{os.path.basename(secret.at)}"
        with open(file, "xb", opener=partial(os.open, mode=0o400)) as stream:
            stream.write(secret.content)
        os.utime(file, (job.epoch, job.epoch))
    linux.make_read_only(at)


def _order(job: Job, name: str) -> str | None:
    """Return where a job makes what changes the order of an input's folders, if it does."""
    return f"{job.staging}/order-{name}" if job.shuffled else None


def overlay(layers: tuple[str, ...], at: str, *, upper: str | None, order: str | None = None) -> None:
    """Mount a stack of layers (lowest first) of the store, which is the current folder, at `at`.

    `upper` is a folder that gets `upper`, the changes, and `work`; None makes the mount read-only. `order` is the path
    of a folder to be made, by which folders list what they hold in another order than usual. The options are the same
    for root and in a user namespace, so that the layers come out the same: `userxattr` keeps overlayfs' marks where
    both can write them.
    """
    stack = dict.fromkeys(reversed(layers))  # overlayfs takes no folder twice, and the upper one hides the lower
    store = os.getcwd()
    lower = [*(f"{store}/{LAYERS}/{layer}" for layer in stack), f"{store}/{EMPTY}"]
    if order is not None:
        _stack(lower, at, upper=None)
        lower += _shuffled(at, order)
        linux.unmount(at)
    _stack(lower, at, upper=upper)


def _shuffle_source(source: str, at: str, order: str) -> None:
    """Show a source's folder, which is shown at `at`, in another order; as it is where overlayfs cannot show it."""
    with suppress(OSError):
        _stack([source, *_shuffled(source, order)], at, upper=None)


def _shuffled(tree: str, order: str) -> list[str]:
    """Make folders below `order` that change the order of a tree's when they are stacked below it; return them.

    overlayfs lists a folder that several layers have in this order: what the lowest of them has, then what others
    have. So the lowest gets the second half of the names, as empty files that the tree's own hide. What that leaves in
    its place are folders of the first half, and these have their lowest in the next layer above.
    Raises OSError when something is mounted in the tree, which overlayfs would not show.
    """
    left = [("", 0)]
    device = os.stat(tree).st_dev
    while left:
        at, depth = left.pop()
        os.makedirs(f"{order}/{depth}{at}", exist_ok=True)
        with os.scandir(tree + at) as found:
            entries = list(found)
        empty = None
        for number, entry in enumerate(entries):
            moved = 0 < len(entries) // 2 <= number
            path = f"{at}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                if entry.stat(follow_symlinks=False).st_dev != device:
                    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), tree + path)
                left.append((path, depth if moved else depth + 1))
            elif moved and empty is None:
                empty = f"{order}/{depth}{path}"
                os.close(os.open(empty, os.O_CREAT | os.O_WRONLY, 0o600))
            elif moved and empty is not None:
                os.link(empty, f"{order}/{depth}{path}")  # a file of its own may take half a millisecond
    return [f"{order}/{depth}" for depth in sorted(map(int, os.listdir(order)), reverse=True)]


def _stack(lower: Sequence[str], at: str, *, upper: str | None) -> None:
    """Mount folders (uppermost first) at `at`, as `overlay` says."""
    folders = {str(number): folder for number, folder in enumerate(lower)}
    options = ["userxattr", "lowerdir=" + ":".join(folders)]
    if upper is not None:
        options.append("volatile")  # or unmounting would wait for the disk
        for name in ("upper", "work"):
            folders[name] = f"{upper}/{name}"
            options.append(f"{name}dir={name}")
        os.makedirs(folders["work"])
        if not os.path.isdir(folders["upper"]):  # or it is half made
            _make_like(folders["upper"], next(iter(folders.values())))
    with _linked(folders):
        linux.mount("forge", at, "overlay", 0 if upper else linux.MS_RDONLY, ",".join(options))


def _make_like(path: str, other: str) -> None:
    """Make a folder with the mode, owner and time of another."""
    like = os.stat(other)
    os.mkdir(path)
    os.chmod(path, stat.S_IMODE(like.st_mode))
    os.chown(path, like.st_uid, like.st_gid)
    os.utime(path, ns=(like.st_mtime_ns, like.st_mtime_ns))


@contextmanager
def _linked(folders: Mapping[str, str]) -> Iterator[None]:
    """Work where each folder has a short name: mount options have one page, and commas and colons mean something."""
    before = os.getcwd()
    links, descriptor = own_folder(f"{before}/{STAGING}")
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
        os.close(descriptor)


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


def host_file(path: str) -> str:
    """Return the text of a file of the host, empty when there is none."""
    with suppress(OSError), open(path, encoding="utf-8", errors="replace") as stream:
        return stream.read()
    return ""


def write_text(path: str, text: str, mode: int = 0o644) -> None:
    """Write a file that may be there already."""
    with open(path, "w", encoding="utf-8", opener=lambda p, f: os.open(p, f, mode)) as stream:
        stream.write(text)


def entrance(job: Job, step: Step, root: str, devpts: str | None = None) -> list[linux.Prepared]:
    """Return the calls that make the step's root a process's root, with what programs expect to find there mounted.

    They are to be made in namespaces that are the step's own. What they mount on is made here and now. `devpts` is
    where a devpts(5) is mounted that the step is shown instead of one of its own.
    """
    shared = [cache for cache in getattr(step, "caches", ()) if not in_tmp(cache)]
    caches = {cache_copy(job, cache): resolve(root, cache.path) for cache in shared}
    for at in caches.values():
        _make_mount_point(at, root if step.root is None else None)
    private = linux.MS_NOSUID | linux.MS_NODEV
    calls = [] if _is_mount(root) else [*linux.binding(root, root)]
    calls += [
        linux.mounting("forge", f"{root}/run", "tmpfs", private, "mode=755"),
        linux.making_folder(f"{root}{_PREFIX}", 0o755),
        *linux.binding(seen(job), f"{root}{_PREFIX}"),
    ]
    if step.root is None or isinstance(step, Run) or mounts(step):
        calls += _kernel(f"{root}/proc")
        if step.root is None:
            calls.append(linux.mounting("forge", f"{root}/root", "tmpfs", private, "mode=700"))
        else:
            calls += [*linux.binding("/sys", f"{root}/sys", read_only=True), *_devices(f"{root}/dev")]
        calls += [
            linux.mounting("forge", f"{root}/dev/shm", "tmpfs", private, "mode=1777"),
            *(linux.binding(devpts, f"{root}/dev/pts") if devpts else (mounting_devpts(f"{root}/dev/pts"),)),
            linux.making_folder(f"{root}/run/lock", 0o1777),
        ]
        for temporary in ("/tmp", "/var/tmp"):
            if os.path.isdir(root + temporary) and not os.path.islink(root + temporary):
                calls += linux.binding(f"{seen(job)}/system-tmp", root + temporary)
    for copied, at in caches.items():
        calls += [*linux.binding(copied, at), linux.forbidding_devices(at)]
    return [*calls, *linux.entering(root)]


def mounting_devpts(at: str) -> linux.Prepared:
    """Return the call that mounts a devpts(5) of its own."""
    return linux.mounting("devpts", at, "devpts", linux.MS_NOSUID | linux.MS_NOEXEC, "newinstance,ptmxmode=0666")


def _kernel(proc: str) -> list[linux.Prepared]:
    """Return the calls that mount a /proc by which nobody can change the kernel's settings."""
    there = [f"{proc}/{name}" for name in _settings()]
    return [
        linux.mounting("proc", proc, "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC),
        *(linux.mounting(path, path, flags=linux.MS_BIND) for path in there),
        linux.making_read_only(proc),
        linux.making_writable(proc),
    ]


def _make_mount_point(path: str, read_only: str | None) -> None:
    """Make a folder if it is not there, also below a mount that is read-only."""
    if not os.path.isdir(path):
        if read_only is not None:
            linux.make_writable(read_only)
        os.makedirs(path)
        if read_only is not None:
            linux.make_read_only(read_only)


def _devices(dev: str) -> list[linux.Prepared]:
    """Return the calls that mount a /dev with the devices that programs may expect, and where to mount a step's own."""
    calls = [linux.mounting("forge", dev, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755")]
    for name in filter(lambda name: os.path.exists(f"/dev/{name}"), _DEVICES):
        calls += [linux.making_file(f"{dev}/{name}", 0o666), *linux.binding(f"/dev/{name}", f"{dev}/{name}")]
    for name, to in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        calls.append(linux.linking(to, f"{dev}/{name}"))
    return [*calls, *(linux.making_folder(f"{dev}/{name}", 0o755) for name in ("shm", "pts")),
            linux.linking("pts/ptmx", f"{dev}/ptmx")]  # fmt: skip
