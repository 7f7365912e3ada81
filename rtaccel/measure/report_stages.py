"""The part of the HTML report that says where the time goes: a bar and a row for each stage, and the roofline."""

from __future__ import annotations

from html import escape

from rtaccel.measure.charts_stages import roofline_chart, stage_bars
from rtaccel.measure.roofline import Roofline
from rtaccel.measure.stages import HEAD, StageProfile, rows, summary


def stage_section(profile: StageProfile) -> str:
    """Chart and table."""
    head = "".join(
        f'<th class="text">{escape(h)}</th>' if i < 2 else f"<th>{escape(h)}</th>" for i, h in enumerate(HEAD)
    )
    body = []
    for stage, cells in zip(profile.stages, rows(profile)):
        first, kernel, *numbers = (escape(cell) for cell in cells)
        body.append(
            f'<tr><td class="text wrap"><b>{first}</b><span class="range">{escape(stage.what)}</span></td>'
            f'<td class="text">{kernel}</td>' + "".join(f"<td>{number}</td>" for number in numbers) + "</tr>"
        )
    notes = "".join(f'<p class="hint">{escape(note)}</p>' for note in profile.notes)
    return (
        '<section><h2>Where the time goes</h2><p class="hint">Median time of each part of a call; thin lines go on to its '
        f"99th percentile. {escape(_sentence(summary(profile)))}</p>{notes}{stage_bars(profile)}"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div></section>'
    )


def roofline_section(roof: Roofline, profile: StageProfile) -> str:
    """Empty where no stage has both bytes and multiply-adds."""
    chart = roofline_chart(roof, profile)
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
