"""Kernels that are prepared in torch get other weights in place: every implementation, every case of its operator."""

from __future__ import annotations

import pytest

from rtaccel.core.registry import Impl, impls, operators
from tests.triton_checks.support.exchanged import exchanged
from tests.turns import todays

MANY = 20
"""Cases of one operator a day; recurrent ones in plain torch take a second each."""
IMPLS = sorted(impls("portable"), key=lambda impl: impl.op)


@pytest.mark.parametrize("impl", IMPLS, ids=lambda i: i.op)
def test_every_kernel_gets_other_weights(impl: Impl) -> None:
    cases = list(operators()[impl.op].cases())
    found = [exchanged(impl, case.stage, case.make(7)) for case in todays(cases, 1 + len(cases) // MANY)]
    refused = [text for text in found if text not in ("exchanged", "nothing")]
    assert not refused, f"{len(refused)} of {len(found)}: {refused[:3]}"
    if "exchanged" not in found:
        pytest.skip("no weights")
