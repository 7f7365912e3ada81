"""Fourier transforms of long lines in Triton: the two products of products.py in two launches, each cut into tiles.

Between them a line lies in device memory as a complex matrix [p, q], which stays in L2. No program holds more than a tile, so n
may be as large as its factors allow; products are 2 n (p + q), spread over the card.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import torch
import triton
from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._general.triton_places import address, digits, joined
from rtaccel.kernels._general.triton_source import specialisation_of
from rtaccel.kernels._general.triton_tile import require_values, text_of, too_large
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_spec import Specialisation, Tiling
from rtaccel.kernels.fourier import contract
from rtaccel.kernels.fourier.triton import products
from rtaccel.kernels.fourier.triton.products import DOT, PLAIN, ROTATION, Sides

SIDE, DEPTH = 32, 16
"""Of a tile, and of what is summed at a time."""

MAX_PRODUCTS = 2**31
"""n (p + q) of a sample and all its lines. Not measured on a card."""

ZEROS = "tl.zeros((SIDE, SIDE), tl.float32), tl.zeros((SIDE, SIDE), tl.float32)"


def sides(kind: str, n: int, wanted: int) -> Sides:
    """p and q as near to each other as there are; tiles need no padding of tables."""
    p = max(d for d in range(1, int(n**0.5) + 1) if n % d == 0)
    return Sides(p, n // p, n // 2 // (n // p) + 1 if kind == "to_real" else p, -(-wanted // p))


def _tables(kind: str, s: Sides, n: int, inverse: bool) -> dict[str, Tensor]:
    found = {}
    for name, a, b, m in (("p", s.p, s.first, s.p), ("r", s.p, s.q, n), ("q", s.q, s.last, s.q)):
        parts = products.roots_of(a, b, a, b, m, inverse)
        found |= {f"{name}_re_ptr": parts[0], f"{name}_im_ptr": parts[1]}
    return found


def _pair(name: str, at: str, mask: str) -> list[str]:
    return [f"{name}_{part} = tl.load({name}_{part}_ptr + {at}, mask={mask}, other=0.0)" for part in ("re", "im")]


def first(stage: Stage) -> Specialisation:
    """x -> work [lines, 2, p, q]: the first product and the rotation."""
    attrs, x, dims = stage.attrs, stage.inputs[0], tuple(stage.attrs["dims"])
    kind, n, place = attrs["kind"], attrs["n"], tuple(attrs["place"])
    s, count = sides(kind, n, attrs["wanted"]), prod(dims[:-1])
    outer_dims, (outer,) = joined(dims[:-1], [place[:-1]])
    given = n // 2 + 1 if kind == "to_real" else n
    tables = [f"{name}_{part}_ptr" for name in "pr" for part in ("re", "im")]
    tables += ["window_ptr"] if "window" in stage.tensors else []
    body = [
        "i0 = d0 + tl.arange(0, DEPTH)",
        f"i = i0[:, None] * {s.q} + column",
        f"inside = (i0[:, None] < {s.first}) & (column < {s.q}) & (i < {given})",
        *products.numbers(stage, "inside"),
        *_pair("p", f"row * {s.first} + i0[None, :]", f"(row < {s.p}) & (i0[None, :] < {s.first})"),
        *products.rotated(kind, "p", "x"),
    ]
    text = text_of([
        f"def kernel(work_ptr, x_ptr, {', '.join(tables)}, LINES: tl.constexpr, SIDE: tl.constexpr, DEPTH: tl.constexpr):",
        f"tile, sample = tl.program_id(0) % {-(-s.p // SIDE)}, tl.program_id(0) // {-(-s.p // SIDE)}",
        "m, line = (sample // LINES).to(tl.int64), sample % LINES",
        *digits(outer_dims, "line", "d"),
        f"start = x_ptr + m * {x.steps * x.width} + {address(outer, 'd')}",
        "row = tile * SIDE + tl.arange(0, SIDE)[:, None]",
        "column = tl.program_id(1) * SIDE + tl.arange(0, SIDE)[None, :]",
        f"a_re, a_im = {ZEROS}",
        f"for d0 in range(0, {s.first}, DEPTH):", *(f"    {line}" for line in body),
        f"there = (row < {s.p}) & (column < {s.q})",
        f"at_r = tl.where(there, row * {s.q} + column, 0)",
        *ROTATION,
        f"to = work_ptr + sample.to(tl.int64) * {2 * n} + row * {s.q} + column",
        "tl.store(to, b_re, mask=there)",
        f"tl.store(to + {n}, b_im, mask=there)",
    ])  # fmt: skip
    return specialisation_of(
        f"fourier_first_{kind}{'_inverse' if attrs['inverse'] else ''}_n{n}_{s.p}x{s.q}",
        text,
        {"work_ptr": "*fp32", "x_ptr": "*fp32", **dict.fromkeys(tables, "*fp32")},
        {"LINES": count, "SIDE": SIDE, "DEPTH": DEPTH},
        Tiling(SIDE, SIDE, DEPTH, num_warps=8),
    )


def second(stage: Stage) -> Specialisation:
    """work -> y."""
    attrs = stage.attrs
    kind, n, wanted = attrs["kind"], attrs["n"], attrs["wanted"]
    s, made, back = sides(kind, n, wanted), contract.line_lengths(kind, n, wanted)[1], kind == "to_real"
    tables = ["q_re_ptr", "q_im_ptr"]
    at = f"row * {s.q} + j[None, :]"
    inside = f"mask=(row < {s.p}) & (j[None, :] < {s.q}), other=0.0"
    body = [
        "j = d0 + tl.arange(0, DEPTH)",
        f"b_re = tl.load(start + {at}, {inside})",
        f"b_im = tl.load(start + {n} + {at}, {inside})",
        *_pair("q", f"j[:, None] * {s.last} + column", f"(j[:, None] < {s.q}) & (column < {s.last})"),
        f"y_re = {DOT('b_re', 'q_re', 'y_re')}",
        f"y_re -= {PLAIN('b_im', 'q_im')}",
    ]
    body += [] if back else [f"y_im = {DOT('b_re', 'q_im', 'y_im')}", f"y_im = {DOT('b_im', 'q_re', 'y_im')}"]
    text = text_of([
        f"def kernel(y_ptr, work_ptr, {', '.join(tables)}, scale, SIDE: tl.constexpr, DEPTH: tl.constexpr):",
        f"tile, sample = tl.program_id(0) % {-(-s.p // SIDE)}, tl.program_id(0) // {-(-s.p // SIDE)}",
        f"start = work_ptr + sample.to(tl.int64) * {2 * n}",
        f"to = y_ptr + sample.to(tl.int64) * {made}",
        "row = tile * SIDE + tl.arange(0, SIDE)[:, None]",
        "column = tl.program_id(1) * SIDE + tl.arange(0, SIDE)[None, :]",
        f"y_re, y_im = {ZEROS}",
        f"for d0 in range(0, {s.q}, DEPTH):", *(f"    {line}" for line in body),
        f"k = row + {s.p} * column",
        f"there = (row < {s.p}) & (column < {s.last}) & (k < {wanted})",
        *products.stores(kind, n, made, back),
    ])  # fmt: skip
    return specialisation_of(
        f"fourier_second_{kind}{'_inverse' if attrs['inverse'] else ''}_n{n}_{wanted}",
        text,
        {"y_ptr": "*fp32", "work_ptr": "*fp32", **dict.fromkeys(tables, "*fp32"), "scale": "fp32"},
        {"SIDE": SIDE, "DEPTH": DEPTH},
        Tiling(SIDE, SIDE, DEPTH, num_warps=8),
    )


def supports(problem: Problem) -> str | None:
    attrs = problem.attrs
    if products.supports(problem) is None:
        return "is for lines that no program holds"
    s, n = sides(attrs["kind"], attrs["n"], attrs["wanted"]), attrs["n"]
    if (found := n * (s.p + s.q) * prod(attrs["dims"][:-1])) > MAX_PRODUCTS:
        return f"leaves more than {MAX_PRODUCTS} products to cuFFT, here {found}"
    return too_large(problem)


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x [M, steps, width] -> y [M, steps, width]; any M."""
    contract.lower(stage)  # what it refuses, it refuses here too
    attrs, out = stage.attrs, stage.outputs[0]
    kind, n = attrs["kind"], attrs["n"]
    s, specs = sides(kind, n, attrs["wanted"]), (first(stage), second(stage))
    one, two = (bind(spec) for spec in specs)
    found = _tables(kind, s, n, bool(attrs["inverse"]) or kind == "to_real")
    if "window" in stage.tensors:
        found["window_ptr"] = stage.tensors["window"].float().reshape(-1).contiguous()
    fixed = {name: tensor.to(problem.device) for name, tensor in found.items()}
    own = [{name: t for name, t in fixed.items() if name in spec.signature} for spec in specs]
    count, scale = prod(attrs["dims"][:-1]), float(attrs["scale"])

    def call(x: Tensor) -> tuple[Tensor]:
        (x,) = require_values(stage, (x,))
        m = x.shape[0]
        y = torch.empty((m, *out.shape), dtype=torch.float32, device=x.device)
        if y.numel():
            work = torch.empty(m * count * 2 * n, dtype=torch.float32, device=x.device)
            rows = m * count * triton.cdiv(s.p, SIDE)
            one((rows, triton.cdiv(s.q, SIDE)), work_ptr=work, x_ptr=x, **own[0])
            two((rows, triton.cdiv(s.last, SIDE)), y_ptr=y, work_ptr=work, scale=scale, **own[1])
        return (y,)

    return call


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    for kind, n in (("real", 4096), ("complex", 2048)):
        stage = contract.make_stage(kind, n, n // 2 + 1 if kind == "real" else n, 4)
        for form in (first, second):
            Problem.of(stage, 1, "cuda")
            yield form(stage)


register_impl(Impl("fourier", "triton_tiles", "triton", 10, supports, prepare))
