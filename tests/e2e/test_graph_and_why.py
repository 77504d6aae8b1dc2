"""forge graph, and forge why with two names: what hangs together how."""

import json
import os
import subprocess

import pytest

from tests.e2e.conftest import settle

ODD = os.fsdecode(b"a \xff\"'\n<&")


@pytest.fixture
def layers(project):
    """A tree of three layers, a file beside it, and a file made of all."""
    for name in ("overlay/etc/motd", f"{ODD}/one", "key"):
        project.write(name, "a password\n" if name == "key" else "1")
    project.forgefile(
        "class Image(Shell):",
        "    def steps(self, box):",
        "        yield Run(('sh', '-ec', self.line), stdout=box.out)",
        "root = forge.target('root', Empty())",
        "system = forge.target('system', Overlay(base=root, source=forge.source('overlay')))",
        "tuned = forge.target('tuned', Change(base=system, line='sleep 0.3; ls $OUT/etc/motd'))",
        f"odd = forge.target('odd \"name\" <b>', Shell(line='cat \"$1\"/*', inputs=(forge.source({ODD!r}),)))",
        "inputs = (tuned, odd, (system,), {'k': forge.secret('key', file='key')})",
        "forge.target('disk.img', Image(line='cat ' + Sandbox().path(tuned) + '/etc/motd', inputs=inputs))",
        "forge.target('apart', Shell(line='echo'))",
    )
    return project


def facts(project, *words):
    """Return the objects of the JSON form: targets, other things, and the critical path."""
    found = [json.loads(line) for line in project.forge("graph", "--json", *words).out.splitlines()]
    targets = {each["target"]: each for each in found if "target" in each}
    others = {each.get("source", each.get("secret")): each["changed"] for each in found[len(targets) : -1]}
    return targets, others, found[-1]


def test_a_graph_for_programs(layers):
    targets, others, path = facts(layers, "disk.img")
    assert list(targets) == ["root", "system", "tuned", 'odd "name" <b>', "disk.img"]
    assert {each["action"] for each in targets.values()} == {"run", "maybe"}
    assert others == {"overlay": False, ODD: False, "key": False}
    assert targets["disk.img"]["targets"] == ["tuned", 'odd "name" <b>', "system"]
    assert targets["disk.img"]["secrets"] == ["key"]
    layers.forge("disk.img")
    settle()
    layers.write("overlay/etc/motd", "2")
    targets, others, path = facts(layers, "disk.img")
    assert [each["action"] for each in targets.values()] == ["none", "run", "maybe", "none", "maybe"]
    assert others == {"overlay": True, ODD: False, "key": False}
    assert path["critical_path"] == ["system", "tuned", "disk.img"]
    assert path["last_s"] >= 0.3
    layers.forge("disk.img")
    settle()
    layers.write("overlay/etc/motd", "1")
    assert facts(layers, "disk.img")[0]["system"]["action"] == "restore"
    layers.forge("disk.img")
    targets, _, path = facts(layers, "disk.img")
    assert [each["restored"] for each in targets.values()] == [False, True, True, False, True]
    assert path["critical_path"] == ["root", "system", "tuned", "disk.img"]
    before = layers.store()
    layers.forge("graph", "--json")
    assert layers.store() == before


def test_a_graph_to_draw(layers):
    layers.forge("disk.img")
    text = layers.forge("graph").out
    assert text == layers.forge("graph", "--format", "dot").out
    assert text.startswith("digraph forge {")
    subprocess.run(("dot", "-Tplain"), input=text.encode(), check=True, stdout=subprocess.DEVNULL)
    assert layers.forge("graph", "disk.img", "--format", "mermaid").out.startswith("flowchart LR\n")
    picture = layers.forge("graph", "--format", "svg").out
    assert "odd &quot;name&quot; &lt;b&gt;" in picture
    assert "href" not in picture.replace("http://www.w3.org", "")
    assert picture.rstrip().endswith("</svg>")


def test_a_picture_needs_graphviz(layers):
    layers.env["PATH"] = "/nowhere"
    hide = ("unshare", "--mount", "sh", "-c", 'mount --bind /dev/null /usr/bin/dot; exec "$@"', "sh")
    layers.env["PATH"] = os.environ["PATH"]
    ended = layers.forge("graph", "--format", "svg", status=2, prefix=hide)
    assert "Graphviz" in ended.err
    assert "apt-get install graphviz" in ended.err
    assert not ended.out
    for words, message in (
        (("--format", "png"), "invalid choice: 'png'"),
        (("--format", "svg", "--json"), "not allowed with"),
        (("nothing",), "there is no target 'nothing'"),
    ):
        assert message in layers.forge("graph", *words, status=2).err


def test_a_source_alone_has_no_reasons(layers):
    ended = layers.forge("why", "overlay", status=2)
    assert ended.err == "forge: 'overlay' is a source\n  hint: forge why TARGET overlay shows how a target needs it\n"


def test_how_one_needs_the_other(layers):
    assert layers.forge("why", "disk.img", "overlay").out.splitlines() == [
        "disk.img needs overlay in 2 ways",
        "  disk.img  inputs[2][0]  → system",
        "  system    source        → overlay",
        "",
        "  disk.img  inputs[0]  → tuned",
        "  tuned     base       → system",
        "  system    source     → overlay",
    ]
    assert layers.forge("why", "overlay/etc/motd", "system").out.splitlines()[0] == "system needs overlay"
    assert layers.forge("why", "root", "tun*").out.splitlines()[0] == "tuned needs root"
    assert layers.forge("why", "key", "disk.img").out.splitlines()[1] == "  disk.img  inputs[3]['k']  → key"
    (line,) = layers.forge("why", "--json", ODD, "disk.img").out.splitlines()
    links = [{"target": "disk.img", "fields": ["inputs[1]"]}, {"target": 'odd "name" <b>', "fields": ["inputs[0]"]}]
    assert json.loads(line) == {"path": [*links, {"source": ODD}]}
    ended = layers.forge("why", "apart", "root", status=1)
    assert ended.out == "apart does not need root, nor the other way round\n"
    assert layers.forge("why", "apart", "root", "--json", status=1).out == ""
    assert not (layers / ".forge").exists()


def test_how_of_what_is_not_there(layers):
    for words, message in (
        (("disk.img", "overlai"), "did you mean 'overlay'?"),
        (("disk.img", "overlay/none"), "there is no target or source 'overlay/none'"),
        (("disk.img", "disk.img"), "'disk.img' is named twice"),
        (("disk.img", "*"), "'*' matches 6 targets"),
    ):
        assert message in layers.forge("why", *words, status=2).err


def test_why_for_programs(layers):
    (line,) = layers.forge("why", "--json", "root").out.splitlines()
    assert json.loads(line) == {"target": "root", "action": "run", "reasons": ["never built"], "built_because": []}
    out = layers.forge("why", "root", "system", "apart").out.splitlines()
    assert [out[0], out[2], out[-2]] == ["root would run", "system may run", "apart would run"]
