"""What an output holds: trees wherever they lie, disk images, packages, and what takes how much room."""

import struct
from collections.abc import Callable
from typing import TypeVar

from forgefile import userns
from forgefile.errors import UsageError

_T = TypeVar("_T")


def look(function: Callable[[], _T]) -> _T:
    """Call a function where trees can be read, which is in a user namespace for ordinary users; return what it returns.

    That has to be plain data (see marshal). Raises `UsageError` for what cannot be read.
    """

    def told() -> tuple[_T | None, str, str | None]:
        try:
            return function(), "", None
        except UsageError as error:
            return None, error.message, error.hint
        except OSError as error:
            where = f"{error.filename} " if error.filename else ""
            return None, f"{where}cannot be read: {error.strerror or error}", None
        except (struct.error, ArithmeticError, MemoryError):
            return None, "a file system in the image is damaged: what it says of itself leads nowhere", None

    found, problem, hint = userns.ask(told)
    if problem:
        raise UsageError(problem, hint=hint)
    return found  # type: ignore[return-value]  # there was no problem
