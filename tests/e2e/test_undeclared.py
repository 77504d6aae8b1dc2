# ruff: noqa: E501  what stands in a Forgefile is easier to read on one line
"""A step that reaches for what it is not shown fails, and the failure names that and the line to add."""

import shutil
import subprocess

import pytest

NOTHING = "forge shell --failed shows what it had made, where it failed"
"""The hint of a failure of which nothing more is known."""
HINTS = (
    ("cat data/a", 'add forge.source("data/a") to its argv'),
    ("find 'data' -name a", 'add forge.source("data") to its argv'),
    ("cat '{root}/data/a'", 'add forge.source("data/a") to its argv'),
    ("ls 'data/with blank'", 'add forge.source("data/with blank") to its argv'),
    ("./data/a", 'add forge.source("data/a") to its argv'),
    ("cd /tmp && make data/a", 'add forge.source("data/a") to its argv'),
    ("/usr/bin/python3 -c 'open(\"data/a\")'", 'add forge.source("data/a") to its argv'),
    ("cat /run/forge/src/data/a", 'add forge.source("data/a") to its argv'),
    ("cat /etc/fstab", 'add forge.source("/etc/fstab") to its argv'),
    ("cat other", "add the handle of the target 'other' to its argv"),
    ("curl http://deb.debian.org", "add network=True"),
    ("mount -t tmpfs none /mnt", "add mounts=True"),
    ("cat no/such/file", NOTHING),
    ("cat declared", NOTHING),
    ("false", NOTHING),
)  # fmt: skip


def test_the_failure_names_what_is_missing_and_the_line_to_add(project):
    project.write("data/a", "a")
    project.write("data/with blank", "a")
    project.write("declared", "a")
    project.forgefile(
        'forge.target("other", Shell(line="echo other"))',
        'declared = forge.source("declared")',
        *(f'forge.target("t-{number}", Command(argv=("sh", "-c", {line.format(root=project.root)!r}, declared), stdout=True))' for number, (line, _) in enumerate(HINTS)),
    )
    project.json("other")
    ended = project.json("-k", status=1)
    for number, (line, wanted) in enumerate(HINTS):
        hint = ended.only("failed", f"t-{number}").get("hint")
        assert hint.endswith(wanted), (line, hint)


@pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is missing")
def test_programs_of_another_architecture(machine):
    test = shutil.which("arch-test")
    other = next((arch for arch in ("s390x", "m68k") if not test or subprocess.run((test, arch), check=False).returncode), None)
    if other is None:
        pytest.skip("this machine runs them")
    machine.forgefile("from forgefile.rules import Mmdebstrap", f'forge.target("bad", Mmdebstrap(suite="sid", arch="{other}"))')
    failed = machine.json(status=1).only("failed")
    assert failed["hint"] == (
        "this machine does not run programs of that architecture: "
        "apt-get install arch-test binfmt-support qemu-user-static, and see forge doctor"
    )


def test_a_script_in_a_tree_is_told_of_inputs(project):
    """Of what lies outside of the project nothing is said there: in the tree it is another file."""
    project.write("a.sh", "#!/bin/sh\ncat data/a; cat /etc/fstab /etc/shadow; false\n")
    project.write("b.sh", "#!/bin/sh\ncat /etc/fstab /etc/shadow; false\n")
    project.write("data/a", "a")
    project.forgefile(
        'root = forge.target("root", Root())',
        'for name in "ab":',
        '    forge.target(name, Script(base=root, script=forge.source(f"{name}.sh")))',
    )
    ended = project.json("-k", status=1)
    assert ended.only("failed", "a")["hint"] == 'steps see declared inputs alone: add forge.source("data/a") to its inputs'
    assert ended.only("failed", "b")["hint"] == NOTHING
    project.write("a.sh", "#!/bin/sh\ncat data/a; exit 2\n")
    assert "add forge.source" in project.json("a", status=1).only("failed", "a")["hint"]
