"""What somebody changed in a tree, written to a folder that the rule `Overlay` can take; and what that cannot say.

Runs where the tree can be seen, and files of its ids. Unaware of how it was changed.
"""

import errno
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from glob import escape
from typing import NamedTuple

from forgefile.cache.digest import file_digest
from forgefile.errors import BuildError
from forgefile.files import copy_file, remove_tree
from forgefile.job import SecretFile
from forgefile.secret import find

_MARK = "user.overlay."
_OPAQUE = f"{_MARK}opaque"
_READABLE, _OPEN, _STICKY = 0o400, 0o700, 0o1000
"""Bits of a mode: those that files and folders of a source need, and one that an `Overlay` hardly takes."""


class Changes(NamedTuple):
    """What was kept, and how an `Overlay` has to be told what its source folder cannot have."""

    kept: int
    """How many paths."""
    owners: tuple[tuple[str, int, int], ...]
    modes: tuple[tuple[str, int], ...]
    lost: tuple[str, ...]
    """What no `Overlay` can say, in words."""


def keep(upper: str, tree: str, to: str, secrets: Iterable[SecretFile]) -> Changes:
    """Write to a folder that is not there yet what the upper folder of an overlay mount changes in a tree.

    The folder appears whole or not at all, and not when nothing is kept. Raises `BuildError` when it cannot be written.
    """
    arriving = f"{to}.forge-arriving"
    walk = _Walk(upper, tree, arriving, tuple(secrets))
    try:
        remove_tree(arriving)
        os.mkdir(arriving)
        walk.run()
        if walk.kept:
            os.rename(arriving, to)
    except OSError as error:
        raise BuildError(f"{to} cannot be written: {error.strerror}") from error
    finally:
        with suppress(OSError):
            remove_tree(arriving)
    return Changes(walk.kept, tuple(walk.owners), tuple(walk.modes), tuple(walk.lost))


class _Walk:
    def __init__(self, upper: str, tree: str, to: str, secrets: tuple[SecretFile, ...]) -> None:
        self._upper, self._tree, self._to, self._secrets = upper, tree, to, secrets
        self._inodes: dict[int, str] = {}
        self._folders: list[tuple[str, int]] = []
        self._on_the_way: list[str] = []
        self.kept = 0
        self.owners: list[tuple[str, int, int]] = []
        self.modes: list[tuple[str, int]] = []
        self.lost: list[str] = []

    def run(self) -> None:
        """Take up all that was changed."""
        left = [""]
        while left:
            below = left.pop()
            for name in sorted(os.listdir(f"{self._upper}/{below}")):
                path = f"{below}{name}"
                if self._entry(path, os.lstat(f"{self._upper}/{path}")):
                    left.append(f"{path}/")
        for path, mode in reversed(self._folders):
            os.chmod(f"{self._to}/{path}", mode)
        for path in reversed(self._on_the_way):
            with suppress(OSError):  # something in it was kept
                os.rmdir(f"{self._to}/{path}")

    def _entry(self, path: str, new: os.stat_result) -> bool:
        """Take up one path; return whether it is a folder to go into."""
        old = _status(f"{self._tree}/{path}")
        kind = stat.S_IFMT(new.st_mode)
        if kind == stat.S_IFCHR and new.st_rdev == 0:
            self.lost.append(f"{path} was removed")
        elif kind in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK):
            self.lost.append(f"{path} is a {'socket' if kind == stat.S_IFSOCK else 'device'}")
        elif old is not None and stat.S_ISDIR(old.st_mode) != (kind == stat.S_IFDIR):
            self.lost.append(f"{path} was {'a folder' if stat.S_ISDIR(old.st_mode) else 'no folder'} before")
        elif secret := self._secret(path, kind):
            self.lost.append(f"{path} has the secret '{secret}'")
        elif kind == stat.S_IFDIR:
            self._folder(path, new, old)
            return True
        elif old is None or not self._is_same(path, new, old):
            self._file(path, new)
        return False

    def _secret(self, path: str, kind: int) -> str | None:
        """Return the name of a secret that is in a file, or in a name."""
        if not self._secrets:
            return None
        if kind == stat.S_IFDIR:
            return next((each.name for each in self._secrets if each.content.strip() in os.fsencode(path)), None)
        found = find(f"{self._upper}/{path}", self._secrets)
        return found[0] if found else None

    def _is_same(self, path: str, new: os.stat_result, old: os.stat_result) -> bool:
        if _essence(new) != _essence(old):
            return False
        ours, theirs = f"{self._upper}/{path}", f"{self._tree}/{path}"
        if _attributes(ours) != _attributes(theirs):
            return False
        if stat.S_ISLNK(new.st_mode):
            return os.readlink(ours) == os.readlink(theirs)
        return not stat.S_ISREG(new.st_mode) or file_digest(ours) == file_digest(theirs)

    def _folder(self, path: str, new: os.stat_result, old: os.stat_result | None) -> None:
        os.mkdir(f"{self._to}/{path}", 0o700)
        attributes = _attributes(f"{self._upper}/{path}", mark=_OPAQUE)
        if attributes.pop(_OPAQUE, b"") == b"y" and old is not None:
            self.lost.append(f"{path}: what it had in it before was removed")
        mode = stat.S_IMODE(new.st_mode)
        self._folders.append((path, mode | _OPEN))
        if old is None:
            self.kept += 1
            self._told(path, new, attributes)
            if mode & _OPEN != _OPEN:
                self._mode(path, mode)
        elif (mode, new.st_uid, new.st_gid) != (stat.S_IMODE(old.st_mode), old.st_uid, old.st_gid):
            self.kept += 1
            self.owners.append((escape(path), new.st_uid, new.st_gid))
            self._mode(path, mode)
        else:
            self._on_the_way.append(path)

    def _file(self, path: str, new: os.stat_result) -> None:
        ours, to = f"{self._upper}/{path}", f"{self._to}/{path}"
        mode = stat.S_IMODE(new.st_mode)
        self.kept += 1
        self._told(path, new, _attributes(ours))
        if stat.S_ISLNK(new.st_mode):
            os.symlink(os.readlink(ours), to)
            return
        if stat.S_ISFIFO(new.st_mode):
            os.mkfifo(to)
        else:
            copy_file(ours, to)
            if new.st_nlink > 1 and (first := self._inodes.setdefault(new.st_ino, path)) != path:
                self.lost.append(f"{path} and {first} are the same file")
        os.chmod(to, mode | _READABLE)
        if not mode & _READABLE:
            self._mode(path, mode)

    def _mode(self, path: str, mode: int) -> None:
        if mode & _STICKY and mode != 0o1777:  # noqa: PLR2004  as `Overlay` says
            self.lost.append(f"{path} has the mode {mode:04o}")
        else:
            self.modes.append((escape(path), mode))

    def _told(self, path: str, new: os.stat_result, attributes: dict[str, bytes]) -> None:
        """Note whose a path is, and what attributes it has."""
        if (new.st_uid, new.st_gid) != (0, 0):
            self.owners.append((escape(path), new.st_uid, new.st_gid))
        self.lost += [f"{path} has the attribute {name}" for name in sorted(attributes)]


def _status(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise
        return None


def _essence(status: os.stat_result) -> tuple[int, int, int, int]:
    size = status.st_size if stat.S_ISREG(status.st_mode) else 0
    return status.st_mode, status.st_uid, status.st_gid, size


def _attributes(path: str, mark: str = "") -> dict[str, bytes]:
    """Return the extended attributes of a path, but for overlayfs' marks, of which one may be wanted."""
    with suppress(OSError):
        names = os.listxattr(path, follow_symlinks=False)
        wanted = (name for name in names if name == mark or not name.startswith(_MARK))
        return {name: os.getxattr(path, name, follow_symlinks=False) for name in wanted}
    return {}
