"""Adapt in any order of calls, labels, rollbacks and saved states."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rtaccel.core.errors import FormatError
from tests.online.test_adapt import callable_model, learner


class Learner(RuleBasedStateMachine):
    """Calls, labels and rollbacks in any order: what is served is the model's bits or the head's, and numbers are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.adapt, self.rng = learner(keep=4), np.random.default_rng(0)
        self.waiting: list[tuple[int, Any]] = []
        self.calls = 0

    @rule(rows=st.integers(1, 3))
    def call(self, rows: int) -> None:
        x = self.rng.normal(size=(rows, 3)).astype(np.float32)
        served, committed = self.adapt(x), self.adapt.committed
        model = callable_model(x)[0]
        if committed:
            phi = np.concatenate([x, np.ones((rows, 1), np.float32)], axis=1)
            model = model + self.adapt.head.predict_many(phi)  # type: ignore[union-attr]
        np.testing.assert_array_equal(served, model)
        self.waiting = [*self.waiting, (self.calls, x)][-4:]
        self.calls += 1

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), good=st.booleans())
    def label(self, data: st.DataObject, good: bool) -> None:
        seq, x = data.draw(st.sampled_from(self.waiting))
        learned = self.adapt.head.learned  # type: ignore[union-attr]
        self.adapt.learn(3 * x.sum(1) if good else np.full(len(x), np.nan), seq=seq)
        assert self.adapt.head.learned == learned + (len(x) if good else 0)  # type: ignore[union-attr]
        self.waiting = [one for one in self.waiting if one[0] != seq]

    @rule(seq=st.integers(-1, 99))
    def unknown(self, seq: int) -> None:
        if seq not in [one[0] for one in self.waiting]:
            with pytest.raises(FormatError):
                self.adapt.learn([[1.0]], seq=seq)

    @rule()
    def roll_back(self) -> None:
        self.adapt.rollback()
        assert not self.adapt.committed

    @rule()
    def save_and_load(self) -> None:
        other = learner(keep=4)
        other.load_state_dict(self.adapt.state_dict())
        self.adapt = other

    @invariant()
    def counts(self) -> None:
        assert self.adapt.seq == self.calls - 1
        assert self.adapt.waiting == len(self.waiting)


TestLearner = Learner.TestCase
TestLearner.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
