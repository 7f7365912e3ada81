"""For which batch sizes a captured graph is the model: the conditions that torch recorded while it traced the code.

Code may look at the batch (`if x.shape[0] > 4`, `x[:10]`, `reshape(14, -1)`). Tracing takes the way of the traced size, and
records what it took for granted as a guard over the symbols of the open sizes. Each guard becomes sizes here: exactly where
it is linear, by trying them one by one where it is not. Sizes 0 and 1 are a matter of their own: torch takes them for granted
to be neither and records nothing, so that only a comparison with the model itself shows them (`runtime/verification/verify.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from traceback import FrameSummary
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.batch import ANY_BATCH, BatchRange

MAX_TRIED = 1024
"""Largest size that is tried for a guard that is not linear. Larger batches are then refused."""


def batch_range(
    program: torch.export.ExportedProgram, example: int, known: Mapping[Any, int] | None = None
) -> BatchRange | None:
    """The sizes around `example` for which every guard of the export holds; None where the example itself is not one.

    All inputs share one batch, so that every symbol of a first dimension stands for it. known: symbols of other dimensions,
    with their sizes.
    """
    import sympy

    symbols, env = _batch_symbols(program)
    if env is None:
        return ANY_BATCH
    found = ANY_BATCH
    for symbol in symbols:
        bounds = env.var_to_range.get(symbol)
        lower, upper = (_number(bounds.lower), _number(bounds.upper)) if bounds is not None else (None, None)
        if lower is not None and lower > 2:  # 2 is what torch assumes of every size
            found = found.cut(lo=lower)
        if upper is not None:
            found = found.cut(hi=upper)
    for expression, source in _guards(env):
        expression = env.replace(expression)  # inputs that must agree have one symbol left
        expression = sympy.sympify(expression.xreplace(dict(known or {})))
        if not expression.free_symbols:
            if not expression:
                return None
            continue
        if not expression.free_symbols <= symbols:
            return None  # depends on values, not on sizes
        sizes = _sizes_of(expression, symbols, example)
        if sizes is None:
            return None
        found = found.cut(*sizes, why=f"{_text(expression, symbols)}{source}")
    return found if example in found else None


def _batch_symbols(program: torch.export.ExportedProgram) -> tuple[set[Any], Any]:
    """The symbols of the first dimensions of all inputs, and torch's record of what was asked of them."""
    symbols: set[Any] = set()
    wanted, env = set(program.graph_signature.user_inputs), None
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and node.name in wanted and isinstance(value, Tensor) and value.dim():
            if not isinstance(value.shape[0], int):
                first: Any = value.shape[0]
                symbols |= first.node.expr.free_symbols
            opened: list[Any] = [n for n in value.shape if not isinstance(n, int)]
            env = opened[0].node.shape_env if opened else env
    return symbols, env


def _number(bound: Any) -> int | None:
    """A finite bound as a number."""
    try:
        value = int(bound)
    except (TypeError, ValueError, OverflowError, AttributeError):
        return None
    return value if abs(value) < 2**62 else None


def _guards(env: Any) -> Iterable[tuple[Any, str]]:
    """(condition, where in the model) of every guard and deferred assertion."""
    for guard in env.guards:
        yield guard.expr, _source(guard)
    for asserts in env.deferred_runtime_asserts.values():
        for one in asserts:
            yield one.expr, ""


def _source(guard: Any) -> str:
    """File and line of the model's own code, where torch noted them."""
    place = getattr(guard, "sloc", None)
    if user := getattr(place, "maybe_user_loc", None):
        return f" at {str(user).splitlines()[0].split(' in ')[0]}"
    frame = getattr(place, "framework_loc", None)
    if not isinstance(frame, FrameSummary) or Path(torch.__file__).parent in Path(frame.filename).parents:
        return ""
    return f" at {Path(frame.filename).name}:{frame.lineno}"


def _text(expression: Any, symbols: set[Any]) -> str:
    """The condition as Python writes it."""
    from torch.utils._sympy.printers import PythonPrinter

    condition = _one_symbol(expression, symbols)
    try:
        return str(PythonPrinter().doprint(condition)).replace("_batch_", "batch")
    except Exception:  # a form that the printer does not know
        return str(condition).replace("_batch_", "batch")


def _one_symbol(expression: Any, symbols: Sequence[Any] | set[Any]) -> Any:
    import sympy

    batch = sympy.Symbol("_batch_", integer=True, nonnegative=True)
    return expression.xreplace(dict.fromkeys(symbols, batch))


def _sizes_of(expression: Any, symbols: set[Any], example: int) -> tuple[int, int | None] | None:
    """The largest run of sizes around `example` for which a condition holds; None where it does not hold there."""
    import sympy

    condition = _one_symbol(expression, symbols)
    if condition == sympy.true:
        return 0, None
    if condition == sympy.false:
        return None
    linear = _linear(condition, example)
    return linear if linear != (-1, None) else _tried(condition, example)


def _linear(condition: Any, example: int) -> tuple[int, int | None] | None:
    """The sizes where the condition is linear in the batch; (-1, None) where it is something else."""
    import sympy

    unknown = (-1, None)
    if not isinstance(condition, sympy.core.relational.Relational):
        return unknown
    if (bounds := _of_quotient(condition)) is not None:
        return _all_of([_linear(bound, example) for bound in bounds if bound != sympy.true])
    (batch,) = condition.free_symbols
    side = sympy.expand(condition.lhs - condition.rhs)
    slope, offset = side.coeff(batch, 1), side.coeff(batch, 0)
    if side != slope * batch + offset or not slope.is_Rational or not offset.is_Rational or slope == 0:
        return unknown
    root = -offset / slope
    if isinstance(condition, sympy.Eq):
        return (int(root), int(root)) if root == example else None
    if isinstance(condition, sympy.Ne):
        if root == example:
            return None
        if not root.is_integer:
            return 0, None
        return (0, int(root) - 1) if example < root else (max(0, int(root) + 1), None)
    above = isinstance(condition, (sympy.Gt, sympy.Ge)) == (slope > 0)
    strict = isinstance(condition, (sympy.Gt, sympy.Lt))
    if above:
        lo = int(math.floor(root) + 1 if strict else math.ceil(root))  # of a sympy number, a sympy number
        return (max(0, lo), None) if example >= lo else None
    hi = int(math.ceil(root) - 1 if strict else math.floor(root))
    return (0, hi) if example <= hi else None


def _all_of(ranges: Sequence[tuple[int, int | None] | None]) -> tuple[int, int | None] | None:
    """The sizes of all ranges of `_linear`."""
    if (-1, None) in ranges:
        return -1, None
    known = [one for one in ranges if one is not None]
    if len(known) < len(ranges):
        return None
    return max(lo for lo, _ in known), min((hi for _, hi in known if hi is not None), default=None)


def _of_quotient(condition: Any) -> tuple[Any, ...] | None:
    """`p // q == n`, with q positive for any batch but none, as what it says of p: `n q <= p < (n + 1) q`. None of others."""
    import sympy
    from torch.utils._sympy.functions import FloorDiv

    if not isinstance(condition, sympy.Eq):
        return None
    quotient, number = condition.args if isinstance(condition.lhs, FloorDiv) else reversed(condition.args)
    if not isinstance(quotient, FloorDiv) or not number.is_Integer:
        return None
    above, below = quotient.args
    (batch,) = condition.free_symbols
    if not (below.coeff(batch, 1) >= 0 and sympy.Poly(below, batch).degree() <= 1 and below.subs(batch, 1) > 0):
        return None
    return sympy.Ge(above, number * below), sympy.Lt(above, (number + 1) * below), sympy.Gt(below, 0)


def _tried(condition: Any, example: int) -> tuple[int, int | None] | None:
    holds = _compiled(condition)
    if not holds(example):
        return None
    lo, hi = example, example
    while lo > 0 and holds(lo - 1):
        lo -= 1
    while hi < max(MAX_TRIED, example) and holds(hi + 1):
        hi += 1
    return lo, hi


def _compiled(condition: Any) -> Any:
    """The condition as a function of the batch."""
    import sympy
    from torch.utils._sympy.printers import PythonPrinter

    (batch,) = condition.free_symbols
    try:
        code = compile(PythonPrinter().doprint(condition.xreplace({batch: sympy.Symbol("batch")})), "guard", "eval")

        def holds(size: int) -> bool:
            try:
                return bool(eval(code, {"math": math}, {"batch": size}))
            except (ZeroDivisionError, ValueError):
                return False

        holds(2)
        return holds
    except Exception:  # a form that the printer does not know: sympy itself, more slowly

        def slow(size: int) -> bool:
            try:
                return bool(condition.xreplace({batch: sympy.Integer(size)}))
            except Exception:
                return False

        return slow
