"""`Mmdebstrap`: what is refused, and the exact steps."""

import os
import subprocess

import pytest

from forgefile.architectures import NAMES
from forgefile.errors import ForgefileError
from forgefile.mirror import RETRIES, TROUBLE
from forgefile.model import Cache, Call, Run, Sandbox, Secret, Source, Target, Write
from forgefile.programs.debian import DEFER_INITRAMFS, MAKE_INITRAMFS, empty, forget_host, settle
from forgefile.rules import Mmdebstrap

OUT = "/run/forge/out"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
KEY = Source(path="keys/own.gpg")
HOOK = (
    '--setup-hook=mkdir -p "$1/var/cache/apt/archives" "$1/var/lib/apt/lists"'
    ' && mount --bind /run/forge/tmp/deb "$1/var/cache/apt/archives"'
    ' && mount --bind /run/forge/tmp/lists "$1/var/lib/apt/lists"'
)


@pytest.mark.parametrize(
    ("fields", "message", "hint"),
    [
        ({"suite": 12}, "field 'suite': expected str, got int 12", None),
        ({"suite": ""}, "field 'suite': '' is no name of a Debian suite", None),
        ({"suite": "--help"}, "field 'suite': '--help' is no name of a Debian suite", None),
        ({"suite": "Bookworm"}, "field 'suite': 'Bookworm' is no name of a Debian suite", None),
        ({"suite": "book worm"}, "field 'suite': 'book worm' is no name of a Debian suite", None),
        ({"suite": "bookworm\n"}, "field 'suite': 'bookworm\\n' is no name of a Debian suite", None),
        ({"variant": "minbas"}, "field 'variant': there is no variant 'minbas'", "did you mean 'minbase'?"),
        ({"arch": "aarch64"}, "field 'arch': Debian has no architecture 'aarch64'", "did you mean 'arm64'?"),
        ({"arch": "X86_64"}, "field 'arch': Debian has no architecture 'X86_64'", "did you mean 'amd64'?"),
        ({"arch": "amd64,i368"}, "field 'arch': Debian has no architecture 'i368'", "did you mean 'i386'?"),
        ({"arch": ""}, "field 'arch': Debian has no architecture ''", f"choose from: {', '.join(NAMES)}"),
        ({"include": "vim git"}, "field 'include': expected tuple[str, ...], got the string 'vim git'",
         "write a tuple: ('vim', 'git')"),
        ({"include": ("vim", "-x")}, "field 'include': '-x' is no name of a package", None),
        ({"include": ("vim,git",)}, "field 'include': 'vim,git' is no name of a package", None),
        ({"include": ("",)}, "field 'include': '' is no name of a package", None),
        ({"apt_options": ('A="b"',)}, "field 'apt_options': 'A=\"b\"' is no configuration of apt",
         "write 'Key=value' without quotes, or as in apt.conf: 'Key \"value\";'"),
        ({"mirror": "http://x"}, "has no field 'mirror'", "did you mean 'mirrors'?"),
    ],
)  # fmt: skip
def test_refuses(fields, message, hint):
    with pytest.raises(ForgefileError) as caught:
        Mmdebstrap(**{"suite": "bookworm", **fields})
    assert (caught.value.message, caught.value.hint) == (f"Mmdebstrap {message}", hint)
    assert caught.value.location.file == __file__


def test_needs_a_suite():
    with pytest.raises(ForgefileError, match="Mmdebstrap needs the field 'suite'"):
        Mmdebstrap(variant="minbase")


@pytest.mark.parametrize("suite", ["bookworm", "stable", "bookworm-backports", "sid", "12.5", "a/b"])
def test_takes_a_suite(suite):
    assert Mmdebstrap(suite=suite).suite == suite


def run(**fields):
    step, emptied, forget, settled = Mmdebstrap(**fields).steps(Sandbox())
    assert emptied == Call(empty, f"{OUT}/run")
    assert (forget, settled) == (Call(forget_host, root=OUT), Call(settle, root=OUT))
    return step


def test_steps():
    assert run(suite="bookworm", variant="minbase") == Run(
        (
            "mmdebstrap",
            "--mode=root",
            "--variant=minbase",
            "--components=main",
            "--skip=download/empty",
            "--skip=essential/unlink",
            "--skip=cleanup/apt",
            "--skip=output/dev",
            HOOK,
            '--aptopt=APT::Sandbox::User "root"',
            '--aptopt=Acquire::Retries "3"',
            "bookworm",
            OUT,
        ),
        network=True,
        mounts=True,
        env={"DEBIAN_FRONTEND": "noninteractive"},
        tools=(KEYRING,),
        caches=(
            Cache(name="deb", path="/run/forge/tmp/deb", downloads=True),
            Cache(name="lists", path="/run/forge/tmp/lists"),
        ),
        retries=RETRIES,
        flaky=TROUBLE,
    )


def test_more_architectures_than_one():
    assert "--architectures=amd64,i386" in run(suite="sid", arch="amd64,i386").argv


def test_steps_with_everything():
    deferring, step, emptied, made, *_ = Mmdebstrap(
        suite="sid",
        arch="arm64",
        mirrors=("http://a.example", "deb http://b.example sid main"),
        components=("main", "contrib"),
        include=("vim", "?priority(required)"),
        keyring=KEY,
        apt_options=('Acquire::http::Proxy "http://p";',),
        dpkg_options=("path-exclude=/usr/share/man/*",),
        environment={"A": "1"},
    ).steps(Sandbox())
    assert deferring == Write("/run/forge/tmp/bin/mkinitramfs", text=DEFER_INITRAMFS, mode=0o755)
    assert emptied == Call(empty, f"{OUT}/run")
    assert made == Run(("sh", "-euc", MAKE_INITRAMFS), root=OUT, env=step.env)
    assert step.argv[2:4] == ("--variant=apt", "--components=main,contrib")
    assert step.argv[11:] == (
        '--essential-hook=cp -r /run/forge/tmp/bin "$1/run"',
        '--aptopt=DPkg::Path "/run/bin:/usr/sbin:/usr/bin:/sbin:/bin"',
        "--include=vim,?priority(required)",
        "--architectures=arm64",
        "--keyring=/run/forge/src/keys/own.gpg",
        '--aptopt=Acquire::http::Proxy "http://p";',
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "sid",
        OUT,
        "http://a.example",
        "deb http://b.example sid main",
    )
    assert step.env == {"DEBIAN_FRONTEND": "noninteractive", "A": "1"}
    assert step.tools == ()


APT_OPTIONS = {
    "Acquire::http::Proxy=http://p:1/": ("Acquire::http::Proxy", "http://p:1/"),
    "Acquire::http::Proxy::a.example=DIRECT": ("Acquire::http::Proxy::a.example", "DIRECT"),
    "APT::Install-Recommends=": ("APT::Install-Recommends", ""),
    "DPkg::Options::=--force-confold --x=y": ("DPkg::Options::", "--force-confold --x=y"),
    'Acquire::Check-Valid-Until "false";': ("Acquire::Check-Valid-Until", "false"),
    'Acquire::Check-Valid-Until "false"': ("Acquire::Check-Valid-Until", "false"),
    "APT::Default-Release a=b;": ("APT::Default-Release", "a=b"),
}


@pytest.mark.parametrize("option", APT_OPTIONS)
def test_apt_reads_its_options(option, tmp_path):
    """As mmdebstrap writes them into a file: each ends with a semicolon."""
    (word,) = [word for word in run(suite="sid", apt_options=(option,)).argv if word.startswith("--aptopt=")][2:]
    line = word.removeprefix("--aptopt=")
    (tmp_path / "conf").write_text(f"{line.removesuffix(';')};\n")
    environment = {**os.environ, "APT_CONFIG": str(tmp_path / "conf")}
    dump = subprocess.check_output(("apt-config", "dump"), env=environment, text=True)
    name, value = APT_OPTIONS[option]
    assert f'{name} "{value}";' in dump.splitlines()


@pytest.mark.parametrize("variant", ["extract", "custom"])
def test_a_tree_that_may_have_no_shell_is_not_entered_by_one(variant):
    assert run(suite="sid", variant=variant, include=("vim",)).argv[2] == f"--variant={variant}"


def test_it_is_a_tree_on_nothing():
    target = Target("rootfs", Mmdebstrap(suite="bookworm", keyring=KEY), None)
    assert (target.output, target.inputs) == ("tree", (KEY,))


def test_passwords_of_mirrors_are_told_by_their_path():
    auth = Secret(name="archives", file="auth.conf")
    rule = Mmdebstrap(suite="bookworm", auth=auth, apt_options=("A 1;",))
    assert run(suite="bookworm", auth=auth, apt_options=("A 1;",)).argv[-4:] == (
        '--aptopt=Dir::Etc::netrc "/run/forge/secret/archives"', "--aptopt=A 1;", "bookworm", OUT,
    )  # fmt: skip
    assert Target("rootfs", rule, None).inputs == (auth,)
