"""Rows of one kind: what is planned for a model as a graph, and for another way to run it. And what rows need of the card."""

from __future__ import annotations

from bench.device.row import Row

CONTEXT_MIB = 1000
"""Of a process that uses the card at all, with room for what a small row allocates."""

LARGE_MIB = 3000


def graph(kind: str, title: str, name: str, scheme: str, seconds: float, estimate: float = 5, kernel: str = "") -> Row:
    what = {"kind": kind, "name": name, "scheme": scheme, **({"kernel": kernel} if kernel else {})}
    by = f", by {kernel}" if kernel else ""
    return Row(
        f"{title}, rtaccel {scheme} graph{by}", "bench.device.rows.graphs:graph_row", {**what, "seconds": seconds},
        f"{kind} graphs", estimate, 45, LARGE_MIB, prepare="bench.device.prepare:graph", prepare_arguments=what,
    )  # fmt: skip


def peer(kind: str, title: str, name: str, way: str, seconds: float, estimate: float) -> Row:
    family = "peers" if estimate < 5 else ""
    what = {"kind": kind, "name": name, "way": way, "seconds": seconds}
    return Row(
        f"{title}, {way}", "bench.device.rows.graphs:peer_row", what, family, estimate, 4 * estimate + 20, LARGE_MIB
    )
