"""What torch does with packed sequences, on padded ones with their lengths: while a model is captured."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import rnn
from torch.overrides import TorchFunctionMode

from rtaccel.convert.frontend.torchscript.python_form import PythonForm
from rtaccel.core.errors import UnsupportedProblem
from rtaccel.nn.packed_recurrent_ops import LONGEST, PACKED

F = torch.nn.functional
_BY_ROW = {
    F.dropout, torch.dropout, F.linear, F.layer_norm, F.relu, torch.relu, torch.tanh, torch.sigmoid, F.gelu, F.elu, F.silu,
    F.leaky_relu, Tensor.relu, Tensor.tanh, Tensor.sigmoid, Tensor.to, Tensor.float, Tensor.contiguous, torch.layer_norm,
}  # fmt: skip
"""Calls that compute each row of their first argument by itself."""
_LOOKS = {getattr(Tensor, name).__get__ for name in ("dtype", "device", "is_cuda", "ndim", "requires_grad", "layout")}
"""Properties that are the same of every row."""
_FRAMES = 8
"""Between torch's sort and the function that asks for it: those of other modes."""


@contextmanager
def packed_sequences(model: nn.Module, any_batch: bool) -> Iterator[None]:
    """While this is open, models with recurrent layers may pack padded sequences.

    any_batch: samples are computed some at a time, so that nothing is known of all lengths together.
    """
    if not any(isinstance(module, (nn.RNNBase, PythonForm)) for module in model.modules()):
        yield
        return
    with _PackedSequences(any_batch), _unchecked():
        yield


@contextmanager
def _unchecked() -> Iterator[None]:
    """Without torch's checks of states beside packed sequences: they make a number of the batch, which then is no longer open.
    `_recurrent` has them."""
    kept = {kind: kind.check_forward_args for kind in (nn.RNNBase, nn.LSTM)}
    try:
        for kind, check in kept.items():
            kind.check_forward_args = _of_whole(check)  # type: ignore[method-assign]
        yield
    finally:
        for kind, check in kept.items():
            kind.check_forward_args = check  # type: ignore[method-assign]


def _of_whole(check: Callable[..., None]) -> Callable[..., None]:
    def apply(self: nn.RNNBase, x: Tensor, hidden: Any, sizes: Tensor | None) -> None:
        if sizes is None:
            check(self, x, hidden, sizes)
        else:
            self.check_input(x, sizes)

    return apply


@dataclass(frozen=True)
class _Padded:
    """values [T, B, ..], or [B, T, ..] with batch_first. clear: 0 behind the last time step of a sequence."""

    values: Tensor
    lengths: Tensor
    batch_first: bool
    clear: bool = False

    @property
    def batch(self) -> Any:
        return self.values.shape[0 if self.batch_first else 1]

    @property
    def steps(self) -> Any:
        return self.values.shape[1 if self.batch_first else 0]

    def ordered(self, batch_first: bool) -> Tensor:
        return self.values if batch_first == self.batch_first else self.values.transpose(0, 1)


class _Longest(int):
    """How many time steps the longest sequence has, which torch takes where nobody passes a total_length."""


class _PackedSequences(TorchFunctionMode):
    def __init__(self, any_batch: bool) -> None:
        super().__init__()
        self._any_batch = any_batch
        self._data: dict[int, tuple[Tensor, _Padded]] = {}  # rows of a packed sequence
        self._sizes: dict[int, tuple[Tensor, _Padded]] = {}  # how many sequences have each time step
        self._unmoved: dict[int, Tensor] = {}  # orders that leave everything where it is

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "sort" and _asked_by(rnn.pack_padded_sequence):
            return args[0], self._keep(torch.arange(args[0].shape[0], device=args[0].device))
        if name == "_pack_padded_sequence":
            return self._pack(*args, **kwargs)
        if self._unmoved or self._data:
            known = [id(a) for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
            if any(key in self._unmoved for key in known):
                return self._moved(name, func, args, kwargs)
            if any(key in self._data or key in self._sizes for key in known):
                return self._read(name, func, args, kwargs)
        return func(*args, **kwargs)

    def _keep(self, order: Tensor) -> Tensor:
        self._unmoved[id(order)] = order
        return order

    def _moved(self, name: str, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A call with an order that is none: torch sorts sequences by length before it packs them, and here they stay."""
        given = [*args, *kwargs.values()]
        if name == "index_select" and id(given[2]) in self._unmoved:
            return given[0]
        if name == "__getitem__" and id(given[1]) in self._unmoved:
            return given[0]
        if name == "scatter_" and id(given[2]) in self._unmoved:  # its inverse
            return self._keep(given[0])
        if name in ("cpu", "to") and id(given[0]) in self._unmoved:
            return given[0]
        return func(*args, **kwargs)

    def _pack(self, values: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
        padded = _Padded(values, lengths, bool(batch_first))
        sizes = torch.zeros(1, dtype=torch.int64)
        self._sizes[id(sizes)] = sizes, padded
        return self._rows(padded), sizes

    def _rows(self, padded: _Padded) -> Tensor:
        data = padded.ordered(batch_first=False).flatten(0, 1)
        self._data[id(data)] = data, padded
        return data

    def _read(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        first = self._data.get(id(args[0])) if args else None
        if args and id(args[0]) in self._sizes and args[1:] == (0,) and name in ("__getitem__", "size"):
            padded = self._sizes[id(args[0])][1]
            return padded.batch if name == "__getitem__" else _Longest(padded.steps)
        if func in _LOOKS or name in ("dim", "is_floating_point") or (name == "size" and args[1:] == (-1,)):
            return func(*args, **kwargs)
        if first is not None and name in PACKED and id(args[1]) in self._sizes:
            return self._recurrent(name, first[1], *args[2:], **kwargs)
        if first is not None and name == "_pad_packed_sequence":
            return self._pad(first[1], *args[2:], **kwargs)
        if first is not None and func in _BY_ROW and not any(id(a) in self._data for a in args[1:]):
            return self._rows(replace(first[1], values=func(first[1].values, *args[1:], **kwargs), clear=False))
        raise UnsupportedProblem(
            "compile", f"a packed sequence that {name or func} reads",
            "recurrent layers, calls row by row, and padding behind them",
            "Call pad_packed_sequence with total_length first, and compute with what it gives.",
        )  # fmt: skip

    def _recurrent(self, kind: str, padded: _Padded, hx: Any, params: Any, biased: bool, layers: int, dropout: float,
                   train: bool, bidirectional: bool) -> tuple[Any, ...]:  # fmt: skip
        states = list(hx) if isinstance(hx, (list, tuple)) else [hx]
        weight_h = params[1]
        wanted = (layers * (2 if bidirectional else 1), padded.batch, weight_h.shape[1])
        if any(
            s.dim() != 3 or any(a != b for a, b in zip(s.shape, wanted)) for s in states
        ):  # torch's LSTM would not look
            raise UnsupportedProblem(
                "compile", f"states of a packed {kind} that are not [layers * directions, batch, hidden]",
                f"{list(wanted)}", "Pass states of that shape.",
            )  # fmt: skip
        y, *after = PACKED[kind](
            padded.values,
            padded.lengths,
            states,
            list(params),
            biased,
            layers,
            bidirectional,
            padded.batch_first,
            False,
        )
        return (self._rows(replace(padded, values=y, clear=True)), *after)

    def _pad(
        self, padded: _Padded, batch_first: bool, padding_value: float, total_length: int
    ) -> tuple[Tensor, Tensor]:
        values, lengths, steps = padded.ordered(bool(batch_first)), padded.lengths, padded.steps
        if isinstance(total_length, _Longest):
            if self._any_batch:  # another try leaves the batch as it is
                raise UnsupportedProblem(
                    "compile", "pad_packed_sequence without total_length for any number of sequences",
                    "total_length: the number of time steps of what was packed", "Pass total_length=x.shape[1].",
                )  # fmt: skip
            values = LONGEST(values, lengths, steps)
        if not padded.clear or padding_value != 0:
            time = torch.arange(steps, device=values.device)
            there = time[None] < lengths[:, None] if batch_first else time[:, None] < lengths[None]
            there = there.reshape(*there.shape, *[1] * (values.dim() - 2))
            values = torch.where(there, values, torch.full((), padding_value, dtype=values.dtype, device=values.device))
        if total_length > steps:
            behind = [0, 0] * (values.dim() - (2 if batch_first else 1)) + [0, total_length - steps]
            values = F.pad(values, behind, value=padding_value)
        return values, lengths


def _asked_by(function: Callable[..., Any]) -> bool:
    """Whether this function is what called torch."""
    frame, code = sys._getframe(2), function.__code__
    for _ in range(_FRAMES):
        if frame.f_code is code:
            return True
        if frame.f_back is None:
            return False
        frame = frame.f_back
    return False
