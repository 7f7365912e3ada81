"""Networks that are packed in tests."""

from __future__ import annotations

import torch
from torch import nn


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(6, 16, 3)
        self.lstm = nn.LSTM(16, 24, 2, batch_first=True)
        self.gru = nn.GRU(24, 20, batch_first=True)
        self.head = nn.Linear(20, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        causal = nn.functional.pad(x.transpose(1, 2), (2, 0))
        y, _ = self.lstm(self.conv(causal).transpose(1, 2).tanh())
        y, _ = self.gru(y)
        return self.head(y[:, -1])
