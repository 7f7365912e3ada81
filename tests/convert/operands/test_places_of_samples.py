"""Samples lie in front of what they are joined with or behind it, or beside a dimension that has their number by chance."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt

F = nn.functional
Call = Callable[["Model", Tensor], Tensor]
ROWS = (2, 3)
TRACED = 23
"""The batch that stands for an open one while a model is captured."""


class Model(nn.Module):
    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call = call
        self.gru, self.layers, self.cell = nn.GRU(3, 2), nn.GRU(3, 2, 2, batch_first=True), nn.RNNCell(3, 2)
        self.state, self.other = nn.Parameter(torch.randn(2, 2)), nn.Parameter(torch.randn(2, 3))
        self.several, self.masks = nn.Parameter(torch.randn(4, 2, 3)), nn.Parameter(torch.randn(2, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self, x)


def checked(call: Call, shape: tuple[int, ...], example: int = 2, is_open: bool = True) -> None:
    """Nothing is put right by running the model itself; whole without a call of torch."""
    torch.manual_seed(0)
    model = Model(call).eval()
    with torch.no_grad():
        fast = rt.compile(model, torch.randn(example, *shape), verify=False, strict=True)
        for batch in (1, 2, 3, 5) if is_open else (example,):
            x = torch.randn(batch, *shape)
            torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)


def front(x: Tensor) -> Tensor:
    """Rows with the samples in front: [batch * 2, 3]."""
    return x.reshape(-1, 3)


def behind(x: Tensor) -> Tensor:
    """The same rows with the samples behind: [2 * batch, 3]."""
    return x.transpose(0, 1).reshape(-1, 3)


def heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (2, 3)).permute(2, 0, 1, 3).flatten(0, 1)


def square(x: Tensor) -> Tensor:
    return x.transpose(-1, -2) @ x + 3 * torch.eye(3)


CROSSED: dict[str, Call] = {
    "a sum": lambda m, x: front(x) + torch.tanh(behind(x)),
    "a product": lambda m, x: torch.tanh(front(x)) * torch.tanh(behind(x)),
    "columns": lambda m, x: torch.cat([torch.tanh(front(x)), behind(x)], -1),
    "a state": lambda m, x: m.cell(front(x), torch.tanh(behind(x))[:, :2]),
    "a system": lambda m, x: torch.linalg.solve(square(front(x).unsqueeze(1)), square(behind(x).unsqueeze(1))),
}
"""A row of one sample meets that of another one."""


@pytest.mark.parametrize("name", CROSSED)
@pytest.mark.parametrize("example", [1, 2, 3])
def test_rows_that_are_joined_in_two_orders(name: str, example: int) -> None:
    checked(CROSSED[name], ROWS, example, is_open=False)


BY_CHANCE: dict[str, Call] = {
    "layers of a state": lambda m, x: m.layers(x, torch.tanh(x[:, :, :2]).transpose(0, 1))[0],
    "samples for layers": lambda m, x: m.layers(x, torch.tanh(x[:, :, :2]).contiguous())[0],
    "keys": lambda m, x: F.scaled_dot_product_attention(torch.stack([x, x * 2], 1), torch.tanh(x), torch.tanh(x)),
    "keys of heads": lambda m, x: F.scaled_dot_product_attention(*(torch.stack([x, x * 2], d) for d in (1, 0, 1))),
    "written keys": lambda m, x: (torch.stack([x, x * 2], 1) @ torch.tanh(x).mT).softmax(-1) @ torch.tanh(x),
    "written values": lambda m, x: (torch.stack([x, x * 2], 1) @ torch.stack([x, x + 1], 1).mT).softmax(-1) @ x,
    "right sides": lambda m, x: torch.linalg.solve(square(torch.stack([x, x * 2], 1)), square(x)),
    "constant right sides": lambda m, x: torch.linalg.solve(square(x), square(m.several[:2])),
    "constants of joined samples": lambda m, x: torch.linalg.solve(square(x.reshape(-1, 1, 3)), square(m.several)),
    "a grid": lambda m, x: F.grid_sample(x[:, None], torch.tanh(m.several[:2, :, None, :2]), align_corners=False),
}


@pytest.mark.parametrize("name", BY_CHANCE)
def test_another_dimension_has_the_size_of_the_batch(name: str) -> None:
    checked(BY_CHANCE[name], ROWS, is_open=False)


BEHIND: dict[str, tuple[Call, tuple[int, ...]]] = {
    "a state that is computed": (lambda m, x: m.cell(behind(x), behind(torch.tanh(x))[:, :2]), ROWS),
    "a state of its own memory": (lambda m, x: m.cell(behind(x), front(x.transpose(0, 1).tanh())[:, :2]), ROWS),
    "a state of each": (lambda m, x: m.cell(behind(x), m.state.repeat_interleave(len(x), 0)), ROWS),
    "a constant of each": (lambda m, x: behind(x) + m.other.repeat_interleave(len(x), 0), ROWS),
    "a mean": (lambda m, x: x.transpose(0, 1).reshape(-1, 4, 3).mean(1), (2, 4, 3)),
    "a state of a layer": (
        lambda m, x: m.gru(x.permute(2, 1, 0, 3).flatten(1, 2), m.state.repeat_interleave(len(x), 0)[None])[0],
        (2, 4, 3),
    ),
    "one state of all": (
        lambda m, x: m.gru(x.permute(2, 1, 0, 3).flatten(1, 2), m.state[:1].expand(1, len(x) * 2, 2))[0],
        (2, 4, 3),
    ),
    "a mask of each head": (
        lambda m, x: (torch.bmm(heads(x), heads(x).mT) + m.masks.repeat_interleave(len(x), 0)).softmax(-1) @ heads(x),
        (4, 6),
    ),
    "a mask that is added first": (
        lambda m, x: torch.baddbmm(m.masks.repeat_interleave(len(x), 0), heads(x), heads(x).mT).softmax(-1) @ heads(x),
        (4, 6),
    ),
}


@pytest.mark.parametrize("name", BEHIND)
def test_samples_behind_what_they_are_joined_with(name: str) -> None:
    """No reason for a fixed batch."""
    call, shape = BEHIND[name]
    checked(call, shape, example=random.Random(name).choice((1, 2, 3)))


OF_TRACED_SIZE: dict[str, Call] = {
    "in its place": lambda m, x: torch.tanh(x).reshape(-1, 3).view(len(x), TRACED, 3).sum(1),
    "for samples": lambda m, x: torch.tanh(x).reshape(-1, 3).view(TRACED, -1, 3).sum(0),
}


@pytest.mark.parametrize("name", OF_TRACED_SIZE)
def test_a_size_that_is_the_traced_one(name: str) -> None:
    checked(OF_TRACED_SIZE[name], (TRACED, 3), is_open=name == "in its place")


@pytest.mark.parametrize("rows", [2, TRACED])
def test_torch_reads_a_copy_that_was_left_out(rows: int) -> None:
    """A view of what is no copy in the plan."""
    model = Model(lambda m, x: torch.tanh(behind(torch.tanh(x)).view(len(x), rows, 3))).eval()
    with pytest.warns(rt.FallbackWarning):
        fast = rt.compile(model, torch.randn(3, rows, 3), verify=False)
    for batch in (3, 5):
        x = torch.randn(batch, rows, 3)
        torch.testing.assert_close(fast(x), model(x))
