"""Writes policy.rta, steer.rta, filter.rta and in.f32 for the programs in this folder: python make_models.py FOLDER"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

import rtaccel as rt

BLOCK = 64
"""Samples of an audio block."""


class Steer(nn.Module):
    """State [batch, 12] and goal [batch, 3] to action [batch, 4] and its cost [batch, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.state, self.goal, self.cost = nn.Linear(12, 32), nn.Linear(3, 32), nn.Linear(4, 1)
        self.action = nn.Linear(32, 4)

    def forward(self, state: torch.Tensor, goal: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        action = self.action(torch.tanh(self.state(state) + self.goal(goal)))
        return action, self.cost(action)


def main(folder: Path) -> None:
    torch.manual_seed(0)
    policy = nn.Sequential(nn.Linear(48, 128), nn.ELU(), nn.Linear(128, 128), nn.ELU(), nn.Linear(128, 12)).eval()
    batches = [torch.randn(256, 48) for _ in range(4)]
    rt.save(rt.compile(policy, torch.randn(1, 48), "w8a8", calibration=batches), folder / "policy.rta")
    rt.save(rt.compile(Steer().eval(), (torch.randn(1, 12), torch.randn(1, 3))), folder / "steer.rta")
    gru = nn.GRU(BLOCK, BLOCK, batch_first=True).eval()
    rt.save(rt.stream(gru, torch.randn(1, BLOCK)), folder / "filter.rta")
    (0.1 * torch.randn(100 * BLOCK)).numpy().tofile(folder / "in.f32")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
