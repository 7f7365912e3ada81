"""Runs the Triton kernels in the interpreter on buffers that end at, or begin after, an inaccessible page.

The interpreter reads and writes real addresses, so one element too many kills the process (SIGSEGV). Started by
tests/gpu/test_triton_interpreter.py; with the argument `overread`, `overwrite` or `underread` it runs a kernel that leaves its
buffer by one element, which must die.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from pathlib import Path

import torch
import triton
import triton.language as tl
from torch import Tensor

from rtaccel.backends import require
from rtaccel.core.registry import impls, operator
from rtaccel.core.stage import Problem, QParams, Stage
from rtaccel.kernels.conv import cases as conv_cases
from rtaccel.kernels.fused_linear import contract as fused_contract
from rtaccel.kernels.fused_sparse_linear import contract as fused_sparse_contract
from rtaccel.kernels.linear import contract as linear_contract
from rtaccel.kernels.linear import contract_weights
from rtaccel.kernels.mlp import contract as mlp_contract
from rtaccel.kernels.quantize import contract as quantize_contract
from rtaccel.kernels.recurrent import cases
from rtaccel.kernels.recurrent.layout import Geometry
from rtaccel.kernels.sparse_linear import contract as sparse_contract

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.triton_checks.support.quick_interpreter import quicken

PAGE = mmap.PAGESIZE
GENERAL = (
    ("expression", "deep-C33"),
    ("expression", "row-scalar-C16"),
    ("strided_expression", "turned-5x3"),
    ("strided_expression", "every-second"),
    ("strided_expression", "any-rows-15-20"),
    ("reduce", "columns-5x3"),
    ("reduce", "inner-15"),
    ("softmax", "C17"),
    ("norm", "C17"),
    ("pointwise", "C17"),
    ("assemble", "padded-5x3"),
    ("assemble", "overlap"),
    ("rearrange", "turn-3x5"),
    ("concat", "7+16"),
    ("position", "C17"),
    ("embedding", "C17"),
    ("take", "elements-float32-5x3"),
    ("integer", "maximum-1"),
    ("pool", "C21"),
    ("resample", "2x6x5x33-4"),
    ("matmul", "3x5x7-aw"),
    ("matmul", "2x9x1x40-w"),
    ("matmul", "broadcast"),
    ("scan", "sum-float32-5x3-all-down"),
    ("scan", "logsumexp-float32-5x3-last-right"),
    ("scan", "max-int64-backward"),
    ("linear_scan", "1-3x7"),
    ("cached_attention", "1-M3-R7-H2-D5"),
    ("table_row", "M3-T7-C17"),
    ("draw", "M2-5x13"),
    ("order", "rows-float32-up-5x3-k3"),
    ("order", "rows-int64-down-3x16-k16"),
    ("put", "rows-add-float32-5x3-4"),
    ("put", "overlapping-set"),
    ("fourier", "complex-20-0"),
    ("fourier", "frames-225"),
    ("fourier", "to_real-1155-1"),
    ("solve", "solve-n3-3-x2"),
    ("solve", "factored-n7-5-x2"),
    ("solve", "cholesky-n7-5-x2"),
)
"""(operator, part of the name of a case) of the kernels that are made for each stage."""

_kept: list[mmap.mmap] = []
_untaken: list[str] = []
"""The operators of problems that no kernel took."""


def guarded(t: Tensor, at_end: bool) -> Tensor:
    """A copy of t whose last byte is the last before a forbidden page, or whose first is the first after one."""
    size = t.numel() * t.element_size()
    room = max(-(-size // PAGE), 1) * PAGE
    area = mmap.mmap(-1, room + 2 * PAGE)
    _kept.append(area)
    base = ctypes.addressof(ctypes.c_char.from_buffer(area))
    offset = PAGE + (room - size if at_end else 0)
    copy = torch.frombuffer(area, dtype=t.dtype, count=max(t.numel(), 1), offset=offset)[: t.numel()].view(t.shape)
    copy.copy_(t)
    libc = ctypes.CDLL(None, use_errno=True)
    for page in (base, base + PAGE + room):
        if libc.mprotect(ctypes.c_void_p(page), PAGE, 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    return copy


def run(op: str, stage: Stage, inputs: tuple[Tensor, ...], at_end: bool, forced: str = "") -> int:
    """Every kernel that takes the problem, with inputs, weights and outputs guarded. How many ran. forced: that one instead,
    which leaves such sizes to others."""
    allocate, to, ran = torch.empty, Tensor.to, 0
    problem = Problem.of(stage, inputs[0].shape[0])
    for impl in impls("triton", op):
        if impl.name != forced and (forced or impl.supports(problem) is not None):
            continue
        Tensor.to = lambda t, *a, **k: guarded(to(t, *a, **k), at_end)  # type: ignore[method-assign,assignment]
        call = impl.prepare(stage, problem)
        Tensor.to = to  # type: ignore[method-assign]
        torch.empty = lambda *a, **k: guarded(allocate(*a, **k), at_end)  # type: ignore[assignment]
        call(*(guarded(x, at_end) for x in inputs))
        torch.empty = allocate
        ran += 1
    if not ran:
        _untaken.append(op)
    return ran


@triton.jit
def without_mask(x_ptr, y_ptr, BLOCK: tl.constexpr, SHIFT: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at - SHIFT))


def inputs(stage: Stage, rows: int) -> tuple[Tensor, ...]:
    return linear_contract.make_inputs(stage, rows, seed=rows)


def main() -> None:
    require("triton")
    quicken()
    if sys.argv[1:]:
        sizes = {"overread": (15, 16, 0), "overwrite": (16, 15, 0), "underread": (16, 16, 1)}
        n_x, n_y, shift = sizes[sys.argv[1]]
        x, y = (guarded(torch.zeros(n), not shift) for n in (n_x, n_y))
        without_mask[(1,)](x, y, BLOCK=16, SHIFT=shift)
        return
    ran = 0
    for at_end in (True, False):
        for m, n, k in ((1, 1, 1), (1, 7, 20), (3, 17, 36), (2, 33, 516), (5, 19, 259), (17, 5, 33)):
            for scheme, out in (("static", "int8"), ("dynamic", "float32")):
                stage = linear_contract.make_stage(k, n, scheme, "relu", out=out)
                ran += run("linear", stage, linear_contract.make_inputs(stage, m, seed=k), at_end)
            for quant in (QParams(0.02, 3), None):
                ran += run("quantize", quantize_contract.make_stage(k, quant), (torch.randn(m, k),), at_end)
        for m, n, k in ((1, 9, 36), (3, 17, 131), (2, 20, 516)):
            for kind in contract_weights.KINDS:
                ran += run("linear", made := contract_weights.make_stage(k, n, kind), inputs(made, m), at_end)
            for kind in ("w8a8-rows", "w8a8-static", "w4a8-rows", "w4a16", "float8"):
                fused = fused_contract.make_stage(k, n, kind, residual=True, out="int8")
                ran += run("fused_linear", fused, fused_contract.make_inputs(fused, m, seed=k), at_end)
        for m, n, k in (
            (3, 17, 131),
            (40, 33, 516),
            (5, 130, 256),
        ):  # x made bfloat16 before or not, whole steps or not
            for kind in ("w4a16", "w8a16"):
                made = contract_weights.make_stage(k, n, kind)
                ran += run("linear", made, inputs(made, m), at_end, "triton_wide")
                ran += run("linear", made, inputs(made, min(m, 8)), at_end, "triton_thirds")
        for m, n, k in ((1, 7, 20), (3, 17, 68), (5, 33, 131)):
            for layout in sparse_contract.LAYOUTS:
                for kind in ("static", "dynamic", "w8a16"):
                    made = sparse_contract.make_stage(k, n, kind, layout, 0.4)
                    ran += run("sparse_linear", made, inputs(made, m), at_end)
                front = fused_sparse_contract.make_stage(k, n, layout, 0.4)
                ran += run("fused_sparse_linear", front, fused_sparse_contract.make_inputs(front, m, seed=k), at_end)
            made = sparse_contract.make_stage(k, n, "w4a8-static", "2:4", 0.4, group_size=32)
            ran += run("sparse_linear", made, inputs(made, m), at_end)
        for widths, group in (((13, 21, 5), 0), ((140, 9, 33), 0), ((35, 150, 7), 32)):
            made = mlp_contract.make_stage(widths, ("relu", "none"), group_size=group)
            ran += run("mlp", made, (torch.randn(2, widths[0]),), at_end)
        handed = linear_contract.make_stage(20, 7, "dynamic", "relu", out="int8")  # to cuBLAS, from 128 rows
        ran += run("linear", handed, inputs(handed, 130), at_end)
        for op, gates in (("lstm", 4), ("gru", 3)):
            for k, geometry, form, out in (
                (5, Geometry(9, layers=2), "int8-static", "int8"),
                (21, Geometry(17, time=2, last_only=1), "int8-dynamic", "float32"),
                (7, Geometry(35), "int4-static", "float32"),
                (7, Geometry(9, layers=2, directions=2, time=2, last_only=1), "int8-own", "int8"),
            ):
                made = cases.make_stage(op, gates, geometry, k, form, out)
                ran += run(op, made, cases.make_inputs(made, 1, seed=k), at_end)
        for op, gates in (("lstm", 4), ("gru", 3), ("rnn_tanh", 1)):
            for k, geometry in (
                (5, Geometry(9)),
                (5, Geometry(9, directions=2, time=2, batch=3)),
                (7, Geometry(90, time=2)),
            ):
                made = cases.make_stage(op, gates, geometry, k)
                ran += run(op, made, cases.make_inputs(made, 1, seed=k), at_end)
        for shape in ("causal", "image-odd", "live", "flat-colors"):
            for scheme, out in (("static", "int8"), ("self", "float32")):
                made = conv_cases.make_stage(conv_cases.SHAPES[shape], scheme, "relu", out=out, residual=True)
                ran += run("conv", made, conv_cases.make_inputs(made, 2, seed=3), at_end)
        for shape, scheme in (("grouped", "static"), ("live-depthwise", "dynamic"), ("image-odd", "dynamic")):
            made = conv_cases.make_stage(conv_cases.SHAPES[shape], scheme, "relu")
            ran += run("conv", made, conv_cases.make_inputs(made, 2, seed=3), at_end)
        for op, word in GENERAL:
            case = next(c for c in operator(op).cases() if word in c.id)
            ran += run(op, case.stage, case.make(3), at_end)
    print(f"{ran} ran, untaken: {' '.join(sorted(set(_untaken))) or 'none'} {len(_untaken)}")


main()
