"""CUDA's names on the CPU, so that what a row does on a card runs where there is none: each call where it is made.

It shows that the rows are written rightly, and nothing about a card. Persistent kernels have tests/support/fake_kernel.py.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from tests.support.fake_kernel import words_of


class Stream:
    cuda_stream = 0

    def wait_stream(self, other: Stream) -> None: ...

    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return not any(thread.is_alive() for thread in Echo.threads)


class Graph:
    """Counts its replays; what is captured runs at once."""

    captures, replays = 0, 0

    def replay(self) -> None:
        type(self).replays += 1


class Event:
    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing

    def record(self) -> None: ...

    def synchronize(self) -> None: ...

    def elapsed_time(self, other: Event) -> float:
        return 8.0


@contextlib.contextmanager
def capture(graph: Graph, stream: Stream | None = None) -> Iterator[None]:
    Graph.captures += 1
    yield


class Echo(threading.Thread):
    """A kernel that answers each message with what it holds."""

    threads: list[Echo] = []  # noqa: RUF012

    def __init__(self, requests: Tensor, replies: Tensor, control: Tensor) -> None:
        super().__init__(daemon=True)
        self.memory = requests, replies, control
        self.threads.append(self)
        self.start()

    def run(self) -> None:
        requests, replies, control = self.memory
        for number in itertools.count(1):
            while int(requests[number & 1]) >> 32 != number:
                if int(control[0]):
                    return
            payload = requests[number & 1 :][:1] & 0xFFFFFFFF
            replies[number & 1] = words_of(payload.to(torch.int32).view(torch.float32), number)[0]


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """For one test."""
    Graph.captures = Graph.replays = 0
    Echo.threads.clear()
    allocated = itertools.count(0, 64 << 20)
    for name, value in {
        "Stream": Stream, "CUDAGraph": Graph, "Event": Event, "graph": capture, "stream": lambda stream: contextlib.nullcontext(),
        "current_stream": Stream, "synchronize": lambda: None, "memory_allocated": lambda: next(allocated),
        "get_device_capability": lambda: (9, 0), "mem_get_info": lambda: (5 << 30, 80 << 30),
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    for kind in (Tensor, nn.Module):
        monkeypatch.setattr(kind, "cuda", lambda self: self)
        monkeypatch.setattr(kind, "half", kind.float)  # sparse products in half precision are the card's alone
    for name in ("randn", "ones"):
        monkeypatch.setattr(torch, name, on_cpu(getattr(torch, name)))
    monkeypatch.setattr(rt, "compile", on_cpu(rt.compile, "mode"))
    monkeypatch.setattr(rt, "stream", on_cpu(rt.stream))


def on_cpu(make: Callable[..., Any], *without: str) -> Callable[..., Any]:
    """The same, without a device, and without these arguments, which must be there."""

    def made(*args: Any, **named: Any) -> Any:
        named.pop("device", None)
        for name in without:
            named.pop(name, None)
        return make(*args, **named)

    return made
