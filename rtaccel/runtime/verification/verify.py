"""A compiled model against the model it came from, at several batches: what was assumed while it was exported is tried.

What torch records of a model's code is kept as a range of batches (`frontend/guards/sizes.py`). It records nothing of sizes 0
and 1, and a mistake of ours would not be in its record either. So results are compared, with fresh random numbers: structure,
shapes, dtypes, and values within what float32 sums in another order can differ by.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rtaccel.convert.frontend.torchscript import with_read_tuples
from rtaccel.core.batch import BatchRange
from rtaccel.core.errors import RtaccelError
from rtaccel.runtime.verification.results import TOLERANCE, cloned, compare_one, dense
from rtaccel.runtime.verification.rounding import is_rounding

SIZES = (0, 1, 2, 3, 5, 8)
MAX_S = 1.0
"""Seconds that comparing may take, as long as the example and batches of 1 and 2 are compared."""


@dataclass(frozen=True)
class Verified:
    """failed: batch -> what differs. error: largest difference of values that passed, of the rms. rounding: the same of results
    that the model's own rounding changes as much. sizes: compared."""

    failed: dict[int | None, str]
    error: float
    rounding: float
    sizes: tuple[int | None, ...]
    seconds: float

    def note(self) -> str:
        known = sorted(s for s in self.sizes if s is not None)
        sizes = f"batch sizes {', '.join(map(str, known))}" if known else "the shapes of the example"
        return (
            f"verified against the model at {sizes} in {self.seconds * 1e3:.0f} ms: "
            f"largest difference {max(self.error, self.rounding):.1e} of the rms"
            + (", as far as the model's own float32 is from float64" if self.rounding else "")
        )


def verified(
    model: nn.Module,
    candidate: Callable[..., Any],
    args: tuple[Any, ...],
    example: int | None,
    batch: BatchRange,
    tolerance: float | None = None,
    values: bool = False,
) -> Verified | str:
    """Compares `candidate` with the model at the example's batch and, where others are allowed, at some of them.

    values: at the example's batch with other numbers too, for a graph in which one of them may have decided something.

    example: the batch of the arguments; None where they share none. A sentence where there is nothing to compare with: a model
    that gives another result each time.
    """
    start = time.perf_counter()
    generator = torch.Generator().manual_seed(7)
    if tolerance is None:
        tolerance = tolerance_for(model, args)
    if not _is_steady(model, args):
        return "not verified: the model gives another result each time it is called"
    once = max(time.perf_counter() - start, 1e-6) / 2 / max(example or 1, 1)
    failed: dict[int | None, str] = {}
    compared: list[int | None] = []
    worst, rounding = 0.0, 0.0
    for size in _sizes(example, batch):
        known = size == example or size in (1, 2)
        if not known and time.perf_counter() - start + 3 * once * max(size or 1, 1) > MAX_S:
            continue
        compared.append(size)
        for attempt in range(2):  # a tie that falls the other way is no difference in the code, and does not come twice
            given = other_values(args, generator, None if size == example else size, noise=attempt or size != example)
            difference, error, excused = _compare(model, candidate, given, tolerance)
            if difference is None:
                worst, rounding = max(worst, error), max(rounding, excused)
                failed.pop(size, None)
                break
            failed[size] = difference
    for _ in range(2 if values and not failed else 0):
        difference, error, excused = _compare(model, candidate, other_values(args, generator), tolerance)
        if difference is None:
            worst, rounding = max(worst, error), max(rounding, excused)
            failed.pop(example, None)
            break
        failed[example] = difference
    return Verified(failed, worst, rounding, tuple(s for s in compared if s not in failed), time.perf_counter() - start)


def narrowed(batch: BatchRange, example: int | None, found: Verified) -> BatchRange | None:
    """The batches that are left where some were refuted; None where no range around the example is."""
    if not found.failed:
        return batch
    size = max(-1 if failed is None else failed for failed in found.failed)
    if example is None or size > 1 or example <= size:
        return None
    return batch.cut(lo=size + 1, why=f"with a batch of {size} {found.failed[size]}")


def _sizes(example: int | None, batch: BatchRange) -> list[int | None]:
    """The example first, then what lies at the edges of the range."""
    if example is None or batch.fixed:
        return [example]
    edges = [batch.lo, batch.lo + 1] if batch.lo else []
    if batch.hi is not None and batch.hi <= 64:
        edges.append(batch.hi)
    wanted = dict.fromkeys((example, 1, 2, 0, *edges, *SIZES))
    return [size for size in wanted if size in batch]


def other_values(
    args: tuple[Any, ...], generator: torch.Generator, size: int | None = None, noise: float = 1.0
) -> tuple[Any, ...]:
    """Arguments like the example's: its samples, in turn up to `size` of them, with noise on what is real. Whole numbers and
    truth values stay those of the example, whose range is theirs."""

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        x = leaf.detach().clone()
        if size is not None:
            x = x[torch.arange(size, device=leaf.device) % max(leaf.shape[0], 1)] if leaf.shape[0] else x
        if not x.is_floating_point() or not noise or not x.numel():
            return x
        known = leaf[torch.isfinite(leaf)].float()
        spread = float(known.std()) if known.numel() > 1 else 0.0
        drawn = torch.randn(x.shape, generator=generator, dtype=torch.float32, device="cpu").to(x.device)
        return (x.float() + drawn * (0.3 * spread or 1.0)).to(x.dtype)

    return pytree.tree_map(one, args)


def tolerance_for(model: nn.Module, args: tuple[Any, ...], inside: Sequence[torch.dtype] = ()) -> float:
    """By the least precise dtype among its tensors, and of what it computes in inside."""
    dtypes = (*inside, *(t.dtype for t in _tensors(model, args)))
    return max([1e-3, *(TOLERANCE.get(dtype, 0.0) for dtype in dtypes)])


def _tensors(model: nn.Module, args: tuple[Any, ...]) -> list[Tensor]:
    leaves = [leaf for leaf in pytree.tree_leaves(args) if isinstance(leaf, Tensor)]
    return [*leaves, *model.parameters(), *model.buffers()]


def _is_steady(model: nn.Module, args: tuple[Any, ...]) -> bool:
    with torch.no_grad():
        first, second = (pytree.tree_leaves(dense(model(*cloned(args)))) for _ in range(2))
    if len(first) != len(second):
        return False
    return all(
        a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all()) if isinstance(a, Tensor) else True
        for a, b in zip(first, second)
    )


def _compare(
    model: nn.Module, candidate: Callable[..., Any], args: tuple[Any, ...], tolerance: float
) -> tuple[str | None, float, float]:
    """(what differs or None, the largest difference of the rms, the same of results that the model's own rounding excuses)."""
    try:
        with torch.no_grad():
            want = with_read_tuples(model(*cloned(args)))
    except Exception as raised:  # the model's own words, of any kind
        return f"the model raises {type(raised).__name__}", 0.0, 0.0
    try:
        got = candidate(*cloned(args))
    except RtaccelError as raised:
        return f"a call raises: {raised}", 0.0, 0.0
    except Exception as raised:
        return f"a call that falls back to PyTorch raises {type(raised).__name__}", 0.0, 0.0
    wanted, spec = pytree.tree_flatten(dense(want))
    given, other_spec = pytree.tree_flatten(dense(got))
    if spec != other_spec:
        return "results are nested otherwise", 0.0, 0.0
    worst, rounding = 0.0, 0.0
    for index, (a, b) in enumerate(zip(wanted, given)):
        difference, error = compare_one(a, b, tolerance)
        if difference is None:
            worst = max(worst, error)
        elif is_rounding(model, args, index, a, b, tolerance):
            rounding = max(rounding, error)
        else:
            return f"result {index} {difference}", 0.0, 0.0
    return None, worst, rounding
