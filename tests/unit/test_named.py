"""The stand-in for typing.NamedTuple does what that does."""

import typing

import pytest

from forgefile import named


class Lean(named.NamedTuple):
    name: str
    number: int = 7

    @property
    def twice(self):
        return self.number * 2


class Usual(typing.NamedTuple):
    name: str
    number: int = 7


def test_it_is_the_tuple_that_the_usual_one_is():
    made = ((("a",), {}), (("a", 2), {}), ((), {"name": "a", "number": 2}), (("a",), {"number": 3}))
    for arguments, keywords in made:
        lean, usual = Lean(*arguments, **keywords), Usual(*arguments, **keywords)
        assert lean == usual
        assert (lean.name, lean.number, lean.twice) == (usual.name, usual.number, usual.number * 2)
        assert lean._replace(number=9) == usual._replace(number=9)
        assert (type(lean._replace(name="b")), hash(lean)) == (Lean, hash(usual))


@pytest.mark.parametrize(
    ("arguments", "keywords"), [((), {}), (("a", 1, 2), {}), (("a",), {"name": "b"}), (("a",), {"size": 1})]
)
def test_what_is_no_such_tuple(arguments, keywords):
    for kind in (Lean, Usual):
        with pytest.raises(TypeError):
            kind(*arguments, **keywords)


def test_nothing_can_be_changed():
    with pytest.raises(AttributeError):
        Lean("a").number = 2
