"""Multi-head attention: softmax(scale * Q K^T + mask) V for each head, of values that hold their heads side by side.

q [M, T, ...], k and v [M, S, ...], float32; head h of q lies in columns q_column + h * head_dim and on, and so for k and
v, which have kv_heads heads (grouped query: head h reads head h // (heads / kv_heads)). The three inputs may be the
same packed value, which then is named three times.

    score[h, t, s] = sum_d (q[t, h, d] * scale) * k[s, h', d] + mask[h, t, s]        -infinity for s > t where causal
    y[t, h, :]     = sum_s exp(score - max_s score) * v[s, h', :] / sum_s exp(score - max_s score)

attrs: heads, head_dim, scale (default head_dim ** -0.5), causal (0/1), q_column, k_column, v_column, kv_heads (default
heads), empty_row, sequences (default 1). A fourth input, or a constant tensor `mask`, is added to the scores: float32 of S
columns and 1 row (for all queries), T rows, or heads * T rows (row h * T + t).
A sample may hold several sequences, as windows of an image or channels of a series are: T rows of q for each, one after the
other, and S of k and v. Each attends to itself. A mask may have sequences * heads * T rows then (row (n * heads + h) * T + t).
`empty_row` says what a query gets whose scores are all -infinity: "zero", as F.scaled_dot_product_attention gives, or
"nan", as a softmax written by hand gives. y float32 [M, T, heads * head_dim], or int8 with a static QParams:
clamp(rint(y / scale) + zero point), and a sample with a y that is not finite is marked as kernels/quantize does it. Numbers of
such a sample that are finite may be themselves or 0: its results are NaN.

A key that causal rules out is not read: a NaN in its v does not reach the query, where torch would multiply it by 0.
Source of the formula: Vaswani et al., Attention Is All You Need, 2017.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.stage import Problem, QParams, Stage, Value
from rtaccel.core.stage_traits import Int8Flow
from rtaccel.formats.int8 import inverse_scale
from rtaccel.kernels.attention.streaming import STREAMING
from rtaccel.kernels.quantize import contract as quantize


def lower(stage: Stage) -> Mapping[str, Any]:
    """Raises ShapeError where the heads do not fit the values, FormatError for an unknown empty_row."""
    attrs, y = stage.attrs, stage.outputs[0]
    heads, head_dim = int(attrs["heads"]), int(attrs["head_dim"])
    low: dict[str, Any] = {
        "heads": heads,
        "head_dim": head_dim,
        "kv_heads": int(attrs.get("kv_heads", heads)),
        "sequences": int(attrs.get("sequences", 1)),
        "scale": float(attrs.get("scale", head_dim**-0.5)),
        "causal": int(attrs.get("causal", 0)),
        **{name: int(attrs.get(name, 0)) for name in ("q_column", "k_column", "v_column")},
        "empty_row": attrs.get("empty_row", "zero"),
        "inv_scale": 0.0 if y.quant is None else inverse_scale(y.quant),
        "zero_point": 0 if y.quant is None else y.quant.zero_point,
    }
    if "mask" in stage.tensors:
        mask = stage.tensors["mask"]
        low["mask"], low["mask_rows"] = mask, mask.numel() // max(mask.shape[-1], 1)
    elif len(stage.inputs) > 3:
        low["mask_rows"] = stage.inputs[3].steps
    _check(stage, low)
    return low


def _check(stage: Stage, low: Mapping[str, Any]) -> None:
    q, k, v = stage.inputs[:3]
    heads, kv_heads, head_dim, n = low["heads"], low["kv_heads"], low["head_dim"], low["sequences"]
    fits = (
        heads > 0
        and n > 0
        and q.steps % n == 0
        and k.steps % n == 0
        and head_dim > 0
        and kv_heads > 0
        and heads % kv_heads == 0
        and k.steps == v.steps
        and stage.outputs[0].steps == q.steps
        and stage.outputs[0].width == heads * head_dim
        and 0 <= low["q_column"] <= q.width - heads * head_dim
        and 0 <= low["k_column"] <= k.width - kv_heads * head_dim
        and 0 <= low["v_column"] <= v.width - kv_heads * head_dim
    )
    if fits and "mask_rows" in low:
        columns = stage.tensors["mask"].shape[-1] if "mask" in low else stage.inputs[3].width
        fits = columns == k.steps // n and low["mask_rows"] in (
            1,
            q.steps // n,
            heads * (q.steps // n),
            heads * q.steps,
        )
    if not fits:
        widths = ", ".join(f"[{value.steps}, {value.width}]" for value in (*stage.inputs, *stage.outputs))
        raise ShapeError(
            "attention",
            f"{heads} heads of {head_dim} ({kv_heads} for keys and values), {n} sequences, values {widths}",
            "heads that lie inside their values, as many keys as values, a mask of S columns and 1, T or heads * T rows",
            "Check heads, head_dim, kv_heads, sequences and the columns.",
        )
    if low["empty_row"] not in ("zero", "nan"):
        raise FormatError("attention", f"empty_row {low['empty_row']!r}", '"zero" or "nan"', "Name one of these.")


@dataclass(frozen=True)
class Heads:
    """The inputs taken apart, N sequences a sample: q [M * N, heads, T, D], k and v [M * N, heads, S, D], mask broadcastable to
    [M * N, heads, T, S]."""

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None


def take_apart(stage: Stage, low: Mapping[str, Any], inputs: tuple[Tensor, ...]) -> Heads:
    n = low["sequences"]
    m, t, s = inputs[0].shape[0], stage.inputs[0].steps // n, stage.inputs[1].steps // n

    def part(index: int, column: str, heads: int) -> Tensor:
        value = stage.inputs[index]
        x = inputs[index].reshape(m * n, value.steps // n, value.width)
        x = x[:, :, low[column] : low[column] + heads * low["head_dim"]]
        x = x.reshape(m * n, value.steps // n, heads, low["head_dim"]).transpose(1, 2)
        return x.repeat_interleave(low["heads"] // heads, 1)

    mask = None
    if "mask_rows" in low:
        given = low["mask"].expand(m, *low["mask"].shape) if "mask" in low else inputs[3]
        rows, per_head = low["mask_rows"], low["mask_rows"] > max(t, 1)
        each = n if rows == n * low["heads"] * t else 1
        mask = given.reshape(m, each, low["heads"] if per_head else 1, t if rows > 1 else 1, s)
        mask = mask.expand(m, n, *mask.shape[2:]).reshape(m * n, *mask.shape[2:])
    if low["causal"]:
        later = torch.ones(t, s, dtype=torch.bool, device=inputs[0].device).triu(1)
        causal = torch.zeros(later.shape, device=later.device).masked_fill(later, float("-inf"))
        mask = causal if mask is None else mask + causal
    kv = low["kv_heads"]
    return Heads(part(0, "q_column", low["heads"]), part(1, "k_column", kv), part(2, "v_column", kv), mask)


def scores(low: Mapping[str, Any], parts: Heads) -> Tensor:
    s = (parts.q * low["scale"]) @ parts.k.transpose(-2, -1)
    return s if parts.mask is None else s + parts.mask


def probabilities(low: Mapping[str, Any], s: Tensor) -> Tensor:
    """softmax over the keys; a row of -infinity as `empty_row` says."""
    p = torch.softmax(s, -1)
    if low["empty_row"] == "zero":
        p = torch.where((s == float("-inf")).all(-1, keepdim=True), torch.zeros_like(p), p)
    return p


def output(stage: Stage, low: Mapping[str, Any], y: Tensor) -> tuple[Tensor]:
    """y [M * N, heads, T, D] as the stage gives it."""
    y = y.transpose(1, 2).reshape(y.shape[0] // low["sequences"], *stage.outputs[0].shape).float()
    if stage.outputs[0].quant is None:
        return (y,)
    return (quantize.static(y.flatten(1), low["inv_scale"], low["zero_point"]).reshape(y.shape),)


def reference(stage: Stage, *inputs: Tensor) -> tuple[Tensor]:
    low = lower(stage)
    parts = take_apart(stage, low, tuple(x.double() for x in inputs))
    return output(stage, low, probabilities(low, scores(low, parts)) @ parts.v)


def tolerance(stage: Stage, *inputs: Tensor) -> Tolerance:
    """u: the unit of float32. A score is a sum of D products in any order, of a q that was scaled before: off by e =
    (D + 4) u (sum |q| |k| scale + |mask|). An exp is off by 8 u and its argument's error, at the top as at s: factor
    expm1(2 max e). Sum and quotient: S + 4 roundings; the sum over v: S + 2."""
    low = lower(stage)
    u = torch.finfo(torch.float32).eps
    parts = take_apart(stage, low, tuple(x.double() for x in inputs))
    p = probabilities(low, scores(low, parts))
    size = abs(low["scale"]) * parts.q.abs() @ parts.k.abs().transpose(-2, -1)
    if parts.mask is not None:
        size = size + torch.where(parts.mask.isinf(), torch.zeros_like(parts.mask), parts.mask).abs()
    e = ((low["head_dim"] + 4) * u * size).masked_fill(p == 0, 0.0).amax(-1, keepdim=True)
    keys = parts.k.shape[2]
    relative = torch.expm1(2 * e) + u * (16 + 2 * keys + 6)
    atol = (relative * (p @ parts.v.abs()) + 1e-37).transpose(1, 2)
    return Tolerance(atol=atol.reshape(inputs[0].shape[0], *stage.outputs[0].shape), steps=1)


def make_stage(
    t: int, s: int, heads: int, head_dim: int, kv_heads: int = 0, mask: str = "", causal: bool = False,
    quant: QParams | None = None, empty_row: str = "zero", sequences: int = 1,
) -> Stage:  # fmt: skip
    """k and v lie in one packed value behind 3 columns of something else. mask: "", or "constant" or "input" and the
    number of its rows (1, T or heads * T; sequences * heads * T)."""
    kv, g = kv_heads or heads, torch.Generator().manual_seed(t + s)
    q = Value("q", heads * head_dim + 2, steps=sequences * t)
    packed = Value("kv", 3 + 2 * kv * head_dim, steps=sequences * s)
    inputs, tensors = [q, packed, packed], {}
    if mask:
        kind, rows = mask.split()
        if kind == "input":
            inputs.append(Value("mask", s, steps=int(rows)))
        else:
            tensors["mask"] = random_mask(int(rows), s, g)
    attrs = {
        "heads": heads, "head_dim": head_dim, "kv_heads": kv, "scale": head_dim**-0.5, "causal": int(causal),
        "q_column": 1, "k_column": 3, "v_column": 3 + kv * head_dim, "empty_row": empty_row, "sequences": sequences,
    }  # fmt: skip
    y = Value("y", heads * head_dim, "int8" if quant else "float32", quant, sequences * t)
    return Stage("attention", "case", tuple(inputs), (y,), tensors, attrs)


def random_mask(rows: int, s: int, g: torch.Generator) -> Tensor:
    """Some keys ruled out, and in one row all of them."""
    mask = torch.randn(rows, s, generator=g)
    mask[torch.rand(rows, s, generator=g) < 0.3] = float("-inf")
    mask[rows // 2] = float("-inf")
    return mask


def make_inputs(stage: Stage, rows: int, seed: int) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    q = torch.randn(rows, *stage.inputs[0].shape, generator=g)
    kv = torch.randn(rows, *stage.inputs[1].shape, generator=g) * 1.5
    masks = (random_mask(rows * v.steps, v.width, g).reshape(rows, *v.shape) for v in stage.inputs[3:])
    return (q, kv, kv, *masks)


def cases() -> Iterator[Case]:
    quant = QParams(0.017, 9)
    stages = [
        (1, make_stage(1, 1, 1, 1)),
        (3, make_stage(1, 7, 2, 5)),
        (2, make_stage(5, 1, 3, 4)),
        (2, make_stage(7, 13, 2, 8)),
        (1, make_stage(33, 35, 1, 19, causal=True)),
        (2, make_stage(17, 17, 4, 16, kv_heads=2, causal=True)),
        (1, make_stage(32, 32, 2, 64)),
        (1, make_stage(40, 70, 2, 33, mask="constant 1")),
        (2, make_stage(9, 11, 2, 3, mask="constant 9", empty_row="nan")),
        (2, make_stage(9, 11, 2, 3, mask="constant 18")),
        (3, make_stage(6, 18, 2, 8, mask="input 1")),
        (3, make_stage(6, 18, 2, 8, mask="input 6", causal=True)),
        (2, make_stage(6, 18, 2, 8, mask="input 12", empty_row="nan")),
        (2, make_stage(7, 13, 3, 5, quant=quant)),
        (1, make_stage(33, 20, 2, 16, quant=quant, causal=True)),
        (2, make_stage(5, 6, 1, 70, quant=quant, mask="input 1")),
        (2, make_stage(40, 9, 2, 5)),  # heads of few columns, many queries
        (1, make_stage(37, 21, 2, 16, mask="constant 37", empty_row="nan")),
        (2, make_stage(33, 7, 3, 4, quant=quant)),
        (1, make_stage(70, 11, 1, 8)),
        (2, make_stage(8, 8, 4, 8, sequences=4)),
        (3, make_stage(5, 7, 2, 3, kv_heads=1, sequences=3, causal=True, mask="constant 5")),
        (2, make_stage(19, 4, 2, 16, sequences=2, mask="constant 38", empty_row="nan")),
        (2, make_stage(3, 9, 2, 5, sequences=5, mask="constant 30", quant=quant)),
        (2, make_stage(6, 6, 2, 8, sequences=2, mask="input 12")),
        (2, make_stage(6, 6, 2, 8, sequences=2, mask="input 24")),
    ]
    for index, (rows, stage) in enumerate(stages):

        def make(seed: int, rows: int = rows, stage: Stage = stage) -> tuple[Tensor, ...]:
            return make_inputs(stage, rows, seed)

        t, s = stage.inputs[0].steps, stage.inputs[1].steps
        yield Case(f"{index}-M{rows}-T{t}-S{s}-H{stage.attrs['heads']}-D{stage.attrs['head_dim']}", stage, make)


def cost(problem: Problem) -> Cost:
    t, s, n = problem.in_steps[0], problem.in_steps[1], int(problem.attrs.get("sequences", 1))
    width = problem.out_widths[0]
    kv = 2 * s * width * int(problem.attrs.get("kv_heads", problem.attrs["heads"])) // int(problem.attrs["heads"])
    moved = 4 * (t * width + kv) + t * width * (1 if problem.out_dtypes[0] == "int8" else 4)
    return Cost(bytes=problem.rows * moved, flops=problem.rows * 4 * t * s * width // n)


OPERATOR = register_operator(
    Operator(
        name="attention",
        axes={
            "q": ("M", "T", "heads * head_dim"), "k": ("M", "S", "kv_heads * head_dim"),
            "v": ("M", "S", "kv_heads * head_dim"), "mask": ("1 | T | heads * T", "S"), "y": ("M", "T", "heads * head_dim"),
        },
        reference=reference,
        cases=cases,
        tolerance=tolerance,
        cost=cost,
        lower=lower,
        by_row=False,
        make_stage=make_stage,
        int8=Int8Flow(writes=True),
        streaming=STREAMING,
    )
)  # fmt: skip
