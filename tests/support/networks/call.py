"""A function of one, two or three tensors as a model. (With `*tensors` in forward torch.export would fix the batch.)"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Call(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


class CallOfTwo(Call):
    def forward(self, a: Tensor, b: Tensor) -> Any:
        return self.function(a, b)


class CallOfThree(Call):
    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Any:
        return self.function(a, b, c)
