"""The rules that come with forge, by name. Each is imported when it is first asked for."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from forgefile.rules.apt import Apt, AptSource
    from forgefile.rules.boot import BootTest
    from forgefile.rules.command import OUT, Command
    from forgefile.rules.debootstrap import Debootstrap
    from forgefile.rules.disk import Btrfs, DiskImage, Ext4, Grub, Partition, Raw, Swap, Vfat, Xfs
    from forgefile.rules.mmdebstrap import Mmdebstrap
    from forgefile.rules.ostree import OstreeCommit
    from forgefile.rules.overlay import Overlay
    from forgefile.rules.pack import Pack
    from forgefile.rules.qemu import QemuImage
    from forgefile.rules.script import Script

_MODULES = {
    "Apt": "apt",
    "AptSource": "apt",
    "BootTest": "boot",
    "Btrfs": "disk",
    "Command": "command",
    "Debootstrap": "debootstrap",
    "DiskImage": "disk",
    "Ext4": "disk",
    "Grub": "disk",
    "Mmdebstrap": "mmdebstrap",
    "OUT": "command",
    "OstreeCommit": "ostree",
    "Overlay": "overlay",
    "Pack": "pack",
    "Partition": "disk",
    "QemuImage": "qemu",
    "Raw": "disk",
    "Script": "script",
    "Swap": "disk",
    "Vfat": "disk",
    "Xfs": "disk",
}

__all__ = [
    "OUT",
    "Apt",
    "AptSource",
    "BootTest",
    "Btrfs",
    "Command",
    "Debootstrap",
    "DiskImage",
    "Ext4",
    "Grub",
    "Mmdebstrap",
    "OstreeCommit",
    "Overlay",
    "Pack",
    "Partition",
    "QemuImage",
    "Raw",
    "Script",
    "Swap",
    "Vfat",
    "Xfs",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"forgefile.rules has no rule '{name}'")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(f"forgefile.rules.{_MODULES[name]}"), name)
