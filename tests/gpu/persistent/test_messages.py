"""The mailbox of the persistent path, beside a thread that plays the kernel: messages arrive whole; waiting stops no thread."""

from __future__ import annotations

import importlib.util
import threading

import pytest
import torch
from torch import Tensor

from rtaccel._native import Mailbox

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


def boxes(request_words: int, reply_words: int) -> tuple[Mailbox, Mailbox, Tensor, Tensor]:
    requests, replies = (torch.zeros(2 * n, dtype=torch.int64) for n in (request_words, reply_words))
    arguments = (requests.data_ptr(), request_words, replies.data_ptr(), reply_words)
    return Mailbox(*arguments), Mailbox(*arguments), requests, replies


@pytest.mark.parametrize(("request_words", "reply_words"), [(1, 1), (3, 7), (512, 512), (64, 1)])
def test_messages_arrive_whole(request_words: int, reply_words: int) -> None:
    host, kernel, _requests, _replies = boxes(request_words, reply_words)
    done: list[int] = []
    player = threading.Thread(target=lambda: done.append(kernel.echo(40, 10_000_000_000)))
    player.start()
    for _ in range(40):
        x = torch.randint(-(2**31), 2**31 - 1, (request_words,), dtype=torch.int32)
        y = torch.full((reply_words,), 77, dtype=torch.int32)
        assert host.exchange(x.data_ptr(), y.data_ptr(), 10_000_000_000)
        want = torch.cat([x, x[-1:].expand(reply_words)])[:reply_words]
        assert torch.equal(y, want)
    player.join()
    assert done == [40]


def test_a_message_is_words_of_payload_and_number() -> None:
    host, _, requests, replies = boxes(2, 1)
    x, y = torch.tensor([5, -1], dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    replies[1] = (1 << 32) | 9  # the first message has number 1, and slot 1
    assert host.exchange(x.data_ptr(), y.data_ptr(), 1_000_000)
    assert requests.tolist() == [0, 0, (1 << 32) | 5, (1 << 32) | 0xFFFFFFFF]
    assert y.item() == 9
    assert not host.exchange(x.data_ptr(), y.data_ptr(), 1_000_000)  # number 2 has no answer
    assert requests.tolist()[:2] == [(2 << 32) | 5, (2 << 32) | 0xFFFFFFFF]


def test_waiting_leaves_the_interpreter_to_other_threads() -> None:
    host, kernel, _requests, _replies = boxes(1, 1)
    x = torch.zeros(1, dtype=torch.int32)
    counted: list[int] = []

    def answer_late() -> None:  # needs the GIL before there is an answer
        counted.append(sum(range(1000)))
        kernel.echo(1, 10_000_000_000)

    late = threading.Thread(target=answer_late)
    late.start()
    assert host.exchange(x.data_ptr(), x.data_ptr(), 10_000_000_000)
    late.join()
    assert counted
