"""The start of the command `forge`: says that nothing changed when nothing did, and else hands over to `cli`.

Imports next to nothing, since this is all that most runs need. What it knows of the command line is only how to find
the snapshot of it; every word that it does not know is `cli`'s.
"""

from __future__ import annotations

import fcntl
import gc
import os
import sys
import time

from forgefile.cache.layout import SNAPSHOTS, store_in
from forgefile.cache.snapshot import Key, Snapshot, boot, generation, key_of, load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple, NoReturn
else:
    from forgefile.named import NamedTuple

_FLAGS = {"--quiet": "q", "--keep-going": "k", "--dry-run": "n"}
_SHORT = {"--directory": "-C", "--file": "-f", "--define": "-D", "--jobs": "-j"}


class Start(NamedTuple):
    """What is known of a run before its command line is parsed."""

    began_ns: int
    """When it began, since 1970."""
    key: Key | None = None
    """What its snapshot goes by; None: it is of a kind that is not done with one, nor keeps one."""
    snapshot: Snapshot | None = None
    """Its snapshot, if there is one and it is not void."""
    quiet: bool = False


def run() -> NoReturn:
    """Be the command `forge`. Ends the process itself: to tidy up the interpreter takes longer than to plan."""
    gc.set_threshold(100_000)  # start-up makes many values and no garbage
    _open_standard()
    try:
        if sys.argv[1:2] == ["--complete"]:
            from forgefile import complete  # noqa: PLC0415  only shells ask this

            complete.run(sys.argv[2:])
        if "shell" in sys.argv:
            _shell(sys.argv[1:])
        start = find(sys.argv[1:], time.time_ns())
        if start.key is not None and start.snapshot is not None and not start.snapshot.changed:
            if not start.quiet:
                os.write(1, f"{start.snapshot.facts.line}\n".encode(sys.stdout.encoding, "backslashreplace"))
            os._exit(0)
        from forgefile import cli  # noqa: PLC0415  only where there is something to do
    except KeyboardInterrupt:
        os._exit(130)
    except BrokenPipeError:
        os._exit(1)
    except OSError as error:
        from forgefile import cli  # noqa: PLC0415  something went wrong

        os._exit(cli.told(error))
    cli.run(start)


def _open_standard() -> None:
    """Open /dev/null for each of the three standard files that is closed: another file would get its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            fcntl.fcntl(number, fcntl.F_GETFD)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115


def _shell(arguments: list[str]) -> None:
    """Be `forge shell` if that is said, and its tree is known to be up to date."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    start = find(arguments[:end], 0, verb="shell")
    if start.key and start.snapshot and not start.snapshot.changed and len(start.key[2]) == 1:
        from forgefile import at_once  # noqa: PLC0415  not for a build

        try:
            status = at_once.run(start.snapshot, arguments[end + 1 :])
        except Exception as error:  # noqa: BLE001  that is sorted out there
            from forgefile import cli  # noqa: PLC0415  something went wrong

            status = cli.told(error)
        if status is not None:
            os._exit(status)


def find(arguments: list[str], began_ns: int, verb: str = "build") -> Start:
    """Return what is known of a command line with a verb, its snapshot compared with what is there now."""
    said = _parsed(arguments)
    if said is None or not (here := _here()):
        return Start(began_ns)
    valued, flags, targets = said
    if targets[:1] == [verb]:
        del targets[0]
    elif verb != "build":
        return Start(began_ns)
    folder = os.path.realpath(valued["-C"][-1]) if valued["-C"] else here
    path = os.path.normpath(os.path.join(folder, valued["-f"][-1] if valued["-f"] else "Forgefile.py"))
    store = store_in(folder, path, valued["--store"][-1] if valued["--store"] else None)
    key = key_of(path, valued["-D"], targets, folder)
    snapshot = load(os.path.join(store, SNAPSHOTS), key)
    now = generation(store, snapshot.facts.lock) if snapshot else None
    if snapshot is None or now is None or not snapshot.look(now, boot()):
        snapshot = None
    return Start(began_ns, None if "n" in flags else key, snapshot, "q" in flags)


def _here() -> str | None:
    """Return the current folder, or None: it was removed."""
    try:
        return os.getcwd()
    except OSError:
        return None


def _parsed(arguments: list[str]) -> tuple[dict[str, list[str]], str, list[str]] | None:
    """Return a command line's values by option, its flags and its other words; None when `cli` has to look at it."""
    valued: dict[str, list[str]] = {name: [] for name in ("-C", "-f", "-D", "-j", "--store")}
    flags, others = "", []
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if not word.startswith("-"):
            others.append(word)
        elif word[1:] and set(word[1:]) <= set(_FLAGS.values()):
            flags += word[1:]
        elif word in _FLAGS:
            flags += _FLAGS[word]
        elif _SHORT.get(name, name) in valued and (equals or (value := next(words, ""))):
            valued[_SHORT.get(name, name)].append(value)
        elif word[:2] in valued and "=" not in word[2:3]:
            valued[word[:2]].append(word[2:])
        else:
            return None
    odd = any(not value or value[0] == "-" for values in valued.values() for value in values)
    return None if odd or not all(n.isdecimal() and int(n) for n in valued["-j"]) else (valued, flags, others)
