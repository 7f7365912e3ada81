"""Second moments of the inputs of layers, from calibration data: what pruning goes by."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rtaccel.convert.calibrate import call_with
from rtaccel.convert.prune import Moments
from rtaccel.core.errors import FormatError
from rtaccel.formats.observe import RangeObserver

_reached = itertools.count()


class MomentWatch:
    """Sums x x^T and x over the rows that one layer is fed, in float64. A hook for `watch_inputs`."""

    def __init__(self, name: str, width: int) -> None:
        self.name, self.rows = name, 0
        self.first: int | None = None  # which layer of all it was that calibration reached
        self.second = _zeros(width, width)
        self.total = _zeros(width)
        self.observer = RangeObserver(f"the input of {name}")

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs["input"]
        rows = _rows(x)
        if not torch.isfinite(rows).all():
            got = f"a NaN or infinity in the input of {self.name}"
            raise FormatError("calibration", got, "finite activations", "Leave that sample out.")
        if self.first is None:
            self.first = next(_reached)
        self.second += rows.T @ rows
        self.total += rows.sum(0)
        self.rows += rows.shape[0]
        with torch.device("cpu"):
            self.observer.see(x)

    def moments(self) -> Moments:
        count = max(self.rows, 1)
        return Moments.of_dense(self.second / count, self.total / count, self.rows)


def moments_now(model: nn.Module, work: nn.Module, name: str, batches: Sequence[Any]) -> Moments:
    """Of the layer `name` in `work`, a copy of `model` in which other layers are pruned: what it is fed, against what the
    dense model feeds it."""
    width = model.get_submodule(name).in_features
    assert isinstance(width, int)
    second, cross, whole = _zeros(width, width), _zeros(width, width), _zeros(width, width)
    total, dense_total, count = _zeros(width), _zeros(width), 0
    for batch in batches:
        dense, now = _fed(model, name, batch), _fed(work, name, batch)
        second += now.T @ now
        cross += dense.T @ now
        whole += dense.T @ dense
        total += now.sum(0)
        dense_total += dense.sum(0)
        count += now.shape[0]
    rows = max(count, 1)
    return Moments(second / rows, total / rows, count, cross / rows, whole / rows, dense_total / rows)


def _fed(model: nn.Module, name: str, batch: Any) -> Tensor:
    """The rows that one layer is fed in a call of the model, of all its calls in order."""
    seen: list[Tensor] = []

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(_rows(args[0] if args else kwargs["input"]))

    module = model.get_submodule(name)
    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        with torch.no_grad():
            call_with(model, batch)
    finally:
        handle.remove()
    return torch.cat(seen) if seen else _zeros(0, int(module.in_features))  # type: ignore[arg-type]


def _rows(x: Tensor) -> Tensor:
    return x.detach().reshape(-1, x.shape[-1]).double().cpu()


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.float64, device="cpu")
