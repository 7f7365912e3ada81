"""A device for the persistent path whose kernels are functions of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rtaccel.runtime.gpu.persistent_device import Requests
from rtaccel.runtime.gpu.persistent_launch import PersistentLaunch
from rtaccel.runtime.gpu.persistent_networks import Network


class ThreadedDevice:
    """Each kernel runs in a thread until its control words say to end. controls: those of every kernel that was started."""

    index = 0

    def __init__(self) -> None:
        self.controls: list[Tensor] = []
        self.threads: list[threading.Thread] = []

    def unsuitable(self) -> str | None:
        return None

    def multiprocessors(self) -> int:
        return 132

    def note(self) -> str:
        return ""

    def mailbox(self, words: int) -> Tensor:
        return torch.zeros(words, dtype=torch.int64)

    def requests(self, words: int) -> Requests:
        return Requests.shared(self.mailbox(words))

    def load(self, network: Network, requests: Tensor, replies: Tensor, control: Tensor) -> PersistentLaunch:
        return network.prepared("cpu")

    def copying(self, work: Callable[[], None]) -> None:
        work()

    def start(self, launch: PersistentLaunch, requests: Tensor, replies: Tensor, control: Tensor) -> Any:
        thread = threading.Thread(target=launch, args=(requests, replies, control), daemon=True)
        thread.start()
        self.controls.append(control)
        self.threads.append(thread)
        return type("Running", (), {"finished": lambda self: not thread.is_alive()})()
