"""`FakeQuantLSTM` and `FakeQuantGRU`: nn.LSTM and nn.GRU, step by step with the numbers of a scheme."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd import Function

from rtaccel.core.errors import UnsupportedProblem
from rtaccel.kernels.recurrent.hidden_range import MARGIN
from rtaccel.kernels.recurrent.layout import H_SCALE
from rtaccel.nn.check import describe
from rtaccel.nn.qat import fake
from rtaccel.nn.qat.layers import FakeQuant, TrainedNumbers
from rtaccel.nn.qat.scan import GRUScan, LSTMScan


class _Recurrent(FakeQuant):
    """x and h are int8, h with the scale h_scale; gates and c stay float32.

    tanh and the sigmoid of it are those of a plan, quotients of polynomials.
    """

    OWN = ("range_seen", "range_factor", "h_scale")
    STATES: ClassVar[int]
    SCAN: ClassVar[type[Function]]
    h_scale: Tensor
    input_size: int
    hidden_size: int
    num_layers: int
    batch_first: bool
    bidirectional: bool
    dropout: float

    def _set_up(self) -> None:
        super()._set_up()
        parameter = next(self.parameters())
        with torch.no_grad():
            self.register_buffer("h_scale", parameter.new_tensor(H_SCALE, dtype=torch.float32))

    def watch(self, name: str) -> None:
        super().watch(name)
        self.__dict__["largest"], self.__dict__["trusted"] = 0.0, False

    def settle(self) -> bool:
        seen = super().settle()
        largest, trusted = self.__dict__.pop("largest"), self.__dict__.pop("trusted")
        if seen and trusted and 0 < largest < 1:
            with torch.no_grad():
                self.h_scale.fill_(min(1.0, largest * MARGIN) / 127)
        return seen

    def numbers(self) -> TrainedNumbers:
        return replace(super().numbers(), h_scale=float(self.h_scale))

    # -- calling -------------------------------------------------------------------------------------------------

    def forward(self, input: Any, hx: Any = None) -> Any:
        mode = self.__dict__["mode"]
        if mode == "float":
            return self.BASE.forward(self, input, hx)
        if not isinstance(input, Tensor) or input.dim() not in (2, 3):
            raise UnsupportedProblem(
                type(self).__name__, describe(input), "a tensor [T, B, K], [B, T, K] or [T, K]",
                "Pad the sequences to one length, or leave this layer out with filter_fn.",
            )  # fmt: skip
        if mode == "observe":
            self.__dict__["observer"].observe(input)
        states = () if hx is None else (hx,) if isinstance(hx, Tensor) else tuple(hx)
        y, after = self._run(input, states)
        return y, after if self.STATES > 1 else after[0]

    def _run(self, x: Tensor, given: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        alone = x.dim() == 2
        if alone:
            x, given = x.unsqueeze(1), tuple(state.unsqueeze(1) for state in given)
        elif self.batch_first:
            x = x.transpose(0, 1)
        directions = 2 if self.bidirectional else 1
        from_zero = not given
        if from_zero:
            zero = x.new_zeros(self.num_layers * directions, x.shape[1], self.hidden_size)
            given = (zero,) * self.STATES
        observing = self.__dict__["mode"] == "observe"
        if observing:  # h is trusted where a call shows what it grows to: from zero over a window, or from given states
            own = self.__dict__
            own["trusted"] = own["trusted"] or from_zero or bool(given[0].any())
            own["largest"] = max(own["largest"], float(given[0].abs().max()))
        else:
            x = self._input(x)
        after: list[tuple[Tensor, ...]] = []
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(directions):
                suffix = f"_l{layer}" + ("_reverse" if direction else "")
                index = layer * directions + direction
                y, last = self._direction(x, tuple(s[index] for s in given), suffix, bool(direction))
                outputs.append(y)
                after.append(last)
            y = torch.cat(outputs, -1)
            if observing:
                self.__dict__["largest"] = max(self.__dict__["largest"], float(y.detach().abs().max()))
            if layer + 1 < self.num_layers:
                x = y if observing else fake.hidden(y, self.h_scale)
                if self.dropout and self.training:
                    x = nn.functional.dropout(x, self.dropout)
        states = tuple(torch.stack(parts) for parts in zip(*after))
        if alone:
            return y.squeeze(1), tuple(s.squeeze(1) for s in states)
        return (y.transpose(0, 1) if self.batch_first else y), states

    def _direction(
        self, x: Tensor, states: tuple[Tensor, ...], suffix: str, reverse: bool
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """y [T, B, H] and the states after, of x [T, B, K]."""
        observing = self.__dict__["mode"] == "observe"
        weights = []
        for which in ("ih", "hh"):
            matrix = getattr(self, f"weight_{which}{suffix}")
            weights.append(matrix if observing else fake.weight(matrix, self.scheme, f"weight_{which}{suffix}"))
        bias_x, bias_h = (getattr(self, f"bias_{which}{suffix}", None) for which in ("ih", "hh"))
        gates = nn.functional.linear(x, weights[0], bias_x)
        scale = None if observing else self.h_scale.to(x.dtype)
        y, *after = self.SCAN.apply(gates, weights[1], bias_h, *states, scale, reverse)
        return y, tuple(after)


class FakeQuantLSTM(_Recurrent, nn.LSTM):
    """An nn.LSTM that trains with fake quantization in W8A8 or W4A8: x and h int8, weights int8 or int4, c float32.

    Called as nn.LSTM is, with tensors: x float32 [T, B, K], [B, T, K] with batch_first, or [T, K]; hx = (h0, c0). Its
    parameters are those of the layer it was made of. It runs step by step in Python, a few times as long as nn.LSTM.

    Raises UnsupportedProblem for a PackedSequence, FormatError where a weight is not finite.
    """

    BASE, STATES, SCAN = nn.LSTM, 2, LSTMScan


class FakeQuantGRU(_Recurrent, nn.GRU):
    """An nn.GRU that trains with fake quantization in W8A8 or W4A8, as FakeQuantLSTM: x float32 [T, B, K], hx = h0
    float32 [layers, B, H].

    Raises UnsupportedProblem for a PackedSequence, FormatError where a weight is not finite.
    """

    BASE, STATES, SCAN = nn.GRU, 1, GRUScan
