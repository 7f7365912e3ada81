"""A clipped ReLU before an int8 output that ends at or before the clip is a ReLU: the same int8 results."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.core.stage import QParams
from rtaccel.formats.int8 import quantize
from rtaccel.kernels._common.activations import ROWS, before_int8


def test_the_choice_is_exact() -> None:
    drawn, chosen = random.Random(4), set()
    for _ in range(2_000):
        quant = QParams(drawn.uniform(0.001, 0.1), drawn.randrange(-128, 128))
        clip = drawn.uniform(0.01, 12.0)
        name = before_int8("clipped_relu", clip, quant)
        t = torch.cat([torch.linspace(-1.0, 2 * clip, 4_001), torch.tensor([clip])])
        want = quantize(ROWS["clipped_relu"].reference(t, clip), quant)
        assert torch.equal(quantize(ROWS[name].reference(t, clip), quant), want), (quant, clip)
        chosen.add(name)
    assert chosen == {"relu", "clipped_relu"}
    assert before_int8("gelu", 0.0, QParams(0.05, 0)) == "gelu"


@pytest.mark.parametrize("spread", [0.3, 8.0])  # outputs that stay below the clip, and that reach it
def test_of_a_compiled_network(spread: float) -> None:
    model = nn.Sequential(
        nn.Conv2d(4, 20, 3), nn.ReLU6(), nn.Flatten(), nn.Linear(320, 33), nn.ReLU6(), nn.Linear(33, 5)
    )
    with torch.no_grad():
        model[0].weight.mul_(spread)
    calibration = [torch.randn(32, 4, 6, 6)]
    made = [
        rt.compile(
            model.eval(), torch.randn(3, 4, 6, 6), rt.W8A8(activation="static"), calibration=calibration, backend=b
        )
        for b in (None, "portable")
    ]
    for fast in made:
        attrs = [
            s.attrs["activation"]
            for s in fast._program.stages
            if s.outputs[0].dtype == "int8" and "activation" in s.attrs
        ]
        assert "relu" in attrs and "clipped_relu" not in attrs
    x = 3 * torch.randn(40, 4, 6, 6)
    assert torch.equal(made[0](x), made[1](x))
