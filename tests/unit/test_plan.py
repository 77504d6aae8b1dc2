"""The plan: what is done about a target, from what is known of it, and why."""

import pytest

from forgefile.fingerprint import Manifest
from forgefile.plan import Decision, Known, decide, undecided

NOW = Manifest(output="file", epoch=1, steps=(), inputs=(("words.txt", "2"),), tools=())
BEFORE = Manifest(output="file", epoch=1, steps=(), inputs=(("words.txt", "1"),), tools=())
NEVER = ("never built",)
CHANGED = ("words.txt: content changed",)


@pytest.mark.parametrize(
    ("known", "action", "reasons"),
    [
        (Known(last=None, current=False, available=False), "run", NEVER),
        (Known(last=None, current=False, available=True), "restore", ("an equal target was built before",)),
        (Known(last=None, current=True, available=True), "none", ()),
        (Known(last=NOW, current=True, available=True), "none", ()),
        (Known(last=NOW, current=True, available=False), "run", ("its output is missing",)),
        (Known(last=NOW, current=True, available=False, lost="was changed since it was built"), "run",
         ("its output was changed since it was built",)),
        (Known(last=BEFORE, current=False, available=False), "run", CHANGED),
        (Known(last=BEFORE, current=False, available=False, lost="is missing"), "run", CHANGED),
        (Known(last=BEFORE, current=False, available=True), "restore", CHANGED),
        (Known(last=NOW, current=False, available=True), "restore", ("its output is wanted again",)),
    ],
)  # fmt: skip
def test_decide(known, action, reasons):
    assert decide(NOW, known) == Decision(action, reasons)


def test_decide_looks_into_folders_through_the_listings():
    listings = {"1": {"": ("d", 0o755, ""), "motd": ("f", 0o644, "a")}, "2": {"": ("d", 0o755, "")}}
    known = Known(last=BEFORE, current=False, available=False)
    assert decide(NOW, known, listings.get) == Decision("run", ("words.txt/motd: removed",))


def test_undecided_names_what_it_waits_for():
    assert undecided(("rootfs", "packages")) == Decision("maybe", ("rootfs may change", "packages may change"))
