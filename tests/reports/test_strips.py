"""Tests of strips, whose places are known."""

import re

import pytest

from reports.strips import Scale, Strip, axis_html, scale_over, strip_html


def test_places_are_per_cent_of_the_scale():
    scale = Scale(0.2, 0.6, (0.2, 0.4))
    assert [scale.place(value) for value in (0.2, 0.3, 0.6, 0.0, 1.0)] == [0, 25, 100, 0, 100]


def test_a_scale_starts_at_0_where_that_costs_little_room_and_says_where_not():
    near = scale_over([0.1, 0.5])
    far = scale_over([0.61, 0.72, None, float("nan")])
    assert near.low == 0
    assert not near.is_cut
    assert 0.6 < far.low < 0.61
    assert 0.72 < far.high < 0.73
    assert far.is_cut
    assert not scale_over([-0.2, 0.1]).is_cut
    assert scale_over([-0.2, -0.1], include=[0]).high > 0


@pytest.mark.parametrize("values", [[], [0.5], [0.0, 0.0], [-3.0], [1e9, 1e9]])
def test_values_without_a_range_have_a_scale(values):
    scale = scale_over(values)
    assert scale.low < scale.high
    assert all(scale.low <= one <= scale.high for one in scale.ticks)


def test_a_strip_has_its_parts_where_they_belong():
    scale = Scale(0.0, 1.0, (0.0, 0.5))
    strip = Strip("half & more", 0.5, 0.25, 0.75, points=(0.1,), line=0.0, is_main=True)
    html = strip_html(strip, scale)
    assert '<i class="band" style="left:25.0%;width:50.0%">' in html
    assert '<i class="dot" style="left:50.0%">' in html
    assert '<i class="point" style="left:10.0%">' in html
    assert '<i class="line" style="left:0.0%">' in html
    assert 'aria-label="half &amp; more"' in html
    assert html.startswith('<span class="strip main"')
    assert "dot" not in strip_html(Strip("nothing"), scale)


def test_the_axis_names_its_ticks():
    scale = Scale(-0.1, 0.1, (-0.1, 0.0, 0.1))
    assert re.findall(">([^<>]+)</b>", axis_html(scale)) == ["-0.1", "0", "0.1"]
    assert re.findall(">([^<>]+)</b>", axis_html(scale, signed=True)) == ["-0.1", "0", "+0.1"]


def test_a_narrow_axis_names_few_ticks_and_0():
    ticks = (-0.04, -0.02, 0.0, 0.02, 0.04)
    scale = Scale(-0.05, 0.05, ticks)
    assert re.findall(">([^<>]+)</b>", axis_html(scale, signed=True)) == ["-0.04", "0", "+0.04"]
    assert len(re.findall("<b", axis_html(scale, most=6))) == 5
