"""What `--device cuda` adds: the same network compiled for the GPU and timed there, for one sample and for many."""

from __future__ import annotations

from typing import Any

import torch

import rtaccel as rt
from examples._shared.timing import per_call_us


def cuda_times(network: torch.nn.Module, one: torch.Tensor, many: torch.Tensor) -> dict[str, Any]:
    """us of a call with `one` and with `many`, tensors of the CPU, [batch, ...]; with the name of the card. Raises
    BackendUnavailable where there is no GPU."""
    found: dict[str, Any] = {}
    for name, x in (("one", one), ("many", many)):
        fast = rt.compile(network, (x,), device="cuda")
        given, out = x.cuda(), torch.empty_like(fast(x.cuda()))
        call = fast.bind(given, out=out)

        def waited(call: Any = call) -> None:
            call()
            torch.cuda.synchronize()

        waited()
        found[f"cuda_us_{name}"] = per_call_us(waited, 200, 10)[1]
    return {**found, "cuda_device": torch.cuda.get_device_name()}


def check(device: str) -> None:
    """Raises BackendUnavailable at once where the device is not there, before anything is trained."""
    if device == "cuda":
        rt.compile(torch.nn.Linear(1, 1).eval(), (torch.zeros(1, 1),), device="cuda")
