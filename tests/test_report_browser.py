"""Reports in a browser: they open without a word on the console, in light and dark, and stay below a megabyte."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rtaccel as rt
from rtaccel.core.errors import BackendUnavailable, FormatError
from rtaccel.measure import report_png
from rtaccel.measure.charts import MOST_DRAWN
from rtaccel.measure.charts_stages import MOST_ROWS, roofline_chart, stage_bars
from rtaccel.measure.report import render_report
from rtaccel.measure.report_markdown import render_markdown
from rtaccel.measure.report_png import write_png
from rtaccel.measure.result import Latency
from rtaccel.measure.roofline import Bandwidth, Peak, Roofline
from rtaccel.measure.stages import StageProfile, StageTime

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome", "chrome") if (found := shutil.which(name))),
    None,
)

ROOF = Roofline(
    (Bandwidth("cache", 100.0), Bandwidth("memory", 20.0)), (Peak("int8", 200.0), Peak("float32", 50.0)), "made up"
)


def result(name: str, base_us: float, n: int = 5_000, budget: rt.Budget | None = None) -> Latency:
    samples = base_us * 1e3 * (1 + np.random.default_rng(5).gamma(2, 0.05, n))
    samples[::400] *= 8
    return Latency.from_samples(samples, name=name, timer_ns=40.0, budget=budget)


def profile(stages: int = 5) -> StageProfile:
    rows = [
        StageTime(
            f"net.{i} <&>", "linear(int8[1, 64])", "cpu_avx2", 0.2 + i % 7, 0.4 + i % 7, 4_000 + i, 2_000 * (i + 1)
        )
        for i in range(stages)
    ]
    return StageProfile((StageTime("in", "the plan's own", "plan", 0.04, 0.05), *rows), 1.9, 20.0, 300, ("a <note>",))


def page(theme: str | None = None) -> str:
    results = [result("ours", 3.0, budget=rt.Budget(p99_us=20)), result("torch <b>", 80.0)]
    return render_report(
        results, title="A report", command="rtaccel profile x", stages=profile(), roofline=ROOF, theme=theme,  # type: ignore[arg-type]
        facts=[("Weights", "12 kB"), ("Energy", "not measured: no counter <here>")],
    )  # fmt: skip


def browse(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr",
        f"--user-data-dir={path.parent / 'browser'}", *options, path.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def console(said: str) -> list[str]:
    """What the page said: errors of scripts and of loading, warnings of the parser."""
    return [line for line in said.splitlines() if re.search(r"CONSOLE[:(]", line)]


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)")


@needs_browser
@pytest.mark.parametrize(("theme", "low", "high"), [("light", 200, 256), ("dark", 0, 60)])
def test_it_opens_and_looks_as_it_should(theme: str, low: int, high: int, tmp_path: Path) -> None:
    image = pytest.importorskip("matplotlib.image", reason="matplotlib, which reads the picture, is not installed")
    path, shot = tmp_path / "report.html", tmp_path / "shot.png"
    path.write_text(page(theme), encoding="utf-8")
    done = browse(path, f"--screenshot={shot}", "--window-size=1160,2600")
    assert console(done.stderr) == []
    pixels = image.imread(shot)[..., :3] * 255
    assert pixels.shape[:2] == (2600, 1160)
    assert low <= np.median(pixels) < high
    # Bars, curves and dots are drawn: the first colour of the series is there, in hundreds of pixels.
    blue = np.array([0x2A, 0x78, 0xD6] if theme == "light" else [0x4B, 0x94, 0xEE])
    assert (np.abs(pixels - blue).max(axis=2) < 40).sum() > 2_000


@needs_browser
def test_the_check_hears_an_error(tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text("<script>console.error('ouch'); undefined_name();</script>")
    said = console(browse(path, "--dump-dom").stderr)
    assert any("ouch" in line for line in said)
    assert any("undefined_name" in line for line in said)


@needs_browser
def test_the_browser_reads_it_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(page(), encoding="utf-8")
    dom = browse(path, "--dump-dom").stdout
    for heading in (
        "Where the time goes",
        "How near to the machine's limits",
        "Memory and energy",
        "Limits",
        "Command",
    ):
        assert f"<h2>{heading}</h2>" in dom
    assert dom.count("<svg") == page().count("<svg") == 4
    assert "net.3 &lt;&amp;&gt;" in dom


def test_a_hundred_results_with_a_long_profile_stay_below_a_megabyte() -> None:
    rng = np.random.default_rng(1)
    results = [
        Latency.from_samples(rng.gamma(2, 3_000, 20_000), name=f"linear/case-{i}/cpu_avx512vnni", timer_ns=40.0,
                             budget=rt.Budget(p50_us=50, p99_us=90))
        for i in range(100)
    ]  # fmt: skip
    source = render_report(results, title="t", stages=profile(200), roofline=ROOF)
    assert len(source.encode()) < 1_000_000
    assert f"The first {MOST_DRAWN} of 100 are drawn." in source
    assert all(r.name in source for r in results)


def test_long_programs_show_the_slowest_stages() -> None:
    drawn = stage_bars(profile(MOST_ROWS + 20))
    assert drawn.count('class="bars"') == MOST_ROWS + 1
    assert "21 further stages" in drawn
    assert "nan" not in stage_bars(StageProfile((StageTime("x", "", "", 0.0, 0.0),), None, 0.0, 1))
    assert "nan" not in stage_bars(StageProfile((), None, 0.0, 1))


def test_a_roofline_needs_stages_that_have_both() -> None:
    nothing = StageProfile((StageTime("copy", "", "cpu_copy", 1.0, 1.0, 50),), 1.0, 20.0, 3)
    assert roofline_chart(ROOF, nothing) == ""
    drawn = roofline_chart(ROOF, profile())
    assert drawn.count('class="dot"') == 5
    assert drawn.count('class="roof"') == 4
    for number in re.findall(r'c[xy]="([\d.-]+)"', drawn):
        assert 0 <= float(number) <= 1040


def test_markdown() -> None:
    results = [result("ours | <b>", 3.0, budget=rt.Budget(p99_us=20)), result("torch", 80.0)]
    text = render_markdown(
        results, title="A *report*", command="say `x`\nand ``y``", stages=profile(), facts=[("Energy", "none")]
    )
    assert text.startswith("### A \\*report\\*\n\n**PASS**\n")
    assert "| ours \\| \\<b\\> |" in text
    assert "```\nsay `x`" in text
    assert "- Energy: none" in text
    widths = {line.count("|") - line.count("\\|") for line in text.splitlines() if line.startswith("| ours")}
    assert widths == {8, 6}  # figures, limits
    with pytest.raises(FormatError, match="no results"):
        render_markdown([], title="t")


@pytest.mark.parametrize("dark", [False, True])
def test_png(dark: bool, tmp_path: Path) -> None:
    image = pytest.importorskip(
        "matplotlib.image", reason="matplotlib is not installed (pip install 'rtaccel[report]')"
    )
    results = [result("ours", 3.0, budget=rt.Budget(p99_us=20)), result("torch", 80.0)]
    path = write_png(tmp_path / "r.png", results, title="t", stages=profile(), dark=dark)
    pixels = image.imread(path)[..., :3]
    assert pixels.shape[1] == 1800
    assert (np.median(pixels) < 0.3) == dark
    with pytest.raises(FormatError, match="no results"):
        write_png(path, [], title="t")


def test_png_without_matplotlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BackendUnavailable, match="report"):
        report_png.write_png(tmp_path / "r.png", [result("ours", 3.0)], title="t")
