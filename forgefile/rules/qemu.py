"""`QemuImage`: a disk in the format of a virtual machine."""

from collections.abc import Iterable, Mapping
from typing import Literal

from forgefile.model import Call, File, Rule, Run, Sandbox, Step
from forgefile.programs.qemu import Image, fix_ids

_RANDOM_IDS = ("vdi", "vhdx", "vmdk", "vpc")
_OTHER_FILES = ("backing_file", "backing_fmt", "data_file", "data_file_raw")
_MANY_FILES = ("monolithicFlat", "twoGbMaxExtentFlat", "twoGbMaxExtentSparse")


class QemuImage(Rule):
    """Convert a raw disk image with qemu-img(1) to the format of a virtual machine.

    The same disk gives the same bits: the ids that qemu-img draws at random (VMDK's content id, the UUIDs of VDI, VHD
    and VHDX) are replaced by ids derived from the disk's first MiB, so from its label and the ids of its partitions.

    ```python
    QemuImage(disk=disk, format="qcow2", compress=True, options={"compression_type": "zstd"})
    ```
    """

    disk: File
    """The raw disk image. Required."""
    format: Literal["qcow2", "vmdk", "vdi", "vhdx", "vpc", "raw"] = "qcow2"
    """`qcow2`: QEMU, KVM, OpenStack. `vmdk`: VMware. `vdi`: VirtualBox. `vhdx`: Hyper-V. `vpc`: VHD, for Azure and
    Hyper-V of the first generation; of exactly the disk's size unless `options` has `force_size: off`. `raw`: a copy
    without the blocks that hold only zeros. Default: qcow2."""
    compress: bool = False
    """Whether content is compressed: `qcow2` by zlib, unless `options` has `compression_type: zstd`, which takes a
    sixth of the time and is read by QEMU 5.1 and later; `vmdk` in its subformat streamOptimized, as OVF wants it; no
    other format can. Default: no."""
    options: Mapping[str, str] = {}
    """Options of the format, as `qemu-img create -f FORMAT -o help` lists them. Those that name other files, split the
    image into several or encrypt it are refused. Default: none."""

    def check(self) -> None:
        """Refuse options that qemu-img would fail on late or that keep the image from being one file that repeats."""
        if self.compress and self.format not in ("qcow2", "vmdk"):
            raise self.refuse("compress", f"{self.format} cannot be compressed", hint="qcow2 and vmdk can")
        for name, value in self.options.items():
            if self.format == "raw":
                raise self.refuse("options", f"raw has no option '{name}'")
            if name in _OTHER_FILES:
                raise self.refuse("options", f"'{name}' names another file; an image is one file")
            if name.startswith("encrypt"):
                raise self.refuse("options", f"'{name}': an encrypted image differs each time that it is made")
            if value in _MANY_FILES:
                raise self.refuse("options", f"'{value}' makes several files; a file target is one file")

    def steps(self, box: Sandbox) -> Iterable[Step]:
        """Return the conversion and, where the format has random ids, their replacement."""
        options = dict(self.options)
        if self.format == "vpc":
            options.setdefault("force_size", "on")
        if self.format == "vmdk" and self.compress:
            options.setdefault("subformat", "streamOptimized")
        listed = ",".join(f"{name}={value.replace(',', ',,')}" for name, value in sorted(options.items()))
        disk = box.path(self.disk)
        yield Run(
            (
                "qemu-img", "convert",
                "-t", "unsafe",  # no waiting for the disk; and no -W, which leaves the order to chance
                "-f", "raw", "-O", self.format,
                *(("-c",) if self.compress and self.format == "qcow2" else ()),
                *(("-o", listed) if listed else ()),
                disk, box.out,
            )
        )  # fmt: skip
        if self.format in _RANDOM_IDS:
            yield Call(fix_ids, Image(disk=disk, image=box.out, format=self.format))
