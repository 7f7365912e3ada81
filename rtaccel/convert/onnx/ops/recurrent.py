"""LSTM, GRU and RNN: torch's own where it has the form, else their time steps one after the other.

ONNX keeps the gates of an LSTM in the order i, o, f, c, torch in i, f, c, o; of a GRU in z, r, h, torch in r, z, n, and z mixes
the same way. What is constant is brought into torch's order once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rtaccel.convert.onnx import numbers as n
from rtaccel.convert.onnx.table import op
from rtaccel.core.errors import UnsupportedProblem
from rtaccel.nn.packed_recurrent_ops import PACKED

_ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
_DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}


def _reordered(weight: Tensor, kind: str) -> Tensor:
    blocks = weight.chunk(len(_ORDER[kind]), 0)
    return torch.cat([blocks[i] for i in _ORDER[kind]], 0)


def gates_of(weight: Tensor, *, kind: str, direction: int) -> Tensor:
    """[directions, gates * H, columns] -> torch's weight of a direction."""
    return _reordered(weight[direction], kind)


def bias_of(bias: Tensor, *, kind: str, direction: int, recurrent: bool) -> Tensor:
    """[directions, 2 * gates * H] -> torch's bias_ih or bias_hh."""
    half = bias.shape[1] // 2
    part = bias[direction, half:] if recurrent else bias[direction, :half]
    return _reordered(part, kind)


def whole_windows(x: Tensor, lengths: n.Numbers, *, time: int) -> Tensor:
    """The input itself, where every sequence is as long as the window: a shorter one has no form in torch's calls."""
    steps = x.shape[time]
    if any(length != steps for length in n.ints(lengths)):
        raise UnsupportedProblem(
            "from_onnx", f"sequence_lens of {n.ints(lengths)[:4]} in a window of {steps}", "whole windows",
            "Cut the sequences before the call.",
        )  # fmt: skip
    return x


def reversed_time(x: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Of [T, B, ..], or of the first `lengths` time steps of each sequence."""
    if lengths is None:
        return x.flip(0)
    steps = torch.arange(x.shape[0], device=x.device)[:, None]
    place = torch.where(steps < lengths, lengths.to(torch.int64) - 1 - steps, steps)
    return x.gather(0, place.reshape(*place.shape, *[1] * (x.dim() - 2)).expand(x.shape))


def batch_first(x: Tensor) -> Tensor:
    return x.transpose(0, 1)


def with_directions(y: Tensor, *, directions: int, layout: int) -> Tensor:
    """[T, B, D * H] -> [T, D, B, H], or [B, T, D, H]."""
    steps, batch, width = y.shape
    apart = y.reshape(steps, batch, directions, width // directions)
    return apart.permute(1, 0, 2, 3) if layout else apart.transpose(1, 2)


def layer(
    x: Tensor, lengths: Tensor | None, *given: Tensor | None, kind: str, states: int, biased: bool, directions: int
) -> Any:
    """torch's own of a kind; given: its states before, None for zeros, and its weights. lengths: of the sequences in x."""
    weights = [w for w in given[states:] if w is not None]
    zeros = torch.zeros((directions, x.shape[1], weights[1].shape[1]), dtype=x.dtype)
    hx = [zeros if h is None else h for h in given[:states]]
    if lengths is not None:
        return PACKED[kind](x, lengths.to(torch.int64), hx, weights, biased, 1, directions == 2, False, False)
    start = hx if states == 2 else hx[0]
    return getattr(torch, kind)(x, start, weights, biased, 1, 0.0, False, directions == 2, False)


def gru_reset_before(
    x: Tensor, h: Tensor | None, w: Tensor, r: Tensor, b_w: Tensor | None = None, b_r: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A direction of a GRU that resets the state before its product (linear_before_reset=0), in torch's order of gates."""
    hidden, linear = r.shape[1], torch.nn.functional.linear
    state = torch.zeros((x.shape[1], hidden), dtype=x.dtype) if h is None else h
    gates = linear(x, w, b_w)
    r_both, r_new = r[: 2 * hidden], r[2 * hidden :]
    b_both, b_new = (None, None) if b_r is None else (b_r[: 2 * hidden], b_r[2 * hidden :])
    made = []
    for t in range(x.shape[0]):
        both = torch.sigmoid(gates[t, :, : 2 * hidden] + linear(state, r_both, b_both))
        reset, keep = both[:, :hidden], both[:, hidden:]
        new = torch.tanh(gates[t, :, 2 * hidden :] + linear(reset * state, r_new, b_new))
        state = (1 - keep) * new + keep * state
        made.append(state)
    return torch.stack(made), state


def state_of(h: Tensor, *, direction: int) -> Tensor:
    return h[direction]


def side_by_side(*parts: Tensor) -> Tensor:
    return torch.cat(parts, -1)


def stacked(*parts: Tensor) -> Tensor:
    return torch.stack(parts, 0)


def item(values: Any, *, index: int) -> Any:
    return values[index]


def _refused(build: Any, kind: str, clip: float | None, activations: Sequence[str] | None, directions: int) -> bool:
    """Says what no form has; whether an RNN is one with relu."""
    if clip:
        build.refuse(f"clips its gates (clip={clip}), which torch's {kind} does not")
    named = tuple(a.lower() for a in activations or ())
    if not named:
        return False
    default = tuple(a.lower() for a in _DEFAULTS[kind]) * directions
    if kind == "RNN" and named == ("relu",) * directions:
        return True
    if named != default:
        build.refuse(f"has activations {', '.join(activations or ())}; torch's {kind} has {', '.join(_DEFAULTS[kind])}")
    return False


@op("LSTM", "GRU", "RNN", builds=True)
def recurrent(
    build: Any, x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h: Any = None, c: Any = None, p: Any = None, *,
    hidden_size: int | None = None, direction: str = "forward", activations: Any = None, activation_alpha: Any = None,
    activation_beta: Any = None, clip: float | None = None, input_forget: int = 0, layout: int = 0,
    linear_before_reset: int = 0, output_sequence: int = 0,
) -> Any:  # fmt: skip
    kind = build.node.op_type
    directions = 2 if direction == "bidirectional" else 1
    relu = _refused(build, kind, clip, activations, directions)
    if input_forget:
        build.refuse("couples its input and forget gates (input_forget=1), which torch's LSTM does not")
    if p is not None and (build.known(p) is None or build.known(p).any()):
        build.refuse("has peepholes, which torch's LSTM has not")
    if lengths is not None and build.known(lengths) is not None:
        x, lengths = build.call(whole_windows, x, build.numbers(lengths, 4), time=1 if layout else 0), None
    h, c = (None if s is None or build.is_zero(s) else s for s in (h, c))  # zeros are torch's own, of any batch
    if layout:
        x = build.call(batch_first, x)
        h, c = (None if s is None else build.call(batch_first, s) for s in (h, c))
    flipped = direction == "reverse"
    x = build.call(reversed_time, x, lengths) if flipped else x
    weights = []
    for d in range(directions):
        own = [build.call(gates_of, w, kind=kind, direction=d), build.call(gates_of, r, kind=kind, direction=d)]
        if b is not None:
            own += [build.call(bias_of, b, kind=kind, direction=d, recurrent=part) for part in (False, True)]
        weights.append(own)
    flat = [tensor for own in weights for tensor in own]
    biased = b is not None
    if kind == "GRU" and not linear_before_reset:
        if lengths is not None:
            build.refuse(
                "has lengths that are computed, and resets its state before the product (linear_before_reset=0)"
            )
        made = _gru_steps(build, x, h, weights, directions)
    else:
        name = {"LSTM": "lstm", "GRU": "gru"}.get(kind, "rnn_relu" if relu else "rnn_tanh")
        before = [h, c] if kind == "LSTM" else [h]
        made = build.call(
            layer, x, lengths, *before, *flat, kind=name, states=len(before), biased=biased, directions=directions
        )
    y, *states = (build.call(item, made, index=i) for i in range(3 if kind == "LSTM" else 2))
    y = build.call(reversed_time, y, lengths) if flipped else y
    if layout:
        states = [build.call(batch_first, s) for s in states]
    return (build.call(with_directions, y, directions=directions, layout=layout), *states)


def pair(*parts: Any) -> tuple[Any, ...]:
    return parts


def _gru_steps(build: Any, x: Any, h: Any, weights: list[list[Any]], directions: int) -> Any:
    """Both directions of a GRU that resets before its product."""
    outs, ends = [], []
    for d, own in enumerate(weights):
        source = build.call(reversed_time, x) if d else x
        start = None if h is None else build.call(state_of, h, direction=d)
        made = build.call(gru_reset_before, source, start, *own)
        out, end = build.call(item, made, index=0), build.call(item, made, index=1)
        outs.append(build.call(reversed_time, out) if d else out)
        ends.append(end)
    return build.call(pair, build.call(side_by_side, *outs), build.call(stacked, *ends))
