"""The values of a build: artifacts, rules and steps.

Everything here is a frozen record made by `Value`. A rule turns its fields into steps; steps are plain data and the
only thing that ever crosses to a worker. This module is unaware of files, processes and the store.
"""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, dataclass_transform

from forgefile.errors import ForgefileError, did_you_mean, nearest
from forgefile.location import Location, caller

_REQUIRED: Any = object()


class _Spec:
    """What `field` was told of a field, until the class is made."""

    def __init__(self, default: Any, kw_only: bool) -> None:
        self.default = default
        self.kw_only = kw_only


def field(*, default: Any = _REQUIRED, kw_only: bool = True) -> Any:
    """Describe a field of a `Value`; `kw_only=False` lets it be given by position."""
    return _Spec(default, kw_only)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
class Value:
    """A frozen record with named, typed, checked fields.

    A subclass annotates its fields, as a dataclass does. They are keyword-only unless declared with
    `field(kw_only=False)`. A wrong type, an unknown field and a missing one are errors that name the line of the
    Forgefile. Values are compared and hashed by class and fields.

    Raises `ForgefileError` when a field is not what its annotation says, or when `check` refuses the whole.
    """

    __fields__: ClassVar[dict[str, Any]] = {}
    __positional__: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        fields, positional = dict(cls.__fields__), list(cls.__positional__)
        for name, annotation in cls.__annotations__.items():
            if str(annotation).startswith(("ClassVar", "typing.ClassVar")):
                continue
            default = cls.__dict__.get(name, _REQUIRED)
            if isinstance(default, _Spec):
                if not default.kw_only:
                    positional.append(name)
                default = default.default
            if name in cls.__dict__:
                delattr(cls, name)
            fields[name] = default
        cls.__fields__, cls.__positional__ = fields, tuple(positional)

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        cls = type(self)
        if len(arguments) > len(cls.__positional__):
            raise self._error(f"takes {len(cls.__positional__)} positional argument(s); name the others")
        for name, value in zip(cls.__positional__, arguments, strict=False):
            if name in keywords:
                raise self._error(f"got the field '{name}' twice")
            keywords[name] = value
        values = self.__dict__
        checks = _checks(cls)
        for name in keywords.keys() - cls.__fields__.keys():
            raise self._error(f"has no field '{name}'", hint=did_you_mean(name, list(cls.__fields__)))
        for name, default in cls.__fields__.items():
            value = keywords.get(name, default)
            if value is _REQUIRED:
                raise self._error(f"needs the field '{name}'")
            if value is not default and not checks[name](value):
                place, wanted, found = _mismatch(typing.get_type_hints(cls, include_extras=True)[name], value)
                problem = f"{place}expected {_words(wanted)}, got {_found(found)}"
                raise self._error(f"field '{name}': {problem}", hint=_advice(wanted, found))
            values[name] = value
        self.check()

    @classmethod
    def known(cls, fields: Mapping[str, Any]) -> Self:
        """Make a value of all its fields, none of which is checked: they were another value's."""
        value = cls.__new__(cls)
        value.__dict__.update(fields)
        return value

    def check(self) -> None:
        """Refuse fields that do not fit together by raising `self.refuse(…)`. For subclasses to override."""

    def refuse(self, field_name: str, problem: str, hint: str | None = None) -> ForgefileError:
        """Return the error that says what is wrong with a field."""
        return self._error(f"field '{field_name}': {problem}", hint=hint)

    def _error(self, problem: str, hint: str | None = None) -> ForgefileError:
        return ForgefileError(f"{type(self).__name__} {problem}", location=caller(), hint=hint)

    def __setattr__(self, name: str, value: Any) -> None:
        raise self._error(f"is frozen: its field '{name}' cannot be set; make a new one")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((type(self), *(frozenset(v.items()) if isinstance(v, dict) else v for v in self.__dict__.values())))

    def __repr__(self) -> str:
        shown = (f"{k}={v!r}" for k, v in self.__dict__.items() if type(self).__fields__[k] != v)
        return f"{type(self).__name__}({', '.join(shown)})"


_Check = Callable[[Any], bool]
_NUMBERS = {int: (int,), float: (int, float)}
_compiled: dict[type, dict[str, _Check]] = {}


def _checks(cls: type[Value]) -> dict[str, _Check]:
    """Return the compiled type checks of a class, by field; made once, when its first value is."""
    found = _compiled.get(cls)
    if found is None:
        hints = typing.get_type_hints(cls, include_extras=True)
        found = _compiled[cls] = {name: _check(hints[name]) for name in cls.__fields__}
    return found


def _check(hint: Any) -> _Check:  # noqa: PLR0911  one return for each form of type
    """Compile a type annotation into a predicate. Knows the forms that fields of Values use."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return lambda _: True
    if origin is Annotated:
        return _output_check(arguments[1]) if arguments[0] is Target else _check(arguments[0])
    if origin in (types.UnionType, typing.Union):
        members = [_check(argument) for argument in arguments]
        return lambda value: any(member(value) for member in members)
    if origin is Literal:
        return lambda value: value in arguments and type(value) in {type(a) for a in arguments}
    if origin is tuple and arguments[-1] is Ellipsis:
        item = _check(arguments[0])
        return lambda value: type(value) is tuple and all(map(item, value))
    if origin is tuple:
        parts = [_check(argument) for argument in arguments]
        return lambda value: (
            type(value) is tuple and len(value) == len(parts) and all(p(v) for p, v in zip(parts, value, strict=True))
        )
    if origin is not None and issubclass(origin, Mapping):
        key, item = _check(arguments[0]), _check(arguments[1])
        return lambda value: isinstance(value, Mapping) and all(key(k) and item(v) for k, v in value.items())
    if origin is not None and issubclass(origin, Callable):  # type: ignore[arg-type]
        return callable
    if hint in _NUMBERS:
        return lambda value: type(value) in _NUMBERS[hint]
    return lambda value: isinstance(value, origin or hint)


def _output_check(output: str) -> _Check:
    return lambda value: isinstance(value, Target) and value.output == output


# What a wrong field is told as ---------------------------------------------------------------------------------------


def _mismatch(hint: Any, value: Any) -> tuple[str, Any, Any]:
    """Return what of a value is not as annotated: where it stands, in words, what it should be, and what it is."""
    for member in _members(hint):
        for place, wanted, item in _parts(member, value):
            if not _check(wanted)(item):
                below, wanted, item = _mismatch(wanted, item)  # noqa: PLW2901  the last that is looked at
                return f"{place}: {below}", wanted, item
    return "", hint, value


def _members(hint: Any) -> tuple[Any, ...]:
    """Return the types that a union is of, or the one type that it is not."""
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def _parts(hint: Any, value: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield what a tuple or a mapping is made of: where it stands, what it should be, and what it is."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and type(value) is tuple:
        items = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(items) == len(value):
            yield from ((f"element {at}", *pair) for at, pair in enumerate(zip(items, value, strict=True)))
    elif isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        for key, item in value.items():
            yield "a key", arguments[0], key
            yield f"the value of {key!r}", arguments[1], item


def _choices(hint: Any) -> tuple[Any, ...]:
    """Return the values that are allowed where an annotation allows no others, but for None."""
    members = [member for member in _members(hint) if member is not types.NoneType]
    if any(typing.get_origin(member) is not Literal for member in members):
        return ()
    return tuple(choice for member in members for choice in typing.get_args(member))


def _words(hint: Any) -> str:
    """Return an annotation in words."""
    if choices := _choices(hint):
        none = " or None" if types.NoneType in _members(hint) else ""
        return f"one of {', '.join(map(repr, choices))}{none}"
    return f"the handle of a {hint.__metadata__[0]} target" if hint in (Tree, File) else _short(hint)


def _short(hint: Any) -> str:
    """Return an annotation as a Forgefile would have it, with names that have no module."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return str(arguments[1]).capitalize() if hint in (Tree, File) else _short(arguments[0])
    if len(members := _members(hint)) > 1:
        return " | ".join(map(_short, members))
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]"
    if origin is None or (isinstance(origin, type) and issubclass(origin, Callable)):  # type: ignore[arg-type]
        return {types.NoneType: "None", Ellipsis: "..."}.get(hint) or str(getattr(origin or hint, "__name__", hint))
    return f"{origin.__name__}[{', '.join(map(_short, arguments))}]"


def _found(value: Any) -> str:
    """Return a value in words, with what was probably forgotten."""
    words = repr(value) if isinstance(value, Value) else f"{type(value).__name__} {value!r}"
    match value:
        case Target():
            words = f"the handle of the {value.output} target '{value.name}'"
        case Source():
            words = f"the source '{value.path}'"
        case Secret():
            words = f"the secret '{value.name}'"
        case list():
            words = f"a list; write a tuple: {tuple(value)!r}"
        case str():
            words = f"the string {value!r}"
        case type():
            words = f"the class {value.__name__}"
    return words


def _advice(hint: Any, value: Any) -> str | None:
    """Return what was probably meant by a value that an annotation does not allow."""
    many = typing.get_origin(hint) is tuple and typing.get_args(hint)[-1] is Ellipsis
    if many and _check(item := typing.get_args(hint)[0])(value):
        words = f": {tuple(value.split())!r}" if isinstance(value, str) else " of one with a comma: (…,)"
        return f"write a tuple{words}"
    if many:
        return _advice(item, value)
    members = _members(hint)
    if isinstance(value, type) and value in members:
        return f"write {value.__name__}(…)"
    if isinstance(value, (str, Rule)):
        return _named(value, members)
    return None


def _named(value: str | Rule, members: tuple[Any, ...]) -> str | None:
    """Return what was meant by a text that may be a name, or by a rule that has none."""
    choices = [choice for member in members for choice in _choices(member) if isinstance(choice, str)]
    if isinstance(value, str) and (near := nearest(value, choices)):
        return f"did you mean '{near}'?"
    hints = [f"write forge.source({value!r})"] if Source in members and isinstance(value, str) else []
    if any(member in (Target, Tree, File) for member in members):
        hints.append("give what forge.target returned")
    if Secret in members and not hints:
        hints.append("give what forge.secret returned")
    return ", or ".join(hints) or None


# Artifacts -----------------------------------------------------------------------------------------------------------


class Source(Value):
    """A file or folder that people write, by its path relative to the Forgefile. Only ever read."""

    path: str


class Secret(Value):
    """What only the steps of the targets that take it may read: the content of a file or of a variable.

    `Forge.secret` makes one. Its content is not here, and comes into no text that forge writes.
    """

    name: str
    file: str | None = None
    """The path of the file, relative to the Forgefile."""
    env: str | None = None
    """The name of the environment's variable, where there is no file."""


class Pool(NamedTuple):
    """A named, limited resource, of which targets hold some while they run. `Forge.pool` makes one.

    It says when a target runs and decides nothing of its content. `capacity` None: as much as the machine has.
    """

    name: str
    capacity: int | None = None


CORES = Pool("cores")
"""As many as targets may run at once (`-j`). Every target holds one or more."""
MEMORY = Pool("memory")
"""The bytes of the machine's memory."""


class Target:
    """A named thing that a rule makes: the handle that `Forge.target` returns, and the input of other rules.

    `pools` says how much it holds of which while it runs, `timeout_s` after how many seconds it is ended, `budget` how
    many bytes its output may take.
    """

    __slots__ = ("budget", "inputs", "location", "name", "output", "pools", "rule", "timeout_s")

    def __init__(
        self,
        name: str,
        rule: Rule,
        location: Location | None,
        *,
        pools: Mapping[Pool, int] | None = None,
        timeout_s: float | None = None,
        budget: int | None = None,
        inputs: tuple[Artifact, ...] | None = None,
    ) -> None:
        self.name = name
        self.rule = rule
        self.location = location
        self.pools: Mapping[Pool, int] = {CORES: 1, **(pools or {})}
        self.timeout_s = timeout_s
        self.budget = budget
        self.output: Output = rule.output
        self.inputs: tuple[Artifact, ...] = artifacts(rule) if inputs is None else inputs

    @property
    def base(self) -> Target | None:
        """The tree to which the output adds a layer, if it does."""
        base = getattr(self.rule, "base", None)
        return base if self.output == "tree" and isinstance(base, Target) else None

    def __repr__(self) -> str:
        return f"<{self.output} target {self.name}>"


Artifact = Source | Target | Secret
Output = Literal["file", "tree"]
Tree = Annotated[Target, "tree"]
"""The handle of a target whose output is a tree: a root file system, with owners, modes, links and devices."""
File = Annotated[Target, "file"]
"""The handle of a target whose output is one file."""


def artifacts(value: object) -> tuple[Artifact, ...]:
    """Return the artifacts in the fields of a value, each once, in the order of the fields; secrets come last."""
    return tuple(sorted(dict.fromkeys(_walk(value)), key=lambda artifact: isinstance(artifact, Secret)))


def _walk(value: object) -> Iterator[Artifact]:
    if isinstance(value, (Source, Target, Secret)):
        yield value
    elif isinstance(value, Value):
        for item in value.__dict__.values():
            yield from _walk(item)
    elif isinstance(value, (tuple, frozenset)):
        for item in value:
            yield from _walk(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _walk(item)


def places(value: object, artifact: Artifact, at: str = "") -> Iterator[str]:
    """Yield where in a value an artifact stands, as Python would write it: `base`, `partitions[2].tree`."""
    if isinstance(value, Value) and not (at and isinstance(value, (Source, Secret))):
        items = [(f"{at}.{name}" if at else name, item) for name, item in value.__dict__.items()]
    elif isinstance(value, tuple):
        items = [(f"{at}[{index}]", item) for index, item in enumerate(value)]
    elif isinstance(value, frozenset):
        items = [(at, item) for item in value]
    elif isinstance(value, Mapping):
        items = [(f"{at}[{key!r}]", item) for key, item in value.items()]
    else:
        items = []
        if value == artifact:
            yield at
    for place, item in items:
        yield from places(item, artifact, place)


# Rules ---------------------------------------------------------------------------------------------------------------


class Rule(Value):
    """A typed value that says how a target is made.

    A subclass annotates its fields, says `output = "tree"` if it makes a tree and not a file, and describes its steps.
    Its inputs are the artifacts in its fields, however deep. A tree rule with a field `base` adds a layer to that
    tree: `box.out` then holds the base's content, and what the steps change there is the layer.

    `steps` must depend on nothing but the fields and `box`: it runs every time that forge plans.
    """

    output: ClassVar[Output] = "file"
    repeats: ClassVar[bool] = True
    """Whether the same inputs give the same bits. `forge verify` does not compare what a rule without this promise
    makes, but asks that it can be made again."""

    budget: str | None = None
    """How much the output may take (`"400MiB"`): a file its bytes, a tree the content of all files in it, those of its
    base as well. A target that is over it fails, with what takes the room and what grew. It decides nothing else:
    another budget runs no step. Default: none."""

    def steps(self, box: Sandbox) -> Iterable[Step]:
        """Return what has to be done, in order."""
        raise NotImplementedError(f"{type(self).__name__}.steps")


class Sandbox:
    """What a rule may know of the place where its steps will run: paths, and nothing of the host.

    The paths are the same whether a step sees the host's tools (`Run.root` is None) or has entered a tree.
    """

    prefix: ClassVar[str] = "/run/forge"
    out: ClassVar[str] = "/run/forge/out"
    """Where the output is to be made: the path of a file that is not there yet, or a folder that is the tree."""
    tmp: ClassVar[str] = "/run/forge/tmp"
    """A folder that all steps of one target share and that is thrown away."""

    def __init__(self) -> None:
        self.scratched: list[Target] = []

    def path(self, artifact: Artifact) -> str:
        """Return where an input is seen, read-only; a tree is a folder, a secret a file that only root may read."""
        if isinstance(artifact, Target):
            return f"{self.prefix}/in/{artifact.name}"
        if isinstance(artifact, Secret):
            return f"{self.prefix}/secret/{artifact.name}"
        if artifact.path.startswith("/"):
            return f"{self.prefix}/root{artifact.path}"
        above = artifact.path.count("../")
        return f"{self.prefix}/src{above or ''}/{artifact.path.removeprefix('../' * above)}"

    def scratch(self, tree: Target) -> str:
        """Return where an input tree is seen with changes allowed that are thrown away; nothing is copied."""
        if tree not in self.scratched:
            self.scratched.append(tree)
        return f"{self.prefix}/scratch/{tree.name}"


# Steps ---------------------------------------------------------------------------------------------------------------


class Cache(Value):
    """A folder that steps of all targets share through the store, to save work and never to decide a result.

    The step sees a copy of its own (hard links) at `path`; whole files that it adds are kept for others, however the
    step ends, but for those in folders named `partial` and files named `lock`.

    `downloads`: what lies there is as it was downloaded, so that its size tells how much there was to download.
    """

    UNDECIDING: ClassVar[tuple[str, ...]] = ("downloads",)

    name: str
    path: str
    downloads: bool = False


class Step(Value):
    """One thing to do, as plain data. The closed union of its kinds: `Run`, `Write`, `Copy`, `Call`.

    `root` is the tree that the step enters (`box.out`, or what `box.scratch` returned): paths are then paths in that
    tree and links in it lead nowhere else. None: it sees the host's tools, read-only.
    """

    UNDECIDING: ClassVar[tuple[str, ...]] = ()
    """The fields that decide nothing of the output."""

    root: str | None = None


class Run(Step):
    """Run a program: `argv[0]` is found by PATH on the host, or in the tree that `root` names.

    `stdout` is a path that receives the standard output, `stdin` a text. `tools` names further host programs and
    data files that the program uses and whose change must rebuild. `network` lends the host's network and resolver.

    `mounts` lets the program mount what it likes where nobody else sees it: it is root of a user namespace of its own.
    There it can make no device nodes.

    `jobserver` lets the program and make(1) below it run as many processes at once as there are idle cores: it gets
    MAKEFLAGS. A program for which a number of processes is given does not listen to it.

    When the program fails and `retries` is not 0, all steps of the target are done again that many times, after a
    while and from nothing; if `flaky` is not empty, only when a line of what it printed has one of these texts.
    """

    UNDECIDING = ("retries", "flaky")

    argv: tuple[str, ...] = field(kw_only=False)
    stdin: str | None = None
    stdout: str | None = None
    env: Mapping[str, str] = {}
    cwd: str | None = None
    network: bool = False
    mounts: bool = False
    tools: tuple[str, ...] = ()
    caches: tuple[Cache, ...] = ()
    jobserver: bool = False
    retries: int = 0
    flaky: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse an empty argv, and less than no retries."""
        if not self.argv:
            raise self.refuse("argv", "is empty")
        if self.retries < 0:
            raise self.refuse("retries", f"is {self.retries}; expected a number from 0")


class Write(Step):
    """Write a text to a file that belongs to root; missing folders on the way are made."""

    path: str = field(kw_only=False)
    text: str
    mode: int = 0o644


class Copy(Step):
    """Copy a file, or what a folder holds, to `destination`; missing folders on the way are made.

    Everything gets the owner `owner` (user, group) and keeps its mode, but for `mode` (of the file itself) and `modes`
    (glob of a path below the folder → mode; the last that fits counts). `owners` likewise. An existing folder
    keeps its own mode and owner. Times are not copied. Symbolic links are copied as links.
    """

    source: str = field(kw_only=False)
    destination: str = field(kw_only=False)
    owner: tuple[int, int] = (0, 0)
    mode: int | None = None
    modes: tuple[tuple[str, int], ...] = ()
    owners: tuple[tuple[str, int, int], ...] = ()


class Call(Step):
    """Call one of forge's own programs, a function of an importable module, with plain data.

    The module's source counts as a tool. `tools` names the host programs that the function runs. `network` and `mounts`
    are those of `Run`.
    """

    function: Callable[..., None] = field(kw_only=False)
    argument: Any = field(default=None, kw_only=False)
    network: bool = False
    mounts: bool = False
    tools: tuple[str, ...] = ()
    caches: tuple[Cache, ...] = ()

    @property
    def name(self) -> str:
        """The function's importable name."""
        return f"{self.function.__module__}.{self.function.__qualname__}"

    @property
    def module_file(self) -> str:
        """The path of the source of the function's module."""
        return str(sys.modules[self.function.__module__].__file__)


def uses_network(step: Step) -> bool:
    """Tell whether a step has the host's network."""
    return bool(getattr(step, "network", False))


def tools(step: Step) -> tuple[str, ...]:
    """Return the host programs and data files that a step uses: names to find by PATH, or absolute paths.

    A program that is an input, or that an earlier step made, is none of the host's.
    """
    match step:
        case Run(root=None) if not step.argv[0].startswith(Sandbox.prefix):
            return (step.argv[0], *step.tools)
        case Run():
            return step.tools
        case Call():
            return (step.module_file, *step.tools)
    return ()
