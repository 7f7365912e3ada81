"""What LSTM and GRU have in common: the layout of a stage, its folded numbers, its cost.

One stage is a whole module: all layers and directions. A sample has `time` time steps of `batch` streams (normally 1):

x [time * batch, K] and y [time * batch, directions * H], row t * batch + b, or b * time + t with batch_first;
y [batch, directions * H] with last_only, which is the row of the newest time step;
states [layers * directions * batch, H] float32, row (layer * directions + direction) * batch + b;
lengths [batch, 1] int64, behind x, where streams may have fewer time steps (kernels/recurrent/lengths.py). With
attrs["longest"] one of a sample has to be `time`.

tensors: torch's names weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0, ..._reverse; weight_ih [gates * H, inputs],
gates in torch's order. Biases may be absent. Weights of another format than float32:

int8   the same names, int8 in -127..127, and <name>_scale [gates * H]
int4   the same names, uint8 as rtaccel/formats/int4.py packs it, <name>_group_scale [gates * H, groups], attr group_size

With both, x is int8 with a static QParams, or float32 and quantized first, as the contract of `quantize` has it: with the
static attrs["x_scale"] and attrs["x_zero_point"] where they are there, else row by row (dynamic). h is
int8 with the static scale attrs["h_scale"] (1/127 unless calibrated: |h| < 1) and zero point 0. The int8 h of a layer is
the x of the next one.

attrs["layout"] says how a kernel is to pack float32 and int8 weights, which are stored the same either way: "dense", the
default, or "sparse", for those with many zeros. Quantized numbers are the same in both. Sparse float32 sums are in another
order, and a zero that is not stored cannot turn an infinity into NaN: a stream (a sample, one of its batch) with a NaN or
an infinity in x or its states then comes out as NaN, as it does with int8.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.core.registry import Cost
from rtaccel.core.stage import Problem, QParams, Stage
from rtaccel.core.weight_format import WeightFormat
from rtaccel.formats import int4, int8

MAX_K = 65_536
"""Inputs and hidden units of a quantized layer: int32 sums cannot overflow up to there."""

H_SCALE = 1 / 127
SIZES = ("hidden", "layers", "directions", "time", "batch", "batch_first", "last_only")


@dataclass(frozen=True)
class Geometry:
    hidden: int
    layers: int = 1
    directions: int = 1
    time: int = 1
    batch: int = 1
    batch_first: int = 0
    last_only: int = 0

    @classmethod
    def of(cls, attrs: Mapping[str, Any]) -> Geometry:
        return cls(**{name: int(attrs[name]) for name in SIZES if name in attrs})

    def suffixes(self) -> Iterator[tuple[int, int, str]]:
        """(layer, direction, suffix of torch's names), in the order of the states."""
        for layer in range(self.layers):
            for direction in range(self.directions):
                yield layer, direction, f"_l{layer}" + ("_reverse" if direction else "")

    def width(self, layer: int, inputs: int) -> int:
        return inputs if layer == 0 else self.directions * self.hidden

    def time_steps(self, x: Tensor) -> Tensor:
        """[M, time * batch, K] (or [M, K]) -> [time, M * batch, K]."""
        m, k = x.shape[0], x.shape[-1]
        if self.batch_first:
            parts = x.reshape(m, self.batch, self.time, k).permute(2, 0, 1, 3)
        else:
            parts = x.reshape(m, self.time, self.batch, k).permute(1, 0, 2, 3)
        return parts.reshape(self.time, m * self.batch, k)

    def rows(self, y: Tensor, shape: tuple[int, ...]) -> Tensor:
        """[time_steps, M * batch, N] -> [M, *shape], the opposite of `time_steps`."""
        parts = y.reshape(y.shape[0], -1, self.batch, y.shape[2])
        parts = parts.permute(1, 2, 0, 3) if self.batch_first else parts.permute(1, 0, 2, 3)
        return parts.reshape(-1, *shape)

    def streams(self, state: Tensor) -> Tensor:
        """[M, layers * directions * batch, H] -> [layers * directions, M * batch, H]."""
        parts = state.reshape(state.shape[0], self.layers * self.directions, self.batch, self.hidden)
        return parts.transpose(0, 1).reshape(self.layers * self.directions, -1, self.hidden)

    def states(self, streams: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The opposite of `streams`."""
        parts = streams.reshape(self.layers * self.directions, -1, self.batch, self.hidden)
        return parts.transpose(0, 1).reshape(-1, *shape)


def takes_lengths(dtypes: Sequence[str]) -> bool:
    """Whether inputs of these dtypes are x, lengths and maybe states."""
    return len(dtypes) > 1 and dtypes[1] == "int64"


def quantized(stage: Stage) -> bool:
    found = stage.weight_format
    return found is not None and found.integer


def sparse(stage: Stage) -> bool:
    """Whether kernels are to leave the zeros of its weights out."""
    return bool(stage.attrs.get("layout", "dense") == "sparse")


def h_scale(stage: Stage) -> float:
    return float(_float32(stage.attrs.get("h_scale", H_SCALE)))


def _float32(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float32, device="cpu")


def _check(stage: Stage, states: int) -> Geometry:
    geometry = Geometry.of(stage.attrs)
    x, y, given = stage.inputs[0], stage.outputs[0], stage.inputs[1:]
    lengths, given = (given[:1], given[1:]) if takes_lengths([v.dtype for v in stage.inputs]) else ((), given)
    sequence = geometry.time * geometry.batch
    shape = (geometry.layers * geometry.directions * geometry.batch, geometry.hidden)
    wanted = [
        (x, (sequence, x.width), "x"),
        (y, (geometry.batch if geometry.last_only else sequence, geometry.directions * geometry.hidden), "y"),
        *((v, (geometry.batch, 1), "lengths") for v in lengths),
        *((v, shape, "a state") for v in (*given, *stage.outputs[1:])),
    ]
    for value, (steps, width), what in wanted:
        if (value.steps, value.width) != (steps, width):
            raise UnsupportedProblem(
                stage.op, f"{what} of {value.steps} rows by {value.width}", f"{steps} by {width}", "See its attributes."
            )
    if len(given) not in (0, states) or len(stage.outputs) not in (1, 1 + states):
        raise UnsupportedProblem(stage.op, f"{len(given)} states", f"0 or {states}", "Pass all states or none.")
    return geometry


def lower(stage: Stage, sigmoid_gates: tuple[bool, ...]) -> dict[str, Any]:
    """Folded numbers of all layers. sigmoid_gates: for each gate, whether it is a sigmoid.

    sigmoid(t) = (1 + tanh(t / 2)) / 2: with int8 and int4 weights the 1/2 inside is in the multipliers, or the group
    scales, and the bias; a power of two, so exact. A static zero point of x is in the compensation of int8 sums, and in
    the bias with int4 weights. A GRU (3 gates) has its fourth bias apart, as bias_n: that of h in the new gate.
    """
    gates = len(sigmoid_gates)
    geometry = _check(stage, 2 if gates == 4 else 1)
    x, y = stage.inputs[0], stage.outputs[0]
    low: dict[str, Any] = {name: getattr(geometry, name) for name in SIZES}
    if stage.attrs.get("longest"):
        low["longest"] = 1
    low["layout"] = stage.attrs.get("layout", "dense")
    integer = quantized(stage)
    factor = torch.tensor(
        [0.5 if half and integer else 1.0 for half in sigmoid_gates], device="cpu", dtype=torch.float32
    )
    factor = factor.repeat_interleave(geometry.hidden).to(
        stage.tensors[f"weight_ih{next(geometry.suffixes())[2]}"].device
    )
    if integer:
        if max(x.width, geometry.directions * geometry.hidden) > MAX_K:
            raise UnsupportedProblem(
                stage.op, f"{x.width} inputs, {geometry.hidden} units", f"at most {MAX_K}", "Keep the layer float32."
            )
        scale = h_scale(stage)
        if not 2.0**-20 < scale < 2.0**20:
            raise FormatError(stage.op, f"h_scale = {scale}", "a scale above 2^-20", "Calibrate it or leave it out.")
        low["h_inv_scale"] = int8.inverse_scale(QParams(scale, 0))
        quant = x.quant
        if x.dtype == "float32" and "x_scale" in stage.attrs:
            quant = QParams(float(stage.attrs["x_scale"]), int(stage.attrs["x_zero_point"]))
        low["dynamic"] = int(quant is None)
        low["x_inv_scale"] = int8.inverse_scale(quant) if quant and x.dtype == "float32" else 0.0
        low["x_zero_point"] = quant.zero_point if quant else 0
        low["y_inv_scale"] = 1.0 if y.quant is None else int8.inverse_scale(y.quant)
        low["y_zero_point"] = 0 if y.quant is None else y.quant.zero_point
        low["group_size"] = int(stage.attrs.get("group_size", 0))
    for layer, _, suffix in geometry.suffixes():
        bias = [
            stage.tensors.get(f"bias_{which}{suffix}", factor.new_zeros(gates * geometry.hidden))
            for which in ("ih", "hh")
        ]
        total = bias[0] + bias[1]
        if gates == 3:
            total[2 * geometry.hidden :] = bias[0][2 * geometry.hidden :]
            low[f"bias_n{suffix}"] = bias[1][2 * geometry.hidden :].clone()
        if layer == 0 and stage.weight_format is WeightFormat.INT4 and low["x_zero_point"]:
            total = total - _zero_point_part(stage, f"weight_ih{suffix}", quant)
        low[f"bias{suffix}"] = total * factor
        for which in ("ih", "hh"):
            name = f"weight_{which}{suffix}"
            low[name] = stage.tensors[name]
            if not integer:
                continue
            activation = _float32(scale)
            if which == "ih" and layer == 0:
                activation = _float32(quant.scale if quant else 1.0)
            if stage.weight_format is WeightFormat.INT8:
                low[f"{name}_multiplier"] = stage.tensors[f"{name}_scale"] * activation * factor
            else:
                low[f"{name}_group_scale"] = stage.tensors[f"{name}_group_scale"] * factor[:, None]
                low[f"{name}_multiplier"] = float(activation)
    return low


def _zero_point_part(stage: Stage, name: str, quant: QParams) -> Tensor:
    """What a static zero point of x adds to every sum of int4 weights: scale * zero_point * sum_k weight."""
    weight = int4.dequantize(
        stage.tensors[name], stage.tensors[f"{name}_group_scale"], stage.inputs[0].width, stage.attrs["group_size"]
    )
    return (weight.sum(1) * (quant.scale * quant.zero_point)).float()


def cost(problem: Problem, gates: int) -> Cost:
    """Every weight once a time step, whatever the cache keeps of them; all of them once for the bytes."""
    g = Geometry.of(problem.attrs)
    inputs = [g.width(layer, problem.in_widths[0]) for layer in range(g.layers)]
    weights = g.directions * gates * g.hidden * sum(k + g.hidden for k in inputs)
    bits = (problem.weight_format or WeightFormat.FLOAT32).bits
    size = {"float32": 4, "int8": 1}
    moved = weights * bits // 8 + problem.rows * (
        g.time * g.batch * problem.in_widths[0] * size[problem.in_dtypes[0]]
        + problem.matrix_rows * problem.out_widths[0] * size[problem.out_dtypes[0]]
    )
    return Cost(bytes=moved, flops=2 * weights * problem.rows * g.time * g.batch)
