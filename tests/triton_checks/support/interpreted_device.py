"""The device under a persistent kernel: one whose kernels are interpreted in threads, or the card itself; the host side is the
real one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
import triton.language as tl
from torch import Tensor

from rtaccel.runtime.gpu import persistent, persistent_choice, persistent_device, persistent_run
from rtaccel.runtime.gpu.persistent_launch import PersistentLaunch
from rtaccel.runtime.gpu.persistent_networks import Network
from tests.cuda_checks.threaded_device import ThreadedDevice
from tests.triton_checks.support.sides import INTERPRET, LOOK

TIMEOUT_NS = 60_000_000_000


class InterpretedDevice(ThreadedDevice):
    """A device whose kernels are interpreted. propagate_nan: is shown the operands of a kernel before it starts."""

    def __init__(self, propagate_nan: Callable[[Any], object] | None) -> None:
        super().__init__()
        self.propagate_nan = propagate_nan

    def load(self, network: Network, requests: Tensor, replies: Tensor, control: Tensor) -> PersistentLaunch:
        launch = super().load(network, requests, replies, control)
        if self.propagate_nan is not None:
            self.propagate_nan(launch.kept)
        return launch


class CheckedCard(persistent_device.CudaPersistent):
    """The card, with the same two things added."""

    def __init__(self, propagate_nan: Callable[[Any], object] | None) -> None:
        super().__init__()
        self.controls: list[Tensor] = []
        self.propagate_nan = propagate_nan

    def load(self, network: Network, requests: Tensor, replies: Tensor, control: Tensor) -> Any:
        launch, stream = super().load(network, requests, replies, control)
        if self.propagate_nan is not None:
            self.propagate_nan(launch.kept)
            torch.cuda.current_stream().synchronize()
        self.controls.append(control)
        return launch, stream


def in_its_place(
    monkeypatch: pytest.MonkeyPatch, kernels: ModuleType, propagate_nan: Callable[[Any], object] | None = None
) -> Iterator[None]:
    """Puts it in the place of the GPU, or around it. kernels: the module of the persistent kernel, whose waiting is made short
    in the interpreter."""
    made = InterpretedDevice(propagate_nan) if INTERPRET else CheckedCard(propagate_nan)
    monkeypatch.setattr(persistent, "persistent_device", lambda: made)
    monkeypatch.setattr(persistent, "TIMEOUT_NS", TIMEOUT_NS)
    monkeypatch.setattr(persistent_run, "END_S", 30.0)
    if INTERPRET:
        monkeypatch.setattr(kernels, "SPINS_PER_LOOK", tl.constexpr(LOOK))
    with persistent_choice.only(persistent_choice.TRITON):  # the other kernel has checks of its own
        yield
    for control in made.controls:
        control[0] = 1
