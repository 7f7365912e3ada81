"""Streams in a graph by Triton's kernels, beside those of the CPU: results, marks of NaN, resets, streams that stand still."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.backends import require
from rtaccel.core import settings
from tests.support.fake_device import streams_in_graphs

require("triton")
INTERPRETED = settings.triton_interpret()
DEVICE, MODE = ("cpu", None) if INTERPRETED else ("cuda", "graph")
IN_GRAPHS = partial(streams_in_graphs, "triton") if INTERPRETED else nullcontext

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, at the inf and nan that are meant


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv1d(6, 8, 3), nn.Conv1d(8, 8, 2, dilation=3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(torch.nn.functional.pad(x.transpose(1, 2), (2, 0))))
        y = torch.relu(self.second(torch.nn.functional.pad(y, (3, 0))) + y).transpose(1, 2)
        return self.head(y)


class Recurrent(nn.Module):
    def __init__(self, stack: nn.Module) -> None:
        super().__init__()
        self.stack, self.head = stack, nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stack(x)[0])


class Attention(nn.Module):
    """Causal, of the last five time steps."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(6, 24), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        t = torch.arange(x.shape[1])
        mask = (t[:, None] >= t) & (t[:, None] - t < 5)
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(y.transpose(1, 2).flatten(2))


MODELS: dict[str, Any] = {
    "convolutions": Convolutions,
    "gru": lambda: Recurrent(nn.GRU(6, 8, batch_first=True)),
    "lstm": lambda: Recurrent(nn.LSTM(6, 8, 2, batch_first=True)),
    "rnn": lambda: Recurrent(nn.RNN(6, 8, batch_first=True)),
    "attention": Attention,
}


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
@pytest.mark.parametrize("name", MODELS)
def test_steps_are_those_of_the_cpu(name: str, scheme: str) -> None:
    seed = torch.seed() % 2**31
    print(f"seed {seed}")
    torch.manual_seed(seed)
    model, calibration = MODELS[name]().eval(), None if scheme == "float32" else [torch.randn(8, 30, 6)]
    plain = rt.stream(model, torch.randn(4, 6), scheme, calibration)
    with streams_in_graphs("triton") if INTERPRETED else nullcontext():
        live = rt.stream(
            model, torch.randn(4, 6), scheme, calibration, device=DEVICE, mode=None if INTERPRETED else "graph"
        )
        table = live.explain().split("\nstages")[0]
        assert "portable" not in table, table
        for t in range(14):
            some = torch.randperm(4)[: int(torch.randint(1, 4, ()))] if t % 4 == 3 else None
            x = torch.randn(4 if some is None else len(some), 6)
            if t == 5:
                x[0, 2] = float("nan")
            if t == 8:
                plain.reset([1]), live.reset([1])
            want, got = plain.step(x, streams=some), live.step(x.to(DEVICE), streams=some).cpu()
            assert torch.equal(got.isnan(), want.isnan()), t
            got, want = got.nan_to_num(), want.nan_to_num()
            near = (
                torch.allclose(got, want, atol=1e-5)
                if scheme == "float32" or name == "attention"
                else torch.equal(got, want)
            )
            assert near, (t, (got - want).abs().max())


def test_ten_thousand_streams_are_one_kernel() -> None:
    """Of a GRU in W8A8; in the interpreter of fewer."""
    streams = 700 if INTERPRETED else 10_000
    model, calibration = nn.GRU(32, 32, batch_first=True).eval(), [torch.randn(8, 20, 32)]
    plain = rt.stream(model, torch.randn(streams, 32), "w8a8", calibration)
    with streams_in_graphs("triton") if INTERPRETED else nullcontext():
        live = rt.stream(
            model, torch.randn(streams, 32), "w8a8", calibration, device=DEVICE, mode=None if INTERPRETED else "graph"
        )
        assert [line.kernel for line in live.explain_lines(measure=False)] == ["triton_many"]
        for _ in range(2):
            x = torch.randn(streams, 32)
            assert torch.equal(live.step(x.to(DEVICE)).cpu(), plain.step(x))
