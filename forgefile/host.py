"""What a host must have: where its programs are and which Debian package brings one that is missing."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from forgefile.errors import UsageError
    from forgefile.location import Location

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where steps find programs."""

PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
"""The variables, in small letters, that steps with the network get from forge's own environment."""

PACKAGES = {
    "apt-get": "apt",
    "arch-test": "arch-test",
    "btrfs": "btrfs-progs",
    "bzip2": "bzip2",
    "debootstrap": "debootstrap",
    "debugfs": "e2fsprogs",
    "diffoscope": "diffoscope-minimal",
    "dot": "graphviz",
    "fdisk": "fdisk",
    "fsck.erofs": "erofs-utils",
    "fsck.fat": "dosfstools",
    "grub-bios-setup": "grub-pc-bin",
    "grub-install": "grub2-common",
    "grub-mkimage": "grub-common",
    "gzip": "gzip",
    "lz4": "lz4",
    "make": "make",
    "mcopy": "mtools",
    "mke2fs": "e2fsprogs",
    "mkfs.btrfs": "btrfs-progs",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.fat": "dosfstools",
    "mkfs.vfat": "dosfstools",
    "mkfs.xfs": "xfsprogs",
    "mkswap": "util-linux",
    "mksquashfs": "squashfs-tools",
    "mmd": "mtools",
    "mmdebstrap": "mmdebstrap",
    "ostree": "ostree",
    "pigz": "pigz",
    "qemu-img": "qemu-utils",
    "qemu-system-aarch64": "qemu-system-arm",
    "qemu-system-x86_64": "qemu-system-x86",
    "sfdisk": "fdisk",
    "tar": "tar",
    "unsquashfs": "squashfs-tools",
    "update-binfmts": "binfmt-support",
    "xz": "xz-utils",
    "zstd": "zstd",
}
"""Host program → Debian package."""
_FOLDER_PACKAGES = {
    "/usr/share/AAVMF/": "qemu-efi-aarch64",
    "/usr/share/OVMF/": "ovmf",
    "/usr/lib/grub/i386-pc/": "grub-pc-bin",
    "/usr/lib/grub/x86_64-efi/": "grub-efi-amd64-bin",
    "/usr/lib/grub/i386-efi/": "grub-efi-ia32-bin",
    "/usr/lib/grub/arm64-efi/": "grub-efi-arm64-bin:arm64",
    "/usr/share/keyrings/debian-": "debian-archive-keyring",
    "/usr/share/keyrings/ubuntu-": "ubuntu-keyring",
}


def find(tool: str) -> str | None:
    """Return the path of a host program or data file, or None. Administrators' folders are searched in any case."""
    if "/" in tool:
        return tool if os.path.exists(tool) else None
    return _search(tool, f"{os.environ.get('PATH', '')}:{PATH}")


def unusual(found: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return those (name, path) of programs that `PATH` would not find, and that a step has to be shown."""
    return tuple((name, path) for name, path in found if "/" not in name and _search(name, PATH) != path)


def _search(tool: str, path: str) -> str | None:
    for folder in path.split(":"):
        found = f"{folder}/{tool}"
        if folder.startswith("/") and os.access(found, os.X_OK) and not os.path.isdir(found):
            return found
    return None


def setting(name: str) -> str | None:
    """Return the value of a setting of the kernel by the name that sysctl(8) has for it, None where there is none."""
    try:
        with open(f"/proc/sys/{name.replace('.', '/')}", encoding="utf-8") as stream:
            return stream.read().strip()
    except OSError:
        return None


def memory_bytes() -> int:
    """Return the bytes of memory that this machine, or the control group that forge runs in, has."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as stream:
            return min(physical, int(stream.read()))
    except (OSError, ValueError):
        return physical


def package(tool: str) -> str | None:
    """Return the Debian package that brings a program or data file, if known."""
    for folder, name in _FOLDER_PACKAGES.items():
        if tool.startswith(folder):
            return name
    user_emulator = tool.startswith("qemu-") and tool.endswith("-static")
    return "qemu-user-static" if user_emulator else PACKAGES.get(tool)


def install_line(missing: Iterable[str]) -> str | None:
    """Return the command that installs the packages of missing tools, or None when none of them is known."""
    packages = sorted({name for name in map(package, missing) if name})
    return f"apt-get install {' '.join(packages)}" if packages else None


def missing_error(missing: Iterable[str], target: str, location: Location | None) -> UsageError:
    """Return the error that says which host tools a target needs and how to get them."""
    from forgefile.errors import UsageError  # noqa: PLC0415  hardly ever

    names = sorted(set(missing))
    line = install_line(names)
    return UsageError(
        f"target '{target}' needs {', '.join(names)}, which this machine does not have",
        location=location,
        hint=line or "install what provides it, or put it on PATH",
    )
