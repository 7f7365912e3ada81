from __future__ import annotations

import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.search.cost_table import machine


@pytest.fixture(scope="package")
def cut() -> rt.Cut:
    """An MLP cut behind its first layer; its input does not leave the edge."""
    torch.manual_seed(0)
    frames = dict.fromkeys(("float32", "int8", "int4"), (0.0, 0.0))
    here = rt.MachineProfile(machine(), {"a": ("linear float32", 1.0)}, {}, 2.0, frames)
    model = nn.Sequential(nn.Linear(40, 8), nn.Tanh(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 40)).eval()
    made = rt.split(
        model, torch.randn(2, 40), rt.Link(rtt_us=1), here.scaled(1e7), here, private=True, wires=("float32",)
    )
    assert made.at == 1
    return made
