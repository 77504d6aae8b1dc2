"""What a run knew that left nothing to do, so that the next one finds out in one pass what is new.

A snapshot belongs to one command line. Its *facts* are flat: the paths that decided, their statuses as 64 bits each,
and the hash of each path's content. While all are as they were, nothing has to be evaluated, planned or opened. When
only sources or tools differ, the *graph*, a second file, has the steps of every target, and only what the difference
reaches is planned. Everything else (another Forgefile, a module of it, a variable that it asked for, an output that
was touched, a tool that is elsewhere, any run that wrote to the store) makes the snapshot void.

Imports next to nothing: to read it is all that forge does when nothing changed.
"""

from __future__ import annotations

import fcntl
import marshal
import os
import sys
from itertools import groupby, pairwise

from forgefile.cache.layout import LOCK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any, NamedTuple
else:
    from forgefile.named import NamedTuple

_FORMAT = 5
_KEPT = 16
"""How many command lines a store remembers."""
_SHARE = 20_000
"""So many paths are worth a process."""
_MANY = 8
"""So many names in a folder are worth going there: the kernel then finds each with one step."""
MISSING = -1
"""Stands for the status of a path that is not there."""
UNSURE = 0
"""Stands for a status that says nothing: the path changed so lately that its next change may not show."""

Key = tuple["Any", ...]


def key_of(file: str, definitions: Iterable[str], words: Iterable[str], folder: str | None = None) -> Key:
    """Return what tells one command line from all others: the Forgefile's path, `-D`, the targets, where forge is.

    `folder` is the folder to which -C leads, where this process did not follow it.
    """
    environ = (os.environ.get("SOURCE_DATE_EPOCH"), os.environ.get("PATH"), folder or os.getcwd())
    return os.path.abspath(file), tuple(definitions), tuple(words), environ, os.geteuid()


def status_of(path: str) -> int:
    """Return the status of a path in 64 bits: while they are the same, so is what is there."""
    try:
        s = os.lstat(path)
    except OSError:
        return MISSING
    return hash((s.st_mode, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino))


def names_in(folder: str) -> tuple[str, ...] | None:
    """Return the sorted names in a folder, of folders and links to folders with a slash; None: it cannot be listed."""
    try:
        return tuple(sorted(f"{name}/" if os.path.isdir(f"{folder}/{name}") else name for name in os.listdir(folder)))
    except OSError:
        return None


def runs_of(paths: Iterable[str]) -> list[tuple[str, str]]:
    """Return absolute paths with those that follow each other in one folder together: (folder, names between NULs)."""
    split = ((folder, name) for folder, _, name in (path.rpartition("/") for path in paths))
    return [(folder, "\0".join(name for _, name in run)) for folder, run in groupby(split, key=lambda each: each[0])]


class Facts(NamedTuple):
    """What has to be the same. Indices of `paths` count from 0; those below `fixed` belong to no artifact."""

    token: str
    """Which graph this belongs to."""
    lock: str
    """The project's, by its path in the store."""
    generation: str
    """Of the project and the store, see `generation`."""
    boot: str
    line: str
    """What is said when nothing changed."""
    variables: tuple[tuple[str, str | None], ...]
    secrets: tuple[tuple[str, str | None], ...]
    """(variable that is a secret, the digest of its value: see `keyed`)"""
    resolved: tuple[tuple[str, str], ...]
    """(path, where its links led)"""
    tools: tuple[tuple[str, str], ...]
    """(name, where it was found)"""
    folders: tuple[tuple[str, tuple[str, ...] | None], ...]
    """(folder that was listed, the names in it)"""
    fixed: int
    runs: list[tuple[str, str]]
    """The paths, see `runs_of`."""
    statuses: bytes
    """Signed 64 bits for each path."""
    hashes: bytes
    """128 bits for each path from `fixed` on, big-endian: `entry_hash`."""
    spans: list[int]
    """For each artifact the index of its first path, then the number of paths."""

    @property
    def paths(self) -> list[str]:
        """All paths, made anew at each call."""
        return [f"{folder}/{name}" for folder, names in self.runs for name in names.split("\0")]


class Delta(NamedTuple):
    """What differs in an artifact."""

    hashes: int
    """By how much the sum of its paths' hashes has grown."""
    entries: dict[str, tuple[str, int, str]]
    """Path below it → entry of its listing (`digest.Entry`)."""


class Snapshot:
    """A snapshot that was found, and what became of it."""

    def __init__(self, path: str, key: Key, facts: Facts) -> None:
        self.path = path
        self.facts = facts
        self._key = key
        self.changed: frozenset[int] = frozenset()
        """The artifacts that are not as they were."""
        self.deltas: dict[int, Delta] = {}
        """Of those in which nothing was added or removed, what differs; `facts` has it as it is now."""

    def look(self, generation: str, boot: str) -> bool:
        """Compare with what is there now and note in `changed` which artifacts differ. False: the snapshot is void."""
        facts = self.facts
        if (facts.generation, facts.boot) != (generation, boot):
            return False
        statuses = memoryview(bytearray(facts.statuses)).cast("q")
        differ = _differing(facts.runs, statuses)
        store = os.path.dirname(os.path.dirname(self.path))
        if min(differ, default=facts.fixed) < facts.fixed or not _is_where_it_was(facts, store):
            return False
        return not differ or self._look_closer(differ, statuses)

    def _look_closer(self, differ: Sequence[int], statuses: memoryview[int]) -> bool:
        """Read what has another status; keep the new statuses when all of it is as it was. False: a source is gone."""
        from bisect import bisect_right  # noqa: PLC0415  only a change needs these
        from contextlib import suppress  # noqa: PLC0415
        from time import time_ns  # noqa: PLC0415

        from forgefile.cache.digest import entry_hash, look  # noqa: PLC0415

        facts, now, hashes = self.facts, time_ns(), bytearray(self.facts.hashes)
        paths = facts.paths
        other: set[int] = set()
        for index in differ:
            artifact = bisect_right(facts.spans, index) - 1
            if artifact in other:
                continue
            path, root = paths[index], paths[facts.spans[artifact]]
            try:
                key, entry = look(path, None, now)
                if not self._knows_all_in(path, entry[0], artifact):
                    other.add(artifact)
                    continue
            except OSError:
                if path == root:
                    return False
                other.add(artifact)
                continue
            name, at = path[len(root) + 1 :], slice((index - facts.fixed) * 16, (index - facts.fixed + 1) * 16)
            statuses[index] = UNSURE if key is None else hash(key)
            digest = entry_hash(name, entry)
            if digest != (before := int.from_bytes(hashes[at])):
                delta = self.deltas.get(artifact, Delta(0, {}))
                delta.entries[name] = entry
                self.deltas[artifact] = delta._replace(hashes=delta.hashes + digest - before)
                hashes[at] = digest.to_bytes(16)
        self.changed = frozenset(other.union(self.deltas))
        for artifact in other:
            self.deltas.pop(artifact, None)
        self.facts = facts._replace(statuses=statuses.tobytes(), hashes=bytes(hashes))
        if not self.changed:
            with suppress(OSError):
                _write(f"{self.path}.facts", tuple(self.facts), self._key)
        return True

    def is_still(self, artifact: int) -> bool:
        """Tell whether an artifact is as `facts` say by now."""
        from time import time_ns  # noqa: PLC0415  only a build needs these

        from forgefile.cache.digest import entry_hash, look  # noqa: PLC0415

        facts = self.facts
        first, end = facts.spans[artifact : artifact + 2]
        paths, statuses = facts.paths[first:end], memoryview(facts.statuses).cast("q")[first:end]
        for number in _differing(runs_of(paths), statuses):
            path, at = paths[number], (first + number - facts.fixed) * 16
            try:
                entry = look(path, None, time_ns())[1]
                if not self._knows_all_in(path, entry[0], artifact):
                    return False
            except OSError:
                return False
            if entry_hash(path[len(paths[0]) + 1 :], entry).to_bytes(16) != facts.hashes[at : at + 16]:
                return False
        return True

    def _knows_all_in(self, path: str, kind: str, artifact: int) -> bool:
        """Tell whether a path of an artifact, if a folder, has no name that is new. One that is gone differs itself.

        A link may lead to a folder that it has taken the place of, so that what lay below it is still found.
        """
        if kind not in "dl":
            return True
        first, end = self.facts.spans[artifact : artifact + 2]
        known = set(self.facts.paths[first:end])
        if kind == "l":
            return not any(each.startswith(f"{path}/") for each in known)
        return all(f"{path}/{name}" in known for name in os.listdir(path))


def _have_digests(store: str, secrets: Iterable[tuple[str, str | None]]) -> bool:
    """Tell whether variables that are secrets are as they were."""
    from forgefile.cache.keyed import digest, key_of  # noqa: PLC0415  few have any

    key = key_of(store)
    values = ((os.environb.get(os.fsencode(name)), known) for name, known in secrets)
    return key is not None and all((None if v is None else digest(key, v)) == known for v, known in values)


def _is_where_it_was(facts: Facts, store: str) -> bool:
    """Tell whether variables, links, listings of folders and places of tools are as they were."""
    from forgefile.host import find  # noqa: PLC0415  where snapshots are kept, nothing of the host is needed

    return (
        all(os.environ.get(name) == value for name, value in facts.variables)
        and (not facts.secrets or _have_digests(store, facts.secrets))
        and all(os.path.realpath(path) == real for path, real in facts.resolved)
        and all(names_in(folder) == names for folder, names in facts.folders)
        and all(find(name) == path for name, path in facts.tools)
    )


def _differing(runs: Sequence[tuple[str, str]], statuses: memoryview[int]) -> list[int]:
    """Return the indices of the paths whose status is another one; of many paths each core looks at a share."""
    shares = min(len(os.sched_getaffinity(0)), len(statuses) // _SHARE) or 1
    ends = [len(statuses) * number // shares for number in range(shares + 1)]
    children = [_fork_differing(runs, statuses, first, end) for first, end in pairwise(ends[1:])]
    differ = _differing_between(runs, statuses, 0, ends[1])
    for child, pipe in children:
        with open(pipe, "rb") as stream:
            found = stream.read()
        os.waitpid(child, 0)
        differ += marshal.loads(found) if found else [0]  # noqa: S302  from our own child, unless it was killed
    return differ


def _fork_differing(
    runs: Sequence[tuple[str, str]], statuses: memoryview[int], first: int, end: int
) -> tuple[int, int]:
    """Have a process of its own look at a share; return its id, and the pipe that it answers through."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        found = None
        try:
            found = marshal.dumps(_differing_between(runs, statuses, first, end))
            with open(write, "wb") as stream:
                stream.write(found)
        finally:
            os._exit(found is None)
    os.close(write)
    return child, read


def _differing_between(runs: Sequence[tuple[str, str]], statuses: memoryview[int], first: int, end: int) -> list[int]:
    differ, lstat = [], os.lstat
    here = os.open(".", os.O_PATH)
    try:
        for index, names in _shown(runs, first, end):
            for number, name in enumerate(names, index):
                try:
                    s = lstat(name)
                except OSError:
                    if statuses[number] != MISSING:
                        differ.append(number)
                    continue
                if hash((s.st_mode, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino)) != statuses[number]:
                    differ.append(number)
    finally:
        os.fchdir(here)
        os.close(here)
    return differ


def _shown(runs: Sequence[tuple[str, str]], first: int, end: int) -> Iterator[tuple[int, list[str]]]:
    """Yield, for the paths of some indices, the index of the first of a run, and the run as it can be looked up now.

    The current folder is that of a long run when it is yielded.
    """
    index = 0
    for folder, joined in runs:
        after = index + joined.count("\0") + 1
        if first < after and index < end:
            begin = max(first, index)
            names = joined.split("\0")[begin - index : end - index]
            if len(names) < _MANY or not _went_to(f"{folder}/"):
                names = [f"{folder}/{name}" for name in names]
            yield begin, names
        index = after


def _went_to(folder: str) -> bool:
    try:
        os.chdir(folder)
    except OSError:
        return False
    return True


def generation(store: str, lock: str, *, mine: bool = False) -> str | None:
    """Return a text that is another one after any forge built the project whose lock this is, or removed results.

    None while one may be doing so, or when a full disk kept a builder from writing into the lock who it is and since
    when, as each does. `mine`: this process holds the lock.
    """
    found = []
    try:
        for name in (lock, LOCK):
            descriptor = os.open(f"{store}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                if not mine:
                    fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                said = os.read(descriptor, 64).decode() if name == lock else os.fstat(descriptor).st_mtime_ns
                found.append(str(said))
            finally:
                os.close(descriptor)
    except BlockingIOError:
        return None
    except OSError:
        return ""
    return " ".join(found) if found[0] else None


def boot() -> str:
    """Return what tells this boot of the machine from all others."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
        return stream.read().strip()


# Files ---------------------------------------------------------------------------------------------------------------


def place(folder: str, key: Key) -> str:
    """Return the path, without its ending, of the snapshot of a command line in the folder of snapshots."""
    from binascii import crc32  # noqa: PLC0415  built in

    packed = marshal.dumps((_FORMAT, sys.hexversion, key), 2)  # later forms depend on who else has the same string
    return f"{folder}/{crc32(packed):08x}"


def load(folder: str, key: Key) -> Snapshot | None:
    """Return the snapshot of a command line, not yet compared with anything."""
    path = place(folder, key)
    found = _read(f"{path}.facts", key)
    return None if found is None else Snapshot(path, key, Facts(*found))


def load_graph(snapshot: Snapshot) -> Any:
    """Return what was saved of the graph, or None when it is not there or belongs to other facts."""
    return _read(f"{snapshot.path}.graph", (snapshot.facts.token,))


def load_shell(snapshot: Snapshot) -> Any:
    """Return what was saved of where a shell is, or None when it is not there or belongs to other facts."""
    return _read(f"{snapshot.path}.shell", (snapshot.facts.token,))


def save_shell(snapshot: Snapshot, place: Any) -> None:
    """Keep where a shell is. Raises OSError."""
    _write(f"{snapshot.path}.shell", place, (snapshot.facts.token,))


def save(folder: str, key: Key, facts: Facts, graph: Any) -> None:
    """Keep a snapshot; those of command lines that were not used for the longest go. An unwritable disk is no error."""
    from contextlib import suppress  # noqa: PLC0415  not where nothing changed

    with suppress(OSError):
        os.makedirs(folder, exist_ok=True)
        path = place(folder, key)
        _write(f"{path}.graph", graph, (facts.token,))
        _write(f"{path}.facts", tuple(facts), key)
        ages = {name: os.stat(f"{folder}/{name}").st_mtime_ns for name in os.listdir(folder)}
        for name in sorted(ages, key=lambda name: -ages[name])[2 * _KEPT :]:
            os.unlink(f"{folder}/{name}")


def _read(path: str, key: Key) -> Any:
    """Return what `_write` wrote for the same key, or None."""
    try:
        with open(path, "rb") as stream:
            found = marshal.loads(stream.read())  # noqa: S302  written by this user's forge alone
        return found[1] if found[0] == (_FORMAT, sys.hexversion, key) else None
    except (OSError, ValueError, EOFError, TypeError, IndexError):
        return None


def _write(path: str, what: Any, key: Key) -> None:
    """Write a value in place of what was there, whole or not at all."""
    from contextlib import suppress  # noqa: PLC0415  not where nothing changed

    arriving = f"{path}.{os.getpid()}"
    try:
        with open(arriving, "wb") as stream:
            stream.write(marshal.dumps(((_FORMAT, sys.hexversion, key), what)))
        os.replace(arriving, path)
    except OSError:
        with suppress(OSError):
            os.unlink(arriving)
        raise
