"""The anomaly detector's trained weights: int4 rounded for its inputs, and a mixed plan at 2 % of permitted drift.

Calibration is the first half of the recording, the metric's data the second, so that nothing is judged on what it was fitted to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.settings import STAGE_TIMES
from tests.real.test_ad01 import FOLDER, networks

pytestmark = pytest.mark.skipif(
    FOLDER is None, reason="no mlperf_tiny_ad01 in the test data folder (set RTACCEL_TEST_DATA to have it)"
)


@pytest.fixture(scope="module")
def model() -> nn.Sequential:
    return networks.ad01(FOLDER)


@pytest.fixture(scope="module")
def windows() -> Tensor:
    return networks.ad01_windows(FOLDER)


def drift_on(model: nn.Module, windows: Tensor) -> Callable[[Any], float]:
    """How far the recording's score is from that of float32, as a negative share."""
    want = networks.score(model, windows)
    return lambda fast: -abs(networks.score(fast, windows) - want) / want


@pytest.mark.parametrize("scheme", [rt.W4A8(rounding="gptq"), rt.W4A16(rounding="gptq")], ids=["w4a8", "w4a16"])
def test_int4_rounded_for_its_inputs_keeps_the_score(model: nn.Module, windows: Tensor, scheme: Any) -> None:
    """19 % off by rounding to the nearest; within 3 % on windows that calibration did not see."""
    half = len(windows) // 2
    drift = drift_on(model, windows[half:])
    nearest = rt.compile(model, (windows[:1],), type(scheme)(), calibration=[windows[:half]])
    assert drift(nearest) < -0.1
    fast = rt.compile(model, (windows[:1],), scheme, calibration=[windows[:half]])
    assert drift(fast) > -0.03
    assert fast.weight_bytes == nearest.weight_bytes


@pytest.mark.parametrize("forms", [(), (rt.LowRank(0.5), rt.LowRank(0.3))], ids=["schemes", "ranks"])
def test_two_percent_of_drift(
    model: nn.Module, windows: Tensor, forms: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STAGE_TIMES, "0")
    half = len(windows) // 2
    drift = drift_on(model, windows[half:])
    fit = rt.fit_budget(
        model, windows[:1], rt.Budget(p50_us=1e6), [windows[:half]], metric=drift, max_drop=0.02,
        options=("float32", "w8a8", "w4a8", *forms), seconds=300,
    )  # fmt: skip
    assert fit.complete and fit.verdict == "PASS" and fit.model is not None and fit.best is not None
    assert drift(fit.model) >= -0.02
    uniform = [c for c in fit.candidates if {str(s) for s in c.scheme.values()} == {"w8a8"}]
    assert len(uniform) == 1 and uniform[0].keeps
    assert uniform[0].predicted_us is not None
    predicted = [c.predicted_us for c in fit.candidates if c.keeps and c.predicted_us is not None]
    assert min(predicted) <= uniform[0].predicted_us  # at least as good as uniform W8A8, by predicted cost
    assert fit.scheme is not None
    again = rt.compile(model, (windows[:1],), fit.scheme, calibration=[windows[:half]])
    assert drift(again) == pytest.approx(drift(fit.model), abs=1e-4)
    assert torch.isfinite(fit.model(windows)).all()
