"""Copy files and folders into a tree, as the step `Copy` says. Runs inside the tree."""

import os
import shutil
import stat
from contextlib import suppress
from fnmatch import fnmatchcase

from forgefile.errors import BuildError
from forgefile.model import Copy


def copy(step: Copy) -> None:
    """Do what the step says; see `Copy` for what is kept of owners and modes.

    Raises `BuildError` when a folder would have to replace something else, or something else a folder.
    """
    if os.path.isdir(step.source) and not os.path.islink(step.source):
        os.makedirs(step.destination, exist_ok=True)
        _folder(step, step.source, step.destination)
        return
    destination = step.destination
    if destination.endswith("/"):
        destination += os.path.basename(step.source)
    os.makedirs(os.path.dirname(destination) or "/", exist_ok=True)
    if os.path.isdir(destination) and not os.path.islink(destination):
        raise BuildError(f"{destination} is a folder", hint="end the destination with '/' to copy into the folder")
    _file(step, step.source, destination, "")
    if step.mode is not None:
        os.chmod(destination, step.mode)


def _folder(step: Copy, top: str, destination: str) -> None:
    left = [""]
    while left:
        below = left.pop()
        with os.scandir(f"{top}/{below}") as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            path, to = f"{below}{entry.name}", f"{destination}/{below}{entry.name}"
            if not entry.is_dir(follow_symlinks=False):
                _file(step, entry.path, to, path)
                continue
            if os.path.lexists(to) and not os.path.isdir(to):
                raise BuildError(f"{to} is no folder in the tree, but {path} is one in the source")
            if not os.path.isdir(to):
                os.mkdir(to)
                _attributes(step, entry.stat(), to, path)
            elif _told(step, path):
                _attributes(step, os.stat(to), to, path)
            left.append(f"{path}/")


def _file(step: Copy, source: str, to: str, path: str) -> None:
    """Copy one thing that is no folder over whatever but a folder is there."""
    if os.path.isdir(to) and not os.path.islink(to):
        raise BuildError(f"{to} is a folder in the tree, but {path or source} is none in the source")
    with suppress(FileNotFoundError):
        os.unlink(to)
    status = os.lstat(source)
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(source), to)
    elif stat.S_ISREG(status.st_mode):
        shutil.copyfile(source, to)
    elif stat.S_ISFIFO(status.st_mode):
        os.mkfifo(to)
    else:
        raise BuildError(f"{path or source} is a device or a socket, which is not copied")
    _attributes(step, status, to, path)


def _told(step: Copy, path: str) -> bool:
    globs = [glob for glob, _ in step.modes] + [glob for glob, _, _ in step.owners]
    return any(fnmatchcase(path, glob) for glob in globs)


def _attributes(step: Copy, status: os.stat_result, to: str, path: str) -> None:
    user, group = step.owner
    for glob, its_user, its_group in step.owners:
        if fnmatchcase(path, glob):
            user, group = its_user, its_group
    mode = stat.S_IMODE(status.st_mode)
    for glob, told in step.modes:
        if fnmatchcase(path, glob):
            mode = told
    os.chown(to, user, group, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(to, mode)
