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
from rtaccel.measure.machine.roofline import Bandwidth, Peak, Roofline
from rtaccel.measure.rendering.charts import MAX_DRAWN
from rtaccel.measure.rendering.charts_stages import MAX_ROWS, roofline_chart, stage_bars
from rtaccel.measure.report import render_report
from rtaccel.measure.report_markdown import render_markdown
from rtaccel.measure.report_png import write_png
from rtaccel.measure.result import Latency
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
    # Bars, curves and dots are drawn: the first color of the series is there, in hundreds of pixels.
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
    assert dom.count("<svg") == page().count("<svg") == 2 * 4  # for wide pages and for narrow ones
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
    assert f"The first {MAX_DRAWN} of 100 are drawn." in source
    assert all(r.name in source for r in results)


HARD_LIMITS = rt.Budget(p50_us=1.2, p99_us=1.3, p999_us=1.45, size_bytes=20_000, max_error=0.1)

LOOK = """
<script>
const said = [];
if (document.documentElement.scrollWidth > window.innerWidth) said.push("the page is cut");
for (const box of document.querySelectorAll(".scroll, .wide, .narrow"))
  if (box.scrollWidth > box.clientWidth + 1) said.push("cut: " + box.textContent.slice(0, 60));
for (const svg of document.querySelectorAll("svg")) {
  const frame = svg.getBoundingClientRect();
  if (!frame.width) continue;
  const texts = [...svg.querySelectorAll("text:not([transform])")].map(t => [t.textContent, t.getBoundingClientRect()]);
  texts.forEach(([a, r], i) => {
    if (r.left < frame.left - 1 || r.right > frame.right + 1) said.push("outside: " + a);
    for (const [b, s] of texts.slice(i + 1))
      if (Math.min(r.right, s.right) - Math.max(r.left, s.left) > 2 && Math.min(r.bottom, s.bottom) - Math.max(r.top, s.top) > 4)
        said.push("overlap: " + a + " | " + b);
  });
}
document.body.innerHTML = "<pre id=said>" + said.map(t => t.replace(/</g, "&lt;")).join("\\n") + "</pre>";
</script>
"""


@needs_browser
@pytest.mark.parametrize("width", [500, 700, 740, 1200])
def test_no_label_covers_another_and_nothing_is_cut(width: int, tmp_path: Path) -> None:
    """A report with everything that is hard to place: long names, limits side by side, six decades, many stages."""
    long = "a_very_long_benchmark_name_that_goes_on/with-a-case-of-its-own/cpu_avx512vnni"
    results = [
        result("bound call, W8A8", 0.9, budget=HARD_LIMITS), result("call, W8A8", 1.46, budget=rt.Budget(p99_us=50)),
        result(long, 1_460.0, budget=rt.Budget(p99_us=2_000, p999_us=2_100)), result("torch", 85_000.0, n=300),
    ]  # fmt: skip
    rows = [
        StageTime(
            f"encoder.layers.{i}.self_attn.out_proj.with_a_long_name", "linear", "cpu_avx512vnni", 0.2 + i * 37 % 11 * 120,
            0.4 + i * 37 % 11 * 160, 4_000 * (i + 1), 20_000 * (i + 1) ** 2,
        )
        for i in range(26)
    ]  # fmt: skip
    near = Roofline(
        (Bandwidth("level 1", 300.0), Bandwidth("level 2", 150.0)), (Peak("int8 VNNI", 400.0), Peak("int8", 330.0)), "x"
    )
    text = render_report(
        results, title="Hard", stages=StageProfile(tuple(rows), 5_000.0, 20.0, 300), roofline=near, command="x" * 300,
        quality={"torch": "AUC 0.99 of a test that has a rather long description\nsofter"},
    )  # fmt: skip
    path = tmp_path / "report.html"
    path.write_text(text.replace("</body>", LOOK + "</body>"), encoding="utf-8")
    dom = browse(path, "--dump-dom", f"--window-size={width},3000").stdout
    found = re.search(r'<pre id="said">(.*?)</pre>', dom, re.DOTALL)
    assert found is not None, dom[:2000]
    assert found[1] == ""


def test_figures_stand_in_one_unit_with_separators_and_the_load_beside_the_verdict() -> None:
    results = [
        result("fast", 0.9, budget=rt.Budget(p99_us=2e6)),
        result("slow", 1_460.0),
        result("slowest", 1_234_567.0),
    ]
    for text in (render_report(results, title="Units"), render_markdown(results, title="Units")):
        assert "p50, µs" in text
        assert f"{results[2].p50_us:,.0f}" in text
        assert f"{results[1].p50_us:,.0f}" in text
        assert not re.search(r"\de\+\d", text)
        assert re.search(r"PASS.{0,60}load [\d.]+ on \d+ core", text, re.DOTALL)


def test_long_programs_show_the_slowest_stages() -> None:
    drawn = stage_bars(profile(MAX_ROWS + 20))
    assert drawn.count('class="bars"') == MAX_ROWS + 1
    assert "21 further modules" in drawn
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
    assert re.match(r"### A \\\*report\\\*\n\n\*\*PASS\*\*, load [\d.]+ on \d+ cores?\n", text)
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
