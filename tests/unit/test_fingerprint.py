"""Manifests: their canonical form, and the words for every kind of edit."""

import json
from collections.abc import Mapping

import pytest

from forgefile.fingerprint import Manifest, canonical, decode, difference, encode, fingerprint
from forgefile.model import Cache, Call, Copy, Run, Value, Write
from forgefile.programs.debian import settle


class Part(Value):
    name: str
    size: int | None = 1
    label: str | None = "root"


class Disk(Value):
    table: str = "gpt"
    parts: tuple[Part, ...] = ()
    words: tuple[str, ...] = ()
    extra: Mapping[str, str] = {}


def manifest(*steps, **more):
    fields = {"output": "file", "epoch": 1, "inputs": (), "tools": (), **more}
    return Manifest(steps=tuple(map(canonical, steps)), **fields)


# The canonical form


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (Run(("ls", "-l")), '{"is":"Run","argv":["ls","-l"]}'),
        (Run(("ls",), root=None, env={}, network=False), '{"is":"Run","argv":["ls"]}'),
        (Run(("ls",), env={"B": "2", "A": "1"}), '{"is":"Run","argv":["ls"],"env":{"A":"1","B":"2"}}'),
        (Run(("ls",), retries=2, flaky=("mirror",)), '{"is":"Run","argv":["ls"]}'),
        (Write("/etc/motd", text="schön\n"), '{"is":"Write","path":"/etc/motd","text":"schön\\n"}'),
        (Copy("/a", "/b", mode=0o600), '{"is":"Copy","source":"/a","destination":"/b","mode":384}'),
        (Call(settle, root="/r"), '{"is":"Call","root":"/r","function":"forgefile.programs.debian.settle"}'),
        (
            Run(("x",), caches=(Cache(name="deb", path="/p"),)),
            '{"is":"Run","argv":["x"],"caches":[{"is":"Cache","name":"deb","path":"/p"}]}',
        ),
    ],
)
def test_canonical(step, text):
    assert canonical(step) == text


def test_a_step_of_something_else_than_data_is_refused():
    with pytest.raises(TypeError, match="a step holds object, which is no plain data"):
        canonical(Call(settle, (1, object())))


FULL = manifest(
    Run(("ls", "ä\udce9")),
    inputs=(("overlay", "aa"), ("rootfs", "bb")),
    tools=(("ls", "cc"),),
    sandbox=("1", "base rootfs"),
    output="tree",
)


def test_encode_and_decode():
    assert decode(encode(FULL)) == FULL
    assert encode(decode(encode(FULL))) == encode(FULL)
    assert decode(encode(manifest())) == manifest()


def test_fingerprint():
    assert fingerprint(FULL) == fingerprint(decode(encode(FULL)))
    assert len(fingerprint(FULL)) == 32
    assert int(fingerprint(FULL), 16)


@pytest.mark.parametrize(
    "other",
    [
        {"output": "tree"},
        {"epoch": 2},
        {"inputs": (("a", "2"),)},
        {"inputs": (("b", "1"),)},
        {"tools": (("a", "1"),)},
        {"sandbox": ("another",)},
        {"inputs": (("a", "1"), ("b", "1"))},
    ],
)
def test_everything_counts(other):
    base = {"inputs": (("a", "1"),)}
    assert fingerprint(manifest(**base)) != fingerprint(manifest(**{**base, **other}))


# Differences


def words(old, new, listings=lambda _: None):
    return list(difference(old, new, listings))


def edited(before, after):
    """Return the words for a source folder `overlay` whose listing changes."""
    root = {"": ("d", 0o755, "")}
    listings = {"1": {**root, **before}, "2": {**root, **after}}
    old, new = (manifest(inputs=(("overlay", digest),)) for digest in "12")
    return words(old, new, listings.get)


def test_nothing_differs():
    assert words(FULL, decode(encode(FULL))) == []


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({"motd": ("f", 0o644, "a")}, {"motd": ("f", 0o644, "b")}, ["overlay/motd: content changed"]),
        ({"motd": ("f", 0o644, "a")}, {"motd": ("f", 0o755, "a")}, ["overlay/motd: mode 0644 → 0755"]),
        ({"motd": ("f", 0o644, "a")}, {"motd": ("f", 0o600, "b")}, ["overlay/motd: content changed"]),
        ({}, {"etc/motd": ("f", 0o644, "a")}, ["overlay/etc/motd: added"]),
        ({"etc/motd": ("f", 0o644, "a")}, {}, ["overlay/etc/motd: removed"]),
        ({"x": ("l", 0, "a")}, {"x": ("l", 0, "b")}, ["overlay/x: link a → b"]),
        ({"x": ("f", 0o644, "a")}, {"x": ("l", 0, "b")}, ["overlay/x: file → symbolic link"]),
        ({"x": ("f", 0o644, "a")}, {"x": ("d", 0o755, "")}, ["overlay/x: file → folder"]),
        ({"x": ("p", 0o644, "0")}, {"x": ("f", 0o644, "a")}, ["overlay/x: special file → file"]),
        ({"": ("d", 0o700, "")}, {}, ["overlay: mode 0700 → 0755"]),
        ({"a": ("f", 0o644, "1"), "b": ("f", 0o644, "2")}, {"a": ("f", 0o644, "2"), "b": ("f", 0o644, "1")},
         ["overlay/a: content changed", "overlay/b: content changed"]),
    ],
)  # fmt: skip
def test_edits_of_a_source_folder(before, after, told):
    assert edited(before, after) == told


def test_edit_of_a_source_file():
    old, new = manifest(inputs=(("scripts/tune.sh", "1"),)), manifest(inputs=(("scripts/tune.sh", "2"),))
    listings = {"1": {"": ("f", 0o755, "a")}, "2": {"": ("f", 0o755, "b")}}
    assert words(old, new, listings.get) == ["scripts/tune.sh: content changed"]
    assert words(old, new) == ["scripts/tune.sh: content changed"]
    assert words(old, new, {"1": listings["1"], "2": listings["1"]}.get) == ["scripts/tune.sh: content changed"]


def test_inputs_that_come_go_and_change():
    old = manifest(inputs=(("rootfs", "1"), ("gone", "1")))
    new = manifest(inputs=(("rootfs", "2"), ("new", "1")))
    assert words(old, new) == ["rootfs: content changed", "new: a new input", "gone: no longer an input"]


def test_inputs_in_another_order():
    old, new = (manifest(inputs=order) for order in ((("a", "1"), ("b", "2")), (("b", "2"), ("a", "1"))))
    assert words(old, new) == ["the order of its inputs changed"]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (Run(("apt-get", "install", "vim")), Run(("apt-get", "install", "vim", "git")), ["apt-get: git added"]),
        (Run(("apt-get", "install", "vim", "git")), Run(("apt-get", "install", "git")), ["apt-get: vim removed"]),
        (Run(("mmdebstrap", "bookworm", "/out")), Run(("mmdebstrap", "trixie", "/out")),
         ["mmdebstrap: bookworm → trixie"]),
        (Run(("x",)), Run(("x",), network=True), ["x: network: default → true"]),
        (Run(("x",), env={"A": "1"}), Run(("x",), env={"A": "2"}), ['x: env: {"A": "1"} → {"A": "2"}']),
        (Run(("x",), env={"A": "1"}), Run(("x",)), ['x: env: {"A": "1"} → default']),
        (Run(("sort", "a")), Run(("uniq", "a")), ["step removed: sort a", "step added: uniq a"]),
        (Run(("sh", "-c", "a" * 80 + "1")), Run(("sh", "-c", "a" * 80 + "2")),
         [f"sh: {'a' * 59}… → {'a' * 59}…"]),
        (Run(("sh", "-c", "a b")), Run(("sh", "-c", "a  b")), ["sh: a b → a b"]),
        (Write("/etc/motd", text="a"), Write("/etc/motd", text="b"), ["write /etc/motd: content changed"]),
        (Write("/etc/motd", text="a"), Write("/etc/motd", text="a", mode=0o600),
         ["write /etc/motd: mode: default → 384"]),
        (Write("/a", text="a"), Write("/b", text="a"), ["write /b: path: /a → /b"]),
        (Copy("/s", "/"), Copy("/s", "/srv"), ["copy /s: destination: / → /srv"]),
        (Copy("/s", "/"), Copy("/s", "/", owner=(1, 2)), ["copy /s: owner: default → [1, 2]"]),
        (Call(settle, 1), Call(settle, 2), ["argument: 1 → 2"]),
        (Call(settle), Call(settle, (1,)), ["argument: default → [1]"]),
    ],
)  # fmt: skip
def test_edits_of_a_step(old, new, told):
    assert words(manifest(old), manifest(new)) == told


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (Disk(), Disk(table="mbr"), ["table: default → mbr"]),
        (Disk(parts=(Part(name="esp"),)), Disk(parts=(Part(name="esp", size=2),)), ["parts.esp.size: default → 2"]),
        (Disk(parts=(Part(name="esp"),)), Disk(parts=(Part(name="esp", size=None),)),
         ["parts.esp.size: default → none"]),
        (Disk(parts=(Part(name="a"),)), Disk(parts=(Part(name="a"), Part(name="b"))),
         ['parts.b: default → {"is": "Part", "name": "b"}']),
        (Disk(parts=(Part(name="a"), Part(name="b"))), Disk(parts=(Part(name="b"), Part(name="a"))),
         ["parts: order a, b → b, a"]),
        (Disk(parts=(Part(name="a"), Part(name="a"))), Disk(parts=(Part(name="a"), Part(name="a", size=3))),
         ['parts: {"is": "Part", "name": "a"} → {"is": "Part", "name": "a", "size": 3}']),
        (Disk(words=("a", "b")), Disk(words=("a", "c")), ["words: b → c"]),
        (Disk(extra={"k": "1"}), Disk(extra={"k": "2"}), ["extra.k: 1 → 2"]),
    ],
)  # fmt: skip
def test_edits_of_a_calls_argument(old, new, told):
    assert words(manifest(Call(settle, old)), manifest(Call(settle, new))) == told


def test_steps_that_come_and_go():
    first, second, third = Write("/a", text=""), Run(("x",)), Call(settle)
    assert words(manifest(first, third), manifest(first, second, third)) == ["step added: x"]
    assert words(manifest(first, second, third), manifest(second, third)) == ["step removed: write /a"]
    assert words(manifest(third), manifest()) == ["step removed: settle"]
    assert words(manifest(), manifest(Copy("/s", "/d"))) == ["step added: copy /s"]


def test_a_long_command_is_cut():
    (told,) = words(manifest(), manifest(Run(("x", "y" * 100))))
    assert told == f"step added: x {'y' * 57}…"


def test_tools():
    old = manifest(tools=(("mke2fs", "1"), ("sfdisk", "1")))
    new = manifest(tools=(("mke2fs", "2"), ("xz", "1")))
    assert words(old, new) == ["tool mke2fs: changed", "tool xz: now used", "tool sfdisk: no longer used"]


def test_the_rest():
    assert words(manifest(epoch=1), manifest(epoch=2)) == ["SOURCE_DATE_EPOCH: 1 → 2"]
    assert words(manifest(sandbox=("1",)), manifest(sandbox=("2",))) == ["the sandbox changed"]
    assert words(manifest(), manifest(output="tree")) == ["the sandbox changed"]
    for how in ("base root", "scratch root"):
        assert words(manifest(), manifest(sandbox=(*manifest().sandbox, how))) == ["which of its trees it may change"]


def test_what_a_person_edits_stands_first():
    old = manifest(Run(("x",)), inputs=(("motd", "1"),), tools=(("x", "1"),), epoch=1)
    new = manifest(Run(("x", "y")), inputs=(("motd", "2"),), tools=(("x", "2"),), epoch=2)
    assert words(old, new) == ["motd: content changed", "x: y added", "tool x: changed", "SOURCE_DATE_EPOCH: 1 → 2"]


def test_the_same_words_are_told_once():
    old, new = (manifest(Run(("x", word)), Run(("x", word))) for word in "ab")
    assert words(old, new) == ["x: a → b"]


def test_a_manifest_is_a_text_of_one_line():
    assert "\n" not in encode(manifest(Write("/x", text="a\nb")))
    assert json.loads(encode(FULL))[0] == "tree"
