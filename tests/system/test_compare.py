"""A real Debian image, compared with the tree that it was made of, and measured. No mount, no copy."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.system.conftest import Project

pytestmark = pytest.mark.system


def test_an_image_differs_from_its_tree_by_what_a_disk_needs(example: Project) -> None:
    """Every one of some 12,000 paths is read out of ext4 as it lies in the layers."""
    run = example.forge("diff", "tuned", "disk.img", "--json")
    assert run.status == 1, run.err
    *rows, summary = run.events
    assert {row["path"] for row in rows} == {
        "/boot/efi", "/boot/grub", "/boot/grub/grub.cfg", "/etc/fstab", "/etc/kernel/cmdline",
    }  # fmt: skip
    assert summary["packages"] == 0


def test_an_image_of_a_virtual_machine_is_that_of_the_disk(example: Project, scratch: Path) -> None:
    assert example.forge("diff", "disk.img", "disk.qcow2").status == 0
    changed = scratch / "changed.img"
    shutil.copyfile(example.root / "disk.img", changed)
    part = next(each for each in example.forge("size", "disk.img", "--json").events if each.get("partition") == "root")
    assert part["filesystem"] == "ext4"
    table = json.loads(subprocess.run(("sfdisk", "--json", changed), capture_output=True, check=True).stdout)
    offset = table["partitiontable"]["partitions"][part["number"] - 1]["start"] * 512
    command = ("debugfs", "-w", "-R", "rm /etc/motd", f"{changed}?offset={offset}")
    subprocess.run(command, capture_output=True, check=True)
    run = example.forge("diff", "disk.qcow2", str(changed))
    assert "- /etc/motd  " in run.out, run.err
    assert run.out.endswith("\n1 file differs\n")
    changed.unlink()


def test_the_kernel_takes_most(example: Project) -> None:
    rows = example.forge("size", "tuned", "--json").events
    packages = [row["package"] for row in rows if "package" in row]
    assert packages[0].startswith("linux-image-")
    assert sum(row["size"] for row in rows if "package" in row) == rows[0]["size"]
    assert {row["target"] for row in rows if "layer" in row} == {"rootfs", "packages", "system", "tuned"}
