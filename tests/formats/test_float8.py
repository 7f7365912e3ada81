"""float8: what the format rounds, and models compiled with it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.formats import fp8
from rtaccel.runtime.compiled import CompiledModel

STEP = 2.0**-4
"""Half a step of three bits of fraction, relative to the number."""


def test_weights_keep_three_bits_of_fraction() -> None:
    weight = torch.randn(9, 50) * torch.logspace(-6, 3, 9)[:, None]
    weight[4] = 0.0
    q, scale = fp8.quantize_weight(weight)
    assert q.dtype == fp8.DTYPE
    assert scale[4] == 1.0
    back = q.double() * scale.double()[:, None]
    smallest = scale.double()[:, None] * 2.0**-10  # half the smallest number of e4m3
    assert ((back - weight.double()).abs() <= torch.maximum(weight.double().abs() * STEP, smallest) * (1 + 1e-6)).all()
    assert (back.abs().amax(1) == weight.double().abs().amax(1)).sum() >= 1
    with pytest.raises(FormatError, match=r"weight\[1, 2\] = nan"):
        fp8.quantize_weight(torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, float("nan")]]))


def test_rows_of_any_size() -> None:
    x = torch.randn(5, 40)
    x[1], x[2, 3], x[3, 0], x[4] = 0.0, float("nan"), float("inf"), 1e-42
    q, scale = fp8.dynamic(x)
    assert scale[[2, 3]].isnan().all()
    assert scale[[1, 4]].eq(1.0).all()
    assert q.float()[1:].eq(0).all()
    assert q.float()[0].abs().max() == fp8.LARGEST


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(40, 32), nn.ReLU(), nn.Linear(32, 6)).eval()


def test_a_compiled_model() -> None:
    model, x = network(), torch.randn(4, 40)
    fast = rt.compile(model, (x,), scheme=rt.Float8())
    assert isinstance(fast, CompiledModel)
    want = model(x).detach()
    assert (fast(x) - want).abs().max() < 0.15 * want.abs().max()
    assert "fused_linear" in fast.explain(measure=False)
    other = rt.compile(network(), (x,), scheme="float8")
    other.load_state_dict(fast.state_dict())
    assert torch.equal(other(x), fast(x))
    broken = fast.state_dict()
    name = next(n for n, t in broken.items() if t.dtype == fp8.DTYPE)
    broken[name] = torch.full(broken[name].shape, float("nan")).to(fp8.DTYPE)
    with pytest.raises(FormatError, match="finite"):
        other.load_state_dict(broken)


def test_what_has_no_float8_is_said() -> None:
    conv = nn.Sequential(nn.Conv1d(3, 4, 3)).eval()
    assert "no float8 kernel for conv" in rt.compile(conv, (torch.randn(1, 3, 9),), scheme="float8").explain(
        measure=False
    )
    with pytest.raises(UnsupportedProblem, match="float8"):
        rt.quantize_(network(), "float8")
