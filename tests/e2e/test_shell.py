# ruff: noqa: E501  what stands in a Forgefile is easier to read on one line
"""`forge shell`: what one sees in it, what becomes of changes, and the terminal."""

import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import termios
import time

import pytest
from conftest import COMMAND, PREAMBLE, Project, nothing_left, own_project

MORE = PREAMBLE.replace("PROGRAMS = (", 'PROGRAMS = ("bash", "stty", "tty", "env", ')
TREE = (
    'root = forge.target("root", Root())',
    'made = forge.target("made", Change(base=root, line="mkdir /etc/d; echo old >/etc/d/old; echo x >/etc/owned; chown 33:34 /etc/owned; chmod 640 /etc/owned", inside=True))',
    'forge.target("scripted", Script(base=made, script=forge.source("s.sh"), environment={"GREETING": "hello"}))',
    'forge.target("file", Shell(line="cat $1/etc/d/old", inputs=(made,)))',
    'forge.target("empty", Empty())',
)


SCRIPT = "#!/bin/sh\necho scripted >/etc/scripted\n"


@pytest.fixture(scope="module", params=["root", "user"])
def built(request, tmp_path_factory):
    """A project, of root or of an ordinary user, with a few trees; all tests have the same."""
    if os.geteuid():
        pytest.skip("an ordinary user cannot make another one")
    if request.param == "user":
        return own_project(request.getfixturevalue("home"), "shell")
    return Project(tmp_path_factory.mktemp("shell") / "project")


@pytest.fixture
def tree(built):
    """The project as it was at first, at whose end nothing may be left."""
    shutil.rmtree(built / "fix", ignore_errors=True)
    built.write("s.sh", SCRIPT)
    built.forgefile(*TREE, preamble=MORE)
    built.forge("scripted")
    with nothing_left(built):
        yield built


def sh(project, line, *, target="scripted", status=0, options=(), **keywords):
    """Run a line of shell in a tree."""
    return project.forge("shell", *options, target, "--", "sh", "-c", line, status=status, **keywords)


def layers(project):
    """Return what lies in the layers, with times."""
    folder = project / ".forge/layers"
    return {path: (s.st_mtime_ns, s.st_ctime_ns, s.st_size) for path in folder.rglob("*") for s in [path.lstat()]}


def test_what_is_seen(tree):
    ended = sh(tree, "cat /etc/scripted; id -u; echo $GREETING $FORGE_TARGET $FORGE_SOURCES; cat $FORGE_SOURCES/s.sh; ls $FORGE_INPUTS/made/etc/d; stat -c '%u %g %a' /etc/owned")
    assert ended.out.splitlines() == [
        "scripted", "0", "hello scripted /run/forge/src", "#!/bin/sh", "echo scripted >/etc/scripted", "old", "33 34 640",
    ]  # fmt: skip
    assert ended.err == ""
    assert "eth" not in sh(tree, "cat /proc/net/dev").out


def test_the_tree_cannot_be_changed(tree):
    before = layers(tree)
    assert sh(tree, "echo new >/etc/new; rm -r /etc/d; chmod 700 /usr; echo x >>/bin/sh; cat /etc/new").out == "new\n"
    assert sh(tree, "ls /etc/new /etc/d", status=2).out == "/etc/d:\nold\n"
    for line in ("touch $FORGE_SOURCES/s.sh", "touch $FORGE_INPUTS/made/x", "touch /run/forge/in/made/etc/owned"):
        assert sh(tree, line, status=1).err.startswith("touch: cannot touch")
    assert layers(tree) == before
    assert os.listdir(tree / ".forge/staging") == []
    tree.nothing_runs("scripted")


def test_the_exit_status(tree):
    assert sh(tree, "exit 42", status=42)
    assert sh(tree, "kill -TERM $$", status=128 + signal.SIGTERM)
    assert tree.forge("shell", "scripted", "--", "nosuch", status=127).err == "nosuch: not found\n"
    assert tree.forge("shell", "scripted", "--", "", status=127).err == ": not found\n"
    assert "Permission denied" in tree.forge("shell", "scripted", "--", "/etc/owned", status=126).err
    assert tree.forge("shell", "scripted", "--", "sh", "-c", 'echo "$@"', "sh", "-x", "--", "a  b").out == "-x -- a  b\n"


def test_without_a_terminal_it_reads_commands(tree):
    process = subprocess.run(
        (*tree._command, "shell", "scripted"), cwd=tree.root, env=tree.environment(), text=True, check=False,
        input="echo one\ncd /etc/d\necho *\nexit 3\n", capture_output=True,
    )  # fmt: skip
    assert (process.returncode, process.stdout) == (3, "one\nold\n")


def test_it_is_built_first_and_told_elsewhere(tree):
    tree.write("s.sh", "#!/bin/sh\necho edited >/etc/scripted\n")
    ended = sh(tree, "cat /etc/scripted")
    assert ended.out == "edited\n"
    assert "built scripted" in ended.err
    tree.write("s.sh", "#!/bin/sh\nexit 4\n")
    ended = sh(tree, "cat /etc/scripted", status=1)
    assert ended.out == ""
    assert "failed scripted" in ended.err


def test_what_was_kept_of_the_way_there_and_is_damaged_is_not_taken(tree):
    seen = sh(tree, "cat /etc/scripted; env").out
    (kept,) = (tree / ".forge/snapshots").glob("*.shell")
    whole = kept.read_bytes()
    for damaged in (b"", b"no marshal", whole[:-1]):
        kept.write_bytes(damaged)
        assert sh(tree, "cat /etc/scripted; env").out == seen
        assert len(kept.read_bytes()) == len(whole)


@pytest.mark.parametrize("words", [("shell", "scripted"), ("-C", "{}", "shell", "scripted"), ("shell", "-C{}", "scripted")])
def test_a_shell_in_what_is_up_to_date_evaluates_nothing(tree, monkeypatch, words):
    words = [word.format(tree.root) for word in words] + ["--", "cat", "/etc/scripted"]
    tree.forge(*words)
    monkeypatch.setitem(tree.env, "PYTHONPROFILEIMPORTTIME", "1")
    ended = tree.forge(*words)
    assert ended.out == "scripted\n"
    assert "forgefile.shell" in ended.err
    assert "forgefile.loader" not in ended.err


def test_with_the_programs_of_the_host(tree):
    assert sh(tree, "cat /run/forge/out/etc/word", target="empty", options=("--host",)).out == "empty"
    for _ in range(2):  # found out with a plan, and without one
        error = tree.forge("shell", "empty", status=2).err
        assert error.startswith("forge: the tree of 'empty' has no shell\n")
        assert "--host" in error


def test_a_file_target_has_the_view_of_its_step(tree):
    assert sh(tree, "cat /run/forge/out /run/forge/in/made/etc/d/old", target="file").out == "old\nold\n"
    assert "Read-only" in sh(tree, "echo x >/run/forge/out", target="file", status=2).err
    assert not (tree / "file").exists(), "nothing is placed"


@pytest.mark.parametrize(("words", "message"), [
    (("shell",), "which tree? name a target"),
    (("shell", "root", "made"), "takes one target, not 2"),
    (("shell", "nosuch"), "there is no target 'nosuch'"),
    (("shell", "m*", "--keep", "s.sh"), "it is there already"),
    (("shell", "made", "--keep", ""), "expected the name of a folder"),
    (("shell", "made", "--keep", "../x"), "expected the name of a folder"),
    (("shell", "made", "--keep", "no/x"), "is no folder that can be written"),
    (("shell", "made", "--keep", "file"), "a target has that name"),
    (("shell", "made", "--keep", ".forge/x"), "that is in the store"),
    (("shell", "file", "--keep", "x"), "'file' is a file"),
    (("shell", "--failed"), "no target has failed"),
    (("shell", "--failed", "made"), "nothing is kept of a failure of 'made'"),
])  # fmt: skip
def test_what_is_refused(project, words, message):
    project.write("s.sh", "#!/bin/sh\n")
    project.forgefile(*TREE)
    ended = project.forge(*words, status=2)
    assert message in ended.err.splitlines()[0]
    assert ended.err.count("forge:") == 1


# Keeping -------------------------------------------------------------------------------------------------------------

CHANGES = r"""
echo new >/etc/new; chown 5:6 /etc/new; chmod 600 /etc/new
mkdir -p "/opt/a b[*]"; echo set >"/opt/a b[*]/set'uid"; chmod 4755 "/opt/a b[*]/set'uid"; ln -s nowhere /opt/link
echo shut >/opt/shut; chmod 0 /opt/shut; chmod 700 /var; rm /etc/owned; touch /etc/scripted
rm -r /etc/d; mkdir /etc/d; echo again >/etc/d/again; ln /opt/shut /opt/twin
"""


def test_what_is_kept_is_what_an_overlay_lays(tree):
    ended = sh(tree, CHANGES, options=("--keep", "fix"))
    assert ended.out == ""
    told = ended.err.splitlines()
    assert told[0] == "forge: fix has 9 paths that an Overlay lays into the tree:"
    assert sorted(map(str.strip, told[3:])) == [
        "etc/d: what it had in it before was removed", "etc/owned was removed", "opt/twin and opt/shut are the same file",
    ]  # fmt: skip
    found = sorted(str(path.relative_to(tree / "fix")) for path in (tree / "fix").rglob("*"))
    assert found == ["etc", "etc/d", "etc/d/again", "etc/new", "opt", "opt/a b[*]", "opt/a b[*]/set'uid", "opt/link", "opt/shut", "opt/twin", "var"]
    assert {path.lstat().st_uid for path in (tree / "fix").rglob("*")} == {tree.root.stat().st_uid}, "the user can read it"
    rule = told[1].strip().replace("base=…", 'base=forge.target("below", Script(base=made, script=forge.source("s.sh")))')
    tree.forgefile(*TREE, f'laid = forge.target("laid", {rule})', preamble=MORE)
    listed = "cd $1; stat -c '%n %a %u %g %F' etc/new opt/* opt/*/* var"
    wanted = sh(tree, f"{CHANGES}\n{listed.replace('cd $1', 'cd /')}").out
    assert sh(tree, listed.replace("cd $1", "cd /"), target="laid").out == wanted
    assert sh(tree, "cat /etc/new /opt/*/set* /etc/d/*; readlink /opt/link || true", target="laid").out.startswith("new\nset\nagain\nold\n")


def test_nothing_to_keep(tree):
    assert "nothing was changed" in sh(tree, "touch /etc/scripted; exit 9", options=("--keep", "fix"), status=9).err
    assert not (tree / "fix").exists()


def test_a_secret_is_not_kept(project):
    project.write("token", "very-secret-token")
    project.forgefile(
        'root = forge.target("root", Root())', 'token = forge.secret("token", file="token")', 'script = forge.source("s.sh")',
        'forge.target("tree", Script(base=root, script=script, inputs=(token,)))', preamble=MORE,
    )  # fmt: skip
    project.write("s.sh", "#!/bin/sh\n")
    ended = sh(project, "cat $FORGE_SECRETS/token; cp $FORGE_SECRETS/token /etc/x; echo y >/etc/y", target="tree", options=("--keep", "fix"))
    assert ended.out == "very-secret-token"
    assert "etc/x has the secret 'token'" in ended.err
    assert os.listdir(project / "fix/etc") == ["y"]


# Beside other forges -------------------------------------------------------------------------------------------------


def test_a_build_and_gc_beside_an_open_shell(tree):
    with nothing_left(tree):
        shell = subprocess.Popen(
            (*tree._command, "shell", "scripted"), cwd=tree.root, env=tree.environment(), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        shell.stdin.write("echo mine >/etc/mine; echo ready\n")
        shell.stdin.flush()
        assert shell.stdout.readline() == "ready\n"
        tree.write("s.sh", "#!/bin/sh\necho other >/etc/scripted\n")
        tree.forge("scripted")
        tree.forge("gc")
        assert "a shell is open" in tree.forge("clean", "--all", status=2).err
        out, _ = shell.communicate("cat /etc/mine /etc/scripted /etc/d/old\n", timeout=20)
        assert (out, shell.returncode) == ("mine\nscripted\nold\n", 0)
        tree.forge("gc")
        assert sh(tree, "cat /etc/scripted").out == "other\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_a_signal_ends_all_of_it(tree, number):
    process = tree.start("shell", "scripted", "--", "sh", "-c", "sleep 1000 & exec sh -c 'echo ready; exec sleep 1000'")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    if number == signal.SIGKILL:
        tree.write("s.sh", f"#!/bin/sh\necho {os.urandom(4).hex()} >/etc/scripted\n")
        tree.forge("scripted")
    assert os.listdir(tree / ".forge/staging") == []


def test_a_store_that_cannot_be_written(project):
    project.write("s.sh", "#!/bin/sh\n")
    project.forgefile(*TREE)
    project.forge("scripted")
    prefix = ("unshare", "-m", "sh", "-ec", 'mount --bind .forge .forge; mount -o remount,ro,bind .forge; exec "$@"', "sh")
    ended = sh(project, "echo x >/etc/d/new; rm /etc/d/old; ls /etc/d", prefix=prefix)
    assert ended.out == "new\n"


# A terminal ----------------------------------------------------------------------------------------------------------


class Screen:
    """A terminal with forge on it."""

    def __init__(self, project, *words, rows=33, columns=101):
        self.pid, self.master = pty.fork()
        if not self.pid:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            os.chdir(project.root)
            argv = *project._command, *words
            os.execvpe(argv[0], argv, {**project.environment(), "TERM": "xterm-256color"})
        self.shown = ""

    def type(self, text):
        os.write(self.master, text.encode())

    def resize(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def until(self, text):
        """Read until a text is shown; return what came before it."""
        end = time.monotonic() + 20
        while text not in self.shown:
            assert select.select([self.master], [], [], max(end - time.monotonic(), 0))[0], self.shown
            assert self._read(), self.shown
        before, _, self.shown = self.shown.partition(text)
        return before

    def _read(self):
        try:
            piece = os.read(self.master, 1 << 16)
        except OSError:
            return False
        self.shown += piece.decode()
        return bool(piece)

    def end(self):
        """Read what is left; return that and the exit status."""
        while self._read():
            pass
        return self.shown, self.hang_up()

    def hang_up(self):
        """Take the terminal away; return the exit status."""
        os.close(self.master)
        pid, self.pid = self.pid, 0
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture
def terminal():
    """Return a function that starts forge on a terminal."""
    screens = []

    def start(project, *words):
        screens.append(Screen(project, *words))
        return screens[-1]

    yield start
    for screen in screens:
        if screen.pid:
            os.kill(screen.pid, signal.SIGKILL)
            screen.hang_up()


def test_on_a_terminal(tree, terminal):
    screen = terminal(tree, "shell", "scripted")
    screen.until("(scripted) / # ")
    screen.type("stty size; tty; echo $TERM; echo job control $-\n")
    assert "33 101\r\n/dev/pts/0\r\nxterm-256color\r\n" in screen.until("job control h")
    screen.resize(40, 120)
    screen.until("# ")
    screen.type("until [ \"$(stty size)\" = '40 120' ]; do sleep 0.01; done; echo larg''er\n")
    screen.until("larger")
    screen.type("sh -c 'echo slee''ping; exec sleep 1000'\n")
    screen.until("sleeping\r\n")
    screen.type("\x1a")
    screen.until("Stopped")
    screen.type("kill -9 %1; sh -c 'echo a''gain; exec sleep 1000'\n")
    screen.until("again\r\n")
    screen.type("\x03")
    screen.until("^C")
    screen.until("# ")
    screen.type("echo status $?\n")
    screen.until("status 130")
    screen.type("exit 42\n")
    assert screen.end()[1] == 42


def test_the_terminal_is_given_back(project, terminal):
    project.forgefile('forge.target("root", Root())', preamble=MORE)
    project.forge("root")
    words = " ".join((*COMMAND, "shell", "root", "--", "sh", "-c"))
    script = f"stty -a >before; {words} 'stty -echo raw; exit 3'; echo status $?; {words} 'kill -KILL $$'; echo status $?; stty -a >after; cmp before after && echo same"
    project._command = ("/bin/sh", "-c", script)
    shown, status = terminal(project).end()
    assert (re.findall(r"status (\d+)", shown), status) == (["3", "137"], 0)
    assert "same" in shown


def test_output_goes_where_it_is_sent_from_a_terminal(project, terminal):
    project.forgefile('forge.target("root", Root())', preamble=MORE)
    project.forge("root")
    words = " ".join((*COMMAND, "shell", "root", "--"))
    project._command = ("/bin/sh", "-c", f"{words} sh -c 'echo out; echo err >&2' >file 2>error; {words} cat /dev/null | cat; echo typed | {words} cat")
    assert terminal(project).end() == ("typed\r\n", 0)
    assert (project.read("file"), project.read("error")) == ("out\n", "err\n")


def test_a_terminal_that_hangs_up_ends_the_shell(tree, terminal):
    screen = terminal(tree, "shell", "scripted")
    screen.until("(scripted) / # ")
    screen.type("sleep 1000 &\n")
    screen.until("# ")
    assert screen.hang_up() == 128 + signal.SIGHUP
    assert os.listdir(tree / ".forge/staging") == []


def test_nothing_can_be_typed_into_the_users_terminal(project, terminal):
    """Neither on a terminal nor through a standard input that is one."""
    if not (python := shutil.which("python3", path="/usr/bin")):
        pytest.skip("python3 is not among the host's programs")
    project.forgefile('forge.target("empty", Empty())')
    project.forge("empty")
    words = " ".join((*COMMAND, "shell", "--host", "empty", "--", python))
    line = "import fcntl,termios;[fcntl.ioctl(0,termios.TIOCSTI,bytes([c])) for c in b'echo pushed\\n']"
    project._command = ("/bin/sh", "-c", f'{words} -c "{line}" | cat; {words} -c "{line}"; echo done')
    shown, _ = terminal(project).end()
    assert shown.count("PermissionError") == 1, "a terminal of its own it may type into, ours it may not"
    assert "pushed\r\n" not in shown.partition("done")[2]
