# ruff: noqa: E501  what stands in a Forgefile is easier to read on one line
"""What takes the room, and budgets: what is over one fails, and another budget runs no step."""

from conftest import settle

TREES = (
    'base = forge.target("base", Change(base=forge.target("empty", Empty()), line="head -c 100000 /dev/zero >$OUT/old"))',
    'tree = forge.target("tree", Overlay(base=base, source=forge.source("src"), budget=forge.option("budget", "1MiB")))',
    'forge.target("above", Shell(line="ls $1", inputs=(tree,)))',
)


def write(project, octets):
    settle()
    project.write("src/usr/share/data", bytes(octets))


def test_what_takes_the_room(anyone):
    """By layer, package and folder, the largest first; a file with several names counts once, what is hidden not."""
    write(anyone, 50000)
    anyone.write("src/old", bytes(10))
    anyone.write("src/usr/bin/tool", bytes(3000))
    anyone.write("src/var/lib/dpkg/status", "Package: tool\nStatus: install ok installed\nVersion: 1\n")
    anyone.write("src/var/lib/dpkg/info/tool.list", "/.\n/bin\n/bin/tool\n")
    anyone.forgefile(*TREES, 'forge.target("linked", Change(base=tree, line="ln $OUT/usr/share/data $OUT/z; ln -s usr/bin $OUT/bin"))')
    anyone.forge("linked")
    rows = anyone.forge("size", "linked", "--json").events
    small = sum(len(anyone.read(f"src/var/lib/dpkg/{name}")) for name in ("status", "info/tool.list"))
    assert rows[0] == {"output": "linked", "size": 53010 + len("empty") + small, "files": 6}
    layers = {row["target"]: (row["rule"], row["added"], row["hidden"]) for row in rows if "layer" in row}
    assert next(iter(layers)) == "base"
    assert layers["base"] == ("Change", 100000, 0)
    assert layers["tree"] == ("Overlay", 53010 + small, 100000)
    assert {row["package"]: row["size"] for row in rows if "package" in row} == {"": 50015 + small, "tool": 3000}
    assert [row["folder"] for row in rows if "folder" in row][:3] == ["/usr", "/usr/share", "/usr/bin"]
    told = anyone.forge("size", "linked", "-n", "2").out.splitlines()
    assert told[0].startswith("linked: 52 KiB in 6 files")
    assert told[-4:] == ["by folder", "  52 KiB  /usr", "  49 KiB  /usr/share", f"  and {len([r for r in rows if 'folder' in r]) - 2} more"]
    assert len(anyone.forge("size", "linked", "-n", "1", "--json").events) == 1 + 4 + 1 + 1
    assert anyone.forge("size", "src").out.splitlines()[0].startswith("src: ")


def test_a_target_over_its_budget(project):
    """It fails with the list, again and again, and what needs it is skipped; more budget runs no step."""
    project.forgefile(*TREES)
    write(project, 1000)
    assert project.json().targets("built") == ["above", "base", "empty", "tree"]
    write(project, 2 << 20)
    failed = project.json(status=1)
    message = failed.only("failed", "tree")["message"].splitlines()
    assert message[0] == "it takes 2.1 MiB, which is 1.1 MiB over its budget of 1.0 MiB"
    assert "  +2.0 MiB  tree   Overlay" in message
    assert message[-2:] == ["it grew by 2.0 MiB since the result before it", "  +2.0 MiB  /usr/share"]
    assert failed.targets("skipped") == ["above"]
    assert not failed.targets("built")
    again = project.json(status=1)
    assert again.only("failed", "tree")["message"].splitlines() == message
    assert not again.targets("started")
    action, reasons = project.planned()["tree"]
    assert (action, reasons) == ("fail", [message[0]])
    assert f"tree would fail\n  {message[0]}\n" in project.forge("why", "tree").out
    assert project.planned()["above"] == ("fail", ["tree would fail"])
    assert project.forge("-n").out.splitlines()[-1] == "2 would fail, 2 up to date"
    for _ in range(2):
        entered = project.forge("shell", "--host", "tree", "--", "true")
        assert entered.err == f"note: tree: {message[0]}\n", "who looks into it may"
    project.forge(status=1)
    assert project.ran("-D", "budget=3MiB") == ["above"]
    assert project.ran("-D", "budget=4MiB") == []
    assert project.json(status=1).targets("failed") == ["tree"]
    assert project.forge("diff", "tree", status=1).out.splitlines()[2] == "~ /usr/share/data  content 1000 B → 2.0 MiB"


def test_a_budget_and_what_is_known_already(project):
    """A snapshot, what it leaves out of the graph, and what is restored."""
    project.forgefile(*TREES)
    write(project, 900 << 10)
    project.forge()
    project.forge()
    write(project, 960 << 10)
    failed = project.forge(status=1).out
    assert failed.startswith("building tree (src/usr/share/data: content changed)\nfailed tree after ")
    assert "\n    +960 KiB  tree   Overlay\n" in failed
    assert project.forge(status=1).out.startswith("failed tree: it takes 1.0 MiB, which is 34 KiB over ")
    write(project, 900 << 10)
    assert "restored tree" in project.forge().out
    project.nothing_runs()
    write(project, 960 << 10)
    action, reasons = project.planned()["tree"]
    assert action == "fail"
    assert reasons[1].startswith("it takes 1.0 MiB, which is 34 KiB over ")
    assert project.json("-k", status=1).targets("failed") == ["tree"]


def test_a_file_over_its_budget_is_not_placed(project):
    line = project.forgefile(
        'size = forge.option("size", "10")', 'forge.target("a", Command(argv=("head", "-c", size, "/dev/zero"), stdout=True, budget="100"))'
    )
    project.forge()
    told = project.forge("-D", "size=200", status=1).out.splitlines()
    assert told[1].startswith("failed a after ")
    assert told[1].endswith(": it takes 200 B, which is 100 B over its budget of 100 B")
    assert told[2:4] == ["  it grew by 190 B since the result before it", f"  declared at  Forgefile.py:{line + 1}"]
    assert (project / "a").stat().st_size == 10
    assert project.forge("-D", "size=100").status == 0
    assert project.json("verify", "-D", "size=200", status=1).targets("failed") == ["a"]


def test_what_is_no_budget(project):
    for value, said in (('"lots"', "'lots' is no size; write a number and a unit, such as '48MiB' or '1.5GiB'"), ("5", "expected str | None, got int 5")):
        project.forgefile(f'forge.target("a", Command(argv=("true",), stdout=True, budget={value}))')
        assert f"Command field 'budget': {said}" in project.forge(status=2).err


def test_what_has_no_size(project):
    project.forgefile('forge.target("a", Shell(line="echo a"))')
    assert "target 'a' was never built, or its result was cleaned\n  hint: forge a\n" in project.forge("size", "a", status=2).err
    assert "argument -n/--number: expected a number from 0, got 'x'" in project.forge("size", "a", "-n", "x", status=2).err
    assert "there is no target, file or folder 'b'" in project.forge("size", "b", status=2).err


def test_files_and_folders_need_no_forgefile(project):
    project.write("a/one", "1\n")
    project.write("b/one", "two\n")
    assert project.forge("size", "a").out.splitlines()[0] == "a: 2 B in 1 file"
    assert "one  content" in project.forge("diff", "a", "b", status=1).out
    assert "there is no Forgefile" in project.forge("diff", "a", status=2).err
    assert "there is no Forgefile" in project.forge("size", "none", status=2).err
