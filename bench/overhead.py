"""What a call costs from Python, on a 16 x 16 layer: bound, run, and the module itself.

    python bench/overhead.py

Best of 9 loops of 100,000 calls: the least that the call takes, without the noise of the machine.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable

import torch

import rtaccel as rt

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
    layer_us = best_us(lambda: layer(x), calls=20_000) - nothing
    swapped = rt.nn.QuantLinear.from_float(layer, rt.W8A8("dynamic"))
    print(f"nn.Linear {layer_us:.2f} us, QuantLinear {best_us(lambda: swapped(x)) - nothing:.2f} us")


if __name__ == "__main__":
    main()
