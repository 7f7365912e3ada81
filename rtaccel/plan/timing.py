"""How long one stage takes alone, on random inputs: a guide for `explain()`, not a measurement for a budget."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from rtaccel.core.registry import operator, whole_input
from rtaccel.core.stage import GraphIO, Stage, Value
from rtaccel.plan.choose import Choice

ROUNDS = 9
ROUND_NS = 200_000
MAX_CALLS = 5_000
MAX_TENSORS = 128
"""Inputs of a plan: a stage may read more, as that which puts the results of all time steps together."""
WHOLE = frozenset({"int64", "int32", "int16", "uint8", "bool"})
"""Dtypes of inputs that are fed one number: an index of every table, where the operator says no other."""


def random_inputs(stage: Stage, rows: int, device: str) -> tuple[Tensor, ...]:
    """What a stage may be fed: [rows, *value.shape] of each dtype."""
    given = tuple(_random_input(value, rows, device, whole_input(stage)) for value in stage.inputs)
    feed = operator(stage.op).feed
    return given if feed is None else feed(stage, given)


def _random_input(value: Value, rows: int, device: str, whole: int) -> Tensor:
    if value.dtype in WHOLE:
        return torch.full((rows, *value.shape), whole, dtype=getattr(torch, value.dtype), device=device)
    if value.dtype == "int8":
        return torch.randint(-127, 128, (rows, *value.shape), dtype=torch.int8, device=device)
    return (torch.rand(rows, *value.shape, device=device) + 0.01).to(getattr(torch, value.dtype))


def time_stage(choice: Choice) -> float:
    """Us of the stage, on random inputs. On the CPU by the processor's counter, around the stage alone; elsewhere the median
    over rounds of the mean time of a call from Python, which is included."""
    with torch.device(choice.problem.device):  # whatever the caller's default device is
        return _time_stage(choice)


def _time_stage(choice: Choice) -> float:
    problem, stage = choice.problem, choice.stage
    if choice.impl.backend == "cpu":
        stage = _between_ports(_of_fewer_inputs(stage))
        return _time_native(choice, stage, random_inputs(stage, problem.rows, problem.device))
    inputs = random_inputs(stage, problem.rows, problem.device)
    prepared = choice.prepare()
    if operator(stage.op).by_row:
        inputs = tuple(t.reshape(-1, v.width) for t, v in zip(inputs, stage.inputs))
    return _time(lambda: prepared(*inputs), problem.device)


def _of_fewer_inputs(stage: Stage) -> Stage:
    """The stage, with one value in the place of all that are alike where it reads more than a plan has inputs."""
    if len(stage.inputs) <= MAX_TENSORS:
        return stage
    alike: dict[tuple[object, ...], Value] = {}
    inputs = tuple(alike.setdefault((v.shape, v.dtype, v.quant), v) for v in stage.inputs)
    return replace(stage, inputs=inputs)


def _between_ports(stage: Stage) -> Stage:
    """The stage; where it reads and writes states alone, with results in other memory: a plan has inputs and outputs."""
    names = {v.name for v in stage.inputs}
    if names != {v.name for v in stage.outputs}:
        return stage
    return replace(stage, outputs=tuple(replace(v, name=f"{v.name}:made") for v in stage.outputs))


def _time_native(choice: Choice, stage: Stage, inputs: tuple[Tensor, ...]) -> float:
    from rtaccel.kernels._core.cpu import States, build

    rows = choice.problem.rows
    # What a stage of a stream reads and writes in place is a state of its plan.
    kept = frozenset({v.name for v in stage.inputs} & {v.name for v in stage.outputs})
    made = [v for v in stage.outputs if v.name not in kept]
    given = {v.name: (v, t) for v, t in zip(stage.inputs, inputs) if v.name not in kept}  # each once
    inputs = tuple(t for _, t in given.values())
    outputs = tuple(torch.empty(rows, *v.shape, dtype=getattr(torch, v.dtype)) for v in made)
    ports = [GraphIO.matrix(v) for v, _ in given.values()], [GraphIO.matrix(v) for v in made]
    plan = build([(stage, choice.impl.name)], *ports, states=States(kept, rows, -1) if kept else None)

    def profiled(calls: int) -> Tensor:
        """Us by call: of what the plan notes, which is the inputs, the stage, the outputs, the whole and a reading."""
        counts, ns = plan.profile(inputs, outputs if len(outputs) > 1 else outputs[0], calls)
        return torch.frombuffer(bytearray(counts), dtype=torch.int64).view(calls, -1) * (ns / 1000)

    once = float(profiled(3)[-1, 3])
    us = profiled(max(ROUNDS, min(MAX_CALLS, int(ROUNDS * ROUND_NS / 1000 / max(once, 1e-3)))))
    calm = us[:, 1].sort().values[: max(1, len(us) * 3 // 4)]  # without what the system did between
    return max(0.0, float(calm.mean() - us[:, 4].median()))


def _time(call: Callable[[], object], device: str) -> float:
    start = time.perf_counter_ns()
    for _ in range(3):
        call()
    count = max(1, ROUND_NS // max(1, (time.perf_counter_ns() - start) // 3))
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter_ns()
        for _ in range(count):
            call()
        if device == "cuda":
            torch.cuda.current_stream().synchronize()  # not the device: a persistent kernel never ends
        rounds.append((time.perf_counter_ns() - start) / count / 1000)
    return statistics.median(rounds)
