"""Table row: the row that the count says, which goes on by one; a step beyond the table is refused."""

from __future__ import annotations

import pytest
import torch

import rtaccel as rt
from rtaccel.core.registry import operator
from rtaccel.core.stage import Stage, Value
from rtaccel.kernels.position import contract as position
from rtaccel.kernels.table_row.contract import make_stage
from tests.support.one_stage import NAN, check_no_samples, check_same, kernels, runs


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (7, 3), (64, 16), (5, 131)])
def test_row_of_each_sample(rows: int, columns: int) -> None:
    stage = make_stage(rows, columns)
    count = torch.randint(0, rows, (6, 1)).float()
    check_same(stage, (count,), (stage.tensors["table"][count[:, 0].long()], count + 1))
    check_no_samples(stage)


@pytest.mark.parametrize("count", [7.0, -1.0, NAN, 1e30, float("inf")])
@pytest.mark.parametrize(
    "stage", [make_stage(7, 5), position.make_stage(7, 5, stream=True)], ids=lambda stage: stage.op
)
def test_a_step_beyond_the_table(stage: Stage, count: float) -> None:
    """Of any sample, whatever the others have; nothing is written then."""
    counts = torch.tensor([[0.0], [3.0], [count]])
    x = () if stage.op == "table_row" else (torch.randn(3, 5),)
    for name, run in runs(stage, 3).items():
        with pytest.raises(rt.FormatError, match=r"step .* 0\.\.6"):
            run(*x, counts)
        assert torch.equal(counts[:2], torch.tensor([[0.0], [3.0]])), name


@pytest.mark.parametrize("table", [torch.zeros(4, 3), torch.zeros(20)], ids=["width", "rank"])
def test_a_table_of_other_columns(table: torch.Tensor) -> None:
    stage = Stage("table_row", "t", (Value("count", 1),), (Value("y", 5), Value("out", 1)), {"table": table})
    for refuse in (operator("table_row").lower, kernels):
        with pytest.raises(rt.ShapeError, match=r"table_row: got a table .*; expected \[T, 5\]"):
            refuse(stage)
