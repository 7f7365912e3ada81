"""Writes policy.rta, filter.rta and in.f32 for the programs in this folder: python make_models.py FOLDER"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

import rtaccel as rt

BLOCK = 64
"""Samples of an audio block."""


def main(folder: Path) -> None:
    torch.manual_seed(0)
    policy = nn.Sequential(nn.Linear(48, 128), nn.ELU(), nn.Linear(128, 128), nn.ELU(), nn.Linear(128, 12)).eval()
    batches = [torch.randn(256, 48) for _ in range(4)]
    rt.save(rt.compile(policy, torch.randn(1, 48), "w8a8", calibration=batches), folder / "policy.rta")
    gru = nn.GRU(BLOCK, BLOCK, batch_first=True).eval()
    rt.save(rt.stream(gru, torch.randn(1, BLOCK)), folder / "filter.rta")
    (0.1 * torch.randn(100 * BLOCK)).numpy().tofile(folder / "in.f32")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
