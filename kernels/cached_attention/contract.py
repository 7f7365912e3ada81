"""Cached attention: a query of one time step, and the keys and values of the last R time steps, which the stream keeps.

q, k, v float32 [M, 1, ...] of one time step, as in kernels/attention: head h of q lies in columns q_column + h * head_dim and on,
and so for k and v with their kv_heads heads (head h reads head h // (heads / kv_heads)). The three may be one packed value.

States: `keys` [kv_heads * head_dim, R], a column for each time step; `values` [R, kv_heads * head_dim], a row for each; `count`
[1, 1], the steps c that were made before. After 2 R - 1 it goes back to R, so that float32 holds it exactly. The new key and
value go to place c mod R, the oldest. n = min(c + 1, R) places are filled, and place j is d = (c - j) mod R time steps old.

    score[h, j] = sum_e (q[h, e] * scale) * keys[h', e, j] + bias[h, d]
    y[h, :]     = sum_j exp(score - max_j score) * values[j, h', :] / sum_j exp(score - max_j score)

`bias` [1 | heads, R], a constant, may be left out: what a mask adds to a score by age. Where every score is -infinity, y is 0
(empty_row "zero") or NaN ("nan"). Attributes: heads, head_dim, kv_heads, scale, q_column, k_column, v_column, empty_row.
A step reads each kept number once: 8 R kv_heads head_dim bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.stage import Problem, Stage, Value


def lower(stage: Stage) -> Mapping[str, Any]:
    """Raises ShapeError where heads, states and bias do not fit, FormatError for an unknown empty_row."""
    attrs = stage.attrs
    heads, head_dim = int(attrs["heads"]), int(attrs["head_dim"])
    low: dict[str, Any] = {
        "heads": heads,
        "head_dim": head_dim,
        "kv_heads": int(attrs.get("kv_heads", heads)),
        "scale": float(attrs.get("scale", head_dim**-0.5)),
        **{name: int(attrs.get(name, 0)) for name in ("q_column", "k_column", "v_column")},
        "empty_row": attrs.get("empty_row", "zero"),
    }
    if "bias" in stage.tensors:
        low["bias"] = stage.tensors["bias"]
    _check(stage, low)
    return low


def _check(stage: Stage, low: Mapping[str, Any]) -> None:
    q, k, v, keys, values, count = stage.inputs
    heads, kv_heads, head_dim = low["heads"], low["kv_heads"], low["head_dim"]
    places, width = keys.width, kv_heads * head_dim
    fits = (
        heads > 0
        and head_dim > 0
        and kv_heads > 0
        and heads % kv_heads == 0
        and {q.steps, k.steps, v.steps, count.steps, count.width} == {1}
        and (keys.steps, values.steps, values.width) == (width, places, width)
        and stage.outputs[0].width == heads * head_dim
        and 0 <= low["q_column"] <= q.width - heads * head_dim
        and 0 <= low["k_column"] <= k.width - width
        and 0 <= low["v_column"] <= v.width - width
        and ("bias" not in low or tuple(low["bias"].shape) in ((1, places), (heads, places)))
    )
    if not fits:
        shapes = ", ".join(f"[{value.steps}, {value.width}]" for value in (*stage.inputs, *stage.outputs))
        raise ShapeError(
            "cached_attention",
            f"{heads} heads of {head_dim} ({kv_heads} for keys and values), values {shapes}",
            "heads that lie inside their values, keys [kv_heads * head_dim, R], values [R, kv_heads * head_dim], count [1, 1]",
            "Check heads, head_dim, kv_heads, the columns and the bias.",
        )
    if low["empty_row"] not in ("zero", "nan"):
        raise FormatError(
            "cached_attention", f"empty_row {low['empty_row']!r}", '"zero" or "nan"', "Name one of these."
        )


def advanced(
    stage: Stage, low: Mapping[str, Any], k: Tensor, v: Tensor, keys: Tensor, values: Tensor, count: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(keys, values and count after the step, the age of each place [M, R], -1 where it is empty)."""
    m, width, places = k.shape[0], stage.inputs[3].steps, stage.inputs[3].width
    k = k.flatten(1)[:, low["k_column"] : low["k_column"] + width]
    v = v.flatten(1)[:, low["v_column"] : low["v_column"] + width]
    c = count.reshape(m).long()
    keys, values, each = (
        keys.reshape(m, width, places).clone(),
        values.reshape(m, places, width).clone(),
        torch.arange(m),
    )
    keys[each, :, c % places], values[each, c % places] = k.to(keys.dtype), v.to(values.dtype)
    age = (c[:, None] - torch.arange(places)) % places
    age = torch.where(age <= c[:, None], age, -1)
    after = torch.where(c + 1 < 2 * places, c + 1, places)
    return keys, values, after.to(count.dtype).reshape(count.shape), age


def parts(
    stage: Stage, low: Mapping[str, Any], q: Tensor, keys: Tensor, values: Tensor, age: Tensor
) -> tuple[Tensor, ...]:
    """(q [M, heads, 1, D], keys [M, heads, D, R], values [M, heads, R, D], what is added to scores [M, heads | 1, 1, R])."""
    m, d, kv = q.shape[0], low["head_dim"], low["kv_heads"]
    each = low["heads"] // kv
    q = q.flatten(1)[:, low["q_column"] : low["q_column"] + low["heads"] * d].reshape(m, low["heads"], 1, d)
    keys = keys.reshape(m, kv, d, keys.shape[-1]).repeat_interleave(each, 1)
    values = values.reshape(m, values.shape[1], kv, d).transpose(1, 2).repeat_interleave(each, 1)
    added = torch.zeros(m, 1, 1, age.shape[1], dtype=q.dtype)
    if "bias" in low:
        added = low["bias"].to(q.dtype)[:, age.clamp(min=0)].transpose(0, 1)[:, :, None]
    return q, keys, values, added.masked_fill((age < 0)[:, None, None], float("-inf"))


def probabilities(low: Mapping[str, Any], q: Tensor, keys: Tensor, added: Tensor) -> Tensor:
    s = (q * low["scale"]) @ keys + added
    p = torch.softmax(s, -1)
    if low["empty_row"] == "zero":
        p = torch.where((s == float("-inf")).all(-1, keepdim=True), torch.zeros_like(p), p)
    return p


def _filled(values: Tensor, age: Tensor) -> Tensor:
    """Without what lies in places that are empty."""
    return torch.where((age < 0)[:, None, :, None], 0.0, values)


def compute(stage: Stage, wide: torch.dtype, *inputs: Tensor) -> tuple[Tensor, ...]:
    low, (q, k, v, keys, values, count) = lower(stage), inputs
    keys, values, after, age = advanced(stage, low, k, v, keys, values, count)
    heads, of_keys, of_values, added = parts(stage, low, q.to(wide), keys.to(wide), values.to(wide), age)
    of_keys = torch.where((age < 0)[:, None, None], 0.0, of_keys)
    y = probabilities(low, heads, of_keys, added) @ _filled(of_values, age)
    y = y.reshape(q.shape[0], *stage.outputs[0].shape).float()
    return y, keys.reshape(inputs[3].shape), values.reshape(inputs[4].shape), after


def reference(stage: Stage, *inputs: Tensor) -> tuple[Tensor, ...]:
    return compute(stage, torch.float64, *inputs)


def tolerance(stage: Stage, *inputs: Tensor) -> Tolerance:
    """As of kernels/attention, with the R places as its keys. States are copies and counts: equal, so within any bound."""
    low, (q, k, v, keys, values, count) = lower(stage), inputs
    u = torch.finfo(torch.float32).eps
    keys, values, _, age = advanced(stage, low, k, v, keys, values, count)
    heads, of_keys, of_values, added = parts(stage, low, q.double(), keys.double(), values.double(), age)
    of_keys = torch.where((age < 0)[:, None, None], 0.0, of_keys)
    p = probabilities(low, heads, of_keys, added)
    size = abs(low["scale"]) * heads.abs() @ of_keys.abs() + torch.where(added.isinf(), 0.0, added.abs())
    e = ((low["head_dim"] + 4) * u * size).masked_fill(p == 0, 0.0).amax(-1, keepdim=True)
    relative = torch.expm1(2 * e) + u * (16 + 2 * age.shape[1] + 6)
    return Tolerance(atol=float((relative * (p @ _filled(of_values, age).abs())).max()) + 1e-37)


def packed_bytes(stage: Stage) -> int:
    """The bias twice, so that a turned ring finds it in one piece."""
    bias = stage.tensors.get("bias")
    return 4096 if bias is None else 4096 + bias.shape[0] * 4 * (2 * bias.shape[1] + 64)


def make_stage(
    places: int, heads: int, head_dim: int, kv_heads: int = 0, bias: int = 0, empty_row: str = "zero"
) -> Stage:
    """k and v lie in one packed value behind 3 columns of something else. bias: its rows, 0 for none."""
    kv, g = kv_heads or heads, torch.Generator().manual_seed(places + heads)
    width = kv * head_dim
    packed = Value("kv", 3 + 2 * width)
    keys, values, count = Value("keys", places, steps=width), Value("values", width, steps=places), Value("count", 1)
    inputs = (Value("q", heads * head_dim + 2), packed, packed, keys, values, count)
    states = tuple(replace(value, name=f"{value.name}_out") for value in (keys, values, count))
    outputs = (Value("y", heads * head_dim), *states)
    tensors = {}
    if bias:
        made = torch.randn(bias, places, generator=g)
        made[:, 1:] = torch.where(torch.rand(bias, places - 1, generator=g) < 0.3, float("-inf"), made[:, 1:])
        if empty_row == "nan":
            made[:] = float("-inf")
        tensors["bias"] = made
    attrs = {
        "heads": heads, "head_dim": head_dim, "kv_heads": kv, "scale": head_dim**-0.5, "q_column": 1, "k_column": 3,
        "v_column": 3 + width, "empty_row": empty_row,
    }  # fmt: skip
    return Stage("cached_attention", "case", inputs, outputs, tensors, attrs)


def make_inputs(stage: Stage, rows: int, seed: int) -> tuple[Tensor, ...]:
    """Counts before, at and behind the first turn; what no step has written is NaN."""
    g = torch.Generator().manual_seed(seed)
    q, kv, _, keys, values, _ = (torch.randn(rows, *v.shape, generator=g) for v in stage.inputs)
    places = stage.inputs[3].width
    count = torch.randint(0, 2 * places, (rows,), generator=g)
    count[0] = (0, places - 1, 2 * places - 1)[seed % 3]
    empty = torch.arange(places) >= count[:, None]
    keys = torch.where(empty[:, None], float("nan"), keys.reshape(rows, -1, places)).reshape(keys.shape)
    values = torch.where(empty[..., None], float("nan"), values.reshape(rows, places, -1)).reshape(values.shape)
    return q, kv, kv, keys, values, count.float().reshape(rows, *stage.inputs[5].shape)


def cases() -> Iterator[Case]:
    stages = [
        (1, make_stage(1, 1, 1)), (3, make_stage(7, 2, 5)), (2, make_stage(16, 4, 8)), (4, make_stage(33, 4, 16, kv_heads=2)),
        (2, make_stage(64, 2, 64)), (2, make_stage(130, 1, 70)), (3, make_stage(61, 8, 3, kv_heads=1)),
        (3, make_stage(12, 2, 8, bias=1)), (5, make_stage(37, 4, 16, bias=4)), (2, make_stage(9, 2, 33, bias=2, empty_row="nan")),
        (2, make_stage(5, 3, 4, bias=1, empty_row="nan")),
    ]  # fmt: skip
    for index, (rows, stage) in enumerate(stages):

        def make(seed: int, rows: int = rows, stage: Stage = stage) -> tuple[Tensor, ...]:
            return make_inputs(stage, rows, seed)

        a = stage.attrs
        yield Case(f"{index}-M{rows}-R{stage.inputs[3].width}-H{a['heads']}-D{a['head_dim']}", stage, make)


def cost(problem: Problem) -> Cost:
    width, places, kv = problem.out_widths[0], problem.in_widths[3], problem.in_steps[3]
    return Cost(bytes=problem.rows * 4 * (2 * width + 2 * kv * (places + 2)), flops=problem.rows * 4 * places * width)


OPERATOR = register_operator(
    Operator(
        name="cached_attention",
        axes={
            "q": ("M", "1", "heads * head_dim"), "k": ("M", "1", "kv_heads * head_dim"), "v": ("M", "1", "kv_heads * head_dim"),
            "keys": ("M", "kv_heads * head_dim", "R"), "values": ("M", "R", "kv_heads * head_dim"), "count": ("M", "1", "1"),
            "bias": ("1 | heads", "R"), "y": ("M", "1", "heads * head_dim"),
        },
        reference=reference,
        cases=cases,
        tolerance=tolerance,
        cost=cost,
        lower=lower,
        packed_bytes=packed_bytes,
        by_row=False,
        make_stage=make_stage,
    )
)  # fmt: skip
