"""DiskImage: what is refused, what the sandbox is told, and real disks that the real tools accept."""

import dataclasses
import hashlib
import os
import pickle
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import forgefile
from forgefile.errors import ForgefileError
from forgefile.model import Rule, Sandbox, Target
from forgefile.rules.disk import Btrfs, DiskImage, Ext4, Grub, Partition, Raw, Swap, Vfat, Xfs

EPOCH = 1_750_000_000
MIB = 1 << 20


class ATree(Rule):
    """Any tree."""

    output = "tree"


class AFile(Rule):
    """Any file."""


TREE = Target("tuned", ATree(), None)
OTHER = Target("other", ATree(), None)
IMAGE = Target("app.img", AFile(), None)
ROOT = {"type": "root", "filesystem": Ext4(label="root"), "tree": TREE}


def bios():
    return Partition("bios", type="bios-boot", size="1MiB")


def esp(**fields):
    return Partition("esp", type="esp", **{"size": "16MiB", "filesystem": Vfat(label="ESP"), **fields})


def root(**fields):
    return Partition("root", **{**ROOT, **fields})


def contract():
    return DiskImage(
        label="gpt",
        partitions=(
            Partition("bios", type="bios-boot", size="1MiB"),
            Partition("esp", type="esp", size="48MiB", filesystem=Vfat(label="ESP")),
            Partition("root", type="root", filesystem=Ext4(label="root"), tree=TREE, minimum_free="256MiB"),
        ),
        bootloader=Grub(bios=True, uefi=True, cmdline='console=ttyS0 rw dyndbg="file x +p"'),
    )


# What is refused -----------------------------------------------------------------------------------------------------

REFUSED = {
    "no size": (lambda: Partition("a", size="big"), "field 'size': 'big' is no size; write a number and a unit"),
    "size of nothing": (lambda: Partition("a"), "has no content that its size could be taken from"),
    "swap without size": (lambda: Partition("a", filesystem=Swap()), "has no content that its size"),
    "zero": (lambda: Partition("a", size="0"), "field 'size': is 0"),
    "bad name": (lambda: Partition('a"b', size="1MiB"), "no quotes or slashes"),
    "long name": (lambda: Partition("a" * 37, size="1MiB"), "1 to 36 printable characters"),
    "name beyond the first plane": (
        lambda: Partition("a\U0001f600", size="1MiB"),
        "field 'name': 'a\U0001f600': sfdisk writes no character above U+FFFF into a GPT",
    ),
    "type": (lambda: Partition("a", type="rot", size="1MiB"), "unknown partition type 'rot'"),
    "uuid": (lambda: Partition("a", uuid="1", size="1MiB"), "'1' is no UUID"),
    "attribute": (lambda: Partition("a", attributes=("hidden",), size="1MiB"), "unknown attribute 'hidden'"),
    "mount": (lambda: root(mount="home"), "'home' is no absolute path"),
    "mount options": (lambda: root(mount_options="ro, noatime"), "white space"),
    "mount of nothing": (lambda: Partition("a", size="1MiB", mount="/x"), "has no file system to mount"),
    "tree without file system": (lambda: Partition("a", size="1MiB", tree=TREE), "it is no file system"),
    "tree on swap": (lambda: Partition("a", size="1MiB", filesystem=Swap(), tree=TREE), "cannot hold a tree"),
    "string for a tree": (lambda: root(tree="tuned"), "expected Tree | None, got the string 'tuned'"),
    "free space in raw": (
        lambda: Partition("a", filesystem=Raw(content=IMAGE), minimum_free="1MiB"),
        "field 'minimum_free': partition 'a' holds no files",
    ),
    "ext4 label": (lambda: Ext4(label="a" * 17), "at most 16 bytes"),
    "ext4 ratio": (lambda: Ext4(inode_ratio=1), "field 'inode_ratio'"),
    "ext4 reserve": (lambda: Ext4(reserved_percent=99), "from 0 to 50"),
    "vfat label": (lambda: Vfat(label="esp"), "has small letters"),
    "vfat id": (lambda: Vfat(uuid="123"), "is no volume id"),
    "raw offset": (lambda: Raw(content=IMAGE, offset="x"), "'x' is no size"),
    "nothing to start": (lambda: Grub(bios=False, uefi=False), "neither bios nor uefi"),
    "root in cmdline": (lambda: Grub(cmdline="root=/dev/sda1"), "has a root="),
    "root in quotes in cmdline": (lambda: Grub(cmdline='"root=/dev/sda1"'), "has a root="),
    "quote in cmdline": (lambda: Grub(cmdline="a='b'"), "single quote"),
    "backslash in cmdline": (lambda: Grub(cmdline="a=\\b"), "a backslash or a control character"),
    "open quote in cmdline": (lambda: Grub(cmdline='a="b c'), "field 'cmdline': has a double quote that is not closed"),
    "no partitions": (lambda: DiskImage(partitions=()), "field 'partitions': is empty"),
    "arch": (lambda: DiskImage(partitions=(bios(),), arch="x86"), "field 'arch': unknown 'x86'"),
    "disk id": (lambda: DiskImage(partitions=(root(),), label="mbr", id="123"), "'123' is no id of a disk with mbr"),
    "same name": (lambda: DiskImage(partitions=(bios(), bios())), "two partitions have the name 'bios'"),
    "same mount": (
        lambda: DiskImage(partitions=(root(), Partition("b", **ROOT))),
        "'root' and 'b' are both mounted at /",
    ),
    "same uuid": (
        lambda: DiskImage(
            partitions=(
                Partition("a", size="1MiB", uuid="11111111-2222-4333-8444-55555555555a"),
                Partition("b", size="1MiB", uuid="11111111-2222-4333-8444-55555555555A"),
            )
        ),
        "'a' and 'b' have the same uuid, 11111111-2222-4333-8444-55555555555a",
    ),
    "two rests": (
        lambda: DiskImage(size="1GiB", partitions=(Partition("a", size="rest"), Partition("b", size="rest"))),
        "more than one partition has the size 'rest': a, b",
    ),
    "rest of nothing": (lambda: DiskImage(partitions=(Partition("a", size="rest"),)), "no size that could be left"),
    "bios-boot in an mbr": (
        lambda: DiskImage(label="mbr", partitions=(bios(),)),
        "partition 'bios': there is no type 'bios-boot' in MBR",
    ),
    "attribute in an mbr": (
        lambda: DiskImage(label="mbr", partitions=(Partition("a", size="1MiB", attributes=("grow",)),)),
        "an MBR has no attribute 'grow'",
    ),
    "partition id in an mbr": (
        lambda: DiskImage(label="mbr", partitions=(root(uuid="11111111-2222-4333-8444-555555555555"),)),
        "an MBR holds no partition ids",
    ),
    "overlap": (
        lambda: DiskImage(partitions=(esp(), root(start="4MiB"))),
        "field 'partitions': partition 'root' starts at 4MiB and overlaps partition 'esp', which ends at 17MiB",
    ),
    "overlap by the free space": (
        lambda: DiskImage(partitions=(root(minimum_free="1GiB"), esp(start="512MiB"))),
        "partition 'esp' starts at 512MiB and overlaps partition 'root'",
    ),
    "misfit": (lambda: DiskImage(partitions=(root(size="2GiB"),), size="1GiB"), "partition 'root' does not fit"),
    "free space in a fixed size": (
        lambda: DiskImage(partitions=(root(size="9MiB", minimum_free="1GiB"),)),
        "too small",
    ),
    "small xfs": (lambda: DiskImage(partitions=(root(size="99MiB", filesystem=Xfs()),)), "xfs needs at least 300MiB"),
    "sectors": (
        lambda: DiskImage(partitions=(root(start="1025KiB"),), sector_size=4096),
        "start of 1025KiB is no multiple of the sector size, 4096 bytes",
    ),
    "raw in a partition": (
        lambda: DiskImage(partitions=(esp(),), raw=(Raw(content=IMAGE, offset="2MiB"),)),
        "field 'raw': raw content at 2MiB starts at 2MiB and overlaps partition 'esp', which ends at 17MiB",
    ),
    "raw where a partition without a fixed size begins": (
        lambda: DiskImage(partitions=(root(start="8MiB"),), raw=(Raw(content=IMAGE, offset="8MiB"),)),
        "overlaps",
    ),
    "raw in the partition table": (
        lambda: DiskImage(partitions=(root(),), raw=(Raw(content=IMAGE, offset="8KiB"),)),
        "field 'raw': raw content at 8KiB starts at 8KiB and overlaps the partition table, which ends at 17KiB",
    ),
    "raw beyond the disk": (
        lambda: DiskImage(partitions=(root(),), size="1GiB", raw=(Raw(content=IMAGE, offset="1GiB"),)),
        "raw content at 1GiB does not fit",
    ),
    "raw in raw": (
        lambda: DiskImage(
            partitions=(root(start="1MiB"),),
            raw=(Raw(content=IMAGE, offset="32KiB"), Raw(content=IMAGE, offset="32KiB")),
        ),
        "raw content at 32KiB starts at 32KiB and overlaps raw content at 32KiB",
    ),
    "too large for an mbr": (lambda: DiskImage(partitions=(root(),), label="mbr", size="3TiB"), "2^32 sectors"),
    "no root for Grub": (lambda: DiskImage(partitions=(bios(), esp()), bootloader=Grub()), "Grub needs a partition"),
    "no bios-boot": (lambda: DiskImage(partitions=(esp(), root()), bootloader=Grub()), "needs a bios-boot partition"),
    "no esp": (lambda: DiskImage(partitions=(bios(), root()), bootloader=Grub()), "needs an esp partition with Vfat"),
    "/boot/grub on its own": (
        lambda: DiskImage(
            partitions=(bios(), esp(), root(), Partition("grub", filesystem=Ext4(), mount="/boot/grub")),
            bootloader=Grub(),
        ),
        "field 'bootloader': 'grub' holds /boot/grub and 'root' the kernels, which GRUB would not find",
    ),
    "/boot and /boot/grub on two": (
        lambda: DiskImage(
            partitions=(
                *(bios(), esp(), root(), Partition("boot", type="xbootldr", filesystem=Ext4())),
                Partition("grub", filesystem=Ext4(), mount="/boot/grub"),
            ),
            bootloader=Grub(),
        ),
        "'grub' holds /boot/grub and 'boot' the kernels",
    ),
    "bios with 4096": (
        lambda: DiskImage(partitions=(bios(), esp(), root()), bootloader=Grub(), sector_size=4096),
        "BIOS starts only from disks with sectors of 512 bytes",
    ),
    "bios on arm64": (
        lambda: DiskImage(partitions=(bios(), esp(), root()), bootloader=Grub(), arch="arm64"),
        "field 'bootloader': a machine of arch='arm64' has no BIOS",
    ),
    "uefi platform of another architecture": (
        lambda: DiskImage(
            partitions=(esp(), root()), bootloader=Grub(bios=False, uefi_platform="x86_64-efi"), arch="arm64"
        ),
        "a machine of arch='arm64' does not start from uefi_platform='x86_64-efi'",
    ),
    "arm64 on amd64": (
        lambda: DiskImage(partitions=(bios(), esp(), root()), bootloader=Grub(uefi_platform="arm64-efi")),
        "a machine of arch='amd64' does not start from uefi_platform='arm64-efi'",
    ),
    "Grub for what has none": (
        lambda: DiskImage(partitions=(esp(), root()), bootloader=Grub(bios=False), arch="s390x"),
        "there is no Grub for arch='s390x'",
    ),
    "no root for home": (
        lambda: DiskImage(partitions=(Partition("h", filesystem=Ext4(), mount="/h"),)),
        "'h' is mounted below a root that has no tree",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    declare, words = REFUSED[case]
    with pytest.raises(ForgefileError) as caught:
        declare()
    assert words in str(caught.value)
    assert caught.value.location is not None
    assert caught.value.location.file == __file__


# What the sandbox is told --------------------------------------------------------------------------------------------


def told(image):
    (step,) = image.steps(Sandbox())
    return step.argument


def test_the_contract():
    disk = told(contract())
    assert [part.type for part in disk.parts] == [
        "21686148-6449-6E6F-744E-656564454649",
        "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
        "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
    ]
    assert [part.mount for part in disk.parts] == ["", "/boot/efi", "/"]
    assert [part.size for part in disk.parts] == [MIB, 48 * MIB, None]
    assert disk.parts[2].tree == "/run/forge/scratch/tuned"
    assert disk.parts[1].tree == "/run/forge/scratch/tuned"
    assert disk.parts[1].shared
    assert disk.boot.platforms == ("i386-pc", "x86_64-efi")


def test_ids_are_derived_from_names_and_the_seed():
    one, two, third = told(contract()), told(contract()), told(DiskImage(partitions=(root(),), seed="b"))
    assert one == two
    ids = [one.id, *(part.uuid for part in one.parts), *(p.filesystem.uuid for p in one.parts if p.filesystem)]
    assert len(set(ids)) == len(ids)
    assert third.parts[0].uuid not in ids
    assert third.id != one.id


def test_ids_are_as_given():
    uuid = "11111111-2222-4333-8444-55555555555A"
    disk = told(
        DiskImage(
            id=uuid.lower(),
            partitions=(root(uuid=uuid, filesystem=Ext4(uuid=uuid)), esp(filesystem=Vfat(uuid="12ab34cd"))),
        )
    )
    assert (disk.id, disk.parts[0].uuid, disk.parts[0].filesystem.uuid) == (uuid, uuid, uuid.lower())
    assert disk.parts[1].filesystem.uuid == "12AB-34CD"


def test_root_types_follow_the_architecture():
    arm = told(DiskImage(partitions=(root(),), arch="arm64")).parts[0].type
    assert arm == "B921B045-1DF0-41C3-AF44-4C6F280D3FAE"
    assert told(DiskImage(partitions=(root(),), label="mbr")).parts[0].type == "83"


def test_where_raw_content_lies_is_not_refused_before_that_is_known():
    """What begins after a partition whose size comes from its content may lie anywhere."""
    partitions = (root(), Partition("b", size="4MiB"), Partition("c", start="1GiB", size="4MiB"))
    for offset in ("32KiB", "6MiB", "9MiB", "2GiB"):
        DiskImage(partitions=partitions, raw=(Raw(content=IMAGE, offset=offset),))
    with pytest.raises(ForgefileError):
        DiskImage(partitions=partitions, raw=(Raw(content=IMAGE, offset="1025MiB"),))


@pytest.mark.parametrize(
    ("arch", "grub", "platforms"),
    [
        ("amd64", Grub(), ("i386-pc", "x86_64-efi")),
        ("amd64", Grub(uefi_platform="i386-efi"), ("i386-pc", "i386-efi")),
        ("amd64", Grub(uefi=False, uefi_platform="arm64-efi"), ("i386-pc",)),
        ("i386", Grub(), ("i386-pc", "i386-efi")),
        ("i386", Grub(uefi_platform="x86_64-efi"), ("i386-pc", "x86_64-efi")),
        ("arm64", Grub(bios=False), ("arm64-efi",)),
    ],
)
def test_what_grub_starts_from_follows_the_architecture(arch, grub, platforms):
    image = DiskImage(partitions=(bios(), esp(), root()), bootloader=grub, arch=arch)
    (step,) = image.steps(Sandbox())
    assert step.argument.boot.platforms == platforms
    assert all(f"/usr/lib/grub/{platform}/kernel.img" in step.tools for platform in platforms)


def test_what_to_write_for_a_machine_without_bios():
    with pytest.raises(ForgefileError) as caught:
        DiskImage(partitions=(bios(), esp(), root()), bootloader=Grub(), arch="arm64")
    assert caught.value.hint == "write Grub(bios=False)"


def test_tools_name_what_runs_and_the_data_that_it_reads():
    (step,) = contract().steps(Sandbox())
    for tool in (
        "sfdisk",
        "mke2fs",
        "debugfs",
        "mkfs.vfat",
        "mcopy",
        "grub-mkimage",
        "/usr/lib/grub/i386-pc/kernel.img",
    ):
        assert tool in step.tools
    folder = os.path.dirname(forgefile.__file__)
    modules = {tool for tool in step.tools if tool.endswith(".py")}
    assert modules == {
        f"{folder}/{name}.py" for name in ("units", "programs/filesystem", "programs/process", "programs/grub")
    }


# The real tools ------------------------------------------------------------------------------------------------------

RUNNER = """
import os, pickle, sys
from forgefile.programs.disk import assemble
from forgefile.errors import BuildError
try:
    assemble(pickle.load(sys.stdin.buffer))
except BuildError as error:
    print(error.message, "|", error.hint, file=sys.stderr)
    sys.exit(1)
"""
NEEDED = ("sfdisk", "fdisk", "mke2fs", "debugfs", "e2fsck", "mkfs.vfat", "fsck.fat", "mcopy", "unshare")


@dataclasses.dataclass
class Lab:
    """A folder with a tree, in which disks are made."""

    folder: Path

    @property
    def tree(self):
        return self.folder / "tuned"

    def make(self, image, name="disk.img"):
        """Make a disk as the sandbox would, in a mount namespace of its own; return its path or raise its error."""
        lab, work = self.folder, self.folder / f"{name}.tmp"

        class Box(Sandbox):
            out, tmp = str(lab / name), str(work)

            def path(self, artifact):
                return str(lab / getattr(artifact, "name", "source"))

            def scratch(self, tree):
                return str(work / tree.name)

        work.mkdir()
        for tree in ("tuned", "other"):
            if (lab / tree).exists():
                subprocess.run(("cp", "-a", lab / tree, work), check=True)
        (step,) = image.steps(Box())
        done = subprocess.run(
            ("unshare", "--mount", sys.executable, "-c", RUNNER),
            input=pickle.dumps(step.argument),
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "PYTHONPATH": os.path.dirname(os.path.dirname(forgefile.__file__)),
                "SOURCE_DATE_EPOCH": str(EPOCH),
            },
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise AssertionError(done.stderr.decode())
        shutil.rmtree(work)
        return lab / name


@pytest.fixture
def lab(tmp_path):
    """A lab with a tree of everything that a tree can have."""
    missing = [tool for tool in NEEDED if not shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin")]
    if os.geteuid() or missing:
        reason = f"needs root and {', '.join(missing) or 'nothing else'}"
        pytest.fail(reason) if os.environ.get("CI") and missing else pytest.skip(reason)
    lab = Lab(tmp_path)
    tree = lab.tree
    for folder in ("etc", "boot", "home/user", "usr/bin", "dev", "var/tmp", "srv/weird"):
        (tree / folder).mkdir(parents=True)
    (tree / "etc/fstab").write_text("# nothing yet\n")
    (tree / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n" * 300)
    (tree / "boot/vmlinuz-6.1.0-9").write_bytes(b"no kernel" * 1000)
    (tree / "boot/initrd.img-6.1.0-9").write_bytes(b"initrd" * 1000)
    (tree / "home/user/notes").write_text("mine\n")
    os.chown(tree / "home/user", 1000, 1000)
    (tree / "usr/bin/su").write_bytes(b"\x7fELF")
    os.chmod(tree / "usr/bin/su", 0o4755)
    os.link(tree / "usr/bin/su", tree / "usr/bin/su-too")
    os.setxattr(tree / "usr/bin/su", "user.note", b"kept")
    os.setxattr(tree / "usr/bin", "user.large", b"x" * 2000)
    for name in ("a", "b", "c"):
        os.setxattr(tree / "etc/passwd", f"user.{name}", b"one of three")
    os.symlink("/etc/passwd", tree / "etc/absolute")
    os.symlink("x" * 100, tree / "etc/long")
    os.mknod(tree / "dev/null", 0o666 | 0o020000, os.makedev(1, 3))
    os.mkfifo(tree / "srv/fifo")
    os.chmod(tree / "var/tmp", 0o1777)
    for name in ("with space", "tab\there", "ünï", "-dash", "quote'\"", "back\\slash", "new\nline"):
        (tree / "srv/weird" / name).write_text(name)
    with open(tree / "srv/sparse", "wb") as file:
        file.truncate(8 * MIB)
        file.seek(4 * MIB)
        file.write(b"middle")
    settle(tree)
    return lab


def settle(tree):
    """Give everything in a tree the time that forge gives it."""
    subprocess.run(("find", tree, "-exec", "touch", "-h", "-d", f"@{EPOCH}", "{}", "+"), check=True)


def tool(*argv, expect=0):
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    )
    assert done.returncode == expect, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def starts(image):
    """Return the first byte of each partition, as sfdisk reads it."""
    lines = [line for line in tool("sfdisk", "-d", image).splitlines() if "start=" in line]
    return [int(line.split("start=")[1].split(",")[0]) * 512 for line in lines]


def ext4(image, offset, *commands):
    """Check an ext4 in a disk and return what debugfs tells of it."""
    place = f"{image}?offset={offset}"
    tool("e2fsck", "-fn", place)
    return "".join(tool("debugfs", "-R", command, place) for command in commands)


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def free_bytes(image, offset):
    with open(image, "rb") as file:
        file.seek(offset + 1024 + 12)
        return struct.unpack("<I", file.read(4))[0] * 4096


grub_only = pytest.mark.skipif(
    not (os.path.exists("/usr/lib/grub/i386-pc/kernel.img") and os.path.exists("/usr/lib/grub/x86_64-efi/kernel.img")),
    reason="needs grub-common, grub-pc-bin and grub-efi-amd64-bin",
)


@grub_only
def test_contract_disk(lab):
    image = lab.make(contract())
    tool("sfdisk", "--verify", image)
    bios_at, esp_at, root_at = starts(image)
    found = ext4(image, root_at, "cat /etc/fstab", "cat /etc/kernel/cmdline", "cat /boot/grub/grub.cfg")
    esp_id = told(contract()).parts[1].filesystem.uuid
    assert f"# nothing yet\nUUID={esp_id} /boot/efi vfat umask=0077 0 2\n" in found
    assert " / ext4 defaults 0 1\n" in found
    assert ' console=ttyS0 rw dyndbg="file x +p"\n' in found
    assert " console=ttyS0 rw 'dyndbg=file x +p'\n" in found
    assert "initrd /boot/initrd.img-6.1.0-9" in found
    assert free_bytes(image, root_at) >= 256 * MIB
    assert image.stat().st_blocks * 512 < 16 * MIB
    fat = lab.folder / "esp"
    with open(image, "rb") as disk, open(fat, "wb") as copy:
        disk.seek(esp_at)
        copy.write(disk.read(48 * MIB))
        disk.seek(bios_at)
        assert any(disk.read(512))
    tool("fsck.fat", "-n", fat)
    assert "BOOTX64" in tool("mdir", "-i", fat, "::/EFI/BOOT")


def test_everything_in_a_tree_survives(lab):
    image = lab.make(DiskImage(partitions=(root(),)))
    (at,) = starts(image)
    assert "Links: 2" in ext4(image, at, "stat /usr/bin/su")
    assert "Mode:  04755" in ext4(image, at, "stat /usr/bin/su")
    assert 'user.note (4) = "kept"' in ext4(image, at, "ea_list /usr/bin/su-too")
    assert "user.large (2000)" in ext4(image, at, "ea_list /usr/bin")
    assert "Device major/minor number: 01:03" in ext4(image, at, "stat /dev/null")
    assert "Type: FIFO" in ext4(image, at, "stat /srv/fifo")
    assert "Mode:  01777" in ext4(image, at, "stat /var/tmp")
    assert "User:  1000   Group:  1000" in ext4(image, at, "stat /home/user")
    assert '"/etc/passwd"' in ext4(image, at, "stat /etc/absolute")
    assert "Blockcount: 8\n" in ext4(image, at, "stat /srv/sparse")
    out = lab.folder / "weird"
    out.mkdir()
    ext4(image, at, f"rdump /srv/weird {out}")
    assert sorted(os.listdir(out / "weird")) == sorted(os.listdir(lab.tree / "srv/weird"))
    assert f"{EPOCH:#x}" in ext4(image, at, "stat /etc")
    for line in ext4(image, at, "stat /etc", "stat /etc/passwd", "stat /etc/fstab", "stat <2>").splitlines():
        if "time: " in line:
            assert f"{EPOCH:#x}:00000000" in line


def made_again(tree):
    """Make a tree once more: at another time, its names in the reverse order, folders before what they hold."""
    old = tree.with_name("old")
    tree.rename(old)
    tree.mkdir()
    names = subprocess.run(("find", ".", "-print0"), cwd=old, capture_output=True, check=True).stdout
    folders = [name for name in names.split(b"\0") if name and os.path.isdir(old / os.fsdecode(name))]
    others = [name for name in names.split(b"\0") if name and name not in folders]
    pack = ("tar", "--null", "--no-recursion", "--xattrs", "--sparse", "-cf", "pack.tar", "-T", "-")
    order = b"\0".join((*sorted(folders, key=len), *reversed(others), b""))
    subprocess.run(pack, cwd=old, input=order, check=True)
    subprocess.run(("tar", "--xattrs", "--xattrs-include=*", "-xpf", old / "pack.tar", "-C", tree), check=True)
    file = tree / "etc/passwd"
    os.removexattr(file, "user.a")
    os.setxattr(file, "user.a", b"one of three")
    assert os.listxattr(file) != os.listxattr(old / "etc/passwd")
    assert os.stat(file).st_ctime_ns != os.stat(old / "etc/passwd").st_ctime_ns


@grub_only
def test_grub_reads_what_is_odd(lab):
    (lab.tree / "boot/vmlinuz-6.2 }x;#").write_bytes(b"no kernel")
    image = DiskImage(partitions=(bios(), root()), bootloader=Grub(uefi=False, cmdline='dyndbg="file x; func * +p"'))
    disk = lab.make(image)
    config = lab.folder / "grub.cfg"
    ext4(disk, starts(disk)[1], f"dump /boot/grub/grub.cfg {config}")
    assert "\tlinux '/boot/vmlinuz-6.2 }x;#' root=PARTUUID=" in config.read_text()
    tool("grub-script-check", config)


@grub_only
def test_same_inputs_same_bits(lab):
    image = DiskImage(
        partitions=(bios(), esp(), root(), Partition("swap", type="swap", size="8MiB", filesystem=Swap())),
        bootloader=Grub(),
    )
    (lab.tree / "boot/efi/EFI/vendor").mkdir(parents=True)
    for name in ("b", "a", "c"):
        (lab.tree / "boot/efi/EFI/vendor" / name).write_text(name)
    settle(lab.tree)
    one = digest(lab.make(image, "one.img"))
    made_again(lab.tree)
    settle(lab.tree)
    assert digest(lab.make(image, "two.img")) == one


STATUS = """\
Package: dpkg-dev
Architecture: all

Package: dpkg
Status: install ok installed
Architecture: arm64
Description: a package
 Architecture: none

"""


def test_a_tree_of_another_architecture(lab):
    (lab.tree / "var/lib/dpkg").mkdir(parents=True)
    (lab.tree / "var/lib/dpkg/status").write_text(STATUS)
    with pytest.raises(AssertionError) as caught:
        lab.make(DiskImage(partitions=(root(),)), "wrong.img")
    told = "the tree of partition 'root' is arm64, and the disk is for amd64 | write DiskImage(arch='arm64', …)"
    assert str(caught.value).strip() == told
    lab.make(DiskImage(partitions=(root(),), arch="arm64"), "right.img")
    lab.make(DiskImage(partitions=(root(),), label="mbr"), "any.img")  # says nothing of an architecture


def test_partitions_take_their_part_of_the_tree(lab):
    image = lab.make(
        DiskImage(
            partitions=(
                root(),
                Partition("home", type="home", filesystem=Ext4(), minimum_free="8MiB"),
                Partition("user", filesystem=Ext4(), mount="/home/user"),
                Partition("srv", type="srv", filesystem=Ext4(), tree=TREE),
                Partition("opt", filesystem=Ext4(), mount="/opt/app", size="4MiB"),
            )
        )
    )
    at = starts(image)
    listing = [ext4(image, offset, "ls /") for offset in at]
    assert "boot" in listing[0]
    assert "user" not in ext4(image, at[0], "ls /home")
    assert "weird" not in ext4(image, at[0], "ls /srv")
    assert "app" in ext4(image, at[0], "ls /opt")
    assert "user" in listing[1]
    assert "notes" not in ext4(image, at[1], "ls /user")
    assert "User:  1000" in ext4(image, at[1], "stat /user")
    assert "notes" in listing[2]
    assert "User:  1000" in ext4(image, at[2], "stat <2>")
    assert "weird" in listing[3]
    assert free_bytes(image, at[1]) >= 8 * MIB
    assert " /home/user ext4 defaults 0 2" in ext4(image, at[0], "cat /etc/fstab")


def test_root_folder_keeps_its_mode(lab):
    image = lab.make(DiskImage(partitions=(root(), Partition("tmp", type="tmp", size="8MiB", filesystem=Ext4()))))
    assert "Mode:  01777" in ext4(image, starts(image)[1], "stat <2>")


def test_mbr_with_five_partitions(lab):
    data = [Partition(f"d{number}", size="2MiB") for number in range(3)]
    swap = Partition("swap", type="swap", size="4MiB", filesystem=Swap(label="sw"))
    image = lab.make(DiskImage(label="mbr", partitions=(root(attributes=("legacy-boot",)), *data, swap)))
    assert "No errors" in tool("sfdisk", "--verify", image)
    table = tool("sfdisk", "-d", image)
    assert "type=83, bootable" in table
    assert "type=5" in table
    (lab.folder / "swap").write_bytes(image.read_bytes()[starts(image)[-1] :][: 4 * MIB])
    assert "sw" in tool("swaplabel", lab.folder / "swap")


@grub_only
def test_sectors_of_4096(lab):
    image = lab.make(
        DiskImage(partitions=(esp(size="48MiB"), root()), bootloader=Grub(bios=False), sector_size=4096, size="1GiB")
    )
    table = tool("fdisk", "-b", "4096", "-l", image)
    assert "EFI System" in table
    assert "Linux root (x86-64)" in table
    ext4(image, 49 * MIB, "stat /")
    with open(image, "rb") as disk:
        disk.seek(MIB)
        (lab.folder / "esp").write_bytes(disk.read(48 * MIB))
    tool("fsck.fat", "-n", lab.folder / "esp")
    assert "BOOTX64" in tool("mdir", "-i", lab.folder / "esp", "::/EFI/BOOT")


def test_a_name_is_in_the_table_as_it_is(lab):
    name = "ünï 盤 \uffee".ljust(36, "é")
    image = lab.make(DiskImage(partitions=(Partition(name, size="1MiB"),)))
    entry = image.read_bytes()[1024:][:128]  # UEFI 2.10, section 5.3.3
    assert entry[56:128].decode("utf-16-le") == name


def test_raw_content(lab):
    (lab.folder / "app.img").write_bytes(b"raw" * 1000)
    image = lab.make(
        DiskImage(
            label="mbr",
            partitions=(Partition("app", filesystem=Raw(content=IMAGE, offset="4KiB")),),
            raw=(Raw(content=IMAGE, offset="8KiB"),),
        )
    )
    content = image.read_bytes()
    assert content[8192:][:3000] == b"raw" * 1000
    assert content[MIB + 4096 :][:3000] == b"raw" * 1000
    assert len(content) == 2 * MIB
    tool("sfdisk", "--verify", image)


FAILS = {
    "too small": (DiskImage(partitions=(root(size="8MiB"),)), None, "partition 'root' is too small: its content needs"),
    "free space": (
        DiskImage(partitions=(root(size="40MiB", minimum_free="35MiB"),)),
        None,
        "partition 'root' is too small: its content with 35MiB free needs",
    ),
    "disk too small": (
        DiskImage(partitions=(root(minimum_free="10MiB"),), size="20MiB"),
        None,
        "partition 'root' does not fit",
    ),
    "overlap by content": (
        DiskImage(partitions=(root(), Partition("b", size="1MiB", start="9MiB"))),
        None,
        "partition 'b' starts at 9MiB and overlaps partition 'root'",
    ),
    "no kernel": (contract(), "boot/vmlinuz-6.1.0-9", "install one in the tree: linux-image-amd64"),
    "raw in the rest": (
        DiskImage(partitions=(Partition("a", size="rest", filesystem=Raw(content=IMAGE, offset="3MiB")),), size="5MiB"),
        None,
        "partition 'a' is too small: its content needs 4MiB, it has 3MiB",
    ),
    "FAT link": (
        DiskImage(partitions=(root(filesystem=Vfat()),)),
        "",
        "a FAT file system holds files and folders only",
    ),
    "XFS attributes": (
        DiskImage(partitions=(root(filesystem=Xfs()),)),
        None,
        "mkfs.xfs cannot be told of",
    ),
}


@pytest.mark.parametrize("case", FAILS)
def test_fails_with_words(lab, case):
    image, without, words = FAILS[case]
    (lab.folder / "app.img").write_bytes(b"raw" * 1000)
    (lab.tree / "usr/bulk").write_bytes(b"\1" * 12 * MIB)
    if without:
        (lab.tree / without).unlink()
    with pytest.raises(AssertionError) as caught:
        lab.make(image)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("big", lambda path: os.truncate(path, 1 << 32), "holds no file of 4 GiB, and big has 4294967296 bytes"),
        ("\U0001f600.txt", lambda _: None, "cannot hold the name"),
    ],
)
def test_what_fat_cannot_hold(lab, name, make, words):
    (lab.folder / "other").mkdir()
    (lab.folder / "other" / name).touch()
    make(lab.folder / "other" / name)
    with pytest.raises(AssertionError) as caught:
        lab.make(DiskImage(partitions=(Partition("f", filesystem=Vfat(), tree=OTHER),)))
    assert words in str(caught.value)


def test_a_time_before_those_of_fat(lab):
    (lab.folder / "other").mkdir()
    (lab.folder / "other" / "file").write_text("x")
    os.utime(lab.folder / "other" / "file", (5, 5))
    image = lab.make(DiskImage(partitions=(Partition("f", filesystem=Vfat(), tree=OTHER),)))
    assert "1980-01-01" in tool("mdir", "-i", f"{image}@@{starts(image)[0]}", "::/")


@pytest.mark.parametrize("size", [1, 15, 16, 17, 31, 32, 48, 256, 258, 259, 260])
def test_a_fat_with_large_sectors(lab, size):
    (lab.folder / "other").mkdir()
    (lab.folder / "other" / "file").write_text("x")
    part = Partition("f", size=f"{size}MiB", filesystem=Vfat(), tree=OTHER)
    image = lab.make(DiskImage(partitions=(part,), sector_size=4096))
    with open(image, "rb") as disk, open(lab.folder / "fs", "wb") as copy:
        disk.seek(MIB)
        copy.write(disk.read(size * MIB))
    tool("fsck.fat", "-n", lab.folder / "fs")


def test_without_a_journal(lab):
    image = lab.make(DiskImage(partitions=(root(size="64MiB", filesystem=Ext4(features=("^has_journal",))),)))
    assert "has_journal" not in ext4(image, starts(image)[0], "stats")


def test_texts_of_the_tree_that_are_not_utf8(lab):
    (lab.tree / "etc/fstab").write_bytes(b"# caf\xe9\nUUID=k /my\\040dir/ ext4 defaults 0 2\n")
    image = lab.make(DiskImage(partitions=(root(), Partition("d", size="2MiB", filesystem=Ext4(), mount="/my dir"))))
    argv = ("debugfs", "-R", "cat /etc/fstab", f"{image}?offset={starts(image)[0]}")
    found = subprocess.run(argv, capture_output=True, check=True).stdout
    assert found.startswith(b"# caf\xe9\n")
    assert found.count(b"/my\\040dir") == 1
    assert b"UUID=k" not in found


@pytest.mark.parametrize(
    ("path", "words"),
    [("etc/fstab", "/etc/fstab is a folder in the tree"), ("data", "/data is no folder in the tree")],
)
def test_what_is_in_the_way_in_a_tree_is_told(lab, path, words):
    (lab.tree / path).unlink(missing_ok=True)
    (lab.tree / path).mkdir() if path == "etc/fstab" else (lab.tree / path).write_text("x")
    with pytest.raises(AssertionError) as caught:
        lab.make(DiskImage(partitions=(root(), Partition("d", size="2MiB", filesystem=Ext4(), mount="/data"))))
    assert words in str(caught.value)
    assert "Traceback" not in str(caught.value)


@grub_only
@pytest.mark.parametrize(
    ("image", "words"),
    [
        (
            DiskImage(
                label="mbr",
                partitions=(root(),),
                bootloader=Grub(uefi=False),
                raw=(Raw(content=IMAGE, offset="8KiB"),),
            ),
            "raw content at 8KiB starts at 8KiB and overlaps GRUB's code",
        ),
        (
            DiskImage(
                label="mbr",
                partitions=tuple(Partition(str(n), size="1MiB", start=f"{2 * n}MiB") for n in range(1, 7)),
                raw=(Raw(content=IMAGE, offset="7MiB"),),
            ),
            "raw content at 7MiB starts at 7MiB and overlaps the extended partition",
        ),
    ],
)
def test_raw_content_where_others_write(lab, image, words):
    (lab.folder / "app.img").write_bytes(b"raw" * 1000)
    with pytest.raises(AssertionError) as caught:
        lab.make(image)
    assert words in str(caught.value)


@pytest.mark.parametrize("size", ["2MiB", "4MiB", "8MiB", "9MiB"])
def test_a_small_fat(lab, size):
    (lab.folder / "other").mkdir()
    (lab.folder / "other" / "file").write_text("x")
    small = Partition("f", size=size, filesystem=Vfat(), tree=OTHER, mount="/f")
    image = lab.make(DiskImage(partitions=(root(), small)))
    copy = lab.folder / "fs"
    copy.write_bytes(image.read_bytes()[starts(image)[1] :][: int(size[:-3]) * MIB])
    tool("fsck.fat", "-n", copy)


@pytest.mark.skipif(not shutil.which("mkfs.btrfs"), reason="needs btrfs-progs")
def test_btrfs(lab):
    image = lab.make(DiskImage(partitions=(root(filesystem=Btrfs(label="b")),)))
    copy = lab.folder / "fs"
    copy.write_bytes(image.read_bytes()[starts(image)[0] :][:-MIB])
    tool("btrfs", "check", copy)
    assert "label\t\t\tb" in tool("btrfs", "inspect-internal", "dump-super", copy)


@pytest.mark.skipif(not shutil.which("mkfs.xfs"), reason="needs xfsprogs")
def test_xfs(lab):
    (lab.folder / "other").mkdir()
    (lab.folder / "other" / "file").write_text("x")
    data = Partition("data", filesystem=Xfs(label="x"), tree=OTHER, mount="/data")
    image = lab.make(DiskImage(partitions=(root(), data)))
    copy = lab.folder / "fs"
    with open(image, "rb") as disk:
        disk.seek(starts(image)[1])
        copy.write_bytes(disk.read()[:-MIB])
    tool("xfs_repair", "-n", copy)
    assert 'label = "x"' in tool("xfs_db", "-r", "-c", "label", copy)


@grub_only
@pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="needs qemu-system-x86")
@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_firmware_starts_grub_and_grub_finds_the_kernel(lab, firmware):
    """No kernel is in the tree: GRUB says on the serial line that this is none, so it has read everything before."""
    image = lab.make(
        DiskImage(partitions=(bios(), esp(), root()), bootloader=Grub(cmdline="console=ttyS0", modules=("halt",)))
    )
    flash = ()
    if firmware == "uefi":
        if not os.path.exists("/usr/share/OVMF/OVMF_CODE_4M.fd"):
            pytest.skip("needs ovmf")
        shutil.copy("/usr/share/OVMF/OVMF_VARS_4M.fd", lab.folder / "vars")
        flash = (
            *("-drive", "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd"),
            *("-drive", f"if=pflash,format=raw,file={lab.folder}/vars"),
        )
    with subprocess.Popen(
        (
            *("qemu-system-x86_64", "-machine", "q35", "-accel", "tcg", "-m", "256", "-nographic", "-monitor", "none"),
            *("-serial", "stdio", "-no-reboot", "-net", "none", *flash),
            *("-drive", f"if=virtio,file={image},format=raw,snapshot=on"),
        ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as machine:
        seen = b""
        while b"invalid magic number" not in seen and (more := os.read(machine.stdout.fileno(), 4096)):
            seen += more
        machine.kill()
    assert b"invalid magic number" in seen
