"""Messages whose x the host rounds to int8: the bits of the kernels, padding, and what is not finite."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from rtaccel._native import Mailbox
from rtaccel.kernels._core.cpu import connect

NONFINITE = 8


def sent(x: Tensor, inverse: float, zero_point: int, factors: Sequence[float] = ()) -> tuple[Tensor, int]:
    """(int8 with what is behind the last number, the command) of a message."""
    connect()
    words = -(-len(x) // 4)
    requests, replies = torch.zeros(2 * (words + 1), dtype=torch.int64), torch.zeros(2 * words, dtype=torch.int64)
    sides = (requests.data_ptr(), words, replies.data_ptr(), words, True)
    box, kernel = Mailbox(*sides, False, len(x), inverse, zero_point, factors), Mailbox(*sides)
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


@pytest.mark.parametrize("count", [1, 4, 17, 64, 70, 640])
def test_columns_are_multiplied_first(count: int) -> None:
    """The product rounds to float32, and what is finite stays so."""
    factors = (torch.rand(count) + 0.1) * 10.0 ** torch.randint(-3, 4, (count,))
    x = torch.randn(count) / factors
    x[torch.rand(count) < 0.1] = 3e38
    x[torch.rand(count) < 0.1] = -3e38
    got, command = sent(x, 20.0, 3, factors.tolist())
    most = torch.finfo(torch.float32).max
    assert torch.equal(got[:count], wanted((x * factors).clamp(-most, most), 20.0, 3)) and command == 16
    x[count // 2] = float("nan")
    assert sent(x, 20.0, 3, factors.tolist())[1] == 16 | NONFINITE


def test_columns_of_float32_messages_are_multiplied() -> None:
    connect()
    x, factors = torch.tensor([1.5, -3e38, float("inf"), 0.1, -0.0]), torch.tensor([0.3, 10.0, 2.0, 7.0, 3.0])
    requests, replies = torch.zeros(10, dtype=torch.int64), torch.zeros(10, dtype=torch.int64)
    sides = (requests.data_ptr(), 5, replies.data_ptr(), 5)
    box, kernel = Mailbox(*sides, factors=factors.tolist()), Mailbox(*sides)
    player = threading.Thread(target=lambda: kernel.echo(1, 5_000_000_000))
    player.start()
    got, before = torch.empty(5), x.clone()
    assert box.exchange(x.data_ptr(), got.data_ptr(), 5_000_000_000)
    player.join()
    want = x * factors
    want[1] = -torch.finfo(torch.float32).max
    assert torch.equal(got, want) and torch.equal(x, before)
    with pytest.raises(ValueError, match="one for each number"):
        Mailbox(*sides, factors=[1.0, 2.0])
