"""The metric: what is refused, and how sure a drop is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rtaccel.core.errors import FormatError
from rtaccel.search.metric import Metric, Recorder, Relative


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).eval()


X = torch.randn(300, 8, generator=torch.Generator().manual_seed(1))


def mean_score(model: Any) -> float:
    return float(model(X).double().square().mean())


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (lambda model: float("nan") * float(model(X).sum()), "nan"),
        (lambda model: float("inf") + float(model(X).sum()), "inf"),
        (lambda model: [model(X).shape] and 0.5, "for the model and for zeros"),
        (lambda model: 0.5, "never calls"),
        (lambda model: str(model(X)), "gives str"),
        (lambda model: model(X), "gives Tensor"),
        (lambda: 0.5, "does not take one argument"),
        (0.5, "type float"),
        (network(), "type Sequential"),
        (None, "type NoneType"),
    ],
)
def test_bad_metrics_are_refused(metric: Any, words: str) -> None:
    with pytest.raises(FormatError, match="fit_budget") as caught:
        Metric(metric, network(), 0)
    assert words in str(caught.value)


def test_what_the_metric_raises_goes_through() -> None:
    def metric(model: Any) -> float:
        raise KeyError("no such file")

    with pytest.raises(KeyError, match="no such file"):
        Metric(metric, network(), 0)


def test_a_noisy_metric_has_its_spread_as_resolution() -> None:
    noise = iter([0.0, 0.25, 0.0, 0.0])
    metric = Metric(lambda model: mean_score(model) + next(noise), network(), 0)
    assert metric.resolution == pytest.approx(0.25)


def test_a_metric_may_ask_for_a_module_in_eval_mode() -> None:
    def metric(model: nn.Module) -> float:
        assert isinstance(model, nn.Module) and not model.training
        model.eval()
        return mean_score(model)

    assert Metric(metric, network(), 0).value == pytest.approx(mean_score(network()))


def test_a_metric_may_change_what_it_is_given() -> None:
    def metric(model: Any) -> float:
        return float(model(X).mul_(2).double().mean())

    judged = Metric(metric, network(), 0)
    found = judged.judge(network())
    assert judged.sampling_error(found) == pytest.approx(0.0, abs=1e-12)


def noisy(model: nn.Module, scale: float, seed: int) -> Callable[[Tensor], Tensor]:
    """The model with an error that depends on the row alone, as rounding does."""
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(8, 3, generator=g) * 3
    return lambda x: model(x) + scale * torch.sin(x @ weight)


@pytest.mark.parametrize("batch", [1, 7, 300])
def test_the_sampling_error_is_that_of_other_data(batch: int) -> None:
    """Against the spread of the drop over fresh data, for a metric that is a mean over rows."""
    model, g = network(), torch.Generator().manual_seed(5)
    plan = noisy(model, 0.3, 0)
    seen, errors = [], []

    def metric_on(x: Tensor) -> Callable[[Any], float]:
        def metric(m: Any) -> float:
            return -float(
                torch.cat([(m(part) - model(part)).square().mean(1) for part in x.split(batch)]).double().mean()
            )

        return metric

    for i in range(60):
        x = torch.randn(300, 8, generator=g)
        with torch.no_grad():
            seen.append(-metric_on(x)(plan))
            if i < 6:
                metric = Metric(lambda m, x=x: metric_on(x)(m) + float(m(x[:1]).sum() * 0), model, i)
                found = metric.sampling_error(metric.judge(plan))
                assert found is not None
                errors.append(found)
    assert np.std(seen) / 2 < np.mean(errors) < np.std(seen) * 2  # 6 estimates of 31 degrees of freedom each, 60 drops


def test_parts_of_a_drop_add_up() -> None:
    model = network()
    metric = Metric(mean_score, model, 0)
    judged = metric.judge(noisy(model, 0.01, 1))
    assert judged.calls is not None and metric.calls is not None
    assert metric.grain == pytest.approx(abs(judged.value - metric.value))


def test_a_metric_that_feeds_results_back_has_no_sampling_error() -> None:
    def rollout(model: Any) -> float:
        state = X[:1].clone()
        for _ in range(40):
            state = state + 0.1 * torch.nn.functional.pad(model(state), (0, 5))
        return float(state.sum())

    metric = Metric(rollout, network(), 0)
    assert metric.sampling_error(metric.judge(noisy(network(), 0.1, 2))) is None
    assert metric.fed_back


def test_few_rows_have_no_sampling_error() -> None:
    metric = Metric(lambda model: float(model(X[:9]).mean()), network(), 0)
    assert metric.sampling_error(metric.judge(noisy(network(), 0.1, 2))) is None
    assert not metric.fed_back


def test_calibration_data_are_recognized() -> None:
    metric = Metric(mean_score, network(), 0)
    assert metric.sees([X[:5], X]) and metric.sees([(X.clone(),)])
    assert not metric.sees([X[:5], X + 1])


def test_relative() -> None:
    assert Relative(0.01).of(-50.0) == pytest.approx(0.5)
    for share in (-0.1, float("nan"), float("inf"), "1%", True):
        with pytest.raises(FormatError):
            Relative(share)  # type: ignore[arg-type]


def test_a_recorder_keeps_copies() -> None:
    recorder = Recorder(lambda x: x)
    x = torch.ones(2, 2)
    recorder(x).zero_()
    assert recorder.calls is not None
    ((inputs, result),) = recorder.calls
    assert torch.equal(inputs[0], torch.ones(2, 2)) and torch.equal(result, torch.ones(2, 2))
