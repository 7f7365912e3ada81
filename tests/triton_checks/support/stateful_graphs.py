"""Models with state of their own in a graph by Triton's kernels, beside the CPU's plan and the models themselves."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import rtaccel as rt
from rtaccel.backends import require
from rtaccel.core import settings
from tests.support.fake_device import states_in_graphs
from tests.support.generators.stateful import CELLS, Stateful
from tests.support.networks.stateful import Drifting, Policy, made

require("triton")
INTERPRETED = settings.triton_interpret()
DEVICE = "cpu" if INTERPRETED else "cuda"
IN_GRAPHS = partial(states_in_graphs, "triton") if INTERPRETED else nullcontext

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, at the inf and nan that are meant


def beside(model: nn.Module, x: Tensor, scheme: str = "float32", calls: int = 4) -> None:
    """The same as on the CPU, and as the model where the scheme is float32; behind a reset, a load and a NaN too."""
    calibration = None if scheme == "float32" else [torch.randn(8 * len(x), *x.shape[1:]) for _ in range(4)]
    model.eval().requires_grad_(False)
    plain = rt.compile(model, (x,), scheme, calibration=calibration, strict=True)
    with IN_GRAPHS():
        fast = rt.compile(model, (x,), scheme, calibration=calibration, device=DEVICE, strict=True)
        assert "portable_torch" not in fast.explain(measure=False)
        nonfinite = (
            len(x) == 1 or scheme != "w8a16"
        )  # a NaN is in all rows on the CPU alone where weights alone are int8
        for reset in (True, True, False):
            _follow(fast, plain, copy.deepcopy(model) if reset and scheme == "float32" else None, x, calls, nonfinite)
            states = plain.state_dict()
            fast.reset(), plain.reset()
        fast.load_state_dict(states), plain.load_state_dict(states)
        _follow(fast, plain, None, x, 2, nonfinite)


def _follow(fast: Any, plain: Any, model: nn.Module | None, x: Tensor, calls: int, nonfinite: bool) -> None:
    near = {"rtol": 1e-3, "atol": 1e-4, "equal_nan": True}
    for call in range(calls):
        x = torch.randn_like(x)
        if nonfinite and model is None and call == calls - 1:
            x[0, 0] = float("nan")
        got, want = (pytree.tree_map(Tensor.cpu, f(t)) for f, t in ((fast, x.to(DEVICE)), (plain, x)))
        torch.testing.assert_close(got, want, **near)
        if model is not None:
            torch.testing.assert_close(got, model(x), **near)
        own = plain.state_dict()
        for name, tensor in fast.state_dict().items():
            torch.testing.assert_close(tensor, own[name], **near)


@pytest.mark.parametrize("cell", CELLS, ids=lambda c: c.__name__)
def test_each_kind_of_state(cell: type) -> None:
    seed = int(torch.randint(1000, ()))
    print(f"seed {seed}")
    model = Stateful(seed, (cell,))
    beside(model, model.example())


@pytest.mark.parametrize("seed", range(2))
def test_cells_one_behind_the_other(seed: int) -> None:
    model = Stateful(50 + seed)
    beside(model, model.example())


@pytest.mark.parametrize("scheme", ["float32", "w8a8", "w8a16"])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_policy(batch: int, scheme: str) -> None:
    beside(made(Policy(batch, 12, 16)), torch.randn(batch, 12), scheme, 4)


def test_a_count_and_a_truth_value() -> None:
    beside(made(Drifting()), torch.randn(2, 5))
