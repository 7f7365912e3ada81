from __future__ import annotations

import pytest

import rtaccel as rt
from rtaccel.search.cost_table import machine


@pytest.fixture
def profile() -> rt.MachineProfile:
    """Of this very machine, so that nothing is measured: stages take there what they take here."""
    frames = dict.fromkeys(("float32", "int8", "int4"), (0.0, 0.0))
    return rt.MachineProfile(machine(), {"a": ("linear float32", 1.0)}, {}, 2.0, frames)
