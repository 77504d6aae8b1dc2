"""What downloads say when a mirror is in trouble, from the real tools; and that they say something else otherwise."""

import hashlib
import os
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

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


@pytest.fixture
def mirror(apt, tmp_path):
    """Start a mirror that has what is put into `files`, and answers anything else with `otherwise`."""

    class Mirror(BaseHTTPRequestHandler):
        files: ClassVar = {}
        otherwise = 404

        def do_GET(self):
            content = self.files.get(self.path)
            if content is None:
                self.send_error(self.otherwise)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        (tmp_path / "sources.list").write_text(f"deb [trusted=yes arch=amd64] {url} ./\n")
        yield Mirror, tmp_path / "sources.list", (*apt, "-o", "Acquire::http::Proxy=DIRECT")
        server.shutdown()


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_apt_and_a_mirror_that_is_busy(mirror, status):
    serves, _, apt = mirror
    serves.otherwise = status
    assert is_trouble(*apt, "update")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 407, 410])
def test_apt_and_a_mirror_that_refuses(mirror, status):
    serves, _, apt = mirror
    serves.otherwise = status
    assert not is_trouble(*apt, "update")


def test_apt_and_a_mirror_that_is_not_signed(mirror):
    serves, sources, apt = mirror
    sources.write_text(sources.read_text().replace("trusted=yes ", ""))
    assert not is_trouble(*apt, "update")
    serves.files["/./Release"] = b"Origin: nobody\n"
    assert not is_trouble(*apt, "update")


def index(*packages):
    """Return the index of a mirror with some packages, and the Release that names it."""
    texts = [f"Package: {name}\nVersion: 1\nArchitecture: all\nFilename: ./{name}.deb\nSize: 1\nSHA256: {'0' * 64}\n"
             for name in packages]  # fmt: skip
    text = "\n".join(texts).encode()
    release = f"Date: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n {hashlib.sha256(text).hexdigest()} {len(text)} Packages"
    return {"/./Packages": text, "/./Release": f"{release}\n".encode()}


def test_apt_and_a_mirror_that_is_being_updated(mirror):
    serves, _, apt = mirror
    serves.files |= {**index("there"), "/./Packages": index("gone")["/./Packages"]}
    assert is_trouble(*apt, "update")


def test_apt_and_a_package_that_has_left_the_mirror(mirror):
    serves, _, apt = mirror
    serves.files |= index("forge-test-package")
    subprocess.run((*apt, "update"), check=True, capture_output=True)
    assert is_trouble(*apt, "--download-only", "install", "forge-test-package")
    serves.otherwise = 403
    assert not is_trouble(*apt, "--download-only", "install", "forge-test-package")


@pytest.mark.skipif(os.geteuid() != 0, reason="debootstrap does nothing without root")
def test_debootstrap_and_a_mirror_that_does_not_answer(tmp_path):
    assert is_trouble("debootstrap", "--no-check-gpg", "bookworm", str(tmp_path / "tree"), NOWHERE)


def test_debootstrap_and_a_suite_that_is_not_there(tmp_path):
    assert not is_trouble("debootstrap", "no-such-suite", str(tmp_path / "tree"), NOWHERE)
