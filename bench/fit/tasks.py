"""Networks with a metric: trained ones of the test data folder, and an encoder made here."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench import networks
from tests.support import turbofan


@dataclass(frozen=True)
class Task:
    """metric: fn(callable) -> float, larger is better. max_drop: permitted. validate: rows that the metric judges, and
    fn(answers) -> float for peers that call their own model; the metric is validate[1](model(validate[0]))."""

    name: str
    model: nn.Module
    example: Tensor
    calibration: list[Tensor]
    validate: tuple[Tensor, Callable[[Tensor], float]]
    max_drop: float

    def metric(self, model: Any) -> float:
        rows, value = self.validate
        with torch.no_grad():
            return value(model(rows))


@functools.cache
def ad01() -> Task:
    """Drift of the anomaly score on the second half of a recording, as a share; 2 % permitted."""
    folder = networks.ad01_folder()
    if folder is None:
        raise SystemExit("no mlperf_tiny_ad01 in the test data folder (set RTACCEL_TEST_DATA)")
    model, windows = networks.ad01(folder), networks.ad01_windows(folder)
    seen, fresh = windows[::2], windows[1::2]
    want = networks.score(model, fresh)

    def drift(y: Tensor) -> float:
        return -abs(float((y - fresh).square().mean(1).mean()) - want) / want

    return Task("ad01", model, windows[:1], [seen], (fresh, drift), 0.02)


@functools.cache
def turbofans() -> Task:
    """RMSE in cycles on engines that training did not see; 0.2 permitted."""
    engines = turbofan.engines()
    network = turbofan.trained(engines[:60], epochs=40)
    x, y = (
        [np.concatenate([of(e)[10:] for e in part]) for part in (engines[:60], engines[60:])]
        for of in (turbofan.features, lambda e: turbofan.targets(len(e)))
    )
    rows = torch.from_numpy(x[1])
    wanted = torch.from_numpy(y[1])
    seen = torch.from_numpy(x[0])
    seen = seen[torch.randperm(len(seen), generator=torch.Generator().manual_seed(0))[:2000]]

    def rmse(y: Tensor) -> float:
        return -float((y[:, 0] - wanted).square().mean().sqrt()) * turbofan.CAP

    return Task("C-MAPSS", network.eval(), rows[:1], [seen], (rows, rmse), 0.2)


@functools.cache
def encoder() -> Task:
    """Six layers of 128 features with 16 tokens: the mean cosine of its results to float32; 0.005 permitted."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(128, 4, 256, 0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False).eval()
    x = torch.randn(640, 16, 128)
    rows = x[128:]
    with torch.no_grad():
        want = model(rows)

    def cosine(y: Tensor) -> float:
        return float(nn.functional.cosine_similarity(y.flatten(1), want.flatten(1)).mean())

    return Task("encoder", model, x[:1], [x[:128]], (rows, cosine), 0.005)
