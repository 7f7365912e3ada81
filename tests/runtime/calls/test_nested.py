"""Arguments and results in tuples, lists, dicts and other containers: fresh trees, keys in any order, memory of the caller."""

from __future__ import annotations

import collections
import random
import sys
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import rtaccel as rt
from rtaccel.core.errors import FallbackWarning


class Pair(NamedTuple):
    left: Any
    right: Any


def tree(rng: random.Random, depth: int, others: bool) -> Any:
    """A container with zeros for leaves. others: of all kinds, and not of those alone that native calls take."""
    if not depth:
        return 0
    count, kind = rng.randint(1, 3), rng.randrange(5 if others else 3)
    parts = [tree(rng, rng.randrange(depth), others) for _ in range(count)]
    keys = rng.sample("zyxabc", count)
    match kind:
        case 0:
            return tuple(parts)
        case 1:
            return parts
        case 2:
            return dict(zip(keys, parts))
        case 3:
            return collections.OrderedDict(zip(keys, parts))
    return Pair(parts[0], parts[-1])


def shuffled(value: Any, rng: random.Random) -> Any:
    """The same with the keys of plain dicts in another order."""
    if type(value) is dict:
        keys = rng.sample(list(value), len(value))
        return {key: shuffled(value[key], rng) for key in keys}
    if type(value) in (tuple, list):
        return type(value)(shuffled(part, rng) for part in value)
    return value


class Nested(nn.Module):
    """Each result is a sum of all arguments, each in its own share; nested as asked."""

    def __init__(self, taken: Any, given: Any) -> None:
        super().__init__()
        self.spec = pytree.tree_structure(given)
        shares = torch.rand(self.spec.num_leaves, pytree.tree_structure(taken).num_leaves)
        self.shares = (shares + torch.arange(shares.numel()).reshape(shares.shape)).tolist()
        self.layer = nn.Linear(3, 3)

    def forward(self, *values: Any) -> Any:
        leaves = pytree.tree_leaves(values)
        results = [self.layer(sum(s * x for s, x in zip(row, leaves))) for row in self.shares]
        return pytree.tree_unflatten(results, self.spec)


def filled(container: Any, batch: int) -> Any:
    return pytree.tree_map(lambda _: torch.randn(batch, 3), container)


def equal(got: Any, want: Any) -> bool:
    if pytree.tree_structure(got) != pytree.tree_structure(want):
        return False
    return all(
        torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(pytree.tree_leaves(got), pytree.tree_leaves(want))
    )


@pytest.mark.parametrize("others", [False, True], ids=["native", "all"])
@pytest.mark.parametrize("seed", range(15))
def test_random_nestings(seed: int, others: bool) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    taken = [tree(rng, 2, others) for _ in range(rng.randint(1, 2))]
    model = Nested(taken, tree(rng, 2, others)).eval()
    fast = rt.compile(model, tuple(filled(taken, 2)))
    if not others:
        assert fast._direct is not None  # one native call
    for batch in (2, 3):
        given = filled(taken, batch)
        want = model(*given)
        assert equal(fast(*given), want)
        turned = shuffled(given, rng)
        assert equal(fast(*turned), want)
        for call in (
            lambda out, args=turned: fast.run(*args, out=out),
            lambda out, args=turned: fast.bind(*args, out=out)(),
        ):
            out = shuffled(pytree.tree_map(lambda t: torch.full_like(t, torch.nan), want), rng)
            call(out)
            spec = pytree.tree_structure(want)
            ordered = want if spec.is_leaf() else _as(out, want)
            assert equal(out if spec.is_leaf() else ordered, want)
        strided = pytree.tree_map(lambda t: torch.stack((t, t), -1)[..., 0], given)  # copied before
        assert equal(fast(*strided), want)


def _as(value: Any, like: Any) -> Any:
    """With keys in the order of another tree."""
    if type(like) is dict:
        return {key: _as(value[key], like[key]) for key in like}
    if type(like) in (tuple, list):
        return type(like)(_as(a, b) for a, b in zip(value, like))
    return value


class Two(nn.Module):
    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"y": x["a"] - x["b"], "z": x["a"] + x["b"]}


@pytest.mark.parametrize(
    "wrong",
    [{"a": 0}, {"a": 0, "b": 0, "c": 0}, {"a": 0, "c": 0}, [0, 0], {"a": 0, "b": [0]}],
    ids=["missing", "more", "another", "a list", "deeper"],
)
def test_arguments_nested_otherwise(wrong: Any) -> None:
    fast = rt.compile(Two().eval(), ({"a": torch.randn(2, 3), "b": torch.randn(2, 3)},))
    with pytest.raises(rt.ShapeError, match="arguments"):
        fast(filled(wrong, 2))


@pytest.mark.parametrize("wrong", [{"y": 0}, {"y": 0, "w": 0}, ({"y": 0}, 0), {"y": 0, "z": 0, "w": 0}])
def test_out_with_other_keys_is_untouched(wrong: Any) -> None:
    given = {"a": torch.randn(2, 3), "b": torch.randn(2, 3)}
    fast = rt.compile(Two().eval(), (given,))
    out = pytree.tree_map(lambda _: torch.full((2, 3), 7.0), wrong)
    for call in (fast.run, fast.bind):
        with pytest.raises(rt.ShapeError):
            call(given, out=out)
    assert all(bool((t == 7).all()) for t in pytree.tree_leaves(out))
    pair = (torch.empty(2, 3), torch.empty(2, 3))  # one after the other
    fast.run(given, out=pair)
    assert equal({"y": pair[0], "z": pair[1]}, Two()(given))


def test_a_model_that_is_not_captured_finds_keys_too() -> None:
    class Reads(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            many = len(x.tolist()) + float(x.sum())  # what no graph has
            return {"y": x + many, "z": x - many}

    x = torch.randn(2, 3)
    with pytest.warns(FallbackWarning):
        fast = rt.compile(Reads().eval(), (x,))
    out = {"z": torch.empty(2, 3), "y": torch.empty(2, 3)}
    fast.run(x, out=out)
    want = Reads()(x)
    assert all(torch.allclose(out[key], want[key]) for key in want)


def test_a_bound_call_keeps_its_tensors() -> None:
    """Others may take their places in a dict."""
    given = {"a": torch.randn(2, 3), "b": torch.randn(2, 3)}
    fast = rt.compile(Two().eval(), (given,))
    out = {"y": torch.empty(2, 3), "z": torch.empty(2, 3)}
    want, before = Two()(given), dict(out)
    step = fast.bind(given, out=out)
    held = [sys.getrefcount(t) for t in before.values()]
    given.clear()
    out.clear()
    assert [sys.getrefcount(t) for t in before.values()] == [n - 1 for n in held]
    assert min(sys.getrefcount(t) for t in before.values()) > 2  # `before`, the argument, and the bound call
    step()
    assert equal(before, want)
