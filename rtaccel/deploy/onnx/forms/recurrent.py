"""LSTM, GRU and RNN: a node for each layer. Quantized weights are dequantized in front of them; states stay real numbers.

Sequences side by side in a sample are further ones of the batch: sample m, sequence b is number m * batch + b.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from rtaccel.core.stage import Stage
from rtaccel.deploy.onnx.forms.layers import weight_of
from rtaccel.deploy.onnx.registry import form
from rtaccel.deploy.onnx.writer import Writer
from rtaccel.kernels.recurrent.layout import Geometry, takes_lengths

_ORDER = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn_tanh": (0,), "rnn_relu": (0,)}
"""Of torch's gates, in the order of ONNX."""
_INT32 = 6


@form(*_ORDER)
def recurrent(w: Writer, stage: Stage) -> None:
    kind, g = stage.op, Geometry.of(stage.attrs)
    x, *states = stage.inputs
    lengths = ""
    if takes_lengths([value.dtype for value in stage.inputs]):
        lengths = w.node("Cast", w.shaped(w.real(states.pop(0)), -1), to=_INT32)
    given = w.real(x, lambda t: _time_first(w, t, g, x.width))
    starts = [_states_first(w, w.real(s), g) for s in states]
    ends: list[list[str]] = [[] for _ in range(2 if kind == "lstm" else 1)]
    sliced = (
        bool(lengths) or g.directions == 2
    )  # the state after all steps is the newest output of the first direction alone
    for layer in range(g.layers):
        suffixes = [f"_l{layer}" + ("_reverse" if d else "") for d in range(g.directions)]
        weights = [_stacked(w, [_gates(w, stage, f"weight_{p}{s}", kind) for s in suffixes]) for p in ("ih", "hh")]
        bias = _biases(w, stage, suffixes, kind)
        first = [_part(w, s, layer * g.directions, g.directions) for s in starts]
        inputs = [given, *weights, bias or "", lengths, *first]
        while not inputs[-1]:
            inputs.pop()
        extra: dict[str, Any] = {"linear_before_reset": 1} if kind == "gru" else {}
        name, _, function = kind.partition("_")
        if function:
            extra = {"activations": [function.capitalize()] * g.directions}
        made = w.node(
            name.upper(), *inputs, outputs=3 if kind == "lstm" else 2, hidden_size=g.hidden,
            direction="bidirectional" if g.directions == 2 else "forward", **extra,
        )  # fmt: skip
        y, *last = made
        for found, end in zip(ends, last):
            found.append(end)
        if layer + 1 < g.layers or not g.last_only or sliced:  # [T, D, M, H] -> [T, M, D * H]
            given = w.shaped(w.node("Transpose", y, perm=[0, 2, 1, 3]), 0, 0, g.directions * g.hidden)
    if g.last_only:  # 0 where a sequence is over before
        newest = _part(w, given, g.time - 1, 1) if sliced else ends[0][-1]
        out = w.shaped(newest, -1, g.batch * g.directions * g.hidden)
    else:
        out = _samples_first(w, given, g, g.directions * g.hidden)
    w.put(stage.outputs[0], w.as_value(out, stage.outputs[0]))
    for value, found in zip(stage.outputs[1:], ends):
        joined = found[0] if len(found) == 1 else w.node("Concat", *found, axis=0)
        w.put(value, w.as_value(_samples_first(w, joined, replace(g, batch_first=0), g.hidden), value))


def _time_first(w: Writer, x: str, g: Geometry, width: int) -> str:
    """[M, rows, K] -> [time, M * batch, K]."""
    if g.batch == 1:
        return w.node("Transpose", w.shaped(x, 0, g.time, width), perm=[1, 0, 2])
    rows = (g.batch, g.time) if g.batch_first else (g.time, g.batch)
    turned = w.node("Transpose", w.shaped(x, 0, *rows, width), perm=[2, 0, 1, 3] if g.batch_first else [1, 0, 2, 3])
    return w.shaped(turned, 0, -1, width)


def _states_first(w: Writer, x: str, g: Geometry) -> str:
    """[M, layers * directions * batch, H] -> [layers * directions, M * batch, H]."""
    return _time_first(w, x, replace(g, time=g.layers * g.directions, batch_first=0), g.hidden)


def _samples_first(w: Writer, x: str, g: Geometry, width: int) -> str:
    """[n, M * batch, N] -> [M, n, N], or [M, n, batch, N], or [M, batch, n, N] with batch_first."""
    if g.batch == 1:
        return w.node("Transpose", x, perm=[1, 0, 2])
    apart = w.shaped(x, 0, -1, g.batch, width)
    return w.node("Transpose", apart, perm=[1, 2, 0, 3] if g.batch_first else [1, 0, 2, 3])


def _gates(w: Writer, stage: Stage, name: str, kind: str) -> str:
    """A weight with the gates in the order of ONNX."""
    weight = weight_of(w, stage, name)
    return _reordered(w, weight, int(stage.attrs["hidden"]), kind)


def _reordered(w: Writer, x: str, hidden: int, kind: str) -> str:
    rows = np.concatenate([np.arange(hidden) + hidden * i for i in _ORDER[kind]])
    return w.node("Gather", x, w.constant(rows.astype(np.int64), "gates"), axis=0)


def _biases(w: Writer, stage: Stage, suffixes: list[str], kind: str) -> str | None:
    if f"bias_ih{suffixes[0]}" not in stage.tensors:
        return None
    rows = []
    for suffix in suffixes:
        parts = []
        for name in (f"bias_ih{suffix}", f"bias_hh{suffix}"):
            blocks = stage.tensors[name].detach().cpu().numpy().reshape(len(_ORDER[kind]), -1)
            parts.append(blocks[list(_ORDER[kind])].reshape(-1))
        rows.append(np.concatenate(parts))
    return w.constant(np.stack(rows), f"{stage.name}.bias{suffixes[0]}")


def _stacked(w: Writer, parts: list[str]) -> str:
    axis = w.constant(np.array([0], np.int64), "axes")
    apart = [w.node("Unsqueeze", part, axis) for part in parts]
    return apart[0] if len(apart) == 1 else w.node("Concat", *apart, axis=0)


def _part(w: Writer, x: str, start: int, count: int) -> str:
    ends = (w.constant(np.array([n], np.int64), "n") for n in (start, start + count, 0))
    return w.node("Slice", x, *ends)
