"""The loader: a Forgefile becomes a graph, or an error that names its line."""

import os
import sys

import pytest

from forgefile.errors import ForgefileError, UsageError
from forgefile.loader import load
from forgefile.reads import Reads

RULE = """\
from forgefile import Forge, Rule, Source, Target
class Thing(Rule):
    source: Source | Target
"""


def lines(error):
    return [(os.path.basename(file), line) for file, line in error.location.frames]


def test_a_forgefile_becomes_a_graph(project):
    graph = project.load(
        RULE
        + "def build(forge: Forge) -> None:\n"
        + "    suite = forge.option('suite', 'bookworm')\n"
        + "    a = forge.target('a', Thing(source=forge.source('Forgefile.py')))\n"
        + "    for arch in ('amd64', 'arm64'):\n"
        + "        forge.target(f'{arch}/{suite}.img', Thing(source=a))\n"
        + "    forge.default(a)\n",
        settings={"suite": "trixie"},
    )
    assert list(graph.targets) == ["a", "amd64/trixie.img", "arm64/trixie.img"]
    assert [target.name for target in graph.defaults] == ["a"]
    assert [option.value for option in graph.options] == ["trixie"]


def test_types_may_be_texts(project):
    graph = project.load(
        "from __future__ import annotations\n" + RULE
        + "def build(forge):\n    forge.target('a', Thing(source=forge.source('Forgefile.py')))\n"
    )  # fmt: skip
    assert list(graph.targets) == ["a"]


def test_a_module_beside_it_can_be_imported(project):
    graph = project.load(
        "import mine\ndef build(forge): mine.add(forge)\n",
        mine=RULE + "def add(forge): forge.target('a', Thing(source=forge.source('mine.py')))\n",
    )
    assert list(graph.targets) == ["a"]


def test_each_load_starts_anew(project):
    text = RULE + "seen = []\ndef build(forge):\n    seen.append(1)\n    assert seen == [1]\n"
    project.load(text)
    project.load(text)


# What is not there


def test_no_forgefile(project):
    error = project.refused()
    assert isinstance(error, UsageError)
    assert (error.message, error.status) == ("there is no Forgefile.py", 2)
    assert error.hint == "forge init writes a Forgefile.py here; -f FILE names another one, -C DIR its folder"


def test_a_folder_of_that_name(project):
    (project.root / "Forgefile.py").mkdir()
    assert project.refused().message == "Forgefile.py is a folder, not a Forgefile"


def test_a_file_in_place_of_a_folder(project):
    (project.root / "x").touch()
    with pytest.raises(UsageError, match=r"x/Forgefile\.py cannot be read: Not a directory"):
        load(str(project.root / "x/Forgefile.py"), {}, Reads())


@pytest.mark.parametrize("text", ["", "x = 1\n", "build = 3\n", "def Build(forge): pass\n"])
def test_no_function_build(project, text):
    error = project.refused(text)
    assert error.message == "it defines no function build(forge)"
    assert error.hint == "def build(forge: Forge) -> None: …"
    assert lines(error) == [("Forgefile.py", 1)]


# What is wrong


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("def build(forge)\n    pass\n", "expected ':'", 1),
        ("\n\nx = (1,\n", "'(' was never closed", 3),
        ("def build(forge):\npass\n",
         "expected an indented block after function definition on line 1", 2),
        ("x = '\0'\n", "source code string cannot contain null bytes", 1),
        ("# ok\nx = \udce9\n", "(unicode error)", 1),
    ],
)  # fmt: skip
def test_a_syntax_error(project, text, message, line):
    (project.root / "Forgefile.py").write_text(text, errors="surrogateescape")
    error = project.refused()
    assert isinstance(error, ForgefileError)
    assert error.message.startswith(message)
    assert lines(error)[0][0] == "Forgefile.py"
    assert line == 1 or lines(error) == [("Forgefile.py", line)]


def test_a_syntax_error_in_what_is_no_file_shows_it(project):
    assert project.refused("exec('x = (1,')\n").message == "'(' was never closed\n    x = (1,"


def test_what_it_prints_goes_to_standard_error(project, capfd):
    project.load("print('hello')\ndef build(forge):\n    print('there')\n")
    assert capfd.readouterr() == ("", "hello\nthere\n")


def test_a_syntax_error_in_a_module_beside_it(project):
    error = project.refused("import broken\n", broken="x = 1\ndef f(:\n")
    assert error.message == "invalid syntax"
    assert lines(error) == [("broken.py", 2)]


@pytest.mark.parametrize(
    ("text", "message", "where"),
    [
        ("\nimport nowhere\n", "ModuleNotFoundError: No module named 'nowhere'", [2]),
        ("def build(forge):\n    x = 1\n    forge.tarket('a')\n",
         "AttributeError: 'Forge' object has no attribute 'tarket'", [3]),
        ("def build(): pass\n", "TypeError: build() takes 0 positional arguments but 1 was given", [1]),
        ("def inner(n):\n    return 1 / n\ndef build(forge):\n    inner(0)\n", "ZeroDivisionError: division by zero",
         [2, 4]),
        ("def build(forge):\n    raise KeyError('x')\n", "KeyError: 'x'", [2]),
        ("import json\ndef build(forge):\n    json.loads('{')\n", "JSONDecodeError: ", [3]),
        ("def build(forge):\n    build(forge)\n", "RecursionError: ", None),
        ("from forgefile.rules import Nothing\n", "ImportError: cannot import name 'Nothing'", [1]),
        ("def build(forge):\n    forge.target('a')\n", "TypeError: Forge.target() missing 1 required", [2]),
    ],
)  # fmt: skip
def test_an_exception(project, text, message, where):
    error = project.refused(text)
    assert isinstance(error, ForgefileError)
    assert error.message.startswith(message)
    assert where is None or lines(error) == [("Forgefile.py", line) for line in where]


def test_forges_own_refusals_pass_as_they_are(project):
    error = project.refused(RULE + "def build(forge):\n    forge.source('nothing')\n")
    assert error.message == "the source 'nothing' does not exist"
    assert lines(error) == [("Forgefile.py", 5)]


def test_a_field_that_is_wrong_has_its_line(project):
    error = project.refused(RULE + "def build(forge):\n    forge.target(\n        'a', Thing(\n source='x'),\n    )\n")
    assert error.message.startswith("Thing field 'source': expected ")
    assert error.message.endswith(", got the string 'x'")
    assert lines(error) == [("Forgefile.py", 6)]


def test_an_unknown_setting(project):
    error = project.refused("def build(forge):\n    forge.option('suite', 'a')\n", settings={"siute": "b"})
    assert (error.message, error.hint) == ("there is no option 'siute'", "did you mean 'suite'?")


def test_a_forgefile_that_exits(project):
    error = project.refused("import sys\ndef build(forge):\n    sys.exit(0)\n")
    assert error.message == "SystemExit: 0"
    assert lines(error) == [("Forgefile.py", 3)]


def test_a_module_that_is_edited_twice_in_a_second(project):
    text = "import words\ndef build(forge):\n    forge.option(words.NAME, '')\n"
    for name in ("one", "two"):
        project.write(text, words=f"NAME = '{name}'\n")
        os.utime(project.root / "words.py", (1_700_000_000, 1_700_000_000))
        sys.modules.pop("words", None)
        assert [option.name for option in project.load().options] == [name]
    assert not (project.root / "__pycache__").exists()
