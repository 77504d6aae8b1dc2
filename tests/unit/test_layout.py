"""The drawing of a graph: columns in the order of need, no box on another, straight lines where they can be."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from forgefile.page.layout import HEIGHT, WIDTH, laid_out


@st.composite
def graphs(draw):
    names = [f"t{number}" for number in range(draw(st.integers(1, 25)))]
    return {name: draw(st.lists(st.sampled_from(names[:at] or [name]), max_size=4 if at else 0))
            for at, name in enumerate(names)}  # fmt: skip


@given(graphs())
def test_no_box_lies_on_another_and_what_needs_it_is_on_its_right(needs):
    drawn = laid_out(needs)
    assert list(drawn.boxes) == list(needs)
    places = sorted(drawn.boxes.values())
    for (x, y), (next_x, next_y) in pairwise(places):
        assert next_x > x or next_y - y >= HEIGHT - 0.01
    for name, below in needs.items():
        assert all(drawn.boxes[each][0] + WIDTH < drawn.boxes[name][0] for each in below)
    assert {(of, to) for of, to, _ in drawn.edges} == {(each, name) for name, below in needs.items() for each in below}
    for x, y in places:
        assert -0.01 <= x <= drawn.width - WIDTH + 0.01
        assert -0.01 <= y <= drawn.height - HEIGHT + 0.01
    assert laid_out(needs) == drawn


def test_a_chain_is_a_straight_line():
    drawn = laid_out({"a": [], "b": ["a"], "c": ["b"], "d": ["c"]})
    assert {y for _, y in drawn.boxes.values()} == {0.0}
    assert drawn.height == HEIGHT


def test_a_line_to_a_farther_column_goes_around_the_boxes_between():
    drawn = laid_out({"a": [], "b": ["a"], "c": ["a", "b"]})
    (path,) = [path for of, to, path in drawn.edges if (of, to) == ("a", "c")]
    x, y = drawn.boxes["b"]
    way = float(path.partition("H")[0].rpartition(" ")[2])
    assert way <= y or way >= y + HEIGHT
    assert f"H{x + WIDTH}" in path


def test_what_is_not_there_is_not_drawn():
    assert laid_out({}).boxes == {}
    assert laid_out({"a": ["left out"]}).edges == []


def test_a_huge_graph_has_no_waypoints():
    wide = {f"t{number}": [f"t{at}" for at in range(number)] for number in range(60)}
    assert all("H" not in path for *_, path in laid_out(wide).edges)
