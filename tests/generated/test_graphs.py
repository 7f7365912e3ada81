"""Ten thousand random graphs of every operator against float64, fifty to a compiled model. A failure names the shortest wrong
beginning of its graph; `Graph(seed, KINDS)` makes it again.

A few hundred take turns by the day; CI runs a sixteenth of all, by the day, and `make check` all. Seeds are fixed: what a new one
finds is for whoever runs it to look into, not for an unrelated change. RTACCEL_FIRST_GRAPH=10000 runs others, RTACCEL_GRAPHS=500
so many.
"""

from __future__ import annotations

import os

import pytest

from tests.support.generators.count import case
from tests.support.generators.graphs.check import failures

FIRST, COUNT = int(os.environ.get("RTACCEL_FIRST_GRAPH", "0")), int(os.environ.get("RTACCEL_GRAPHS", "10000"))
TOGETHER = 50


@pytest.mark.turns(40)
@pytest.mark.parametrize("first", range(FIRST, FIRST + COUNT, TOGETHER))
def test_equal_float64(first: int) -> None:
    found = failures(range(first, first + TOGETHER))
    assert not found, "\n".join(found)
    case("graphs", 2 * TOGETHER)


def test_faults_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a kernel that is wrong in one number, and of one that gives none."""
    from rtaccel.runtime.compiled import CompiledModel

    right = CompiledModel.__call__
    monkeypatch.setattr(
        CompiledModel, "__call__", lambda self, *x: [y + (y == y.max()) * 1e-3 for y in right(self, *x)]
    )
    assert len(failures(range(5))) == 5
    monkeypatch.setattr(CompiledModel, "__call__", lambda self, *x: [y * float("nan") for y in right(self, *x)])
    assert len(failures(range(5))) == 5
