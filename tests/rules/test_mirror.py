"""What downloads say when a mirror is in trouble, from the real tools; and that they say something else otherwise."""

import os
import shutil
import subprocess

import pytest

from forgefile.mirror import TROUBLE

NOWHERE = "http://127.0.0.1:9/debian"
"""Where nobody listens: the port of the discard service (RFC 863)."""


def is_trouble(*argv):
    """Run what must fail, and tell whether a line of it is the trouble of a mirror."""
    if shutil.which(argv[0]) is None:
        pytest.skip(f"{argv[0]} is missing")
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    result = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode
    return any(text in line for text in TROUBLE for line in (result.stdout + result.stderr).splitlines())


@pytest.fixture
def apt(tmp_path):
    """Return what makes apt-get(8) use lists and sources of its own, of which there are none yet."""
    (tmp_path / "lists/partial").mkdir(parents=True)
    settings = {
        "Dir::Etc::SourceList": tmp_path / "sources.list",
        "Dir::Etc::SourceParts": "-",
        "Dir::State::Lists": tmp_path / "lists",
        "Dir::Cache": tmp_path,
        "Acquire::Retries": 0,
        "APT::Update::Error-Mode": "any",
        "APT::Sandbox::User": "root",
        "Debug::NoLocking": "true",
    }
    (tmp_path / "sources.list").write_text(f"deb [trusted=yes] {NOWHERE} bookworm main\n")
    return ("apt-get", "-q", *(word for name, value in settings.items() for word in ("-o", f"{name}={value}")))


def test_apt_and_a_mirror_that_does_not_answer(apt):
    assert is_trouble(*apt, "update")


def test_apt_and_a_package_that_is_not_there(apt):
    assert not is_trouble(*apt, "install", "no-such-package")


@pytest.mark.skipif(os.geteuid() != 0, reason="debootstrap does nothing without root")
def test_debootstrap_and_a_mirror_that_does_not_answer(tmp_path):
    assert is_trouble("debootstrap", "--no-check-gpg", "bookworm", str(tmp_path / "tree"), NOWHERE)


def test_debootstrap_and_a_suite_that_is_not_there(tmp_path):
    assert not is_trouble("debootstrap", "no-such-suite", str(tmp_path / "tree"), NOWHERE)
