"""Opens a shell in a tree of which a snapshot tells that it is up to date: nothing is evaluated, planned or parsed.

Beside the snapshot lies where the shell is then. Unaware of everything but the plainest command lines; `verbs` has the
others. Imports next to nothing before it is sure.
"""

import os
import pickle
from typing import TYPE_CHECKING

from forgefile.cache.layout import SNAPSHOTS
from forgefile.cache.snapshot import Key, Snapshot, load

if TYPE_CHECKING:
    from forgefile.shell import Place


def split(arguments: list[str]) -> tuple[list[str], list[str]] | None:
    """Return the arguments of a build of the only target that `forge shell` is told, and the command; or None."""
    if arguments[:1] != ["shell"]:
        return None
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[1:end], arguments[end + 1 :]


def run(snapshot: Snapshot, command: list[str]) -> int | None:
    """Run a command where a snapshot says, or a shell; return the exit status, or None: that is not known."""
    place = _found(snapshot)
    if place is None:
        return None
    from forgefile.shell import enter  # noqa: PLC0415  now it is sure

    return enter(place, command)[0]


def keep(key: Key, store: str, place: "Place") -> None:
    """Keep where a shell is, for the next one; without a snapshot, that does nothing."""
    snapshot = load(os.path.join(store, SNAPSHOTS), key)
    if snapshot is None or _found(snapshot) is not None or not os.access(os.path.dirname(snapshot.path), os.W_OK):
        return
    arriving = f"{snapshot.path}.{os.getpid()}"
    with open(arriving, "wb") as stream:
        pickle.dump((snapshot.facts.token, place), stream)
    os.replace(arriving, _path(snapshot))


def _path(snapshot: Snapshot) -> str:
    return f"{snapshot.path}.shell"


def _found(snapshot: Snapshot) -> "Place | None":
    """Return what was kept beside a snapshot, if it belongs to that very one."""
    try:
        with open(_path(snapshot), "rb") as stream:
            token, place = pickle.load(stream)  # noqa: S301  written by this user's forge alone
    except Exception:  # noqa: BLE001  there is no end to what an older form of it may lack
        return None
    return place if token == snapshot.facts.token else None
