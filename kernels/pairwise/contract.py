"""Pairwise: y[b, i, j] = join over k of v[b, k, j] f(a[b, i, k] - w[b, k, j]), float32; [M, steps, width] each.

attrs["kind"], attrs["of"]: "sum" or "mean" of "squares" (squared Euclidean distances), or of "magnitudes" (Manhattan); "amax" of
"magnitudes" (Chebyshev). A NaN among the elements is the result.
attrs["sizes"]: those of the dimensions of b, i, j and k. attrs["places"], and a parameter "a" or "w" instead of a value: as
rtaccel.kernels._matrices.product has them. v, weights of a sum or a mean, is a parameter with a third place; 1 where there is
none. The plan makes such a stage of an expression and a reduction, which would have all
i j k differences in memory between them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.stage import Problem, Stage, Value
from rtaccel.core.traits import Role
from rtaccel.kernels._common.strides import dense
from rtaccel.kernels._matrices import product
from rtaccel.kernels.pairwise.in_plans import KINDS, WEIGHTED, InPlans, in_order

MAX_TERMS = 1 << 20
"""At a time, in plain torch."""


def sizes_of(attrs: Mapping[str, Any]) -> product.Sizes:
    b, i, j, k = (tuple(dims) for dims in attrs["sizes"])
    return b, i, j, k


def lower(stage: Stage) -> Mapping[str, Any]:
    kind, of, sizes = stage.attrs["kind"], stage.attrs["of"], sizes_of(stage.attrs)
    kinds = WEIGHTED if "v" in stage.tensors else KINDS
    if (kind, of) not in kinds:
        known = ", ".join(f"{kind} of {of}" for kind, of in kinds)
        raise FormatError("pairwise", f"{kind!r} of {of!r}", f"one of {known}", "Name one of these.")
    if prod(sizes[3]) == 0:
        raise ShapeError("pairwise", f"sizes {stage.attrs['sizes']}", "a term to join", "Correct the stage.")
    return {"kind": kind, "of": of, **product.lower(_with_rows_of_weights(stage), sizes)}


def _with_rows_of_weights(stage: Stage) -> Stage:
    """Weights of each j, one behind the other."""
    b, _, j, k = sizes_of(stage.attrs)
    if "v" not in stage.tensors:
        return stage
    product.iterations(stage, sizes_of(stage.attrs))  # what it refuses, it refuses here
    first, second, place = product.places(stage)
    tensor, place = in_order(stage.tensors["v"], (*b, *k, *j), place, len(b) + len(k))
    attrs = {**stage.attrs, "places": (first, second, place)}
    return replace(stage, tensors={**stage.tensors, "v": tensor}, attrs=attrs)


def joined(stage: Stage, left: Tensor, right: Tensor, *weights: Tensor) -> Tensor:
    """[M, b, i, k] and [M, b, k, j] -> [M, b, i, j], in their dtype. Some rows of `left` at a time, for the sake of memory."""
    call = {"sum": torch.sum, "mean": torch.mean, "amax": torch.amax}[stage.attrs["kind"]]
    each = max(left.shape[0], right.shape[0]) * prod(right.shape[1:])
    rows = []
    for part in left.split(max(1, MAX_TERMS // max(1, each)), 2):
        off = part[..., None] - right[:, :, None]
        term = off * off if stage.attrs["of"] == "squares" else off.abs()
        for v in weights:
            term = v[:, :, None] * off * off if stage.attrs["of"] == "squares" else term * v[:, :, None]
        rows.append(call(term, -2))
    return torch.cat(rows, 2)


def operands(stage: Stage, *inputs: Tensor) -> list[Tensor]:
    """What `joined` takes."""
    return product.operands(stage, sizes_of(stage.attrs), *inputs)


def reference(stage: Stage, *inputs: Tensor) -> tuple[Tensor]:
    y = joined(stage, *(t.double() for t in operands(stage, *inputs))).float()
    return (y.reshape(inputs[0].shape[0], *stage.outputs[0].shape),)


def tolerance(stage: Stage, *inputs: Tensor) -> Tolerance:
    """A difference of float32 rounds once, its square twice that and its own; k additions round a partial sum each, which is at
    most the sum of terms; weights and a mean round once more each. Of the largest, the difference alone."""
    left, right, *weights = (t.double() for t in operands(stage, *inputs))
    bound = joined(stage, left, right, *(v.abs() for v in weights)).nan_to_num(posinf=0.0)
    eps, terms = torch.finfo(torch.float32).eps, 1 if stage.attrs["kind"] == "amax" else left.shape[-1] + 5
    return Tolerance(atol=(eps * terms * bound + 1e-37).reshape(inputs[0].shape[0], *stage.outputs[0].shape))


def make_stage(kind: str, of: str, sizes: product.Sizes, places: tuple[tuple[int, ...], ...] | None = None,
               shapes: tuple[tuple[int, int], ...] | None = None) -> Stage:  # fmt: skip
    """places: None for rows of k, of a and of the transpose of w, one behind the other. shapes: [steps, width] of a, w and y."""
    b, i, j, k = sizes
    if places is None:
        turned = dense((*b, *j, *k))
        batch, columns, inner = turned[: 1 + len(b)], turned[1 + len(b) : 1 + len(b) + len(j)], turned[-len(k) :]
        places = (dense((*b, *i, *k)), (*batch, *inner, *columns))
    if shapes is None:
        shapes = ((prod((*b, *i)), prod(k)), (prod((*b, *j)), prod(k)), (prod((*b, *i)), prod(j)))
    a, w, y = (Value(n, width, steps=steps) for n, (steps, width) in zip("awy", shapes))
    return Stage("pairwise", "case", (a, w), (y,), {}, {"kind": kind, "of": of, "sizes": sizes, "places": places})


def with_parameter(side: str, stage: Stage) -> Stage:
    given = dict(zip("aw", stage.inputs))
    size = given.pop(side)
    tensor = torch.randn(size.steps * size.width, generator=torch.Generator().manual_seed(size.width))
    return replace(stage, inputs=tuple(given.values()), tensors={side: tensor})


def weighted(stage: Stage, expanded: bool = True) -> Stage:
    """With weights of either sign. expanded: of each j, else the same for all."""
    b, _, j, k = sizes_of(stage.attrs)
    dims = (*b, *k, *(j if expanded else ()))
    place = (*dense(dims), *(() if expanded else (0 for _ in j)))
    tensor = torch.randn(prod(dims), generator=torch.Generator().manual_seed(prod(dims)))
    attrs = {**stage.attrs, "places": (*stage.attrs["places"], place)}
    return replace(stage, tensors={**stage.tensors, "v": tensor}, attrs=attrs)


def _case(label: str, stage: Stage, rows: int = 2) -> Case:
    def make(seed: int) -> tuple[Tensor, ...]:
        g = torch.Generator().manual_seed(seed)
        made = []
        for v in stage.inputs:
            x = torch.randn(rows, *v.shape, generator=g) * 3.0
            rare = torch.rand(x.shape, generator=g)
            x = torch.where(rare < 0.004, torch.tensor(float("nan")), x)
            made.append(torch.where(rare > 0.996, torch.tensor(float("inf")), x))
        return tuple(made)

    return Case(label, stage, make)


def cases() -> Iterator[Case]:
    sizes: list[product.Sizes] = [
        ((), (1,), (1,), (1,)), ((), (3,), (5,), (7,)), ((2,), (4,), (64,), (3,)), ((3,), (7,), (33,), (18,)),
        ((2, 2), (5,), (16,), (130,)), ((), (1,), (300,), (20,)), ((4,), (17,), (17,), (1,)), ((), (9,), (40,), (600,)),
    ]  # fmt: skip
    for kind, of in KINDS:
        for b, i, j, k in sizes:
            shape = "x".join(map(str, (*b, *i, *j, *k)))
            rows = make_stage(kind, of, (b, i, j, k))
            columns = (dense((*b, *i, *k)), dense((*b, *k, *j)))
            yield _case(f"{kind}-{of}-{shape}", rows)
            yield _case(f"{kind}-{of}-{shape}-columns", make_stage(kind, of, (b, i, j, k), columns))
            yield _case(
                f"{kind}-{of}-{shape}-codes", with_parameter("w", make_stage(kind, of, (b, i, j, k), columns)), 5
            )
            yield _case(f"{kind}-{of}-{shape}-left", with_parameter("a", rows))
            if (kind, of) in WEIGHTED:
                yield _case(f"{kind}-{of}-{shape}-weights", weighted(rows))
                codes = with_parameter("w", make_stage(kind, of, (b, i, j, k), columns))
                yield _case(f"{kind}-{of}-{shape}-weighted-codes", weighted(codes), 5)
                yield _case(f"{kind}-{of}-{shape}-weights-of-k", weighted(rows, False))
    once: product.Sizes = ((3,), (4,), (6,), (5,))
    one_left = ((0, 0, 5, 1), (0, 30, 1, 5))  # for all of b
    yield _case("one-left-side", make_stage("sum", "squares", once, one_left, ((4, 5), (18, 5), (12, 6))))
    yield _case("one-row", make_stage("sum", "squares", once, None, ((1, 60), (1, 90), (1, 72))))
    yield _case("across-rows", make_stage("amax", "magnitudes", once, None, ((12, 5), (9, 10), (8, 9))))
    yield _case("dimensions", make_stage("mean", "magnitudes", ((), (2, 3), (4, 2), (3, 5))))
    apart = ((1, 21, 7, 1), (1, 6, 1))  # rows of a in two dimensions, parts of wider rows
    yield _case("apart", make_stage("sum", "squares", ((), (2, 3), (4,), (5,)), apart, ((6, 7), (5, 6), (6, 4))))


def cost(problem: Problem) -> Cost:
    return product.cost(sizes_of(problem.attrs), problem.rows, 3)


def packed_bytes(stage: Stage) -> int:
    b, _, j, k = sizes_of(stage.attrs)
    return product.packed_bytes(stage, sizes_of(stage.attrs)) + 4 * prod((*b, *k, *j)) * ("v" in stage.tensors)


OPERATOR = register_operator(
    Operator(
        name="pairwise",
        axes={"a": ("M", "b", "i", "k"), "w": ("M", "b", "k", "j"), "y": ("M", "b", "i", "j")},
        reference=reference,
        cases=cases,
        tolerance=tolerance,
        cost=cost,
        lower=lower,
        packed_bytes=packed_bytes,
        by_row=False,
        role=Role.PAIRS,
        pairs=InPlans(),
    )
)
