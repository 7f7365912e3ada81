"""Second moments of the inputs of layers, from calibration data: what pruning goes by."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rtaccel.convert.frontend.batches import call_with
from rtaccel.convert.pruning.weight_matrices import fed, matrices_of
from rtaccel.convert.weights.prune import InputStatistics
from rtaccel.formats.observe import RangeObserver, refuse_non_finite

_reached = itertools.count()


class StatisticsObserver:
    """Sums x x^T and x over the rows that each matrix of one layer is fed, in float64. A hook for `watch_inputs`."""

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name = name
        self.first: int | None = None  # which layer of all it was that calibration reached
        widths = [m.weight(module).shape[1] for m in matrices_of(module)]
        self.rows = [0] * len(widths)
        self.second = [_zeros(k, k) for k in widths]
        self.total = [_zeros(k) for k in widths]
        self.observer = RangeObserver(f"the input of {name}")

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for index, rows in enumerate(fed(module, args, kwargs)):
            refuse_non_finite(f"the input of {self.name}", rows)
            rows = rows.detach().double().cpu()
            self.second[index] += rows.T @ rows
            self.total[index] += rows.sum(0)
            self.rows[index] += rows.shape[0]
        if self.first is None:
            self.first = next(_reached)
        x = next(iter((*args, *kwargs.values())))
        with torch.device("cpu"):
            self.observer.observe(x)

    def statistics(self, index: int) -> InputStatistics:
        count = max(self.rows[index], 1)
        return InputStatistics.of_dense(self.second[index] / count, self.total[index] / count, self.rows[index])


def statistics_now(model: nn.Module, work: nn.Module, name: str, index: int, batches: Sequence[Any]) -> InputStatistics:
    """Of a matrix of the layer `name` in `work`, a copy of `model` in which others are pruned: what it is fed, against what
    the dense model feeds it."""
    module = model.get_submodule(name)
    width = matrices_of(module)[index].weight(module).shape[1]
    second, cross, whole = _zeros(width, width), _zeros(width, width), _zeros(width, width)
    total, dense_total, count = _zeros(width), _zeros(width), 0
    for batch in batches:
        dense, now = (_fed(m, name, index, width, batch) for m in (model, work))
        second += now.T @ now
        cross += dense.T @ now
        whole += dense.T @ dense
        total += now.sum(0)
        dense_total += dense.sum(0)
        count += now.shape[0]
    rows = max(count, 1)
    return InputStatistics(second / rows, total / rows, count, cross / rows, whole / rows, dense_total / rows)


def _fed(model: nn.Module, name: str, index: int, width: int, batch: Any) -> Tensor:
    """The rows that one matrix is fed in a call of the model, of all calls of its layer in order."""
    seen: list[Tensor] = []

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(fed(module, args, kwargs)[index].detach().double().cpu())

    handle = model.get_submodule(name).register_forward_pre_hook(hook, with_kwargs=True)
    try:
        with torch.no_grad():
            call_with(model, batch)
    finally:
        handle.remove()
    return torch.cat(seen) if seen else _zeros(0, width)


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.float64, device="cpu")
