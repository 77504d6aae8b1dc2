"""Write an output out of the store to where a person wants it."""

import os
import subprocess

from forgefile import linux, roots, userns
from forgefile.cache.layout import EMPTY, OBJECTS, STAGING
from forgefile.cache.records import Result
from forgefile.errors import BuildError, UsageError
from forgefile.files import copy_file, remove_tree


def export(store: str, result: Result, destination: str) -> None:
    """Write a tree to a folder, or to a tar archive when the name ends with .tar; a file to a file.

    `destination` is absolute and must not exist; it appears whole or not at all. Raises `BuildError`.
    """
    arriving = f"{destination}.forge-arriving"
    userns.call(lambda: remove_tree(arriving))
    try:
        if result.kind == "file":
            copy_file(os.path.join(store, OBJECTS, result.digest), arriving)
        else:
            _export_tree(store, result.layers, arriving, tar=destination.endswith(".tar"))
        os.rename(arriving, destination)
    except OSError as error:
        raise BuildError(f"{destination} cannot be written: {error.strerror}") from error
    finally:
        userns.call(lambda: remove_tree(arriving))


def _export_tree(store: str, layers: tuple[str, ...], arriving: str, *, tar: bool) -> None:
    """Copy a stack of layers from a private mount namespace in which they are one tree."""
    child = os.fork()
    if child:
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            raise BuildError("the tree could not be exported; see above")
        return
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
        roots.overlay(layers, at, upper=None)
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
