"""What tests of several folders share: small rules, and Forgefiles in a scratch folder."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings

from forgefile.errors import ForgeError
from forgefile.graph import Graph
from forgefile.loader import load
from forgefile.model import Artifact, Rule, Target, Tree
from forgefile.reads import Reads

# As a terminal has them, also when nohup(1) or a script's `&` started the tests.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile("forge", deadline=None, print_blob=True)
settings.load_profile("forge")


@contextmanager
def ordinary_user(name: str) -> Iterator[Path]:
    """Make a user who has subordinate ids and nothing else; yield the home, with forge and what it needs in `lib`."""
    subprocess.run(["useradd", "--create-home", "--shell", "/bin/sh", name], check=True)
    home = Path(f"~{name}").expanduser()
    try:
        for module in ("forgefile", "xxhash", "networkx", "jinja2", "markupsafe", "rich"):
            spec = importlib.util.find_spec(module)
            assert spec is not None
            assert spec.origin is not None
            shutil.copytree(Path(spec.origin).parent, home / "lib" / module)
        subprocess.run(["chown", "-R", f"{name}:", home], check=True)
        yield home
    finally:
        subprocess.run(["userdel", "--remove", name], check=True, capture_output=True)


def python_of(user: str) -> str:
    """Return a Python that a user may run."""
    own = subprocess.run(["su", user, "-c", f"test -x {sys.executable}"], check=False).returncode == 0
    return sys.executable if own else f"/usr/bin/python3.{sys.version_info.minor}"


class Needs(Rule):
    """A file made from whatever it is given."""

    inputs: tuple[Artifact, ...] = ()


class NeedsTree(Rule):
    """A tree, on a base or on nothing."""

    output = "tree"

    base: Tree | None = None


def make(name: str, *inputs: Target) -> Target:
    """Return a file target."""
    return Target(name, Needs(inputs=inputs), None)


def make_tree(name: str, base: Target | None = None) -> Target:
    """Return a tree target."""
    return Target(name, NeedsTree(base=base), None)


class Project:
    """A scratch folder with a Forgefile; the project's own modules are forgotten at the end."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = str(root / "Forgefile.py")

    def write(self, text: str, **modules: str) -> None:
        """Write the Forgefile, and modules beside it."""
        (self.root / "Forgefile.py").write_text(text)
        for name, content in modules.items():
            (self.root / f"{name}.py").write_text(content)

    def load(self, text: str | None = None, *, settings: dict[str, str] | None = None, **modules: str) -> Graph:
        """Evaluate the Forgefile."""
        if text is not None:
            self.write(text, **modules)
        return load(self.path, settings or {}, Reads())

    def refused(self, text: str | None = None, **more) -> ForgeError:
        """Evaluate a Forgefile that must be refused; return the error."""
        with pytest.raises(ForgeError) as caught:
            self.load(text, **more)
        return caught.value


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Return a scratch project; the current folder is in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield Project(tmp_path)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(f"{tmp_path}{os.sep}"):
            del sys.modules[name]
    sys.modules.pop("Forgefile", None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Where everything is installed, a test that is skipped has failed."""
    report = yield
    if os.environ.get("CI") and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report
