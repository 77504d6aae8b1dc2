"""What the benchmark builds: the image of script.sh, and two images on one base."""

from forgefile import Forge, Target
from forgefile.rules import Apt, DiskImage, Ext4, Grub, Mmdebstrap, Overlay, Partition, QemuImage, Script, Vfat

MIRRORS = ("http://deb.debian.org/debian",)
BOOTABLE = ("systemd-sysv", "udev", "linux-image-cloud-amd64", "initramfs-tools")


def build(forge: Forge) -> None:
    """Declare the targets."""
    extra = forge.option("extra", "", help="one package more in disk.img")

    def disk(prefix: str, packages: Target) -> Target:
        system = forge.target(f"{prefix}system", Overlay(base=packages, source=forge.source("overlay")))
        tuned = forge.target(f"{prefix}tuned", Script(base=system, script=forge.source("scripts/tune.sh")))
        root = Partition("root", type="root", size="1484MiB", filesystem=Ext4(label="root"), tree=tuned)
        return forge.target(f"{prefix}disk.img", DiskImage(
            label="gpt",
            partitions=(
                Partition("bios", type="bios-boot", size="1MiB"),
                Partition("esp", type="esp", size="48MiB", filesystem=Vfat(label="ESP")),
                root,
            ),
            bootloader=Grub(bios=True, uefi=True, cmdline="console=ttyS0 rw"),
        ))

    base = forge.target("base", Mmdebstrap(
        suite="bookworm", variant="minbase", mirrors=MIRRORS, include=(*BOOTABLE, "openssh-server"),
    ))
    server = disk("", forge.target("packages", Apt(base=base, packages=(extra,))) if extra else base)
    forge.target("disk.qcow2", QemuImage(disk=server, format="qcow2"))

    small = forge.target("small", Mmdebstrap(suite="bookworm", variant="minbase", mirrors=MIRRORS))
    for name, service in (("shell", "openssh-server"), ("web", "nginx-light")):
        disk(f"{name}/", forge.target(f"{name}/packages", Apt(base=small, packages=(*BOOTABLE, service))))

    forge.default(server)
