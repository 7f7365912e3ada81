"""Whole numbers in Triton: the program of a stage as one kernel, in int64."""

from __future__ import annotations

from math import prod

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._general.triton_places import digits, joined
from rtaccel.kernels._general.triton_tile import Text, too_large
from rtaccel.kernels.integer import contract, functions

TEXT = {
    "copy": "{0}", "neg": "-{0}", "abs": "tl.where({0} < 0, -{0}, {0})", "bitwise_not": "~{0}",
    "sign": "({0} > 0).to(tl.int64) - ({0} < 0).to(tl.int64)", "logical_not": "({0} == 0).to(tl.int64)",
    "truth": "({0} != 0).to(tl.int64)", "wrap32": "{0}.to(tl.int32).to(tl.int64)", "add": "{0} + {1}", "sub": "{0} - {1}",
    "mul": "{0} * {1}", "trunc_divide": "{0} // {1}", "fmod": "{0} % {1}",
    "floor_divide": "{0} // {1} - (({0} % {1} != 0) & (({0} % {1} < 0) != ({1} < 0))).to(tl.int64)",
    "remainder": "{0} % {1} + tl.where(({0} % {1} != 0) & (({0} % {1} < 0) != ({1} < 0)), {1}, 0)",
    "minimum": "tl.minimum({0}, {1})", "maximum": "tl.maximum({0}, {1})", "bitwise_and": "{0} & {1}",
    "bitwise_or": "{0} | {1}", "bitwise_xor": "{0} ^ {1}", "where": "tl.where({0} != 0, {1}, {2})",
    **{f"logical_{name}": f"(({{0}} != 0) {sign} ({{1}} != 0)).to(tl.int64)"
       for name, sign in (("and", "&"), ("or", "|"), ("xor", "^"))},
    **{name: f"({{0}} {sign} {{1}}).to(tl.int64)"
       for name, sign in (("lt", "<"), ("le", "<="), ("gt", ">"), ("ge", ">="), ("eq", "=="), ("ne", "!="))},
}  # fmt: skip


def text(stage: Stage) -> Text:
    program, (whole, found) = contract.parse(stage), contract.places(stage)
    dims, places = joined(whole, found)
    made = Text(prod(whole), stage.inputs, stage.outputs[0])
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
        made.add(f"t{i} = {TEXT[name].format(*operands)}")
    made.add(f"y = t{len(program) - 1}" + f".to(tl.{stage.outputs[0].dtype})")
    return made


def supports(problem: Problem) -> str | None:
    for line in problem.attrs["program"]:
        name, *words = line.split()
        if name in functions.DIVIDING and (words[1][0] in "xct" or int(words[1]) == 0):
            return "divides by a computed number, which may be 0: an error that a card cannot raise"
    return too_large(problem)


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """Inputs [M, steps, width] -> y [M, steps, width]; any M."""
    made = text(stage)
    return made.launcher(stage, made.specialize("integer", problem.rows), problem.device)


register_impl(Impl("integer", "triton_program", "triton", 10, supports, prepare))
