"""The native bound exchange with a persistent kernel; threads play the kernel."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from rtaccel._native import Mailbox, MailboxStep
from rtaccel.kernels._core.cpu import connect
from tests.gpu.mailbox.side import TIMEOUT_NS, Refused, Side, refused


@pytest.mark.parametrize(("request_words", "reply_words"), [(1, 1), (5, 3), (300, 512)])
def test_a_step_reads_and_writes_its_tensors(request_words: int, reply_words: int) -> None:
    side = Side(request_words, reply_words)
    player = side.play(50)
    for _ in range(50):
        side.x.normal_()
        side.y.fill_(float("nan"))
        assert side.step() is None
        want = torch.cat([side.x[0], side.x[0, -1:].expand(reply_words)])[:reply_words]
        assert torch.equal(side.y[0], want)
    player.join()
    assert side.box.number == 50


def test_a_step_fits_its_mailbox() -> None:
    side = Side(4, 2)
    for x, y in (
        (torch.zeros(3), side.y), (side.x, torch.zeros(3)), (side.x.double(), side.y), (torch.zeros(8)[::2], side.y),
        (torch.zeros(4, dtype=torch.int32), side.y),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="do not fit the mailbox"):
            MailboxStep(side.box, x, y, side.control.data_ptr(), TIMEOUT_NS, refused)


def test_memory_that_is_gone_is_refused_before_anything_is_sent() -> None:
    for corrupt in (
        lambda side: side.x.set_(torch.randn(1, 4)),
        lambda side: side.y.untyped_storage().resize_(0),
        lambda side: side.x.untyped_storage().resize_(1 << 20),
        lambda side: torch.utils.swap_tensors(side.x, torch.randn(1, 4)),
        lambda side: side.y.data.set_(torch.zeros(1, 2)) is None or side.y.set_(torch.zeros(1, 2)),
        lambda side: side.whole is None or side.x.set_(side.whole.untyped_storage(), 5, (1, 4), (4, 1)),
    ):
        side = Side(4, 2)
        corrupt(side)
        with pytest.raises(Refused, match="moved"):
            side.step()
        assert side.box.number == 0 and not side.requests.any()


def test_no_answer_and_a_kernel_that_was_ended() -> None:
    side = Side(2, 1, timeout_ns=20_000_000)
    start = time.perf_counter()
    with pytest.raises(Refused, match="no answer"):
        side.step()
    assert 0.02 <= time.perf_counter() - start < 60
    ended = Side(2, 1)
    ended.control[0] = 1
    with pytest.raises(Refused, match="ended"):
        ended.step()  # at once
    assert ended.box.number == 0
    made: list[str] = []
    step = MailboxStep(ended.box, ended.x, ended.y, ended.control.data_ptr(), TIMEOUT_NS, made.append)
    step()  # made in another way
    assert made == ["ended"]


def test_the_first_message_of_another_kernel() -> None:
    side = Side(2, 2, commands=True)
    for _ in range(2):
        player = side.play(3)
        for _ in range(3):
            side.step()
        player.join()
        assert side.box.number == 3
        for words in (side.requests, side.replies):
            words.zero_()
        side.box.command = 5  # waits for the first message
        side.box.restart()
        side.kernel.restart()
        assert (side.box.number, side.box.command) == (0, 5)


def test_a_long_wait_leaves_the_interpreter_to_other_threads() -> None:
    side = Side(1, 1)
    counted: list[int] = []

    def answer_late() -> None:  # needs the GIL a hundred times before there is an answer
        for _ in range(100):
            counted.append(sum(range(100)))
            time.sleep(0.0005)
        side.kernel.echo(1, TIMEOUT_NS)

    late = threading.Thread(target=answer_late)
    late.start()
    side.step()
    assert len(counted) == 100
    late.join()


def test_a_command_goes_with_the_next_message_alone() -> None:
    side = Side(2, 1, commands=True)
    player = side.play(3)
    sent = []
    for command in (5, 0, 0):
        if command:
            side.box.command = command
        slot = 3 * ((side.box.number + 1) & 1)
        side.step()
        sent.append(int(side.requests[slot + 2]) & 0xFFFFFFFF)
        assert side.box.command == 0
    player.join()
    assert sent == [5, 0, 0]


def test_orders_are_added_and_taken_back() -> None:
    """What was not sent can be taken back, bit by bit; what was sent cannot."""
    side = Side(2, 1, commands=True)
    side.box.order(1)
    side.box.order(48)
    assert side.box.command == 49
    assert side.box.withdraw(48) and side.box.command == 1
    assert not side.box.withdraw(48)
    side.box.order(16)
    player = side.play(1)
    side.step()
    player.join()
    assert int(side.requests[3 + 2]) & 0xFFFFFFFF == 17
    assert not side.box.withdraw(16) and side.box.command == 0


@pytest.mark.parametrize("mapped", [False, True])
def test_a_last_message_waits_for_nobody(mapped: bool) -> None:
    """Zeros and its command, with what was ordered; nobody answers it. mapped: stores leave the CPU at once."""
    connect()
    requests, replies = torch.full((2 * 4,), -1, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    box = Mailbox(requests.data_ptr(), 3, replies.data_ptr(), 1, True, mapped)
    box.order(4)
    box.last(1 << 16)
    assert box.number == 1 and box.command == 0
    assert requests[4:].tolist() == [1 << 32, 1 << 32, 1 << 32, 1 << 32 | 1 << 16 | 4]
    assert requests[:4].tolist() == [-1] * 4
    box.last(1 << 16)
    assert requests[:4].tolist() == [2 << 32, 2 << 32, 2 << 32, 2 << 32 | 1 << 16]


def test_threads_take_turns_at_a_mailbox() -> None:
    side = Side(3, 3)
    wrong: list[int] = []

    def use(seed: int) -> None:
        x, y = torch.full((3,), float(seed)), torch.zeros(3)
        step = MailboxStep(side.box, x, y, side.control.data_ptr(), TIMEOUT_NS, refused)
        for i in range(200):
            x.fill_(seed + i / 256)
            step()
            if not torch.equal(x, y):
                wrong.append(i)

    player = side.play(800)
    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    player.join()
    assert not wrong and side.box.number == 800
