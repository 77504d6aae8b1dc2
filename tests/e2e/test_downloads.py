"""What a step downloads is told while it comes: bytes, as they arrive in the folders that targets share."""

RULE = """\
from collections.abc import Iterable
from forgefile import Rule, Run, Sandbox, Step
from forgefile.model import Cache

class Fetch(Rule):
    line: str

    def steps(self, box: Sandbox) -> Iterable[Step]:
        cache = Cache(name="fetched", path=f"{box.tmp}/fetched", downloads=True)
        words = ("sh", "-ec", f"cd {box.tmp}/fetched; {self.line}; echo > $OUT")
        yield Run(words, env={"OUT": box.out}, network=True, caches=(cache,))
"""


def test_downloads_are_told_in_bytes(anyone):
    anyone.write("rules_here.py", RULE)
    anyone.forgefile(
        "from rules_here import Fetch",
        "slowly = 'head -c 3000 /dev/zero > partial/x; sleep 0.7; mv partial/x x; head -c 500 /dev/zero > y'",
        "forge.target('a', Fetch(line=slowly))",
        "forge.target('b', Fetch(line='head -c 70 /dev/zero > z'))",
    )
    told = [e["download_bytes"] for e in anyone.json("a").events if e["event"] == "downloading"]
    assert told[-1] == 3500
    assert told == sorted(set(told))
    assert "built b" in (out := anyone.forge("b").out)
    assert ", 70 B downloaded" in out, "what others have fetched before does not count"
    assert not [e for e in anyone.json("a", "b").events if e["event"] == "downloading"]
