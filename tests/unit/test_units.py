"""Sizes and durations: what is read, what is refused, and that both directions agree."""

import pytest

from forgefile.units import align_up, duration_seconds, duration_text, size_bytes, size_text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("512", 512),
        ("512B", 512),
        ("48MiB", 48 << 20),
        ("48 MiB", 48 << 20),
        ("1.5GiB", 3 << 29),
        ("2TiB", 2 << 40),
        ("100kB", 100_000),
        ("1GB", 10**9),
    ],
)
def test_size(text, size):
    assert size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "big", "-1MiB", "1M", "48mib", "1.0001KiB", "1e3", "1..5MiB", "٣MiB"])
def test_no_size(text):
    with pytest.raises(ValueError, match=r"is no (size|whole number of bytes)"):
        size_bytes(text)


@pytest.mark.parametrize("size", [0, 1, 512, 1 << 10, 3 << 19, 48 << 20, 5 << 40, (1 << 30) + 1])
def test_text_is_exact(size):
    assert size_bytes(size_text(size)) == size


def test_align_up():
    assert [align_up(n, 8) for n in (0, 1, 8, 9)] == [0, 8, 8, 16]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("90 s", 90),
        ("0.5s", 0.5),
        ("10min", 600),
        ("1 h 30 min", 5400),
        ("1h30min5s", 5405),
        ("1.5h", 5400),
    ],
)
def test_duration(text, seconds):
    assert duration_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "min", "10m", "ten min", "1h-5s", "-5s", "5 s later", "٣s"])
def test_no_duration(text):
    with pytest.raises(ValueError, match="is no duration"):
        duration_seconds(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.25, "0.25 s"), (90, "1 min 30 s"), (600, "10 min"), (3600, "1 h"), (5405.5, "1 h 30 min 5.5 s")],
)
def test_duration_text_is_exact(seconds, text):
    assert duration_text(seconds) == text
    assert duration_seconds(text) == seconds
