"""`Forge`: what a Forgefile may declare, and what is refused, with the line."""

import pytest

from forgefile.errors import ForgefileError, UsageError
from forgefile.forge import RESERVED, VERBS, Forge
from forgefile.graph import OptionValue
from forgefile.model import CORES, MEMORY, Pool, Secret, Source
from tests.conftest import Needs, NeedsTree


@pytest.fixture
def folder(tmp_path):
    for name in ("overlay/etc/motd", "scripts/tune.sh", "scripts/more.sh", "words.txt"):
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "outside").touch()
    (tmp_path / "project/dangling").symlink_to("nowhere")
    return tmp_path / "project"


@pytest.fixture
def forge(folder):
    return Forge(str(folder), {})


# Names of targets


@pytest.mark.parametrize("name", ["a", "disk.img", "arm64/disk.img", "with blank", "a[1].img", "ä.img", "...", "a..b"])
def test_a_name_that_may_be(forge, name):
    target = forge.target(name, Needs())
    assert target.name == name
    assert list(forge.graph().targets) == [name]
    assert target.location is not None
    assert target.location.file == __file__


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("/etc/passwd", "it leads out of the project folder"),
        ("../x", "it leads out of the project folder"),
        ("a/../../x", "it leads out of the project folder"),
        ("..", "it leads out of the project folder"),
        ("-x", "it looks like an option"),
        ("", "it is empty"),
        (None, "it is not a text"),
        (3, "it is not a text"),
        ("./a", "write it as a plain relative path"),
        ("a//b", "write it as a plain relative path"),
        ("a/", "write it as a plain relative path"),
        (".", "write it as a plain relative path"),
        ("a\n", "write it as a plain relative path"),
        (".forge", "write it as a plain relative path"),
        (".forge/objects/x", "write it as a plain relative path"),
        *((word, "forge has a command of that name") for word in ("build", "why", "watch")),
    ],
)
def test_a_name_that_may_not_be(forge, name, problem):
    with pytest.raises(ForgefileError) as caught:
        forge.target(name, Needs())
    assert caught.value.message == f"{name!r} cannot be a target's name: {problem}"
    assert caught.value.location.file == __file__
    assert caught.value.status == 2


def test_every_verb_is_reserved():
    assert set(VERBS) <= RESERVED


def test_two_targets_of_a_name(forge):
    first = forge.target("a", Needs())
    with pytest.raises(ForgefileError, match="there are two targets 'a'") as caught:
        forge.target("a", NeedsTree())
    assert caught.value.hint == f"the first is at {first.location}"


@pytest.mark.parametrize(
    ("first", "second", "problem"),
    [
        ("a", "a/b", "it lies in 'a', which is a target"),
        ("a/b", "a", "the target 'a/b' needs a folder of that name"),
        ("a/b", "a/b/c", "it lies in 'a/b', which is a target"),
    ],
)
def test_a_name_that_needs_another_ones_folder(forge, first, second, problem):
    forge.target(first, Needs())
    with pytest.raises(ForgefileError, match=problem):
        forge.target(second, Needs())


@pytest.mark.parametrize(
    ("source", "target", "problem"),
    [
        ("folder", "folder/made", "target 'folder/made' lies in the source 'folder'"),
        ("folder/file", "folder", "the source 'folder/file' lies in 'folder', which is a target"),
    ],
)
def test_a_target_in_a_source_or_around_one(tmp_path, source, target, problem):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").touch()
    forge = Forge(str(tmp_path), {})
    forge.source(source)
    forge.target(target, Needs())
    with pytest.raises(ForgefileError, match=problem):
        forge.graph()


@pytest.mark.parametrize("path", [".", "..", "/", "folder/.."])
def test_a_source_that_holds_the_project(tmp_path, path):
    with pytest.raises(ForgefileError, match="holds the project folder"):
        Forge(str(tmp_path), {}).source(path)


@pytest.mark.parametrize(("default", "choices"), [(5, ()), ("a", 5), ("a", "ab")])
def test_options_are_texts(forge, default, choices):
    with pytest.raises(ForgefileError, match="texts"):
        forge.option("a", default, choices=choices)


def test_names_side_by_side(forge):
    for name in ("a", "ab", "b/c", "b/cd"):
        forge.target(name, Needs())


def test_a_target_of_a_sources_name(forge):
    forge.source("words.txt")
    with pytest.raises(ForgefileError, match=r"'words\.txt' cannot be a target's name: it is a source"):
        forge.target("words.txt", Needs())


def test_a_source_of_a_targets_name(forge):
    target = forge.target("words.txt", Needs())
    forge.source("words.txt")
    with pytest.raises(ForgefileError, match=r"'words\.txt' is both a source and a target") as caught:
        forge.graph()
    assert caught.value.location == target.location


@pytest.mark.parametrize("rule", [None, "rootfs", Needs, Source(path="x")])
def test_a_target_needs_a_rule(forge, rule):
    with pytest.raises(ForgefileError, match=f"target 'a' needs a rule, not {type(rule).__name__}"):
        forge.target("a", rule)


# Defaults


def test_defaults_are_kept_in_order_and_once(forge):
    a, b = forge.target("a", Needs()), forge.target("b", Needs())
    forge.default(b, a)
    forge.default(b)
    assert forge.graph().defaults == (b, a)


@pytest.mark.parametrize("wrong", ["a", None, Source(path="words.txt")])
def test_a_default_that_is_no_handle(forge, wrong):
    with pytest.raises(ForgefileError, match=r"forge\.default takes handles of targets, not "):
        forge.default(wrong)


# Sources


@pytest.mark.parametrize(
    ("path", "normal"),
    [("words.txt", "words.txt"), ("./overlay/", "overlay"), ("scripts/../words.txt", "words.txt"),
     ("../outside", "../outside"), ("dangling", "dangling")],
)  # fmt: skip
def test_source(forge, path, normal):
    assert forge.source(path) == Source(path=normal)


def test_the_same_source_is_the_same_handle(forge):
    assert forge.source("overlay") is forge.source("overlay/")


@pytest.mark.parametrize(
    ("path", "message", "hint"),
    [
        ("word.txt", "the source 'word.txt' does not exist", "did you mean 'words.txt'?"),
        ("scripts/tun.sh", "the source 'scripts/tun.sh' does not exist", "did you mean 'tune.sh'?"),
        ("nowhere/x", "the source 'nowhere/x' does not exist", None),
        ("", "a source is named by a path, not by ''", None),
        (None, "a source is named by a path, not by None", None),
        (("a",), "a source is named by a path, not by ('a',)", None),
    ],
)
def test_a_source_that_is_none(forge, path, message, hint):
    with pytest.raises(ForgefileError) as caught:
        forge.source(path)
    assert (caught.value.message, caught.value.hint) == (message, hint)
    assert caught.value.location.file == __file__


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("scripts/*.sh", ["scripts/more.sh", "scripts/tune.sh"]),
        ("**/*.sh", ["scripts/more.sh", "scripts/tune.sh"]),
        ("words.txt", ["words.txt"]),
        ("overlay/**", ["overlay", "overlay/etc", "overlay/etc/motd"]),
    ],
)
def test_sources_by_glob(forge, pattern, paths):
    assert [source.path for source in forge.sources(pattern)] == paths


def test_a_glob_that_matches_nothing(forge):
    with pytest.raises(ForgefileError, match=r"no source matches 'scripts/\*.py'") as caught:
        forge.sources("scripts/*.py")
    assert caught.value.location.file == __file__


# Options


def test_an_option_has_its_default_or_what_was_set(folder):
    forge = Forge(str(folder), {"suite": "trixie"})
    assert forge.option("suite", "bookworm", choices=("bookworm", "trixie"), help="Debian release") == "trixie"
    assert forge.option("arch", "amd64") == "amd64"
    assert forge.graph().options == (
        OptionValue("suite", "trixie", "bookworm", ("bookworm", "trixie"), "Debian release"),
        OptionValue("arch", "amd64", "amd64", (), ""),
    )


@pytest.mark.parametrize(
    ("value", "hint"), [("trixi", "did you mean 'trixie'?"), ("", "choose from: bookworm, trixie")]
)
def test_a_value_that_is_no_choice(folder, value, hint):
    with pytest.raises(UsageError, match=f"the option 'suite' cannot be '{value}'") as caught:
        Forge(str(folder), {"suite": value}).option("suite", "bookworm", choices=("bookworm", "trixie"))
    assert caught.value.hint == hint
    assert caught.value.location.file == __file__


def test_a_default_that_is_no_choice(forge):
    with pytest.raises(UsageError, match="the option 'suite' cannot be 'sid'"):
        forge.option("suite", "sid", choices=iter(("bookworm", "trixie")))


@pytest.mark.parametrize(
    ("default", "hint"),
    [
        (False, 'write forge.option("debug", "no", choices=("yes", "no"))'),
        (True, 'write forge.option("debug", "yes", choices=("yes", "no"))'),
        (5, 'write forge.option("debug", "5")'),
        (None, None),
    ],
)
def test_how_an_option_is_declared(forge, default, hint):
    with pytest.raises(ForgefileError, match="an option's name and value are texts") as caught:
        forge.option("debug", default)
    assert caught.value.hint == hint


def test_an_option_declared_twice(forge):
    forge.option("suite", "bookworm")
    with pytest.raises(ForgefileError, match="the option 'suite' is declared twice"):
        forge.option("suite", "bookworm")


def test_a_setting_that_no_option_takes(folder):
    forge = Forge(str(folder), {"sute": "trixie"})
    forge.option("suite", "bookworm")
    with pytest.raises(UsageError, match="there is no option 'sute'") as caught:
        forge.graph()
    assert caught.value.hint == "did you mean 'suite'?"


# When a target runs


def test_what_a_target_holds(forge):
    network, links = forge.pool("network", 2), forge.pool("links", 1)
    assert forge.target("none", Needs()).pools == {CORES: 1}
    assert forge.target("one", Needs(), pools=(network, links)).pools == {CORES: 1, network: 1, links: 1}
    target = forge.target("more", Needs(), pools={network: 2}, cores=3, memory="1GiB")
    assert target.pools == {CORES: 3, network: 2, MEMORY: 1 << 30}
    assert forge.target("bytes", Needs(), memory=5).pools == {CORES: 1, MEMORY: 5}
    assert target.timeout_s is None


def test_how_long_a_target_may_take(forge):
    assert forge.target("text", Needs(), timeout="1h 30min").timeout_s == 5400
    assert forge.target("number", Needs(), timeout=0.5).timeout_s == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", 1), "a pool is named by a text, not by ''"),
        ((3, 1), "a pool is named by a text, not by 3"),
        (("a", 0), "the capacity of the pool 'a' is a number from 1, not 0"),
        (("a", True), "the capacity of the pool 'a' is a number from 1, not True"),
        (("a", "2"), "the capacity of the pool 'a' is a number from 1, not '2'"),
        (("cores", 2), "forge has a pool 'cores' itself"),
        (("memory", 2), "forge has a pool 'memory' itself"),
        (("taken", 2), "there are two pools 'taken'"),
    ],
)
def test_a_pool_that_may_not_be(forge, arguments, message):
    forge.pool("taken", 1)
    with pytest.raises(ForgefileError) as caught:
        forge.pool(*arguments)
    assert caught.value.message == message
    assert caught.value.location.file == __file__


@pytest.mark.parametrize(
    ("keywords", "message", "hint"),
    [
        ({"pools": "network"}, "pools are a tuple of pools or a mapping to amounts, not 'network'", "write a tuple"),
        ({"pools": Pool("network", 2)}, "pools are a tuple of pools or a mapping", "pools=(network,)"),
        ({"pools": 5}, "pools are a tuple of pools or a mapping to amounts, not 5", None),
        ({"pools": ("network",)}, "'network' is no pool of this Forgefile", 'network = forge.pool("network", 2)'),
        ({"pools": (Pool("other", 1),)}, "is no pool of this Forgefile", None),
        ({"pools": (CORES,)}, "is no pool of this Forgefile", None),
        ({"pools": {Pool("network", 2): 3}}, "needs 3 of the pool 'network', which has 2", "the pool is declared at"),
        ({"pools": {Pool("network", 2): 0}}, "of the pool 'network' takes a number from 1, not 0", None),
        ({"cores": 0}, "cores takes a number from 1, not 0", None),
        ({"cores": 1.5}, "cores takes a number from 1, not 1.5", None),
        ({"memory": "much"}, "memory: 'much' is no size", None),
        ({"memory": -1}, "memory is a size such as '4GiB', not -1", None),
        ({"memory": 1.5}, "memory is a size such as '4GiB', not 1.5", None),
        ({"timeout": "10"}, "timeout: '10' is no duration", None),
        ({"timeout": "0s"}, "timeout is a duration such as '10min', or seconds, not '0s'", None),
        ({"timeout": -1}, "timeout is a duration such as '10min', or seconds, not -1", None),
        ({"timeout": True}, "timeout is a duration such as '10min', or seconds, not True", None),
        ({"timeout": float("nan")}, "timeout is a duration such as '10min', or seconds, not nan", None),
    ],
)
def test_what_a_target_cannot_hold(forge, keywords, message, hint):
    forge.pool("network", 2)
    with pytest.raises(ForgefileError) as caught:
        forge.target("a", Needs(), **keywords)
    assert "target 'a'" in caught.value.message
    assert message in caught.value.message
    assert hint is None or hint in caught.value.hint
    assert (caught.value.status, caught.value.location.file) == (2, __file__)


# Secrets


def test_a_secret_is_not_looked_at(forge, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    token = forge.secret("token", env="NO_SUCH_VARIABLE")
    key = forge.secret("deploy-key.2", file="keys//none")
    home = forge.secret("netrc", file="~/.netrc")
    assert (token, key) == (
        Secret(name="token", env="NO_SUCH_VARIABLE"), Secret(name="deploy-key.2", file="keys/none")
    )  # fmt: skip
    assert home.file == "/home/me/.netrc"
    assert forge.graph().secrets == (token, key, home)


@pytest.mark.parametrize(
    ("name", "keywords", "message"),
    [
        ("", {"env": "A"}, "a secret is named by a plain word, not by ''"),
        ("a/b", {"env": "A"}, "a secret is named by a plain word, not by 'a/b'"),
        ("..", {"env": "A"}, "a secret is named by a plain word, not by '..'"),
        (".a", {"env": "A"}, "a secret is named by a plain word, not by '.a'"),
        ("ä", {"env": "A"}, "a secret is named by a plain word, not by 'ä'"),
        ("a\n", {"env": "A"}, "a secret is named by a plain word"),
        (3, {"env": "A"}, "a secret is named by a plain word, not by 3"),
        ("taken", {"env": "A"}, "the secret 'taken' is declared twice"),
        ("a", {}, "the secret 'a' comes from a file or from a variable"),
        ("a", {"env": "A", "file": "a"}, "the secret 'a' comes from a file or from a variable"),
        ("a", {"env": ""}, "the secret 'a' comes from a file or from a variable"),
        ("a", {"file": 3}, "the secret 'a' comes from a file or from a variable"),
        ("a", {"file": "a\0b"}, "the secret 'a' comes from a file or from a variable"),
        ("a", {"env": "A=B"}, "the secret 'a' cannot come from the variable 'A=B'"),
        ("a", {"env": "PATH"}, "the secret 'a' cannot come from the variable 'PATH'"),
        ("a", {"env": "HTTPS_PROXY"}, "the secret 'a' cannot come from the variable 'HTTPS_PROXY'"),
    ],
)
def test_a_secret_that_may_not_be(forge, name, keywords, message):
    forge.secret("taken", env="TAKEN")
    with pytest.raises(ForgefileError) as caught:
        forge.secret(name, **keywords)
    assert message in caught.value.message
    assert caught.value.location.file == __file__
