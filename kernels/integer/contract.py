"""Integer: y = f(x_0, x_1, ..., constants), element by element in int64, exactly; [M, steps, width] each.

attrs["program"]: as that of an expression, one function a line, its operands x0, c0, t0 or whole numbers (functions.py).
attrs["dims"], attrs["places"]: sizes in the order of the elements of y; for each input, then each constant tensor (c0, c1, ...),
offset and strides in elements of a dense value.

An input is int64; float32, which is rounded toward zero (truth values are 1 and 0); or int32, int16, int8, uint8 or bool at the
edge of a plan. y is int64, or float32, to which the result is rounded, or at the edge of a plan int32, int16, int8 or uint8: the
lowest bits of the result. A division by zero is a FormatError, as it is an error of torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.stage import Problem, Stage, Value
from rtaccel.core.traits import Role
from rtaccel.kernels._common import lines
from rtaccel.kernels._common.strides import dense
from rtaccel.kernels._expression.streaming import STREAMING
from rtaccel.kernels.integer import functions

MAX_INSTRUCTIONS, MAX_OPERANDS = 32, 16
LINE = 128
"""Elements that a line of the kernel has at least, where there are so many."""


def parse(stage: Stage) -> list[tuple[str, list[str]]]:
    """(function, operands) by line. Raises FormatError for a program that is none."""
    limits, found = {"x": len(stage.inputs), "c": len(stage.tensors)}, []
    for line in stage.attrs["program"]:
        name, *words = line.split()
        limits["t"] = len(found)
        if name not in functions.FUNCTIONS or len(words) != functions.FUNCTIONS[name][0]:
            raise FormatError("integer", repr(line), "a function and its operands", "See kernels/integer/functions.py.")
        for word in words:
            negative = word[0] == "-"
            digits = word[1:] if negative or word[0] in limits else word
            limit = limits.get(word[0], (1 << 63) + negative)  # int64 has one more number below zero than above
            if not digits.isdigit() or int(digits) >= limit:
                raise FormatError(
                    "integer", f"{word!r} in {line!r}", "an operand that there is", "Correct the program."
                )
        found.append((name, words))
    if not 0 < len(found) <= MAX_INSTRUCTIONS or len(stage.inputs) + len(stage.tensors) > MAX_OPERANDS:
        raise FormatError("integer", f"{len(found)} lines", f"1 to {MAX_INSTRUCTIONS}", "Correct the program.")
    return found


def constants(stage: Stage) -> list[Tensor]:
    return [stage.tensors[f"c{i}"] for i in range(len(stage.tensors))]


def places(stage: Stage) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """(dims, places of inputs, constants and the result)"""
    dims, y = tuple(stage.attrs["dims"]), stage.outputs[0]
    found = [tuple(p) for p in stage.attrs["places"]]
    sizes = [*(v.steps * v.width for v in stage.inputs), *(c.numel() for c in constants(stage))]
    if len(found) != len(sizes) or prod(dims) != y.steps * y.width or not dims:
        raise ShapeError("integer", f"{len(found)} places over {dims}", f"{len(sizes)} over {y.steps * y.width} elements",
                         "Correct the stage.")  # fmt: skip
    for place, size in zip(found, sizes):
        lines.check_place("integer", dims, place, size)
    return dims, [*found, dense(dims)]


def lower(stage: Stage) -> Mapping[str, Any]:
    program = parse(stage)
    dims, found = places(stage)
    kept = next(k for k in reversed(range(len(dims))) if not k or prod(dims[k:]) >= LINE)
    first = {"x": 0, "c": len(stage.inputs)}
    numbers: list[int] = []
    code: list[int] = []
    for _, words in program:
        for word in [*words, *["0"] * (3 - len(words))]:
            if word[0] == "t":
                code += [2, int(word[1:])]
            elif word[0] in first:
                code += [0, first[word[0]] + int(word[1:])]
            else:
                numbers.append(int(word))
                code += [1, len(numbers) - 1]
    low: dict[str, Any] = {
        "functions": ",".join(name for name, _ in program), "code": tuple(code), "count": prod(dims[:kept]),
        "along": prod(dims[kept:]), "numbers": torch.tensor(numbers or [0], dtype=torch.int64), "number_count": len(numbers),
    }  # fmt: skip
    widths = [*(v.width for v in stage.inputs), *(c.numel() for c in constants(stage)), stage.outputs[0].width]
    for i, (place, width) in enumerate(zip(found, widths)):
        low |= lines.tables(str(i), dims, kept, place, width)
    for i, constant in enumerate(constants(stage)):
        low[f"c{i}"] = constant.reshape(-1).long()
    return low


def reference(stage: Stage, *inputs: Tensor) -> tuple[Tensor]:
    program = parse(stage)
    dims, found = places(stage)
    given = [lines.read(functions.whole(x), dims, 0, p) for x, p in zip(inputs, found)]
    fixed = [lines.read(c.reshape(1, -1).long().to(inputs[0].device), dims, 0, p)
             for c, p in zip(constants(stage), found[len(inputs) :])]  # fmt: skip
    try:
        y = functions.evaluate(program, {"x": given, "c": fixed})
    except RuntimeError as error:
        raise FormatError("integer", str(error), "divisors that are not 0", "Mend the input.") from error
    y = y.to(getattr(torch, stage.outputs[0].dtype))
    return (y.expand(inputs[0].shape[0], 1, prod(dims)).reshape(inputs[0].shape[0], *stage.outputs[0].shape),)


def _case(label: str, program: tuple[str, ...], shapes: list[tuple[int, int]], dims: tuple[int, ...],
          placed: list[tuple[int, ...]], out: tuple[int, int], dtypes: tuple[str, str] = ("int64", "int64"),
          constant: int = 0) -> Case:  # fmt: skip
    inputs = tuple(Value(f"x{i}", w, dtypes[0], steps=s) for i, (s, w) in enumerate(shapes))
    tensors = {"c0": torch.arange(3, 3 + constant) * 7 - 11} if constant else {}
    attrs = {"program": program, "dims": dims, "places": tuple(placed)}
    stage = Stage("integer", "case", inputs, (Value("y", out[1], dtypes[1], steps=out[0]),), tensors, attrs)

    def make(seed: int) -> tuple[Tensor, ...]:
        g = torch.Generator().manual_seed(seed)
        found = []
        for v in inputs:
            x = torch.randint(-40, 40, (3, *v.shape), generator=g)
            if dtypes[0] == "bool":
                found.append(x > 0)
            elif dtypes[0] in ("uint8", "int8", "int16"):
                dtype = getattr(torch, dtypes[0])
                low, high = torch.iinfo(dtype).min, torch.iinfo(dtype).max + 1
                found.append(torch.randint(low, high, (3, *v.shape), generator=g, dtype=dtype))
            elif dtypes[0] == "float32":
                large = torch.tensor([float("nan"), float("inf"), -float("inf"), 3e18, -1e19])
                found.append(torch.where(torch.rand(x.shape, generator=g) < 0.1,
                                         large[torch.randint(0, 5, x.shape, generator=g)], x / 3))  # fmt: skip
            else:
                # Far out, or about 2^30 and 2^31, where kernels take another way.
                shift = (56, 25, 26, 0)[(seed + seed // 4) % 4]
                wide = torch.where(torch.rand(x.shape, generator=g) < 0.2, x << shift, x)
                found.append(x.to(torch.int32) if dtypes[0] == "int32" else torch.where(wide == 0, 5, wide))
        return tuple(found)

    return Case(label, stage, make)


def cases() -> Iterator[Case]:
    for name, (operands, _) in functions.FUNCTIONS.items():
        for n in (1, 5, 64, 131):
            words = " ".join(f"x{i}" for i in range(operands))
            yield _case(f"{name}-{n}", (f"{name} {words}",), [(1, n)] * operands, (n,), [(0, 1)] * operands, (1, n))
    for a, b in (
        ("float32", "int64"),
        ("bool", "float32"),
        ("bool", "int64"),
        ("int32", "int64"),
        ("int64", "float32"),
        ("uint8", "float32"),
        ("uint8", "int64"),
        ("int64", "int32"),
        ("int64", "uint8"),
        ("int32", "int32"),
        ("uint8", "int32"),
        ("float32", "int32"),
        ("int16", "float32"),
        ("int16", "int64"),
        ("int8", "float32"),
        ("int8", "int64"),
        ("int64", "int16"),
        ("int64", "int8"),
        ("float32", "int8"),
        ("int8", "int16"),
        ("int16", "int8"),
    ):
        yield _case(f"{a}-to-{b}", ("copy x0",), [(3, 7)], (3, 7), [(0, 7, 1)], (3, 7), (a, b))
    for given in ("uint8", "int8", "int16"):
        yield _case(f"image-{given}", ("copy x0",), [(9, 67)], (603,), [(0, 1)], (9, 67), (given, "float32"))
    for narrow in ("int32", "int16", "int8", "uint8"):
        yield _case(f"narrow-{narrow}", ("mul x0 x1", "wrap32 t0"), [(5, 3), (1, 300)], (5, 3), [(0, 3, 1), (7, 60, 20)],
                    (5, 3), ("int64", narrow))  # fmt: skip
    for divides in ("floor_divide", "trunc_divide", "remainder", "fmod"):
        for by in (7, -3, 1 << 30, -1):
            yield _case(f"{divides}-by-{by}", (f"{divides} x0 {by}",), [(3, 77)], (231,), [(0, 1)], (3, 77))
    yield _case("against-each", ("le x1 x0",), [(1, 9), (1, 23)], (9, 23), [(0, 1, 0), (0, 0, 1)], (9, 23),
                ("int64", "float32"))  # fmt: skip
    yield _case("every-second", ("sub x0 x1",), [(1, 300), (1, 2)], (150,), [(1, 2), (1, 0)], (1, 150))
    yield _case("truths-uint8", ("truth x0",), [(1, 131)], (131,), [(130, -1)], (1, 131), ("float32", "uint8"))
    yield _case("truths", ("truth x0",), [(1, 37)], (37,), [(0, 1)], (1, 37), ("bool", "float32"))
    yield _case("turned", ("add x0 x1",), [(5, 3), (3, 5)], (5, 3), [(0, 3, 1), (0, 1, 5)], (5, 3))
    yield _case(
        "row",
        ("mul x0 x1", "add t0 c0"),
        [(6, 9), (1, 9)],
        (6, 9),
        [(0, 9, 1), (0, 0, 1), (0, 1, 0)],
        (6, 9),
        constant=6,
    )
    yield _case(
        "other-rows",
        ("sub x0 -3", "remainder t0 17", "lt t1 x1"),
        [(4, 6), (6, 4)],
        (24,),
        [(0, 1), (0, 1)],
        (3, 8),
        ("int64", "float32"),
    )
    yield _case("long", ("mul x0 x0", "where x1 t0 -9"), [(1, 700), (1, 700)], (700,), [(0, 1), (699, -1)], (1, 700))


def cost(problem: Problem) -> Cost:
    elements = problem.rows * problem.out_steps[0] * problem.out_widths[0]
    return Cost(bytes=8 * elements * (len(problem.in_widths) + 1), flops=elements * len(problem.attrs["program"]))


def packed_bytes(stage: Stage) -> int:
    operands, elements = len(stage.attrs["places"]) + 1, prod(stage.attrs["dims"])
    found = lines.table_bytes(stage.attrs["dims"], operands) + 24 * operands * (elements + 64)  # pieces of blocks
    return found + 8 * sum(c.numel() + 64 for c in stage.tensors.values()) + 64 * MAX_INSTRUCTIONS


OPERATOR = register_operator(
    Operator(
        name="integer",
        axes={"x_i": ("M", "steps", "width"), "c_i": ("C",), "y": ("M", "steps", "width")},
        reference=reference,
        cases=cases,
        tolerance=lambda stage, *inputs: Tolerance(),
        cost=cost,
        lower=lower,
        packed_bytes=packed_bytes,
        by_row=False,
        whole_input=lambda stage: 1,
        role=Role.WHOLE,
        streaming=STREAMING,
    )
)
