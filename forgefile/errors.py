"""What can go wrong that is not a bug of forge.

Every error carries what a person needs: where (a `Location` in the Forgefile), what, and one hint. The exit status
is the class's. An exception of any other class that reaches the command line is a bug (status 3).
"""

from collections.abc import Iterable, Sequence

from forgefile.location import Location


class ForgeError(Exception):
    """An error that is shown to the user as it is, without a traceback."""

    status = 1

    def __init__(self, message: str, *, location: Location | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.location = location
        self.hint = hint


class UsageError(ForgeError):
    """The command line, the host or the project folder cannot be used as asked; nothing ran."""

    status = 2


class ForgefileError(UsageError):
    """The Forgefile asks for something that cannot be."""


class BuildError(ForgeError):
    """A target failed."""


class StoreError(ForgeError):
    """The store could not be read or written."""


class OvertakenError(ForgeError):
    """The store was changed before anything ran, and what a snapshot told of it may be wrong by now."""


_FEW = 30


def nearest(word: str, choices: Iterable[str], likeness: float = 0.5) -> str | None:
    """Return the one of `choices` that was probably meant by `word`, or None; `likeness` is that of difflib."""
    from difflib import get_close_matches  # noqa: PLC0415  only an error needs it

    found = get_close_matches(word, list(choices), n=1, cutoff=likeness)
    return found[0] if found else None


def did_you_mean(word: str, choices: Sequence[str]) -> str | None:
    """Return a hint that names the nearest choice, or lists them when there are few, or None."""
    if near := nearest(word, choices):
        return f"did you mean '{near}'?"
    return f"choose from: {', '.join(choices)}" if 0 < len(choices) <= _FEW else None
