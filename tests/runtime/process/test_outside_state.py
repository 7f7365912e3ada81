"""Models whose code keeps tensors outside of their modules: the user's are what they were, and no plan holds an old one."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt

HELD: dict[str, Any] = {"h": torch.zeros(1, 4), "seen": []}
NESTED: list[Any] = [[torch.zeros(1, 4)]]
ALONE = torch.zeros(1, 4)


def helper(x: Tensor) -> Tensor:
    HELD["h"] = HELD["h"] + x
    return HELD["h"] * 1


class InGlobalDict(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return helper(x)


class InNestedList(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        NESTED[0][0] = NESTED[0][0] * 0.5 + x
        return NESTED[0][0] * 1


class InGlobal(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        global ALONE
        ALONE = ALONE + x
        return ALONE * 1


class InPlace(nn.Module):
    kept = torch.zeros(1, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.kept.add_(x.detach().sum(0, keepdim=True))
        return self.kept + x


class InClass(nn.Module):
    kept = torch.zeros(1, 4)

    def forward(self, x: Tensor) -> Tensor:
        type(self).kept = type(self).kept + x
        return type(self).kept * 1


class InDefault(nn.Module):
    def forward(self, x: Tensor, kept: list[Tensor] = [torch.zeros(1, 4)]) -> Tensor:  # noqa: B006, B008
        kept[0] = kept[0] + x
        return kept[0] * 1


def in_closure() -> nn.Module:
    kept = torch.zeros(1, 4)

    class InClosure(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            nonlocal kept
            kept = kept + x
            return kept * 1

        def value(self) -> Tensor:
            return kept

    return InClosure()


KEPT: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], Tensor]]] = {
    "dict": (InGlobalDict, lambda m: HELD["h"]),
    "nested list": (InNestedList, lambda m: NESTED[0][0]),
    "global": (InGlobal, lambda m: ALONE),
    "in place": (InPlace, lambda m: InPlace.kept),
    "class": (InClass, lambda m: InClass.kept),
    "default": (InDefault, lambda m: InDefault.forward.__defaults__[0][0]),  # type: ignore[index]
    "closure": (in_closure, lambda m: m.value()),
}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", KEPT)
def test_state_outside_is_what_it_was(name: str, strict: bool) -> None:
    """Either the model itself answers, and goes on from where it was; or it is refused, and nothing has moved."""
    make, read = KEPT[name]
    model = make().eval()
    model(torch.ones(1, 4))
    before, value = read(model), read(model).clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if strict:
            with pytest.raises(rt.UnsupportedProblem, match=r"outside of its modules|no buffer or attribute"):
                rt.compile(model, (torch.randn(1, 4),), strict=True)
        else:
            fast = rt.compile(model, (torch.randn(1, 4),))
    assert read(model) is before and type(before) is Tensor and torch.equal(before, value)
    if not strict:
        first, second = fast(torch.ones(1, 4)).clone(), fast(torch.ones(1, 4))
        assert not torch.equal(first, second)


class Logs(nn.Module):
    """Notes what it computes, and never reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.lin(x)
        HELD["seen"].append(y)
        return torch.relu(y)


def test_what_is_only_noted_is_no_state() -> None:
    found: dict[str, Any] = {}
    for make in (Logs, lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU())):
        model = make().eval()
        model.register_forward_hook(lambda module, args, y: found.update(y=y))
        found.clear()
        x = torch.randn(3, 4)
        fast = rt.compile(model, (x,), strict=True)
        torch.testing.assert_close(fast(x), model(x))
        assert HELD["seen"] == [] or all(type(y) is Tensor for y in HELD["seen"])
        assert type(found["y"]) is Tensor


def test_random_numbers_are_no_state() -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.rand_like(x)

    assert "another result" in str(rt.compile(Noisy().eval(), (torch.randn(2, 4),)).explain(measure=False))


def test_warnings_name_the_callers_line() -> None:
    with pytest.warns(rt.FallbackWarning) as found:
        rt.compile(InGlobal().eval(), (torch.randn(1, 4),))
    assert found[0].filename == __file__
