"""`Script`: what is refused, and the exact steps."""

import pytest

from forgefile.errors import ForgefileError
from forgefile.model import Copy, Run, Sandbox, Source, Target
from forgefile.rules import Script
from tests.conftest import make, make_tree

BASE = make_tree("rootfs")
TUNE = Source(path="scripts/tune.sh")
WORDS = Source(path="words.txt")
IMAGE = make("arm64/disk.img")
PATHS = {
    "FORGE_INPUTS": "/run/forge/in", "FORGE_SOURCES": "/run/forge/src", "FORGE_TMP": "/run/forge/tmp",
    "FORGE_SECRETS": "/run/forge/secret",
}  # fmt: skip
COPIED = Copy("/run/forge/src/scripts/tune.sh", "/run/forge/tmp/script", mode=0o755)


@pytest.mark.parametrize(
    ("fields", "message", "hint"),
    [
        ({"base": IMAGE},
         "field 'base': expected the handle of a tree target, got the handle of the file target 'arm64/disk.img'",
         None),
        ({"script": "scripts/tune.sh"}, "field 'script': expected Source, got the string 'scripts/tune.sh'",
         "write forge.source('scripts/tune.sh')"),
        ({"script": IMAGE}, "field 'script': expected Source, got the handle of the file target 'arm64/disk.img'",
         None),
        ({"where": "chroot"}, "field 'where': is 'chroot'; expected 'tree' or 'host'", None),
        ({"network": "yes"}, "field 'network': expected bool, got the string 'yes'", None),
        ({"tools": "xz tar"}, "field 'tools': expected tuple[str, ...], got the string 'xz tar'",
         "write a tuple: ('xz', 'tar')"),
        ({"scripts": TUNE}, "has no field 'scripts'", "did you mean 'script'?"),
    ],
)  # fmt: skip
def test_refuses(fields, message, hint):
    with pytest.raises(ForgefileError) as caught:
        Script(**{"base": BASE, "script": TUNE, **fields})
    assert (caught.value.message, caught.value.hint) == (f"Script {message}", hint)
    assert caught.value.location.file == __file__


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"environment": {"A": 1}}, "field 'environment': the value of 'A': expected str, got int 1"),
        ({"arguments": ("a", 1)}, "field 'arguments': element 1: expected str | Source | Target | Secret, got int 1"),
        ({"inputs": ("words.txt",)},
         "field 'inputs': element 0: expected Source | Target | Secret, got the string 'words.txt'"),
    ],
)  # fmt: skip
def test_refuses_wrong_items(fields, message):
    with pytest.raises(ForgefileError) as caught:
        Script(base=BASE, script=TUNE, **fields)
    assert caught.value.message == f"Script {message}"


def steps(**fields):
    return list(Script(base=BASE, script=TUNE, **fields).steps(Sandbox()))


def test_steps_in_the_tree():
    assert steps() == [COPIED, Run(("/run/forge/tmp/script",), root="/run/forge/out", env=PATHS)]


def test_steps_on_the_host():
    assert steps(where="host", tools=("xz",)) == [
        COPIED,
        Run(("/run/forge/tmp/script",), env={**PATHS, "TREE": "/run/forge/out"}, tools=("xz",)),
    ]


def test_steps_with_everything():
    fields = {"inputs": (IMAGE,), "environment": {"A": "1"}, "network": True, "mounts": True}
    assert steps(arguments=("-v", WORDS, IMAGE), **fields) == [
        COPIED,
        Run(
            ("/run/forge/tmp/script", "-v", "/run/forge/src/words.txt", "/run/forge/in/arm64/disk.img"),
            root="/run/forge/out",
            env={**PATHS, "A": "1"},
            network=True,
            mounts=True,
        ),
    ]


def test_its_inputs():
    rule = Script(base=BASE, script=TUNE, arguments=("x", WORDS), inputs=(IMAGE, WORDS))
    assert Target("tuned", rule, None).inputs == (BASE, TUNE, WORDS, IMAGE)
    assert Target("tuned", rule, None).output == "tree"
