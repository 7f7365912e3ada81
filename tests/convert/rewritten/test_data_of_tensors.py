"""`.data` of tensors: what is computed so far, read and written through it, and never the numbers of the example."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import rtaccel as rt


class Net(nn.Module):
    def __init__(self, then: Callable[[nn.Linear, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.then = nn.Linear(4, 6), then

    def forward(self, x: Tensor) -> Tensor:
        return self.then(self.linear, x, self.linear(x))


def padded(_: nn.Linear, x: Tensor, y: Tensor) -> Tensor:
    return torch.cat([y.data, y.new_zeros(x.shape[0], 2)], 1)


def of_an_input(_: nn.Linear, x: Tensor, y: Tensor) -> Tensor:
    return y[:, :4] * x.data


def of_a_parameter(linear: nn.Linear, x: Tensor, y: Tensor) -> Tensor:
    return F.linear(y, linear.weight.data.T, linear.bias.data[:4] * 2) + x


def written(_: nn.Linear, x: Tensor, y: Tensor) -> Tensor:
    y.data.mul_(2)
    y.data[:, 1] = x[:, 0]
    return y + 1


def replaced(_: nn.Linear, x: Tensor, y: Tensor) -> Tensor:
    y.data = y * x[:, :1]
    return y + 1


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("then", [padded, of_an_input, of_a_parameter, written, replaced])
def test_data_is_that_of_each_call(then: Callable[[nn.Linear, Tensor, Tensor], Tensor], verify: bool) -> None:
    torch.manual_seed(0)
    net = Net(then).eval()
    fast = rt.compile(net, torch.randn(2, 4), strict=True, verify=verify)
    for size in (1, 2, 5):
        x = torch.randn(size, 4)
        with torch.no_grad():
            torch.testing.assert_close(fast(x), net(x))


class Sums(nn.Module):
    total: Tensor

    def __init__(self, replaces: bool) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(4))
        self.replaces = replaces

    def forward(self, x: Tensor) -> Tensor:
        if self.replaces:
            self.total.data = self.total + x.sum(0)
        else:
            self.total.data += x.sum(0)
        return x * self.total


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("replaces", [True, False])
def test_state_kept_through_data(replaces: bool, verify: bool) -> None:
    net = Sums(replaces).eval()
    fast = rt.compile(net, torch.randn(2, 4), strict=True, verify=verify)
    assert isinstance(fast, rt.StatefulModel)
    for _ in range(3):
        x = torch.randn(2, 4)
        torch.testing.assert_close(fast(x), net(x))
