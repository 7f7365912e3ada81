"""The verdict: a latency, a loss of detection quality and the exact outputs, each judged on the calls that were timed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rtaccel.cli._demo.auroc import auroc
from rtaccel.cli._demo.contestants import JUDGED, Field
from rtaccel.cli._demo.data import Recording
from rtaccel.cli._demo.train import scores
from rtaccel.measure.budget import Budget
from rtaccel.measure.interleave import Interleaved, Ratio
from rtaccel.measure.machine.environment import environment
from rtaccel.measure.numbers import figure
from rtaccel.measure.result import Latency
from rtaccel.measure.verdict import Line, judge_exact, overall

REFERENCE = "torch eager"

DIFFERING = "differing_outputs"
"""Key of the line that compares the int8 outputs with the plain-torch kernels."""


@dataclass(frozen=True)
class Outcome:
    """results: one per contestant, in its order; only the judged one has a budget. aurocs: by name, from the timed call.

    times_torch: by name, how many times as fast as torch eager, from ratios within rounds. outputs: numbers compared.
    """

    recording: Recording
    widths: tuple[int, ...]
    loss: float
    results: tuple[Latency, ...]
    aurocs: Mapping[str, float]
    times_torch: Mapping[str, Ratio]
    outputs: int
    kernels: Mapping[str, int]
    left_out: tuple[str, ...]

    @property
    def judged(self) -> Latency:
        return next(result for result in self.results if result.name == JUDGED)

    @property
    def passed(self) -> bool:
        return self.judged.verdict == "PASS"

    @property
    def auroc_drop(self) -> float:
        return drop(self.aurocs)


def drop(aurocs: Mapping[str, float]) -> float:
    """What int8 loses against torch; 0 where it gains. NaN stays NaN, and a NaN is judged as a failure."""
    lost = aurocs[REFERENCE] - aurocs[JUDGED]
    return 0.0 if lost < 0 else lost


def judge_field(
    field: Field, recording: Recording, measured: Interleaved, budget: Budget
) -> tuple[tuple[Latency, ...], dict[str, float]]:
    """Latencies with the verdict of the judged one, and AUROC by name. budget.max_error limits the drop of AUROC."""
    outputs = {c.name: c.outputs(recording.windows) for c in field.contestants}
    aurocs = {
        name: auroc(scores(found, recording.windows).numpy(), recording.anomalous) for name, found in outputs.items()
    }
    record = environment()
    results = []
    for contestant in field.contestants:
        judging: dict[str, Any] = {}
        if contestant.name == JUDGED:
            judging = {"budget": budget, "error": drop(aurocs)}
        result = Latency.from_samples(
            measured.samples_us[contestant.name].ravel() * 1e3,
            name=contestant.name,
            timer_ns=measured.timer_ns,
            size_bytes=contestant.size_bytes,
            record=record,
            **judging,
        )
        if contestant.name == JUDGED:
            lines = (*result.lines, exactness(outputs[JUDGED], field.expected))
            result = replace(result, lines=lines, verdict=overall(lines))
        results.append(result)
    return tuple(results), aurocs


def exactness(outputs: Tensor, expected: Tensor) -> Line:
    """Integer sums have one right answer: every output must equal the plain-torch kernels' bit for bit. NaN differs."""
    differing = int(torch.count_nonzero(~(outputs == expected)))
    line = judge_exact(DIFFERING, 0, differing, "outputs")
    reason = f"{differing:,} of {expected.numel():,} int8 network outputs differ from the plain-torch kernels"
    return replace(line, reason=reason)


def proven(outcome: Outcome) -> list[str]:
    """What was shown, a sentence per limit, the verdict first."""
    result = outcome.judged
    budget = result.budget.as_dict() if result.budget else {}
    low, high = outcome.aurocs[REFERENCE], outcome.aurocs[JUDGED]
    quality = f"AUROC {low:.4f} in float32 and {high:.4f} in int8, a drop of {outcome.auroc_drop:.4f}"
    texts = []
    for line in result.lines:
        if line.key == "p99_us" and line.verdict == "PASS" and line.high is not None:
            most, limit = figure(line.high, 3), figure(line.limit)
            text = f"p99 of {result.n:,} calls is at most {most} us (99 % confidence), budget {limit} us"
        elif line.key == "p99_us":
            text = f"p99 of {result.n:,} calls, {figure(line.value or 0.0, 3)} us, budget {figure(line.limit)} us: {line.reason}"
        elif line.key == "max_error":
            text = f"{quality}; {budget['max_error']:g} is allowed"
        elif line.verdict == "PASS":
            text = f"all {outcome.outputs:,} int8 network outputs equal the plain-torch kernels' bit for bit"
        else:
            text = line.reason
        texts.append(f"{line.verdict}: {text}")
    return texts
