"""Embedding: an index without a row is refused before anything is computed, by every implementation alike."""

from __future__ import annotations

import pytest
import torch

import rtaccel as rt
from rtaccel._native import Bound
from rtaccel.core.registry import impls
from rtaccel.core.stage import GraphIO, Problem, Stage, Value
from rtaccel.kernels._core.cpu import build
from rtaccel.kernels.embedding import contract
from rtaccel.kernels.position import contract as position

STAGE = contract.make_stage(10, 6)
PROBLEM = Problem.of(STAGE, 1)
CPU = [i for i in impls("cpu", "embedding") if i.supports(PROBLEM) is None]
KERNELS = CPU + impls("portable", "embedding")
OUTSIDE = (-1, 10, 2**40, -(2**63))


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda i: i.name)
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_outside_is_refused(kernel, dtype: str) -> None:
    stage = contract.make_stage(10, 6, dtype)
    run = kernel.prepare(stage, Problem.of(stage, 3))
    good = torch.tensor([[0], [9], [4]])
    want = run(good)[0]
    assert torch.equal(want, contract.reference(stage, good)[0])
    for bad in OUTSIDE:
        for place in range(3):
            index = good.clone()
            index[place] = bad
            with pytest.raises(rt.FormatError, match=str(bad)) as caught:
                run(index)
            assert caught.value.next_step
    assert torch.equal(run(good)[0], want)  # still works


@pytest.mark.parametrize("kernel", CPU, ids=lambda i: i.name)
def test_nothing_is_written_when_refused(kernel) -> None:
    """Also where the bad index lies in a later block of samples, and where a stage stands before the embedding."""
    i, y = Value("i", 1, "int64", steps=4), Value("y", 6, steps=4)
    x, z = Value("x", 6, steps=4), Value("z", 6, steps=4)
    table = {"table": torch.randn(4, 6)}
    isa = kernel.name.removeprefix("cpu_")
    stages = [
        (Stage("position", "p", (x,), (z,), table), f"cpu_{isa}"),
        (Stage("embedding", "e", (i,), (y,), {"weight": torch.randn(10, 6)}), kernel.name),
    ]
    plan = build(stages, [GraphIO.matrix(x), GraphIO(i, 1, (4,))], [GraphIO.matrix(z), GraphIO.matrix(y)])
    index = torch.randint(0, 10, (50, 4))
    outputs = torch.full((50, 4, 6), 5.0), torch.full((50, 4, 6), 5.0)
    step = Bound(plan, (torch.randn(50, 4, 6), index), outputs)
    index[49, 3] = 10
    with pytest.raises(rt.FormatError, match=r"0\.\.9"):
        step()
    assert all((o == 5).all() for o in outputs)
    index[49, 3] = 9
    step()
    assert torch.equal(outputs[1], stages[1][0].tensors["weight"][index])


def test_position_needs_a_row_for_each_step() -> None:
    x = Value("x", 3, steps=4)
    for shape in ((5, 3), (4, 2), (12,)):
        with pytest.raises(rt.ShapeError, match="position"):
            position.lower(Stage("position", "p", (x,), (x,), {"table": torch.zeros(shape)}))
