"""Holds a compiled model against the original."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import rtaccel as rt
from tests.support.generators.count import case
from tests.support.generators.failures import Wrong
from tests.support.generators.models import Description, built, inputs_of, packed
from tests.support.tolerance import Reference

RAW = (KeyError, IndexError, AttributeError, TypeError, AssertionError, NameError, UnboundLocalError)
"""What never comes from inside: a mistake of ours, not a message for a user."""


def quiet(function: Callable[[], Any]) -> Any:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function()


def copied(given: Any) -> Any:
    return pytree.tree_map(lambda t: t.clone() if isinstance(t, Tensor) else t, given)


def compiled(d: Description, scheme: Any = "float32", **options: Any) -> Any:
    """(model, compiled model), or (model, None) where rtaccel says with a typed error that it cannot."""
    model = built(d)
    calibration = None
    if scheme != "float32":
        calibration = [packed(d, inputs_of(d, d["example"], seed=s, scale=1.3)) for s in range(1, 9)]
    example = packed(d, inputs_of(d, d["example"], seed=7))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    try:
        fast = quiet(lambda: rt.compile(model, example, scheme, calibration=calibration, **options))
    except rt.RtaccelError:
        fast = None
    except Exception as error:
        refused = outcome(lambda: model(*copied(example)))[1]
        if type(refused) is type(error) and "rtaccel" not in str(error):
            return model, None  # the model itself refuses this example
        raise Wrong(f"compile raises {type(error).__name__}", str(error)) from error
    after = model.state_dict()
    if any(not torch.equal(after[k], before[k]) for k in before):
        raise Wrong("compile changes the model", str(d))
    return model, fast


def outcome(call: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return quiet(call), None
    except Exception as error:
        return None, error


def promised(fast: Any) -> tuple[int, int]:
    """The smallest and the largest batch that `explain` says a compiled model takes."""
    said = fast.explain(verbose=False, measure=False)
    line = re.search(r"^batch size: (.*)", said, re.M)
    if line is None:
        raise Wrong("explain names no batch", said)
    text = line[1].split(" (")[0]
    numbers = [int(n) for n in re.findall(r"\d+", text)]
    if text == "dynamic":
        return 0, 10**9
    if text.startswith("fixed to"):
        return numbers[0], numbers[0]
    if "at least" in text:
        return numbers[0], 10**9
    return (0, numbers[0]) if "at most" in text else (numbers[0], numbers[1])


def check_batches(d: Description, scheme: str, batches: Iterable[int]) -> None:
    """At each batch: the original's result, or a typed error where `explain` says so; an error where the original raises."""
    model, fast = compiled(d, scheme)
    case("compile")
    if fast is None:
        return
    reference = Reference(model)
    for rows in batches:
        given = packed(d, inputs_of(d, rows, seed=rows))
        theirs, ours = copied(given), copied(given)
        want, refused = outcome(lambda theirs=theirs: model(*theirs))
        got, error = outcome(lambda ours=ours: fast(*ours))
        case("batches")
        where = f"batch {rows} of a model compiled for {d['example']} in {scheme}"
        if error is not None:
            _check_error(error, refused, fast, where, rows, rows == d["example"])
            continue
        if refused is not None:
            if rows == 0:
                continue  # torch refuses empty batches for some layers, and rtaccel computes nothing of nothing
            raise Wrong("the original raises", f"{where}: {refused!r}, compiled gives {_shapes(got)}")
        same_results(got, want, lambda given=given: reference.bounds(copied(given), scheme), where)
        same_results(ours, theirs, lambda: [0.0] * 99, f"inputs after {where}")
        if all(
            torch.equal(a, b)
            for a, b in zip(pytree.tree_leaves(theirs), pytree.tree_leaves(given))
            if isinstance(b, Tensor)
        ):
            check_ways(fast, given, got, where)  # a model that changes its input gives something else the next time


def check_ways(fast: Any, given: tuple[Any, ...], want: Any, where: str) -> None:
    """run, a bound call and a second call give the bits of the first call, whatever was done to its results."""
    leaves = pytree.tree_leaves(want)
    tensors = bool(leaves) and all(isinstance(leaf, Tensor) for leaf in leaves)
    kept = copied(want)
    corrupt(want)
    same_results(fast_call(fast, given), kept, lambda: [0.0] * len(leaves), f"second call, {where}")
    case("batches")
    for way in ("run", "bind"):
        out = pytree.tree_map(lambda t: torch.full_like(t, 77) if isinstance(t, Tensor) else t, kept)
        args = copied(given)
        if way == "run":
            _, error = outcome(lambda out=out, args=args: fast.run(*args, out=out))
        else:
            step, error = outcome(lambda out=out, args=args: fast.bind(*args, out=out))
            if error is None:
                corrupt(out)
                _, error = outcome(step)
        case("batches")
        if error is None and tensors:
            same_results(out, kept, lambda: [0.0] * len(leaves), f"{way}, {where}")
        elif error is not None and (tensors or not isinstance(error, rt.RtaccelError)):
            raise Wrong(f"{way} raises {type(error).__name__}", f"{where}: {error}") from error


def fast_call(fast: Any, given: tuple[Any, ...]) -> Any:
    return quiet(lambda: fast(*copied(given)))


def _check_error(
    error: Exception, refused: Exception | None, fast: Any, where: str, rows: int, is_example: bool
) -> None:
    if isinstance(error, rt.RtaccelError):
        if refused is None and is_example:
            raise Wrong("refuses its example", f"{where}: {error}") from error
        if refused is None and promised(fast)[0] <= rows <= promised(fast)[1]:
            raise Wrong("refuses what explain promises", f"{where}: {error}\n{promised(fast)}") from error
    elif refused is None or type(error) is not type(refused):
        raise Wrong(f"raises {type(error).__name__}", f"{where}: {error}; the original: {refused!r}") from error


def _shapes(result: Any) -> list[Any]:
    return [tuple(x.shape) if isinstance(x, Tensor) else x for x in pytree.tree_leaves(result)]


def same_results(got: Any, want: Any, bounds: Callable[[], list[Any]], where: str) -> None:
    """Raises Wrong for another nesting, shape, dtype or value than allowed."""
    if pytree.tree_structure(got) != pytree.tree_structure(want):
        raise Wrong("nesting", f"{where}: {pytree.tree_structure(got)}, should be {pytree.tree_structure(want)}")
    ours, theirs = pytree.tree_leaves(got), pytree.tree_leaves(want)
    allowed: list[Any] | None = None
    for i, (a, b) in enumerate(zip(ours, theirs)):
        if not isinstance(b, Tensor):
            if type(a) is not type(b) or a != b:
                raise Wrong("constant", f"{where}: output {i} is {a!r}, should be {b!r}")
            continue
        if not isinstance(a, Tensor) or a.shape != b.shape or a.dtype != b.dtype:
            raise Wrong("shape", f"{where}: output {i} is {_shapes([a])}, should be {tuple(b.shape)} {b.dtype}")
        if torch.equal(a, b):
            continue
        if allowed is None:
            allowed = bounds()
        bound = allowed[i]
        finite = torch.isfinite(b) if b.is_floating_point() else torch.ones_like(b, dtype=torch.bool)
        odd = (
            ~finite & ~((a == b) | (torch.isnan(a) & torch.isnan(b)))
            if b.is_floating_point()
            else torch.zeros_like(finite)
        )
        limit, exact = bound if isinstance(bound, tuple) else (float(bound or 0.0), None)
        if exact is not None and exact.shape == b.shape:
            odd &= ~torch.isfinite(exact)  # float32 ran over on the way, which another order of sums need not do
        far = (a.double() - b.double()).abs()[finite]
        if bool(odd.any()) or (far.numel() and not float(far.max()) <= limit):
            worst = float(far.max()) if far.numel() else float("nan")
            raise Wrong(
                "value", f"{where}: output {i} is {worst:.4g} off, {limit:.4g} allowed, {int(odd.sum())} not finite"
            )


def corrupt(result: Any) -> None:
    """Writes over a result: what the caller does with it is nobody else's business."""
    for leaf in pytree.tree_leaves(result):
        if isinstance(leaf, Tensor) and leaf.numel():
            with torch.no_grad():
                leaf.fill_(float("nan") if leaf.is_floating_point() else 1)
