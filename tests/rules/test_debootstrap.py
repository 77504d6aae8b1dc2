"""`Debootstrap`: what is refused, and the exact steps."""

import pytest

from forgefile.errors import ForgefileError
from forgefile.mirror import RETRIES, TROUBLE
from forgefile.model import Cache, Call, Run, Sandbox, Source, Target
from forgefile.programs.debian import empty, forget_host, settle
from forgefile.rules import Debootstrap

OUT = "/run/forge/out"
MIRROR = "http://deb.debian.org/debian"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SYSTEM = 'for name in dev proc sys; do mkdir -p "$0/$name"; mount --rbind "/$name" "$0/$name"; done; exec "$@"'
KEY = Source(path="keys/own.gpg")


@pytest.mark.parametrize(
    ("fields", "message", "hint"),
    [
        ({"suite": None}, "field 'suite': expected str, got NoneType None", None),
        ({"suite": "-x"}, "field 'suite': '-x' is no name of a Debian suite", None),
        ({"arch": "aarch64"}, "field 'arch': Debian has no architecture 'aarch64'", "did you mean 'arm64'?"),
        ({"arch": "amd64,i386"}, "field 'arch': Debian has no architecture 'amd64,i386'", "did you mean 'amd64'?"),
        ({"variant": "minbas"}, "field 'variant': there is no variant 'minbas'", "did you mean 'minbase'?"),
        ({"include": ("a,b",)}, "field 'include': 'a,b' is no name of a package", None),
        ({"exclude": ("-x",)}, "field 'exclude': '-x' is no name of a package", None),
        ({"exclude": "a b"}, "field 'exclude': expected tuple[str, ...], got the string 'a b'",
         "write a tuple: ('a', 'b')"),
        ({"mirrors": ("x",)}, "has no field 'mirrors'", "did you mean 'mirror'?"),
    ],
)  # fmt: skip
def test_refuses(fields, message, hint):
    with pytest.raises(ForgefileError) as caught:
        Debootstrap(**{"suite": "bookworm", **fields})
    assert (caught.value.message, caught.value.hint) == (f"Debootstrap {message}", hint)
    assert caught.value.location.file == __file__


def run(**fields):
    step, emptied, forget, settled = Debootstrap(**fields).steps(Sandbox())
    assert emptied == Call(empty, f"{OUT}/run")
    assert (forget, settled) == (Call(forget_host, root=OUT), Call(settle, root=OUT))
    return step


def test_steps():
    assert run(suite="bookworm") == Run(
        (
            *("sh", "-ec", SYSTEM, OUT),
            "debootstrap",
            "--force-check-gpg",
            f"--keyring={KEYRING}",
            "--components=main",
            "--cache-dir=/run/forge/tmp/deb",
            "--variant=minbase",
            "bookworm",
            OUT,
            MIRROR,
        ),
        network=True,
        mounts=True,
        env={"DEBIAN_FRONTEND": "noninteractive", "container": "lxc"},
        tools=("debootstrap", KEYRING),
        caches=(Cache(name="deb", path="/run/forge/tmp/deb", downloads=True),),
        retries=RETRIES,
        flaky=TROUBLE,
    )


def test_steps_with_everything():
    step = run(
        suite="sid",
        arch="arm64",
        mirror="http://a.example",
        components=("main", "contrib"),
        variant="buildd",
        include=("vim", "g++"),
        exclude=("nano",),
        keyring=KEY,
        merged_usr=True,
        environment={"A": "1"},
    )
    assert step.argv == (
        *("sh", "-ec", SYSTEM, OUT),
        "debootstrap",
        "--force-check-gpg",
        "--keyring=/run/forge/src/keys/own.gpg",
        "--components=main,contrib",
        "--cache-dir=/run/forge/tmp/deb",
        "--variant=buildd",
        "--arch=arm64",
        "--include=vim,g++",
        "--exclude=nano",
        "--merged-usr",
        "sid",
        OUT,
        "http://a.example",
    )
    assert step.env == {"DEBIAN_FRONTEND": "noninteractive", "container": "lxc", "A": "1"}
    assert step.tools == ("debootstrap",)


def test_no_variant_and_no_merged_usr():
    argv = run(suite="sid", variant=None, merged_usr=False).argv
    assert not any(word.startswith("--variant") for word in argv)
    assert "--no-merged-usr" in argv


def test_it_is_a_tree_on_nothing():
    target = Target("rootfs", Debootstrap(suite="bookworm", keyring=KEY), None)
    assert (target.output, target.inputs) == ("tree", (KEY,))
