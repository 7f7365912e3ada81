"""Inputs of a group that lie where kernels for a card refuse them: a slice of a batch, whose samples are no 16 bytes."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest
import torch

from rtaccel.core.batch import ANY_BATCH
from rtaccel.core.errors import ShapeError
from rtaccel.core.registry import impls
from rtaccel.core.stage import GraphIO, Problem
from rtaccel.kernels.recurrent.cases import make_stage
from rtaccel.plan.group import StagedPlan, Subgraph
from tests.cuda_checks.windows import GATES
from tests.gpu.cuda.windows_of_stacks import A
from tests.support.fake_cuda import FakeCard

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


def test_a_slice_of_a_batch_is_copied_for_kernels_that_refuse_it(monkeypatch: pytest.MonkeyPatch) -> None:
    card = FakeCard()
    card.install(monkeypatch)
    stage = make_stage("lstm", GATES["lstm"], replace(A, time=5), 3, "int8-own", states=False, seed=1)
    (impl,) = (i for i in impls("triton", "lstm") if i.name == "cuda_window")
    call = impl.prepare(stage, Problem.of(stage, 4, "cpu"))
    (x,), (y,) = stage.inputs, stage.outputs[:1]
    group = Subgraph((stage,), (GraphIO(x, 1, x.shape),), (GraphIO(y, 1, y.shape),))
    plan = StagedPlan(group, [call], ANY_BATCH, "cpu", triton=True)
    data = torch.randn(9, *x.shape).to(getattr(torch, x.dtype))
    for first in (0, 1, 4):
        given = data[first : first + 3]
        assert given.is_contiguous() and (given.data_ptr() % 16 == 0) == (data[0].nbytes * first % 16 == 0)
        if given.data_ptr() % 16:
            with pytest.raises(ShapeError, match="an address that 16 divides"):
                call(given)
        launches = len(card.log)
        made = plan.call((given,))
        assert isinstance(made, torch.Tensor) and made.shape == (3, *y.shape)
        assert len(card.log) > launches
    assert data[1].data_ptr() % 16
