"""Models whose layers are swapped in tests, and what must not change where that fails."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.convert.module_swap import benchmark
from rtaccel.nn import QuantLinear


class MyLinear(nn.Linear):
    pass


def make(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(24, 40), nn.ReLU(), nn.Sequential(nn.Linear(40, 16), nn.Tanh()), nn.Linear(16, 5)
    ).eval()


def snapshot(model: nn.Module) -> tuple[list[tuple[str, nn.Module]], dict[str, Tensor]]:
    return list(model.named_modules()), {k: v.clone() for k, v in model.state_dict().items()}


def unchanged(model: nn.Module, before: tuple[list[tuple[str, nn.Module]], dict[str, Tensor]]) -> bool:
    modules = list(model.named_modules())
    state = model.state_dict()
    return (
        [(n, id(m)) for n, m in modules] == [(n, id(m)) for n, m in before[0]]
        and state.keys() == before[1].keys()
        and all(torch.equal(state[k].nan_to_num(7.0), v.nan_to_num(7.0)) for k, v in before[1].items())
        and not any(m._forward_pre_hooks for m in model.modules())
    )


def actions(report: rt.SwapReport) -> dict[str, str]:
    return {entry.fqn: entry.action for entry in report}


def without_timing(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The timing is taken out: every candidate is faster. Holds the shapes it was asked to time."""
    shapes: list[tuple[int, ...]] = []

    def compare(before: nn.Module, after: nn.Module, x: Tensor) -> benchmark.Compared:
        assert isinstance(before, nn.Linear)
        assert isinstance(after, QuantLinear)
        shapes.append(tuple(x.shape))
        return benchmark.Compared(2.0, 1.0)

    monkeypatch.setattr(benchmark, "compare", compare)
    return shapes
