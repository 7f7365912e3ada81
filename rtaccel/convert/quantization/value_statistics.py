"""Second moments and a few rows of values in a captured graph: what forms and roundings of a layer go by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from rtaccel.convert.frontend.batches import batches_of
from rtaccel.convert.frontend.exported.graph import ExportedGraph
from rtaccel.convert.quantization.calibrate import as_args, run_graph
from rtaccel.convert.weights.prune import InputStatistics
from rtaccel.core.errors import FormatError
from rtaccel.formats.observe import refuse_non_finite

SAMPLE_ROWS = 2048
"""Rows of a value that are kept: as many numbers as a range needs, and enough for the mean of an error."""


class InputSums:
    """Sums of x x^T and x over rows [.., K], in float64."""

    def __init__(self) -> None:
        self.rows = 0
        self._second: Tensor | None = None
        self._total: Tensor | None = None

    def add(self, x: Tensor) -> None:
        rows = x.detach().double().reshape(-1, x.shape[-1]).cpu()
        second, total = rows.T @ rows, rows.sum(0)
        self._second = second if self._second is None else self._second + second
        self._total = total if self._total is None else self._total + total
        self.rows += len(rows)

    def scaled(self, factor: Tensor) -> InputSums:
        """Of the same rows with their columns multiplied by `factor` [K]."""
        made, scale = InputSums(), factor.double().cpu()
        if self._second is not None and self._total is not None:
            made._second, made._total = self._second * torch.outer(scale, scale), self._total * scale
        made.rows = self.rows
        return made

    def inputs(self) -> InputStatistics | None:
        """None where no row was seen."""
        if self._second is None or self._total is None or not self.rows:
            return None
        return InputStatistics.of_dense(self._second / self.rows, self._total / self.rows, self.rows)


class ValueStatistics:
    """Of one value [..., K]: the sums over its rows, and a sample of them."""

    def __init__(self, name: str, width: int) -> None:
        self.name, self._width = name, width
        self._sums = InputSums()
        self._kept: list[Tensor] = []
        self._generator = torch.Generator("cpu").manual_seed(0)

    def observe(self, x: Tensor) -> None:
        rows = x.detach().float().reshape(-1, self._width).cpu()
        refuse_non_finite(self.name, rows)
        self._sums.add(rows)
        self._kept.append(rows.clone())
        if sum(map(len, self._kept)) > 2 * SAMPLE_ROWS:
            self._kept = [self.sample()]

    @property
    def rows(self) -> int:
        return self._sums.rows

    def sample(self) -> Tensor:
        """float32 [rows, K], SAMPLE_ROWS of them at most."""
        rows = torch.cat(self._kept)
        if len(rows) <= SAMPLE_ROWS:
            return rows
        picked = torch.randperm(len(rows), generator=self._generator, device="cpu")[:SAMPLE_ROWS]
        return rows[picked.sort().values]

    def divided(self, factor: Tensor) -> ValueStatistics:
        """Of the same value with its columns divided by `factor` [K]."""
        made = ValueStatistics(self.name, len(factor))
        scale = 1 / factor.double().cpu()
        made._sums = self._sums.scaled(scale)
        made._kept = [(rows.double() * scale).float() for rows in self._kept]
        return made

    def inputs(self) -> InputStatistics | None:
        return self._sums.inputs()


def gather(exported: ExportedGraph, calibration: Any, widths: dict[str, int]) -> dict[str, ValueStatistics]:
    """Of the values of these nodes, whose rows are so wide. Raises FormatError where calibration has no batch."""
    watch = {name: ValueStatistics(name, width) for name, width in widths.items()}
    with torch.no_grad():
        for batch in batches_of("compile", calibration):
            run_graph(exported, as_args(batch), watch, {})
    for name, seen in watch.items():
        if not seen.rows:
            raise FormatError("calibration", f"no value for {name}", "at least one batch", "Pass real inputs.")
    return watch


def rows_of(exported: ExportedGraph, names: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Of (value, K) those whose last dimension is K as torch holds them, so that their rows are what a layer multiplies."""
    nodes = {node.name: node for node in exported.graph.nodes}
    found = {}
    for name, width in names:
        value = nodes[name].meta.get("val") if name in nodes else None
        if isinstance(value, Tensor) and value.dim() > 1 and value.shape[-1] == width:
            found[name] = width
    return found
