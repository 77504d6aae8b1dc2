"""The pages: what they show runs, what they name is there, and what is made from the source is up to date."""

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from forgefile import Forge, cli, rules, starter
from forgefile.errors import ForgeError
from forgefile.model import Sandbox, Secret
from tests.conftest import make, make_tree

ROOT = Path(__file__).resolve().parents[2]
PAGES = (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")))
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
HOSTS = ("deb.debian.org", "example.org", "keepachangelog.com", "ostreedev.github.io", "semver.org", "ui.perfetto.dev")


def blocks(*languages):
    """Return (page, text) of each code block in some languages."""
    found = [(name, match) for name, text in TEXTS.items() for match in BLOCK.finditer(text)]
    return [(name, match[3]) for name, match in found if match[2] in languages]


PYTHON = blocks("python")
FORGEFILES = [(name, text) for name, text in PYTHON if "def build(" in text]


def test_there_are_pages():
    assert {"README.md", "HACKING.md", "CHANGELOG.md", "docs/index.md", "docs/rules/index.md"} <= set(TEXTS)
    assert len(FORGEFILES) >= 3


def test_the_reference_is_up_to_date():
    argv = [sys.executable, ROOT / "scripts" / "reference", "--check"]
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


# Python


@pytest.mark.parametrize(("page", "text"), PYTHON)
def test_python_is_python(page, text):
    ast.parse(text, page)


@pytest.mark.parametrize(("page", "text"), FORGEFILES)
def test_a_forgefile_evaluates(project, page, text):
    for source in re.findall(r"forge\.source\(\"([^\"]+)\"\)", text):
        path = project.root / source
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix:
            path.touch()
        else:
            path.mkdir()
    for target in project.load(text).targets.values():
        assert list(target.rule.steps(Sandbox()))


def test_the_example_is_the_contract():
    assert ("docs/architecture.md", (ROOT / "examples" / "Forgefile.py").read_text()) in PYTHON


def test_the_tutorial_shows_what_init_writes():
    (shown,) = (text for page, text in PYTHON if page == "docs/index.md")
    written = starter.files(starter.Answers("first"))[""]
    assert written.endswith(shown)
    assert written.removesuffix(shown).rstrip().endswith('"""')


class Handles(dict):
    """Names of the reference's examples: rules, and handles of targets by what they are called."""

    def __missing__(self, name):
        if name in rules.__all__:
            return getattr(rules, name)
        if name in ("disk", "tarball"):
            return make(name)
        if name in ("system", "tree"):
            return make_tree(name)
        if name == "re":
            return re
        if name == "token":
            return Secret(name=name, env="TOKEN")
        raise KeyError(name)


EXAMPLES = [text for page, text in PYTHON if page.startswith("docs/rules/") and "def " not in text]


@pytest.mark.parametrize("text", EXAMPLES)
def test_an_example_of_the_reference_can_be_made(project, text):
    (project.root / "words.txt").touch()
    names = Handles(forge=Forge(str(project.root), {}))
    for statement in ast.parse(text).body:
        value = eval(compile(ast.Expression(statement.value), "<docs>", "eval"), {}, names)
        assert list(value.steps(Sandbox()))


def test_the_rule_that_is_added_passes_its_tests(monkeypatch, tmp_path):
    rule, tests = (text for page, text in PYTHON if page == "HACKING.md")
    added, checked = {"__name__": __name__}, {"__name__": __name__}
    exec(rule, added)
    monkeypatch.setattr(rules, "Checksums", added["Checksums"], raising=False)
    exec(tests, checked)
    checked["test_refuses"]()
    checked["test_steps"]()
    checked["test_the_program_accepts_it"](tmp_path)


# Commands


def commands():
    """Return (page, words) of each forge command that is shown, in a block or in the text."""
    for page, text in blocks("sh"):
        for line in text.splitlines():
            words = shlex.split(line, comments=True)
            if words and os.path.basename(words[0]) == "forge":
                yield page, words[1 : words.index("|") if "|" in words else None]
    for page, text in TEXTS.items():
        for shown in re.findall(r"`forge( [^`\n]*)?`", BLOCK.sub("", text)):
            yield page, shlex.split(shown.partition("|")[0])


@pytest.mark.parametrize(("page", "words"), list(commands()))
def test_a_command_can_be_given(page, words):
    words = [word for word in words if word not in ("[VERB]", "[TARGET…]", "--help")]
    if words[:1] == ["doctor"] or not words:
        return
    verb, rest = cli._verb(words)
    needs = {"log": ["TARGET"], "export": ["TARGET", "DEST"], "diff": ["TARGET"], "size": ["TARGET"]}
    try:
        cli._parser(verb).parse_intermixed_args(rest)
    except ForgeError:
        cli._parser(verb).parse_intermixed_args([*rest, *needs[verb][sum(word[0] != "-" for word in rest) :]])


@pytest.mark.parametrize(("page", "text"), blocks("sh"))
def test_a_script_that_is_run_is_there(page, text):
    for word in re.findall(r"(?<![\w/])(?:scripts|benchmarks)/[\w.-]+", text):
        assert (ROOT / word).exists(), word


# Names and links


def headings(text):
    """Return the anchors of a page, as GitHub makes them."""
    lines = re.findall(r"^#+ (.*)$", BLOCK.sub("", text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


LINKS = [(page, link) for page, text in TEXTS.items() for link in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", text))]


@pytest.mark.parametrize(("page", "link"), [each for each in LINKS if "://" not in each[1]])
def test_a_link_leads_somewhere(page, link):
    path, _, anchor = link.partition("#")
    there = (ROOT / page).parent / path if path else ROOT / page
    assert there.exists()
    if anchor:
        assert anchor in headings(there.read_text(encoding="utf-8"))


ROOMS = {path.stem for path in (ROOT / "forgefile").glob("*.py")} | {"cache", "report", "programs"}
NAMES = [
    (page, name)
    for page in ("HACKING.md", "docs/architecture.md")
    for name in re.findall(r"`([a-z]\w*(?:\.\w+)+)`", TEXTS[page])
    if name.split(".")[0] in ROOMS and not name.endswith((".py", ".img"))
]


@pytest.mark.parametrize(("page", "name"), NAMES)
def test_a_name_of_the_code_is_there(page, name):
    if name == "forge.target":  # the object of that name in a Forgefile
        return
    parts = ["forgefile", *name.split(".")]
    depth = max(n for n in range(1, len(parts) + 1) if ".".join(parts[:n]) in modules())
    found = importlib.import_module(".".join(parts[:depth]))
    for part in parts[depth:]:
        found = getattr(found, part)


def modules():
    """Return the names of all modules of forge."""
    paths = ((path.relative_to(ROOT).with_suffix("")).parts for path in (ROOT / "forgefile").rglob("*.py"))
    return {".".join(parts).removesuffix(".__init__") for parts in paths}


METHODS = [
    (page, name)
    for page in ("HACKING.md", "docs/architecture.md")
    for name in re.findall(r"`((?:Planner|Records|Schedule|Store)\.\w+)`", TEXTS[page])
]
CLASSES = {"Planner": "planner", "Records": "cache.records", "Schedule": "schedule", "Store": "cache.store"}


@pytest.mark.parametrize(("page", "name"), METHODS)
def test_a_method_is_there(page, name):
    cls, _, method = name.partition(".")
    assert hasattr(getattr(importlib.import_module(f"forgefile.{CLASSES[cls]}"), cls), method)


def test_every_module_has_its_row_in_the_architecture():
    shown = TEXTS["docs/architecture.md"]
    for name in modules() - {"forgefile"}:
        *above, last = name.split(".")[1:]
        if above not in (["rules"], ["verbs"]):
            assert f"`{last}`" in shown or f"`{last}/`" in shown, name


# Words


@pytest.mark.parametrize("page", TEXTS)
def test_a_page_speaks_of_no_one_machine(page):
    text = TEXTS[page]
    assert not re.findall(r"(?<![\w.$/}])/(?:work|tmp|home|Users)/\w+", text)
    assert not re.findall(r"\bsession\w*", text, flags=re.IGNORECASE)
    assert set(re.findall(r"https?://([^/\s)`\"]+)", text)) <= set(HOSTS)
