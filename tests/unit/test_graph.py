"""The graph: what names and globs select, what a target needs, and the longest way to the end."""

import pytest

from forgefile.errors import UsageError
from forgefile.graph import Graph, critical, inputs, remaining, ways
from tests.conftest import make, make_tree

ROOTFS = make_tree("rootfs")
TUNED = make_tree("tuned", ROOTFS)
DISK = make("amd64/disk.img", TUNED)
TAR = make("amd64/tree.tar", TUNED)
QCOW = make("arm64/disk.img", DISK)
ALL = (ROOTFS, TUNED, DISK, TAR, QCOW)


def graph(*defaults):
    return Graph({target.name: target for target in ALL}, defaults, ())


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        (("rootfs",), (ROOTFS,)),
        (("amd64/*",), (DISK, TAR)),
        (("*/disk.img",), (DISK, QCOW)),
        (("amd64/tree.tar", "rootfs", "amd64/*"), (ROOTFS, DISK, TAR)),
        (("*",), ALL),
    ],
)
def test_select(patterns, chosen):
    assert graph().select(patterns) == chosen


def test_nothing_selects_the_defaults_or_all():
    assert graph(TAR).select(()) == (TAR,)
    assert graph().select(()) == ALL


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("rotfs", "did you mean 'rootfs'?"),
        ("mips/*", None),
        ("", "choose from: rootfs, tuned, amd64/disk.img, amd64/tree.tar, arm64/disk.img"),
    ],
)
def test_a_pattern_that_selects_nothing(pattern, hint):
    with pytest.raises(UsageError) as caught:
        graph().select((pattern, "rootfs"))
    assert caught.value.message == f"there is no target '{pattern}'"
    assert hint is None or caught.value.hint == hint


def test_a_name_with_the_signs_of_a_glob_is_a_name():
    odd = make("a[1].img")
    assert Graph({"a[1].img": odd}, (), ()).select(("a[1].img",)) == (odd,)


def test_closure_has_the_inputs_first_and_each_once():
    assert graph().closure((QCOW, TAR)) == ALL
    assert graph().closure((TAR, TAR)) == (ROOTFS, TUNED, TAR)
    assert graph().closure(()) == ()


def test_inputs_are_targets_alone():
    assert inputs(DISK) == (TUNED,)
    assert inputs(ROOTFS) == ()


def test_remaining_is_the_longest_path_to_the_end():
    seconds = {ROOTFS: 10.0, TUNED: 1.0, DISK: 3.0, TAR: 7.0, QCOW: 2.0}
    assert remaining(ALL, seconds.__getitem__) == {QCOW: 2.0, TAR: 7.0, DISK: 5.0, TUNED: 8.0, ROOTFS: 18.0}


def test_remaining_leaves_out_what_is_not_asked_about():
    assert remaining((TUNED, DISK), lambda _: 1.0) == {DISK: 1.0, TUNED: 2.0}


def test_the_critical_path():
    a, b = make("a"), make("b")
    c = make("c", a, b)
    d = make("d", c)
    seconds = {a: 1.0, b: 2.0, c: 1.0, d: 1.0}
    assert critical((a, b, c, d), seconds.__getitem__) == (b, c, d)
    assert critical((c, d), seconds.__getitem__) == (c, d)
    assert critical((), seconds.__getitem__) == ()


def test_ways_come_shortest_first():
    a = make("a")
    b, c = make("b", a), make("c", a)
    d = make("d", b, c, a)
    e = make("e")
    found = ways((a, b, c, d), d, a)
    assert found.number == 3
    assert list(found.paths) == [(d, a), (d, b, a), (d, c, a)]
    assert (ways((a, b, c, d), d, e).number, list(ways((a, b), b, e).paths)) == (0, [])


def test_of_many_ways_the_first_come_at_once():
    layer = [make("end")]
    targets = list(layer)
    for depth in range(40):
        layer = [make(f"{depth}-{side}", *layer) for side in "ab"]
        targets += layer
    found = ways(targets, layer[0], targets[0])
    assert found.number == 2**39
    assert len(next(found.paths)) == 41
