# ruff: noqa: E501  what stands in a Forgefile is easier to read on one line
"""Disk images of what trees can hold, from the command line."""

import os
import subprocess
import tempfile

import pytest
from conftest import PREAMBLE

IMPORTS = "from forgefile.rules import DiskImage, Ext4, Partition, Raw\n"
LINKED = """#!/usr/bin/env python3
import os, sys
os.chdir(os.environ["TREE"])
open("a", "w").write("one file\\n")
for other in ("b", "c"):
    os.link("a", other)
for letter in "{order}":
    os.setxattr("a", f"user.{{letter}}", letter.encode())
for name in ("a", "."):
    os.utime(name, (1_700_000_000, 1_700_000_000))
"""


def test_attributes_of_a_file_with_several_names_have_one_order(project):
    if not os.path.exists("/usr/bin/python3"):
        pytest.skip("python3 is not among the host's programs")
    body = (
        'made = forge.target("made", Script(base=forge.target("root", Empty()), script=forge.source("make.py"), where="host"))',
        'forge.target("disk.img", DiskImage(partitions=(Partition("root", type="root", filesystem=Ext4(), tree=made),)))',
    )
    project.forgefile(*body, preamble=PREAMBLE + IMPORTS)
    found = []
    for order in ("zax", "axz"):
        project.write("make.py", LINKED.format(order=order), 0o755)
        project.forge("--store", f"store-{order}", "disk.img")
        found.append((project / "disk.img").read_bytes())
        (project / "disk.img").unlink()
    assert found[0] == found[1]
    (project / "fs").write_bytes(found[0][1 << 20 :])
    inodes = {
        subprocess.run(("debugfs", "-R", f"stat /{name}", project / "fs"), capture_output=True, text=True, check=True)
        .stdout.split()[1] for name in ("a", "b", "c")
    }  # fmt: skip
    assert len(inodes) == 1


def test_raw_content_from_another_file_system(project):
    elsewhere = next((path for path in ("/dev/shm", "/run/lock") if os.access(path, os.W_OK)), None)
    if elsewhere is None or os.stat(elsewhere).st_dev == os.stat(project.root).st_dev:
        pytest.skip("there is one file system")
    project.write("app", b"raw" * 100_000)
    project.forgefile(
        'forge.target("disk.img", DiskImage(partitions=(Partition("app", filesystem=Raw(content=forge.source("app"))),)))',
        preamble=PREAMBLE + IMPORTS,
    )
    with tempfile.TemporaryDirectory(dir=elsewhere) as folder:
        project.forge("--store", f"{folder}/store")
    assert (project / "disk.img").read_bytes()[1 << 20 :].startswith(b"raw" * 100_000)
