"""A linear layer at batch 1 (or --rows), sparse against our own dense kernel: bound calls, one thread, in turn.

python -m bench.sparse [--size 1024] [--rows 1] [--seconds 0.2]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from unittest import mock

import torch
from torch import Tensor, nn

import rtaccel as rt
from bench.sparse_peers import torch_sparse
from rtaccel.formats import masks
from rtaccel.plan import sparse as forms

PATTERNS = (
    rt.Unstructured(0.8), rt.Unstructured(0.9), rt.Unstructured(0.95), rt.BlockSparse((16, 16), 0.8),
    rt.BlockSparse((8, 8), 0.8), rt.BlockSparse((1, 16), 0.9), rt.SemiStructured(),
)  # fmt: skip
ROUNDS = 15


def times(calls: dict[str, Callable[[], None]], seconds: float) -> dict[str, float]:
    """Median over rounds of the mean time of a call, in us; the calls take turns."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            call()
            count, start = 0, time.perf_counter_ns()
            while time.perf_counter_ns() - start < seconds * 1e9 / ROUNDS:
                for _ in range(20):
                    call()
                count += 20
            found[name].append((time.perf_counter_ns() - start) / count / 1000)
    return {name: statistics.median(values) for name, values in found.items()}


def bound(model: nn.Module, x: Tensor, scheme: str, calibration: list[Tensor] | None) -> tuple[Callable[[], None], str]:
    fast = rt.compile(model, (x,), scheme, calibration=calibration)
    call = fast.bind(x, out=torch.empty(x.shape[0], model[0].out_features))  # type: ignore[index]
    return call, fast.explain_lines(measure=False)[-1].kernel


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.randn(args.rows, args.size)
    data = [torch.randn(256, args.size)]
    print(f"{args.rows} x {args.size} x {args.size}, us a call")
    for scheme, calibration in (("w8a8", data), ("float32", None)):
        for pattern in PATTERNS:
            model = nn.Sequential(nn.Linear(args.size, args.size)).eval()
            with torch.no_grad():
                model[0].weight *= masks.keep(torch.rand(args.size, args.size), pattern)
            sparse, kernel = bound(model, x, scheme, calibration)
            with mock.patch.object(forms, "LEAST_ZEROS", 2.0):
                dense, _ = bound(model, x, scheme, calibration)
            peers = torch_sparse(model[0], x, pattern) if scheme == "float32" else {}
            us = times({"sparse": sparse, "dense": dense, **peers}, args.seconds)
            ratio = us["dense"] / us["sparse"]
            line = f"{scheme:8} {pattern!s:22} {kernel:24} {us['sparse']:8.2f}  dense {us['dense']:8.2f}  {ratio:5.2f}x"
            print("  ".join([line, *(f"{name} {us[name]:.1f}" for name in peers)]))


if __name__ == "__main__":
    main()
