"""What decides a target's content, and how two such decisions differ.

A `Manifest` is hashed to get the fingerprint, compared to find out whether a target is dirty, and shown to say why:
one value, so that they cannot disagree. Pure: digests come in, nothing is read.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import xxhash

from forgefile.model import Step, Value

_MIB = 1 << 20
SANDBOX = 3
"""Raised when forge itself changes what a step sees or what is kept of it."""

_RESUMED = "resumed"
_NOT_WHOLE = "it was resumed after a failure, and so is not clean"

Listing = Mapping[str, tuple[str, int, str]]
"""What a source folder holds: path below it → (type: f, d, l or another letter, mode bits, digest or link target)."""


class Manifest(Value):
    """Everything that decides a target's content."""

    output: str
    """`file` or `tree`."""
    epoch: int
    """Seconds since 1970: the clock that steps are told and the latest time that an output's files have."""
    steps: tuple[str, ...]
    """Each step in canonical JSON; fields that have their default are left out."""
    inputs: tuple[tuple[str, str], ...]
    """(name, digest) of each target and each source, in the order of the rule's fields."""
    tools: tuple[tuple[str, str], ...]
    """(name, digest) of each host program and data file that the steps use."""
    sandbox: tuple[str, ...] = (str(SANDBOX),)
    """The revision of the sandbox, and which input trees are not only read: `base NAME`, `scratch NAME`."""


def canonical(step: Step) -> str:
    """Return a step as JSON with a fixed order of fields. Raises UnicodeError for what no program can be given."""
    text = json.dumps(_plain(step), ensure_ascii=False, separators=(",", ":"))
    text.encode("utf-8", "surrogateescape")
    return text


def _plain(value: Any) -> Any:
    """Return a value as JSON data; of a `Value` only the fields that differ from their default and decide something."""
    if isinstance(value, Value):
        fields = type(value).__fields__
        aside = getattr(value, "UNDECIDING", ())
        set_ = {k: _plain(v) for k, v in value.__dict__.items() if fields[k] != v and k not in aside}
        return {"is": type(value).__name__, **set_}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(k): _plain(value[k]) for k in sorted(value)}
    if callable(value):
        return f"{value.__module__}.{value.__qualname__}"
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(f"a step holds {type(value).__name__}, which is no plain data")


def encode(manifest: Manifest) -> str:
    """Return the manifest as text, from which `decode` makes it again."""
    return json.dumps(list(manifest.__dict__.values()), ensure_ascii=False, separators=(",", ":"))


def decode(text: str) -> Manifest:
    """Return the manifest that `encode` made a text of."""
    return Manifest(**dict(zip(Manifest.__fields__, _tuples(json.loads(text)), strict=True)))


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def fingerprint(manifest: Manifest) -> str:
    """Return the hash of a manifest: 32 hexadecimal digits, and `-resumed` if that is so."""
    digest = xxhash.xxh3_128_hexdigest(encode(manifest).encode("utf-8", "surrogateescape"))
    return digest if is_whole(manifest) else f"{digest}-{_RESUMED}"


def resumed(manifest: Manifest) -> Manifest:
    """Return the manifest of a build that goes on from where one of this manifest, or almost, has failed."""
    revision, *trees = manifest.sandbox
    return Manifest(**{**manifest.__dict__, "sandbox": (f"{revision} {_RESUMED}", *trees)})


def is_whole(manifest: Manifest) -> bool:
    """Tell whether a manifest is that of a build from nothing, so that the result depends on nothing else."""
    return not manifest.sandbox[0].endswith(_RESUMED)


# The difference, in words --------------------------------------------------------------------------------------------

Listings = Callable[[str], Listing | None]
"""Looks up what the source folder with that digest holds, if it is still known."""


def difference(old: Manifest, new: Manifest, listings: Listings = lambda _: None) -> tuple[str, ...]:
    """Return in words what differs between two manifests, what a person edits first."""
    if not is_whole(old) and is_whole(new):
        return _NOT_WHOLE, *difference(old, resumed(new), listings)
    words: list[str] = []
    for name, before, after in _changed(old.inputs, new.inputs):
        words += _input_words(name, before, after, listings)
    words += _step_words([json.loads(step) for step in old.steps], [json.loads(step) for step in new.steps])
    words += [_tool_words(*change) for change in _changed(old.tools, new.tools)]
    if old.epoch != new.epoch:
        words.append(f"SOURCE_DATE_EPOCH: {old.epoch} → {new.epoch}")
    if (old.output, old.sandbox[0]) != (new.output, new.sandbox[0]):
        words.append("the sandbox changed")
    elif old.sandbox != new.sandbox:
        words.append("which of its trees it may change")
    if not words and old != new:
        words.append("the order of its inputs changed")
    return tuple(dict.fromkeys(words))


def _changed(
    old: Iterable[tuple[str, str]], new: Iterable[tuple[str, str]]
) -> Iterable[tuple[str, str | None, str | None]]:
    before, after = dict(old), dict(new)
    for name in dict.fromkeys((*after, *before)):
        if before.get(name) != after.get(name):
            yield name, before.get(name), after.get(name)


def _input_words(name: str, before: str | None, after: str | None, listings: Listings) -> Iterable[str]:
    if before is None or after is None:
        return [f"{name}: {'a new input' if before is None else 'no longer an input'}"]
    old, new = listings(before), listings(after)
    if old is None or new is None:
        return [f"{name}: content changed"]
    paths = sorted(path for path in {**old, **new} if old.get(path) != new.get(path))
    return [_entry_words(name, path, old.get(path), new.get(path)) for path in paths] or [f"{name}: content changed"]


def _entry_words(
    name: str, path: str, before: tuple[str, int, str] | None, after: tuple[str, int, str] | None
) -> str:
    shown = f"{name}/{path}" if path else name
    if before is None or after is None:
        return f"{shown}: {'added' if before is None else 'removed'}"
    if before[0] != after[0]:
        return f"{shown}: {_TYPES.get(before[0], 'special file')} → {_TYPES.get(after[0], 'special file')}"
    if before[2] != after[2]:
        return f"{shown}: link {before[2]} → {after[2]}" if after[0] == "l" else f"{shown}: content changed"
    return f"{shown}: mode {before[1]:04o} → {after[1]:04o}"


_TYPES = {"f": "file", "d": "folder", "l": "symbolic link"}


def _tool_words(name: str, before: str | None, after: str | None) -> str:
    if before is None or after is None:
        return f"tool {name}: {'now used' if before is None else 'no longer used'}"
    return f"tool {name}: changed"


def _step_words(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> Iterable[str]:
    """Return the difference of two lists of steps, step by step where they can be paired."""
    from difflib import SequenceMatcher  # noqa: PLC0415  only a change needs it

    matcher = SequenceMatcher(None, [repr(s) for s in old], [repr(s) for s in new], autojunk=False)
    for kind, i, j, k, m in matcher.get_opcodes():
        if kind == "equal":
            continue
        before, after = old[i:j], new[k:m]
        while before and after and _kind(before[0]) == _kind(after[0]):
            yield from _field_words(before.pop(0), after.pop(0))
        yield from (f"step removed: {_title(step)}" for step in before)
        yield from (f"step added: {_title(step)}" for step in after)


def _kind(step: dict[str, Any]) -> tuple[Any, ...]:
    return step["is"], step.get("function"), (step.get("argv") or [None])[0]


def _title(step: dict[str, Any]) -> str:
    match step["is"]:
        case "Run":
            words = " ".join(str(word) for word in step["argv"])
            return words if len(words) <= 60 else words[:59] + "…"  # noqa: PLR2004  fits a terminal line
        case "Write":
            return f"write {step['path']}"
        case "Copy":
            return f"copy {step['source']}"
    return str(step.get("function", "")).rpartition(".")[2]


def _field_words(old: dict[str, Any], new: dict[str, Any]) -> Iterable[str]:
    title = str(new["argv"][0]) if new["is"] == "Run" else _title(new)
    for name in dict.fromkeys((*new, *old)):
        before, after = old.get(name, _ABSENT), new.get(name, _ABSENT)
        if repr(before) == repr(after):
            continue
        if name == "argv":
            yield from (f"{title}: {words}" for words in _list_words(old[name][1:], new[name][1:]))
        elif name == "argument":
            yield from _data_words(before, after, "")
        elif name == "text":
            yield f"{title}: content changed"
        else:
            yield f"{title}: {name}: {_short(before)} → {_short(after)}"


def _list_words(old: list[Any], new: list[Any]) -> Iterable[str]:
    from difflib import SequenceMatcher  # noqa: PLC0415

    before, after = [_short(x) for x in old], [_short(x) for x in new]
    matcher = SequenceMatcher(None, [repr(x) for x in old], [repr(x) for x in new], autojunk=False)
    for kind, i, j, k, m in matcher.get_opcodes():
        if kind == "replace":
            yield f"{' '.join(before[i:j])} → {' '.join(after[k:m])}"
        elif kind == "delete":
            yield f"{' '.join(before[i:j])} removed"
        elif kind == "insert":
            yield f"{' '.join(after[k:m])} added"


def _data_words(old: Any, new: Any, path: str) -> Iterable[str]:
    """Return the difference of two JSON values as `path: old → new`; a list's items go by their `name`, if any."""
    old, new = _named(old), _named(new)
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys((*new, *old)):
            before, after = old.get(key, _ABSENT), new.get(key, _ABSENT)
            if repr(before) != repr(after):
                yield from _data_words(before, after, f"{path}.{key}".lstrip("."))
        before, after = [key for key in old if key in new], [key for key in new if key in old]
        if before != after:
            yield f"{path or 'argument'}: order {', '.join(before)} → {', '.join(after)}"
    elif isinstance(old, list) and isinstance(new, list):
        yield from (f"{path or 'argument'}: {words}" for words in _list_words(old, new))
    else:
        yield f"{path or 'argument'}: {_short(old)} → {_short(new)}"


def _named(value: Any) -> Any:
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        named = {item["name"]: item for item in value if isinstance(item.get("name"), str)}
        return named if len(named) == len(value) else value
    return value


_ABSENT: Any = object()
"""Stands for a field that a step leaves out, since it has its default."""


def _short(value: Any) -> str:
    if value is _ABSENT:
        return "default"
    if value is None:
        return "none"
    if isinstance(value, int) and value >= _MIB and not value % _MIB:
        return f"{value // _MIB}MiB"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:59] + "…"  # noqa: PLR2004  fits a terminal line
