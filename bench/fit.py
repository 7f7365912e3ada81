"""`rt.fit_budget` on networks with a task: what it finds, how right it predicts, and how long it takes, beside other searches.

    python -m bench.fit [--seconds 60] [--nets 20] [--order 20] [--peers]
    python -m bench.fit --random 200

ad01 needs the test data folder; the others are made here. --peers adds the search of accuracy-aware quantization, which
reverts layers to float one by one until the metric is kept. nncf's own wants OpenVINO models: the search is written out here with
our kernels, so that both are timed by the same calls. torchao's autoquant picks layer by layer by time; it is asked where a
version that has it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import rtaccel as rt
from bench import networks
from rtaccel.search.cost_table import whole_calls
from rtaccel.search.workbench import bound
from tests.support.random_fits import random_task

LOOSE = rt.Budget(p50_us=1e6)


def ad01() -> tuple[nn.Module, torch.Tensor, list[torch.Tensor], Callable[[Any], float], Any]:
    folder = networks.ad01_folder()
    if folder is None:
        raise SystemExit("no mlperf_tiny_ad01 in the test data folder (set RTACCEL_TEST_DATA)")
    model, windows = networks.ad01(folder), networks.ad01_windows(folder)
    half = len(windows) // 2
    want = networks.score(model, windows[half:])
    return (
        model, windows[:1], [windows[:half]],
        lambda fast: -abs(networks.score(fast, windows[half:]) - want) / want, 0.02,
    )  # fmt: skip


def one(name: str, task: Any, options: tuple[Any, ...], seconds: float) -> rt.Fit:
    model, x, batches, metric, drop = task
    start, cpu = time.perf_counter(), time.process_time()
    fit = rt.fit_budget(model, x, LOOSE, batches, metric=metric, max_drop=drop, options=options, seconds=seconds)
    print(
        f"{name}: {time.perf_counter() - start:.1f} s, {time.process_time() - cpu:.1f} s of CPU, {len(fit.candidates)} plans"
    )
    print(f"  {fit.reason}")
    timed = [c for c in fit.candidates if c.us is not None and c.predicted_us is not None]
    if timed:
        off = [c.predicted_us / c.us for c in timed if c.predicted_us and c.us]
        print(f"  predicted over measured time of {len(off)} plans: {min(off):.2f} to {max(off):.2f}")
    drops = [
        c.predicted_drop / c.drop for c in fit.candidates if c.drop and c.predicted_drop and 0 < c.drop < 5 * fit.limit
    ]
    if drops:
        print(f"  predicted over measured drop of {len(drops)} plans: {min(drops):.2f} to {max(drops):.2f}")
    uniform = [c for c in fit.candidates if len({str(s) for s in c.scheme.values()}) == 1 and c.keeps]
    if fit.best is not None and uniform and fit.model is not None:
        calls = {c.name: bound(rt.compile(model, x, c.scheme, calibration=batches), (x,)) for c in uniform}
        calls["found"] = bound(fit.model, (x,))
        us = whole_calls(calls, 2.0, rounds=200)
        print("  interleaved minima, us: " + ", ".join(f"{n} {t:.2f}" for n, t in us.items()))
        best = min(t for n, t in us.items() if n != "found")
        print(f"  the best uniform scheme that keeps the drop takes {best / us['found']:.2f} times as long")
    return fit


def reverting(task: Any, seconds: float) -> tuple[dict[str, Any], float, int]:
    """The search of accuracy-aware quantization: all layers int8, then the one that hurts most goes back to float, one
    validation and one compile each, until the drop is kept. Gives the scheme, the seconds and the number of compiles."""
    model, x, batches, metric, drop = task
    start, names = time.perf_counter(), [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    with torch.no_grad():
        want = metric(model)
    scheme: dict[str, Any] = dict.fromkeys(names, "w4a8")
    compiles = 0

    def value(s: dict[str, Any]) -> float:
        nonlocal compiles
        compiles += 1
        return metric(rt.compile(model, x, s, calibration=batches, verify=False))

    gains = {n: value({**scheme, n: "float32"}) for n in names}
    for name in sorted(names, key=lambda n: -gains[n]):
        if want - value(scheme) <= drop or time.perf_counter() - start > seconds:
            break
        scheme[name] = "float32"
    return scheme, time.perf_counter() - start, compiles


def order(task: Any, runs: int) -> None:
    """Pairs of plans that differ by 10 % and more when measured whole: how often a fresh table of stages has them so."""
    model, x, batches, metric, drop = task
    schemes = {"float32": "float32", "w8a8": "w8a8", "w4a8": "w4a8", "w8a16": "w8a16"}
    calls = {n: bound(rt.compile(model, x, s, calibration=batches), (x,)) for n, s in schemes.items()}
    us = whole_calls(calls, 3.0, rounds=400)
    right = total = 0
    for _ in range(runs):
        fit = rt.fit_budget(model, x, LOOSE, batches, metric=metric, max_drop=drop, options=tuple(schemes), seconds=60)
        seen = {c.name.removeprefix("all "): c.predicted_us for c in fit.candidates if c.name.startswith("all ")}
        for a in us:
            for b in us:
                if us[a] * 1.1 <= us[b] and a in seen and b in seen:
                    total += 1
                    right += seen[a] < seen[b]
    print(f"order of uniform plans that differ by 10 %: {right} of {total} right in {runs} runs; measured "
          + ", ".join(f"{n} {t:.2f}" for n, t in us.items()))  # fmt: skip


def kept_aside(count: int) -> None:
    over, names = 0, []
    for seed in range(count):
        task = random_task(seed)
        fit = rt.fit_budget(task.model, task.example, LOOSE, task.calibration, metric=task.metric, max_drop=task.max_drop,
                            options=("float32", "w8a8", "w4a8", rt.LowRank(0.5)), seconds=30)  # fmt: skip
        with torch.no_grad():
            drop = 0.0 if fit.model is None else task.aside(task.model) - task.aside(fit.model)
        if drop > task.max_drop:
            over += 1
            names.append(seed)
    print(f"random networks whose plan exceeds the drop on data kept aside: {over} of {count} {names or ''}")


def random_networks(count: int, seconds: float) -> int:
    """Returned plans whose drop on data kept aside exceeds the limit. Every other network may take three tenths of its bytes in
    float32, so that fewer bits are chosen whatever they cost in time here."""
    over: list[str] = []
    returned, small, unmet, late = 0, 0, 0, 0
    for seed in range(count):
        task = random_task(seed)
        floats = 4 * sum(p.numel() for p in task.model.parameters())
        budget = rt.Budget(p50_us=1e6, size_bytes=int(0.3 * floats)) if seed % 2 else LOOSE
        fit = rt.fit_budget(task.model, task.example, budget, task.calibration, metric=task.metric, max_drop=task.max_drop,
                            options=("float32", "w8a8", "w4a8", rt.LowRank(0.5)), seconds=seconds)  # fmt: skip
        late += not fit.complete
        if fit.model is None:
            unmet += 1
            continue
        returned += 1
        small += fit.model.weight_bytes < 0.3 * floats
        with torch.no_grad():
            drop = task.aside(task.model) - task.aside(fit.model)
        if drop > task.max_drop:
            over.append(f"{seed} ({drop:.4f} of {task.max_drop:.4f})")
        if (seed + 1) % 10 == 0:
            print(f"  {seed + 1} networks, {len(over)} over", flush=True)
    print(f"{count} random networks: {returned} plans returned, {small} of them below 0.3 of the bytes, {unmet} budgets that no "
          f"plan meets, {late} searches stopped by the time")  # fmt: skip
    print(f"plans whose drop on data kept aside exceeds the limit: {len(over)} {', '.join(over)}")
    return len(over)


def autoquant(task: Any) -> None:
    model, x, _, metric, _ = task
    import copy

    import torchao

    if not hasattr(torchao, "autoquant"):
        print(f"torchao {torchao.__version__} has no autoquant")
        return
    start = time.perf_counter()
    try:
        made = torchao.autoquant(torch.compile(copy.deepcopy(model)), error_on_unseen=False)
        with torch.no_grad():
            made(x)
            us = whole_calls({"autoquant": lambda: made(x)}, 2.0)["autoquant"]
            print(f"torchao autoquant: {time.perf_counter() - start:.1f} s, {us:.1f} us, metric {metric(made):.4f}")
    except Exception as error:
        print(f"torchao autoquant: {type(error).__name__}: {str(error).splitlines()[0][:200]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--nets", type=int, default=20)
    parser.add_argument("--order", type=int, default=5)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--random", type=int, help="so many random networks and nothing else")
    args = parser.parse_args()
    if args.random:
        raise SystemExit(random_networks(args.random, args.seconds) > 0)
    task = ad01()
    one("ad01, schemes", task, ("float32", "w8a8", "w4a8"), args.seconds)
    one("ad01, schemes and ranks", task, ("float32", "w8a8", "w4a8", rt.LowRank(0.5), rt.LowRank(0.3)), args.seconds)
    if args.order:
        order(task, args.order)
    if args.nets:
        kept_aside(args.nets)
    if args.peers:
        scheme, seconds, compiles = reverting(task, args.seconds)
        kinds = {k: list(scheme.values()).count(k) for k in dict.fromkeys(scheme.values())}
        model, x, batches, _, _ = task
        us = whole_calls({"": bound(rt.compile(model, x, scheme, calibration=batches), (x,))}, 2.0)[""]
        print(f"reverting layer by layer from int4: {us:.2f} us, {seconds:.1f} s, {compiles} compiles, {kinds}")
        if importlib.util.find_spec("torchao") is not None:
            autoquant(task)
        else:
            print("torchao is not installed")


if __name__ == "__main__":
    main()
