"""Results that are the same whatever the inputs hold: a plan gives them with the others."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from tests.support.networks.call import Call


class Returns(nn.Module):
    """A layer, and some tensors of constants beside its result, in any order and any of them twice."""

    KINDS = ("zeros", "ones", "buffer", "row", "sum", "whole", "number", "scalar", "large", "read")

    def __init__(self, kinds: tuple[str, ...]) -> None:
        super().__init__()
        self.kinds, self.layer = kinds, nn.Linear(4, 3)
        self.register_buffer("table", torch.randn(2, 5))
        self.register_buffer("odd", torch.tensor([float("nan"), float("inf"), -0.0]))
        self.register_buffer("large", torch.randn(1, 20_000))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y, n = self.layer(x), x.shape[0]
        made = {
            "layer": lambda: y,
            "zeros": lambda: torch.zeros_like(y),
            "ones": lambda: torch.ones(n, 2, 3),
            "buffer": lambda: self.table,
            "row": lambda: self.odd.expand(n, -1),
            "sum": lambda: self.table.sum(0) + torch.zeros(n, 1),
            "whole": lambda: torch.full((n, 2), 7, dtype=torch.int64),
            "number": lambda: torch.full((n,), 2.5),
            "scalar": lambda: self.table.mean(),
            "large": lambda: self.large.expand(n, -1),
            "read": lambda: y + self.odd.nan_to_num(0.0, 1.0).expand(n, -1),
        }
        return tuple(made[kind]() for kind in self.kinds)


@pytest.mark.parametrize("seed", range(40))
def test_equals_torch(seed: int) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    kinds = [rng.choice(Returns.KINDS) for _ in range(rng.randint(1, 4))]
    kinds.insert(rng.randint(0, len(kinds)), "layer")
    model = Returns(tuple(kinds)).eval()
    fast = rt.compile(model, torch.randn(3, 4))
    for n in (1, 3, 6):
        x = torch.randn(n, 4)
        want, made = model(x), fast(x)
        out = tuple(torch.full_like(w, -5) for w in want)
        fast.run(x, out=out)
        for found in (made, out):
            for a, b in zip(found, want, strict=True):
                assert a.shape == b.shape and a.dtype == b.dtype
                torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6, equal_nan=True)


PARTS: dict[str, Callable[[Tensor], Any]] = {
    "nothing": lambda x: torch.linalg.slogdet(x[:, :, None].expand(-1, -1, 0)[:, :0]),
    "ones": lambda x: torch.linalg.slogdet(x.new_ones(x.shape[0], 3, 3)),
    "beside": lambda x: (*torch.linalg.slogdet(x.new_ones(x.shape[0], 3, 3)), x.sum(-1)),
    "sorted": lambda x: tuple(x.new_ones(x.shape[0], 3).sort(-1)),
    "extremes": lambda x: tuple(x.new_ones(x.shape[0], 3).max(-1)),
    "variance": lambda x: torch.var_mean(x.new_ones(x.shape[0], 3), 1),
    "pieces": lambda x: x.new_ones(x.shape[0], 4).split(2, 1),
    "one of two": lambda x: torch.linalg.slogdet(x.new_ones(x.shape[0], 2, 2))[1] + 0 * x.sum(),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("width", [0, 4])
@pytest.mark.parametrize("name", PARTS)
def test_results_of_one_call_that_are_the_same_for_every_sample(name: str, width: int) -> None:
    model = Call(PARTS[name]).eval()
    fast = rt.compile(model, torch.zeros(3, width))
    for rows in (1, 3, 5) if name != "one of two" else (3,):
        x = torch.zeros(rows, width)
        torch.testing.assert_close(fast(x), model(x), equal_nan=True)


@pytest.mark.parametrize("shape", [(3, 0, 0), (0, 0), (2, 0, 3), (2, 3, 0)])
@pytest.mark.parametrize("name", ["slogdet", "lu", "qr", "svd", "inv_ex", "lu_factor"])
def test_matrices_without_elements(name: str, shape: tuple[int, ...]) -> None:
    model, x = Call(lambda x: tuple(getattr(torch.linalg, name)(x))).eval(), torch.zeros(shape)
    try:
        want = model(x)
    except RuntimeError:
        pytest.skip("torch takes no such matrix")
    torch.testing.assert_close(rt.compile(model, x)(x), want)


def test_is_one_native_call() -> None:
    model, x = Returns(("layer", "zeros", "number", "row")).eval(), torch.randn(2, 4)
    fast = rt.compile(model, x, strict=True)
    out = tuple(torch.full_like(t, float("nan")) for t in model(x))
    call = fast.bind(x, out=out)
    call()
    for a, b in zip(out, model(x)):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6, equal_nan=True)
    assert type(call).__name__ == "Bound"
