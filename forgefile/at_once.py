"""Opens a shell in a tree of which a snapshot tells that it is up to date: nothing is evaluated, planned or parsed.

Beside the snapshot lies where the shell is then. Unaware of everything but the plainest command lines; `verbs` has the
others. Imports next to nothing before it is sure.
"""

import os

from forgefile.cache.layout import SNAPSHOTS
from forgefile.cache.snapshot import Key, Snapshot, load, load_shell, save_shell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from forgefile.shell import Place


def run(snapshot: Snapshot, command: list[str]) -> int | None:
    """Run a command where a snapshot says, or a shell; return the exit status, or None: that is not known."""
    kept = load_shell(snapshot)
    if kept is None:
        return None
    from forgefile.shell import Place, enter  # noqa: PLC0415  now it is sure

    return enter(Place.of(kept), command)[0]


def keep(key: Key, store: str, place: "Place") -> None:
    """Keep where a shell is, for the next one; without a snapshot, that does nothing."""
    snapshot = load(os.path.join(store, SNAPSHOTS), key)
    if snapshot and load_shell(snapshot) is None and os.access(os.path.dirname(snapshot.path), os.W_OK):
        save_shell(snapshot, place.plain())
