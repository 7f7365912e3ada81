"""Cached attention step by step, as attention over the window is, for each kernel; states, NaN, samples apart, forged numbers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import rtaccel as rt
from rtaccel.core.registry import operator
from rtaccel.core.stage import Stage, Value
from rtaccel.kernels.cached_attention import contract
from tests.support.networks.int8_layers import same
from tests.support.one_stage import NAN, check_no_samples, check_samples_apart, kernels, runs

SHAPES = [(1, 1, 1, 1), (5, 2, 8, 2), (16, 4, 16, 1), (37, 6, 20, 3), (64, 3, 64, 3), (130, 2, 33, 1)]


def empty(stage: Stage, rows: int) -> list[Tensor]:
    """The states before the first step: places that no step has written are NaN here, so that none is read."""
    keys, values, count = stage.inputs[3:]
    return [
        torch.full((rows, *keys.shape), NAN),
        torch.full((rows, *values.shape), NAN),
        torch.zeros(rows, *count.shape),
    ]


def window(stage: Stage, past: Tensor, q: Tensor) -> Tensor:
    """Attention of the newest query to the last R steps, [M, heads * head_dim], in float64."""
    a, rows = stage.attrs, past.shape[0]
    heads, kv, d, places = a["heads"], a["kv_heads"], a["head_dim"], stage.inputs[3].width
    past = past[:, -places:].double()
    k, v = (past[..., c : c + kv * d].view(rows, -1, kv, d).transpose(1, 2) for c in (a["k_column"], a["v_column"]))
    k, v = (part.repeat_interleave(heads // kv, 1) for part in (k, v))
    q = q[:, a["q_column"] : a["q_column"] + heads * d].double().view(rows, heads, 1, d)
    bias = stage.tensors.get("bias")
    mask = None if bias is None else bias[:, : k.shape[2]].flip(-1)[:, None].double()
    return F.scaled_dot_product_attention(q, k, v, mask, scale=a["scale"]).transpose(1, 2).reshape(rows, heads * d)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("places", "heads", "head_dim", "kv"), SHAPES)
def test_steps_are_attention_over_the_window(places: int, heads: int, head_dim: int, kv: int, bias: bool) -> None:
    """Twice around the ring and more."""
    torch.manual_seed(places)
    stage, rows, steps = contract.make_stage(places, heads, head_dim, kv, heads if bias else 0), 3, 2 * places + 7
    x, qs = torch.randn(rows, steps, stage.inputs[1].width), torch.randn(rows, steps, stage.inputs[0].width)
    for name, run in runs(stage, rows).items():
        states = empty(stage, rows)
        for t in range(steps):
            y, *states = run(qs[:, t].contiguous(), x[:, t].contiguous(), x[:, t].contiguous(), *states)
            if t < 3 or t % 7 == 0 or t >= steps - 3:
                torch.testing.assert_close(
                    y.double(), window(stage, x[:, : t + 1], qs[:, t]), rtol=1e-5, atol=1e-5, msg=name
                )
            assert float(states[2][0]) == (t + 1 if t + 1 < 2 * places else places + (t + 1) % places), name


def test_samples_are_apart() -> None:
    stage = contract.make_stage(9, 2, 8, 1, 2)
    check_samples_apart(stage, contract.make_inputs(stage, 4, 1))
    check_no_samples(stage)


@pytest.mark.parametrize("count", [NAN, -1.0, 1e9, float("inf"), 18.0, 2.5])
def test_a_count_that_no_stream_can_have_reads_no_other_memory(count: float) -> None:
    """As a file may forge it. 2.5 counts as 2; others as a stream that begins."""
    stage = contract.make_stage(9, 2, 8)
    inputs = list(contract.make_inputs(stage, 2, 0))
    honest = [*inputs[:5], torch.full_like(inputs[5], 2.0 if count == 2.5 else 0.0)]
    forged = [*inputs[:5], torch.full_like(inputs[5], count)]
    for name, run in kernels(stage, 2).items():
        if name.startswith("cpu"):
            assert all(same(a, b) for a, b in zip(run(*forged), run(*honest))), name


def test_a_nan_in_a_key_reaches_every_later_query_until_it_is_overwritten() -> None:
    stage = contract.make_stage(4, 1, 8)
    for name, run in runs(stage, 1).items():
        states = empty(stage, 1)
        for t in range(12):
            x = torch.randn(1, stage.inputs[1].width)
            if t == 3:
                x[0, 5] = NAN
            y, *states = run(torch.randn(1, stage.inputs[0].width), x, x, *states)
            assert bool(y.isnan().any()) == (3 <= t < 7), (name, t)


BAD = {
    "a head that does not fit": {"head_dim": 9},
    "heads that do not divide": {"heads": 3},
    "a column outside": {"v_column": 20},
    "no heads": {"heads": 0},
}


@pytest.mark.parametrize("name", BAD)
def test_stages_that_do_not_fit(name: str) -> None:
    good = contract.make_stage(5, 2, 8)
    bad = Stage(good.op, "bad", good.inputs, good.outputs, {}, {**good.attrs, **BAD[name]})
    for refuse in (operator(good.op).lower, kernels):
        with pytest.raises(rt.ShapeError, match="cached_attention"):
            refuse(bad)


def test_other_refusals() -> None:
    good = contract.make_stage(5, 2, 8, bias=2)
    with pytest.raises(rt.FormatError, match="empty_row"):
        kernels(Stage(good.op, "bad", good.inputs, good.outputs, {}, {**good.attrs, "empty_row": "one"}))
    with pytest.raises(rt.ShapeError, match="cached_attention"):
        kernels(Stage(good.op, "bad", good.inputs, good.outputs, {"bias": torch.zeros(2, 4)}, good.attrs))
    short = (*good.inputs[:4], Value("values", 16, steps=4), good.inputs[5])
    with pytest.raises(rt.ShapeError, match="cached_attention"):
        kernels(Stage(good.op, "bad", short, good.outputs, {}, good.attrs))
