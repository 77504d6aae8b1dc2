"""`Overlay`: what is refused, and the exact steps."""

import pytest

from forgefile.errors import ForgefileError
from forgefile.model import Copy, Sandbox, Source, Target
from forgefile.rules import Overlay
from tests.conftest import make, make_tree

BASE = make_tree("rootfs")
FOLDER = Source(path="overlay")
FILE = make("motd")


@pytest.mark.parametrize(
    ("fields", "message", "hint"),
    [
        ({"base": FILE}, "field 'base': expected the handle of a tree target, got the handle of the file target 'motd'",
         None),
        ({"base": "rootfs"}, "field 'base': expected the handle of a tree target, got the string 'rootfs'",
         "give what forge.target returned"),
        ({"base": FOLDER}, "field 'base': expected the handle of a tree target, got the source 'overlay'",
         None),
        ({"source": BASE}, "field 'source': 'rootfs' is a tree; build on it with base=", None),
        ({"destination": "etc"}, "field 'destination': 'etc' is no absolute path in the tree", None),
        ({"destination": ""}, "field 'destination': '' is no absolute path in the tree", None),
        ({"destination": "/etc/../.."}, "field 'destination': '/etc/../..' is no absolute path in the tree", None),
        ({"destination": 5}, "field 'destination': expected str, got int 5", None),
        ({"mode": 0o10000}, "field 'mode': 4096 is 0o10000, no mode of a file", "write it in octal: 0o644"),
        ({"mode": 644}, "field 'mode': 644 is 0o1204, no mode of a file", "write it in octal: 0o644"),
        ({"mode": -1}, "field 'mode': -1 is -0o1, no mode of a file", "write it in octal: 0o644"),
        ({"modes": (("etc/*", 0o644), ("*", 77777))}, "field 'modes': 77777 is 0o227721, no mode of a file",
         "write it in octal: 0o644"),
        ({"modes": {"*": 0o644}}, "field 'modes': expected tuple[tuple[str, int], ...], got dict {'*': 420}", None),
        ({"owner": (-1, 0)}, "field 'owner': (-1, 0) are no numeric user and group", None),
        ({"owner": (0, 1 << 32)}, "field 'owner': (0, 4294967296) are no numeric user and group", None),
        ({"owner": ("root", "root")}, "field 'owner': element 0: expected int, got the string 'root'", None),
        ({"owners": (("*", 0, -5),)}, "field 'owners': (0, -5) are no numeric user and group", None),
        ({"destinaton": "/"}, "has no field 'destinaton'", "did you mean 'destination'?"),
    ],
)  # fmt: skip
def test_refuses(fields, message, hint):
    with pytest.raises(ForgefileError) as caught:
        Overlay(**{"base": BASE, "source": FOLDER, **fields})
    assert (caught.value.message, caught.value.hint) == (f"Overlay {message}", hint)
    assert caught.value.location.file == __file__


def test_needs_a_source():
    with pytest.raises(ForgefileError, match="Overlay needs the field 'source'"):
        Overlay(base=BASE)


def steps(**fields):
    return list(Overlay(**{"base": BASE, "source": FOLDER, **fields}).steps(Sandbox()))


def test_steps():
    assert steps() == [Copy("/run/forge/src/overlay", "/", root="/run/forge/out")]
    assert steps(source=FILE, destination="/etc/", mode=0o600) == [
        Copy("/run/forge/in/motd", "/etc/", root="/run/forge/out", mode=0o600)
    ]
    assert steps(owner=(1, 2), owners=(("srv/*", 3, 4),), modes=(("etc/sudoers.d/*", 0o440),)) == [
        Copy(
            "/run/forge/src/overlay",
            "/",
            root="/run/forge/out",
            owner=(1, 2),
            owners=(("srv/*", 3, 4),),
            modes=(("etc/sudoers.d/*", 0o440),),
        )
    ]


def test_it_is_a_tree_of_its_base_and_source():
    target = Target("system", Overlay(base=BASE, source=FOLDER), None)
    assert (target.output, target.inputs) == ("tree", (BASE, FOLDER))
