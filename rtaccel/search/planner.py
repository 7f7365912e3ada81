"""The search: what each option does alone, the front of plans, the best of them judged, moved and measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from rtaccel.measure.budget import Budget
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.search.cascade.cascade import Cascade
from rtaccel.search.cascade.staging import Stager
from rtaccel.search.clock import Clock, TimeUp
from rtaccel.search.cost_model import CostModel
from rtaccel.search.cost_table import second_level_bytes, whole_calls
from rtaccel.search.front import Candidate, pareto
from rtaccel.search.judge import Judge
from rtaccel.search.knapsack import Costs, Plan, front, neighbors
from rtaccel.search.sensitivity import Losses
from rtaccel.search.workbench import bound

ROUNDS = 3
"""Of predicting, judging and correcting the prediction."""

PATIENCE = 3
"""Plans in a row that do not keep the drop, after which faster ones are not judged."""

FINALISTS = 3
"""Plans that are measured against the budget."""

MEASURE_SECONDS = 0.6
"""For each of them, at most; timing whole calls in turn takes as long for all together."""

MEASURE_CALLS, MEASURE_LEAST = 30_000, 0.03
"""Calls of each that prove a 99th percentile, forty times what it takes, and seconds at least; rarer percentiles have the whole
time."""

CLEARLY = 1.05
"""Times as long as the best takes, timed in turn: no such plan is measured where that one passes."""

EXITS = 0.25
"""Part of the time that is kept for early exits where they are asked for."""

WHOLE_ROUNDS = 120
"""Of whole calls in turn: on a busy machine few of them meet no other work."""

MAX_MOVES = 60
"""Judged plans that differ from the best in one layer."""

Told = Callable[[str, int, int, "Sequence[Candidate]"], None]
"""(phase, steps done, steps in all, the candidates so far that no other beats)."""


@dataclass
class Found:
    """What a search ends with. best: None where no plan keeps drop and bytes. interrupted: by Ctrl-C. complete: whether the time
    was enough."""

    best: Candidate | None = None
    model: CompiledModel | Cascade | None = None
    interrupted: bool = False
    complete: bool = True
    notes: list[str] = field(default_factory=list)


class Planner:
    """One search. Whatever happens, `found` and the judge's candidates are what was known when it ended."""

    def __init__(
        self, model: CostModel, losses: Losses, judge: Judge, budget: Budget, clock: Clock, told: Told,
        stager: Stager | None = None,
    ) -> None:  # fmt: skip
        self._model, self._losses, self._judge, self._stager = model, losses, judge, stager
        self._staged: Candidate | None = None
        self._budget, self._clock, self._told = budget, clock, told
        self._offset, self._per_byte, self._joint = 0.0, 0.0, 1.0
        self._near = second_level_bytes()
        self.found = Found()

    def run(self) -> None:
        """Searches, then measures. Time that is up and Ctrl-C end the search, not the measuring."""
        for step, kept in ((self._search, EXITS if self._stager else 0.0), (self._leave_early, 0.0)):
            self._clock.keep(kept)
            if self.found.interrupted:
                break
            try:
                step()
            except TimeUp:
                self.found.complete = False
            except KeyboardInterrupt:
                self.found.interrupted = True
        try:
            self._finish()
        except KeyboardInterrupt:
            self.found.interrupted = True

    # -- searching -------------------------------------------------------------------------------------------------

    def _search(self) -> None:
        model, judge = self._model, self._judge
        judge.judged(model.reference)
        uniform = dict.fromkeys(model.uniform(o) for layer in model.layers for o in layer.options)
        for done, plan in enumerate(uniform):
            judge.judged(plan)
            self._tell("uniform plans", done + 1, len(uniform))
        complete = self._losses.measure(self._clock)
        self.found.complete = complete
        model.measure(self._clock)
        self._correct()
        for done in range(ROUNDS):
            before = len(judge.found)
            judge.settle()
            self._walk(self._front())
            self._move()
            self._tell("plans", done + 1, ROUNDS)
            self._correct()
            if len(judge.found) == before:
                break

    def _leave_early(self) -> None:
        """A cascade whose mean time is less than the best plan's."""
        self._judge.settle()
        best = self._fastest() if self._model.times else None
        if self._stager is None or best is None:
            return
        self._tell("early exits", 0, 1)
        self._staged = self._stager.search(best, list(self._judge.found.values()))
        self._tell("early exits", 1, 1)

    def _costs(self) -> Costs:
        known = [
            (c.error**2, max(c.drop, 0.0)) for c in self._judge.found.values()
            if c.error is not None and c.drop is not None
        ]  # fmt: skip
        drops = [d * self._joint for d in self._losses.drops(known)]
        return Costs(self._model.times, drops, self._losses.sizes(), self._model.pairs)

    def _front(self) -> list[Plan]:
        limit = self._budget.size_bytes
        spare = None if limit is None else limit - self._model.bench.exact.weight_bytes
        costs = self._costs()
        # By what the knapsack knows: to lower every plan of a front for its stages takes longer than to judge the few that count.
        return sorted(front(costs, spare), key=lambda p: costs.time_of(p) + self._per_byte * self._far(p))

    def _walk(self, plans: list[Plan]) -> None:
        """Judges plans of the front around the drop that is permitted: slower ones until one keeps it, then faster ones as long
        as they do."""
        costs, limit = self._costs(), self._judge.limit
        start = next((i for i, p in enumerate(plans) if costs.drop_of(p) <= 0.9 * limit), len(plans) - 1)
        at = start
        while at < len(plans) and not self._good(self._judge.judged(plans[at])):
            at += 1
        failed, at = 0, min(start, len(plans)) - 1
        while at >= 0 and failed < PATIENCE and costs.drop_of(plans[at]) <= 4 * limit:
            failed = 0 if self._good(self._judge.judged(plans[at])) else failed + 1
            at -= 1

    def _move(self) -> None:
        """Faster plans that differ from the fastest good one in one layer, as long as one keeps the drop: the joint drop is
        often less than the sum that was predicted."""
        costs = self._costs()
        tried = 0
        best = self._fastest()
        while best is not None and tried < MAX_MOVES:
            mine = costs.time_of(best.plan)
            moves = [(costs.time_of(p), p) for p in neighbors(costs, best.plan)]
            faster = sorted((t, p) for t, p in moves if t < mine * (1 - 1e-3) - 1e-3 and p not in self._judge.found)
            better = None
            for _, plan in faster[:8]:
                tried += 1
                if self._good(self._judge.judged(plan)):
                    better = self._judge.found[plan]
                    break
            if better is None:
                return
            best = better

    def _good(self, candidate: Candidate) -> bool:
        return bool(candidate.keeps and candidate.fits)

    def _all_good(self) -> list[Candidate]:
        return [c for c in self._judge.found.values() if self._good(c)]

    def _fastest(self) -> Candidate | None:
        return min(self._all_good(), key=lambda c: self._us(c.plan), default=None)

    def _us(self, plan: Plan) -> float:
        """Predicted time of a call: its stages, what a call takes beside them, and weights that the nearest cache does not hold,
        which a stage alone finds there."""
        return self._model.stages_us(plan) + self._offset + self._per_byte * self._far(plan)

    def _far(self, plan: Plan) -> float:
        """Bytes of weights beyond what the second-level cache holds."""
        known = self._judge.found.get(plan)
        size: float | None = known.size_bytes if known is not None else None
        if size is None:
            size = self._model.bench.exact.weight_bytes + sum(float(s[o]) for s, o in zip(self._losses.sizes(), plan))
        return max(0.0, size - self._near)

    def _correct(self) -> None:
        """Predictions from what is measured by now: the part of a call beside its stages, and the joint drop of several layers
        over the sum of what each does alone."""
        judge, model = self._judge, self._model
        good = sorted(self._all_good(), key=lambda c: model.stages_us(c.plan))[:FINALISTS]
        self._time([c for c in (judge.found[model.reference], *good) if c.us is None])
        beside = [(self._far(c.plan), c.us - model.stages_us(c.plan)) for c in judge.found.values() if c.us is not None]
        near, far = [us for size, us in beside if not size], [(size, us) for size, us in beside if size]
        self._offset = float(np.median(near or [us for _, us in far]))
        self._per_byte = max(0.0, float(np.median([(us - self._offset) / size for size, us in far]))) if far else 0.0
        raw = Costs(model.times, self._losses.drops([]), self._losses.sizes(), model.pairs)
        ratios = []
        for c in judge.found.values():
            alone = raw.drop_of(c.plan)
            layers = sum(o != 0 for o in c.plan)
            if c.drop is not None and layers > 1 and 0 < alone < np.inf and 0 < c.drop < 3 * judge.limit:
                ratios.append(c.drop / alone)
        if ratios:
            self._joint = float(np.clip(np.median(ratios), 0.1, 10.0))
        for c in judge.found.values():
            c.predicted_us = self._us(c.plan)
            alone = raw.drop_of(c.plan) * self._joint
            c.predicted_drop = float(alone) if np.isfinite(alone) else None

    def _time(self, candidates: Iterable[Candidate]) -> None:
        """Whole calls, all in turn."""
        candidates = list(candidates)
        if not candidates:
            return
        share = min(MEASURE_SECONDS, max(0.05, 0.05 * self._clock.seconds))
        calls = {c.plan: bound(self._judge.kept(c), self._model.bench.args) for c in candidates}
        for plan, us in whole_calls(calls, share, rounds=WHOLE_ROUNDS).items():
            self._judge.found[plan].us = us

    def _tell(self, phase: str, done: int, of: int) -> None:
        self._told(phase, done, of, pareto(self._judge.found.values()))

    # -- measuring -------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        self._judge.settle()
        good = self._all_good()
        if not good:
            self._time([c for c in self._judge.found.values() if c.us is None][:4])
            return
        predicted = bool(self._model.times)
        ranked = sorted(good, key=lambda c: self._us(c.plan) if predicted else 0.0)
        uniform = {self._model.uniform(o) for layer in self._model.layers for o in layer.options}
        finalists = dict.fromkeys(
            c.plan for c in [*ranked[: 2 * FINALISTS], *(c for c in ranked if c.plan in uniform)][: 4 * FINALISTS]
        )
        self._time(self._judge.found[plan] for plan in finalists)
        final = sorted((self._judge.found[plan] for plan in finalists), key=lambda c: c.time_us)[:FINALISTS]
        keep = max(0.0, self._clock.left)
        rare = self._budget.p999_us is not None
        for i, candidate in enumerate(final):
            enough = MEASURE_SECONDS if rare else max(MEASURE_LEAST, MEASURE_CALLS * 1e-6 * candidate.time_us)
            share = min(MEASURE_SECONDS, enough, max(0.08, keep / (FINALISTS + 1)))
            if i and (self._clock.left < share or self._beaten(candidate)):
                break
            model = self._judge.time(candidate, share)
            if self.found.best is None or _better(candidate, self.found.best):
                self.found.best, self.found.model = candidate, model
        self._finish_staged()

    def _beaten(self, candidate: Candidate) -> bool:
        """Whether it could not be returned, whatever its measurement shows: the best keeps the whole budget, and this one took
        longer, timed in turn with it, by more than two such timings differ."""
        best = self.found.best
        return best is not None and best.verdict == "PASS" and candidate.time_us > CLEARLY * best.time_us

    def _finish_staged(self) -> None:
        """The cascade in place of the best plan, where it is faster on average and its longest path keeps what that keeps."""
        best, staged = self.found.best, self._staged
        if best is None or staged is None or self._stager is None or not staged.keeps:
            return
        model = self._stager.measured(staged, best, min(MEASURE_SECONDS, max(0.08, self._clock.left / 2)))
        assert staged.staging is not None and staged.staging.mean_us is not None and staged.staging.alone_us is not None
        if staged.staging.mean_us < staged.staging.alone_us and ORDER[staged.verdict] <= ORDER[best.verdict]:
            self.found.best, self.found.model = staged, model


ORDER = {"PASS": 0, "UNDECIDED": 1, "FAIL": 2, None: 3}
"""Of verdicts, the best first."""


def _better(a: Candidate, b: Candidate) -> bool:
    """Whether a is to be returned rather than b: its verdict, then its time."""
    return (ORDER[a.verdict], a.time_us) < (ORDER[b.verdict], b.time_us)
