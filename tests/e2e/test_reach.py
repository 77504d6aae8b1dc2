# ruff: noqa: E501  what stands in a Forgefile is easier to read on one line
"""What a step tries and cannot: root's as an ordinary user's, with the right to mount or without."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PREAMBLE, Project

ATTEMPTS = Path(__file__).with_name("attempts.py")
WHERE = {
    "host": "Command(argv=(PYTHON, forge.source('attempts.py'), *words), stdout=True)",
    "mounts": "Command(argv=(PYTHON, forge.source('attempts.py'), *words), stdout=True, mounts=True)",
}
NOT_EVERYWHERE = {"read the environment of process 1", "see what process 1 has open", "read the host's disk"}
"""What root may find forbidden outside of a step, too: in a container or by a policy of the machine."""
REACHED_FROM_MOUNTS = {"mount a file system"}
"""What a step may do that asked for it, and that nobody else sees."""


def attempted(project, where, *words):
    """Return what came of each attempt in a step: name → words."""
    shutil.copy(ATTEMPTS, project / "attempts.py")
    project.forgefile(f"words = {words!r}", f'forge.target("tried", {WHERE[where]})', preamble=f"{PREAMBLE}PYTHON = '/usr/bin/python3'\n")
    project.forge()
    return dict(line.split(": ", 1) for line in project.read("tried").splitlines())


@pytest.fixture
def bait(anyone):
    """What lies about on a machine: files of the project and the home, a socket, one without a name."""
    anyone.write("hidden", "secret")
    home = Path(anyone.environment()["HOME"])
    credentials, path = home / f".forge-e2e-credentials-{os.getpid()}", f"/run/forge-e2e-{os.getpid()}"
    credentials.write_text("secret")
    abstract = f"forge-e2e-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as named, socket.socket(socket.AF_UNIX) as nameless, socket.create_server(("127.0.0.1", 0)) as local:
        named.bind(path)
        named.listen()
        nameless.bind(f"\0{abstract}")
        nameless.listen()
        words = (str(anyone / "hidden"), str(anyone / ".forge"), str(credentials), path, abstract, str(local.getsockname()[1]))
        yield anyone, words
    credentials.unlink()
    os.unlink(path)


@pytest.mark.parametrize("where", WHERE)
def test_nothing_of_the_host_is_reached(bait, where):
    project, words = bait
    found = attempted(project, where, *words)
    reached = {name for name, outcome in found.items() if outcome == "reached"}
    assert reached == (REACHED_FROM_MOUNTS if where == "mounts" else set()), found
    assert len(found) > 30


def test_the_attempts_succeed_outside(bait):
    """What is tried is there, and root reaches it where nothing is in the way."""
    project, words = bait
    project.forgefile('forge.target("a", Shell(line="echo"))')
    project.forge()
    out = subprocess.run((sys.executable, ATTEMPTS, "--harmless", *words), capture_output=True, text=True, check=True).stdout
    failed = {line.split(": ")[0] for line in out.splitlines() if not line.endswith(": reached")}
    assert failed <= NOT_EVERYWHERE, out


def test_a_node_of_the_hosts_disk_opens_nothing(project):
    """Root can put device nodes into a tree, but none of them leads to a device: in no step, however it comes there."""
    opened = "for each in disk zero; do if head -c 1 $IN/$each >/dev/null; then echo reached; else echo refused; fi; done"
    disk = os.stat("/").st_dev
    make = f"cd $OUT; mknod disk b {os.major(disk)} {os.minor(disk)}; mknod zero c 1 5"
    project.forgefile(
        'root = forge.target("root", Root())',
        f'made = forge.target("made", Change(base=root, line={make!r}))',
        f'inside = forge.target("inside", Change(base=made, line={"exec >/said; IN=; " + opened.replace("head -c 1", "cp").replace(">/dev/null", "/dev/null")!r}, inside=True))',
        'for name, mounts in (("host", False), ("mounts", True)):',
        f'    line = "mount -o remount,bind,dev /run/forge 2>/dev/null; IN=$1; " + {opened!r}',
        '    forge.target(name, Command(argv=("sh", "-c", line, "sh", made), stdout=True, mounts=mounts))',
        'forge.target("said", Shell(line="cat $1/said; ls -l $1/disk $1/zero", inputs=(inside,)))',
    )
    project.forge()
    assert project.read("host") == project.read("mounts") == "refused\n" * 2
    said = project.read("said").splitlines()
    assert said[:2] == ["refused"] * 2
    assert [line[0] for line in said[2:]] == ["b", "c"]


def test_capabilities_are_those_of_the_kind_of_step(anyone):
    """In all five sets, whoever runs forge: capabilities(7)."""
    anyone.write("probe.py", "def status(path):\n    open(path, 'w').write(open('/proc/self/status').read())\n")
    anyone.forgefile(
        'root = forge.target("root", Root())',
        'tree = forge.target("tree", Change(base=root, line="cat /proc/self/status >/seen", inside=True))',
        'forge.target("called", Called())',
        'forge.target("host", Command(argv=("cat", "/proc/self/status"), stdout=True))',
        'forge.target("mounts", Command(argv=("cat", "/proc/self/status"), stdout=True, mounts=True))',
        'forge.target("inside", Command(argv=("cat", (tree, "/seen")), stdout=True))',
        preamble=PREAMBLE + "import probe\nfrom forgefile import Call\n\n\nclass Called(Rule):\n    def steps(self, box):\n        yield Call(probe.status, box.out)\n\n\n",
    )  # fmt: skip
    anyone.forge()
    programs = (0, 1, 3, 4, 5, 6, 7, 18, 27, 31)
    wanted = {
        "called": (0, 1, 3, 4, 27, 31), "host": programs, "inside": programs, "mounts": (*programs, 21),
    }  # fmt: skip
    for name, numbers in wanted.items():
        found = dict(line.split(":\t") for line in anyone.read(name).splitlines() if line.startswith("Cap"))
        mask = f"{sum(1 << number for number in numbers):016x}"
        assert found == {"CapInh": "0" * 16, "CapPrm": mask, "CapEff": mask, "CapBnd": mask, "CapAmb": "0" * 16}, name


VIEW = """
export -p; umask; id; cat /proc/sys/kernel/hostname /etc/passwd; ulimit -c
ls -A / /dev /run /tmp /var/tmp; stat -c "%n %a %t %T" /dev/*; stat -c "%n %a %u %g" /tmp /run /run/forge /root
while read -r _ _ _ _ at options _; do case $at in /sys/*) ;; *) echo "$at ${options%%,*}" ;; esac; done </proc/self/mountinfo
while read -r line; do case $line in Cap*|Seccomp:*|NoNewPrivs*|Groups*|NSpid*) echo "$line" ;; esac; done </proc/self/status
"""


def test_root_and_an_ordinary_user_see_the_same(project, users):
    """Environment, locale, umask, ids, name of the host, devices, temporary folders, mounts, rights."""
    seen = []
    for each in (project, users):
        each.env |= {"LANG": "de_DE.UTF-8", "LC_ALL": "fr_FR.UTF-8", "TZ": "Asia/Tokyo", "SECRET": "secret", "SUDO_USER": "me"}
        each.forgefile(
            'root = forge.target("root", Root())',
            f'tree = forge.target("tree", Change(base=root, line="exec >/seen; [ -e /etc/passwd ] || echo none >/etc/passwd; " + {VIEW!r}, inside=True))',
            'forge.target("inside", Shell(line="cat $1/seen", inputs=(tree,)))',
            f'forge.target("host", Shell(line={VIEW!r}))',
            f'forge.target("mounts", Command(argv=("sh", "-c", {VIEW!r}), stdout=True, mounts=True))',
        )
        each.forge(prefix=("sh", "-c", 'umask 077; exec "$@"', "sh"))
        seen.append([each.read(name) for name in ("host", "inside", "mounts")])
    for ours, theirs in zip(*seen, strict=True):
        assert ours == theirs
        assert "secret" not in ours
        assert "\n0022\nuid=0" in ours
        assert "\nforge\n" in ours


@pytest.mark.parametrize("below", ["/opt", "/usr/src", "/usr/local/share"])
def test_a_project_among_the_hosts_programs_is_hidden(project, below):
    folder = Path(below, f"forge-e2e-{os.getpid()}")
    try:
        hidden = Project(folder / "project")
        hidden.write("source", "yes")
        hidden.env["HOME"] = str(folder / "home")
        hidden.write("../home/credentials", "secret")
        hidden.env["FORGE_STORE"] = str(folder / "store")
        line = f"cat $1; find {folder} -type f; touch {folder}/project/new {folder}/new 2>/dev/null || echo refused"
        hidden.forgefile(f'forge.target("seen", Shell(line={line!r}, inputs=(forge.source("source"),)))')
        hidden.forge()
        assert hidden.read("seen") == "yesrefused\n"
    finally:
        shutil.rmtree(folder)
