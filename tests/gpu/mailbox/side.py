"""A bound step of a mailbox, and a thread that plays the kernel on its other side."""

from __future__ import annotations

import threading
import time
from typing import NoReturn

import torch

from rtaccel._native import Mailbox, MailboxLoop, MailboxStep
from rtaccel.kernels._core.cpu import connect

TIMEOUT_NS = 10_000_000_000


class Refused(Exception):
    pass


def refused(what: str) -> NoReturn:
    raise Refused(what)


class Side:
    """A bound step of so many words, and an echo for its other side."""

    def __init__(
        self,
        request_words: int,
        reply_words: int,
        timeout_ns: int = TIMEOUT_NS,
        commands: bool = False,
        shared: bool = False,
    ):
        connect()
        self.requests = torch.zeros(2 * (request_words + commands), dtype=torch.int64)
        self.replies, self.control = (torch.zeros(n, dtype=torch.int64) for n in (2 * reply_words, 8))
        if shared:
            self.requests.share_memory_(), self.replies.share_memory_()
        arguments = (self.requests.data_ptr(), request_words, self.replies.data_ptr(), reply_words, commands)
        self.box, self.kernel = Mailbox(*arguments), Mailbox(*arguments)
        self.whole = torch.randn(request_words + 8)
        self.x, self.y = self.whole[4 : 4 + request_words].view(1, -1), torch.full((1, reply_words), 7.0)
        self.step = MailboxStep(self.box, self.x, self.y, self.control.data_ptr(), timeout_ns, refused)

    def play(self, messages: int, timeout_ns: int = TIMEOUT_NS) -> threading.Thread:
        player = threading.Thread(target=lambda: self.kernel.echo(messages, timeout_ns))
        player.start()
        return player


def wait_until(loop: MailboxLoop, calls: int) -> None:
    until = time.monotonic() + 60
    while loop.answered < calls and time.monotonic() < until:
        time.sleep(0.001)
    assert loop.answered >= calls


def wait_until_failed(loop: MailboxLoop) -> None:
    until = time.monotonic() + 60
    while not loop.failed and time.monotonic() < until:
        time.sleep(0.001)
    assert loop.failed
