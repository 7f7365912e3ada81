"""Very many steps: memory stays flat, and every pass gives the bits of the first.

    python -m tests.generated.soak [--steps 100000000] [--seconds 28800]

Each kind of call goes through the same time steps again and again: bound calls, `run`, fresh results, streams with a reset before
each pass, a load of the model's own state now and then. Ends with what it did, or raises what it found.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.support import stages
from tests.support.generators import streams

PASS = 1000
"""Steps of a pass."""

GROWTH_BYTES = 8 << 20
"""Most that the process may grow after its first passes: an arena of the allocator, not a leak that goes on."""

RELOAD_EVERY = 50
"""Passes between loads of a model's own state."""


@dataclass
class Path:
    """step: one call, which leaves its result in `out`. start: before each pass. reload: the model's own state, once more."""

    name: str
    step: Callable[[int], None]
    start: Callable[[], None]
    reload: Callable[[], None]
    out: list[Tensor]
    seen: list[bytes] | None = None


def resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _bound(name: str, scheme: str) -> Path:
    fast = stages.build(name, scheme, 1)
    data = [stages.inputs(name, i, 1) for i in range(8)]
    x, out = data[0].clone(), torch.empty_like(fast(data[0]))
    call = fast.bind(x, out=out)

    def step(turn: int) -> None:
        x.copy_(data[turn & 7])
        call()

    return Path(f"bound {name} {scheme}", step, lambda: None, lambda: fast.load_state_dict(fast.state_dict()), [out])


def _run(name: str, scheme: str) -> Path:
    fast = stages.build(name, scheme, 1)
    data = [stages.inputs(name, i, 1 + i % 3) for i in range(8)]
    outs = [tuple(torch.empty_like(t) for t in fast(x)) for x in data]
    last = [outs[7][0]]

    def step(turn: int) -> None:
        fast.run(data[turn & 7], out=outs[turn & 7])

    return Path(f"run {name} {scheme}", step, lambda: None, lambda: fast.load_state_dict(fast.state_dict()), last)


def _fresh(name: str, scheme: str) -> Path:
    fast = stages.build(name, scheme, 1)
    data = [stages.inputs(name, i, 1 + i % 3) for i in range(8)]
    out = [torch.empty(0)]

    def step(turn: int) -> None:
        result = fast(data[turn & 7])
        out[0] = result if isinstance(result, Tensor) else result[0]

    return Path(f"call {name} {scheme}", step, lambda: None, lambda: fast.load_state_dict(fast.state_dict()), out)


def _stream(kind: str, scheme: str) -> Path:
    d = {"kind": kind, "seed": 1, "features": 4, "width": 8, "layers": 1, "dilations": [1, 2], "head": True, "streams": 1,
         "scheme": scheme}  # fmt: skip
    live, data = streams.streamed(d), streams.time_steps(d, 8, 1)
    x, out = data[0].clone(), torch.empty_like(live.step(data[0]))
    call = live.bind(x, out=out)

    def step(turn: int) -> None:
        x.copy_(data[turn & 7])
        call()

    return Path(f"stream {kind} {scheme}", step, live.reset, lambda: live.load_state_dict(live.state_dict()), [out])


def paths() -> list[Path]:
    return [
        _bound("mlp", "w8a8 static"), _bound("mlp", "float32"), _run("mixed", "w8a8"), _fresh("images", "float32"),
        _fresh("with a torch call", "float32"), _stream("lstm", "w8a8"), _stream("lstm", "float32"), _stream("gru", "w4a8"),
        _stream("causal", "w8a8"), _stream("causal", "float32"),
    ]  # fmt: skip


def one_pass(path: Path) -> None:
    """All time steps once; raises AssertionError where a result has other bits than in the first pass."""
    path.start()
    found = []
    for turn in range(PASS):
        path.step(turn)
        if turn % 100 == 99:
            found.append(path.out[0].numpy().tobytes())
    if path.seen is None:
        path.seen = found
    assert found == path.seen, f"{path.name}: other bits than in the first pass"


def soak(steps: int, seconds: float, say: Callable[[str], None] = print) -> tuple[int, int]:
    """(steps done, bytes that the process grew by). Stops at the first of `steps` and `seconds`."""
    all_paths, done, passes, start = paths(), 0, 0, time.monotonic()
    with torch.no_grad():
        for path in all_paths:
            for _ in range(3):
                one_pass(path)
                path.reload()
        base, told = resident_bytes(), start
        while done < steps and time.monotonic() - start < seconds:
            for path in all_paths:
                one_pass(path)
                done += PASS
                if passes % RELOAD_EVERY == 0:
                    path.reload()
            passes += 1
            grown = resident_bytes() - base
            assert grown <= GROWTH_BYTES, f"after {done:,} steps the process has grown by {grown:,} bytes"
            if time.monotonic() - told > 60:
                told = time.monotonic()
                say(f"{done:,} steps, {grown:,} bytes more than at the start")
    return done, resident_bytes() - base


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=100_000_000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    given = parser.parse_args()
    total, more = soak(given.steps, given.seconds)
    print(f"{total:,} steps, the bits of the first pass in each, {more:,} bytes more than at the start")
