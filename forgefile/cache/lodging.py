"""Where an open shell lies in the store: a folder in staging that no forge sweeps away, and the outputs that it shows.

Unaware of what shells do. Imports next to nothing.
"""

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from forgefile.cache.layout import STAGING
from forgefile.files import remove_tree

_PREFIX = "shell-"
_TRIES = 1_000


@contextmanager
def lodging(store: str, uses: Iterable[str]) -> Iterator[str]:
    """Yield an empty folder in a store's staging that stays until the end of the block.

    `uses` are outputs, by their paths in the store, that stay there as long.
    """
    folder, descriptor = _locked(f"{store}/{STAGING}/{_PREFIX}{os.getpid()}")
    try:
        with open(f"{folder}/uses", "w", encoding="utf-8") as stream:
            stream.write("\n".join(uses))
        os.mkdir(f"{folder}/job", 0o700)
        yield f"{folder}/job"
    finally:
        remove_tree(folder)
        os.close(descriptor)


def _locked(path: str) -> tuple[str, int]:
    """Make a folder and lock it; return its path, and the file that has the lock."""
    for number in range(_TRIES):
        folder = f"{path}-{number}"
        with suppress(FileExistsError, FileNotFoundError):  # left by a kill; or swept away before it was locked
            os.mkdir(folder, 0o700)
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.path.isdir(folder):
                return folder, descriptor
            os.close(descriptor)
    raise FileExistsError(path)


def is_open(folder: str) -> bool:
    """Tell whether a folder in staging is that of a shell that is open: its process has it locked."""
    if not os.path.basename(folder).startswith(_PREFIX):
        return False
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def used_in(folder: str) -> list[str]:
    """Return the outputs that the shell of a folder shows, by their paths in the store."""
    with suppress(OSError), open(f"{folder}/uses", encoding="utf-8") as stream:
        return stream.read().splitlines()
    return []
