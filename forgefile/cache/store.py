"""Where outputs lie, by digest, and how they get there and out again.

A job works in a folder of its own under `staging`. Its output is sealed there (times cut, digest taken) and renamed
into place: it appears whole or not at all, and only then is the record written. What is left in `staging` by a kill
is removed by the next run.

Several projects may have one store. What they build is shared, their records are their own (`project_of`). One forge
at a time builds a project, and one at a time what has the same manifest; who removes results is alone in the store.
All locks are the kernel's, and end with who holds them.

What leaves the store does so at once, too: a file by one unlink, a layer by a rename into `staging`. A record whose
output is gone is the same as none.

A file output that was asked for is placed beside the Forgefile as a hard link where nothing cheaper is safe: reflink,
else link, else copy. The status of every object is compared before it is used, so that a file that a user changed is
noticed and never served or used as input. So are those of all paths of a layer, before it is first used in a build.

After a crash of the *machine* outputs may be torn, since nothing waits for the disk. The store notes in which boot it
was written; in another boot every output is digested again before its first use.
"""

import fcntl
import os
import stat
import struct
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import xxhash

from forgefile import userns
from forgefile.cache.digest import layer_summary, seal_layer, stat_key
from forgefile.cache.layout import (
    CACHE,
    CACHEDIR_TAG,
    EMPTY,
    FAILED,
    LAYERS,
    LOCK,
    LOCKS,
    LOGS,
    NAMES,
    OBJECTS,
    RECORDS,
    RUNNING,
    STAGING,
    STOPPED,
)  # fmt: skip
from forgefile.cache.lodging import is_open, used_in
from forgefile.cache.records import CHANGED, Held, Records
from forgefile.cache.seal import (
    ANY_TIME,
    Committed,
    Result,
    failed_folder,
    file_name,
    has_content,
    is_marked,
    mark,
    target_name,
)
from forgefile.cache.snapshot import boot
from forgefile.errors import StoreError, UsageError
from forgefile.files import OwnFolder, copy_file, is_written_by_machine, own_folder, remove_tree, remove_trees

_TAG = (
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# This folder is forge's store: outputs of earlier builds, which can be built again.\n"
)
_FICLONE = 0x40049409
_DISK_MINIMUM = 64 << 20
_PLAIN = (0xEF53, 0x01021994)
"""File systems on which each file has blocks of its own: ext2 to ext4, and tmpfs (statfs(2))."""
_MAKE_ROOM = "make room there; 'forge gc' removes the results of earlier builds"
_WAS_CHANGED = "was changed since it was built"
_USUAL = ("", "../Forgefile.py")
"""Projects as `project_of` names them whose failed targets are kept under their bare names."""
_STRUCT_FLOCK = "hhqqi"
"""fcntl(2): type, whence, start, length, process."""


class Store:
    """A store on disk; `root` is its absolute path."""

    def __init__(self, root: str, records: Records) -> None:
        self.root = root
        self.records = records
        self.compares_layers = False
        """Whether layers are compared, as objects always are; only what uses them has to, see `problem`."""
        self._compared: set[str] = set()
        self._staging: OwnFolder | None = None
        self._running: int | None = None
        """The open file `running`, while a lock is held."""
        self._claims: Counter[str] = Counter()
        self.lock_name = f"{LOCKS}/{_name_of(records.project)}"
        """The project's lock, by its path in the store."""

    @classmethod
    def open(cls, root: str, *, project: str = "", read_only: bool = False) -> "Store":
        """Open a store for a project, made when it is not there.

        Read-only: nothing is made, a missing store is an empty one. Raises `UsageError` when the folder cannot be
        written, or holds what is not forge's.
        """
        _refuse_unreadable(root)
        path = os.path.join(root, RECORDS)
        if read_only:
            there = os.path.exists(path)
            return cls(root, Records(path if there else None, project=project, read_only=there))
        if not os.path.exists(path):
            _make(root)
        elif not (os.access(path, os.W_OK) and os.access(root, os.W_OK)):
            return cls(root, Records(path, project=project, read_only=True))
        with _alone_in(root):
            store = cls(root, Records(path, project=project))
            store.records.enter_boot(boot())
        return store

    # Reading

    def object_path(self, digest: str) -> str:
        """Return where a file output lies."""
        return os.path.join(self.root, OBJECTS, digest)

    def layer_path(self, digest: str) -> str:
        """Return where a layer lies."""
        return os.path.join(self.root, LAYERS, digest)

    def log_path(self, fingerprint: str) -> str:
        """Return where the log of a build lies."""
        return os.path.join(self.root, LOGS, fingerprint)

    def key(self) -> bytes:
        """Return the key for digests of secrets; where none may be written, one that is forgotten."""
        from forgefile.cache import keyed  # noqa: PLC0415  only secrets need it

        if self.records.read_only or not os.path.exists(os.path.join(self.root, RECORDS)):
            return keyed.key_of(self.root) or os.urandom(keyed.KEY_BYTES)
        return keyed.make_key(self.root)

    def problem(self, result: Result) -> str | None:
        """Return why a result cannot be used, or None: it lies in the store and is as it was built.

        Only what has another status than the noted one is read again; what is damaged leaves the store. A layer is
        compared only when `compares_layers` says so, and then once: thousands of paths are worth it only before use.
        """
        if result.kind == "tree":
            return self._layers_problem(result.layers)
        path = self.object_path(result.digest)
        try:
            key = stat_key(os.lstat(path))
        except FileNotFoundError:
            return "is missing"
        noted = self.records.object_key(result.digest)
        if key == noted:
            return None
        if has_content(path, result.digest):
            if not self.records.read_only:
                # else it was linked, perhaps just now by another forge
                if noted and (key[0], key[2]) != (noted[0], noted[2]):
                    os.chmod(path, stat.S_IMODE(noted[0]))
                    os.utime(path, ns=(noted[2], noted[2]))
                self.records.keep_object_key(result.digest, stat_key(os.lstat(path)))
            return None
        if not self.records.read_only:
            _remove([path])
            self.records.keep_object_key(result.digest, None)
        return _WAS_CHANGED

    def _layers_problem(self, layers: Iterable[str]) -> str | None:
        doubted: dict[str, int | None] = {}
        for layer in layers:
            noted = self.records.layer_summary(layer)
            if not os.path.isdir(self.layer_path(layer)):
                return _WAS_CHANGED if noted == CHANGED else "is missing"
            if self._is_doubted(layer, noted):
                doubted[layer] = noted
        if not doubted:
            return None
        found = userns.ask(lambda: [_look_at(self.layer_path(layer), layer, noted) for layer, noted in doubted.items()])
        problem = None
        for (layer, noted), (summary, is_whole) in zip(doubted.items(), found, strict=True):
            if not is_whole:
                problem = "is damaged" if noted is None else _WAS_CHANGED
                self._drop_layer(layer, None if noted is None else CHANGED)
                continue
            self._compared.add(layer)
            if summary != noted:
                self.records.keep_layer(layer, summary)
        return problem

    def _is_doubted(self, layer: str, noted: int | None) -> bool:
        """Tell whether a layer has to be compared with what is noted of it, its digest if nothing is."""
        if layer in self._compared:
            return False
        return self.compares_layers or (noted in (None, CHANGED) and not self.records.read_only)

    def _drop_layer(self, layer: str, noted: int | None) -> None:
        """Remove a damaged layer from the store. First it is noted why: a kill may leave half of it."""
        if self.records.read_only:
            return
        if noted is not None:
            self.records.keep_layer(layer, noted)
        self.remove([f"{LAYERS}/{layer}"])

    def keep(self, made: Committed) -> None:
        """Note the status of an output that has just come into the store."""
        if made.key is not None:
            self.records.keep_object_key(made.result.digest, made.key)
        else:
            self.records.keep_layer(made.result.layers[-1], made.summary)
            self._compared.add(made.result.layers[-1])

    def is_placed(self, result: Result, path: str) -> bool:
        """Tell whether a result lies at its place in the project, unchanged."""
        placed = self.records.placed(path)
        with suppress(FileNotFoundError, NotADirectoryError):
            return placed is not None and placed == (result.digest, stat_key(os.lstat(path)))
        return False

    def is_as_placed(self, path: str) -> bool:
        """Tell whether what lies at a path of the project is what forge put there."""
        placed = self.records.placed(path)
        with suppress(FileNotFoundError):
            return placed is not None and placed[1] == stat_key(os.lstat(path))
        return False

    # Writing

    def discard(self, targets: Collection[str]) -> int:
        """Forget all results of targets and remove what then belongs to no record; return how many were forgotten.

        Call alone in the store.
        """
        forgotten = self.records.forget(targets)
        used = {name for held in self.records.held() for name in outputs(held)}
        used |= {f"{LOGS}/{fingerprint}" for *_, fingerprint in self.records.logs()}
        used.update(self.shown())
        self.remove(name for name in self.names() if name not in used)
        return forgotten

    def names(self) -> list[str]:
        """Return the outputs and logs that lie in the store, by their paths in it."""
        return [f"{each}/{name}" for each in (OBJECTS, LAYERS, LOGS) for name in os.listdir(f"{self.root}/{each}")]

    def remove(self, names: Iterable[str]) -> None:
        """Remove files and layers, by their paths in the store, each at once.

        Call alone in the store, but for what is damaged: that may be replaced meanwhile, and then nobody uses it.
        """
        doomed = list(names)

        def away() -> None:
            for name in doomed:
                path = os.path.join(self.root, name)
                if name.startswith(f"{LAYERS}/"):
                    aside = os.path.join(self.root, STAGING, f"{os.path.basename(name)}-{os.getpid()}")
                    with suppress(FileNotFoundError):  # another forge found that it is damaged, too
                        os.rename(path, aside)
                    path = aside
                remove_tree(path)

        if doomed:
            userns.call(away)

    def discard_failed(self, targets: Collection[str] | None, but: Collection[str] = ()) -> None:
        """Remove what failed targets of the project (None: all, `but` for some) had made. Call with the lock held."""
        chosen = self._failed(self.records.project) if targets is None else set(map(self.failed_name, targets))
        self._remove_failed(chosen.difference(map(self.failed_name, but)))

    def failed(self) -> list[str]:
        """Return the targets of which it is known at which step they failed, the latest first."""
        ages = {}
        for name in self._failed(self.records.project):
            with suppress(FileNotFoundError):
                ages[name] = os.stat(os.path.join(self.root, STOPPED, name)).st_mtime_ns
        return [target_name(name.partition("%%")[0]) for name in sorted(ages, key=lambda name: -ages[name])]

    def failed_name(self, target: str) -> str:
        """Return what a failed target goes by in `failed` and `stopped`."""
        return file_name(target) + _mark_of(self.records.project)

    def abandon(self, projects: Iterable[str]) -> None:
        """Remove what failed targets of projects had made whose folders are gone. Call alone in the store."""
        self._remove_failed(name for project in projects for name in self._failed(project))

    def _failed(self, project: str) -> set[str]:
        """Return what the failed targets of a project go by of which something is kept."""
        folders = (os.path.join(self.root, each) for each in (FAILED, STOPPED))
        names = {name for folder in folders if os.path.isdir(folder) for name in os.listdir(folder)}
        mark = _mark_of(project)
        return {name for name in names if "".join(name.partition("%%")[1:]) == mark}

    def _remove_failed(self, names: Iterable[str]) -> None:
        paths = [os.path.join(self.root, folder, name) for name in sorted(names) for folder in (FAILED, STOPPED)]
        _remove(list(filter(os.path.lexists, paths)))

    def keep_aside(self, path: str, target: str) -> str:
        """Move an output that another build of a target made to where a failed one's is kept; return where that is.

        Call with the lock held.
        """
        to = failed_folder(self.root, self.failed_name(target))

        def move() -> None:
            os.makedirs(to, 0o700)
            os.rename(path, f"{to}/out")

        self.discard_failed((target,))
        userns.call(move)
        return f"{to}/out"

    def stage(self, number: int) -> str:
        """Return the folder in which a worker's jobs work one after another, on the store's file system."""
        if self._staging is None:
            self._staging = own_folder(os.path.join(self.root, STAGING))
        folder = f"{self._staging.path}/{number}"
        with suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        return folder

    def shown(self) -> set[str]:
        """Return the outputs that open shells show, by their paths in the store."""
        found = set[str]()
        for folder in filter(is_open, self._staged()):
            found.update(used_in(folder))
        return found

    def _staged(self) -> list[str]:
        folder = os.path.join(self.root, STAGING)
        return [os.path.join(folder, name) for name in (os.listdir(folder) if os.path.isdir(folder) else ())]

    def refuse_place(self, path: str) -> None:
        """Raise `UsageError` when what lies at a path of the project is not forge's, or a machine writes into it."""
        if os.path.isdir(path) and not os.path.islink(path):
            raise UsageError(f"{path} is a folder; the target of that name cannot be placed there")
        folder = os.path.dirname(path)
        while not os.path.lexists(folder):
            folder = os.path.dirname(folder)
        if not os.path.isdir(folder):
            raise UsageError(f"{folder} is no folder; the target below it cannot be placed there")
        if os.path.lexists(path) and self.records.placed(path) is None and not is_marked(path):
            raise UsageError(
                f"{path} is there, but forge did not put it there",
                hint="move it away, or remove it, and run forge again",
            )
        if os.path.isfile(path) and is_written_by_machine(path):
            raise UsageError(f"a virtual machine runs that writes into {path}", hint="end it, and run forge again")

    def place(self, result: Result, path: str) -> None:
        """Put a file output at a path of the project, in place of what was there.

        Raises `UsageError` when a folder is in the way or the place cannot be written.
        """
        arriving = f"{path}.forge-arriving"
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            self.refuse_place(path)
            with suppress(FileNotFoundError):
                os.unlink(arriving)
            _link_or_copy(self.object_path(result.digest), arriving)
            os.replace(arriving, path)
        except OSError as error:
            with suppress(OSError):
                os.unlink(arriving)
            raise UsageError(f"{path} cannot be written: {error.strerror}") from error
        self.records.keep_placed(path, result.digest, stat_key(os.lstat(path)))
        self.records.keep_object_key(result.digest, stat_key(os.lstat(self.object_path(result.digest))))

    def sweep(self) -> None:
        """Remove what killed runs left in staging, and what this one has there.

        That needs no lock of the store's: what a living forge has in staging is locked itself.
        """
        with ExitStack() as held:
            mine = [self._staging.path] if self._staging else []
            _remove([*mine, *self._left(held)])
        if self._staging:
            os.close(self._staging.descriptor)
            self._staging = None

    def _left(self, held: ExitStack) -> list[str]:
        """Return what lies in staging and is no living forge's; until `held` is closed no other forge has it either."""
        folder, left = os.path.join(self.root, STAGING), []
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            if self._staging and path == self._staging.path:
                continue
            with suppress(BlockingIOError):
                with suppress(NotADirectoryError, FileNotFoundError, PermissionError):  # of no forge that lives
                    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                    held.callback(os.close, descriptor)
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.append(path)
        return left

    def refuse_full_disk(self) -> None:
        """Raise `UsageError` when the disk that holds the store has no room to work."""
        free = self._room_bytes()
        if free < _DISK_MINIMUM:
            raise UsageError(
                f"the disk is full: {free >> 20} MiB are free at {self.root}, forge needs {_DISK_MINIMUM >> 20}",
                hint=_MAKE_ROOM,
            )

    def refuse_small_disk(self, needed: int) -> None:
        """Raise `UsageError` when the disk that holds the store has no room for that many bytes.

        Where files may share blocks or be compressed, what they took before does not tell what they take. What killed
        runs and failed targets left makes room when there are others in its place.
        """
        free = self._room_bytes()
        if needed <= free:
            return
        from forgefile import linux  # noqa: PLC0415  hardly ever
        from forgefile.cache.collect import total_bytes  # noqa: PLC0415

        failed = [failed_folder(self.root, name) for name in self._failed(self.records.project)]
        with ExitStack() as held:
            free += sum(map(total_bytes, (*self._left(held), *failed)))
        if needed > free and linux.file_system(self.root) in _PLAIN:
            raise UsageError(
                f"the disk cannot hold this: {needed} bytes are needed at {self.root}, {free} are free",
                hint=_MAKE_ROOM,
            )

    def free_bytes(self) -> int:
        """Return how much is free on the disk that holds the store, or will, as df(1) says: without root's reserve."""
        status = self._disk()
        return status.f_bavail * status.f_frsize

    def _room_bytes(self) -> int:
        """Return how much this user can write there at most."""
        status = self._disk()
        return (status.f_bavail if os.geteuid() else status.f_bfree) * status.f_frsize

    def _disk(self) -> os.statvfs_result:
        folder = self.root
        while not os.path.exists(folder):
            folder = os.path.dirname(folder)
        return os.statvfs(folder)

    def holds(self, result: Result) -> bool:
        """Tell whether the file of a result, or the top layer of a tree, lies in the store, in whatever state."""
        tree = result.kind == "tree"
        return os.path.lexists(self.layer_path(result.layers[-1]) if tree else self.object_path(result.digest))

    # Locks

    @contextmanager
    def lock(self, waits: Callable[[str], None], *, alone: bool = False) -> Iterator[bool]:
        """Hold the project's lock and share the store's; or hold the store's alone, so that results can be removed.

        When another forge is in the way, tell its process id to `waits` and wait.
        Yields whether another forge has changed the store since it was opened, in that wait or before.
        Raises `StoreError` when the store was removed meanwhile.
        """
        with ExitStack() as held:
            store, running = self._open(LOCK, held), self._open(RUNNING, held)
            project = store if alone else self._open(self.lock_name, held)
            waited = not alone and _wait(project, fcntl.LOCK_EX, lambda: _said(project) or "unknown", waits)
            shared = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
            waited |= _wait(store, shared, lambda: _holder(running, 0), waits)
            if not all(os.fstat(descriptor).st_nlink for descriptor in (project, store)):
                raise _removed(self.root)
            fcntl.lockf(running, fcntl.LOCK_SH, 1, 0)  # fcntl(2): until this process closes it, however it was opened
            if alone:
                os.utime(store)
            else:
                with suppress(OSError):  # a full disk: then nobody learns whom to wait for
                    os.truncate(project, 0)
                    os.pwrite(project, f"{os.getpid()} {time.time_ns()}".encode(), 0)
            self._running = running
            held.callback(self._let_go)
            yield waited or self.records.changed_by_others

    def _open(self, name: str, held: ExitStack) -> int:
        """Open a lock of the store, made when it is not there."""
        try:
            if name == self.lock_name:
                with suppress(FileExistsError):
                    os.mkdir(os.path.join(self.root, LOCKS))  # stores of earlier versions have none
            found = os.open(os.path.join(self.root, name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            raise _removed(self.root) from None
        held.callback(os.close, found)
        return found

    def _let_go(self) -> None:
        self._running = None
        self._claims.clear()

    def claim(self, fingerprint: str) -> str | None:
        """Have what has this fingerprint built by no other forge until `unclaim`; or return the one that builds it.

        That is its process id. Call with the project's lock held.
        """
        if self._running is None:
            raise ValueError("the lock is not held")
        at = _place_of(fingerprint)
        while True:
            try:
                fcntl.lockf(self._running, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, at)
            except (BlockingIOError, PermissionError):  # fcntl(2): EAGAIN or EACCES
                if holder := _holder(self._running, at):
                    return holder
                continue
            self._claims[fingerprint] += 1
            return None

    def unclaim(self, fingerprint: str) -> None:
        """Let other forges build what has this fingerprint, when no other target of this one has the same."""
        self._claims[fingerprint] -= 1
        if not self._claims[fingerprint] and self._running is not None:
            fcntl.lockf(self._running, fcntl.LOCK_UN, 1, _place_of(fingerprint))

    def discard_unknown(self) -> None:
        """Remove what no record knows, unless another forge is at work; `gc` does it later then."""
        with suppress(OSError), open(os.path.join(self.root, LOCK), "a", encoding="ascii") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.discard(())

    def builder(self) -> str:
        """Return the process id of the forge that builds the project now, or nothing."""
        with suppress(OSError), open(os.path.join(self.root, self.lock_name), encoding="ascii") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _said(stream.fileno())
        return ""


def _wait(descriptor: int, how: int, holder: Callable[[], str], waits: Callable[[str], None]) -> bool:
    """Take a lock; when somebody has it, tell `waits` who and wait. Return whether that was so."""
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        if found := holder():
            waits(found)
        fcntl.flock(descriptor, how)
        return True
    return False


def _said(descriptor: int) -> str:
    """Return the process id that who holds a project's lock has written there."""
    return os.pread(descriptor, 64, 0).decode().partition(" ")[0]


def _holder(running: int, at: int) -> str:
    """Return the id of a process that has locked a byte of `running`, nothing if none has."""
    asked = struct.pack(_STRUCT_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, at, 1, 0)
    kind, *_, process = struct.unpack(_STRUCT_FLOCK, fcntl.fcntl(running, fcntl.F_GETLK, asked))
    return "" if kind == fcntl.F_UNLCK else str(process or "unknown")


def _place_of(fingerprint: str) -> int:
    """Return which byte of `running` stands for a fingerprint: never the first."""
    return 1 + int(fingerprint[:15], 16)


def _removed(root: str) -> StoreError:
    return StoreError(f"another forge removed the store {root}", hint="run forge again")


def outputs(held: Held) -> list[str]:
    """Return what a record keeps in the store: its output and its log, by their paths in it."""
    objects = [f"{OBJECTS}/{held.result.digest}"] if held.result.kind == "file" else []
    return [*objects, *(f"{LAYERS}/{layer}" for layer in held.result.layers), f"{LOGS}/{held.fingerprint}"]


def project_of(root: str, file: str) -> str:
    """Return what a Forgefile's records go by in the store at `root`: its path.

    Seen from a store that lies in the project's own folder, so that both can be moved or copied together.
    """
    path = os.path.join(os.path.realpath(os.path.dirname(file)), os.path.basename(file))
    store = os.path.realpath(root)
    return os.path.relpath(path, store) if store.startswith(f"{os.path.dirname(path)}/") else path


def _name_of(project: str) -> str:
    """Return a project, as `project_of` names it, as a name of a file."""
    return xxhash.xxh3_64_hexdigest(os.fsencode(project))


def _mark_of(project: str) -> str:
    """Return how a project's names in `failed` end; `file_name` makes none that has two signs of percent together."""
    return "" if project in _USUAL else f"%%{_name_of(project)}"


def folder_of(root: str, project: str) -> str:
    """Return the folder of a project in the store at `root`."""
    return os.path.dirname(os.path.normpath(os.path.join(os.path.realpath(root), project)))


def _refuse_unreadable(root: str) -> None:
    """Raise `UsageError` when what lies where the store is to be cannot be read as one."""
    if not os.path.lexists(root):
        return
    if not os.path.isdir(root):
        raise UsageError(f"the store {root} is no folder", hint="name another with --store")
    if not os.access(root, os.R_OK | os.X_OK):
        owner = os.stat(root).st_uid
        raise UsageError(
            f"the store {root} cannot be read: it belongs to the user with id {owner}",
            hint="run forge as that user, or name another store with --store",
        )


def _make(root: str) -> None:
    """Make the folders of a store, in a folder that is not there, or empty, or was to become a store before."""
    try:
        os.makedirs(root, mode=0o700, exist_ok=True)
        if strange := sorted(set(os.listdir(root)) - NAMES):
            raise UsageError(
                f"{root} holds '{strange[0]}' and is no store of forge's",
                hint="name a folder for the store that is empty, or not there yet",
            )
        for folder in (OBJECTS, LAYERS, STAGING, CACHE, LOGS, LOCKS, EMPTY):
            os.makedirs(os.path.join(root, folder), exist_ok=True)
        with open(os.path.join(root, CACHEDIR_TAG), "w", encoding="ascii") as stream:
            stream.write(_TAG)
    except OSError as error:
        raise UsageError(
            f"the store {root} cannot be made: {error.strerror}",
            hint="make that place writable, or name another with --store",
        ) from error


def _look_at(path: str, digest: str, noted: int | None) -> tuple[int, bool]:
    """Return a layer's summary, and whether that is the noted one or at least the digest is right."""
    with suppress(OSError, StoreError):  # what cannot be read is not whole
        summary = layer_summary(path)
        return summary, summary == noted or seal_layer(path, ANY_TIME).digest == digest
    return 0, False


def _remove(paths: list[str]) -> None:
    """Remove folders whose files may belong to any mapped id."""
    if paths:
        userns.call(lambda: remove_trees(paths))


def remove_store(root: str) -> None:
    """Remove a whole store that nothing uses, and its folder if nothing else is in it."""
    _remove([os.path.join(root, name) for name in os.listdir(root) if name in NAMES])
    with suppress(OSError):
        os.rmdir(root)


@contextmanager
def _alone_in(folder: str) -> Iterator[None]:
    """Keep others out of this block for the same folder: SQLite does not wait while a database becomes one."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _link_or_copy(source: str, to: str) -> None:
    """Make `to` a file with the content of `source`, sharing its blocks where that is safe."""
    with open(source, "rb") as old:
        status = os.fstat(old.fileno())
        with open(to, "xb") as new:
            try:
                fcntl.ioctl(new, _FICLONE, old.fileno())
            except OSError:
                pass
            else:
                os.fchmod(new.fileno(), stat.S_IMODE(status.st_mode))
                os.utime(to, ns=(status.st_mtime_ns, status.st_mtime_ns))
                mark(to)
                return
        os.unlink(to)
        fcntl.flock(old, fcntl.LOCK_EX)  # two projects may place it at once, and only one of them may link it
        if os.fstat(old.fileno()).st_nlink == 1:
            with suppress(OSError):
                os.link(source, to)
                return
    copy_file(source, to)
    mark(to)
