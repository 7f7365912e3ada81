"""Matmul of computed values in Triton, in float32: a tile of y by the products of FFMA units, both sides where their strides say.

Few rows (decoding one token) are computed a row at a time, without a tile of 16 rows to fill.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import torch
import triton
from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._general.triton_places import Place, address, digits, joined
from rtaccel.kernels._general.triton_source import specialisation_of
from rtaccel.kernels._general.triton_tile import require_values, text_of, too_large
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_spec import Specialisation, Tiling, power_of_two
from rtaccel.kernels.matmul import contract

FEW = 4
"""Rows up to which each is computed by itself."""


def _side(place: Place, rows: str, columns: str, batch: str) -> str:
    """The element of an operand at tiles of two indices, behind that of its batch. One that is the same at all of them is a tile
    too: a load takes no mask of tiles with a single address."""
    moved = [f"{name} * {s}" for name, s in ((rows, place[-2]), (columns, place[-1])) if s]
    return " + ".join([batch, *(moved or [f"{rows} * 0"])])


def specialize(stage: Stage, rows: int) -> Specialisation:
    batch, i, j, k = stage.attrs["sizes"]
    (dims, first, a), (_, second, w), _ = contract.iterations(stage)
    sizes, (batch_a, batch_w) = joined(dims[:-2], [first[:-2], second[:-2]])
    alone = i <= FEW
    block_i = 1 if alone else power_of_two(i, 16, 32)
    block_j, block_k = power_of_two(j, 16, 64 if alone else 32), power_of_two(k, 16, 32)
    moves = [0 if name in stage.tensors else value.steps * value.width for name, value in (("a", a), ("w", w))]
    at_w = f"w_ptr + m * {moves[1]} + {_side(second, 'kk', 'j', address(batch_w, 'd'))}"
    body = [
        "acc += a * w",
        "y = tl.sum(acc, 0, keep_dims=True)",
        f"at_a = a_ptr + m * {moves[0]} + {_side(first, 'i', 'kk', address(batch_a, 'd'))}",
        "mask=kk < K",
    ] if alone else [
        'acc = tl.dot(a, w, acc, input_precision="ieee")',
        "y = acc",
        f"at_a = a_ptr + m * {moves[0]} + {_side(first, 'i', 'ka', address(batch_a, 'd'))}",
        "mask=(i < I) & (ka < K)",
    ]  # fmt: skip
    text = text_of([
        "def kernel(a_ptr, w_ptr, y_ptr, I: tl.constexpr, J: tl.constexpr, K: tl.constexpr, B: tl.constexpr, "
        "BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr):",
        f"tile, sample = tl.program_id(0) % {-(-i // block_i)}, tl.program_id(0) // {-(-i // block_i)}",
        "m, b = (sample // B).to(tl.int64), sample % B",
        *digits(sizes, "b", "d"),
        "i = tile * BLOCK_I + tl.arange(0, BLOCK_I)[:, None]",
        "j = tl.program_id(1) * BLOCK_J + tl.arange(0, BLOCK_J)[None, :]",
        f"acc = tl.zeros(({'BLOCK_K' if alone else 'BLOCK_I'}, BLOCK_J), tl.float32)",
        "for k0 in range(0, K, BLOCK_K):",
        "    kk = k0 + tl.arange(0, BLOCK_K)[:, None]",
        "    ka = k0 + tl.arange(0, BLOCK_K)[None, :]",
        f"    {body[2]}",
        f"    a = tl.load(at_a, {body[3]}, other=0.0)",
        f"    w = tl.load({at_w}, mask=(kk < K) & (j < J), other=0.0)",
        f"    {body[0]}",
        body[1],
        "tl.store(y_ptr + sample.to(tl.int64) * (I * J) + i * J + j, y, mask=(i < I) & (j < J))",
    ])  # fmt: skip
    return specialisation_of(
        f"matmul_{prod(batch)}x{i}x{j}x{k}", text, {"a_ptr": "*fp32", "w_ptr": "*fp32", "y_ptr": "*fp32"},
        {
            "I": i, "J": j, "K": k, "B": prod(batch), "BLOCK_I": block_i, "BLOCK_J": block_j, "BLOCK_K": block_k,
        },
        Tiling(block_i, block_j, block_k, num_warps=4),
    )  # fmt: skip


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """a and w, those that are no parameter -> y [M, steps, width]; any M."""
    spec = specialize(stage, problem.rows)
    launch, tile, out = bind(spec), spec.tiling, stage.outputs[0]
    batch, i, j, _ = stage.attrs["sizes"]
    fixed = {f"{name}_ptr": t.reshape(-1).contiguous().to(problem.device) for name, t in stage.tensors.items()}
    names = [name for name in "aw" if name not in stage.tensors]
    programs = prod(batch) * triton.cdiv(i, tile.block_m)

    def call(*inputs: Tensor) -> tuple[Tensor]:
        given = require_values(stage, inputs)
        y = torch.empty((given[0].shape[0], *out.shape), dtype=torch.float32, device=given[0].device)
        if y.numel():
            pointers = {f"{name}_ptr": x for name, x in zip(names, given)}
            launch((given[0].shape[0] * programs, triton.cdiv(j, tile.block_n)), y_ptr=y, **pointers, **fixed)
        return (y,)

    return call


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    for i in (1, 64):  # one token, and the scores of 64
        stage = contract.make_stage((4,), i, 64, 64, "w")
        yield specialize(stage, Problem.of(stage, 1, "cuda").rows)


register_impl(Impl("matmul", "triton_ffma", "triton", 10, too_large, prepare))
