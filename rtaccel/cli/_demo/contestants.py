"""What is compared: the same trained network in torch, in ONNX Runtime and compiled by rtaccel, each as its fastest call.

A contestant owns its input and output memory, and everything said about it, time and quality alike, comes from `call`.
"""

from __future__ import annotations

import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rtaccel.core.scheme import W8A8, Float32
from rtaccel.runtime import compiler

JUDGED = "rtaccel W8A8, bound call"


@dataclass(frozen=True)
class Contestant:
    """call: one inference on `given` [1, width]; it returns its output, or writes it into `out` where that is set."""

    name: str
    call: Callable[[], Any]
    given: Tensor
    out: Tensor | None
    size_bytes: int

    def outputs(self, windows: Tensor) -> Tensor:
        """[T, width] -> [T, width], one call per window. `out` is filled with NaN before each: what is left shows."""
        results = torch.empty_like(windows)
        with torch.no_grad():
            for i, window in enumerate(windows):
                self.given.copy_(window[None])
                if self.out is not None:
                    self.out.fill_(torch.nan)
                returned = self.call()
                results[i] = (returned if self.out is None else self.out)[0]
        return results


@dataclass(frozen=True)
class Field:
    """contestants in order of the table; left_out: sentences on those that are not installed.

    expected: [T, width], what the W8A8 network must give for the test windows, computed by the plain-torch kernels.
    kernels: name of each native kernel used -> number of stages.
    """

    contestants: tuple[Contestant, ...]
    left_out: tuple[str, ...]
    expected: Tensor
    kernels: dict[str, int]


def assemble(model: nn.Sequential, windows: Tensor, calibration: list[Tensor]) -> Field:
    """Compiles the model for each contestant. windows: the test part; calibration: batches of training windows."""
    x = windows[:1].clone()
    peer = onnx_runtime(model, x)
    int8 = compiler.compile(model, (x,), W8A8("static"), calibration=calibration)
    plain = compiler.compile(model, (x,), W8A8("static"), calibration=calibration, backend="portable")
    float32 = compiler.compile(model, (x,), Float32())
    assert isinstance(int8, compiler.CompiledModel)  # torch.export captures a plain nn.Sequential
    kernels: dict[str, int] = {}
    for line in int8.explain_lines(measure=False):
        kernels[line.kernel] = kernels.get(line.kernel, 0) + 1
    contestants = (
        torch_eager(model, x),
        *([peer] if isinstance(peer, Contestant) else []),
        bound("rtaccel float32, bound call", float32, x),
        returning("rtaccel W8A8, fast(x)", int8, x),
        writing("rtaccel W8A8, fast.run", int8, x),
        bound(JUDGED, int8, x),
    )
    left_out = (peer,) if isinstance(peer, str) else ()
    return Field(contestants, left_out, plain(windows), kernels)


def torch_eager(model: nn.Module, x: Tensor) -> Contestant:
    given = x.clone()
    size = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    return Contestant("torch eager", lambda: model(given), given, None, size)


def returning(name: str, fast: Any, x: Tensor) -> Contestant:
    given = x.clone()
    return Contestant(name, lambda: fast(given), given, None, fast.weight_bytes)


def writing(name: str, fast: Any, x: Tensor) -> Contestant:
    given, out = x.clone(), torch.empty_like(x)
    return Contestant(name, lambda: fast.run(given, out=out), given, out, fast.weight_bytes)


def bound(name: str, fast: Any, x: Tensor) -> Contestant:
    given, out = x.clone(), torch.empty_like(x)
    return Contestant(name, fast.bind(given, out=out), given, out, fast.weight_bytes)


def onnx_runtime(model: nn.Module, x: Tensor) -> Contestant | str:
    """ONNX Runtime on one thread with both buffers bound, its fastest documented call; or why it is left out."""
    missing = [n for n in ("onnxruntime", "onnx", "onnxscript") if importlib.util.find_spec(n) is None]
    if missing:
        return f"ONNX Runtime is left out: {', '.join(missing)} not installed; pip install 'rtaccel[demo]'"
    try:
        return _onnx_runtime(model, x)
    except Exception as error:  # another project's exporter: its failure is told, and is no failure of the demo
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        return f"ONNX Runtime is left out: its export failed with {type(error).__name__}: {reason}"


def _onnx_runtime(model: nn.Module, x: Tensor) -> Contestant:
    import onnxruntime

    given, out = x.clone(), torch.empty_like(x)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    log = logging.getLogger("torch.onnx")
    level = log.level
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's remarks on its own version
        log.setLevel(logging.ERROR)
        try:
            path = Path(folder) / "model.onnx"
            torch.onnx.export(model, (x,), path, dynamo=True, verbose=False, external_data=False)
        finally:
            log.setLevel(level)
        size = path.stat().st_size
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_input(session.get_inputs()[0].name, "cpu", 0, "float32", list(given.shape), given.data_ptr())
    binding.bind_output(session.get_outputs()[0].name, "cpu", 0, "float32", list(out.shape), out.data_ptr())
    return Contestant("ONNX Runtime float32", lambda: session.run_with_iobinding(binding), given, out, size)
