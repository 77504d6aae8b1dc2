"""The graph as text that other programs read."""

import subprocess

import pytest

from forgefile.drawing import Drawing, Node, caption, dot, mermaid, state_of

ODD = 'a "b" \\n <b> &amp; #1 `c` [d] {e}| é \n\udcff'
ENTITIES = "a #34;b#34; #92;n #60;b#62; #38;amp#59; #35;1 #96;c#96; #91;d#93; #123;e#125;#124; é #92;n#92;udcff"
DRAWING = Drawing(
    (
        Node("source", ODD, "changed"),
        Node("target", "one", "run", "Shell", 61.0, 2048, is_critical=True),
        Node("target", ODD, "maybe", "Shell", is_critical=True),
        Node("target", "other", "restored"),
        Node("secret", "token"),
    ),
    ((0, 1), (1, 2), (3, 2), (4, 2)),
    61.0,
)


def test_caption():
    assert caption(DRAWING) == (
        "1 would run, 1 may run, 1 restored last; critical path: 2 targets, about 1 min 1 s"
    )  # fmt: skip
    assert caption(Drawing((), ())) == ""
    assert state_of("none", was_restored=True) == "restored"
    assert state_of("run", was_restored=True) == "run"


def test_dot_reads_it_and_shows_names_as_they_are():
    text = "\n".join(dot(DRAWING))
    ended = subprocess.run(("dot", "-Tsvg"), input=text.encode(), capture_output=True, check=True)
    assert not ended.stderr
    svg = ended.stdout.decode()
    assert "a &quot;b&quot; \\n &lt;b&gt; &amp;amp; #1 `c` [d] {e}| é \\n\\udcff" in svg
    assert text.count('color="#c92a2a", penwidth=3') == 3  # two targets, and the arrow between them


@pytest.mark.parametrize("line", [
    f'  n0[/"{ENTITIES}<br/>source<br/>changed"/]:::changed',
    '  n1("one<br/>Shell · 1 min 1 s · 2.0 KiB<br/>would run"):::critical_run',
    "  n1 --> n2",
    "  linkStyle 1 stroke:#c92a2a,stroke-width:3px",
])  # fmt: skip
def test_mermaid(line):
    assert line in list(mermaid(DRAWING))
