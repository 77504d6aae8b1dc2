"""Sizes and durations as people write them, and as bytes and seconds. Unaware of everything else."""

import re

_FACTORS = {
    "": 1,
    "B": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}


_SECONDS = {"h": 3600, "min": 60, "s": 1}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?) *(h|min|s)", re.ASCII)


def size_bytes(text: str) -> int:
    """Return the bytes in a size such as `48MiB`, `1.5 GiB`, `100MB` or `512`.

    KiB, MiB, GiB and TiB are powers of 1024; kB (or KB), MB, GB and TB powers of 1000 (IEC 80000-13). A bare number
    and `B` are bytes. Raises `ValueError` when the text is no size, or no whole number of bytes.
    """
    number = text.strip().rstrip("iBKkMGT").rstrip()
    unit = text.strip()[len(number) :].strip()
    whole, _, fraction = number.partition(".")
    digits = whole + fraction
    if unit not in _FACTORS or not (digits.isascii() and digits.isdigit() and whole):
        raise ValueError(f"'{text}' is no size; write a number and a unit, such as '48MiB' or '1.5GiB'")
    size, rest = divmod(int(digits) * _FACTORS[unit], int("1" + "0" * len(fraction)))
    if rest:
        raise ValueError(f"'{text}' is no whole number of bytes")
    return size


def size_text(size: int) -> str:
    """Return a number of bytes as a size that `size_bytes` reads: exact, in the largest unit that leaves it whole."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % _FACTORS[unit] == 0:
            return f"{size // _FACTORS[unit]}{unit}"
    return f"{size}B"


def align_up(size: int, unit: int) -> int:
    """Return the smallest multiple of `unit` that is not below `size`."""
    return -(-size // unit) * unit


def duration_seconds(text: str) -> float:
    """Return the seconds in a duration such as `90 s`, `10min` or `1h 30min`. Raises `ValueError` for anything else."""
    parts = _DURATION.findall(text)
    if not parts or _DURATION.sub("", text).strip():
        raise ValueError(f"'{text}' is no duration; write numbers and units, such as '90s', '10min' or '1h 30min'")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def duration_text(seconds: float) -> str:
    """Return a number of seconds as a duration that `duration_seconds` reads: in whole units, but for the last."""
    minutes, rest = divmod(round(seconds, 3), 60)
    hours, minutes = divmod(int(minutes), 60)
    parts = ((hours, "h"), (minutes, "min"), (f"{rest:.3f}".rstrip("0").rstrip("."), "s"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number not in (0, "0")) or "0 s"
