"""`Command`: what is refused, the exact argv, and a program that runs."""

import subprocess
import sys

import pytest

from forgefile.errors import ForgefileError
from forgefile.model import Rule, Run, Sandbox, Secret, Source, Target
from forgefile.rules import OUT, Command


class Thing(Rule):
    pass


WORDS = Source(path="words.txt")
THING = Target("thing.tar", Thing(), None)


@pytest.mark.parametrize(
    ("fields", "message", "hint"),
    [
        ({"argv": ()}, "Command field 'argv': is empty", "the first item is the program"),
        (
            {"argv": ("sort", WORDS)},
            "Command field 'argv': nothing would be made",
            "put OUT where the output's path belongs, or set stdout=True",
        ),
        (
            {"argv": ("sort", WORDS, "-o", OUT), "stdout": True},
            "Command field 'argv': has OUT, and stdout=True",
            "the output comes from one of them: drop one",
        ),
        (
            {"argv": ("ls",), "stdout": True, "output": "tree"},
            "Command field 'stdout': a tree cannot come from standard output",
            "let the program fill OUT",
        ),
    ],
)
def test_refuses(fields, message, hint):
    with pytest.raises(ForgefileError) as caught:
        Command(**fields)
    assert (caught.value.message, caught.value.hint) == (message, hint)


def test_refuses_an_argv_that_is_a_text():
    with pytest.raises(ForgefileError, match=r"got the string 'sort words.txt'") as caught:
        Command(argv="sort words.txt", stdout=True)
    assert caught.value.hint == "write a tuple: ('sort', 'words.txt')"


def test_refuses_a_list_and_another_output():
    with pytest.raises(ForgefileError, match=r"got a list; write a tuple"):
        Command(argv=["sort"], stdout=True)
    with pytest.raises(ForgefileError, match="got the string 'folder'"):
        Command(argv=("cp", OUT), output="folder")


@pytest.mark.parametrize("write", [str, "of={}".format, lambda out: f"of={out}"])
def test_refuses_out_inside_a_text(write):
    with pytest.raises(ForgefileError, match="OUT cannot stand inside a text") as caught:
        write(OUT)
    assert caught.value.hint == "write the parts as a tuple: ('of=', OUT)"


def test_steps():
    box = Sandbox()
    assert list(Command(argv=("sort", WORDS), stdout=True).steps(box)) == [
        Run(("sort", "/run/forge/src/words.txt"), stdout="/run/forge/out")
    ]
    rule = Command(
        argv=("xz", "-k", THING, ("--out=", OUT, ".x")), env={"A": "1"}, network=True, mounts=True,
        tools=("liblzma", "/etc/x"),
    )  # fmt: skip
    assert list(rule.steps(box)) == [
        Run(
            ("xz", "-k", "/run/forge/in/thing.tar", "--out=/run/forge/out.x"),
            env={"A": "1"},
            network=True,
            mounts=True,
            tools=("liblzma", "/etc/x"),
        )
    ]


def test_a_secret_stands_for_its_file():
    token = Secret(name="token", env="TOKEN")
    rule = Command(argv=("curl", "--netrc-file", token, "-o", OUT))
    assert list(rule.steps(Sandbox())) == [Run(("curl", "--netrc-file", "/run/forge/secret/token", "-o", Sandbox.out))]
    assert Target("x", rule, None).inputs == (token,)


def test_its_inputs_are_the_artifacts_in_argv():
    target = Target("x", Command(argv=("cmp", WORDS, ("a=", THING), WORDS), stdout=True), None)
    assert target.inputs == (WORDS, THING)


def test_it_says_what_it_makes():
    assert Target("x", Command(argv=("touch", OUT)), None).output == "file"
    assert Target("x", Command(argv=("touch", OUT), output="tree"), None).output == "tree"


def test_the_program_runs(tmp_path):
    (tmp_path / "words").write_text("b\na\n")

    class Box(Sandbox):
        out = str(tmp_path / "sorted")

        def path(self, artifact):
            return str(tmp_path / "words")

    rule = Command(argv=(sys.executable, "-c", "print(*sorted(open(__import__('sys').argv[1])))", WORDS), stdout=True)
    (step,) = rule.steps(Box())
    with open(step.stdout, "w") as out:
        subprocess.run(step.argv, stdout=out, check=True)
    assert (tmp_path / "sorted").read_text() == "a\n b\n\n"
