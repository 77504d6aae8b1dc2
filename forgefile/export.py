"""Write an output out of the store to where a person wants it."""

import os
import subprocess
from contextlib import suppress

from forgefile import linux, roots, userns
from forgefile.cache.digest import layer_summary
from forgefile.cache.layout import EMPTY, LAYERS, OBJECTS, STAGING
from forgefile.cache.seal import Result
from forgefile.errors import BuildError, UsageError
from forgefile.files import copy_file, remove_tree

_AGAIN = "build it again, then export it"


def export(store: str, result: Result, destination: str) -> None:
    """Write a tree to a folder, or to a tar archive when the name ends with .tar; a file to a file.

    `destination` is absolute and must not exist; it appears whole or not at all. No lock is held, so that nobody waits
    for an export: whether the output was there and the same all the time is looked at afterwards. Raises `BuildError`.
    """
    arriving = f"{destination}.forge-arriving"
    try:
        userns.call(lambda: remove_tree(arriving))
        before = _state(store, result)
        copied = before is not None and _copy(store, result, arriving, tar=destination.endswith(".tar"))
        if before is None or before != _state(store, result):
            raise BuildError("the output left the store, or was changed there, while it was exported", hint=_AGAIN)
        if not copied:
            raise BuildError("the tree could not be exported; see above")
        os.rename(arriving, destination)
    except OSError as error:
        raise BuildError(f"{destination} cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            userns.call(lambda: remove_tree(arriving))


def _state(store: str, result: Result) -> list[int] | None:
    """Return what tells an output in the store from all that may take its place there, or None when it is not whole."""

    def look() -> list[int] | None:
        with suppress(FileNotFoundError, NotADirectoryError):
            if result.kind == "tree":
                return [layer_summary(os.path.join(store, LAYERS, layer)) for layer in result.layers]
            status = os.lstat(os.path.join(store, OBJECTS, result.digest))
            return [status.st_ino, status.st_size, status.st_mtime_ns]
        return None

    return userns.ask(look)


def _copy(store: str, result: Result, arriving: str, *, tar: bool) -> bool:
    """Copy an output, a tree from a private mount namespace in which it is one; return whether it could be done."""
    if result.kind == "file":
        copy_file(os.path.join(store, OBJECTS, result.digest), arriving)
        return True
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    status = 1
    try:
        userns.enter()
        linux.unshare(linux.CLONE_NEWNS)
        linux.mount(None, "/", flags=linux.MS_REC | linux.MS_PRIVATE)
        if not tar:
            os.mkdir(arriving)
        os.chdir(store)
        linux.mount("forge", f"{store}/{STAGING}", "tmpfs", 0, "mode=700")  # the store may be one that is only read
        at = f"{store}/{EMPTY}"
        roots.overlay(result.layers, at, upper=None)
        if tar:
            command = ["tar", "--create", f"--file={arriving}", "--numeric-owner", "--xattrs", "--acls", "--sort=name",
                       "--format=posix", "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
                       f"--directory={at}", "."]  # fmt: skip
        else:
            command = ["cp", "--archive", "--reflink=auto", "--no-target-directory", f"{at}/.", arriving]
        status = subprocess.run(command, check=False).returncode
    except (OSError, UsageError) as error:
        os.write(2, f"forge: {error}\n".encode("utf-8", "replace"))
    finally:
        os._exit(status)
