"""What `sparsify_` did to each layer, and what that costs it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rtaccel.convert.module_swap.report_tables import dataframe, html_table, text_table


@dataclass(frozen=True)
class SparsifyEntry:
    """One matrix: a layer, or one of the several that an LSTM, a GRU or an attention has.

    fqn: dotted name, of one of several with its own after the layer's; also: its other names. action: "swapped" (its layer
    is a SparseLinear, QuantLSTM or QuantGRU now), "pruned" (a torch layer with zeros) or "kept", and the reason. sparsity:
    the pattern; zeros: fraction of the weight that is zero now. method: that chose them. error: rms of what the output lost
    over the rms of the output without bias, on calibration data; without any, on
    inputs of independent normal numbers. bytes_before, bytes_after: of its weight and bias; of a swapped layer of several,
    with the first, of all its tensors. us_before, us_after: median time of a call of the nn.Linear and of the SparseLinear.
    """

    fqn: str
    action: Literal["swapped", "pruned", "kept"]
    reason: str
    shape: tuple[int, int]
    sparsity: str | None = None
    method: str | None = None
    zeros: float | None = None
    error: float | None = None
    bytes_before: int = 0
    bytes_after: int | None = None
    us_before: float | None = None
    us_after: float | None = None
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class SparsifyReport:
    """Entries in the order of the model, and notes on what was asked for. Print it for a table."""

    entries: tuple[SparsifyEntry, ...]
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[SparsifyEntry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def changed(self) -> int:
        return sum(e.action != "kept" for e in self.entries)

    @property
    def zeros(self) -> float:
        """Fraction of zeros in the weights of the layers that were changed."""
        weights = {e.fqn: e.shape[0] * e.shape[1] for e in self.entries if e.zeros is not None}
        gone = sum((e.zeros or 0.0) * weights[e.fqn] for e in self.entries if e.zeros is not None)
        return gone / max(sum(weights.values()), 1)

    def to_json(self) -> str:
        """An object with changed, zeros, notes and the list of entries."""
        totals = {"changed": self.changed, "zeros": self.zeros, "notes": self.notes}
        return json.dumps({**totals, "entries": [asdict(e) for e in self.entries]}, indent=2)

    def to_dataframe(self) -> Any:
        """A pandas.DataFrame with a row for each matrix. Raises BackendUnavailable where pandas is not installed."""
        return dataframe("SparsifyReport.to_dataframe", self.entries)

    def __str__(self) -> str:
        return text_table(self._rows(), self._last(), self.notes)

    def _repr_html_(self) -> str:
        return html_table(self._rows(), self._last(), self.notes)

    def _rows(self) -> list[tuple[str, ...]]:
        head = ("layer", "[N, K]", "action", "pattern", "method", "zeros", "output error", "us", "bytes", "reason")
        return [head, *(_row(entry) for entry in self.entries)]

    def _last(self) -> str:
        return f"{self.changed} of {len(self)} matrices changed, {self.zeros:.1%} zeros in them"


def _row(e: SparsifyEntry) -> tuple[str, ...]:
    return (
        e.fqn,
        f"[{e.shape[0]}, {e.shape[1]}]",
        e.action,
        e.sparsity or "-",
        e.method or "-",
        "-" if e.zeros is None else f"{e.zeros:.1%}",
        "-" if e.error is None else f"{e.error:.2%}",
        "-" if e.us_after is None else f"{e.us_before:.2f} -> {e.us_after:.2f}",
        str(e.bytes_before) if e.bytes_after is None else f"{e.bytes_before} -> {e.bytes_after}",
        e.reason,
    )
