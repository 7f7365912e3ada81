"""A step of some streams: each stream gives what it would alone, whatever the others do; lists that are wrong move nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import rtaccel as rt
from tests.generated.test_batches import COMMON
from tests.support.generators import streams
from tests.support.generators.count import examples


@st.composite
def plays(draw: Any) -> Any:
    d = draw(streams.descriptions())
    d["streams"] = draw(st.sampled_from((1, 2, 5, 40)))
    moves = []
    for _ in range(draw(st.integers(1, 10))):
        kind = draw(st.sampled_from(("some", "some", "some", "all", "reset", "save", "move")))
        chosen = draw(st.lists(st.integers(0, d["streams"] - 1), unique=True, min_size=0, max_size=d["streams"]))
        if draw(st.booleans()):
            chosen = sorted(chosen)
        moves.append((kind, chosen))
    return d, moves


def test_each_stream_as_if_alone() -> None:
    @settings(max_examples=examples(40), **COMMON)
    @given(plays())
    def run(play: Any) -> None:
        d, moves = play
        live = streams.streamed(d)
        live.reset()
        alone = [streams.streamed({**d, "streams": 1}) for _ in range(min(d["streams"], 5))]
        for one in alone:
            one.reset()
        generator = torch.Generator().manual_seed(d["seed"])
        for kind, chosen in moves:
            if kind == "reset":
                live.reset(chosen)
                for s in chosen:
                    if s < len(alone):
                        alone[s].reset()
            elif kind == "save":
                live.load_state_dict(live.state_dict())
            elif kind == "move":  # there and back, each in the place of another
                kept = {s: live.save_stream(s) for s in chosen}
                for s, other in zip(chosen, reversed(chosen)):
                    live.load_stream(s, kept[other])
                for s in chosen:
                    live.load_stream(s, kept[s])
            else:
                rows = list(range(d["streams"])) if kind == "all" else chosen
                x = torch.randn(len(rows), d["features"], generator=generator)
                if kind == "all":
                    y = live.step(x)
                elif len(chosen) % 2:
                    y = torch.full((len(rows), live_width(live, d)), float("nan"))
                    assert live.step(x, streams=torch.tensor(rows), out=y) is y
                else:
                    y = live.step(x, streams=rows)
                for row, s in enumerate(rows):
                    if s < len(alone):
                        want = alone[s].step(x[row : row + 1].clone())
                        exact = d["scheme"] != "float32"  # else sums of several rows may go in another order
                        close = torch.allclose(y[row : row + 1], want, rtol=0, atol=2e-6)
                        assert torch.equal(y[row : row + 1], want) if exact else close, (kind, s)

    run()


def live_width(live: rt.StreamModel, d: Any) -> int:
    source: Any = live._executor.steps[0].source
    return int(source.group.outputs[0].value.width)


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
def test_nan_in_one_stream(scheme: str) -> None:
    live = rt.stream(nn.GRU(3, 8, batch_first=True).eval(), torch.randn(4, 3), scheme)
    x = torch.randn(2, 3)
    x[0, 1] = float("nan")
    y = live.step(x, streams=[3, 1])
    assert torch.isnan(y[0]).all() and not torch.isnan(y[1]).any()
    z = live.step(torch.randn(4, 3))
    assert torch.isnan(z[3]).all() and not torch.isnan(z[:3]).any()
    live.reset(3)
    assert not torch.isnan(live.step(torch.randn(1, 3), streams=[3])).any()


def test_wrong_lists_move_nothing() -> None:
    live = rt.stream(nn.LSTM(3, 8, batch_first=True).eval(), torch.randn(4, 3))
    x = torch.randn(2, 3)
    before = live.state_dict()["_extra_state"]
    for bad in (
        [0, 0],
        [0, 4],
        [-1, 0],
        [0],
        [0, 1, 2],
        [0.5, 1.0],
        torch.tensor([[0], [1]]),
        torch.tensor([0, 1, 2])[::2][:1],
    ):
        with pytest.raises((rt.ShapeError, TypeError)):
            live.step(x, streams=bad)
        with pytest.raises((rt.ShapeError, TypeError)):
            live.step(x.double(), streams=[0, 1])
    with pytest.raises(rt.ShapeError):
        live.step(x, streams=[0, 1], out=torch.empty(3, 8))
    assert torch.equal(live.state_dict()["_extra_state"], before)
    assert live.step(torch.empty(0, 3), streams=[]).shape == (0, 8)
    with pytest.raises(rt.ShapeError):
        live.save_stream(4)
    with pytest.raises(rt.FormatError):
        live.load_stream(0, b"1234")
    state = bytearray(live.save_stream(0))
    state[-8:] = (-5).to_bytes(8, "little", signed=True)
    with pytest.raises(rt.FormatError, match="steps"):
        live.load_stream(0, bytes(state))
    assert torch.equal(live.state_dict()["_extra_state"], before)


def test_threads_give_the_same_bits() -> None:
    torch.manual_seed(0)
    model, x = nn.GRU(16, 64, batch_first=True).eval(), torch.randn(256, 16)
    one, two = (rt.stream(model, torch.randn(300, 16), threads=n) for n in (1, 2))
    for live in (one, two):
        live.reset()
    for i in range(4):
        chosen = torch.randperm(300, generator=torch.Generator().manual_seed(i))[:256]
        assert torch.equal(one.step(x, streams=chosen), two.step(x, streams=chosen))


def test_a_model_without_states_is_called_with_the_rows_that_are_wanted() -> None:
    live = rt.stream(nn.Sequential(nn.Linear(6, 8), nn.ReLU()).eval(), torch.randn(5, 6))
    x = torch.randn(5, 6)
    with pytest.raises(rt.ShapeError, match=r"keeps no states.*Call step with the rows"):
        live.step(x[:2], streams=[3, 1])
    assert live.streams == 0 and torch.allclose(live.step(x[:2]), live.step(x)[:2], atol=1e-6)
