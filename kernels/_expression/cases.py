"""Conformance cases of expressions: every function, deep trees, shared results, broadcasting and strides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.registry import Case
from rtaccel.core.stage import Stage, Value
from rtaccel.kernels._common import activations
from rtaccel.kernels._expression.functions import FUNCTIONS

SPECIAL = (
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    2.5,
    float("inf"),
    -float("inf"),
    float("nan"),
    1e-40,
    3e38,
    -3e38,
    88.8,
    -104.5,
    20.5,
)


def numbers(shape: Sequence[int], seed: int, scale: float = 3.0) -> Tensor:
    """Random numbers of all sizes, some of them special."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=g) * scale
    x = torch.where(torch.rand(*shape, generator=g) < 0.1, x.exp(), x)
    special = torch.tensor(SPECIAL)[torch.randint(len(SPECIAL), tuple(shape), generator=g)]
    return torch.where(torch.rand(*shape, generator=g) < 0.08, special, x)


def _stage(widths: Sequence[int], program: Sequence[str], c: int, constants: Sequence[int] = ()) -> Stage:
    inputs = tuple(Value(f"x{i}", w) for i, w in enumerate(widths))
    tensors = {f"c{i}": numbers((n,), 100 + i, 1.0) for i, n in enumerate(constants)}
    return Stage("expression", "case", inputs, (Value("y", c),), tensors, {"program": tuple(program)})


def _case(label: str, stage: Stage, samples: int, limit: float = float("inf")) -> Case:
    """limit: of the numbers; NaN stays."""

    def make(seed: int) -> tuple[Tensor, ...]:
        return tuple(
            numbers((samples, *v.shape), 31 * seed + i).clamp(-limit, limit) for i, v in enumerate(stage.inputs)
        )

    return Case(label, stage, make)


DEEP = (
    "sub x0 x1", "mul t0 t0", "add x0 x1", "tanh t2", "div t1 t3", "maximum t4 c0", "minimum t5 6.0", "add t6 t0",
    "where x2 t7 t3", "sigmoid t8", "mul t9 t7",
)  # fmt: skip


def by_row() -> Iterator[Case]:
    widths = (1, 17, 32, 64, 100, 131, 300)
    for i, function in enumerate(FUNCTIONS.values()):
        operands = " ".join(f"x{k}" for k in range(function.operands))
        c = widths[i % len(widths)]
        yield _case(f"{function.name}-C{c}", _stage((c,) * function.operands, (f"{function.name} {operands}",), c), 3)
    for i, (name, row) in enumerate(activations.ROWS.items()):
        c = widths[(i + 2) % len(widths)]
        yield _case(f"act-{name}-C{c}", _stage((c,), (f"{name} x0 {row.example!r}",), c), 3, 1e4)
    for c in (1, 16, 33, 128, 256, 515):
        yield _case(f"deep-C{c}", _stage((c, c, c), DEEP, c, (c,)), 5)
        yield _case(f"row-scalar-C{c}", _stage((c, 1), ("sub x0 x1", "exp t0", "mul t1 c0"), c, (1,)), 4)
        yield _case(f"copy-C{c}", _stage((c,), ("copy x0",), c), 2)
    yield _case("constant-C9", _stage((9,), ("mul x0 0.0", "copy c0"), 9, (9,)), 2)


def _strided(
    label: str, shapes: Sequence[tuple[int, int]], out: tuple[int, int], samples: int = 2, **attrs: Any
) -> Case:
    """shapes: (steps, width) of each input."""
    inputs = tuple(Value(f"x{i}", w, steps=s) for i, (s, w) in enumerate(shapes))
    constants = attrs.pop("constants", ())
    tensors = {f"c{i}": numbers((n,), 100 + i, 1.0) for i, n in enumerate(constants)}
    y = Value("y", out[1], steps=out[0])
    return _case(label, Stage("strided_expression", "case", inputs, (y,), tensors, attrs), samples)


def by_strides() -> Iterator[Case]:
    gate = ("mul x0 x1", "relu t0")
    for h, c in ((5, 3), (49, 16), (12, 64), (7, 130), (300, 20)):
        # [H, C] times a gate of each column, then of each row, as rows and as one dense row.
        for k, (steps, width) in enumerate(((h, c), (1, h * c))):
            yield _strided(f"columns-{h}x{c}-{k}", [(steps, width), (1, c)], (steps, width), program=gate, dims=(h, c),
                           places=((0, c, 1), (0, 0, 1)))  # fmt: skip
            yield _strided(f"rows-{h}x{c}-{k}", [(steps, width), (h, 1)], (steps, width), program=gate, dims=(h, c),
                           places=((0, c, 1), (0, 1, 0)))  # fmt: skip
        yield _strided(f"turned-{h}x{c}", [(h, c)], (c, h), program=("copy x0",), dims=(c, h), places=((0, 1, c),))
        yield _strided(f"mixed-{h}x{c}", [(h, c), (c, h)], (h, c), program=("sub x0 x1",), dims=(h, c),
                       places=((0, c, 1), (0, 1, h)))  # fmt: skip
        yield _strided(f"backwards-{h}x{c}", [(h, c)], (h, c), program=("neg x0",), dims=(h, c),
                       places=(((h - 1) * c + c - 1, -c, -1),))  # fmt: skip
    for rows in ((6, 10), (15, 4), (4, 15), (1, 60), (60, 1), (12, 5)):
        # [3, 4, 5] with a constant of each kind, over any rows of the input and of the result.
        for out in ((6, 10), (1, 60), (20, 3), (60, 1)):
            yield _strided(f"any-rows-{rows[0]}-{out[0]}", [rows, (4, 1)], out, program=("mul x0 c0", "add t0 x1", "sub t1 c1"),
                           dims=(3, 4, 5), constants=(5, 12),
                           places=((0, 20, 5, 1), (0, 0, 1, 0), (0, 0, 0, 1), (0, 4, 1, 0)))  # fmt: skip
    for f, t, i, j in ((7, 40, 2, 2), (33, 5, 2, 3), (1, 300, 4, 4), (9, 1, 3, 3), (70, 70, 1, 2)):
        # Many small products of a column and a row, which lie by f, by t, or matrix by matrix.
        n, m = f * t, f * t * i
        by_f, by_t = (0, t, 1, n, 0), (0, 1, f, 0, n)
        yield _strided(f"small-{f}x{t}x{i}x{j}", [(i, n), (1, n * j)], (n * i, j), program=("mul x0 x1", "sub t0 c0"),
                       dims=(f, t, i, j), constants=(m,), places=(by_f, by_t, (0, t * i, i, 1, 0)))  # fmt: skip
        yield _strided(f"small-rows-{f}x{t}x{i}x{j}", [(f, t), (f, t)], (f, t * i * j), program=("add x0 x1", "mul t0 c0"),
                       dims=(f, t, i, j), constants=(j,), places=((0, t, 1, 0, 0), (0, t, 1, 0, 0), (0, 0, 0, 0, 1)))  # fmt: skip
    yield _strided("every-second", [(9, 14)], (9, 7), program=("exp x0",), dims=(9, 7), places=((1, 14, 2),))
    yield _strided("window", [(1, 40)], (1, 27), program=("copy x0",), dims=(27,), places=((7, 1),))
    yield _strided("six-dims", [(1, 2 * 3 * 2 * 5 * 3 * 2)], (1, 360), program=("neg x0",), dims=(2, 3, 2, 5, 3, 2),
                   places=((0, 1, 4, 2, 36, 12, 180),))  # fmt: skip
    assert prod((2, 3, 2, 5, 3, 2)) == 360
