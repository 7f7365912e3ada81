"""One function for each figure: what a search finds, what it takes, and how right its predictions are."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

import rtaccel as rt
from bench.fit.tasks import Task
from rtaccel.search.cost_model import CostModel
from rtaccel.search.cost_table import CostTable, whole_calls
from rtaccel.search.options import layers_of, parse_options
from rtaccel.search.workbench import Workbench, bound
from tests.support.random_fits import random_task

LOOSE = rt.Budget(p50_us=1e6)
SCHEMES = ("float32", "w8a8", "w4a8")
RANKS = (*SCHEMES, rt.LowRank(0.5), rt.LowRank(0.3))


def searched(task: Task, options: tuple[Any, ...], seconds: float) -> rt.Fit:
    """Time, plans, predictions over measurements, and the best uniform plan beside the one found, in turn."""
    start, cpu = time.perf_counter(), time.process_time()
    fit = rt.fit_budget(task.model, task.example, LOOSE, task.calibration, metric=task.metric, max_drop=task.max_drop,
                        options=options, seconds=seconds)  # fmt: skip
    took, own = time.perf_counter() - start, time.process_time() - cpu
    print(f"{task.name}: {took:.1f} s, {own:.1f} s of CPU, {len(fit.candidates)} plans, complete: {fit.complete}")
    print(f"  {fit.reason}")
    for c in fit.candidates:
        if c.name.startswith("all ") and c.drop is not None:
            print(f"  {c.name}: a drop of {c.drop:.4g}, {'kept' if c.keeps else 'refused'}")
    _predictions(fit)
    uniform = [c for c in fit.candidates if len({str(s) for s in c.scheme.values()}) == 1 and c.keeps]
    if fit.model is not None and uniform:
        calls = {c.name: bound(compiled(task, c.scheme), (task.example,)) for c in uniform}
        calls["found"] = bound(fit.model, (task.example,))  # type: ignore[arg-type]
        us = whole_calls(calls, 2.0, rounds=200)
        print("  interleaved minima, us: " + ", ".join(f"{n} {t:.2f}" for n, t in us.items()))
        best = min(t for n, t in us.items() if n != "found")
        print(f"  the best uniform plan that keeps the drop takes {best / us['found']:.2f} times as long")
    return fit


def compiled(task: Task, scheme: Any) -> rt.CompiledModel:
    return rt.compile(task.model, (task.example,), scheme, calibration=task.calibration, verify=False)


def _predictions(fit: rt.Fit) -> None:
    off = [c.predicted_us / c.us for c in fit.candidates if c.us and c.predicted_us and c.staging is None]
    if off:
        within = sum(1 / 1.15 <= ratio <= 1.15 for ratio in off)
        print(f"  predicted over measured time: {min(off):.2f} to {max(off):.2f}, {within} of {len(off)} within 15 %")
    drops = [
        c.predicted_drop / c.drop for c in fit.candidates
        if c.drop and c.predicted_drop and 0.2 * fit.limit < c.drop < 3 * fit.limit
    ]  # fmt: skip
    if drops:
        within = sum(0.5 <= ratio <= 2 for ratio in drops)
        print(
            f"  predicted over measured drop: {min(drops):.2f} to {max(drops):.2f}, {within} of {len(drops)} within 2"
        )


def seconds_kept(task: Task, limits: tuple[float, ...]) -> None:
    """How far a search goes over the time that it was given, in a process that has exported before: the first export loads what
    it needs, which nothing can bound."""
    rt.compile(torch.nn.Linear(4, 4).eval(), (torch.randn(1, 4),))
    for limit in limits:
        start = time.perf_counter()
        fit = rt.fit_budget(task.model, task.example, LOOSE, task.calibration, metric=task.metric, options=RANKS,
                            max_drop=task.max_drop, seconds=limit)  # fmt: skip
        took = time.perf_counter() - start
        print(f"{task.name}: seconds={limit:g} took {took:.2f} s ({took / limit:.0%}), {fit.verdict}, "
              f"{len(fit.candidates)} plans, complete: {fit.complete}")  # fmt: skip


@contextmanager
def load(processes: int) -> Iterator[None]:
    """So many processes that do nothing but take time."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def order(task: Task, runs: int, busy: int) -> None:
    """Pairs of plans that differ by 10 % and more when measured whole: in how many tables, each taken anew beside `busy` other
    processes, the sums of stages have all of them so."""
    bench = Workbench(task.model, task.example, task.calibration)
    options = parse_options(SCHEMES, True)
    layers = layers_of(bench.graph, options, None, [])
    draw = random.Random(0)
    plans = {(o,) * len(layers) for o in range(len(options))}
    while len(plans) < 10:
        plans.add(tuple(draw.randrange(len(options)) for _ in layers))
    first = CostModel(bench, layers, CostTable(bench.rows))
    us = whole_calls({plan: bound(first.build(plan), bench.args) for plan in plans}, 6.0, rounds=600)
    pairs = [(a, b) for a in us for b in us if us[a] * 1.1 <= us[b]]
    right = whole = 0
    with load(busy):
        for _ in range(runs):
            costs = CostModel(bench, layers, CostTable(bench.rows))
            for plan in plans:
                costs.keys(plan)
            found = {plan: costs.stages_us(plan) for plan in plans}
            good = sum(found[a] < found[b] for a, b in pairs)
            right, whole = right + good, whole + (good == len(pairs))
    print(f"{task.name}: order of {len(pairs)} pairs of plans that differ by 10 %, {busy} busy processes beside: all right in "
          f"{whole} of {runs} tables, {right} of {runs * len(pairs)} pairs")  # fmt: skip


def random_networks(count: int, seconds: float, early: bool) -> int:
    """Returned plans whose drop on data kept aside exceeds the limit. Every other network may take three tenths of its bytes in
    float32, so that fewer bits are chosen whatever they cost in time here. early: with early exits among the options."""
    over: list[str] = []
    returned, small, unmet, late, left = 0, 0, 0, 0, 0
    options = (
        "float32",
        "w8a8",
        "w4a8",
        rt.LowRank(0.5),
        *([rt.LowRank(0.2), rt.EarlyExit(test="energy")] if early else []),
    )
    for seed in range(count):
        task = random_task(seed)
        floats = 4 * sum(p.numel() for p in task.model.parameters())
        budget = rt.Budget(p50_us=1e6, size_bytes=int(0.3 * floats)) if seed % 2 else LOOSE
        fit = rt.fit_budget(task.model, task.example, budget, task.calibration, metric=task.metric, max_drop=task.max_drop,
                            options=options, seconds=seconds)  # fmt: skip
        late += not fit.complete
        if fit.model is None:
            unmet += 1
            continue
        returned += 1
        small += fit.model.weight_bytes < 0.3 * floats
        left += isinstance(fit.model, rt.Cascade)
        with torch.no_grad():
            drop = task.aside(task.model) - task.aside(fit.model)
        if drop > task.max_drop:
            over.append(f"{seed} ({drop:.4f} of {task.max_drop:.4f})")
        if (seed + 1) % 10 == 0:
            print(f"  {seed + 1} networks, {len(over)} over", flush=True)
    print(f"{count} random networks: {returned} plans returned, {small} of them below 0.3 of the bytes, {left} cascades, {unmet} "
          f"budgets that no plan meets, {late} searches stopped by the time")  # fmt: skip
    print(f"plans whose drop on data kept aside exceeds the limit: {len(over)} {', '.join(over)}")
    return len(over)
