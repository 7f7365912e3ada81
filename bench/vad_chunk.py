"""One chunk of 32 ms through silero-vad's 16 kHz network: ONNX Runtime with each packaged file, and compiled.

    python -m bench.vad_chunk

Needs the packages silero-vad and onnxruntime. All take a chunk with its context that lies ready, on one thread, in
interleaved rounds. "best" is the median of the quietest round, "median" that of all rounds' medians; the interval is
of the ratio to the fastest of ONNX Runtime's calls, round by round.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtaccel.measure.interleave import interleave
from tests.support.networks.voice_activity import (
    INT8_CELL,
    Listener,
    Vad,
    calibration_of,
    packaged_vad,
    vad,
    vad_package,
)

ONNX = ("16k_op15", "op18_ifless", "openvino_16k", "16k_sequence", "half")
"""Files of the package that hold the network for 16 kHz, without "silero_vad_"; the sequence is of one chunk."""


def onnx_calls(path: Path, x: Tensor) -> dict[str, Callable[[], object]]:
    """A plain call, and one on buffers that were bound once."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    given = {"input": x.numpy(), "sr": np.array(16000, np.int64), "state": np.zeros((2, 1, 128), np.float32)}
    given |= {name: np.zeros((1, 1, 128), np.float32) for name in ("h", "c")}
    feed = {node.name: given[node.name] for node in session.get_inputs()}
    binding = session.io_binding()
    kept: list[Any] = []
    for name, array in feed.items():
        kept.append(onnxruntime.OrtValue.ortvalue_from_numpy(array))
        binding.bind_ortvalue_input(name, kept[-1])
    for node, result in zip(session.get_outputs(), session.run(None, feed)):
        kept.append(onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros_like(result)))
        binding.bind_ortvalue_output(node.name, kept[-1])
    name = path.stem.removeprefix("silero_vad_")
    return {
        f"ONNX Runtime, {name}, run()": lambda: session.run(None, feed),
        f"ONNX Runtime, {name}, IO binding": lambda: (session.run_with_iobinding(binding), kept),
    }


def our_calls(model: Vad, x: Tensor) -> dict[str, Callable[[], object]]:
    # The speed does not depend on the scales.
    int8 = Listener(model, INT8_CELL, calibration_of(model, torch.randn(64, x.shape[1]) * 0.1))
    calls: dict[str, Callable[[], object]] = {}
    for name, listener in (("float32", Listener(model)), ("int8 conv4 and cell", int8)):
        listener.x.copy_(x)
        calls[f"rtaccel, {name}"] = listener.step
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
    calls: dict[str, Callable[[], object]] = {}
    for name in ONNX:
        calls |= onnx_calls(package / f"silero_vad_{name}.onnx", x)
    theirs = tuple(calls)
    calls |= our_calls(model, x) | {"packaged TorchScript": lambda: own(x, state)}
    measured = interleave(calls, rounds=60, calls_per_round=100)
    fastest = min(theirs, key=measured.median_us)
    print(f"| one chunk of 32 ms | best us | median us | of {fastest} |\n|---|---|---|---|")
    for name in calls:
        ratio = measured.ratio(name, fastest)
        print(f"| {name} | {measured.best_round_us(name):.1f} | {measured.median_us(name):.1f} | {ratio} |")


if __name__ == "__main__":
    main()
