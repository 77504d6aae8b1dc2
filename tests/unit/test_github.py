"""The log of a job of GitHub Actions: groups, annotations, and what must not be taken for a command."""

import io

import pytest

from forgefile.events import (
    Built,
    Differs,
    Event,
    Failed,
    Finished,
    Note,
    Output,
    Restored,
    Skipped,
    Started,
    StepStarted,
)
from forgefile.report.github import Github, annotation, harmless

FAILED = Failed(
    t=3.0,
    target="disk.img",
    message="exit status 1\nand said: 100 %",
    location="image/Forgefile.py:22 (called from image/Forgefile.py:40)",
    tail=tuple(f"line {n}" for n in range(9)),
    hint="give it more",
    wall_s=2.1,
)


def told(*events: Event, **how) -> list[str]:
    stream = io.StringIO()
    display = Github(stream, environ={"GITHUB_WORKSPACE": "."}, **how)
    for event in events:
        display.report(event)
    display.close()
    return stream.getvalue().splitlines()


def printing(target: str, *lines: str) -> list[Event]:
    step = StepStarted(t=0.0, target=target, command="make all")
    return [Started(t=0.0, target=target, reasons=("never built",)), step,
            *(Output(t=0.0, target=target, line=line) for line in lines)]  # fmt: skip


def test_each_target_is_a_group_of_its_own():
    """Also when two run at once, of which one ends within the other."""
    one, two = printing("a", "one", "  \x1b[1mtwo\x1b[0m"), printing("b", "three")
    ends = Built(t=1.0, target="b", wall_s=1.0, size=5), Built(t=1.0, target="a", wall_s=2.0, size=5)
    assert told(*one, *two, *ends) == [
        "building a (never built)",
        "building b (never built)",
        "::group::built b in 1.0 s, 5 B",
        "$ make all",
        "three",
        "::endgroup::",
        "::group::built a in 2.0 s, 5 B",
        "$ make all",
        "one",
        "  two",
        "::endgroup::",
    ]


def test_what_prints_nothing_needs_no_group():
    assert told(*printing("a"), Built(t=1.0, target="a", wall_s=1.0, size=5), Restored(t=1.0, target="b")) == [
        "building a (never built)",
        "built a in 1.0 s, 5 B",
        "restored b",
    ]


def test_a_failure_is_told_and_annotated():
    log = told(*printing("disk.img", "oh"), FAILED, Skipped(t=3.0, target="sums", because="disk.img"))
    assert log[1:6] == [
        "::group::failed disk.img after 2.1 s: exit status 1",
        "$ make all",
        "oh",
        "::endgroup::",
        "failed disk.img after 2.1 s: exit status 1",
    ]
    assert "    | line 0" in log
    last = "%0Aline 4%0Aline 5%0Aline 6%0Aline 7%0Aline 8%0Ahint: give it more"
    assert log[-2:] == [
        f"::error file=image/Forgefile.py,line=22,title=disk.img failed::exit status 1%0Aand said: 100 %25{last}",
        "skipped sums: disk.img failed",
    ]


def test_a_difference_is_annotated():
    differs = Differs(t=3.0, target="a", wall_s=2.1, differences=("mode: 1 → 2",), first="x", second="y")
    assert told(differs)[-1] == "::error title=a differs::mode: 1 → 2"


def test_notes_are_warnings():
    assert told(Note(t=0.0, message="50 % full\nor more")) == ["::warning::50 %25 full%0Aor more"]


def test_a_quiet_log_tells_of_failures():
    end = Finished(t=4.0, status=1, built=0, restored=0, current=0, failed=1, skipped=0, wall_s=4.2)
    log = told(*printing("a", "one"), Note(t=0.0, message="x"), FAILED, end, verbosity="quiet")
    assert log[0].startswith("failed disk.img")
    assert log[-1].startswith("::error ")
    assert not [line for line in log if "group" in line]


def test_a_group_has_its_last_lines():
    ended = Built(t=1.0, target="a", wall_s=1.0, size=5)
    log = told(*printing("a", *(str(n) for n in range(12_000))), ended)
    assert log[2:4] == ["(2001 lines before these: forge log a)", "2000"]
    assert len(log) == 10_004


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("plain :: text", "plain :: text"),
        ("::error::x", "| ::error::x"),
        (" \t::set-env name=A::x", " \t| ::set-env name=A::x"),
        ("\u3000::error::x", "\u3000| ::error::x"),
        ("a ##[error]b ##[c]", "a ## [error]b ## [c]"),
    ],
)
def test_what_programs_print_is_no_command(line, shown):
    assert harmless(line) == shown


def test_a_failure_gives_no_command():
    log = told(Failed(t=0.0, target="a", message="one\n::add-mask::two\n##[error]three", command="sh\n::endgroup::"))
    assert [line for line in log if line.lstrip().startswith("::")] == [
        "::error title=a failed::one%0A::add-mask::two%0A##[error]three"
    ]
    assert "  | ::add-mask::two" in log


@pytest.mark.parametrize(
    ("place", "properties"),
    [
        (None, ""),
        ("Forgefile.py:3", " file=Forgefile.py,line=3"),
        ("a, b: 100%/Forgefile.py:3", " file=a%2C b%3A 100%25/Forgefile.py,line=3"),
        ("/nowhere/x.py:3 (called from Forgefile.py:4)", " file=/nowhere/x.py,line=3"),
    ],
)
def test_annotations_name_a_place_in_the_repository(place, properties):
    assert annotation("error", "oh", location=place, root=".") == f"::error{properties}::oh"


def test_a_place_is_told_from_where_the_repository_lies(tmp_path, monkeypatch):
    (tmp_path / "image").mkdir()
    monkeypatch.chdir(tmp_path / "image")
    assert annotation("error", "oh", location="Forgefile.py:3", root=str(tmp_path)).startswith(
        "::error file=image/Forgefile.py,line=3"
    )
