"""Arguments and results of compiled modules of TorchScript, and calls that leave TorchScript for Python."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import rtaccel as rt
from rtaccel.runtime.compiled import CompiledModel
from tests.support.scripts.forms import loaded
from tests.support.scripts.models import Applies, Draws, Ignores, Nested, Packed

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")

X, STATE = torch.randn(2, 3, 4), (torch.randn(1, 2, 4), torch.randn(1, 2, 4))


@pytest.mark.parametrize(
    "args", [(X,), (X, STATE), (X, None, {"y": X}), (X, STATE, {"y": X}, 3)], ids=["x", "state", "dict", "number"]
)
def test_optional_and_nested_arguments(args: tuple[Any, ...]) -> None:
    model = Nested().eval()
    script = loaded(torch.jit.script(model))
    fast = rt.compile(script, args, strict=True)
    want, got = model(*args), fast(*args)
    assert type(got[0]).__name__ == "Nest"
    assert got[0]._fields == ("result", "more")
    assert [type(part) for part in got[1:]] == [list, tuple]
    pairs = (got[0].result, want[0].result), (got[0].more["half"], want[0].more["half"]), (got[1][1], want[1][1])
    for a, b in (*pairs, *zip(got[2], want[2])):
        torch.testing.assert_close(a, b.detach(), rtol=1e-4, atol=1e-5)
    assert isinstance(fast, CompiledModel)
    assert not fast.batch.fixed or len(args) > 1


def test_packed_sequences_keep_their_lengths() -> None:
    model, lengths = Packed().eval(), torch.tensor([2, 3])
    for script in (torch.jit.script(model), loaded(torch.jit.script(model))):
        fast = rt.compile(script, (X, lengths), strict=True)
        for given in (lengths, torch.tensor([3, 1])):
            for got, want in zip(fast(X, given), model(X, given)):
                torch.testing.assert_close(got, want.detach(), rtol=1e-4, atol=1e-5)


def test_arguments_by_name() -> None:
    script = torch.jit.script(Nested().eval())
    fast = rt.compile(script, (X, STATE))
    torch.testing.assert_close(fast(x=X, state=STATE)[1][0], script(X, STATE)[1][0].detach(), rtol=1e-4, atol=1e-5)


def test_an_autograd_function_in_a_trace() -> None:
    model, x = Applies().eval(), torch.randn(2, 4)
    fast = rt.compile(torch.jit.trace(model, x), (x,), strict=True)
    torch.testing.assert_close(fast(x), model(x).detach())


def test_methods_that_are_left_to_python() -> None:
    model, x = Ignores().eval(), torch.randn(2, 4)
    fast = rt.compile(torch.jit.script(model), (x,), strict=True)
    torch.testing.assert_close(fast(x), model(x).detach())


def test_drawn_numbers_are_drawn_natively() -> None:
    script, x = torch.jit.script(Draws().eval()), torch.randn(2, 4)
    fast = rt.compile(script, (x,), strict=True)
    assert not torch.equal(fast(x), fast(x))


def test_numbers_that_are_buffers() -> None:
    """Constants of a frozen graph without dimensions are numbers and tensors."""

    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.tensor(0.3))
            self.register_buffer("count", torch.tensor(3))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            return x * self.scale, x[:, : int(self.count)], self.scale * self.count

    model, x = Scaled().eval(), torch.randn(2, 4)
    for script in (torch.jit.script(model), torch.jit.freeze(torch.jit.script(model)), torch.jit.trace(model, x)):
        fast = rt.compile(script, (x,))
        for got, want in zip(fast(x), model(x)):
            assert got.dtype == want.dtype
            torch.testing.assert_close(got, want)
