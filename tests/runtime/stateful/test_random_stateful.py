"""Random models with state of their own, in buffers and attributes, against themselves over many calls."""

from __future__ import annotations

import copy

import pytest
import torch

import rtaccel as rt
from tests.support.generators.stateful import CELLS, Stateful

STEPS = 40


def follow(fast: rt.CompiledModel, model: Stateful, steps: int = STEPS) -> None:
    for _ in range(steps):
        x = model.example()
        torch.testing.assert_close(fast(x), model(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("cell", CELLS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("seed", range(2))
def test_each_kind_of_state(cell: type, seed: int) -> None:
    model = Stateful(seed, (cell,)).eval().requires_grad_(False)
    kept = copy.deepcopy(model)
    fast = rt.compile(model, (model.example(),), strict=True)
    first = copy.deepcopy(fast)
    follow(fast, kept)
    fast.reset()
    follow(fast, model, 6)  # as it was when it was compiled: neither that nor the calls of `fast` changed it
    follow(first, Stateful(seed, (cell,)).eval().requires_grad_(False), 6)


@pytest.mark.parametrize("seed", range(12))
def test_cells_one_behind_the_other(seed: int) -> None:
    model = Stateful(seed).eval().requires_grad_(False)
    for _ in range(seed % 3):
        model(model.example())  # compiled in the middle of its life
    fast = rt.compile(model, (model.example(),), strict=True)
    follow(fast, copy.deepcopy(model), 12)
    # Two states in one model: the second goes on where the first stands, and by itself.
    twin, other = copy.deepcopy(fast), rt.compile(model, (model.example(),), strict=True)
    x = model.example()
    want = fast(x)
    follow(other, copy.deepcopy(model), 4)
    torch.testing.assert_close(twin(x), want, rtol=0, atol=0)


@pytest.mark.parametrize("seed", range(4))
def test_states_are_saved_and_loaded_by_name(seed: int) -> None:
    model = Stateful(100 + seed).eval().requires_grad_(False)
    kept = copy.deepcopy(model)
    fast, fresh = (rt.compile(model, (model.example(),), strict=True) for _ in range(2))
    follow(fast, kept, 5)
    fresh.load_state_dict(fast.state_dict())
    follow(fresh, kept, 5)
