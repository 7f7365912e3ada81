"""Models of sequences: a window as a graph, one moment on a kernel that stays, with the states inside; and the same in torch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rtaccel as rt
from bench.device_peers import plain_graph
from bench.device_rows import Clock, Row, device_us, synchronous, timed
from rtaccel.core.errors import RtaccelError
from rtaccel.runtime.cuda_resident_stacks import CUDA, TRITON, only


class Newest(nn.Module):
    """A stack with one number of its newest moment, as the models of STAC-ML end."""

    def __init__(self, stack: nn.RNNBase) -> None:
        super().__init__()
        self.stack, self.head = stack, nn.Linear(stack.hidden_size, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.stack(x)[0][:, -1])
        return y


class Tcn(nn.Module):
    """Causal convolutions with ReLU; x [batch, channels, moments], y [batch, channels] of the newest moment."""

    def __init__(self, widths: tuple[int, ...], taps: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(c, n, taps) for c, n in pairwise(widths))
        self.pad = taps - 1

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = F.relu(conv(F.pad(x, (self.pad, 0))))
        return x[:, :, -1]


@dataclass(frozen=True)
class Sequence:
    """moments: of a window; what a TCN reads, or what its benchmark has."""

    name: str
    model: nn.Module
    inputs: int
    moments: int

    def window(self, batch: int, device: str = "cpu") -> Tensor:
        size = (self.inputs, self.moments) if isinstance(self.model, Tcn) else (self.moments, self.inputs)
        return torch.randn(batch, *size, device=device)


def stacks() -> Iterator[Sequence]:
    """The shapes of STAC-ML Markets (Inference), with random weights, a GRU, and a TCN whose weights no register file holds."""
    torch.manual_seed(0)
    yield Sequence("gru 64-128", Newest(nn.GRU(64, 128, batch_first=True)).eval(), 64, 20)
    yield Sequence("LSTM_A 2x100", Newest(nn.LSTM(100, 100, 2, batch_first=True)).eval(), 100, 50)
    yield Sequence("LSTM_B 3x200", Newest(nn.LSTM(250, 200, 3, batch_first=True)).eval(), 250, 100)
    yield Sequence("LSTM_C 4x1000", Newest(nn.LSTM(500, 1000, 4, batch_first=True)).eval(), 500, 100)
    yield Sequence("TCN 3x128 k8", Tcn((128,) * 4, 8).eval(), 128, 3 * 7 + 1)


SCHEMES = ("w8a8", "w4a8")


def measure(given: Sequence, seconds: float) -> list[Row]:
    """One moment (the sliding suite of STAC-ML, Tacana), from host memory to host memory: int8 and int4 weights by the kernel
    that rt.stream takes, and int8 ones by the other that it could have taken, which is how its choice is judged."""
    if isinstance(given.model, Tcn):
        return [_measure(given, seconds, "w8a8")]
    rows = [_measure(given, seconds, scheme) for scheme in SCHEMES]
    other = TRITON if rows[0].get("kernels") == [CUDA] else CUDA
    with only(other):
        return [*rows, _measure(given, seconds, "w8a8", f", {other} instead")]


def _measure(given: Sequence, seconds: float, scheme: str, ends: str = "") -> Row:
    x, title = torch.randn(1, given.inputs), f"{given.name}, one moment, rtaccel {scheme} persistent{ends}"
    try:
        live = rt.stream(given.model, x, scheme=scheme, calibration=[given.window(4)], device="cuda")
    except RtaccelError as error:
        return {"name": title, "error": str(error)}
    try:
        (line,) = live.explain_lines(measure=False)
        step = live.bind(x, out=live.step(x))
        return timed(title, step, seconds, kernels=[line.kernel], weights=list(line.reasons))
    finally:
        live.close()


class Moment(nn.Module):
    """One moment in plain torch: a recurrent stack with its states, or a TCN over its last moments, which move by one."""

    past: Tensor
    h: Tensor
    c: Tensor

    def __init__(self, given: Sequence) -> None:
        super().__init__()
        self.model = copy.deepcopy(given.model)
        if isinstance(self.model, Tcn):
            self.register_buffer("past", torch.zeros(1, given.inputs, given.moments))
        else:
            stack = self.model.stack
            for name in ("h", "c"):
                self.register_buffer(name, torch.zeros(stack.num_layers, 1, stack.hidden_size))  # type: ignore[union-attr,arg-type]

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.model, Tcn):
            self.past.copy_(torch.cat([self.past[:, :, 1:], x[:, :, None]], 2))
            y: Tensor = self.model(self.past)
            return y
        assert isinstance(self.model, Newest)
        if isinstance(self.model.stack, nn.LSTM):
            out, (h, c) = self.model.stack(x[:, None], (self.h, self.c))
            self.c.copy_(c)
        else:
            out, h = self.model.stack(x[:, None], self.h)
        self.h.copy_(h)
        newest: Tensor = self.model.head(out[:, -1])
        return newest


def torch_moments(given: Sequence, seconds: float, clock: Clock) -> list[Row]:
    """The same moment as torch has it, on the card: eager, a CUDA graph, compiled; in half precision."""
    half, x = Moment(given).half().cuda().eval(), torch.randn(1, given.inputs, device="cuda").half()
    compiled = torch.compile(copy.deepcopy(half), mode="reduce-overhead")
    ways: list[tuple[str, Callable[[], Callable[[], object]]]] = [
        ("torch eager fp16", lambda: lambda: half(x)),
        ("torch CUDA graph fp16", lambda: plain_graph(half, x)),
        ("torch.compile reduce-overhead fp16", lambda: lambda: compiled(x)),
    ]
    rows: list[Row] = []
    with torch.no_grad():
        for title, make in ways:
            name = f"{given.name}, one moment, {title}"
            late = clock.late(name)
            if late is not None:
                rows.append(late)
                continue
            try:
                call = make()
                call()
                rows.append(timed(name, synchronous(call), seconds, device_us=device_us(call)))
            except Exception as error:  # of as many types as torch has
                rows.append({"name": name, "error": f"{type(error).__name__}: {error}".splitlines()[0]})
    return rows
