"""Numbers drawn at random: those of Philox, other ones in each call and sample, of the distribution that was asked for."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from math import sqrt
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.registry import operator
from rtaccel.core.stage import Stage, Value
from rtaccel.kernels.draw import contract
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.guarded import GuardedModel
from rtaccel.runtime.options import Options
from rtaccel.runtime.steps import planned
from tests.support.fake_device import FakeDevice
from tests.support.one_stage import check_no_samples, kernels, operators_of

KNOWN = (
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
)  # fmt: skip
"""(counter, key, words): the answers that its authors publish for Philox 4x32-10."""


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_known_answers(counter: tuple[int, ...], key: tuple[int, int], words: tuple[int, ...]) -> None:
    assert tuple(int(w) for w in contract.philox([torch.tensor([c]) for c in counter], key)) == words


@pytest.mark.parametrize(("steps", "width"), [(1, 1), (3, 7), (1, 130)])
def test_each_call_goes_on(steps: int, width: int) -> None:
    """Whatever the batches are, sample n of the sequence is the same."""
    stage = contract.make_stage(2**40 + 3, 5, steps, width)
    want = contract.numbers(stage, 0, 45)
    for name, run in kernels(stage, 3).items():
        got = torch.cat([run(torch.zeros(m, 3))[0] for m in (1, 3, 0, 40, 1)])
        assert torch.equal(got, want), name
    check_no_samples(stage)


def test_sequences_differ() -> None:
    """Of other seeds and places, and no two samples are alike."""
    drawn = [contract.numbers(contract.make_stage(*of, 1, 64), 0, 50) for of in ((0, 0), (0, 1), (1, 0), (1 << 32, 0))]
    rows = torch.cat(drawn)
    assert len({tuple(row.tolist()) for row in rows}) == 200
    assert rows.min() >= 0 and rows.max() < 1
    assert abs(float(rows.mean()) - 0.5) < 5 / sqrt(12 * rows.numel())


def _wrong(**attrs: int) -> Stage:
    return Stage("draw", "d", (Value("x", 1),), (Value("y", 4),), {}, {"seed": 0, "place": 0, **attrs})


@pytest.mark.parametrize("stage", [_wrong(seed=-1), _wrong(place=1 << 31)], ids=["seed", "place"])
def test_what_is_no_sequence(stage: Stage) -> None:
    for refuse in (operator("draw").lower, kernels):
        with pytest.raises(rt.FormatError, match="draw: got seed"):
            refuse(stage)
    with pytest.raises(rt.ShapeError, match="draw: got 1 inputs, int64"):
        operator("draw").lower(
            Stage("draw", "d", (Value("x", 1),), (Value("y", 4, "int64"),), {}, {"seed": 0, "place": 0})
        )


class Drawn(nn.Module):
    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x)


def compiled(call: Callable[[Tensor], Tensor], x: Tensor) -> CompiledModel:
    """Nothing of it may fall back to PyTorch."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fast = rt.compile(Drawn(call).eval(), (x,), strict=True)
    assert isinstance(fast, CompiledModel)
    return fast


CALLS: dict[str, tuple[Callable[[Tensor], Tensor], float, float]] = {
    "rand": (lambda x: torch.rand(x.shape) + 0 * x, 1 / 2, 1 / sqrt(12)),
    "rand_like": (torch.rand_like, 1 / 2, 1 / sqrt(12)),
    "randn": (lambda x: torch.randn(x.shape) + 0 * x, 0, 1),
    "randn_like": (torch.randn_like, 0, 1),
    "normal": (lambda x: torch.normal(x, 3.0), 2, 3),
    "normal_of_tensors": (lambda x: torch.normal(x, x * 2), 2, 4),
    "normal_std": (lambda x: torch.normal(1.0, x), 1, 2),
    "normal_": (lambda x: torch.empty_like(x).normal_(-1, 0.5) + 0 * x, -1, 0.5),
    "uniform_": (lambda x: torch.empty_like(x).uniform_(-1, 3) + 0 * x, 1, 4 / sqrt(12)),
    "bernoulli": (lambda x: torch.bernoulli(x / 8), 1 / 4, sqrt(3) / 4),
    "bernoulli_p": (lambda x: torch.bernoulli(x, 0.1), 0.1, 0.3),
    "randint": (lambda x: torch.randint(3, 10, (8, 500)) + 0 * x, 6, 2),
    "randint_floats": (lambda x: torch.randint(2, (8, 500), dtype=torch.float32) + 0 * x, 1 / 2, 1 / 2),
    "randint_like": (lambda x: torch.randint_like(x, 7), 3, 2),
    "randint_like_low": (lambda x: torch.randint_like(x, -3, 4), 0, 2),
    "exponential_": (lambda x: torch.empty_like(x).exponential_(4.0) + 0 * x, 1 / 4, 1 / 4),
}  # fmt: skip
"""(a call on twos, the mean of what it gives, the standard deviation)."""


@pytest.mark.parametrize("name", CALLS)
def test_distributions(name: str) -> None:
    """Mean, standard deviation and the whole curve, beside torch's own numbers; fresh ones in each call and sample."""
    call, mean, spread = CALLS[name]
    x = torch.full((8, 500), 2.0)
    fast = compiled(call, x)
    first, second = fast(x), fast(x)
    assert not torch.equal(first, second) and not torch.equal(first[0], first[1])
    drawn = torch.stack([first, second, *(fast(x) for _ in range(4))]).double()
    count = drawn.numel()
    assert abs(float(drawn.mean()) - mean) < 5 * spread / sqrt(count)
    assert abs(float(drawn.std()) / spread - 1) < 0.05
    own = torch.stack([Drawn(call)(x) for _ in range(6)]).flatten().double()
    mine, grid = drawn.flatten(), torch.cat([own, drawn.flatten()]).unique()
    curves = [torch.searchsorted(t.sort().values, grid, right=True) / count for t in (own, mine)]
    assert float((curves[0] - curves[1]).abs().max()) < 2.5 / sqrt(
        count / 2
    )  # Kolmogorov and Smirnov; 1e-5 of the time


def test_samples_of_an_open_batch() -> None:
    """Each has numbers of its own, and a model that was saved begins as a new one does."""
    torch.manual_seed(5)
    fast = compiled(lambda x: x + torch.randn_like(x), torch.zeros(2, 6))
    again = compiled(lambda x: x + torch.randn_like(x), torch.zeros(2, 6))
    x = torch.zeros(3, 6)
    assert torch.equal(fast(x), again(x))
    many = torch.cat([fast(x), fast(torch.zeros(70, 6))])
    assert len(many.unique()) == many.numel()
    torch.manual_seed(6)
    other = compiled(lambda x: x + torch.randn_like(x), torch.zeros(2, 6))
    assert not (other(x) == compiled(lambda x: x + torch.rand_like(x), torch.zeros(2, 6))(x)).any()
    assert len(torch.cat([many, other(x)]).unique()) == many.numel() + x.numel()


def test_a_saved_model_begins_anew(tmp_path: Path) -> None:
    fast = compiled(lambda x: x + torch.randn_like(x), torch.zeros(1, 6))
    x = torch.zeros(1, 6)
    want = [fast(x), fast(x)]
    loaded = rt.load(rt.save(fast, tmp_path / "noise.rta"))
    assert all(torch.equal(torch.from_numpy(loaded(x.numpy())), y) for y in want)


def test_a_call_that_is_left_to_torch() -> None:
    """One of more whole numbers than a uniform number tells apart, and other kinds: said, and not wrong."""
    with pytest.warns(UserWarning, match="randint"):
        fast = rt.compile(Drawn(lambda x: x + torch.randint_like(x, 2, 2**22)).eval(), (torch.zeros(2, 3),))
    assert ((y := fast(torch.zeros(2, 3))) >= 2).all() and (y < 2**22).all()


def test_a_graph_goes_on_from_replay_to_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Capturing takes no numbers of the sequence; bound calls and other batches go on in the same one."""
    monkeypatch.setattr(planned, "device_layer", lambda name: FakeDevice())
    call = Drawn(lambda x: x + torch.randn_like(x)).eval()
    plain = rt.compile(call, (torch.zeros(2, 5),), backend="portable")
    assert isinstance(plain, CompiledModel)
    options = Options(2, "cpu", "portable", 0, "Drawn", mode="graph")
    fast = CompiledModel(plain._program, options, plain._argument_names)
    x, y = torch.zeros(2, 5), torch.empty(2, 5)
    bound = fast.bind(x, out=y)
    for m in (2, 2, 7, 2):
        assert torch.equal(fast(torch.zeros(m, 5)), plain(torch.zeros(m, 5)))
    bound()
    assert torch.equal(y, plain(x))


def test_the_noise_of_a_speaker_network() -> None:
    """As xvector's pooling has it: noise that is brought to one range, and added to a mean."""

    class Pooling(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mean = x.mean(1)
            noise = torch.randn(mean.size(), device=mean.device)
            noise -= torch.min(noise)
            noise /= torch.max(noise)
            return mean + 1e-5 * ((1 - 9) * noise + 9)

    model, x = Pooling().eval(), torch.randn(1, 20, 8)
    fast = rt.compile(model, (x,), strict=True)
    assert {"draw", "strided_expression"} <= {*operators_of(fast)}
    off = (fast(x) - x.mean(1)) / 1e-5
    assert float(off.min()) == pytest.approx(1, abs=0.1) and float(off.max()) == pytest.approx(9, abs=0.1)


class Choice(nn.Module):
    """Numbers of 0 to 6, by chances that a layer gives."""

    def __init__(self, count: int, replacement: bool) -> None:
        super().__init__()
        self.layer, self.count, self.replacement = nn.Linear(5, 7), count, replacement

    def forward(self, x: Tensor) -> Tensor:
        return torch.multinomial(torch.softmax(self.layer(x), -1), self.count, self.replacement)


@pytest.mark.parametrize(("count", "replacement"), [(1, False), (1, True), (4, True), (3, False)])
def test_choices_come_with_their_chances(count: int, replacement: bool) -> None:
    torch.manual_seed(5)
    model = Choice(count, replacement).eval()
    fast = rt.compile(model, (torch.randn(4, 5),), strict=True)
    x = torch.randn(1, 5)
    given = torch.cat([fast(x.expand(4000, 5)) for _ in range(3)])
    assert given.shape == (12000, count) and given.dtype == torch.int64 and (given.min(), given.max()) == (0, 6)
    chances = torch.softmax(model.layer(x), -1)[0]
    first = torch.bincount(given[:, 0], minlength=7) / len(given)
    assert (first - chances).abs().max() < 5 * sqrt(0.25 / len(given))
    if count > 1 and replacement:
        both = torch.bincount(given[:, 0] * 7 + given[:, 1], minlength=49) / len(given)
        assert (both - (chances[:, None] * chances).reshape(-1)).abs().max() < 5 * sqrt(0.25 / len(given))
    elif count > 1:
        assert (given.sort(-1).values.diff(dim=-1) > 0).all()  # none twice
        second = chances[:, None] * chances / (1 - chances[:, None]) * (1 - torch.eye(7))
        both = torch.bincount(given[:, 0] * 7 + given[:, 1], minlength=49) / len(given)
        assert (both - second.reshape(-1)).abs().max() < 5 * sqrt(0.25 / len(given))


def test_a_policy_that_draws_its_action() -> None:
    class Policy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 7)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            chosen = torch.distributions.Categorical(logits=self.layer(x))
            action = chosen.sample()
            return action, chosen.log_prob(action)

    model = Policy().eval()
    fast = rt.compile(model, (torch.randn(2, 5),), strict=True)
    x = torch.randn(300, 5)
    action, chance = fast(x)
    want = torch.log_softmax(model.layer(x), -1).gather(-1, action[:, None])[:, 0]
    torch.testing.assert_close(chance, want, rtol=1e-4, atol=1e-4)
    assert len(set(action.tolist())) > 3 and not torch.equal(fast(x)[0], action)


class Scored(nn.Module):
    """Looks at a number of its input, which a trace has none of, so that its calls are written down as they run."""

    def forward(self, x: Tensor) -> Tensor:
        law = torch.distributions.StudentT(3.0, x.mean(1), x.exp().sum(1))
        return law.log_prob(x[:, 0]) if (x > -100).all() else law.mean


def test_no_check_of_a_distribution_is_left_where_calls_are_written_down() -> None:
    model, x = Scored().eval(), torch.randn(3, 8)
    fast = rt.compile(model, x)
    assert isinstance(fast, GuardedModel) and fast.native[0] == fast.native[1]
    torch.testing.assert_close(fast(x), model(x))
