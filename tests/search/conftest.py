"""Plans of the same schemes are the same plans, however busy the machine is."""

from __future__ import annotations

import pytest

from rtaccel.core.stage import Stage
from rtaccel.plan import sparse, sparse_recurrent


@pytest.fixture(autouse=True)
def sparse_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What holds zeros is computed sparse where that has fewer bytes. By its time, measured anew, each compile may choose
    another form, with another size."""

    def stored(stage: Stage, rows: int) -> float:
        return sum(t.numel() * t.element_size() for t in stage.tensors.values())

    monkeypatch.setattr(sparse, "_time", stored)
    monkeypatch.setattr(sparse_recurrent, "time", stored)
