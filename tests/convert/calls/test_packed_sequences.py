"""Models that pack padded sequences, whatever their lengths: beside torch's own pass over them."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import rtaccel as rt
from rtaccel.core.errors import FallbackWarning, FormatError

KINDS = (nn.LSTM, nn.GRU, nn.RNN)
TIME, INPUTS = 7, 5


class Packs(nn.Module):
    """One or two recurrent layers over a packed sequence, drawn: its order, what is done row by row, what it gives."""

    def __init__(self, draw: random.Random) -> None:
        super().__init__()
        self.batch_first, self.is_sorted = draw.random() < 0.6, draw.random() < 0.3
        self.total = draw.choice((None, TIME, TIME, TIME + 2))
        self.padding, self.by_row, self.given = draw.choice((0.0, 0.0, -1.0)), draw.random() < 0.4, draw.random() < 0.4
        kind, hidden, layers, both = (
            draw.choice(KINDS),
            draw.choice((3, 8, 17)),
            draw.randint(1, 2),
            draw.random() < 0.5,
        )
        extra = {"nonlinearity": draw.choice(("tanh", "relu"))} if kind is nn.RNN else {}
        self.first = kind(INPUTS, hidden, layers, batch_first=self.batch_first, bidirectional=both, **extra)
        width = hidden * (2 if both else 1)
        self.second = draw.choice(KINDS)(width, 6, batch_first=self.batch_first) if draw.random() < 0.5 else None
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(0.3)
        self.states = layers * (2 if both else 1), hidden

    def forward(self, x: Tensor, lengths: Tensor, h: Tensor | None = None) -> tuple[Tensor, ...]:
        packed = pack_padded_sequence(x, lengths.cpu(), self.batch_first, enforce_sorted=self.is_sorted)
        hx = None if h is None else (h, -h) if isinstance(self.first, nn.LSTM) else h
        y, last = self.first(packed, hx)
        if self.by_row:
            y = PackedSequence(
                torch.relu(self.norm(self.dropout(y.data))), y.batch_sizes, y.sorted_indices, y.unsorted_indices
            )
        if self.second is not None:
            y, last = self.second(y)
        y, _ = pad_packed_sequence(y, self.batch_first, self.padding, self.total)
        return (y, *last) if isinstance(last, tuple) else (y, last)


def lengths_of(model: Packs, batch: int, whole: bool) -> Tensor:
    """whole: the first, or one of them, is as long as x."""
    lengths = torch.randint(1, TIME + 1, (batch,))
    if whole:
        lengths[0] = TIME
    return lengths.sort(descending=True)[0] if model.is_sorted else lengths[torch.randperm(batch)]


def example(model: Packs, batch: int, whole: bool = True) -> tuple[Tensor, ...]:
    lengths = lengths_of(model, batch, whole)
    x = torch.randn(batch, TIME, INPUTS)
    for one, length in zip(x, lengths):
        one[length:] = float("nan")  # nobody reads it
    h = (torch.randn(model.states[0], batch, model.states[1]) * 0.5,) if model.given else ()
    return x if model.batch_first else x.transpose(0, 1).contiguous(), lengths, *h


@pytest.mark.parametrize("seed", range(60))
def test_a_random_model_is_native_and_equals_torch(seed: int) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    model, batch = Packs(draw).eval(), draw.choice((1, 2, 3, 5))
    fast = rt.compile(model, example(model, batch), strict=True)
    for _ in range(4):
        args = example(model, batch, whole=model.total is None)
        for got, want in zip(fast(*args), model(*args), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8"])
@pytest.mark.parametrize("seed", range(6))
def test_quantized_weights_keep_to_the_model(seed: int, scheme: str) -> None:
    draw = random.Random(100 + seed)
    torch.manual_seed(seed)
    model = Packs(draw).eval()
    model.total = TIME
    *batches, args = [tuple(torch.nan_to_num(t) for t in example(model, 3)) for _ in range(9)]
    fast = rt.compile(model, batches[0], scheme=scheme, calibration=batches)
    for got, want in zip(fast(*args), model(*args), strict=True):
        assert (got - want).square().mean() < (0.1 if scheme == "w8a8" else 0.3) ** 2 * want.square().mean()


@pytest.mark.parametrize("length", [0, -3, TIME + 1, 2**40])
def test_a_length_that_cannot_be_is_refused(length: int) -> None:
    model = Packs(random.Random(1)).eval()
    model.total, model.is_sorted, model.given = TIME, False, False
    args = example(model, 2)
    fast = rt.compile(model, args)
    before = fast(*args)
    with pytest.raises(FormatError, match=f"length of {length}.*{TIME}"):
        fast(args[0], torch.tensor([3, length]))
    for got, want in zip(fast(*args), before):
        assert torch.equal(got, want)


def test_without_total_length_the_longest_has_to_be_whole() -> None:
    model = Packs(random.Random(1)).eval()
    model.total, model.is_sorted, model.given = None, False, False
    args = example(model, 3)
    fast = rt.compile(model, args)
    assert "pad_packed_sequence without total_length" in fast.explain(measure=False)  # why the batch is fixed
    with pytest.raises(FormatError, match=f"longest length of 5.*{TIME}"):
        fast(args[0], torch.tensor([5, 2, 3]))


class ReadsRows(nn.Module):
    """Its result depends on how many rows there are."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.gru, self.how = nn.GRU(INPUTS, 4, batch_first=True), how

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        y, _ = self.gru(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
        if self.how == "mean":
            return y.data.mean(0)
        if self.how == "sizes":
            return y.batch_sizes.float()
        return y.data.sum() / y.data.shape[0]


@pytest.mark.parametrize("how", ["mean", "sizes", "shape"])
def test_what_depends_on_the_rows_is_left_to_torch_and_named(how: str) -> None:
    model, x, lengths = ReadsRows(how).eval(), torch.randn(3, TIME, INPUTS), torch.tensor([7, 2, 4])
    with pytest.warns(FallbackWarning, match="a packed sequence that"):
        fast = rt.compile(model, (x, lengths))
    for own in (lengths, torch.tensor([1, 2, 7])):
        torch.testing.assert_close(fast(x, own), model(x, own))


def test_torch_is_as_before_whatever_came_of_it() -> None:
    checks = nn.RNNBase.check_forward_args, nn.LSTM.check_forward_args
    with pytest.warns(FallbackWarning):
        rt.compile(ReadsRows("mean").eval(), (torch.randn(2, TIME, INPUTS), torch.tensor([7, 2])))
    assert checks == (nn.RNNBase.check_forward_args, nn.LSTM.check_forward_args)
