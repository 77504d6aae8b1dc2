"""Completion: what forge answers, from what, and what bash, zsh and fish make of it."""

import os
import pty
import re
import select
import shutil
import subprocess
import time
from typing import ClassVar

import pytest

from forgefile.complete import read_line
from forgefile.forge import VERBS
from tests.e2e.conftest import COMMAND, USER, Ended, Project

BREAKS = " \t\n\"'@><=;|&(:"
NAMES = ("plain", "my disk.img", "a:b:c", "arm64/disk.img", "x[1]*.img", "it's \"$d\".img", "ünï §.img")
BODY = (
    'suite = forge.option("suite", "bookworm", choices=("bookworm", "trixie", "a b"), help="Debian\'s release")',
    'forge.option("size:of", "1 GiB")',
    f"for name in {NAMES!r}:",
    '    forge.target(name, Command(argv=("true", suite), stdout=True))',
    'forge.target("tree", Root())',
)


@pytest.fixture
def named(project):
    """A project whose targets have all kinds of names."""
    project.forgefile(*BODY)
    return project


def asked(project: Project, *words: str) -> list[str]:
    """Return what forge answers to the words of zsh."""
    ended = project.forge("--complete", "zsh", *words)
    assert ended.err == ""
    return [line.partition("\t")[0] for line in ended.out.splitlines()]


def in_bash(project: Project, line: str) -> list[str]:
    return project.forge("--complete", "bash", f"forge {line}", BREAKS).out.splitlines()


# What forge answers


def test_the_first_word_is_a_verb_or_a_target(named):
    place, *words = asked(named, "")
    assert place == ""
    assert {"build", "list", "init", "completion", *NAMES, "tree"} <= set(words)
    assert words[0] == "build"
    assert asked(named, "plain", "")[1:] == [*NAMES, "tree"]
    assert asked(named, "--json", "-j", "2", "build", "")[1:] == [*NAMES, "tree"]


@pytest.mark.parametrize(("words", "answer"), [
    (("-D", ""), ["", "suite=", "size:of="]),
    (("-D", "suite="), ["", "suite=bookworm", "suite=trixie", "suite=a b", "size:of="]),
    (("list", "--define", "size:of="), ["", "suite=", "size:of=1 GiB"]),
    (("-Dsuite=",), ["", "-Dsuite=bookworm", "-Dsuite=trixie", "-Dsuite=a b", "-Dsize:of="]),
    (("--define=",), ["", "--define=suite=", "--define=size:of="]),
    (("-f", ""), ["files"]),
    (("--file=",), ["files"]),
    (("-C", ""), ["folders"]),
    (("-j", ""), [""]),
    (("log", "plain", ""), [""]),
    (("export", "tree", ""), ["files"]),
    (("init", "--suite", ""), ["", "bookworm", "trixie"]),
    (("completion", ""), ["", "bash", "zsh", "fish"]),
    (("help", ""), ["", *VERBS]),
    (("help", "size", ""), [""]),
    (("why", "tree", ""), ["files", *NAMES, "tree"]),
    (("diff", ""), ["files", *NAMES, "tree"]),
    (("diff", "tree", ""), ["files", *NAMES, "tree"]),
    (("size", ""), ["files", *NAMES, "tree"]),
    (("--", "-"), ["", *NAMES, "tree"]),
    (("no-such-verb", "--no-such-option", "--no=x"), [""]),
])  # fmt: skip
def test_what_follows(named, words, answer):
    assert asked(named, *words) == answer


def test_options_are_those_of_the_verb(named):
    assert {"--dry-run", "-n", "--jobs", "--define"} <= set(asked(named, "-"))
    words = asked(named, "gc", "--")
    assert "--max-size" in words
    assert "--jobs" not in words


def test_it_looks_where_forge_would(named, tmp_path):
    elsewhere = Project(tmp_path / "else where")
    elsewhere.forgefile('forge.target("other", Empty())')
    assert asked(named, "-C", str(elsewhere.root), "build", "")[1:] == ["other"]
    assert asked(named, f"--file={elsewhere.root}/Forgefile.py", "build", "")[1:] == ["other"]
    named.env["HOME"] = str(tmp_path)
    assert asked(named, "-C", "~/else where", "build", "")[1:] == ["other"]


@pytest.mark.parametrize("body", [
    "1 / 0", "forge.target(", 'raise SystemExit("x")', "import os; os._exit(3)", "while True: pass",
    "import sys; sys.stdin.read(); print('noise'); print('noise', file=sys.stderr); forge.nothing",
])  # fmt: skip
def test_an_error_is_no_candidate_and_no_noise(project, body):
    project.forgefile(body)
    ended = project.forge("--complete", "zsh", "build", "", status=None)
    assert (ended.out.strip(), ended.err) == ("", "")


def test_a_forgefile_that_prints_is_not_heard(project):
    project.forgefile('print("noise")', 'import os; os.write(2, b"noise")', 'forge.target("a", Empty())')
    assert asked(project, "build", "") == ["", "a"]


def test_without_a_forgefile_there_are_verbs(project):
    words = asked(project, "")
    assert "init" in words
    assert asked(project, "build", "") == [""]
    assert os.listdir(project.root) == []


# What it is answered from


def test_a_forgefile_is_evaluated_when_it_changed(project):
    project.write("names.py", 'NAMES = ("one",)\n')
    preamble = "from forgefile import Forge\nfrom forgefile.rules import Command\nfrom names import NAMES\n"
    body = ("for name in NAMES:", '    forge.target(name, Command(argv=("echo", name), stdout=True))')
    project.forgefile(*body, preamble=preamble)
    assert asked(project, "build", "") == ["", "one"]
    assert not (project / ".forge").exists()
    project.forge()
    kept = set(os.listdir(project / ".forge/snapshots"))
    time.sleep(0.1)
    assert asked(project, "build", "") == ["", "one"]
    (facts,) = (name for name in set(os.listdir(project / ".forge/snapshots")) - kept if name.endswith(".facts"))
    status = (project / ".forge/snapshots" / facts).stat()
    strace = ("strace", "-f", "-e", "trace=openat", "-o", "trace")
    traced = project.forge("--complete", "zsh", "build", "", prefix=strace)
    assert traced.out.splitlines()[1:] == ["one\tfile, Command"]
    assert "names.py" not in project.read("trace")
    assert "Forgefile.py" not in project.read("trace")
    project.forge()  # another build is no reason to evaluate
    assert asked(project, "build", "") == ["", "one"]
    assert (project / ".forge/snapshots" / facts).stat().st_mtime_ns == status.st_mtime_ns
    project.write("names.py", 'NAMES = ("one", "two")\n')
    assert asked(project, "build", "") == ["", "one", "two"]
    assert asked(project, "build", "") == ["", "one", "two"]
    project.write("names.py", "NAMES = 1\n")
    assert asked(project, "build", "") == [""]


def test_a_forgefile_that_looks_at_the_clock_is_evaluated(project):
    project.write("tick", "0")
    project.forgefile(
        "import time; time.time(); import itertools",
        'forge.target(f"t{open(\'tick\').read()}", Empty())',
    )
    project.forge("list")
    project.forge()
    assert asked(project, "build", "") == ["", "t0"]
    project.write("tick", "1")
    assert asked(project, "build", "") == ["", "t1"]


def test_a_secret_is_not_kept(project):
    project.env["PASSWORD"] = "correct horse battery"
    project.forgefile(
        "import os; os.environ['PASSWORD']",
        'forge.secret("password", env="PASSWORD")',
        'forge.target("a", Empty())',
    )
    project.forge()
    time.sleep(0.1)
    assert asked(project, "build", "") == ["", "a"]
    kept = [path.read_bytes() for path in (project / ".forge/snapshots").iterdir()]
    assert not any(b"correct horse" in text for text in kept)


def test_a_store_that_cannot_be_written_is_no_error(users):
    users.forgefile('forge.target("a", Empty())')
    shutil.chown(users / "Forgefile.py", USER)
    users.forge("list")
    (users / ".forge/snapshots").mkdir(parents=True)
    (users / ".forge/lock").touch()
    for folder in (".forge/snapshots", ".forge"):
        (users / folder).chmod(0o555)
    assert asked(users, "build", "") == ["", "a"]


# How bash reads a line


@pytest.mark.parametrize(("line", "words", "current", "rest"), [
    ("list ", ["list"], "", "xy"),
    ("-D suite=x", ["-D"], "suite=x", "xy"),
    ("a\\:x", [], "a:x", "a:xy"),
    ('"my x', [], "my x", "my xy"),
    ("'it x", [], "it x", "it xy"),
    ('a"b c"d:x', [], "ab cd:x", "xy"),
    ("'it'\\''s' \"\\$x\" x", ["it's", "$x"], "x", "xy"),
    ("a \\", ["a"], "", "xy"),
])  # fmt: skip
def test_a_line_is_read_as_bash_does(line, words, current, rest):
    typed = read_line(line, BREAKS)
    assert (list(typed.words), typed.current) == (words, current)
    assert typed.rest(f"{current[:-1]}xy") == rest


def test_words_are_told_to_bash_as_they_are_typed(named):
    assert in_bash(named, "a:") == ["", "b:c"]
    assert in_bash(named, "my") == ["", "my\\ disk.img"]
    assert in_bash(named, "'my ") == ["", "my disk.img"]
    assert in_bash(named, "'it") == ["", "it'\\''s \"$d\".img"]
    assert in_bash(named, '"it') == ["", "it's \\\"\\$d\\\".img"]
    assert in_bash(named, "x") == ["", "x\\[1\\]\\*.img"]
    assert in_bash(named, "-D suite=") == ["", "bookworm", "trixie", "a\\ b"]
    assert in_bash(named, "no") == [""]


# The shells


class Shell:
    """A shell on a terminal, which forge has taught to complete; Ctrl-O shows the line that is typed."""

    RC: ClassVar = {
        "bash": "bind 'set bell-style none'; bind 'set enable-bracketed-paste off'; PS1='$ '\n"
        "source <(forge completion bash)\n"
        "bind -x '\"\\C-o\": printf \"<<%s>>\\n\" \"$READLINE_LINE\"'\n",
        "zsh": "autoload -U compinit; compinit -u -D; PS1='$ '; unsetopt zle_bracketed_paste 2>/dev/null\n"
        "source <(forge completion zsh)\n"
        "show() { print -r -- \"<<$BUFFER>>\" }; zle -N show; bindkey -e; bindkey '^O' show\n",
        "fish": "function fish_greeting; end; function fish_prompt; echo '$ '; end; function fish_title; end\n"
        "forge completion fish | source\n"
        "bind \\co 'printf \"<<%s>>\\n\" (commandline)'\n",
    }
    ARGV: ClassVar = {"bash": ("bash", "--noprofile", "--rcfile", "rc"), "zsh": ("zsh",), "fish": ("fish",)}

    def __init__(self, name: str, project: Project, rc: str) -> None:
        if shutil.which(name) is None:
            pytest.skip(f"{name} is missing: package {name}")
        shutil.rmtree(rc, ignore_errors=True)
        os.makedirs(f"{rc}/fish")
        for file in ("rc", ".zshrc", "fish/config.fish"):
            with open(f"{rc}/{file}", "w") as stream:
                stream.write(self.RC[name])
        with open(f"{rc}/forge", "w") as stream:
            stream.write(f'#!/bin/sh\nexec {COMMAND[0]} -m forgefile "$@"\n')
        os.chmod(f"{rc}/forge", 0o755)
        self.env = {
            **project.environment(), "PATH": f"{rc}:{os.environ['PATH']}", "TERM": "xterm", "ZDOTDIR": rc, "HOME": rc,
            "XDG_CONFIG_HOME": rc, "XDG_DATA_HOME": rc, "HISTFILE": "", "INPUTRC": "/dev/null", "LC_ALL": "C.UTF-8",
        }  # fmt: skip
        main, other = pty.openpty()
        argv = tuple(f"{rc}/rc" if word == "rc" else word for word in self.ARGV[name])
        self.process = subprocess.Popen(
            ("setsid", "--ctty", *argv, "-i"), cwd=project.root, env=self.env, stdin=other, stdout=other, stderr=other
        )  # fmt: skip
        os.close(other)
        self.main, self.said = main, ""

    def typed(self, keys: str) -> str:
        """Type keys, and return the line as it is then; it is thrown away."""
        self.said = ""
        os.write(self.main, f"{keys}\x0f".encode())
        end = time.monotonic() + 20
        while not (found := re.search("<<(.*)>>", self.said)):
            assert time.monotonic() < end, self.said
            if select.select([self.main], [], [], 0.1)[0]:
                self.said += os.read(self.main, 65536).decode("utf-8", "replace")
        os.write(self.main, b"\x15\x0b")
        return found[1]

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.main)


@pytest.fixture(params=["bash", "zsh", "fish"])
def shell(request, named, tmp_path):
    """A shell in a project."""
    made = Shell(request.param, named, str(tmp_path / "rc"))
    made.name = request.param
    yield made
    made.end()


def test_a_shell_completes(shell, named):
    named.write("some file.py")
    (named / "some folder").mkdir()
    lines = {
        "forge complet": "forge completion ",
        "forge list --js": "forge list --json ",
        "forge -D sui": "forge -D suite=",
        "forge -D suite=tr": "forge -D suite=trixie ",
        "forge --define=suite=tr": "forge --define=suite=trixie ",
        "forge a:b": "forge a:b:c ",
        "forge arm64": "forge arm64/disk.img ",
        "forge no-such": "forge no-such",
    }
    for keys, line in lines.items():
        assert shell.typed(f"{keys}\t") == line
    # What is typed comes to forge as the name, however the shell writes it.
    for keys in ("log my", "log x", "log it", "log ünï", "-f some\\ fi", "-C some\\ fo"):
        line = shell.typed(f"forge {keys}\t")
        words = unquoted(shell, line)
        assert words[-1].rstrip("/") in (*NAMES, "some file.py", "some folder"), line


def test_a_shell_completes_in_quotes(shell):
    for keys in ("forge log 'my", 'forge log "my d'):
        assert unquoted(shell, shell.typed(f"{keys}\t"))[-1] == "my disk.img"


def unquoted(shell: Shell, line: str) -> list[str]:
    """Return the words of a line as the shell would give them to a program."""
    argv = {"fish": ("fish", "--no-config", "-c")}.get(shell.name, (shell.name, "-c"))
    said = subprocess.run(
        (*argv, f"printf '%s\\n' {line}"), env=shell.env, capture_output=True, text=True, check=True
    ).stdout
    return said.splitlines()


def test_an_error_makes_no_noise_in_a_shell(shell, named):
    named.forgefile("1 / 0")
    assert shell.typed("forge pla\t") == "forge pla"
    assert "Error" not in shell.said
    assert "forge:" not in shell.said


def test_the_scripts_are_scripts(project):
    for name in ("bash", "zsh", "fish"):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is missing: package {name}")
        script = project.forge("completion", name).out
        subprocess.run((name, "-n"), input=script, text=True, check=True)
    assert "SHELL" in project.forge("completion", status=2).err
    refused: Ended = project.forge("completion", "csh", status=2)
    assert "bash" in refused.err
