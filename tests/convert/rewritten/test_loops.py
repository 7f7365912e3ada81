"""Loops over time steps in a forward: a linear recurrence is one linear scan, compiled and streamed, equal to float64."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt

FEATURES, STATES = 5, 3


class Loop(nn.Module):
    """A recurrence over [batch, time, 5], in one of the ways in which it is written, by random choices."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = random.Random(seed)
        self.first, self.width = nn.Linear(FEATURES, 8), 8
        self.decay = nn.Parameter(torch.rand(8, STATES) - 0.2)
        self.gate, self.mix = nn.Linear(FEATURES, 8), nn.Linear(FEATURES, STATES)
        self.factor = draw.choice(("number", "parameter", "computed", "selective"))
        self.begin = draw.choice(("zeros", "zeros", "first"))
        self.order = draw.choice(("a*h+b", "b+h*a"))
        self.output = draw.choice(("states", "product", "sum", "activation"))
        self.join = draw.choice(("stack", "cat", "last"))
        self.time_last, self.unbind, self.backward_too = draw.random() < 0.3, draw.random() < 0.3, draw.random() < 0.2
        self.head = nn.Linear(8 * STATES if self.output in ("states", "activation") else 8, 2)
        self.every = draw.random() < 0.4 and self.join != "last"

    def __repr__(self) -> str:
        return " ".join(str(v) for k, v in vars(self).items() if not k.startswith("_") and k != "training")

    @property
    def streams(self) -> bool:
        return self.begin == "zeros" and not self.backward_too

    def forward(self, x: Tensor) -> Tensor:
        u, c = torch.tanh(self.first(x))[..., None], self.mix(x)
        a = torch.sigmoid(self.gate(x))[..., None] * torch.sigmoid(self.decay)
        b = u * c[:, :, None] if self.factor == "selective" else u * torch.ones(STATES)
        y = self.run(a, b, c)
        if self.backward_too:
            y = y + self.run(a.flip(1), b.flip(1), c.flip(1)).flip(1)
        return self.head(y if self.every else y[:, -1])

    def run(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        time = b.shape[1]
        if self.time_last:
            a, b = a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)

        def at(z: Tensor, t: int) -> Tensor:
            return z[..., t] if self.time_last else z[:, t]

        parts = b.unbind(-1 if self.time_last else 1) if self.unbind else None
        h = torch.zeros(b.shape[0], self.width, STATES, dtype=b.dtype)
        made = []
        for t in range(time):
            added = parts[t] if parts else at(b, t)
            factor: Tensor | float = {
                "number": lambda: 0.9,
                "parameter": lambda: torch.sigmoid(self.decay),
                "computed": lambda t=t: at(a, t),
                "selective": lambda t=t: at(a, t),
            }[self.factor]()  # type: ignore[misc]
            begins = t == 0 and self.begin == "first"
            h = added if begins else factor * h + added if self.order == "a*h+b" else added + h * factor
            y = h
            if self.output == "product":
                y = (h @ c[:, t, :, None])[..., 0]
            elif self.output == "sum":
                y = (h * c[:, t, None]).sum(-1)
            elif self.output == "activation":
                y = torch.tanh(h)
            y = y.flatten(1) if self.output in ("states", "activation") else y
            made.append(y)
        if self.join == "last":
            return made[-1][:, None]
        if self.join == "cat":
            return torch.cat([y.unsqueeze(1) for y in made], 1)
        return torch.stack(made, 1)


def stages(fast: rt.CompiledModel) -> list[str]:
    return [stage.op for step in fast._program.steps for stage in step.group.stages]  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", range(60))
def test_random_loops(seed: int) -> None:
    torch.manual_seed(seed)
    model = Loop(seed).eval()
    fast = rt.compile(model, (torch.randn(2, 24, FEATURES),), strict=True)
    x = torch.randn(3, 24, FEATURES)
    with torch.no_grad():
        want = copy.deepcopy(model).double()(x.double())
    torch.testing.assert_close(fast(x).double(), want, rtol=3e-5, atol=3e-5, msg=repr(model))
    found = stages(fast)
    assert found.count("linear_scan") == 1 + model.backward_too, (repr(model), found)
    assert len(found) < 40, found
    if not model.streams:
        return
    live = rt.stream(model, torch.randn(3, FEATURES))
    for t in range(24):
        got = live.step(x[:, t].contiguous())
    last = want[:, -1] if want.dim() == 3 else want
    torch.testing.assert_close(got.double(), last, rtol=3e-5, atol=3e-5, msg=repr(model))


class Other(nn.Module):
    def __init__(self, loop: Callable[[Tensor, nn.Module], Tensor]) -> None:
        super().__init__()
        self.loop, self.layer = loop, nn.Linear(FEATURES, FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        return self.loop(x, self.layer)


def walked(x: Tensor, step: Callable[[Tensor, int], Tensor]) -> Tensor:
    h, made = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = step(h, t)
        made.append(h)
    return torch.stack(made, 1)


def read_later(x: Tensor, layer: nn.Module) -> Tensor:
    """The states of all time steps, and two of them again behind the loop."""
    h, made = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = torch.sigmoid(x[:, t]) * h + layer(x[:, t])
        made.append(h)
    return torch.stack(made, 1) * made[5][:, None] + torch.tanh(made[-1])[:, None]


def of_averages(x: Tensor, layer: nn.Module) -> Tensor:
    """Averages of averages: two loops, the second of which reads the results of the first one by one."""
    g, h = torch.zeros_like(x[:, 0]), torch.zeros_like(x[:, 0])
    for t in range(x.shape[1]):
        g = 0.9 * g + x[:, t]
        h = 0.8 * h + layer(g)
    return x * h[:, None]


OTHERS: dict[str, Callable[[Tensor, nn.Module], Tensor]] = {
    "not linear": lambda x, layer: walked(x, lambda h, t: torch.tanh(layer(h) + x[:, t])),
    "its own square": lambda x, layer: walked(x, lambda h, t: 0.1 * h * h + x[:, t]),
    "gates that read h": lambda x, layer: walked(
        x, lambda h, t: torch.sigmoid(layer(x[:, t]) + h) * h + (1 - torch.sigmoid(layer(x[:, t]) + h)) * x[:, t]
    ),
    "the same for each": lambda x, layer: x + torch.stack([torch.relu(layer.bias) for _ in range(20)], 0),
    "highway": lambda x, layer: x + sum(torch.sigmoid(layer(x)) * x + k * layer(x) for k in range(9)),
    "states that are read later": read_later,
    "averages of averages": of_averages,
    "two steps back": lambda x, layer: torch.stack(
        [x[:, t] + (0.5 * x[:, t - 2] if t > 1 else 0) for t in range(x.shape[1])], 1
    ),
    "another order": lambda x, layer: torch.stack([x[:, (3 * t) % x.shape[1]] for t in range(x.shape[1])], 1),
    "factors that change": lambda x, layer: walked(x, lambda h, t: (0.1 * t) * h + x[:, t]),
    "a step that is left out": lambda x, layer: walked(x, lambda h, t: 0.5 * h + x[:, t] if t != 7 else x[:, t]),
    "an intermediate read": lambda x, layer: (
        walked(x, lambda h, t: 0.5 * h + x[:, t]) * walked(x, lambda h, t: 0.5 * h)[:, :1]
    ),
    "halves": lambda x, layer: torch.stack(
        [torch.relu(x[:, t]) if t < 9 else torch.tanh(x[:, t]) for t in range(x.shape[1])], 1
    ),
    "other layers": lambda x, layer: torch.stack([layer(x[:, t]) if t % 2 else x[:, t] for t in range(x.shape[1])], 1),
}


SCANS = {
    "factors that change": 1, "an intermediate read": 1, "a step that is left out": 1, "states that are read later": 1,
    "averages of averages": 2,
}  # fmt: skip
"""How many a loop may have that is one in part, or with more around it."""


@pytest.mark.parametrize("name", OTHERS)
def test_other_loops_are_what_they_are(name: str) -> None:
    torch.manual_seed(2)
    model = Other(OTHERS[name]).eval()
    fast, x = rt.compile(model, (torch.randn(2, 20, FEATURES),), strict=True), torch.randn(3, 20, FEATURES)
    with torch.no_grad():
        want = copy.deepcopy(model).double()(x.double())
    torch.testing.assert_close(fast(x).double(), want, rtol=3e-5, atol=3e-5)
    assert stages(fast).count("linear_scan") <= SCANS.get(name, 0)


def test_layers_in_a_loop_are_one_layer() -> None:
    """The same layer for each time step is the layer over all of them."""
    model = Other(
        lambda x, layer: torch.stack([layer(torch.relu(layer(x[:, t]))) for t in range(x.shape[1])], 1)
    ).eval()
    fast = rt.compile(model, (torch.randn(2, 20, FEATURES),), strict=True)
    x = torch.randn(4, 20, FEATURES)
    torch.testing.assert_close(fast(x), model.layer(torch.relu(model.layer(x))), rtol=1e-5, atol=1e-6)
    assert stages(fast) == ["linear", "linear"]


def test_steps_that_are_samples() -> None:
    """Places that depend on the number of samples, as a dilated RNN puts steps among them, are no numbers while it is open."""

    def loop(x: Tensor, layer: nn.Module) -> Tensor:
        n, y = x.shape[0], torch.cat([layer(x) * k for k in range(1, 21)])
        return torch.stack([torch.relu(y[k * n : (k + 1) * n]) for k in range(20)], 1)

    model = Other(loop).eval()
    fast, x = rt.compile(model, (torch.randn(2, 20, FEATURES),)), torch.randn(2, 20, FEATURES)
    torch.testing.assert_close(fast(x), model(x).detach(), rtol=1e-5, atol=1e-5)
