"""Whole numbers in Triton: the program of a stage as one kernel, in int64.

Where a computed number divides, the kernel also says whether one was 0. Outside of a graph that is looked at, and is a
FormatError as everywhere. In a replay nobody waits: the result of such a division is the least number there, as with an index
outside (_general/triton_indices.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import prod

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError
from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._general.triton_places import digits, joined
from rtaccel.kernels._general.triton_tile import Text, too_large
from rtaccel.kernels._gpu.capture import can_look
from rtaccel.kernels._gpu.triton_spec import Specialisation
from rtaccel.kernels.integer import contract, functions

TEXT = {
    "copy": "{0}", "neg": "-{0}", "abs": "tl.where({0} < 0, -{0}, {0})", "bitwise_not": "~{0}",
    "sign": "({0} > 0).to(tl.int64) - ({0} < 0).to(tl.int64)", "logical_not": "({0} == 0).to(tl.int64)",
    "truth": "({0} != 0).to(tl.int64)", "wrap32": "{0}.to(tl.int32).to(tl.int64)", "add": "{0} + {1}", "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "minimum": "tl.minimum({0}, {1})", "maximum": "tl.maximum({0}, {1})", "bitwise_and": "{0} & {1}",
    "bitwise_or": "{0} | {1}", "bitwise_xor": "{0} ^ {1}", "where": "tl.where({0} != 0, {1}, {2})",
    **{f"logical_{name}": f"(({{0}} != 0) {sign} ({{1}} != 0)).to(tl.int64)"
       for name, sign in (("and", "&"), ("or", "|"), ("xor", "^"))},
    **{name: f"({{0}} {sign} {{1}}).to(tl.int64)"
       for name, sign in (("lt", "<"), ("le", "<="), ("gt", ">"), ("ge", ">="), ("eq", "=="), ("ne", "!="))},
}  # fmt: skip


DIVISION = {
    "trunc_divide": "q", "fmod": "rest", "floor_divide": "q - below", "remainder": "rest + tl.where(below != 0, b, 0)",
}  # fmt: skip


def divided(name: str, a: str, b: str, computed: bool) -> list[str]:
    """Lines that set `divided`. -(2^63) / -1 wraps around, which int64 does not hold. computed: b may be 0."""
    lines = [f"a, b = tl.broadcast({a}, {b})"]
    if computed:
        lines += [
            "zero = b == 0", "b = tl.where(zero, 1, b)",
            "tl.store(fault_ptr + tl.zeros((BLOCK_M, BLOCK_N), tl.int32), tl.full((BLOCK_M, BLOCK_N), 1, tl.int64), "
            "mask=inside & zero)",
        ]  # fmt: skip
    lines += [
        "minus = b == -1", "by = tl.where(minus, 1, b)", "q = tl.where(minus, -a, a // by)",
        "rest = tl.where(minus, 0, a % by)", "below = ((rest != 0) & ((rest < 0) != (b < 0))).to(tl.int64)",
        f"divided = {DIVISION[name]}",
    ]  # fmt: skip
    return [*lines, f"divided = tl.where(zero, {functions.LOWEST + 1} - 1, divided)"] if computed else lines


def computed_divisors(program: Iterable[tuple[str, Sequence[str]]]) -> bool:
    return any(name in functions.DIVIDING and words[1][0] in "xct" for name, words in program)


def text(stage: Stage) -> Text:
    program, (whole, found) = contract.parse(stage), contract.places(stage)
    dims, places = joined(whole, found)
    made = Text(prod(whole), stage.inputs, stage.outputs[0])
    if computed_divisors(program):
        made.keep("fault", torch.zeros(1, dtype=torch.int64))
    made.add(*digits(dims, "e", "d"))
    used = {word for _, words in program for word in words}
    for i, value in enumerate(stage.inputs):
        if f"x{i}" not in used:
            continue
        made.strided(f"x{i}", i, places[i], "d")
        if value.dtype == "float32":  # rounded toward zero; what int64 does not hold is its lowest number
            made.add(
                f"fits = (x{i} >= -9223372036854775808.0) & (x{i} < 9223372036854775808.0)",
                f"x{i} = tl.where(fits, tl.where(fits, x{i}, 0.0).to(tl.int64), {functions.LOWEST})",
            )
        elif value.dtype != "int64":
            made.add(f"x{i} = x{i}.to(tl.int64)")
    for i, tensor in enumerate(contract.constants(stage)):
        if f"c{i}" in used:
            made.keep(f"c{i}", tensor.long())
            made.strided(f"c{i}", None, places[len(stage.inputs) + i], "d")
    for i, (name, words) in enumerate(program):
        operands = [word if word[0] in "xct" else f"tl.full((1, 1), {word}, tl.int64)" for word in words]
        if name in functions.DIVIDING:
            made.add(*divided(name, *operands, words[1][0] in "xct"), f"t{i} = divided")
        else:
            made.add(f"t{i} = {TEXT[name].format(*operands)}")
    made.add(f"y = t{len(program) - 1}" + f".to(tl.{stage.outputs[0].dtype})")
    return made


def specializations() -> Iterator[Specialisation]:
    """The form that is compiled and held to a budget without a GPU: a division by computed numbers."""
    case = next(c for c in contract.cases() if c.id == "floor_divide-131")
    yield text(case.stage).specialize("integer", Problem.of(case.stage, 1, "cuda").rows)


def supports(problem: Problem) -> str | None:
    for line in problem.attrs["program"]:
        name, *words = line.split()
        if name in functions.DIVIDING and words[1][0] not in "xct" and int(words[1]) == 0:
            return "divides by 0, which is an error that a card cannot raise"
    return too_large(problem)


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """Inputs [M, steps, width] -> y [M, steps, width]; any M."""
    made = text(stage)
    fault = made.fixed.get("fault_ptr")
    if fault is not None:  # the one that is launched with
        fault = made.fixed["fault_ptr"] = fault.to(problem.device)
    launch = made.launcher(stage, made.specialize("integer", problem.rows), problem.device)
    if fault is None:
        return launch

    def call(*inputs: Tensor) -> tuple[Tensor]:
        looked = can_look(inputs[0])
        if looked:
            fault.zero_()
        y = launch(*inputs)
        if looked and fault.item():
            raise FormatError("integer", "a division by zero", "divisors that are not 0", "Mend the input.")
        return y

    return call


register_impl(Impl("integer", "triton_program", "triton", 10, supports, prepare))
