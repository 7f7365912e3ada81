"""Tensors in every form, through each way to call: the same bits as plain tensors give, or a typed error with nothing changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils import _pytree as pytree

import rtaccel as rt
from tests.generated.test_batches import COMMON
from tests.support.compare import compiled, copied, outcome, quiet, same_results
from tests.support.generators import streams
from tests.support.generators.count import case, examples
from tests.support.generators.failures import Wrong, checked
from tests.support.generators.models import inputs_of, models, packed
from tests.support.generators.tensors import FLOAT_ONLY, OTHER, SAME, SPECIAL, Marked, special


@pytest.mark.parametrize("family", ["rows", "windows", "images", "tables", "torch"])
def test_every_form(family: str) -> None:
    @settings(max_examples=examples(3), **COMMON)
    @given(models(family, 4), st.sampled_from(("float32", "float32", "w8a8")), st.sampled_from((1, 2, 5)))
    def run(d: Any, scheme: str, rows: int) -> None:
        checked("tensors", {"model": d, "scheme": scheme, "rows": rows}, check)

    run()


def exact(count: int) -> Callable[[], list[float]]:
    return lambda: [0.0] * count


def as_before(fast: Any, want: Any) -> Callable[[], list[float]]:
    """What another form of the same numbers may change: nothing in a native call; a rounding where torch computes, which takes
    another way for another alignment, and then a step of int8."""
    leaves = pytree.tree_leaves(want)
    if "one call" in fast.explain(verbose=False, measure=False):
        return exact(len(leaves))
    part = 1e-5 if not any("scale" in name for name in fast.state_dict()) else 0.05
    return lambda: [
        part * float(t.abs().nan_to_num(0.0).max())
        if isinstance(t, Tensor) and t.is_floating_point() and t.numel()
        else 0.0
        for t in leaves
    ]


def check(found: Any) -> None:
    d = found["model"]
    _, fast = compiled(d, found["scheme"])
    if fast is None or not hasattr(fast, "explain_lines"):
        return
    rows = found["rows"]
    plain = inputs_of(d, rows, seed=3)
    want, error = outcome(lambda: fast(*packed(d, [t.clone() for t in plain])))
    if error is not None:
        return  # a fixed batch: test_batches holds that to account
    leaves = pytree.tree_leaves(want)
    simple = all(isinstance(leaf, Tensor) for leaf in leaves)
    for i, x in enumerate(plain):
        for name, form in SAME.items():
            if name in FLOAT_ONLY and not x.is_floating_point():
                continue
            given = [form(t) if j == i else t.clone() for j, t in enumerate(plain)]
            _check_input(d, fast, given, want, simple, f"input {i} {name}, {rows} rows in {found['scheme']}")
        for name, form in OTHER.items():
            _check_other(d, fast, plain, i, name, form, want)
        if x.is_floating_point() and rows > 1:
            _check_special(d, fast, plain, i, want)
    if simple:
        _check_outs(d, fast, plain, want)


def _check_input(d: Any, fast: Any, given: list[Tensor], want: Any, simple: bool, where: str) -> None:
    before = [t.detach().clone() for t in given]
    got, error = outcome(lambda: fast(*packed(d, given)))
    case("tensors")
    if isinstance(error, rt.UnsupportedProblem) and any(type(t) is Marked for t in given):
        return  # a subclass may mean something else than its numbers
    if error is not None:
        raise Wrong(f"call raises {type(error).__name__}", f"{where}: {error}") from error
    same_results(got, want, as_before(fast, want), f"call with {where}")
    for leaf in pytree.tree_leaves(got):
        if isinstance(leaf, Tensor) and leaf.requires_grad:
            raise Wrong("a result that requires grad", where)
    if not simple:
        return
    out = pytree.tree_map(lambda t: torch.full_like(t, 77), want)
    _, error = outcome(lambda: fast.run(*packed(d, given), out=out))
    case("tensors")
    if error is not None:
        raise Wrong(f"run raises {type(error).__name__}", f"{where}: {error}") from error
    same_results(out, want, as_before(fast, want), f"run with {where}")
    out = pytree.tree_map(lambda t: torch.full_like(t, 77), want)
    step, error = outcome(lambda: fast.bind(*packed(d, given), out=out))
    case("tensors")
    if error is None:
        quiet(step)
        same_results(out, want, as_before(fast, want), f"bind with {where}")
    elif not isinstance(error, rt.RtaccelError):
        raise Wrong(f"bind raises {type(error).__name__}", f"{where}: {error}") from error
    for t, b in zip(given, before):
        if not torch.equal(t.detach(), b):
            raise Wrong("changes its input", where)


def _check_other(d: Any, fast: Any, plain: list[Tensor], i: int, name: str, form: Any, want: Any) -> None:
    x = plain[i]
    if x.dim() < 2 and name in ("width more", "width less"):
        return
    try:
        bad = form(x)
    except (RuntimeError, NotImplementedError):
        return
    same_kind = bad.dtype == x.dtype and bad.shape == x.shape and bad.device == x.device and bad.layout == x.layout
    if same_kind and (name != "freed" or not x.numel()):
        return
    given = packed(d, [bad if j == i else t.clone() for j, t in enumerate(plain)])
    out = pytree.tree_map(lambda t: torch.full_like(t, 77) if isinstance(t, Tensor) else t, want)
    kept = copied(out)
    for way, call in (("call", lambda: fast(*given)), ("run", lambda: fast.run(*given, out=out)),
                      ("bind", lambda: fast.bind(*given, out=out))):  # fmt: skip
        result, error = outcome(call)
        case("tensors")
        if error is None:
            shapes = [tuple(t.shape) for t in pytree.tree_leaves(result) if isinstance(t, Tensor)]
            raise Wrong(f"{way} takes {name}", f"input {i}: {bad.dtype}{list(bad.shape)}, result {shapes}")
        if not isinstance(error, rt.RtaccelError):
            raise Wrong(f"{way} of {name} raises {type(error).__name__}", f"input {i}: {str(error)[:300]}") from error
        same_results(out, kept, exact(99), f"out after {way} of {name} was refused")


def _check_special(d: Any, fast: Any, plain: list[Tensor], i: int, want: Any) -> None:
    """A number that is not finite stays in its sample."""
    for kind in SPECIAL:
        given = [special(t, kind) if j == i else t.clone() for j, t in enumerate(plain)]
        got = quiet(lambda given=given: fast(*packed(d, given)))
        case("tensors")
        for a, b in zip(pytree.tree_leaves(got), pytree.tree_leaves(want)):
            if isinstance(a, Tensor) and a.dim() and a.shape[0] == plain[i].shape[0] and not torch.equal(a[1:], b[1:]):
                raise Wrong(f"{kind} reaches another sample", f"input {i}")


def _check_outs(d: Any, fast: Any, plain: list[Tensor], want: Any) -> None:
    leaves, spec = pytree.tree_flatten(want)
    for k, leaf in enumerate(leaves):
        for name, form in SAME.items():
            if (name in FLOAT_ONLY and not leaf.is_floating_point()) or leaf.dim() == 0:
                continue
            where = f"out {k} {name}"
            for way in ("run", "bind"):
                outs = [form(torch.full_like(t, 7)) if j == k else torch.full_like(t, 7) for j, t in enumerate(leaves)]
                given, out = packed(d, [t.clone() for t in plain]), pytree.tree_unflatten(outs, spec)
                if way == "run":
                    _, error = outcome(lambda given=given, out=out: fast.run(*given, out=out))
                else:
                    step, error = outcome(lambda given=given, out=out: fast.bind(*given, out=out))
                    if error is None:
                        quiet(step)
                case("tensors")
                if error is None:
                    same_results(
                        [o.detach().as_subclass(Tensor) for o in outs],
                        leaves,
                        as_before(fast, leaves),
                        f"{way} into {where}",
                    )
                elif not isinstance(error, rt.RtaccelError):
                    raise Wrong(f"{way} into {name} raises {type(error).__name__}", f"{where}: {error}") from error
                elif not _untouched(outs):
                    raise Wrong(f"{way} into {name} is refused and written", where)
        _check_overlap(d, fast, plain, leaves, spec, k)


def _check_overlap(d: Any, fast: Any, plain: list[Tensor], leaves: list[Tensor], spec: Any, k: int) -> None:
    """An out that is one row for all, or lies on another out, is refused: no order of writing could be right."""
    leaf = leaves[k]
    if leaf.dim() and leaf.shape[0] > 1 and leaf.numel():
        outs = [
            torch.full_like(t[:1], 7).expand_as(t) if j == k else torch.full_like(t, 7) for j, t in enumerate(leaves)
        ]
        _refused(d, fast, plain, outs, spec, "an expanded out")
    for j in range(k):
        if leaves[j].numel() and leaf.numel() and leaves[j].dtype == leaf.dtype:
            memory = torch.full((max(leaves[j].numel(), leaf.numel()),), 7, dtype=leaf.dtype)
            outs = [
                memory[: t.numel()].view(t.shape) if n in (j, k) else torch.full_like(t, 7)
                for n, t in enumerate(leaves)
            ]
            _refused(d, fast, plain, outs, spec, "outs that overlap")
    for x in plain:
        if x.dtype == leaf.dtype and leaf.numel() and x.numel():
            memory = torch.zeros(max(x.numel(), leaf.numel()), dtype=x.dtype)
            shared = memory[: x.numel()].view(x.shape)
            shared.copy_(x)
            given = [shared if t is x else t.clone() for t in plain]
            outs = [
                memory[: t.numel()].view(t.shape) if n == k else torch.full_like(t, 7) for n, t in enumerate(leaves)
            ]
            _, error = outcome(
                lambda given=given, outs=outs: fast.run(*packed(d, given), out=pytree.tree_unflatten(outs, spec))
            )
            case("tensors")
            if error is None:
                same_results(outs, leaves, as_before(fast, leaves), "run into the memory of an input")
            elif not isinstance(error, rt.RtaccelError):
                raise Wrong(f"run into an input raises {type(error).__name__}", str(error)) from error


def _refused(d: Any, fast: Any, plain: list[Tensor], outs: list[Tensor], spec: Any, what: str) -> None:
    for way in ("run", "bind"):
        given, out = packed(d, [t.clone() for t in plain]), pytree.tree_unflatten(outs, spec)
        _, error = outcome(lambda given=given, out=out, way=way: getattr(fast, way)(*given, out=out))
        case("tensors")
        if error is None:
            raise Wrong(f"{way} takes {what}", f"{[tuple(o.shape) for o in outs]}")
        if not isinstance(error, rt.RtaccelError):
            raise Wrong(f"{way} of {what} raises {type(error).__name__}", str(error)) from error
        if not _untouched(outs):
            raise Wrong(f"{way} of {what} is refused and written", "")


def _untouched(outs: list[Tensor]) -> bool:
    """Whether each holds what it was filled with: 7, or True where 7 is that."""
    return all(torch.equal(o.detach(), torch.full_like(o, 7)) for o in outs)


@settings(max_examples=examples(8), **COMMON)
@given(streams.descriptions())
def test_steps_of_every_form(d: Any) -> None:
    checked("streams", d, check_stream)


def check_stream(d: Any) -> None:
    """step, run and a bound call of a stream, step by step, against plain tensors after a reset."""
    live = quiet(lambda: streams.streamed(d))
    taken = time_steps = streams.time_steps(d, len(SAME), seed=1)
    want = [quiet(lambda x=x: live.step(x)) for x in time_steps]
    for way in ("step", "run", "bind"):
        live.reset()
        for (name, form), x, y in zip(SAME.items(), taken, want):
            out = torch.full_like(y, 77)
            given = form(x)
            if way == "step":
                out, error = outcome(lambda given=given: live.step(given))
            elif way == "run":
                _, error = outcome(lambda given=given, out=out: live.run(given, out=out))
            else:
                step, error = outcome(lambda given=given, out=out: live.bind(given, out=out))
                if isinstance(error, rt.RtaccelError):
                    step, error = outcome(lambda x=x, out=out: live.bind(x.clone(), out=out))
                if error is None:
                    _, error = outcome(step)
            case("streams")
            if name == "subclass" and isinstance(error, rt.UnsupportedProblem):
                out, error = outcome(lambda x=x: live.step(x))
            if error is not None:
                raise Wrong(f"{way} raises {type(error).__name__}", f"{name}: {error}") from error
            same_results(out, y, exact(1), f"{way} with {name}")
            _refuse_moment(live, x, y)


def _refuse_moment(live: Any, x: Tensor, y: Tensor) -> None:
    """What is refused is no time step: the next one gives what it would have given."""
    for name in ("float64", "width more", "rank more", "scalar"):
        bad, out = OTHER[name](x), torch.full_like(y, 77)
        for call in (lambda bad=bad: live.step(bad), lambda bad=bad, out=out: live.run(bad, out=out)):
            _, error = outcome(call)
            case("streams")
            if not isinstance(error, rt.RtaccelError):
                raise Wrong(f"step of {name}: {type(error).__name__}", str(error))
        if (out != 77).any():
            raise Wrong("a refused step writes", name)
