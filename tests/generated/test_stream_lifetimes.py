"""Streams of models in any order of calls: what test_lifetimes.py does to models, and their past."""

from __future__ import annotations

import copy
import functools
import gc

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from torch import Tensor, nn

import rtaccel as rt
from tests.generated.test_batches import COMMON
from tests.generated.test_lifetimes import Bound, Life
from tests.support.compare import quiet
from tests.support.generators import streams
from tests.support.generators.count import case, examples

STREAMS = tuple(
    {"kind": kind, "seed": 1, "features": 3, "width": 4, "layers": 1, "dilations": [1, 2], "head": True,
        "streams": 2, "scheme": scheme}
    for kind in ("lstm", "causal") for scheme in ("float32", "w8a8")
)  # fmt: skip


@functools.cache
def stream_of(number: int, seed: int) -> rt.StreamModel:
    return quiet(lambda: streams.streamed(STREAMS[number], seed))


@functools.cache
def window_model(number: int, seed: int) -> nn.Module:
    return streams.network({**STREAMS[number], "seed": seed})


class StreamLifetimes(RuleBasedStateMachine):
    """A stream, its copies, and bound calls: each has a past of its own."""

    @initialize(number=st.integers(0, len(STREAMS) - 1))
    def start(self, number: int) -> None:
        self.number = number
        first = quiet(lambda: copy.deepcopy(stream_of(number, 1)))
        first.reset()
        self.lives = [Life(first, 1, [])]
        self.bound: list[Bound] = []
        self.turn = 0

    def fresh(self) -> Tensor:
        self.turn += 1
        return streams.time_steps(STREAMS[self.number], 1, self.turn)[0]

    def want(self, life: Life) -> Tensor:
        """The newest output over all time steps since the reset: torch over the window, or the stream itself from the start."""
        d = STREAMS[self.number]
        if d["scheme"] == "float32":
            window = torch.stack(life.history, 1)
            window = window.transpose(1, 2) if d["kind"] == "causal" else window
            return quiet(lambda: window_model(self.number, life.seed)(window))
        live = stream_of(self.number, life.seed)
        live.reset()
        return [live.step(x) for x in life.history][-1]

    def check(self, got: Tensor, life: Life, what: str) -> None:
        case("lifetimes")
        if STREAMS[self.number]["scheme"] == "float32":
            torch.testing.assert_close(got, self.want(life), rtol=1e-4, atol=1e-5, msg=lambda m: f"{what}: {m}")
        else:
            assert torch.equal(got, self.want(life)), what

    @rule(which=st.integers(0, 9))
    def step(self, which: int) -> None:
        life, x = self.lives[which % len(self.lives)], self.fresh()
        life.history.append(x)
        self.check(life.fast.step(x), life, "step")

    @rule(which=st.integers(0, 9))
    def run(self, which: int) -> None:
        life, x = self.lives[which % len(self.lives)], self.fresh()
        life.history.append(x)
        out = torch.full((2, 2 if STREAMS[self.number]["kind"] == "lstm" else 3), 77.0)
        life.fast.run(x, out=out)
        self.check(out, life, "run")

    @precondition(lambda self: len(self.bound) < 3)
    @rule(which=st.integers(0, 9))
    def bind(self, which: int) -> None:
        life, x = self.lives[which % len(self.lives)], self.fresh()
        out = torch.full((2, 2 if STREAMS[self.number]["kind"] == "lstm" else 3), 77.0)
        self.bound.append(Bound(life, life.fast.bind(x, out=out), x, [out]))

    @precondition(lambda self: self.bound)
    @rule(which=st.integers(0, 9))
    def bound_step(self, which: int) -> None:
        self.step_bound(self.bound[which % len(self.bound)])

    def step_all(self, life: Life) -> None:
        """What is bound to a stream goes on from where the stream stands now."""
        for b in [b for b in self.bound if b.owner is life]:
            self.step_bound(b)

    def step_bound(self, b: Bound) -> None:
        b.x.copy_(self.fresh())
        try:
            b.call()
        except rt.RtaccelError:
            case("lifetimes")
            self.bound.remove(b)
            return
        b.owner.history.append(b.x.clone())
        self.check(b.out[0], b.owner, "bound call")

    @rule(which=st.integers(0, 9))
    def reset(self, which: int) -> None:
        life = self.lives[which % len(self.lives)]
        life.fast.reset()
        life.history = []
        self.step_all(life)

    @precondition(lambda self: len(self.lives) < 4)
    @rule(which=st.integers(0, 9))
    def copy(self, which: int) -> None:
        """A copy stands where its original stands."""
        life = self.lives[which % len(self.lives)]
        self.lives.append(Life(copy.deepcopy(life.fast), life.seed, list(life.history)))

    @precondition(lambda self: len(self.lives) > 1)
    @rule(which=st.integers(0, 9))
    def free(self, which: int) -> None:
        self.lives.pop(which % len(self.lives)).fast = None
        gc.collect()

    @rule(which=st.integers(0, 9), other=st.integers(0, 9))
    def load(self, which: int, other: int) -> None:
        """The state of one stream in another: its weights and its past."""
        a, b = self.lives[which % len(self.lives)], self.lives[other % len(self.lives)]
        a.fast.load_state_dict(b.fast.state_dict())
        a.seed, a.history = b.seed, list(b.history)
        self.step_all(a)

    @rule(which=st.integers(0, 9))
    def load_weights(self, which: int) -> None:
        """Other weights and the past of a fresh stream."""
        life = self.lives[which % len(self.lives)]
        source = stream_of(self.number, 2)
        source.reset()
        life.fast.load_state_dict(source.state_dict())
        life.seed, life.history = 2, []
        self.step_all(life)

    @rule(which=st.integers(0, 9))
    def seal(self, which: int) -> None:
        self.lives[which % len(self.lives)].fast.seal()

    @rule(which=st.integers(0, 9), bad=st.sampled_from((-1, 2, 7)))
    def refused(self, which: int, bad: int) -> None:
        life = self.lives[which % len(self.lives)]
        case("lifetimes", 2)
        for call in (lambda: life.fast.reset(bad), lambda: life.fast.step(torch.randn(2, 4))):
            try:
                call()
            except rt.ShapeError:
                continue
            raise AssertionError("taken")


TestStreamLifetimes = StreamLifetimes.TestCase
TestStreamLifetimes.settings = settings(max_examples=examples(30), stateful_step_count=30, **COMMON)
