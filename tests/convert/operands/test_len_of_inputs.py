"""`len(x)` of a model's input leaves the batch open, as `x.shape[0]` does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt


def flat(x: Tensor) -> Tensor:
    """Of this file, not of the model."""
    return x.reshape(len(x), -1)


FORMS: dict[str, Callable[[Model, Tensor], Tensor]] = {
    "view": lambda m, x: m.layer(x).view(len(x), 20),
    "list": lambda m, x: m.layer(x).reshape([len(x)] + [4] * len([5])),
    "expand": lambda m, x: torch.cat([m.query.expand(len(x), -1, -1), x], 1),
    "repeat": lambda m, x: torch.cat([m.query.repeat(len(x), 1, 1), x], 1),
    "zeros": lambda m, x: m.layer(x) + torch.zeros(len(x), 1, 4),
    "function": lambda m, x: flat(m.layer(x)),
    "attention": lambda m, x: m.attention(m.query.expand(len(x), -1, -1), x, x, need_weights=False)[0],
    "of a list": lambda m, x: torch.stack([m.layer(x)[:, i] for i in range(len(m.query[0]))], 1),
}


class Model(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.layer, self.query = name, nn.Linear(8, 4), nn.Parameter(torch.randn(1, 3, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return FORMS[self.name](self, x if self.name != "list" else x[:, :1])


@pytest.mark.parametrize("name", FORMS)
def test_the_batch_stays_open(name: str) -> None:
    torch.manual_seed(len(name))
    model = Model(name).eval()
    fast = rt.compile(model, (torch.randn(3, 5, 8),), strict=True)
    for batch in (1, 2, 3, 7):
        x = torch.randn(batch, 5, 8)
        with torch.no_grad():
            torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
    assert "len" not in vars(sys.modules[__name__])


class Limited(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if len(x) < 30 else x


def test_a_limit_is_a_condition() -> None:
    fast = rt.compile(Limited().eval(), (torch.randn(3, 4),))
    x = torch.randn(29, 4)
    assert torch.equal(fast(x), x * 2)
    with pytest.raises(rt.ShapeError):
        fast(torch.randn(30, 4))


FILES = {
    "some_package.masks": "def ones(n):\n    return n.new_ones(len(n), 1)\n",
    "some_package.model": (
        "from torch import nn\nfrom some_package.masks import ones\n"
        "class Net(nn.Module):\n    def forward(self, x):\n        return x * 2 + ones(x[:, 0])\n"
    ),
}


def test_in_another_file_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file has the function, and none of the model's classes."""
    for name, code in FILES.items():
        file = ModuleType(name)
        monkeypatch.setitem(sys.modules, name, file)
        exec(code, vars(file))
    model = sys.modules["some_package.model"].Net().eval()
    fast = rt.compile(model, (torch.randn(1, 5),), strict=True)
    for batch in (1, 2, 3):
        x = torch.randn(batch, 5)
        torch.testing.assert_close(fast(x), model(x))
    assert "len" not in vars(sys.modules["some_package.masks"])
