"""Plans near the permitted drop: times stand in by bytes, so that int4 is preferred wherever the metric lets it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.core.settings import STAGE_TIMES
from rtaccel.search import planner
from rtaccel.search.cost_model import CostModel
from rtaccel.search.cost_table import CostTable
from tests.support.random_fits import random_task

LOOSE = rt.Budget(p50_us=1e6)


@pytest.fixture(autouse=True)
def times_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    models: list[CostModel] = []
    begin = CostModel.__init__

    def us(self: CostTable, keys: Sequence[str]) -> float:
        stages = [self._entries[key].choice.stage for key in keys]
        return sum(0.05 + sum(t.numel() * t.element_size() for t in s.tensors.values()) / 5000 for s in stages)

    def made(self: CostModel, *given: Any) -> None:
        begin(self, *given)
        models.append(self)

    def whole(calls: Mapping[Any, Any], seconds: float, rounds: int = 0) -> dict[Any, float]:
        return {plan: us(models[-1].table, models[-1].keys(plan)) for plan in calls}

    monkeypatch.setenv(STAGE_TIMES, "0")
    monkeypatch.setattr(CostTable, "us", us)
    monkeypatch.setattr(CostModel, "__init__", made)
    monkeypatch.setattr(planner, "whole_calls", whole)
    monkeypatch.setattr(planner, "MEASURE_SECONDS", 0.08)


@pytest.mark.parametrize("seed", range(80, 100))
def test_the_drop_is_kept_on_data_kept_aside(seed: int) -> None:
    task = random_task(seed)
    fit = rt.fit_budget(
        task.model, task.example, LOOSE, task.calibration, metric=task.metric, max_drop=task.max_drop,
        options=("float32", "w8a8", "w4a8", rt.LowRank(0.5)), seconds=900,
    )  # fmt: skip
    assert fit.complete and fit.model is not None and fit.best is not None
    with torch.no_grad():
        assert task.aside(task.model) - task.aside(fit.model) <= task.max_drop
    faster = [c for c in fit.candidates if c.us is not None and fit.best.us is not None and c.us < fit.best.us]
    assert all(not c.keeps or c.verdict != "PASS" for c in faster)


class Life(nn.Sequential):
    """A regression as of remaining life: 86 features, one output in cycles."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(86, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))


def life(seed: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A network, its inputs, and targets that are 10 cycles off on average: the RMSE in float32."""
    torch.manual_seed(seed)
    model = Life().eval()
    x = torch.randn(6000, 86) * torch.exp(0.5 * torch.randn(86))
    with torch.no_grad():
        last = model[4]
        assert isinstance(last, nn.Linear)
        spread = model(x).std()
        last.weight *= 40 / spread
        last.bias.fill_(80.0)
        y = model(x) + 10 * torch.randn(6000, 1)
    return model, x, y


@pytest.mark.parametrize("seed", range(3))
def test_remaining_life_takes_int8_where_int4_by_rounding_loses_too_much(seed: int) -> None:
    model, x, y = life(seed)

    def metric(m: Any) -> float:
        return -float((m(x[1000:]) - y[1000:]).double().square().mean().sqrt())

    with torch.no_grad():
        base = metric(model)
        int4 = rt.compile(model, (x[:1],), "w4a8", calibration=[x[:1000]])
        int8 = rt.compile(model, (x[:1],), "w8a8", calibration=[x[:1000]])
    assert base - metric(int4) > 0.2 > base - metric(int8)
    fit = rt.fit_budget(
        model,
        x[:1],
        LOOSE,
        [x[:1000]],
        metric=metric,
        max_drop=0.2,
        options=("float32", "w8a8", rt.W4A8()),
        seconds=900,
    )
    assert fit.scheme is not None and fit.best is not None and fit.verdict == "PASS"
    assert fit.scheme["0"] != rt.W4A8()  # the layer with nearly all weights
    assert fit.best.drop is not None and fit.best.drop <= 0.2
    mostly = [str(s) for s in fit.scheme.values()]
    assert "w8a8" in mostly and fit.best.predicted_us is not None
    all_int4 = next(c for c in fit.candidates if all(s == rt.W4A8() for s in c.scheme.values()))
    assert not all_int4.keeps and all_int4.us is None
