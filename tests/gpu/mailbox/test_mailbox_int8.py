"""Messages whose x the host rounds to int8: the bits of the kernels, padding, and what is not finite."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor

from rtaccel._native import Mailbox
from rtaccel.kernels._core.cpu import connect

NONFINITE = 8


def sent(x: Tensor, inverse: float, zero_point: int) -> tuple[Tensor, int]:
    """(int8 with what is behind the last number, the command) of a message."""
    connect()
    words = -(-len(x) // 4)
    requests, replies = torch.zeros(2 * (words + 1), dtype=torch.int64), torch.zeros(2 * words, dtype=torch.int64)
    sides = (requests.data_ptr(), words, replies.data_ptr(), words, True)
    box, kernel = Mailbox(*sides, False, len(x), inverse, zero_point), Mailbox(*sides)
    player = threading.Thread(target=lambda: kernel.echo(1, 5_000_000_000))
    player.start()
    got = torch.zeros(words, dtype=torch.int32)
    assert box.exchange(x.data_ptr(), got.data_ptr(), 5_000_000_000, 16)
    player.join()
    return got.view(torch.int8), int(requests[words + 1 + words]) & 0xFFFFFFFF


def wanted(x: Tensor, inverse: float, zero_point: int) -> Tensor:
    """As to_int8 of the kernels."""
    return ((x * inverse).clamp(-512, 512).round() + zero_point).clamp(-128, 127).to(torch.int8)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 15, 16, 17, 33, 64, 70, 640])
@pytest.mark.parametrize("zero_point", [-128, 0, 5, 127])
def test_numbers_are_those_of_the_kernels(count: int, zero_point: int) -> None:
    for inverse in (1.0, 0.3, 20.0):
        x = torch.randn(count) * 40
        x[torch.rand(count) < 0.3] = torch.randint(-300, 300, ()).float() + 0.5  # two numbers are as near
        x[torch.rand(count) < 0.1] = 3e38
        x[torch.rand(count) < 0.1] = -3e38
        x[torch.rand(count) < 0.1] = 1e-42
        got, command = sent(x, inverse, zero_point)
        assert torch.equal(got[:count], wanted(x, inverse, zero_point))
        assert not got[count:].any() and command == 16


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("count", [1, 4, 16, 19, 640])
def test_what_is_not_finite_is_said(bad: float, count: int) -> None:
    for at in {0, count // 2, count - 1}:
        x = torch.randn(count)
        x[at] = bad
        assert sent(x, 2.0, 3)[1] == 16 | NONFINITE
