"""Put a disk together: partition table, file systems with their content, boot loader, into one new sparse file.

Runs in a sandbox, where the input trees may be changed for the time being. Each file system is made from its folder
straight into its place in the image, all at the same time. Unaware of the Forgefile.
"""

import os
import stat
import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Literal, NamedTuple

from forgefile.errors import BuildError
from forgefile.model import Value
from forgefile.programs import filesystem as fs
from forgefile.programs import grub
from forgefile.programs.filesystem import MIB, Filesystem, Region
from forgefile.programs.process import Job, Process, together
from forgefile.units import align_up, size_text

PRIMARY = 4
"""How many entries the table of an MBR has."""


class Part(Value):
    """One partition, as plain data. Sizes are bytes.

    `tree` is a folder that may be changed; `shared` says that it is the root file system's, of which this partition
    takes what lies at its mount point. `content` is a file that is copied to `offset`.
    """

    name: str
    type: str
    uuid: str = ""
    start: int | None = None
    size: int | None = None
    rest: bool = False
    minimum_free: int = 0
    attributes: tuple[str, ...] = ()
    filesystem: Filesystem | None = None
    content: str | None = None
    offset: int = 0
    tree: str | None = None
    shared: bool = False
    mount: str = ""
    options: str = "defaults"


class Blob(Value):
    """A file that is copied to a place of the disk outside of all partitions; `offset` is bytes."""

    content: str
    offset: int


class Disk(Value):
    """What `assemble` makes, as plain data: `out` is the file, `tmp` a folder to work in.

    `arch` is what the root's tree has to be of; empty: nothing depends on it.
    """

    out: str
    tmp: str
    label: Literal["gpt", "mbr"]
    id: str
    parts: tuple[Part, ...]
    blobs: tuple[Blob, ...] = ()
    sector_size: int = 512
    size: int | None = None
    boot: grub.Boot | None = None
    arch: str = ""
    fstab: bool = True
    kernel_cmdline: bool = True


# Layout --------------------------------------------------------------------------------------------------------------


class MisfitError(BuildError):
    """The partitions cannot lie as they should."""


class Extent(NamedTuple):
    """Where something lies on the disk, in bytes; `end` is the first byte after it."""

    name: str
    start: int
    end: int

    @property
    def size(self) -> int:
        """The number of bytes."""
        return self.end - self.start


class Layout(NamedTuple):
    """Where everything lies; `extended` is the MBR partition that holds the fourth and later ones."""

    parts: tuple[Extent, ...]
    size: int
    extended: Extent | None = None


def table_bytes(disk: Disk) -> tuple[int, int]:
    """Return the bytes that the partition table takes at the start and at the end (UEFI 2.10, section 5.3.1)."""
    if disk.label == "mbr":
        return disk.sector_size, 0
    entries = 128 * 128
    return 2 * disk.sector_size + entries, disk.sector_size + entries


def lay_out(disk: Disk, needed: tuple[int, ...], blobs: tuple[int, ...] = (), core: int = 0) -> Layout:
    """Return where each partition lies, in the order given, on multiples of 1 MiB unless it says itself.

    `needed` is for each partition the bytes that its content asks for, `blobs` the sizes of `disk.blobs`, `core` that
    of what GRUB has after an MBR. Raises `MisfitError` when partitions overlap, or do not fit a fixed size.
    """
    head, tail = table_bytes(disk)
    logical = disk.label == "mbr" and len(disk.parts) > PRIMARY
    extents: list[Extent] = []
    cursor = head
    for number, (part, bytes_) in enumerate(zip(disk.parts, needed, strict=True)):
        gap = disk.sector_size if logical and number >= PRIMARY - 1 else 0
        start = align_up(cursor + gap, MIB) if part.start is None else part.start
        size = align_up(bytes_, MIB) if part.size is None else part.size
        if part.rest:
            size = _rest(disk, part.name, start, tail)
        if bytes_ > size and (part.size is not None or part.content):
            raise too_small(part, size, bytes_)
        _aligned(disk, part, start, size)
        extents.append(Extent(f"partition '{part.name}'", start, start + size))
        cursor = start + size
    end = max((extent.end for extent in extents), default=head)
    total = align_up(end + tail, MIB) if disk.size is None else disk.size
    table = [Extent("the partition table", 0, head), *([Extent("GRUB's code", head, head + core)] if core else [])]
    _refuse_overlap([*table, *extents, *_raw(disk, blobs)], total - tail)
    extended = Extent("extended", extents[PRIMARY - 1].start - MIB, end) if logical else None
    if extended:
        named = extended._replace(name="the extended partition")
        _refuse_overlap([*table, *extents[: PRIMARY - 1], named, *_raw(disk, blobs)], total)
    return Layout(tuple(extents), total, extended)


def refuse_raw(disk: Disk, layout: Layout) -> None:
    """Raise `MisfitError` when raw content begins where it cannot lie, whatever the partitions and itself hold.

    `layout` is that of the smallest content: a partition is where it says unless one before it may be larger.
    """
    head, tail = table_bytes(disk)
    fixed, certain = [Extent("the partition table", 0, head)], True
    for part, extent in zip(disk.parts, layout.parts, strict=True):
        certain = certain or part.start is not None
        if certain:
            fixed.append(extent)
        certain = certain and (part.size is not None or part.rest)
    limit = layout.size - tail if disk.size is not None else sys.maxsize
    _refuse_overlap([*fixed, *_raw(disk, (1,) * len(disk.blobs))], limit)


def _raw(disk: Disk, sizes: tuple[int, ...]) -> Iterator[Extent]:
    for blob, size in zip(disk.blobs, sizes, strict=False):
        yield Extent(f"raw content at {size_text(blob.offset)}", blob.offset, blob.offset + size)


def _rest(disk: Disk, name: str, start: int, tail: int) -> int:
    if disk.size is None:
        raise MisfitError(f"partition '{name}' has size 'rest', and the disk has no size that could be left")
    size = (disk.size - tail - start) // MIB * MIB
    if size <= 0:
        raise MisfitError(f"nothing of the disk's {size_text(disk.size)} is left for partition '{name}'")
    return size


def too_small(part: Part, size: int, needed: int) -> MisfitError:
    """Return the error that says that a partition cannot hold its content."""
    free = f" with {size_text(part.minimum_free)} free" if part.minimum_free else ""
    return MisfitError(
        f"partition '{part.name}' is too small: its content{free} needs {size_text(align_up(needed, MIB))}, "
        f"it has {size_text(size)}",
        hint="set a larger size, or leave the size out to have it taken from the content",
    )


def _aligned(disk: Disk, part: Part, start: int, size: int) -> None:
    for what, value in (("start", start), ("size", size)):
        if value % disk.sector_size:
            raise MisfitError(
                f"partition '{part.name}': its {what} of {size_text(value)} is no multiple of the sector size, "
                f"{disk.sector_size} bytes"
            )
    if part.filesystem and size < fs.SMALLEST[part.filesystem.kind]:
        smallest = size_text(fs.SMALLEST[part.filesystem.kind])
        kind = part.filesystem.kind
        raise MisfitError(f"partition '{part.name}': {size_text(size)} is too small, {kind} needs at least {smallest}")


def _refuse_overlap(extents: list[Extent], limit: int) -> None:
    """Raise `MisfitError` when two extents overlap, or one ends after `limit`."""
    ordered = sorted(extents, key=lambda extent: extent.start)
    for one, other in pairwise(ordered):
        if other.start < one.end:
            raise MisfitError(
                f"{other.name} starts at {size_text(other.start)} and overlaps {one.name}, "
                f"which ends at {size_text(one.end)}"
            )
    last = max(extents, key=lambda extent: extent.end)
    if last.end > limit:
        raise MisfitError(
            f"{last.name} does not fit: it ends at {size_text(last.end)}, the disk has room up to {size_text(limit)}",
            hint="set a larger disk size, or leave it out to have it taken from the partitions",
        )


def table_script(disk: Disk, layout: Layout) -> str:
    """Return the partition table as sfdisk(8) reads it: all numbers are sectors."""
    sector = disk.sector_size
    lines = [f"label: {'dos' if disk.label == 'mbr' else 'gpt'}", f"label-id: {disk.id}", "unit: sectors"]
    if disk.label == "gpt":
        head = table_bytes(disk)[0] // sector
        lines.append(f"first-lba: {min([MIB // sector, *(extent.start // sector for extent in layout.parts)])}")
        lines.append("table-length: 128")
        if head > MIB // sector:
            raise MisfitError("the partition table does not fit below 1MiB")
    for number, (part, extent) in enumerate(zip(disk.parts, layout.parts, strict=True)):
        if layout.extended and number == PRIMARY - 1:
            start, size = layout.extended.start // sector, layout.extended.size // sector
            lines.append(f"{PRIMARY} : start={start}, size={size}, type=5")
        fields = [f"start={extent.start // sector}", f"size={extent.size // sector}", f"type={part.type}"]
        if disk.label == "gpt":
            fields += [f"uuid={part.uuid}", f'name="{part.name}"']
            fields += [f'attrs="{" ".join(part.attributes)}"'] if part.attributes else []
        elif part.attributes:
            fields.append("bootable")
        lines.append(f"{partition_number(disk, number)} : {', '.join(fields)}")
    return "\n".join((*lines, ""))


def partition_number(disk: Disk, index: int) -> int:
    """Return the number that Linux gives to a partition: those in an MBR's extended one count from 5."""
    logical = disk.label == "mbr" and len(disk.parts) > PRIMARY and index >= PRIMARY - 1
    return index + 1 + logical


# The tree ------------------------------------------------------------------------------------------------------------


def below(root: str, path: str) -> str:
    """Return where a path of a tree lies; links lead nowhere out of the tree, the last part need not be there."""
    done: list[str] = []
    todo = [part for part in reversed(path.split("/")) if part]
    links = 0
    while todo:
        part = todo.pop()
        if part == "..":
            done = done[:-1]
        elif part != ".":
            here = "/".join((root, *done, part))
            if not os.path.islink(here):
                done.append(part)
                continue
            links += 1
            if links > 40:  # noqa: PLR2004  as the kernel's MAXSYMLINKS
                raise BuildError(f"too many levels of symbolic links at {path}")
            target = os.readlink(here)
            done = [] if target.startswith("/") else done
            todo += [part for part in reversed(target.split("/")) if part]
    return "/".join((root, *done))


def make_folder(root: str, path: str, epoch: int) -> str:
    """Make a folder of a tree, and those above it, where there is none; return where it lies.

    The new ones have the time `epoch`; the one that was there keeps its time.
    """
    place = below(root, path)
    if not os.path.isdir(place):
        if os.path.lexists(place):
            raise BuildError(f"/{path.strip('/')} is no folder in the tree, where one has to be")
        above = os.path.dirname(place)
        if not os.path.isdir(above):
            make_folder(root, os.path.relpath(above, root), epoch)
        with _kept_time(above):
            os.mkdir(place, 0o755)
            os.chmod(place, 0o755)
        os.utime(place, (epoch, epoch))
    return place


class _kept_time:  # noqa: N801  used as a function
    """Give a folder its time back after what is done in it."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.status = os.stat(folder)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        os.utime(self.folder, ns=(self.status.st_atime_ns, self.status.st_mtime_ns))


def put(root: str, path: str, text: str, epoch: int) -> None:
    """Write a file of a tree, owned by root and with the mode 0644."""
    make_folder(root, os.path.dirname(path), epoch)
    place = below(root, path)
    with _kept_time(os.path.dirname(place)):
        if os.path.isdir(place) and not os.path.islink(place):
            raise BuildError(f"{path} is a folder in the tree, where a file is to be written")
        if os.path.lexists(place):
            os.unlink(place)
        with open(place, "w", errors="surrogateescape") as file:
            file.write(text)
        os.chmod(place, 0o644)
    os.utime(place, (epoch, epoch))


def read(root: str, path: str) -> str:
    """Return the text of a file of a tree, or an empty one when there is none."""
    try:
        with open(below(root, path), errors="surrogateescape") as file:
            return file.read()
    except (FileNotFoundError, IsADirectoryError):
        return ""


def fstab(disk: Disk, existing: str) -> str:
    """Return /etc/fstab (fstab(5)): the partitions that are mounted, after the existing lines for other places."""
    lines = []
    for index, part in enumerate(disk.parts):
        kind = part.filesystem.kind if part.filesystem else "auto"
        if kind == "swap":
            lines.append(f"{device(disk, index)} none swap sw 0 0")
        elif part.mount:
            check = {"/": 1}.get(part.mount, 2) if kind in ("ext4", "vfat") else 0
            place = part.mount.replace("\\", "\\134").replace(" ", "\\040")
            lines.append(f"{device(disk, index)} {place} {kind} {part.options} 0 {check}")
    taken = {part.mount for part in disk.parts}
    kept = [line for line in existing.splitlines() if line.strip() and not _mounts(line, taken)]
    return "\n".join((*kept, *lines, ""))


def _mounts(line: str, places: set[str]) -> bool:
    words = line.split()
    if len(words) < 2 or words[0].startswith("#"):  # noqa: PLR2004
        return False
    place = words[1].replace("\\040", " ").replace("\\134", "\\")
    return (place.rstrip("/") or "/") in places


def device(disk: Disk, index: int) -> str:
    """Return how a partition is named in fstab and on the kernel's command line."""
    part = disk.parts[index]
    return f"UUID={part.filesystem.uuid}" if part.filesystem else f"PARTUUID={partuuid(disk, index)}"


def partuuid(disk: Disk, index: int) -> str:
    """Return a partition's id as Linux knows it; an MBR has none, Linux makes it of the disk's."""
    if disk.label == "gpt":
        return disk.parts[index].uuid
    return f"{disk.id.removeprefix('0x')}-{partition_number(disk, index):02x}"


def holder(disk: Disk, path: str) -> tuple[int, str]:
    """Return the partition that holds a path of the running system, by its index, and the path there."""
    mounted = [(part.mount.rstrip("/"), index) for index, part in enumerate(disk.parts) if part.mount]
    mount, index = max((mount, index) for mount, index in mounted if f"{path}/".startswith(f"{mount}/"))
    return index, path.removeprefix(mount)


def _root(disk: Disk) -> int | None:
    """Return the index of the partition that is the root file system and has a tree."""
    return next((index for index, part in enumerate(disk.parts) if part.mount == "/" and part.tree), None)


def architecture(root: str) -> str:
    """Return Debian's name of a tree's architecture, as its dpkg(1) was built for it; empty when nothing tells."""
    for paragraph in read(root, "/var/lib/dpkg/status").split("\n\n"):
        if paragraph.startswith("Package: dpkg\n"):
            fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line)
            return fields.get("Architecture", "")
    return ""


def _refuse_other_architecture(disk: Disk, root: int) -> None:
    """Raise `BuildError` when the root's tree is of another architecture than the disk."""
    found = architecture(str(disk.parts[root].tree)) if disk.arch else ""
    if found not in ("", disk.arch):
        raise BuildError(
            f"the tree of partition '{disk.parts[root].name}' is {found}, and the disk is for {disk.arch}",
            hint=f"write DiskImage(arch='{found}', …)",
        )


def _configure(disk: Disk, root: int, epoch: int) -> None:
    """Write to the tree what depends on the disk: fstab, the kernel's command line, GRUB's configuration."""
    tree = str(disk.parts[root].tree)
    if disk.fstab:
        put(tree, "/etc/fstab", fstab(disk, read(tree, "/etc/fstab")), epoch)
    words = [f"root={device(disk, root)}", disk.boot.cmdline if disk.boot else ""]
    if disk.boot is None:
        words[1] = " ".join(w for w in read(tree, "/etc/kernel/cmdline").split() if not w.startswith("root="))
    if disk.kernel_cmdline:
        put(tree, "/etc/kernel/cmdline", " ".join(word for word in words if word) + "\n", epoch)
    if disk.boot:
        index, folder = holder(disk, "/boot")
        part = disk.parts[index]
        inside = "/boot" if part.shared or index == root else folder
        versions = grub.kernels(below(str(part.tree), inside))
        if not versions:
            raise BuildError(
                "the tree has no kernel that GRUB could start: there is no /boot/vmlinuz-*",
                hint="install one in the tree: linux-image-amd64, or linux-image-cloud-amd64 for virtual machines",
            )
        roots = (f"root={device(disk, root)}", f"root=PARTUUID={partuuid(disk, root)}")
        put(str(part.tree), f"{inside}/grub/grub.cfg", grub.config(disk.boot, versions, folder, roots), epoch)


def _bind(source: str, place: str) -> None:
    Process(("mount", "--bind", source, place)).wait()


def expose(disk: Disk, epoch: int) -> tuple[str, ...]:
    """Return for each partition the folder with what it holds.

    A partition that is mounted below the root takes that folder of the tree; in the file system above it, an empty
    folder of the same owner and mode takes its place. Needs a mount namespace when such a folder holds something.
    """
    sources = [_own_folder(disk, index, epoch) for index in range(len(disk.parts))]
    taken = [index for index, part in enumerate(disk.parts) if part.shared and os.listdir(sources[index])]
    places = {index: sources[index] for index in taken}
    for index in taken:
        sources[index] = _empty_folder(f"{disk.tmp}/part{index}", places[index])
        _bind(places[index], sources[index])
    for index in sorted(taken, key=lambda index: -len(places[index])):
        parent = max(
            (other for other in range(len(disk.parts)) if _is_above(disk, other, index)),
            key=lambda other: len(disk.parts[other].mount),
        )
        above = places.get(parent, sources[parent])
        if not places[index].startswith(f"{above}/"):
            raise BuildError(f"{disk.parts[index].mount} is a link that leads out of {disk.parts[parent].mount}")
        cover = _empty_folder(f"{disk.tmp}/empty{index}", places[index])
        _bind(cover, sources[parent] + places[index].removeprefix(above))
    return tuple(sources)


def _is_above(disk: Disk, other: int, index: int) -> bool:
    part, above = disk.parts[index], disk.parts[other]
    same = above.tree == part.tree and (above.shared or above.mount == "/")
    return other != index and same and f"{part.mount}/".startswith(f"{above.mount.rstrip('/')}/")


def _own_folder(disk: Disk, index: int, epoch: int) -> str:
    part = disk.parts[index]
    if part.tree and part.shared:
        folder = make_folder(part.tree, part.mount, epoch)
        if os.listdir(folder):
            return folder
        return _empty_folder(f"{disk.tmp}/part{index}", folder)
    if part.tree:
        return part.tree
    folder = f"{disk.tmp}/part{index}"
    os.mkdir(folder)
    os.chmod(folder, 0o755)
    os.utime(folder, (epoch, epoch))
    return folder


def _empty_folder(path: str, like: str) -> str:
    """Make a folder with the owner, mode, attributes and time of another."""
    os.mkdir(path)
    status = os.stat(like)
    for name in os.listxattr(like):
        os.setxattr(path, name, os.getxattr(like, name))
    os.chown(path, status.st_uid, status.st_gid)
    os.chmod(path, stat.S_IMODE(status.st_mode))
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))
    return path


# Assembling ----------------------------------------------------------------------------------------------------------


def assemble(disk: Disk) -> None:
    """Make the disk's image file. Raises `BuildError` when the content does not fit, or a tool fails."""
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    root = _root(disk)
    if root is not None:
        _refuse_other_architecture(disk, root)
        _configure(disk, root, epoch)
    sources = expose(disk, epoch)
    images = dict(_boot_images(disk))
    esp = _esp(disk)
    needed = {i: _needed(part, sources[i]) for i, part in enumerate(disk.parts) if i != esp}
    for platform, process in images.items():
        process.wait()
        if esp is not None and platform in grub.EFI_NAMES:
            _add_efi_image(disk, platform, sources[esp], epoch)
    if esp is not None:
        needed[esp] = _needed(disk.parts[esp], sources[esp])
    blobs = tuple(os.stat(blob.content).st_size for blob in disk.blobs)
    core = f"{disk.tmp}/grub-i386-pc/core.img"
    after = os.stat(core).st_size if disk.label == "mbr" and os.path.exists(core) else 0
    layout = lay_out(disk, tuple(needed[index].size for index in range(len(disk.parts))), blobs, after)
    with open(disk.out, "xb") as file:
        file.truncate(layout.size)
    inodes = tuple(needed[index].inodes for index in range(len(disk.parts)))
    together(_jobs(disk, layout, sources, inodes, epoch))
    for part, extent in zip(disk.parts, layout.parts, strict=True):
        _check_free(disk, part, extent)


def _esp(disk: Disk) -> int | None:
    """Return the index of the EFI system partition that holds a file system."""
    types = grub.ESP_TYPES
    return next((i for i, part in enumerate(disk.parts) if part.type in types and part.filesystem), None)


def _needed(part: Part, source: str) -> fs.Need:
    """Return what a partition must have for what it holds; `size` is the fixed one or 0 where the layout decides."""
    if part.content:
        return fs.Need(part.offset + os.stat(part.content).st_size)
    if part.filesystem is None:
        return fs.Need(0)
    return fs.need(part.filesystem, source, part.minimum_free, part.size)


def _boot_images(disk: Disk) -> Iterator[tuple[str, Process]]:
    """Start making GRUB's image for each platform, at grub-PLATFORM/core.img of the folder to work in."""
    if disk.boot is None:
        return
    index, prefix = holder(disk, "/boot/grub")
    filesystem = disk.parts[index].filesystem
    assert filesystem, "a rule lets GRUB start from a file system only"  # noqa: S101
    early = f"{disk.tmp}/early.cfg"
    with open(early, "w") as file:
        file.write(grub.early_config(filesystem.uuid, prefix))
    for platform in disk.boot.platforms:
        folder = f"{disk.tmp}/grub-{platform}"
        os.mkdir(folder)
        image = f"{folder}/core.img"
        yield platform, Process(grub.mkimage(disk.boot, platform, (disk.label, filesystem.kind), early, image))


def _add_efi_image(disk: Disk, platform: str, folder: str, epoch: int) -> None:
    """Copy the image that firmware starts into the EFI system partition's folder."""
    place = f"{make_folder(folder, 'EFI/BOOT', epoch)}/{grub.EFI_NAMES[platform]}"
    with open(f"{disk.tmp}/grub-{platform}/core.img", "rb") as image, open(place, "wb") as copy:
        copy.write(image.read())
    os.utime(place, (epoch, epoch))


_ORDER = {"vfat": 0, "swap": 1, "xfs": 2, "btrfs": 3, "ext4": 4}


def _jobs(disk: Disk, layout: Layout, sources: tuple[str, ...], inodes: tuple[int, ...], epoch: int) -> Iterator[Job]:
    """Return all that fills the image. Nothing overlaps, so all of it can be done at once."""
    yield _table(disk, layout)
    places = [Region(disk.out, extent.start, extent.size, disk.sector_size) for extent in layout.parts]
    made = [(_ORDER[p.filesystem.kind], index) for index, p in enumerate(disk.parts) if p.filesystem]
    for _, index in sorted(made):
        yield _filesystem(disk, index, sources[index], places[index], (epoch, inodes[index]))
    for part, place in zip(disk.parts, places, strict=True):
        if part.content:
            inside = place._replace(start=place.start + part.offset, size=place.size - part.offset)
            fs.copy_sparse(part.content, inside)
    for blob in disk.blobs:
        fs.copy_sparse(blob.content, Region(disk.out, blob.offset, layout.size - blob.offset, disk.sector_size))


def _filesystem(disk: Disk, index: int, source: str, place: Region, made: tuple[int, int]) -> Job:
    part, tmp = disk.parts[index], f"{disk.tmp}/work{index}"
    os.mkdir(tmp)
    assert part.filesystem  # noqa: S101
    try:
        yield from fs.write(part.filesystem, source, place, fs.Work(tmp, *made))
    except fs.TooSmallError as error:
        raise too_small(part, place.size, error.needed) from None


def _table(disk: Disk, layout: Layout) -> Job:
    """Write the partition table, then GRUB's BIOS boot code, which looks into it."""
    script = f"{disk.tmp}/table"
    with open(script, "w") as file:
        file.write(table_script(disk, layout))
    env = {"LC_ALL": "C"}
    if disk.sector_size == 512:  # noqa: PLR2004  what sfdisk takes a file to have
        quiet = ("--quiet", "--no-reread", "--no-tell-kernel", "--wipe=never", "--wipe-partitions=never")
        yield Process(("sfdisk", *quiet, disk.out), env=env, stdin=script, quiet=True)
    else:
        commands = f"{disk.tmp}/fdisk"
        with open(commands, "w") as file:
            file.write(f"I\n{script}\nw\n")
        options = (f"--sector-size={disk.sector_size}", "--wipe=never", "--wipe-partitions=never")
        yield Process(("fdisk", *options, disk.out), env=env, stdin=commands, stdout=f"{disk.tmp}/fdisk.log")
        _check_table(disk)
    if disk.boot and "i386-pc" in disk.boot.platforms:
        folder = f"{disk.tmp}/grub-i386-pc"
        yield from grub.install_bios(disk.out, f"{folder}/core.img", folder)


def _check_table(disk: Disk) -> None:
    """Raise `BuildError` unless fdisk, whose exit status does not tell, has written a table."""
    with open(disk.out, "rb") as file:
        start = file.read(2 * disk.sector_size)
    signed = start[510:512] == b"\x55\xaa"
    if not signed or (disk.label == "gpt" and start[disk.sector_size :][:8] != b"EFI PART"):
        with open(f"{disk.tmp}/fdisk.log") as log:
            raise BuildError(f"fdisk did not write the partition table: {log.read().strip()}")


def _check_free(disk: Disk, part: Part, extent: Extent) -> None:
    """Raise `MisfitError` when an ext4 has less than `minimum_free` left."""
    if part.minimum_free and part.filesystem and part.filesystem.kind == "ext4":
        region = Region(disk.out, extent.start, extent.size, disk.sector_size)
        free = fs.Superblock.read(region).free_blocks * fs.BLOCK
        if free < part.minimum_free:
            raise too_small(part, extent.size, extent.size + part.minimum_free - free)
