"""The start of the command `forge`: says that nothing changed when nothing did, and else hands over to `cli`.

Imports next to nothing, since this is all that most runs need. What it knows of the command line is only how to find
the snapshot of it; every word that it does not know is `cli`'s.
"""

import gc
import os
import sys
import time
from typing import NamedTuple, NoReturn

from forgefile.cache.layout import SNAPSHOTS
from forgefile.cache.snapshot import Key, Snapshot, boot, generation, key_of, load

STORE = ".forge"
"""The folder of the store, beside the Forgefile."""


class Start(NamedTuple):
    """What is known of a run before its command line is parsed."""

    began_ns: int
    """When it began, since 1970."""
    key: Key | None = None
    """What its snapshot goes by; None: it is of a kind that neither has one nor keeps one."""
    snapshot: Snapshot | None = None
    """Its snapshot, if there is one and it is not void."""
    quiet: bool = False


def run() -> NoReturn:
    """Be the command `forge`. Ends the process itself: to tidy up the interpreter takes longer than to plan."""
    gc.set_threshold(100_000)  # start-up makes many values and no garbage
    try:
        start = find(sys.argv[1:], time.time_ns())
        if start.snapshot is not None and not start.snapshot.changed:
            if not start.quiet and sys.stdout is not None:
                os.write(1, f"{start.snapshot.facts.line}\n".encode(sys.stdout.encoding, "backslashreplace"))
            os._exit(0)
        from forgefile import cli  # noqa: PLC0415  only where there is something to do
    except KeyboardInterrupt:
        os._exit(130)
    except BrokenPipeError:
        os._exit(1)
    cli.run(start)


def find(arguments: list[str], began_ns: int) -> Start:
    """Return what is known of a command line, its snapshot compared with what is there now."""
    valued: dict[str, list[str]] = {"-C": [""], "-f": ["Forgefile.py"], "-D": [], "-j": [], "--store": []}
    targets: list[str] = []
    words = iter(arguments)
    for word in words:
        if word in valued:
            valued[word].append(next(words, ""))
        elif not word.startswith("-"):
            targets.append(word)
        elif word not in ("-k", "-q"):
            return Start(began_ns)
    if targets[:1] == ["build"]:
        del targets[0]
    folder = os.path.realpath(valued["-C"][-1]) if valued["-C"][-1] else os.getcwd()
    path = os.path.normpath(os.path.join(folder, valued["-f"][-1]))
    named = (valued["--store"] or [os.environ.get("FORGE_STORE", "")])[-1]
    store = os.path.join(folder, named) if named else os.path.join(os.path.dirname(path), STORE)
    key = key_of(path, valued["-D"], targets)
    snapshot = load(os.path.join(store, SNAPSHOTS), key)
    now = generation(store) if snapshot else None
    if snapshot is None or now is None or not snapshot.look(now, boot()):
        snapshot = None
    return Start(began_ns, key, snapshot, "-q" in arguments)
