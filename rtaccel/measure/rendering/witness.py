"""The part of the reports that says which misses the machine explains: rows of what witnesses saw."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from rtaccel.measure.machine.witness import Witness
from rtaccel.measure.rendering.svg import duration
from rtaccel.measure.result import Latency

HEAD = ("name", "limit", "calls over it", "machine disturbed", "not explained")


def witness_rows(results: Sequence[Latency]) -> list[tuple[str, ...]]:
    """A row for each latency limit of each result that had a witness."""
    return [
        (
            result.name, f"{miss.key.removesuffix('_us').replace('p999', 'p99.9')} ≤ {duration(miss.limit_us)}",
            f"{miss.raw:,}", f"{miss.attributed:,}", f"{miss.unattributed:,}",
        )
        for result in results if result.witness is not None
        for miss in result.witness.misses
    ]  # fmt: skip


def witness_lines(results: Sequence[Latency]) -> list[str]:
    """A sentence for each result that had a witness."""
    return [f"{result.name}: {_sentence(result.witness)}" for result in results if result.witness is not None]


def witness_section(results: Sequence[Latency]) -> str:
    """Empty where no result had a witness."""
    lines = witness_lines(results)
    if not lines:
        return ""
    rows = "".join(f"<tr>{_cells('td', row)}</tr>" for row in witness_rows(results))
    head = _cells("th", HEAD)
    table = (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>' if rows else ""
    )
    return (
        '<section><h2>What the machine did meanwhile</h2><p class="hint">A fixed piece of work, as long as the call, ran '
        "before each call. A call over its limit is explained where it, the scheduler or the hypervisor shows a disturbance "
        f"in the same 5 ms. Verdicts count every call.</p>{table}"
        f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul></section>"
    )


def _cells(tag: str, row: Sequence[str]) -> str:
    kinds = (' class="text"' if i == 1 else "" for i in range(len(row)))
    return "".join(f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in zip(kinds, row))


def _sentence(seen: Witness) -> str:
    steal = "unknown" if seen.steal_ms is None else f"{seen.steal_ms:.0f} ms"
    return (
        f"witness p50 {duration(seen.p50_us)}, p99 {duration(seen.p99_us)}, max {duration(seen.max_us)}; "
        f"{seen.switches:,} context switches, steal {steal}, in {seen.windows:,} windows"
    )
