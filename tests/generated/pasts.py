"""Loads changed pasts into streams: a process of its own, for what it looks for are crashes. Reads one case from stdin."""

from __future__ import annotations

import json
import random
import sys
from typing import Any

import torch

import rtaccel as rt
from tests.support.generators import streams

WORDS = (-3, -1, 2**63 - 1, -(2**63), 1, 2**31, 2**32 - 1, 10**6)


def changed(past: bytearray, draw: random.Random) -> tuple[str, bytearray]:
    kind = draw.choice(("byte", "word", "last word", "first word", "random", "shorter", "longer", "zero", "ones"))
    if kind == "byte" and past:
        past[draw.randrange(len(past))] = draw.randrange(256)
    elif kind in ("word", "last word", "first word") and len(past) >= 8:
        place = {"word": draw.randrange(len(past) // 8) * 8, "last word": len(past) - 8, "first word": 0}[kind]
        past[place : place + 8] = draw.choice(WORDS).to_bytes(8, "little", signed=True)
    elif kind == "random":
        past[:] = draw.randbytes(len(past))
    elif kind == "shorter":
        del past[-draw.randrange(1, 9) :]
    elif kind == "longer":
        past += draw.randbytes(8)
    elif kind in ("zero", "ones"):
        past[:] = bytes([0 if kind == "zero" else 255]) * len(past)
    return kind, past


def main(found: Any) -> None:
    torch.set_num_threads(1)
    d, draw = found["stream"], random.Random(found["seed"])
    live = streams.streamed(d)
    inputs = streams.time_steps(d, 5, 1)
    fresh = [live.step(x) for x in inputs]
    good = live.state_dict()
    for number in range(found["count"]):
        live.load_state_dict(good)
        want = live.step(inputs[0])
        live.load_state_dict(good)
        kind, past = changed(bytearray(good["_extra_state"].numpy().tobytes()), draw)
        print(number, kind, flush=True)
        value = torch.frombuffer(past, dtype=torch.uint8).clone() if past else torch.empty(0, dtype=torch.uint8)
        try:
            live.load_state_dict({**good, "_extra_state": value})
        except rt.RtaccelError:
            assert torch.equal(live.step(inputs[0]), want), "a refused past changes the stream"
        for x in inputs:
            live.step(x)
        live.state_dict()
        live.reset()
        for x, y in zip(inputs, fresh):
            assert torch.equal(live.step(x), y), "after a reset nothing of the past is left"


if __name__ == "__main__":
    main(json.load(sys.stdin))
