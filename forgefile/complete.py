"""What can follow on a command line: verbs, options, targets, and the Forgefile's own options with their values.

The scripts in `completions/`, which shells run, ask `forge --complete`. It answers from what the store has kept of the
Forgefile while that is as it was, else it evaluates it. Whatever goes wrong, the answer is nothing. Unaware of how
shells are asked to show it.
"""

import argparse
import os
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn

from forgefile import cli
from forgefile.cache.layout import LOCK, SNAPSHOTS, store_in
from forgefile.cache.snapshot import Facts, Key, key_of, load, load_graph, names_in, runs_of, save
from forgefile.errors import ForgeError

_LIMIT_S = 2
"""Nobody waits longer for a Forgefile that hangs."""
_PLACES = {"FILE": "files", "DEST": "files", "PATH": "files", "CMD": "files", "DIR": "folders"}
"""What an argument of some metavar is, if neither a target nor one of several words."""
_TREES, _FILES = ("TREE",), ("DISK", "IMAGE")
"""Metavars of arguments that are targets with a tree, or a file, as output."""
_PATHS_TOO = ("TARGET|PATH", "OTHER", "TARGET|SOURCE")
"""Metavars of arguments that are targets or paths."""
_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+./,:=@%")


class Known(NamedTuple):
    """What a Forgefile declares, as far as it can be typed."""

    targets: tuple[tuple[str, str, str], ...] = ()
    """(name, `tree` or `file`, rule)"""
    options: tuple[tuple[str, str, tuple[str, ...], str], ...] = ()
    """(name, default, choices, help)"""
    verbs: tuple[tuple[str, str], ...] = ()
    """(verb, what it does), which take a while to import."""


class Found(NamedTuple):
    """What can follow."""

    rows: tuple[tuple[str, str], ...] = ()
    """(whole word, what it is). A word that ends with `=` goes on."""
    place: str = ""
    """`files` or `folders` when the shell is to add those."""


def run(arguments: list[str]) -> NoReturn:
    """Print what can follow and end the process: (`zsh` or `fish`, words), or (`bash`, line, COMP_WORDBREAKS).

    The first line is `files`, `folders`, or empty; then a line for each word, for bash as it is to be typed.
    """
    out = os.dup(1)
    with suppress(BaseException):
        signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
        signal.alarm(_LIMIT_S)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number in range(3):  # a Forgefile may print, and ask
            os.dup2(nowhere, number)
        shell, *words = arguments
        if shell == "bash":
            typed = read_line(words[0], words[1])
            found = follow(typed.words[1:], typed.current)
            lines = [typed.rest(word) for word, _ in found.rows if word.startswith(typed.current)]
        else:
            found = follow(words[:-1], words[-1])
            lines = ["\t".join(row) for row in found.rows]
        _write(out, "".join(f"{line}\n" for line in (found.place, *lines)))
    os._exit(0)


def _write(out: int, text: str) -> None:
    with open(out, "wb") as stream:
        stream.write(os.fsencode(text))


# What follows --------------------------------------------------------------------------------------------------------


def follow(before: Sequence[str], current: str) -> Found:
    """Return what a word can be that begins with `current`, after the words that stand before it."""
    if list(before[:1]) == ["help"]:
        return Found(() if before[1:] else _verbs())
    verb, rest = cli._verb(list(before))  # noqa: SLF001  the command line's own way of reading it
    place = _Place.after(cli._parser(verb), rest)  # noqa: SLF001
    if place.pending is not None:
        return _values(place, place.pending, "", current)
    if current.startswith("-") and not place.ended:
        return _options(place, current)
    if place.ended and verb != "build":
        return Found(place="files")
    if len(rest) == len(before) and not place.met and not place.ended:
        known = _known(place)
        return Found((*(known.verbs or _verbs()), *_targets(known)))
    return Found() if place.positional is None else _values(place, place.positional, "", current)


class _Place(NamedTuple):
    """Where on a command line the next word stands."""

    parser: argparse.ArgumentParser
    given: dict[str, list[str]]
    """The values of options, by what the parser calls them."""
    pending: argparse.Action | None
    """The option whose value comes next."""
    positional: argparse.Action | None
    met: int
    """How many words are no options."""
    ended: bool
    """Whether `--` came before."""

    @classmethod
    def after(cls, parser: argparse.ArgumentParser, words: Iterable[str]) -> "_Place":
        """Read the words that come before."""
        known = {name: action for action in parser._actions for name in action.option_strings}  # noqa: SLF001
        positionals = [action for action in parser._actions if not action.option_strings]  # noqa: SLF001
        given: dict[str, list[str]] = {}
        pending, met, ended = None, 0, False
        for word in words:
            name, equals, value = word.partition("=")
            if pending is not None:
                given.setdefault(pending.dest, []).append(word)
                pending = None
            elif word == "--":
                ended = True
            elif ended or not word.startswith("-") or word == "-":
                met += 1
            elif equals and name in known:
                given.setdefault(known[name].dest, []).append(value)
            elif word in known:
                pending = known[word] if known[word].nargs is None else None
            elif word[:2] in known and known[word[:2]].nargs is None:
                given.setdefault(known[word[:2]].dest, []).append(word[2:])
        return cls(parser, given, pending, _nth(positionals, met), met, ended)


def _nth(positionals: Sequence[argparse.Action], met: int) -> argparse.Action | None:
    """Return the positional that the next word is for, after so many words."""
    for action in positionals:
        if met <= 0 or action.nargs not in (None, "?"):
            return action
        met -= 1
    return None


def _verbs() -> tuple[tuple[str, str], ...]:
    from forgefile import verbs  # noqa: PLC0415  they import much

    rows = (("build", "build targets and what they need"), *verbs.summaries())
    return tuple((synopsis.partition(" ")[0], summary) for synopsis, summary in rows)


def _options(place: _Place, current: str) -> Found:
    """Return the options, or the values of the one that `current` has joined to its value."""
    actions = {name: action for action in place.parser._actions for name in action.option_strings}  # noqa: SLF001
    name, equals, _ = current.partition("=")
    if current.startswith("--") and equals:
        action = actions.get(name)
        return _values(place, action, f"{name}=", current) if action and action.nargs is None else Found()
    if len(current) > 2 and (action := actions.get(current[:2])) and action.nargs is None:  # noqa: PLR2004  -D and more
        return _values(place, action, current[:2], current)
    return Found(tuple((name, _plain(action.help or "")) for name, action in actions.items()))


def _values(place: _Place, action: argparse.Action, prefix: str, current: str) -> Found:
    """Return what an argument can be; `prefix` is what stands before it in the same word."""
    metavar = str(action.metavar or "")
    if action.choices is not None:
        return Found(tuple((f"{prefix}{choice}", "") for choice in action.choices))
    if metavar in _PLACES:
        return Found(place=_PLACES[metavar])
    if metavar == "NAME=VALUE":
        return Found(tuple(_definitions(_known(place), prefix, current[len(prefix) :])))
    if action.option_strings and "TARGET" not in metavar and metavar not in _TREES:
        return Found()
    also = "files" if metavar in _PATHS_TOO else ""
    kind = "tree" if metavar in _TREES else "file" if metavar in _FILES else ""
    return Found(tuple(_targets(_known(place), kind, prefix)), also)


def _targets(known: Known, kind: str = "", prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the targets, if `kind` is given those with such an output."""
    for name, output, rule in known.targets:
        if kind in ("", output):
            yield f"{prefix}{name}", f"{output}, {rule}"


def _definitions(known: Known, prefix: str, current: str) -> Iterator[tuple[str, str]]:
    """Yield the options of a Forgefile, or the values of the one that is named already."""
    for name, default, choices, about in known.options:
        if current.startswith(f"{name}="):
            for value in choices or (default,):
                yield f"{prefix}{name}={value}", "default" if value == default else ""
        else:
            yield f"{prefix}{name}=", _plain(about or ", ".join(choices))


def _plain(text: str) -> str:
    """Return a text in one line without what shells could take for something else."""
    return " ".join("".join(c if c.isprintable() else " " for c in text.replace("%%", "%")).split())


# What a Forgefile declares -------------------------------------------------------------------------------------------


def _known(place: _Place) -> Known:
    """Return what the Forgefile of a command line declares: as kept, or by evaluating it; nothing at an error."""
    try:
        return _kept_or_evaluated(place)
    except (ForgeError, OSError):
        return Known()


def _kept_or_evaluated(place: _Place) -> Known:
    def last(name: str) -> str | None:
        return os.path.expanduser(place.given[name][-1]) if place.given.get(name) else None

    began_ns = time.time_ns()
    os.chdir(last("directory") or ".")
    file = os.path.abspath(last("file") or "Forgefile.py")
    definitions = place.given.get("define", [])
    store = store_in(os.getcwd(), file, last("store"))
    key = key_of(file, definitions, ("--complete",))
    kept = load(os.path.join(store, SNAPSHOTS), key)
    if kept is not None and kept.look(kept.facts.generation, kept.facts.boot) and not kept.changed:
        found = load_graph(kept)
        if found is not None:
            return Known(*found)
    return _evaluated(file, definitions, store, key, began_ns)


def _evaluated(file: str, definitions: Sequence[str], store: str, key: Key, began_ns: int) -> Known:
    """Evaluate a Forgefile, and keep in the store, if there is one, what it declares."""
    from forgefile import loader  # noqa: PLC0415  only where nothing was kept
    from forgefile.engine import settings  # noqa: PLC0415
    from forgefile.reads import Reads  # noqa: PLC0415
    from forgefile.resume import watched  # noqa: PLC0415

    reads = Reads()
    graph = loader.load(file, settings(definitions), reads)
    targets = ((t.name, t.output, type(t.rule).__name__) for t in graph.targets.values())
    options = ((o.name, o.default, o.choices, o.help) for o in graph.options if _is_typeable(o.name))
    typeable = tuple((n, d, tuple(filter(_is_typeable, choices)), h) for n, d, choices, h in options)
    known = Known(tuple(targets), typeable, _verbs())
    secret = {each.env for each in graph.secrets}.intersection(reads.variables)
    if reads.steady and not secret and os.path.exists(os.path.join(store, LOCK)):
        paths = watched(reads, reads.paths, began_ns)
        facts = Facts(
            token=os.urandom(8).hex(), lock="", generation="", boot="", line="",
            variables=tuple(reads.variables.items()), secrets=(),
            resolved=tuple((path, real) for path in paths if (real := os.path.realpath(path)) != path),
            tools=(), folders=tuple((folder, names_in(folder)) for folder in reads.folders),
            fixed=len(paths), runs=runs_of(paths), statuses=_packed(paths.values()), hashes=b"", spans=[len(paths)],
        )  # fmt: skip
        save(os.path.join(store, SNAPSHOTS), key, facts, tuple(known))
    return known


def _packed(statuses: Iterable[int]) -> bytes:
    from array import array  # noqa: PLC0415  only where something is kept

    return array("q", statuses).tobytes()


def _is_typeable(word: Any) -> bool:
    return isinstance(word, str) and word.isprintable()


# A line of bash ------------------------------------------------------------------------------------------------------


class Typed(NamedTuple):
    """A command line up to the cursor, as bash reads it."""

    words: tuple[str, ...]
    """Without their quotes."""
    current: str
    """The word that ends at the cursor, likewise."""
    start: int
    """How many characters of it stand before what readline replaces."""
    quote: str
    """The quote that is open."""

    def rest(self, word: str) -> str:
        """Return how a word that begins with the current one is typed, from where readline replaces."""
        rest = word[self.start :]
        if self.quote == "'":
            return rest.replace("'", "'\\''")
        if self.quote:
            return "".join(f"\\{c}" if c in '\\"$`' else c for c in rest)
        return "".join(c if c in _SAFE or (not c.isascii() and not c.isspace()) else f"\\{c}" for c in rest)


def read_line(line: str, breaks: str) -> Typed:
    """Read a command line; after each character of `breaks`, readline begins a word (bash(1), COMP_WORDBREAKS)."""
    words: list[str] = []
    word, start, outside, quote, begun = "", 0, 0, "", False
    letters = iter(line)
    for letter in letters:
        if letter == quote:
            quote, start = "", outside
        elif letter == "\\" and quote != "'":
            following = next(letters, "")
            word += following if not quote or following in '\\"$`' else f"\\{following}"
            begun = True
        elif not quote and letter in "\"'":
            quote, outside, start, begun = letter, start, len(word), True
        elif not quote and letter.isspace():
            if begun:
                words.append(word)
            word, start, begun = "", 0, False
        else:
            word, begun = word + letter, True
            if not quote and letter in breaks:
                start = len(word)
    return Typed(tuple(words), word, start, quote)
