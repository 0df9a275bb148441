"""Charts: well-formed whatever the labels say, and points where the numbers put them."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.report.made_up_run import HOSTILE
from zero2r1.report.charts import Band, Bar, Curve, Point, bar_chart, funnel_chart, line_chart, nice_ticks, spread, standalone, thinned
from zero2r1.report.markup import escape


def curve(*values: tuple[float, float, float | None], label: str = "pass@1", marks: bool = True) -> Curve:
    return Curve(points=tuple(Point(x=x, y=y, error=error) for x, y, error in values), tone="c1", label=label, marks=marks)


def one_band(*curves: Curve, title: str = "R1-Zero") -> list[Band]:
    return [Band(title=title, steps=10, curves=curves)]


@pytest.mark.parametrize("width", [840, 360])
def test_every_chart_is_well_formed_and_shows_hostile_labels_as_text(width: int) -> None:
    bands = [*one_band(curve((0, 0.5, 0.1), (10, 0.7, 0.1), label=HOSTILE)), Band(title=HOSTILE, steps=4, curves=())]
    charts = [
        line_chart(bands, y_title=HOSTILE, describe=HOSTILE, width=width),
        bar_chart([Bar(label=HOSTILE, value=0.4, error=0.1, text=HOSTILE)], describe=HOSTILE, width=width),
        funnel_chart([(HOSTILE, 10), ("kept", 0)], describe=HOSTILE, width=width),
    ]
    for chart in charts:
        tags = {element.tag for element in ElementTree.fromstring(chart).iter()}
        assert tags <= {"svg", "g", "path", "rect", "circle", "text"}
        root = ElementTree.fromstring(standalone(chart).encode())
        assert root.tag == "{http://www.w3.org/2000/svg}svg"


@given(st.text())
def test_no_text_leaves_its_element(text: str) -> None:
    root = ElementTree.fromstring(f'<a b="{escape(text)}">{escape(text)}</a>')
    assert len(root) == 0 and set(root.attrib) == {"b"}


def test_a_point_stands_at_the_height_of_its_value_and_its_bar_ends_at_the_axis() -> None:
    # One band, 300 high: the plot runs from y = 28 (100 %) to y = 262 (0 %); 50 % is 28 + 234 / 2 = 145. Half an interval of 0.2 is
    # 0.2 * 234 = 46.8. At 0.95 the bar would reach 1.15 and stops at 28; below it reaches 0.75, which is 28 + 58.5 = 86.5.
    chart = line_chart(one_band(curve((0, 0.5, 0.2), (10, 0.95, 0.2))), y_title="", describe="", height=300)
    assert re.findall(r'<circle cx="46.0" cy="([\d.]+)"', chart) == ["145.0"]
    assert "M46.0 191.8V98.2" in chart
    assert re.search(r"M[\d.]+ 86\.5V28\.0", chart)


def test_stages_stand_side_by_side_each_on_its_own_steps_and_named_only_where_there_are_several() -> None:
    bands = [
        Band(title="first", steps=30, curves=(curve((0, 0.1, None)),)),
        Band(title="second", steps=10, curves=(curve((10, 0.2, None)),)),
    ]
    both = ElementTree.fromstring(line_chart(bands, y_title="", describe=""))
    grounds = [float(rect.attrib["width"]) for rect in both.iter("rect") if rect.attrib["class"] == "band"]
    # Shares 3/4 and 1/4, the second raised to 0.6 / 2 = 0.3: widths relate as 0.75 to 0.3.
    assert grounds[0] / grounds[1] == pytest.approx(2.5, rel=1e-2)
    titles = [text.text for text in both.iter("text") if text.attrib.get("class") == "strong"]
    assert titles == ["first", "second", "pass@1"]
    alone = line_chart(bands[:1], y_title="", describe="")
    assert 'class="band"' not in alone and "first" not in alone


def test_a_curve_is_named_at_its_end_or_above_a_narrow_plot() -> None:
    bands = one_band(curve((0, 0.2, None), (10, 0.8, None)))
    wide, narrow = (ElementTree.fromstring(line_chart(bands, y_title="", describe="", width=width)) for width in (840, 360))
    wide_label, narrow_label = (next(t for t in chart.iter("text") if t.text == "pass@1") for chart in (wide, narrow))
    assert float(wide_label.attrib["x"]) > 700 and float(narrow_label.attrib["y"]) < 20


def test_bars_and_stations_are_as_long_as_their_share() -> None:
    chart = ElementTree.fromstring(funnel_chart([("sampled", 400), ("kept", 120)], describe=""))
    lengths = [float(rect.attrib["width"]) for rect in chart.iter("rect") if rect.attrib.get("height") == "22"]
    assert lengths[1] / lengths[0] == pytest.approx(0.3, rel=1e-2)
    assert [text.text for text in chart.iter("text")] == ["sampled", "400 · 100 %", "kept", "120 · 30 % · \N{MINUS SIGN}280"]
    bars = ElementTree.fromstring(bar_chart([Bar(label="a", value=0.8, text="x"), Bar(label="b", value=0.2, text="x")], describe=""))
    lengths = [float(rect.attrib["width"]) for rect in bars.iter("rect") if rect.attrib.get("height") == "20"]
    assert lengths[0] / lengths[1] == pytest.approx(4.0, rel=1e-2)


@pytest.mark.parametrize(
    ("high", "most", "ticks"),
    [(72, 7, [0, 20, 40, 60]), (70, 7, [0, 10, 20, 30, 40, 50, 60, 70]), (1.0, 5, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (0.0, 5, [0])],
)
def test_ticks_are_round(high: float, most: int, ticks: list[float]) -> None:
    assert nice_ticks(high, most) == pytest.approx(ticks)


def test_labels_are_moved_apart_in_their_order() -> None:
    # 50 and 52 are 2 apart and need 17: the second moves to 67. 10 is far enough away.
    assert spread([52, 10, 50], gap=17, low=0, high=100) == [67, 10, 50]
    # At the lower end all are pushed back up: 100, 83, 66.
    assert spread([99, 98, 97], gap=17, low=0, high=100) == [100, 83, 66]


def test_a_long_line_becomes_means_of_neighbours_and_keeps_its_ends() -> None:
    points = [Point(x=i, y=i % 2) for i in range(1000)]
    drawn = thinned(points, most=100)
    assert len(drawn) == 100 and (drawn[0].x, drawn[-1].x) == (0, 999)
    assert {point.y for point in drawn} == {0.5}  # ten neighbours: five zeros, five ones
    assert thinned(points[:50], most=100) == points[:50]


@pytest.mark.parametrize(("step", "anchor"), [(2.0, "start"), (9.0, "end")])
def test_where_something_begins_is_a_line_with_its_name_on_the_side_that_has_room(step: float, anchor: str) -> None:
    band = Band(title="t", steps=10, curves=(curve((0, 0.2, None), (10, 0.8, None)),), marker=(step, "a name of some length"))
    drawn = ElementTree.fromstring(line_chart([band], y_title="y", describe="d"))
    (name,) = (text for text in drawn.iter("text") if text.text == "a name of some length")
    assert name.get("text-anchor") == anchor and 0 < float(name.get("y", "0")) < 60
    plain = line_chart([Band(title="t", steps=10, curves=(curve((0, 0.2, None), (10, 0.8, None)),))], y_title="y", describe="d")
    assert "a name of some length" not in plain and "stroke-dasharray" not in plain


def test_a_third_stage_has_room_for_its_title() -> None:
    titles = ("R1-Zero", "Reasoning RL", "RL for all scenarios")
    bands = [
        Band(title=title, steps=steps, curves=(curve((0, 0.2, None), (10, 0.8, None)),))
        for title, steps in zip(titles, (72, 40, 20), strict=True)
    ]
    drawn = ElementTree.fromstring(line_chart(bands, y_title="y", describe="d"))
    assert set(titles) <= {text.text for text in drawn.iter("text")}
