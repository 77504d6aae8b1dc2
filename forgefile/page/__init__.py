"""The page of one build: a single HTML file that needs no network, can be mailed and can be printed.

What stands in it is escaped by the template, and cleaned of what moves a cursor or hides text. The page's own policy
(Content Security Policy) lets a browser run nothing but the one script that forge wrote.
"""

import os
import time
from base64 import b64encode
from collections.abc import Iterable
from hashlib import sha256
from typing import Any

from forgefile.cache.store import Store
from forgefile.history import Build, details
from forgefile.page.content import LABELS, Row, content
from forgefile.page.layout import HEIGHT, WIDTH, Layout
from forgefile.report import words

MARK = "<!-- a build, told by forge -->"
"""What stands at the head of each page, so that forge writes over nothing else."""
_FOLDER = os.path.dirname(os.path.abspath(__file__))
_MARGIN, _LEAST = 24, (900, 150)
"""Around the drawing of the graph, and how wide and high its frame is at least, in its units."""


def page(store: Store, build: Build, *, project: str, command: str) -> str:
    """Return the page of a build; `project` is what its project is called, `command` its command line."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415  40 ms, and only this needs it

    environment = Environment(
        loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, finalize=_clean,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(duration=words.duration, size=words.size, short=_short, counted=words.count)
    told, note = details(store, build.note.number), build.note
    found = content(store, told, None if note.wall_s is None else note.began + note.wall_s, note.wall_s)
    script = _part("report.js")
    return environment.get_template("report.html").render(
        mark=MARK, build=build, note=note, project=project, command=command, told=told, page=found,
        ends=_ends(found.rows), ids={row.name: row.id for row in found.rows},
        began=time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(note.began)),
        style=_part("report.css"), script=script, script_digest=b64encode(sha256(script.encode()).digest()).decode(),
        box={"width": WIDTH, "height": HEIGHT}, frame=_frame(found.graph),
    )  # fmt: skip


def _part(name: str) -> str:
    with open(os.path.join(_FOLDER, name), encoding="utf-8") as stream:
        return stream.read()


def _ends(rows: Iterable[Row]) -> list[tuple[Row, int]]:
    """Return for each way in which targets ended one that did so, and how many did."""
    of = {end: [row for row in rows if row.end == end] for end in LABELS}
    return [(found[0], len(found)) for found in of.values() if found]


def _frame(graph: Layout) -> tuple[float, float, float, float]:
    """Return what is seen of the drawing at first, as a viewBox has it: all, in the middle, and no larger than life."""
    width = max(graph.width + 2 * _MARGIN, _LEAST[0])
    height = max(graph.height + 2 * _MARGIN, _LEAST[1])
    return (graph.width - width) / 2, (graph.height - height) / 2, width, height


def _clean(value: Any) -> Any:
    """Return what may stand in a page: text that moves no cursor and hides nothing, odd bytes of names as escapes."""
    if isinstance(value, str) and not hasattr(value, "__html__"):
        return words.pasteable(value).encode("utf-8", "backslashreplace").decode()
    return value


def _short(text: str, most: int) -> str:
    """Return a text that fits into so many characters: of a long one, its beginning and its end."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[len(text) - (most - most // 2 - 1) :]}"
