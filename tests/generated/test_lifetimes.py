"""Bind, free, resize, copy, load, reset, seal and call in any order, against torch, or a copy of the model that is untouched."""

from __future__ import annotations

import copy
import functools
import gc
from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from torch import Tensor, nn

import rtaccel as rt
from tests.generated.test_batches import COMMON
from tests.support import stages
from tests.support.compare import quiet
from tests.support.generators.count import case, examples

NAMES = ("mlp", "mixed", "with a torch call", "causal", "gru")
SCHEMES = ("float32", "w8a8 static")


@functools.cache
def torch_model(name: str, seed: int) -> nn.Module:
    return stages.original(name, seed)


def flat(result: Any) -> list[Tensor]:
    return list(result) if isinstance(result, (tuple, list)) else [result]


class Bound:
    """A bound call with its buffers. resized: no longer what it was bound to."""

    def __init__(self, owner: Life, call: Any, x: Tensor, out: list[Tensor]) -> None:
        self.owner, self.call, self.x, self.out = owner, call, x, out


class Life:
    """A compiled model, and what it should be: the weights of which seed, and for a stream the time steps since the reset."""

    def __init__(self, fast: Any, seed: int, history: list[Tensor] | None, sealed: bool = False) -> None:
        self.fast, self.seed, self.history, self.sealed = fast, seed, history, sealed


class Lifetimes(RuleBasedStateMachine):
    """One kind of model; several copies of it may live, each with calls bound to it."""

    @initialize(name=st.sampled_from(NAMES), scheme=st.sampled_from(SCHEMES))
    def start(self, name: str, scheme: str) -> None:
        self.name, self.scheme = name, scheme
        self.lives = [Life(copy.deepcopy(stages.shared(name, scheme, 1)), 1, None)]
        self.bound: list[Bound] = []
        self.turn = 0

    # -- what should come out ------------------------------------------------------------------------------------------

    def fresh(self, rows: int) -> Tensor:
        self.turn += 1
        return stages.inputs(self.name, 1000 + self.turn, rows)

    def want(self, life: Life, x: Tensor) -> list[Tensor]:
        """Of a copy that was never bound, loaded or freed; for float32 of torch itself."""
        if self.scheme == "float32":
            return flat(quiet(lambda: torch_model(self.name, life.seed)(x)))
        return flat(quiet(lambda: copy.deepcopy(stages.shared(self.name, self.scheme, life.seed))(x)))

    def compare(self, got: list[Tensor], want: list[Tensor], what: str) -> None:
        case("lifetimes")
        assert len(got) == len(want), what
        for a, b in zip(got, want):
            if self.scheme == "float32":
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=lambda m: f"{what}: {m}")
            else:
                assert torch.equal(a, b), what

    def outs(self, life: Life, x: Tensor) -> list[Tensor]:
        return [torch.full_like(t, 77) for t in self.want(life, x)]

    @staticmethod
    def nested(out: list[Tensor]) -> Any:
        return out[0] if len(out) == 1 else tuple(out)

    # -- what may be done, in any order --------------------------------------------------------------------------------

    @rule(which=st.integers(0, 9), rows=st.integers(1, 5))
    def call(self, which: int, rows: int) -> None:
        life, x = self.lives[which % len(self.lives)], self.fresh(rows)
        self.compare(flat(quiet(lambda: life.fast(x))), self.want(life, x), "call")

    @rule(which=st.integers(0, 9), rows=st.integers(1, 5))
    def run(self, which: int, rows: int) -> None:
        life, x = self.lives[which % len(self.lives)], self.fresh(rows)
        out = self.outs(life, x)
        life.fast.run(x, out=self.nested(out))
        self.compare(out, self.want(life, x), "run")

    @precondition(lambda self: len(self.bound) < 5)
    @rule(which=st.integers(0, 9), rows=st.integers(1, 5))
    def bind(self, which: int, rows: int) -> None:
        life, x = self.lives[which % len(self.lives)], self.fresh(rows)
        out = self.outs(life, x)
        self.bound.append(Bound(life, life.fast.bind(x, out=self.nested(out)), x, out))

    @precondition(lambda self: self.bound)
    @rule(which=st.integers(0, 9))
    def step(self, which: int) -> None:
        self.step_bound(self.bound[which % len(self.bound)])

    def step_bound(self, b: Bound) -> None:
        """A bound call follows its memory and its model, or says that it no longer can."""
        b.x.copy_(self.fresh(b.x.shape[0]))
        for out in b.out:
            out.fill_(77)
        try:
            b.call()
        except rt.RtaccelError:
            case("lifetimes")
            self.bound.remove(b)
            return
        self.compare(b.out, self.want(b.owner, b.x), "bound call")

    @precondition(lambda self: self.bound)
    @rule(which=st.integers(0, 9))
    def drop_buffers(self, which: int) -> None:
        """The caller forgets the tensors: the bound call keeps them alive."""
        b = self.bound.pop(which % len(self.bound))
        call, out = b.call, b.out[0].view_as(b.out[0])
        want = self.want(b.owner, b.x)[0]
        owner = b.owner
        del b
        gc.collect()
        torch.full((64, 64), 9.0)
        try:
            call()
        except rt.RtaccelError:
            return
        self.compare([out], [want], f"bound call without its tensors, {owner.seed}")

    @precondition(lambda self: self.bound)
    @rule(which=st.integers(0, 9), grow=st.booleans())
    def resize(self, which: int, grow: bool) -> None:
        """A tensor that is made smaller leaves its memory where it is, and the call goes on there. One that grows moves, and
        its call must not be made any more."""
        b = self.bound.pop(which % len(self.bound))
        if grow:
            b.x.resize_(b.x.shape[0] * 50, *b.x.shape[1:])
            return
        whole, shape = b.out[0].view_as(b.out[0]), b.out[0].shape
        b.out[0].resize_(1, *shape[1:])
        try:
            b.call()
        except rt.RtaccelError:  # what is run step by step looks at its tensors each time
            case("lifetimes")
            return
        b.out[0] = whole
        self.compare(b.out, self.want(b.owner, b.x), "bound call after its out was made smaller")
        self.bound.append(b)

    @precondition(lambda self: len(self.lives) < 4)
    @rule(which=st.integers(0, 9))
    def copy(self, which: int) -> None:
        life = self.lives[which % len(self.lives)]
        self.lives.append(Life(copy.deepcopy(life.fast), life.seed, None))

    @precondition(lambda self: len(self.lives) > 1)
    @rule(which=st.integers(0, 9))
    def free(self, which: int) -> None:
        """The model goes; calls that are bound to it go on."""
        self.lives.pop(which % len(self.lives)).fast = None
        gc.collect()

    @rule(which=st.integers(0, 9), seed=st.sampled_from((1, 2)))
    def load(self, which: int, seed: int) -> None:
        life = self.lives[which % len(self.lives)]
        life.fast.load_state_dict(stages.shared(self.name, self.scheme, seed).state_dict())
        life.seed = seed
        for b in [b for b in self.bound if b.owner is life]:
            self.step_bound(b)

    @rule(which=st.integers(0, 9), seed=st.sampled_from((1, 2)))
    def load_refused(self, which: int, seed: int) -> None:
        """A state that lacks a name changes nothing."""
        life = self.lives[which % len(self.lives)]
        state = dict(stages.shared(self.name, self.scheme, seed).state_dict())
        state.popitem()
        case("lifetimes")
        try:
            life.fast.load_state_dict(state)
        except (rt.RtaccelError, RuntimeError):
            return
        raise AssertionError("a state without one of its names was taken")

    @rule(which=st.integers(0, 9))
    def seal(self, which: int) -> None:
        life = self.lives[which % len(self.lives)]
        try:
            life.fast.seal()
        except rt.UnsupportedProblem:
            assert self.name in ("with a torch call",)
        case("lifetimes")

    @rule(which=st.integers(0, 9))
    def save(self, which: int) -> None:
        life = self.lives[which % len(self.lives)]
        own, other = life.fast.state_dict(), stages.shared(self.name, self.scheme, life.seed).state_dict()
        case("lifetimes")
        assert own.keys() == other.keys()
        assert all(torch.equal(own[k], other[k]) for k in own)


TestLifetimes = Lifetimes.TestCase
TestLifetimes.settings = settings(max_examples=examples(30), stateful_step_count=30, **COMMON)
