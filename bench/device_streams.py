"""Recurrent stacks: a window as a graph, and one moment on a kernel that stays, with the states inside."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

import rtaccel as rt
from bench.device_rows import Row, timed
from rtaccel.core.errors import RtaccelError
from rtaccel.runtime.cuda_resident_stacks import CUDA, TRITON, only


def newest(stack: nn.Module, hidden: int) -> nn.Module:
    """A stack with one number of its newest moment, as the models of STAC-ML end."""

    class Newest(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stack, self.head = stack, nn.Linear(hidden, 1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.head(self.stack(x)[0][:, -1])
            return y

    return Newest().eval()


def stacks() -> Iterator[tuple[str, nn.Module, int, int]]:
    """(name, model, inputs, moments of the window): the shapes of STAC-ML Markets (Inference), with random weights, and a GRU."""
    torch.manual_seed(0)
    yield "gru 64-128", newest(nn.GRU(64, 128, batch_first=True), 128), 64, 20
    yield "LSTM_A 2x100", newest(nn.LSTM(100, 100, 2, batch_first=True), 100), 100, 50
    yield "LSTM_B 3x200", newest(nn.LSTM(250, 200, 3, batch_first=True), 200), 250, 100
    yield "LSTM_C 4x1000", newest(nn.LSTM(500, 1000, 4, batch_first=True), 1000), 500, 100


SCHEMES = ("w8a8", "w4a8")


def measure(name: str, model: nn.Module, inputs: int, moments: int, seconds: float) -> list[Row]:
    """One moment (the sliding suite of STAC-ML, Tacana), from host memory to host memory: int8 and int4 weights by the kernel
    that rt.stream takes, and int8 ones by the other that it could have taken, which is how its choice is judged."""
    rows = [_measure(name, model, inputs, moments, seconds, scheme) for scheme in SCHEMES]
    other = TRITON if rows[0].get("kernels") == [CUDA] else CUDA
    with only(other):
        return [*rows, _measure(name, model, inputs, moments, seconds, "w8a8", f", {other} instead")]


def _measure(
    name: str, model: nn.Module, inputs: int, moments: int, seconds: float, scheme: str, ends: str = ""
) -> Row:
    x, title = torch.randn(1, inputs), f"{name}, one moment, rtaccel {scheme} persistent{ends}"
    calibration = [torch.randn(4, moments, inputs)]
    try:
        live = rt.stream(model, x, scheme=scheme, calibration=calibration, device="cuda")
    except RtaccelError as error:
        return {"name": title, "error": str(error)}
    try:
        (line,) = live.explain_lines(measure=False)
        step = live.bind(x, out=live.step(x))
        return timed(title, step, seconds, kernels=[line.kernel], weights=list(line.reasons))
    finally:
        live.close()
