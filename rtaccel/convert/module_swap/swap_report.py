"""What `quantize_` did to each layer, and why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rtaccel.convert.module_swap.report_tables import dataframe, html_table, text_table


@dataclass(frozen=True)
class SwapEntry:
    """One linear layer of the model.

    fqn: dotted name; also: its other names, where it is used in several places. action: "swapped", "kept" or "prepared" (for
    training), and the reason. scheme: the one asked for. activation: "static" or "dynamic"; None where they stay as they are.
    shape: (N, K). bytes_before, bytes_after: of weight, bias and scales. us_before, us_after: median time of a call of
    the nn.Linear and of the candidate, with `rows` rows. spread: of the former's times, the middle half of them over their
    median; the reason says so where it is large. error: rms of the candidate's error over the rms of the
    original's output, on calibration rows where there are some, on random normal ones where not.
    """

    fqn: str
    action: Literal["swapped", "kept", "prepared"]
    reason: str
    scheme: str
    shape: tuple[int, int]
    bytes_before: int
    activation: str | None = None
    bytes_after: int | None = None
    rows: int | None = None
    us_before: float | None = None
    us_after: float | None = None
    spread: float | None = None
    error: float | None = None
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class SwapReport:
    """Entries in the order of the model, and notes on what was asked for. Print it for a table."""

    entries: tuple[SwapEntry, ...]
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[SwapEntry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def swapped(self) -> int:
        return sum(e.action == "swapped" for e in self.entries)

    @property
    def prepared(self) -> int:
        return sum(e.action == "prepared" for e in self.entries)

    @property
    def kept(self) -> int:
        return sum(e.action == "kept" for e in self.entries)

    @property
    def bytes_before(self) -> int:
        return sum(e.bytes_before for e in self.entries)

    @property
    def bytes_after(self) -> int:
        """Bytes of all the layers as they are now."""
        return sum(
            e.bytes_before if e.action == "kept" or e.bytes_after is None else e.bytes_after for e in self.entries
        )

    def to_json(self) -> str:
        """An object with swapped, kept, bytes_before, bytes_after, notes and the list of entries."""
        totals = {name: getattr(self, name) for name in ("swapped", "kept", "bytes_before", "bytes_after", "notes")}
        return json.dumps({**totals, "entries": [asdict(e) for e in self.entries]}, indent=2)

    def to_dataframe(self) -> Any:
        """A pandas.DataFrame with a row for each layer. Raises BackendUnavailable where pandas is not installed."""
        return dataframe("SwapReport.to_dataframe", self.entries)

    def __str__(self) -> str:
        return text_table(self._rows(), self._last(), self.notes)

    def _repr_html_(self) -> str:
        return html_table(self._rows(), self._last(), self.notes)

    def _rows(self) -> list[tuple[str, ...]]:
        head = ("layer", "[N, K]", "action", "scheme", "activation", "rows", "us", "bytes", "error", "reason")
        return [head, *(_row(entry) for entry in self.entries)]

    def _last(self) -> str:
        done = f"{self.prepared} prepared" if self.prepared else f"{self.swapped} swapped"
        return f"{done}, {self.kept} kept; {self.bytes_before} -> {self.bytes_after} bytes"


def _row(e: SwapEntry) -> tuple[str, ...]:
    return (
        ", ".join((e.fqn, *e.also)),
        f"[{e.shape[0]}, {e.shape[1]}]",
        e.action,
        e.scheme,
        e.activation or "-",
        "-" if e.rows is None else str(e.rows),
        "-" if e.us_before is None else f"{e.us_before:.2f} -> {e.us_after:.2f}",
        str(e.bytes_before) if e.bytes_after is None else f"{e.bytes_before} -> {e.bytes_after}",
        "-" if e.error is None else f"{e.error:.2%}",
        e.reason,
    )
