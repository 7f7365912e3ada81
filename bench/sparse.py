"""A linear layer at batch 1 (or --rows), or LSTM and GRU of 3 x 128, sparse against our own dense kernels: bound calls, one
thread, in turn.

    python -m bench.sparse [--size 1024] [--rows 1] [--seconds 0.2]
    python -m bench.sparse --recurrent [--time steps 1] [--seconds 0.2]
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
from rtaccel.plan import sparse_recurrent as recurrent_forms

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
    call = fast.bind(x, out=torch.empty_like(fast(x)))
    return call, fast.explain_lines(measure=False)[-1].kernel


class Memory(nn.Module):
    """What an LSTM or a GRU gives at each time step."""

    def __init__(self, layer: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.layer = layer(128, 128, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


def recurrent(time_steps: int, seconds: float) -> None:
    x, data = torch.randn(1, time_steps, 128), [torch.randn(16, 20, 128)]
    print(f"3 x 128, {time_steps} time steps, us a call")
    for scheme, calibration in (("w8a8", data), ("float32", None)):
        for layer in (nn.LSTM, nn.GRU):
            for pattern in (
                rt.Unstructured(0.8),
                rt.Unstructured(0.9),
                rt.Unstructured(0.95),
                rt.BlockSparse((16, 16), 0.8),
            ):
                model = Memory(layer).eval()
                with torch.no_grad():
                    for name, weight in model.layer.named_parameters():
                        if name.startswith("weight"):
                            weight *= masks.keep(torch.rand_like(weight), pattern)
                compare(f"{scheme:8} {layer.__name__:4} {pattern!s:17}", model, x, scheme, calibration, seconds)


def compare(
    label: str,
    model: nn.Module,
    x: Tensor,
    scheme: str,
    calibration: list[Tensor] | None,
    seconds: float,
    peers: dict[str, Callable[[], object]] | None = None,
) -> None:
    sparse, kernel = bound(model, x, scheme, calibration)
    with mock.patch.object(forms, "MIN_ZEROS", 2.0), mock.patch.object(recurrent_forms, "MIN_ZEROS", 2.0):
        dense, _ = bound(model, x, scheme, calibration)
    peers = peers or {}
    us = times({"sparse": sparse, "dense": dense, **peers}, seconds)
    line = f"{label} {kernel:24} {us['sparse']:8.2f}  dense {us['dense']:8.2f}  {us['dense'] / us['sparse']:5.2f}x"
    print("  ".join([line, *(f"{name} {us[name]:.1f}" for name in peers)]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument("--recurrent", action="store_true")
    parser.add_argument("--time steps", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if args.recurrent:
        recurrent(args.time_steps, args.seconds)
        return
    x = torch.randn(args.rows, args.size)
    data = [torch.randn(256, args.size)]
    print(f"{args.rows} x {args.size} x {args.size}, us a call")
    for scheme, calibration in (("w8a8", data), ("float32", None)):
        for pattern in PATTERNS:
            model = nn.Sequential(nn.Linear(args.size, args.size)).eval()
            with torch.no_grad():
                model[0].weight *= masks.keep(torch.rand(args.size, args.size), pattern)
            peers = torch_sparse(model[0], x, pattern) if scheme == "float32" else {}
            compare(f"{scheme:8} {pattern!s:22}", model, x, scheme, calibration, args.seconds, peers)


if __name__ == "__main__":
    main()
