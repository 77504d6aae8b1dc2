"""What decides and what explains is one value: manifests differ just when their texts and their words do."""

from hypothesis import given
from hypothesis import strategies as st

from forgefile.fingerprint import Manifest, canonical, decode, difference, encode, fingerprint
from forgefile.model import Call, Copy, Run, Write
from forgefile.programs.debian import settle

WORDS = st.one_of(
    st.text(alphabet='ab é\n\0"\\\udce9→', max_size=4),
    st.sampled_from(["x" * 61, "x" * 60 + "y", "name", "default"]),
)
PATHS = st.sampled_from(["/etc/a", "/etc/b"])
DATA = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2) | st.sampled_from([0.0, 1.0]) | WORDS,
    lambda inner: st.lists(inner, max_size=3).map(tuple)
    | st.dictionaries(st.sampled_from(["name", "size", "is"]), inner, max_size=3),
    max_leaves=8,
)
STEPS = st.one_of(
    st.builds(
        Run,
        st.lists(WORDS, min_size=1, max_size=4).map(tuple),
        env=st.dictionaries(WORDS, WORDS, max_size=2),
        stdin=st.none() | WORDS,
        network=st.booleans(),
    ),
    st.builds(Write, PATHS, text=WORDS, mode=st.integers(0, 2), root=st.none() | WORDS),
    st.builds(Copy, PATHS, PATHS, mode=st.none() | st.integers(0, 2)),
    st.builds(Call, st.just(settle), DATA),
)


def pairs(names):
    return st.lists(st.tuples(st.sampled_from(names), st.sampled_from("12")), unique_by=lambda p: p[0]).map(tuple)


MANIFESTS = st.builds(
    Manifest,
    output=st.sampled_from(["file", "tree"]),
    epoch=st.integers(0, 1),
    steps=st.lists(STEPS.map(canonical), max_size=3).map(tuple),
    inputs=pairs(["overlay", "rootfs", "a/b"]),
    tools=pairs(["ls", "/bin/sh"]),
    sandbox=st.sampled_from([("1",), ("2",), ("1", "base rootfs"), ("1", "scratch rootfs")]),
)


@st.composite
def neighbours(draw):
    """Two manifests that mostly have one field that may differ: what an edit makes."""
    old, other = draw(MANIFESTS), draw(MANIFESTS)
    name = draw(st.sampled_from([*Manifest.__fields__]))
    return old, Manifest(**{**old.__dict__, name: getattr(other, name)})


@given(neighbours() | st.tuples(MANIFESTS, MANIFESTS))
def test_manifests_are_equal_just_when_their_texts_are(two):
    old, new = two
    assert (old == new) is (encode(old) == encode(new)) is (fingerprint(old) == fingerprint(new))


@given(neighbours() | st.tuples(MANIFESTS, MANIFESTS))
def test_there_are_words_just_when_something_differs(two):
    old, new = two
    assert bool(difference(old, new)) is (old != new)


@given(DATA, DATA)
def test_an_argument_that_differs_is_told(old, new):
    two = [
        Manifest(output="file", epoch=0, steps=(canonical(Call(settle, data)),), inputs=(), tools=())
        for data in (old, new)
    ]
    assert bool(difference(*two)) is (two[0] != two[1])


@given(MANIFESTS)
def test_what_is_encoded_can_be_decoded(manifest):
    assert decode(encode(manifest)) == manifest


@given(STEPS, STEPS)
def test_steps_are_equal_when_their_texts_are(one, other):
    if canonical(one) == canonical(other):
        assert one == other
