"""Models whose Python reads numbers of their inputs: right for the numbers of the example, and for all others."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import rtaccel as rt
from rtaccel.core.errors import FallbackWarning
from rtaccel.runtime import guarded
from rtaccel.runtime.eager_fallback import UncapturedModel


def _rounds(x: Tensor, k: Tensor) -> Tensor:
    total = 0
    while total < k.sum():
        x, total = x * 0.5 + 1.0, total + 7
    return x


def _put(x: Tensor, k: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    mask = k > 1
    y[:, mask] = x[:, mask] + 1.0
    return y


def _experts(x: Tensor, k: Tensor) -> Tensor:
    parts = torch.split(x, k.tolist(), dim=1)
    return torch.cat([part * (i + 1.0) for i, part in enumerate(parts) if part.shape[1]], 1)


READS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "longest": lambda x, k: x[:, : int(k.max())].cumsum(1),
    "item": lambda x, k: (x[:, k[1].item() :], int(k[0])),
    "index": lambda x, k: {"y": x.roll(int(k[2]), 1), "z": x.sum(1)},
    "truth": lambda x, k: x * 2.0 if (k > 1).all() else x.flip(1),
    "both": lambda x, k: x.exp() if k[0] > 2 and k[1] > 2 else x - 1.0,
    "real": lambda x, k: x.relu() if x.sum() > 0 else x.sigmoid(),
    "list": _experts,
    "numpy": lambda x, k: torch.stack([x[:, int(i)] for i in (k % 8).numpy()], 1),
    "equal": lambda x, k: x + 1.0 if torch.equal(k, torch.full_like(k, 3)) else x,
    "close": lambda x, k: x + 1.0 if torch.allclose(x, x.flip(0), atol=0.2) else x * 3.0,
    "nonzero": lambda x, k: x[:, (k > 1).nonzero()[:, 0]] * len((k > 1).nonzero().tolist()),
    "mask": lambda x, k: x[:, k > 1].reshape(2, int((k > 1).sum())).tanh(),
    "select": lambda x, k: torch.masked_select(x, (k > 1).unsqueeze(0)).reshape(int((k > 1).sum()), 2).sum(0),
    "where": lambda x, k: x[:, torch.where(k > 1)[0]] + len(torch.where(k > 1)[0].tolist()),
    "tuple": lambda x, k: x[:, (k > 1).nonzero(as_tuple=True)[0]] * int(k[0]),
    "put": lambda x, k: _put(x, k) if (k >= 0).all() else x,
    "rounds": _rounds,
}


class Reading(nn.Module):
    def __init__(self, read: Callable[[Tensor, Tensor], Any], layer: bool) -> None:
        super().__init__()
        self.read, self.layer = read, nn.Linear(8, 8) if layer else nn.Identity()

    def forward(self, x: Tensor, k: Tensor) -> Any:
        return self.read(self.layer(x), k)


def _splits(generator: torch.Generator) -> Tensor:
    """Whole numbers from 0 to 8 that add up to 8."""
    cuts = torch.randint(0, 9, (7,), generator=generator).sort().values
    return torch.diff(torch.cat([torch.tensor([0]), cuts, torch.tensor([8])]))


def _compiled(model: nn.Module, given: tuple[Tensor, ...], **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return rt.compile(model, given, **options)


def _check(got: Any, want: Any, tolerance: float = 1e-5) -> None:
    leaves, spec = pytree.tree_flatten(want)
    found, other = pytree.tree_flatten(got)
    assert spec == other
    for a, b in zip(found, leaves):
        if isinstance(b, Tensor):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
        else:
            assert a == b


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", READS)
def test_any_numbers_give_the_models_results(name: str, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    model = Reading(READS[name], layer=bool(seed)).eval()
    x, k = torch.randn(2, 8, generator=g), _splits(g)
    fast = _compiled(model, (x, k))
    assert isinstance(fast, rt.GuardedModel)
    assert fast.native[0] == fast.native[1]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        for round_ in range(12):
            given = (x, k) if round_ % 4 == 0 else (torch.randn(2, 8, generator=g), _splits(g))
            if round_ == 2:
                given = (torch.stack([x[0], x[0]]), torch.full_like(k, 3)) if name != "list" else given
            want = model(*given)
            _check(fast(*given), want)
            _check(fast(given[0], k=given[1]), want)
            out = pytree.tree_map(lambda t: torch.full_like(t, torch.nan) if isinstance(t, Tensor) else t, want)
            try:
                fast.run(*given, out=out)
            except rt.ShapeError:  # a result of another shape has no place in the plan's
                assert pytree.tree_leaves(want)[0].shape != pytree.tree_leaves(model(x, k))[0].shape
                continue
            _check(out, want)
    same, other = fast.calls
    assert same >= 6  # three rounds with the numbers of the example, called in two ways at least
    assert same + other >= 24


@pytest.mark.parametrize("name", ["both", "list", "mask", "numpy", "select"])
def test_bound_calls_look_at_the_numbers_each_time(name: str) -> None:
    g = torch.Generator().manual_seed(3)
    model = Reading(READS[name], layer=True).eval()
    x, k = torch.randn(2, 8, generator=g), torch.tensor([3, 3, 0, 0, 1, 1, 0, 0])
    with torch.no_grad():
        want = model(x, k)
        fast = _compiled(model, (x, k))
        out = torch.full_like(want, torch.nan)
        call = fast.bind(x, k, out=out)
        for _ in range(3):
            x.copy_(torch.randn(2, 8, generator=g))
            call()
            _check(out, model(x, k))
        assert fast.calls == (3, 0)
        k.copy_(torch.tensor([0, 0, 3, 3, 0, 0, 1, 1]))  # other numbers, and a result of the same shape
        with pytest.warns(FallbackWarning, match="not those of the example"):
            call()
        _check(out, model(x, k))
        assert fast.calls == (3, 1)


def test_other_numbers_again_and_again_cost_no_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Reading(READS["truth"], layer=True).eval()
    x, k = torch.randn(2, 8), torch.full((8,), 2)
    fast = _compiled(model, (x, k))
    planned = 0
    run = fast.plan.run

    def counted(*inputs: Any, out: Any) -> Any:
        nonlocal planned
        planned += 1
        return run(*inputs, out=out)

    monkeypatch.setattr(type(fast.plan), "run", lambda self, *inputs, out: counted(*inputs, out=out))
    out = torch.empty(2, 8)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        for _ in range(guarded.MISSES + 3 * guarded.RETRY):
            fast.run(x, k * 0, out=out)
            _check(out, model(x, k * 0))
        assert planned == guarded.MISSES + 3
        assert fast.calls == (0, guarded.MISSES + 3 * guarded.RETRY)
        for _ in range(guarded.RETRY):
            fast.run(x, k, out=out)
            _check(out, model(x, k))
        before, answered = planned, fast.calls[0]
        fast.run(x, k, out=out)  # the plan has been right again
        assert planned == before + 1
        assert fast.calls[0] == answered + 1
        assert sum(fast.calls) == guarded.MISSES + 4 * guarded.RETRY + 1


def test_other_shapes_are_the_models_own() -> None:
    model = Reading(READS["longest"], layer=True).eval()
    fast = _compiled(model, (torch.randn(2, 8), torch.full((8,), 5)))
    x, k = torch.randn(5, 8), torch.full((3,), 4)
    with torch.no_grad():
        want = model(x, k)
    with pytest.warns(FallbackWarning):
        _check(fast(x, k), want)
    out = torch.full((5, 4), torch.nan)
    fast.run(x, k, out=out)
    _check(out, want)
    with pytest.raises(rt.ShapeError):
        fast.run(x, k, out=torch.empty(5, 3))
    assert fast.calls == (0, 3)


def test_strict_refuses() -> None:
    model = Reading(READS["longest"], layer=True).eval()
    with pytest.raises(
        rt.UnsupportedProblem, match=r"reads numbers of its inputs \(test_guarded.py:\d+.*specialize=True"
    ):
        rt.compile(model, (torch.randn(2, 8), torch.full((8,), 5)), strict=True)


@pytest.mark.filterwarnings("ignore")
def test_what_a_guarded_model_does_not_do(tmp_path: Any) -> None:
    model = Reading(READS["longest"], layer=True).eval()
    fast = _compiled(model, (torch.randn(2, 8), torch.full((8,), 5)))
    with pytest.raises(rt.UnsupportedProblem, match="specialize=True"):
        rt.save(fast, tmp_path / "m.rta")
    with pytest.raises(rt.UnsupportedProblem, match="specialize=True"):
        fast.seal()
    with pytest.raises(RuntimeError):
        fast(torch.randn(2, 9), torch.full((8,), 5))  # in the words of the model
    assert "guarded" in fast.explain()


def test_numbers_that_weights_decide_are_not_taken_in_other_schemes() -> None:
    model = Reading(READS["real"], layer=True).eval()
    given = (torch.randn(2, 8), torch.full((8,), 5))
    assert isinstance(_compiled(model, given), rt.GuardedModel)
    assert isinstance(_compiled(model, given, scheme="w8a8"), UncapturedModel)
    inputs_alone = Reading(READS["longest"], layer=True).eval()
    fast = _compiled(inputs_alone, given, scheme="w8a8")
    assert isinstance(fast, rt.GuardedModel)
    with torch.no_grad():
        _check(fast(*given), inputs_alone(*given), 0.1)


def test_whole_numbers_of_a_model_are_no_weights() -> None:
    class Ends(nn.Module):
        """Reads whether the first or the last token is padding, by a constant list of places."""

        def __init__(self) -> None:
            super().__init__()
            self.table, self.layer = nn.Embedding(9, 16), nn.Linear(16, 8)

        def forward(self, ids: Tensor) -> Tensor:
            y = self.layer(self.table(ids)).relu()
            return y.mean(1) if (ids[:, [-1, 0]] == 0).any() else y.sum(1)

    model = Ends().eval()
    fast = _compiled(model, (torch.tensor([[1, 2, 0]]),), scheme="w8a8")
    assert isinstance(fast, rt.GuardedModel)
    with torch.no_grad():
        for ids in ([[3, 1, 0]], [[0, 4, 1]], [[1, 0, 5]], [[7, 2, 2]]):
            x = torch.tensor(ids)
            _check(fast(x), model(x), 0.1)
    assert fast.calls == (2, 2)


def test_real_numbers_are_refused() -> None:
    class Scaled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, : 1 + int(10 * float(x.abs().max())) % 3]

    fast = _compiled(Scaled().eval(), (torch.randn(2, 8),))
    assert isinstance(fast, UncapturedModel)
    assert "reads numbers of its inputs" in fast.reason


class Overwritten(nn.Module):
    """Writes over the numbers after they were read, so that they are the same at the end whatever they were."""

    def forward(self, x: Tensor, k: Tensor) -> Tensor:
        own = k.clone()
        longest = int(own.max())
        picked = x[:, own > 1]
        own.zero_()
        own[2] = 3
        again = x[:, own > 1]
        return picked.sum(1) * longest + again.sum(1) + int(own.max())


def test_numbers_are_taken_where_they_are_read() -> None:
    g = torch.Generator().manual_seed(8)
    model, x = Overwritten().eval(), torch.randn(2, 8, generator=g)
    first = torch.tensor([0, 0, 3, 0, 0, 0, 0, 0])
    fast = _compiled(model, (x, first))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        for k in (first, _splits(g), torch.tensor([0, 2, 3, 0, 0, 0, 0, 0]), first * 2, first):
            _check(fast(x, k), model(x, k))


@pytest.mark.filterwarnings("ignore")
def test_arrays_and_copies() -> None:
    model = Reading(READS["longest"], layer=True).eval()
    x, k = torch.randn(2, 8), torch.full((8,), 5)
    fast = _compiled(model, (x, k))
    for one in (fast, copy.deepcopy(fast)):
        for numbers in (k, k + 1):
            with torch.no_grad():
                want = model(x, numbers)
            _check(torch.as_tensor(one(x.numpy(), numbers.numpy())), want)
            out = np.full(tuple(want.shape), np.nan, np.float32)
            one.run(x.numpy(), numbers.numpy(), out=out)
            _check(torch.from_numpy(out), want)
        assert one.calls == (2, 2)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_comparing_with_other_numbers_warns_nobody(sign: float) -> None:
    """`rt.compile` tries other inputs, which decide otherwise for one of the two."""
    model = Reading(READS["real"], layer=False).eval()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        fast = rt.compile(model, (torch.full((2, 8), sign * 1e-3), torch.full((8,), 5)))
    assert isinstance(fast, rt.GuardedModel)
    assert not [one for one in told if issubclass(one.category, FallbackWarning)]
    assert fast.calls == (0, 0)


REPEATS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "running sums": lambda x, k: torch.repeat_interleave(x, k, dim=1).cumsum(1) * (1.0 if int(k[0]) == 1 else 2.0),
    "a call of torch": lambda x, k: (
        torch.special.airy_ai(torch.repeat_interleave(x, k, dim=1)) if int(k.sum()) > 2 else x
    ),
    "cut to the longest": lambda x, k: torch.repeat_interleave(x, k, dim=1)[:, : int(k.max())] * 2.0,
    "padded": lambda x, k: nn.functional.pad(torch.repeat_interleave(x, k, dim=1), (0, 40 - int(k.sum()))),
    "distinct": lambda x, k: x[:, torch.unique(k)] + float(k[1]),
}
"""What torch computes inside the plan, of a size that depends on numbers."""


@pytest.mark.parametrize("name", REPEATS)
def test_sizes_inside_the_plan_that_differ(name: str) -> None:
    """A result of another size is no result of the plan, not even where it could be spread over the plan's memory."""
    g = torch.Generator().manual_seed(0)
    model = Reading(REPEATS[name], layer=True).eval()
    first = torch.tensor([1, 2, 0, 3, 1, 0, 1, 0])
    fast = _compiled(model, (torch.randn(2, 8), first))
    alone = torch.tensor([1, 0, 0, 0, 0, 0, 0, 0])
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        for round_ in range(24):
            x = torch.randn(2, 8, generator=g)
            k = (first, torch.randint(0, 5, (8,), generator=g), alone, alone * 0 + 1)[round_ % 4]
            try:
                want = model(x, k)
            except RuntimeError:
                continue
            _check(fast(x, k), want)
    assert fast.calls[0] >= 6
