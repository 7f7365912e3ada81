"""Sparse linear layers on a GPU: ours in the form that the model of time picks, forced and not, beside ours dense, torch's dense
half precision, torch's sparse tensors (CSR, BSR, semi-structured) and CuPy's cuSPARSE. Rows of `python -m bench.device`.

The times are of the device, from a replay of a graph of several calls, so that no launch from Python is in them.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

import rtaccel as rt
from bench.device_rows import Clock
from rtaccel.formats import masks
from rtaccel.plan import sparse_gpu

CALLS = 20
"""In one graph."""

ROUNDS = 50

PATTERNS = (
    rt.Unstructured(0.5), rt.Unstructured(0.9), rt.Unstructured(0.95), rt.BlockSparse((16, 16), 0.8),
    rt.BlockSparse((64, 64), 0.9), rt.SemiStructured(),
)  # fmt: skip
SIZES = [(1, 4096), (16, 4096), (1, 1024)]
"""(M, K = N); goals are for the first two."""


def graph_us(call: Callable[[], object]) -> float:
    """Device time of one call, of CALLS in a graph."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), torch.no_grad():
        for _ in range(3):
            call()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph, stream=stream):
        for _ in range(CALLS):
            call()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(5):
        graph.replay()
    start.record()
    for _ in range(ROUNDS):
        graph.replay()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1000 / (ROUNDS * CALLS)


def ours(model: nn.Module, x: Tensor, scheme: str) -> Iterator[tuple[str, Callable[[], object], list[str]]]:
    """(title, call, notes): as it is chosen; of int8 also sparse whatever the model of time says, and dense."""
    data = [torch.randn(256, x.shape[1])]
    ways: tuple[tuple[str, dict[str, float]], ...] = (
        ("", {"CHAIN_US": sparse_gpu.CHAIN_US}),
        (" sparse", {"CHAIN_US": -1e6}),
        (" dense", {"LEAST_ZEROS": 2.0}),
    )
    for title, constants in ways if scheme == "w8a8" else ways[:1]:
        with mock.patch.multiple(sparse_gpu, **constants):
            fast = rt.compile(model, (x.cpu(),), scheme, calibration=data, device="cuda", mode="eager")
        out = fast(x)
        notes = [note for note in fast.explain(measure=False).splitlines() if "computed" in note]
        yield f"rtaccel {scheme}{title}", (lambda fast=fast, out=out: fast.run(x, out=out)), notes


def torchs(
    layer: nn.Linear, x: Tensor, pattern: rt.Sparsity
) -> Iterator[tuple[str, Callable[[], Callable[[], object]]]]:
    """(title, maker of a call): making it may fail too."""
    weight, half = layer.weight.detach().cuda().half(), x.half()
    columns = half.T.contiguous()

    def product(sparse: Tensor) -> Callable[[], object]:
        return lambda: sparse @ columns

    yield "torch dense fp16", lambda: lambda: nn.functional.linear(half, weight)
    yield "torch CSR fp16", lambda: product(weight.to_sparse_csr())
    if isinstance(pattern, rt.BlockSparse):
        yield "torch BSR fp16", lambda: product(weight.to_sparse_bsr(pattern.block))
    if isinstance(pattern, rt.SemiStructured):

        def semi() -> Callable[[], object]:
            sparse = torch.sparse.to_sparse_semi_structured(weight)
            return lambda: nn.functional.linear(half, sparse)

        yield "torch semi-structured fp16", semi


def cusparse(layer: nn.Linear, x: Tensor) -> Callable[[], object]:
    """CuPy's CSR matrix times x, in float32, on torch's current stream."""
    cupy = importlib.import_module("cupy")
    sparse = importlib.import_module("cupyx.scipy.sparse")
    weight = sparse.csr_matrix(cupy.from_dlpack(layer.weight.detach().cuda()))
    columns = cupy.from_dlpack(x.T.contiguous())

    def call() -> object:
        with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
            return weight @ columns

    return call


def row(name: str, make: Callable[[], Callable[[], object]], **more: Any) -> dict[str, Any]:
    """What cannot run here is a row with the reason."""
    try:
        return {"name": name, "device_us": graph_us(make()), **more}
    except Exception as error:  # of as many types as there are libraries
        return {"name": name, "error": f"{type(error).__name__}: {error}".splitlines()[0], **more}


def measure_sparse(sizes: list[tuple[int, int]], clock: Clock) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for m, n in sizes:
        for pattern in PATTERNS:
            late = clock.late(f"sparse {m}x{n}x{n} {pattern}")
            if late is not None:
                rows.append(late)
                continue
            torch.manual_seed(0)
            layer = nn.Linear(n, n, bias=False)
            with torch.no_grad():
                layer.weight *= masks.keep(torch.rand(n, n), pattern)
            x, title = torch.randn(m, n, device="cuda"), f"sparse {m}x{n}x{n} {pattern}"
            for scheme in ("w8a8", "bfloat16"):
                for name, call, notes in ours(nn.Sequential(layer).eval(), x, scheme):
                    rows.append(row(f"{title}, {name}", lambda call=call: call, notes=notes))
            for name, make in torchs(layer, x, pattern):
                rows.append(row(f"{title}, {name}", make))
            if importlib.util.find_spec("cupy") is not None:
                rows.append(row(f"{title}, cupy cuSPARSE CSR fp32", lambda layer=layer, x=x: cusparse(layer, x)))
    return rows
