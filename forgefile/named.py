"""A stand-in for `typing.NamedTuple`: that takes longer to import than it takes to find out that nothing changed.

For the modules that every run imports. Type checkers are shown the real one.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, Self


class NamedTuple(tuple):  # type: ignore[type-arg]
    """A tuple whose items have the names that a class annotates, and defaults where it gives values."""

    __slots__ = ()
    _fields: "ClassVar[tuple[str, ...]]"
    _defaults: "ClassVar[dict[str, object]]"

    def __init_subclass__(cls) -> None:
        cls._fields = tuple(cls.__annotations__)
        cls._defaults = {name: value for name, value in vars(cls).items() if name in cls._fields}
        for number, name in enumerate(cls._fields):
            setattr(cls, name, _item(number))

    def __new__(cls, *values: "Any", **named: "Any") -> "Self":
        """Make one of values by place, then by name."""
        left, known = cls._fields[len(values) :], {**cls._defaults, **named}
        if len(values) > len(cls._fields) or not named.keys() <= set(left) <= known.keys():
            raise TypeError(f"{cls.__name__} has the fields {', '.join(cls._fields)}")
        return super().__new__(cls, (*values, *(known[name] for name in left)))

    def _replace(self, **named: "Any") -> "Self":
        return type(self)(**{**dict(zip(self._fields, self, strict=True)), **named})


def _item(number: int) -> property:
    return property(lambda self: self[number])
