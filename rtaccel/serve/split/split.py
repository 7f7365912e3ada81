"""`rt.split`: where to cut a model between two machines, and the two halves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache
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
from rtaccel.serve.split import passage, probes
from rtaccel.serve.split.cut import Cut, Proof, error_of
from rtaccel.serve.split.front import Row
from rtaccel.serve.split.halves import Crossing, Halves, crossings, halved, whole_group
from rtaccel.serve.split.link import Link
from rtaccel.serve.split.machine_profile import MachineProfile

EXTRA_ERROR = 0.01
"""What the wire may add to the error where nobody set a limit."""

JUDGED = 16
"""Batches that an error is measured on."""


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
    judged = _judged(args, calibration)
    with torch.no_grad():
        expected = [_copied(model(*batch)) for batch in judged]
        base = error_of([(fast(*batch), want) for batch, want in zip(judged, expected)])
    lead = tuple(pytree.tree_leaves(args)[0].shape[: group.inputs[0].lead])
    here_us = probes.stage_us(fast, args)
    times = _times(fast, here_us, edge), _times(fast, here_us, remote)
    rows, cuts = _rows(fast, crossings(group), lead, link, (edge, remote), times, tuple(dict.fromkeys(wires)), private)
    _measure_errors(fast, rows, cuts, lead, judged, expected, base)
    limits = {} if budget is None else budget.as_dict()
    best = _chosen(fast, rows, cuts, limits, metric, base, link)
    return _proved(fast, best, rows, cuts, link, lead, judged, expected)


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


def _judged(args: tuple[Any, ...], calibration: Any) -> list[tuple[Any, ...]]:
    if calibration is None:
        return [args]
    return [args, *(tuple(as_args(batch)) for _, batch in zip(range(JUDGED), batches_of("split", calibration)))]


def _copied(tree: Any) -> Any:
    return pytree.tree_map(lambda t: t.detach().clone() if isinstance(t, Tensor) else t, tree)


@cache
def _here() -> MachineProfile:
    return MachineProfile.here()


def _times(fast: CompiledModel, here_us: list[float], side: str | MachineProfile) -> list[float]:
    """Microseconds of each stage on one side. The probes of this machine are measured once, where they are needed."""
    if side == "here" or isinstance(side, str):
        return here_us
    found = []
    for stage, us in zip(probes.stages_of(fast), here_us):
        key = probes.key_of(stage, fast._options.batch_size)
        known = key in side.stages or not side.probes
        found.append(side.us(probes.kind_of(stage), key, us, side if known else _reference(side)))
    return found


def _reference(side: MachineProfile) -> MachineProfile:
    """This machine, to compare another with; a profile of this very machine is its own."""
    from rtaccel.search.cost_table import machine

    return _here() if dict(side.machine) != machine() else MachineProfile(**{**vars(side), "factor": 1.0})


def _rows(
    fast: CompiledModel,
    cuts: list[Crossing],
    lead: tuple[int, ...],
    link: Link,
    sides: tuple[str | MachineProfile, str | MachineProfile],
    times: tuple[list[float], list[float]],
    wires: Sequence[str],
    private: bool,
) -> tuple[list[Row], dict[int, Crossing]]:
    group, stages = whole_group("split", fast), probes.stages_of(fast)
    edge, cloud = (_overhead(side) for side in sides)
    weights = [sum(t.numel() * t.element_size() for t in stage.tensors.values()) for stage in stages]
    rows = []
    for cut in cuts:
        at = cut.at
        down = [p for p in group.outputs if p.value.name not in cut.kept]
        edge_us = sum(times[0][:at]) + (edge.call_us * edge.factor if at else 0.0)
        cloud_us = sum(times[1][at:]) + (cloud.call_us * cloud.factor if at < len(stages) else 0.0)
        after = stages[at - 1].name if at else ""
        shared: dict[str, Any] = {
            "at": at,
            "after": after,
            "edge_us": edge_us,
            "cloud_us": cloud_us,
            "edge_bytes": sum(weights[:at]),
        }
        if at == len(stages):
            rows.append(
                Row(
                    **shared,
                    scheme="none",
                    us=edge_us,
                    p99_us=edge_us,
                    wire_bytes=0,
                    answer_bytes=0,
                    link_us=0.0,
                    tensors=0,
                )
            )
            continue
        floats = any(p.value.dtype == "float32" for p in cut.ports)
        why = passage.refusal(cut.ports, lead) or passage.refusal(down, lead)
        if private and cut.raw:
            why = f"sends an input ({', '.join(cut.raw)})"
        for wire in wires if floats else wires[:1]:
            ends = passage.numbers(cut.ports, lead), passage.numbers(down, lead)
            frames = sum(side.frame(wire, ends[0]) + side.frame("float32", ends[1]) for side in (edge, cloud))
            up_bytes = 0 if why else passage.frame_bytes(cut.ports, lead, wire)
            down_bytes = 0 if why else passage.frame_bytes(down, lead, "float32")
            largest = max(up_bytes, down_bytes)
            large = link.most_bytes is not None and largest > link.most_bytes
            reason = why or (f"a frame of {largest} bytes over {link.most_bytes}" if large else "")
            link_us = frames + link.us(up_bytes, down_bytes)
            whole = edge_us + link_us + cloud_us
            rows.append(
                Row(
                    **shared, scheme=wire, link_us=link_us, wire_bytes=up_bytes, answer_bytes=down_bytes,
                    us=link.expected_us(whole, up_bytes, down_bytes),
                    p99_us=link.percentile_us(0.99, whole, up_bytes, down_bytes),
                    tensors=len(cut.ports), raw=bool(cut.raw), why_not=reason,
                )
            )  # fmt: skip
    return rows, {cut.at: cut for cut in cuts}


@cache
def _here_overhead() -> MachineProfile:
    return MachineProfile({}, {}, {}, probes.call_us(), probes.frame_us())


def _overhead(side: str | MachineProfile) -> MachineProfile:
    """Of calls and frames, which need no probes."""
    return _here_overhead() if isinstance(side, str) else side


def _measure_errors(
    fast: CompiledModel,
    rows: list[Row],
    cuts: dict[int, Crossing],
    lead: tuple[int, ...],
    judged: list[tuple[Any, ...]],
    expected: list[Any],
    base: float,
) -> None:
    """Runs every cut with every wire that changes numbers; a wire of copies has the error of the model itself."""
    for at in sorted({row.at for row in rows}):
        own = [row for row in rows if row.at == at and not row.why_not]
        coded = [row for row in own if row.scheme in ("int8", "int4")]
        for row in own:
            row.error = base
        if not any(p.value.dtype == "float32" for p in cuts[at].ports) or not coded:
            continue
        halves = halved(fast, cuts[at])
        for row in coded:
            cut = Cut(halves, row, (), Link(0), fast, digest=bytes(32))
            row.error = error_of([(cut(*batch), want) for batch, want in zip(judged, expected)])


def _chosen(
    fast: CompiledModel,
    rows: list[Row],
    cuts: dict[int, Crossing],
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
            cut = Cut(halved(fast, cuts[row.at]), row, (), link, fast, digest=bytes(32))
            value = metric(cut)
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
    fast: CompiledModel,
    best: Row,
    rows: list[Row],
    cuts: dict[int, Crossing],
    link: Link,
    lead: tuple[int, ...],
    judged: list[tuple[Any, ...]],
    expected: list[Any],
) -> Cut:
    """Compiles the halves of the best and runs them."""
    halves: Halves = halved(fast, cuts[best.at])
    cut = Cut(halves, best, sorted(rows, key=lambda r: r.us), link, fast, lead)
    found = [(cut(*batch), want) for batch, want in zip(judged, expected)]
    pairs = zip(found, judged)
    equal = all(
        torch.equal(a, b)
        for (mine, _), batch in pairs
        for a, b in zip(pytree.tree_leaves(mine), pytree.tree_leaves(fast(*batch)))
    )
    if best.scheme in ("float32", "none") and not equal:
        raise ShapeError(
            "split",
            "halves that do not give the model's bits",
            "the same bits with exact wires",
            "Please report this model.",
        )
    sent, _ = cut.before(judged[0])
    edge_us = 0.0 if cut.edge is None else probes.least_us(lambda: cut.edge(*judged[0]))  # type: ignore[misc]
    cloud = cut.cloud
    cloud_us = 0.0 if cloud is None else probes.least_us(lambda: cloud(*sent))
    cut.proof = Proof(error_of(found), equal, edge_us, cloud_us)
    return cut
