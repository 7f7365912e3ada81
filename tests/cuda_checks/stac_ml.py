"""LSTM_A, B and C of STAC-ML by kernels/recurrent/cuda/recurrent.cu, in the forms of an H100, on a CPU against its own stream.

    python tests/cuda_checks/stac_ml.py [A] [B] [C] [--int4]

LSTM_C are 32,256 threads as fibers: some minutes, and some gigabytes.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))

import rtaccel as rt
from rtaccel.kernels._gpu import cuda_launch
from rtaccel.runtime.gpu import persistent, persistent_choice, persistent_run, persistent_stacks
from rtaccel.runtime.stream import StreamModel
from tests.cuda_checks.on_host import HostDevice

SIZES = {"A": (100, 100, 2), "B": (250, 200, 3), "C": (500, 1000, 4)}
"""Inputs, units, layers."""


class Newest(nn.Module):
    def __init__(self, inputs: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.stack, self.head = nn.LSTM(inputs, hidden, layers, batch_first=True), nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.stack(x)[0][:, -1])
        return y


def check(name: str, scheme: str) -> None:
    inputs, calibration = SIZES[name][0], [torch.randn(4, 5, SIZES[name][0])]
    plain = rt.stream(Newest(*SIZES[name]).eval(), torch.randn(1, inputs), scheme=scheme, calibration=calibration)
    live = StreamModel(plain._program, replace(plain._options, mode="persistent"), ("x_t",))
    for time_step in range(4):
        x = torch.randn(1, inputs)
        if time_step == 2:
            live.reset()
            plain.reset()
        if time_step == 3:
            live.load_state_dict(live.state_dict())
        if not torch.equal(live.step(x), plain.step(x)):
            sys.exit(f"LSTM_{name} {scheme}: another answer at time step {time_step}")
    (line,) = live.explain_lines(measure=False)
    print(f"LSTM_{name} {scheme}: the CPU's bits;", line.reasons[0], flush=True)
    live.close()


def main(words: list[str]) -> None:
    with persistent_choice.only(persistent_stacks.CUDA):
        device = HostDevice()
        persistent.persistent_device = lambda: device
        persistent.TIMEOUT_NS, persistent_run.END_S = 600_000_000_000, 600.0
        cuda_launch.bind = device.bind
        cuda_launch.unavailable = lambda kernel: None
        cuda_launch.has_room = lambda kernel: True
        for name in [word for word in words if word in SIZES] or SIZES:
            check(name, "w4a8" if "--int4" in words else "w8a8")


if __name__ == "__main__":
    main(sys.argv[1:])
