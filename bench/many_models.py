"""Many models on one core: batchers that share a worker, beside a thread for each.

    python -m bench.many_models [--models 20] [--streams 200] [--seconds 3] [--core 0] [--priority 10]

Each model is a GRU of 14 inputs and 8 to 64 units with its own streams, of which each sends 100 times a second, in bunches
spread over the period. Deadlines go from 1 to 10 ms. Both ways are pinned to one core, and take turns twice. Late: samples
answered after their deadline. Held up: batches that began after their latest start as the worker was at another model's.
--priority: of SCHED_FIFO, for all threads of either; without it a busy machine gives twenty threads twenty times the share of
one.
"""

from __future__ import annotations

import argparse
import os
import time
from contextlib import ExitStack
from typing import Any

import torch

import rtaccel as rt

RATE, FEATURES, BUNCHES = 100, 14, 10


def models(count: int, streams: int) -> list[Any]:
    calibration = [torch.randn(16, 16, FEATURES)]
    made = []
    for i in range(count):
        network = torch.nn.GRU(FEATURES, 8 * (1 + i % 8), batch_first=True).eval()
        made.append(rt.stream(network, torch.randn(streams, FEATURES), scheme="w8a8", calibration=calibration))
    return made


def run(
    lives: list[Any], streams: int, seconds: float, core: int, shared: bool, priority: int | None
) -> dict[str, float]:
    with ExitStack() as stack:
        pools = [
            stack.enter_context(rt.BatchWorkers([core], priority=priority)) for _ in (lives[:1] if shared else lives)
        ]
        hubs = []
        for i, live in enumerate(lives):
            hub = rt.StreamBatcher(live, 1000 * (1 + i % 10), lambda *_: None, workers=pools[i % len(pools)])
            hubs.append(stack.enter_context(hub))
        x, lists = torch.randn(streams, FEATURES), torch.arange(streams).chunk(BUNCHES)
        begin = time.perf_counter()
        for period in range(int(seconds * RATE)):
            for bunch, numbers in enumerate(lists):
                wait = begin + (period + bunch / BUNCHES) / RATE - time.perf_counter()
                if wait > 0:
                    time.sleep(wait)
                for hub in hubs:
                    hub.put_many(numbers, x[: len(numbers)])
    found = [hub.stats() for hub in hubs]
    answered, late = sum(s.answered for s in found), sum(s.late for s in found)
    return {
        "answered": answered,
        "late": late / answered,
        "worst": max(s.late / max(s.answered, 1) for s in found),
        "p999_us": max(s.lateness.p999_us for s in found),
        "overran": sum(s.overran for s in found),
        "held_up": sum(s.held_up for s in found),
        "batches": sum(s.batches for s in found),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--priority", type=int)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    lives = models(given.models, given.streams)
    print(f"{given.models} models of {given.streams} streams each, {RATE} times a second, on core {given.core}")
    for _ in range(2):
        for shared in (True, False):
            got = run(lives, given.streams, given.seconds, given.core, shared, given.priority)
            print(
                f"{'one worker' if shared else 'a thread each':14} {got['answered']:9,} answered in {got['batches']:,} batches; "
                f"late {got['late']:.2%} (worst model {got['worst']:.2%}), p99.9 {got['p999_us']:,.0f} us; "
                f"{got['overran']:,} overran, {got['held_up']:,} held up"
            )


if __name__ == "__main__":
    main()
