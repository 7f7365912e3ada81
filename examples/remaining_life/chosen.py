"""How each layer is computed: chosen by `rt.fit_budget`, by the error on engines that training did not see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

import rtaccel as rt
from examples.remaining_life.engines import CAP, F32
from examples.remaining_life.train import calibration, samples, train

BUDGET = rt.Budget(p99_us=50)
MAX_DROP = 0.2
"""Cycles of RMSE that may be lost."""

LEFT_OUT = 0.3
"""Share of the training engines that the plan is judged by."""

OPTIONS = ("float32", "w8a8", "w4a8", rt.LowRank(0.5))


class Chosen(NamedTuple):
    """scheme: layer -> how it is computed, as rt.compile takes it; None where no plan keeps the budget. refused: plans of one
    scheme that lose too much, with what they lose in cycles. us: p50 of a call. reason: in a sentence."""

    scheme: Mapping[str, Any] | None
    name: str
    us: float | None
    drop: float | None
    refused: dict[str, float]
    seconds: float
    reason: str


def choose(engines: list[F32], epochs: int, seconds: float = 20.0) -> Chosen:
    """A network is trained on some engines of the fleet, and its plan is judged by the others; the test engines have no say."""
    last = round(len(engines) * (1 - LEFT_OUT))
    x, y = samples(engines[:last])
    fresh, wanted = (torch.from_numpy(part) for part in samples(engines[last:]))
    network = train(x, y, seed=0, epochs=epochs)

    def minus_rmse(model: Any) -> float:
        return -float((model(fresh)[:, 0] - wanted).square().mean().sqrt()) * float(CAP)

    fit = rt.fit_budget(
        network, fresh[:1], BUDGET, calibration(x), metric=minus_rmse, max_drop=MAX_DROP, options=OPTIONS, seconds=seconds
    )  # fmt: skip
    refused = {
        c.name: c.drop for c in fit.candidates if c.name.startswith("all ") and c.drop is not None and not c.keeps
    }
    if fit.best is None or fit.best.latency is None or fit.best.drop is None:
        return Chosen(None, "none", None, None, refused, fit.seconds, str(fit.reason))
    best = fit.best
    assert best.latency is not None and best.drop is not None
    return Chosen(fit.scheme, best.name, best.latency.p50_us, best.drop, refused, fit.seconds, str(fit.reason))
