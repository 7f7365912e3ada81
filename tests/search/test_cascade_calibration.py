"""Limits on calibration data keep the permitted drop; reports say what the cascade did. Nothing is timed."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import rtaccel as rt
from rtaccel.core.errors import FormatError, ShapeError
from tests.support.networks.cascades import compiled, exits_of

LOOSE = rt.Budget(p99_us=1e7)


@pytest.fixture(scope="module")
def task() -> tuple[list[Any], Tensor, Tensor]:
    """Stages that agree with the labels more and more: those of the last, some of them wrong."""
    torch.manual_seed(0)
    stages = [compiled(12, hidden, 4, seed) for seed, hidden in enumerate((6, 12, 48))]
    x = torch.randn(1500, 12)
    labels = stages[2](x).argmax(1)
    labels = torch.where(torch.rand(1500) < 0.1, stages[0](x).argmax(1), labels)
    return stages, x, labels


def accuracy(y: Tensor, labels: Tensor) -> float:
    return float((y.argmax(1) == labels).double().mean())


@pytest.mark.parametrize("max_drop", [0.0, 0.02, 0.2, 1.0])
@pytest.mark.parametrize("test", ["confidence", "entropy", "margin"])
def test_the_drop_is_kept(task: Any, max_drop: float, test: str) -> None:
    stages, x, labels = task
    cascade = rt.Cascade.calibrated(stages, x, labels, max_drop=max_drop, test=test)
    found = cascade.calibration
    full, value = accuracy(stages[2](x), labels), accuracy(torch.cat([cascade(row) for row in x.split(1)]), labels)
    assert found is not None and found.full == full and full - value <= max_drop
    assert abs(found.value - value) <= 2 / len(x)  # in batches, sums have another order
    assert found.drop <= max_drop and math.isclose(sum(found.shares), 1)
    if max_drop == 1.0:
        assert found.shares[0] == 1.0


def test_more_may_be_lost_and_more_leaves(task: Any) -> None:
    stages, x, labels = task
    means = [
        rt.Cascade.calibrated(stages[::2], x, labels, max_drop=drop).calibration.shares[0]  # type: ignore[union-attr]
        for drop in (0.0, 0.05, 0.2)
    ]
    assert means == sorted(means) and means[0] < means[-1]


def test_standard_errors_ask_for_more(task: Any) -> None:
    stages, x, labels = task
    few, many = (
        rt.Cascade.calibrated(stages[::2], x, labels, max_drop=0.05, standard_errors=errors).calibration
        for errors in (0, 4)
    )
    assert few is not None and many is not None and many.shares[0] <= few.shares[0]
    assert many.full - many.value <= few.full - few.value


def test_a_metric_of_ones_own(task: Any) -> None:
    stages, x, _ = task
    want = stages[2](x)

    def closeness(y: Tensor) -> float:
        return -float((y - want).square().mean())

    cascade = rt.Cascade.calibrated(stages, x, metric=closeness, max_drop=0.5, test=rt.Exit("margin", above=0))
    assert closeness(cascade(x)) >= -0.5 - 1e-6
    assert all(isinstance(one, rt.Exit) and one.test == "margin" for one in cascade.exits)
    relative = rt.Cascade.calibrated(stages, x, metric=lambda y: 1 + closeness(y), max_drop=rt.Relative(0.3))
    assert relative.calibration is not None and relative.calibration.max_drop == pytest.approx(0.3)


def test_answers_that_are_nan_do_not_count(task: Any) -> None:
    stages, x, labels = task
    x = x.clone()
    x[::10] = math.nan
    cascade = rt.Cascade.calibrated(stages, x, labels, max_drop=1.0)
    cascade(x)
    assert (exits_of(cascade)[::10] == 2).all()


def test_a_report_says_where_rows_leave(task: Any) -> None:
    stages, x, labels = task
    cascade = rt.Cascade(stages, [0.7, 0.7])
    report = cascade.report(x, labels, budget=LOOSE)
    singles = torch.cat([cascade(row) for row in x.split(1)])
    assert report.calls == len(x) and report.verdict == "PASS" and report.worst is not None
    cascade(x)
    counts = torch.bincount(exits_of(cascade), minlength=3) / len(x)
    assert report.shares == pytest.approx(counts.tolist(), abs=2 / len(x))
    assert report.metric == accuracy(singles, labels) and report.full_metric == pytest.approx(
        accuracy(stages[2](x), labels), abs=2e-3
    )
    assert all(row.mean_us is not None and row.mean_us > 0 for row in report.exits)
    text = str(report)
    assert "last stage alone" in text and "worst path" in text and f"{report.shares[0]:.1%}" in text
    never = rt.Cascade(stages, [rt.Exit(above=math.inf)] * 2).report(x[:9])
    assert (
        never.shares == (0, 0, 1) and never.exits[0].p99_us is None and never.metric is None and never.verdict is None
    )


def test_bad_input(task: Any) -> None:
    stages, x, labels = task
    with pytest.raises(FormatError, match="no labels and no metric"):
        rt.Cascade.calibrated(stages, x)
    with pytest.raises(FormatError, match="labels torch"):
        rt.Cascade.calibrated(stages, x, labels[:-1])
    for wrong in (labels + 1, labels - 1):
        with pytest.raises(FormatError, match="classes 0 to 3"):
            rt.Cascade.calibrated(stages, x, wrong)
    with pytest.raises(FormatError, match="max_drop=-1"):
        rt.Cascade.calibrated(stages, x, labels, max_drop=-1)
    with pytest.raises(FormatError, match="1 rows"):
        rt.Cascade.calibrated(stages, x[:1], labels[:1])
    with pytest.raises(FormatError, match="a metric that gives nan"):
        rt.Cascade.calibrated(stages, x, metric=lambda y: math.nan)
    with pytest.raises(FormatError, match="1 tests"):
        rt.Cascade.calibrated(stages, x, labels, test=["margin"])
    with pytest.raises(ShapeError):
        rt.Cascade.calibrated(stages, x[:, 1:], labels)
    cascade = rt.Cascade(stages, [0.5, 0.5])
    with pytest.raises(FormatError, match="no rows"):
        cascade.report(x[:0])
    with pytest.raises(FormatError, match="labels and metric"):
        cascade.report(x, labels, metric=lambda y: 0.0)
