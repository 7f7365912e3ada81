"""Position: one float32 sum for each number, each step with its own row of the table; tables that do not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.registry import operator
from rtaccel.core.stage import Stage, Value
from rtaccel.kernels.position.contract import make_stage
from tests.support.one_stage import (
    INF,
    NAN,
    check_no_samples,
    check_same,
    check_samples_apart,
    compiled_both,
    kernels,
    runs,
)


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize(("steps", "width"), [(1, 1), (1, 17), (5, 3), (9, 64), (3, 131)])
def test_is_one_sum_for_each_number(steps: int, width: int, samples: int) -> None:
    stage = make_stage(steps, width)
    x = torch.randn(samples, *stage.inputs[0].shape) * 100
    want = x.numpy().reshape(samples, steps, width) + stage.tensors["table"].numpy()
    assert want.dtype == np.float32
    check_same(stage, (x,), (torch.from_numpy(want).reshape(x.shape),))


def test_each_step_has_its_own_row() -> None:
    stage = make_stage(4, 3)
    for name, run in runs(stage, 2).items():
        assert run(torch.zeros(2, 4, 3))[0].tolist() == [stage.tensors["table"].tolist()] * 2, name


def test_samples_and_numbers_are_apart() -> None:
    stage = make_stage(4, 9)
    x = torch.randn(3, 4, 9)
    check_samples_apart(stage, (x,))
    check_no_samples(stage)
    bad = x.clone()
    bad[1, 2, 5], bad[2, 0, 0] = NAN, INF
    for name, run in runs(stage, 3).items():
        got = run(bad)[0]
        assert got[1, 2, 5].isnan() and got[2, 0, 0] == INF, name
        assert int((got != run(x)[0]).sum()) == 2, name


class Placed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.table = nn.Linear(6, 6), nn.Parameter(torch.randn(5, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.table


def test_compiled() -> None:
    model = Placed()
    native, plain, found = compiled_both(model, (torch.randn(2, 5, 6),))
    assert found == ["linear", "position"]
    for rows in (1, 2, 20):
        x = torch.randn(rows, 5, 6)
        for fast in (native, plain):
            torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-6)
    with pytest.raises(rt.ShapeError, match="5, 6"):
        native(torch.randn(2, 4, 6))


@pytest.mark.parametrize("shape", [(5, 3), (4, 2), (3, 4), (12,), (1, 4, 3)], ids=str)
def test_a_table_without_a_row_for_each_step(shape: tuple[int, ...]) -> None:
    x, y = Value("x", 3, steps=4), Value("y", 3, steps=4)
    stage = Stage("position", "p", (x,), (y,), {"table": torch.zeros(shape)})
    for refuse in (operator("position").lower, kernels):
        with pytest.raises(rt.ShapeError, match=r"position: got a table .*; expected \[4, 3\]"):
            refuse(stage)
