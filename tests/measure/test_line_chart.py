"""Curves as SVG: every point inside the drawing, gaps, log axes, thinning that keeps extremes, and text that cannot break out."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from rtaccel.measure.rendering.line_chart import Chart, Curve, line_chart
from rtaccel.measure.rendering.page import chart_section, page, table_section
from rtaccel.measure.rendering.svg import NARROW, WIDTH


def paths(svg: str) -> list[list[list[tuple[float, float]]]]:
    """Of each curve its unbroken pieces."""
    found = []
    for d in re.findall(r' d="([^"]*)"', svg):
        pieces = [re.findall(r"([\d.-]+) ([\d.-]+)", piece) for piece in d.split("M")[1:]]
        found.append([[(float(a), float(b)) for a, b in piece] for piece in pieces])
    return found


@pytest.mark.parametrize("width", [WIDTH, NARROW])
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_points_lie_inside_and_in_order(width: int, log: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = np.exp(rng.normal(size=200) * (seed + 1) * 3)
    chart = Chart("a", [Curve("one", np.arange(200.0), y)], limits={"high": float(y.max() * 2)}, log=log)
    svg = line_chart(chart, width)
    ElementTree.fromstring(svg)
    (piece,) = paths(svg)[0]
    assert len(piece) == 200
    assert all(0 <= x <= width and 0 <= at <= chart.height for x, at in piece)
    order = np.argsort([at for _, at in piece], kind="stable")
    drawn = y[order]
    assert (np.diff(drawn) <= np.ptp(np.log(y) if log else y) * 0.02 * (drawn[:-1] if log else 1) + 1e-9).all()


def test_gaps_break_lines_and_nothing_is_drawn_of_nothing() -> None:
    y = np.array([1.0, 2.0, math.nan, 3.0, math.inf, 4.0])
    assert [len(piece) for piece in paths(line_chart(Chart("a", [Curve("b", np.arange(6), y)])))[0]] == [2, 1, 1]
    assert "nothing to draw" in line_chart(Chart("a", [Curve("b", [], [])]))
    assert "nothing to draw" in line_chart(Chart("a", [Curve("b", [1.0], [math.nan])]))
    ElementTree.fromstring(line_chart(Chart("a", [Curve("b", [1.0, 1.0], [0.0, 0.0])])))
    assert "nothing to draw" in line_chart(Chart("a", [Curve("b", [1.0], [-1.0])], log=True))


def test_thinning_keeps_the_extremes() -> None:
    y = np.zeros(100_000)
    y[54_321], y[12_345] = 5.0, -5.0
    (piece,) = paths(line_chart(Chart("a", [Curve("b", np.arange(100_000), y)], height=260)))[0]
    assert len(piece) < 4000
    full = paths(line_chart(Chart("a", [Curve("b", [0.0, 1.0, 2.0], [0.0, 5.0, -5.0])], height=260)))[0][0]
    assert {min(at for _, at in piece), max(at for _, at in piece)} == {full[1][1], full[2][1]}


def test_text_is_escaped() -> None:
    bad = "<script>alert('a')</script>&\""
    chart = Chart(bad, [Curve(bad, [0.0, 1.0], [0.0, 1.0])], limits={bad: 0.5}, x_title=bad, y_title=bad)
    source = page(bad, bad, [chart_section(bad, [chart], bad), table_section(bad, [[bad], [bad]])], "PASS", bad, bad)
    assert "<script" not in source
    ElementTree.fromstring(line_chart(chart))
