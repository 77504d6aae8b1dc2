"""Disk images: a partition table, file systems with their content, and GRUB, without loop devices or mounts.

The rule turns its fields into one call of `forgefile.programs.disk.assemble`. What can be known to be wrong without
the content is refused where it is declared.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import xxhash

from forgefile import architectures, units
from forgefile.errors import did_you_mean
from forgefile.model import Call, File, Rule, Sandbox, Source, Step, Tree, Value, field
from forgefile.programs import disk as program
from forgefile.programs import filesystem, grub, process
from forgefile.units import size_bytes

_ROOT_TYPES = {
    "amd64": "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
    "arm64": "B921B045-1DF0-41C3-AF44-4C6F280D3FAE",
    "armhf": "69DAD710-2CE4-4E3C-B16C-21A1D49ABED3",
    "i386": "44479540-F297-41B2-9AF7-D131D5F0458A",
    "loong64": "77055800-792C-4F94-B39A-98C91B762BB6",
    "mips64el": "700BDA43-7A34-4507-B179-EEB93D7A7CA3",
    "ppc64el": "C31C45E6-3F39-412E-80FB-4809C4980599",
    "riscv64": "72EC70A6-CF74-40E6-BD49-4BDA08E8F224",
    "s390x": "5EEAD9A9-FE09-4A1E-A1D7-520D00531306",
}
_USR_TYPES = {
    "amd64": "8484680C-9521-48C6-9C11-B0720656F69E",
    "arm64": "B0E01050-EE5F-4390-949A-9101B17104E9",
    "armhf": "7D0359A3-02B3-4F0A-865C-654403E70625",
    "i386": "75250D76-8CC6-458E-BD66-BD47CC81A812",
    "loong64": "E611C702-575C-4CBE-9A46-434FA0BF7E3F",
    "ppc64el": "15BB03AF-77E7-4D4A-B12B-C0D084F7491C",
    "riscv64": "BEAEC34B-8442-439B-A40B-984381ED097D",
    "s390x": "8A4F5770-50AA-4ED3-874A-99B710DB6FEA",
}
_GPT_TYPES = {
    "bios-boot": "21686148-6449-6E6F-744E-656564454649",
    "esp": "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
    "home": "933AC7E1-2EB4-4F13-B844-0E14E2AEF915",
    "linux-generic": "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
    "prep": "9E1A2D38-C612-4316-AA26-8B49521E5A8B",
    "srv": "3B8F8425-20E0-4F3B-907F-1A25A76F98E8",
    "swap": "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F",
    "tmp": "7EC6F557-3BC5-4ACA-B293-16EF5DF639D1",
    "var": "4D21B016-B534-45C2-A9FB-5C16E091FD2D",
    "xbootldr": "BC13C2FF-59E6-4262-A352-B275FD6F7172",
}
_MBR_TYPES = {"esp": "ef", "linux-generic": "83", "prep": "41", "swap": "82", "xbootldr": "ea"}
_TYPES = (*sorted({*_GPT_TYPES, "root", "usr"}),)
_MOUNTS = {
    "root": "/",
    "usr": "/usr",
    "esp": "/boot/efi",
    "xbootldr": "/boot",
    "home": "/home",
    "srv": "/srv",
    "var": "/var",
    "tmp": "/var/tmp",
}
_ATTRIBUTES = {
    "required": "RequiredPartition",
    "no-block-io": "NoBlockIOProtocol",
    "legacy-boot": "LegacyBIOSBootable",
    "grow": "GUID:59",
    "read-only": "GUID:60",
    "no-auto": "GUID:63",
}
_BIOS = "i386-pc"
_PLATFORMS = {
    "amd64": ("x86_64-efi", "i386-efi", _BIOS),
    "i386": ("i386-efi", "x86_64-efi", _BIOS),
    "arm64": ("arm64-efi",),
}
"""Architecture → what GRUB starts its machines from, by GRUB's names; first what UEFI has if nothing else is said."""
_SEED = "forge"
_GROUPS = (8, 4, 4, 4, 12)


def _derived(*names: str) -> str:
    """Return the UUID (RFC 9562, version 8) that names always lead to."""
    digits = bytearray(xxhash.xxh3_128_digest("\0".join(names).encode()))
    digits[6] = digits[6] & 0x0F | 0x80
    digits[8] = digits[8] & 0x3F | 0x80
    text = digits.hex()
    return "-".join(text[sum(_GROUPS[:i]) : sum(_GROUPS[: i + 1])] for i in range(5))


def _is_hex(text: str, *groups: int) -> bool:
    """Return whether a text is groups of so many hexadecimal digits, joined by hyphens."""
    parts = text.split("-")
    return tuple(map(len, parts)) == groups and not set(text) - set("0123456789abcdefABCDEF-")


class _Formatted(Value):
    """What all file systems have."""

    label: str = ""
    uuid: str | None = None

    longest_label = 255

    def check(self) -> None:
        """Refuse a label that the file system cannot hold, and an id in the wrong form."""
        if len(self.label.encode()) > self.longest_label or not self.label.isprintable():
            raise self.refuse("label", f"{self.label!r}: at most {self.longest_label} bytes of printable text")
        if self.uuid is not None and not _is_hex(self.uuid, *_GROUPS):
            raise self.refuse("uuid", f"'{self.uuid}' is no UUID", hint="write 8-4-4-4-12 hexadecimal digits")

    def derive(self, seed: str, name: str) -> str:
        """Return the id: as given, or derived from the disk's seed and the partition's name."""
        return (self.uuid or _derived(seed, "filesystem", name)).lower()

    def plain(self, seed: str, name: str) -> filesystem.Filesystem:
        """Return what the program in the sandbox is told."""
        raise NotImplementedError


class Ext4(_Formatted):
    """The ext4 file system (mke2fs(8), ext4(5)): blocks of 4096 bytes, inodes of 256, a journal from 16 MiB on.

    Made with `mke2fs -d` straight in its place: owners, modes, extended attributes, ACLs, hard links, device nodes and
    holes are as in the tree. All times that no program can set in a tree (change, access, creation) are
    `SOURCE_DATE_EPOCH`.

    - `label`: the volume's name, at most 16 bytes; default none.
    - `uuid`: the file system's id, 8-4-4-4-12 hexadecimal digits; default: derived from the disk's `seed` and the
      partition's name. The hash seed of folders is the same.
    - `features`: added to the features that forge sets, `^` takes one away, as for `mke2fs -O`. Default none. The
      host's mke2fs.conf(5) is not read. GRUB 2.06 cannot read `metadata_csum_seed`.
    - `inode_ratio`: bytes of file system for each inode, 1024 to 67108864, default 16384; there are always enough
      for the content.
    - `reserved_percent`: what only root may use, 0 to 50 percent, default 0.
    """

    features: tuple[str, ...] = ()
    inode_ratio: int = 16384
    reserved_percent: int = 0

    longest_label = 16

    def check(self) -> None:
        """Refuse numbers out of their bounds."""
        super().check()
        if not 1 << 10 <= self.inode_ratio <= 64 << 20:
            raise self.refuse("inode_ratio", f"{self.inode_ratio}: from 1024 to {64 << 20} bytes")
        if not 0 <= self.reserved_percent <= 50:  # noqa: PLR2004  mke2fs(8), -m
            raise self.refuse("reserved_percent", f"{self.reserved_percent}: from 0 to 50")

    def plain(self, seed: str, name: str) -> filesystem.Filesystem:
        """Return what the program in the sandbox is told."""
        return filesystem.Filesystem(
            kind="ext4",
            uuid=self.derive(seed, name),
            label=self.label,
            features=self.features,
            inode_ratio=self.inode_ratio,
            reserved_percent=self.reserved_percent,
        )


class Vfat(_Formatted):
    """The FAT file system (mkfs.fat(8)), as firmware wants it for the EFI system partition.

    It holds files and folders only: links, devices and names that differ by case only are refused, owners and modes are
    lost. Times are even seconds of UTC.

    - `label`: the volume's name, at most 11 bytes, in capitals; default none.
    - `uuid`: the volume's id, 8 hexadecimal digits (a hyphen after 4 is allowed); default: derived from the disk's
      `seed` and the partition's name.
    - `bits`: 12, 16 or 32, the width of the table; default: 32 from 512 MiB on (260 MiB with sectors of 4096 bytes), 16
      from 4 MiB on (32 MiB), else 12.
    """

    bits: Literal[12, 16, 32] | None = None

    longest_label = 11

    def check(self) -> None:
        """Refuse an id or a label that FAT cannot hold."""
        if self.uuid is not None and not (_is_hex(self.uuid, 8) or _is_hex(self.uuid, 4, 4)):
            raise self.refuse("uuid", f"'{self.uuid}' is no volume id", hint="write 8 hexadecimal digits: '1234-ABCD'")
        if len(self.label) > self.longest_label or not self.label.isascii() or not self.label.isprintable():
            raise self.refuse("label", f"{self.label!r}: at most {self.longest_label} characters of ASCII")
        if self.label != self.label.upper():
            raise self.refuse("label", f"'{self.label}' has small letters", hint=f"write '{self.label.upper()}'")

    def plain(self, seed: str, name: str) -> filesystem.Filesystem:
        """Return what the program in the sandbox is told."""
        digits = (self.uuid or _derived(seed, "filesystem", name)).replace("-", "").upper()
        uuid = f"{digits[:4]}-{digits[4:8]}"
        return filesystem.Filesystem(kind="vfat", uuid=uuid, label=self.label, fat_bits=self.bits or 0)


class Swap(_Formatted):
    """Swap space (mkswap(8)), in pages of 4096 bytes. The partition needs a `size`, and is listed in /etc/fstab.

    - `label`: its name, at most 15 bytes; default none.
    - `uuid`: its id, 8-4-4-4-12 hexadecimal digits; default: derived from the disk's `seed` and the partition's name.
    """

    longest_label = 15

    def plain(self, seed: str, name: str) -> filesystem.Filesystem:
        """Return what the program in the sandbox is told."""
        return filesystem.Filesystem(kind="swap", uuid=self.derive(seed, name), label=self.label)


class Btrfs(_Formatted):
    """The Btrfs file system (mkfs.btrfs(8)), from 110 MiB on.

    Made with `mkfs.btrfs --rootdir` in a file beside the image and copied into its place without holes, because
    mkfs.btrfs cannot write at an offset: that costs about the time that it takes to write the content once more.
    mkfs.btrfs chooses the ids of the device, the subvolume and the chunks at random and uses the clock: two builds
    have the same content and file system id, but **not the same bits**.

    - `label`: the volume's name, at most 255 bytes; default none.
    - `uuid`: the file system's id, 8-4-4-4-12 hexadecimal digits; default: derived from the disk's `seed` and the
      partition's name.
    - `features`: as for `mkfs.btrfs -O`; default none beside the tool's own.
    """

    features: tuple[str, ...] = ()

    def plain(self, seed: str, name: str) -> filesystem.Filesystem:
        """Return what the program in the sandbox is told."""
        uuid = self.derive(seed, name)
        return filesystem.Filesystem(kind="btrfs", uuid=uuid, label=self.label, features=self.features)


class Xfs(_Formatted):
    """The XFS file system (mkfs.xfs(8)), from 300 MiB on: for empty and for plain data partitions.

    Made with `mkfs.xfs -p` in a file beside the image and copied into its place without holes. A prototype file cannot
    say everything: a tree with extended attributes, hard links, sockets, the sticky bit (as /tmp has it) or white
    space in a name is refused, and times are those of the build. mkfs.xfs uses the clock and random numbers: two builds
    have the same content and file system id, but **not the same bits**. Take `Ext4` for a root file system.

    - `label`: the volume's name, at most 12 bytes; default none.
    - `uuid`: the file system's id, 8-4-4-4-12 hexadecimal digits; default: derived from the disk's `seed` and the
      partition's name.
    """

    longest_label = 12

    def plain(self, seed: str, name: str) -> filesystem.Filesystem:
        """Return what the program in the sandbox is told."""
        return filesystem.Filesystem(kind="xfs", uuid=self.derive(seed, name), label=self.label)


class Raw(Value):
    """A file's content as it is: a boot loader such as U-Boot, or a file system image that something else made.

    Stands for a partition's `filesystem`, or in the disk's `raw` for a place outside of all partitions. Holes are kept.

    - `content`: a source file, or a file target.
    - `offset`: from the start of the partition, or of the disk; default 0.
    """

    content: Source | File
    offset: str = "0"

    def check(self) -> None:
        """Refuse an offset that is no size."""
        _size(self, "offset", self.offset)


class Partition(Value):
    """One partition of a `DiskImage`.

    - `name`: its name, in a GPT also the partition's label: at most 36 characters, none above U+FFFF. Ids are
      derived from it.
    - `type`: what it is for, after the Discoverable Partitions Specification (uapi-group.org): `root`, `usr` (of the
      disk's `arch`), `esp`, `xbootldr`, `bios-boot` (GPT only), `swap`, `home`, `srv`, `var`, `tmp`, `prep`,
      `linux-generic` (the default); or a GUID, for an MBR two hexadecimal digits.
    - `start`: from the start of the disk, a multiple of the sector size (`"1MiB"`). Default: the next multiple of
      1 MiB after the partition before.
    - `size`: fixed (`"48MiB"`), a multiple of the sector size; `"rest"`: what the disk's `size` leaves (for the last
      one); default: from the content plus `minimum_free`, in whole MiB.
    - `filesystem`: `Ext4`, `Vfat`, `Swap`, `Btrfs`, `Xfs` or `Raw`; default none: the partition is left empty.
    - `tree`: the tree that fills it; default: what the root file system's tree holds at `mount`, or nothing.
    - `minimum_free`: space that is left for files, at least; default 0. Exact for Ext4 (a size that is too small is
      an error), an estimate on the safe side for others.
    - `mount`: where the running system mounts it, an absolute path; `""`: nowhere. Default by type: `/` for `root`,
      `/boot/efi` for `esp`, `/boot` for `xbootldr`, `/usr`, `/home`, `/srv`, `/var`, `/var/tmp` for `tmp`, else
      nowhere. A partition with the root's tree, or with none, takes that folder of it; the root file system has an
      empty folder there.
    - `mount_options`: for /etc/fstab (mount(8)); default `defaults`, for `esp` `umask=0077`.
    - `uuid`: the partition's id in a GPT; default: derived from the disk's `seed` and `name`.
    - `attributes`: flags in a GPT: `required`, `no-block-io`, `legacy-boot` (UEFI, section 5.3.3), `grow`, `read-only`,
      `no-auto` (Discoverable Partitions Specification); in an MBR only `legacy-boot`, the active partition.
    """

    name: str = field(kw_only=False)
    type: str = "linux-generic"
    start: str | None = None
    size: str | None = None
    filesystem: Ext4 | Vfat | Swap | Btrfs | Xfs | Raw | None = None
    tree: Tree | None = None
    minimum_free: str = "0"
    mount: str | None = None
    mount_options: str | None = None
    uuid: str | None = None
    attributes: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse fields that are wrong whatever disk the partition is on."""
        longest = 36
        if not self.name or len(self.name) > longest or not self.name.isprintable() or set('"\\/') & set(self.name):
            raise self.refuse("name", f"{self.name!r}: 1 to {longest} printable characters, no quotes or slashes")
        if any(character > "\uffff" for character in self.name):
            raise self.refuse("name", f"{self.name!r}: sfdisk writes no character above U+FFFF into a GPT")
        if not (self.type in _TYPES or _is_hex(self.type, *_GROUPS) or _is_hex(self.type, 2)):
            raise self.refuse("type", f"unknown partition type '{self.type}'", hint=did_you_mean(self.type, _TYPES))
        if self.uuid is not None and not _is_hex(self.uuid, *_GROUPS):
            raise self.refuse("uuid", f"'{self.uuid}' is no UUID", hint="write 8-4-4-4-12 hexadecimal digits")
        for attribute in self.attributes:
            if attribute not in _ATTRIBUTES:
                hint = did_you_mean(attribute, list(_ATTRIBUTES))
                raise self.refuse("attributes", f"unknown attribute '{attribute}'", hint=hint)
        if self.place and (not self.place.startswith("/") or ".." in self.place.split("/")):
            raise self.refuse("mount", f"'{self.mount}' is no absolute path")
        for name in ("place", "options"):
            if not getattr(self, name).isprintable() or (name == "options" and " " in self.options):
                wrong = "mount_options" if name == "options" else "mount"
                raise self.refuse(wrong, "white space or control characters")
        self._check_sizes()
        self._check_content()

    def _check_sizes(self) -> None:
        _size(self, "minimum_free", self.minimum_free)
        if self.start is not None:
            _size(self, "start", self.start)
        if self.size is not None and self.size != "rest" and _size(self, "size", self.size) == 0:
            raise self.refuse("size", "is 0")
        if self.size is None and (self.filesystem is None or isinstance(self.filesystem, Swap)):
            raise self.refuse("size", f"partition '{self.name}' has no content that its size could be taken from")

    def _check_content(self) -> None:
        holds_files = self.filesystem is not None and not isinstance(self.filesystem, (Swap, Raw))
        if self.tree is not None and not holds_files:
            kind = type(self.filesystem).__name__ if self.filesystem else "no file system"
            raise self.refuse("tree", f"partition '{self.name}' cannot hold a tree: it is {kind}")
        if self.filesystem is None and self.mount:
            raise self.refuse("mount", f"partition '{self.name}' has no file system to mount")
        if isinstance(self.filesystem, (Raw, Swap)) and _size(self, "minimum_free", self.minimum_free):
            raise self.refuse("minimum_free", f"partition '{self.name}' holds no files")

    @property
    def place(self) -> str:
        """Where it is mounted; empty: nowhere."""
        if self.mount is not None:
            return self.mount.rstrip("/") or ("/" if self.mount else "")
        return _MOUNTS.get(self.type, "") if self.filesystem and not isinstance(self.filesystem, Swap) else ""

    @property
    def options(self) -> str:
        """The mount options."""
        return self.mount_options or ("umask=0077" if self.type == "esp" else "defaults")


class Grub(Value):
    """The boot loader GRUB 2, for BIOS, UEFI or both, made by GRUB's own grub-mkimage and grub-bios-setup.

    Its menu, /boot/grub/grub.cfg, has an entry for each kernel /boot/vmlinuz-* of the tree, the newest first. Host
    packages: grub-common, and grub-pc-bin, grub-efi-amd64-bin, grub-efi-ia32-bin or grub-efi-arm64-bin for the modules.
    Debian has the last for arm64 alone: elsewhere after `dpkg --add-architecture arm64` and `apt-get update`.

    - `bios`: start from BIOS; needs a `bios-boot` partition in a GPT, in an MBR the gap before the first partition
      (1 MiB). Default True.
    - `uefi`: start from UEFI, at the path that firmware tries on a disk without a boot entry
      (`/EFI/BOOT/BOOTX64.EFI`: UEFI 2.10, section 3.5.1.1); needs an `esp` partition with `Vfat`. Default True. Not
      signed: Secure Boot must be off.
    - `uefi_platform`: `x86_64-efi`, `i386-efi` or `arm64-efi`; default by the disk's `arch`. An arm64 machine has
      `arm64-efi` alone, and no BIOS: `Grub(bios=False)`.
    - `cmdline`: the kernel's parameters after `root=`, also written to /etc/kernel/cmdline; default none. A
      `console=ttyS0` (with `,115200n8` or the like) makes that serial line GRUB's console too. A value that has blanks
      is in double quotes: `dyndbg="file x +p"`.
    - `timeout`: seconds that the menu waits; default 0; -1: for ever.
    - `modules`: GRUB modules to have in its image beside those that it needs; default none.
    """

    bios: bool = True
    uefi: bool = True
    uefi_platform: Literal["x86_64-efi", "i386-efi", "arm64-efi"] | None = None
    cmdline: str = ""
    timeout: int = 0
    modules: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse what GRUB could not start or read."""
        if not (self.bios or self.uefi):
            raise self.refuse("bios", "neither bios nor uefi is set: nothing would start GRUB")
        self._check_cmdline()
        if self.timeout < -1:
            raise self.refuse("timeout", f"{self.timeout}: seconds, or -1 for no limit")

    def _check_cmdline(self) -> None:
        if set("'\\") & set(self.cmdline) or not self.cmdline.isprintable():
            problem = "has a single quote, a backslash or a control character, which GRUB cannot pass on to the kernel"
            raise self.refuse("cmdline", problem, hint="put a value that has blanks in double quotes")
        if self.cmdline.count('"') % 2:
            raise self.refuse("cmdline", "has a double quote that is not closed")
        if "root=" in {word[:5] for word in grub.split(self.cmdline)}:
            raise self.refuse("cmdline", "has a root=, which is set from the disk", hint="leave root= out")

    def plain(self, arch: str) -> grub.Boot:
        """Return what the program in the sandbox is told."""
        platforms = self.platforms(arch)
        return grub.Boot(platforms=platforms, cmdline=self.cmdline, timeout=self.timeout, modules=self.modules)

    def platforms(self, arch: str) -> tuple[str, ...]:
        """Return GRUB's names of what the image starts from on a machine of an architecture."""
        uefi = (self.uefi_platform or _PLATFORMS[arch][0],) if self.uefi else ()
        return (*((_BIOS,) if self.bios else ()), *uefi)


class DiskImage(Rule):
    """A disk image: one sparse file with a partition table, file systems and a boot loader.

    Made without loop devices, partition nodes or mounts on the host. The same fields and trees give the same bits,
    except with `Btrfs` and `Xfs`. Host packages: fdisk, e2fsprogs, dosfstools, mtools; btrfs-progs, xfsprogs and
    GRUB's where used.

    - `label`: `gpt` (UEFI 2.10, section 5.3; the default) or `mbr`, which holds disks up to 2 TiB; from the fifth
      partition on, an extended one takes the fourth and later.
    - `partitions`: in the order of the table.
    - `size`: of the whole disk (`"8GiB"`); default: what the partitions need.
    - `sector_size`: 512 (the default) or 4096 bytes: what the disk says a logical sector is.
    - `bootloader`: `Grub(…)`; default none.
    - `arch`: Debian's name of the architecture, which `root` and `usr` partition types and what GRUB starts from depend
      on; default `amd64`. A root whose packages are of another one is refused.
    - `id`: the disk's: 8-4-4-4-12 hexadecimal digits, for an MBR 8; default: derived from `seed`.
    - `seed`: a text that all ids that are not given are derived from. Two disks that are to be in one machine need
      different ones. Default `forge`.
    - `fstab`: write /etc/fstab (fstab(5)) for the partitions with a `mount`, and swap; lines for other places stay.
      Default True. Only into a root file system that is made from a tree: a partition with `mount="/"` (as `root` has)
      and a `tree`. A disk whose root is a `Raw`, or that has none, gets no such file.
    - `kernel_cmdline`: write /etc/kernel/cmdline (kernel-install(8)): `root=UUID=…` and the boot loader's `cmdline`,
      without a boot loader what the file says already. Default True. Needs a root from a tree, as `fstab` does.
    - `raw`: files copied to places outside of all partitions, such as a first-stage boot loader.
    """

    label: Literal["gpt", "mbr"] = "gpt"
    partitions: tuple[Partition, ...]
    size: str | None = None
    sector_size: Literal[512, 4096] = 512
    bootloader: Grub | None = None
    arch: str = "amd64"
    id: str | None = None
    seed: str = _SEED
    fstab: bool = True
    kernel_cmdline: bool = True
    raw: tuple[Raw, ...] = ()

    def check(self) -> None:
        """Refuse what cannot be a disk, as far as it can be known without the content."""
        if not self.partitions:
            raise self.refuse("partitions", "is empty")
        if self.arch not in _ROOT_TYPES:
            raise self.refuse("arch", f"unknown '{self.arch}'", hint=architectures.meant(self.arch, list(_ROOT_TYPES)))
        groups = _GROUPS if self.label == "gpt" else (8,)
        if self.id is not None and not _is_hex(self.id, *groups):
            digits = "-".join(map(str, groups))
            raise self.refuse("id", f"'{self.id}' is no id of a disk with {self.label}", hint=f"write {digits} digits")
        if self.size is not None:
            _size(self, "size", self.size)
        self._check_unique()
        self._check_types()
        self._check_roots()
        if self.bootloader:
            self._check_bootloader(self.bootloader)
        disk = self._plain(None)
        needed = tuple(_least(part) for part in disk.parts)
        try:
            layout = program.lay_out(disk, needed)
        except program.MisfitError as error:
            raise self.refuse("partitions", error.message, hint=error.hint) from None
        try:
            program.refuse_raw(disk, layout)
        except program.MisfitError as error:
            raise self.refuse("raw", error.message, hint=error.hint) from None
        if self.label == "mbr" and layout.size > self.sector_size << 32:
            raise self.refuse("label", "an MBR cannot tell of more than 2^32 sectors", hint="use label='gpt'")

    def _check_unique(self) -> None:
        names: set[str] = set()
        mounts: dict[str, str] = {}
        ids: dict[str, str] = {}
        for part in self.partitions:
            if part.name in names:
                raise self.refuse("partitions", f"two partitions have the name '{part.name}'")
            names.add(part.name)
            if part.place and (other := mounts.setdefault(part.place, part.name)) != part.name:
                raise self.refuse("partitions", f"'{other}' and '{part.name}' are both mounted at {part.place}")
            if part.uuid and (other := ids.setdefault(part.uuid.lower(), part.name)) != part.name:
                raise self.refuse("partitions", f"'{other}' and '{part.name}' have the same uuid, {part.uuid.lower()}")
        rests = [part.name for part in self.partitions if part.size == "rest"]
        if len(rests) > 1:
            raise self.refuse("partitions", f"more than one partition has the size 'rest': {', '.join(rests)}")

    def _check_types(self) -> None:
        for part in self.partitions:
            wrong = self._type(part) is None
            if wrong:
                raise self.refuse(
                    "partitions", f"partition '{part.name}': there is no type '{part.type}' in {self.label.upper()}"
                )
            unset = [name for name in part.attributes if self.label == "mbr" and name != "legacy-boot"]
            if unset:
                raise self.refuse("partitions", f"partition '{part.name}': an MBR has no attribute '{unset[0]}'")
            if part.uuid is not None and self.label == "mbr":
                raise self.refuse("partitions", f"partition '{part.name}': an MBR holds no partition ids")

    def _check_roots(self) -> None:
        root = self._root
        for part in self.partitions:
            if root is None and part.place not in ("", "/") and part.tree is None and part.mount is not None:
                hint = "give a partition with mount='/' a tree, or this one its own"
                raise self.refuse("partitions", f"'{part.name}' is mounted below a root that has no tree", hint=hint)

    def _check_bootloader(self, bootloader: Grub) -> None:
        types = {part.type for part in self.partitions}
        if self._root is None:
            raise self.refuse("bootloader", "Grub needs a partition with mount='/' and a tree to start")
        self._check_platforms(bootloader)
        if bootloader.bios and self.label == "gpt" and "bios-boot" not in types:
            hint = "add Partition('bios', type='bios-boot', size='1MiB'), or set bios=False"
            raise self.refuse("bootloader", "Grub(bios=True) on a GPT disk needs a bios-boot partition", hint=hint)
        if bootloader.bios and self.sector_size != 512:  # noqa: PLR2004
            hint = "set bios=False"
            raise self.refuse("bootloader", "BIOS starts only from disks with sectors of 512 bytes", hint=hint)
        esp = [part for part in self.partitions if part.type == "esp"]
        if bootloader.uefi and not (esp and isinstance(esp[0].filesystem, Vfat)):
            hint = "add Partition('esp', type='esp', size='48MiB', filesystem=Vfat()), or set uefi=False"
            raise self.refuse("bootloader", "Grub(uefi=True) needs an esp partition with Vfat", hint=hint)
        self._check_boot_folder()

    def _check_boot_folder(self) -> None:
        """Refuse a place where GRUB would not find its configuration, or that configuration no kernel."""
        disk = self._plain(None)
        boot, own = (self.partitions[program.holder(disk, path)[0]] for path in ("/boot", "/boot/grub"))
        if isinstance(own.filesystem, (Raw, Swap)):
            raise self.refuse("bootloader", f"GRUB cannot be put on partition '{own.name}'")
        if boot.name != own.name:
            problem = f"'{own.name}' holds /boot/grub and '{boot.name}' the kernels, which GRUB would not find"
            raise self.refuse("bootloader", problem, hint=f"mount '{own.name}' elsewhere, or at /boot")

    def _check_platforms(self, bootloader: Grub) -> None:
        """Refuse what machines of the disk's architecture do not start from."""
        known = _PLATFORMS.get(self.arch)
        if known is None:
            hint = f"Grub is for {', '.join(_PLATFORMS)}; for others put a boot loader's file in raw=(Raw(…),)"
            raise self.refuse("bootloader", f"there is no Grub for arch='{self.arch}'", hint=hint)
        if bootloader.bios and _BIOS not in known:
            hint = "write Grub(bios=False)"
            raise self.refuse("bootloader", f"a machine of arch='{self.arch}' has no BIOS", hint=hint)
        platform = bootloader.uefi_platform
        if bootloader.uefi and platform not in (None, *known):
            hint = "leave uefi_platform out, or set another arch"
            problem = f"a machine of arch='{self.arch}' does not start from uefi_platform='{platform}'"
            raise self.refuse("bootloader", problem, hint=hint)

    @property
    def _needs_arch(self) -> bool:
        """Whether the disk is another for another architecture."""
        typed = self.label == "gpt" and any(part.type in ("root", "usr") for part in self.partitions)
        return typed or self.bootloader is not None

    @property
    def _root(self) -> Partition | None:
        """The partition that is the root file system and has a tree."""
        return next((part for part in self.partitions if part.place == "/" and part.tree is not None), None)

    def _type(self, part: Partition) -> str | None:
        """Return a partition's type as sfdisk reads it; None: this kind of table has no such type."""
        literal = _is_hex(part.type, *_GROUPS) or _is_hex(part.type, 2)
        if self.label == "gpt":
            named = {**_GPT_TYPES, "root": _ROOT_TYPES[self.arch]}
            if self.arch in _USR_TYPES:
                named["usr"] = _USR_TYPES[self.arch]
            return named.get(part.type) or (part.type.upper() if literal and "-" in part.type else None)
        if part.type in _TYPES:
            return None if part.type == "bios-boot" else _MBR_TYPES.get(part.type, "83")
        return part.type.lower() if literal and "-" not in part.type else None

    def steps(self, box: Sandbox) -> Iterable[Step]:
        """Assemble the disk."""
        yield Call(program.assemble, self._plain(box), mounts=True, tools=tuple(dict.fromkeys(self._tools())))

    def _plain(self, box: Sandbox | None) -> program.Disk:
        """Return what the program in the sandbox is told; without a sandbox, where no path is needed."""
        default = _derived(self.seed, "disk") if self.label == "gpt" else _derived(self.seed, "disk")[:8]
        identity = self.id or default
        bootloader = self.bootloader
        return program.Disk(
            out=box.out if box else "",
            tmp=box.tmp if box else "",
            label=self.label,
            id=identity.upper() if self.label == "gpt" else f"0x{identity.lower()}",
            parts=tuple(self._part(box, part) for part in self.partitions),
            blobs=tuple(
                program.Blob(content=box.path(raw.content) if box else "", offset=size_bytes(raw.offset))
                for raw in self.raw
            ),
            sector_size=self.sector_size,
            size=None if self.size is None else size_bytes(self.size),
            boot=bootloader.plain(self.arch) if bootloader else None,
            arch=self.arch if self._needs_arch else "",
            fstab=self.fstab,
            kernel_cmdline=self.kernel_cmdline,
        )

    def _part(self, box: Sandbox | None, part: Partition) -> program.Part:
        root = self._root
        formatted, raw = part.filesystem, None
        if isinstance(formatted, Raw):
            formatted, raw = None, formatted
        holds_files = formatted is not None and not isinstance(formatted, Swap)
        below = root is not None and part.place not in ("", "/") and holds_files
        shared = below and root is not None and part.tree in (None, root.tree)
        tree = root.tree if root is not None and shared else part.tree
        return program.Part(
            name=part.name,
            type=str(self._type(part)),
            uuid=(part.uuid or _derived(self.seed, "partition", part.name)).upper() if self.label == "gpt" else "",
            start=None if part.start is None else size_bytes(part.start),
            size=None if part.size in (None, "rest") else size_bytes(str(part.size)),
            rest=part.size == "rest",
            minimum_free=size_bytes(part.minimum_free),
            attributes=tuple(_ATTRIBUTES[name] for name in part.attributes),
            filesystem=formatted.plain(self.seed, part.name) if formatted else None,
            content=box.path(raw.content) if box and raw else "" if raw else None,
            offset=size_bytes(raw.offset) if raw else 0,
            tree=None if tree is None else box.scratch(tree) if box else "",
            shared=shared,
            mount=part.place,
            options=part.options,
        )

    def _tools(self) -> Iterable[str]:
        """Return the host programs, data files and modules of forge that the program uses."""
        yield from (str(module.__file__) for module in (filesystem, process, units))
        yield "sfdisk" if self.sector_size == 512 else "fdisk"  # noqa: PLR2004
        for part in self.partitions:
            match part.filesystem:
                case Ext4():
                    yield from ("mke2fs", "debugfs")
                case Vfat():
                    yield from ("mkfs.vfat", "mmd", "mcopy")
                case Swap():
                    yield "mkswap"
                case Btrfs():
                    yield "mkfs.btrfs"
                case Xfs():
                    yield "mkfs.xfs"
        yield str(grub.__file__)
        if self.bootloader:
            yield "grub-mkimage"
            for platform in self.bootloader.platforms(self.arch):
                yield from (f"{grub.LIBRARY}/{platform}/{name}" for name in ("modinfo.sh", "kernel.img"))
        if self.bootloader and self.bootloader.bios:
            yield from (f"{grub.LIBRARY}/i386-pc/{name}" for name in ("boot.img", "grub-bios-setup"))


def _size(value: Value, name: str, text: str) -> int:
    """Return a field's bytes; refuse what is no size."""
    try:
        return size_bytes(text)
    except ValueError as error:
        raise value.refuse(name, str(error)) from None


def _least(part: program.Part) -> int:
    """Return the fewest bytes that a partition can have, whatever it holds."""
    if part.size is not None:
        return part.minimum_free
    if part.filesystem is None:
        return part.offset + 1
    return max(filesystem.SMALLEST[part.filesystem.kind], part.minimum_free)
