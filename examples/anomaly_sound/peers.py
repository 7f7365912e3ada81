"""The same path with other runtimes: their network, and a front end of NumPy, which is what they leave to their user."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from examples.anomaly_sound.networks import BANDS, STACK, WINDOW, mel_bands

F32 = NDArray[np.float32]


class FrontEnd:
    """Samples [1024] to the newest five log-mel frames [1, 640], frame after frame."""

    def __init__(self) -> None:
        n = np.arange(WINDOW)
        self.window = (0.5 - 0.5 * np.cos(2 * np.pi * n / WINDOW)).astype(np.float32)
        self.bands = mel_bands().astype(np.float32)
        self.frames = np.zeros((STACK, BANDS), np.float32)

    def __call__(self, samples: F32) -> F32:
        z = np.fft.rfft(samples * self.window)
        power = (z.real**2 + z.imag**2).astype(np.float32) @ self.bands
        self.frames[:-1] = self.frames[1:]
        self.frames[-1] = 10 * np.log10(power + np.finfo(np.float32).eps)
        return self.frames.reshape(1, -1)


def litert(file: Path) -> Callable[[F32], F32]:
    """The network of a .tflite file on one thread, [1, 640] to [1, 640]; int8 files are given and give int8 inside."""
    from ai_edge_litert.interpreter import Interpreter

    net = Interpreter(model_path=str(file), num_threads=1)
    net.allocate_tensors()
    given, made = net.get_input_details()[0], net.get_output_details()[0]
    (s_in, z_in), (s_out, z_out) = given["quantization"], made["quantization"]
    int8 = given["dtype"] == np.int8

    def call(x: F32) -> F32:
        q = np.clip(np.round(x / s_in) + z_in, -128, 127).astype(np.int8) if int8 else x
        net.set_tensor(given["index"], q)
        net.invoke()
        y = net.get_tensor(made["index"])
        return (y.astype(np.float32) - z_out) * s_out if int8 else y

    return call


def onnx(file: Path) -> Callable[[F32], F32]:
    """The network of an ONNX file on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def scored(net: Callable[[F32], F32], front: FrontEnd | None = None) -> Callable[[F32], float]:
    """From samples [1024], or without a front end from [1, 640], to the mean squared error."""

    def call(x: F32) -> float:
        frames = x if front is None else front(x)
        return float(np.mean((net(frames) - frames) ** 2))

    return call


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
