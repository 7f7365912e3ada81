"""Everything that needs a GPU, in one run of some minutes: the checks of every kernel on the card, then the figures.

    python -m bench.device [--seconds 1] [--minutes 7.5] [--starts 1000] [--skip-tests]

Writes bench/results/<card>-<date>.json with a Markdown summary beside it, and prints a table and what to do next. Without a
GPU it says why and ends with 0: figures that nobody measured stay open.

It ends within 8 minutes by design: the tests get a third of the time, rows of ours come before those of others, and what has not
begun when the time is up is left out, in a row that says so. The estimate: tests and compute-sanitizer 2.5 minutes, 14 resident
rows 1 with a thousand starts, 31 rows of ours as graphs 1 with their compilation, torch without a compiler 0.5, sparse layers 1;
what is left is for torch.compile, torchao and gemlite, and the time ends there.

Times are of the host, from the call to the result that it can read, each call on its own; a row of `device` is the time of the
card for one replay, from events around many. Each of ours stands beside torch eager, a plain CUDA graph of the torch model, and
torch.compile(mode="reduce-overhead"), torchao and gemlite where they are installed.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import rtaccel as rt
from bench import device_peers, device_resident, device_sanitizer, device_sparse, device_streams
from bench.device_report import failures, render
from bench.device_rows import Clock, Row, device_us, synchronous, timed
from bench.device_sparse import measure_sparse
from bench.networks import autoencoder
from rtaccel.backends import get_backend
from rtaccel.measure.environment import environment

ROOT = Path(__file__).parent.parent
TESTS = (
    "tests/test_triton_interpreter.py::test_kernels_on_the_gpu", "tests/test_cuda_graph.py", "tests/test_resident.py",
    "tests/test_interop.py", "tests/test_numba_cuda.py", "tests/test_cuda_recurrent.py",
)  # fmt: skip
LINEAR = [(1, 1024, 1024), (1, 4096, 4096), (16, 4096, 4096), (64, 4096, 4096)]
"""(M, K, N) of single layers."""

SCHEMES = ("w8a8", "w8a16", "w4a16", "w4a8")
RESIDENT_SECONDS = 2.0
"""Of calls of a kernel that stays: 1e5 of them, where one takes up to 20 us."""


def mlp(widths: tuple[int, ...]) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for k, n in itertools.pairwise(widths):
        layers += [nn.Linear(k, n), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def networks() -> Iterator[tuple[str, nn.Module, int]]:
    """(name, model, inputs). Some are cut among multiprocessors in their resident form."""
    yield "mlp 64-64-64-8", mlp((64, 64, 64, 8)), 64
    yield "mlp 128x6", mlp((128,) * 7), 128
    yield "mlp 256-384-384-128", mlp((256, 384, 384, 128)), 256
    yield "mlp 640-128-8-128-640", mlp((640, 128, 8, 128, 640)), 640
    yield "autoencoder 640-128x4-8-128x4-640", autoencoder(), 640


def record(name: str, fn: Callable[[], object], seconds: float, rows: list[Row], **more: Any) -> None:
    """One row; what cannot run here is a row with the reason."""
    rows.append(timed(name, fn, seconds, **more))


def measure_model(
    name: str, model: nn.Module, x: Tensor, schemes: tuple[str, ...], seconds: float, clock: Clock
) -> list[Row]:
    """Ours, as graphs."""
    rows: list[Row] = []
    calibration = [torch.randn(256, *x.shape[1:]) if x.dim() == 2 else torch.randn(4, *x.shape[1:])]
    for scheme in schemes:
        title = f"{name}, rtaccel {scheme} graph"
        late = clock.late(title)
        if late is not None:
            rows.append(late)
            continue
        fast = rt.compile(model, (x.cpu(),), scheme=scheme, calibration=calibration, device="cuda")
        y = fast(x)
        step = fast.bind(x, out=torch.empty_like(y))
        kernels = [line.kernel for line in fast.explain_lines(measure=False)]
        record(title, synchronous(step), seconds, rows, kernels=kernels, device_us=device_us(step))
    return rows


def measure_peers(name: str, model: nn.Module, x: Tensor, seconds: float, clock: Clock, quick: bool) -> list[Row]:
    """quick: those that need no compiler, or the others."""
    rows: list[Row] = []
    with torch.no_grad():
        for title, make in device_peers.ways(model, x):
            if quick != (title in device_peers.QUICK):
                continue
            late = clock.late(f"{name}, {title}")
            if late is not None:
                rows.append(late)
                continue
            try:
                call = make()
                call()
                record(f"{name}, {title}", synchronous(call), seconds, rows, device_us=device_us(call))
            except Exception as error:  # whatever another package raises is a row, not the end
                rows.append({"name": f"{name}, {title}", "error": str(error).splitlines()[0] if str(error) else "?"})
    return rows


def graphs(device: str = "cuda") -> Iterator[tuple[str, nn.Module, Tensor, tuple[str, ...]]]:
    """(name, model, x, schemes) of what is measured as a graph, on the card."""
    for m, k, n in LINEAR:
        yield f"linear {m}x{k}x{n}", nn.Sequential(nn.Linear(k, n)).eval(), torch.randn(m, k, device=device), SCHEMES
    for name, model, inputs in networks():
        yield name, model, torch.randn(1, inputs, device=device), ("w8a8", "w4a16")
    for given in device_streams.stacks():
        yield f"{given.name}, window of {given.moments}", given.model, given.window(1, device), ("w8a8",)


def two_streams(model: nn.Module, inputs: int, rounds: int = 200) -> dict[str, Any]:
    """Two compiled models replayed on two streams at once, with changing inputs: each result as on a stream alone."""
    makes = [rt.compile(model, (torch.randn(1, inputs),), scheme="w8a16", device="cuda") for _ in range(2)]
    xs = [torch.randn(1, inputs, device="cuda") for _ in makes]
    ys = [torch.empty_like(m(x)) for m, x in zip(makes, xs)]
    steps = [m.bind(x, out=y) for m, x, y in zip(makes, xs, ys)]
    streams = [torch.cuda.Stream() for _ in makes]
    torch.cuda.synchronize()
    for _ in range(rounds):
        for x, step, stream in zip(xs, steps, streams):
            with torch.cuda.stream(stream):
                x.normal_()
                step()
        torch.cuda.synchronize()
        for m, x, y in zip(makes, xs, ys):
            if not torch.equal(m(x), y):
                return {
                    "name": "two streams",
                    "passed": False,
                    "error": "a replay beside another one gives other numbers",
                }
    return {"name": "two streams", "passed": True}


def run_tests(limit_s: float) -> dict[str, Any]:
    there = [t for t in TESTS if (ROOT / t.split("::")[0]).exists()]
    words = [sys.executable, "-m", "pytest", "-q", "--no-header", *there]
    try:
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return {"passed": None, "summary": f"not done in {limit_s:.0f} s: run {' '.join(words[1:])}"}
    print(done.stdout[-3000:])
    return {"passed": done.returncode == 0, "summary": done.stdout.strip().splitlines()[-1] if done.stdout else ""}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.device", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="of calls for each row (default: 1)")
    parser.add_argument("--minutes", type=float, default=7.5, help="after which nothing begins (default: 7.5)")
    parser.add_argument("--starts", type=int, default=1000, help="of a kernel that stays (default: 1000)")
    parser.add_argument("--skip-tests", action="store_true", help="leave out the tests and compute-sanitizer")
    args = parser.parse_args()
    reason = get_backend("triton").unavailable()
    if reason is None and not torch.cuda.is_available():
        reason = "TRITON_INTERPRET is set"
    if reason is not None:
        print(f"No GPU to measure: {reason}.\nGPU figures stay open. Next: run this on a machine with an NVIDIA GPU.")
        return 0
    *others, own = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {own})  # one core, not the first, which has the interrupts
    card = torch.cuda.get_device_name()
    found: dict[str, Any] = {"card": card, "environment": environment(), "command": "python -m bench.device"}
    clock = Clock(args.minutes)
    found["tests"] = None if args.skip_tests else run_tests(20 * args.minutes)
    rows = [] if args.skip_tests else [row | {"check": True} for row in device_sanitizer.run()]
    long = max(args.seconds, RESIDENT_SECONDS)
    rows += device_resident.measure_null(long)
    for name, model, inputs in networks():
        make = functools.partial(device_resident.compiled, model, inputs)
        rows.append(device_resident.measure(name, make, inputs, long))
    for given in device_streams.stacks():
        rows += device_streams.measure(given, long)
    small = functools.partial(device_resident.compiled, mlp((64, 64, 64, 8)), 64)
    rows.append(device_resident.start_and_stop(small, 64, args.starts) | {"check": True})
    rows += device_resident.at_once(small, 64, long, cores=others)
    rows.append(two_streams(mlp((64, 64, 64, 8)), 64))
    for name, model, x, schemes in graphs():
        rows += measure_model(name, model, x, schemes, args.seconds, clock)
    for name, model, x, _ in graphs():
        rows += measure_peers(name, model, x, args.seconds, clock, quick=True)
    rows += measure_sparse(device_sparse.SIZES[:2], clock)
    for given in device_streams.stacks():
        rows += device_streams.torch_moments(given, args.seconds, clock)
    for name, model, x, _ in graphs():
        rows += measure_peers(name, model, x, args.seconds, clock, quick=False)
    found["rows"] = rows + measure_sparse(device_sparse.SIZES[2:], clock)
    stem = re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")
    path = ROOT / "bench" / "results" / f"{stem}-{datetime.date.today().isoformat()}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    path.with_suffix(".md").write_text(render(found) + "\n")
    print(render(found))
    print(f"\nwritten: {path}")
    bad = failures(found)
    if bad:
        print(f"next: mend what failed before any of these figures is used: {', '.join(bad)}")
        return 1
    print("next: compare with docs/how-to/gpu.md, and commit the two files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
