"""Whole compiled networks, one row per call on one thread: the bound call, `fast.run` and `fast(x)`.

size_bytes: weights and scales. error: rms of the difference to torch float32 over rms of torch's output, on 64 inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import networks
import pytest
import torch
from torch import nn

import rtaccel as rt

SCHEMES = {"w8a8": rt.W8A8("static"), "w8a8-dynamic": rt.W8A8("dynamic"), "float32": rt.Float32()}

NETWORKS: dict[str, Callable[[], nn.Sequential]] = {
    "ad01": networks.autoencoder,  # random weights: the same work as the trained ones, wherever it runs
    "policy": networks.policy,
    "jet": networks.jet,
}


@pytest.mark.parametrize("form", ["bound", "run", "call"])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("network", NETWORKS)
def test_model(latency, network: str, scheme: str, form: str) -> None:
    model = NETWORKS[network]()
    inputs = torch.randn(64, model[0].in_features, generator=torch.Generator().manual_seed(1))
    x = inputs[:1].clone()
    calibration = [inputs] if scheme == "w8a8" else None
    fast = rt.compile(model, (x,), SCHEMES[scheme], calibration=calibration)
    with torch.no_grad():
        want = model(inputs)
    error = float((fast(inputs) - want).square().mean().sqrt() / want.square().mean().sqrt())
    out = torch.empty_like(want[:1])
    calls = {"bound": fast.bind(x, out=out), "run": partial(fast.run, x, out=out), "call": partial(fast, x)}
    latency(calls[form], name=f"{network}/{scheme}/{form}", size_bytes=fast.weight_bytes, error=error)
