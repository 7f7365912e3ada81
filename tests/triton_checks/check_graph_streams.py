"""Streams in a graph by Triton's kernels, beside those of the CPU: results, marks of NaN, resets, streams that stand still."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.backends import require
from rtaccel.core import settings
from rtaccel.core.registry import Case, impls, operator
from rtaccel.core.stage import GraphIO, Problem, Stage, Value
from rtaccel.kernels._core.cpu import States
from rtaccel.plan.group import StagedPlan, Subgraph, plan_group
from rtaccel.runtime.gpu.graph_stream import GraphStream, graph_stream
from tests.support.fake_device import FakeDevice, streams_in_graphs
from tests.triton_checks.support.late_streams import (  # noqa: F401
    test_masks_that_are_written_out,
    test_results_that_come_late,
    test_several_rows_a_step,
)
from tests.triton_checks.support.stateful_graphs import (  # noqa: F401
    test_a_count_and_a_truth_value,
    test_a_policy,
    test_cells_one_behind_the_other,
    test_each_kind_of_state,
)

require("triton")
INTERPRETED = settings.triton_interpret()
DEVICE, MODE = ("cpu", None) if INTERPRETED else ("cuda", "graph")
IN_GRAPHS = partial(streams_in_graphs, "triton") if INTERPRETED else nullcontext

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, at the inf and nan that are meant


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv1d(6, 8, 3), nn.Conv1d(8, 8, 2, dilation=3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(torch.nn.functional.pad(x.transpose(1, 2), (2, 0))))
        y = torch.relu(self.second(torch.nn.functional.pad(y, (3, 0))) + y).transpose(1, 2)
        return self.head(y)


class Recurrent(nn.Module):
    def __init__(self, stack: nn.Module) -> None:
        super().__init__()
        self.stack, self.head = stack, nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stack(x)[0])


class Attention(nn.Module):
    """Causal, of the last five time steps."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(6, 24), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        t = torch.arange(x.shape[1])
        mask = (t[:, None] >= t) & (t[:, None] - t < 5)
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(y.transpose(1, 2).flatten(2))


class Running(nn.Module):
    """Sums and extremes so far, and a recurrence with factors of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([x.cumsum(1) * 0.1, x.cummax(1).values], 2))


MODELS: dict[str, Any] = {
    "running": Running,
    "convolutions": Convolutions,
    "gru": lambda: Recurrent(nn.GRU(6, 8, batch_first=True)),
    "lstm": lambda: Recurrent(nn.LSTM(6, 8, 2, batch_first=True)),
    "rnn": lambda: Recurrent(nn.RNN(6, 8, batch_first=True)),
    "attention": Attention,
}


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
@pytest.mark.parametrize("name", MODELS)
def test_steps_are_those_of_the_cpu(name: str, scheme: str) -> None:
    seed = torch.seed() % 2**31
    print(f"seed {seed}")
    torch.manual_seed(seed)
    model, calibration = MODELS[name]().eval(), None if scheme == "float32" else [torch.randn(8, 30, 6)]
    plain = rt.stream(model, torch.randn(4, 6), scheme, calibration)
    with streams_in_graphs("triton") if INTERPRETED else nullcontext():
        live = rt.stream(
            model, torch.randn(4, 6), scheme, calibration, device=DEVICE, mode=None if INTERPRETED else "graph"
        )
        table = live.explain().split("\nstages")[0]
        assert "portable" not in table, table
        for t in range(14):
            some = torch.randperm(4)[: int(torch.randint(1, 4, ()))] if t % 4 == 3 else None
            x = torch.randn(4 if some is None else len(some), 6)
            if t == 5:
                x[0, 2] = float("nan")
            if t == 8:
                plain.reset([1]), live.reset([1])
            want, got = plain.step(x, streams=some), live.step(x.to(DEVICE), streams=some).cpu()
            assert torch.equal(got.isnan(), want.isnan()), t
            got, want = got.nan_to_num(), want.nan_to_num()
            near = (
                torch.allclose(got, want, atol=1e-5)
                if scheme == "float32" or name == "attention"
                else torch.equal(got, want)
            )
            assert near, (t, (got - want).abs().max())
        one_past(live, plain, scheme == "w8a8" and name == "convolutions")


def one_past(live: rt.StreamModel, plain: rt.StreamModel, to_the_bit: bool) -> None:
    """What a graph keeps, and what the CPU keeps behind the same steps, are the same bytes where both count calls anew; and the
    CPU goes on from those of the graph."""
    own, of_cpu = live._plan().save_state(), plain._plan().save_state()
    live._plan().load_state(of_cpu)
    if to_the_bit:
        assert live._plan().save_state() == own
    plain._plan().load_state(own)
    x = torch.randn(live.streams, 6)
    want, got = plain.step(x), live.step(x.to(DEVICE)).cpu()
    torch.testing.assert_close(got, want, rtol=0, atol=0 if to_the_bit else 1e-5, equal_nan=True)


IN_PLACE = {
    "convolutions": (2, 2), "running": (2, 2), "attention": (2, 2), "gru": (0, 1), "lstm": (1, 2), "rnn": (0, 1),
}  # fmt: skip
"""Of a model's states, in float32 and W8A8: those that a stage writes where they lie. The other programs of what makes the rest
still read them."""


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
@pytest.mark.parametrize("name", MODELS)
def test_states_that_are_written_in_place(name: str, scheme: str) -> None:
    calibration, count = (
        None if scheme == "float32" else [torch.randn(8, 30, 6)],
        IN_PLACE[name][scheme == "w8a8"],
    )
    with IN_GRAPHS():
        live = rt.stream(MODELS[name]().eval(), torch.randn(2, 6), scheme, calibration, device=DEVICE, mode=MODE)
        plan = live._plan()
        assert len(plan._in_place) == count
        at = [state.data_ptr() for state in plan._states]
        after = plan._advanced(plan._inputs, plan._states, plan._left, plan._ticks)[1]
        assert sum(new.data_ptr() == place for new, place in zip(after, at)) == count


def test_a_state_that_is_still_read_is_not_written_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Newest numbers in front: a program writes what the next one reads. Where the plan did it all the same, a replay would show
    that."""
    wide = 5000
    x, s = Value("x", wide), Value("s", wide)
    parts = (((1,), (0, 1), (0, 1)), ((wide - 1,), (0, 1), (1, 1)))
    stage = Stage("assemble", "shifted", (x, s), (s,), {}, {"parts": parts, "fill": 0.0})
    group = Subgraph((stage,), (GraphIO.matrix(x),), ())

    def planned() -> GraphStream:
        return graph_stream(
            group, States(frozenset({"s"}), 1), FakeDevice(), lambda g: plan_group(g, 1, DEVICE, "triton")
        )[0]

    assert planned()._in_place == {}
    monkeypatch.setattr(StagedPlan, "places", lambda self, pairs: dict(pairs))
    with pytest.raises(rt.UnsupportedProblem, match="does not write state 0"):
        planned()


@pytest.mark.parametrize("case", list(operator("cached_attention").cases())[::2], ids=lambda case: case.id)
def test_keys_and_values_in_place(case: Case) -> None:
    """The bits of another place, over several steps; nothing but the new row is written."""
    (impl,) = impls("triton", "cached_attention")
    inputs = [x.to(DEVICE) for x in case.make(3)]
    call: Any = impl.prepare(case.stage, Problem.of(case.stage, len(inputs[0]), DEVICE))
    apart, kept = list(inputs), [x.clone() for x in inputs]
    for _ in range(3):
        y, *states = call(*apart)
        z, keys, values, count = call.into((None, kept[3], kept[4], None), *kept)
        for got, want in zip((z, keys, values, count), (y, *states)):
            assert torch.equal(got.nan_to_num(7.0), want.nan_to_num(7.0))
        assert keys.data_ptr() == kept[3].data_ptr() and values.data_ptr() == kept[4].data_ptr()
        apart[3:], kept[3:] = states, [keys, values, count]
    with pytest.raises(rt.ShapeError, match="both or neither"):
        call.into((None, kept[3], None, None), *kept)


def test_ten_thousand_streams_are_one_kernel() -> None:
    """Of a GRU in W8A8; in the interpreter of fewer."""
    streams = 700 if INTERPRETED else 10_000
    model, calibration = nn.GRU(32, 32, batch_first=True).eval(), [torch.randn(8, 20, 32)]
    plain = rt.stream(model, torch.randn(streams, 32), "w8a8", calibration)
    with streams_in_graphs("triton") if INTERPRETED else nullcontext():
        live = rt.stream(
            model, torch.randn(streams, 32), "w8a8", calibration, device=DEVICE, mode=None if INTERPRETED else "graph"
        )
        assert [line.kernel for line in live.explain_lines(measure=False)] == ["triton_many"]
        for _ in range(2):
            x = torch.randn(streams, 32)
            assert torch.equal(live.step(x.to(DEVICE)).cpu(), plain.step(x))
        assert len(live._plan()._in_place) == len(live._plan()._states) == 1


@pytest.mark.parametrize("scheme", ["w8a8", "w8a16"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: Recurrent(nn.LSTM(6, 8, 2, batch_first=True)), lambda: Recurrent(nn.GRU(6, 8, batch_first=True)),
        lambda: Recurrent(nn.RNN(6, 8, batch_first=True)), Convolutions,
    ],
    ids=["lstm", "gru", "rnn", "convolutions"],
)  # fmt: skip
@pytest.mark.parametrize("whole", [True, False], ids=["state dict", "one stream"])
def test_a_past_that_a_nan_marked_goes_on(make: Any, scheme: str, whole: bool) -> None:
    """From the CPU, where states are numbers and a mark beside them, to a graph, whose plan may keep none, and back."""
    torch.manual_seed(5)
    model, calibration = make().eval(), [torch.randn(8, 20, 6)]
    plain = rt.stream(model, torch.randn(3, 6), scheme, calibration)
    with IN_GRAPHS():
        live = rt.stream(model, torch.randn(3, 6), scheme, calibration, device=DEVICE, mode=MODE)
        x = torch.randn(3, 6)
        x[1, 0] = float("nan")
        plain.step(torch.randn(3, 6))
        plain.step(x)
        for begin, end in ((plain, live), (live, plain)):
            if whole:
                end.load_state_dict(begin.state_dict())
            else:
                for stream in range(3):
                    end.load_stream(stream, begin.save_stream(stream))
            for _ in range(2):
                x = torch.randn(3, 6)
                want, got = plain.step(x), live.step(x.to(DEVICE)).cpu()
                assert bool(got[1].isnan().all()) and bool(want[1].isnan().all())
                torch.testing.assert_close(got[[0, 2]], want[[0, 2]], rtol=2e-3, atol=1e-3)
        for stream in (plain, live):
            stream.reset(1)
        x = torch.randn(3, 6)
        torch.testing.assert_close(live.step(x.to(DEVICE)).cpu()[1], plain.step(x)[1], rtol=2e-3, atol=1e-3)
