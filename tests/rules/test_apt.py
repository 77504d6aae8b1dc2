"""`Apt` and `AptSource`: what is refused, and the exact steps."""

import pytest

from forgefile.errors import ForgefileError
from forgefile.model import Cache, Call, Copy, Run, Sandbox, Secret, Source, Target, Write
from forgefile.programs.debian import DEFER_INITRAMFS, MAKE_INITRAMFS, note_identity, settle
from forgefile.rules import Apt, AptSource
from tests.conftest import make, make_tree

BASE = make_tree("rootfs")
DEB = Source(path="debs/own.deb")
BUILT = make("other.deb")
KEY = Source(path="keys/own.asc")
OUT = "/run/forge/out"
CACHES = (
    Cache(name="deb", path="/var/cache/apt/archives", downloads=True),
    Cache(name="lists", path="/var/lib/apt/lists"),
)
ENV = {"DEBIAN_FRONTEND": "noninteractive", "DEBCONF_NONINTERACTIVE_SEEN": "true"}
NOTED = Call(note_identity, "/run/forge/tmp/identity", root=OUT)
SETTLED = Call(settle, "/run/forge/tmp/identity", root=OUT)


@pytest.mark.parametrize(
    ("fields", "message", "hint"),
    [
        ({}, "field 'packages': is empty, and there are no debs and no upgrade either", None),
        ({"packages": "vim git"}, "field 'packages': expected tuple[str, ...], got the string 'vim git'",
         "write a tuple: ('vim', 'git')"),
        ({"packages": ["vim"]}, "field 'packages': expected tuple[str, ...], got a list; write a tuple: ('vim',)",
         None),
        ({"package": ("vim",)}, "has no field 'package'", "did you mean 'packages'?"),
        ({"debs": (BASE,)}, "field 'debs': 'rootfs' is a tree, not a .deb file", None),
        ({"base": BUILT, "packages": ("vim",)},
         "field 'base': expected the handle of a tree target, got the handle of the file target 'other.deb'", None),
        ({"upgrade": True, "options": ('Acquire::Check-Valid-Until "false";',)},
         "field 'options': 'Acquire::Check-Valid-Until \"false\";' has no '=' after its key",
         "write 'Acquire::Check-Valid-Until=false'"),
        ({"upgrade": True, "options": ("APT::Default-Release sid",)},
         "field 'options': 'APT::Default-Release sid' has no '=' after its key", "write 'APT::Default-Release=sid'"),
        ({"upgrade": True, "options": ("",)}, "field 'options': '' has no '=' after its key", "write 'Key=value'"),
        ({"packages": ("vim",), "recommends": "no"}, "field 'recommends': expected bool, got the string 'no'", None),
    ],
)  # fmt: skip
def test_refuses(fields, message, hint):
    with pytest.raises(ForgefileError) as caught:
        Apt(**{"base": BASE, **fields})
    assert (caught.value.message, caught.value.hint) == (f"Apt {message}", hint)
    assert caught.value.location.file == __file__


@pytest.mark.parametrize(
    "name", ["", "Vim", "-y", "--allow-unauthenticated", "a b", "a;b", "./a.deb", "a=", "a\n", "_a"]
)
def test_refuses_what_is_no_package(name):
    with pytest.raises(ForgefileError) as caught:
        Apt(base=BASE, packages=("vim", name))
    assert caught.value.message == f"Apt field 'packages': {name!r} is no name of a package"


@pytest.mark.parametrize(
    "name", ["vim", "g++", "libc6:arm64", "vim=2:9.0.1378-2+deb12u2", "vim/bookworm-backports", "vim-", "0ad"]
)
def test_takes_what_is_one(name):
    assert Apt(base=BASE, packages=(name,)).packages == (name,)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "../x"}, "field 'name': '../x' is no file name"),
        ({"name": ".x"}, "field 'name': '.x' is no file name"),
        ({"name": ""}, "field 'name': '' is no file name"),
        ({"url": ""}, "field 'url': ('',) are no words without blanks"),
        ({"url": "http://a\nTrusted: yes"}, "field 'url': ('http://a\\nTrusted: yes',) are no words without blanks"),
        ({"suites": ()}, "field 'suites': () are no words without blanks"),
        ({"suites": ("a b",)}, "field 'suites': ('a b',) are no words without blanks"),
        ({"components": ("main", "")}, "field 'components': ('main', '') are no words without blanks"),
        ({"key": "own.asc"}, "field 'key': expected Source | None, got the string 'own.asc'"),
    ],
)
def test_a_source_refuses(fields, message):
    given = {"name": "own", "url": "https://example.org/debian", "suites": ("stable",), **fields}
    with pytest.raises(ForgefileError) as caught:
        AptSource(**given)
    assert caught.value.message == f"AptSource {message}"
    assert caught.value.location.file == __file__


def test_the_text_of_a_source():
    assert AptSource("own", url="https://example.org/debian", suites=("stable",)).text() == (
        "Types: deb\nURIs: https://example.org/debian\nSuites: stable\nComponents: main\n"
    )
    full = AptSource(
        "own",
        url="https://example.org/debian",
        suites=("a", "b"),
        components=("main", "contrib"),
        key=KEY,
        architectures=("amd64", "arm64"),
    )
    assert full.text() == (
        "Types: deb\nURIs: https://example.org/debian\nSuites: a b\nComponents: main contrib\n"
        "Architectures: amd64 arm64\nSigned-By: /etc/apt/keyrings/own.asc\n"
    )


def test_a_flat_archive_has_no_components():
    text = AptSource("own", url="https://example.org/debian", suites=("./",)).text()
    assert text == "Types: deb\nURIs: https://example.org/debian\nSuites: ./\n"


@pytest.mark.parametrize(
    ("key", "path"),
    [("k.asc", "own.asc"), ("k.gpg", "own.gpg"), ("k.pgp", "own.gpg"), ("k", "own.asc")],
)
def test_the_key_keeps_its_kind(key, path):
    source = AptSource("own", url="https://example.org", suites=("./",), key=Source(path=key))
    assert source.key_path == f"/etc/apt/keyrings/{path}"


# Steps


AUTH = Secret(name="archives", file="auth.conf")


def steps(**fields):
    """Return the steps but for the first, and the two around them that defer initial ram disks."""
    noted, *given = Apt(base=BASE, **fields).steps(Sandbox())
    assert noted == NOTED
    deferring = given.index(Write("/run/forge/tmp/bin/mkinitramfs", text=DEFER_INITRAMFS, mode=0o755))
    env = {**ENV, **fields.get("environment", {})}
    making = given.index(Run(("sh", "-euc", MAKE_INITRAMFS), root=OUT, env=env))
    assert making == len(given) - 2
    return [step for number, step in enumerate(given) if number not in (deferring, making)]


def words(step):
    """Return what an apt-get step is told beside its fixed configuration."""
    assert isinstance(step, Run)
    assert (step.root, step.network, step.caches, step.tools) == (OUT, True, CACHES, ())
    argv = list(step.argv)
    assert argv[:2] == ["apt-get", "-q"]
    while "-o" in argv:
        at = argv.index("-o")
        del argv[at : at + 2]
    return argv[2:]


def configuration(step):
    return {step.argv[at + 1] for at, word in enumerate(step.argv) if word == "-o"}


def test_steps_for_packages():
    update, install, settled = steps(packages=("vim", "g++"))
    assert words(update) == ["update"]
    assert "APT::Update::Error-Mode=any" in configuration(update)
    assert words(install) == ["--yes", "--no-install-recommends", "install", "vim", "g++"]
    assert settled == SETTLED
    for step in (update, install):
        assert step.env == ENV
        assert {"Dpkg::Options::=--force-confold", "Dpkg::Options::=--force-confdef"} <= configuration(step)
        assert {"APT::Sandbox::User=root", "Dpkg::Use-Pty=0"} <= configuration(step)
        assert "DPkg::Path=/run/forge/tmp/bin:/usr/sbin:/usr/bin:/sbin:/bin" in configuration(step)
        assert not any("unauth" in word.lower() or "insecure" in word.lower() for word in step.argv)


def test_steps_for_an_upgrade():
    update, upgrade, settled = steps(upgrade=True)
    assert (words(update), words(upgrade), settled) == (["update"], ["--yes", "dist-upgrade"], SETTLED)


def test_an_upgrade_comes_before_the_packages():
    _, upgrade, install, _ = steps(upgrade=True, packages=("vim",), recommends=True)
    assert words(upgrade) == ["--yes", "dist-upgrade"]
    assert words(install) == ["--yes", "--install-recommends", "install", "vim"]


def test_steps_for_debs():
    update, own, other, install, _ = steps(debs=(DEB, BUILT), packages=("vim",))
    assert words(update) == ["update"]
    assert own == Copy("/run/forge/src/debs/own.deb", "/run/forge/tmp/0.deb", mode=0o644)
    assert other == Copy("/run/forge/in/other.deb", "/run/forge/tmp/1.deb", mode=0o644)
    assert words(install)[-3:] == ["vim", "/run/forge/tmp/0.deb", "/run/forge/tmp/1.deb"]


def test_steps_for_sources():
    plain = AptSource("plain", url="https://a.example", suites=("x",))
    keyed = AptSource("keyed", url="https://b.example", suites=("x",), key=KEY)
    first, key, second, update, install, _ = steps(packages=("vim",), sources=(plain, keyed))
    assert first == Write("/etc/apt/sources.list.d/plain.sources", root=OUT, text=plain.text())
    assert key == Copy("/run/forge/src/keys/own.asc", "/etc/apt/keyrings/keyed.asc", root=OUT, mode=0o644)
    assert second == Write("/etc/apt/sources.list.d/keyed.sources", root=OUT, text=keyed.text())
    assert (words(update), words(install)[-1]) == (["update"], "vim")


def test_options_and_environment_reach_every_apt_get():
    *runs, _ = steps(packages=("vim",), upgrade=True, options=("APT::Default-Release=sid",), environment={"A": "1"})
    assert len(runs) == 3
    for step in runs:
        assert "APT::Default-Release=sid" in configuration(step)
        assert step.env == {**ENV, "A": "1"}


def test_passwords_of_archives_are_told_by_their_path():
    *runs, _ = steps(packages=("vim",), upgrade=True, auth=AUTH)
    assert len(runs) == 3
    for step in runs:
        assert "Dir::Etc::netrc=/run/forge/secret/archives" in configuration(step)
    assert Target("packages", Apt(base=BASE, packages=("vim",), auth=AUTH), None).inputs == (BASE, AUTH)


def test_its_inputs():
    source = AptSource("own", url="https://example.org", suites=("./",), key=KEY)
    target = Target("packages", Apt(base=BASE, packages=("vim",), debs=(DEB, BUILT), sources=(source,)), None)
    assert target.inputs == (BASE, DEB, BUILT, KEY)
    assert target.output == "tree"
