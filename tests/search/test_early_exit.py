"""Early exit as an option of `fit_budget`: it keeps the drop, is judged by its longest path, and can be made again."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.core.settings import STAGE_TIMES
from rtaccel.search import planner
from rtaccel.search.cascade import staging
from rtaccel.search.cascade.exits import Exit
from rtaccel.search.front import Candidate
from tests.support.random_fits import random_task

LOOSE = rt.Budget(p50_us=1e6)
SCHEMES = ("float32", "w8a8")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file of times, and short measurements: nothing here is about how long a call takes."""
    monkeypatch.setenv(STAGE_TIMES, "0")
    monkeypatch.setattr(planner, "MEASURE_SECONDS", 0.08)


class Easy:
    """A question that a small model answers where the first input is far from zero, and only the large one elsewhere."""

    def __init__(self, seed: int, width: int = 768) -> None:
        g = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        self.x = torch.randn(3000, 16, generator=g)
        self.x[:, 0] *= 8
        self.large = nn.Sequential(
            nn.Linear(16, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2)
        ).eval()
        self.small = nn.Linear(16, 2).eval()
        with torch.no_grad():
            self.large[4].weight.mul_(0.05)
            self.large[0].weight[:2].zero_()
            self.large[0].bias[:2].zero_()
            self.large[0].weight[0, 0], self.large[0].weight[1, 0] = 1.0, -1.0
            self.large[2].weight[:2].zero_()
            self.large[2].bias[:2].zero_()
            self.large[2].weight[0, 0] = self.large[2].weight[1, 1] = 1.0
            self.large[4].weight[:, :2] = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
            self.small.weight.zero_()
            self.small.bias.zero_()
            self.small.weight[:, 0] = torch.tensor([1.0, -1.0])
        self.labels = self.large(self.x).argmax(1)

    def metric(self, rows: slice) -> Any:
        return lambda model: float((model(self.x[rows]).argmax(1) == self.labels[rows]).double().mean())

    def fit(self, option: rt.EarlyExit, **given: Any) -> rt.Fit:
        given = {"budget": LOOSE, "max_drop": 0.03, "options": (*SCHEMES, option), "seconds": 900} | given
        return rt.fit_budget(
            self.large, self.x[:1], calibration=[self.x[:800]], metric=self.metric(slice(800, 2000)), **given
        )


@pytest.fixture(scope="module")
def easy() -> Easy:
    return Easy(0)


def of_times(monkeypatch: pytest.MonkeyPatch, mean: float, alone: float) -> None:
    """What the measurement says of cascade and plan, whatever else the machine does."""
    monkeypatch.setattr(staging.Stager, "_means", lambda *_: (mean, alone))


def test_a_small_model_answers_easy_rows(easy: Easy, monkeypatch: pytest.MonkeyPatch) -> None:
    of_times(monkeypatch, 1.0, 2.0)
    fit = easy.fit(rt.EarlyExit(easy.small))
    assert isinstance(fit.model, rt.Cascade) and fit.best is not None and fit.best.staging is not None
    found = fit.best.staging
    assert fit.verdict == "PASS" and len(found.names) == len(found.schemes) == 2 and found.shares[0] > 0.3
    assert fit.best.us == found.mean_us == 1.0 and found.alone_us == 2.0 and found.worst_us is not None
    assert "on average" in fit.reason and "leave early" in fit.best.name
    assert fit.best.keeps and fit.best.drop is not None and fit.best.drop <= 0.03
    assert easy.metric(slice(2000, 3000))(fit.model) >= 1 - 0.03  # rows that nothing was chosen by
    assert fit.model.weight_bytes == fit.best.size_bytes and fit.model.peak_bytes == fit.best.peak_bytes
    assert json.loads(fit.to_json())["best"]["early_exit"]["exits"] == [repr(found.exits[0])]
    assert "leave early" in fit.to_html() and "leave early" in str(fit)


def test_it_can_be_made_again(easy: Easy, monkeypatch: pytest.MonkeyPatch) -> None:
    of_times(monkeypatch, 1.0, 2.0)
    fit = easy.fit(rt.EarlyExit(easy.small, test="margin"))
    assert fit.best is not None and fit.best.staging is not None and isinstance(fit.model, rt.Cascade)
    stages = [
        rt.compile(model, (easy.x[:1],), scheme, calibration=[easy.x[:800]])
        for model, scheme in zip((easy.small, easy.large), fit.best.staging.schemes)
    ]
    again = rt.Cascade(stages, fit.best.staging.exits)
    x = easy.x[2000:2300]
    assert torch.allclose(again(x), fit.model(x), rtol=1e-4, atol=1e-4)
    left = torch.as_tensor(again.last_exit)
    fit.model(x)
    assert (
        left == torch.as_tensor(fit.model.last_exit)
    ).float().mean() > 0.99  # float sums may put one on the other side


def test_the_plan_stays_where_the_mean_is_no_less(easy: Easy, monkeypatch: pytest.MonkeyPatch) -> None:
    of_times(monkeypatch, 2.0, 2.0)
    fit = easy.fit(rt.EarlyExit(easy.small))
    assert fit.best is not None and fit.best.staging is None and isinstance(fit.model, rt.CompiledModel)
    assert any(c.staging is not None for c in fit.candidates)


def test_bytes_are_those_of_all_stages(easy: Easy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget that the plan keeps and plan and small model together do not."""
    of_times(monkeypatch, 1.0, 2.0)
    first = easy.fit(rt.EarlyExit(easy.small), options=SCHEMES)
    plans = {c.plan: c.size_bytes for c in first.candidates if c.staging is None and c.size_bytes is not None}
    staged = [(c.size_bytes, plans[c.plan]) for c in first.candidates if c.staging is not None and c.plan in plans]
    assert all(size is not None and size > plan + 8 for size, plan in staged)
    alone = first.best
    assert alone is not None and alone.size_bytes is not None
    fit = easy.fit(rt.EarlyExit(easy.small), budget=rt.Budget(size_bytes=alone.size_bytes + 8))
    assert fit.verdict == "PASS" and fit.best is not None and fit.best.size_bytes is not None
    assert fit.best.size_bytes <= alone.size_bytes + 8
    assert fit.best.staging is None or fit.best.plan != alone.plan  # a busy machine compares fewer plans the first time


def test_a_drop_of_nothing_leaves_no_early_exit(easy: Easy) -> None:
    fit = easy.fit(rt.EarlyExit(easy.small), max_drop=1e-9)
    assert fit.best is not None and fit.best.staging is None


def test_a_chain_of_two(easy: Easy, monkeypatch: pytest.MonkeyPatch) -> None:
    of_times(monkeypatch, 1.0, 2.0)
    gate = rt.compile(easy.small, (easy.x[:1],))
    fit = easy.fit(rt.EarlyExit([gate, easy.small], test=["confidence", "entropy"]))
    assert isinstance(fit.model, rt.Cascade) and fit.best is not None and fit.best.keeps
    names = {c.staging.names[:-1] for c in fit.candidates if c.staging is not None}
    assert names  # cascades of either, or of both in a row
    assert all(isinstance(c.staging.exits[0], Exit) for c in fit.candidates if c.staging is not None)


def test_plans_of_the_model_itself_stand_before_it() -> None:
    """The first stage is a plan that loses too much alone."""
    full = Candidate((0,), {}, us=10.0, drop=0.0, error=0.0, keeps=True, reference=True)
    others = [
        Candidate((i,), {}, us=us, error=error)
        for i, (us, error) in enumerate([(2, 0.9), (3, 0.95), (5, 0.3), (8, 0.1)])
    ]
    assert [c.us for c in staging._faster(full, [full, *others])] == [2, 5]


@pytest.mark.parametrize("seed", range(4))
def test_limits_let_the_share_leave(seed: int) -> None:
    scores = torch.randn(500, generator=torch.Generator().manual_seed(seed))
    scores[::50] = float("nan")
    for test in (Exit("energy", above=0.0), Exit("entropy", below=0.0)):
        for share in (0.0, 0.1, 0.5, 0.9):
            left = test.never if share == 0 else staging._limit(test, scores, share)
            assert int(left.passes(scores).sum()) == round(share * 500)
        assert int(staging._limit(test, scores, 1.0).passes(scores).sum()) == 490  # NaN never leaves


def test_predicted_shares_are_those_of_the_cascade(easy: Easy, monkeypatch: pytest.MonkeyPatch) -> None:
    of_times(monkeypatch, 1.0, 2.0)
    fit = easy.fit(rt.EarlyExit(easy.small))
    assert isinstance(fit.model, rt.Cascade) and fit.best is not None and fit.best.staging is not None
    fit.model(easy.x[:800])
    left = torch.as_tensor(fit.model.last_exit)
    assert float((left == 0).double().mean()) == pytest.approx(fit.best.staging.shares[0], abs=2 / 800)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 4)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.inner(a) + self.inner(b)


def test_a_model_that_is_no_stage_is_noted() -> None:
    a, b = torch.randn(400, 8), torch.randn(400, 8)
    model = TwoInputs().eval()
    want = model(a, b).detach()
    fit = rt.fit_budget(
        model, (a[:1], b[:1]), LOOSE, [(a[:100], b[:100])], metric=lambda m: -float((m(a, b) - want).square().mean()),
        max_drop=0.1, options=(*SCHEMES, rt.EarlyExit()), seconds=300,
    )  # fmt: skip
    assert fit.verdict == "PASS" and any(note.startswith("no early exit") for note in fit.notes)


def test_bad_input(easy: Easy) -> None:
    task = random_task(0)
    given: dict[str, Any] = {"metric": task.metric, "max_drop": 0.1, "seconds": 60}
    for option in ({"small": []}, {"small": "model"}, {"small": [3]}, {"small": [nn.Identity()] * 4}, {"test": "sure"},
                   {"small": [nn.Identity()], "test": ["margin", "margin"]}):  # fmt: skip
        with pytest.raises(FormatError):
            rt.EarlyExit(**option)
    with pytest.raises(FormatError, match="calibration"):
        rt.fit_budget(task.model, task.example, LOOSE, None, options=("float32", rt.EarlyExit()), **given)
    with pytest.raises(FormatError, match="2 early exits"):
        rt.fit_budget(task.model, task.example, LOOSE, task.calibration, options=(rt.EarlyExit(),) * 2, **given)
    with pytest.raises(ShapeError):
        easy.fit(rt.EarlyExit(nn.Linear(16, 3).eval()))
    with pytest.raises(ShapeError):
        easy.fit(rt.EarlyExit(rt.compile(nn.Linear(7, 2).eval(), (torch.randn(1, 7),))))


@pytest.mark.parametrize("seed", range(6))
def test_random_networks_keep_the_drop_on_data_kept_aside(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an early exit that counts as faster whatever it takes."""
    of_times(monkeypatch, 1.0, 2.0)
    monkeypatch.setattr(staging, "GAIN", 1e9)
    monkeypatch.setattr(staging, "FAST", 1e9)
    task = random_task(seed)
    fit = rt.fit_budget(
        task.model, task.example, LOOSE, task.calibration, metric=task.metric, max_drop=task.max_drop,
        options=("float32", "w8a8", "w4a8", rt.LowRank(0.3), rt.EarlyExit(test="energy")), seconds=900,
    )  # fmt: skip
    assert fit.model is not None and any(c.staging is not None for c in fit.candidates)
    with torch.no_grad():
        assert task.aside(task.model) - task.aside(fit.model) <= task.max_drop
