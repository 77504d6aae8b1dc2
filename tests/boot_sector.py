"""Disk images that boot: code in the first sector that writes to the serial port, and then does one thing."""

import struct
from pathlib import Path
from uuid import UUID

ORIGIN = 0x7C00
PRINT = bytes.fromhex(
    "31c0 8ed8 8ec0 fc"  # xor ax,ax; mov ds,ax; mov es,ax; cld
    "be0000"  # mov si, the text
    "ac 84c0 7412"  # lodsb; test al,al; jz past the loop
    "88c4 bafd03"  # mov ah,al; mov dx,0x3fd
    "ec a820 74fb"  # in al,dx; test al,0x20; jz back: the port is not ready
    "88e0 baf803 ee ebe9"  # mov al,ah; mov dx,0x3f8; out dx,al; jmp to lodsb
)
HALT = bytes.fromhex("f4 ebfd")
OFF = bytes.fromhex("ba0406 b80020 ef") + HALT  # out 0x604, 0x2000: ACPI's power button of QEMU's q35
THEN = {
    "halt": HALT,
    "off": OFF,
    # int 0x13, ah=3: this sector, to the second one
    "write": bytes.fromhex("b80103 b90200 ba8000 bb007c cd13") + OFF,
    "again": bytes.fromhex("e9dcff"),  # jmp to the beginning
    # in al,0x3f8, when something came, and out again
    "echo": bytes.fromhex("bafd03 ec a801 74fb baf803 ec ee") + OFF,
}


def sector(text: str, then: str = "halt") -> bytes:
    """Return a first sector that prints a text and then does one of `THEN`."""
    code = bytearray(PRINT + THEN[then])
    code[code.index(b"\xbe") + 1 : code.index(b"\xbe") + 3] = struct.pack("<H", ORIGIN + len(code))
    whole = bytes(code) + text.encode() + b"\0"
    assert len(whole) <= 440, "a table of partitions begins there"
    return whole.ljust(510, b"\0") + b"\x55\xaa"


def image(path: Path, text: str, then: str = "halt") -> Path:
    """Write a disk of 1 MiB that boots."""
    path.write_bytes(sector(text, then))
    with path.open("r+b") as stream:
        stream.truncate(1 << 20)
    return path


def gpt(*types: str, code: bytes = b"", sector_size: int = 512) -> bytes:
    """Return the head of a disk with a GPT: partitions of some types, and code in the first sector."""
    mbr = code[:440].ljust(446, b"\0") + b"\0\0\2\0\xee".ljust(16, b"\xff") + bytes(48) + b"\x55\xaa"
    header = b"EFI PART".ljust(72, b"\0") + struct.pack("<QII", 2, 128, 128)
    entries = b"".join(UUID(each).bytes_le.ljust(128, b"\1") for each in types)
    return (mbr.ljust(sector_size, b"\0") + header.ljust(sector_size, b"\0") + entries).ljust(64 << 10, b"\0")
