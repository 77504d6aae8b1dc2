"""What earlier runs left in SQLite: records of targets, and what was seen of sources, objects and placed files.

Several projects may share the records. Each has its own latest results, logs and durations, by the names of its
targets; a result that one of them built is found by its fingerprint from all.

Opened without a byte written when all is up to date. After a crash of the machine SQLite may lose the last records,
never mix them up: what has no record is built again.
"""

import marshal
import os
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

from forgefile.cache.digest import Seen, StatKey
from forgefile.cache.seal import Result
from forgefile.errors import StoreError
from forgefile.fingerprint import Listing, Manifest, decode

_FORMAT = 8
_SCHEMA = """
CREATE TABLE IF NOT EXISTS record (fingerprint TEXT, project TEXT, target TEXT, manifest TEXT, kind TEXT, digest TEXT,
  layers TEXT, size INTEGER, seconds REAL, reasons BLOB, options BLOB, disk_bytes INTEGER, downloads BLOB,
  number INTEGER, used REAL,
  PRIMARY KEY (fingerprint, project, target)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS record_target ON record (project, target, number);
CREATE INDEX IF NOT EXISTS record_number ON record (number);
CREATE TABLE IF NOT EXISTS current (project TEXT, target TEXT, fingerprint TEXT,
  PRIMARY KEY (project, target)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS log (project TEXT, target TEXT, fingerprint TEXT,
  PRIMARY KEY (project, target)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS seen (path TEXT PRIMARY KEY, digest TEXT, data BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS listing (digest TEXT PRIMARY KEY, data BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS object (digest TEXT PRIMARY KEY, key BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS layer (digest TEXT PRIMARY KEY, summary INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS boot (id TEXT) STRICT;
CREATE TABLE IF NOT EXISTS placed (path TEXT PRIMARY KEY, digest TEXT, key BLOB) WITHOUT ROWID;
"""
_BUILD = """
CREATE TABLE IF NOT EXISTS build (project TEXT, number INTEGER, began REAL, process INTEGER, first INTEGER,
  arguments BLOB, wall_s REAL, status INTEGER, summary BLOB, details BLOB, PRIMARY KEY (project, number))
"""
"""The history of builds: made by the first that is noted, so that stores without one are as good; no other version of
forge drops it. `first` is the number that the first record of the build gets."""
BUILDS_KEPT = 200
"""Of how many builds each project's history tells."""
_CLEANED = ""
"""What stands for a fingerprint in `current` when a target is to be built again, whatever results are known."""
CHANGED = -1
"""Stands for the summary of a layer that leaves the store because somebody changed it."""
_DAY_S = 86_400


class Record(NamedTuple):
    """What one build of a target left."""

    fingerprint: str
    target: str
    text: str
    """The manifest, encoded."""
    result: Result
    seconds: float
    reasons: tuple[str, ...] = ()
    """Why it was built."""
    options: tuple[tuple[str, str], ...] = ()
    """The Forgefile's options then, to tell a change by its name; they decide nothing."""
    disk_bytes: int = 0
    """What the result took on the disk when it was built, of a tree its top layer."""
    downloads: dict[str, int] | None = None
    """What was downloaded, then or before: path below the shared caches → bytes. None: that is not known."""

    @property
    def manifest(self) -> Manifest:
        """The manifest of the build."""
        return decode(self.text)


class Held(NamedTuple):
    """A record as far as it keeps an output in the store."""

    project: str
    target: str
    fingerprint: str
    result: Result
    used: float
    """When the result was built or restored, or up to date in a build; to a day, in seconds since 1970."""
    current: bool
    """It is its target's latest result."""


class BuildNote(NamedTuple):
    """What is kept of one build: of one that ended, how, and of every one that and when it began."""

    number: int
    """From 1 on, in each project's own history."""
    began: float
    """In seconds since 1970."""
    process: int
    arguments: tuple[str, ...]
    """Of the command line."""
    wall_s: float | None
    status: int | None
    """Its exit status. None: it has not ended, and may have been killed."""
    summary: dict[str, Any]
    """What it did, in short and of bounded length."""


class Records:
    """The records of one store, as one project sees them: targets without more are those of `project`.

    `path` None keeps them in memory; `read_only` refuses writes silently. Records of another version of forge count as
    none; what was placed is known all the same. `fresh`: there were none.
    """

    def __init__(self, path: str | None, *, project: str = "", read_only: bool = False) -> None:
        self.project = project
        self.read_only = read_only
        try:
            self._db = sqlite3.connect(_uri(path, read_only), uri=True, isolation_level=None, timeout=60)
            try:
                self._prepare(path)
            except BaseException:
                self.close()
                raise
        except sqlite3.OperationalError as error:
            raise StoreError(f"the store's records ({path}) cannot be read: {error}", hint=_FULL) from error
        except sqlite3.DatabaseError as error:
            raise StoreError(f"the store's records ({path}) cannot be used: {error}", hint=_ANEW) from error

    def _prepare(self, path: str | None) -> None:
        self._db.execute("PRAGMA synchronous=NORMAL")  # no waiting for the disk at each record: see above
        self.fresh = self._version() != _FORMAT
        if self.fresh and self.read_only and path is not None:
            self.close()
            self._db = sqlite3.connect(_uri(None, self.read_only), uri=True, isolation_level=None)
        if self.fresh:
            self._create()
        self._at_opening = self._others()

    def _version(self) -> int:
        return cast("int", self._db.execute("PRAGMA user_version").fetchone()[0])

    def _create(self) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        for table in ("record", "current", "log", "seen", "listing", "object", "layer", "boot"):
            self._db.execute(f"DROP TABLE IF EXISTS {table}")
        self._db.executescript(_SCHEMA)
        self._db.execute(f"PRAGMA user_version={_FORMAT}")

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def _others(self) -> int:
        return cast("int", self._db.execute("PRAGMA data_version").fetchone()[0])

    @property
    def changed_by_others(self) -> bool:
        """Whether another forge has written since these records were opened."""
        return self._others() != self._at_opening

    @contextmanager
    def together(self) -> Iterator[None]:
        """Make the writes in the block one transaction: all or none."""
        if self._db.in_transaction:
            yield
            return
        if not self.read_only:
            self._write("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if not self.read_only:
                self._db.execute("ROLLBACK")
            raise
        if not self.read_only:
            self._write("COMMIT")

    def _write(self, statement: str, values: Iterable[Any] = ()) -> int:
        """Execute a statement and return how many rows it changed."""
        if self.read_only:
            return 0
        try:
            return self._db.execute(statement, tuple(map(_stored, values))).rowcount
        except sqlite3.OperationalError as error:
            raise StoreError(f"the store's records cannot be written: {error}", hint=_FULL) from error
        except sqlite3.DatabaseError as error:
            raise _damaged(error) from error

    def _row(self, statement: str, *values: str | int) -> Any:
        try:
            return self._db.execute(statement, tuple(map(_stored, values))).fetchone()
        except sqlite3.DatabaseError as error:
            raise _damaged(error) from error

    def _rows(self, statement: str, *values: str | int) -> list[Any]:
        try:
            return self._db.execute(statement, tuple(map(_stored, values))).fetchall()
        except sqlite3.DatabaseError as error:
            raise _damaged(error) from error

    # Records of targets

    def find(self, fingerprint: str, target: str) -> Record | None:
        """Return a record of a fingerprint: that of a target, or else the latest of all targets of all projects."""
        return self._record(self._row(_FIND, fingerprint, self.project, target))

    def current(self, target: str) -> Record | None:
        """Return the record of the target's latest result, be it built or restored."""
        return self._record(self._row(_CURRENT, self.project, target))

    def previous(self, target: str, fingerprint: str) -> Record | None:
        """Return the record of the result that a target had before the one of a fingerprint, if it is still there."""
        return self._record(self._row(_PREVIOUS, self.project, target, fingerprint))

    @staticmethod
    def _record(row: Any) -> Record | None:
        if row is None:
            return None
        fingerprint, target, text, kind, digest, layers, size, seconds, *packed, disk_bytes, downloads = row
        result = Result(kind, digest, tuple(layers.split()), size)
        why, options, loaded = map(marshal.loads, (*packed, downloads))
        return Record(fingerprint, target, _read(text), result, seconds, why, options, disk_bytes, loaded)

    def resumed(self) -> set[str]:
        """Return the targets whose latest result was not built whole, see `fingerprint.resumed`."""
        rows = self._db.execute("SELECT target FROM current WHERE project=? AND fingerprint LIKE '%-resumed'",
                                (_stored(self.project),))  # fmt: skip
        return {_read(target) for (target,) in rows}

    def is_earlier(self, target: str) -> bool:
        """Tell whether the target's latest result was restored: it has been built to another one since."""
        return self._row(_LATER, self.project, target) is not None

    def seconds(self, target: str) -> float | None:
        """Return how long the target took when it ran last."""
        row = self._row(
            "SELECT seconds FROM record WHERE project=? AND target=? ORDER BY number DESC LIMIT 1", self.project, target
        )
        return None if row is None else float(row[0])

    def remember(self, record: Record) -> None:
        """Keep a record and make it the current one of its target."""
        result = record.result
        self._write(
            "INSERT OR REPLACE INTO record VALUES "
            "(?,?,?,?,?,?,?,?,?,?,?,?,?,(SELECT 1 + COALESCE(MAX(number), 0) FROM record),?)",
            (record.fingerprint, self.project, record.target, record.text, result.kind, result.digest,
             " ".join(result.layers), result.size, record.seconds, marshal.dumps(record.reasons),
             marshal.dumps(record.options), record.disk_bytes, marshal.dumps(record.downloads), time.time()),
        )  # fmt: skip
        self._write(_MAKE_CURRENT, (self.project, record.target, record.fingerprint))

    def make_current(self, target: str, fingerprint: str) -> None:
        """Note that the target's latest result is that of a fingerprint.

        What was built for another target becomes this one's too: the other may be cleaned.
        """
        with self.together():
            self._write(_ADOPT, (fingerprint, self.project, target, time.time()))
            self._write(_MAKE_CURRENT, (self.project, target, fingerprint))

    def use(self, targets: Collection[str]) -> None:
        """Note that the latest results of targets are used now. What was noted less than a day ago is left alone."""
        now = time.time()
        known: tuple[Any, ...] = (_stored(self.project), now - _DAY_S)
        if len(targets) < _FEW:
            rows = [row for name in targets for row in self._db.execute(_UNUSED_ONE, (*known, _stored(name)))]
        else:
            rows = self._db.execute(_UNUSED, known).fetchall()
        for name, fingerprint in rows:
            if _read(name) in targets:
                self._write(
                    "UPDATE record SET used=? WHERE fingerprint=? AND project=? AND target=?",
                    (now, fingerprint, self.project, name),
                )

    def keep_log(self, target: str, fingerprint: str) -> None:
        """Note that the latest run of a target, however it ended, was that of a fingerprint."""
        self._write("INSERT OR REPLACE INTO log VALUES (?,?,?)", (self.project, target, fingerprint))

    def log(self, target: str) -> str | None:
        """Return the fingerprint of the latest run of a target."""
        row = self._row("SELECT fingerprint FROM log WHERE project=? AND target=?", self.project, target)
        return None if row is None else str(row[0])

    def targets(self) -> set[str]:
        """Return the targets of which there is anything, whether the Forgefile declares them or not."""
        rows = self._db.execute(
            "SELECT target FROM record WHERE project=?1 UNION SELECT target FROM log WHERE project=?1",
            (_stored(self.project),),
        )
        return {_read(target) for (target,) in rows}

    def forget(self, targets: Iterable[str]) -> int:
        """Drop all records of targets; return how many. Their next build runs, even if an equal result is known."""
        dropped = 0
        with self.together():
            for target in targets:
                key = (self.project, target)
                dropped += self._write("DELETE FROM record WHERE project=? AND target=?", key)
                self._write("DELETE FROM log WHERE project=? AND target=?", key)
                self._write(_MAKE_CURRENT, (*key, _CLEANED))
        return dropped

    # The history of builds

    def begin_build(self, began: float, arguments: tuple[str, ...]) -> int:
        """Note that a build begins, by this process; return its number. What is too old leaves the history."""
        with self.together():
            self._write(_BUILD)
            self._write(_BEGIN, (self.project, began, os.getpid(), marshal.dumps(arguments)))
            number = int(self._row(_LAST_BUILD, self.project)[0])
            self._write("DELETE FROM build WHERE project=? AND number<=?", (self.project, number - BUILDS_KEPT))
        return number

    def end_build(self, number: int, wall_s: float, status: int, summary: dict[str, Any], details: bytes) -> None:
        """Note how a build ended, what it did, and all that a report of it tells."""
        told = (wall_s, status, marshal.dumps(summary), details, self.project, number)
        self._write("UPDATE build SET wall_s=?, status=?, summary=?, details=? WHERE project=? AND number=?", told)

    def builds(self) -> list[BuildNote]:
        """Return the history, the latest build first."""
        if not self._has_builds():
            return []
        found = self._rows(_BUILDS, self.project)
        return [
            BuildNote(number, began, process, marshal.loads(words), wall_s, status, marshal.loads(summary or _NOTHING))  # noqa: S302
            for number, began, process, words, wall_s, status, summary in found
        ]

    def build_details(self, number: int) -> bytes:
        """Return what was kept for a report of a build; nothing of one that did not end."""
        row = self._row("SELECT details FROM build WHERE project=? AND number=?", self.project, number)
        return (row[0] if row else None) or b""

    def built_in(self, number: int) -> list[tuple[str, float, tuple[str, ...], int]]:
        """Return what the records tell of the targets that ran in a build: name, seconds, reasons and size.

        For a build that did not end; later builds may have made the same results again, and taken over the records.
        """
        rows = self._rows(_BUILT_IN, self.project, number)
        return [(_read(target), seconds, marshal.loads(why), size) for target, seconds, why, size in rows]  # noqa: S302

    def _has_builds(self) -> bool:
        return self._row("SELECT 1 FROM sqlite_master WHERE type='table' AND name='build'") is not None

    # Records of all projects

    def held(self) -> Iterator[Held]:
        """Yield what the records of all projects keep in the store, the least recently used first."""
        for project, target, fingerprint, kind, digest, layers, size, used, current in self._db.execute(_HELD):
            result = Result(kind, digest, tuple(layers.split()), size)
            yield Held(_read(project), _read(target), fingerprint, result, used, bool(current))

    def logs(self) -> Iterator[tuple[str, str, str]]:
        """Yield project, target and fingerprint of the latest run of each target."""
        for project, target, fingerprint in self._db.execute("SELECT project, target, fingerprint FROM log"):
            yield _read(project), _read(target), fingerprint

    def drop(self, gone: Iterable[Held], abandoned: Iterable[str]) -> None:
        """Drop records, and what is of use to none that is left; of abandoned projects without records, everything."""
        with self.together():
            for held in gone:
                self._write(
                    "DELETE FROM record WHERE fingerprint=? AND project=? AND target=?",
                    (held.fingerprint, held.project, held.target),
                )
            for project in abandoned:
                if not self._row("SELECT 1 FROM record WHERE project=? LIMIT 1", project):
                    self._write("DELETE FROM current WHERE project=?", (project,))
                    self._write("DELETE FROM log WHERE project=?", (project,))
                    if self._has_builds():
                        self._write("DELETE FROM build WHERE project=?", (project,))
            for statement in _USELESS:
                self._write(statement)
            self._drop_others("layer", "digest", {layer for held in self.held() for layer in held.result.layers})
            manifests = self._db.execute("SELECT manifest FROM record")
            self._drop_others("listing", "digest", {d for (text,) in manifests for _, d in decode(_read(text)).inputs})
            paths = {_read(path) for (path,) in self._db.execute("SELECT path FROM seen")}
            self._drop_others("seen", "path", {path for path in paths if os.path.lexists(path)})

    def _drop_others(self, table: str, column: str, kept: set[str]) -> None:
        """Drop the rows of a table whose value in a column is none of those that are kept."""
        for (value,) in self._db.execute(f"SELECT {column} FROM {table}").fetchall():  # noqa: S608  names of our own
            if _read(value) not in kept:
                self._write(f"DELETE FROM {table} WHERE {column}=?", (value,))  # noqa: S608  likewise

    # What was seen of files

    def seen(self, path: str) -> tuple[str, Seen]:
        """Return the digest of a source when it was scanned last, and what was seen of it."""
        row = self._row("SELECT digest, data FROM seen WHERE path=?", path)
        return ("", {}) if row is None else (row[0], marshal.loads(row[1]))  # noqa: S302  written by us alone

    def keep_seen(self, path: str, digest: str, seen: Seen) -> None:
        """Keep what a scan saw of a source."""
        self._write("INSERT OR REPLACE INTO seen VALUES (?,?,?)", (path, digest, marshal.dumps(seen)))

    def keep_listing(self, digest: str, listing: Listing) -> None:
        """Keep what the source with a digest holds, to tell later what changed in it."""
        if self._row("SELECT 1 FROM listing WHERE digest=?", digest) is None:
            self._write("INSERT OR IGNORE INTO listing VALUES (?,?)", (digest, marshal.dumps(dict(listing))))

    def listing(self, digest: str) -> Listing | None:
        """Return what the source with a digest held."""
        row = self._row("SELECT data FROM listing WHERE digest=?", digest)
        return None if row is None else cast("Listing", marshal.loads(row[0]))  # noqa: S302

    def object_key(self, digest: str) -> StatKey | None:
        """Return the status that an object had when its content was known to be right."""
        row = self._row("SELECT key FROM object WHERE digest=?", digest)
        return None if row is None else cast("StatKey", marshal.loads(row[0]))  # noqa: S302

    def keep_object_key(self, digest: str, key: StatKey | None) -> None:
        """Keep an object's status, or drop it."""
        if key is None:
            self._write("DELETE FROM object WHERE digest=?", (digest,))
        else:
            self._write("INSERT OR REPLACE INTO object VALUES (?,?)", (digest, marshal.dumps(key)))

    def layer_summary(self, digest: str) -> int | None:
        """Return the summary that a layer had when it was known to be as its digest says, or `CHANGED`."""
        row = self._row("SELECT summary FROM layer WHERE digest=?", digest)
        return None if row is None else int(row[0])

    def keep_layer(self, digest: str, summary: int) -> None:
        """Note that a layer with a summary is as its digest says, or, by `CHANGED`, that it is not any more."""
        self._write("INSERT OR REPLACE INTO layer VALUES (?,?)", (digest, summary))

    def enter_boot(self, boot: str) -> None:
        """Note in which boot of the machine the store is written; in another one no output is known to be whole.

        What mode and time an object had stays known, with a time of change that no file has.
        """
        row = self._row("SELECT id FROM boot")
        if row is None or row[0] != boot:
            with self.together():
                for digest, key in self._rows("SELECT digest, key FROM object"):
                    mode, size, mtime_ns, _, inode = marshal.loads(key)  # noqa: S302
                    self.keep_object_key(digest, (mode, size, mtime_ns, -1, inode))
                for statement in ("DELETE FROM layer", "DELETE FROM boot"):
                    self._write(statement)
                self._write("INSERT INTO boot VALUES (?)", (boot,))

    def placed(self, path: str) -> tuple[str, StatKey] | None:
        """Return the digest of what was placed at a path, and the status that it had then."""
        row = self._row("SELECT digest, key FROM placed WHERE path=?", path)
        return None if row is None else (row[0], marshal.loads(row[1]))  # noqa: S302

    def keep_placed(self, path: str, digest: str, key: StatKey | None) -> None:
        """Note what was placed at a path, or that nothing of forge's lies there any more."""
        if key is None:
            self._write("DELETE FROM placed WHERE path=?", (path,))
        else:
            self._write("INSERT OR REPLACE INTO placed VALUES (?,?,?)", (path, digest, marshal.dumps(key)))


_ANEW = "forge clean --all starts a new store"
_FULL = "is the disk full? 'forge gc' makes room"
_COLUMNS = "fingerprint, target, manifest, kind, digest, layers, size, seconds, reasons, options, disk_bytes, downloads"
_FIND = (
    f"SELECT {_COLUMNS} FROM record WHERE fingerprint=?1"  # noqa: S608  only constants are put in
    f" AND NOT EXISTS (SELECT 1 FROM current WHERE project=?2 AND target=?3 AND fingerprint='{_CLEANED}')"
    " ORDER BY project=?2 AND target=?3 DESC, number DESC LIMIT 1"
)
_CURRENT = (
    f"SELECT {_COLUMNS} FROM record WHERE project=?1 AND target=?2"  # noqa: S608  likewise
    " AND fingerprint=(SELECT fingerprint FROM current WHERE project=?1 AND target=?2)"
)
_PREVIOUS = (
    f"SELECT {_COLUMNS} FROM record WHERE project=?1 AND target=?2 AND fingerprint<>?3"  # noqa: S608  likewise
    " ORDER BY used DESC, number DESC LIMIT 1"
)
_LATER = (
    "SELECT 1 FROM record WHERE project=?1 AND target=?2 AND number > (SELECT record.number FROM record"
    " JOIN current USING (project, target, fingerprint) WHERE project=?1 AND target=?2) LIMIT 1"
)
_MAKE_CURRENT = "INSERT OR REPLACE INTO current VALUES (?,?,?)"
_ADOPT = (
    "INSERT OR REPLACE INTO record"
    " SELECT fingerprint, ?2, ?3, manifest, kind, digest, layers, size, seconds, reasons, options, disk_bytes,"
    " downloads, number, ?4"
    " FROM record WHERE fingerprint=?1 ORDER BY project=?2 AND target=?3 DESC, number DESC LIMIT 1"
)
_UNUSED = (
    "SELECT target, fingerprint FROM current JOIN record USING (project, target, fingerprint)"
    " WHERE project=? AND used<?"
)
_UNUSED_ONE = f"{_UNUSED} AND target=?"
_FEW = 100
"""Of so many targets each is asked for alone: there may be far more in the records."""
_LAST_BUILD = "SELECT MAX(number) FROM build WHERE project=?"
_BEGIN = (
    "INSERT INTO build SELECT ?1, (SELECT 1 + COALESCE(MAX(number), 0) FROM build WHERE project=?1), ?2, ?3,"
    " (SELECT 1 + COALESCE(MAX(number), 0) FROM record), ?4, NULL, NULL, NULL, NULL"
)
_BUILDS = (
    "SELECT number, began, process, arguments, wall_s, status, summary FROM build WHERE project=? ORDER BY number DESC"
)
_BUILT_IN = """
SELECT target, seconds, reasons, size FROM record WHERE project=?1
  AND number>=(SELECT first FROM build WHERE project=?1 AND number=?2)
  AND number<COALESCE((SELECT first FROM build WHERE project=?1 AND number>?2 ORDER BY number LIMIT 1), number + 1)
ORDER BY number
"""
_NOTHING = marshal.dumps({})
_HELD = (
    "SELECT project, target, record.fingerprint, kind, digest, layers, size, used, current.fingerprint NOT NULL"
    " FROM record LEFT JOIN current USING (project, target, fingerprint) ORDER BY used, number"
)
_USELESS = (
    "DELETE FROM object WHERE digest NOT IN (SELECT digest FROM record)",
    """DELETE FROM current WHERE fingerprint<>''
       AND (fingerprint, project, target) NOT IN (SELECT fingerprint, project, target FROM record)""",
)


def _damaged(error: sqlite3.DatabaseError) -> StoreError:
    return StoreError(f"the store's records are damaged: {error}", hint=_ANEW)


def _stored(value: Any) -> Any:
    """Return a value as SQLite takes it: names of files need not be UTF-8."""
    if not isinstance(value, str):
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        return os.fsencode(value)
    return value


def _read(stored: str | bytes) -> str:
    """Return the text that `_stored` made what SQLite has."""
    return os.fsdecode(stored)


def _uri(path: str | None, read_only: bool) -> str:
    """Return SQLite's name for the file; without a writer at work, reading leaves no trace beside it."""
    if path is None:
        return "file::memory:"
    quoted = "".join(f"%{byte:02X}" for byte in os.fsencode(path))
    if not read_only:
        return f"file:{quoted}"
    at_work = os.path.exists(f"{path}-wal") and os.path.getsize(f"{path}-wal")
    return f"file:{quoted}?mode=ro" + ("" if at_work else "&immutable=1")
