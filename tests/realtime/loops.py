"""A small model, slots and settings for tests of the loop, and waiting without a limit that a busy machine meets."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import rtaccel as rt

SLACK = {"period_us": 2000, "deadline_us": 2000, "max_age_us": 60e6, "on_miss": "late"}


def mlp() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(7, 33), nn.ReLU(), nn.Linear(33, 5)).eval()


def compiled(model: nn.Module | None = None) -> Any:
    return rt.compile(model or mlp(), (torch.randn(1, 7),))


def slots(inputs: int = 7, outputs: int = 5) -> tuple[Any, Any]:
    return rt.Latest((inputs,)), rt.Latest((outputs,))


def until(done: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.001)


def fresh(y: Any, stamp_ns: int) -> Any:
    """The result that was computed from the input with this stamp, or that result held."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        got = y.get()
        if got.status != "none" and got.stamp_ns == stamp_ns:
            return got
    raise AssertionError("no result came")
