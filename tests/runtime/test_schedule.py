"""Programs that leave calls to torch, as lists of bound calls: the same bits as step by step, in every way to call them."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import rtaccel as rt
from rtaccel.core.errors import FallbackWarning
from rtaccel.runtime.schedule.torch_call import bound_call
from tests.support.networks.call import Call


class Mixed(nn.Module):
    """Native parts, and calls that no operator computes: with one result, with several, through views, in other orders."""

    def __init__(self, size: int = 12) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(size, size), nn.Linear(size, 5)
        self.table = nn.Parameter(torch.randn(size))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.special.airy_ai(self.first(x)).view(x.shape[0], 3, -1).transpose(1, 2)
        z = torch.special.airy_ai(y) + torch.special.airy_ai(self.table).view(-1, 3)
        low, exponent = torch.frexp(z.double())
        return self.second(low.float().transpose(1, 2).flatten(1)), torch.special.airy_ai(exponent.float())


def compiled(model: nn.Module, x: Tensor, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        return rt.compile(model.eval(), (x,), **options)


def step_by_step(fast: Any, x: Tensor) -> list[Tensor]:
    """The results of the general way, without bound calls."""
    kept, fast._executor.schedules = fast._executor.schedules, None
    try:
        return list(fast(x))
    finally:
        fast._executor.schedules = kept


def test_every_way_to_call_gives_the_bits_of_the_steps() -> None:
    fast = compiled(Mixed(), torch.randn(3, 12))
    assert 0 < fast.native[0] < fast.native[1]
    for batch in (3, 1, 3, 7, 2, 9, 3, 4):
        for x in (torch.randn(batch, 12), torch.randn(12, batch).t(), torch.randn(batch, 12, requires_grad=True)):
            want, before = step_by_step(fast, x), x.detach().clone()
            for _ in range(3):
                got = fast(x)
                assert all(torch.equal(a, b) for a, b in zip(got, want))
                assert not any(t.requires_grad for t in got)
                got[0].fill_(77)  # the caller's own: the next call gives the right ones again
            out = tuple(torch.full_like(t, float("nan")) for t in want)
            assert fast.run(x, out=out) is out
            assert all(torch.equal(a, b) for a, b in zip(out, want))
            call = fast.bind(x, out=out)
            for t in out:
                t.fill_(float("nan"))
            call()
            assert all(torch.equal(a, b) for a, b in zip(out, want))
            assert torch.equal(x.detach(), before)


def test_a_bound_call_reads_its_buffers_and_the_newest_weights() -> None:
    model, x = Mixed().eval(), torch.randn(2, 12)
    fast, out = compiled(model, x), (torch.empty(2, 5), torch.empty(2, 4, 3))
    call = fast.bind(x, out=out)
    x.copy_(torch.randn(2, 12))
    call()
    torch.testing.assert_close(out[0], model(x)[0].detach())
    other = Mixed().eval()
    fast.load_state_dict(compiled(other, x).state_dict())
    call()
    torch.testing.assert_close(out[0], other(x)[0].detach())


def test_an_out_may_be_the_input() -> None:
    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.airy_ai(x @ x.transpose(1, 2)) @ x

    model, x = Square().eval(), torch.randn(2, 4, 4)
    fast, want = compiled(model, x), model(x)
    for way in ("run", "bind"):
        given = x.clone()
        if way == "run":
            fast.run(given, out=given)
        else:
            call = fast.bind(given, out=given)
            given.copy_(x)
            call()
        torch.testing.assert_close(given, want)


def test_numbers_that_are_drawn_are_drawn_anew() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layer(x)
            return y + torch.rand_like(y)

    x = torch.randn(2, 8)
    fast = compiled(Noisy(), x, verify=False)
    seen = [fast(x) for _ in range(5)]
    assert all(not torch.equal(a, b) for i, a in enumerate(seen) for b in seen[:i])


def test_shapes_that_depend_on_numbers_stay_step_by_step() -> None:
    class Chosen(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.masked_select(x, x > 0).sum().reshape(1)

    model = Chosen().eval()
    fast = compiled(model, torch.randn(4, 6))
    for _ in range(4):
        x = torch.randn(4, 6)
        torch.testing.assert_close(fast(x), model(x))


COUNTING: dict[str, Callable[[Tensor], Any]] = {
    "nonzero": torch.nonzero, "nonzero, each dimension": lambda x: torch.nonzero(x, as_tuple=True),
    "where": lambda x: torch.where(x), "where of a condition": lambda x: torch.where(x > 1), "argwhere": torch.argwhere,
    "mask": lambda x: x[x > 0], "masked_select": lambda x: x.masked_select(x > 0), "rows": lambda x: x[x.sum(1) > 3],
    "places": lambda x: x[torch.nonzero(x, as_tuple=True)] + 1, "one of the places": lambda x: torch.where(x)[1] * 2,
    "unique": torch.unique, "unique in a row": torch.unique_consecutive, "counts": lambda x: torch.bincount(x.flatten().long()),
    "copies": lambda x: torch.repeat_interleave(torch.arange(24), x.flatten().long()),
}  # fmt: skip


@pytest.mark.parametrize("example", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("call", COUNTING)
def test_as_many_results_as_the_numbers_say(call: str, example: float) -> None:
    """Whatever the example counted, and the calls before."""
    model = Call(COUNTING[call]).eval()
    fast = compiled(model, share(example))
    for part in (example, example, example, 0.0, 0.5, 1.0, 0.2, 0.2, 0.2, 0.0, 1.0):
        x = share(part)
        for want, got in zip(pytree.tree_leaves(model(x)), pytree.tree_leaves(fast(x)), strict=True):
            assert torch.equal(want, got), part


def share(part: float) -> Tensor:
    """Numbers of which about so many are not 0."""
    return torch.randint(1, 4, (4, 6)) * (torch.rand(4, 6) < part).float()


def test_threads_that_share_a_model_do_not_share_a_call() -> None:
    model = Mixed().eval()
    inputs = [torch.randn(3, 12) for _ in range(4)]
    fast = compiled(model, inputs[0])
    want, wrong = [step_by_step(fast, x) for x in inputs], []

    def work(i: int) -> None:
        for _ in range(200):
            if not all(torch.equal(a, b) for a, b in zip(fast(inputs[i]), want[i])):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("strided", [False, True])
def test_a_call_of_torch_writes_into_memory_that_is_there(strided: bool) -> None:
    x = torch.randn(6, 4).t() if strided else torch.randn(4, 6)
    for target, args in (
        (torch.ops.aten.special_airy_ai.default, (x,)),
        (torch.ops.aten.cumsum.default, (x, 1)),
        (torch.ops.aten.topk.default, (x, 2)),
        (torch.ops.aten.gt.Scalar, (x, 0.0)),
        (torch.ops.aten._to_copy.default, (x,)),
        (torch.ops.aten.fft_rfft.default, (x,)),
        (torch.ops.aten.logsumexp.default, (x, [0])),
    ):
        result = target(*args)
        outs = (result,) if isinstance(result, Tensor) else tuple(result)
        call = bound_call(target, args, {}, result if isinstance(result, Tensor) else outs)
        x.copy_(torch.randn(x.shape))
        call()
        again = target(*args)
        for a, b in zip(outs, (again,) if isinstance(again, Tensor) else again):
            assert torch.equal(a, b), target


def test_a_model_that_is_faster_without_is_said_to_be() -> None:
    """explain() has the time beside the model's own, and that of each call of torch."""
    fast = compiled(Mixed(), torch.randn(1, 12))
    text = fast.explain()
    assert "where the model itself takes" in text
    times = {line.name: line.us for line in fast.explain_lines() if line.is_fallback}
    assert all(us is not None for us in times.values())
    assert times["special_airy_ai.default"] > 0
    # A part of a result: nothing to compute.
    assert {us for name, us in times.items() if "getitem" in name} == {0.0}
