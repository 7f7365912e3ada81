"""The HTML report: well-formed, self-contained, escaped, and drawn from the numbers given."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import rtaccel as rt
from rtaccel.core.errors import FormatError
from rtaccel.measure.machine.witness import Misses, Witness
from rtaccel.measure.rendering.charts import histograms, tails
from rtaccel.measure.rendering.svg import WIDTH, LogAxis, duration
from rtaccel.measure.report import render_report, write_report
from rtaccel.measure.report_markdown import render_markdown
from rtaccel.measure.result import Latency
from rtaccel.measure.verdict import Line

VOID = {"meta", "br"}
SELF_CLOSED = {"line", "path", "circle"}


class Page(HTMLParser):
    """Checks that tags are balanced, and keeps the texts and tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in SELF_CLOSED
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def result(name: str, base_us: float, n: int = 2_000, budget: rt.Budget | None = None, **given: object) -> Latency:
    rng = np.random.default_rng(len(name))
    samples = base_us * 1e3 * (1 + rng.gamma(2, 0.05, n))
    samples[::400] *= 8
    return Latency.from_samples(samples, name=name, timer_ns=40.0, budget=budget, **given)  # type: ignore[arg-type]


def several() -> list[Latency]:
    budget = rt.Budget(p99_us=20, size_bytes=40_000)
    return [
        result("ours", 3.0, budget=budget, size_bytes=17_000, error=0.01),
        result("evil <script>alert(\"1\")</script> & 'co'", 30.0, budget=budget, size_bytes=66_000),
        result("torch", 80.0),
    ]


def test_page_is_well_formed_self_contained_and_complete(tmp_path: Path) -> None:
    results = several()
    path = write_report(
        tmp_path / "report.html",
        results,
        title="A <title> & more",
        command="rtaccel demo --out '<i>'",
        summary="One & only",
        quality={"torch": "AUC <0.99>"},
        notes=["a <b>note</b>"],
    )
    source = path.read_text(encoding="utf-8")
    assert len(source) < 1_000_000
    assert not re.search(r"https?:|//|url\(|@import|src=|href=", source)
    page = Page(source)
    assert not {"script", "link", "img", "b note"} & {tag for tag, _ in page.tags}
    text = "".join(page.texts)
    for given in (
        "A <title> & more", "rtaccel demo --out '<i>'", "One & only", "AUC <0.99>", "a <b>note</b>",
        *(r.name for r in results), "17 kB", "error 0.01", "p99 ≤ 20 µs", str(results[0].environment["python"]),
    ):  # fmt: skip
        assert given in text
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)


def test_banner_says_the_worst_verdict_and_who() -> None:
    ours, evil, free = several()
    assert 'class="banner FAIL"' in render_report([ours, evil, free], title="t")
    assert "Over budget: evil" in render_report([ours, evil], title="t")
    assert 'class="banner PASS"' in render_report([ours, free], title="t")
    unproved = result("few", 3.0, n=100, budget=rt.Budget(p99_us=2000))
    assert 'class="banner UNDECIDED"' in render_report([ours, unproved], title="t")
    assert 'class="banner' not in render_report([free], title="t")


def test_a_witness_and_the_mode_are_shown() -> None:
    """Misses in three counts, in both kinds of report; nothing of it where there was no witness."""
    seen = Witness(1.5, 2.5, 90.0, 12, 7, None, (Misses("p999_us", 20.0, 1_234, 1_000),), np.ones(3, np.float32))
    measured = result("ours", 3.0, budget=rt.Budget(p999_us=20), witness=seen, mode="cold caches")
    page = " ".join(Page(render_report([measured], title="t")).texts)
    text = render_markdown([measured], title="t")
    for shown in ("cold caches", "p99.9 ≤ 20", "1,234", "1,000", "234", "7 context switches", "steal unknown"):
        assert shown in page, shown
        assert shown in text, shown
    assert "meanwhile" not in render_report([result("ours", 3.0)], title="t") + render_markdown(several(), title="t")


def test_headline_error_name_and_other_limits() -> None:
    ours = result("ours", 3.0, budget=rt.Budget(p99_us=20, max_error=0.5), error=0.01)
    extra = Line("lost_packets", 3, 4, None, None, "FAIL", "four were lost")
    ours = replace(ours, lines=(*ours.lines, extra), verdict="FAIL")
    page = Page(
        render_report([ours], title="t", headline="a < b.", error_name="<drop>", quality={ours.name: "AUC 1\n<soft>"})
    )
    text = "".join(page.texts)
    for given in ("a < b.", "<drop> ≤", "lost packets ≤ 3", "four were lost", "AUC 1", "<soft>", "0.01 <= 0.5"):
        assert given in text
    assert "At least one limit" not in text


def test_theme_can_be_fixed_and_both_have_the_same_colors() -> None:
    free = result("torch", 80.0)
    assert '<html lang="en">' in render_report([free], title="t")
    dark = render_report([free], title="t", theme="dark")
    assert '<html lang="en" data-theme="dark">' in dark
    used = set(re.findall(r"var\(--([\w-]+)\)", dark))
    for block in re.findall(r"\{(--page:[^}]*)\}", dark):
        assert used <= set(re.findall(r"--([\w-]+):", block))
    assert len(re.findall(r"--page:", dark)) == 3  # light, dark by preference, dark by attribute


def numbers(svg: str, pattern: str) -> list[float]:
    return [float(found) for found in re.findall(pattern, svg)]


def test_tail_curve_rises_to_the_measured_percentiles() -> None:
    samples = np.linspace(1_000, 100_000, 10_000)
    one = Latency.from_samples(samples, name="one", timer_ns=0.0, budget=rt.Budget(p99_us=120))
    svg = tails([one])
    points = [tuple(map(float, p.split(","))) for p in re.search(r'points="([^"]*)"', svg).group(1).split()]  # type: ignore[union-attr]
    xs, ys = zip(*points)
    assert list(xs) == sorted(xs)
    assert list(ys) == sorted(ys, reverse=True)  # svg counts downwards
    assert all(0 <= x <= WIDTH for x in xs)
    assert "99.9 %" in svg
    assert "99.99 %" not in svg  # ten calls would be needed beyond it
    limit_y = numbers(svg, r'class="limit" d="M[\d.]+ [\d.]+h12L[\d.]+ ([\d.]+)Z"')
    assert limit_y[0] < min(ys)  # the limit lies above the curve


def test_histogram_stays_on_the_canvas_and_shows_each_limit() -> None:
    results = [result(f"r{i}", 10.0**i, budget=rt.Budget(p50_us=10.0**i, p99_us=3 * 10.0**i)) for i in range(6)]
    svg = histograms(results)
    xs = numbers(svg, r'x[12]?="([\d.-]+)"') + numbers(svg, r"(?:M|H)([\d.-]+)")
    assert min(xs) >= 0
    assert max(xs) <= WIDTH
    assert "nan" not in svg
    assert svg.count('class="budget"') == 12
    assert Page(svg).open == []


@pytest.mark.parametrize("samples", [[0], [5], [7, 7, 7], [1, 10**12]])
def test_extreme_samples_are_drawn(samples: list[int]) -> None:
    one = Latency.from_samples(samples, name="x", timer_ns=0.0)
    page = render_report([one] * 10, title="t")
    assert "nan" not in page.lower().replace("nanosecond", "")
    assert "inf" not in "".join(re.findall(r"<svg.*?</svg>", page)).lower()
    Page(page)


def test_nothing_to_report_is_refused() -> None:
    with pytest.raises(FormatError, match="no results"):
        render_report([], title="t")


def test_units_and_ticks() -> None:
    us = (0.0123, 0.99999, 3.14159, 999.9, 1_000, 20_000, 3e6)
    assert [duration(v) for v in us] == ["12.3 ns", "1 µs", "3.14 µs", "1 ms", "1 ms", "20 ms", "3 s"]
    assert LogAxis(1, 100, 0, 1).ticks() == pytest.approx([1, 2, 5, 10, 20, 50, 100])
    assert LogAxis(1, 1e5, 0, 1).ticks() == pytest.approx([1, 10, 100, 1e3, 1e4, 1e5])
    axis = LogAxis(1, 100, 20, 40)
    assert (axis(1), axis(10), axis(100)) == (20, 30, 40)
