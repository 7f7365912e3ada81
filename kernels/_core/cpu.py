"""Native plans: stages built into the core's plan, and every kernel of the core as an implementation.

A C++ kernel declares itself in its own source; nothing here names one. `build` makes one native plan of
any number of stages: one call runs them all, with no Python and no allocation between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

import rtaccel._native as native
from rtaccel.core.batch import ANY_BATCH, BatchRange
from rtaccel.core.errors import FormatError, RtaccelError, UnsupportedProblem
from rtaccel.core.process.held_memory import held
from rtaccel.core.registry import Impl, Prepared, operator, register_impl
from rtaccel.core.stage import GraphIO, Problem, Stage

DTYPES = {
    getattr(torch, name): name
    for name in ("float32", "int8", "int64", "int32", "uint8", "bfloat16", "float16", "int16")
}  # as rta_plan.h has them


@dataclass(frozen=True)
class States:
    """What a plan keeps from call to call: names of values that are states, for how many samples, and for how many
    calls a sample that int8 cannot hold lives on in them (-1: for ever)."""

    names: frozenset[str] = field(default_factory=frozenset)
    samples: int = 0
    memory: int = 0


def _refusal(reason: str) -> RtaccelError:
    return FormatError("call", reason, "numbers that every stage takes", "No result is given; mend the input.")


@cache
def connect() -> None:
    """Shows the native module what a torch tensor is. Before it, no tensor fits a plan or a mailbox."""
    plain, negated = [], []
    for n in (1, 3, 64, 1000):  # one kind after the other, and both as views: else they differ in more than the bit
        t = torch.ones(n, dtype=torch.float32, device="cpu")
        for _ in range(3):
            plain.append(t)
            negated.append(t := t._neg_view())
            t = t._neg_view()
    native.connect(torch.Tensor, torch.nn.Parameter, _refusal, held, plain, negated)


def _attributes(stage: Stage) -> tuple[dict[str, Any], list[Tensor]]:
    """The lowered numbers as the core takes them, and the tensors that must live while it reads them."""
    attrs: dict[str, Any] = {}
    alive = []
    for name, value in operator(stage.op).lower(stage).items():
        if isinstance(value, tuple):  # whole numbers: a table of indices
            value = torch.tensor(value, dtype=torch.int32, device="cpu")
        if isinstance(value, Tensor):
            value = value.detach().cpu().contiguous()
            alive.append(value)
            attrs[name] = (value.data_ptr(), DTYPES[value.dtype], value.numel())
        else:
            attrs[name] = value
    weight = stage.tensors.get("weight", stage.tensors.get("weight_ih_l0"))
    if weight is not None:
        attrs["weight_dtype"] = DTYPES[weight.dtype]
    return attrs, alive


def _packed_bound(stage: Stage) -> int:
    """More than the packed tensors and tables of a stage can take. What is not used is never touched."""
    exact = operator(stage.op).packed_bytes
    total = 4096 if exact is None else exact(stage)
    for tensor in stage.tensors.values():
        rows = tensor.shape[0] if tensor.dim() > 1 else 1
        columns = tensor.numel() // max(rows, 1)
        size = max(tensor.element_size(), 1)
        total += (rows + 64) * (columns + 64) * size * 5 // 4 + 3 * 4 * (max(rows, columns) + 64)
    tables = sum(len(v) for v in stage.attrs.values() if isinstance(v, tuple))
    return total + 64 * (sum(v.steps for v in (*stage.inputs, *stage.outputs)) + tables)


def packed_bound(stages: Sequence[tuple[Stage, str]]) -> int:
    """More bytes than the packed weights of these stages take."""
    return sum(_packed_bound(stage) for stage, _ in stages)


def tell(
    plan: Any,
    stages: Sequence[tuple[Stage, str]],
    inputs: Sequence[GraphIO],
    outputs: Sequence[GraphIO],
    states: States,
) -> None:
    """Tells a plan, or whatever writes down what it is told, its values and stages: inputs first, then outputs."""
    ids: dict[str, int] = {}
    for role, ports in (("input", inputs), ("output", outputs)):
        for port in ports:
            ids[port.value.name] = plan.value(port.value.dtype, port.value.steps, port.value.width, role)
    for stage, kernel in stages:
        for value in (*stage.inputs, *stage.outputs):
            if value.name not in ids:
                role = "state" if value.name in states.names else "inner"
                ids[value.name] = plan.value(value.dtype, value.steps, value.width, role)
        attrs, alive = _attributes(stage)
        plan.stage(stage.op, kernel, [ids[v.name] for v in stage.inputs], [ids[v.name] for v in stage.outputs], attrs)
        del alive


def build(
    stages: Sequence[tuple[Stage, str]],
    inputs: Sequence[GraphIO],
    outputs: Sequence[GraphIO],
    batch: BatchRange = ANY_BATCH,
    states: States | None = None,
    threads: int = 1,
) -> native.Plan:
    """One native plan of (stage, kernel name) pairs. batch: how many samples a call may have.
    threads: how many a call may use where that pays, the calling one included.

    Raises UnsupportedProblem with the reason where the core does not take it.
    """
    connect()
    try:
        return _build(stages, inputs, outputs, batch, states or States(), threads)
    except RuntimeError as error:
        what = ", ".join(f"{stage.name} ({stage.op})" for stage, _ in stages)
        raise UnsupportedProblem(
            "native plan", what, "stages and tensors the core takes", f"It said: {error}."
        ) from error


def _build(
    stages: Sequence[tuple[Stage, str]],
    inputs: Sequence[GraphIO],
    outputs: Sequence[GraphIO],
    batch: BatchRange,
    states: States,
    threads: int,
) -> native.Plan:
    plan = native.Plan(packed_bound(stages))
    tell(plan, stages, inputs, outputs, states)
    plan.finish(
        [(p.value.dtype, p.lead, list(p.middle), list(p.trailing)) for p in inputs],
        [(p.value.dtype, p.lead, list(p.middle), list(p.trailing)) for p in outputs],
        batch.lo,
        -1 if batch.hi is None else batch.hi,
        states.samples,
        states.memory,
        threads,
    )
    return plan


def _supports(op: str, name: str, problem: Problem) -> str | None:
    if problem.device != "cpu":
        return f"runs on the CPU, not on {problem.device}"
    if problem.attrs.get("takes_mark") or problem.attrs.get("gives_mark"):
        return "marks no samples by itself; its plan does"
    attrs = {"input_dtype": problem.in_dtypes[0]}
    if problem.weight_dtype is not None:
        attrs["weight_dtype"] = problem.weight_dtype
    attrs |= {name: problem.attrs[name] for name in ("layout", "ticks") if name in problem.attrs}
    return native.reject(op, name, attrs) or None


def _prepare(name: str, stage: Stage, problem: Problem) -> Prepared:
    """One stage as a plan of its own: what a drop-in module and a conformance test call."""
    if operator(stage.op).by_row:
        stage = stage.matrices()
    plan = build([(stage, name)], [GraphIO.matrix(v) for v in stage.inputs], [GraphIO.matrix(v) for v in stage.outputs])

    def call(*inputs: Tensor) -> tuple[Tensor, ...]:
        result = plan.call(inputs)
        if result is None:
            got = ", ".join(f"{t.dtype}{list(t.shape)}" for t in inputs)
            raise UnsupportedProblem(stage.op, got, f"contiguous matrices for {problem}", "Call .contiguous() first.")
        return result if isinstance(result, tuple) else (result,)

    return call


for _op, _name, _rank in native.kernels():
    register_impl(Impl(_op, _name, "cpu", 10 + _rank, partial(_supports, _op, _name), partial(_prepare, _name)))
