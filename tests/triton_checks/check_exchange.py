"""Triton kernels get other weights in the memory that they read, as `swap` of a graph does it."""

from __future__ import annotations

import pytest

from rtaccel.backends import require
from rtaccel.core import settings
from rtaccel.core.registry import Impl, impls, operator
from tests.triton_checks.support.exchanged import exchanged

require("triton")
DEVICE = "cpu" if settings.triton_interpret() else "cuda"
CASES = 2
"""Of each kernel: the first that it takes. The interpreter takes seconds for some."""

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, at the inf and nan that are meant


@pytest.mark.parametrize("impl", impls("triton"), ids=lambda impl: f"{impl.op}-{impl.name}")
def test_it_computes_with_the_new_weights(impl: Impl) -> None:
    done = 0
    for seed, case in enumerate(operator(impl.op).cases()):
        inputs = tuple(t.to(DEVICE) for t in case.make(seed))
        found = exchanged(impl, case.stage, inputs, DEVICE)
        assert found in ("exchanged", "nothing"), f"{case.id}: {found}"
        done += found == "exchanged"
        if done == CASES:
            break
