"""Lines as a terminal takes them: colours, whether they are wanted, and how many columns a text takes.

Unaware of what the lines say. The styles are of the eight colours and of attributes alone, so that they look as the
user has set their terminal, light or dark. rich knows how wide characters are and how a terminal is told of a style.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from forgefile.report.words import Line, Span, Tone, columns, text

if TYPE_CHECKING:
    from rich.style import Style

Ink = Mapping[Tone, "Style"]
"""The styles of tones; a span of another tone is left as it is."""

NONE: Ink = {}
_ATTRIBUTES: Mapping[Tone, str] = {"name": "bold", "bad": "bold", "aside": "dim", "reason": "dim"}
_COLOURS: Mapping[Tone, str] = {
    **_ATTRIBUTES, "good": "green", "kept": "cyan", "bad": "bold red", "warning": "yellow",
}  # fmt: skip

_OFF = ("0", "false", "no")


def ink(environ: Mapping[str, str], *, terminal: bool) -> Ink:
    """Return what to write with on a stream, as the environment wants it.

    NO_COLOR (https://no-color.org) forbids colours, though not bold and dim. FORCE_COLOR and CLICOLOR_FORCE
    (https://bixense.com/clicolors) want them also where no terminal is, CLICOLOR=0 and FORCE_COLOR=0 on none.
    """
    forced = environ.get("FORCE_COLOR", "")
    if environ.get("NO_COLOR") or forced.lower() in _OFF:
        return _styles(_ATTRIBUTES) if terminal else NONE
    if forced or environ.get("CLICOLOR_FORCE", "").lower() not in ("", *_OFF):
        return _styles(_COLOURS)
    if environ.get("CLICOLOR") == "0":
        return _styles(_ATTRIBUTES) if terminal else NONE
    return _styles(_COLOURS) if terminal else NONE


def _styles(tones: Mapping[Tone, str]) -> Ink:
    from rich.style import Style  # noqa: PLC0415  a pipe needs none

    return {tone: Style.parse(style) for tone, style in tones.items()}


def painted(line: Line, ink: Ink) -> str:
    """Return a line with the sequences that its tones need."""
    if not ink:
        return text(line)
    return "".join(ink[span.tone].render(span.text) if span.tone in ink else span.text for span in line)


def cut(line: Line, width: int, *, ellipsis: str = "…") -> Line:
    """Return a line that takes at most so many columns; what was cut off ends in an ellipsis."""
    if sum(columns(span.text) for span in line) <= width:
        return line
    kept, left = [], max(width - len(ellipsis), 0)
    for span in line:
        room = _fitting(span.text, left)
        kept.append(Span(span.text[:room], span.tone))
        left -= columns(span.text[:room])
        if room < len(span.text):
            break
    *head, last = kept
    return (*head, Span(f"{last.text.rstrip()}{ellipsis}"[: max(width, 0)], last.tone))


def _fitting(text: str, width: int) -> int:
    """Return how many characters of a text fit into so many columns."""
    taken = 0
    for place, character in enumerate(text):
        taken += columns(character)
        if taken > width:
            return place
    return len(text)


def padded(line: Line, width: int) -> Line:
    """Return a line with blanks at its end, so that it takes at least so many columns."""
    lacking = width - sum(columns(span.text) for span in line)
    return (*line, Span(" " * lacking)) if lacking > 0 else line


def short(line: Line, width: int, *, ellipsis: str = "…") -> Line:
    """Return a line whose reason, if it has one, is cut so that it ends on the row where it begins, or on the next."""
    *head, last = line or (Span(""),)
    if last.tone != "reason":
        return line
    rows = (sum(columns(span.text) for span in head) + _REASON) // width + 1
    return cut(line, rows * width - 1, ellipsis=f"{ellipsis})") if width > _REASON else line


_REASON = 12
"""The columns that are enough for the beginning of a reason."""
