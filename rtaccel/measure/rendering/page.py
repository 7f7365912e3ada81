"""A page of sections in the style of the report: what was done, a verdict, tables, drawings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from html import escape

from rtaccel.measure.rendering.line_chart import Chart, line_chart
from rtaccel.measure.rendering.style import style_sheet
from rtaccel.measure.rendering.svg import for_both_widths


def chart_section(title: str, charts: Sequence[Chart], hint: str = "") -> str:
    """Drawings under one heading."""
    drawn = "".join(for_both_widths(partial(line_chart, chart)) for chart in charts)
    return _section(title, hint, drawn)


def table_section(title: str, rows: Sequence[Sequence[str]], hint: str = "") -> str:
    """rows: of cells, the first the head. The first column is text, the others are figures."""
    head, *body = rows
    lines = "".join(f"<tr>{''.join(f'<td>{escape(c)}</td>' for c in row)}</tr>" for row in body)
    return _section(
        title,
        hint,
        f'<div class="scroll"><table><thead><tr>{"".join(f"<th>{escape(c)}</th>" for c in head)}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>",
    )


def pairs_section(title: str, pairs: Sequence[tuple[str, str]]) -> str:
    """What is known, one line each."""
    return _section(title, "", f"<dl>{''.join(f'<dt>{escape(k)}</dt><dd>{escape(v)}</dd>' for k, v in pairs)}</dl>")


def page(
    title: str,
    summary: str,
    sections: Sequence[str],
    verdict: str | None = None,
    headline: str = "",
    command: str = "",
) -> str:
    """The whole page, which loads nothing. verdict: PASS, FAIL or UNDECIDED, with `headline` beside it."""
    banner = (
        f'<div class="banner {escape(verdict)}"><strong>{escape(verdict)}</strong><span>{escape(headline)}</span></div>'
        if verdict
        else ""
    )
    said = _section("Command", "", f"<pre>{escape(command)}</pre>") if command else ""
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style_sheet()}</style></head><body><main><h1>{escape(title)}</h1>"
        f'<p class="soft">{escape(summary)}</p>{banner}{"".join(sections)}{said}</main></body></html>\n'
    )


def _section(title: str, hint: str, body: str) -> str:
    said = f'<p class="hint">{escape(hint)}</p>' if hint else ""
    return f"<section><h2>{escape(title)}</h2>{said}{body}</section>"
