"""One chunk of 32 ms through silero-vad's 16 kHz network: ONNX Runtime with the packaged file, and compiled.

    python -m bench.vad_chunk

Needs the packages silero-vad and onnxruntime. All take a chunk with its context that lies ready, on one thread, in
interleaved rounds. "best" is the median of the quietest round, "median" that of all rounds' medians; the interval is
of the ratio to ONNX Runtime's plain call, round by round.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import rtaccel as rt
from rtaccel.measure.interleave import interleave
from tests.real_networks import Vad, packaged_vad, vad, vad_package
from tests.vad_halves import INT8_CELL, Halves, calibration_of

ONNX = "silero_vad_16k_op15.onnx"
PLAIN, BOUND = "ONNX Runtime, run()", "ONNX Runtime, IO binding"


def onnx_calls(path: Path, x: Tensor) -> dict[str, Callable[[], object]]:
    """A plain call, and one on buffers that were bound once."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {"input": x.numpy(), "state": np.zeros((2, 1, 128), np.float32), "sr": np.array(16000, np.int64)}
    binding = session.io_binding()
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in feed.items()}
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    results = {"output": np.zeros((1, 1), np.float32), "stateN": np.zeros((2, 1, 128), np.float32)}
    outs = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in results.items()}
    for name, value in outs.items():
        binding.bind_ortvalue_output(name, value)
    kept: list[Any] = [values, outs]
    return {PLAIN: lambda: session.run(None, feed), BOUND: lambda: (session.run_with_iobinding(binding), kept)}


def our_calls(model: Vad, x: Tensor) -> dict[str, Callable[[], object]]:
    h, c = torch.zeros(1, 128), torch.zeros(1, 128)
    calibration = calibration_of(model, torch.randn(64, x.shape[1]) * 0.1)  # the speed does not depend on the scales
    calls: dict[str, Callable[[], object]] = {}
    for name, halves in (
        ("rtaccel float32, two native calls", Halves(model)),
        ("rtaccel int8 conv4 and cell, two native calls", Halves(model, INT8_CELL, calibration)),
    ):
        halves.x.copy_(x)
        calls[name] = halves.step
    whole = rt.compile(model, (x, h, c))
    calls["rtaccel float32, compiled whole"] = lambda: whole(x, h, c)
    return calls


def main() -> None:
    package = vad_package()
    if package is None:
        sys.exit("needs the package silero-vad (and onnxruntime)")
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    model, own = vad(package), packaged_vad(package)
    x, state = torch.randn(1, 576) * 0.1, torch.zeros(2, 1, 128)
    calls = {**onnx_calls(package / ONNX, x), **our_calls(model, x), "packaged TorchScript": lambda: own(x, state)}
    measured = interleave(calls, rounds=60, calls_per_round=100)
    print("| one chunk of 32 ms | best us | median us | of ONNX Runtime's run() |\n|---|---|---|---|")
    for name in calls:
        ratio = measured.ratio(name, PLAIN)
        print(f"| {name} | {measured.best_round_us(name):.1f} | {measured.median_us(name):.1f} | {ratio} |")


if __name__ == "__main__":
    main()
