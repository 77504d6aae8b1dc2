"""`QemuImage`: what is refused, the exact argv, and images by the real qemu-img that are the same each time."""

import os
import shutil
import subprocess
import time

import pytest

from forgefile.errors import BuildError, ForgefileError
from forgefile.model import Call, Rule, Run, Sandbox, Target
from forgefile.programs.qemu import Image, _crc32c, fix_ids
from forgefile.rules import QemuImage


class Disk(Rule):
    pass


class Root(Rule):
    output = "tree"


DISK = Target("disk.img", Disk(), None)
needs_qemu = pytest.mark.skipif(not shutil.which("qemu-img") and "CI" not in os.environ, reason="needs qemu-img")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": "vdi", "compress": True}, "field 'compress': vdi cannot be compressed"),
        ({"format": "raw", "options": {"size": "1"}}, "field 'options': raw has no option 'size'"),
        ({"options": {"data_file": "x"}}, "field 'options': 'data_file' names another file; an image is one file"),
        (
            {"options": {"encrypt.format": "luks"}},
            "field 'options': 'encrypt.format': an encrypted image differs each time that it is made",
        ),
        (
            {"format": "vmdk", "options": {"subformat": "monolithicFlat"}},
            "field 'options': 'monolithicFlat' makes several files; a file target is one file",
        ),
    ],
)
def test_refuses(fields, message):
    with pytest.raises(ForgefileError) as caught:
        QemuImage(disk=DISK, **fields)
    assert caught.value.message == f"QemuImage {message}"


def test_refuses_what_is_no_file_and_an_unknown_format():
    with pytest.raises(ForgefileError, match="expected the handle of a file target, got the handle of the tree target"):
        QemuImage(disk=Target("root", Root(), None))
    with pytest.raises(ForgefileError, match="field 'format'"):
        QemuImage(disk=DISK, format="qcow")


def convert(*words):
    return Run(("qemu-img", "convert", "-t", "unsafe", "-f", "raw", "-O", *words, "/run/forge/in/disk.img", OUT))


OUT = "/run/forge/out"


def ids(form):
    return Call(fix_ids, Image(disk="/run/forge/in/disk.img", image=OUT, format=form))


@pytest.mark.parametrize(
    ("fields", "steps"),
    [
        ({}, [convert("qcow2")]),
        ({"compress": True}, [convert("qcow2", "-c")]),
        (
            {"compress": True, "options": {"compression_type": "zstd", "cluster_size": "1M"}},
            [convert("qcow2", "-c", "-o", "cluster_size=1M,compression_type=zstd")],
        ),
        ({"format": "raw"}, [convert("raw")]),
        ({"format": "vmdk"}, [convert("vmdk"), ids("vmdk")]),
        (
            {"format": "vmdk", "compress": True, "options": {"toolsversion": "1,2"}},
            [convert("vmdk", "-o", "subformat=streamOptimized,toolsversion=1,,2"), ids("vmdk")],
        ),
        ({"format": "vdi"}, [convert("vdi"), ids("vdi")]),
        ({"format": "vhdx"}, [convert("vhdx"), ids("vhdx")]),
        ({"format": "vpc"}, [convert("vpc", "-o", "force_size=on"), ids("vpc")]),
        ({"format": "vpc", "options": {"force_size": "off"}}, [convert("vpc", "-o", "force_size=off"), ids("vpc")]),
    ],
)
def test_steps(fields, steps):
    assert list(QemuImage(disk=DISK, **fields).steps(Sandbox())) == steps


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """A raw disk of 9 MiB and a sector, with content that is scattered and mostly zeros."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1750000000")
    path = tmp_path / "disk"
    with open(path, "wb") as file:
        for number in range(40):
            file.seek(number * 230_001)
            file.write(bytes([number]) * 5_000)
        file.truncate((9 << 20) + 512)
    return path


def make(disk, image, fields):
    """Do the rule's steps with paths of this test; a VMDK holds the last part of its own."""
    image.parent.mkdir()
    box = {"/run/forge/in/disk.img": str(disk), OUT: str(image)}
    for step in QemuImage(disk=DISK, **fields).steps(Sandbox()):
        if isinstance(step, Run):
            subprocess.run([box.get(word, word) for word in step.argv], check=True)
        else:
            step.function(Image(disk=str(disk), image=str(image), format=step.argument.format))


@needs_qemu
@pytest.mark.parametrize(
    "fields",
    [
        {"format": "qcow2"},
        {"format": "qcow2", "compress": True},
        {"format": "qcow2", "compress": True, "options": {"compression_type": "zstd"}},
        {"format": "vmdk"},
        {"format": "vmdk", "compress": True},
        {"format": "vdi"},
        {"format": "vdi", "options": {"static": "on"}},
        {"format": "vhdx"},
        {"format": "vhdx", "options": {"subformat": "fixed"}},
        {"format": "vpc"},
        {"format": "vpc", "options": {"subformat": "fixed"}},
        {"format": "raw"},
    ],
    ids=lambda fields: "-".join([fields["format"], *map(str, fields.get("options", {}).values())]),
)
def test_the_image_holds_the_disk_and_repeats(disk, tmp_path, fields):
    one, two, form = tmp_path / "1/out", tmp_path / "2/out", fields["format"]
    make(disk, one, fields)
    if form == "vpc":
        time.sleep(1.1)  # a VHD has the second in which it was made
    make(disk, two, fields)
    assert one.read_bytes() == two.read_bytes()
    subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", form, disk, one], check=True)
    if form not in ("raw", "vpc"):
        subprocess.run(["qemu-img", "check", "-f", form, one], check=True)


@needs_qemu
@pytest.mark.parametrize("form", ["vmdk", "vdi", "vhdx", "vpc"])
def test_another_disk_has_other_ids(disk, tmp_path, form):
    one, two = tmp_path / "1/out", tmp_path / "2/out"
    make(disk, one, {"format": form})
    other = tmp_path / "other"
    shutil.copy(disk, other)
    with open(other, "r+b") as file:
        file.seek(230_001)
        file.write(b"disk")
    make(other, two, {"format": form})
    one, two = one.read_bytes(), two.read_bytes()
    assert len(one) == len(two)
    assert 4 < sum(a != b for a, b in zip(one, two, strict=True)) < 150


def test_what_a_shorter_id_left_behind_is_cleared(disk, tmp_path):
    """qemu-img writes the id without leading zeros and twice, so that the end of the first text can outlive it."""
    images = []
    for text in (b"CID=139443bc\nend\n", b"CID=1394bc\nend\n\0\n"):
        image = tmp_path / "image"
        header = b"KDMV" + bytes(24) + (1).to_bytes(8, "little") * 2
        image.write_bytes(header.ljust(512, b"\0") + text.ljust(512, b"\0"))
        fix_ids(Image(disk=str(disk), image=str(image), format="vmdk"))
        images.append(image.read_bytes())
    assert images[0] == images[1]
    assert images[0][512:].rstrip(b"\0")[-5:] == b"\nend\n"


@pytest.mark.parametrize("form", ["vmdk", "vdi", "vhdx", "vpc"])
def test_an_unknown_image_is_told(disk, tmp_path, form):
    image = tmp_path / "image"
    image.write_bytes(bytes(1 << 20))
    with pytest.raises(BuildError, match="in a way that is not known here"):
        fix_ids(Image(disk=str(disk), image=str(image), format=form))


def test_crc32c_has_the_value_of_the_standard():
    assert _crc32c(b"123456789") == 0xE3069283
    assert _crc32c(bytes(32)) == 0x8A9136AA
