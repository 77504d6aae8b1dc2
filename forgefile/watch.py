"""What is watched for `forge watch`: sources with all that they hold, and what the Forgefile looked at, by inotify(7).

Owns which folders the kernel is asked to watch, which of its events count, and which files are still being written.
Unaware of targets and of what a change leads to.

Every path is watched in the folder that holds it, and so is each folder and each link on the way there: so it does not
matter whether a file is written in place or replaced, or whether a folder is removed and made again.
"""

import errno
import os
import stat
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import NamedTuple

from inotify_simple import INotify, flags

from forgefile import host
from forgefile.errors import UsageError

_ARRIVALS = flags.CREATE | flags.DELETE | flags.MOVED_FROM | flags.MOVED_TO
_SELF = flags.DELETE_SELF | flags.MOVE_SELF | flags.ONLYDIR
_WRITING = flags.MODIFY | flags.CLOSE_WRITE | flags.ATTRIB
_LINKS = 40
"""So many symbolic links may lie on the way to a path, see path_resolution(7)."""
_EDITORS = (".*.sw?", ".*.swpx", "4913", "*~", ".#*", "#*#", ".goutputstream-*", "__pycache__")
"""Files of editors' own, and Python's: where they come and go, nothing was changed yet."""
_RACY_NS = 50_000_000
"""By how much a file's time may be behind the clock, and more."""
_LATELY_NS = 2_000_000_000
"""How long before it was watched a file in a new folder may have been changed to count as new."""
_INSTANCES, _WATCHES = "fs.inotify.max_user_instances", "fs.inotify.max_user_watches"


class Roots(NamedTuple):
    """What is to be watched, as absolute paths."""

    trees: tuple[str, ...] = ()
    """Files, and folders with all that they hold."""
    paths: tuple[str, ...] = ()
    """Files and folders, without what these hold."""
    folders: tuple[str, ...] = ()
    """Folders whose names matter."""
    ours: tuple[str, ...] = ()
    """What forge itself writes: nothing there is a change, nor is what lies below."""


class _Interest:
    """What matters of one folder."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        """Names in it that matter, with what becomes of them."""
        self.on_the_way: set[str] = set()
        """Names in it that lead to something."""
        self.is_listed = False
        self.is_tree = False

    @property
    def mask(self) -> int:
        return int(_ARRIVALS | _SELF | (_WRITING if self.names or self.is_tree else 0))


class Watch:
    """An inotify instance, and what came of its events; a context manager. Raises `UsageError` at the kernel's limits.

    `changed` has the paths that changed since it was last cleared, the first one first.
    """

    def __init__(self) -> None:
        try:
            self._inotify = INotify(nonblocking=True)
        except OSError as error:
            raise _limit(error, _INSTANCES) from None
        self.changed: dict[str, None] = {}
        self._roots = Roots()
        self._ours: frozenset[str] = frozenset()
        self._holding: frozenset[str] = frozenset()
        """The folders that `_ours` lie in."""
        self._wanted: dict[str, _Interest] = {}
        self._folders: dict[int, str] = {}
        self._open: dict[str, None] = {}
        self._locks: tuple[str, ...] = ()
        self._is_misplaced = False

    def fileno(self) -> int:
        """Return the descriptor that has something to read when something happened."""
        return int(self._inotify.fileno())

    def close(self) -> None:
        """Watch nothing any more."""
        self._inotify.close()

    def place(self, roots: Roots, since_ns: int) -> None:
        """Watch these and nothing else. What was not watched before and is newer than `since_ns` counts as changed."""
        before = set(self._folders.values())
        self._roots = roots
        self._ours = frozenset(map(os.path.realpath, roots.ours)) | frozenset(roots.ours)
        self._holding = frozenset(map(os.path.dirname, self._ours))
        self._wanted = {}
        for path in (*roots.trees, *roots.paths, *roots.folders):
            self._want(path)
        self._locks = tuple(_locks((*roots.trees, *roots.paths)))
        for path in self._locks:
            self._want(path)
        for folder in map(os.path.realpath, roots.folders):
            self._interest(folder).is_listed = True
        for tree in map(os.path.realpath, roots.trees):
            for folder in _folders_below(tree):
                self._interest(folder).is_tree = True
        placed = {self._add(folder): folder for folder in tuple(self._wanted)}
        placed.pop(0, None)
        for number in self._folders.keys() - placed.keys():
            with suppress(OSError):  # the kernel may have taken it away
                self._inotify.rm_watch(number)
        self._folders = placed
        for folder in set(placed.values()) - before:
            self._note_newer(folder, since_ns - _RACY_NS)

    def _interest(self, folder: str) -> _Interest:
        return self._wanted.setdefault(folder, _Interest())

    def _want(self, path: str) -> None:
        """Note what has to be watched for a path to be watched."""
        for folder, name in way(path):
            there = os.path.join(folder, name)
            if os.path.islink(there) or not os.path.isfile(there):
                self._interest(folder).on_the_way.add(name)
        if os.path.basename(path):
            real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
            for each in (real, os.path.realpath(path)):
                self._interest(os.path.dirname(each)).names.add(os.path.basename(each))

    def _add(self, folder: str) -> int:
        """Have a folder watched; return the number of the watch, or 0 when there is none."""
        try:
            return int(self._inotify.add_watch(folder, self._wanted[folder].mask))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.ENOMEM):
                raise _limit(error, _WATCHES, len(self._wanted)) from None
            return 0  # it is not there, and will be seen when it comes; or it may not be looked into

    def _note_newer(self, folder: str, since_ns: int) -> None:
        """Count what changed in a folder before it was watched."""
        interest = self._wanted[folder]
        names = set(interest.names)
        with suppress(OSError):
            if interest.is_tree or interest.is_listed:
                names.update(os.listdir(folder) if interest.is_tree else ())
                if os.stat(folder).st_ctime_ns >= since_ns and folder not in self._holding:
                    self.changed[folder] = None
        for path in (os.path.join(folder, name) for name in names):
            with suppress(OSError):
                status = os.lstat(path)
                if stat.S_ISDIR(status.st_mode) or status.st_ctime_ns < since_ns or not self._counts(path):
                    continue  # what is in a folder that matters is looked at there
                self.changed[path] = None
                if stat.S_ISREG(status.st_mode):
                    self._open[path] = None

    def _counts(self, path: str) -> bool:
        """Tell whether it matters what becomes of a path that is watched."""
        name = os.path.basename(path)
        if name not in self._wanted.get(os.path.dirname(path), _Interest()).names and any(
            fnmatchcase(name, pattern) for pattern in _EDITORS
        ):
            return False
        if path in self._locks:
            return False
        path = path.removesuffix(".forge-arriving")  # see Store.place
        while len(path) > 1:
            if path in self._ours:
                return False
            path = os.path.dirname(path)
        return True

    # Events

    def read(self) -> bool:
        """Take up what has happened, and tell whether that is anything that matters.

        What is new in a watched folder is watched from now on.
        """
        matters = False
        for number, mask, _, name in self._inotify.read(timeout=0):
            if mask & flags.Q_OVERFLOW:  # nobody knows what
                self.changed.update(dict.fromkeys(self._roots.trees or self._roots.paths))
                self._open.clear()
                self._is_misplaced = matters = True
            elif number in self._folders:
                matters |= self._happened(self._folders[number], mask, name)
                if mask & flags.IGNORED:
                    self._folders.pop(number, None)
        if self._is_misplaced:
            self._is_misplaced = False
            self.place(self._roots, time.time_ns() - _LATELY_NS)
        return matters

    def _happened(self, folder: str, mask: int, name: str) -> bool:
        """Take up an event and tell whether it matters."""
        interest, path = self._wanted.get(folder), os.path.join(folder, name) if name else folder
        if interest is None:
            return False
        if not name:
            self._is_misplaced |= bool(mask & _SELF & ~flags.ONLYDIR)
            if mask & flags.ATTRIB and interest.is_tree:
                self.changed[path] = None
            return bool(mask & flags.ATTRIB)
        came_or_went = bool(mask & _ARRIVALS)
        matters = interest.is_tree or name in interest.names
        if matters and mask & flags.ISDIR and mask & (_ARRIVALS | flags.ATTRIB):  # it may be open to us now
            self._is_misplaced = True
        if came_or_went and (name in interest.on_the_way or (name in interest.names and os.path.islink(path))):
            self._is_misplaced = True
        if came_or_went and not matters:
            matters = interest.is_listed or name in interest.on_the_way
        if matters and self._counts(path):
            self.changed[path] = None
            if not mask & flags.ISDIR:
                self._note_writing(path, mask)
        return matters

    def _note_writing(self, path: str, mask: int) -> None:
        """Note whether somebody is still writing a file."""
        if mask & (flags.CLOSE_WRITE | flags.DELETE | flags.MOVED_FROM | flags.MOVED_TO):
            self._open.pop(path, None)
        elif mask & flags.MODIFY or (mask & flags.CREATE and _is_empty(path)):
            self._open[path] = None

    def unfinished(self) -> dict[str, str]:
        """Return the files that somebody is still writing, each with who that is; git's lock is one, while it works."""
        self._open.update((lock, None) for lock in self._locks if os.path.exists(lock))
        if self._open:
            found = writers(self._open)
            self._open = dict.fromkeys(found)
            return found
        return {}


def way(path: str) -> Iterator[tuple[str, str]]:
    """Yield (folder, name) of all that leads to an absolute path, as far as it is there; links are followed."""
    at, left, links = "/", [part for part in path.split("/") if part], 0
    while left:
        name = left.pop(0)
        if name in ("", ".", ".."):
            at = os.path.dirname(at) if name == ".." else at
            continue
        yield at, name
        there = os.path.join(at, name)
        to = ""
        with suppress(OSError):  # it is no link, or has just gone
            to = os.readlink(there)
        if to and links < _LINKS:
            links += 1
            at = "/" if to.startswith("/") else at
            left[:0] = to.split("/")
        elif left and not os.path.isdir(there):
            return
        else:
            at = there


def _locks(paths: Collection[str]) -> Iterator[str]:
    """Yield what git has open while it changes files of the repositories that some paths lie in.

    See gitrepository-layout(5).
    """
    left = {os.path.dirname(path) for path in map(os.path.realpath, paths)}
    seen: set[str] = set()
    while left:
        folder = left.pop()
        if folder in seen:
            continue
        seen.add(folder)
        place = os.path.join(folder, ".git")
        with suppress(OSError, UnicodeDecodeError):
            if not stat.S_ISDIR(os.stat(place).st_mode):
                with open(place, encoding="utf-8") as stream:
                    place = os.path.join(folder, stream.readline().removeprefix("gitdir: ").rstrip("\n"))
            yield os.path.join(os.path.normpath(place), "index.lock")
            continue
        left.add(os.path.dirname(folder))


def _folders_below(tree: str) -> Iterator[str]:
    """Yield a folder and all folders in it, however deep; nothing for a file."""
    left = [tree]
    while left:
        folder = left.pop()
        try:
            with os.scandir(folder) as entries:
                left += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:  # it is a file, is gone, or is not to be read, which the build will say
            continue
        yield folder


def _is_empty(path: str) -> bool:
    """Tell whether a file that has just come is one that somebody is about to fill."""
    with suppress(OSError):
        status = os.lstat(path)
        return stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and not status.st_size
    return False


def writers(paths: Collection[str]) -> dict[str, str]:
    """Return those of some files that a process has open for writing, as far as it can be seen, with its name and id.

    See proc(5).
    """
    inodes = {}
    for path in paths:
        with suppress(OSError):
            status = os.stat(path)
            inodes[status.st_dev, status.st_ino] = path
    found: dict[str, str] = {}
    for process in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):
            for number in os.listdir(f"/proc/{process}/fd"):
                written = _written(process, number, inodes)
                if written is not None:
                    with open(f"/proc/{process}/comm", encoding="utf-8", errors="replace") as stream:
                        found[written] = f"{stream.read().rstrip()}, process {process}"
    return found


def _written(process: str, number: str, inodes: dict[tuple[int, int], str]) -> str | None:
    """Return which of some files a process has open for writing by a descriptor."""
    with suppress(OSError):
        status = os.stat(f"/proc/{process}/fd/{number}")
        if path := inodes.get((status.st_dev, status.st_ino)):
            with open(f"/proc/{process}/fdinfo/{number}", encoding="ascii", errors="replace") as stream:
                told = dict(line.split(":", 1) for line in stream if ":" in line)
            return path if int(told["flags"], 8) & os.O_ACCMODE != os.O_RDONLY else None
    return None


def _limit(error: OSError, setting: str, needed: int = 0) -> UsageError:
    """Return the error that tells of one of the kernel's limits."""
    if (limit := host.setting(setting)) is not None:
        larger = max(2 * int(limit), 1 << (2 * needed).bit_length())
        many = f"; {needed} folders are to be watched" if needed else ""
        return UsageError(
            f"the kernel watches no more: {setting} is {limit} for all programs of a user{many}",
            hint=f"sudo sysctl {setting}={larger}",
        )
    return UsageError(f"nothing can be watched: {error.strerror}")
