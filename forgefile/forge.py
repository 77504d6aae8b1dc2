"""`Forge`, the object that a Forgefile's `build` receives: its only way in.

It collects sources, targets and options and refuses what cannot be, with the line. Unaware of the store and of how
anything is built.
"""

import os
import posixpath
from collections.abc import Iterable, Mapping
from typing import Any

from forgefile.errors import ForgefileError, UsageError, did_you_mean
from forgefile.graph import Graph, OptionValue
from forgefile.host import PROXIES
from forgefile.location import Location, caller
from forgefile.model import CORES, MEMORY, Pool, Rule, Secret, Source, Target
from forgefile.reads import is_there, refusal
from forgefile.units import duration_seconds, size_bytes

VERBS = ("build", "init", "watch", "list", "graph", "why", "log", "shell", "diff", "size", "export", "boot", "clean",
         "gc", "verify", "history", "report", "doctor", "completion")  # fmt: skip
"""In the order in which the help tells them."""
RESERVED = {*VERBS, "help"}
"""Words that may not name a target, so that `forge WORD` always means one thing."""
_SHOWN = ("PATH", "SOURCE_DATE_EPOCH", "FORGE_STORE", *PROXIES)
"""Variables that are no secret: steps get them, or forge tells of them."""


class Forge:
    """Collects what a Forgefile declares. `root` is the folder of the Forgefile, `settings` the `-D` options."""

    def __init__(self, root: str, settings: Mapping[str, str]) -> None:
        self._root = root
        self._settings = settings
        self._targets: dict[str, Target] = {}
        self._folders: dict[str, str] = {}
        self._options: dict[str, OptionValue] = {}
        self._defaults: dict[Target, None] = {}
        self._sources: dict[str, Source] = {}
        self._secrets: dict[str, Secret] = {}
        self._pools: dict[str, Location | None] = {}

    def source(self, path: str) -> Source:
        """Return the handle of a file or folder that people write; `path` is relative to the Forgefile.

        Raises `ForgefileError` when it is not there, or neither of the two.
        """
        if not isinstance(path, str) or not path:
            raise ForgefileError(f"a source is named by a path, not by {path!r}", location=caller())
        normal = posixpath.normpath(path)
        if f"{self._root}/".startswith(f"{os.path.normpath(os.path.join(self._root, normal))}/".replace("//", "/")):
            raise ForgefileError(f"the source '{path}' holds the project folder, and forge's store", location=caller())
        if normal not in self._sources:
            if not is_there(os.path.join(self._root, normal)):
                folder = os.path.join(self._root, posixpath.dirname(normal))
                there = os.listdir(folder) if os.path.isdir(folder) else []
                raise ForgefileError(
                    f"the source '{path}' does not exist",
                    location=caller(),
                    hint=did_you_mean(posixpath.basename(normal), sorted(set(there) - {".forge"})[:20]),
                )
            if problem := refusal(os.path.join(self._root, normal), self._root):
                raise ForgefileError(f"the source '{path}' {problem}", location=caller())
            self._sources[normal] = Source(path=normal)
        return self._sources[normal]

    def sources(self, pattern: str) -> tuple[Source, ...]:
        """Return the handles of all files and folders that a glob (`**` for any depth) matches, sorted.

        Raises `ForgefileError` when there are none.
        """
        from glob import glob  # noqa: PLC0415  not every Forgefile needs it

        found = sorted(glob(pattern, root_dir=self._root, recursive=True))
        if not found:
            raise ForgefileError(f"no source matches '{pattern}'", location=caller())
        return tuple(self.source(path) for path in found)

    def secret(self, name: str, *, file: str | None = None, env: str | None = None) -> Secret:
        """Declare a secret, which is the content of a file or of an environment's variable, and return its handle.

        Steps of the targets that take it see it as a file that is in memory alone; what they print of it is told as
        `***`, and an output that holds it is refused. `file` is relative to the Forgefile, or begins with `~/`. It is
        read when a target that takes it is asked for, and has 8 bytes to 64 KiB.

        Raises `ForgefileError` for a name that is no plain word or is taken, and unless one of both is given.
        """
        where = caller()
        plain = isinstance(name, str) and name.replace("-", "").replace("_", "").replace(".", "").isalnum()
        if not plain or not name.isascii() or not name[0].isalnum():
            raise ForgefileError(f"a secret is named by a plain word, not by {name!r}", location=where)
        if name in self._secrets:
            raise ForgefileError(f"the secret '{name}' is declared twice", location=where)
        given = [each for each in (file, env) if each is not None]
        if len(given) != 1 or not isinstance(given[0], str) or not given[0] or "\0" in given[0]:
            raise ForgefileError(
                f"the secret '{name}' comes from a file or from a variable",
                location=where,
                hint='write file="PATH" or env="VARIABLE"',
            )
        if env is not None and (env.upper() in map(str.upper, _SHOWN) or "=" in env):
            raise ForgefileError(f"the secret '{name}' cannot come from the variable {env!r}", location=where)
        if file is not None:
            file = posixpath.normpath(os.path.expanduser(file))
        self._secrets[name] = Secret(name=name, file=file, env=env)
        return self._secrets[name]

    def option(self, name: str, default: str, *, choices: Iterable[str] = (), help: str = "") -> str:  # noqa: A002
        """Declare what `-D name=value` may set and return its value. Reaches a target only through a field.

        Raises `ForgefileError` when the name is declared twice, `UsageError` when the value is none of `choices`.
        """
        if not isinstance(name, str) or not isinstance(default, str):
            raise ForgefileError(
                f"an option's name and value are texts, not {name!r}, {default!r}",
                location=caller(),
                hint=_as_texts(name, default),
            )
        if isinstance(choices, str) or not isinstance(choices, Iterable):
            raise ForgefileError(f"option '{name}': choices are a tuple of texts, not {choices!r}", location=caller())
        if name in self._options:
            raise ForgefileError(f"the option '{name}' is declared twice", location=caller())
        value, choices = self._settings.get(name, default), tuple(choices)
        for word in (value, default) if choices else ():
            if word not in choices:
                raise UsageError(
                    f"the option '{name}' cannot be '{word}'", location=caller(), hint=did_you_mean(word, choices)
                )
        self._options[name] = OptionValue(name, value, default, choices, help)
        return value

    def pool(self, name: str, capacity: int) -> Pool:
        """Declare a limited resource and return its handle, which targets name in `pools`.

        A target runs when all its pools have room for it. Until then it waits, and others go ahead.
        Raises `ForgefileError` for a name that is taken.
        """
        where = caller()
        if not isinstance(name, str) or not name.isprintable() or not name:
            raise ForgefileError(f"a pool is named by a text, not by {name!r}", location=where)
        if type(capacity) is not int or capacity < 1:
            raise ForgefileError(
                f"the capacity of the pool '{name}' is a number from 1, not {capacity!r}", location=where
            )
        if name in (CORES.name, MEMORY.name):
            hint = f"forge.target(…, {name}=…) says how much of it a target takes"
            raise ForgefileError(f"forge has a pool '{name}' itself", location=where, hint=hint)
        if name in self._pools:
            hint = f"the first is at {self._pools[name]}"
            raise ForgefileError(f"there are two pools '{name}'", location=where, hint=hint)
        self._pools[name] = where
        return Pool(name, capacity)

    def target(
        self,
        name: str,
        rule: Rule,
        *,
        pools: Iterable[Pool] | Mapping[Pool, int] = (),
        cores: int = 1,
        memory: str | int = 0,
        timeout: str | float | None = None,
    ) -> Target:
        """Declare a target and return its handle, which other rules take as input.

        `name` is a relative path: a file target that is asked for is placed there, beside the Forgefile.

        The rest says when it runs and how long, and decides nothing of its content. While it runs, it holds one of
        each of `pools`, or of a mapping the amount that stands there; `cores` of those that `-j` allows; and `memory`
        of the machine's (`"4GiB"`, or bytes), as far as forge can know: what names none is not counted. On a machine
        that has fewer cores or less memory it takes them all. When it has run for `timeout` (`"10min"`, or seconds),
        what it runs is ended and it has failed.

        Raises `ForgefileError` for a name that is taken, reserved or leads out of the project folder, and for more
        of a pool than there is.
        """
        where = caller()
        if not isinstance(rule, Rule):
            raise ForgefileError(f"target '{name}' needs a rule, not {type(rule).__name__}", location=where)
        if problem := self._name_problem(name):
            raise ForgefileError(f"{name!r} cannot be a target's name: {problem}", location=where)
        if name in self._targets:
            first = self._targets[name].location
            raise ForgefileError(f"there are two targets '{name}'", location=where, hint=f"the first is at {first}")
        held = {**self._held(name, pools), CORES: _amount(name, "cores", cores)}
        if octets := _octets(name, memory):
            held[MEMORY] = octets
        target = self._targets[name] = Target(
            name, rule, where, pools=held, timeout_s=_seconds(name, timeout), budget=_budget(rule)
        )
        self._folders.update(dict.fromkeys(_folders_of(name), name))
        return target

    def default(self, *targets: Target) -> None:
        """Make `forge` without a target build these; without this, it builds all targets."""
        for target in targets:
            if not isinstance(target, Target):
                raise ForgefileError(f"forge.default takes handles of targets, not {target!r}", location=caller())
            self._defaults[target] = None

    def _held(self, name: str, pools: Any) -> dict[Pool, int]:
        """Return how much a target holds of each pool that the Forgefile declared."""
        if isinstance(pools, (str, Pool)) or not isinstance(pools, Iterable):
            raise ForgefileError(
                f"target '{name}': pools are a tuple of pools or a mapping to amounts, not {pools!r}",
                location=caller(),
                hint="write a tuple: pools=(network,)",
            )
        held: dict[Pool, int] = {}
        for pool in pools:
            if not isinstance(pool, Pool) or pool.name not in self._pools or pool.capacity is None:
                raise ForgefileError(
                    f"target '{name}': {pool!r} is no pool of this Forgefile",
                    location=caller(),
                    hint='declare it: network = forge.pool("network", 2)',
                )
            amount = _amount(name, f"of the pool '{pool.name}'", pools[pool] if isinstance(pools, Mapping) else 1)
            if amount > pool.capacity:
                raise ForgefileError(
                    f"target '{name}' needs {amount} of the pool '{pool.name}', which has {pool.capacity}",
                    location=caller(),
                    hint=f"the pool is declared at {self._pools[pool.name]}",
                )
            held[pool] = amount
        return held

    def _name_problem(self, name: Any) -> str | None:
        if not isinstance(name, str) or not name:
            return "it is empty" if name == "" else "it is not a text"
        if name.startswith(("/", "-")) or ".." in name.split("/"):
            return "it leads out of the project folder" if not name.startswith("-") else "it looks like an option"
        if posixpath.normpath(name) != name or not name.isprintable() or name.split("/")[0] in (".", ".forge"):
            return "write it as a plain relative path"
        if name in RESERVED:
            return "forge has a command of that name"
        return "it is a source" if name in self._sources else self._clash(name)

    def _clash(self, name: str) -> str | None:
        """Return which target needs a folder where another is a file, if any does."""
        if name in self._folders:
            return f"the target '{self._folders[name]}' needs a folder of that name"
        file = next((folder for folder in _folders_of(name) if folder in self._targets), None)
        return f"it lies in '{file}', which is a target" if file else None

    def graph(self) -> Graph:
        """Return what was declared.

        Raises `UsageError` for a `-D` that no option took, `ForgefileError` for a name that is source and target.
        """
        for name in self._settings:
            if name not in self._options:
                raise UsageError(f"there is no option '{name}'", hint=did_you_mean(name, list(self._options)))
        for path in self._sources:
            if path in self._targets:
                raise ForgefileError(f"'{path}' is both a source and a target", location=self._targets[path].location)
            if path in self._folders:
                target = self._targets[self._folders[path]]
                raise ForgefileError(f"target '{target.name}' lies in the source '{path}'", location=target.location)
            for folder in _folders_of(path):
                if folder in self._targets:
                    where = self._targets[folder].location
                    raise ForgefileError(f"the source '{path}' lies in '{folder}', which is a target", location=where)
        secrets = tuple(self._secrets.values())
        return Graph(self._targets, tuple(self._defaults), tuple(self._options.values()), secrets)


def _as_texts(name: Any, default: Any) -> str | None:
    """Return how an option is declared whose default was given as no text."""
    if not isinstance(name, str) or not isinstance(default, (bool, int, float)):
        return None
    if isinstance(default, bool):
        return f'write forge.option("{name}", "{"yes" if default else "no"}", choices=("yes", "no"))'
    return f'write forge.option("{name}", "{default}")'


def _folders_of(path: str) -> list[str]:
    """Return the folders that a relative path lies in, the outermost first."""
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def _amount(target: str, what: str, amount: Any) -> int:
    """Return an amount that a target takes of something, which is a number from 1."""
    if type(amount) is not int or amount < 1:
        raise ForgefileError(f"target '{target}': {what} takes a number from 1, not {amount!r}", location=caller())
    return amount


def _octets(target: str, memory: Any) -> int:
    """Return the bytes of memory that a target takes."""
    try:
        if type(memory) is int and memory >= 0:
            return memory
        if isinstance(memory, str):
            return size_bytes(memory)
    except ValueError as error:
        raise ForgefileError(f"target '{target}': memory: {error}", location=caller()) from None
    raise ForgefileError(f"target '{target}': memory is a size such as '4GiB', not {memory!r}", location=caller())


def _budget(rule: Rule) -> int | None:
    """Return the bytes that a rule's output may take."""
    if rule.budget is not None and not isinstance(rule.budget, str):
        raise rule.refuse("budget", f"it is a size such as '400MiB' in every rule, not {rule.budget!r}")
    try:
        return None if rule.budget is None else size_bytes(rule.budget)
    except ValueError as error:
        raise rule.refuse("budget", str(error)) from None


def _seconds(target: str, timeout: Any) -> float | None:
    """Return the seconds after which a target is ended."""
    try:
        seconds = duration_seconds(timeout) if isinstance(timeout, str) else timeout
    except ValueError as error:
        raise ForgefileError(f"target '{target}': timeout: {error}", location=caller()) from None
    if seconds is None or (type(seconds) in (int, float) and 0 < seconds < float("inf")):
        return None if seconds is None else float(seconds)
    raise ForgefileError(
        f"target '{target}': timeout is a duration such as '10min', or seconds, not {timeout!r}", location=caller()
    )
