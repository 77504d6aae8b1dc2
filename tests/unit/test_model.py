"""Values: what a field takes, how a wrong one is told, and what follows from being values."""

import fnmatch
import pickle
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal

import pytest

from forgefile.errors import ForgefileError
from forgefile.model import (
    Artifact,
    Cache,
    Call,
    Copy,
    File,
    Rule,
    Run,
    Sandbox,
    Secret,
    Source,
    Tree,
    Value,
    Write,
    artifacts,
    field,
    tools,
)
from tests.conftest import NeedsTree, make, make_tree

TREE = make_tree("rootfs")
FILE = make("disk.img")
WORDS = Source(path="words.txt")
KEY = Secret(name="key", env="KEY")


class Inner(Value):
    source: Source | None = None


class Everything(Value):
    name: str = field(default="x", kw_only=False)
    number: int = 0
    flag: bool = False
    maybe: int | None = None
    choice: Literal["a", "b"] = "a"
    words: tuple[str, ...] = ()
    pair: tuple[int, str] = (0, "")
    table: Mapping[str, int] = {}
    tree: Tree | None = None
    file: File | None = None
    trees: tuple[Tree, ...] = ()
    artifact: Artifact | None = None
    function: Callable[..., Any] | None = None
    inner: Inner = Inner()
    anything: Any = None
    key: Secret | None = None
    form: Literal["json", "text", 3] | None = None
    many: tuple[str | tuple[str, Source | Secret], ...] = ()


class Pair(Value):
    left: int = field(kw_only=False)
    right: int = field(kw_only=False, default=2)
    total: int | None = None

    def check(self) -> None:
        if self.left > self.right:
            raise self.refuse("left", f"{self.left} is more than {self.right}", hint="swap them")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"name": "y", "number": -3, "flag": True, "maybe": 4},
        {"choice": "b", "words": ("a", "b"), "pair": (1, "b"), "table": {"a": 1}},
        {"tree": TREE, "file": FILE, "trees": (TREE, TREE), "artifact": WORDS},
        {"artifact": FILE, "function": len, "inner": Inner(source=WORDS), "anything": object()},
    ],
)
def test_takes_what_fits(fields):
    value = Everything(**fields)
    assert {name: getattr(value, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("fields", "message", "hint"),
    [
        ({"name": 5}, "field 'name': expected str, got int 5", None),
        ({"number": "5"}, "field 'number': expected int, got the string '5'", None),
        ({"number": True}, "field 'number': expected int, got bool True", None),
        ({"number": None}, "field 'number': expected int, got NoneType None", None),
        ({"flag": 1}, "field 'flag': expected bool, got int 1", None),
        ({"maybe": "1"}, "field 'maybe': expected int | None, got the string '1'", None),
        ({"choice": "c"}, "field 'choice': expected one of 'a', 'b', got the string 'c'", None),
        ({"choice": None}, "field 'choice': expected one of 'a', 'b', got NoneType None", None),
        ({"form": "jsn"}, "field 'form': expected one of 'json', 'text', 3 or None, got the string 'jsn'",
         "did you mean 'json'?"),
        ({"form": "3"}, "field 'form': expected one of 'json', 'text', 3 or None, got the string '3'", None),
        ({"words": "a b"}, "field 'words': expected tuple[str, ...], got the string 'a b'",
         "write a tuple: ('a', 'b')"),
        ({"words": ["a"]}, "field 'words': expected tuple[str, ...], got a list; write a tuple: ('a',)", None),
        ({"words": ("a", 1)}, "field 'words': element 1: expected str, got int 1", None),
        ({"pair": (1,)}, "field 'pair': expected tuple[int, str], got tuple (1,)", None),
        ({"pair": ("a", 1)}, "field 'pair': element 0: expected int, got the string 'a'", None),
        ({"table": {"a": "1"}}, "field 'table': the value of 'a': expected int, got the string '1'", None),
        ({"table": {1: 1}}, "field 'table': a key: expected str, got int 1", None),
        ({"table": (("a", 1),)}, "field 'table': expected Mapping[str, int], got tuple (('a', 1),)", None),
        ({"function": "len"}, "got the string 'len'", None),
        ({"inner": WORDS}, "field 'inner': expected Inner, got the source 'words.txt'", None),
        ({"inner": KEY}, "field 'inner': expected Inner, got the secret 'key'", None),
        ({"name": Inner(source=WORDS)}, "field 'name': expected str, got Inner(source=Source(path='words.txt'))", None),
        ({"artifact": "words.txt"},
         "field 'artifact': expected Source | Target | Secret | None, got the string 'words.txt'",
         "write forge.source('words.txt'), or give what forge.target returned"),
        ({"many": ("a", ("b", WORDS), ("c", 5))},
         "field 'many': element 2: element 1: expected Source | Secret, got int 5", None),
        ({"many": (("b", "c.sh"),)},
         "field 'many': element 0: element 1: expected Source | Secret, got the string 'c.sh'",
         "write forge.source('c.sh')"),
        ({"tree": "rootfs"}, "expected Tree | None, got the string 'rootfs'", "give what forge.target returned"),
        ({"trees": "rootfs"}, "field 'trees': expected tuple[Tree, ...], got the string 'rootfs'",
         "give what forge.target returned"),
        ({"tree": Rule()}, "expected Tree | None, got Rule()", "give what forge.target returned"),
        ({"tree": FILE}, "got the handle of the file target 'disk.img'", None),
        ({"file": TREE}, "got the handle of the tree target 'rootfs'", None),
        ({"trees": (TREE, FILE)},
         "field 'trees': element 1: expected the handle of a tree target, got the handle", None),
        ({"trees": TREE}, "field 'trees': expected tuple[Tree, ...], got the handle of the tree target 'rootfs'",
         "write a tuple of one with a comma: (…,)"),
        ({"inner": Inner}, "field 'inner': expected Inner, got the class Inner", "write Inner(…)"),
        ({"key": "key"}, "field 'key': expected Secret | None, got the string 'key'",
         "give what forge.secret returned"),
    ],
)  # fmt: skip
def test_refuses_what_does_not_fit(fields, message, hint):
    with pytest.raises(ForgefileError) as caught:
        Everything(**fields)
    assert caught.value.message.startswith("Everything field ")
    assert message in caught.value.message
    assert caught.value.hint == hint
    assert caught.value.location is not None
    assert caught.value.location.file == __file__


def test_a_handle_is_asked_for_in_words():
    class Rooted(Rule):
        base: Tree
        image: File

    with pytest.raises(ForgefileError, match="field 'base': expected the handle of a tree target, got the string 'x'"):
        Rooted(base="x", image=FILE)
    with pytest.raises(ForgefileError, match="field 'image': expected the handle of a file target, got the handle"):
        Rooted(base=TREE, image=TREE)


def test_a_class_of_another_module_is_asked_for_by_its_name():
    with pytest.raises(ForgefileError, match=r"Cache field 'name': expected str, got int 3"):
        Cache(name=3, path="/x")


@pytest.mark.parametrize(
    ("build", "message", "hint"),
    [
        (Pair, "Pair needs the field 'left'", None),
        (lambda: Pair(1, 2, 3), "Pair takes 2 positional argument(s); name the others", None),
        (lambda: Pair(1, totl=3), "Pair has no field 'totl'", "did you mean 'total'?"),
        (lambda: Pair(1, zzzzzz=3), "Pair has no field 'zzzzzz'", "choose from: left, right, total"),
        (lambda: Pair(1, left=1), "Pair got the field 'left' twice", None),
        (lambda: Pair(3), "Pair field 'left': 3 is more than 2", "swap them"),
        (lambda: Source("words.txt"), "Source takes 0 positional argument(s); name the others", None),
        (lambda: Run(()), "Run field 'argv': is empty", None),
    ],
)
def test_refuses_a_wrong_call(build, message, hint):
    with pytest.raises(ForgefileError) as caught:
        build()
    assert (caught.value.message, caught.value.hint) == (message, hint)
    assert caught.value.status == 2


def test_fields_by_position_and_by_name_are_the_same():
    assert Pair(1, 3) == Pair(left=1, right=3) == Pair(1, right=3)


def test_a_subclass_has_the_fields_of_its_base():
    class Triple(Pair):
        third: int = 3

    assert (Triple(1).left, Triple(1).right, Triple(1).third) == (1, 2, 3)
    assert "third" not in Pair.__fields__
    with pytest.raises(ForgefileError, match="Triple field 'left': expected int, got the string 'x'"):
        Triple("x")


def test_frozen():
    value = Pair(1)
    with pytest.raises(ForgefileError, match="Pair is frozen: its field 'left' cannot be set; make a new one"):
        value.left = 2
    assert value.left == 1


def test_equal_by_class_and_fields():
    class Other(Value):
        left: int = field(kw_only=False)
        right: int = field(kw_only=False, default=2)
        total: int | None = None

    assert Pair(1) == Pair(1, 2)
    assert Pair(1) != Pair(0)
    assert Pair(1) != Other(1)
    assert Pair(1) != (1, 2)


def test_hash_follows_equality():
    assert hash(Everything(table={"a": 1, "b": 2})) == hash(Everything(table={"b": 2, "a": 1}))
    assert len({Pair(1), Pair(1, 2), Pair(0)}) == 2


def test_repr_shows_what_is_not_the_default():
    assert repr(Pair(1)) == "Pair(left=1)"
    assert repr(Everything(flag=True, words=("a",))) == "Everything(flag=True, words=('a',))"


@pytest.mark.parametrize(
    "step",
    [
        Run(("ls", "-l"), env={"A": "1"}, caches=(Cache(name="deb", path="/x"),)),
        Write("/etc/x", text="y", mode=0o600, root="/run/forge/out"),
        Copy("/a", "/b", modes=(("*", 0o600),)),
        Call(pickle.dumps, ("a", 1)),
    ],
)
def test_a_step_survives_pickling(step):
    again = pickle.loads(pickle.dumps(step))
    assert again == step
    assert type(again) is type(step)
    assert repr(again) == repr(step)


# Artifacts and targets


def test_artifacts_are_found_however_deep_each_once_in_order():
    value = (WORDS, {"a": Inner(source=Source(path="z"))}, (Everything(tree=TREE, trees=(TREE,)), (FILE,)), WORDS)
    assert artifacts(value) == (WORDS, Source(path="z"), TREE, FILE)


def test_secrets_are_the_last_artifacts():
    token, key = Secret(name="token", env="TOKEN"), Secret(name="key", file="key")
    assert artifacts((token, WORDS, {"a": key}, TREE, token)) == (WORDS, TREE, token, key)
    assert Sandbox().path(token) == "/run/forge/secret/token"


def test_artifacts_of_texts_and_numbers_are_none():
    assert artifacts(("words.txt", 1, None, b"", len)) == ()


def test_a_target_knows_its_inputs_and_output():
    target = make("a", FILE, TREE)
    assert target.inputs == (FILE, TREE)
    assert (target.output, TREE.output, repr(TREE)) == ("file", "tree", "<tree target rootfs>")
    assert make_tree("b", TREE).inputs == (TREE,)


def test_targets_are_equal_only_to_themselves():
    assert make("a") != make("a")


def test_a_rule_without_steps_says_so():
    with pytest.raises(NotImplementedError, match=r"NeedsTree\.steps"):
        NeedsTree().steps(Sandbox())


# Paths and tools


@pytest.mark.parametrize(
    ("artifact", "path"),
    [
        (make("arm64/disk.img"), "/run/forge/in/arm64/disk.img"),
        (Source(path="scripts/tune.sh"), "/run/forge/src/scripts/tune.sh"),
        (Source(path="../common/x"), "/run/forge/src1/common/x"),
        (Source(path="/etc/hosts"), "/run/forge/root/etc/hosts"),
        (Source(path="etc/hosts"), "/run/forge/src/etc/hosts"),
        (Source(path="../../x"), "/run/forge/src2/x"),
    ],
)
def test_where_an_input_is_seen(artifact, path):
    assert Sandbox().path(artifact) == path


def test_scratched_trees_are_noted_once():
    box = Sandbox()
    assert box.scratch(TREE) == box.scratch(TREE) == "/run/forge/scratch/rootfs"
    assert box.scratched == [TREE]


def test_tools_of_steps():
    assert tools(Run(("sort", "x"), tools=("liblzma",))) == ("sort", "liblzma")
    assert tools(Run(("sort", "x"), root="/run/forge/out", tools=("xz",))) == ("xz",)
    assert tools(Write("/x", text="")) == tools(Copy("/a", "/b")) == ()
    call = Call(fnmatchcase, tools=("mke2fs",))
    assert tools(call) == (fnmatch.__file__, "mke2fs")
    assert call.name == "fnmatch.fnmatchcase"
