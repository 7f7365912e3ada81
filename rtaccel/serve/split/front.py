"""The cuts beside each other: what each would take, send and be off by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Row:
    """One cut with one wire.

    at: stages on the edge; 0 sends the inputs, and the number of all stages sends nothing.
    after: the module of the last stage on the edge.
    scheme: of float32 on the wire: "float32", "int8", "int4"; "none" where nothing is sent.
    us: predicted mean of a call with losses. p99_us: what 99 % take at most, of losses alone.
    wire_bytes: of the frame to the cloud. answer_bytes: of the frame back.
    edge_us, link_us, cloud_us: parts of `us` without losses; frames are in link_us.
    edge_bytes: of weights on the edge. tensors: how many cross.
    error: rms of the difference from the model over the model's rms; None where it was not measured.
    metric: as it was given; None where it was not asked.
    exits: share of calls that the edge answers by itself, before anything is sent; 0 without early exits. Then `us` is the mean
        over all calls, edge_us what the edge takes in the mean, link_us and cloud_us are of those that are sent.
    sent_bytes: to the cloud, a call in the mean: wire_bytes of those that are sent.
    raw: whether an input, or another form of one, is sent.
    why_not: the reason that it cannot be chosen; "" where it can.
    """

    at: int
    after: str
    scheme: str
    us: float
    p99_us: float
    wire_bytes: int
    answer_bytes: int
    edge_us: float
    link_us: float
    cloud_us: float
    edge_bytes: int
    tensors: int
    error: float | None = None
    metric: float | None = None
    exits: float = 0.0
    sent_bytes: float = 0.0
    raw: bool = False
    why_not: str = field(default="")

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def table(rows: Sequence[Row], chosen: Row) -> str:
    """Rows in the order of the cuts, with a star at the one that was chosen."""
    head = (
        "",
        "at",
        "after",
        "wire",
        "us",
        "p99",
        "edge",
        "link",
        "cloud",
        "bytes",
        "back",
        "exits",
        "error",
        "why not",
    )
    lines: list[tuple[str, ...]] = [head]
    for row in sorted(rows, key=lambda r: (r.at, -r.wire_bytes)):
        error = "" if row.error is None else f"{row.error:.1e}"
        figures = (f"{v:.1f}" for v in (row.us, row.p99_us, row.edge_us, row.link_us, row.cloud_us))
        mark = "*" if row is chosen else ""
        where = row.after if len(row.after) <= 24 else "…" + row.after[-23:]
        lines.append(
            (mark, str(row.at), where, row.scheme, *figures, str(row.wire_bytes), str(row.answer_bytes),
             f"{row.exits:.0%}" if row.exits else "", error, row.why_not)
        )  # fmt: skip
    if not any(row.exits for row in rows):
        lines = [line[:11] + line[12:] for line in lines]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = {0, 2, 3, len(lines[0]) - 1}
    return "\n".join(
        "  ".join(c.ljust(w) if i in text else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths))).rstrip()
        for line in lines
    )
