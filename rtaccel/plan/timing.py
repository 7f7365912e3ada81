"""How long one stage takes alone, on random inputs: a guide for `explain()`, not a measurement for a budget."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from rtaccel.core.registry import operator
from rtaccel.core.stage import Port, Value
from rtaccel.plan.choose import Choice

ROUNDS = 9
ROUND_NS = 200_000


def _input(value: Value, rows: int, device: str) -> Tensor:
    if value.dtype == "int64":
        return torch.zeros(rows, *value.shape, dtype=torch.int64, device=device)
    if value.dtype == "int8":
        return torch.randint(-127, 128, (rows, *value.shape), dtype=torch.int8, device=device)
    return torch.rand(rows, *value.shape, device=device) + 0.01


def time_stage(choice: Choice) -> float:
    """Median over rounds of the mean time of a call, in us; the call itself (0.05 us on the CPU) is included."""
    problem, stage = choice.problem, choice.stage
    inputs = tuple(_input(v, problem.rows, problem.device) for v in stage.inputs)
    call: Callable[[], object]
    if choice.impl.backend == "cpu":
        from rtaccel._native import Bound
        from rtaccel.kernels.chain.cpu import build

        outputs = tuple(torch.empty(problem.rows, *v.shape, dtype=getattr(torch, v.dtype)) for v in stage.outputs)
        ports = [Port.matrix(v) for v in stage.inputs], [Port.matrix(v) for v in stage.outputs]
        call = Bound(build([(stage, choice.impl.name)], *ports), inputs, outputs if len(outputs) > 1 else outputs[0])
    else:
        prepared = choice.prepare()
        if operator(stage.op).by_row:
            inputs = tuple(t.reshape(-1, v.width) for t, v in zip(inputs, stage.inputs))

        def call() -> object:
            return prepared(*inputs)

    return _time(call, problem.device)


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
            torch.cuda.synchronize()
        rounds.append((time.perf_counter_ns() - start) / count / 1000)
    return statistics.median(rounds)
