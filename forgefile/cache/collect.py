"""What leaves the store so that it becomes smaller: what no target needs, the least recently used first.

Needed is the latest result of each target of each project whose folder is there: its output, its layers, its log; and
what an open shell shows.
Other results go first. Then, under a limit alone, go the files of shared caches that lie in no layer that stays:
they save work, so they are worth more than results that nobody may want again, and less than what is wanted now.

Nothing is counted beforehand. What is on the disk is measured, in allocated blocks and hard links once, so that no
crash can make the numbers wrong; 100,000 files take less than a second.
"""

import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from forgefile import userns
from forgefile.cache.layout import CACHE, LAYERS, LOGS, OBJECTS
from forgefile.cache.records import Held
from forgefile.cache.store import Store, folder_of, outputs

_BLOCK = 512
"""The unit of st_blocks, stat(2)."""


class Extent(NamedTuple):
    """What an output, a log or a file of a shared cache takes on the disk."""

    own: int
    """Bytes of folders, and of files with one name."""
    linked: Mapping[int, int] = {}
    """Of files with several names: inode → bytes."""
    used: float = 0.0
    """When a file was read last, in seconds since 1970, as far as the file system notes it."""


class Gone(NamedTuple):
    """A result that leaves the store."""

    held: tuple[Held, ...]
    """The targets that had it, the last one to use it at the end."""
    freed: int
    """Bytes; few when other results have its output, too."""


class Choice(NamedTuple):
    """What is to leave the store, and what that comes to. Sizes in bytes."""

    results: tuple[Gone, ...]
    redundant: tuple[Held, ...]
    """Records that are no target's latest, of results that are some other's."""
    names: tuple[str, ...]
    """What is to be removed, by its path in the store."""
    cached: int
    """How many of them are files of shared caches."""
    strays: int
    """How many of them belonged to no result."""
    freed: int
    left: int
    """What the store takes afterwards."""
    needed: int
    """How many results stay because they are some target's latest."""
    spare: int
    """How many others stay."""


# Choosing ------------------------------------------------------------------------------------------------------------


def choose(held: Sequence[Held], needed: Callable[[Held], bool], logs: Collection[str], *,
           extents: Mapping[str, Extent], rest: int, limit: int | None) -> Choice:  # fmt: skip
    """Return what is to leave the store so that it takes at most `limit` bytes; None: all results that can. Pure.

    `held` is in the order of last use; `logs` are needed as well; `extents` is what lies in the store, by the path
    there, and `rest` the bytes that it takes beside that.
    """
    tally = _Tally(extents, rest)
    before = tally.total
    equal: dict[tuple[str, str], tuple[Held, ...]] = {}
    for each in held:
        key = each.fingerprint, each.result.digest
        equal[key] = (*equal.pop(key, ()), each)
    keeping = Counter(name for each, *_ in equal.values() for name in outputs(each))
    keeping.update(logs)
    names = [name for name in extents if not keeping[name] and not _is_cached(name)]
    strays = len(names)
    for name in names:
        tally.take(name)
    loose = [those for those in equal.values() if not any(map(needed, those))]
    redundant = [each for those in equal.values() if any(map(needed, those)) for each in those if not needed(each)]
    results: list[Gone] = []
    for those in loose:
        if limit is not None and tally.total <= limit:
            break
        keeping.subtract(outputs(those[0]))
        gone = [name for name in outputs(those[0]) if name in extents and not keeping[name]]
        results.append(Gone(those, sum(map(tally.take, gone))))
        names += gone
    cached = [] if limit is None else _cached(extents, tally, limit)
    return Choice(
        results=tuple(results), redundant=tuple(redundant), names=(*names, *cached), cached=len(cached), strays=strays,
        freed=before - tally.total, left=tally.total, needed=len(equal) - len(loose), spare=len(loose) - len(results),
    )  # fmt: skip


def _cached(extents: Mapping[str, Extent], tally: "_Tally", limit: int) -> list[str]:
    """Take away files of shared caches, the least recently read first, and return their names."""
    taken = []
    for name in sorted(filter(_is_cached, extents), key=lambda name: extents[name].used):
        if tally.total <= limit:
            break
        if tally.is_alone(name):
            tally.take(name)
            taken.append(name)
    return taken


def _is_cached(name: str) -> bool:
    return name.startswith(f"{CACHE}/")


class _Tally:
    """The size of a store while things are taken away."""

    def __init__(self, extents: Mapping[str, Extent], rest: int) -> None:
        self._extents = extents
        self._names = Counter(inode for extent in extents.values() for inode in extent.linked)
        linked = {inode: size for extent in extents.values() for inode, size in extent.linked.items()}
        self.total = rest + sum(extent.own for extent in extents.values()) + sum(linked.values())

    def take(self, name: str) -> int:
        """Take something away and return how many bytes that frees."""
        extent = self._extents[name]
        self._names.subtract(extent.linked.keys())
        freed = extent.own + sum(size for inode, size in extent.linked.items() if not self._names[inode])
        self.total -= freed
        return freed

    def is_alone(self, name: str) -> bool:
        """Tell whether its files are in nothing else that is left."""
        return all(self._names[inode] == 1 for inode in self._extents[name].linked)


# Measuring and removing ----------------------------------------------------------------------------------------------


def plan(store: Store, limit: int | None, declared: Collection[str] | None) -> Choice:
    """Return what is to leave a store; see `choose`.

    `declared`: the targets that the Forgefile at hand declares, if there is one; its others need nothing any more.
    """
    there = {project: os.path.isdir(folder_of(store.root, project)) for project in _projects(store)}

    def lives(project: str, target: str) -> bool:
        return there[project] and (project != store.records.project or declared is None or target in declared)

    def needed(held: Held) -> bool:
        return held.current and lives(held.project, held.target)

    logs = [f"{LOGS}/{fingerprint}" for project, target, fingerprint in store.records.logs() if lives(project, target)]
    extents, rest = measure(store.root)
    return choose(list(store.records.held()), needed, [*logs, *store.shown()], extents=extents, rest=rest, limit=limit)


def carry_out(store: Store, choice: Choice) -> None:
    """Remove from a store what was chosen. Call with the lock held.

    First what takes room, so that it works on a full disk, on which records can only be read: they are opened anew.
    A record that a kill leaves without its output does no harm.
    """
    store.remove(choice.names)
    abandoned = [project for project in _projects(store) if not os.path.isdir(folder_of(store.root, project))]
    store.abandon(abandoned)
    forgotten = [*choice.redundant, *(held for gone in choice.results for held in gone.held)]
    if not store.records.read_only:
        store.records.drop(forgotten, abandoned)
        return
    records = Store.open(store.root).records
    records.drop(forgotten, abandoned)
    records.close()


def _projects(store: Store) -> set[str]:
    projects = {held.project for held in store.records.held()}
    return projects | {project for project, *_ in store.records.logs()}


def measure(root: str) -> tuple[dict[str, Extent], int]:
    """Return what each output, log and cached file of a store takes, by its path there, and the bytes of the rest."""
    extents = {name: Extent(*found) for name, found in userns.ask(lambda: _measured(root)).items()}
    rest = extents.pop("", Extent(0))
    return extents, rest.own + sum(rest.linked.values())


def total_bytes(path: str) -> int:
    """Return what a file, or a folder with all that it holds, takes on the disk; nothing if it is not there."""
    if os.path.isfile(path) and not os.path.islink(path):
        return os.lstat(path).st_blocks * _BLOCK
    extents, rest = measure(path)
    return rest + sum(extent.own + sum(extent.linked.values()) for extent in extents.values())


def _measured(root: str) -> dict[str, tuple[int, dict[int, int], float]]:
    """Return `measure`'s extents as plain data, the rest under no name. What vanishes meanwhile counts nothing."""
    own: Counter[str] = Counter()
    linked: dict[str, dict[int, int]] = {}
    used: dict[str, float] = {}
    left = [("", "")]
    while left:
        folder, part = left.pop()
        for entry in _entries(f"{root}/{folder}"):
            name = f"{folder}/{entry.name}" if folder else entry.name
            is_folder = entry.is_dir(follow_symlinks=False)
            whole = folder in (OBJECTS, LAYERS, LOGS) or (_is_cached(name) and not is_folder)
            mine = name if whole else part
            if is_folder:
                left.append((name, mine))
            with suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                used.setdefault(mine, status.st_atime)
                if is_folder or status.st_nlink == 1:
                    own[mine] += status.st_blocks * _BLOCK
                else:
                    linked.setdefault(mine, {})[status.st_ino] = status.st_blocks * _BLOCK
    return {name: (own[name], linked.get(name, {}), at) for name, at in used.items()}


def _entries(folder: str) -> list["os.DirEntry[str]"]:
    with suppress(OSError), os.scandir(folder) as entries:  # it vanished, or its path is too long
        return list(entries)
    return []
