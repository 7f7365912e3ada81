"""`fit_budget`: a scheme for each layer that keeps a budget and a metric, found and proved in a given time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rtaccel.convert.frontend.batches import batches_of
from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.core.log import log
from rtaccel.core.settings import keeps_stage_times
from rtaccel.measure.budget import Budget
from rtaccel.measure.numbers import is_finite, shown
from rtaccel.runtime.foreign import as_tensors
from rtaccel.search.cascade.early_exit import EarlyExit, is_stage, split_off, variants_of
from rtaccel.search.cascade.staging import Stager
from rtaccel.search.clock import Clock
from rtaccel.search.cost_model import CostModel
from rtaccel.search.cost_table import CostTable, cache_file
from rtaccel.search.fit import Fit, summarized
from rtaccel.search.front import pareto
from rtaccel.search.judge import Judge
from rtaccel.search.metric import Metric, Relative
from rtaccel.search.options import DEFAULT, OP, layers_of, parse_options
from rtaccel.search.planner import Planner, Told
from rtaccel.search.sensitivity import Losses
from rtaccel.search.workbench import Outputs, Workbench


def fit_budget(
    model: nn.Module,
    example_inputs: Sequence[Any] | Tensor,
    budget: Budget,
    calibration: Any = None,
    *,
    metric: Any,
    max_drop: float | Relative,
    options: Sequence[Any] = DEFAULT,
    keep: Mapping[str, Any] | None = None,
    seconds: float = 60.0,
    seed: int = 0,
    progress: Told | None = None,
) -> Fit:
    """Finds the fastest way to compute a model that keeps a budget and a task metric, layer by layer, and proves it.

    model, example_inputs: as `rt.compile` takes them, float32 [batch, ...] or int64 indices. The time is that of a call with
        the example's batch, bound to its tensors (`fast.bind`), on one thread of this machine.
    budget: what must be kept: latencies, bytes, joules (`rt.Budget`).
    calibration: batches of real inputs for int8 scales, int4 rounding, pruning and low rank, as `rt.compile` takes them; not
        those that the metric judges. None: int8 takes a scale per row.
    metric: fn(model) -> float, larger is better. It calls the model that it is given on data of its own.
    max_drop: by how much the metric may be below that of float32; `rt.Relative(0.01)`: 1 % of it.
    options: what a layer may become: schemes or their names, patterns of sparsity, `rt.LowRank`. Patterns and ranks are
        combined with the schemes beside them. float32 is always among them. "w4a8" and "w4a16" by name are rounded by GPTQ
        where there is calibration data. `rt.EarlyExit` lets the plan be a cascade, judged by its longest path.
    keep: module-name pattern -> scheme of layers that are not to be chosen for.
    seconds: of wall clock, for everything. What was verified best is returned when they are over, and after Ctrl-C.
    seed: of the parts that the metric's data are dealt to.
    progress: called after each step with (phase, steps done, steps in all, the candidates so far that no other beats).

    How: the model is exported once. Each option of each layer is tried alone, in a plan of the whole model with the real
    kernels. Stages are timed alone, all in turn, the least counts; times are kept for this processor, instruction set and version
    ($RTACCEL_STAGE_TIMES). A multiple-choice knapsack with costs between neighbors gives the front. Plans of it are judged by
    the metric; the fastest three that keep the drop are measured with `rt.measure`. A drop counts as kept where four standard
    errors of it fit below the limit too, for the metric's data are a sample.

    Returns a `Fit`. Raises FormatError for arguments that make no sense (a metric that is constant, NaN or no function of a
    model; one calibration sample; unknown names), UnsupportedProblem for a model that cannot be captured or has no layer for
    any option, and what the metric raises.

    >>> import torch, rtaccel as rt
    >>> model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4)).eval()
    >>> x = torch.randn(256, 32); y = model(x).detach()
    >>> def metric(m):
    ...     return -float((m(x) - y).square().mean().sqrt() / y.square().mean().sqrt())
    >>> batches = [torch.randn(256, 32)]
    >>> fit = rt.fit_budget(model, x[:1], rt.Budget(p50_us=1000), batches, metric=metric, max_drop=0.05, seconds=20)
    >>> fit.verdict
    'PASS'
    """
    if not isinstance(model, nn.Module):
        got = f"model of type {type(model).__name__}"
        raise UnsupportedProblem(OP, got, "a torch.nn.Module", "Wrap the function in a module's forward.")
    if progress is not None and not callable(progress):
        raise FormatError(
            OP, f"progress={progress!r:.80}", "a function of four arguments", "See the description of it."
        )
    clock = Clock(_check(budget, max_drop, seconds, seed))
    batches = _batches(calibration)
    notes: list[str] = []
    early, options = split_off(options)
    schemes = parse_options(options, batches is not None)
    if early is not None and batches is None:
        raise FormatError(
            OP,
            "rt.EarlyExit without calibration data",
            "calibration=: the limits lie between scores on it",
            "Pass some.",
        )
    told: Told = progress or (lambda *_: None)
    told("export", 0, 1, ())
    judged = Metric(metric, model, seed)
    limit = max_drop.of(judged.value) if isinstance(max_drop, Relative) else float(max_drop)
    if judged.resolution > limit:
        notes.append(
            f"two calls of the metric differ by {judged.resolution:.3g}, more than the drop permitted: nothing can be proved"
        )
    if batches is not None and judged.sees(batches):
        notes.append("the metric judges the calibration data: what it finds is better than on other data")
    bench = Workbench(model, example_inputs, batches)
    layers = layers_of(bench.graph, schemes, keep, notes)
    if all(len(layer.options) == 1 for layer in layers) and len(schemes) > 1:
        unusable = "; ".join(notes) or "every layer is kept"
        raise UnsupportedProblem(OP, f"no layer with a choice: {unusable}", "an option with a kernel", "See the list.")
    told("export", 1, 1, ())
    table = CostTable(bench.rows, cache_file() if keeps_stage_times() else None)
    costs = CostModel(bench, layers, table)
    outputs = Outputs(bench.exact, bench.batches())
    judge = Judge(costs, judged, outputs, limit, budget, clock)
    losses = Losses(
        costs, judged, outputs, lambda done, of: told("sensitivity", done, of, pareto(judge.found.values()))
    )
    stager = None if early is None else _stager(early, costs, judge, schemes, batches or [], notes)
    planner = Planner(costs, losses, judge, budget, clock, told, stager)
    planner.run()
    notes += judge.notes
    log.info("fit_budget: %d plans judged in %.1f s", len(judge.found), clock.spent)
    return summarized(planner.found, judge, losses, costs, judged, budget, clock, notes)


def _stager(
    early: EarlyExit, costs: CostModel, judge: Judge, schemes: Sequence[Any], batches: list[Any], notes: list[str]
) -> Stager | None:
    """None, with a note, where the model is none that a cascade can have as a stage."""
    why = is_stage(costs.bench)
    rows = [b[0] if isinstance(b, (tuple, list)) else b for b in batches]
    if why is not None:
        notes.append(f"no early exit: {why}")
        return None
    variants = variants_of(early, costs.bench, schemes)
    return Stager(early, variants, costs, judge, torch.cat([as_tensors(OP, (b,))[0] for b in rows]))


def _check(budget: Any, max_drop: Any, seconds: Any, seed: Any) -> float:
    if not isinstance(budget, Budget):
        got = f"budget of type {type(budget).__name__}"
        raise FormatError(OP, got, "a Budget", "Pass rt.Budget(p99_us=50), for example.")
    if not isinstance(max_drop, Relative) and not (is_finite(max_drop) and max_drop >= 0):
        got = f"max_drop={shown(max_drop)}"
        raise FormatError(
            OP, got, "a finite number, 0 or above, or rt.Relative(0.01)", "Larger is better: a drop is positive."
        )
    if not (is_finite(seconds) and 0 < seconds <= 7 * 86_400):
        raise FormatError(OP, f"seconds={shown(seconds)}", "a positive number of seconds", "60 suits small models.")
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise FormatError(OP, f"seed={seed!r}", "a whole number, 0 or above", "Pass 0.")
    return float(seconds)


def _batches(calibration: Any) -> list[Any] | None:
    """The batches in a list. Raises FormatError for a single sample, which shows no range."""
    if calibration is None:
        return None
    batches = list(batches_of(OP, calibration))
    rows = 0
    for batch in batches:
        tensors = [t for t in (batch if isinstance(batch, (tuple, list)) else (batch,)) if isinstance(t, Tensor)]
        rows += max((len(t) for t in tensors if t.dim()), default=1)
    if rows < 2:
        raise FormatError(
            OP, f"{rows} calibration sample{'s' * (rows != 1)}", "a few hundred, as the model will see them",
            "Pass more batches, or leave calibration= out for int8 with a scale per row.",
        )  # fmt: skip
    return batches
