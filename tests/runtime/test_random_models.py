"""Random models against torch: layers in any order, residuals, several outputs, any batch; float32 near, int8 exact."""

from __future__ import annotations

import os

import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import nn

import rtaccel as rt

LAYERS = (
    "linear",
    "linear",
    "linear",
    "bn",
    "relu",
    "leaky",
    "elu",
    "gelu",
    "tanh",
    "softmax",
    "add",
    "scale",
    "layernorm",
)


class Random(nn.Module):
    """A straight line of layers; "add" adds the latest earlier value of the same width."""

    def __init__(self, width: int, plan: list[tuple[str, int]], outputs: int) -> None:
        super().__init__()
        self.plan, self.outputs, layers = plan, outputs, []
        for kind, size in plan:
            if kind == "linear":
                layers.append(nn.Linear(width, size, bias=size % 3 != 0))
                width = size
            elif kind == "bn":
                norm = nn.BatchNorm1d(width)
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)
                layers.append(norm)
            elif kind == "layernorm":
                layers.append(nn.LayerNorm(width))
            else:
                layers.append(nn.Identity())
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        seen = [x]
        for (kind, size), layer in zip(self.plan, self.layers):
            if kind in ("linear", "bn", "layernorm"):
                x = layer(x)
            elif kind == "add":
                x = x + next((s for s in seen[:-1][::-1] if s.shape == x.shape), x)
            elif kind == "scale":
                x = x * 0.5 + size / 10
            else:
                x = {
                    "relu": torch.relu,
                    "leaky": lambda t: nn.functional.leaky_relu(t, 0.2),
                    "elu": nn.functional.elu,
                    "gelu": nn.functional.gelu,
                    "tanh": torch.tanh,
                    "softmax": lambda t: torch.softmax(t, -1),
                }[kind](x)
            seen.append(x)
        return x if self.outputs == 1 else tuple(seen[-self.outputs :])


MODELS = st.tuples(
    st.integers(1, 40),
    st.lists(st.tuples(st.sampled_from(LAYERS), st.integers(1, 40)), min_size=1, max_size=9),
    st.integers(1, 3),
    st.integers(0, 2**31 - 1),
)


# In CI always the same models: what a new one finds is for whoever runs it to look into, not for an unrelated change.
@settings(max_examples=30, deadline=None, derandomize="CI" in os.environ, suppress_health_check=[HealthCheck.too_slow])
@given(MODELS)
@example((1, [("linear", 2)], 1, 2))  # one input: as many scales as weights
def test_random_models(case: tuple[int, list[tuple[str, int]], int, int]) -> None:
    width, plan, outputs, seed = case
    torch.manual_seed(seed)
    model = Random(width, plan, outputs).eval()
    x = torch.randn(1 + seed % 9, width)
    fast = rt.compile(model, (x[:1],))
    for rows in (x, x[:1]):
        got, want = fast(rows), model(rows)
        got, want = (got, want) if outputs > 1 else ((got,), (want,))
        assert len(got) == len(want)
        for a, b in zip(got, want):
            torch.testing.assert_close(a, b.detach(), rtol=1e-4, atol=1e-4)
    exact = ("linear", "bn", "relu", "leaky", "add", "scale")  # what every backend computes to the same bits
    if all(kind in exact for kind, _ in plan):
        data = [torch.randn(64, width)]
        native, plain = (rt.compile(model, (x,), "w8a8", calibration=data, backend=b) for b in ("cpu", "portable"))
        a, b = native(x), plain(x)
        for p, q in zip(a if outputs > 1 else (a,), b if outputs > 1 else (b,)):
            assert torch.equal(p, q)
