"""What operators on small matrices share: their operands as float64, and what is refused of a stage.

Matrices of a sample lie one behind the other and by rows: [M, steps, width], with count * rows * columns elements a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.core.registry import Case
from rtaccel.core.stage import Problem, Stage, Value

MAX_N, MAX_COLUMNS = 64, 4096
EPS, EPS_64 = torch.finfo(torch.float32).eps, torch.finfo(torch.float64).eps

Shapes = Mapping[str, tuple[int, ...]]


def check_within(op: str, *sizes: int, count: int, most: int = MAX_N) -> None:
    """Sizes of matrices, of which there are `count` in a sample: within 1 and the largest, one of them at most `most`."""
    if min(*sizes, count) < 1 or min(sizes) > most or max(sizes) > MAX_COLUMNS:
        given = f"{count} matrices of {' x '.join(map(str, sizes))}"
        raise ShapeError(op, given, f"1..{most}, and the other side to {MAX_COLUMNS}", "Correct the stage.")


def check(stage: Stage, wanted: Shapes, results: Shapes, whole: tuple[str, ...] = ()) -> None:
    """Inputs, constants and outputs of these sizes, float32. whole: results that are int64. Raises a typed error where they are
    others."""
    op, elements = stage.op, {name: _elements(shape) for name, shape in wanted.items()}
    given = [name for name in wanted if name not in stage.tensors]
    if not given or len(given) != len(stage.inputs) or stage.tensors.keys() - wanted.keys():
        raise ShapeError(op, f"{len(stage.inputs)} inputs", f"{given}, or a constant each", "Correct the stage.")
    sizes = {name: v.steps * v.width for name, v in zip(given, stage.inputs)}
    sizes |= {name: t.numel() for name, t in stage.tensors.items()}
    made = [v.steps * v.width for v in stage.outputs]
    if sizes != elements or made != [_elements(shape) for shape in results.values()]:
        raise ShapeError(op, f"{sizes} and results of {made}", f"{elements} and {dict(results)}", "Correct the stage.")
    dtypes = [*(["float32"] * len(stage.inputs)), *("int64" if name in whole else "float32" for name in results)]
    if [v.dtype for v in (*stage.inputs, *stage.outputs)] != dtypes:
        raise FormatError(op, "another dtype", f"{', '.join(dtypes)}", "Cast the values.")


def _elements(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def squares(stage: Stage) -> Shapes:
    """The operand of a stage of square matrices."""
    n, count = attributes(stage, "n", "count")
    return {"a": (count, n, n)}


def rectangles(stage: Stage) -> Shapes:
    """That of a stage of matrices with any sides."""
    rows, columns, count = attributes(stage, "rows", "columns", "count")
    return {"a": (count, rows, columns)}


def constants(stage: Stage) -> dict[str, Tensor]:
    return {name: tensor.detach().float().reshape(-1) for name, tensor in stage.tensors.items()}


def operands(stage: Stage, inputs: tuple[Tensor, ...], wanted: Shapes) -> dict[str, Tensor]:
    """Each [M, count, rows, columns] in float64."""
    left, found = list(inputs), {}
    for name, shape in wanted.items():
        fixed = stage.tensors.get(name)
        given = left.pop(0) if fixed is None else fixed.to(inputs[0].device)[None].expand(len(inputs[0]), *fixed.shape)
        found[name] = given.double().reshape(len(inputs[0]), *shape)
    return found


def result(stage: Stage, place: int, y: Tensor, rows: int) -> Tensor:
    """y [M, count, ..] as output `place` of the stage, rounded to float32."""
    return y.float().reshape(rows, *stage.outputs[place].shape).contiguous()


def mirrored(a: Tensor) -> Tensor:
    """The symmetric matrix with this lower triangle."""
    return a.tril() + a.tril(-1).mT


def per_matrix(a: Tensor, function: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Tensor:
    """function of the matrices of a [M, count, rows, columns] that are finite; NaN [M, count, *shape] for the others."""
    finite = a.isfinite().all(-1).all(-1)
    y = torch.full((*a.shape[:2], *shape), float("nan"), dtype=a.dtype, device=a.device)
    if bool(finite.any()):
        y[finite] = function(a[finite])
    return y


def largest(y: Tensor) -> Tensor:
    """[M, count, 1, 1]: the largest magnitude of each matrix."""
    return y.abs().amax((-2, -1), keepdim=True)


KINDS = ("normal", "zero", "low rank", "near singular", "large", "small", "diagonal")
"""Of random matrices."""


def random(generator: torch.Generator, kind: str, *shape: int) -> Tensor:
    """Matrices [.., rows, columns] of a kind, float32."""
    x = torch.randn(shape, generator=generator)
    rows, columns = shape[-2:]
    least = min(rows, columns)
    if kind == "zero":
        return torch.zeros(shape)
    if kind in ("low rank", "near singular") and least > 1:
        inner = torch.ones(least) if kind == "low rank" else torch.logspace(0, -6, least)
        if kind == "low rank":
            inner[(least + 1) // 2 :] = 0
        left = torch.randn(*shape[:-1], least, generator=generator)
        right = torch.randn(*shape[:-2], least, columns, generator=generator)
        return left * inner @ right
    if kind == "diagonal":
        return x * torch.eye(rows, columns)
    return x * {"large": 1e12, "small": 1e-12}.get(kind, 1.0)


def cases(
    stages: Iterator[tuple[str, Stage]], kinds: tuple[str, ...], shapes: Callable[[Stage], Shapes]
) -> Iterator[Case]:
    """Conformance cases: each stage with each kind of its matrix a, in three samples."""
    for label, stage in stages:
        for kind in kinds:

            def make(seed: int, stage: Stage = stage, kind: str = kind) -> tuple[Tensor, ...]:
                g = torch.Generator().manual_seed(seed)
                wanted = shapes(stage)
                given = [n for n in wanted if n not in stage.tensors]
                return tuple(
                    random(g, kind if name == "a" else "normal", 3, *wanted[name]).reshape(3, *v.shape)
                    for name, v in zip(given, stage.inputs)
                )

            yield Case(f"{label}-{kind}".replace(" ", "-"), stage, make)


def values(shapes: Shapes) -> tuple[Value, ...]:
    """Values that hold them, a row of a matrix each."""
    return tuple(Value(n, s[-1], steps=_elements(s[:-1])) for n, s in shapes.items())


def moved(problem: Problem) -> int:
    """Bytes of all inputs and outputs."""
    given = sum(s * w for s, w in zip(problem.in_steps, problem.in_widths))
    made = sum(s * w for s, w in zip(problem.out_steps, problem.out_widths))
    return 4 * problem.rows * (given + made)


def attributes(stage: Stage, *names: str) -> tuple[Any, ...]:
    return tuple(stage.attrs[name] for name in names)
