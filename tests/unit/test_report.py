"""The displays, from events to text; no terminal and no clock but the tests' own."""

import errno
import io
import json
import os
import re
import subprocess
import sys

import pytest

import forgefile
from forgefile.errors import ForgeError, UsageError
from forgefile.events import (
    Built,
    Changed,
    Current,
    Differs,
    Downloading,
    Event,
    Failed,
    Finished,
    Note,
    Output,
    Planned,
    Predicted,
    Restored,
    Retrying,
    Same,
    Skipped,
    Started,
    StepStarted,
    Then,
    Verified,
    Verifying,
    Waiting,
)
from forgefile.report import Sink, Tee, reporter
from forgefile.report.github import Github
from forgefile.report.json import Json
from forgefile.report.plain import Plain
from forgefile.report.terminal import Terminal
from forgefile.report.trace import Trace
from forgefile.report.words import clock, duration, names, printable, size, stopwatch
from forgefile.verbs import aligned

FAILED = Failed(
    t=3.0,
    target="disk.img",
    message="mke2fs ended with status 1\nand said why",
    location="Forgefile.py:22",
    command="mke2fs -d 'a tree' out",
    tail=("mke2fs 1.47", "[bold]no space[/bold]\x1b[2J left"),
    log=".forge/logs/disk.img",
    kept=".forge/failed/disk.img",
    hint="give the partition a larger size",
    wall_s=2.1,
)
RETRYING = Retrying(
    t=2.0, target="rootfs", message="exit status 25\nand more", command="mmdebstrap", number=2, tries=3, wait_s=8
)
FAILURE_BLOCK = """\
failed disk.img after 2.1 s: mke2fs ended with status 1
  and said why
  declared at  Forgefile.py:22
  command      mke2fs -d 'a tree' out
  last output
    | mke2fs 1.47
    | [bold]no space[/bold] left
  log          .forge/logs/disk.img
  kept         .forge/failed/disk.img
  hint         give the partition a larger size
"""
SKIPPED = Skipped(t=3.0, target="disk.qcow2", because="disk.img")


def finished(status: int = 0, **counts: int) -> Finished:
    zero = {"built": 0, "restored": 0, "current": 0, "failed": 0, "skipped": 0}
    return Finished(t=4.0, status=status, wall_s=4.2, **{**zero, **counts})


def plain(*events: Event, **how) -> str:
    stream = io.StringIO()
    display = Plain(stream, environ={}, **how)
    for event in events:
        display.report(event)
    display.close()
    return stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0.0 s"),
        (0.04, "0.0 s"),
        (1.94, "1.9 s"),
        (21.3, "21.3 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (123, "2 min 3 s"),
        (3599.7, "1 h 0 min"),
        (3725, "1 h 2 min"),
    ],
)
def test_durations(seconds, words):
    assert duration(seconds) == words


def test_a_counting_clock_has_whole_units():
    assert [clock(s) for s in (-1, 0.4, 59.4, 59.6, 123)] == ["0 s", "0 s", "59 s", "1 min 0 s", "2 min 3 s"]


def test_a_stopwatch_has_digits():
    told = [stopwatch(s) for s in (-1, 0.4, 4.9, 59.9, 60, 751, 3599.9, 3600, 3751, 90000)]
    assert told == ["0:00", "0:00", "0:04", "0:59", "1:00", "12:31", "59:59", "1:00:00", "1:02:31", "25:00:00"]


@pytest.mark.parametrize(
    ("octets", "words"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (3200, "3.1 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (412 * 1024**2, "412 MiB"),
        (1536 * 1024**2, "1.5 GiB"),
        (5000 * 1024**4, "5000 TiB"),
    ],
)
def test_sizes(octets, words):
    assert size(octets) == words


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain", "plain"),
        ("a\tb", "a       b"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b(Btext\x1b7", "text"),
        ("10 %\r 50 %\r100 %\r\n", "100 %"),
        ("bell\x07 \x9b31mc1\x00\x7f", "bell 31mc1"),
        ("\u202eright to left\u2066", "right to left"),
        ("[red]x[/red] :smile:", "[red]x[/red] :smile:"),
        ("two\nlines", "two lines"),
        ("", ""),
    ],
)
def test_what_a_program_prints_is_made_harmless(raw, shown):
    assert printable(raw) == shown


def test_enumerations():
    assert names(["a"]) == "a"
    assert names(["a", "b"]) == "a and b"
    assert names(["a", "b", "c", "d"]) == "a, b, c and d"
    assert names(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


@pytest.mark.parametrize(
    ("event", "normal", "verbose"),
    [
        (Planned(t=0.0, target="a", action="run", reasons=("x",)), "", ""),
        (Started(t=0.0, target="a"), "building a\n", "building a\n"),
        (Started(t=0.0, target="a", reasons=("x: changed",)), "building a (x: changed)\n", "building a (x: changed)\n"),
        (
            Started(t=0.0, target="a", reasons=("x: changed", "y: new", "z: gone")),
            "building a (x: changed; 2 more reasons)\n",
            "building a:\n  x: changed\n  y: new\n  z: gone\n",
        ),
        (StepStarted(t=0.0, target="a", command="sort x"), "", "a | $ sort x\n"),
        (Output(t=0.0, target="a", line="[b]hi\x1b[2J"), "", "a | [b]hi\n"),
        (Built(t=0.0, target="a", wall_s=21.3, size=214 << 20), *["built a in 21.3 s, 214 MiB\n"] * 2),
        (Built(t=0.0, target="a", wall_s=1.0, size=5, changed=False), *["built a in 1.0 s, 5 B, same as before\n"] * 2),
        (Restored(t=0.0, target="a"), "restored a\n", "restored a\n"),
        (Restored(t=0.0, target="a", reasons=("suite: b → t",)), *["restored a (suite: b → t)\n"] * 2),
        (Current(t=0.0, target="a", path="a"), "", "a is up to date\n"),
        (Failed(t=0.0, target="a", message="oh"), "failed a: oh\n", "failed a: oh\n"),
        (Skipped(t=0.0, target="a", because="the build was stopped"), *["skipped a: the build was stopped\n"] * 2),
        (Note(t=0.0, message="no overlayfs here"), *["note: no overlayfs here\n"] * 2),
    ],
)
def test_each_event_in_a_log(event, normal, verbose):
    assert plain(event) == normal
    assert plain(event, verbosity="verbose") == verbose
    assert plain(event, verbosity="quiet") == (normal if isinstance(event, Failed) else "")


def test_a_failure_tells_all():
    assert plain(FAILED) == plain(FAILED, verbosity="quiet") == FAILURE_BLOCK


def test_a_command_of_several_lines_can_be_pasted():
    event = Failed(t=0.0, target="a", message="oh", command="sh -c 'echo a\n\techo b'")
    assert plain(event).splitlines()[1:] == ["  command      sh -c 'echo a", "\techo b'"]


def test_skipped_targets_say_what_they_lack():
    further = Skipped(t=3.0, target="sums", because="disk.qcow2")
    assert plain(FAILED, SKIPPED, further).removeprefix(FAILURE_BLOCK).splitlines() == [
        "skipped disk.qcow2: disk.img failed",
        "skipped sums: disk.qcow2 was skipped",
    ]


def test_the_end_says_what_was_done_and_where_it_lies():
    told = plain(
        Built(t=0.0, target="a", wall_s=1.0, size=5, path="/project/a"),
        Restored(t=0.0, target="b", path="/project/b"),
        Current(t=0.0, target="c", path="/project/c"),
        finished(built=1, restored=1, current=4),
    )
    assert told.splitlines()[2:] == [
        "done in 4.2 s: 1 built, 1 restored, 4 up to date",
        "a is at /project/a",
        "b is at /project/b",
    ]


def test_the_end_of_a_large_build_is_short():
    built = [Built(t=0.0, target=f"t{n}", wall_s=1.0, size=5, path=f"t{n}") for n in range(30)]
    told = plain(*built, finished(built=30)).splitlines()[30:]
    assert told[1:] == [*(f"t{n} is at t{n}" for n in range(20)), "and 10 more, each at its name"]


def test_what_was_downloaded_is_told_where_a_target_ends():
    fetched = [Downloading(t=0.0, target="a", download_bytes=n << 20) for n in (3, 41)]
    told = plain(Started(t=0.0, target="a"), *fetched, Built(t=0.0, target="a", wall_s=1.0, size=5))
    assert told.splitlines()[1:] == ["built a in 1.0 s, 5 B, 41 MiB downloaded"]


def test_the_end_names_what_failed():
    other = Failed(t=0.0, target="other", message="oh")
    assert plain(FAILED, other, finished(1, failed=2, skipped=3, built=1)).splitlines()[-2:] == [
        "failed after 4.2 s: 2 failed, 3 skipped, 1 built",
        "failed: disk.img and other",
    ]


@pytest.mark.parametrize(
    ("events", "told"),
    [
        ([Current(t=0.0, target="rootfs"), Current(t=0.0, target="a", path="a")], "a is up to date\n"),
        ([Current(t=0.0, target="a", path="a"), Current(t=0.0, target="b", path="b")], "a and b are up to date\n"),
        ([Current(t=0.0, target="rootfs")], "rootfs is up to date\n"),
        ([], "nothing to do: 1 target up to date\n"),
    ],
)
def test_nothing_to_do_is_one_line(events, told):
    assert plain(*events, finished(current=1)) == told
    assert plain(*events, finished(current=1), verbosity="quiet") == ""


def test_an_interruption_is_no_failure():
    assert plain(finished(130, built=1)) == "interrupted after 4.2 s: 1 built\n"


PLANS = (
    Planned(t=0.0, target="packages", action="run", reasons=("packages: + openssh-server",), expected_s=21.3),
    Planned(t=0.0, target="system", action="maybe", reasons=("packages may change", "overlay/etc/motd: new")),
    Planned(t=0.0, target="tuned", action="restore", reasons=("option suite: trixie → bookworm",), expected_s=1.0),
    Planned(t=0.0, target="rootfs", action="none", expected_s=130.0),
)
PREDICTED = Predicted(
    t=0.0, jobs=2, unknown=1, least_s=21.3, most_s=80.0, downloads_unknown=("packages",), disk_bytes=5 << 20,
    free_bytes=9 << 30,
)  # fmt: skip
TABLE = """\
packages  would run              21.3 s  packages: + openssh-server
system    may run
    packages may change
    overlay/etc/motd: new
tuned     would be restored       1.0 s  option suite: trixie → bookworm
rootfs    up to date         2 min 10 s
1 would run, 1 may run, 1 would be restored, 1 up to date; at least 21.3 s to 1 min 20 s with -j2, 1 never timed
downloads unknown for packages; at least 5.0 MiB of disk, 9.0 GiB free
"""


def test_a_dry_run_is_a_table():
    assert plain(*PLANS, PREDICTED, dry_run=True) == TABLE
    *rows, _, _ = TABLE.splitlines()
    cut = [*rows, "1 would run, 1 may run, 1 would be restored, 1 up to date"]
    assert plain(*PLANS, dry_run=True).splitlines() == cut, "also when the run was cut short"


FREE = " of disk, 9.0 GiB free"


@pytest.mark.parametrize(
    ("known", "told"),
    [
        ({}, ["never timed yet"]),
        ({"least_s": 80.0, "most_s": 80.0, "disk_bytes": 9}, ["about 1 min 20 s with -j2", "about 9 B" + FREE]),
        ({"least_s": 0.1, "most_s": 1.4, "disk_bytes": 9}, ["0.1 s to 1.4 s with -j2", "up to 9 B" + FREE]),
        ({"least_s": 0.1, "most_s": 0.1, "unknown": 3}, ["at least 0.1 s with -j2, 3 never timed"]),
        ({"download_bytes": 0}, ["never timed yet"]),
        ({"download_bytes": 3000}, ["never timed yet", "2.9 KiB to download again"]),
        ({"downloads_unknown": ("a", "b")}, ["never timed yet", "downloads unknown for a and b"]),
    ],
)
def test_a_prediction_tells_what_is_known(known, told):
    prediction = Predicted(t=0.0, jobs=2, free_bytes=9 << 30, **known)
    event = Planned(t=0.0, target="a", action="run", reasons=("never built",))
    _, first, *more = plain(event, prediction, dry_run=True).splitlines()
    assert [first.removeprefix("1 would run; "), *more] == told


def test_a_dry_run_cuts_long_lists_of_reasons():
    event = Planned(t=0.0, target="a", action="run", reasons=tuple(f"file{n}: new" for n in range(47)))
    assert plain(event, dry_run=True).splitlines()[10:] == [
        "    file9: new",
        "    and 37 more",
        "1 would run",
    ]
    assert len(plain(event, dry_run=True, verbosity="verbose").splitlines()) == 49


def test_a_dry_run_with_nothing_to_do():
    current = Planned(t=0.0, target="a", action="none")
    nothing = Predicted(t=0.0, jobs=2, least_s=0.0, most_s=0.0, download_bytes=0, disk_bytes=0, free_bytes=9)
    assert plain(current, nothing, dry_run=True) == "a  up to date\n1 up to date\n"


# JSON ----------------------------------------------------------------------------------------------------------------


def test_json_is_one_object_a_line_with_all_that_is_known():
    stream = io.StringIO()
    display = Json(stream)
    for event in (*PLANS, SKIPPED, FAILED, finished(1, failed=1)):
        display.report(event)
    display.close()
    told = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert told[0] == {
        "event": "planned",
        "t": 0,
        "target": "packages",
        "action": "run",
        "reasons": ["packages: + openssh-server"],
        "expected_s": 21.3,
    }
    assert told[4] == {"event": "skipped", "t": 3.0, "target": "disk.qcow2", "because": "disk.img"}
    assert told[5].keys() >= {"event", "t", "target", "message", "location", "command", "tail", "log", "hint", "wall_s"}
    assert told[6].items() >= {"event": "finished", "status": 1, "failed": 1, "skipped": 0, "wall_s": 4.2}.items()


def test_json_takes_bytes_that_are_no_text():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Json(stream).report(Output(t=0.0, target="a", line="\udcff é\x1b"))
    stream.seek(0)
    assert json.loads(stream.read())["line"] == "\udcff é\x1b"


# Trace ---------------------------------------------------------------------------------------------------------------


def traced(path, *events: Event) -> list[dict]:
    display = Trace(path)
    for event in events:
        display.report(event)
    display.close()
    display.close()
    assert os.listdir(path.parent) == [path.name]
    return json.loads(path.read_text())["traceEvents"]


def test_a_trace_nests_steps_in_targets(tmp_path):
    told = traced(
        tmp_path / "trace.json",
        Started(t=1.0, target="a", worker=0, reasons=("new",)),
        Started(t=1.1, target="b", worker=1),
        StepStarted(t=1.2, target="a", command="one"),
        StepStarted(t=1.5, target="a", command="two"),
        Built(t=2.0, target="a", wall_s=1.0, size=7),
        Failed(t=2.5, target="b", message="oh"),
        Current(t=2.5, target="c"),
        finished(1),
    )
    slices = {e["name"]: e for e in told if e["ph"] == "X"}
    assert {name: (e["tid"], e["ts"], e["dur"]) for name, e in slices.items()} == {
        "a": (1, 1_000_000, 1_000_000),
        "one": (1, 1_200_000, 300_000),
        "two": (1, 1_500_000, 500_000),
        "b": (2, 1_100_000, 1_400_000),
    }
    assert slices["a"]["args"].items() >= {"event": "built", "reasons": ["new"], "size": 7}.items()
    assert {e["args"]["name"] for e in told if e["ph"] == "M" and "name" in e["args"]} == {
        "forge",
        "worker 1",
        "worker 2",
    }
    assert {"name", "ph", "ts", "pid", "tid"} <= set.intersection(*(set(e) for e in told))


def test_columns_stand_below_each_other_whatever_the_names():
    assert aligned((("日本語", "x"), ("a", "y"))) == ["日本語  x", "a       y"]


def test_what_an_interrupt_ended_is_told_and_what_had_not_begun_is_not():
    began = Started(t=1.0, target="a", reasons=("new",))
    assert plain(began, Skipped(t=2.0, target="a"), Skipped(t=2.0, target="b")).endswith("\ninterrupted a\n")
    assert plain(began, Skipped(t=2.0, target="b", because="interrupted")).endswith("\nskipped b: interrupted\n")


def test_an_interrupted_trace_is_whole(tmp_path):
    told = traced(
        tmp_path / "trace.json",
        Started(t=1.0, target="a"),
        StepStarted(t=1.5, target="a", command="one"),
        Output(t=3.0, target="a", line="x"),
    )
    ends = {e["name"]: (e["ts"] + e["dur"], e["args"].get("event")) for e in told if e["ph"] == "X"}
    assert ends == {"a": (3_000_000, "interrupted"), "one": (3_000_000, None)}


def test_targets_that_run_at_once_never_share_a_row(tmp_path):
    told = traced(tmp_path / "t", *(Started(t=float(n), target=f"t{n}", worker=0) for n in range(3)))
    assert sorted(e["tid"] for e in told if e["ph"] == "X") == [1, 2, 3]


def test_a_trace_file_that_cannot_be_is_refused_at_once(tmp_path):
    for path in (tmp_path / "missing" / "t.json", tmp_path):
        with pytest.raises(UsageError, match="trace file"):
            Trace(path)


def test_a_trace_that_fails_late_leaves_nothing(tmp_path):
    folder = tmp_path / "d"
    folder.mkdir()
    display = Trace(folder / "t.json")
    folder.rmdir()
    with pytest.raises(ForgeError, match="No such file"):
        display.close()
    (tmp_path / "d2").mkdir()
    display = Trace(tmp_path / "d2" / "t.json")
    (tmp_path / "d2" / "t.json").mkdir()
    with pytest.raises(ForgeError, match="Is a directory"):
        display.close()
    assert os.listdir(tmp_path / "d2") == ["t.json"]


# The live display ----------------------------------------------------------------------------------------------------

RUNNING = (
    Planned(t=0.0, target="packages", action="run", expected_s=8.0),
    Planned(t=0.0, target="disk.img", action="maybe", expected_s=2.0),
    Planned(t=0.0, target="rootfs", action="none", expected_s=60.0),
    Started(t=1.0, target="packages", expected_s=8.0),
    StepStarted(t=1.0, target="packages", command="apt-get install"),
    Output(t=2.0, target="packages", line="  \x1b[1mUnpacking\x07 [red]x[/red] :smile:"),
    Output(t=2.0, target="packages", line="  "),
)


def on_screen(*events: Event, environ=None, **how) -> str:
    """Return all that a run writes to a terminal; of the foot only what a frame at the end has."""
    stream = io.StringIO()
    display = Terminal(stream, environ=environ or {}, clock=lambda: 0.0, **how)
    for event in events:
        display.report(event)
    display.close()
    return stream.getvalue()


def bare(written: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", written)


def test_the_screen_says_what_a_log_says():
    events = (
        *RUNNING,
        Built(t=3.0, target="packages", wall_s=2.0, size=214 << 20, path="/[red]p[/red]"),
        FAILED,
        SKIPPED,
        finished(1, built=1, failed=1, skipped=1),
    )
    told = on_screen(*events)
    assert bare(told) == plain(*events[len(RUNNING) :])
    assert told.endswith("\x1b[1mpackages\x1b[0m is at /[red]p[/red]\n")


def test_the_screen_gives_the_reason_where_a_target_ends():
    told = on_screen(Started(t=0.0, target="a", reasons=("x: changed",)), Built(t=0.0, target="a", wall_s=1.0, size=1))
    assert bare(told) == "built a in 1.0 s, 1 B (x: changed)\n"


def test_a_long_reason_is_cut_unless_all_is_wanted():
    events = Started(t=0.0, target="a", reasons=("x" * 200,)), Built(t=0.0, target="a", wall_s=1.0, size=1)
    assert bare(on_screen(*events)) == f"built a in 1.0 s, 1 B ({'x' * 54}…)\n"
    assert "x" * 200 in bare(on_screen(*events, explain=True))
    assert "x" * 200 in bare(on_screen(*events, verbosity="verbose"))
    assert "x" * 200 in plain(*events)


def test_a_quiet_screen_shows_failures_only():
    assert bare(on_screen(*RUNNING, FAILED, finished(1), verbosity="quiet")) == FAILURE_BLOCK


def test_no_color_leaves_no_colours():
    told = on_screen(FAILED, environ={"NO_COLOR": "1"})
    assert "\x1b[1mfailed" in told
    assert "31m" not in told
    assert "\x1b[1;31mfailed" in on_screen(FAILED)


def test_a_dry_run_on_a_screen_is_the_same_table():
    assert bare(on_screen(*PLANS, dry_run=True)) == plain(*PLANS, dry_run=True)


def test_nothing_to_do_draws_nothing():
    code = """
import io, sys
from forgefile.events import Current, Finished
from forgefile.report import reporter
stream = io.StringIO()
display = reporter("terminal", stream, environ={})
display.report(Current(t=0.0, target="a", path="a"))
display.report(Finished(t=0.0, status=0, built=0, restored=0, current=1, failed=0, skipped=0, wall_s=0.1))
display.close()
assert stream.getvalue() == "\x1b[2ma is up to date\x1b[0m\\n", stream.getvalue()
assert not {"unicodedata", "forgefile.report.foot", "networkx"} & sys.modules.keys()
"""
    package = os.path.dirname(os.path.dirname(forgefile.__file__))
    subprocess.run([sys.executable, "-c", code], check=True, cwd=package)


# The choice, the stream ----------------------------------------------------------------------------------------------


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "environ", "form"),
    [
        (Screen(), {"TERM": "xterm"}, Terminal),
        (Screen(), {"TERM": "xterm", "GITHUB_ACTIONS": "true"}, Terminal),
        (Screen(), {"TERM": "dumb"}, Plain),
        (Screen(), {"TERM": ""}, Plain),
        (Screen(), {}, Plain),
        (io.StringIO(), {"TERM": "xterm"}, Plain),
        (io.StringIO(), {"TERM": "xterm", "GITHUB_ACTIONS": "false"}, Plain),
        (io.StringIO(), {"GITHUB_ACTIONS": "true"}, Github),
    ],
)
def test_the_form_fits_the_stream(stream, environ, form):
    assert isinstance(reporter("auto", stream, environ=environ), form)


def test_a_trace_is_fed_beside_the_display(tmp_path):
    stream = io.StringIO()
    display = reporter("json", stream, trace=tmp_path / "t.json")
    display.report(Started(t=1.0, target="a"))
    display.close()
    assert json.loads(stream.getvalue())["target"] == "a"
    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"]


def test_a_tee_closes_all_even_when_one_cannot_be():
    closed = []

    class Stubborn(Plain):
        def close(self) -> None:
            closed.append(self)
            raise ForgeError("no")

    display = Tee((Stubborn(io.StringIO()), Stubborn(io.StringIO())))
    with pytest.raises(ForgeError):
        display.close()
    assert len(closed) == 2


def test_a_reader_that_left_is_no_error():
    read, write = os.pipe()
    os.close(read)
    with open(write, "w", encoding="utf-8") as stream:
        display = Plain(stream)
        for _ in range(3):
            display.report(FAILED)
        display.close()


def test_a_reader_that_is_slow_gets_all():
    """Also when another program has made the pipe non-blocking for all who have it."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    reader = subprocess.Popen(["sh", "-c", "sleep 0.2; wc -l"], stdin=read, stdout=subprocess.PIPE, text=True)
    os.close(read)
    with open(write, "w", encoding="utf-8") as stream:
        display = Plain(stream, environ={})
        for _ in range(500):
            display.report(Note(t=0.0, message="x" * 1000))
        display.close()
    assert reader.communicate()[0].strip() == "500"


def test_a_log_that_cannot_be_written_is_an_error():
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "no space")

    with pytest.raises(OSError, match="no space"):
        Sink(Full()).write("x")


def test_a_character_that_the_stream_lacks_is_escaped():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    Plain(stream).report(Note(t=0.0, message="é → \udcff"))
    stream.seek(0)
    assert stream.read() == "note: é \\u2192 \\udcff\n"


# Another try


def test_another_try_is_told():
    assert plain(RETRYING) == "retrying rootfs: exit status 25; try 2 of 3 in 8 s\n"
    assert plain(RETRYING, verbosity="quiet") == ""


def test_another_try_in_the_trace(tmp_path):
    trace = Trace(tmp_path / "trace.json")
    for event in (
        Started(t=0.0, target="rootfs"),
        StepStarted(t=0.5, target="rootfs", command="mmdebstrap"),
        RETRYING,
        StepStarted(t=10.0, target="rootfs", command="mmdebstrap"),
        Built(t=12.0, target="rootfs", wall_s=12, size=1),
    ):
        trace.report(event)
    trace.close()
    told = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert [(e["ts"], e["dur"]) for e in told if e.get("cat") == "step"] == [
        (500_000, 1_500_000),
        (10_000_000, 2_000_000),
    ]
    assert [e["ts"] for e in told if e["name"] == "retrying: rootfs"] == [2_000_000]


# Reasons


RUNS = Started(t=0.0, target="a", reasons=("s: content changed", "sh: one → two"))
TOLD = "building a:\n  s: content changed\n  sh: one → two\n"


def test_explained_in_plain_lines():
    assert plain(RUNS) == "building a (s: content changed; 1 more reason)\n"
    assert plain(RUNS, explain=True) == TOLD
    assert plain(RUNS, verbosity="verbose") == TOLD
    assert plain(RUNS, explain=True, verbosity="quiet") == ""
    assert plain(Started(t=0.0, target="a", reasons=("never built",)), explain=True) == "building a (never built)\n"


def test_explained_on_a_terminal():
    """The reasons stand before the target runs, and not again when it is built."""
    built = Built(t=1.0, target="a", wall_s=1.0, size=1)
    assert bare(on_screen(RUNS, built, explain=True)) == f"{TOLD}built a in 1.0 s, 1 B\n"


# A second build

VERIFYING = Verifying(t=1.0, varied=("clock", "umask", "folder"), kept=("user",))
DIFFERS = Differs(
    t=3.0,
    target="disk.img",
    wall_s=2.1,
    differences=("content from byte 0: 'a' → 'b'",),
    more=3,
    report=("-a", "+b"),
    first="a/disk",
    second="b/disk",
    location="Forgefile.py:22",
    hint="look",
)


def verified(status: int, **counts: int) -> Verified:
    return Verified(t=4.0, status=status, wall_s=4.2, **{"same": 0, "differs": 0, "failed": 0, "skipped": 0, **counts})


def test_a_verification_in_lines():
    end = verified(1, same=1, differs=1, skipped=1)
    assert plain(VERIFYING, Same(t=2.0, target="a", wall_s=1.0), DIFFERS, SKIPPED, end) == """\
building again, later and with another umask and folder; the same user
same a in 1.0 s
differs disk.img after 2.1 s
  content from byte 0: 'a' → 'b'
  and 3 more
  diffoscope
    | -a
    | +b
  declared at  Forgefile.py:22
  first        a/disk
  second       b/disk
  hint         look
skipped disk.qcow2: disk.img differs
not the same after 4.2 s: 1 same, 1 differs, 1 not compared
"""


def test_the_ends_of_a_verification():
    assert plain(verified(0, same=2)) == "the same in 4.2 s: 2 same\n"
    assert plain(verified(130, skipped=2)) == "interrupted after 4.2 s: 2 not compared\n"
    assert plain(verified(0)) == "the same in 4.2 s: nothing to build\n"


def test_a_watch_in_words():
    assert plain(Waiting(t=1.0, sources=("a", "b"))) == "waiting for changes of a and b; Ctrl-C ends\n"
    assert plain(Waiting(t=1.0, unfinished=("a (cp, process 7)",))) == "waiting until a (cp, process 7) is written\n"
    assert plain(Changed(t=0.0, paths=("a\n", "b"))) == "changed a  and b\n"
    stopped = Then(t=1.0, command="x", status=-9, stopped=True)
    told = Then(t=1.0, command="x"), Then(t=1.0, command="x", status=0), stopped
    assert plain(*told) == "$ x\n"
    failed = Then(t=1.0, command="x", status=2, stopped=False), Then(t=1.0, command="x", status=-11)
    assert plain(*told, *failed, verbosity="quiet").splitlines() == [
        "failed x: ended with status 2", "failed x: ended with signal 11",
    ]  # fmt: skip
    assert plain(Skipped(t=1.0, target="a", because="b changed", outdated=True)) == ""
