"""The linters, and the floors of the house: who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "forgefile"


def lint(*argv):
    result = subprocess.run([sys.executable, "-m", *argv], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_ruff():
    lint("ruff", "check", "--quiet", ".")


@pytest.mark.parametrize("what", [("forgefile", "examples"), ("benchmarks",)])
def test_mypy(what):
    lint("mypy", "--no-error-summary", *what)


# Floors

FLOORS = {
    "location": 0,
    "named": 0,
    "errors": 0,
    "units": 0,
    "files": 0,
    "reads": 0,
    "channel": 0,
    "architectures": 1,
    "model": 1,
    "host": 1,
    "linux": 1,
    "mirror": 1,
    "starter": 1,
    "terminal": 1,
    "userns": 1,
    "programs": 1,
    "rules": 2,
    "graph": 2,
    "fingerprint": 2,
    "events": 2,
    "forge": 2,
    "plan": 3,
    "schedule": 3,
    "cache": 4,
    "job": 2,
    "jobserver": 3,
    "lend": 4,
    "secret": 4,
    "roots": 4,
    "sandbox": 4,
    "attended": 4,
    "changes": 4,
    "halted": 4,
    "worker": 4,
    "nursery": 4,
    "executor": 4,
    "contents": 4,
    "compare": 4,
    "diff": 4,
    "export": 4,
    "foreground": 4,
    "kvm": 4,
    "following": 4,
    "watch": 4,
    "report": 4,
    "loader": 5,
    "planner": 5,
    "undeclared": 5,
    "drawing": 5,
    "resume": 6,
    "forecast": 6,
    "budget": 6,
    "history": 6,
    "page": 7,
    "engine": 6,
    "shell": 5,
    "at_once": 6,
    "places": 6,
    "rebuild": 6,
    "cli": 7,
    "verbs": 7,
    "complete": 8,
    "start": 8,
    "__main__": 9,
}
"""The floor of each module, or of each module of a package."""

SIDEWAYS = {
    "errors": {"location"},
    "userns": {"host", "linux"},
    "programs": {"model", "programs"},
    "forge": {"graph"},
    "cache": {"cache"},
    "lend": {"cache", "secret"},
    "roots": {"cache", "lend"},
    "sandbox": {"cache", "lend", "roots"},
    "attended": {"roots", "sandbox"},
    "changes": {"cache", "secret"},
    "halted": {"cache"},
    "worker": {"cache", "lend", "roots", "sandbox", "secret"},
    "executor": {"nursery"},
    "contents": {"cache", "contents"},
    "compare": {"cache", "contents"},
    "diff": {"compare", "contents"},
    "export": {"cache", "roots"},
    "kvm": {"cache"},
    "report": {"report"},
    "budget": {"resume"},
    "history": {"resume"},
    "engine": {"budget", "forecast", "history", "resume"},
    "places": {"engine"},
    "page": {"page"},
    "rebuild": {"engine"},
    "verbs": {"page", "verbs"},
}
"""What a module may import of its own floor: how work is handed down there."""


def modules():
    """Return the modules of the package by their name below it."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    del found["__init__"]
    return found


MODULES = modules()


def imported(path):
    """Return the modules of forge that a module imports when it is imported itself."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: import by the whole name"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}".removeprefix("forgefile.")
                found.add(f"forgefile.{whole}" if whole in MODULES and node.module != whole else node.module)
    return {name.removeprefix("forgefile.") for name in found if name.split(".")[0] == "forgefile"}


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_a_floor(name):
    assert name.split(".")[0] in FLOORS


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_from_lower_floors(name):
    room = name.split(".")[0]
    for other in imported(MODULES[name]):
        there = other.split(".")[0]
        allowed = FLOORS[there] < FLOORS[room] or there in SIDEWAYS.get(room, ())
        assert allowed, f"{name} (floor {FLOORS[room]}) imports {other} (floor {FLOORS[there]})"


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("rules.")])
def test_a_rule_imports_no_other_rule(name):
    assert not [other for other in imported(MODULES[name]) if other.split(".")[0] == "rules"]


def test_networkx_has_one_importer():
    using = [name for name, path in MODULES.items() if "networkx" in path.read_text()]
    assert using == ["graph"]


LATE = {
    "networkx", "rich", "sqlite3", "multiprocessing", "difflib", "traceback", "forgefile.executor",
    "forgefile.report.foot",
}  # fmt: skip


def test_what_costs_time_is_imported_when_it_is_needed():
    code = "import sys, forgefile, forgefile.loader, forgefile.plan, forgefile.schedule\nprint(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not LATE & set(result.stdout.split())


def test_that_nothing_changed_is_found_out_without_what_takes_long_to_import():
    """As long as Python's own start, each of these."""
    code = "import sys, forgefile.start, forgefile.host\nprint(*sys.modules)"
    argv = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.append({str(ROOT)!r}); {code}"]
    result = subprocess.run(argv, capture_output=True, text=True, check=True)
    slow = {"typing", "re", "enum", "collections", "contextlib", "functools", "pickle", "forgefile.model"}
    assert not slow & set(result.stdout.split())


def test_the_command_line_starts_light():
    code = "import sys, forgefile.cli\nforgefile.cli._parser('build').parse_args([])\nprint(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not (LATE - {"sqlite3"} | {"shutil"}) & set(result.stdout.split())
