"""What is measured: every kernel of the registry on its cases, and models; each made when its turn comes.

This file, `_common/cases.py` and `_common/target.py` are also run on the registry of another version (see worker.py): they use
nothing of rtaccel but `core`, `backends`, contracts and `compile`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from rtaccel.backends import backends
from rtaccel.cli._common import cases as _cases
from rtaccel.cli._common import target as _target
from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.core.registry import Case, Impl, impls, operator
from rtaccel.core.stage import Problem

Call = Callable[[], object]


@dataclass(frozen=True)
class Item:
    """make: gives the call and the bytes of its weights (None where it does not matter), or raises a typed error."""

    name: str
    make: Callable[[], tuple[Call, int | None]]


def items(
    words: Sequence[str], shapes: Path | None, options: argparse.Namespace, batch: int | None = None
) -> list[Item]:
    """Words with a colon are targets; others are patterns of `operator/case/kernel`. No words: every kernel.

    batch: samples of a call, instead of those of the case or the example.

    Raises FormatError for a pattern that fits nothing.
    """
    models = [word for word in words if ":" in word]
    patterns = [word for word in words if ":" not in word]
    found = [] if models and not patterns else _kernels(shapes, patterns or ["*"], batch)
    if patterns:
        for pattern in patterns:
            if not any(fnmatchcase(item.name, pattern) for item in found):
                expected = "a pattern that fits a name, such as 'linear/*' or 'softmax/*/cpu_*'"
                raise FormatError("bench", repr(pattern), expected, "See `rtaccel bench --list`.")
        found = [item for item in found if any(fnmatchcase(item.name, pattern) for pattern in patterns)]
    return found + [Item(target, _model(target, options, batch)) for target in models]


def _kernels(shapes: Path | None, patterns: Sequence[str], batch: int | None) -> list[Item]:
    """Those of operators that a pattern may mean: making the cases of all takes seconds.

    Triton is left out where it would run in its interpreter: that checks numbers, and its speed says nothing.
    """
    names = [
        b.name for b in backends().values() if "cpu" in b.devices and b.name != "triton" and b.unavailable() is None
    ]
    found = []
    for op, case in _cases.cases(shapes, lambda op: any(_may_mean(pattern, op) for pattern in patterns)):
        rows = batch or case.make(0)[0].shape[0]
        for impl in (i for name in names for i in impls(name, op)):
            if impl.supports(Problem.of(case.stage, rows)) is None:
                found.append(Item(f"{op}/{case.id}/{impl.name}", _kernel(case, impl, batch)))
    return found


def _may_mean(pattern: str, op: str) -> bool:
    """By what stands before the first wildcard, which may stand for slashes too."""
    plain = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
    return f"{op}/".startswith(plain) or plain.startswith(f"{op}/")


def _kernel(case: Case, impl: Impl, batch: int | None) -> Callable[[], tuple[Call, int | None]]:
    def make() -> tuple[Call, int | None]:
        inputs = case.make(7) if batch is None else _cases.random_inputs(case.stage, batch, 7)
        call = impl.prepare(case.stage, Problem.of(case.stage, inputs[0].shape[0]))
        check(case, call(*inputs), inputs)
        return lambda: call(*inputs), None

    return make


def check(case: Case, results: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor]) -> None:
    """Raises UnsupportedProblem where a result is not within the contract's tolerance: wrong results have no speed."""
    op = operator(case.stage.op)
    tolerance = op.tolerance(case.stage, *inputs)
    for got, want in zip(results, op.reference(case.stage, *inputs)):
        if not tolerance.within(got, want).all():
            raise UnsupportedProblem(
                "bench", f"wrong results of {case.id}", "results within tolerance", "Run the tests."
            )


def of_batch(inputs: tuple[Any, ...], batch: int) -> tuple[Any, ...]:
    """The example with so many samples: tensors as long as the first one are repeated along their first axis.

    Raises UnsupportedProblem for an example without samples.
    """
    tensors = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, torch.Tensor) and leaf.dim()]
    if not tensors or not len(tensors[0]):
        raise UnsupportedProblem("bench", "an example without samples", "a tensor [batch, ...]", "Leave batch out.")
    samples = len(tensors[0])

    def resized(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or not leaf.dim() or len(leaf) != samples:
            return leaf
        return torch.cat([leaf] * -(-batch // samples))[:batch].contiguous()

    return tuple(pytree.tree_map(resized, inputs))


def _model(text: str, options: argparse.Namespace, batch: int | None) -> Callable[[], tuple[Call, int | None]]:
    def make() -> tuple[Call, int | None]:
        target = _target.load_target(text)
        if batch is not None:
            target = replace(target, inputs=of_batch(target.inputs, batch))
        fast = _target.compile_target(target, options)
        with torch.no_grad():
            return fast.bind(*target.inputs, out=fast(*target.inputs)), fast.weight_bytes

    return make
