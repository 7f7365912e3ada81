"""Everything that needs a GPU, in one run of some minutes: the checks of every kernel on the card, then the figures.

    python -m bench.device [--seconds 2] [--skip-tests]

Writes bench/results/<card>-<date>.json and prints a table and what to do next. Without a GPU it says why and ends with 0:
figures that nobody measured stay open.

Times are of the host, from the call to the result that it can read, each call on its own; a row of `device` is the time of the
card for one replay, from events around many. Each of ours stands beside torch eager, a plain CUDA graph of the torch model, and
torch.compile(mode="reduce-overhead").
"""

from __future__ import annotations

import argparse
import datetime
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
from bench.device_sparse import measure_sparse
from bench.networks import autoencoder
from rtaccel.backends import get_backend
from rtaccel.core.errors import RtaccelError
from rtaccel.measure.environment import environment

ROOT = Path(__file__).parent.parent
TESTS = (
    "tests/test_triton_interpreter.py::test_kernels_on_the_gpu", "tests/test_cuda_graph.py", "tests/test_resident.py",
    "tests/test_interop.py", "tests/test_numba_cuda.py",
)  # fmt: skip
LINEAR = [(1, 1024, 1024), (1, 4096, 4096), (16, 4096, 4096), (64, 4096, 4096)]
"""(M, K, N) of single layers."""

SCHEMES = ("w8a8", "w8a16", "w4a16", "w4a8")


def mlp(widths: tuple[int, ...]) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for k, n in itertools.pairwise(widths):
        layers += [nn.Linear(k, n), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def networks() -> Iterator[tuple[str, nn.Module, int]]:
    """(name, model, inputs). The last two are cut among multiprocessors in their resident form."""
    yield "mlp 64-64-64-8", mlp((64, 64, 64, 8)), 64
    yield "mlp 128x6", mlp((128,) * 7), 128
    yield "mlp 256-384-384-128", mlp((256, 384, 384, 128)), 256
    yield "autoencoder 640-128x4-8-128x4-640", autoencoder(), 640


def newest(stack: nn.Module, hidden: int) -> nn.Module:
    """A stack with one number of its newest moment, as the models of STAC-ML end."""

    class Newest(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stack, self.head = stack, nn.Linear(hidden, 1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.head(self.stack(x)[0][:, -1])
            return y

    return Newest().eval()


def stacks() -> Iterator[tuple[str, nn.Module, int, int]]:
    """(name, model, inputs, moments of the window): the shapes of STAC-ML Markets (Inference), with random weights, and a GRU."""
    torch.manual_seed(0)
    yield "gru 64-128", newest(nn.GRU(64, 128, batch_first=True), 128), 64, 20
    yield "LSTM_A 2x100", newest(nn.LSTM(100, 100, 2, batch_first=True), 100), 100, 50
    yield "LSTM_B 3x200", newest(nn.LSTM(250, 200, 3, batch_first=True), 200), 250, 100
    yield "LSTM_C 4x1000", newest(nn.LSTM(500, 1000, 4, batch_first=True), 1000), 500, 100


def record(name: str, fn: Callable[[], object], seconds: float, rows: list[dict[str, Any]], **more: Any) -> None:
    """One row; what cannot run here is a row with the reason."""
    try:
        lat = rt.measure(fn, (), seconds=seconds)
    except (RtaccelError, RuntimeError) as error:
        rows.append({"name": name, "error": str(error).splitlines()[0], **more})
        return
    rows.append(
        {
            "name": name, "p50_us": lat.p50_us, "p99_us": lat.p99_us, "p999_us": lat.p999_us, "max_us": lat.max_us,
            "calls": lat.n, **more,
        }
    )  # fmt: skip


def synchronous(call: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        call()
        torch.cuda.synchronize()

    return run


def device_us(replay: Callable[[], object], rounds: int = 200) -> float:
    """Time of the card for one call of many, back to back."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(20):
        replay()
    start.record()
    for _ in range(rounds):
        replay()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1000 / rounds


def plain_graph(model: nn.Module, x: Tensor) -> Callable[[], None]:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), torch.no_grad():
        for _ in range(3):
            model(x)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph, stream=stream):
        model(x)
    return graph.replay


def peers(model: nn.Module, x: Tensor) -> Iterator[tuple[str, Callable[[], object]]]:
    """torch's own ways, in half precision, which is what it is fast in."""
    half, given = model.half().cuda(), x.half()
    with torch.no_grad():
        yield "torch eager fp16", lambda: half(given)
        yield "torch CUDA graph fp16", plain_graph(half, given)
        compiled = torch.compile(half, mode="reduce-overhead")
        yield "torch.compile reduce-overhead fp16", lambda: compiled(given)


def measure_model(
    name: str, model: nn.Module, x: Tensor, schemes: tuple[str, ...], seconds: float
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    calibration = [torch.randn(256, *x.shape[1:]) if x.dim() == 2 else torch.randn(4, *x.shape[1:])]
    for scheme in schemes:
        fast = rt.compile(model, (x.cpu(),), scheme=scheme, calibration=calibration, device="cuda")
        y = fast(x)
        step = fast.bind(x, out=torch.empty_like(y))
        kernels = [line.kernel for line in fast.explain_lines(measure=False)]
        record(
            f"{name}, rtaccel {scheme} graph",
            synchronous(step),
            seconds,
            rows,
            kernels=kernels,
            device_us=device_us(step),
        )
    for title, call in peers(model, x):
        record(f"{name}, {title}", synchronous(call), seconds, rows, device_us=device_us(call))
    return rows


def measure_resident(name: str, model: nn.Module, inputs: int, seconds: float) -> list[dict[str, Any]]:
    """From host memory to host memory. Nothing here may wait for the device: the kernel never ends by itself."""
    rows: list[dict[str, Any]] = []
    x = torch.randn(1, inputs)
    title = f"{name}, rtaccel w8a8 persistent"
    try:
        fast = rt.compile(
            model, (x,), scheme="w8a8", calibration=[torch.randn(256, inputs)], device="cuda", mode="persistent"
        )
    except RtaccelError as error:
        return [{"name": title, "error": str(error)}]
    try:
        y = fast(x)
        record(title, fast.bind(x, out=y), seconds, rows)
    finally:
        fast.close()
    return rows


def measure_stream(name: str, model: nn.Module, inputs: int, moments: int, seconds: float) -> list[dict[str, Any]]:
    """One moment with the states in the kernel (the sliding suite of STAC-ML, Tacana), from host memory to host memory."""
    rows: list[dict[str, Any]] = []
    x, title = torch.randn(1, inputs), f"{name}, one moment, rtaccel w8a8 persistent"
    calibration = [torch.randn(4, moments, inputs)]
    try:
        live = rt.stream(model, x, scheme="w8a8", calibration=calibration, device="cuda")
    except RtaccelError as error:
        return [{"name": title, "error": str(error)}]
    try:
        y = live.step(x)
        record(title, live.bind(x, out=y), seconds, rows)
    finally:
        live.close()
    return rows


def measure_null(seconds: float) -> list[dict[str, Any]]:
    """The mailbox alone, one float32 each way."""
    from rtaccel._native import Mailbox
    from rtaccel.kernels._shared.triton_launch import bind
    from rtaccel.kernels.mlp.triton_resident import specialise_null

    requests, replies, control = (torch.zeros(n, dtype=torch.int64).pin_memory() for n in (2, 2, 8))
    rows: list[dict[str, Any]] = []
    with torch.cuda.stream(torch.cuda.Stream()):
        bind(specialise_null(1, 1))((1,), request_ptr=requests, reply_ptr=replies, control_ptr=control, idle_looks=0)
    box = Mailbox(requests.data_ptr(), 1, replies.data_ptr(), 1)
    x, y = torch.ones(1), torch.zeros(1)
    where = (x.data_ptr(), y.data_ptr(), 1_000_000_000)
    try:
        if not box.exchange(*where):
            return [{"name": "null model, persistent", "error": "the kernel does not answer"}]
        record("null model, persistent", lambda: box.exchange(*where), seconds, rows)
    finally:
        control[0] = 1
    return rows


def run_tests() -> dict[str, Any]:
    there = [t for t in TESTS if (ROOT / t.split("::")[0]).exists()]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--no-header", *there],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout[-3000:])
    return {"passed": done.returncode == 0, "summary": done.stdout.strip().splitlines()[-1] if done.stdout else ""}


def render(found: dict[str, Any]) -> str:
    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    lines = [f"# {found['card']}", "", "| | p50 us | p99 us | p99.9 us | device us |", "|---|---|---|---|---|"]
    for row in found["rows"]:
        if "error" in row:
            lines.append(f"| {row['name']} | {row['error']} | | | |")
        else:
            cells = [number(row.get(key)) for key in ("p50_us", "p99_us", "p999_us", "device_us")]
            lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.device", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="of calls for each row (default: 2)")
    parser.add_argument("--skip-tests", action="store_true")
    args = parser.parse_args()
    reason = get_backend("triton").unavailable()
    if reason is None and not torch.cuda.is_available():
        reason = "TRITON_INTERPRET is set"
    if reason is not None:
        print(f"No GPU to measure: {reason}.\nGPU figures stay open. Next: run this on a machine with an NVIDIA GPU.")
        return 0
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # one core, not the first, which has the interrupts
    card = torch.cuda.get_device_name()
    found: dict[str, Any] = {"card": card, "environment": environment(), "command": "python -m bench.device"}
    found["tests"] = None if args.skip_tests else run_tests()
    rows = measure_null(args.seconds)
    for name, model, inputs in networks():
        rows += measure_resident(name, model, inputs, args.seconds)
    for name, model, inputs, moments in stacks():
        rows += measure_stream(name, model, inputs, moments, args.seconds)
    for name, model, inputs, moments in stacks():
        window = torch.randn(1, moments, inputs, device="cuda")
        rows += measure_model(f"{name}, window of {moments}", model, window, ("w8a8",), args.seconds)
    for name, model, inputs in networks():
        rows += measure_model(name, model, torch.randn(1, inputs, device="cuda"), ("w8a8", "w4a16"), args.seconds)
    for m, k, n in LINEAR:
        model = nn.Sequential(nn.Linear(k, n)).eval()
        rows += measure_model(f"linear {m}x{k}x{n}", model, torch.randn(m, k, device="cuda"), SCHEMES, args.seconds)
    found["rows"] = rows + measure_sparse()
    stem = re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")
    path = ROOT / "bench" / "results" / f"{stem}-{datetime.date.today().isoformat()}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    path.with_suffix(".md").write_text(render(found) + "\n")
    print(render(found))
    print(f"\nwritten: {path}")
    if found["tests"] and not found["tests"]["passed"]:
        print("next: mend what failed above before any of these figures is used")
        return 1
    print("next: compare with docs/gpu.md, and commit the two files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
