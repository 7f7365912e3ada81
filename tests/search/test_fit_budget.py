"""`fit_budget` from end to end: what it returns is what compile gives, keeps its limits on other data, and stops when asked."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.core.settings import STAGE_TIMES
from rtaccel.search import cost_model, planner
from rtaccel.search.cost_model import CostModel
from rtaccel.search.fit import _reason
from rtaccel.search.metric import Metric
from tests.support.random_fits import Task, random_task

LOOSE = rt.Budget(p50_us=1e6)
"""A budget that any machine keeps, however busy: tests never fail for its time."""

OPTIONS = ("float32", "w8a8", "w4a8", rt.LowRank(0.5), rt.BlockSparse((8, 8), 0.5))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file of times, and short measurements: nothing here is about how long a call takes."""
    monkeypatch.setenv(STAGE_TIMES, "0")
    monkeypatch.setattr(planner, "MEASURE_SECONDS", 0.08)


def fitted(task: Task, **options: Any) -> rt.Fit:
    given: dict[str, Any] = {"budget": LOOSE, "calibration": task.calibration, "metric": task.metric}
    given |= {"max_drop": task.max_drop, "options": OPTIONS, "seconds": 900} | options
    return rt.fit_budget(task.model, task.example, **given)


@pytest.mark.parametrize("seed", range(20))
def test_the_plan_keeps_the_drop_on_data_kept_aside(seed: int) -> None:
    task = random_task(seed)
    fit = fitted(task, options=("float32", "w8a8", "w4a8", rt.LowRank(0.5)))
    assert fit.complete and fit.verdict == "PASS" and fit.model is not None and fit.best is not None
    assert fit.best.drop is not None and fit.best.drop <= task.max_drop
    with torch.no_grad():
        assert task.aside(task.model) - task.aside(fit.model) <= task.max_drop
        assert task.metric(task.model) - task.metric(fit.model) == pytest.approx(fit.best.drop, abs=1e-9)


@pytest.mark.parametrize("seed", [3, 8, 17])
def test_compile_gives_the_same_bits(seed: int) -> None:
    """Every scheme of the front, with forms and roundings: a search lowers with what it knows already, compile anew."""
    task = random_task(seed)
    fit = fitted(task)
    x = torch.randn(5, task.example.shape[1], generator=torch.Generator().manual_seed(seed))
    assert fit.scheme is not None and fit.model is not None
    again = rt.compile(task.model, (task.example,), fit.scheme, calibration=task.calibration)
    exact = all("float32" not in str(s) for s in fit.scheme.values())
    want, got = again(x), fit.model(x)
    assert (
        torch.equal(want, got) if exact else torch.allclose(want, got, rtol=1e-4, atol=1e-4 * float(want.abs().max()))
    )
    for c in [c for c in fit.candidates if c.size_bytes is not None][:6]:
        assert (
            rt.compile(task.model, (task.example,), c.scheme, calibration=task.calibration).weight_bytes == c.size_bytes
        )


def test_never_slower_by_prediction_than_a_uniform_scheme_that_keeps_the_drop() -> None:
    fit = fitted(random_task(5))
    good = [c for c in fit.candidates if c.keeps and len(set(map(str, c.scheme.values()))) == 1]
    assert good and fit.best is not None
    fastest = min(
        c.us if c.us is not None else float("inf") for c in fit.candidates if c.keeps and c.latency is not None
    )
    assert fit.best.us == fastest  # of those that were measured
    assert {c.plan for c in good} <= {c.plan for c in fit.candidates}


@pytest.mark.parametrize("seed", [2, 5])
def test_what_is_slower_for_sure_than_a_plan_that_passes_is_not_measured(seed: int) -> None:
    """And what could be returned is: timed in turn, none that keeps the drop is faster than the plan returned."""
    fit = fitted(random_task(seed))
    assert fit.best is not None and fit.best.latency is not None and fit.best.us is not None
    assert fit.best.verdict == "PASS"
    for c in fit.candidates:
        if c.latency is not None:
            assert c.us is not None and c.us <= planner.CLEARLY * fit.best.us
    measured = [c.us for c in fit.candidates if c.latency is not None and c.us is not None]
    assert fit.best.us == min(measured)


def test_a_plan_is_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For judging, timing and measuring it."""
    built: list[str] = []
    build = CostModel.build

    def counted(model: CostModel, plan: tuple[int, ...]) -> rt.CompiledModel:
        built.append(str(plan))
        return build(model, plan)

    monkeypatch.setattr(CostModel, "build", counted)
    monkeypatch.setattr(cost_model, "KEPT", 10_000)
    fit = fitted(random_task(1))
    alone = len(fit.sensitivity)
    assert len(built) <= len(fit.candidates) + alone
    assert {str(c.plan) for c in fit.candidates} <= set(built)


def test_few_models_are_at_hand_and_the_result_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    task = random_task(1)
    sizes = []
    kept = CostModel.kept

    def counted(model: CostModel, plan: tuple[int, ...]) -> rt.CompiledModel:
        found = kept(model, plan)
        sizes.append(len(model._built))
        return found

    monkeypatch.setattr(CostModel, "kept", counted)
    monkeypatch.setattr(cost_model, "KEPT", 2)
    fit = fitted(task)
    assert max(sizes) <= 2 and fit.model is not None and fit.scheme is not None
    x = torch.randn(5, task.example.shape[1], generator=torch.Generator().manual_seed(1))
    again = rt.compile(task.model, (task.example,), fit.scheme, calibration=task.calibration)
    assert torch.allclose(again(x), fit.model(x), rtol=1e-4, atol=1e-4)


def test_what_is_to_stay_stays() -> None:
    task = random_task(0)
    names = [layer.name for layer in fitted(task).layers]
    fit = fitted(task, keep={names[0]: "w8a8", names[-1]: rt.Float32()})
    assert all(c.scheme[names[0]] == rt.W8A8() and c.scheme[names[-1]] == rt.Float32() for c in fit.candidates)
    assert [layer.kept for layer in fit.layers].count(True) == 2


def test_a_byte_budget_is_kept_and_an_impossible_one_is_named() -> None:
    task = random_task(1)
    whole = fitted(task, options=("float32",)).best
    assert whole is not None and whole.size_bytes is not None
    small = fitted(task, budget=rt.Budget(size_bytes=whole.size_bytes // 3))
    assert small.model is not None and small.model.weight_bytes <= whole.size_bytes // 3 and small.verdict == "PASS"
    none = fitted(task, budget=rt.Budget(size_bytes=100))
    assert none.model is None and none.scheme is None and none.verdict == "FAIL"
    assert "the smallest" in none.reason and "bytes" in none.reason


def test_peak_bytes_are_the_plans() -> None:
    task = random_task(1)
    fit = fitted(task, budget=rt.Budget(peak_bytes=1 << 30))
    assert fit.verdict == "PASS" and fit.model is not None and fit.best is not None
    assert fit.best.peak_bytes == fit.model.peak_bytes == sum(fit.model.plan_bytes) > fit.model.weight_bytes // 2
    assert fitted(task, budget=rt.Budget(peak_bytes=64)).verdict == "FAIL"


def test_joules_without_a_counter_prove_nothing() -> None:
    from rtaccel.measure.energy import find_counter

    if not isinstance(find_counter("cpu"), str):
        pytest.skip("this machine has a counter of energy")
    fit = fitted(random_task(1), budget=rt.Budget(joules=1.0))
    assert fit.verdict == "UNDECIDED" and fit.best is not None
    assert fit.best.joules is not None and 0 < fit.best.joules < 1 and fit.best.joules_modeled
    assert any("not measured" in note for note in fit.notes)


def test_an_impossible_time_names_the_fastest_plan_and_its_drop() -> None:
    fit = fitted(random_task(2), budget=rt.Budget(p99_us=1e-3))
    assert fit.verdict == "FAIL" and fit.model is None and fit.best is not None
    assert "over budget" in fit.reason and "with a drop of" in fit.reason and fit.best.name in fit.reason


def test_a_drop_within_the_limit_says_what_has_to_fit_in_too() -> None:
    """A drop of 0.01 of 0.05 permitted, with a standard error of 0.02: four of these do not fit."""
    task = random_task(2)
    fit = fitted(task)
    c = replace(
        next(c for c in fit.candidates if c.drop is not None), drop=0.01, drop_error=0.02, keeps=False, fits=True
    )
    judge: Any = SimpleNamespace(limit=0.05)
    metric: Any = SimpleNamespace(value=1.0)
    reason = _reason(None, [c], judge, LOOSE, metric)
    assert "a drop of 0.01 (standard error 0.02); 4 standard errors" in reason
    wide = replace(c, drop=0.1)
    assert "standard errors" not in _reason(None, [wide], judge, LOOSE, metric)


def test_an_impossible_drop_gives_the_model_as_it_is() -> None:
    task = random_task(2)
    fit = fitted(task, max_drop=0.0, metric=lambda m: -float((m(X2) - task.model(X2)).detach().double().abs().max()))
    assert fit.best is None or all(str(s) == "float32" for s in fit.best.scheme.values())
    if fit.best is None:
        assert "float32 takes" in fit.reason


X2 = torch.randn(64, random_task(2).example.shape[1], generator=torch.Generator().manual_seed(9))


def test_without_calibration_int8_is_dynamic() -> None:
    task = random_task(4)
    fit = fitted(task, calibration=None, options=("float32", "w8a8", "w4a8"))
    assert fit.model is not None
    assert "rounding='gptq'" not in repr([layer.options for layer in fit.layers])


def test_ctrl_c_gives_the_best_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    judged, task = [0], random_task(3)
    original = Metric.judge

    def judge(self: Metric, call: Any) -> Any:
        judged[0] += 1
        if judged[0] > 4:
            raise KeyboardInterrupt
        return original(self, call)

    monkeypatch.setattr(Metric, "judge", judge)
    fit = fitted(task)
    assert fit.interrupted and not fit.complete and fit.model is not None and fit.verdict == "PASS"
    assert any("interrupted" in note for note in fit.notes)


def test_time_that_is_up_gives_what_was_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """A metric that waits: the search must end long before it has asked for every pair."""
    task = random_task(3)

    def slow(model: Any) -> float:
        time.sleep(0.3)
        return task.metric(model)

    fit = fitted(task, metric=slow, seconds=4)
    assert not fit.complete and fit.best is not None and fit.best.drop is not None
    assert len(fit.candidates) < 12
    assert any("time was up" in note for note in fit.notes)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"budget": 5}, "a Budget"),
        ({"max_drop": -0.1}, "max_drop"),
        ({"max_drop": "1%"}, "max_drop"),
        ({"seconds": 0}, "seconds"),
        ({"seconds": float("nan")}, "seconds"),
        ({"seed": -1}, "seed"),
        ({"seed": 0.5}, "seed"),
        ({"options": ("w8a9",)}, "Did you mean 'w8a8'"),
        ({"options": "w8a8"}, "a list"),
        ({"options": ()}, "a list"),
        ({"options": (3,)}, "among the options"),
        ({"keep": {"hed": "float32"}}, "fits no layer"),
        ({"keep": {"0": "w8a9"}}, "w8a9"),
        ({"keep": "head"}, "a dict"),
        ({"calibration": [torch.randn(1, 8)]}, "1 calibration sample"),
        ({"calibration": []}, "0 calibration samples"),
        ({"progress": 3}, "progress"),
        ({"metric": lambda m: float("nan") * float(m(torch.ones(2, 8)).sum())}, "finite"),
    ],
)
def test_bad_input_is_refused(options: dict[str, Any], words: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    x = torch.randn(64, 8)

    def metric(m: Any) -> float:
        return -float(m(x).square().mean())

    given: dict[str, Any] = {
        "budget": LOOSE,
        "calibration": [x],
        "metric": metric,
        "max_drop": 0.1,
        "seconds": 20,
    } | options
    with pytest.raises(FormatError) as caught:
        rt.fit_budget(model, x[:1], **given)
    assert words in str(caught.value)


@pytest.mark.parametrize("model", [None, "model.pt", 3])
def test_what_is_no_model_is_refused(model: Any) -> None:
    with pytest.raises(UnsupportedProblem, match=r"fit_budget: got model of type .*expected a torch.nn.Module"):
        rt.fit_budget(model, torch.randn(1, 8), LOOSE, metric=lambda m: float(m(torch.ones(2, 8)).sum()), max_drop=0.1)


def test_a_model_without_layers_and_one_in_training_are_refused() -> None:
    x = torch.randn(64, 8)
    for model in (nn.Sequential(nn.ReLU()).eval(), nn.Sequential(nn.Linear(8, 2)).train()):
        with pytest.raises(UnsupportedProblem):
            rt.fit_budget(model, x[:1], LOOSE, [x], metric=lambda m: float(m(x).sum()), max_drop=0.1, seconds=20)


def test_options_without_a_kernel_are_listed() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(4, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 30, 4)).eval()
    x = torch.randn(64, 4, 32)

    def metric(m: Any) -> float:
        return -float(m(x).square().mean())

    fit = rt.fit_budget(
        model, x[:1], LOOSE, [x], metric=metric, max_drop=0.5, options=("w8a8", rt.LowRank(0.5)), seconds=30
    )
    assert any(note.startswith("0: rank 50%") and "linear layers" in note for note in fit.notes)


class Seen(nn.Module):
    """Three layers that read one value, and a sum: neighbors that are no chain."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.q, self.k, self.v, self.out = (nn.Linear(32, 32) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        return self.out(torch.relu(self.q(h)) * torch.tanh(self.k(h)) + self.v(h)) + h


def test_a_graph_that_is_no_chain() -> None:
    torch.manual_seed(1)
    model, x = Seen().eval(), torch.randn(400, 32)
    with torch.no_grad():
        y = model(x)

    def metric(m: Any) -> float:
        return -float((m(x[:200]) - y[:200]).double().square().mean().sqrt() / y.std())

    fit = rt.fit_budget(model, x[:1], LOOSE, [x[200:]], metric=metric, max_drop=0.05, seconds=60)
    assert fit.model is not None and fit.verdict == "PASS"
    assert float((fit.model(x[200:]) - y[200:]).double().square().mean().sqrt() / y.std()) <= 0.05
    assert {s.layer for s in fit.sensitivity} == {"first", "q", "k", "v", "out"}


def test_reports_hold_what_was_found(tmp_path: Path) -> None:
    fit = fitted(random_task(7))
    text = str(fit)
    assert fit.verdict in text and fit.reason in text and "layer" in text
    content = json.loads(fit.to_json(tmp_path / "fit.json"))
    assert content == json.loads((tmp_path / "fit.json").read_text()) and content["verdict"] == fit.verdict
    assert len(content["candidates"]) == len(fit.candidates) and len(content["sensitivity"]) == len(fit.sensitivity)
    page = fit.to_html(tmp_path / "fit.html")
    assert (tmp_path / "fit.html").read_text(encoding="utf-8") == page
    assert page.count("<circle") >= len([c for c in fit.candidates if c.us or c.predicted_us])
    assert "http" not in page.replace("http://www.w3.org", "")
    drops = [c.drop for c in fit.front]
    assert drops == sorted(drops, key=lambda d: -(d or 0.0))


@pytest.mark.parametrize("seed", range(4))
def test_nothing_passes_by_a_metric_that_says_something_else_each_time(seed: int) -> None:
    """Not the model itself either: its own drop is chance."""
    task, noise = random_task(seed), torch.Generator().manual_seed(seed)

    def noisy(model: Any) -> float:
        return task.metric(model) + float(torch.randn((), generator=noise))

    fit = fitted(task, metric=noisy, max_drop=1e-3, options=("float32", "w8a8"))
    assert fit.verdict != "PASS" and fit.model is None
