"""What a step is lent: files put into a tree for its time, and folders that all targets share.

Unaware of namespaces: it works on the folders of a job, before and after the step.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress

from forgefile.cache.layout import CACHE
from forgefile.errors import BuildError
from forgefile.job import Job
from forgefile.model import Cache, Call, Run, Sandbox
from forgefile.secret import find


class Lent:
    """A file put into a tree for one step. What was there is put back, unless the step wrote something else."""

    def __init__(self, root: str, path: str, text: str, mode: int) -> None:
        self._text = text
        folder, name = os.path.split(path)
        self._folder = os.open(resolve(root, folder), os.O_PATH | os.O_DIRECTORY)
        self._name = name
        self._aside = f"{name}.forge-aside"
        self._times = os.fstat(self._folder).st_mtime_ns
        if self._kind() is not None:
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
        is_untouched = self._untouched()
        if is_untouched:
            os.unlink(self._name, dir_fd=self._folder)
        with suppress(FileNotFoundError):  # there was none, or the step removed all that it saw
            if is_untouched:
                os.rename(self._aside, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            else:
                os.unlink(self._aside, dir_fd=self._folder)
        os.utime(f"/proc/self/fd/{self._folder}", ns=(self._times, self._times))
        os.close(self._folder)


def lend(root: str, path: str, text: str, mode: int) -> Iterable[Lent]:
    """Lend a file to a tree that has a folder for it."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return (Lent(root, path, text, mode),)
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


def in_tmp(cache: Cache) -> bool:
    """Tell whether the step finds a cache below its own temporary folder, where links to the output are possible."""
    return cache.path.startswith(f"{Sandbox.tmp}/")


def cache_copy(job: Job, cache: Cache) -> str:
    """Return the folder that is the step's own copy of a cache."""
    if in_tmp(cache):
        return f"{job.staging}/run{cache.path.removeprefix(Sandbox.prefix)}"
    return f"{job.staging}/cache-{cache.name}"


def lend_cache(job: Job, cache: Cache) -> None:
    """Make the step's own copy of a cache, of hard links, once for each job."""
    copied = cache_copy(job, cache)
    if os.path.isdir(copied):
        return
    import shutil  # noqa: PLC0415  with what it imports, every fork of a step would copy it

    shared = f"{CACHE}/{cache.name}"
    os.makedirs(shared, exist_ok=True)
    with suppress(FileNotFoundError):  # another forge may replace a file meanwhile; the step then makes it itself
        shutil.copytree(shared, copied, copy_function=os.link)
    os.makedirs(f"{copied}/partial", exist_ok=True)


def keep_cache(job: Job, cache: Cache) -> None:
    """Give what a step added or replaced in its copy of a cache to the others, file by file, but for secrets."""
    copied, shared = cache_copy(job, cache), f"{CACHE}/{cache.name}"
    for path in _files(copied):
        to = f"{shared}/{path}"
        with suppress(FileNotFoundError):
            new, old = os.stat(f"{copied}/{path}"), os.stat(to)
            if (new.st_size, new.st_mtime_ns) == (old.st_size, old.st_mtime_ns):
                continue
        if find(f"{copied}/{path}", job.secrets):
            continue
        os.makedirs(os.path.dirname(to), exist_ok=True)
        arriving = f"{job.staging}/arriving"  # where the next run removes what a kill leaves
        os.link(f"{copied}/{path}", arriving)
        os.replace(arriving, to)


def downloads(job: Job, since_ns: int) -> dict[str, int] | None:
    """Return what a job's steps downloaded, or took from earlier downloads: path below the shared caches → bytes.

    That is what was read since the job began, in nanoseconds since 1970, of the caches that hold downloads. None: a
    step that has the network has no such cache, or the file system does not note when a file is read.
    """
    networked = [step for step in job.steps if isinstance(step, Run | Call) and step.network]
    caches = {cache for step in networked for cache in step.caches if cache.downloads}
    if not all(caches.intersection(step.caches) for step in networked):
        return None
    if caches and os.statvfs(job.staging).f_flag & os.ST_NOATIME:
        return None
    found = {}
    for cache in caches:
        copied = cache_copy(job, cache)
        for path in _files(copied):
            status = os.stat(f"{copied}/{path}")
            if status.st_atime_ns >= since_ns:  # to make the hard link changed its ctime: so also with relatime
                found[f"{cache.name}/{path}"] = status.st_size
    return found


class Arrivals:
    """What comes into the folders of downloads while a step runs: a name that is not known yet, or is being fetched.

    To look costs a listing of each folder and the status of what is new.
    """

    def __init__(self, job: Job, caches: Iterable[Cache]) -> None:
        self._folders = [cache_copy(job, cache) for cache in caches if cache.downloads]
        self._known = [{entry.name for entry in _entries(folder)} for folder in self._folders]
        self._most = 0

    def __bool__(self) -> bool:
        """Tell whether there is a folder of downloads."""
        return bool(self._folders)

    def more(self) -> int:
        """Return how many bytes there are beyond those of the last look; what was thrown away counts no less."""
        found = 0
        for folder, known in zip(self._folders, self._known, strict=True):
            new = (entry for entry in _entries(folder) if entry.name not in known)
            for entry in (*new, *_entries(f"{folder}/partial")):
                with suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    found += status.st_size if stat.S_ISREG(status.st_mode) else 0
        more, self._most = max(found - self._most, 0), max(found, self._most)
        return more


def _entries(folder: str) -> list[os.DirEntry[str]]:
    with suppress(OSError), os.scandir(folder) as entries:
        return list(entries)
    return []


def _files(folder: str) -> Iterator[str]:
    """Yield the regular files below a folder, but for locks and what is being fetched."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "partial"]
        for name in names:
            path = os.path.join(parent, name)
            if name != "lock" and not os.path.islink(path):
                yield os.path.relpath(path, folder)


