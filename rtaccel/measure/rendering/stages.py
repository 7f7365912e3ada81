"""The part of the HTML report that says where the time goes: a bar and a row for each stage, and the roofline."""

from __future__ import annotations

from functools import partial
from html import escape

from rtaccel.measure.machine.roofline import Roofline
from rtaccel.measure.rendering.charts_stages import roofline_chart, stage_bars
from rtaccel.measure.rendering.svg import for_both_widths
from rtaccel.measure.stages import HEAD, StageProfile, rows, summary


def stage_section(profile: StageProfile) -> str:
    """Chart and table."""
    head = "".join(
        f'<th class="text">{escape(h)}</th>' if i < 2 else f"<th>{escape(h)}</th>" for i, h in enumerate(HEAD)
    )
    body = []
    for stage, cells in zip(profile.stages, rows(profile)):
        first, kernel, *numbers = (escape(cell) for cell in cells)
        figures = "".join(f'<td data-label="{escape(h)}">{number}</td>' for h, number in zip(HEAD[2:], numbers))
        body.append(
            f'<tr><td class="text wrap"><b>{first}</b><span class="range">{escape(stage.what)}</span></td>'
            f'<td class="text" data-label="kernel">{kernel}</td>{figures}</tr>'
        )
    notes = "".join(f'<p class="hint">{escape(note)}</p>' for note in profile.notes)
    bars = for_both_widths(partial(stage_bars, profile))
    table = f'<table class="stacks"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'
    return (
        '<section><h2>Where the time goes</h2><p class="hint">Median time of a call by module; thin lines go on to the '
        f"99th percentile where a module is one stage. {escape(_sentence(summary(profile)))}</p>{notes}{bars}"
        f'<div class="scroll">{table}</div></section>'
    )


def roofline_section(roof: Roofline, profile: StageProfile) -> str:
    """Empty where no stage has both bytes and multiply-adds."""
    chart = for_both_widths(partial(roofline_chart, roof, profile))
    if not chart:
        return ""
    return (
        '<section><h2>How near to the machine\'s limits</h2><p class="hint">A dot for each stage. Left of a bend the '
        "reading of weights and values limits it, right of it the arithmetic. Dots far below every line wait for something "
        f"else: calls, dependencies, or too little work to fill the vectors. Lines: {escape(roof.source)}.</p>{chart}"
        "</section>"
    )


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."
