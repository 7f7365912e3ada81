"""Models over windows that can be streamed, by a few numbers."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import rtaccel as rt
from tests.support.networks.causal import CausalTransformer, Style


class Causal(nn.Module):
    """Convolutions padded on the left, with a residual, over [batch, channels, time]."""

    def __init__(self, features: int, channels: int, dilations: tuple[int, ...], head: bool) -> None:
        super().__init__()
        sizes = [features, *[channels] * len(dilations)]
        self.convs = nn.ModuleList(nn.Conv1d(a, b, 3, dilation=d) for a, b, d in zip(sizes, sizes[1:], dilations))
        self.head = nn.Linear(channels, 3) if head else None
        self.dilations = dilations

    def forward(self, x: Tensor) -> Tensor:
        for conv, dilation in zip(self.convs, self.dilations):
            y = torch.relu(conv(F.pad(x, (2 * dilation, 0))))
            x = x + y if x.shape == y.shape else y
        return x if self.head is None else self.head(x[..., -1])


class Recurrent(nn.Module):
    """An LSTM or GRU over [batch, time, features], and a head that reads the newest time step, or the final state."""

    def __init__(self, kind: str, features: int, hidden: int, layers: int, head: bool, final: bool = False) -> None:
        super().__init__()
        self.final = final
        self.memory = {"lstm": nn.LSTM, "gru": nn.GRU}[kind](features, hidden, layers, batch_first=True)
        self.head = nn.Sequential(nn.Linear(hidden, 5), nn.Tanh(), nn.Linear(5, 2)) if head else None

    def forward(self, x: Tensor) -> Tensor:
        y, states = self.memory(x)
        if self.head is None:
            return y
        h = states[0] if isinstance(states, tuple) else states
        return self.head(h[-1] if self.final else y[:, -1])


def _style(d: Any) -> Style:
    """Without positions, which would end after some time steps."""
    heads = {2: 1, 4: 2, 9: 3, 16: 4}[d["width"]]
    return Style(
        attention="sdpa" if d["head"] else "matmul",
        norm="layer" if d["layers"] == 1 else "handwritten",
        heads=heads,
        kv=1 if len(d["dilations"]) == 2 else heads,
        head_dim=d["width"] // heads,
        layers=d["layers"],
        window=(0, 0, 3, 7)[len(d["dilations"])],
        bias="alibi" if d["features"] == 8 else "none",
        every=not d["head"],
    )


def network(d: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(d["seed"])
        if d["kind"] == "causal":
            return Causal(d["features"], d["width"], tuple(d["dilations"]), d["head"]).eval()
        if d["kind"] == "attention":
            return CausalTransformer(_style(d), d["features"]).eval()
        return Recurrent(d["kind"], d["features"], d["width"], d["layers"], d["head"], d["seed"] % 2 == 1).eval()


def windows(d: Any, seed: int, length: int = 9, count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, length, d["features"], generator=generator)
    return x.transpose(1, 2).contiguous() if d["kind"] == "causal" else x


def streamed(d: Any, seed: int | None = None) -> rt.StreamModel:
    """The stream of a description; seed: other weights and another calibration."""
    d = d if seed is None else {**d, "seed": seed}
    data = None if d["scheme"] == "float32" else [windows(d, d["seed"] + i) * (1 + d["seed"] % 3) for i in range(4)]
    context = 9 if d["kind"] == "attention" else None
    return rt.stream(
        network(d), torch.randn(d["streams"], d["features"]), d["scheme"], calibration=data, context=context
    )


def time_steps(d: Any, count: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(d["streams"], d["features"], generator=generator) for _ in range(count)]


def descriptions(schemes: tuple[str, ...] = ("float32", "w8a8", "w4a8")) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(
        {
            "kind": st.sampled_from(("lstm", "gru", "causal", "attention")),
            "seed": st.integers(0, 99),
            "features": st.sampled_from((1, 3, 8)),
            "width": st.sampled_from((2, 4, 9, 16)),
            "layers": st.sampled_from((1, 2)),
            "dilations": st.sampled_from(([1], [1, 2], [2, 1, 4])),
            "head": st.booleans(),
            "streams": st.sampled_from((1, 1, 2, 3)),
            "scheme": st.sampled_from(schemes),
        }
    )
