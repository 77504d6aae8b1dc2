"""How the first moments of a run read the command line: as `cli` does, or not at all."""

import pytest

from forgefile import cli
from forgefile.cache.snapshot import place
from forgefile.errors import UsageError
from forgefile.start import _parsed

READ = (
    (), ("a", "b/*"), ("-j2",), ("-j", "2"), ("--jobs", "2"), ("--jobs=2",), ("-j=2",), ("-kq",), ("-k", "--quiet"),
    ("--keep-going", "a"), ("-Da=b=c", "-D", "d=e"), ("--define=a=", "x"), ("-fx", "-Cy"),
    ("--file=x", "--directory=y"),
    ("--store=s", "a"), ("--store", "s s"), ("-C", "a", "-C", "b"), ("-fa=b",), ("-f", "a=b"), ("-D=a=b",),
    ("-n",), ("-kn", "a"), ("--dry-run",),
)  # fmt: skip
LEFT = (
    ("-kv",), ("-j",), ("-j", "0"), ("-jx",), ("-j", "-k"), ("-D",), ("-f", ""), ("--store=",), ("--store",),
    ("-",), ("--",), ("--", "a"), ("--sto", "x"), ("--json",), ("-jk2",), ("--quiet=1",), ("-kj2",), ("-C", "--", "a"),
)  # fmt: skip


@pytest.mark.parametrize("words", READ)
def test_reads(words):
    valued, flags, others = _parsed(list(words))
    options = cli._parser("build").parse_intermixed_args(words)
    assert (valued["-D"], others) == (options.define, options.words)
    assert ("q" in flags, "k" in flags, "n" in flags) == (options.quiet, options.keep_going, options.dry_run)
    for name, told, default in (
        ("-C", options.directory, None), ("-f", options.file, "Forgefile.py"),
        ("-j", options.jobs and str(options.jobs), None), ("--store", options.store, None),
    ):  # fmt: skip
        assert (valued[name][-1] if valued[name] else default) == told


@pytest.mark.parametrize("words", LEFT)
def test_leaves_to_others(words):
    assert _parsed(list(words)) is None


@pytest.mark.parametrize("words", [("-j",), ("-j", "0"), ("-jx",), ("-j", "-k"), ("-D",), ("--store",), ("--sto", "x")])
def test_what_is_left_may_be_wrong(words):
    with pytest.raises(UsageError):
        cli._parser("build").parse_intermixed_args(words)


def test_the_place_of_a_snapshot_depends_on_values_alone():
    """And not on whether two of them are the same object, which marshal notes by default."""
    word, equal = "scripted", "SCRIPTED".lower()
    assert word is not equal
    assert place("f", (word, (word,))) == place("f", (word, (equal,)))
