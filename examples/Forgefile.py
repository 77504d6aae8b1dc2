"""A Debian server: one tree, committed to OSTree and installed on a bootable disk."""

from forgefile import Forge
from forgefile.rules import (
    Apt, DiskImage, Ext4, Grub, Mmdebstrap, OstreeCommit, Overlay, Partition, QemuImage, Script, Vfat,
)


def build(forge: Forge) -> None:
    suite = forge.option("suite", "bookworm", choices=("bookworm", "trixie"), help="Debian release")

    rootfs = forge.target("rootfs", Mmdebstrap(suite=suite, variant="minbase"))
    packages = forge.target("packages", Apt(
        base=rootfs,
        packages=("systemd-sysv", "udev", "linux-image-cloud-amd64", "initramfs-tools", "openssh-server"),
    ))
    system = forge.target("system", Overlay(base=packages, source=forge.source("overlay")))
    tuned = forge.target("tuned", Script(base=system, script=forge.source("scripts/tune.sh")))

    forge.target("ostree", OstreeCommit(tree=tuned, branch=f"debian/{suite}/amd64"))

    disk = forge.target("disk.img", DiskImage(
        label="gpt",
        partitions=(
            Partition("bios", type="bios-boot", size="1MiB"),
            Partition("esp", type="esp", size="48MiB", filesystem=Vfat(label="ESP")),
            Partition("root", type="root", filesystem=Ext4(label="root"), tree=tuned, minimum_free="256MiB"),
        ),
        bootloader=Grub(bios=True, uefi=True, cmdline="console=ttyS0 rw"),
    ))
    forge.target("disk.qcow2", QemuImage(disk=disk, format="qcow2"))
    forge.default(disk)
