"""Launching `stack_kernel`: what LSTM, GRU and RNN share as Triton implementations of a stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import ShapeError
from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.core.weight_format import WeightFormat
from rtaccel.kernels._gpu.capture import can_look
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_spec import Specialisation, Tiling, leave_out
from rtaccel.kernels.recurrent import lengths
from rtaccel.kernels.recurrent.layout import SIZES, Geometry, takes_lengths
from rtaccel.kernels.recurrent.triton import bidirectional as bidirectional
from rtaccel.kernels.recurrent.triton.config import (
    MULTIPROCESSORS,
    KernelConfig,
    Operands,
    multiprocessors,
    select_config,
    unsupported,
)
from rtaccel.kernels.recurrent.triton.window import stack_kernel

POINTERS = {"float32": "*fp32", "int8": "*i8"}


def supports(gates: int) -> Callable[[Problem], str | None]:
    def reason(problem: Problem) -> str | None:
        if Geometry.of(problem.attrs).directions == 2:
            layers = bidirectional.configs_of(problem, gates)
            return layers if isinstance(layers, str) else None
        found = unsupported(problem) or select_config(problem, gates)
        return found if isinstance(found, str) else None

    return reason


def specialize(problem: Problem, kernel_config: KernelConfig) -> Specialisation:
    """The form of `stack_kernel` for a stage cut in this way."""
    g, attrs = kernel_config.geometry, problem.attrs
    counted = takes_lengths(problem.in_dtypes)
    states, kept = len(problem.in_widths) > 1 + counted, len(problem.out_widths) > 1
    dynamic = problem.in_dtypes[0] == "float32" and "x_scale" not in attrs
    x, y = problem.in_dtypes[0], problem.out_dtypes[0]
    kind = x if x == "int8" else "dynamic" if dynamic else "static"
    kind += f"_int4_g{kernel_config.group}" if kernel_config.group else ""
    sizes = f"T{g.time}_B{g.batch}_K{kernel_config.inputs}_H{g.hidden}_L{g.layers}_P{kernel_config.parts}"
    named = {
        "_states": states,
        "_kept": kept and not states,
        "_last": g.last_only,
        "_first": g.batch_first,
        "_lengths": counted,
        "_longest": attrs.get("longest"),
    }
    extras = "".join(name for name, there in named.items() if there)
    floats = ("h0_ptr", "c0_ptr", "hn_ptr", "cn_ptr")
    signature, absent = leave_out({
        "x_ptr": POINTERS[x], "y_ptr": POINTERS[y], "counts_ptr": "*i64", **dict.fromkeys(floats, "*fp32"),
        "words_ptr": "*i32", "scales_ptr": "*i32", "params_ptr": "*fp32", "compensation_ptr": "*i32", "exchange_ptr": "*i64",
        "sync_ptr": "*i32", "x_inverse": "fp32", "x_zero_point": "i32", "h_inverse": "fp32", "y_inverse": "fp32",
        "y_zero_point": "i32", "first_stream": "i32",
    }, counts_ptr=counted)  # fmt: skip
    return Specialisation(
        name=f"{problem.op}_stack_{sizes}_{kind}_{y}{extras}",
        kernel=stack_kernel,
        signature=signature,
        constants={
            "CUT": kernel_config.cut(), "T": g.time, "B": g.batch, "BATCH_FIRST": bool(g.batch_first),
            "LAST": bool(g.last_only), "STATES": states, "KEPT": kept, "DYNAMIC": dynamic,
            "LONGEST": bool(attrs.get("longest")), **absent,
        },
        tiling=Tiling(1, kernel_config.units, 4 * kernel_config.chunks_x[0], num_warps=kernel_config.num_warps),
        cooperative=kernel_config.parts > 1,
    )  # fmt: skip


def problem_of(
    op: str, gates: int, geometry: Geometry, inputs: int, rows: int = 1, group: int = 0, counted: bool = False
) -> Problem:
    """The problem of a stage with states where it is one time step, float32 x with a static scale and float32 y, on a GPU.
    group: of int4 weights, 0 for int8 ones. counted: streams have lengths."""
    names = 1 + ((2 if gates == 4 else 1) if geometry.time == 1 else 0)
    steps = geometry.time * geometry.batch
    state = geometry.layers * geometry.batch
    attrs = {**{name: getattr(geometry, name) for name in SIZES}, "x_scale": 1.0, "x_zero_point": 0}
    if group:
        attrs["group_size"] = group
    lengths = int(counted)
    return Problem(
        op, rows, (inputs, *[1] * lengths, *[geometry.hidden] * (names - 1)), (geometry.hidden,) * names,
        ("float32", *["int64"] * lengths, *["float32"] * (names - 1)), ("float32",) * names,
        WeightFormat.INT4 if group else WeightFormat.INT8, attrs, "cuda",
        (steps, *[geometry.batch] * lengths, *[state] * (names - 1)),
        (geometry.batch if geometry.last_only else steps, *[state] * (names - 1)),
    )  # fmt: skip


def example(
    op: str, gates: int, geometry: Geometry, inputs: int, group: int = 0, counted: bool = False
) -> Specialisation:
    """The form of a stack of this size, for what is only compiled."""
    problem = problem_of(op, gates, geometry, inputs, group=group, counted=counted)
    kernel_config = select_config(problem, gates, MULTIPROCESSORS)
    assert isinstance(kernel_config, KernelConfig), kernel_config
    return replace(specialize(problem, kernel_config), slow=kernel_config.parts > 1)


def exchange_buffers(kernel_config: KernelConfig, streams: int, device: str) -> tuple[Tensor, Tensor]:
    """(words, and programs done with the number to go on from) for so many streams at once."""
    ch, nh = kernel_config.chunks_h
    shared = kernel_config.parts > 1
    words = streams * 2 * kernel_config.geometry.layers * ch * nh if shared else 0
    return (
        torch.zeros(words, dtype=torch.int64, device=device),
        torch.zeros(2 * streams if shared else 0, dtype=torch.int32, device=device),
    )


def prepare(gates: int, lower: Callable[[Stage], Mapping[str, Any]]) -> Callable[[Stage, Problem], Prepared]:
    """The `prepare` of an operator. The kernel takes any number of samples; where programs wait for each other, as many streams
    at a time as the device holds. Calls of one prepared stage follow each other on one stream of the device."""

    def prepare_stage(stage: Stage, problem: Problem) -> Prepared:
        if Geometry.of(stage.attrs).directions == 2:
            call = bidirectional.prepared(stage, problem, gates, lower(stage))
            return lambda *inputs: check_inputs(stage, inputs) or check_lengths(stage, inputs) or call(*inputs)
        kernel_config = select_config(problem, gates)
        assert isinstance(kernel_config, KernelConfig), kernel_config
        return prepared(stage, problem, kernel_config, lower(stage))

    return prepare_stage


def register(op: str, gates: int, lower: Callable[[Stage], Mapping[str, Any]]) -> None:
    """`triton_stack` of an operator."""
    register_impl(Impl(op, "triton_stack", "triton", 10, supports(gates), prepare(gates, lower)))


def prepared(stage: Stage, problem: Problem, kernel_config: KernelConfig, low: Mapping[str, Any]) -> Prepared:
    geometry, device = Geometry.of(stage.attrs), problem.device
    launch, ops = bind(specialize(problem, kernel_config)), Operands.of(low, kernel_config, device)
    at_once = max(multiprocessors() // kernel_config.parts, 1) if kernel_config.parts > 1 else 1 << 15
    exchange, sync = exchange_buffers(kernel_config, at_once, device)
    gates, counted = kernel_config.gates, takes_lengths(problem.in_dtypes)

    def run(made: Sequence[Tensor], *inputs: Tensor) -> None:
        check_lengths(stage, inputs)
        x, samples, states = inputs[0], inputs[0].shape[0], inputs[1 + counted :]
        counts = {"counts_ptr": inputs[1]} if counted else {}
        before = (*states, ops.params, ops.params)[: 2 if gates == 4 else 1] if states else (ops.params,) * 2
        after = (*made[1:], ops.params, ops.params)
        streams = samples * geometry.batch
        for first in range(0, streams, at_once):
            launch(
                (kernel_config.parts, min(at_once, streams - first)), x_ptr=x, y_ptr=made[0], **counts, h0_ptr=before[0],
                c0_ptr=before[-1], hn_ptr=after[0], cn_ptr=after[1], words_ptr=ops.words, scales_ptr=ops.scales,
                params_ptr=ops.params,
                compensation_ptr=ops.compensation, exchange_ptr=exchange, sync_ptr=sync, x_inverse=ops.x_inverse,
                x_zero_point=ops.x_zero_point, h_inverse=ops.h_inverse, y_inverse=ops.y_inverse,
                y_zero_point=ops.y_zero_point, first_stream=first,
            )  # fmt: skip

    # Of several programs each reads all states by itself.
    return InPlace(stage, run, states_over(stage, counted) if kernel_config.parts == 1 else {})


class InPlace:
    """A stack, prepared. over: results that may be written where an input lies, by the place of each. run: writes its results,
    which come first."""

    def __init__(self, stage: Stage, run: Callable[..., None], over: Mapping[int, int]) -> None:
        self._stage, self._run, self.over = stage, run, dict(over)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.into((None,) * len(self._stage.outputs), *inputs)

    def into(self, outputs: Sequence[Tensor | None], *inputs: Tensor) -> tuple[Tensor, ...]:
        """outputs: where results go; None for memory of their own."""
        check_inputs(self._stage, inputs)
        samples, device = inputs[0].shape[0], inputs[0].device
        made = [
            torch.empty((samples, *v.shape), dtype=getattr(torch, v.dtype), device=device) if y is None else y
            for v, y in zip(self._stage.outputs, outputs)
        ]
        self._run(made, *inputs)
        return tuple(made)


def states_over(stage: Stage, counted: bool) -> dict[int, int]:
    """Each state after, by the one before; none where no states come in."""
    given = len(stage.inputs) - 1 - counted
    return {1 + i: 1 + counted + i for i in range(given)} if len(stage.outputs) == 1 + given else {}


def check_lengths(stage: Stage, inputs: tuple[Tensor, ...]) -> None:
    """Raises FormatError for a length outside, or where none is that of x and one has to be, where one can look. In a replay such
    streams are NaN."""
    if takes_lengths([value.dtype for value in stage.inputs]) and can_look(inputs[1]):
        lengths.counts_of(stage, *inputs)


def check_inputs(stage: Stage, inputs: tuple[Tensor, ...]) -> None:
    """Raises ShapeError for inputs that are not those of the stage: kernels read raw addresses."""
    if len(inputs) != len(stage.inputs):
        raise ShapeError(stage.op, f"{len(inputs)} inputs", f"{len(stage.inputs)}", "Pass the inputs of the stage.")
    for value, t in zip(stage.inputs, inputs):
        wanted = (inputs[0].shape[0], *value.shape)
        if tuple(t.shape) != wanted or t.dtype != getattr(torch, value.dtype) or not t.is_contiguous():
            raise ShapeError(
                stage.op, f"{value.name}: {t.dtype} {tuple(t.shape)}, strides {t.stride()}",
                f"a contiguous {value.dtype} tensor {wanted}", "Convert, or call .contiguous().",
            )  # fmt: skip
