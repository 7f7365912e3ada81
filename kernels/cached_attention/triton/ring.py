"""Cached attention in Triton, float32: a program for each head of each stream, once through the places of the ring.

It goes through them with the largest score and the sum of exponentials so far, as kernels/attention/triton does. The new key and
value stand in the place of the oldest before anything is computed with them. The first of the heads that share keys writes the
states, so each kept number is written once; the others read it, from L2 where the card has it by then.

Where the new keys and values lie over the old ones, the new row is all that is written. Other programs may read that place
before or after: they have the new row of their own, and take nothing from there. A count is read by all heads, so it has
another place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import torch
import triton
import triton.language as tl
from torch import Tensor

from rtaccel.core.errors import ShapeError
from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._general.triton_tile import require_values
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_spec import Specialisation, Tiling, leave_out, power_of_two
from rtaccel.kernels.cached_attention import contract

MAX_HEAD_DIM = 128
"""Columns of a head: q and the sums over v lie in registers."""

TILE = 1024
"""Kept numbers of a tile. Not measured on a card."""


@triton.jit
def cached_attention_kernel(
    q_ptr, k_ptr, v_ptr, keys_ptr, values_ptr, count_ptr, bias_ptr, y_ptr, keys_out_ptr, values_out_ptr, count_out_ptr, scale,
    R: tl.constexpr, HEADS: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, Q: tl.constexpr, K: tl.constexpr,
    V: tl.constexpr, BIAS_ROWS: tl.constexpr, EMPTY_NAN: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Grid (streams * heads,). Q, K, V: (width of a row, first column)."""
    m, head = (tl.program_id(0) // HEADS).to(tl.int64), tl.program_id(0) % HEADS
    kv, width = head // GROUP * D, HEADS // GROUP * D
    # A count that no step has made reads no memory outside.
    count = tl.minimum(tl.maximum(tl.load(count_ptr + m).to(tl.int32), 0), 2 * R - 1)
    newest = count % R
    d = tl.arange(0, BLOCK_D)
    q = tl.load(q_ptr + m * Q[0] + Q[1] + head * D + d, mask=d < D, other=0.0) * scale
    k_new = tl.load(k_ptr + m * K[0] + K[1] + kv + d, mask=d < D, other=0.0)
    v_new = tl.load(v_ptr + m * V[0] + V[1] + kv + d, mask=d < D, other=0.0)
    largest = tl.full((), -float("inf"), tl.float32)
    total = tl.zeros((), tl.float32)
    acc = tl.zeros((BLOCK_D,), tl.float32)
    for r0 in range(0, R, BLOCK_R):
        r = r0 + tl.arange(0, BLOCK_R)
        age = (count - r + R) % R  # count is below 2 R, so no difference is below -R
        filled = (r < R) & (age <= count)
        at = keys_ptr + (m * width + kv + d[:, None]) * R + r[None, :]
        inside = (d[:, None] < D) & (r[None, :] < R)
        keys = tl.load(at, mask=inside, other=0.0)  # [BLOCK_D, BLOCK_R]
        keys = tl.where(r[None, :] == newest, k_new[:, None], keys)
        score = tl.sum(q[:, None] * tl.where(filled[None, :], keys, 0.0), 0)
        if bias_ptr is not None:
            row = head if BIAS_ROWS > 1 else 0
            score += tl.load(bias_ptr + row * R + age, mask=filled, other=0.0)
        score = tl.where(filled, score, -float("inf"))
        # A NaN among the scores is NaN in its exponential, whatever the largest is.
        now = tl.maximum(largest, tl.max(score, 0))
        base = tl.where(now == -float("inf"), 0.0, now)
        p = tl.exp(score - base)
        faded = tl.exp(largest - base)
        total = total * faded + tl.sum(p, 0)
        below = (r[:, None] < R) & (d[None, :] < D)
        place = (m * R + r[:, None]) * width + kv + d[None, :]
        values = tl.load(values_ptr + place, mask=below, other=0.0)  # [BLOCK_R, BLOCK_D]
        values = tl.where(r[:, None] == newest, v_new[None, :], values)
        acc = acc * faded + tl.sum(p[:, None] * tl.where(filled[:, None], values, 0.0), 0)
        largest = now
        if keys_out_ptr is not None and head % GROUP == 0:
            tl.store(keys_out_ptr + (m * width + kv + d[:, None]) * R + r[None, :], keys, mask=inside)
            tl.store(values_out_ptr + place, values, mask=below)
    y = acc / total if EMPTY_NAN else acc / tl.where(total == 0.0, 1.0, total)
    tl.store(y_ptr + (m * HEADS + head) * D + d, y, mask=d < D)
    if keys_out_ptr is None and head % GROUP == 0:
        tl.store(keys_ptr + (m * width + kv + d) * R + newest, k_new, mask=d < D)
        tl.store(values_ptr + (m * R + newest) * width + kv + d, v_new, mask=d < D)
    if head == 0:
        tl.store(count_out_ptr + m, tl.where(count + 1 < 2 * R, count + 1, R).to(tl.float32))


def specialize(stage: Stage, problem: Problem, in_place: bool = False) -> Specialisation:
    """A program has one stream, so the number of rows makes no other form. in_place: new keys and values lie over the old."""
    low, (q, k, v, keys) = contract.lower(stage), stage.inputs[:4]
    heads, d, places = low["heads"], low["head_dim"], keys.width
    block_d = power_of_two(d, 1, MAX_HEAD_DIM)
    block_r = power_of_two(places, 1, max(TILE // block_d, 16))
    rows = low["bias"].shape[0] if "bias" in low else 0
    pointers = ("q_ptr", "k_ptr", "v_ptr", "keys_ptr", "values_ptr", "count_ptr", "bias_ptr", "y_ptr", "keys_out_ptr",
                "values_out_ptr", "count_out_ptr")  # fmt: skip
    signature, absent = leave_out(
        {**dict.fromkeys(pointers, "*fp32"), "scale": "fp32"},
        bias_ptr=bool(rows),
        keys_out_ptr=not in_place,
        values_out_ptr=not in_place,
    )
    kinds = (f"_bias{rows}" if rows else "") + ("_nan" if low["empty_row"] == "nan" else "") + "_in_place" * in_place
    columns = [(value.width, low[name]) for value, name in ((q, "q_column"), (k, "k_column"), (v, "v_column"))]
    widths = "_".join(f"{width}-{column}" for width, column in columns)
    return Specialisation(
        name=f"cached_attention_R{places}_H{heads}_KV{low['kv_heads']}_D{d}_{widths}{kinds}",
        kernel=cached_attention_kernel,
        signature=signature,
        constants={
            "R": places, "HEADS": heads, "GROUP": heads // low["kv_heads"], "D": d, "Q": columns[0], "K": columns[1],
            "V": columns[2], "BIAS_ROWS": rows, "EMPTY_NAN": low["empty_row"] == "nan", "BLOCK_R": block_r, "BLOCK_D": block_d,
            **absent,
        },
        tiling=Tiling(1, block_r, block_d, num_warps=power_of_two(block_r * block_d // 256, 1, 4)),
    )  # fmt: skip


def supports(problem: Problem) -> str | None:
    d = int(problem.attrs["head_dim"])
    return None if d <= MAX_HEAD_DIM else f"holds q in registers, heads of at most {MAX_HEAD_DIM} columns, not {d}"


class Attention:
    """q, k, v, keys, values and count, as the contract has them -> (y, and the three states after the step); any M.

    over: outputs that may lie over an input that they follow, by their numbers."""

    over: Mapping[int, int] = MappingProxyType({1: 3, 2: 4})

    def __init__(self, stage: Stage, problem: Problem) -> None:
        low = contract.lower(stage)
        self._stage, self._heads, self._scale = stage, low["heads"], low["scale"]
        self._apart, self._in_place = (bind(specialize(stage, problem, in_place)) for in_place in (False, True))
        has_bias = "bias" in low
        self._fixed = {"bias_ptr": low["bias"].float().contiguous().to(problem.device)} if has_bias else {}

    def __call__(self, *given: Tensor) -> tuple[Tensor, ...]:
        return self.into((None,) * 4, *given)

    def into(self, outputs: Sequence[Tensor | None], *given: Tensor) -> tuple[Tensor, ...]:
        """outputs: where each result goes; None for one in memory of its own. Keys and values lie over the given ones, both of
        them, or apart from them."""
        x = require_values(self._stage, given)
        m = x[0].shape[0]
        made = tuple(
            torch.empty((m, *v.shape), dtype=torch.float32, device=x[0].device) if y is None else y
            for v, y in zip(self._stage.outputs, outputs)
        )
        same = [outputs[a] is not None and made[a].data_ptr() == x[b].data_ptr() for a, b in self.over.items()]
        if m and any(same) and not all(same):  # one form for both
            raise ShapeError("cached_attention", "keys or values alone in place", "both or neither", "Report it.")
        if m:
            inputs = ("q_ptr", "k_ptr", "v_ptr", "keys_ptr", "values_ptr", "count_ptr")
            results = {"y_ptr": made[0], "keys_out_ptr": made[1], "values_out_ptr": made[2], "count_out_ptr": made[3]}
            if all(same):
                results = {name: y for name, y in results.items() if name not in ("keys_out_ptr", "values_out_ptr")}
            launch = self._in_place if all(same) else self._apart
            launch((m * self._heads,), scale=self._scale, **dict(zip(inputs, x)), **results, **self._fixed)
        return made


def prepare(stage: Stage, problem: Problem) -> Prepared:
    return Attention(stage, problem)


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    for stage in (contract.make_stage(256, 4, 64), contract.make_stage(100, 8, 16, kv_heads=2, bias=8)):
        yield specialize(stage, Problem.of(stage, 1, "cuda"))
        yield specialize(stage, Problem.of(stage, 1, "cuda"), in_place=True)


register_impl(Impl("cached_attention", "triton_ring", "triton", 10, supports, prepare))
