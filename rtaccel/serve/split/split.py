"""`rt.split`: where to cut a model between two machines, and the two halves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rtaccel.convert.quantization.calibrate import as_args, batches_of
from rtaccel.core.errors import BudgetExceeded, FormatError, ShapeError, UnsupportedProblem
from rtaccel.core.scheme import SchemeLike
from rtaccel.measure.budget import Budget
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.compiler import compile
from rtaccel.serve.frames import wire_of
from rtaccel.serve.split import predict, probes
from rtaccel.serve.split.cut import Cut, Proof, error_of, halves_of
from rtaccel.serve.split.early import EarlyRun, Exits, asking_us, calls_of, exits_for, exits_of_calls, part_us
from rtaccel.serve.split.front import Row
from rtaccel.serve.split.halves import Crossing, crossings, whole_group
from rtaccel.serve.split.link import Link
from rtaccel.serve.split.machine_profile import MachineProfile
from rtaccel.serve.split.predict import Leaving

EXTRA_ERROR = 0.01
"""What the wire may add to the error where nobody set a limit."""

JUDGED = 16
"""Batches that an error is measured on."""

MAX_COMPARED = 256
"""Calls of the example's batch whose bits are compared."""


def split(
    model: nn.Module,
    example_inputs: Sequence[Any] | Tensor,
    link: Link,
    edge: str | MachineProfile = "here",
    remote: str | MachineProfile = "here",
    *,
    budget: Budget | None = None,
    metric: Callable[[Any], float] | None = None,
    wires: Sequence[str] = ("float32", "int8"),
    private: bool = False,
    scheme: SchemeLike = "float32",
    calibration: Any = None,
    threads: int = 1,
    exit: Any = None,
    test: Any = "confidence",
) -> Cut:
    """Cuts a model between this machine and another where a call takes least, and compiles both halves.

        us(k) = edge stages before k + frames + rtt + (bytes there + bytes back) / width + cloud stages from k

    with what losses add (`Link.expected_us`). Stages are measured here, where they stand, and carried over to the other machine
    by its profile. Every cut of the stages in their order is tried with every wire, both ends included. The best is run before it
    is given out.

    model: a module in eval mode, or a compiled model; it has to be one native plan on the CPU.
    example_inputs: of one call, float32 [batch, ...] or int64 [batch, ...]; times and bytes are those of its batch.
    edge, remote: "here", or the profile of a machine. A profile as `edge` plans for a machine that this one is not.
    budget: p50_us and p99_us of the predicted time, size_bytes of the weights on the edge, max_error (rms of the difference from
        the model over its rms), min_metric. Without max_error and min_metric a wire may add 0.01 to the error.
    metric: fn(callable) -> a number, larger is better; asked of the fastest cuts until one meets min_metric.
    wires: of float32 values: "float32" as they are, "int8" and "int4" in codes with a least value and a step for each row.
    private: no input leaves the edge, nor another form of one: a cut is excluded where nothing but copies, conversions and
        elementwise calls, without a matrix of weights, lies between an input and what is sent.
    scheme, calibration, threads: as in `rt.compile`. Errors are measured on the example and the first 16 batches of calibration.
    exit, test: of a model that gives a tuple of answers, float32 [batch, ...] of one shape, for each but the last a limit of
        `test` or an `rt.Exit`, as in `rt.Cascade`. A row gets the first answer whose test passes. The tests before a cut are
        asked on the edge, which ends there where every row has left. The share of calls that end is measured on the calibration
        data, taken in calls of the example's batch; times and bytes are means over all calls.

    Example:
        >>> import torch, rtaccel as rt
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 4), torch.nn.ReLU(), torch.nn.Linear(4, 64)).eval()
        >>> slow = rt.Link(rtt_us=100, mb_s=1)
        >>> cut = rt.split(model, (torch.randn(1, 64),), slow)  # both sides are like this machine
        >>> cut.best.wire_bytes  # all of this model is on the edge: the link costs more than the cloud gains
        0

    Raises BudgetExceeded, with the nearest cut, where none is within the budget; UnsupportedProblem for a model that is not one
    native plan; FormatError and ShapeError for arguments that do not fit.
    """
    _check(link, edge, remote, budget, metric, wires)
    args = tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,)
    fast = model if isinstance(model, CompiledModel) else _compiled(model, args, scheme, calibration, threads)
    group = whole_group("split", fast)
    exits, leaving = None, None
    lead = tuple(pytree.tree_leaves(args)[0].shape[: group.inputs[0].lead])
    judged, calls = _judged(args, group.inputs[0].lead, calibration), []
    whole: Callable[..., Any] = model
    if exit is not None:
        fast, exits = exits_for(fast, exit, test)
        calls, whole = calls_of(judged[1:], lead[0]), exits.of(model)
        leaving = leaving_of(fast, exits, calls, args)
    answers = _Answers(fast, exits, judged, calls)
    with torch.no_grad():
        answers.expected = [_copied(whole(*batch)) for batch in judged]
    base = answers.error(answers.of(fast))
    cuts = crossings(whole_group("split", fast))
    here_us = probes.stages_of_a_call_us(fast, args)
    # A remote waits for its requests. The edge has just made its inputs, and is taken to be awake.
    slowed = 1.0 + probes.rested_us(fast, args) / max(sum(here_us), 1e-3)
    rested = [us * slowed for us in here_us]
    sides = (edge, here_us), (remote, rested)
    rows = predict.rows(fast, cuts, lead, link, sides, tuple(dict.fromkeys(wires)), private, leaving)
    _measure_errors(answers, rows, cuts, base)
    limits = {} if budget is None else budget.as_dict()
    best = _chosen(answers, rows, cuts, limits, metric, base, link)
    return _proved(answers, best, rows, cuts, link, lead)


def leaving_of(fast: CompiledModel, exits: Exits, calls: list[tuple[Any, ...]], args: tuple[Any, ...]) -> Leaving:
    """Measures early exits: where calls of the calibration data leave, and what asking takes."""
    asking = asking_us(fast, exits, args)
    edge = halves_of(fast, crossings(whole_group("split", fast))[-1], exits).edge
    return Leaving(exits, tuple(exits_of_calls(fast, exits, calls)), tuple(asking), part_us(edge, args, asking))


@dataclass
class _Answers:
    """A model and what it is judged by. expected: what the module gives for each batch of `judged`. calls: of the example's
    batch, for early exits."""

    fast: CompiledModel
    exits: Exits | None
    judged: list[tuple[Any, ...]]
    calls: list[tuple[Any, ...]]
    expected: list[Any] = field(default_factory=list)

    def of(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """What a compiled model gives, or of its answers the one that each row gets."""
        return call if self.exits is None else self.exits.of(call)

    def error(self, call: Callable[..., Any]) -> float:
        return error_of([(call(*batch), want) for batch, want in zip(self.judged, self.expected)])

    def cut(self, crossing: Crossing, row: Row, link: Link) -> Cut:
        """For its numbers alone."""
        halves = halves_of(self.fast, crossing, self.exits)
        return Cut(halves, row, (), link, self.fast, digest=bytes(32), exits=self.exits)


def _check(link: Any, edge: Any, remote: Any, budget: Any, metric: Any, wires: Any) -> None:
    if not isinstance(link, Link):
        raise FormatError("split", f"link={link!r}", "an rt.Link", "rt.Link(rtt_us=200, mb_s=10)")
    for name, side in (("edge", edge), ("remote", remote)):
        if side != "here" and not isinstance(side, MachineProfile):
            raise FormatError(
                "split", f"{name}={side!r}", "'here' or an rt.MachineProfile", "rt.MachineProfile.load(path)"
            )
    if budget is not None:
        if not isinstance(budget, Budget):
            raise FormatError("split", f"budget={budget!r}", "an rt.Budget", "rt.Budget(p50_us=500)")
        known = {"p50_us", "p99_us", "size_bytes", "max_error", "min_metric"}
        odd = sorted(set(budget.as_dict()) - known)
        if odd:
            raise FormatError(
                "split", f"a budget with {', '.join(odd)}", ", ".join(sorted(known)), "Leave the others out."
            )
        if budget.min_metric is not None and metric is None:
            raise FormatError("split", "min_metric without a metric", "metric=fn", "Pass the metric that it limits.")
    if metric is not None and (not callable(metric) or isinstance(metric, nn.Module)):
        raise FormatError("split", f"metric={metric!r}", "a function fn(model) -> float", "Pass the function itself.")
    if isinstance(wires, str) or not isinstance(wires, Iterable) or not list(wires):
        raise FormatError("split", f"wires={wires!r}", "a list of names", 'wires=("float32", "int8")')
    for wire in wires:
        wire_of(wire)


def _compiled(model: Any, args: tuple[Any, ...], scheme: SchemeLike, calibration: Any, threads: int) -> CompiledModel:
    fast = compile(model, args, scheme, calibration=calibration, threads=threads)
    if not isinstance(fast, CompiledModel):
        whole_group("split", fast)
        raise AssertionError("it raises for every other model")
    return fast


def _judged(args: tuple[Any, ...], lead: int, calibration: Any) -> list[tuple[Any, ...]]:
    """The example and the first batches of calibration, each checked. lead: dimensions of the batch."""
    batches = () if calibration is None else batches_of("split", calibration)
    judged = [args, *(tuple(as_args(batch)) for _, batch in zip(range(JUDGED), batches))]
    wanted = pytree.tree_leaves(args)
    for i, batch in enumerate(judged):
        name, leaves = f"batch {i - 1} of calibration" if i else "the example", pytree.tree_leaves(batch)
        like = len(leaves) == len(wanted) and all(
            isinstance(x, Tensor) and x.dtype == w.dtype and x.shape[lead:] == w.shape[lead:] and x.dim() == w.dim()
            for x, w in zip(leaves, wanted)
        )
        if not like:
            expected = ", ".join(f"{w.dtype}[batch, {', '.join(map(str, w.shape[lead:]))}]" for w in wanted)
            got = ", ".join(f"{x.dtype}{list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__ for x in leaves)
            raise ShapeError("split", f"{name} of {got}", expected, "Pass arguments of the model.")
        if not all(bool(x.isfinite().all()) for x in leaves):
            raise FormatError("split", f"{name} with numbers that are not finite", "finite ones", "Leave them out.")
    return judged


def _copied(tree: Any) -> Any:
    return pytree.tree_map(lambda t: t.detach().clone() if isinstance(t, Tensor) else t, tree)


def _measure_errors(answers: _Answers, rows: list[Row], cuts: Sequence[Crossing], base: float) -> None:
    """Runs every cut with every wire that changes numbers; a wire of copies has the error of the model itself."""
    for row in rows:
        if row.why_not:
            continue
        row.error = base
        if row.scheme in ("int8", "int4") and any(p.value.dtype == "float32" for p in cuts[row.at].ports):
            row.error = answers.error(answers.cut(cuts[row.at], row, Link(0)))


def _chosen(
    answers: _Answers,
    rows: list[Row],
    cuts: Sequence[Crossing],
    limits: dict[str, float],
    metric: Callable[[Any], float] | None,
    base: float,
    link: Link,
) -> Row:
    most = limits.get("max_error", math.inf if "min_metric" in limits else base + EXTRA_ERROR)
    for row in rows:
        if row.why_not:
            continue
        over = [
            f"{name} {value:.3g} over {limit:.3g}"
            for name, value, limit in (
                ("us", row.us, limits.get("p50_us", math.inf)), ("p99", row.p99_us, limits.get("p99_us", math.inf)),
                ("bytes on the edge", row.edge_bytes, limits.get("size_bytes", math.inf)),
                ("error", math.inf if row.error is None else row.error, most),
            )
            if value > limit
        ]  # fmt: skip
        row.why_not = "; ".join(over)
    for row in sorted(rows, key=lambda r: (r.us, r.wire_bytes, r.at)):
        if row.why_not:
            continue
        if metric is not None:
            value = metric(answers.cut(cuts[row.at], row, link))
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise FormatError("split", f"a metric of {value!r}", "a finite number", "Return a float.")
            row.metric = float(value)
            if row.metric < limits.get("min_metric", -math.inf):
                row.why_not = f"metric {row.metric:.4g} under {limits['min_metric']:.4g}"
                continue
        return row
    possible = [row for row in rows if row.wire_bytes or row.scheme == "none"]
    nearest = min(possible, key=lambda r: r.us, default=None)
    if nearest is None:
        raise UnsupportedProblem("split", "no cut that can be sent", "values that a frame takes", rows[0].why_not)
    raise BudgetExceeded(
        "split", f"no cut within the budget; the fastest is {nearest.at} ({nearest.why_not})",
        ", ".join(f"{k}={v:g}" for k, v in limits.items()) or f"an error up to {most:.3g}", "Loosen it, or allow more wires.",
    )  # fmt: skip


def _proved(
    answers: _Answers, best: Row, rows: list[Row], cuts: Sequence[Crossing], link: Link, lead: tuple[int, ...]
) -> Cut:
    """Compiles the halves of the best and runs them."""
    fast, judged = answers.fast, answers.judged
    halves = halves_of(fast, cuts[best.at], answers.exits)
    cut = Cut(halves, best, sorted(rows, key=lambda r: r.us), link, fast, lead, exits=answers.exits)
    found = [_copied(cut(*batch)) for batch in judged]
    whole = answers.of(fast)
    # Sums of a larger batch may have another order in a half, whose plan takes other blocks of it.
    equal = all(
        torch.equal(a, b)
        for call in (calls_of(judged, lead[0])[:MAX_COMPARED] if lead else judged)
        for a, b in zip(pytree.tree_leaves(cut(*call)), pytree.tree_leaves(whole(*call)))
    )
    if best.scheme in ("float32", "none") and not equal:
        raise ShapeError(
            "split",
            "halves that do not give the model's bits",
            "the same bits with exact wires",
            "Please report this model.",
        )
    edge, cloud = cut.edge, cut.cloud
    made = () if edge is None else edge(*judged[0])
    sent = halves.crossing_values(pytree.tree_leaves(judged[0]), made)
    edge_us = 0.0 if edge is None else probes.least_us(lambda: edge(*judged[0]))
    cloud_us = 0.0 if cloud is None else probes.least_us(lambda: cloud(*sent))
    runs = [cut.before(call) for call in answers.calls]
    sent_bytes = best.wire_bytes * (sum(sent is not None for sent, _ in runs) / len(runs) if runs else 1.0)
    exits = sum(isinstance(run, EarlyRun) and run.sure for _, run in runs) / max(1, len(runs))
    found_error = error_of(list(zip(found, answers.expected)))
    cut.proof = Proof(found_error, equal, edge_us, cloud_us, exits, sent_bytes)
    return cut
