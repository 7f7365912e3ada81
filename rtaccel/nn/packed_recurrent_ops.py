"""Recurrent layers over sequences of several lengths, as calls in a graph.

packed_lstm(input, lengths, hx, params, has_biases, num_layers, bidirectional, batch_first, longest) -> (y, hn, cn)
packed_gru, packed_rnn_tanh, packed_rnn_relu(input, lengths, hx, ...) -> (y, hn)
    input: [T, B, K], or [B, T, K] with batch_first; lengths [B] int64, 1 to T; hx: the states before, as torch's `lstm` and `gru`
    take them, in a list. y is 0 behind the last time step of a sequence, and the states are those after it. longest: one of
    the lengths has to be T.
longest(y, lengths, time_steps) -> y: says that one of the lengths is `time_steps`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rtaccel.kernels.recurrent.lengths import by_torch

_library = torch.library.Library("rtaccel", "FRAGMENT")
_TAIL = "Tensor[] params, bool has_biases, int num_layers, bool bidirectional, bool batch_first, bool longest"


def _compute(kind: str, x: Tensor, lengths: Tensor, hx: Sequence[Tensor], params: Sequence[Tensor], biased: bool,
             layers: int, bidirectional: bool, batch_first: bool, longest: bool) -> tuple[Tensor, ...]:  # fmt: skip
    if longest:
        _check_longest(lengths, x.shape[1 if batch_first else 0])
    return by_torch(kind, x, lengths, hx, params, biased, layers, bidirectional, batch_first)


def _fake(kind: str, x: Tensor, lengths: Tensor, hx: Sequence[Tensor], params: Sequence[Tensor], biased: bool,
          layers: int, bidirectional: bool, batch_first: bool, longest: bool) -> tuple[Tensor, ...]:  # fmt: skip
    width = hx[0].shape[2] * (2 if bidirectional else 1)
    return x.new_empty((*x.shape[:2], width)), *(s.new_empty(s.shape) for s in hx)


def _define(kind: str, states: int) -> tuple[str, Any]:
    name = f"packed_{kind}"
    _library.define(
        f"{name}(Tensor input, Tensor lengths, Tensor[] hx, {_TAIL}) -> ({', '.join(['Tensor'] * (1 + states))})"
    )

    def compute(*args: Any) -> tuple[Tensor, ...]:
        return _compute(kind, *args)

    def fake(*args: Any) -> tuple[Tensor, ...]:
        return _fake(kind, *args)

    _library.impl(name, compute, "CompositeExplicitAutograd")
    torch.library.register_fake(f"rtaccel::{name}", fake, lib=_library)
    return kind, getattr(torch.ops.rtaccel, name).default


PACKED: Mapping[str, Any] = dict(
    [_define("lstm", 2), _define("gru", 1), _define("rnn_tanh", 1), _define("rnn_relu", 1)]
)
"""By the name of torch's call."""

_library.define("longest(Tensor y, Tensor lengths, int time_steps) -> Tensor")


def _check_longest(lengths: Tensor, time_steps: int) -> None:
    if int(lengths.max()) != time_steps:
        raise ValueError(f"the longest of {lengths.tolist()} is not {time_steps}")


def _longest(y: Tensor, lengths: Tensor, time_steps: int) -> Tensor:
    _check_longest(lengths, time_steps)
    return y.clone()


def _longest_fake(y: Tensor, lengths: Tensor, time_steps: int) -> Tensor:
    return torch.empty_like(y)


_library.impl("longest", _longest, "CompositeExplicitAutograd")
torch.library.register_fake("rtaccel::longest", _longest_fake, lib=_library)
LONGEST: Any = torch.ops.rtaccel.longest.default
