"""Models with state in a graph, over CPU tensors: all that holds of them on the CPU, and both side by side."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.runtime.gpu.graph_stream import GraphStream
from rtaccel.runtime.stateful.model import StatefulModel
from tests.runtime.stateful.test_random_stateful import (  # noqa: F401
    test_cells_one_behind_the_other,
    test_each_kind_of_state,
    test_states_are_saved_and_loaded_by_name,
)
from tests.runtime.stateful.test_stateful_calls import (  # noqa: F401
    test_a_checkpoint_of_the_model_sets_the_state_alone,
    test_a_file_of_it_keeps_state_without_torch,
    test_a_nan_stays_as_long_as_in_the_model,
    test_a_state_that_does_not_fit_changes_nothing,
    test_all_ways_to_call_share_one_state,
    test_another_batch_is_refused_and_moves_nothing,
    test_inside_another_module,
    test_measuring_moves_the_state_as_calls_do,
    test_other_weights_while_the_state_goes_on,
    test_the_state_has_the_names_shapes_and_dtypes_of_the_model,
)
from tests.runtime.stateful.test_stateful_int8 import (  # noqa: F401
    test_a_nan_lasts_until_the_reset_and_shows_in_the_state,
    test_a_state_of_another_scheme_is_taken_with_its_weights,
    test_ranges_are_those_of_later_calls,
    test_results_stay_near_the_model,
)
from tests.support.fake_device import FakeDevice, no_state_is_written, states_in_graphs
from tests.support.generators.stateful import Stateful
from tests.support.networks.stateful import Drifting, Policy, made

pytestmark = pytest.mark.turns(2)


@pytest.fixture(autouse=True)
def in_graphs() -> Iterator[FakeDevice]:
    with states_in_graphs("portable") as device:
        yield device


class Shifts(nn.Module):
    """A window of the newest inputs, which is also returned; a level that two buffers share; a count as a scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(12, 4)
        self.register_buffer("past", torch.randn(1, 3, 4))
        self.register_buffer("level", torch.ones(1, 4))
        self.register_buffer("same", torch.zeros(1, 4))
        self.register_buffer("last", torch.zeros(1, 4))
        self.register_buffer("calls", torch.tensor(7))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        change = self.same - self.last
        self.past = torch.cat([self.past[:, 1:], x.unsqueeze(1)], 1)
        self.level, self.same = torch.tanh(self.level + x), torch.tanh(self.level + x)
        self.last = x
        self.calls += 1
        return self.lin(self.past.flatten(1)) + change, self.level, self.calls.float()


def test_states_are_where_they_begin_and_stay(in_graphs: FakeDevice) -> None:
    """A result that is a state too, a state that two have, one that becomes the input: each is the model's after every call."""
    model = made(Shifts())
    for _ in range(2):
        model(torch.randn(1, 4))
    start = copy.deepcopy(model)
    fast = rt.compile(model, (torch.randn(1, 4),), strict=True)
    assert isinstance(fast, StatefulModel) and isinstance(fast._plan(), GraphStream)
    assert "one CUDA graph with its state; 104 B of states stay on the device" in fast.explain(measure=False)
    assert not any(line.kernel.endswith("keep") for line in fast.explain_lines(measure=False))
    at = [t.data_ptr() for t in fast._plan()._states]
    for who in (model, start):
        before = in_graphs.replays
        for _ in range(5):
            x = torch.randn(1, 4)
            for got, want in zip(fast(x), who(x)):
                torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
            own = dict(who.named_buffers())
            assert own.keys() <= fast.state_dict().keys()
            for name, want in own.items():
                torch.testing.assert_close(fast.state_dict()[name], want, rtol=1e-5, atol=1e-6)
        assert in_graphs.replays - before == 5
        fast.reset()
    assert [t.data_ptr() for t in fast._plan()._states] == at


def test_a_reset_behind_other_weights_gives_their_beginning() -> None:
    models = [made(Drifting(), seed) for seed in range(2)]
    models[1].level.fill_(0.75)
    fast, other = (rt.compile(m, (torch.randn(2, 5),), strict=True) for m in models)
    fast.swap(other)
    fast.reset()
    x = torch.randn(2, 5)
    torch.testing.assert_close(fast(x), models[1](x))
    fast.rollback()
    fast.reset()
    torch.testing.assert_close(fast(x), models[0](x))


def test_its_bytes_are_those_of_the_cpu(tmp_path: Path) -> None:
    """A file with states, and what a native plan saves: for the CPU, and back."""
    model = made(Policy(2))
    with states_in_graphs("portable"):
        fast = rt.compile(model, (torch.randn(2, 48),), strict=True)
    for _ in range(3):
        fast(torch.randn(2, 48))
    loaded = rt.load(rt.save(fast, tmp_path / "policy.rta", states=True))
    past, x = fast._plan().save_state(), torch.randn(2, 48)
    want = fast(x)
    torch.testing.assert_close(torch.from_numpy(loaded(x.numpy())), want, rtol=1e-4, atol=1e-5)
    fast._plan().load_state(past)
    assert torch.equal(fast(x), want)
    loaded.reset()
    fast.reset()
    torch.testing.assert_close(torch.from_numpy(loaded(x.numpy())), fast(x), rtol=1e-4, atol=1e-5)


def test_a_state_that_a_replay_does_not_write_is_found(in_graphs: FakeDevice) -> None:
    with no_state_is_written(in_graphs), pytest.raises(rt.UnsupportedProblem, match="does not write state 0"):
        rt.compile(made(Policy()), (torch.randn(1, 48),), strict=True)


def test_it_is_profiled_and_its_state_stands_still() -> None:
    from rtaccel.runtime.inspection.profile import profile_stages

    fast, x = rt.compile(made(Policy()), (torch.randn(1, 48),), strict=True), torch.randn(1, 48)
    fast(x)
    before = fast.state_dict()["hidden_state"]
    found = profile_stages(fast, (x,), calls=3)
    assert len(found.stages) == len(fast.explain_lines(measure=False)) > 3
    assert torch.equal(fast.state_dict()["hidden_state"], before)


class Blend(nn.Module):
    """A level of halves that goes on, and a count of whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(8, 8)
        self.register_buffer("level", torch.randn(1, 8))
        self.register_buffer("calls", torch.tensor(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.level = torch.tanh(self.lin(x) + 0.5 * self.level)
        self.calls = self.calls + 1
        return self.level * 2, self.calls


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_at_its_edge(half: torch.dtype, in_graphs: FakeDevice) -> None:
    """x, results and states in halves, through a reset and states that are loaded: what float32 gives, rounded. A graph that
    loses a state is off by far more."""
    model, xs = made(Blend().to(half)), [torch.randn(1, 8).to(half) for _ in range(4)]
    start, close = copy.deepcopy(model).float(), {"rtol": 4 * torch.finfo(half).eps, "atol": 4 * torch.finfo(half).eps}
    fast = rt.compile(model, (xs[0],), strict=True)
    assert isinstance(fast._plan(), GraphStream)
    begins = {name: t.clone() for name, t in fast.state_dict().items()}
    for _ in range(2):
        plain = copy.deepcopy(start)
        for x in xs:
            (y, calls), (want, number) = fast(x), plain(x.float())
            assert y.dtype == half and torch.equal(calls, number)
            torch.testing.assert_close(y.float(), want, **close)
            level = fast.state_dict()["level"]
            assert level.dtype == half
            torch.testing.assert_close(level.float(), plain.level, **close)
        fast.reset()
    fast(xs[0])
    fast.load_state_dict(begins)
    assert torch.equal(fast.state_dict()["level"], begins["level"])
    torch.testing.assert_close(fast(xs[1])[0].float(), start(xs[1].float())[0], **close)


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
def test_its_graph_has_no_kernel_of_pytorch(scheme: str) -> None:
    """Of a policy and of random models: as a card would capture it, under a driver that is played."""
    pytest.importorskip("triton")
    from bench.zoo.captured import PlayedCard, plan_of
    from rtaccel.kernels._core.cpu import States
    from rtaccel.kernels._gpu.triton_launch import played
    from rtaccel.runtime.gpu.graph_stream import beginnings, graph_stream

    models = [(made(Policy()), torch.randn(1, 48)), (made(Drifting()), torch.randn(2, 5))]
    models += [(Blend().to(half).eval(), torch.randn(1, 8).to(half)) for half in (torch.float16, torch.bfloat16)]
    models += [(m, m.example()) for m in (Stateful(seed).eval().requires_grad_(False) for seed in range(4))]
    for model, x in models:
        calibration = None if scheme == "float32" else [torch.randn_like(x) for _ in range(4)]
        program = rt.compile(model, (x,), scheme, calibration=calibration, strict=True)._program
        (group,), card = [step.group for step in program.steps], PlayedCard()
        states = States(frozenset(beginnings(group.stages)), 1, -1)
        with played(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                GraphStream, "_captured", lambda self, inputs, card=card: card.capture(lambda: self._launched(inputs))
            )
            plan, _ = graph_stream(group, states, card, lambda whole: plan_of(whole, 1))
        (nodes,) = card.captured
        assert not nodes.torch and not nodes.library, (type(model).__name__, nodes)
        assert nodes.triton.total() > 0
        assert nodes.copies >= len(plan._states) - len(plan._in_place)


def test_its_kernels_are_found_ahead() -> None:
    """Those of a model that is built ahead, and of one that is saved; with what counts marks."""
    pytest.importorskip("triton")
    from rtaccel.runtime.gpu.ahead import kernels_of, kernels_of_program

    calibration, x = [torch.randn(8, 48) for _ in range(3)], torch.randn(1, 48)
    fast = rt.compile(made(Policy()), (x,), "w8a8", calibration=calibration, strict=True)
    saved = kernels_of_program(fast._program, 1, 90, False)
    built = kernels_of(made(Policy()), (x,), "w8a8", calibration)
    for kernels in (saved, built):
        names = " ".join(kernel.name for kernel in kernels.values())
        assert "lstm_stack" in names and "linear_gemv" in names and "marks_forever" in names


def test_modes_that_have_no_graph_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for mode in ("eager", "persistent"):
        with pytest.raises(rt.UnsupportedProblem, match=f"mode='{mode}'"):
            rt.compile(made(Policy()), (torch.randn(1, 48),), device="cuda", mode=mode, strict=True)
