"""Whether a plan keeps what it must: the drop with its sampling error, the bytes, and then the time."""

from __future__ import annotations

from time import monotonic
from typing import Any

from rtaccel.measure.budget import Budget
from rtaccel.measure.latency import measure
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.search.cascade.cascade import Cascade
from rtaccel.search.clock import Clock
from rtaccel.search.cost_model import CostModel
from rtaccel.search.energy import joules_of
from rtaccel.search.front import Candidate
from rtaccel.search.knapsack import Plan
from rtaccel.search.metric import FOLDS, MIN_FOLDS, Judged, Metric
from rtaccel.search.workbench import Outputs, bound

SURE = 4.0
"""Standard errors of the drop that are to be left below its limit. The metric's data are a sample, and other data, on which the
drop is to be kept, are another: their difference has 1.4 times the error, and so three of its own are left."""

MAX_SHARE = 0.1
"""Of the time that is left, for the sampling error of one drop."""


class Judge:
    """Keeps the candidates that were judged. limit: of the drop. found: plans; staged: cascades of them and smaller models."""

    def __init__(
        self, model: CostModel, metric: Metric, outputs: Outputs, limit: float, budget: Budget, clock: Clock
    ) -> None:
        self._model, self._metric, self._outputs = model, metric, outputs
        self.limit, self.budget, self.clock = limit, budget, clock
        self.found: dict[Plan, Candidate] = {}
        self.staged: list[tuple[Candidate, Cascade]] = []
        self.notes: dict[str, None] = {}
        self._made: set[tuple[int, int]] = set()
        self._longest = 0.0

    def judged(self, plan: Plan) -> Candidate:
        """The candidate of a plan, with its drop, error and bytes. Each plan is judged once. Raises TimeUp."""
        if plan in self.found:
            return self.found[plan]
        fresh = [layer for layer in enumerate(plan) if layer not in self._made]
        if self.found:  # the first is judged whatever the time is
            self.clock.check(max(1.2 * self._metric.seconds, self._longest if fresh else 0.0))
        begin = monotonic()
        found = Candidate(plan, self._model.scheme(plan), reference=plan == self._model.reference)
        self.judge_model(found, self._model.kept(plan))
        self.found[plan] = found
        if fresh:  # rounding and low rank take their time once for a layer
            self._longest = max(self._longest, monotonic() - begin)
            self._made.update(fresh)
        return found

    def judge_model(self, found: Candidate, model: CompiledModel | Cascade) -> None:
        """Sets drop, error and bytes of a candidate, whose model this is."""
        judged = self._metric.judge(model)
        found.drop = self._metric.value - judged.value
        found.error = self._outputs.error(model)
        found.size_bytes = model.weight_bytes
        found.peak_bytes = model.peak_bytes
        size, peak = self.budget.size_bytes, self.budget.peak_bytes
        found.fits = (size is None or found.size_bytes <= size) and (peak is None or found.peak_bytes <= peak)
        found.drop_error = self._sampling_error(found, judged)
        found.keeps = self.keeps(found)

    def keeps(self, c: Candidate) -> bool:
        """Whether the drop of a candidate is within its limit, with what may be owed to the metric's data.

        Where no row of theirs came out differently, up to three in as many may: the least drop seen counts as a standard error
        (the rule of three). A gain is taken for chance, since the best of many plans owes something to it. float32 is the model
        itself, and keeps a drop of its own rounding; but where the metric says something else each time, nothing is kept.
        """
        if c.drop is None:
            return False
        if c.reference and max(c.drop, 0.0) + self._metric.resolution <= self.limit:
            return True
        error = 0.0 if c.drop_error is None else max(c.drop_error, self._metric.grain)
        return max(c.drop, 0.0) + self._metric.resolution + SURE * error <= self.limit

    def settle(self) -> None:
        """Asks again whether drops are kept, with all that is known of the metric by now."""
        for c in (*self.found.values(), *(c for c, _ in self.staged)):
            c.keeps = self.keeps(c)

    def _sampling_error(self, c: Candidate, judged: Judged) -> float | None:
        """None where it would not matter, or is not known."""
        assert c.drop is not None
        if c.drop + self._metric.resolution > self.limit:
            return None
        share = MAX_SHARE * max(self.clock.left, 0.0) / max(self._metric.seconds, 1e-9)
        folds = int(min(FOLDS, share))
        if folds < MIN_FOLDS and self.found:
            self.notes["the metric is too slow for the sampling error of a drop in the time given"] = None
            return None
        found = self._metric.sampling_error(judged, max(folds, MIN_FOLDS))
        if found is None and self._metric.fed_back:
            self.notes["the metric feeds results back into the model: the sampling error of a drop is not known"] = None
        return found

    def build(self, candidate: Candidate) -> CompiledModel:
        return self._model.build(candidate.plan)

    def kept(self, candidate: Candidate) -> CompiledModel:
        """One that may have been called before."""
        return self._model.kept(candidate.plan)

    def time(self, candidate: Candidate, seconds: float) -> CompiledModel:
        """Measures a candidate as a call bound to its tensors, against the whole budget; gives its model."""
        model = self.kept(candidate)
        call = bound(model, self._model.bench.args)
        candidate.latency = measure(
            call, (), self.budget, seconds=max(seconds, 0.05), warmup=min(0.05, seconds / 5), size_bytes=model.weight_bytes,
            name=candidate.name, **self.given(candidate, model, call, seconds),
        )  # fmt: skip
        return model

    def given(self, candidate: Candidate, model: CompiledModel | Cascade, call: Any, seconds: float) -> dict[str, Any]:
        """What `rt.measure` is told of a candidate beside its calls, where the budget limits it."""
        budget = self.budget
        if budget.joules is not None:
            candidate.joules, candidate.joules_modeled = joules_of(
                model, call, candidate.us or candidate.time_us, seconds
            )
        given: dict[str, Any] = {}
        if budget.max_error is not None:
            given["error"] = candidate.error
        if budget.min_metric is not None:
            given["metric"] = self._metric.value - (candidate.drop or 0.0)
        if budget.peak_bytes is not None:
            given["peak_bytes"] = candidate.peak_bytes
        if budget.joules is not None and not candidate.joules_modeled:
            given["joules"] = candidate.joules
        return given
