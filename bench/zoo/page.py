"""The page of the zoo: what the survey and the latencies say, as Markdown between the markers of docs/reference/zoo.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.peers.report import put_between, us
from bench.peers.results import Row
from bench.zoo import figures
from bench.zoo.doors import summary as doors_summary
from bench.zoo.figures import EAGER, ORT, OURS, OURS_INT8, Ratios, Rows, beside, ratios, row_of
from bench.zoo.summary import CAPTURED, COUNTED, failures, heads, missing, share_native, surveys
from bench.zoo.survey import Survey

BEGIN, END = "<!-- zoo: written by `python -m bench.zoo page` -->", "<!-- zoo: end -->"
COLUMNS = {
    EAGER: "eager", "torch_compile": "torch.compile", ORT: "ORT fp32", "ort_int8": "ORT int8", "ov_fp32": "OpenVINO",
    "litert_fp32": "LiteRT", OURS: "rtaccel", OURS_INT8: "rtaccel W8A8",
}  # fmt: skip
SHOWN = 25
"""Missing operators in the table."""


def write(
    survey: Mapping[str, Any], latency: Mapping[str, Any], page: Path, doors: Mapping[str, Any] | None = None
) -> None:
    """Raises ValueError where the page has no markers."""
    found = surveys(survey)
    rows = {name: [Row(**row) for row in stored] for name, stored in latency.get("networks", {}).items()}
    parts = [summary(found, rows), by_domain(found, rows), missing_table(found), failure_list(found)]
    parts += [networks(found, rows), left_out(found), through_doors(doors or {}), about(survey, latency)]
    put_between(page, "\n\n".join(filter(None, parts)), BEGIN, END)


def summary(found: Sequence[Survey], rows: Rows) -> str:
    """Shares and geometric means."""
    counts, counted = heads(found), [one for one in found if one.status in COUNTED]
    captured = sum(one.status in CAPTURED for one in counted)
    lines = ["| over all networks | |", "|---|--:|"]
    lines.append(f"| networks that run here in torch | {len(counted)} |")
    lines.append(f"| captured whole | {_percent(captured, len(counted))} |")
    lines.append(f"| wholly native | {share_native(found):.0%} |")
    told = ", ".join(f"{counts[s]} {s}" for s in COUNTED if counts[s])
    lines.append(f"| of these | {told} |")
    worst = max((one.error for one in counted if one.error is not None), default=None)
    if worst is not None:
        lines.append(f"| largest error beside float64, float32 scheme | {worst:.1e} of the rms |")
    if rows:
        lines += _speed(found, rows)
    return "\n".join(lines)


def _speed(found: Sequence[Survey], rows: Rows) -> list[str]:
    native = figures.only(rows, [one.name for one in found if one.status == "native"])
    partial = figures.only(rows, [one.name for one in found if one.status == "partial"])
    eager, best = ratios(rows, beside(EAGER), OURS), ratios(rows, figures.best_exact_peer, OURS)
    lines = [
        _mean("float32 beside ONNX Runtime fp32, geometric mean", ratios(rows, beside(ORT), OURS)),
        _mean("of the wholly native ones", ratios(native, beside(ORT), OURS)),
        _mean("of the partly native ones", ratios(partial, beside(ORT), OURS)),
        _mean("W8A8 beside ONNX Runtime fp32, geometric mean", ratios(rows, beside(ORT), OURS_INT8)),
        _mean("W8A8 of the wholly native ones", ratios(native, beside(ORT), OURS_INT8)),
        _mean("float32 beside torch eager, geometric mean", eager),
        f"| slower than torch eager | {_percent(len(eager.below_one), len(eager.values))} |",
        f"| at least as fast as the best exact peer | {_percent(len(best.values) - len(best.below_one), len(best.values))} |",
    ]
    eight = [name for name in rows if row_of(rows[name], OURS_INT8) is not None]
    kept = len(figures.accurate(rows, OURS_INT8, "int8"))
    return [*lines, f"| W8A8 with an error of at most 3 % | {_percent(kept, len(eight))} |"]


def _mean(title: str, found: Ratios) -> str:
    return f"| {title} | {'-' if found.mean is None else f'{found.mean:.2f}x ({len(found.values)} networks)'} |"


def _percent(part: int, whole: int) -> str:
    return f"{part} of {whole} ({part / whole:.0%})" if whole else "-"


def by_domain(found: Sequence[Survey], rows: Rows) -> str:
    lines = ["| domain | networks | wholly native | float32 beside ONNX Runtime | W8A8 |", "|---|--:|--:|--:|--:|"]
    for domain in dict.fromkeys(one.domain for one in found):
        members = [one for one in found if one.domain == domain and one.status in COUNTED]
        part = figures.only(rows, [one.name for one in members])
        means = [ratios(part, beside(ORT), mine).mean for mine in (OURS, OURS_INT8)]
        cells = " | ".join("-" if mean is None else f"{mean:.2f}x" for mean in means)
        own = sum(one.status == "native" for one in members)
        lines.append(f"| {domain} | {len(members)} | {own} | {cells} |")
    return "\n".join(lines)


def missing_table(found: Sequence[Survey]) -> str:
    every = missing(found)
    if not every:
        return ""
    lines = ["| operator that falls back | networks | the only one in | calls | for example |", "|---|--:|--:|--:|---|"]
    for row in every[:SHOWN]:
        example = row.arguments[0] if row.arguments else ""
        lines.append(
            f"| `{row.operator}` | {len(row.networks)} | {len(row.alone)} | {row.calls} | `{_cell(example)}` |"
        )
    rest = len(every) - SHOWN
    return "\n".join(lines) + (f"\n\nAnd {rest} operators in fewer networks." if rest > 0 else "")


def failure_list(found: Sequence[Survey]) -> str:
    lines = []
    for _, group in failures(found):
        for one in group:
            lines.append(f"- {one.name} ({one.status}): {one.reason}")
    return "Networks that are not captured, or fail:\n\n" + "\n".join(lines) if lines else ""


def networks(found: Sequence[Survey], rows: Rows) -> str:
    """A row per network. Times in us; int8 of ONNX Runtime is the faster of static and dynamic within an error of 3 %."""
    heads_ = ["network", "package", "native", "error", "compile s", *(COLUMNS.values() if rows else ()), "notes"]
    lines = ["| " + " | ".join(heads_) + " |", "|---|---|" + "--:|" * (len(heads_) - 3) + "---|"]
    for one in found:
        if one.status in COUNTED:
            lines.append(_network(one, rows.get(one.name, ()), bool(rows)))
    return "\n".join(lines)


def _network(one: Survey, rows: Sequence[Row], timed: bool) -> str:
    share = f"{one.native}/{one.stages}" if one.stages else one.status
    error = "-" if one.error is None else f"{one.error:.1e}"
    seconds = "-" if one.compile_seconds is None else f"{one.compile_seconds:.1f}"
    cells = [one.name, one.package, share, error, seconds]
    if timed:
        best = figures.best_exact_peer(rows)
        for peer in COLUMNS:
            row = _int8_of(rows) if peer == "ort_int8" else row_of(rows, peer)
            mark = "**" if row is not None and (row is best or peer == OURS) else ""
            cells.append("-" if row is None else f"{mark}{us(row.best_us)}{mark}")
    notes = [one.wrapped] if one.wrapped else []
    notes += [] if one.reference == "float64" or one.error is None else [f"error beside {one.reference}"]
    notes += [one.other] if one.other and one.error_other is None else []
    return "| " + " | ".join([*cells, _cell("; ".join(notes))]) + " |"


def _int8_of(rows: Sequence[Row]) -> Row | None:
    mine = [row for row in rows if row.peer in ("ort_static_int8", "ort_dyn_int8")]
    return figures.best_int8_peer(mine)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def left_out(found: Sequence[Survey]) -> str:
    lines = [f"- {one.name}: {one.reason}" for one in found if one.status in ("left out", "broken")]
    return (
        "Left out, because the package is missing or the network does not run in torch:\n\n" + "\n".join(lines)
        if lines
        else ""
    )


def through_doors(record: Mapping[str, Any]) -> str:
    """What `python -m bench.zoo doors` found."""
    table = doors_summary.table(doors_summary.networks(record))
    return f"What `python -m bench.zoo doors` found, by door:\n\n{table}" if table else ""


def about(survey: Mapping[str, Any], latency: Mapping[str, Any]) -> str:
    """The machine and the versions."""
    told = []
    for title, record in (("Survey", survey), ("Latencies", latency)):
        if machine := record.get("environment"):
            versions = ", ".join(f"{k} {v}" for k, v in machine.get("versions", {}).items() if v)
            told.append(f"{title}: {machine.get('cpu')}, {str(machine.get('date'))[:10]}, {versions}.")
    return "\n\n".join(told)
