"""Recurrent layers over samples that are joined with another dimension: one stage, for any number of samples."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from tests.support.against_torch import EPS

KINDS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


class Joined(nn.Module):
    """x [M, *frames, T, K]: frames of a sample as further sequences. turned: the frames before the samples."""

    def __init__(self, layer: nn.Module, frames: int, turned: bool) -> None:
        super().__init__()
        self.layer, self.frames, self.turned = layer, frames, turned

    def joined(self, x: Tensor) -> Tensor:
        """[M, *frames, ...] -> [M * frames, ...]."""
        return (x.movedim(0, self.frames) if self.turned else x).flatten(0, self.frames)

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        rows = self.joined(x)
        rows = rows if self.layer.batch_first else rows.transpose(0, 1)
        given = tuple(self.joined(s).movedim(1, 0) for s in states)
        hx = {} if not given else {"hx": given if len(given) > 1 else given[0]}
        y, found = self.layer(rows, **hx)
        ends = found if isinstance(found, tuple) else (found,)
        y = y if self.layer.batch_first else y.transpose(0, 1)
        return (self.apart(y, x), *(self.apart(end.transpose(0, 1), x) for end in ends))

    def apart(self, y: Tensor, x: Tensor) -> Tensor:
        shape = (*x.shape[1 : 1 + self.frames], x.shape[0]) if self.turned else x.shape[: 1 + self.frames]
        y = y.unflatten(0, shape)
        return y.movedim(self.frames, 0) if self.turned else y


def drawn(seed: int) -> tuple[str, Joined, tuple[tuple[int, ...], ...]]:
    """A model, and the shapes of one sample of its inputs."""
    draw = random.Random(seed)
    kind = draw.choice(list(KINDS))
    width, hidden, layers, time = draw.randint(1, 7), draw.randint(1, 9), draw.randint(1, 2), draw.randint(1, 6)
    both, first = draw.random() < 0.4, draw.random() < 0.6
    layer = KINDS[kind](width, hidden, layers, batch_first=first, bidirectional=both)
    frames = tuple(draw.randint(1, 4) for _ in range(draw.randint(1, 2)))
    model, given = Joined(layer, len(frames), draw.random() < 0.4), draw.random() < 0.5
    state = (*frames, layers * (1 + both), hidden)
    count = (2 if kind == "lstm" else 1) if given else 0
    return kind, model, ((*frames, time, width), *[state] * count)


@pytest.mark.parametrize("seed", range(40))
def test_any_number_of_samples(seed: int) -> None:
    kind, model, shapes = drawn(seed)
    model.eval()
    exact = copy.deepcopy(model).double()
    fast = rt.compile(model, tuple(torch.randn(2, *s) for s in shapes), strict=True)
    assert 1 in fast.batch and 1000 in fast.batch
    assert sum(stage.op.startswith(kind) for stage in fast._program.stages) == 1
    for rows in (1, 2, 5):
        inputs = tuple(torch.randn(rows, *s) for s in shapes)
        with torch.no_grad():
            want, got = exact(*(x.double() for x in inputs)), fast(*inputs)
        for a, b in zip(got, want, strict=True):
            assert a.shape == b.shape
            assert float((a.double() - b).abs().max()) <= EPS * 200 * max(1.0, float(b.abs().max()))


class Crossed(nn.Module):
    """States whose samples are joined the other way than those of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(3, 4, batch_first=True)

    def forward(self, x: Tensor, h: Tensor) -> Any:
        y, _ = self.layer(x.flatten(0, 1), h.transpose(0, 1).flatten(0, 1)[None])
        return y.unflatten(0, x.shape[:2])


def test_states_of_other_samples_are_not_taken_for_theirs() -> None:
    model = Crossed().eval()
    fast = rt.compile(model, (torch.randn(2, 3, 5, 3), torch.randn(2, 3, 4)))
    x, h = torch.randn(2, 3, 5, 3), torch.randn(2, 3, 4)
    with torch.no_grad():
        torch.testing.assert_close(fast(x, h), model(x, h))
