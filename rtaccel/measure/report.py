"""One self-contained HTML file with the verdict, the figures, two charts, the machine and the command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from os import PathLike
from pathlib import Path
from typing import Literal

from rtaccel.core.errors import FormatError
from rtaccel.core.process import whole_file
from rtaccel.measure.budget import TIME_KEYS
from rtaccel.measure.machine.environment import describe, load_text
from rtaccel.measure.machine.roofline import Roofline
from rtaccel.measure.numbers import figure, shown, unit_of
from rtaccel.measure.rendering.charts import MAX_DRAWN, histograms, tails
from rtaccel.measure.rendering.stages import roofline_section, stage_section
from rtaccel.measure.rendering.style import style_sheet
from rtaccel.measure.rendering.svg import color, duration, for_both_widths
from rtaccel.measure.rendering.witness import witness_section
from rtaccel.measure.result import Latency, check_results
from rtaccel.measure.stages import StageProfile
from rtaccel.measure.verdict import Line, Verdict

_WORDS: dict[Verdict, tuple[str, str]] = {
    "PASS": ("✓ PASS", "Every limit is proved with 99 % confidence."),
    "FAIL": ("✗ FAIL", "At least one limit is exceeded."),
    "UNDECIDED": ("? UNDECIDED", "Nothing is shown to exceed its limit, and not everything is proved."),
}


def render_report(
    results: Sequence[Latency],
    *,
    title: str,
    command: str | None = None,
    summary: str | None = None,
    quality: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    theme: Literal["light", "dark"] | None = None,
    error_name: str = "error",
    headline: str | None = None,
    stages: StageProfile | None = None,
    roofline: Roofline | None = None,
    facts: Sequence[tuple[str, str]] = (),
) -> str:
    """The page as text. Nothing in it refers to another file or address; every text given is escaped.

    results: rows and curves, in this order; the environment shown is the first one's. quality: name of a result -> its
    quality in words ("AUC 0.993"); where absent, its `error`. command: the exact line that makes this report.
    summary: a sentence under the title. notes: paragraphs at the end. theme: None follows the reader's setting.
    error_name: what the `error` of the results is. headline: a sentence beside the verdict instead of the general one.
    A line break in a quality starts a second, softer line. stages: where the time of a call goes; roofline: what the
    machine can do, drawn where there are stages. facts: (label, text) on memory and energy.

    Raises FormatError when there are no results.
    """
    check_results(results, title)
    if theme not in (None, "light", "dark"):
        raise FormatError("report", f"theme={shown(theme)}", '"light", "dark" or None', "None follows the reader.")
    drawn = results[:MAX_DRAWN]
    cut = f" The first {MAX_DRAWN} of {len(results)} are drawn." if len(results) > MAX_DRAWN else ""
    attribute = "" if theme is None else f' data-theme="{theme}"'
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(summary)}</p>' if summary else "",
        _banner(results, headline),
        _figures(results, quality or {}, error_name),
        '<section><h2>How long each call took</h2><p class="hint">Every call timed on its own. Heights are '
        "logarithmic, so that a single slow call is seen; each row is scaled to its own tallest bar. Dashed lines are the "
        f"limits of that row.{cut}</p>{for_both_widths(partial(histograms, drawn))}</section>",
        '<section><h2>How slow the slow calls are</h2><p class="hint">The share of calls above a percentile falls '
        "tenfold per step to the right. A curve below a triangle meets that limit on this sample.</p>"
        f"{for_both_widths(partial(tails, drawn))}</section>",
        stage_section(stages) if stages else "",
        roofline_section(roofline, stages) if roofline and stages else "",
        _verdicts(results, error_name),
        witness_section(results),
        _pairs("Memory and energy", facts) if facts else "",
        _environment(results[0]),
        f"<section><h2>Command</h2><pre>{escape(command)}</pre></section>" if command else "",
        _doubts(results, notes),
        f"<footer>Measured {escape(str(results[0].environment.get('date', '')))} by rtaccel. Timer cost is included in "
        "every figure, not subtracted.</footer>",
    ]
    return (
        f'<!DOCTYPE html><html lang="en"{attribute}><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style_sheet()}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def write_report(path: str | PathLike[str], results: Sequence[Latency], **options: object) -> Path:
    """Writes `render_report(results, **options)` to a file, UTF-8, and returns its path.

    Raises FormatError where it cannot be written.
    """
    target = whole_file.target_of("report", path)
    return whole_file.write("report", target, render_report(results, **options))  # type: ignore[arg-type]


def _banner(results: Sequence[Latency], headline: str | None) -> str:
    lines = [line for result in results for line in result.lines]
    if not lines:
        return ""
    # A comparison may hold peers that miss the budget; the banner is about every line judged, and says so.
    verdicts = [line.verdict for line in lines]
    verdict: Verdict = "FAIL" if "FAIL" in verdicts else "UNDECIDED" if "UNDECIDED" in verdicts else "PASS"
    word, meaning = _WORDS[verdict]
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in _WORDS if v in verdicts)
    failed = sorted({result.name for result in results if result.verdict == "FAIL"})
    load = load_text(results[0].environment)
    busy = f" The machine meanwhile: {load}." if load else ""
    names = f" Over budget: {', '.join(failed)}." if failed else ""
    return (
        f'<div class="banner {verdict}"><strong>{word}</strong>'
        f"<span>{escape((headline or meaning) + names)} <br>{counts}, of {len(lines)} limit{'s' * (len(lines) > 1)}."
        f"{escape(busy)}</span></div>"
    )


def _figures(results: Sequence[Latency], quality: Mapping[str, str], error_name: str) -> str:
    sized = any(result.size_bytes is not None for result in results)
    valued = any(result.name in quality or result.error is not None for result in results)
    unit, factor = unit_of([us for r in results for us in (r.p50_us, r.p99_us, r.p999_us, r.max_us)])
    times = [f"{label}, {unit}" for label in ("p50", "p99", "p99.9", "max")]
    labels = [*times, "calls", *["size"] * sized, *["quality"] * valued, "verdict"]
    texts = {"quality", "verdict"}
    head = ["<th>name</th>", *(f'<th class="text">{h}</th>' if h in texts else f"<th>{h}</th>" for h in labels)]
    rows = []
    for i, result in enumerate(results):
        mode = "" if result.mode == "warm" else f'<span class="range">{escape(result.mode)}</span>'
        swatch = f'<span class="swatch" style="background:{color(i)}"></span>'
        cells = [
            f'<td class="wrap">{swatch}<b>{escape(result.name)}</b>{mode}</td>',
            *(_quantile(result, q, factor) for q in ("p50", "p99", "p999")),
            f"<td>{figure(result.max_us * factor)}</td>",
            f"<td>{result.n:,}</td>",
        ]
        if sized:
            cells.append(f"<td>{bytes_text(result.size_bytes)}</td>")
        if valued:
            error = "" if result.error is None else f"{error_name} {figure(result.error, 3)}"
            first, _, rest = quality.get(result.name, error).partition("\n")
            softer = f'<span class="range">{escape(rest)}</span>' if rest else ""
            cells.append(f'<td class="text wrap few">{escape(first)}{softer}</td>')
        cells.append(_verdict_cell(result.verdict, load_text(result.environment)))
        labelled = (cell.replace("<td", f'<td data-label="{h}"', 1) for h, cell in zip(("", *labels), cells))
        rows.append(f"<tr>{''.join(labelled)}</tr>")
    return (
        '<section><h2>Figures</h2><p class="hint">Under each percentile, its 99 % bounds from order statistics.</p>'
        f'<div class="scroll"><table class="stacks"><thead><tr>{"".join(head)}</tr></thead><tbody>{"".join(rows)}</tbody>'
        "</table></div></section>"
    )


def _quantile(result: Latency, name: str, factor: float) -> str:
    value = figure(getattr(result, f"{name}_us") * factor)
    bounds = " .. ".join("?" if bound is None else figure(bound * factor) for bound in result.bounds[name])
    return f'<td><b>{value}</b><span class="range">{bounds}</span></td>'


def _verdict_cell(verdict: Verdict | None, load: str = "") -> str:
    """load: how busy the machine was, which stands beside the verdict of a result."""
    if verdict is None:
        return '<td class="text soft">no budget</td>'
    softer = f'<span class="range">{escape(load)}</span>' if load else ""
    return f'<td class="text"><b class="{verdict}">{_WORDS[verdict][0]}</b>{softer}</td>'


def _verdicts(results: Sequence[Latency], error_name: str) -> str:
    rows = [
        f'<tr><td class="wrap">{"" if i else escape(result.name)}</td><td class="text">{escape(_limit(line, error_name))}</td>'
        f'{_verdict_cell(line.verdict)}<td class="text wrap">{escape(line.reason)}</td></tr>'
        for result in results
        for i, line in enumerate(result.lines)
    ]
    if not rows:
        return ""
    return (
        '<section><h2>Limits</h2><div class="scroll"><table class="stacks"><thead><tr><th>name</th><th class="text">limit</th>'
        '<th class="text">verdict</th><th class="text">why</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _limit(line: Line, error_name: str) -> str:
    if line.key == "size_bytes":
        return f"size ≤ {bytes_text(int(line.limit))}"
    if line.key == "max_error":
        return f"{error_name} ≤ {figure(line.limit, 3)}"
    if line.key not in TIME_KEYS:
        sign = "≥" if line.key.startswith("min_") else "≤"
        return f"{line.key.replace('_', ' ')} {sign} {figure(line.limit)}"
    return f"{line.key.removesuffix('_us').replace('p999', 'p99.9')} ≤ {duration(line.limit)}"


def _environment(result: Latency) -> str:
    rows = [*describe(result.environment), ("timer", f"{result.timer_ns:.0f} ns per call")]
    return _pairs("Machine and software", rows)


def _pairs(title: str, rows: Sequence[tuple[str, str]]) -> str:
    pairs = "".join(f"<dt>{escape(label)}</dt><dd>{escape(text)}</dd>" for label, text in rows)
    return f"<section><h2>{title}</h2><dl>{pairs}</dl></section>"


def _doubts(results: Sequence[Latency], notes: Sequence[str]) -> str:
    texts = [*notes, *(f"{result.name}: {note}" for result in results for note in result.notes)]
    if not texts:
        return ""
    return f"<section><h2>Notes</h2><ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul></section>"


def bytes_text(size: int | None) -> str:
    """A size for people: three digits and the unit that suits it; nothing for None."""
    if size is None:
        return ""
    for limit, factor, unit in ((1000, 1, "B"), (1e6, 1e3, "kB"), (1e9, 1e6, "MB")):
        if size < limit * 0.9995:
            return f"{figure(size / factor, 3)} {unit}"
    return f"{figure(size / 1e9, 3)} GB"
