"""Sparse linear layers on the card: ours in the form that the model of time picks, forced and not, beside ours dense, torch's
dense half precision, torch's sparse tensors (CSR, BSR, semi-structured) and CuPy's cuSPARSE.

All of them cold: on copies of the weights that no cache holds, many calls in one graph, so that no launch from Python is in them.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

import rtaccel as rt
from bench.device.rows.graphs import scheme_of, writer
from bench.device.rows.timing import Fields, copies_for, copies_of, device_us
from rtaccel.core.errors import FormatError
from rtaccel.core.sparsity import Sparsity
from rtaccel.formats import masks
from rtaccel.plan import sparse_gpu

MAX_COPIES = 64

PATTERNS: dict[str, Sparsity] = {
    str(pattern): pattern
    for pattern in (
        rt.Unstructured(0.5), rt.Unstructured(0.9), rt.Unstructured(0.95), rt.BlockSparse((16, 16), 0.8),
        rt.BlockSparse((64, 64), 0.9), rt.SemiStructured(),
    )
}  # fmt: skip

FORCED: dict[str, dict[str, float]] = {"": {}, " sparse": {"CHAIN_US": -1e6}, " dense": {"MIN_ZEROS": 2.0}}
"""What is changed in the model of time, so that it picks the sparse form, or the dense one."""


def choosing(forced: str) -> contextlib.AbstractContextManager[object]:
    """Inside, the model of time picks what is asked for."""
    constants: dict[str, Any] = FORCED[forced]
    return mock.patch.multiple(sparse_gpu, **constants) if constants else contextlib.nullcontext()


def layer_of(n: int, pattern: str) -> nn.Linear:
    torch.manual_seed(0)
    layer = nn.Linear(n, n, bias=False)
    with torch.no_grad():
        layer.weight *= masks.keep(torch.rand(n, n), PATTERNS[pattern])
    return layer


def ours_row(m: int, n: int, pattern: str, scheme: str, forced: str = "") -> Fields:
    """As it is chosen, or sparse or dense whatever the model of time says."""
    layer, x = layer_of(n, pattern), torch.randn(m, n)
    with choosing(forced):
        model = nn.Sequential(layer).eval()
        fast: Any = rt.compile(
            model, (x,), scheme_of(scheme), calibration=[torch.randn(256, n)], device="cuda", mode="eager"
        )
        copies, mib = copies_of(fast, MAX_COPIES)
    notes = [note for note in fast.explain(measure=False).splitlines() if "computed" in note]
    there = x.cuda()
    us = device_us([writer(each, there) for each in copies])
    return {"device_us": us, "copies": len(copies), "copies_mib": mib, "notes": notes}


DENSE, CSR, BSR, SEMI, CUSPARSE = (
    "torch dense fp16", "torch CSR fp16", "torch BSR fp16", "torch semi-structured fp16", "cupy cuSPARSE CSR fp32",
)  # fmt: skip


def _cusparse(weight: Tensor, x: Tensor) -> Callable[[], object]:
    """CuPy's CSR matrix times x, in float32, on torch's current stream."""
    cupy: Any = importlib.import_module("cupy")
    sparse: Any = importlib.import_module("cupyx.scipy.sparse")
    matrix = sparse.csr_matrix(cupy.from_dlpack(weight.float()))
    columns = cupy.from_dlpack(x.float().T.contiguous())

    def call() -> object:
        with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
            return matrix @ columns

    return call


def call_of(way: str, weight: Tensor, x: Tensor, pattern: Sparsity) -> Callable[[], object]:
    """One product in half precision: weight [n, n], x [m, n], both on the card. A new copy of the weight in every one."""
    if way == DENSE:
        dense = weight.clone()
        return lambda: nn.functional.linear(x, dense)
    if way == SEMI:
        packed = torch.sparse.to_sparse_semi_structured(weight)
        return lambda: nn.functional.linear(x, packed)
    if way == CUSPARSE:
        return _cusparse(weight, x)
    columns = x.T.contiguous()
    if way == CSR:
        rows = weight.to_sparse_csr()
        return lambda: rows @ columns
    if way == BSR and isinstance(pattern, rt.BlockSparse):
        blocks = weight.to_sparse_bsr(pattern.block)
        return lambda: blocks @ columns
    raise FormatError("bench.device", f"{way} of {pattern}", "a way that has this pattern", "Name one that has.")


def other_row(m: int, n: int, pattern: str, way: str) -> Fields:
    weight, x = layer_of(n, pattern).weight.detach().cuda().half(), torch.randn(m, n, device="cuda").half()
    size = 2 * (weight.numel() if way == DENSE else int(weight.count_nonzero()))
    number = min(copies_for(size), MAX_COPIES)
    calls = [call_of(way, weight, x, PATTERNS[pattern]) for _ in range(number)]
    return {"device_us": device_us(calls), "copies": number, "copies_mib": number * size >> 20}
