"""What other weights cost while a model is called: a swap and the first call with them, under a graph or a persistent kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import rtaccel as rt
from bench.device.rows import graphs, persistent
from bench.device.rows.models import network, sequence
from bench.device.rows.timing import Fields, synchronous, timed


def other(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same shapes and static scales with other weights: each weight the other way round."""
    return {
        key: -value if key.endswith("weight") and value.dtype == torch.int8 else value for key, value in state.items()
    }


def turns(fast: Any, call: Callable[[], object]) -> Callable[[], None]:
    """A swap, to one of two states in turn, and a call."""
    own = {key: value.clone() for key, value in fast.state_dict().items()}
    states, count = (other(own), own), [0]

    def run() -> None:
        fast.swap(states[count[0] & 1])
        count[0] += 1
        call()

    return run


def timed_beside(fast: Any, call: Callable[[], object], seconds: float) -> Fields:
    """The swap and its call; call_p50_us: the call alone, in the same process."""
    alone = timed(call, seconds / 2)
    return {**timed(turns(fast, call), seconds / 2), "call_p50_us": alone["p50_us"]}


def network_row(name: str, scheme: str, mode: str, seconds: float) -> Fields:
    if mode == "persistent":
        fast, x = persistent.compiled(name, scheme), torch.randn(1, network(name)[1])
        try:
            return timed_beside(fast, fast.bind(x, out=fast(x)), seconds)
        finally:
            fast.close()
    model, inputs = network(name)
    example = torch.randn(1, inputs)
    fast, there = graphs.compiled(model, (example,), scheme, "graph"), example.cuda()
    return timed_beside(fast, synchronous(fast.bind(there, out=torch.empty_like(fast(there)))), seconds)


def stream_row(name: str, scheme: str, seconds: float) -> Fields:
    given = sequence(name)
    x = torch.randn(1, given.inputs)
    live = rt.stream(given.model, x, scheme=scheme, calibration=[given.window(4)], device="cuda")
    try:
        return timed_beside(live, live.bind(x, out=live.step(x)), seconds)
    finally:
        live.close()
