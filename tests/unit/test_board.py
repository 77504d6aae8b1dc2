"""What stands at the foot of a terminal: rows of every width, the part that is done, colours and columns."""

import pytest

from forgefile.events import (
    Built,
    Current,
    Downloading,
    Event,
    Failed,
    Output,
    Planned,
    Restored,
    Retrying,
    Same,
    Skipped,
    Started,
    StepStarted,
    Verifying,
)
from forgefile.report.board import Board
from forgefile.report.ink import NONE, cut, ink, painted, short
from forgefile.report.words import Span, columns, text

COLOURS, ATTRIBUTES = ink({}, terminal=True), ink({"CLICOLOR": "0"}, terminal=True)
PLANNED = (
    Planned(t=0.0, target="packages", action="run", expected_s=8.0),
    Planned(t=0.0, target="disk.img", action="maybe", expected_s=2.0),
    Planned(t=0.0, target="rootfs", action="none", expected_s=60.0),
)
RUNNING = (
    *PLANNED,
    Started(t=1.0, target="packages", expected_s=8.0),
    StepStarted(t=1.0, target="packages", command="apt-get install"),
    Output(t=2.0, target="packages", line="  \x1b[1mUnpacking\x07 [red]x[/red] :smile:"),
    Output(t=2.0, target="packages", line="  "),
)


def built(target: str, wall_s: float = 2.0, t: float = 3.0) -> Built:
    return Built(t=t, target=target, wall_s=wall_s, size=1)


class Clock:
    """A clock that shows what it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def drawn(*events: Event, width: int = 80, height: int = 10, now: float = 5.0, **how) -> list[str]:
    """Return what the live display shows `now` seconds after forge started."""
    clock = Clock()
    board = Board(clock)
    for event in events:
        clock.now = event.t
        board.note(event)
    clock.now = now
    return [text(row) for row in board.rows(width, height, **how)]


# Rows


def test_what_runs_is_shown_with_its_last_line():
    assert drawn(*RUNNING) == [
        "━━━━━━━━━───────────────  40 %  0 of 2 targets  0:05",
        "  packages  0:04 / 0:08  Unpacking [red]x[/red] :smile:",
    ]
    assert "$ apt-get install" in drawn(*RUNNING[:-2])[1]


def test_what_is_downloaded_stands_beside_it_and_in_the_whole():
    other = Started(t=4.0, target="disk.img", expected_s=2.0)
    fetched = [Downloading(t=4.0, target="packages", download_bytes=n << 20) for n in (3, 41)]
    assert drawn(*RUNNING, other, *fetched) == [
        "━━━━━━━━━━━━────────────  50 %  0 of 2 targets  0:05  ↓ 41 MiB",
        "  packages  0:04 / 0:08  ↓ 41 MiB    Unpacking [red]x[/red] :smile:",
        "  disk.img  0:01 / 0:02",
    ]
    assert drawn(*RUNNING, *fetched, built("packages"))[0].endswith("↓ 41 MiB"), "also when it is built"


def test_a_target_never_timed_has_no_expected_time():
    assert drawn(Started(t=1.0, target="a"), now=64.9)[1] == "  a  1:03"


def test_another_try_stands_where_the_target_runs():
    again = Retrying(
        t=2.0, target="rootfs", message="exit status 25", command="mmdebstrap", number=2, tries=3, wait_s=8
    )
    assert drawn(Started(t=0.0, target="rootfs"), again, now=2.0)[1] == "  rootfs  0:02  try 2 of 3 in 8 s"


def test_columns_do_not_jump_back():
    long = (Started(t=0.0, target="a-long-name"), Started(t=0.0, target="b"))
    board = Board(lambda: 3.0)
    for event in long:
        board.note(event)
    before = [text(row) for row in board.rows(80, 10)][2]
    board.note(built("a-long-name", t=0.0))
    assert [text(row) for row in board.rows(80, 10)][1] == before


@pytest.mark.parametrize("width", [1, 2, 5, 10, 15, 19, 20, 29, 30, 39, 40, 59, 60, 120])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_no_row_is_as_wide_as_the_terminal(width, ascii_only):
    name = "a/very/long/name/of/a/漢字/disk.img"
    events = (
        *RUNNING,
        Started(t=0.0, target=name, expected_s=7300.0),
        Output(t=0.0, target=name, line="漢字 e\u0301 👍 " * 60),
        Downloading(t=0.0, target=name, download_bytes=5 << 30),
        Failed(t=0.0, target="x", message="oh"),
    )
    rows = drawn(*events, width=width, now=7200.0, ascii_only=ascii_only)
    assert len(rows) == 3
    assert max(map(columns, rows)) < max(width, 2)


def test_twenty_columns_are_enough():
    assert drawn(*RUNNING, width=20) == ["40 % 0/2 0:05", "packages  0:04/0:08"]


def test_an_old_terminal_gets_ascii():
    rows = drawn(*RUNNING, Downloading(t=3.0, target="packages", download_bytes=1), ascii_only=True, width=60)
    assert rows[0] == "#########---------------  40 %  0 of 2 targets  0:05  1 B"
    assert all(row.isascii() for row in rows)


def test_more_targets_than_rows():
    lines = drawn(*(Started(t=0.0, target=f"t{n}") for n in range(20)))
    assert len(lines) == 9
    assert lines[-1] == "  and 13 more running"
    assert len(drawn(*(Started(t=0.0, target=f"t{n}") for n in range(200)), height=60)) == 31, "half is for the lines"
    assert len(drawn(*RUNNING, height=1)) == 2


# The part that is done


def percent(*events: Event, now: float = 5.0) -> str:
    return next(word for word in drawn(*events, now=now, width=20)[0].split(" %"))


def test_the_bar_counts_what_ended():
    assert drawn(*RUNNING, built("packages"))[0] == "━━━━━━━━━━━━━━━━━━━─────  80 %  1 of 2 targets  0:05"
    assert "100 %  2 of 2" in drawn(*RUNNING, built("packages"), Current(t=3.0, target="disk.img"))[0]
    assert "100 %  2 of 2" in drawn(*RUNNING, built("packages"), Restored(t=3.0, target="disk.img"))[0]


def test_what_takes_longer_than_expected_is_never_done():
    assert [percent(*RUNNING, now=now) for now in (8.0, 9.0, 20.0, 1000.0)] == ["70", "72", "76", "79"]


def test_of_what_never_ran_the_mean_is_assumed():
    new = Planned(t=0.0, target="new", action="run")
    assert percent(*PLANNED, new, built("packages"), built("disk.img")) == "66", "10 s of 10 s and a guess of 5 s"
    assert percent(*PLANNED, new, built("new", 90.0)) == "90", "what it took is known now"


def test_most_of_it_being_a_guess_is_shown():
    new = [Planned(t=0.0, target=f"t{n}", action="run") for n in range(4)]
    started = [Started(t=0.0, target=f"t{n}") for n in range(2)]
    assert percent(*new, *started, now=0.0) == "~0"
    assert percent(*new, *started, now=100.0) == "~25", "half of two of four that take as long"
    assert percent(*new, *started, built("t0", 50.0), built("t1", 50.0)) == "50"


def test_the_bar_never_goes_back():
    clock = Clock()
    board = Board(clock)
    for event in (Planned(t=0.0, target=name, action="run") for name in ("a", "b")):
        board.note(event)
    board.note(built("a", 1.0))
    half = text(board.rows(20, 10)[0])
    assert half.startswith("50 %")
    board.note(Started(t=0.0, target="b"))
    clock.now = 50.0
    assert text(board.rows(20, 10)[0]).startswith("~50 %")


def test_failures_are_counted():
    ended = Failed(t=3.0, target="packages", message="oh"), Skipped(t=3.0, target="disk.img", because="packages")
    assert drawn(*RUNNING, *ended) == ["━" * 24 + "  100 %  2 of 2 targets  0:05  1 failed"]


def test_a_second_build_begins_anew():
    first = (*RUNNING, built("packages"), Verifying(t=3.0, varied=("clock",)))
    again = Planned(t=3.0, target="packages", action="run", expected_s=2.0)
    assert "0 %  0 of 1" in drawn(*first, again)[0]
    assert "100 %  1 of 1" in drawn(*first, again, Same(t=4.0, target="packages", wall_s=1.0))[0]


# Colours


@pytest.mark.parametrize(
    ("environ", "terminal", "piped"),
    [
        ({}, COLOURS, NONE),
        ({"NO_COLOR": ""}, COLOURS, NONE),
        ({"NO_COLOR": "1"}, ATTRIBUTES, NONE),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, ATTRIBUTES, NONE),
        ({"FORCE_COLOR": "1"}, COLOURS, COLOURS),
        ({"FORCE_COLOR": "3"}, COLOURS, COLOURS),
        ({"FORCE_COLOR": "0"}, ATTRIBUTES, NONE),
        ({"CLICOLOR_FORCE": "1"}, COLOURS, COLOURS),
        ({"CLICOLOR_FORCE": "0"}, COLOURS, NONE),
        ({"CLICOLOR": "1"}, COLOURS, NONE),
        ({"CLICOLOR": "0"}, ATTRIBUTES, NONE),
        ({"CLICOLOR": "0", "CLICOLOR_FORCE": "1"}, COLOURS, COLOURS),
    ],
)
def test_colours_as_the_environment_wants_them(environ, terminal, piped):
    assert ink(environ, terminal=True) == terminal
    assert ink(environ, terminal=False) == piped


def test_a_line_is_painted_by_its_tones():
    line = (Span("built ", "good"), Span("a", "name"), Span(" now"), Span("", "bad"))
    assert painted(line, NONE) == "built a now"
    assert painted(line, COLOURS) == "\x1b[32mbuilt \x1b[0m\x1b[1ma\x1b[0m now"
    assert painted(line, ATTRIBUTES) == "built \x1b[1ma\x1b[0m now"


# Columns


@pytest.mark.parametrize(
    ("text", "wide"), [("", 0), ("abc", 3), ("é", 1), ("e\u0301", 1), ("漢字", 4), ("👍", 2), ("a\u200bb", 2)]
)
def test_columns_of_a_terminal(text, wide):
    assert columns(text) == wide


def test_a_cut_never_halves_a_wide_character():
    line = (Span("漢字", "name"), Span("漢字", "bad"))
    assert [text(cut(line, width)) for width in (8, 7, 6, 5, 4, 3, 2, 1, 0)] == [
        "漢字漢字", "漢字漢…", "漢字…", "漢字…", "漢…", "漢…", "…", "…", "",
    ]  # fmt: skip
    assert cut(line, 7) == (Span("漢字", "name"), Span("漢…", "bad"))


def test_a_reason_is_cut_and_nothing_else():
    head = Span("built a")
    assert short((head, Span(" (" + "x" * 50 + ")")), 40) == (head, Span(" (" + "x" * 50 + ")"))
    assert text(short((head, Span(" (" + "x" * 50 + ")", "reason")), 40)) == "built a (" + "x" * 28 + "…)"
    assert text(short((head, Span(" (short)", "reason")), 40)) == "built a (short)"
    narrow = short((Span("b" * 30), Span(" (" + "x" * 50 + ")", "reason")), 20)
    assert len(text(narrow)) == 59, "it ends on the row after"
    assert short((), 20) == ()
