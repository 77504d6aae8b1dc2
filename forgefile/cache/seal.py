"""How what a job made comes into the store: sealed, which is to say its times cut and its digest taken, and renamed.

Runs in a worker, where each import is memory that every step's fork copies: unaware of the records.
"""

import errno
import os
import stat
from contextlib import suppress
from typing import NamedTuple

import xxhash

from forgefile.cache.digest import StatKey, file_digest, layer_summary, seal_file, seal_layer, stat_key
from forgefile.cache.layout import FAILED, LAYERS, OBJECTS, STOPPED
from forgefile.errors import StoreError
from forgefile.files import remove_tree
from forgefile.model import Output

ANY_TIME = 1 << 33
"""An epoch in seconds that no sealed file is later than."""
_MARK = "user.forge.output"


class Result(NamedTuple):
    """A target's output in the store."""

    kind: Output
    digest: str
    """Of a file its content's (with an `x` when it is executable), of a tree its layers'."""
    layers: tuple[str, ...]
    """A tree's layers, lowest first; empty for a file."""
    size: int
    """Bytes: of a file, or of the content that a tree's top layer adds."""


class Committed(NamedTuple):
    """An output that has just come into the store."""

    result: Result
    key: StatKey | None
    """The status of a file output's object."""
    disk_bytes: int
    """See `Sealed`."""
    summary: int = 0
    """Of a tree's top layer, see `layer_summary`."""


def made_in(staging: str, base: tuple[str, ...] | None) -> str:
    """Return where a job's output lies when its steps have ended; of a tree with a base, what it adds to that."""
    return f"{staging}/run/out" if base is None else f"{staging}/upper"


def commit(root: str, staging: str, output: Output, base: tuple[str, ...] | None, epoch: int) -> Committed:
    """Seal what a job left in its staging folder and move it into the store at `root`. Runs in a worker.

    Raises `StoreError` when the job made nothing that its rule promised.
    """
    if output == "file":
        path = made_in(staging, None)
        sealed = seal_file(path, epoch)
        mark(path)
        to = os.path.join(root, OBJECTS, sealed.digest)
        if _is_whole(to, sealed.digest, os.lstat(path)):  # replaced, it would look changed wherever it is placed
            os.unlink(path)
        else:
            os.replace(path, to)
        return Committed(Result("file", sealed.digest, (), sealed.size), stat_key(os.lstat(to)), sealed.disk_bytes)
    path = made_in(staging, base)
    sealed = seal_layer(path, epoch)
    to = os.path.join(root, LAYERS, sealed.digest)
    try:
        os.rename(path, to)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise StoreError(f"the layer cannot be moved into the store: {error.strerror}") from error
        if seal_layer(to, ANY_TIME).digest != sealed.digest:  # left by a crash of the machine
            os.rename(to, f"{staging}/torn")
            os.rename(path, to)
    layers = (*(base or ()), sealed.digest)
    made = Result("tree", tree_digest(layers), layers, sealed.size)
    return Committed(made, None, sealed.disk_bytes, layer_summary(to))


def keep_failed(root: str, staging: str, name: str, base: tuple[str, ...] | None) -> str | None:
    """Move what a failed job had made out of its staging folder; return where to, or None when there is nothing.

    `name` is what it goes by, here and below: see `Store.failed_name`.

    Runs in a worker, when the job's namespaces, and with them its mounts, have ended.
    """
    to = failed_folder(root, name)
    remove_tree(to)
    os.makedirs(to, 0o700)
    for part, path in half_made(staging, base):
        with suppress(FileNotFoundError):
            os.rename(path, f"{to}/{part}")
    for part in ("tmp", ""):
        with suppress(OSError):  # there is something in it
            os.rmdir(os.path.join(to, part))
    return to if os.path.isdir(to) else None


def half_made(staging: str, base: tuple[str, ...] | None) -> list[tuple[str, str]]:
    """Return what is kept of a failed job: the name there, and where it lies in the staging folder."""
    scratched = [name for name in sorted(os.listdir(staging)) if name.startswith("scratch-")]
    uppers = [(name, f"{staging}/{name}/upper") for name in scratched]
    return [("out", made_in(staging, base)), ("tmp", f"{staging}/run/tmp"), *uppers]


def take_up(root: str, staging: str, name: str, base: tuple[str, ...] | None) -> None:
    """Move what a failed job had made into the staging folder of a job that goes on from there. Runs in a worker."""
    kept = failed_folder(root, name)
    for part in os.listdir(kept) if os.path.isdir(kept) else ():
        if part.startswith("scratch-"):
            os.mkdir(f"{staging}/{part}")
            os.rename(f"{kept}/{part}", f"{staging}/{part}/upper")
        else:
            to = f"{staging}/run/tmp" if part == "tmp" else made_in(staging, base)
            os.makedirs(os.path.dirname(to), exist_ok=True)
            os.rename(f"{kept}/{part}", to)
    remove_tree(kept)


def keep_stopped(root: str, staging: str, name: str, what: bytes) -> None:
    """Keep what a failed target was to do, whole or not at all."""
    path = os.path.join(root, STOPPED, name)
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    arriving = f"{staging}/stopped"
    with open(arriving, "wb") as stream:
        stream.write(what)
    os.replace(arriving, path)


def stopped(root: str, name: str) -> bytes | None:
    """Return what a target that failed was to do, if that is known."""
    with suppress(FileNotFoundError), open(os.path.join(root, STOPPED, name), "rb") as stream:
        return stream.read()
    return None


def failed_place(name: str) -> str:
    """Return where what a failed target had made is kept, as a path in the store."""
    return f"{FAILED}/{name}"


def failed_folder(root: str, name: str) -> str:
    """Return where in the store at `root` lies what a failed target had made."""
    return os.path.join(root, FAILED, name)


def file_name(target: str) -> str:
    """Return a target's name as one name of a file."""
    return target.replace("%", "%25").replace("/", "%2F")


def target_name(name: str) -> str:
    """Return the target of which `file_name` made a name of a file."""
    return name.replace("%2F", "/").replace("%25", "%")


def _is_whole(path: str, digest: str, sealed: os.stat_result) -> bool:
    """Tell whether a file output lies at a path of the store, with the mode and time that it was sealed with."""
    with suppress(FileNotFoundError):
        status = os.lstat(path)
        same = (status.st_mode, status.st_mtime_ns) == (sealed.st_mode, sealed.st_mtime_ns)
        return same and has_content(path, digest)
    return False


def has_content(path: str, digest: str) -> bool:
    """Tell whether a path is a file output's; what cannot be read is not."""
    with suppress(OSError):
        return stat.S_ISREG(os.lstat(path).st_mode) and file_digest(path) == digest.rstrip("x")
    return False


def mark(path: str) -> None:
    """Mark a file output, so that it is known for one even when the store is gone."""
    with suppress(OSError):
        os.setxattr(path, _MARK, b"1")


def is_marked(path: str) -> bool:
    """Tell whether a file is marked as an output."""
    with suppress(OSError):
        return bool(os.getxattr(path, _MARK, follow_symlinks=False))
    return False


def tree_digest(layers: tuple[str, ...]) -> str:
    """Return the digest of a tree, which is that of its stack of layers."""
    return xxhash.xxh3_128_hexdigest(" ".join(layers).encode())
