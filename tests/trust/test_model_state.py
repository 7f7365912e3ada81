"""State that a model keeps, and memory that it shares: found, named, and never frozen or touched in silence."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.runtime.compiled import CompiledModel


class Remembers(nn.Module):
    """h is a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self.h: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.h = self.lin(x) + (0 if self.h is None else 0.5 * self.h)
        return self.h


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin, self.calls = nn.Linear(4, 4), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.lin(x) * self.calls


class Difference(nn.Module):
    """The attribute is a value of the call before: the same arguments again leave it as it was."""

    def __init__(self) -> None:
        super().__init__()
        self.lin, self.last = nn.Linear(4, 4), torch.zeros(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.lin(x - self.last)
        self.last = x.clone()
        return y


class Appends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin, self.seen = nn.Linear(4, 4), []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return self.lin(x) + len(self.seen)


class Notes(nn.Module):
    """Writes an attribute that it never reads: no state."""

    def __init__(self) -> None:
        super().__init__()
        self.lin, self.shown = nn.Linear(4, 4), None

    def forward(self, x: Tensor) -> Tensor:
        self.shown = self.lin(x)
        return torch.relu(self.shown)


class KeepsAnObject(nn.Module):
    """Puts a new object of the same content in its place, as policies do with their distribution."""

    def __init__(self) -> None:
        super().__init__()
        self.lin, self.holder = nn.Linear(4, 4), _Holder()

    def forward(self, x: Tensor) -> Tensor:
        self.holder.scale = _Holder(torch.ones(3))
        return self.lin(x)


class CountsInAnObject(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin, self.holder = nn.Linear(4, 4), _Holder(1)

    def forward(self, x: Tensor) -> Tensor:
        self.holder = _Holder(self.holder.scale + 1)
        return self.lin(x) * self.holder.scale


class _Holder:
    def __init__(self, scale: Any = None) -> None:
        self.scale = scale


class Caches(nn.Module):
    """Makes a mask once."""

    def __init__(self) -> None:
        super().__init__()
        self.lin, self.mask = nn.Linear(4, 4), None

    def forward(self, x: Tensor) -> Tensor:
        if self.mask is None:
            self.mask = torch.tensor([1.0, 0.0, 1.0, 0.0])
        return self.lin(x) * self.mask


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Counts, "self.calls"),
        (Appends, "self.seen"),
        (CountsInAnObject, "self.holder"),
    ],
)
def test_state_in_attributes_is_named_and_kept(kind: type[nn.Module], name: str) -> None:
    model, x = kind().eval(), torch.randn(2, 4)
    twin = copy.deepcopy(model)
    with pytest.raises(rt.UnsupportedProblem, match=f"changes {name} when called"):
        rt.compile(model, (x,), strict=True)
    with pytest.warns(UserWarning, match=f"changes {name} when called"):
        fast = rt.compile(model, (x,))
    for _ in range(4):
        x = torch.randn(2, 4)
        torch.testing.assert_close(fast(x), twin(x).detach())


@pytest.mark.parametrize("kind", [Remembers, Difference])
def test_state_in_tensors_is_kept_by_the_plan(kind: type[nn.Module]) -> None:
    model, x = kind().eval(), torch.randn(2, 4)
    twin = copy.deepcopy(model)
    fast = rt.compile(model, (x,), strict=True)
    assert isinstance(fast, rt.StatefulModel)
    for _ in range(4):
        x = torch.randn(2, 4)
        torch.testing.assert_close(fast(x), twin(x).detach())


class PeakAttribute(nn.Module):
    """A maximum that ordinary inputs do not move, in an attribute or a buffer, replaced or written in place."""

    def __init__(self, buffer: bool, replaced: bool) -> None:
        super().__init__()
        self.lin, self.replaced = nn.Linear(4, 4), replaced
        if buffer:
            self.register_buffer("peak", torch.zeros(4))
        else:
            self.peak = torch.zeros(4)

    def forward(self, x: Tensor) -> Tensor:
        new = torch.maximum(self.peak, (x - 8).clamp(min=0).amax(0))
        if self.replaced:
            self.peak = new
        else:
            self.peak.copy_(new)
        return self.lin(x) + self.peak


@pytest.mark.parametrize("buffer", [True, False])
@pytest.mark.parametrize("replaced", [True, False])
def test_state_that_the_example_does_not_move_is_found(buffer: bool, replaced: bool) -> None:
    model, x = PeakAttribute(buffer, replaced).eval().requires_grad_(False), torch.randn(2, 4)
    fast, twin = rt.compile(model, (x,), strict=True), copy.deepcopy(model)
    for call in range(6):
        x = torch.randn(2, 4) + 10 * (call == 3)
        torch.testing.assert_close(fast(x), twin(x))


@pytest.mark.parametrize("called", [False, True])
@pytest.mark.parametrize("kind", [Notes, KeepsAnObject, Caches])
def test_attributes_that_are_no_state_are_compiled(kind: type[nn.Module], called: bool) -> None:
    """called: with the example before, so that a note has the same numbers again."""
    model, x = kind().eval().requires_grad_(False), torch.randn(2, 4)
    if called:
        model(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fast = rt.compile(model, (x,), strict=True)
    for size in (1, 2, 7):
        x = torch.randn(size, 4)
        torch.testing.assert_close(fast(x), model(x).detach())


def test_a_streamed_model_with_state_is_refused() -> None:
    class Stateful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.gain = nn.GRU(5, 4, batch_first=True), 1.0

        def forward(self, x: Tensor) -> Tensor:
            self.gain *= 1.1
            return self.gru(x)[0] * self.gain

    with pytest.raises(rt.UnsupportedProblem, match=r"changes self\.gain"):
        rt.stream(Stateful().eval(), torch.randn(1, 5))


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.jit.trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval(), torch.randn(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * 2


def test_a_scripted_part_is_right_or_refused_and_not_damaged() -> None:
    model, x = Scripted().eval(), torch.randn(2, 4)
    want = model(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fast = rt.compile(model, (x,))
    torch.testing.assert_close(fast(x), want.detach())
    assert torch.equal(model(x), want) and all(type(p) is nn.Parameter for p in model.parameters())


@pytest.mark.parametrize(
    "make", [lambda m: torch.jit.trace(m, torch.randn(2, 4)), torch.jit.script], ids=["traced", "scripted"]
)
def test_a_module_of_torchscript_is_right(make: Callable[[nn.Module], nn.Module]) -> None:
    """Python knows no signature of a traced one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make(nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval())
        fast = rt.compile(model, (torch.randn(2, 4),))
    x = torch.randn(3, 4)
    torch.testing.assert_close(fast(x), model(x).detach())


def test_a_part_in_training_mode_is_named() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).eval()
    model[1].train()
    with pytest.raises(rt.UnsupportedProblem, match="1 in training mode"):
        rt.compile(model, (torch.randn(2, 4),))
    memory = nn.Sequential(nn.GRU(5, 4, batch_first=True)).eval()
    memory[0].train()
    with pytest.raises(rt.UnsupportedProblem, match="0 in training mode"):
        rt.stream(memory, torch.randn(1, 5))


def test_functional_call_with_other_weights_is_refused() -> None:
    fast, x = rt.compile(nn.Sequential(nn.Linear(4, 4)).eval(), (torch.randn(2, 4),)), torch.randn(2, 4)
    want = fast(x)
    other = {k: v + 1 for k, v in fast.named_buffers()}
    assert other
    with pytest.raises(rt.UnsupportedProblem, match="functional_call"):
        torch.func.functional_call(fast, other, (x,))
    assert torch.equal(fast(x), want)


def test_packed_weights_of_swapped_layers_are_no_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each copy packs its weights for the kernel that was faster when timed, on a busy machine one or another; their float32 sums
    differ in the last bit."""
    from rtaccel.nn.params import sparse as sparse_params

    calls = 0

    def now_this_now_that(self: Any, group: Any, rows: int, device: str) -> tuple[Any, list[str]]:
        nonlocal calls
        calls += 1
        *before, sparse = group.stages
        return (
            replace(group, stages=(*before, sparse_params.contract.dense_stage(sparse))) if calls % 2 else group
        ), []

    model = nn.Sequential(nn.Linear(256, 96), nn.ReLU()).eval()  # one layer: every second copy is packed otherwise
    rt.sparsify_(model, rt.Unstructured(0.9))
    monkeypatch.setattr(sparse_params.SparseParams, "chosen", now_this_now_that)
    fast = rt.compile(model, (torch.randn(1, 256),), strict=True)
    assert calls and isinstance(fast, CompiledModel)
