"""Whether two results are the same: structure, shapes, dtypes, and values within what rounding can differ by."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

TOLERANCE = {torch.float16: 3e-2, torch.bfloat16: 1e-1}
"""Of the root mean square of a result, by the least precise dtype in the model; float32: 1e-3."""


def compare_results(want: Any, got: Any, tolerance: float | None = None) -> tuple[str | None, float]:
    """(what differs or None, the largest difference of the rms). tolerance: of all results; None for that of each one's dtype."""
    wanted, spec = pytree.tree_flatten(dense(want))
    given, other_spec = pytree.tree_flatten(dense(got))
    if spec != other_spec:
        return "results are nested otherwise", 0.0
    worst = 0.0
    for index, (a, b) in enumerate(zip(wanted, given)):
        limit = tolerance
        if limit is None:
            limit = TOLERANCE.get(a.dtype, 1e-3) if isinstance(a, Tensor) else 0.0
        difference, error = compare_one(a, b, limit)
        if difference is not None:
            return f"result {index} {difference}", 0.0
        worst = max(worst, error)
    return None, worst


def rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


def compare_one(want: Any, got: Any, tolerance: float) -> tuple[str | None, float]:
    if not isinstance(want, Tensor):
        same = type(want) is type(got) and (want is got or want == got)
        return (None if same else f"is {want!r}, not {got!r}"), 0.0
    if not isinstance(got, Tensor):
        return f"is a tensor, not {type(got).__name__}", 0.0
    if want.shape != got.shape or want.dtype != got.dtype:
        return f"is {want.dtype}{list(want.shape)}, not {got.dtype}{list(got.shape)}", 0.0
    if not want.numel():
        return None, 0.0
    if not want.is_floating_point() and not want.is_complex():
        return (None if torch.equal(want, got.to(want.device)) else "has other values"), 0.0
    kind = torch.complex128 if want.is_complex() else torch.float64
    a, b = want.to(kind), got.to(want.device).to(kind)
    usable = torch.isfinite(a)
    same = (torch.isnan(a) == torch.isnan(b)) & (usable | torch.isnan(a) | (a == b))
    if not torch.equal(usable, torch.isfinite(b)) or not bool(same.all()):
        return "is not finite at other places", 0.0
    if not bool(usable.any()):
        return None, 0.0
    a, b = a[usable].abs() if want.is_complex() else a[usable], b[usable].abs() if want.is_complex() else b[usable]
    error = rms(a - b) / max(rms(a), 1e-30)
    return (None if error <= tolerance else f"differs by {error:.2g} of its rms"), error


def dense(results: Any) -> Any:
    """With sparse tensors as dense ones: few functions of torch take them."""
    return pytree.tree_map(
        lambda r: r.to_dense() if isinstance(r, Tensor) and r.layout != torch.strided else r, results
    )


def cloned(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return pytree.tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, args)
