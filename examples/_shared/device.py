"""What `--device cuda` adds: the same network compiled for the GPU and timed there, for one sample and for many."""

from __future__ import annotations

from typing import Any

import torch

import rtaccel as rt
from examples._shared.timing import per_call_us


def check(device: str) -> None:
    """Raises BackendUnavailable at once where the device is not there, before anything is trained."""
    if device == "cuda":
        rt.compile(torch.nn.Linear(1, 1).eval(), (torch.zeros(1, 1),), device="cuda")


def on_device(
    device: str, network: torch.nn.Module, one: torch.Tensor, many: torch.Tensor, what: str
) -> tuple[dict[str, Any], list[str]]:
    """(metrics, notes) of calls with `one` and with `many`, float32 [batch, ...] on the CPU; nothing for device "cpu".

    what: one sample is called. Times are medians of rounds, each call with a wait for the card.
    """
    if device == "cpu":
        return {}, []
    found: dict[str, Any] = {"cuda_device": torch.cuda.get_device_name()}
    for name, x in (("one", one.contiguous()), ("many", many.contiguous())):
        fast, given = rt.compile(network, (x,), device="cuda"), x.cuda()
        call = fast.bind(given, out=torch.empty_like(fast(given)))

        def waited(call: Any = call) -> None:
            call()
            torch.cuda.synchronize()

        waited()
        found[f"cuda_us_{name}"] = per_call_us(waited, 200, 10)[1]
    times = f"{what} {found['cuda_us_one']:.1f} us, {len(many):,} of them {found['cuda_us_many']:.1f} us"
    return found, [f"{found['cuda_device']}, float32: {times}."]
