"""What a call costs from Python: of a compiled 16 x 16 layer, and of swapped layers beside nn.Linear.

    python bench/overhead.py

The first part is the best of 9 loops of 100,000 calls: the least that a call takes, without the noise of the machine. The
second are medians of calls in turn, the clock (0.05 us) included.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable

import torch

import rtaccel as rt
from rtaccel.measure.interleave import interleave

SIZES = ((16, 1), (64, 1), (256, 1), (1024, 1), (256, 64), (1024, 64))  # N = K, rows
LIMITS_US = {"step()": 0.15, "fast.run(x, out=y)": 0.5, "fast(x)": 1.5}


def best_us(call: Callable[[], object], loops: int = 9, calls: int = 100_000) -> float:
    return min(timeit.repeat("call()", globals={"call": call}, repeat=loops, number=calls)) / calls * 1e6


def main() -> None:
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    layer, x, y = torch.nn.Linear(16, 16).eval(), torch.randn(1, 16), torch.empty(1, 16)
    nothing = best_us(lambda: None)
    print(f"calling a Python function that does nothing: {nothing:.3f} us, taken off below where one is called")
    for scheme in ("float32", "w8a8"):
        fast = rt.compile(layer, (x,), scheme, calibration=[torch.randn(64, 16)])
        times = {
            "step()": best_us(fast.bind(x, out=y)),
            "fast.run(x, out=y)": best_us(lambda f=fast: f.run(x, out=y)) - nothing,
            "fast(x)": best_us(lambda f=fast: f(x)) - nothing,
        }
        for form, us in times.items():
            print(f"{scheme:8} {form:20} {us:.3f} us   (at most {LIMITS_US[form]} us)")
    print("\n| N = K | rows | nn.Linear | static | dynamic |\n|---|---|---|---|---|")
    for size, rows in SIZES:
        print(swapped(size, rows))


def swapped(size: int, rows: int) -> str:
    """A row of the table: us of nn.Linear and of the QuantLinear that would take its place."""
    layer, x = torch.nn.Linear(size, size).eval(), torch.randn(rows, size)
    layers = {
        "nn.Linear": layer,
        "static": rt.nn.QuantLinear.from_float(layer, rt.W8A8("static"), torch.randn(512, size)),
        "dynamic": rt.nn.QuantLinear.from_float(layer, rt.W8A8("dynamic")),
    }
    measured = interleave({name: (lambda m=m: m(x)) for name, m in layers.items()}, rounds=30, calls_per_round=50)
    return f"| {size} | {rows} | " + " | ".join(f"{measured.median_us(name):.3g}" for name in layers) + " |"


if __name__ == "__main__":
    main()
