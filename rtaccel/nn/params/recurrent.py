"""The numbers of a quantized LSTM or GRU: what a state dict stores, what they must look like, and the plans they make.

For every layer and direction, with torch's suffix (_l0, _l0_reverse, ...), G = 4 gates of an LSTM or 3 of a GRU:

qweight_ih, qweight_hh  int8 [G * H, K] in -127..127, and weight_.._scale float32 [G * H]; or int4, packed in
                        uint8 [G * H, (K + 1) // 2], and weight_.._group_scale float32 [G * H, groups]
bias_ih, bias_hh        float32 [G * H], or none of them

h_scale float32 [], the step of the int8 h; static inputs add input_scale float32 [] and input_zero_point int32 [].
Computed as in the contracts of `lstm` and `gru`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rtaccel.backends.cuda_streams import on_gpu_of
from rtaccel.core.errors import FormatError, ShapeError, UnsupportedProblem
from rtaccel.core.registry import operator
from rtaccel.core.stage import GraphIO, QParams, Stage, Value
from rtaccel.core.traits import Recurrence
from rtaccel.formats import int4, int8
from rtaccel.formats.int8 import require_finite
from rtaccel.kernels.recurrent.layout import H_SCALE, MAX_K, Geometry
from rtaccel.nn.check import copied, dense, describe
from rtaccel.plan.choose import Choice
from rtaccel.plan.group import Executable, Subgraph, plan_group
from rtaccel.plan.sparse_recurrent import could_be_sparse, fastest

MIN_SCALE = 2.0**-20
"""Of h_scale: |h| < 1 then stays within the numbers that a conversion to int32 takes. And of any other scale 2^-126."""

MAX_PLANS = 8
"""Plans kept of one layer, for the lengths and batches it was called with last; each has its own packed weights."""


@dataclass(frozen=True)
class Sizes:
    """kind: "lstm" or "gru". static: x is int8 with a static scale; else it is quantized row by row. group_size: of int4
    weights, 0 for int8 ones."""

    kind: str
    input_size: int
    hidden_size: int
    num_layers: int = 1
    bidirectional: bool = False
    bias: bool = True
    static: bool = False
    group_size: int = 0

    @property
    def recurrence(self) -> Recurrence:
        found = operator(self.kind).recurrence
        assert found is not None
        return found

    @property
    def gates(self) -> int:
        return self.recurrence.gates

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    def geometry(self, time: int = 1, batch: int = 1, batch_first: bool = False) -> Geometry:
        return Geometry(self.hidden_size, self.num_layers, self.directions, time, batch, int(batch_first))

    def matrices(self) -> dict[str, tuple[int, int]]:
        """Name and shape of every weight."""
        rows, geometry = self.gates * self.hidden_size, self.geometry()
        found = {}
        for layer, _, suffix in geometry.suffixes():
            found[f"weight_ih{suffix}"] = (rows, geometry.width(layer, self.input_size))
            found[f"weight_hh{suffix}"] = (rows, self.hidden_size)
        return found

    def layout(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Name, dtype and shape of every tensor, in the order in which ops take them."""
        found: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        for name, (rows, columns) in self.matrices().items():
            if self.group_size:
                found[f"q{name}"] = (int4.DTYPE, (rows, int4.row_bytes(columns)))
                found[f"{name}_group_scale"] = (torch.float32, (rows, int4.group_count(columns, self.group_size)))
            else:
                found[f"q{name}"] = (torch.int8, (rows, columns))
                found[f"{name}_scale"] = (torch.float32, (rows,))
            if self.bias:
                found[name.replace("weight", "bias")] = (torch.float32, (rows,))
        found["h_scale"] = (torch.float32, ())
        if self.static:
            found["input_scale"] = (torch.float32, ())
            found["input_zero_point"] = (torch.int32, ())
        return found

    def check(self, op: str) -> None:
        """Raises UnsupportedProblem for a layer without units, or too wide for int32 sums."""
        sizes = (self.input_size, self.hidden_size, self.num_layers)
        if min(sizes) < 1:
            raise UnsupportedProblem(op, f"sizes {sizes}", "at least one input, unit and layer", "Leave it out.")
        if max(self.input_size, self.directions * self.hidden_size) > MAX_K:
            raise UnsupportedProblem(
                op, f"sizes {sizes}", f"at most {MAX_K}, where int32 sums cannot overflow", "Keep it float32."
            )


def empty(sizes: Sizes, device: Any = None) -> dict[str, Tensor]:
    """A layer of zeros, to be loaded into."""
    made = {}
    for name, (dtype, shape) in sizes.layout().items():
        fill = torch.ones if name.endswith("_scale") else torch.zeros
        made[name] = fill(shape, dtype=dtype, device=device)
    made["h_scale"].fill_(H_SCALE)
    return made


def quantize(op: str, sizes: Sizes, weights: Mapping[str, Tensor], quant: QParams | None) -> dict[str, Tensor]:
    """From the float32 tensors of a torch layer. Raises FormatError for a number that is not finite."""
    made: dict[str, Tensor] = {}
    device = weights["weight_ih_l0"].device
    for name in sizes.matrices():
        weight, where = dense(weights[name]), f"{op}.{name}"
        if sizes.group_size:
            made[f"q{name}"], made[f"{name}_group_scale"] = int4.quantize_weight(weight, sizes.group_size, where)
        else:
            made[f"q{name}"], made[f"{name}_scale"] = int8.quantize_weight(weight, where)
        if sizes.bias:
            bias = name.replace("weight", "bias")
            require_finite(weights[bias].detach(), op, bias)
            made[bias] = copied(weights[bias])
    made["h_scale"] = torch.tensor(H_SCALE, dtype=torch.float32, device=device)
    if quant is not None:
        made["input_scale"] = torch.tensor(quant.scale, dtype=torch.float32, device=device)
        made["input_zero_point"] = torch.tensor(quant.zero_point, dtype=torch.int32, device=device)
    return {name: made[name] for name in sizes.layout()}


def check_tensor(op: str, sizes: Sizes, name: str, tensor: Any) -> None:
    """Raises FormatError where one tensor is not what its name means. Meta has no values."""
    dtype, shape = sizes.layout()[name]
    step = "Take the state dict of a layer of this size and scheme."
    if not isinstance(tensor, Tensor) or tensor.dtype != dtype or tensor.shape != shape:
        expected = f"{str(dtype).removeprefix('torch.')}{list(shape)}"
        raise FormatError(op, f"{name}: {describe(tensor)}", expected, step)
    if tensor.is_meta:
        return
    if dtype == torch.float32 and not torch.isfinite(tensor).all():
        raise FormatError(op, f"{name} with a NaN or infinity", "finite numbers", step)
    if dtype == torch.int8 and (tensor == -128).any():
        raise FormatError(op, f"{name} holding -128", "int8 weights in -127..127", step)
    if name.endswith("_group_scale"):
        int4.require_scales(op, name, tensor)
        return
    least = MIN_SCALE if name == "h_scale" else 2.0**-126
    if name.endswith("_scale") and not (tensor >= least).all():
        raise FormatError(op, f"{name} with {tensor.min().item()}", f"scales of at least {least:.3g}", step)
    if name == "h_scale" and not tensor < 1 / MIN_SCALE:
        raise FormatError(op, f"h_scale = {tensor.item()}", "a scale of about 1/127", step)
    if name == "input_zero_point" and not -128 <= int(tensor) <= 127:
        raise FormatError(op, f"{name} = {int(tensor)}", "-128..127", step)


def validate(op: str, sizes: Sizes, tensors: Mapping[str, Tensor]) -> None:
    """Raises FormatError or UnsupportedProblem for tensors that do not make a layer."""
    sizes.check(op)
    for name in sizes.layout():
        check_tensor(op, sizes, name, tensors.get(name))
    devices = {tensor.device for tensor in tensors.values()}
    if len(devices) > 1:
        raise FormatError(op, f"tensors on {devices}", "one device for all of them", "Move the whole layer with .to().")


def check_call(op: str, sizes: Sizes, x: Any, states: tuple[Any, ...], batch_first: bool, device: torch.device) -> None:
    """Raises ShapeError for the first thing wrong with an input or its states that no copy could put right."""
    expected = f"float32[T, {sizes.input_size}] or [{'B, T' if batch_first else 'T, B'}, {sizes.input_size}]"
    _check_tensor(op, x, f"{expected} on {device}", device)
    if x.dim() not in (2, 3) or x.shape[-1] != sizes.input_size or not x.shape[:-1].numel():
        raise ShapeError(op, describe(x), f"{expected} with at least one time step", "As for the layer it stands for.")
    rows = sizes.num_layers * sizes.directions
    shape: tuple[int, ...] = (rows, sizes.hidden_size)
    if x.dim() == 3:
        shape = (rows, x.shape[0 if batch_first else 1], sizes.hidden_size)
    for state in states:
        wanted = f"a state float32{list(shape)} on {device} for x {list(x.shape)}"
        _check_tensor(op, state, wanted, device)
        if tuple(state.shape) != shape:
            raise ShapeError(op, describe(state), wanted, "Pass (h0, c0) for an LSTM, h0 for a GRU, or neither.")


def _check_tensor(op: str, x: Any, expected: str, device: torch.device) -> None:
    if not isinstance(x, Tensor):
        raise ShapeError(op, describe(x), expected, "Pass a torch tensor.")
    if x.layout != torch.strided:
        raise ShapeError(op, f"{x.layout} {describe(x)}", expected, "Convert it with .to_dense().")
    if x.device != device:
        raise ShapeError(op, describe(x), expected, f"Move it with .to('{device}'), or the layer to its device.")
    if x.dtype != torch.float32:
        raise ShapeError(op, describe(x), expected, "Convert it with .float(); nothing is cast silently.")


def group(
    sizes: Sizes, tensors: Mapping[str, Tensor], shape: tuple[int, ...], batch_first: bool, states: bool
) -> Subgraph:
    """The stage for an x of this shape: the whole call is one sample."""
    time, batch = shape[0], 1
    if len(shape) == 3:
        time, batch = (shape[1], shape[0]) if batch_first else (shape[0], shape[1])
    geometry = sizes.geometry(time, batch, batch_first)
    x = Value("x", sizes.input_size, steps=time * batch)
    width = sizes.directions * sizes.hidden_size
    y = Value("y", width, steps=time * batch)
    rows = sizes.num_layers * sizes.directions
    names = sizes.recurrence.states
    before = tuple(Value(f"{n}0", sizes.hidden_size, steps=rows * batch) for n in names) if states else ()
    after = tuple(Value(f"{n}n", sizes.hidden_size, steps=rows * batch) for n in names)
    kept = {n.removeprefix("q"): t for n, t in tensors.items() if n.startswith(("qweight", "weight", "bias"))}
    attrs = {**vars(geometry), "h_scale": float(tensors["h_scale"]), "group_size": sizes.group_size}
    if sizes.static:
        attrs |= {"x_scale": float(tensors["input_scale"]), "x_zero_point": int(tensors["input_zero_point"])}
    stage = Stage(sizes.kind, sizes.kind, (x, *before), (y, *after), kept, attrs)
    state_shape = (rows, batch, sizes.hidden_size) if len(shape) == 3 else (rows, sizes.hidden_size)
    return Subgraph(
        (stage,),
        (GraphIO(x, 0, shape), *(GraphIO(v, 0, state_shape) for v in before)),
        (GraphIO(y, 0, (*shape[:-1], width)), *(GraphIO(v, 0, state_shape) for v in after)),
    )


class Packed:
    """The plans of a layer, one for each shape of x that it was called with lately.

    Raises what `validate` raises. Later changes of the tensors it was made from are not seen.
    """

    def __init__(self, op: str, sizes: Sizes, tensors: Mapping[str, Tensor], batch_first: bool) -> None:
        validate(op, sizes, tensors)
        self._op, self._sizes, self._batch_first = op, sizes, batch_first
        self._tensors = {name: dense(tensor) for name, tensor in tensors.items()}
        self._plans: dict[tuple[tuple[int, ...], bool], Executable] = {}
        self.choices: list[Choice] = []
        self.notes: list[str] = []

    def plan(self, shape: tuple[int, ...], states: bool) -> Executable:
        key = (tuple(shape), states)
        found = self._plans.pop(key, None)
        if found is None:
            if len(self._plans) >= MAX_PLANS:
                del self._plans[next(iter(self._plans))]  # the one used longest ago
            with (
                on_gpu_of(self._tensors["h_scale"]),
                torch.device("cpu"),
            ):  # lowered numbers are the same whatever torch's default device is
                made = group(self._sizes, self._tensors, key[0], self._batch_first, states)
                device = self._tensors["h_scale"].device.type
                if device == "cpu" and could_be_sparse(made.stages[0]):
                    choice = fastest(made.stages[0], 1)
                    made, self.notes = Subgraph((choice.stage,), made.inputs, made.outputs), [choice.reason]
                found, self.choices = plan_group(made, 1, device)
        self._plans[key] = found
        return found

    def compute(self, x: Any, states: tuple[Any, ...]) -> tuple[Tensor, ...]:
        """(y, *states after) of any x and states, copied first where strided, expanded or misaligned."""
        check_call(self._op, self._sizes, x, states, self._batch_first, self._tensors["h_scale"].device)
        plan = self.plan(x.shape, bool(states))
        given = (x, *states)
        plain = all(t.is_contiguous() and not t.is_neg() for t in given)
        result = plan.call(given) if plain else None
        if result is None:
            result = plan.call(tuple(dense(t) for t in given))
        if not isinstance(result, tuple):
            raise UnsupportedProblem(self._op, describe(x), "plain tensors", "Pass x.clone().")
        return result
