"""Cascades against the same logic in Python over the same compiled stages: the same bits, the same exits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.errors import FormatError, ShapeError, UnsupportedProblem
from tests.support.networks.cascades import SCORES, compiled, exits_of, mlp, reference

INPUTS, OUTPUTS = 13, 7


@pytest.fixture(scope="module")
def stages() -> list[Any]:
    return [compiled(INPUTS, hidden, OUTPUTS, seed) for seed, hidden in enumerate((5, 17, 41))]


@pytest.mark.parametrize("test", SCORES)
@pytest.mark.parametrize("width", [2, 3, 4, 5, 10, 33, 1000])
def test_scores_are_those_of_the_formulas(test: str, width: int) -> None:
    """In float32 with sums of `width` terms. Each exponential is good to 2 ulp, its argument to an ulp of what it is."""
    generator = torch.Generator().manual_seed(width)
    for spread in (0.01, 1.0, 30.0, 1e4):
        y = torch.randn(50, width, generator=generator) * spread
        want = SCORES[test](y.double())
        got = rt.Exit(test, above=0).scores(y).double()
        bound = 2.0**-22 * (8 + width**0.5) * torch.clamp(want.abs(), min=1) * (1 + math.log(width))
        assert ((got - want).abs() <= bound).all(), (spread, (got - want).abs().max())


@pytest.mark.parametrize("test", [*SCORES, "value"])
def test_no_answer_with_nan_or_infinity_leaves(test: str) -> None:
    y = torch.randn(200, 6)
    rows = torch.arange(200)
    y[rows, rows % 6] = torch.where(rows % 2 == 0, math.nan, math.inf)
    for limit in ({"above": -1e30}, {"below": 1e30}):
        exit = rt.Exit(test, **limit)
        assert exit.scores(y).isnan().all() and not exit.passes(exit.scores(y)).any()


def test_a_class_that_is_ruled_out_has_probability_zero() -> None:
    y = torch.tensor([[1.0, -math.inf, 2.0], [-math.inf, -math.inf, 0.0], [-math.inf] * 3])
    got = rt.Exit(above=0.5).scores(y)
    assert torch.allclose(got[:2], y[:2].softmax(1).amax(1), rtol=1e-6) and got[2].isnan()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_rows_leave_as_in_python(stages: list[Any], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 3))
    chosen = [stages[i] for i in data.draw(st.permutations(range(3)))[:count]]
    x = torch.randn(
        data.draw(st.integers(0, 40)), INPUTS, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    )
    exits = []
    for stage in chosen[:-1]:
        test = data.draw(st.sampled_from([*SCORES, "value"]))
        side = data.draw(st.sampled_from(["above", "below"]))
        scores = rt.Exit(test, above=0).scores(stage(x)) if len(x) else torch.zeros(1)
        limit = float(
            scores[data.draw(st.integers(0, len(scores) - 1))]
        )  # a score itself: the limit is met by equality
        exits.append(rt.Exit(test, **{side: limit}))
    cascade = rt.Cascade(chosen, exits)
    want, at = reference(chosen, [lambda y, e=e: e.passes(e.scores(y)) for e in exits], x)
    got = cascade(x)
    assert torch.equal(got, want) and torch.equal(exits_of(cascade), at)
    out = torch.full((len(x), OUTPUTS), -1.0)
    assert cascade.run(x, out=out) is out and torch.equal(out, want)
    bound_out = torch.full((len(x), OUTPUTS), -1.0)
    if len(x):
        cascade.bind(x, out=bound_out)()
        assert torch.equal(bound_out, want) and torch.equal(exits_of(cascade), at)
        cascade.bind(x, out=bound_out, worst=True)()
        assert torch.equal(bound_out, chosen[-1](x))
        assert cascade.counts == tuple(3 * int((at == i).sum()) for i in range(count))


def test_one_row_and_none(stages: list[Any]) -> None:
    cascade = rt.Cascade(stages, [rt.Exit(above=math.inf), 0.0])
    assert torch.equal(cascade(x := torch.randn(1, INPUTS)), stages[1](x)) and cascade.last_exit == 1
    assert cascade(torch.empty(0, INPUTS)).shape == (0, OUTPUTS)
    assert isinstance(cascade.last_exit, Tensor) and cascade.last_exit.shape == (0,)


def test_rows_of_nan_go_to_the_end_and_disturb_no_other(stages: list[Any]) -> None:
    x = torch.randn(9, INPUTS)
    clean = rt.Cascade(stages, [0.0, 0.0])
    x[4, 3] = math.nan
    y = clean(x)
    assert exits_of(clean).tolist() == [0, 0, 0, 0, 2, 0, 0, 0, 0]
    assert y[4].isnan().all() and torch.equal(y[5], stages[0](x)[5])


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
def test_heads_share_their_trunk(scheme: str) -> None:
    torch.manual_seed(4)
    x = torch.randn(50, INPUTS)
    trunk = [nn.Sequential(nn.Linear(a, b), nn.ReLU()).eval() for a, b in ((INPUTS, 24), (24, 19), (19, 30))]
    data, parts, heads = x, [], []
    for part in trunk:
        parts.append(rt.compile(part, (data[:1],), scheme, calibration=[data]))
        data = part(data).detach()
        head = nn.Linear(data.shape[1], OUTPUTS).eval()
        heads.append(rt.compile(head, (data[:1],), scheme, calibration=[data]))
    exits = [
        rt.Exit(above=float(rt.Exit(above=0).scores(heads[0](parts[0](x))).median())),
        rt.Exit("entropy", below=1.8),
    ]
    cascade = rt.Cascade(parts, exits, heads=heads)
    for rows in (1, 2, 50):
        want, at = reference(parts, [lambda y, e=e: e.passes(e.scores(y)) for e in exits], x[:rows], heads)
        assert torch.equal(cascade(x[:rows]), want) and torch.equal(exits_of(cascade), at)
    assert len(at.unique()) > 1


def test_a_test_in_python(stages: list[Any]) -> None:
    seen: list[tuple[int, ...]] = []

    def spread(y: np.ndarray) -> float:
        seen.append(y.shape)
        return float(y.max() - y.min())

    x = torch.randn(30, INPUTS)
    limit = float((stages[0](x).amax(1) - stages[0](x).amin(1)).median())
    cascade = rt.Cascade(stages[:2], [rt.Exit(spread, above=limit)])
    want, at = reference(stages[:2], [lambda y: y.amax(1) - y.amin(1) >= limit], x)
    assert torch.equal(cascade(x), want) and torch.equal(exits_of(cascade), at)
    assert seen == [(OUTPUTS,)] * 30 and 0 < int((at == 0).sum()) < 30

    def broken(y: np.ndarray) -> float:
        raise KeyError("mine")

    failing = rt.Cascade(stages[:2], [rt.Exit(broken, above=0)])
    with pytest.raises(KeyError, match="mine"):
        failing(x)
    with pytest.raises(FormatError, match="a test that gives str"):
        rt.Cascade(stages[:2], [rt.Exit(lambda y: "sure", above=0)])(x)


def test_weights_that_are_loaded_and_swapped_are_used() -> None:
    one, two, other = (compiled(INPUTS, 9, OUTPUTS, seed) for seed in (1, 2, 3))
    x = torch.randn(6, INPUTS)
    cascade = rt.Cascade([one, two], [rt.Exit(above=math.inf)])
    out = torch.empty(6, OUTPUTS)
    call = cascade.bind(x, out=out)
    two.load_state_dict(other.state_dict())
    call()
    assert torch.equal(out, other(x)) and torch.equal(cascade(x), other(x))


@pytest.mark.parametrize("skipped", ["hold", "advance"])
def test_streams_that_left_hold_or_advance(skipped: str) -> None:
    torch.manual_seed(7)
    streams, steps = 5, 40
    gate = rt.compile(nn.Linear(4, 3).eval(), (torch.randn(1, 4),))
    gru = nn.Sequential(Newest(nn.GRU(4, 8, batch_first=True)), nn.Linear(8, 3)).eval()
    live, twin = (rt.stream(gru, torch.randn(streams, 4)) for _ in range(2))
    x = torch.randn(steps, streams, 4)
    limit = float(rt.Exit(above=0).scores(gate(x.flatten(0, 1))).median())
    exit = rt.Exit(above=limit)
    cascade = rt.Cascade([gate, live], [exit], skipped=skipped)
    assert ("makes its step" if skipped == "advance" else "keeps its past") in cascade.explain()
    mixed = 0
    for x_t in x:
        want = gate(x_t)
        going = (~exit.passes(exit.scores(want))).nonzero()[:, 0]
        mixed += 0 < len(going) < streams
        if skipped == "advance":
            want[going] = twin.step(x_t)[going]
        elif len(going):
            want[going] = twin.step(x_t[going], streams=going)
        assert torch.equal(cascade(x_t), want)
        assert exits_of(cascade).tolist() == [int(i in going) for i in range(streams)]
    assert mixed > 5
    past = live.get_extra_state()
    report = cascade.report(x)
    assert torch.equal(live.get_extra_state(), past) and report.calls == steps
    cascade.reset()
    fresh = rt.stream(gru, torch.randn(streams, 4))
    assert torch.equal(live.step(x[0]), fresh.step(x[0]))


class Newest(nn.Module):
    def __init__(self, gru: nn.GRU) -> None:
        super().__init__()
        self.gru = gru

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.gru(x)[0][:, -1]
        return result


def test_bad_input(stages: list[Any]) -> None:
    good = rt.Cascade(stages, [0.5, 0.5])
    with pytest.raises(ShapeError, match=f"expected float32\\[\\*, {INPUTS}\\]"):
        good(torch.randn(2, INPUTS + 1))
    with pytest.raises(ShapeError):
        good(torch.randn(2, INPUTS, dtype=torch.float64))
    with pytest.raises(ShapeError, match="out 0"):
        good.run(torch.randn(2, INPUTS), out=torch.empty(3, OUTPUTS))
    memory = torch.zeros(2, INPUTS + OUTPUTS)
    with pytest.raises(ShapeError, match="strided"):
        good.bind(torch.randn(2, INPUTS), out=memory[:, :OUTPUTS])
    weight = nn.Parameter(torch.randn(3, INPUTS))
    for _ in range(2):
        assert torch.equal(good(weight), good(weight.detach().clone()))
    x = torch.randn(4, 2 * INPUTS)[:, ::2]
    assert torch.equal(good(x), good(x.contiguous()))  # strided input: a copy
    x = torch.randn(2, INPUTS)
    want = good(x)
    assert torch.equal(good.run(x, out=memory[:, 3 : 3 + OUTPUTS]), want)
    same = x.flatten()[: 2 * OUTPUTS].view(2, OUTPUTS)
    assert torch.equal(good.run(x, out=same), want)  # `out` over the input


@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [
        (lambda s: rt.Cascade(s, [0.5]), FormatError, "1 exits for 3 stages"),
        (lambda s: rt.Cascade(s, [0.5, "much"]), FormatError, "a number or an rt.Exit"),
        (lambda s: rt.Cascade(s, [0.5, math.nan]), FormatError, "a number or an rt.Exit"),
        (lambda s: rt.Cascade([], []), FormatError, "a list of compiled models"),
        (lambda s: rt.Cascade([s[0], mlp(INPUTS, 3, OUTPUTS, 0)], [0.5]), UnsupportedProblem, "rt.compile"),
        (lambda s: rt.Cascade([s[0], compiled(INPUTS, 3, 2, 0)], [0.5]), ShapeError, "answer of stage 1"),
        (lambda s: rt.Cascade([s[0], compiled(3, 3, OUTPUTS, 0)], [0.5]), ShapeError, "input of stage 1"),
        (lambda s: rt.Cascade([compiled(4, 3, 1, 0)] * 2, [0.5]), ShapeError, "a softmax over one is 1"),
        (lambda s: rt.Cascade(s[:2], [rt.Exit("value", above=0, index=9)]), ShapeError, "index=9"),
        (lambda s: rt.Cascade(s[:2], [0.5], skipped="forget"), FormatError, "'hold' or 'advance'"),
        (lambda s: rt.Cascade(s[:2], [0.5], heads=s[:1]), FormatError, "1 heads for 2 stages"),
        (lambda s: rt.Cascade(s[:2], [0.5], heads=s[:2]), ShapeError, "the features of its stage"),
        (lambda s: rt.Cascade(s[:2], [0.5], test="hope"), FormatError, "test='hope'"),
        (lambda s: rt.Exit(above=1, below=0), FormatError, "above= or below="),
        (lambda s: rt.Exit(), FormatError, "no limit"),
        (lambda s: rt.Exit("value", above=0, index=-1), FormatError, "index=-1"),
        (lambda s: rt.Cascade([compiled(4, 3, 2, 0, backend="portable")] * 2, [0.5]), UnsupportedProblem, "one native plan"),
    ],
)  # fmt: skip
def test_what_is_no_cascade(stages: list[Any], make: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        make(stages)


def test_scores_of_what_has_none() -> None:
    exit = rt.Exit(above=0.5)
    with pytest.raises(ShapeError, match="softmax over one"):
        exit.scores(torch.randn(3, 1))
    with pytest.raises(ShapeError, match="expected float32"):
        exit.scores(torch.randn(3, 4, dtype=torch.float64))
    with pytest.raises(ShapeError, match="what scores"):
        exit.passes(torch.randn(3, dtype=torch.float64))


def test_a_stream_is_one_stage_only() -> None:
    live = rt.stream(nn.Sequential(Newest(nn.GRU(4, 8, batch_first=True)), nn.Linear(8, 3)).eval(), torch.randn(2, 4))
    with pytest.raises(UnsupportedProblem, match="a stream as two stages"):
        rt.Cascade([live, live], [0.5])
    other = rt.stream(nn.Sequential(Newest(nn.GRU(4, 8, batch_first=True)), nn.Linear(8, 3)).eval(), torch.randn(3, 4))
    with pytest.raises(ShapeError, match="streams"):
        rt.Cascade([live, other], [0.5])
    with pytest.raises(UnsupportedProblem, match="streams"):
        rt.Cascade.calibrated([live, other][:1], torch.randn(9, 4), torch.zeros(9, dtype=torch.int64))
