"""Models that torch.export cannot take, written down as they run; numbers of inputs that decide are refused, or stay."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.convert.frontend.export import capture
from rtaccel.runtime.compiled import CompiledModel


class Asserts(nn.Module):
    """Looks at numbers of its own constants."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(6, 6)
        self.register_buffer("window", torch.hann_window(6, periodic=False) + 0.1)

    def forward(self, x: Tensor) -> Tensor:
        assert (self.window > 0.05).all()
        y = self.lin(x) * self.window
        y[:, 2:4] += 1.0
        return torch.relu_(y) * float(self.window.sum())


class Hides(nn.Module):
    """An attribute in the place of a method of its base class."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(6, 6)
        self.parameters = nn.ParameterList(self.lin.parameters())  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.lin(x))


class ThroughNumPy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin, self.scale = nn.Linear(6, 6), nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x) * float(np.abs(self.scale.detach().numpy()).max())


class Warns(Asserts):
    """Looks at its input to warn of padding, but not while torch.export traces it, as libraries do."""

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_exporting() and (x[:, -1] == 0).any():
            warnings.warn("padding without a mask", stacklevel=2)
        return super().forward(x)


class Caches(nn.Module):
    """Keeps a grid for the shape that it saw last, as detectors keep their anchors, and has not run yet."""

    def __init__(self) -> None:
        super().__init__()
        self.lin, self.shape, self.grid, self.known = nn.Linear(6, 6), None, None, {}

    def forward(self, x: Tensor) -> Tensor:
        if self.shape != x.shape:
            self.shape, self.grid = x.shape, torch.arange(x.shape[1]) * torch.ones(x.shape[0], 1)
            self.known[x.shape[1]] = self.grid.sum()
        assert (self.lin.weight < 10).all()  # torch.export leaves the batch open for no model that reads numbers
        return self.lin(x) * self.grid


class Decides(nn.Module):
    def __init__(self, way: str) -> None:
        super().__init__()
        self.lin, self.way = nn.Linear(6, 6), way

    def forward(self, x: Tensor) -> Tensor:
        positive: Any = x.sum() > 0
        if self.way == "numpy":
            positive = positive.numpy()
        elif self.way == "item":
            positive = positive.item()
        elif self.way == "tolist":
            positive = x.tolist()[0][0] > 0
        elif self.way == "list":
            positive = max(float(v) for v in x[0]) > 0
        return self.lin(x) if positive else -self.lin(x)


@pytest.mark.parametrize("kind", [Asserts, Hides, ThroughNumPy, Warns, Caches])
def test_captured_and_native(kind: type[nn.Module]) -> None:
    model = kind()
    nn.Module.eval(model)
    for batch in (1, 3):
        fast = rt.compile(model, (torch.randn(batch, 6),), strict=True)
        assert isinstance(fast, CompiledModel)
        for _ in range(3):
            x = torch.randn(batch, 6)
            torch.testing.assert_close(fast(x), model(x).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("way", ["bool", "numpy", "item", "tolist", "list"])
def test_numbers_that_decide(way: str) -> None:
    model, x = Decides(way).eval(), torch.ones(2, 6)
    with pytest.raises(
        rt.UnsupportedProblem, match=r"reads numbers of its inputs \(test_retrace.py:\d+.*specialize=True"
    ):
        rt.compile(model, (x,), strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        slow = rt.compile(model, (x,))
    fast = rt.compile(model, (x,), strict=True, specialize=True)
    assert "specialize=True" in fast.explain(measure=False)
    torch.testing.assert_close(fast(x), model(x).detach())
    torch.testing.assert_close(fast(-x), model.lin(-x).detach())  # as the example decided
    torch.testing.assert_close(slow(-x), model(-x).detach())
    with pytest.raises(rt.ShapeError):
        fast(torch.ones(3, 6))


class Vectorizes(nn.Module):
    """Calls torch.vmap with a function that closes over a tensor which the model makes, as S5 does."""

    def __init__(self, complex_weights: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(
            torch.view_as_complex(torch.randn(6, 6, 2)) if complex_weights else torch.randn(6, 6)
        )

    def forward(self, x: Tensor) -> Tensor:
        each = torch.vmap(torch.vmap(lambda row, scaled: scaled @ row.to(scaled.dtype), (0, None)), (0, None))
        return each(x, self.weight * 2).real + torch.vmap(lambda row: row * x[0, 0])(x[0])


@pytest.mark.parametrize("complex_weights", [False, True])
def test_vectorized_calls(complex_weights: bool) -> None:
    """An error of torch.export in the middle of such a graph left torch inside the vmap: torch.rand raised from then on."""
    model, x = Vectorizes(complex_weights).eval(), torch.randn(2, 5, 6)
    depth = torch._C._functorch.get_dynamic_layer_stack_depth()
    fast = rt.compile(model, (x,), strict=True)
    assert torch._C._functorch.get_dynamic_layer_stack_depth() == depth
    for _ in range(3):
        x = torch.randn(2, 5, 6)
        torch.testing.assert_close(fast(x), model(x).detach(), rtol=1e-5, atol=1e-5)


class Differentiates(nn.Module):
    """Gradients of an energy by torch.func, as networks of physics take them."""

    def __init__(self, of: Callable[[Callable[[Tensor], Tensor]], Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.of, self.net = of, nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.vmap(self.of(lambda row: self.net(row).squeeze(-1)))(x)


@pytest.mark.parametrize(
    "of",
    [torch.func.grad, torch.func.jacrev, torch.func.jacfwd, torch.func.hessian, lambda f: torch.func.grad_and_value(f)],
    ids=["grad", "jacrev", "jacfwd", "hessian", "grad_and_value"],
)
def test_gradients_of_torch_func(of: Any) -> None:
    """The trace above the dispatcher raises for a gradient inside a vmap."""
    model, x = Differentiates(of).eval(), torch.randn(3, 4)
    fast = rt.compile(model, (x,), strict=True)
    for _ in range(3):
        x = torch.randn(3, 4)
        torch.testing.assert_close(fast(x), torch.utils._pytree.tree_map(Tensor.detach, model(x)), rtol=1e-5, atol=1e-5)


class Lagrangian(Differentiates):
    """Accelerations of a learned Lagrangian L(q, q'): (d2L/dq'2)^-1 (dL/dq - d2L/dq dq' q')."""

    def __init__(self) -> None:
        super().__init__(torch.func.grad)

    def forward(self, x: Tensor) -> Tensor:
        def energy(q: Tensor, v: Tensor) -> Tensor:
            return self.net(torch.cat([q, v])).squeeze(-1) + v.square().sum()

        def one(row: Tensor) -> Tensor:
            q, v = row[:2], row[2:]
            force = torch.func.grad(energy, 0)(q, v)
            mixed = torch.func.jacfwd(torch.func.grad(energy, 1), 0)(q, v)
            return torch.linalg.solve(torch.func.hessian(energy, 1)(q, v), force - mixed @ v)

        return torch.vmap(one)(x)


def test_learned_lagrangian() -> None:
    model, x = Lagrangian().eval(), torch.randn(2, 4)
    fast = rt.compile(model, (x,), strict=True)
    for _ in range(3):
        x = torch.randn(2, 4)
        torch.testing.assert_close(fast(x), model(x).detach(), rtol=1e-4, atol=1e-5)


def test_traces_leave_attributes_as_they_were() -> None:
    """A size of a trace, kept in an attribute, has no meaning to the next trace."""
    model, x = Caches().eval(), torch.randn(2, 6)
    model(x)
    grid, known = model.grid, dict(model.known)
    capture(model, (x,))
    assert model.grid is grid
    assert model.shape == x.shape
    assert all(model.known[n] is value for n, value in known.items()) and len(model.known) == len(known)


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str], logged: list[logging.LogRecord]) -> None:
    rt.compile(Asserts().eval(), (torch.randn(2, 6),), strict=True)
    with pytest.raises(rt.UnsupportedProblem):
        rt.compile(Decides("item").eval(), (torch.ones(2, 6),), strict=True)
    assert capfd.readouterr() == ("", "")
    assert not [record for record in logged if record.levelname in ("WARNING", "ERROR", "CRITICAL")]


def test_arguments_that_are_no_tensors_and_nested_results() -> None:
    class Nested(Asserts):
        def forward(self, x: Tensor, times: int, pair: Any) -> Any:  # type: ignore[override]
            return {"y": super().forward(x) * times, "z": [pair[0] + pair[1], None]}

    model, x = Nested().eval(), torch.randn(2, 6)
    pair = (torch.randn(2, 3), torch.randn(2, 3))
    fast = rt.compile(model, (x, 3, pair), strict=True)
    got, want = fast(x, 3, pair), model(x, 3, pair)
    torch.testing.assert_close(got["y"], want["y"].detach())
    torch.testing.assert_close(got["z"][0], want["z"][0])
    assert got["z"][1] is None
    with pytest.raises(rt.ShapeError):
        fast(x, 4, pair)


class Asks(nn.Module):
    """Computes something else where it is exported, as models do whose masks need numbers."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.lin = way, nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.lin(x)
        if torch.compiler.is_exporting() if self.way == "exporting" else torch.compiler.is_compiling():
            return y
        if self.way == "reads":
            return y.tanh() if float(self.lin.bias.sum()) > -1e9 else y
        return y.tanh() + y.mean(-1, keepdim=True)


@pytest.mark.parametrize("way", ["exporting", "compiling", "reads"])
def test_a_model_that_is_another_one_where_it_is_exported(way: str) -> None:
    torch.manual_seed(0)
    model = Asks(way).eval()
    x = torch.randn(2, 6)
    fast = rt.compile(model, (x,), strict=True)
    for _ in range(3):
        x = torch.randn(2, 6)
        torch.testing.assert_close(fast(x), model(x))
    assert "computes something else where it is exported" in fast.explain(measure=False)


class Nested(nn.Module):
    """Layers in modules; a number of the input decides between two of them where `reads`."""

    def __init__(self, reads: bool) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
        self.inner, self.leave, self.reads = nn.ModuleDict({"a": nn.Linear(16, 16)}), nn.Linear(16, 4), reads

    def forward(self, x: Tensor, n: Tensor) -> Tensor:
        y = self.inner["a"](self.enter(x))
        return self.leave(torch.tanh(y) if self.reads and int(n) > 1 else torch.relu(y))


@pytest.mark.parametrize("how", ["specialized", "guarded"])
def test_stages_have_the_names_of_modules(how: str) -> None:
    """So a dict of schemes by names finds them, as in a model that torch.export takes."""
    torch.manual_seed(0)
    example, specialize = (torch.randn(2, 8), torch.tensor(1)), how == "specialized"
    batches = [(torch.randn(2, 8), torch.tensor(1)) for _ in range(8)]
    schemes = {"inner.*": "w8a8", "leave": "w8a16"}
    plain = rt.compile(Nested(False).eval(), example, schemes, calibration=batches)
    other = rt.compile(Nested(True).eval(), example, schemes, calibration=batches, specialize=specialize)
    for model in (plain, other):
        text = model.explain(measure=False)
        assert (
            "enter.0" in text
            and re.search(r"inner\.a +linear\(int8", text)
            and re.search(r"leave +linear\(float32", text)
        )
    if specialize:
        assert other.state_dict().keys() == plain.state_dict().keys()
