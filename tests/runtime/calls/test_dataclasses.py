"""Arguments and results in dataclasses that nobody registered: fresh classes in fresh trees, objects that change, and what
stays in PyTorch with the reason."""

from __future__ import annotations

import dataclasses
import enum
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import rtaccel as rt


def fresh(rng: random.Random, count: int) -> type:
    """A dataclass that no test had before."""
    names = rng.sample("pqrstuvw", count)
    return dataclasses.make_dataclass(f"Fresh{rng.randrange(1000)}", names, frozen=rng.random() < 0.3)


def tree(rng: random.Random, depth: int) -> Any:
    """A builder of containers: half of them dataclasses. Its leaves are None."""
    if not depth:
        return None
    parts = [tree(rng, rng.randrange(depth)) for _ in range(rng.randint(1, 3))]
    return (rng.choice((tuple, list, dict, fresh(rng, len(parts)), fresh(rng, len(parts)))), parts)


def built(shape: Any, leaf: Callable[[], Any]) -> Any:
    if shape is None:
        return leaf()
    kind, parts = shape
    values = [built(part, leaf) for part in parts]
    if kind is dict:
        return {f"k{i}": value for i, value in enumerate(values)}
    return kind(values) if kind in (tuple, list) else kind(*values)


def leaves(shape: Any, value: Any) -> list[Any]:
    """Without torch's pytree, of which it is not known what it knows."""
    if shape is None:
        return [value]
    kind, parts = shape
    if kind is dict:
        values = list(value.values())
    elif kind in (tuple, list):
        assert type(value) is kind
        values = list(value)
    else:
        assert type(value) is kind
        values = [getattr(value, field.name) for field in dataclasses.fields(kind)]
    return [leaf for part, own in zip(parts, values, strict=True) for leaf in leaves(part, own)]


class Nested(nn.Module):
    """Each result is a sum of all arguments in shares of its own."""

    def __init__(self, taken: Any, given: Any) -> None:
        super().__init__()
        self.taken, self.given = taken, given
        count = [len(leaves(shape, built(shape, lambda: 0))) for shape in (given, taken)]
        self.shares = torch.rand(count[0], count[1]).tolist()
        self.layer = nn.Linear(3, 3)

    def forward(self, value: Any) -> Any:
        arguments = leaves(self.taken, value)
        results = (self.layer(sum(s * x for s, x in zip(row, arguments))) for row in self.shares)
        return built(self.given, lambda: next(results))


@pytest.mark.parametrize("seed", range(12))
def test_random_trees(seed: int) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    taken, given = tree(rng, 3), tree(rng, 3)
    model = Nested(taken, given).eval()
    fast = rt.compile(model, (built(taken, lambda: torch.randn(2, 3)),), strict=True)
    for batch in (2, 1, 5):
        value = built(taken, lambda n=batch: torch.randn(n, 3))
        got, want = leaves(given, fast(value)), leaves(given, model(value))
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
        for leaf in leaves(taken, value):  # the same objects with other numbers
            leaf.mul_(-2)
        torch.testing.assert_close(leaves(given, fast(value)), leaves(given, model(value)), rtol=1e-5, atol=1e-5)


@dataclasses.dataclass
class Observation:
    x: Tensor
    gain: float = 1.0
    mask: Tensor | None = None


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, given: Any) -> Tensor:
        return self.layer(given.x) * given.gain


def test_another_value_or_nesting_is_refused() -> None:
    fast = rt.compile(Scaled().eval(), (Observation(torch.randn(2, 4), 3.0),), strict=True)
    for wrong in (
        Observation(torch.randn(2, 4)),
        Observation(torch.randn(2, 4), 3.0, torch.ones(2)),
        torch.randn(2, 4),
    ):
        with pytest.raises(rt.ShapeError):
            fast(wrong)


def test_a_stream_reads_results_in_dataclasses() -> None:
    Heard = dataclasses.make_dataclass("Heard", ["y", "words"])

    class Hears(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.head = nn.GRU(4, 8, batch_first=True), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Any:
            return Heard(self.head(self.gru(x)[0][:, -1]), "yes")

    model = Hears().eval()
    live, window = rt.stream(model, torch.randn(2, 4)), torch.randn(2, 7, 4)
    for t in range(7):
        y = live.step(window[:, t].contiguous())
    torch.testing.assert_close(y, model(window).y, rtol=1e-5, atol=1e-5)


class Plain:
    """Holds a tensor and is no container."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.gain = x, 2.0


@dataclasses.dataclass
class Doubles:
    """Its fields are not what it was made of."""

    x: Tensor
    gain: float = 1.0

    def __post_init__(self) -> None:
        self.x = self.x * 2


@dataclasses.dataclass
class OwnInit:
    x: Tensor
    gain: float

    def __init__(self, numbers: Tensor) -> None:
        self.x, self.gain = numbers, 0.5


@dataclasses.dataclass
class Later:
    x: Tensor
    gain: float = dataclasses.field(init=False, default=1.0)


class Child(Observation):
    """A dataclass by its parent alone, with more than its fields."""


@pytest.mark.parametrize(
    "make", [Plain, Doubles, OwnInit, Later, Child, lambda x: SimpleNamespace(x=x, gain=2.0)],
    ids=["object", "post_init", "own init", "field later", "child", "namespace"],
)  # fmt: skip
def test_what_fields_do_not_make_anew_stays_in_torch(make: Any) -> None:
    model = Scaled().eval()
    given = make(torch.randn(2, 4))
    with pytest.warns(rt.FallbackWarning, match=f"a {type(given).__name__}; expected tensors"):
        fast = rt.compile(model, (given,))
    for scale in (1.0, -3.0):  # the same object with other numbers
        given.x, given.gain = torch.randn(2, 4), scale
        assert torch.equal(fast(given), model(given))
    assert type(given) not in pytree.SUPPORTED_NODES
    with pytest.raises(rt.UnsupportedProblem, match="input 0"):
        rt.compile(model, (given,), strict=True)


class Mode(enum.Enum):
    UP = 1
    DOWN = 2


class Turns(nn.Module):
    def forward(self, x: Tensor, mode: Mode) -> Tensor:
        return x.relu() if mode is Mode.UP else -x


def test_values_are_compared() -> None:
    fast = rt.compile(Turns().eval(), (torch.randn(2, 4), Mode.UP), strict=True)
    x = torch.randn(3, 4)[:2]
    assert torch.equal(fast(x, Mode.UP), x.relu())
    with pytest.raises(rt.ShapeError, match="the value of the example"):
        fast(x, Mode.DOWN)
