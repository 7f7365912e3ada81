"""What the checks of the sparse Triton kernels share: stages with zeros, the kernels that take them, nan_filled outputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import rtaccel as rt
from rtaccel.core import settings
from rtaccel.core.registry import Impl, impls, operator
from rtaccel.core.stage import Problem, QParams, Stage, Value
from rtaccel.formats import masks
from rtaccel.kernels.sparse_linear import contract

DEVICE = "cpu" if settings.triton_interpret() else "cuda"


@pytest.fixture(autouse=True)
def nan_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    allocate = torch.empty

    def fill(*args: Any, **kwargs: Any) -> Tensor:
        t = allocate(*args, **kwargs)
        return t.fill_(float("nan") if t.is_floating_point() else 85)

    monkeypatch.setattr(torch, "empty", fill)


@pytest.fixture(autouse=True)
def fresh_seed() -> None:
    seed = torch.seed() % 2**31
    torch.manual_seed(seed)
    print(f"torch.manual_seed({seed})")


def taking(stage: Stage, rows: int) -> list[Impl]:
    return [i for i in impls("triton", stage.op) if i.supports(Problem.of(stage, rows, DEVICE)) is None]


def assert_right(impl: Impl, stage: Stage, prepared_for: int, *batches: tuple[Tensor, ...]) -> None:
    call = impl.prepare(stage, Problem.of(stage, prepared_for, DEVICE))
    op = operator(stage.op)
    for inputs in batches:
        (want,), tolerance = op.reference(stage, *inputs), op.tolerance(stage, *inputs)
        (got,) = call(*(t.to(DEVICE) for t in inputs))
        got = got.cpu()
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        if got.dtype == torch.int8:
            off = (got.int() - want.int()).abs() > tolerance.steps
        else:
            near = (got.double() - want.double()).abs() <= tolerance.atol
            off = ~((got == want) | (got.isnan() & want.isnan()) | near)
        assert not off.any(), f"{impl.name}: {int(off.sum())} of {off.numel()} differ"


def with_zeros(n: int, k: int, kind: str, pattern: rt.BlockSparse | rt.Unstructured, **options: Any) -> Stage:
    """A stage with whole blocks of zeros, an empty row of blocks among them."""
    stage = contract.make_stage(k, n, kind, "window", 1.0, **options)
    dense = contract.dense_stage(stage)
    weight = dense.tensors["weight"] * masks.keep(torch.rand(n, k), pattern)
    block = pattern.block if isinstance(pattern, rt.BlockSparse) else (1, 1)
    weight[: block[0]] = 0
    dense = replace(dense, tensors={**dense.tensors, "weight": weight})
    return contract.sparse_stage(dense, pattern.layout, block)


def visible_sums(weight: Tensor, zero_point: int, layout: str, block: tuple[int, int]) -> Stage:
    """Its float32 output is the accumulator itself, up to 2^24."""
    x = Value("x", weight.shape[1], "int8", QParams(1.0, zero_point))
    tensors = {"weight": weight, "weight_scale": torch.ones(weight.shape[0])}
    return contract.sparse_stage(Stage("linear", "sums", (x,), (Value("y", weight.shape[0]),), tensors), layout, block)
