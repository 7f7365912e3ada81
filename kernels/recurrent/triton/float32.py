"""Recurrent layers in float32 in Triton: for each layer one product of all time steps with x, and one launch through time.

Products with x do not wait for each other, so they are a linear layer over the whole window (linear/triton/float32.py), with the
bias. What is left for a time step is h. One program has a stream in one direction:

    held    weights of h stay in registers, up to 128 in each of 256 threads; h goes from sums to factors through shared memory
    read    they are read again in each time step, from L1 or L2, and h comes from memory, behind a barrier of the program

    alone   each time step is a launch of its own, whose units are shared out among programs: a step by itself, and windows whose
            weights of h are more than an L1 holds

Without states the first step has no product with h. Sums are float32; nothing goes through tensor cores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import triton
from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.core.weight_format import WeightFormat
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_spec import Specialisation, Tiling, leave_out, power_of_two
from rtaccel.kernels.recurrent import cases
from rtaccel.kernels.recurrent.layout import Geometry, takes_lengths
from rtaccel.kernels.recurrent.triton.float32_kernels import held_kernel, read_kernel
from rtaccel.kernels.recurrent.triton.stack import InPlace, check_lengths, states_over

MAX_HELD = 128 * 256
"""Weights of h in registers, padded to powers of two."""

MAX_READ_BYTES = 256 * 1024
"""Bytes of weights of h that one program reads again in each time step: some 2 us of an H100's L2, about what a launch takes. Not
measured."""

MAX_HIDDEN = 16384

MAX_LAUNCHES = 4096
"""Time steps of a window that are launches of their own."""

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


States = dict[str, Tensor]

Product = Callable[[int, int, int], Specialisation]
"""Rows, outputs and inputs -> the form of a float32 linear layer; it is an operator's, and those are above this folder."""


@dataclass(frozen=True)
class LayerForm:
    """Of a stage: which layer; whether states come with it (given), and go out of it (kept); whether streams have lengths, and
    one of a sample all time steps (longest)."""

    op: str
    geometry: Geometry
    index: int
    given: bool
    kept: bool
    lengths: bool = False
    longest: bool = False

    @property
    def form(self) -> str:
        """Of the three above."""
        g, gates = self.geometry, GATES[self.op]
        block = power_of_two(g.hidden, 16, 1 << 20)
        if g.time == 1:
            return "alone"
        if gates * block * block <= MAX_HELD:
            return "held"
        return "alone" if 4 * gates * g.hidden**2 > MAX_READ_BYTES and g.time <= MAX_LAUNCHES else "read"

    @property
    def last_only(self) -> bool:
        return bool(self.geometry.last_only) and self.index == self.geometry.layers - 1


ThroughOf = Callable[[LayerForm, Mapping[str, Tensor]], "Through"]
"""A layer and its weights (`_weights`) -> what goes through time."""


def specialize(layer: LayerForm) -> Specialisation:
    """The launch that goes through time. Not measured on a card."""
    op, g = layer.op, layer.geometry
    gates, h = GATES[op], g.hidden
    block, form = power_of_two(h, 16, 1 << 20), layer.form
    held, alone = form == "held", form == "alone"
    pointers = ["gx_ptr", "w_ptr", "bias_n_ptr", "counts_ptr", "h0_ptr", "c0_ptr", "y_ptr", "hn_ptr", "cn_ptr"]
    pointers += [] if held else ["work_ptr"]
    long = op == "lstm"
    types = {**dict.fromkeys(pointers, "*fp32"), "counts_ptr": "*i64", **({} if held else {"now": "i32"})}
    used = {"bias_n_ptr": op == "gru", "counts_ptr": layer.lengths,
            "h0_ptr": layer.given, "c0_ptr": layer.given and long, "hn_ptr": layer.kept,
            "cn_ptr": layer.kept and long, **({} if held else {"work_ptr": not alone})}  # fmt: skip
    signature, absent = leave_out(types, **used)
    if held:
        tile = Tiling(1, block, block, num_warps=power_of_two(gates * block * block // 2048, 1, 8))
        blocks = {"BLOCK": block}
    else:
        tile = Tiling(1, 8 if alone else 16, power_of_two(h, 32, 128), num_warps=4 if alone else 8)
        blocks = {"BLOCK_U": tile.block_n, "BLOCK_K": tile.block_k, "ALONE": alone}
    extras = "".join(
        f"_{word}" for word in ("given", "kept", "last_only", "lengths", "longest") if getattr(layer, word)
    )
    sizes = f"T{g.time}_B{g.batch}_H{h}_L{g.layers}_D{g.directions}{'_first' if g.batch_first else ''}{extras}_{layer.index}"
    return Specialisation(
        name=f"{op}_float32_{form}_{sizes}",
        kernel=held_kernel if held else read_kernel,
        signature=signature,
        constants={
            "KIND": op, "GATES": gates, "H": h, "T": g.time, "B": g.batch, "D": g.directions, "BATCH_FIRST": bool(g.batch_first),
            "LONGEST": layer.longest,
            "LAST": layer.last_only, "STATE_ROWS": g.layers * g.directions, "STATE_FIRST": layer.index * g.directions,
            **blocks, **absent,
        },
        tiling=tile,
    )  # fmt: skip


def forms_of(problem: Problem) -> list[LayerForm]:
    """Those of its layers."""
    g, counted = Geometry.of(problem.attrs), takes_lengths(problem.in_dtypes)
    given, kept = len(problem.in_widths) > 1 + counted, len(problem.out_dtypes) > 1
    longest = bool(problem.attrs.get("longest"))
    return [LayerForm(problem.op, g, i, given, kept, counted, longest) for i in range(g.layers)]


def supports(problem: Problem) -> str | None:
    if problem.weight_format is not WeightFormat.FLOAT32:
        return f"computes float32 weights, not {problem.weight_format}"
    if problem.attrs.get("layout", "dense") != "dense":
        return "computes dense weights"
    if problem.in_dtypes[0] != "float32" or problem.out_dtypes[0] != "float32":
        return "reads and gives float32"
    hidden = int(problem.attrs["hidden"])
    if hidden > MAX_HIDDEN:
        return f"numbers weights of h in 32 bits, at most {MAX_HIDDEN} units, not {hidden}"
    return None


def _weights(low: Mapping[str, Any], g: Geometry, index: int, device: str) -> dict[str, Tensor]:
    """Of a layer, its directions one behind the other: w_x [D * gates * H, inputs], w_h, bias and, of a GRU, bias_n [D * H]."""
    suffixes = [suffix for layer, _, suffix in g.suffixes() if layer == index]
    names = {"w_x": "weight_ih", "w_h": "weight_hh", "bias": "bias", "bias_n": "bias_n"}
    parts = {own: [low[f"{name}{s}"] for s in suffixes if f"{name}{s}" in low] for own, name in names.items()}
    return {own: torch.cat(found).float().contiguous().to(device) for own, found in parts.items() if found}


class Through(Protocol):
    """The launches of a layer that go through time, prepared. fixed: gx, the products with x of all time steps, [rows, D, gates *
    H], and what else they read and write in each step. before and after: of all layers, h and, of an LSTM, c."""

    def __call__(self, m: int, fixed: dict[str, Tensor], before: States, after: States) -> None: ...


class _Steps:
    """Of Triton: in one of the three forms."""

    def __init__(self, layer: LayerForm, own: Mapping[str, Tensor]) -> None:
        self._layer, self._weights = layer, {f"{name}_ptr": own[name] for name in ("bias_n",) if name in own}
        self._weights["w_ptr"] = own["w_h"]
        # A step alone hands its states on to the next one.
        apart = layer.form == "alone" and layer.geometry.time > 1
        self._first = specialize(replace(layer, kept=True) if apart else layer)
        later = specialize(replace(layer, kept=True, given=True)) if apart else self._first
        self._through, self._later = bind(self._first), bind(later)

    def __call__(self, m: int, fixed: dict[str, Tensor], before: States, after: States) -> None:
        layer, g = self._layer, self._layer.geometry
        fixed, grid = {**fixed, **self._weights}, (m * g.batch, g.directions)
        if layer.form == "held":
            self._through(grid, **fixed, **before, **after)
        elif layer.form == "read":
            work = numbers(4 * m * g.batch * g.directions * g.hidden, fixed["gx_ptr"])
            self._through(grid, **fixed, **before, **after, work_ptr=work, now=0)
        else:
            self._one_by_one((*grid, triton.cdiv(g.hidden, self._first.tiling.block_n)), fixed, m, before, after)

    def _one_by_one(
        self, grid: tuple[int, ...], fixed: dict[str, Tensor], m: int, before: States, after: States
    ) -> None:
        g = self._layer.geometry
        names = ("hn_ptr", "cn_ptr")[: 2 if self._layer.op == "lstm" else 1]
        size = g.layers * m * g.batch * g.directions * g.hidden
        passed = [{name: numbers(size, fixed["gx_ptr"]) for name in names} for _ in range(2 if g.time > 1 else 0)]
        for t in range(g.time):
            kept = after if t == g.time - 1 and (after or not passed) else passed[t % 2]
            (self._later if t else self._through)(grid, **fixed, **before, **kept, now=t)
            before = {name.replace("n_", "0_"): state for name, state in kept.items()}


class _Layer:
    """One layer, prepared."""

    def __init__(
        self,
        layer: LayerForm,
        product: Product,
        through: ThroughOf,
        rows: int,
        inputs: int,
        low: Mapping[str, Any],
        device: str,
    ) -> None:
        g = layer.geometry
        self._geometry, self._width = g, g.directions * g.hidden
        self._gates = GATES[layer.op] * self._width
        self._product = product(rows, self._gates, g.width(layer.index, inputs))
        self._multiply = bind(self._product)
        own = _weights(low, g, layer.index, device)
        self._through = through(layer, own)
        self._of_x = {"weight_ptr": own["w_x"], "bias_ptr": own["bias"]}

    def __call__(
        self, x: Tensor, m: int, y: Tensor | None, counts: Tensor | None, before: States, after: States
    ) -> Tensor:
        """y [rows, D * H], written where it is given."""
        g, tile = self._geometry, self._product.tiling
        lines = m * g.time * g.batch
        gx = numbers(lines * self._gates, x)
        self._multiply(
            (triton.cdiv(lines, tile.block_m), triton.cdiv(self._gates, tile.block_n)), x_ptr=x, **self._of_x, y_ptr=gx,
            parameter=0.0, rows=lines,
        )  # fmt: skip
        made = numbers(lines * self._width, x) if y is None else y
        fixed = {"gx_ptr": gx, "y_ptr": made, **({} if counts is None else {"counts_ptr": counts})}
        self._through(m, fixed, before, after)
        return made


def numbers(count: int, like: Tensor) -> Tensor:
    return torch.empty(count, dtype=torch.float32, device=like.device)


def prepare(
    lower: Callable[[Stage], Mapping[str, Any]],
    product: Product,
    through: Callable[[Problem], ThroughOf] = lambda _: _Steps,
) -> Callable[[Stage, Problem], Prepared]:
    """The `prepare` of an operator. The kernels take any number of samples. through: what goes through time, of a problem."""

    def prepare_stage(stage: Stage, problem: Problem) -> Prepared:
        low, g, made = lower(stage), Geometry.of(stage.attrs), forms_of(problem)
        rows, counted, steps = problem.rows * g.time * g.batch, made[0].lengths, through(problem)
        layers = [_Layer(layer, product, steps, rows, stage.inputs[0].width, low, problem.device) for layer in made]

        def run(outputs: Sequence[Tensor], *inputs: Tensor) -> None:
            x, *states = inputs
            counts = states.pop(0) if counted else None
            check_lengths(stage, inputs)
            m = x.shape[0]
            before, after = dict(zip(("h0_ptr", "c0_ptr"), states)), dict(zip(("hn_ptr", "cn_ptr"), outputs[1:]))
            for i, layer in enumerate(layers if m else ()):
                x = layer(x, m, outputs[0] if i == g.layers - 1 else None, counts, before, after)

        # The programs of a time step alone each read all of h, and of c their own units.
        of_c = {place: at for place, at in states_over(stage, counted).items() if place == 2}
        return InPlace(stage, run, of_c if g.time == 1 else {})

    return prepare_stage


def example(op: str, geometry: Geometry, k: int, counted: bool = False) -> Specialisation:
    """The form of the first layer of a stage with states, for what is only compiled. counted: streams have lengths."""
    stage = cases.make_stage(op, GATES[op], geometry, k, lengths=counted)
    Problem.of(stage, 1, "cuda")
    return specialize(LayerForm(op, geometry, 0, given=True, kept=True, lengths=counted))


def register(op: str, lower: Callable[[Stage], Mapping[str, Any]], product: Product) -> None:
    """`triton_float32` of an operator."""
    register_impl(Impl(op, "triton_float32", "triton", 10, supports, prepare(lower, product)))
