"""The slot and the loop on this machine.

    python -m bench.realtime [--seconds 2] [--swaps 1000]

Slot: best of 9 loops, in C and from Python. Wake-up error and steps: loops of a small network, one setting after the other, each
with the same number of cycles; on a machine that does other work the medians are good and the tails are the machine's.
Where `cyclictest` is installed, its own figure is beside.
"""

from __future__ import annotations

import argparse
import copy
import shutil
import subprocess
import time
import timeit
import warnings
from typing import Any

import numpy as np
import torch

import rtaccel as rt
from rtaccel import _native as native


def best_ns(call: Any, calls: int = 100_000) -> float:
    return min(timeit.repeat("call()", globals={"call": call}, repeat=9, number=calls)) / calls * 1e9


def slot_table(width: int) -> None:
    print(f"\nslot of {width} float64, ns (best of 9)")
    print(f"{'':22} {'put':>8} {'get':>8}")
    x = np.zeros(width)
    for readers in ("one", "many"):
        words = rt.Latest((width,), "int64", readers=readers)
        put = min(native.latest_soak_put(words, 300_000) for _ in range(9))
        get = min(native.latest_soak_get(words, 300_000)[3] for _ in range(9))
        slot = rt.Latest((width,), "float64", readers=readers)
        slot.put(x)
        slot.get()
        print(f"{'C, readers=' + readers:22} {put:8.0f} {get:8.0f}")
        print(f"{'Python, readers=' + readers:22} {best_ns(lambda s=slot: s.put(x)):8.0f} {best_ns(slot.get):8.0f}")
    print(
        f"(the clock, which a put reads: {best_ns(time.monotonic_ns):.0f}; an empty lambda {best_ns(lambda: None):.0f})"
    )


def network() -> Any:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(640, 128), torch.nn.ReLU()]
    for _ in range(3):
        layers += [torch.nn.Linear(128, 128), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(128, 8)).eval()
    return rt.compile(model, (torch.randn(1, 640),), scheme="w8a8", calibration=[torch.randn(256, 640)])


def loop_stats(seconds: float, period_us: float, **options: Any) -> Any:
    x, y = rt.Latest((640,)), rt.Latest((8,))
    loop = rt.Loop(
        network(), x, y, period_us=period_us, deadline_us=period_us, max_age_us=1e9, on_miss="late", **options
    )
    x.put(torch.randn(640))
    with loop:
        time.sleep(seconds)
    return loop.stats()


def loop_table(seconds: float) -> None:
    fast, x, y = network(), torch.randn(1, 640), torch.empty(1, 8)
    call = fast.bind(x, out=y)
    call()
    print(
        f"\nloop of {sum(p.numel() for p in torch.nn.Linear(640, 128).parameters()) // 1000}k and more weights in W8A8; "
        f"back to back p50 {rt.measure(call, (), seconds=0.5).p50_us:.2f} us"
    )
    print(f"{'':44} {'wake-up error us':>30} {'work us':>24}")
    print(f"{'':44} {'p50':>9} {'p99':>10} {'p99.9':>9} {'p50':>12} {'p99':>11} {'warm runs':>10}")
    for period_us in (1000, 10_000):
        for label, options in (
            ("as the caller, sleeping", {"spin_us": 0, "warm": False}),
            ("as the caller, spin 80 us", {"spin_us": 80, "warm": False}),
            ("SCHED_FIFO, sleeping", {"spin_us": 0, "warm": False, "priority": 50}),
            ("SCHED_FIFO, spin 80 us", {"spin_us": 80, "warm": False, "priority": 50}),
            ("SCHED_FIFO, spin 80 us, warm", {"spin_us": 80, "warm": True, "priority": 50}),
            ("SCHED_FIFO, spin learned, warm", {"spin_us": "auto", "warm": True, "priority": 50}),
        ):
            s = loop_stats(seconds, period_us, **options)
            w, k = s.wake_error, s.work
            fifo = "" if "priority" not in options or s.fifo else " (not allowed)"
            print(
                f"{f'{period_us / 1000:g} ms, {label}{fifo}':44} {w.p50_us:9.2f} {w.p99_us:10.2f} {w.p999_us:9.1f} "
                f"{k.p50_us:12.2f} {k.p99_us:11.2f} {s.warm_runs:10}"
            )


def swap_table(steps: int, swaps: int) -> None:
    """A loop that steps every 20 us, with and without exchanges of all weights from another thread. Every result that is seen is
    that of one set of weights."""
    torch.manual_seed(1)
    layers = [torch.nn.Linear(128, 256), torch.nn.ReLU(), torch.nn.Linear(256, 128), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(128, 8)).eval()
    row = torch.randn(1, 128)
    fast = rt.compile(model, (row,))
    own = fast.state_dict()
    with torch.no_grad():
        other = rt.compile(copy.deepcopy(model).apply(lambda m: [p.mul_(0.5) for p in m.parameters(False)]), (row,))
    second = other.state_dict()
    wanted = {fast(row).numpy().tobytes(), other(row).numpy().tobytes()}
    found: dict[str, list[Any]] = {"steps alone": [], "with swaps": []}
    seen, rounds = 0, 4
    for turn in range(2 * rounds):  # in turns, as the machine does other work
        name = list(found)[turn % 2]
        x, y = rt.Latest((128,)), rt.Latest((8,))
        x.put(row[0])
        loop = rt.Loop(
            fast,
            x,
            y,
            period_us=20,
            deadline_us=20,
            max_age_us=1e9,
            on_miss="late",
            spin_us=15,
            warm=False,
            priority=50,
        )
        end = time.monotonic() + steps / rounds * 20e-6
        with loop:
            for i in range(swaps // rounds):
                if turn % 2:
                    fast.swap((own, second)[i % 2])
                got = y.get()
                if got.status != "none":
                    assert got.value.tobytes() in wanted, "a result of two sets of weights"
                    seen += 1
                time.sleep(max(0.0, (end - time.monotonic()) / (swaps // rounds - i)))
        found[name].append(loop.stats().work)
    print(
        f"\n{steps:,} steps of 67k weights in float32, {swaps:,} swaps from another thread, {seen:,} results seen, none mixed"
    )
    for name, rows in found.items():
        p50, p99 = (np.median([getattr(r, at) for r in rows]) for at in ("p50_us", "p99_us"))
        print(f"{name:14} work p50 {p50:.2f} us, p99 {p99:.2f} us (medians of {rounds} loops)")


def cyclictest(seconds: float) -> None:
    tool = shutil.which("cyclictest")
    if tool is None:
        print("\ncyclictest is not installed")
        return
    words = [tool, "-q", "-m", "-p", "50", "-i", "1000", "-D", str(max(1, round(seconds)))]
    print("\ncyclictest:", subprocess.run(words, capture_output=True, text=True).stdout.strip())


def simulated(cycles: int) -> None:
    x, y = rt.Latest((2,), "int64"), rt.Latest((2,), "int64")
    world = rt.realtime.Simulation(
        x, 1, produce_us=1000, p_gap=0.004, gap_us=9000, p_stall=0.003, stall_us=2600, step_us=30
    )
    loop = rt.Loop(world.model(), x, y, simulation=world)
    began = time.monotonic()
    loop.run(cycles)
    spent = time.monotonic() - began
    stats, counts = loop.stats(), world.counts()
    same = all(getattr(stats, key) == counts[key] for key in ("cycles", "stale", "misses", "skipped", "fresh"))
    print(
        f"\n{cycles:,} simulated cycles in {spent:.1f} s ({spent / cycles * 1e9:.0f} ns each); counts "
        f"{'equal' if same else 'DIFFER FROM'} what was injected: {stats.stale:,} stale, {stats.misses:,} late, "
        f"{stats.skipped:,} skipped"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each loop (%(default)g)")
    parser.add_argument("--swaps", type=int, default=1000, help="of all weights, in a million steps (%(default)d)")
    parser.add_argument("--cycles", type=float, default=1e6, help="simulated (%(default)g)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*the system refused.*")
    slot_table(48)
    loop_table(args.seconds)
    swap_table(1_000_000, args.swaps)
    cyclictest(args.seconds)
    simulated(int(args.cycles))


if __name__ == "__main__":
    main()
