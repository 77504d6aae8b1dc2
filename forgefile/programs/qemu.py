"""Give a disk image that qemu-img wrote fixed ids in place of its random ones, so that the same disk is the same bits.

The ids are derived from the head of the disk, which holds the ids of its label and partitions: two disks differ in
theirs, and a disk that is built again keeps its own. Nothing but ids, a date and checksums is changed.

Sources: qemu's block/vmdk.c, block/vdi.c and block/vpc.c; Microsoft's [MS-VHDX] and the Virtual Hard Disk Image
Format Specification; VMware's Virtual Disk Format 5.0.
"""

import hashlib
import os
import re
import struct
from typing import BinaryIO

from forgefile.errors import BuildError
from forgefile.model import Value

_HEAD = 1 << 20
_YEAR_2000 = 946_684_800


class Image(Value):
    """What `fix_ids` is told."""

    disk: str
    """The raw disk that the image was made of."""
    image: str
    format: str


def fix_ids(argument: Image) -> None:
    """Change the ids of an image in place. Raises `BuildError` when it is not what qemu-img writes."""
    with open(argument.disk, "rb") as disk:
        seed = hashlib.sha256(disk.read(_HEAD)).digest()
    with open(argument.image, "r+b") as image:
        match argument.format:
            case "vmdk":
                _fix_vmdk(image, seed)
            case "vdi":
                _fix_vdi(image, seed)
            case "vhdx":
                _fix_vhdx(image, seed)
            case "vpc":
                _fix_vpc(image, seed)


def _id(seed: bytes, purpose: str) -> bytes:
    """Return an id of RFC 4122's random form that is a function of the seed."""
    made = bytearray(hashlib.sha256(seed + purpose.encode()).digest()[:16])
    made[6] = made[6] & 0x0F | 0x40
    made[8] = made[8] & 0x3F | 0x80
    return bytes(made)


def _mixed(text: bytes) -> bytes:
    """Return an id with its first three fields little-endian, as Microsoft and VirtualBox write it."""
    return text[3::-1] + text[5:3:-1] + text[7:5:-1] + text[8:]


def _expect(condition: bool, what: str) -> None:
    if not condition:
        raise BuildError(f"qemu-img wrote {what} in a way that is not known here")


def _put(image: BinaryIO, offset: int, data: bytes | bytearray) -> None:
    image.seek(offset)
    image.write(data)


def _get(image: BinaryIO, offset: int, size: int) -> bytes:
    image.seek(offset)
    return image.read(size)


def _fix_vmdk(image: BinaryIO, seed: bytes) -> None:
    """Change the content id, a number in the text descriptor that the header points to."""
    header = _get(image, 0, 512)
    _expect(header[:4] == b"KDMV", "VMDK")
    sector, sectors = struct.unpack_from("<QQ", header, 28)
    descriptor = _get(image, sector * 512, sectors * 512)
    found = re.search(rb"^CID=([0-9a-f]{1,8})\n", descriptor, re.MULTILINE)
    _expect(found is not None, "a VMDK descriptor")
    assert found is not None  # noqa: S101  for mypy
    number = int.from_bytes(_id(seed, "vmdk")[:4], "big") % 0xFFFFFFFE  # 0xffffffff is that of no disk
    text = descriptor[: found.start(1)] + b"%08x" % number + descriptor[found.end(1) :]
    text = text.partition(b"\0")[0]  # behind it may stand the rest of a longer one, which had a longer id
    _expect(len(text) <= len(descriptor), "a VMDK descriptor")
    _put(image, sector * 512, text.ljust(len(descriptor), b"\0"))


def _fix_vdi(image: BinaryIO, seed: bytes) -> None:
    """Change the image's id and that of its last modification."""
    _expect(_get(image, 64, 4) == b"\x7f\x10\xda\xbe", "VDI")
    _put(image, 392, _mixed(_id(seed, "vdi")) + _mixed(_id(seed, "vdi modification")))


def _fix_vpc(image: BinaryIO, seed: bytes) -> None:
    """Change the id and the date in the footer, and in its copy at the head of a dynamic disk."""
    end = image.seek(0, os.SEEK_END)
    footer = bytearray(_get(image, end - 512, 512))
    _expect(footer[:8] == b"conectix", "VHD")
    struct.pack_into(">I", footer, 24, max(0, int(os.environ["SOURCE_DATE_EPOCH"]) - _YEAR_2000) & 0xFFFFFFFF)
    footer[68:84] = _id(seed, "vpc")
    footer[64:68] = bytes(4)
    struct.pack_into(">I", footer, 64, ~sum(footer) & 0xFFFFFFFF)
    _put(image, end - 512, footer)
    if _get(image, 0, 8) == b"conectix":
        _put(image, 0, footer)


_VHDX_HEADERS = (64 << 10, 128 << 10)
_VHDX_REGIONS = 192 << 10
_VHDX_METADATA = _mixed(bytes.fromhex("8b7ca20647904b9ab8fe575f050f886e"))
_VHDX_PAGE_83 = _mixed(bytes.fromhex("beca12abb2e6452393efc309e000c746"))


def _fix_vhdx(image: BinaryIO, seed: bytes) -> None:
    """Change the ids in both headers and in the metadata, and clear the log, whose content is in place."""
    headers = [(offset, bytearray(_get(image, offset, 4096))) for offset in _VHDX_HEADERS]
    headers.sort(key=lambda item: struct.unpack_from("<Q", item[1], 8))
    for number, (offset, header) in enumerate(headers, 1):  # the one with the higher number is in force
        _expect(header[:4] == b"head" and header[48:64] == bytes(16), "VHDX")
        struct.pack_into("<Q", header, 8, number)
        header[16:32], header[32:48] = _mixed(_id(seed, "vhdx file")), _mixed(_id(seed, "vhdx data"))
        header[4:8] = bytes(4)
        struct.pack_into("<I", header, 4, _crc32c(header))
        _put(image, offset, header)
        size, start = struct.unpack_from("<IQ", header, 68)
        _put(image, start, bytes(size))
    regions = _get(image, _VHDX_REGIONS, 64 << 10)
    metadata = _vhdx_entry(regions, 16, struct.unpack_from("<I", regions, 8)[0], _VHDX_METADATA, "<Q")
    table = _get(image, metadata, 64 << 10)
    page = _vhdx_entry(table, 32, struct.unpack_from("<H", table, 10)[0], _VHDX_PAGE_83, "<I")
    _put(image, metadata + page, _mixed(_id(seed, "vhdx disk")))


def _vhdx_entry(table: bytes, start: int, count: int, name: bytes, form: str) -> int:
    """Return the offset that a table of 32-byte entries gives for the item of that id."""
    for at in range(start, start + 32 * count, 32):
        if table[at : at + 16] == name:
            return int(struct.unpack_from(form, table, at + 16)[0])
    raise BuildError("qemu-img wrote VHDX in a way that is not known here")


def _crc32c(data: bytes | bytearray) -> int:
    """Return the CRC of RFC 3720, appendix B.4."""
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    crc = 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF
