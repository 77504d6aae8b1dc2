"""Where in the Forgefile something was said.

A location is the chain of the Forgefile's frames, innermost first, so that a helper function that declares targets
does not hide the line that called it. Unaware of everything else.
"""

import os
import sys
from typing import NamedTuple

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_MODEL = f"{_PACKAGE}model.py"


class Location(NamedTuple):
    """A place in a Forgefile: `frames` are (file, line) pairs, innermost first, at least one."""

    frames: tuple[tuple[str, int], ...]

    @property
    def file(self) -> str:
        """The file of the innermost frame."""
        return self.frames[0][0]

    @property
    def line(self) -> int:
        """The line of the innermost frame, counted from 1."""
        return self.frames[0][1]

    def __str__(self) -> str:
        first, *callers = (f"{os.path.relpath(file)}:{line}" for file, line in self.frames)
        return first + "".join(f" (called from {caller})" for caller in callers)


def caller() -> Location | None:
    """Return where the code outside forge is that led to this call, or None when only forge is on the stack."""
    frame = sys._getframe(1)  # noqa: SLF001  the documented way to look at the stack without importing inspect
    frames: list[tuple[str, int]] = []
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_PACKAGE):
            if frames and file != _MODEL:  # a rule's own check is called by the model, which the Forgefile called
                break
        elif not file.startswith("<frozen "):  # what imports a module beside the Forgefile
            frames.append((file, frame.f_lineno))
        frame = frame.f_back  # type: ignore[assignment]  # None ends the loop
    return Location(tuple(frames)) if frames else None
