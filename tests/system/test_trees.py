"""Debian trees by the real bootstrap tools and apt."""

import os
import shutil
import subprocess
import threading
from base64 import b64encode
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.system.conftest import Project, new_project

pytestmark = pytest.mark.system

HEAD = "from forgefile import Forge\nfrom forgefile.rules import *\n\n\ndef build(forge: Forge) -> None:\n"


@pytest.fixture
def project(scratch: Path, debs: Path, request: pytest.FixtureRequest) -> Iterator[Project]:
    made = new_project(scratch / request.node.name[:40], debs)
    yield made
    shutil.rmtree(made.root)


def write(project: Project, *lines: str) -> None:
    (project.root / "Forgefile.py").write_text(HEAD + "".join(f"    {line}\n" for line in lines))


def exported(project: Project, name: str) -> Path:
    folder = project.root / f"exported {name}"
    done = project.forge("export", name, str(folder))
    assert done.status == 0, done.err
    return folder


ROOTFS = 'rootfs = forge.target("rootfs", Mmdebstrap(suite="bookworm", variant="minbase"))'


def test_debootstrap_and_apt_leave_nothing_of_the_host_or_the_run(project: Project) -> None:
    write(
        project,
        'rootfs = forge.target("rootfs", Debootstrap(suite="bookworm", variant="minbase"))',
        'forge.target("packages", Apt(base=rootfs, packages=("openssh-server",)))',
    )
    project.build("packages")
    tree = exported(project, "packages")
    status = (tree / "var/lib/dpkg/status").read_text()
    assert "Package: openssh-server\nStatus: install ok installed" in status
    assert (tree / "etc/hostname").read_text() == "localhost\n"
    assert not (tree / "etc/resolv.conf").exists()
    assert not (tree / "usr/sbin/policy-rc.d").exists()
    for empty in ("dev", "tmp", "var/tmp", "run", "proc", "sys", "var/lib/apt/lists", "var/log/apt"):
        assert list((tree / empty).iterdir()) == [], empty
    assert list((tree / "var/cache/apt/archives").glob("*.deb")) == []
    assert list((tree / "etc/ssh").glob("ssh_host_*")) == []
    assert (tree / "etc/machine-id").read_text() == ""
    assert os.stat(tree / "usr/bin/su").st_mode & 0o4000


def test_keys_that_were_laid_below_the_packages_stay(project: Project) -> None:
    laid = project.root / "laid/etc"
    (laid / "ssh").mkdir(parents=True)
    (laid / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    for name in ("ssh_host_ed25519_key", "ssh_host_ed25519_key.pub"):
        (laid / "ssh" / name).write_text(f"{name}\n")
    write(
        project,
        ROOTFS,
        'laid = forge.target("keyed", Overlay(base=rootfs, source=forge.source("laid")))',
        'forge.target("packages", Apt(base=laid, packages=("openssh-server",)))',
    )
    project.build("packages")
    tree = exported(project, "packages")
    keys = {path.name: path.read_text() for path in (tree / "etc/ssh").glob("ssh_host_*")}
    assert keys == {name: f"{name}\n" for name in ("ssh_host_ed25519_key", "ssh_host_ed25519_key.pub")}
    assert (tree / "etc/machine-id").read_text() == "0123456789abcdef0123456789abcdef\n"


def test_an_unknown_package_fails_with_the_words_of_the_resolver(project: Project) -> None:
    write(project, ROOTFS, 'forge.target("packages", Apt(base=rootfs, packages=("no-such-package",)))')
    run = project.forge("packages")
    assert run.status == 1
    assert "Unable to locate package no-such-package" in run.out
    assert "Forgefile.py:7" in run.out
    assert "apt-get" in run.out
    again = project.forge("--json", "-n", "packages").planned()
    assert again["rootfs"][0] == "none", "what succeeded is kept"


def make_deb(folder: Path, name: str, script: str = "") -> Path:
    """Make a package that holds /usr/share/NAME/file and runs `script` when it is installed."""
    root = folder / f"{name}-root"
    (root / "DEBIAN").mkdir(parents=True)
    control = f"Package: {name}\nVersion: 1.0\nArchitecture: all\nMaintainer: A <a@example.org>\nDescription: {name}\n"
    (root / "DEBIAN/control").write_text(control)
    if script:
        (root / "DEBIAN/postinst").write_text(f"#!/bin/sh\nset -e\n{script}\n")
        (root / "DEBIAN/postinst").chmod(0o755)
    (root / f"usr/share/{name}").mkdir(parents=True)
    (root / f"usr/share/{name}/file").write_text(name)
    deb = folder / f"{name}.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", root, deb], check=True, capture_output=True)
    shutil.rmtree(root)
    return deb


def test_local_packages_install_services_do_not_start_and_the_resolver_is_lent(project: Project) -> None:
    script = """\
test -c /dev/null && test -d /proc/self && test -d /sys/kernel && test -s /etc/resolv.conf
if invoke-rc.d --quiet cron start; then echo started; fi
/usr/sbin/policy-rc.d cron start && exit 9
touch /usr/share/installed"""
    make_deb(project.root, "localone", script)
    write(
        project,
        ROOTFS,
        'debs = (forge.source("localone.deb"),)',
        'forge.target("packages", Apt(base=rootfs, packages=("sysvinit-utils", "cron"), debs=debs))',
    )
    project.build("packages")
    tree = exported(project, "packages")
    assert (tree / "usr/share/localone/file").read_text() == "localone"
    assert (tree / "usr/share/installed").exists()
    assert not (tree / "etc/resolv.conf").exists()
    assert not (tree / "usr/sbin/policy-rc.d").exists()


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[str]:
    """An archive of packages that a key signed, served on loopback."""
    folder = tmp_path / "archive"
    folder.mkdir()
    make_deb(folder, "fromarchive")
    home = tmp_path / "gnupg"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet"]
    key = ["--passphrase", "", "--quick-generate-key", "archive@example.org", "default", "default", "never"]
    subprocess.run([*gpg, *key], check=True, capture_output=True)
    packages = subprocess.run(["apt-ftparchive", "packages", "."], cwd=folder, check=True, capture_output=True).stdout
    (folder / "Packages").write_bytes(packages)
    release = subprocess.run(["apt-ftparchive", "release", "."], cwd=folder, check=True, capture_output=True).stdout
    (folder / "Release").write_bytes(release)
    subprocess.run([*gpg, "--clearsign", "-o", folder / "InRelease", folder / "Release"], check=True)
    exported_key = subprocess.run([*gpg, "--armor", "--export"], check=True, capture_output=True).stdout
    (tmp_path / "archive.asc").write_bytes(exported_key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True)


def guarded(folder: Path) -> ThreadingHTTPServer:
    """Serve a folder on loopback to who knows the password."""

    class Guard(_Quiet):
        def do_GET(self) -> None:
            if self.headers["Authorization"] == "Basic " + b64encode(b"me:hunter2-hunter2").decode():
                super().do_GET()
            else:
                self.send_error(401)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Guard, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def test_an_archive_that_wants_a_password(project: Project, archive: str, tmp_path: Path) -> None:
    server = guarded(tmp_path / "archive")
    url = f"http://127.0.0.1:{server.server_port}"
    auth = tmp_path / "auth.conf"
    auth.write_text(f"machine {url} login me password hunter2-hunter2\n")
    shutil.copy(tmp_path / "archive.asc", project.root / "archive.asc")
    write(
        project,
        ROOTFS,
        f'auth = forge.secret("archives", file={str(auth)!r})',
        f'extra = AptSource("extra", url="{url}", suites=("./",), key=forge.source("archive.asc"))',
        'forge.target("refused", Apt(base=rootfs, packages=("fromarchive",), sources=(extra,)))',
        'forge.target("packages", Apt(base=rootfs, packages=("fromarchive",), sources=(extra,), auth=auth))',
        f'mirrors = ("deb http://deb.debian.org/debian bookworm main", "deb [trusted=yes] {url} ./")',
        'forge.target("whole", Mmdebstrap(suite="bookworm", mirrors=mirrors, include=("fromarchive",), auth=auth))',
    )
    refused = project.forge("refused")
    assert refused.status == 1
    assert "401" in refused.out
    project.build("packages", "whole")
    for target in ("packages", "whole"):
        assert (exported(project, target) / "usr/share/fromarchive/file").read_text() == "fromarchive"
        grep = ("grep", "-rl", "/run/forge/secret", project.root / f"exported {target}")
        assert subprocess.run(grep, check=False, stdout=subprocess.PIPE).stdout == b""
    grep = ("grep", "-rl", "hunter2", project.root)
    assert subprocess.run(grep, check=False, stdout=subprocess.PIPE).stdout == b""
    server.shutdown()
    server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


def test_a_further_archive_is_trusted_by_its_key_alone(project: Project, archive: str, tmp_path: Path) -> None:
    shutil.copy(tmp_path / "archive.asc", project.root / "archive.asc")
    key = 'key=forge.source("archive.asc")'
    source = f'AptSource("extra", url="{archive}", suites=("./",), %s)'
    target = 'forge.target("packages", Apt(base=rootfs, packages=("fromarchive",), sources=(%s,)))'
    write(project, ROOTFS, target % (source % ""))
    refused = project.forge("packages")
    assert refused.status == 1
    assert "NO_PUBKEY" in refused.out or "not signed" in refused.out
    write(project, ROOTFS, target % (source % key))
    project.build("packages")
    tree = exported(project, "packages")
    assert (tree / "usr/share/fromarchive/file").read_text() == "fromarchive"
    assert "Signed-By: /etc/apt/keyrings/extra.asc" in (tree / "etc/apt/sources.list.d/extra.sources").read_text()
    assert (tree / "etc/apt/keyrings/extra.asc").exists()


def test_a_script_sees_the_tree_or_the_host_and_the_network_only_when_asked(project: Project) -> None:
    (project.root / "in.sh").write_text("#!/bin/sh\nset -e\n! ls /sys/class/net | grep -v lo\ntouch /etc/in\n")
    (project.root / "beside.py").write_text(
        '#!/usr/bin/perl\nopen(F, ">", "$ENV{TREE}/etc/beside"); print F $ENV{WORD}; print F <ARGV>;\n'
    )
    write(
        project,
        ROOTFS,
        'a = forge.target("a", Script(base=rootfs, script=forge.source("in.sh")))',
        'b = forge.target("b", Script(base=a, script=forge.source("beside.py"), where="host",',
        '    environment={"WORD": "said "}, arguments=(forge.source("in.sh"),)))',
    )
    project.build("b")
    tree = exported(project, "b")
    assert (tree / "etc/in").exists()
    assert (tree / "etc/beside").read_text() == "said " + (project.root / "in.sh").read_text()
