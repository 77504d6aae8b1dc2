"""Locations: the chain of lines that led to a call, without forge's own and without Python's import machinery."""

import os

from forgefile.location import Location, caller

HEAD = "from forgefile import Forge, Rule, Source\nclass Thing(Rule):\n    source: Source\n"


def lines(location):
    return [(os.path.basename(file), line) for file, line in location.frames]


def test_text_is_relative_and_names_the_callers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = Location(((str(tmp_path / "parts/disk.py"), 7), (str(tmp_path / "Forgefile.py"), 3)))
    assert str(place) == "parts/disk.py:7 (called from Forgefile.py:3)"
    assert (place.file, place.line) == (str(tmp_path / "parts/disk.py"), 7)


def test_caller_is_the_line_outside_forge():
    place = caller()
    assert place is not None
    assert place.file == __file__


def test_a_target_knows_the_line_that_declared_it(project):
    graph = project.load(
        HEAD + "def build(forge):\n\n    forge.target('a', Thing(source=forge.source('Forgefile.py')))\n"
    )
    assert lines(graph.targets["a"].location) == [("Forgefile.py", 6)]


def test_a_helper_function_does_not_hide_its_caller(project):
    graph = project.load(
        HEAD
        + "def helper(forge, name):\n    return forge.target(name, Thing(source=forge.source('Forgefile.py')))\n"
        + "def build(forge):\n    helper(forge, 'a')\n    for name in ('b', 'c'):\n        helper(forge, name)\n"
    )
    assert lines(graph.targets["a"].location) == [("Forgefile.py", 5), ("Forgefile.py", 7)]
    assert lines(graph.targets["c"].location) == [("Forgefile.py", 5), ("Forgefile.py", 9)]
    assert str(graph.targets["a"].location) == "Forgefile.py:5 (called from Forgefile.py:7)"


def test_a_helper_in_a_module_of_the_project(project):
    error = project.refused(
        "import helpers\ndef build(forge):\n    helpers.add(forge)\n",
        helpers="from forgefile.rules import Script\n\ndef add(forge):\n    forge.target('a', Script(script=3))\n",
    )
    assert lines(error.location) == [("helpers.py", 4), ("Forgefile.py", 3)]


def test_a_module_that_goes_wrong_while_it_is_imported(project):
    error = project.refused("\nimport broken\n", broken="from forgefile.rules import Script\nS = Script(script=3)\n")
    assert lines(error.location) == [("broken.py", 2), ("Forgefile.py", 2)]


def test_a_rule_with_a_check_of_the_users_own(project):
    error = project.refused(
        "from forgefile import Rule\n"
        "class Mine(Rule):\n"
        "    size: int\n"
        "    def check(self):\n"
        "        raise self.refuse('size', 'is odd')\n"
        "def build(forge):\n"
        "    forge.target('a', Mine(size=3))\n"
    )
    assert error.message == "Mine field 'size': is odd"
    assert lines(error.location)[-1] == ("Forgefile.py", 7)
