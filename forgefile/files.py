"""Files and folders as a whole: copied with their holes, written, removed whatever the modes. Unaware of the store."""

import errno
import fcntl
import os
import stat
import struct
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

_TRIES, _PAUSE_S = 20, 0.05
"""How often and after which pauses a folder is removed to which something is added meanwhile."""
_FLOCK = "hhqqi4x"
"""struct flock of fcntl(2)."""


def copy_file(source: str, to: str) -> None:
    """Copy a file to a path that is not there yet, with its mode and time, and leave its holes holes."""
    status = os.stat(source)
    with open(source, "rb") as old, open(to, "xb") as new:
        os.truncate(new.fileno(), status.st_size)
        at = 0
        while at < status.st_size:
            try:
                at = os.lseek(old.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(old.fileno(), at, os.SEEK_HOLE)
            while at < end:
                moved = _copy_range(old.fileno(), new.fileno(), at, end - at)
                if not moved:
                    raise OSError(f"{source} became shorter while it was copied")
                at += moved
    os.chmod(to, stat.S_IMODE(status.st_mode))
    os.utime(to, ns=(status.st_mtime_ns, status.st_mtime_ns))


def _copy_range(old: int, new: int, at: int, length: int) -> int:
    """Copy bytes from one open file to the same place of another; return how many were copied."""
    try:
        return os.copy_file_range(old, new, length, at, at)
    except OSError as error:
        if error.errno != errno.EXDEV:  # copy_file_range(2): not from any file system to any other
            raise
    os.lseek(new, at, os.SEEK_SET)
    return os.sendfile(new, old, at, length)


def head(path: str, length: int) -> bytes:
    """Return the first bytes of a file; nothing of what is no plain file, which is not opened, or cannot be read."""
    with suppress(OSError):
        if os.path.isfile(path):
            with open(path, "rb") as stream:
                return stream.read(length)
    return b""


def is_written_by_machine(path: str) -> bool:
    """Tell whether a QEMU has an image open to write into it: it has a lock on a byte then that stands for that right.

    The byte is RAW_LOCK_PERM_BASE and the number of BLK_PERM_WRITE's bit, in QEMU's block/file-posix.c.
    """
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 101, 1, 0)
    with suppress(OSError), open(path, "rb") as stream:
        return bool(struct.unpack(_FLOCK, fcntl.fcntl(stream, fcntl.F_OFD_GETLK, asked))[0] != fcntl.F_UNLCK)
    return False


def write_whole(path: str, content: str) -> None:
    """Write a text so that it appears complete or not at all; what was there before stays until then."""
    arriving = f"{path}.{os.getpid()}.tmp"
    try:
        with open(arriving, "x", encoding="utf-8") as file:
            file.write(content)
        os.replace(arriving, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(arriving)
        raise


class OwnFolder(NamedTuple):
    """A folder that a process has for itself."""

    path: str
    descriptor: int
    """Open, and locked; to close it, or to end, gives the folder up to whoever removes what nobody has."""


def own_folder(parent: str) -> OwnFolder:
    """Make a folder below another one, and lock it."""
    while True:
        path = f"{parent}/{os.getpid()}-{time.time_ns()}"
        os.mkdir(path, 0o700)
        with suppress(FileNotFoundError):  # somebody took it for one that nobody has
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return OwnFolder(path, descriptor)
            os.close(descriptor)


def remove_tree(path: str) -> None:
    """Remove a file, or a folder and all in it, also folders whose mode forbids it.

    What a process that is just being killed still adds or removes there does not matter.
    """
    if os.path.islink(path) or not os.path.isdir(path):
        with suppress(FileNotFoundError):
            os.unlink(path)
        return
    for left in reversed(range(_TRIES)):
        try:
            _remove_folder(path)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                import subprocess  # noqa: PLC0415

                # it goes down step by step, where no path is too long
                subprocess.run(["rm", "-rf", "--", path], check=True)
            elif error.errno in (errno.ENOTEMPTY, errno.ENOENT) and left:
                time.sleep(_PAUSE_S)
                continue
            else:
                raise
        return  # once it is gone, another may make it anew


def _remove_folder(path: str) -> None:
    found, left = [path], [path]
    while left:
        folder = left.pop()
        os.chmod(folder, 0o700)
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    left.append(entry.path)
                    found.append(entry.path)
                else:
                    os.unlink(entry.path)
    for folder in reversed(found):
        os.rmdir(folder)


def remove_trees(paths: Iterable[str]) -> None:
    """Remove files, and folders with all in them."""
    for path in paths:
        remove_tree(path)
