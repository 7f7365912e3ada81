"""Attention in Triton, in float32: one launch, and no scores in memory.

A program has the queries of one tile of one head and goes through the keys, with the largest score and the sum of exponentials so
far (Milakov and Gimelshein, Online normalizer calculation for softmax, 2018). Products are those of FFMA units.
Up to four queries, as when one token is decoded, are computed one by one, without a tile of 16 to fill. An int8 y is rounded
here. A program sees one head alone, so of a sample that is not finite only what is not is 0. The plan marks it by q, k and v.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, QParams, Stage
from rtaccel.kernels._general.triton_tile import require_values
from rtaccel.kernels._gpu.triton_device import to_int8
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_spec import Specialisation, Tiling, leave_out, power_of_two
from rtaccel.kernels.attention import contract

FEW = 4
"""Queries up to which each is a program of its own."""

MAX_HEAD_DIM = 128
"""Columns of a head: q and the sums over v lie in registers."""


@triton.jit(do_not_specialize=["y_zero_point"])
def attention_kernel(
    q_ptr, k_ptr, v_ptr, mask_ptr, y_ptr, scale, y_inv_scale, y_zero_point,
    N: tl.constexpr, T: tl.constexpr, S: tl.constexpr, HEADS: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr,
    Q: tl.constexpr, K: tl.constexpr, V: tl.constexpr, MASK: tl.constexpr, CAUSAL: tl.constexpr, EMPTY_NAN: tl.constexpr,
    INT8_OUT: tl.constexpr, ALONE: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    # A sequence of a sample is a sample of its own, but for the mask.
    sample, head = (tl.program_id(0) // HEADS).to(tl.int64), tl.program_id(0) % HEADS
    t = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)[:, None]
    d = tl.arange(0, BLOCK_D)
    q_at = q_ptr + (sample * T + t) * Q[0] + Q[1] + head * D + d[None, :]
    q = tl.load(q_at, mask=(t < T) & (d[None, :] < D), other=0.0) * scale  # [BLOCK_T, BLOCK_D]
    largest = tl.full((BLOCK_T, 1), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK_T, 1), tl.float32)
    acc = tl.zeros((BLOCK_T, BLOCK_D), tl.float32)
    kv = head // GROUP * D
    end = tl.minimum(S, (tl.program_id(1) + 1) * BLOCK_T) if CAUSAL else S
    for s0 in range(0, end, BLOCK_S):
        s = s0 + tl.arange(0, BLOCK_S)
        there = (s[:, None] < S) & (d[None, :] < D)
        k = tl.load(k_ptr + (sample * S + s[:, None]) * K[0] + K[1] + kv + d[None, :], mask=there, other=0.0)
        # [BLOCK_T, BLOCK_S]
        score = tl.sum(q * k, 1)[None, :] if ALONE else tl.dot(q, tl.trans(k), input_precision="ieee")
        allowed = (s[None, :] < S) & (t < T)
        if CAUSAL:
            allowed = allowed & (s[None, :] <= t)
        if mask_ptr is not None:
            row = sample // N * MASK[0] + sample % N * MASK[1] + head * MASK[2] + t * MASK[3]
            score += tl.load(mask_ptr + row * S + s[None, :], mask=allowed, other=0.0)
        score = tl.where(allowed, score, -float("inf"))
        # A NaN among the scores is NaN in its exponential, whatever the largest is.
        now = tl.maximum(largest, tl.max(score, 1, keep_dims=True))
        base = tl.where(now == -float("inf"), 0.0, now)
        p = tl.exp(score - base)
        faded = tl.exp(largest - base)
        total = total * faded + tl.sum(p, 1, keep_dims=True)
        v = tl.load(v_ptr + (sample * S + s[:, None]) * V[0] + V[1] + kv + d[None, :], mask=there, other=0.0)
        if ALONE:
            v = tl.where(tl.trans(allowed), v, 0.0)
            acc = acc * faded + tl.sum(tl.trans(p) * v, 0)[None, :]
        else:
            if CAUSAL and s0 + BLOCK_S > tl.program_id(1) * BLOCK_T:
                # A key that is ruled out is not read: 0 times its NaN would be one. Of the others, what is not finite gives NaN.
                finite = tl.abs(v) < float("inf")
                lost = tl.dot(allowed.to(tl.float32), tl.where(finite, 0.0, 1.0), input_precision="ieee")
                acc = acc * faded + tl.dot(p, tl.where(finite, v, 0.0), input_precision="ieee")
                acc = tl.where(lost > 0.0, float("nan"), acc)
            else:
                acc = acc * faded + tl.dot(p, v, input_precision="ieee")
        largest = now
    y = acc / total if EMPTY_NAN else acc / tl.where(total == 0.0, 1.0, total)
    y_at = y_ptr + (sample * T + t) * (HEADS * D) + head * D + d[None, :]
    if INT8_OUT:
        finite = tl.abs(y) < float("inf")
        y = tl.where(finite, to_int8(tl.where(finite, y, 0.0) * y_inv_scale, y_zero_point), 0)
    tl.store(y_at, y, mask=(t < T) & (d[None, :] < D))


def supports(problem: Problem) -> str | None:
    d, s = int(problem.attrs["head_dim"]), problem.in_steps[1]
    if d > MAX_HEAD_DIM:
        return f"holds q in registers, heads of at most {MAX_HEAD_DIM} columns, not {d}"
    if s == 0:
        return "takes at least one key"
    return None


def specialize(stage: Stage, problem: Problem) -> Specialisation:
    """Not measured on a card."""
    low, (q, k, v) = contract.lower(stage), stage.inputs[:3]
    heads, d, n = low["heads"], low["head_dim"], low["sequences"]
    t, s = q.steps // n, k.steps // n
    alone, block_d = t <= FEW, power_of_two(d, 16, MAX_HEAD_DIM)
    block_s = power_of_two(s, 16, 64 if alone else max(16, min(32, 2048 // block_d)))
    tile = Tiling(1 if alone else 16, block_s, block_d, num_warps=4 if block_d > 32 else 2)
    rows, per_head = low.get("mask_rows", 0), low.get("mask_rows", 0) > max(t, 1)
    of_each = n > 1 and rows == n * heads * t
    mask = (0 if "mask" in low else rows, heads * t if of_each else 0, t if per_head else 0, int(rows > 1))
    pointers = ("q_ptr", "k_ptr", "v_ptr", "mask_ptr", "y_ptr")
    int8_out = stage.outputs[0].quant is not None
    signature, absent = leave_out(
        {
            **dict.fromkeys(pointers, "*fp32"), **({"y_ptr": "*i8"} if int8_out else {}), "scale": "fp32", "y_inv_scale": "fp32",
            "y_zero_point": "i32",
        },
        mask_ptr="mask_rows" in low, y_inv_scale=int8_out, y_zero_point=int8_out,
    )  # fmt: skip
    kinds = ("_causal" if low["causal"] else "") + (f"_mask{rows}" if rows else "") + ("_int8" if int8_out else "")
    sizes = f"T{t}_S{s}_H{heads}_KV{low['kv_heads']}_D{d}_{q.width}_{k.width}_{v.width}"
    return Specialisation(
        name=f"attention_{f'N{n}_' if n > 1 else ''}{sizes}{kinds}",
        kernel=attention_kernel,
        signature=signature,
        constants={
            "N": n, "T": t, "S": s, "HEADS": heads, "GROUP": heads // low["kv_heads"], "D": d, "Q": (q.width, low["q_column"]),
            "K": (k.width, low["k_column"]), "V": (v.width, low["v_column"]), "MASK": mask, "CAUSAL": bool(low["causal"]),
            "EMPTY_NAN": low["empty_row"] == "nan", "INT8_OUT": int8_out, "ALONE": alone, "BLOCK_T": tile.block_m,
            "BLOCK_S": tile.block_n, "BLOCK_D": tile.block_k, **absent,
        },
        tiling=tile,
    )  # fmt: skip


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """q, k, v and where it is computed the mask, as the contract has them -> y [M, T, heads * head_dim]; any M."""
    low, spec, y_value = contract.lower(stage), specialize(stage, problem), stage.outputs[0]
    launch, tile, programs = bind(spec), spec.tiling, low["heads"] * low["sequences"]
    steps = stage.inputs[0].steps // low["sequences"]
    constant = {"mask_ptr": low["mask"].float().contiguous().to(problem.device)} if "mask" in low else {}
    dtype = torch.float32
    scalars: dict[str, Any] = {"scale": low["scale"]}
    if y_value.quant is not None:
        dtype, scalars = torch.int8, {**scalars, "y_inv_scale": low["inv_scale"], "y_zero_point": low["zero_point"]}

    def call(*inputs: Tensor) -> tuple[Tensor]:
        given = require_values(stage, inputs)
        m = given[0].shape[0]
        y = torch.empty((m, *y_value.shape), dtype=dtype, device=given[0].device)
        if y.numel():
            names = ("q_ptr", "k_ptr", "v_ptr", "mask_ptr")
            pointers: dict[str, Any] = {**constant, **dict(zip(names, given))}
            launch((m * programs, triton.cdiv(steps, tile.block_m)), y_ptr=y, **scalars, **pointers)
        return (y,)

    return call


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    for t, s, causal, quant in (  # one token, and the encoder of 32
        (1, 256, False, None), (32, 32, True, None), (32, 32, False, QParams(0.02, 3)),
    ):  # fmt: skip
        stage = contract.make_stage(t, s, 4, 64, causal=causal, quant=quant)
        yield specialize(stage, Problem.of(stage, 1, "cuda"))


register_impl(Impl("attention", "triton_online", "triton", 10, supports, prepare))
