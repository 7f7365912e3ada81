"""Truth values that are counted: sums in float32 of what torch sums in int64, and one_hot as the comparison that it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.convert.frontend.decompositions.counting import MOST, count_in_float
from tests.support.networks.call import Call

NUMBERS = torch.linspace(-1, 1, 9)

CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum of a line": lambda x: (x > 0).sum(1),
    "sum that keeps": lambda x: (x > 0).sum(-1, keepdim=True),
    "sum of all": lambda x: (x > 0).sum(),
    "sum of samples": lambda x: (x > 0).sum(0),
    "by way of int32": lambda x: (x > 0).to(torch.int32).sum(1),
    "by way of int64": lambda x: (x > 0).long().sum(1),
    "by way of uint8": lambda x: (x > 0).to(torch.uint8).sum(1),
    "masked mean": lambda x: torch.where(x > 0, x, 0).sum(1) / (x > 0).sum(1).clamp(min=1),
    "as float": lambda x: (x > 0).long().float() * x,
    "twice": lambda x: ((x > 0).long().sum(1) > 3).int().float(),
    "one_hot": lambda x: nn.functional.one_hot((x.abs() * 2).long().clamp(0, 4), 5),
    "one_hot as float": lambda x: nn.functional.one_hot((x.abs() * 2).long().clamp(0, 4), 5).float().mean(1),
    "one_hot as sums": lambda x: nn.functional.one_hot((x.abs() * 2).long().clamp(0, 4), 5).sum(1),
    "bucketize": lambda x: torch.bucketize(x, NUMBERS),
    "bucketize from the right": lambda x: torch.bucketize(x, NUMBERS, right=True, out_int32=True),
    "searchsorted": lambda x: torch.searchsorted(NUMBERS, x),
    "searchsorted by rows": lambda x: torch.searchsorted(x[:, :12].sort(-1).values.contiguous(), x),
    "searchsorted from the right": lambda x: torch.searchsorted(
        x.sort(-1).values.contiguous(), x[:, :7].contiguous(), side="right"
    ),
    "searchsorted of planes": lambda x: torch.searchsorted(
        x[:, :20].reshape(-1, 4, 5).sort(-1).values,
        x[:, 20:40].reshape(-1, 4, 5).contiguous(),
        right=True,
        out_int32=True,
    ),
    "what is no truth": lambda x: (x * 3).long().sum(1),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_same_whole_numbers(name: str) -> None:
    model = Call(CALLS[name]).eval()
    fast = rt.compile(model, (torch.randn(3, 41),), strict=True)
    for rows in (3, 1, 6) if "all" not in name and "samples" not in name else (3,):
        x = torch.randn(rows, 41)
        x[0, 0], x[-1, -1] = 0.25, float("nan") if name.startswith(("sum", "bucketize", "search")) else -0.25
        got, want = fast(x), model(x)
        assert got.dtype == want.dtype
        torch.testing.assert_close(got, want, rtol=2e-6 if got.is_floating_point() else 0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", [n for n in CALLS if n not in ("what is no truth", "as float")])
def test_no_sum_in_whole_numbers_is_left(name: str) -> None:
    fast = rt.compile(Call(CALLS[name]).eval(), (torch.randn(3, 41),))
    stages = [stage for step in fast._program.steps for stage in step.group.stages]  # type: ignore[union-attr]
    assert not [s.name for s in stages if s.op == "scan"]


def test_more_than_float32_holds_stays_whole() -> None:
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.empty(2, MOST + 1, dtype=torch.bool, device="meta")
    total = graph.call_function(torch.ops.aten.sum.dim_IntList, (x, [1]))
    total.meta["val"] = torch.empty(2, dtype=torch.int64, device="meta")
    graph.output(total)
    count_in_float(graph)
    assert total in graph.nodes
    x.meta["val"] = torch.empty(2, MOST, dtype=torch.bool, device="meta")
    count_in_float(graph)
    assert total not in graph.nodes
