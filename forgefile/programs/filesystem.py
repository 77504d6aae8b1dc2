"""Make the file systems of a disk, each straight into its place in the image file.

No loop device and no mount: mke2fs and mkfs.vfat write at an offset; what cannot is made in a file beside the image
and copied without its holes. Everything that a kernel or a clock would choose is fixed: ids, hash seeds, times, the
order of names. Unaware of partition tables and boot loaders.
"""

import errno
import os
import stat
import struct
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from forgefile.errors import BuildError
from forgefile.model import Value
from forgefile.programs.process import Job, Process
from forgefile.units import align_up

BLOCK = 4096
MIB = 1 << 20


class Filesystem(Value):
    """What `write` makes, as plain data. `uuid` is 8-4-4-4-12 digits, for vfat 8 digits."""

    kind: Literal["ext4", "vfat", "swap", "btrfs", "xfs"]
    uuid: str
    label: str = ""
    features: tuple[str, ...] = ()
    inode_ratio: int = 16384
    reserved_percent: int = 0
    fat_bits: int = 0


class Region(NamedTuple):
    """A place in the image: the file, the first byte, the number of bytes, and the disk's bytes per sector."""

    image: str
    start: int
    size: int
    sector: int


class Work(NamedTuple):
    """What a file system is made with: a folder of its own, the time that counts, the inodes of its content."""

    tmp: str
    epoch: int
    inodes: int = 0


class Content(NamedTuple):
    """What a file system must hold: inodes, and blocks of 4096 bytes (a hole counts as data).

    `unsorted` are the files whose extended attributes have another order than that of their names, each with all paths.
    """

    inodes: int
    blocks: int
    unsorted: tuple[tuple[bytes, ...], ...] = ()


# What a folder holds -------------------------------------------------------------------------------------------------


_INODE_ATTRIBUTES = 80
"""Bytes of extended attributes that surely fit an inode of 256 bytes; more take a block."""
_LISTING = BLOCK - 72
"""Bytes of directory entries that surely fit a directory's block."""
_FAST_LINK = 60
"""A symbolic link of that many bytes or more takes a block."""


def measure(root: str) -> Content:
    """Return what ext4 needs to hold a folder. Sizes count and not blocks used here: those are the host's business.

    A hard link counts once. Goes from folder to folder, because short names are looked up faster than long ones; ends
    in the folder where it began.
    """
    inodes = blocks = 0
    folders, unsorted = [os.path.abspath(os.fsencode(root))], list[list[bytes]]()
    seen: dict[tuple[int, int], list[bytes] | None] = {}
    here = os.getcwd()
    try:
        while folders:
            folder = folders.pop()
            os.chdir(folder)
            listing = 24
            with os.scandir(b".") as entries:
                for entry in entries:
                    listing += (8 + len(entry.name) + 3) & ~3
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(b"%b/%b" % (folder, entry.name))
                        continue
                    status = entry.stat(follow_symlinks=False)
                    identity = (status.st_dev, status.st_ino)
                    if identity in seen:
                        if (names := seen[identity]) is not None:
                            names.append(b"%b/%b" % (folder, entry.name))
                        continue
                    before = len(unsorted)
                    inodes += 1
                    blocks += _file_blocks(status) + _attribute_blocks(folder, entry.name, unsorted)
                    if status.st_nlink > 1:
                        seen[identity] = unsorted[-1] if len(unsorted) > before else None
            inodes += 1
            blocks += max(1, -(-listing // _LISTING)) + _attribute_blocks(folder, b".", unsorted)
    finally:
        os.chdir(here)
    return Content(inodes, blocks, tuple(map(tuple, unsorted)))


def _file_blocks(status: os.stat_result) -> int:
    """Return the blocks of a file's data and of the index of its extents; those of a long symbolic link."""
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFREG:
        data = -(-status.st_size // BLOCK)
        return data + data // BLOCK + (data > 4 * 32768)
    return int(kind == stat.S_IFLNK and status.st_size >= _FAST_LINK)


def _attribute_blocks(folder: bytes, name: bytes, unsorted: list[list[bytes]]) -> int:
    """Return the blocks of an entry's extended attributes; note its path if they are not sorted."""
    names = os.listxattr(name, follow_symlinks=False)
    if not names:
        return 0
    if names != sorted(names):
        unsorted.append([b"%b/%b" % (folder, name)])
    sizes = (20 + len(n) + align_up(len(os.getxattr(name, n, follow_symlinks=False)), 4) for n in names)
    return int(sum(sizes) > _INODE_ATTRIBUTES)


def sort_attributes(path: bytes, others: Iterable[bytes] = ()) -> None:
    """Give a file its extended attributes once more, in the order of their names: mke2fs keeps the order.

    `others` are the other names of the file. In an overlay the first becomes a file of its own by that (overlayfs,
    "Non-standard behavior"), so it is linked to them anew.
    """
    names = sorted(os.listxattr(path, follow_symlinks=False))
    values = [os.getxattr(path, name, follow_symlinks=False) for name in names]
    for name in names:
        os.removexattr(path, name, follow_symlinks=False)
    for name, value in zip(names, values, strict=True):
        os.setxattr(path, name, value, follow_symlinks=False)
    for other in others:
        folder = os.path.dirname(other)
        status = os.stat(folder)
        os.unlink(other)
        os.link(path, other, follow_symlinks=False)
        os.utime(folder, ns=(status.st_atime_ns, status.st_mtime_ns))


class Need(NamedTuple):
    """What a file system needs: bytes of its partition, and for ext4 the inodes of its content."""

    size: int
    inodes: int = 0


def need(filesystem: Filesystem, source: str, free: int, size: int | None) -> Need:
    """Return what is needed to hold a folder and `free` bytes more: whole MiB, or the fixed `size`.

    For an ext4 the folder's extended attributes are put into the order that the same tree always has.
    """
    kind = filesystem.kind
    if kind == "ext4":
        content = measure(source)
        for path, *others in content.unsorted:
            sort_attributes(path, others)
        return Need(size or ext4_size(content, free, filesystem), content.inodes)
    if size is not None or kind == "swap":
        return Need(size or 0)
    if kind == "vfat":
        return Need(_vfat_size(source, free))
    held = measure(source).blocks * BLOCK
    spare = {"btrfs": held // 4 + 128 * MIB, "xfs": held // 20 + 96 * MIB}[kind]
    return Need(max(SMALLEST[kind], align_up(held + spare + free, MIB)))


SMALLEST = {"ext4": 256 << 10, "vfat": 64 << 10, "swap": 40 << 10, "btrfs": 110 * MIB, "xfs": 300 * MIB}
"""The fewest bytes that each kind can be made in."""


# ext4 ----------------------------------------------------------------------------------------------------------------

_MKE2FS_CONFIG = """[defaults]
	base_features = none
	default_mntopts = acl,user_xattr
	enable_periodic_fsck = 0
	blocksize = 4096
	inode_size = 256
	inode_ratio = 16384
[fs_types]
	ext4 = {
		features = has_journal
	}
	small = {
		blocksize = 4096
	}
	floppy = {
		blocksize = 4096
	}
	big = {
		blocksize = 4096
	}
	huge = {
		blocksize = 4096
	}
"""
"""In place of /etc/mke2fs.conf: what the host's administrator likes must not show in an image."""

EXT4_FEATURES = (
    "has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,"
    "dir_nlink,extra_isize,metadata_csum"
)
"""What GRUB 2.06 and every kernel since 3.18 can read."""


def _journal_blocks(blocks: int) -> int:
    """Return the size of the journal of a file system of so many blocks; 0: too small for one."""
    for limit, journal in ((4096, 0), (32768, 1024), (262144, 4096), (524288, 8192), (4194304, 16384)):
        if blocks < limit:
            return journal
    return 32768


def _superblocks(groups: int) -> int:
    """Return how many groups hold a copy of the superblock: 0, 1 and the powers of 3, 5 and 7 (sparse_super)."""
    held = {0, 1} if groups > 1 else {0}
    for base in (3, 5, 7):
        power = base
        while power < groups:
            held.add(power)
            power *= base
    return len(held)


def _inodes(blocks: int, held: int, filesystem: Filesystem) -> int:
    """Return how many inodes an ext4 gets that holds so many."""
    return max(held + held // 8 + 64, blocks * BLOCK // filesystem.inode_ratio)


def ext4_size(content: Content, free: int, filesystem: Filesystem) -> int:
    """Return the bytes of the smallest ext4 that holds `content` and `free`, in steps of 1 MiB.

    Counted as mke2fs lays a file system out: bitmaps and inode table of each group, superblocks with group
    descriptors and room for 1024 times more of them, journal, a reserve for the index of large folders.
    """
    need = content.blocks + content.blocks // 200 + 24 + -(-free // BLOCK)
    need = need * 100 // (100 - filesystem.reserved_percent) if filesystem.reserved_percent else need
    blocks = need
    while True:
        groups = -(-blocks // 32768)
        table = -(-_inodes(blocks, content.inodes, filesystem) // groups // 16) + 1
        descriptors = 1 + -(-groups // 64) + min(1024, 16 * groups)
        around = groups * (2 + table) + _superblocks(groups) * descriptors + _journal_blocks(blocks) + 64
        enough = align_up(need + around, MIB // BLOCK)
        if enough <= blocks:
            return blocks * BLOCK
        blocks = enough


def mke2fs(filesystem: Filesystem, source: str, region: Region, inodes: int) -> tuple[str, ...]:
    """Return the command that makes an ext4 with a folder's content in its place."""
    wanted = "^has_journal" not in filesystem.features
    journal = _journal_blocks(region.size // BLOCK) * BLOCK // MIB if wanted else 0
    features = ",".join((EXT4_FEATURES, *filesystem.features, *(() if journal else ("^has_journal",))))
    extended = (
        f"offset={region.start},hash_seed={filesystem.uuid},root_owner=0:0,"
        "nodiscard,lazy_itable_init=1,lazy_journal_init=1"
    )
    return (
        *("mke2fs", "-q", "-F", "-t", "ext4", "-O", features, "-b", str(BLOCK), "-I", "256"),
        *("-N", str(inodes), "-m", str(filesystem.reserved_percent), "-U", filesystem.uuid),
        *(("-L", filesystem.label) if filesystem.label else ()),
        *(("-J", f"size={journal}") if journal else ()),
        *("-E", extended, "-d", source, region.image, f"{region.size // 1024}k"),
    )


def root_commands(status: os.stat_result) -> str:
    """Return what debugfs must do so that the root folder is like the source, of which mke2fs takes what it holds."""
    fields = {
        "mode": f"0{status.st_mode:o}",
        "uid": status.st_uid,
        "gid": status.st_gid,
        "mtime": f"@{int(status.st_mtime)}",
    }
    return "".join(f"sif <2> {name} {value}\n" for name, value in fields.items())


def clock_commands(count: int, epoch: int) -> str:
    """Return what debugfs must do so that an ext4's first `count` inodes have `epoch` as change and access time.

    mke2fs takes both from the source, where no program can set the former. (From e2fsprogs 1.47.1 on mke2fs limits
    times itself; that does no harm here.) Inode 2 is the root folder, 11 is the first that is not reserved.
    """
    lines = (f"sif <{inode}> ctime @{epoch}\nsif <{inode}> atime @{epoch}\n" for inode in (2, *range(11, count + 1)))
    return "".join(lines)


class Superblock(NamedTuple):
    """What is read of an ext4's superblock (kernel, Documentation/filesystems/ext4/super.rst)."""

    inodes: int
    free_blocks: int
    free_inodes: int

    @classmethod
    def read(cls, region: Region) -> "Superblock":
        """Return the superblock of the ext4 in a region."""
        with open(region.image, "rb") as image:
            image.seek(region.start + 1024)
            inodes, _, _, free_blocks, free_inodes = struct.unpack("<5I", image.read(20))
        return cls(inodes, free_blocks, free_inodes)


_RESERVED_INODES = 10
"""How many inodes an ext4 uses beside those of its content: 1 and 3 to 10, and lost+found."""


def _write_commands(path: str, source: str, used: int, epoch: int) -> None:
    with open(path, "w") as file:
        file.write(root_commands(os.stat(source)) + clock_commands(used, epoch))


def _ext4(filesystem: Filesystem, source: str, region: Region, work: Work) -> Job:
    tmp, epoch, inodes = work
    config = f"{tmp}/mke2fs.conf"
    with open(config, "w") as file:
        file.write(_MKE2FS_CONFIG)
    env = {"E2FSPROGS_FAKE_TIME": str(epoch), "MKE2FS_CONFIG": config, "LC_ALL": "C", "TZ": "UTC"}
    total = _inodes(region.size // BLOCK, inodes, filesystem)
    process = Process(mke2fs(filesystem, source, region, total), env=env)
    commands, used = f"{tmp}/debugfs", inodes + _RESERVED_INODES
    _write_commands(commands, source, used, epoch)
    try:
        yield process
    except BuildError:
        needed = ext4_size(measure(source), 0, filesystem)
        if needed > region.size:
            raise TooSmallError(needed) from None
        raise
    made = Superblock.read(region)
    if made.inodes - made.free_inodes != used:
        _write_commands(commands, source, made.inodes - made.free_inodes, epoch)
    argv = ("debugfs", "-w", "-f", commands, f"{region.image}?offset={region.start}")
    process = Process(argv, env=env, stdout="/dev/null", quiet=True)
    yield process
    told = [line for line in process.warnings.decode().splitlines() if not line.startswith("debugfs ")]
    if told:
        raise BuildError(f"debugfs could not set the times in the file system: {told[0].strip()}")


class TooSmallError(BuildError):
    """A region cannot hold its content; `needed` is the bytes that can."""

    def __init__(self, needed: int) -> None:
        super().__init__("the file system is too small for its content")
        self.needed = needed


# FAT -----------------------------------------------------------------------------------------------------------------

_FAT32_FROM = {512: 512 * MIB, 4096: 260 * MIB}
_SMALL_FAT16 = 9 * MIB
"""Below that, the clusters of four sectors that mkfs.vfat would make are fewer than the 4085 that FAT16 must have."""
_MOST_CLUSTERS = {12: 4084, 16: 65_524, 32: 1 << 28}
"""The most clusters that a table of a width tells apart (FAT32 File System Specification, "FAT Type Determination")."""
_LARGEST_IN_FAT = (1 << 32) - 1
_FIRST_TIME_IN_FAT = 315_532_800
"""1980-01-01, in seconds since 1970."""
_LAST_CHARACTER = "\uffff"
_NOT_IN_FAT = set(':*?"<>|\\')


def _fat_bits(filesystem: Filesystem, region: Region) -> int:
    """Return the width of the table: FAT32 needs 65525 clusters and so a certain size, which sectors decide."""
    if filesystem.fat_bits:
        return filesystem.fat_bits
    if region.size >= _FAT32_FROM[region.sector]:
        return 32
    return 16 if region.size >= 4 * MIB * region.sector // 512 else 12


def _cluster_sectors(bits: int, region: Region) -> int | None:
    """Return the sectors of a cluster where mkfs.vfat's own choice does not fit the width of the table."""
    if region.sector != BLOCK:
        return 1 if bits == 16 and region.size < _SMALL_FAT16 else None  # noqa: PLR2004
    sectors = 1
    while region.size // BLOCK // sectors > _MOST_CLUSTERS[bits]:
        sectors *= 2
    return sectors


def mkfs_vfat(filesystem: Filesystem, region: Region) -> tuple[str, ...]:
    """Return the command that makes an empty FAT in its place. `--invariant` first: it sets an id itself."""
    bits, first = _fat_bits(filesystem, region), str(region.start // region.sector)
    sectors = _cluster_sectors(bits, region)
    return (
        *("mkfs.vfat", "--invariant", "-i", filesystem.uuid.replace("-", ""), "-S", str(region.sector)),
        *("-F", str(bits)),
        *(("-s", str(sectors)) if sectors else ()),
        *(("-n", filesystem.label) if filesystem.label else ()),
        *("-h", first, "--offset", first, region.image, str(region.size // 1024)),
    )


def fat_folders(source: str) -> Iterator[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """Return (path below the source, folders, files) of each folder, sorted; refuse what FAT cannot hold."""
    for path, folders, files in os.walk(source, followlinks=False):
        folders.sort()
        below = os.path.relpath(path, source)
        names: dict[str, str] = {}
        for name in sorted((*folders, *files)):
            shown = os.path.normpath(f"{below}/{name}")
            status = os.lstat(f"{path}/{name}")
            if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
                raise BuildError(f"a FAT file system holds files and folders only, and not {shown}")
            if stat.S_ISREG(status.st_mode) and status.st_size > _LARGEST_IN_FAT:
                raise BuildError(f"a FAT file system holds no file of 4 GiB, and {shown} has {status.st_size} bytes")
            if _is_no_name(name):
                raise BuildError(f"a FAT file system cannot hold the name {shown!r}")
            if (other := names.setdefault(name.casefold(), name)) != name:
                raise BuildError(f"a FAT file system does not tell {shown} from {other}")
        yield "" if below == "." else f"{below}/", tuple(folders), tuple(sorted(files))


def _is_no_name(name: str) -> bool:
    """Tell whether FAT has no such name, or mtools(1), which cuts characters to 16 bits, would make another of it."""
    odd = _NOT_IN_FAT & set(name) or name != name.rstrip(". ") or not name.isprintable()
    return bool(odd) or max(name) > _LAST_CHARACTER


def _vfat_size(source: str, free: int) -> int:
    """Return the bytes of a FAT that holds a folder: clusters of at most 8 KiB, two tables of 4 bytes a cluster."""
    cluster = 8192
    used = 64
    for path, folders, files in fat_folders(source):
        entries = sum(2 + len(name) // 13 for name in (*folders, *files)) + 2
        used += -(-entries * 32 // cluster)
        used += sum(-(-os.lstat(f"{source}/{path}{name}").st_size // cluster) for name in files)
    return max(MIB, align_up((used * cluster + free) * 257 // 256 + MIB // 2, MIB))


def _vfat(filesystem: Filesystem, source: str, region: Region, epoch: int) -> Job:
    folders = tuple(fat_folders(source))
    for path, _, files in folders:
        for name in files:
            if os.stat(f"{source}/{path}{name}").st_mtime < _FIRST_TIME_IN_FAT:
                os.utime(f"{source}/{path}{name}", (_FIRST_TIME_IN_FAT, _FIRST_TIME_IN_FAT))
    yield Process(mkfs_vfat(filesystem, region), stdout="/dev/null", quiet=True)
    place = f"{region.image}@@{region.start}"
    env = {
        "MTOOLSRC": "/dev/null",
        "MTOOLS_SKIP_CHECK": "1",
        "TZ": "UTC",
        "LC_ALL": "C.UTF-8",
        "SOURCE_DATE_EPOCH": str(max(epoch, _FIRST_TIME_IN_FAT)),
    }
    try:
        for path, inner, files in folders:
            if inner:
                yield Process(("mmd", "-i", place, *(f"::/{path}{name}" for name in inner)), env=env)
            if files:
                names = (f"{source}/{path}{name}" for name in files)
                yield Process(("mcopy", "-m", "-i", place, *names, f"::/{path}"), env=env)
    except BuildError:
        needed = _vfat_size(source, 0)
        if needed > region.size:
            raise TooSmallError(needed) from None
        raise


# Made beside the image and copied ------------------------------------------------------------------------------------


def copy_sparse(source: str, region: Region) -> None:
    """Copy a file into a region, without its holes; the kernel shares or copies the blocks."""
    from_, to = os.open(source, os.O_RDONLY), os.open(region.image, os.O_WRONLY)
    try:
        end = os.fstat(from_).st_size
        if end > region.size:
            raise TooSmallError(end)
        position = 0
        while position < end:
            try:
                position = os.lseek(from_, position, os.SEEK_DATA)
            except OSError:
                return
            hole = os.lseek(from_, position, os.SEEK_HOLE)
            while position < hole:
                done = _copy_range(from_, to, hole - position, position, region.start + position)
                position += done
                if not done:
                    raise BuildError(f"{source} became shorter while it was copied")
    finally:
        os.close(from_)
        os.close(to)


def _copy_range(from_: int, to: int, length: int, position: int, at: int) -> int:
    """Copy bytes of an open file to a place of another; return how many were copied."""
    try:
        return os.copy_file_range(from_, to, length, position, at)
    except OSError as error:
        if error.errno != errno.EXDEV:  # copy_file_range(2): not from any file system to any other
            raise
    os.lseek(to, at, os.SEEK_SET)
    return os.sendfile(to, from_, position, length)


def _swap(filesystem: Filesystem, region: Region, tmp: str) -> Job:
    beside = _beside(region, tmp)
    label = ("-L", filesystem.label) if filesystem.label else ()
    yield Process(("mkswap", "-q", "-U", filesystem.uuid, "-p", str(BLOCK), *label, beside), stdout="/dev/null")
    _take(beside, region)


def mkfs_btrfs(filesystem: Filesystem, source: str, image: str) -> tuple[str, ...]:
    """Return the command that makes a Btrfs with a folder's content."""
    return (
        *("mkfs.btrfs", "-q", "-f", "-U", filesystem.uuid, "-s", str(BLOCK)),
        *(("-L", filesystem.label) if filesystem.label else ()),
        *(("-O", ",".join(filesystem.features)) if filesystem.features else ()),
        *("--rootdir", source, image),
    )


def _btrfs(filesystem: Filesystem, source: str, region: Region, tmp: str) -> Job:
    beside = _beside(region, tmp)
    yield Process(mkfs_btrfs(filesystem, source, beside))
    _take(beside, region)


def mkfs_xfs(filesystem: Filesystem, prototype: str, region: Region, image: str) -> tuple[str, ...]:
    """Return the command that makes an XFS of what a prototype file (mkfs.xfs(8), -p) names."""
    return (
        *("mkfs.xfs", "-q", "-f", "-m", f"uuid={filesystem.uuid}", "-s", f"size={region.sector}", "-b", "size=4096"),
        *(("-L", filesystem.label) if filesystem.label else ()),
        *("-p", prototype, image),
    )


def xfs_prototype(source: str) -> str:
    """Return the prototype of a folder; refuse what a prototype cannot say."""
    lines = ["/", "0 0"]
    _prototype(source, "/", "", lines)
    return "\n".join((*lines, ""))


_PROTOTYPE_TYPES = {
    stat.S_IFREG: "-",
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "l",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
    stat.S_IFIFO: "p",
}


def _prototype(path: str, below: str, name: str, lines: list[str]) -> None:
    status = os.lstat(path)
    kind = _PROTOTYPE_TYPES.get(stat.S_IFMT(status.st_mode))
    mode = status.st_mode
    if kind is None or mode & stat.S_ISVTX or name != "".join(name.split()) or not name.isprintable() or name == "$":
        raise BuildError(f"mkfs.xfs cannot be told of {below!r} in a prototype file")
    if os.listxattr(path, follow_symlinks=False):
        raise BuildError(f"mkfs.xfs cannot be told of the extended attributes of {below} in a prototype file")
    if status.st_nlink > 1 and kind != "d":
        raise BuildError(f"mkfs.xfs cannot be told of hard links such as {below} in a prototype file")
    flags = ("u" if mode & stat.S_ISUID else "-") + ("g" if mode & stat.S_ISGID else "-")
    words = [name, f"{kind}{flags}{mode & 0o777:03o}", str(status.st_uid), str(status.st_gid)]
    match kind:
        case "-":
            words.append(path)
        case "l":
            words.append(os.readlink(path))
        case "c" | "b":
            words += [str(os.major(status.st_rdev)), str(os.minor(status.st_rdev))]
    lines.append(" ".join(words).lstrip())
    if kind == "d":
        for inner in sorted(os.listdir(path)):
            _prototype(f"{path}/{inner}", f"{below.rstrip('/')}/{inner}", inner, lines)
        lines.append("$")


def _xfs(filesystem: Filesystem, source: str, region: Region, tmp: str) -> Job:
    beside, prototype = _beside(region, tmp), f"{tmp}/prototype"
    with open(prototype, "w") as file:
        file.write(xfs_prototype(source))
    yield Process(mkfs_xfs(filesystem, prototype, region, beside))
    _take(beside, region)


def _beside(region: Region, tmp: str) -> str:
    """Return the path of a new empty file of the region's size."""
    path = f"{tmp}/filesystem"
    with open(path, "wb") as file:
        file.truncate(region.size)
    return path


def _take(beside: str, region: Region) -> None:
    copy_sparse(beside, region)
    os.unlink(beside)


def write(filesystem: Filesystem, source: str, region: Region, work: Work) -> Job:
    """Make a file system that holds what the folder `source` does.

    Raises `TooSmallError` when the content does not fit.
    """
    match filesystem.kind:
        case "ext4":
            return _ext4(filesystem, source, region, work)
        case "vfat":
            return _vfat(filesystem, source, region, work.epoch)
        case "swap":
            return _swap(filesystem, region, work.tmp)
        case "btrfs":
            return _btrfs(filesystem, source, region, work.tmp)
        case "xfs":
            return _xfs(filesystem, source, region, work.tmp)
