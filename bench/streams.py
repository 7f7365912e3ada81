"""Many streams of one model: a step of all of them and of a random tenth, beside ONNX Runtime, and the batcher under load.

    python -m bench.streams [--streams 10000] [--seconds 5] [--witness CORE] [--json FILE]

The network is a GRU of 14 inputs and 32 units with a head of one. ONNX Runtime runs one step of the batch (a GRU with its hidden
state as input and output), with the states in a NumPy array, gathered from it and put back for a tenth; one thread each. Calls
alternate in one process, and a figure is the smallest mean of a round. Share of a core: of a step of all streams 100 times a
second. Batcher: every stream sends 100 times a second, in bunches of a hundred streams spread over the period, for so many
seconds; the worker's share of a core, how often it slept, and how long it was ready to run without one, are those of its
thread. "callers" is what the thread that puts takes, and "callback" the thread that hands results to Python.

Whose lateness is it? With --witness the worker stays on that core under SCHED_FIFO, and beside it, on the same core and before
it, a loop of 1 kHz does next to nothing. What that one wakes up late by is the machine's: interrupts, the host's other guests. A
batch is late where the machine held it up by more than its margin, so the share of late batches is to be that of wakes later than
the margin. Needs the right to SCHED_FIFO.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import rtaccel as rt

RATE = 100
FEATURES, UNITS = 14, 32


class Network(torch.nn.Module):
    """A GRU with a head that reads its newest output."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = torch.nn.GRU(FEATURES, UNITS, batch_first=True), torch.nn.Linear(UNITS, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.gru(x)[0][:, -1])


class Step(torch.nn.Module):
    """The same for one step: (x [n, 1, features], h [1, n, units]) -> (y, h)."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, h = self.network.gru(x, h)
        return self.network.head(y[:, -1]), h


Call = Callable[[], object]


def ours(network: Network, streams: int, scheme: str, lists: list[torch.Tensor]) -> dict[str, Call]:
    calibration = [torch.randn(64, 32, FEATURES)] if scheme == "w8a8" else None
    live = rt.stream(network, torch.randn(streams, FEATURES), scheme=scheme, calibration=calibration)
    x, out = torch.randn(streams, FEATURES), torch.empty(streams, 1)
    few, few_out = torch.randn(len(lists[0]), FEATURES), torch.empty(len(lists[0]), 1)
    turn = iter(range(10**9))
    return {
        f"rtaccel {scheme}, all": live.bind(x, out=out),
        f"rtaccel {scheme}, a random tenth": lambda: live.step(
            few, streams=lists[next(turn) % len(lists)], out=few_out
        ),
    }


def onnx_runtime(network: Network, streams: int, lists: list[torch.Tensor]) -> dict[str, Call]:
    import io

    import onnxruntime

    step, file = Step(network).eval(), io.BytesIO()
    example = torch.randn(2, 1, FEATURES), torch.randn(1, 2, UNITS)
    axes = {"x": {0: "n"}, "h": {1: "n"}, "y": {0: "n"}, "g": {1: "n"}}
    torch.onnx.export(
        step, example, file, input_names=["x", "h"], output_names=["y", "g"], dynamic_axes=axes, dynamo=False
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    state = np.zeros((streams, UNITS), np.float32)
    x = np.random.default_rng(0).normal(size=(streams, 1, FEATURES)).astype(np.float32)
    few, numbers, turn = x[: len(lists[0])], [s.numpy() for s in lists], iter(range(10**9))

    def everything() -> None:
        _, h = session.run(None, {"x": x, "h": state[None]})
        state[:] = h[0]

    def tenth() -> None:
        chosen = numbers[next(turn) % len(numbers)]
        _, h = session.run(None, {"x": few, "h": state[chosen][None]})
        state[chosen] = h[0]

    return {"ONNX Runtime float32, all": everything, "ONNX Runtime float32, a random tenth": tenth}


def measure(calls: dict[str, Call], rounds: int = 15, seconds: float = 0.02) -> dict[str, float]:
    """Nanoseconds of a call: the smallest mean of a round."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            call()
            count, begin = 0, time.perf_counter_ns()
            while (now := time.perf_counter_ns()) - begin < seconds * 1e9 or count < 3:
                call()
                count += 1
            best[name] = min(best[name], (now - begin) / count)
    return best


def worker_seconds() -> np.ndarray:
    """CPU time of the batcher's thread, the time that it was ready to run and had no core, and how often it slept."""
    for task in Path("/proc/self/task").iterdir():
        if (task / "comm").read_text().strip() == "rtaccel-batch":
            used, waited = (int(n) / 1e9 for n in (task / "schedstat").read_text().split()[:2])
            slept = re.search(r"^voluntary_ctxt_switches:\s*(\d+)", (task / "status").read_text(), re.MULTILINE)
            return np.array([used, waited, int(slept[1]) if slept else 0])
    raise RuntimeError("no batcher runs")


WITNESSES = (50, 100, 200, 500, 1000)
"""Microseconds."""


@contextlib.contextmanager
def witness(core: int) -> Iterator[Callable[[], Any]]:
    """A loop that does next to nothing every millisecond, before all others of this core: gives its statistics."""
    idle = rt.compile(torch.nn.Linear(1, 1).eval(), torch.zeros(1, 1), verify=False)
    x, y = rt.Latest((1,)), rt.Latest((1,))
    x.put(torch.zeros(1))
    options: dict[str, Any] = {"spin_us": 0, "warm": False, "priority": 30, "cpu": core, "strict": True}
    with rt.Loop(idle, x, y, period_us=1000, deadline_us=1000, max_age_us=1e9, on_miss="late", **options) as loop:
        yield loop.stats


def later(histogram: Any, us: float) -> int:
    return sum(count for end, count in histogram.buckets if end > us)


def steal_seconds(core: int) -> float:
    line = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith(f"cpu{core} "))
    return int(line.split()[8]) / os.sysconf("SC_CLK_TCK")


def under_load(
    network: Network, streams: int, seconds: float, deadline_us: float, scheme: str, core: int | None = None
) -> dict[str, Any]:
    calibration = [torch.randn(64, 32, FEATURES)] if scheme == "w8a8" else None
    live = rt.stream(network, torch.randn(streams, FEATURES), scheme=scheme, calibration=calibration)
    bunches = [torch.arange(first, min(first + 100, streams)) for first in range(0, streams, 100)]
    x = torch.randn(100, FEATURES)
    seen, callback = 0, [0.0]

    def count(numbers: torch.Tensor, y: torch.Tensor, status: torch.Tensor) -> None:
        nonlocal seen
        seen += len(numbers)
        callback[0] = time.thread_time()

    with contextlib.ExitStack() as stack:
        told: dict[str, Any] = {}
        pool = None
        if core is not None:
            seen_by = stack.enter_context(witness(core))
            pool, stolen = stack.enter_context(rt.BatchWorkers([core], priority=20)), steal_seconds(core)
        hub = stack.enter_context(rt.StreamBatcher(live, deadline_us=deadline_us, on_result=count, workers=pool))
        begin, used, called = time.perf_counter(), worker_seconds(), time.thread_time()
        for period in range(int(seconds * RATE)):
            for i, bunch in enumerate(bunches):
                wait = begin + (period + i / len(bunches)) / RATE - time.perf_counter()
                if wait > 0:
                    time.sleep(wait)
                hub.put_many(bunch, x[: len(bunch)])
        took, used, called = time.perf_counter() - begin, worker_seconds() - used, time.thread_time() - called
        if core is not None:
            idle, margin = seen_by().wake_error, min(hub.stats().cost_us[2], deadline_us / 4)
            told = {
                "wakes": idle.n, "wakes_p50_us": idle.p50_us, "wakes_max_us": idle.max_us,
                "wakes_later_than_margin": later(idle, margin), "steal_s": steal_seconds(core) - stolen,
                **{f"wakes_later_than_{us}": later(idle, us) for us in WITNESSES},
            }  # fmt: skip
    stats = hub.stats()
    assert seen == stats.answered + stats.dropped
    return {
        "scheme": scheme, "put": stats.put, "answered": stats.answered, "late": stats.late, "replaced": stats.replaced,
        "full": stats.full, "batch_p50": stats.batch.p50, "batches": stats.batches, "cost_us": stats.cost_us,
        "lateness_p999_us": stats.lateness.p999_us, "lateness_max_us": stats.lateness.max_us,
        "worker_share": used[0] / took, "waited_share": used[1] / took, "sleeps": int(used[2]),
        "caller_share": called / took, "callback_share": callback[0] / took, **told,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--deadline-us", type=float, default=1000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--witness", type=int, metavar="CORE", help="of the worker, and of an idle loop beside it")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network, streams = Network().eval(), given.streams
    lists = [torch.randperm(streams)[: streams // 10].contiguous() for _ in range(64)]
    calls = ours(network, streams, "w8a8", lists) | ours(network, streams, "float32", lists)
    if importlib.util.find_spec("onnxruntime"):
        calls |= onnx_runtime(network, streams, lists)
    best = measure(calls, given.rounds)
    print(f"{streams:,} streams of a GRU {FEATURES}-{UNITS} with a head, {os.uname().machine}, one thread")
    print(f"{'':40} {'us a call':>10} {'ns a stream':>12} {'of its share':>13} {'core at 100 Hz':>15}")
    for name, ns in best.items():
        everything = name.endswith("all")
        rows = streams if everything else len(lists[0])
        ratio = "" if everything else f"{ns / rows / (best[name.rpartition(',')[0] + ', all'] / streams):.2f}x"
        share = f"{ns * RATE / 1e9:.1%}" if everything else ""
        print(f"{name:40} {ns / 1e3:10.1f} {ns / rows:12.1f} {ratio:>13} {share:>15}")
    loads = [
        under_load(network, streams, given.seconds, given.deadline_us, scheme, given.witness)
        for scheme in ("w8a8", "float32")
    ]
    for load in loads:
        a, b, margin = load["cost_us"]
        print(
            f"\nbatcher, {load['scheme']}: {load['put']:,} put in {given.seconds} s, deadline {given.deadline_us:.0f} us"
        )
        late = f"p99.9 {load['lateness_p999_us']:.0f} us, max {load['lateness_max_us']:.0f} us"
        print(f"  {load['late']:,} late ({late}), {load['replaced']:,} replaced, {load['full']:,} full")
        print(f"  batches of {load['batch_p50']:,}; cost {a:.1f} + {b:.3f} n + {margin:.1f} us")
        print(
            f"  worker {load['worker_share']:.1%} of a core, {load['sleeps'] / load['batches']:.1f} sleeps a batch; "
            f"{load['waited_share']:.1%} of the time ready without one"
        )
        print(f"  beside it in Python: callers {load['caller_share']:.1%}, callback {load['callback_share']:.1%}")
        if given.witness is not None:
            counts = ", ".join(f"{load[f'wakes_later_than_{us}']} > {us}" for us in WITNESSES)
            print(
                f"  late {load['late'] / load['put']:.2%}. The witness: {load['wakes_later_than_margin'] / load['wakes']:.2%} "
                f"of its wakes were later than the margin; p50 {load['wakes_p50_us']:.0f}, max "
                f"{load['wakes_max_us']:.0f} us ({counts} us, of {load['wakes']:,}); steal {load['steal_s']:.2f} s"
            )
    if given.json:
        given.json.write_text(json.dumps({"ns": best, "load": loads, "threads": threading.active_count()}, indent=1))


if __name__ == "__main__":
    main()
