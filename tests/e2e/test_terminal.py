"""What a person sees: the real command in a real terminal, which is tmux, and on pipes and terminals that go away."""

import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.e2e.conftest import COMMAND, REPOSITORY, processes_of, until

FORGE = " ".join(COMMAND)
WHOLE = re.compile(r"[0-9] % +[0-9]+( of |/)[0-9]")
"""What the row of the whole has."""


class Screen:
    """A shell in a terminal of so many columns and lines; `tmux` is its server."""

    def __init__(self, folder, columns: int, lines: int) -> None:
        self._socket = folder.parent / "tmux"
        environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "LC_ALL": "C.UTF-8", "PS1": "> "}
        words = (f"-x{columns}", f"-y{lines}", "-c", folder, "sh", "-i")
        self._tmux("-f", os.devnull, "new-session", "-d", *words, env=environ)
        until(lambda: self.rows() == [">"])

    def _tmux(self, *words, **how) -> str:
        argv = ("tmux", "-u", "-S", self._socket, *words)
        return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=20, **how).stdout

    def enter(self, line: str) -> None:
        self._tmux("send-keys", "-l", line)
        self.key("Enter")

    def key(self, name: str) -> None:
        self._tmux("send-keys", name)

    def resize(self, columns: int, lines: int) -> None:
        self._tmux("resize-window", "-x", str(columns), "-y", str(lines))

    def rows(self) -> list[str]:
        """Return what is on the screen, and above it, but for what is blank."""
        return [row.rstrip() for row in self._tmux("capture-pane", "-p", "-S", "-").splitlines() if row.strip()]

    def wait_for(self, condition) -> list[str]:
        """Wait for rows that meet a condition; return them."""
        try:
            return until(lambda: (rows := self.rows()) and condition(rows) and rows)
        except AssertionError:
            raise AssertionError("\n".join(self.rows())) from None

    @property
    def cursor(self) -> bool:
        """Whether the cursor is shown, and lines wrap."""
        return self._tmux("display-message", "-p", "#{cursor_flag}#{wrap_flag}").strip() == "11"

    def close(self) -> None:
        self._tmux("kill-server")


@pytest.fixture
def screen(project):
    made = Screen(project.root, 80, 20)
    yield made
    made.close()


def foot(rows: list[str]) -> list[str]:
    """Return the rows from the one that counts targets on."""
    return rows[next((n for n, row in enumerate(rows) if WHOLE.search(row)), len(rows)) :]


def test_a_build_on_a_terminal(project, screen):
    """It fits, also when the terminal becomes another one, is suspended and goes on, and leaves nothing behind."""
    project.forgefile(
        "forge.target('quick', Noisy(line='echo x > $OUT'))",
        "forge.target('one', Noisy(line='printf \"\\\\033[31m\\\\t漢字漢字 and more\\\\007\\\\n\"; sleep 60'))",
        "forge.target('a/second', Noisy(line='echo second; sleep 60'))",
    )
    screen.enter(f"clear; seq 30; {FORGE} -j3")
    rows = screen.wait_for(lambda rows: rows[-1].endswith(("more", "second")) and "1 of 3" in foot(rows)[0])
    assert rows[30].startswith("built quick in ")
    assert rows[30].endswith("(never built)")
    assert sorted(row.split()[0] for row in foot(rows)[1:]) == ["a/second", "one"]
    assert "one       0:0" in "".join(rows)
    assert any(row.endswith("  漢字漢字 and more") for row in rows)
    assert not screen.cursor

    for columns, lines in ((20, 12), (100, 20), (41, 8), (80, 20)):
        screen.resize(columns, lines)
        of = "1/3" if columns < 40 else "1 of 3"
        rows = screen.wait_for(lambda rows, of=of: of in foot(rows)[0] and len(foot(rows)) == 3)
        assert max(map(len, foot(rows))) < columns
        assert len([row for row in rows if " %" in row]) == 1, "what was drawn before is gone"

    screen.key("C-z")
    rows = screen.wait_for(lambda rows: rows[-1] == ">")
    assert not foot(rows)
    assert screen.cursor
    screen.enter("fg")
    screen.wait_for(lambda rows: len(foot(rows)) == 3)
    assert not screen.cursor

    screen.key("C-c")
    rows = screen.wait_for(lambda rows: rows[-1] == ">")
    assert not foot(rows)
    assert {"interrupted one", "interrupted a/second"} <= set(rows)
    assert not any(row.startswith("skipped") for row in rows)
    assert any(row.startswith("interrupted after") for row in rows)
    assert screen.cursor
    assert not processes_of(project.root / ".forge")


def test_behind_a_shell_only_lines_are_told(project, screen):
    project.forgefile(
        "one = forge.target('one', Noisy(line='sleep 0.5; echo x > $OUT'))",
        "forge.target('two', Noisy(line='sleep 0.5; echo x > $OUT', inputs=(one,)))",
    )
    screen.enter(f"clear; {FORGE} & sleep 60 &")
    until(lambda: project.root.joinpath("two").exists() or not screen.cursor)
    rows = screen.wait_for(lambda rows: rows[-1].startswith("two is at"))
    assert not foot(rows)
    assert len([row for row in rows if "built" in row and "(never built)" in row]) == 2


def test_a_signal_leaves_the_screen_as_it_was(project, screen):
    project.forgefile("forge.target('one', Noisy(line='echo here; sleep 60'))")
    screen.enter(f"clear; sh -c 'echo $$ > pid; exec {FORGE}'")
    screen.wait_for(lambda rows: rows[-1].endswith("here"))
    os.kill(int(project.read("pid")), signal.SIGTERM)
    rows = screen.wait_for(lambda rows: rows[-1] == ">")
    assert rows[:-1] == ["Terminated"]
    assert screen.cursor


# Terminals that go away or do not take what is written


def on_terminal(project, *words: str) -> tuple[subprocess.Popen, int]:
    """Start forge on a terminal of its own; return it with the other end of the terminal."""
    ours, theirs = pty.openpty()
    code = "import os, sys; os.close(os.open(os.ttyname(1), os.O_RDWR)); os.execv(sys.argv[1], sys.argv[1:])"
    with os.fdopen(theirs, "rb"):
        process = subprocess.Popen(
            (sys.executable, "-c", code, *COMMAND, *words), cwd=project.root, stdin=theirs, stdout=theirs,
            stderr=theirs, start_new_session=True, env={**project.environment(), "TERM": "xterm"},
        )  # fmt: skip
    return process, ours


def read_until(ours: int, text: bytes) -> None:
    seen = b""
    while text not in seen:
        seen += os.read(ours, 1 << 16)


def test_a_build_does_not_wait_for_the_terminal(project):
    project.forgefile(
        "many = forge.target('many', Noisy(line='seq 1000000 1009000; echo > $OUT'))",
        "forge.target('two', Noisy(line='echo x > $OUT', inputs=(many,)))",
    )
    process, ours = on_terminal(project, "-v")
    until((project / "two").exists)
    assert process.poll() is None, "it is not all written yet"
    read_until(ours, b"two\x1b[0m is at two")
    assert process.wait(20) == 0
    os.close(ours)


@pytest.mark.parametrize("hangs_up", [False, True])
def test_the_terminal_is_closed(project, hangs_up):
    project.forgefile(
        "one = forge.target('one', Noisy(line='echo here; sleep 1.5; echo x > $OUT'))",
        "forge.target('two', Noisy(line='echo x > $OUT', inputs=(one,)))",
    )
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL if hangs_up else signal.SIG_IGN)
    try:
        process, ours = on_terminal(project)
    finally:
        signal.signal(signal.SIGHUP, before)
    read_until(ours, b"here")
    os.close(ours)
    assert process.wait(20) == (-signal.SIGHUP if hangs_up else 0)
    until(lambda: not processes_of(project.root / ".forge"))
    assert (project / "two").exists() is not hangs_up


def test_lines_cost_no_frame_each(project):
    """A frame is drawn ten times a second at most, whatever happens: here within some seconds, two hundred ends."""
    project.forgefile("for n in range(200):", "    forge.target(f't{n}', Empty(word=str(n)))")
    process, ours = on_terminal(project, "-j2")
    written, begun = b"", time.monotonic()
    while b"200 built" not in written:
        written += os.read(ours, 1 << 16)
    took = time.monotonic() - begun
    assert process.wait(20) == 0
    os.close(ours)
    assert written.count(b"built \x1b[0m") == 200
    assert written.count(b" %  ") <= 10 * took + 2


# Streams


def test_a_pipe_gets_no_sequences_unless_it_wants_colours(project):
    project.forgefile("forge.target('a', Noisy(line='echo > $OUT'))")
    assert "\x1b" not in project.forge("-v").out
    project.forge("clean")
    project.env = {"FORCE_COLOR": "1"}
    assert project.forge("-v").out.startswith("building \x1b[1ma\x1b[0m\x1b[2m (never built)\x1b[0m\n")
    project.env = {"FORCE_COLOR": "1", "TERM": "xterm"}
    assert all(line.startswith("{") for line in project.forge("--json").out.splitlines())
