"""Stacks that run in both directions: one launch a layer, in which each direction has programs of its own, side by side.

A layer reads what both directions of the one below gave, so that no layer begins before the one below ends: launches follow
each other, and between them h lies in device memory as int8. In a layer everything is as in window.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rtaccel.core.registry import Prepared
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._gpu.triton_launch import Launch, bind
from rtaccel.kernels._gpu.triton_spec import Specialisation, Tiling, leave_out
from rtaccel.kernels._persistent.triton_exchange import finish
from rtaccel.kernels.recurrent.layout import Geometry, takes_lengths
from rtaccel.kernels.recurrent.triton.config import KernelConfig, Operands, multiprocessors, select_config, unsupported
from rtaccel.kernels.recurrent.triton.float32_kernels import length
from rtaccel.kernels.recurrent.triton.kernel import Weights, input_words, persistent_tiles, state_words, time_step
from rtaccel.kernels.recurrent.triton.window import all_finite, output_of, zeros_behind

POINTERS = {"float32": "*fp32", "int8": "*i8"}


@triton.jit(do_not_specialize=["x_zero_point", "y_zero_point", "first_stream"])
def bidirectional_kernel(
    given_ptr, x_ptr, y_ptr, counts_ptr, h0_ptr, c0_ptr, hn_ptr, cn_ptr, words_ptr, scales_ptr, params_ptr, compensation_ptr,
    exchange_ptr, sync_ptr, x_inverse, x_zero_point, h_inverse, y_inverse, y_zero_point, first_stream,
    CUT: tl.constexpr, LAYERS: tl.constexpr, LAYER: tl.constexpr, GIVEN: tl.constexpr, T: tl.constexpr, B: tl.constexpr,
    BATCH_FIRST: tl.constexpr, LAST: tl.constexpr, STATES: tl.constexpr, KEPT: tl.constexpr, DYNAMIC: tl.constexpr,
    LONGEST: tl.constexpr,
):  # fmt: skip
    """Grid (PARTS, streams, 2). given [.., GIVEN]: x of the stack, whose NaN and infinities a stream feels in every layer;
    x [.., K]: of this layer; y [.., 2 H]. Operands: those of the programs of one direction after those of the other."""
    BU: tl.constexpr = CUT.BU
    CH: tl.constexpr = CUT.CH
    NH: tl.constexpr = CUT.NH
    H: tl.constexpr = CUT.H
    K: tl.constexpr = CUT.K
    program, stream, back = tl.program_id(0), first_stream + tl.program_id(1), tl.program_id(2)
    sample, row = (stream // B).to(tl.int64), stream % B
    GIVEN_STEP: tl.constexpr = GIVEN if BATCH_FIRST else B * GIVEN
    X_STEP: tl.constexpr = K if BATCH_FIRST else B * K
    Y_STEP: tl.constexpr = 2 * H if BATCH_FIRST else B * 2 * H
    STATE_STEP: tl.constexpr = B * H
    place = back * CUT.PARTS + program
    given_ptr += sample * T * B * GIVEN + row * (T * GIVEN if BATCH_FIRST else GIVEN)
    x_ptr += sample * T * B * K + row * (T * K if BATCH_FIRST else K)
    if LAST:
        y_ptr += stream.to(tl.int64) * (2 * H) + back * H
    else:
        y_ptr += sample * T * B * 2 * H + row * (T * 2 * H if BATCH_FIRST else 2 * H) + back * H
    state_row = sample * LAYERS * 2 * B * H + row * H
    own = state_row + (2 * LAYER + back) * STATE_STEP
    words_ptr += place * CUT.FIRST_WORDS
    scales_ptr += place * (CUT.SCALES_X + CUT.SCALES_H)
    params_ptr += place * CUT.NUMBERS
    compensation_ptr += place * CUT.GATES * BU
    exchange_ptr += (tl.program_id(1) * 2 + back) * (2 * CUT.SLOT)
    sync_ptr += (tl.program_id(1) * 2 + back) * 2
    first = tl.full((), 1, tl.int32)
    if CUT.PARTS > 1:
        first = tl.load(sync_ptr + 1) + 1

    tiles = persistent_tiles(words_ptr, CUT)
    n = program * BU + tl.arange(0, BU)
    hidden = ()
    if STATES:
        hidden = state_words(h0_ptr + own, h_inverse, H, CH, NH)
        states = (tl.load((c0_ptr if CUT.GATES == 4 else h0_ptr) + own + n, mask=n < H, other=0.0),)
    else:
        for _ in tl.static_range(NH):
            hidden = hidden + (tl.zeros((CH,), tl.int32),)  # noqa: RUF005
        states = (tl.zeros((BU,), tl.float32),)
    steps, known = T, True
    if counts_ptr is not None:
        steps, known = length(counts_ptr, stream, T, B, LONGEST)
    alive = all_finite(
        given_ptr, h0_ptr + state_row, c0_ptr + state_row, GIVEN_STEP, STATE_STEP, steps, GIVEN, 2 * LAYERS, STATES, CUT
    )  # fmt: skip
    if counts_ptr is not None:
        alive = alive & known
    for t in range(steps):
        at = tl.where(back == 1, steps - 1 - t, t)
        x_words, x_scale = input_words(x_ptr + at * X_STEP, x_inverse, x_zero_point, K, CUT.CX, CUT.NX, DYNAMIC)
        hidden, states, outputs, alive = time_step(
            tiles, hidden, states, x_words, x_scale, alive, t > 0,
            Weights(words_ptr, scales_ptr, params_ptr, compensation_ptr), exchange_ptr, first + t, h_inverse, program, CUT,
        )  # fmt: skip
        h = outputs[0]
        y = output_of(h, alive, y_ptr, y_inverse, y_zero_point)
        if LAST:
            # a tile of conditions, because the interpreter of triton 3.9 widens a scalar one
            tl.store(y_ptr + n, y, mask=(n < H) & (at + tl.zeros_like(n) == T - 1))
        else:
            tl.store(y_ptr + at * Y_STEP + n, y, mask=n < H)
        if KEPT:
            end = (n < H) & (t + tl.zeros_like(n) == steps - 1)
            tl.store(hn_ptr + own + n, tl.where(alive, h, float("nan")), mask=end)
            if CUT.GATES == 4:
                tl.store(cn_ptr + own + n, tl.where(alive, states[0], float("nan")), mask=end)
    if counts_ptr is not None:
        zeros_behind(y_ptr, n, steps, y_zero_point, Y_STEP, H, T, LAST)
    if CUT.PARTS > 1:
        finish(sync_ptr, CUT.PARTS, first + steps - 1)


def layer_problem(problem: Problem, layer: int) -> Problem:
    """One direction of a layer, as a stack of its own."""
    g = Geometry.of(problem.attrs)
    inputs = g.width(layer, problem.in_widths[0])
    attrs = {**problem.attrs, "layers": 1, "directions": 1}
    return replace(problem, in_widths=(inputs, *problem.in_widths[1:]), attrs=attrs)


def configs_of(problem: Problem, gates: int) -> list[KernelConfig] | str:
    """The cut of each layer, for half of the programs that the device holds at once; or why there is none."""
    found = []
    for layer in range(Geometry.of(problem.attrs).layers):
        one = layer_problem(problem, layer)
        kernel_config = unsupported(one) or select_config(one, gates, multiprocessors() // 2)
        if isinstance(kernel_config, str):
            return kernel_config
        found.append(kernel_config)
    return found


def specialize(problem: Problem, kernel_config: KernelConfig, layer: int) -> Specialisation:
    g, attrs = Geometry.of(problem.attrs), problem.attrs
    counted = takes_lengths(problem.in_dtypes)
    top, states, kept = layer == g.layers - 1, len(problem.in_widths) > 1 + counted, len(problem.out_widths) > 1
    given = problem.in_dtypes[0]
    x, y = given if layer == 0 else "int8", problem.out_dtypes[0] if top else "int8"
    dynamic = x == "float32" and "x_scale" not in attrs
    kind = x if x == "int8" else "dynamic" if dynamic else "static"
    kind += f"_int4_g{kernel_config.group}" if kernel_config.group else ""
    extras = (
        ("_states" if states else "_kept" if kept else "")
        + ("_last" if g.last_only and top else "")
        + ("_first" if g.batch_first else "")
        + ("_lengths" if counted else "")
        + ("_longest" if attrs.get("longest") else "")
    )
    floats = ("h0_ptr", "c0_ptr", "hn_ptr", "cn_ptr", "params_ptr")
    signature, absent = leave_out({
        "given_ptr": POINTERS[given], "x_ptr": POINTERS[x], "y_ptr": POINTERS[y], "counts_ptr": "*i64",
        **dict.fromkeys(floats, "*fp32"), "words_ptr": "*i32", "scales_ptr": "*i32", "compensation_ptr": "*i32",
        "exchange_ptr": "*i64", "sync_ptr": "*i32", "x_inverse": "fp32", "x_zero_point": "i32", "h_inverse": "fp32",
        "y_inverse": "fp32", "y_zero_point": "i32", "first_stream": "i32",
    }, counts_ptr=counted)  # fmt: skip
    return Specialisation(
        name=f"{problem.op}_both_T{g.time}_B{g.batch}_K{kernel_config.inputs}_H{g.hidden}_{layer}of{g.layers}_P{kernel_config.parts}_{kind}_{y}{extras}",
        kernel=bidirectional_kernel,
        signature=signature,
        constants={
            "CUT": kernel_config.cut(), "LAYERS": g.layers, "LAYER": layer, "GIVEN": problem.in_widths[0],
            "T": g.time, "B": g.batch, "BATCH_FIRST": bool(g.batch_first), "LAST": bool(g.last_only) and top,
            "STATES": states, "KEPT": kept, "DYNAMIC": dynamic, "LONGEST": bool(attrs.get("longest")), **absent,
        },
        tiling=Tiling(1, kernel_config.units, 4 * kernel_config.chunks_x[0], num_warps=kernel_config.num_warps),
        cooperative=kernel_config.parts > 1,
    )  # fmt: skip


@dataclass(frozen=True)
class LayerLaunch:
    """One launch: its kernel, the numbers of both directions, what its programs exchange, and its output."""

    kernel_config: KernelConfig
    launch: Launch
    operands: Operands
    exchange: Tensor
    sync: Tensor
    at_once: int
    dtype: torch.dtype
    shape: tuple[int, ...]


def _operands(
    low: Mapping[str, Any], geometry: Geometry, layer: int, kernel_config: KernelConfig, device: str
) -> Operands:
    """Of a layer: one direction's after the other's."""
    both = []
    for number, _, suffix in geometry.suffixes():
        if number != layer:
            continue
        one = {k.replace(suffix, "_l0"): v for k, v in low.items() if f"{k}_".find(f"{suffix}_") >= 0}
        if not suffix.endswith("_reverse"):
            one = {k: v for k, v in one.items() if "_reverse" not in k}
        one |= {
            name: low[name] for name in ("h_inv_scale", "y_inv_scale", "y_zero_point", "x_inv_scale", "x_zero_point")
        }
        if layer:
            one |= {"x_inv_scale": 0.0, "x_zero_point": 0}
        if layer < geometry.layers - 1:
            one |= {"y_inv_scale": low["h_inv_scale"], "y_zero_point": 0}
        both.append(Operands.of(one, kernel_config, device))
    there, back = both
    joined = {
        f.name: torch.cat([getattr(there, f.name), getattr(back, f.name)])
        for f in fields(Operands)
        if isinstance(getattr(there, f.name), Tensor)
    }
    return replace(there, **joined)


def prepared(stage: Stage, problem: Problem, gates: int, low: Mapping[str, Any]) -> Prepared:
    geometry, device = Geometry.of(stage.attrs), problem.device
    found = configs_of(problem, gates)
    assert not isinstance(found, str), found
    counted, layers = takes_lengths(problem.in_dtypes), []
    for layer, kernel_config in enumerate(found):
        top = layer == geometry.layers - 1
        at_once = max(multiprocessors() // (2 * kernel_config.parts), 1) if kernel_config.parts > 1 else 1 << 15
        slots = 2 * at_once if kernel_config.parts > 1 else 0
        chunk, chunks = kernel_config.chunks_h
        value = stage.outputs[0]
        shape = value.shape if top else (geometry.time * geometry.batch, 2 * geometry.hidden)
        layers.append(
            LayerLaunch(
                kernel_config, bind(specialize(problem, kernel_config, layer)),
                _operands(low, geometry, layer, kernel_config, device),
                torch.zeros(slots * 2 * chunk * chunks, dtype=torch.int64, device=device),
                torch.zeros(2 * slots, dtype=torch.int32, device=device), at_once,
                getattr(torch, value.dtype if top else "int8"), shape,
            )
        )  # fmt: skip

    def call(*inputs: Tensor) -> tuple[Tensor, ...]:
        given, samples = inputs[0], inputs[0].shape[0]
        params = layers[0].operands.params
        after = [torch.empty((samples, *v.shape), device=given.device) for v in stage.outputs[1:]]
        states = inputs[1 + counted :]
        lengths = {"counts_ptr": inputs[1]} if counted else {}
        before = (*states, params, params)[: 2 if gates == 4 else 1] if states else (params,) * 2
        ends = (*after, params, params)
        x, streams = given, samples * geometry.batch
        for layer in layers:
            y = torch.empty((samples, *layer.shape), dtype=layer.dtype, device=given.device)
            ops = layer.operands
            for first in range(0, streams, layer.at_once):
                layer.launch(
                    (layer.kernel_config.parts, min(layer.at_once, streams - first), 2), given_ptr=given, x_ptr=x, y_ptr=y,
                    **lengths, h0_ptr=before[0], c0_ptr=before[-1], hn_ptr=ends[0], cn_ptr=ends[1], words_ptr=ops.words,
                    scales_ptr=ops.scales, params_ptr=ops.params, compensation_ptr=ops.compensation,
                    exchange_ptr=layer.exchange, sync_ptr=layer.sync, x_inverse=ops.x_inverse,
                    x_zero_point=ops.x_zero_point, h_inverse=ops.h_inverse, y_inverse=ops.y_inverse,
                    y_zero_point=ops.y_zero_point, first_stream=first,
                )  # fmt: skip
            x = y
        return (x, *after)

    return call
