"""What `fit_budget` found: the model, why it, and everything that was looked at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any

from rtaccel.core.process import whole_file
from rtaccel.core.scheme import Scheme
from rtaccel.measure.budget import TIME_KEYS, Budget
from rtaccel.measure.machine.environment import environment
from rtaccel.measure.numbers import figure
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.search.cascade.cascade import Cascade
from rtaccel.search.clock import Clock
from rtaccel.search.cost_model import CostModel
from rtaccel.search.front import Candidate, pareto
from rtaccel.search.judge import SURE, Judge
from rtaccel.search.metric import Metric
from rtaccel.search.options import LayerOptions
from rtaccel.search.planner import Found
from rtaccel.search.sensitivity import Losses, Sensitivity


@dataclass(frozen=True, eq=False)
class Fit:
    """The result of `rt.fit_budget`.

    model: the compiled model, or an `rt.Cascade` of such where `best.staging` is given; None where a limit is shown to be
        exceeded, and `reason` says by what.
    scheme: of each layer, a dict that `rt.compile(scheme=)` takes with the same calibration data; None with the model. Of a
        cascade that of the last stage; `best.staging` has those of all.
    verdict: "PASS" where every limit of the budget is proved and the drop is kept, "UNDECIDED" where nothing is refuted and not
        everything proved, else "FAIL".
    reason: a sentence on that.
    best: the candidate that the verdict is about; None where no plan keeps the drop.
    front: candidates that no other beats in time and drop, in the order of time.
    candidates: all that were judged.
    sensitivity: of each option of each layer alone.
    layers: what each layer could become.
    budget: as it was given.
    metric: in float32.
    limit: the drop permitted.
    resolution: by how much two calls of the metric differ.
    complete: whether the time was enough for the whole search.
    interrupted: whether Ctrl-C ended it.
    seconds: that it took.
    notes: options without a kernel, and doubts.
    machine: what it was measured on.
    """

    model: CompiledModel | Cascade | None
    scheme: Mapping[str, Scheme] | None
    verdict: str
    reason: str
    best: Candidate | None
    front: tuple[Candidate, ...]
    candidates: tuple[Candidate, ...]
    sensitivity: tuple[Sensitivity, ...]
    layers: tuple[LayerOptions, ...]
    budget: Budget
    metric: float
    limit: float
    resolution: float
    complete: bool
    interrupted: bool
    seconds: float
    notes: tuple[str, ...]
    machine: Mapping[str, Any] = field(repr=False, default_factory=dict)

    def __str__(self) -> str:
        from rtaccel.search.rendering import text

        return text(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the model, as JSON holds it."""
        from rtaccel.search.rendering import listed

        return listed(self)

    def to_json(self, path: str | PathLike[str] | None = None) -> str:
        """`to_dict` as JSON, written to a file too where one is named."""
        content = json.dumps(self.to_dict(), indent=2)
        if path is not None:
            whole_file.write("fit", path, content + "\n")
        return content

    def to_html(self, path: str | PathLike[str] | None = None) -> str:
        """One self-contained page with the verdict, the front, the layers and every candidate; written to a file where one is
        named."""
        from rtaccel.search.page import page

        content = page(self)
        if path is not None:
            whole_file.write("fit", path, content)
        return content


def summarized(
    found: Found, judge: Judge, losses: Losses, costs: CostModel, metric: Metric, budget: Budget, clock: Clock,
    notes: list[str],
) -> Fit:  # fmt: skip
    """The result of a search."""
    best, candidates = found.best, [*judge.found.values(), *(c for c, _ in judge.staged)]
    failed = best is None or best.verdict == "FAIL"
    verdict = "FAIL" if best is None else best.verdict or "UNDECIDED"
    sensitivity = tuple(
        replace(s, us=float(costs.times[i][o]) if costs.times else None) for (i, o), s in losses.found.items()
    )
    if not found.complete:
        notes.append("the time was up before the search was done: the best of what was verified by then")
    if found.interrupted:
        notes.append("interrupted: the best of what was verified by then")
    if best is not None and best.joules_modeled:
        notes.append("joules are computed from a model of bytes and operations, not measured; they prove nothing")
    return Fit(
        model=None if failed else found.model,
        scheme=None if failed or best is None else dict(best.scheme),
        verdict=verdict,
        reason=_reason(best, candidates, judge, budget, metric),
        best=best,
        front=tuple(pareto(candidates)),
        candidates=tuple(sorted(candidates, key=lambda c: c.time_us)),
        sensitivity=sensitivity,
        layers=tuple(costs.layers),
        budget=budget,
        metric=metric.value,
        limit=judge.limit,
        resolution=metric.resolution,
        complete=found.complete and not found.interrupted,
        interrupted=found.interrupted,
        seconds=clock.spent,
        notes=tuple(dict.fromkeys(notes)),
        machine=environment(),
    )


def _reason(best: Candidate | None, candidates: list[Candidate], judge: Judge, budget: Budget, metric: Metric) -> str:
    reference = next((c for c in candidates if c.reference), None)
    allowed = f"a drop of {figure(judge.limit, 3)} from {figure(metric.value + 0.0, 5)}"
    if best is None:
        exact = "" if reference is None or reference.us is None else f"; float32 takes {figure(reference.us, 3)} us"
        small = [c for c in candidates if c.fits]
        if not small:
            least = min((c for c in candidates if c.size_bytes is not None), key=lambda c: c.size_bytes or 0)
            return (
                f"no plan is as small as the budget asks: the smallest, {least.name}, has {least.size_bytes:,} bytes of "
                f"weights and holds {least.peak_bytes:,} when it runs{exact}"
            )
        nearest = min(small, key=lambda c: c.drop if c.drop is not None else float("inf"))
        sure = ""
        if nearest.drop is not None and nearest.drop <= judge.limit:
            sure = (
                f"; {figure(SURE, 1)} standard errors, and what calls of the metric differ by, have to fit in as well"
            )
        return f"no plan keeps {allowed}: the nearest, {nearest.name}, has a drop of {_drop(nearest)}{sure}{exact}"
    lines = () if best.latency is None else best.latency.lines
    if best.verdict == "FAIL":
        said = "; ".join(f"{line.key} {line.reason}" for line in lines if line.verdict == "FAIL")
        others = [c for c in candidates if c.time_us < float("inf") and c.drop is not None]
        fastest = min(others, key=lambda c: c.time_us, default=best)
        beside = ""
        if fastest is not best and fastest.time_us < best.time_us:
            beside = (
                f" The fastest, {fastest.name}, takes {figure(fastest.time_us, 3)} us with a drop of {_drop(fastest)}."
            )
        return (
            f"the fastest plan that keeps {allowed}, {best.name}, takes {figure(best.time_us, 3)} us with a drop of "
            f"{_drop(best)}, which is over budget: {said}.{beside}"
        )
    open_lines = [line for line in lines if line.verdict == "UNDECIDED"]
    kept = f"{best.name}: {_times(best)}, a drop of {_drop(best)} of {figure(judge.limit, 3)} permitted"
    if best.staging is not None and best.staging.mean_us is not None and best.staging.alone_us is not None:
        mean, alone = (figure(us, 3) for us in (best.staging.mean_us, best.staging.alone_us))
        kept += f"; these are of the longest path: a call takes {mean} us on average, {alone} us without the exits"
    if open_lines:
        return kept + "; undecided: " + "; ".join(f"{line.key} {line.reason}" for line in open_lines)
    return kept + ("" if reference is None or reference.us is None else f"; float32 takes {figure(reference.us, 3)} us")


def _times(candidate: Candidate) -> str:
    lat = candidate.latency
    if lat is None:
        return f"{figure(candidate.time_us, 3)} us"
    keys = [key for key in (lat.budget.as_dict() if lat.budget else ()) if key in TIME_KEYS] or ["p50_us"]
    return ", ".join(f"{key.removesuffix('_us')} {figure(getattr(lat, key), 3)} us" for key in keys)


def _drop(candidate: Candidate) -> str:
    if candidate.drop is None:
        return "?"
    error = "" if candidate.drop_error is None else f" (standard error {candidate.drop_error:.1g})"
    return f"{figure(candidate.drop, 3)}{error}"
