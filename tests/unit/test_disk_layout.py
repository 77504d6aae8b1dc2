"""Where partitions lie, and what is written about them: pure functions, no tool runs."""

import pytest

from forgefile.errors import BuildError
from forgefile.programs import filesystem, grub
from forgefile.programs.disk import (
    Blob,
    Disk,
    MisfitError,
    Part,
    fstab,
    holder,
    lay_out,
    partition_number,
    partuuid,
    table_script,
)
from forgefile.programs.filesystem import Content, Filesystem, Region

MIB = 1 << 20
EXT4 = Filesystem(kind="ext4", uuid="11111111-2222-4333-8444-555555555555")
VFAT = Filesystem(kind="vfat", uuid="1234-ABCD")
SWAP = Filesystem(kind="swap", uuid="22222222-2222-4333-8444-555555555555")
ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"


def part(name, size=None, **fields):
    return Part(name=name, type="T", uuid=name.upper(), size=size and size * MIB, **fields)


def disk(*parts, label="gpt", identity="D", **fields):
    return Disk(out="o", tmp="t", label=label, id=identity, parts=parts, **fields)


def mib(layout):
    return [(extent.start / MIB, extent.size / MIB) for extent in layout.parts], layout.size / MIB


def test_partitions_follow_each_other_on_whole_mib():
    made = lay_out(disk(part("a", 1), part("b", 48), part("c", filesystem=EXT4)), (0, 0, 300 * MIB + 1))
    assert mib(made) == ([(1, 1), (2, 48), (50, 301)], 352)


def test_fixed_start_and_disk_size():
    made = lay_out(disk(part("a", 1, start=16 * MIB), part("b", 2), size=32 * MIB), (0, 0))
    assert mib(made) == ([(16, 1), (17, 2)], 32)


def test_rest_takes_what_is_left_before_the_second_table():
    made = lay_out(disk(part("a", 1), part("b", rest=True), size=64 * MIB), (0, 0))
    assert mib(made) == ([(1, 1), (2, 61)], 64)


def test_an_mbr_has_no_second_table():
    made = lay_out(disk(part("a", 7), label="mbr"), (0,))
    assert mib(made) == ([(1, 7)], 8)


def test_the_fifth_partition_of_an_mbr_makes_the_fourth_logical():
    five = disk(*(part(name, 1) for name in "abcde"), label="mbr", identity="0x01020304")
    made = lay_out(five, (0,) * 5)
    assert mib(made) == ([(1, 1), (2, 1), (3, 1), (5, 1), (7, 1)], 8)
    assert made.extended.start == 4 * MIB
    assert made.extended.size == 4 * MIB
    assert [partition_number(five, index) for index in range(5)] == [1, 2, 3, 5, 6]
    assert partuuid(five, 4) == "01020304-06"
    assert "4 : start=8192, size=8192, type=5\n5 : start=10240, size=2048, type=T\n" in table_script(five, made)


@pytest.mark.parametrize(
    ("what", "needed", "words"),
    [
        (
            disk(part("a", 2), part("b", 1, start=2 * MIB)),
            (0, 0),
            "partition 'b' starts at 2MiB and overlaps partition",
        ),
        (disk(part("a", 1, start=0)), (0,), "overlaps the partition table"),
        (disk(part("a", 9), size=8 * MIB), (0,), "partition 'a' does not fit: it ends at 10MiB"),
        (disk(part("a", 7), size=8 * MIB), (0,), "does not fit"),
        (disk(part("a", 1, start=MIB + 1)), (0,), "no multiple of the sector size, 512 bytes"),
        (disk(part("a", 1, start=MIB + 512), sector_size=4096), (0,), "sector size, 4096 bytes"),
        (disk(part("a", 2)), (3 * MIB,), "too small: its content needs 3MiB, it has 2MiB"),
        (disk(part("a", rest=True)), (0,), "the disk has no size that could be left"),
        (disk(part("a", 7), part("b", rest=True), size=8 * MIB), (0, 0), "nothing of the disk's 8MiB is left"),
        (disk(part("a", 8, filesystem=Filesystem(kind="xfs", uuid="u"))), (0,), "xfs needs at least 300MiB"),
    ],
)
def test_misfit(what, needed, words):
    with pytest.raises(MisfitError, match=words.replace("'", ".")):
        lay_out(what, needed)


def test_raw_content_must_not_overlap():
    what = disk(part("a", 1), blobs=(Blob(content="u-boot", offset=32 << 10),))
    assert lay_out(what, (0,), (100 << 10,)).size == 3 * MIB
    with pytest.raises(MisfitError, match="partition 'a' starts at 1MiB and overlaps raw content at 32KiB"):
        lay_out(what, (0,), (MIB,))
    with pytest.raises(MisfitError, match="overlaps the partition table"):
        lay_out(disk(part("a", 1), blobs=(Blob(content="u-boot", offset=8 << 10),)), (0,), (1,))


def test_gpt_script():
    what = disk(part("a", 1), part("b", 2, attributes=("RequiredPartition", "GUID:60"), start=17 << 10), identity="ID")
    assert table_script(what, lay_out(disk(part("a", 1), part("b", 2)), (0, 0))) == (
        "label: gpt\nlabel-id: ID\nunit: sectors\nfirst-lba: 2048\ntable-length: 128\n"
        '1 : start=2048, size=2048, type=T, uuid=A, name="a"\n'
        '2 : start=4096, size=4096, type=T, uuid=B, name="b", attrs="RequiredPartition GUID:60"\n'
    )


def test_mbr_script_counts_sectors_of_4096():
    what = disk(part("a", 1, attributes=("LegacyBIOSBootable",)), label="mbr", sector_size=4096)
    assert table_script(what, lay_out(what, (0,))) == (
        "label: dos\nlabel-id: D\nunit: sectors\n1 : start=256, size=256, type=T, bootable\n"
    )


PARTS = (
    part("esp", 48, filesystem=VFAT, mount="/boot/efi", options="umask=0077"),
    part("root", 99, filesystem=EXT4, mount="/"),
    part("swap", 9, filesystem=SWAP),
    part("app", 9, content="x", mount="/my app"),
    part("bios", 1),
)


def test_fstab_keeps_other_places():
    existing = "# a comment\nUUID=old / ext3 defaults 0 1\n\ntmpfs /tmp tmpfs size=1G 0 0\n"
    assert fstab(disk(*PARTS), existing) == (
        "# a comment\ntmpfs /tmp tmpfs size=1G 0 0\n"
        "UUID=1234-ABCD /boot/efi vfat umask=0077 0 2\n"
        "UUID=11111111-2222-4333-8444-555555555555 / ext4 defaults 0 1\n"
        "UUID=22222222-2222-4333-8444-555555555555 none swap sw 0 0\n"
        "PARTUUID=APP /my\\040app auto defaults 0 0\n"
    )


def test_holder_of_a_path():
    assert holder(disk(*PARTS), "/boot/grub") == (1, "/boot/grub")
    assert holder(disk(*PARTS), "/boot/efi/EFI") == (0, "/EFI")
    assert holder(disk(*PARTS, part("boot", 9, mount="/boot")), "/boot") == (5, "")


def test_grub_config():
    boot = grub.Boot(platforms=(), cmdline="console=tty0 console=ttyS1,9600n8 rw a=$b", timeout=3)
    made = grub.config(boot, (("6.1.0-10", True), ("6.1.0-9", False)), "/boot", ("root=UUID=u", "root=PARTUUID=p"))
    assert made == (
        "set default=0\nset timeout=3\n"
        "if serial --unit=1 --speed=9600; then\n"
        "\tterminal_input console serial\n\tterminal_output console serial\nfi\n"
        "menuentry 'Linux 6.1.0-10' {\n"
        "\tlinux /boot/vmlinuz-6.1.0-10 root=UUID=u console=tty0 console=ttyS1,9600n8 rw 'a=$b'\n"
        "\tinitrd /boot/initrd.img-6.1.0-10\n}\n"
        "menuentry 'Linux 6.1.0-9' {\n"
        "\tlinux /boot/vmlinuz-6.1.0-9 root=PARTUUID=p console=tty0 console=ttyS1,9600n8 rw 'a=$b'\n}\n"
    )


@pytest.mark.parametrize(
    ("cmdline", "words"),
    [
        ("", ()),
        ('  rw   quiet "" ', ("rw", "quiet")),
        ('dyndbg="file x +p" rw', ("dyndbg=file x +p", "rw")),
        ('"dyndbg=file x +p"', ("dyndbg=file x +p",)),
        ('a=b" c  d "e f=""', ("a=b c  d e", "f=")),
        ('a="b"c"d"', ("a=bcd",)),
    ],
)
def test_words_of_a_command_line(cmdline, words):
    assert grub.split(cmdline) == words


def test_grub_itself_quotes_what_has_blanks():
    """Its loader writes "dyndbg=file x +p" of such a word, and would put a backslash before a quote."""
    boot = grub.Boot(platforms=(), cmdline='dyndbg="file x +p; func * +p" console="ttyS0" a={$b}')
    made = grub.config(boot, (("6.1 }x;#", True),), "/boot", ("root=UUID=u", ""))
    assert "if serial --unit=0 --speed=115200; then\n" in made
    assert made.endswith(
        "menuentry 'Linux 6.1 }x;#' {\n"
        "\tlinux '/boot/vmlinuz-6.1 }x;#' root=UUID=u 'dyndbg=file x +p; func * +p' console=ttyS0 'a={$b}'\n"
        "\tinitrd '/boot/initrd.img-6.1 }x;#'\n}\n"
    )


@pytest.mark.parametrize("name", ["vmlinuz-it's }x", 'vmlinuz-"', "vmlinuz-a\\b", "vmlinuz-a\nb", "vmlinuz-\udcff"])
def test_a_kernel_whose_name_grub_cannot_hold(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(BuildError) as caught:
        grub.kernels(str(tmp_path))
    assert caught.value.message == f"GRUB cannot start a kernel by the name {name!r}"
    assert caught.value.hint == "rename it, or remove it"


def test_kernels_are_sorted_by_version(tmp_path):
    for name in ("vmlinuz-6.1.0-9-amd64", "vmlinuz-6.1.0-10-amd64", "initrd.img-6.1.0-9-amd64", "vmlinuz-6.10.1", "x"):
        (tmp_path / name).touch()
    assert grub.kernels(str(tmp_path)) == (("6.10.1", False), ("6.1.0-10-amd64", False), ("6.1.0-9-amd64", True))
    assert grub.kernels(str(tmp_path / "none")) == ()
    (tmp_path / "vmlinuz-6²").touch()
    assert ("6²", False) in grub.kernels(str(tmp_path))


def test_grub_images():
    boot = grub.Boot(platforms=("i386-pc",), modules=("lvm", "echo"))
    argv = grub.mkimage(boot, "i386-pc", ("gpt", "ext4"), "early.cfg", "core.img")
    assert argv[:13] == (
        *("grub-mkimage", "-d", "/usr/lib/grub/i386-pc", "-O", "i386-pc", "-p", "/boot/grub"),
        *("-c", "early.cfg", "-o", "core.img", "biosdisk", "part_gpt"),
    )
    assert argv[13] == "ext2"
    assert argv[-1] == "lvm"
    assert argv.count("echo") == 1
    assert grub.early_config("U", "/grub") == (
        "search.fs_uuid U root\nset prefix=($root)/grub\nconfigfile $prefix/grub.cfg\n"
    )


def test_mke2fs_command():
    argv = filesystem.mke2fs(
        Filesystem(**{**EXT4.__dict__, "label": "root"}),
        "tree",
        Region("disk.img", 50 * MIB, 300 * MIB, 512),
        19200,
    )
    assert argv == (
        *("mke2fs", "-q", "-F", "-t", "ext4", "-O", filesystem.EXT4_FEATURES, "-b", "4096", "-I", "256"),
        *("-N", "19200", "-m", "0", "-U", EXT4.uuid, "-L", "root", "-J", "size=16"),
        "-E",
        f"offset={50 * MIB},hash_seed={EXT4.uuid},root_owner=0:0,nodiscard,lazy_itable_init=1,lazy_journal_init=1",
        *("-d", "tree", "disk.img", "307200k"),
    )


def test_mkfs_vfat_command():
    assert filesystem.mkfs_vfat(VFAT, Region("disk.img", 2 * MIB, 48 * MIB, 512)) == (
        *("mkfs.vfat", "--invariant", "-i", "1234ABCD", "-S", "512", "-F", "16", "-h", "4096", "--offset", "4096"),
        *("disk.img", "49152"),
    )


def test_clock_commands_spare_reserved_inodes():
    made = filesystem.clock_commands(12, 99).splitlines()
    assert [line.split()[1] for line in made[::2]] == ["<2>", "<11>", "<12>"]
    assert made[:2] == ["sif <2> ctime @99", "sif <2> atime @99"]


@pytest.mark.parametrize("blocks", [0, 10, 1000, 100_000, 3_000_000])
@pytest.mark.parametrize("inodes", [1, 12_000, 500_000])
def test_ext4_grows_with_what_it_holds(blocks, inodes):
    size = filesystem.ext4_size(Content(inodes, blocks), 0, EXT4)
    assert size % MIB == 0
    assert size > blocks * 4096 + inodes * 256
    assert filesystem.ext4_size(Content(inodes, blocks), 256 * MIB, EXT4) >= size + 256 * MIB
