"""A thread that pretends to be a persistent kernel: the same messages in the same memory, computed by plain torch.

It shows that the host's side keeps the protocol. It shows nothing about a GPU.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable

import torch
from torch import Tensor

from rtaccel.core.stage import Problem
from rtaccel.kernels.mlp import portable
from rtaccel.runtime.gpu.persistent_device import Requests
from rtaccel.runtime.gpu.persistent_networks import Network


def words_of(values: Tensor, sequence: int) -> list[int]:
    """float32 values as message words: the payload below, the number above."""
    raw = struct.unpack(f"<{values.numel()}I", struct.pack(f"<{values.numel()}f", *values.tolist()))
    signed = sequence - (1 << 32) if sequence >= 1 << 31 else sequence
    return [(signed << 32) | payload for payload in raw]


def x_of(message: Tensor, network: Network) -> Tensor:
    """x of a message, whose last word is a command; as int8 numbers it comes to where they round to themselves."""
    payload, rounding = (message[:-1] & 0xFFFFFFFF).to(torch.int32), network.rounding
    if rounding is None:
        return payload.view(torch.float32)
    numbers = payload.view(torch.int8)[: network.inputs].float()
    nonfinite = int(message[-1]) & 8
    return torch.full_like(numbers, torch.nan) if nonfinite else (numbers - rounding.zero_point) / rounding.inverse


class FakeKernel:
    """mute: takes messages and does not answer. dead: not even that, and it does not notice that it should end."""

    def __init__(
        self, network: Network, requests: Tensor, replies: Tensor, control: Tensor, mute: bool, dead: bool
    ) -> None:
        self._network, stage = network, network.stages[0]
        self._compute: Callable[[Tensor], tuple[Tensor, ...]] = portable.prepare(stage, Problem.of(stage, 1))
        self._requests, self._replies, self._control = requests, replies, control
        self._mute, self._dead = mute, dead
        self.answered = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def finished(self) -> bool:
        return not self._thread.is_alive()

    def _run(self) -> None:
        inputs, outputs = self._requests.numel() // 2, self._replies.numel() // 2
        self._control[1] = 1
        sequence = 0
        while True:
            sequence += 1
            message = self._requests[(sequence & 1) * inputs :][:inputs]
            while self._dead or not bool((message >> 32 == sequence).all()):
                self._control[2] += 1
                if self._control[0] != 0 and not self._dead:
                    self._control[1] = 2
                    return
                if self._dead and self._control[0] != 0:
                    return
                threading.Event().wait(0.0002)
            if self._mute:
                continue
            with torch.no_grad():
                (y,) = self._compute(x_of(message, self._network)[None])
            slot = self._replies[(sequence & 1) * outputs :][:outputs]
            self.answered += 1  # before the answer: who has it may ask at once
            for i, word in enumerate(words_of(y[0], sequence)):
                slot[i] = word


class FakeCard:
    """reason: why no kernel may stay here. room: multiprocessors."""

    index = 0

    def __init__(self, room: int = 132) -> None:
        self.room = room
        self.reason: str | None = None
        self.mute = self.dead = self.never_starts = False
        self.kernels: list[FakeKernel] = []

    def unsuitable(self) -> str | None:
        return self.reason

    def mailbox(self, words: int) -> Tensor:
        return torch.zeros(words, dtype=torch.int64)

    def requests(self, words: int) -> Requests:
        return Requests.shared(self.mailbox(words))

    def multiprocessors(self) -> int:
        return self.room

    def note(self) -> str:
        return ""

    def load(self, network: Network, requests: Tensor, replies: Tensor, control: Tensor) -> Network:
        return network

    def start(self, loaded: Network, requests: Tensor, replies: Tensor, control: Tensor) -> FakeKernel:
        if self.never_starts:
            return _Gone()  # type: ignore[return-value]
        self.kernels.append(FakeKernel(loaded, requests, replies, control, self.mute, self.dead))
        return self.kernels[-1]


class _Gone:
    def finished(self) -> bool:
        return True
