"""Convolutions of one sample on one thread and on several, beside ONNX Runtime with as many.

    python -m bench.threads [--threads 2] [--seconds 3] [--json FILE]

All of a row are called in turn in one process, on outputs of their own; a figure is the least of the calls, as other work on the
machine takes cores away. Floor: 1 / threads of the time of one, for the convolution itself; copies between layouts at the ends
of the network are made by one thread. ONNX Runtime computes float32 alone here, from PyTorch's export.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import rtaccel as rt

ROWS = {
    "3 x 3, 64 of 56 x 56": (nn.Conv2d(64, 64, 3, padding=1), (1, 64, 56, 56)),
    "3 x 3, 128 of 28 x 28": (nn.Conv2d(128, 128, 3, padding=1), (1, 128, 28, 28)),
    "3 x 3 / 2, 64 to 96 of 56 x 56": (nn.Conv2d(64, 96, 3, stride=2, padding=1), (1, 64, 56, 56)),
    "5 x 5, 32 to 48 of 40 x 40": (nn.Conv2d(32, 48, 5, padding=2), (1, 32, 40, 40)),
    "1 x 1, 256 of 28 x 28": (nn.Conv2d(256, 256, 1), (1, 256, 28, 28)),
    "9, 64 of 500": (nn.Conv1d(64, 64, 9, padding=4), (1, 64, 500)),
}


def ours(model: nn.Module, x: torch.Tensor, scheme: str, threads: int) -> Callable[[], Any]:
    fast = rt.compile(model, x, scheme, calibration=[x] if scheme == "w8a8" else None, threads=threads, verify=False)
    return fast.bind(x, out=torch.empty_like(model(x)))


def onnx_runtime(model: nn.Module, x: torch.Tensor, threads: int) -> Callable[[], Any] | None:
    try:
        import onnxruntime
    except ImportError:
        return None
    file = io.BytesIO()
    torch.onnx.export(model, (x,), file, input_names=["x"], output_names=["y"], dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    bound = session.io_binding()
    bound.bind_cpu_input("x", x.numpy())
    y = np.empty(tuple(model(x).shape), np.float32)
    bound.bind_output("y", "cpu", 0, np.float32, y.shape, y.ctypes.data)

    def call(kept: Any = (x, y)) -> None:  # a binding has addresses alone
        session.run_with_iobinding(bound)

    return call


def least(calls: dict[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """Microseconds of each: called in turn, five times each, so that its threads are awake."""
    found = dict.fromkeys(calls, float("inf"))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, call in calls.items():
            for _ in range(5):
                start = time.perf_counter_ns()
                call()
                found[name] = min(found[name], (time.perf_counter_ns() - start) / 1e3)
    return found


@torch.no_grad()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each row")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    found = {}
    for name, (layer, shape) in ROWS.items():
        model, x = nn.Sequential(layer, nn.ReLU()).eval(), torch.randn(shape)
        calls: dict[str, Any] = {}
        for threads in (1, args.threads):
            calls |= {f"{scheme} {threads}": ours(model, x, scheme, threads) for scheme in ("float32", "w8a8")}
            calls[f"onnxruntime {threads}"] = onnx_runtime(model, x, threads)
        us = least({k: v for k, v in calls.items() if v is not None}, args.seconds)
        found[name] = us
        texts = []
        for kind in ("float32", "w8a8", "onnxruntime"):
            if f"{kind} 1" in us:
                one, several = us[f"{kind} 1"], us[f"{kind} {args.threads}"]
                texts.append(f"{kind} {one:7.1f} -> {several:7.1f} us ({one / several:.2f}x)")
        print(f"{name:32} {'   '.join(texts)}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
