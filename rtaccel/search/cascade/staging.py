"""The search for an early exit: limits from scores on calibration data, cascades judged in the order of their mean time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch
from torch import Tensor

from rtaccel.measure.latency import measure
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.search.cascade.cascade import Cascade
from rtaccel.search.cascade.early_exit import EarlyExit, Variant, least
from rtaccel.search.cascade.exits import Exit
from rtaccel.search.cascade.judge import stage_answers
from rtaccel.search.cascade.stages import checked_stages
from rtaccel.search.cascade.staging_record import Staging
from rtaccel.search.cascade.timing import stage_times, timed
from rtaccel.search.cost_model import CostModel
from rtaccel.search.front import Candidate
from rtaccel.search.judge import Judge

SHARES = (1.0, 0.99, 0.98, 0.97, 0.95, 0.92, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
"""Of the calibration rows that reach a stage: so many leave there."""

MAX_LIMITS = 256
"""Ways to set the limits of one chain of models."""

MAX_ROWS = 4096
"""Of the calibration data that scores and times are taken of."""

GAIN = 0.95
"""Part of the best plan's time below which the mean must be, to be worth a second model."""

FAST = 0.7
"""Part of a plan's time below which another plan of the same model may stand before it."""

PATIENCE = 12
"""Cascades of one chain of models that lose too much, after which the chain is left."""

TURNS = 7
"""Of all calibration rows through cascade and plan; each row's least time counts."""


@dataclass(frozen=True)
class Chain:
    """Small models with their tests before a plan. scores: of each, over the calibration rows. us: of each stage alone."""

    small: tuple[Variant, ...]
    tests: tuple[Exit, ...]
    full: Candidate
    model: CompiledModel
    scores: tuple[Tensor, ...]
    us: tuple[float, ...]


@dataclass(frozen=True)
class Trial:
    """A chain with its limits, and what is predicted of it."""

    chain: Chain
    exits: tuple[Exit, ...]
    shares: tuple[float, ...]
    mean_us: float


class Stager:
    """Looks for a cascade that is faster on average than the best plan. rows: calibration data in one tensor."""

    def __init__(
        self, option: EarlyExit, variants: Sequence[Sequence[Variant]], costs: CostModel, judge: Judge, rows: Tensor
    ) -> None:
        self._option, self._variants, self._costs, self._judge = option, variants, costs, judge
        self._rows = rows[:MAX_ROWS].detach().contiguous()

    def search(self, best: Candidate, candidates: Sequence[Candidate]) -> Candidate | None:
        """The cascade of least predicted mean time that keeps the drop and the bytes; None where none is worth it. best: the plan
        to beat. Raises TimeUp."""
        chains, alone = self._chains(best, candidates)
        trials = [trial for chain in chains for trial in _trials(chain)]
        failed: dict[int, int] = {}
        for trial in sorted(trials, key=lambda t: t.mean_us):
            if trial.mean_us > GAIN * alone:
                return None
            if failed.get(id(trial.chain), 0) >= PATIENCE:
                continue
            found = self._judged(trial)
            if found.keeps and found.fits:
                return found
            failed[id(trial.chain)] = failed.get(id(trial.chain), 0) + 1
        return None

    def _chains(self, best: Candidate, candidates: Sequence[Candidate]) -> tuple[list[Chain], float]:
        """Small models before plans, with the times of all of them taken in turn; and the time of the best plan."""
        fulls = _fulls(best, candidates)
        rows = []
        for full in fulls:
            if self._variants:
                chosen: list[tuple[Variant, ...]] = [v for each in self._variants for v in itertools.product(each)]
                if len(self._variants) > 1:  # all in a row, each as its fastest and as its first variant
                    chosen.append(tuple(each[0] for each in self._variants))
                    chosen.append(tuple(each[-1] for each in self._variants))
            else:
                chosen = [(self._own(c),) for c in _faster(full, candidates)]
            rows += [(small, full) for small in chosen]
        models = {id(v.model): v.model for small, _ in rows for v in small}
        built = {id(full): self._judge.build(full) for full in fulls}
        every = [*models.values(), *built.values()]
        x = self._example()
        times = stage_times(checked_stages("fit_budget", every, None, "hold"), x)
        us = {id(m): least(ns) for m, ns in zip(every, times)}
        scores: dict[tuple[int, int], Tensor] = {}
        found = []
        for small, full in rows:
            self._judge.clock.check()
            for v in small:
                test = self._place(v)
                if (id(v.model), test) not in scores:
                    y = stage_answers(checked_stages("fit_budget", [v.model], None, "hold"), self._rows)[0]
                    scores[id(v.model), test] = self._option.tests[test].scores(y)
            own = tuple(scores[id(v.model), self._place(v)] for v in small)
            tests = tuple(self._option.tests[self._place(v)] for v in small)
            last = built[id(full)]
            found.append(Chain(small, tests, full, last, own, (*(us[id(v.model)] for v in small), us[id(last)])))
        beside = max((_beside(chain, x) for chain in found[:1]), default=0.0)
        return [replace(c, us=(*(t + beside for t in c.us[:-1]), c.us[-1])) for c in found], us[id(built[id(best)])]

    def _place(self, variant: Variant) -> int:
        """Which of the small models, and so which test."""
        return next((i for i, each in enumerate(self._variants) if variant in each), 0)

    def _own(self, candidate: Candidate) -> Variant:
        return Variant(self._judge.build(candidate), candidate.name, dict(candidate.scheme))

    def _example(self) -> Tensor:
        x = self._costs.bench.args[0]
        assert isinstance(x, Tensor)
        return x.detach().contiguous()

    def _judged(self, trial: Trial) -> Candidate:
        chain = trial.chain
        made = Cascade([*(v.model for v in chain.small), chain.model], trial.exits)
        names, schemes = zip(*((v.name, v.scheme) for v in chain.small))
        staging = Staging(
            (*names, chain.full.name), (*schemes, dict(chain.full.scheme)), trial.exits, trial.shares, trial.mean_us,
            None, sum(chain.us),
        )  # fmt: skip
        found = Candidate(
            chain.full.plan,
            chain.full.scheme,
            predicted_us=trial.mean_us,
            staging=staging,
        )
        self._judge.judge_model(found, made)
        self._judge.staged.append((found, made))
        return found

    def measured(self, found: Candidate, best: Candidate, seconds: float) -> Cascade:
        """Takes the mean time of a cascade and of the best plan in turn, and measures the longest path against the budget."""
        model = next(m for c, m in self._judge.staged if c is found)
        mean, alone = self._means(model, best)
        x = self._example().clone()
        longest = model.bind(x, model(x), worst=True)
        found.us = mean
        found.latency = measure(
            longest, (), self._judge.budget, seconds=max(seconds, 0.05), warmup=min(0.05, seconds / 5),
            size_bytes=model.weight_bytes, name=f"longest path of {found.name}",
            **self._judge.given(found, model, longest, seconds),
        )  # fmt: skip
        assert found.staging is not None
        found.staging = replace(found.staging, mean_us=mean, alone_us=alone, worst_us=found.latency.p50_us)
        return model

    def _means(self, model: Cascade, best: Candidate) -> tuple[float, float]:
        """Microseconds of a call over the calibration rows: of the cascade, and of the plan alone."""
        rows = len(self._example())
        x = self._rows[: len(self._rows) // rows * rows]
        if not len(x):
            x = self._example()
        alone = Cascade([self._judge.build(best)], [])
        least_ns = []
        for each in (model, alone):
            each._profile(x, rows)  # memory for so many rows
        runs: list[list[np.ndarray]] = [[], []]
        for _ in range(TURNS):
            for i, each in enumerate((model, alone)):
                runs[i].append(each._profile(x, rows)[0])
        least_ns = [np.min(parts, 0) for parts in runs]
        return float(least_ns[0].mean()) * 1e-3, float(least_ns[1].mean()) * 1e-3


def _beside(chain: Chain, x: Tensor) -> float:
    """Microseconds that a stage's test and what belongs to it take: of a call through all stages beyond their sum."""
    made = Cascade([*(v.model for v in chain.small), chain.model], [test.never for test in chain.tests])
    longest = made.bind(x.clone(), made(x))  # no row passes: all stages, and all tests
    return max(0.0, least(timed(longest, 400)) - sum(chain.us)) / len(chain.small)


def _fulls(best: Candidate, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Plans that may answer what is left: the best, the one that leaves most of the drop to the exits, and float32."""
    good = [c for c in candidates if c.keeps and c.fits]
    most = min(good, key=lambda c: max(c.drop or 0.0, 0.0) + 4 * (c.drop_error or 0.0), default=best)
    exact = [c for c in good if c.reference]
    return list({id(c): c for c in (best, most, *exact)}.values())


def _faster(full: Candidate, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Plans of the same model that are much faster, at most three: the fastest, and those that lose less."""
    found = sorted((c for c in candidates if c.time_us < FAST * full.time_us), key=lambda c: c.time_us)
    front: list[Candidate] = []
    for c in found:
        if not front or (c.error or 0.0) < (front[-1].error or 0.0):
            front.append(c)
    return [front[i] for i in sorted({0, len(front) // 2, len(front) - 1})] if front else []


def _trials(chain: Chain) -> Iterator[Trial]:
    """The chain with limits by which certain shares of the rows leave at each stage."""
    own = chain.tests
    levels: Sequence[float] = SHARES
    while len(levels) > 2 and prod([len(levels)] * len(own)) > MAX_LIMITS:
        levels = levels[::2]
    for shares in itertools.product(levels, repeat=len(own)):
        left = torch.full((len(chain.scores[0]),), len(own))
        exits = []
        for index, (test, scores, share) in enumerate(zip(own, chain.scores, shares)):
            reach = left == len(own)
            limit = _limit(test, scores[reach], share)
            exits.append(limit)
            left[reach & limit.passes(scores)] = index
        parts = tuple(float((left == i).double().mean()) for i in range(len(own) + 1))
        if parts[-1] == 1.0:
            continue
        paths = np.cumsum(chain.us)
        yield Trial(chain, tuple(exits), parts, float(np.dot(paths, parts)))


def _limit(test: Exit, scores: Tensor, share: float) -> Exit:
    """The test with a limit that this share of the scores passes; between two of them where it can be."""
    finite = scores[scores.isfinite()].sort(descending=test.above is not None).values
    count = min(round(share * len(scores)), len(finite))
    if not count:
        return test.never
    last = float(finite[count - 1])
    between = last if count == len(finite) else float(((finite[count - 1].double() + finite[count]) / 2).float())
    return test.at(between)
