"""Candidates: plans that were predicted, judged by the metric, and timed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rtaccel.core.scheme import Scheme
from rtaccel.measure.result import Latency
from rtaccel.search.cascade.staging_record import Staging
from rtaccel.search.knapsack import Plan

MAX_KINDS = 4
"""Kinds of layers that a candidate's name tells."""


@dataclass
class Candidate:
    """One way to compute the model.

    plan: the option of each layer, by number.
    scheme: of each layer, as `rt.compile` takes it.
    predicted_us: typical time of a call bound to its tensors.
    predicted_drop: of the metric.
    us: the time, measured; None where it was not.
    drop: of the metric, measured; None where it was not.
    drop_error: standard error of the drop over other data like the metric's; None where it is not known.
    error: of the outputs on calibration data, rms of the difference over rms.
    size_bytes: of weights and scales.
    peak_bytes: of packed weights, scratch and states of the native plans.
    joules: of a call, measured or, where `joules_modeled`, computed from a model.
    latency: of `rt.measure`, with the verdict on the budget.
    keeps: whether the drop is within its limit, with what is known of its error; None where it was not judged.
    fits: whether its bytes are within the budget.
    reference: whether it is the model as it is, with every layer in its first option.
    staging: of a plan that leaves early: its stages and exits. `plan` and `scheme` are then those of the last stage, the times
        the mean over the calibration data, and `latency` that of the longest path.
    """

    plan: Plan
    scheme: Mapping[str, Scheme]
    predicted_us: float | None = None
    predicted_drop: float | None = None
    us: float | None = None
    drop: float | None = None
    drop_error: float | None = None
    error: float | None = None
    size_bytes: int | None = None
    peak_bytes: int | None = None
    joules: float | None = None
    joules_modeled: bool = False
    latency: Latency | None = None
    keeps: bool | None = None
    fits: bool = True
    reference: bool = field(default=False, repr=False)
    staging: Staging | None = None

    @property
    def verdict(self) -> str | None:
        """On the whole budget, and on the drop; None where it was not measured."""
        if self.latency is None or self.latency.verdict is None:
            return None
        return self.latency.verdict if self.keeps and self.fits else "FAIL"

    @property
    def time_us(self) -> float:
        """Measured, or else predicted."""
        found = self.us if self.us is not None else self.predicted_us
        return float("inf") if found is None else found

    @property
    def name(self) -> str:
        """In a few words: the scheme of all layers, or how many have which; of an early exit the stages."""
        if self.staging is not None:
            left = 1 - self.staging.shares[-1]
            return f"{' -> '.join(self.staging.names)} ({left:.0%} leave early)"
        counts: dict[str, int] = {}
        for scheme in self.scheme.values():
            counts[str(scheme)] = counts.get(str(scheme), 0) + 1
        if len(counts) == 1:
            return f"all {next(iter(counts))}"
        most = sorted(counts.items(), key=lambda item: -item[1])
        left = sum(n for _, n in most[MAX_KINDS:])
        return ", ".join([*(f"{n} {s}" for s, n in most[:MAX_KINDS]), *([f"{left} others"] if left else [])])

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        lat = self.latency
        return {
            "name": self.name,
            "scheme": {name: str(scheme) for name, scheme in self.scheme.items()},
            "predicted_us": self.predicted_us, "us": self.us,
            "predicted_drop": self.predicted_drop, "drop": self.drop, "drop_error": self.drop_error,
            "error": self.error, "size_bytes": self.size_bytes, "peak_bytes": self.peak_bytes,
            "joules": self.joules, "joules_modeled": self.joules_modeled,
            "keeps_drop": self.keeps, "fits_memory": self.fits, "verdict": self.verdict,
            "early_exit": None if self.staging is None else self.staging.to_dict(),
            "latency": None if lat is None else {
                "p50_us": lat.p50_us, "p99_us": lat.p99_us, "p999_us": lat.p999_us, "max_us": lat.max_us, "n": lat.n,
                "lines": [{"key": x.key, "limit": x.limit, "verdict": x.verdict, "reason": x.reason} for x in lat.lines],
            },
        }  # fmt: skip


def pareto(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Those that no other beats in time and drop, of those that were judged; in the order of time."""
    judged = [c for c in candidates if c.drop is not None]
    found: list[Candidate] = []
    for c in sorted(judged, key=lambda c: (c.time_us, c.drop or 0.0)):
        if not found or (c.drop or 0.0) < (found[-1].drop or 0.0):
            found.append(c)
    return found
